"""Samples: what a draw and what a number gives."""

import pytest
import torch

from ctsr_lightning.batch import Batch
from ctsr_lightning.data.collate import PlannedBatch, collate
from ctsr_lightning.data.datasets import MixedDataset, PairDataset, PhotoDataset
from ctsr_lightning.data.files import ImageCache, Skipped
from ctsr_lightning.data.pairing.folders import PairFolder, find_pairs
from ctsr_lightning.data.samplers import Draw
from ctsr_lightning.data.views import LowQualityDataset, WithoutTruth
from ctsr_lightning.degradation.operators import usm_sharpen
from ctsr_lightning.degradation.recipe import realesrgan
from ctsr_lightning.images import UnreadableImageError, quantize, read_image, write_image
from helpers.drawn_photos import draw_photo
from helpers.found import found_photos


def _photos(folder, crop=32, scale=4, cache=0, **options):
    return PhotoDataset(found_photos(folder), ImageCache(cache), realesrgan(), scale, crop, **options)


def _pairs(lq, gt, crop=32, scale=4, **options):
    return PairDataset(find_pairs(PairFolder(lq, gt), scale, 1, Skipped()), ImageCache(0), scale, crop, **options)


def _same(first, second):
    return torch.equal(first.lq, second.lq) and torch.equal(first.gt, second.gt) and first.key == second.key


def _inside(crop, image):
    """Whether a crop, or its mirror image, occurs in an image."""
    h, w = crop.shape[-2:]
    windows = image.unfold(1, h, 1).unfold(2, w, 1)
    return any(bool((windows == c[:, None, None]).all(dim=(0, 3, 4)).any()) for c in (crop, crop.flip(-1)))


def test_draw_is_a_crop_of_its_photo_and_its_seeds_degradation(photos):
    dataset = _photos(photos)
    sample = dataset[Draw(3, 17)]
    assert sample.key == "03"
    assert sample.gt.shape == (3, 32, 32)
    assert sample.lq.shape == (3, 8, 8)
    assert _inside(sample.gt, read_image(photos / "03.png"))
    assert torch.equal(sample.lq, quantize(sample.lq))
    assert _same(sample, dataset[Draw(3, 17)])
    assert not torch.equal(sample.gt, dataset[Draw(3, 18)].gt)


def test_draws_mirror_half_of_the_time(photos):
    ramp = torch.linspace(0, 1, 64).expand(3, 48, 64)
    write_image(photos / "ramp.png", ramp)
    dataset = _photos(photos)
    index = dataset.keys.index("ramp")
    rising = [bool((gt := dataset[Draw(index, seed)].gt)[0, 0, -1] > gt[0, 0, 0]) for seed in range(100)]
    assert 30 < sum(rising) < 70


def test_number_is_the_centre_crop_degraded_by_key_and_seed(photos):
    dataset = _photos(photos)
    assert torch.equal(dataset[3].gt, read_image(photos / "03.png")[:, 8:40, 16:48])
    assert _same(dataset[3], _photos(photos, cache=2**20)[3])
    assert not torch.equal(dataset[3].lq, _photos(photos, seed=1)[3].lq)
    (photos / "00.png").unlink()  # other images do not change what one photo's sample is
    assert _same(dataset[3], _photos(photos)[2])


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_whole_photos_are_cut_to_a_multiple_of_the_scale(tmp_path, scale):
    write_image(tmp_path / "a.png", draw_photo(35, 46, 0))
    sample = _photos(tmp_path, crop=None, scale=scale)[0]
    h, w = 35 // scale, 46 // scale
    assert sample.lq.shape == (3, h, w)
    assert torch.equal(sample.gt, read_image(tmp_path / "a.png")[:, : h * scale, : w * scale])


def test_repeats_have_their_own_names_crops_and_degradations(photos):
    dataset = _photos(photos, repeats=3)
    assert len(dataset) == 36
    samples = [dataset[i] for i in range(3, 6)]
    assert [sample.key for sample in samples] == ["01_1", "01_2", "01_3"]
    assert torch.equal(samples[0].gt, _photos(photos)[1].gt)
    assert not torch.equal(samples[0].gt, samples[1].gt)
    with pytest.raises(IndexError):
        dataset[36]


def test_sharpening_changes_target_and_input(photos):
    plain, sharp = _photos(photos, crop=None)[0], _photos(photos, crop=None, sharpen=True)[0]
    torch.testing.assert_close(sharp.gt, usm_sharpen(plain.gt[None])[0])
    assert not torch.equal(plain.lq, sharp.lq)


def test_deferred_plan_gives_the_same_image(photos):
    ready = collate([_photos(photos)[Draw(i, i)] for i in range(4)])
    planned = collate([_photos(photos, defer=True)[Draw(i, i)] for i in range(4)])
    assert isinstance(planned, PlannedBatch)
    batch = planned.to(torch.device("cpu")).apply()
    assert isinstance(batch, Batch)
    assert torch.equal(batch.lq, ready.lq)
    assert torch.equal(batch.gt, ready.gt)
    assert batch.key == ready.key


def test_damaged_photo_is_named_once_and_replaced(photos):
    path = photos / "03.png"
    path.write_bytes(path.read_bytes()[:-500])
    dataset = _photos(photos)
    with pytest.warns(UserWarning, match=r"03\.png.*Training goes on without it \(1 so far\)"):
        assert dataset[Draw(3, 1)].key == "04"
    assert dataset[Draw(3, 1)].key == "04"


def test_only_damaged_photos_are_an_error(tmp_path):
    write_image(tmp_path / "a.png", draw_photo(48, 48, 0))
    dataset = _photos(tmp_path)
    (tmp_path / "a.png").write_text("no longer")
    with pytest.warns(UserWarning, match="goes on"), pytest.raises(UnreadableImageError, match="None of the 1"):
        dataset[Draw(0, 0)]


def test_pair_is_cropped_at_one_place(pairs):
    lq, gt = pairs
    dataset = _pairs(lq, gt)
    for seed in range(5):
        sample = dataset[Draw(2, seed)]
        assert sample.gt.shape == (3, 32, 32)
        assert torch.equal(sample.lq, sample.gt[:, ::4, ::4]) or torch.equal(
            sample.lq.flip(-1), sample.gt.flip(-1)[:, ::4, ::4]
        )
    whole = _pairs(lq, gt, crop=None)[2]
    assert torch.equal(whole.lq, read_image(lq / "p2.png"))
    assert torch.equal(whole.gt, read_image(gt / "p2.png"))


def test_upsampled_pairs_come_back_to_native_size(pairs, tmp_path):
    lq, gt = pairs
    for path in lq.iterdir():
        small = read_image(path)[None]
        large = torch.nn.functional.interpolate(small, scale_factor=4, mode="bicubic")
        write_image(tmp_path / "up" / path.name, large[0])
    native, restored = _pairs(lq, gt, crop=None)[1], _pairs(tmp_path / "up", gt, crop=None)[1]
    assert restored.lq.shape == native.lq.shape
    assert (restored.lq - native.lq).abs().mean() < 0.02


def test_mixture_counts_through_its_parts(photos, pairs):
    mixed = MixedDataset([_photos(photos), _pairs(*pairs)])
    assert len(mixed) == 18
    assert [mixed[i].key for i in (0, 11, 12, 17)] == ["00", "sub/11", "p0", "p5"]
    assert mixed[Draw(12, 4)].key == "p0"
    with pytest.raises(IndexError):
        mixed[18]
    batch = collate([mixed[Draw(i, i)] for i in (0, 13, 5)])
    assert batch.lq.shape == (3, 3, 8, 8)


def test_mixture_of_planned_and_ready_samples(photos, pairs):
    planned = collate([_photos(photos, defer=True)[Draw(0, 1)], _pairs(*pairs)[Draw(0, 2)]])
    ready = collate([_photos(photos)[Draw(0, 1)], _pairs(*pairs)[Draw(0, 2)]])
    assert torch.equal(planned.apply().lq, ready.lq)


def test_images_to_restore_have_no_truth(photos):
    sample = LowQualityDataset(found_photos(photos), ImageCache(0))[1]
    assert torch.equal(sample.lq, read_image(photos / "01.png"))
    assert sample.gt is None
    batch = collate([sample])
    assert batch.gt is None
    assert batch.key == ["01"]
    hidden = WithoutTruth(_photos(photos))
    assert hidden[2].gt is None
    assert len(hidden) == 12


def test_batch_of_different_sizes_is_refused(photos):
    write_image(photos / "zz.png", draw_photo(52, 64, 0))
    dataset = _photos(photos, crop=None)
    with pytest.raises(ValueError, match=r"found 64x48, 64x52 pixels. Set `eval_batch_size: 1`"):
        collate([dataset[0], dataset[12]])


@pytest.mark.filterwarnings("default")
def test_photos_that_vanish_or_shrink_are_replaced_and_counted(photos):
    dataset = _photos(photos)
    mixed = MixedDataset([dataset])
    assert mixed.replacements() == ""
    (photos / "03.png").unlink()
    write_image(photos / "04.png", draw_photo(20, 20, 0))
    with pytest.warns(UserWarning, match=r"(03|04).png.* Training goes on without it \((1|2) so far\)"):
        sample = dataset[Draw(3, 17)]
    assert _same(sample, dataset[Draw(5, 17)]), "the next photo, in the same draw"
    assert mixed.replacements() == (
        "2 of 12 images could not be read while training, and others were drawn in their place: 03, 04."
    )
    with pytest.raises(FileNotFoundError, match=r"03\.png"):
        dataset[3]


def test_worker_processes_count_together(photos):
    """A flag that one process raises is seen by the others, as the end of a training sums them up."""
    dataset = _photos(photos)
    dataset._damaged[2] = True
    assert dataset._damaged.is_shared()
    assert dataset.replaced == ["02"]
