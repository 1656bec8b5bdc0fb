"""Folders to train on with weights, a rule for small photos, and patterns."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from ctsr_lightning.data import PairFolder, PhotoFolder, RealESRGANDataModule
from ctsr_lightning.data.files import Skipped
from ctsr_lightning.data.fitting import fitted
from ctsr_lightning.data.pairing.folders import find_pairs
from ctsr_lightning.data.samplers import BLOCK, Draw, TrainingSampler, quotas
from ctsr_lightning.images import read_image, resize_bicubic, write_image
from helpers.drawn_photos import draw_photo
from helpers.found import found_files

GROUPS = [(50, 50.0), (7, 10.0), (300, 40.0)]


def draws(count: int, groups: int | list[tuple[int, float]] = GROUPS, **options: int) -> list[Draw]:
    """The beginning of a stream."""
    return list(TrainingSampler(groups, count, **options))


def group_of(draw: Draw) -> int:
    """Which of `GROUPS` an image is in."""
    return int(draw.image >= 50) + int(draw.image >= 57)


def test_weights_are_exact_in_every_block_and_images_equally_often() -> None:
    stream = draws(3 * BLOCK)
    for block in range(3):
        counts = Counter(group_of(draw) for draw in stream[block * BLOCK : (block + 1) * BLOCK])
        assert counts == {0: 5000, 1: 1000, 2: 4000}
    images = Counter(draw.image for draw in stream)
    assert {images[image] for image in range(50)} == {300}
    assert {images[image] for image in range(50, 57)} == {428, 429}
    assert {images[image] for image in range(57, 357)} == {40}
    assert len({draw.seed for draw in stream}) > 0.999 * len(stream)


def test_the_beginning_of_a_stream_is_a_fair_sample() -> None:
    counts = Counter(group_of(draw) for seed in range(20) for draw in draws(100, seed=seed))
    assert chisquare([counts[group] for group in range(3)], [1000, 200, 800]).pvalue > 0.01
    halves = Counter(group_of(draw) for draw in draws(BLOCK)[: BLOCK // 2])
    assert chisquare([halves[group] for group in range(3)], [2500, 500, 2000]).pvalue > 0.01


def test_processes_and_a_pool_share_weighted_draws() -> None:
    together = draws(60)
    halves = [draws(60, rank=rank, world_size=2) for rank in range(2)]
    assert [draw for pair in zip(*halves, strict=True) for draw in pair] == together
    pool = TrainingSampler(GROUPS, 60, pool=60)
    assert sorted(pool) == sorted(together)


def test_without_weights_the_stream_is_that_of_one_folder() -> None:
    assert draws(40, [(10, 10.0)]) == draws(40, 10)


@pytest.mark.parametrize("weights", [[1.0], [1, 1, 1], [0.1, 0.2, 0.7], [3, 5, 7, 11, 13], [1, 9999]])
def test_quotas_fill_a_block(weights: list[float]) -> None:
    counts = quotas(weights)
    assert sum(counts) == BLOCK
    assert all(abs(c - BLOCK * w / sum(weights)) < 1 for c, w in zip(counts, weights, strict=True))


def test_a_share_too_small_to_be_drawn_is_refused() -> None:
    with pytest.raises(ValueError, match=r"at least 1 in 10,000 draws, found a share of 8e-07\. Raise its weight"):
        TrainingSampler([(1281167, 1281167.0), (800, 1.0)], 100)


def data_of(**options: object) -> RealESRGANDataModule:
    """A data module that is set up for training."""
    defaults = {"crop": 32, "val_split": 0, "batch_size": 4, "num_workers": 0, "samples_per_epoch": 400}
    module = RealESRGANDataModule(**{**defaults, **options})
    module.setup("fit")
    return module


@pytest.fixture
def two(tmp_path: Path, photos: Path) -> tuple[Path, Path]:
    """Twelve photos and two."""
    for number in range(2):
        write_image(tmp_path / "few" / f"few{number}.png", draw_photo(48, 64, 40 + number))
    return photos, tmp_path / "few"


def test_a_small_folder_is_not_swamped(two, pairs, monkeypatch) -> None:
    said: list[str] = []
    monkeypatch.setattr("ctsr_lightning.data.datamodule.rank_zero_info", said.append)
    many, few = two
    module = data_of(train=[PhotoFolder(many, 1.0), PhotoFolder(few, 2)], pairs=[PairFolder(*pairs, weight=1)])
    sampler = module.train_dataloader().sampler
    assert sampler.groups == [(12, 1.0), (2, 2.0), (6, 1.0)]
    assert sampler.quotas == [2500, 5000, 2500]
    keys = [key for batch in module.train_dataloader() for key in batch.key]
    counts = Counter("few" if key.startswith("few") else "pair" if key.startswith("p") else "many" for key in keys)
    assert chisquare([counts["many"], counts["few"], counts["pair"]], [100, 200, 100]).pvalue > 0.01
    shares = f"`train`: draws by source: 25.00 % '{many}', 50.00 % '{few}', 25.00 % '{pairs[1]}'."
    assert shares in said


def test_folders_without_weights_are_one_that_weighs_its_number_of_images(two, pairs) -> None:
    many, few = two
    module = data_of(train=[PhotoFolder(few, 18.0), many], pairs=[PairFolder(*pairs)])
    loader = module.train_dataloader()
    assert loader.sampler.groups == [(18, 18.0), (2, 18.0)], "those without a weight come first"
    assert [loader.dataset[at].key for at in (0, 12, 18)] == ["00", "p0", "few0"]
    plain = data_of(train=[many, few], pairs=[PairFolder(*pairs)]).train_dataloader()
    assert plain.sampler.groups == [(20, 20.0)]


def test_weighted_training_goes_on_where_it_was(two) -> None:
    def loader():
        return data_of(train=[two[0], PhotoFolder(two[1], 6)], samples_per_epoch=24).train_dataloader()

    whole = [batch.key for batch in loader()]
    first, second = loader(), loader()
    iterator = iter(first)
    begun = [next(iterator).key for _ in range(2)]
    second.load_state_dict(first.state_dict())
    assert begun + [batch.key for batch in second] == whole


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight": 0}, "a positive `weight` of 'a', or null, found 0"),
        ({"weight": float("nan")}, "a positive `weight` of 'a', or null, found nan"),
        ({"min_side": "grow"}, "`min_side` of 'a' to be one of skip, enlarge, pad, found 'grow'"),
    ],
)
def test_wrong_settings_are_refused(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        RealESRGANDataModule(train=[PhotoFolder("a", **options)])


def test_pairs_refuse_wrong_weights() -> None:
    with pytest.raises(ValueError, match="a positive `weight` of 'a', or null, found -1"):
        PairFolder(root="a", weight=-1)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A photo of 20x40, one of 64x24 and one of 48x64 pixels."""
    for name, height, width in (("a", 20, 40), ("b", 64, 24), ("c", 48, 64)):
        write_image(tmp_path / "small" / f"{name}.png", draw_photo(height, width, ord(name)))
    return tmp_path / "small"


def test_small_photos_are_skipped_and_counted(small) -> None:
    with pytest.warns(UserWarning, match=r"`train`: 2 of 3 images are left out: .*40x20 pixels, less than the 32 nee"):
        module = data_of(train=small)
    assert {key for batch in module.train_dataloader() for key in batch.key} == {"c"}


def test_a_weight_of_nothing_is_refused(small, photos) -> None:
    with pytest.raises(ValueError, match=r"source with a weight, found none in '\S*small': .* below 48 pixels"):
        found_files(photos, PhotoFolder(small, weight=1, include="[ab]*"), least=48)


@pytest.mark.parametrize("min_side", ["enlarge", "pad"])
def test_small_photos_are_brought_to_the_crop_and_counted(small, monkeypatch, min_side) -> None:
    said: list[str] = []
    monkeypatch.setattr("ctsr_lightning.data.datamodule.rank_zero_info", said.append)
    module = data_of(train=[PhotoFolder(small, min_side=min_side)])
    batches = list(module.train_dataloader())
    assert {key for batch in batches for key in batch.key} == {"a", "b", "c"}
    assert all(batch.gt.shape == (4, 3, 32, 32) and batch.lq.shape == (4, 3, 8, 8) for batch in batches)
    assert f"`train`: '{small}': 2 of 3 photos are below 32 pixels, `min_side: {min_side}`." in said


def test_enlarged_photos_are_bicubic_and_just_large_enough(small) -> None:
    sample = data_of(train=[PhotoFolder(small, min_side="enlarge")]).train_dataloader().dataset[0]
    whole = resize_bicubic(read_image(small / "a.png")[None], (32, 64))[0]
    assert torch.allclose(sample.gt, whole[:, :, 16:48], atol=0.5 / 255 + 1e-6)


def test_padded_photos_are_reflected_at_the_right_and_below(small) -> None:
    pixels = (read_image(small / "a.png").permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    padded = fitted(pixels, 64, "pad")
    assert padded.shape == (64, 64, 3)
    assert padded.dtype == np.uint8
    assert np.array_equal(padded[:20, :40], pixels)
    assert np.array_equal(padded[20:39, :40], pixels[18::-1])
    assert np.array_equal(padded[38:58, :40], pixels), "and back again"
    assert np.array_equal(padded[:20, 40:], pixels[:, 38:14:-1])
    assert fitted(pixels[:1, :1], 8, "pad").shape == (8, 8, 3)


def test_deep_photos_stay_deep_and_large_ones_as_they_are() -> None:
    deep = np.linspace(0, 1, 10 * 20 * 3, dtype=np.float32).reshape(10, 20, 3)
    for min_side in ("enlarge", "pad"):
        larger = fitted(deep, 16, min_side)
        assert larger.dtype == np.float32
        assert larger.shape[0] == 16
        assert fitted(deep, 10, min_side) is deep
    assert fitted(deep, 16, "skip") is deep


def test_held_out_photos_are_large_enough_as_they_are(small) -> None:
    module = RealESRGANDataModule(train=[PhotoFolder(small, min_side="pad")], crop=32, val_crop=40, num_workers=0)
    module.setup("fit")
    assert [path.name for path in module.validation_photos] == ["c.png"]


@pytest.mark.parametrize(
    ("include", "exclude", "names"),
    [
        (["0[0-2]*"], None, ["00", "01", "02"]),
        ("sub/*", None, ["sub/10", "sub/11"]),
        (["00*", "*11.png"], None, ["00", "sub/11"]),
        (None, ["0*"], ["sub/10", "sub/11"]),
        ("0*", "*[1-9].png", ["00"]),
    ],
)
def test_patterns_choose_files(photos, include, exclude, names) -> None:
    files = found_files(PhotoFolder(photos, include=include, exclude=exclude))
    assert [photo.key for photo in files.photos] == names


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        ({"include": ["0*", "*.jpg"]}, r"in '\S*photos' .*matches `include` '\*.jpg', found none of 12: '00.png', '01"),
        ({"exclude": "Canon*"}, r"matches `exclude` 'Canon\*', found none of 12: '00.png', '01.png', '02.png' \.\.\."),
        ({"include": "0*", "exclude": "*"}, "that `exclude` leaves over, found none of 12"),
    ],
)
def test_patterns_that_match_nothing_are_refused(photos, patterns, message) -> None:
    with pytest.raises(ValueError, match=message):
        found_files(PhotoFolder(photos, **patterns))


def test_pairs_are_chosen_by_camera(tmp_path) -> None:
    for name in ("Canon_001", "Canon_002", "Nikon_001"):
        gt = draw_photo(32, 32, len(name))
        write_image(tmp_path / "HR" / f"{name}_HR.png", gt)
        write_image(tmp_path / "LR" / f"{name}_LR4.png", gt[:, ::4, ::4])
    folder = PairFolder(root=tmp_path, include=["*Nikon*"], count=1)
    (pair,) = find_pairs(folder, 4, 1, Skipped())
    assert pair.gt.path.name == "Nikon_001_HR.png"
    rest = find_pairs(PairFolder(root=tmp_path, exclude=["*Nikon*"]), 4, 1, Skipped())
    assert [pair.gt.path.name for pair in rest] == ["Canon_001_HR.png", "Canon_002_HR.png"]
    with pytest.raises(ValueError, match=r"LR' .*matches `include` '\*Sony\*', found none of 3: 'Canon_001_LR4.png'"):
        find_pairs(PairFolder(root=tmp_path, include=["*Sony*"]), 4, 1, Skipped())
