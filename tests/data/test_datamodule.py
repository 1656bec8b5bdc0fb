"""The data module: what it loads, what it refuses, and that nothing depends on how it is run."""

from pathlib import Path

import pytest
import torch
from jsonargparse import ArgumentParser
from lightning.pytorch import LightningModule, Trainer

from ctsr_lightning.batch import Batch
from ctsr_lightning.data import PairFolder, PhotoFolder, RealESRGANDataModule
from ctsr_lightning.degradation import light
from ctsr_lightning.images import read_image, write_image
from ctsr_lightning.images.samples import val_samples
from helpers.drawn_photos import draw_photo
from helpers.reference import SHARED

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "data"


def _module(train=None, **options):
    defaults = {"crop": 32, "batch_size": 4, "num_workers": 0, "train": train}
    return RealESRGANDataModule(**{**defaults, **options})


def _ready(stage="fit", **options):
    module = _module(**options)
    module.setup(stage)
    return module


def _flat(loader):
    """All images of a loader by name."""
    images = {}
    for batch in loader:
        for i, key in enumerate(batch.key):
            images[key] = (batch.lq[i], None if batch.gt is None else batch.gt[i])
    return images


def _equal(first, second):
    return first.keys() == second.keys() and all(
        torch.equal(a, b) for key in first for a, b in zip(first[key], second[key], strict=True)
    )


class _Recorder(LightningModule):
    """Writes down what it is given; stops after some steps and leaves a checkpoint, as a killed run does."""

    def __init__(self, stop_at=None):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen, self.stop_at = [], stop_at

    def training_step(self, batch, batch_idx):
        assert isinstance(batch, Batch)
        self.seen.append(batch.lq.clone())
        return self.weight * batch.gt.mean()

    def on_train_batch_end(self, outputs, batch, batch_idx):
        if len(self.seen) == self.stop_at:
            self.trainer.save_checkpoint(self.trainer.default_root_dir + "/last.ckpt")
            self.trainer.should_stop = True

    def validation_step(self, batch, batch_idx):
        """Needed for Lightning to accept validation data."""

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def _trainer(tmp_path, **options):
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return Trainer(
        accelerator="cpu", devices=1, default_root_dir=tmp_path, enable_model_summary=False, **{**quiet, **options}
    )


def test_without_folders_the_sample_photos_are_used(monkeypatch):
    said = []
    monkeypatch.setattr("ctsr_lightning.data.datamodule.rank_zero_info", said.append)
    module = _ready(crop=128, val_crop=128)
    batch = next(iter(module.train_dataloader()))
    assert batch.gt.shape == (4, 3, 128, 128)
    assert batch.lq.shape == (4, 3, 32, 32)
    assert len(module.train_dataloader()) == 2
    assert list(_flat(module.val_dataloader())) == ["chelsea", "coffee"]
    assert any("`train` names no folder: using the sample photos" in line for line in said)
    assert "`val`: 2 photos, 0 pairs." in said


def test_held_out_photos_are_never_trained_on(photos):
    module = _ready(train=photos, samples_per_epoch=200)
    trained = {key for batch in module.train_dataloader() for key in batch.key}
    validated = set(_flat(module.val_dataloader()))
    assert len(validated) == 2
    assert trained | validated == set(_flat(_ready("validate", val=photos, val_crop=32).val_dataloader()))
    assert not trained & validated
    other = _ready("validate", train=photos, seed=7, crop=16)
    assert set(_flat(other.val_dataloader())) == validated


def test_training_mixes_photos_and_pairs(photos, pairs):
    module = _ready(train=[str(photos)], pairs=[PairFolder(*pairs)], val_split=0, samples_per_epoch=18)
    keys = [key for batch in module.train_dataloader() for key in batch.key]
    assert len(keys) == 20, "rounded up to whole batches"
    assert {"p0", "p5", "00", "sub/11"} <= set(keys)
    assert module.val_dataloader() == []


def test_pairs_alone_hold_out_pairs(pairs):
    module = _ready(pairs=[PairFolder(*pairs)])
    assert len(_flat(module.val_dataloader())) == 1


def test_equal_stems_of_several_folders_keep_apart(photos, pairs):
    lq, gt = pairs
    write_image(photos / "p0.png", draw_photo(48, 64, 0))
    folders = [PairFolder(lq, gt), PairFolder(lq, gt)]
    module = _ready("validate", val=[photos], val_pairs=folders, val_crop=32)
    keys = [batch.key[0] for batch in module.val_dataloader()]
    assert len(set(keys)) == len(keys) == 13 + 2 * 6


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_every_scale_gives_its_size(photos, scale):
    module = _ready(train=photos, scale=scale)
    batch = next(iter(module.train_dataloader()))
    assert batch.lq.shape == (4, 3, 32 // scale, 32 // scale)


def test_same_seed_same_stream(photos):
    def stream(epoch=0, **options):
        loader = _ready(train=photos, **options).train_dataloader()
        loader.sampler.set_epoch(epoch)
        return torch.cat([batch.lq for batch in loader])

    assert torch.equal(stream(), stream())
    assert not torch.equal(stream(), stream(seed=1))
    assert not torch.equal(stream(), stream(epoch=1))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_validation_and_training_do_not_depend_on_workers_or_batches(photos):
    module = _ready(train=photos, val_repeats=2, val_crop=32, cache_mb=0)
    expected = _flat(module.val_dataloader())
    trained = torch.cat([batch.lq for batch in module.train_dataloader()])
    for options in ({"num_workers": 2}, {"eval_batch_size": 5}, {"cache_mb": 64}):
        other = _ready(train=photos, val_repeats=2, val_crop=32, **options)
        assert _equal(_flat(other.val_dataloader()), expected)
        assert torch.equal(torch.cat([batch.lq for batch in other.train_dataloader()]), trained)


def test_validation_does_not_depend_on_processes(photos, monkeypatch):
    module = _ready(val=photos, val_crop=32, stage="validate")
    expected = _flat(module.val_dataloader())
    together = {}
    for rank in range(3):
        monkeypatch.setattr(RealESRGANDataModule, "_process", property(lambda _, rank=rank: (rank, 3)))
        share = _flat(module.val_dataloader())
        assert not share.keys() & together.keys()
        together |= share
    assert _equal(dict(sorted(together.items())), expected)


def test_processes_share_the_training_stream(photos, monkeypatch):
    alone = [key for batch in _ready(train=photos, batch_size=4).train_dataloader() for key in batch.key]
    shares = []
    for rank in range(2):
        monkeypatch.setattr(RealESRGANDataModule, "_process", property(lambda _, rank=rank: (rank, 2)))
        module = _ready(train=photos, batch_size=2)
        shares.append([key for batch in module.train_dataloader() for key in batch.key])
    assert [key for pair in zip(*shares, strict=True) for key in pair] == alone


def test_device_mode_trains_on_the_same_images(photos, tmp_path):
    seen = []
    for place in ("worker", "device"):
        recorder = _Recorder()
        _trainer(tmp_path, max_steps=2, limit_val_batches=0).fit(recorder, _module(photos, degrade_on=place))
        seen.append(torch.cat(recorder.seen))
    assert torch.equal(*seen)


@pytest.mark.parametrize("stop_at", [1, 2, 3, 4, 5])
def test_resumed_run_sees_what_the_uninterrupted_one_would(photos, tmp_path, stop_at):
    data = {"train": photos, "val_split": 0, "samples_per_epoch": 12}  # three batches per epoch
    whole = _Recorder()
    _trainer(tmp_path, max_steps=7, limit_val_batches=0).fit(whole, _module(**data))
    first = _Recorder(stop_at)
    _trainer(tmp_path, max_steps=7, limit_val_batches=0).fit(first, _module(**data))
    rest = _Recorder()
    trainer = _trainer(tmp_path, max_steps=7, limit_val_batches=0)
    trainer.fit(rest, _module(**data), ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    resumed = first.seen[:stop_at] + rest.seen
    assert len(resumed) == len(whole.seen) == 7
    assert all(torch.equal(a, b) for a, b in zip(resumed, whole.seen, strict=True))


@pytest.mark.filterwarnings("ignore:You requested to overfit")
def test_overfitting_one_batch_sees_the_same_images_again(photos, tmp_path):
    recorder = _Recorder()
    _trainer(tmp_path, max_epochs=2, overfit_batches=1).fit(recorder, _module(photos))
    assert len(recorder.seen) == 2
    assert torch.equal(*recorder.seen)


def test_checkpoint_between_epochs_starts_the_next_one(photos, tmp_path):
    data = {"train": photos, "samples_per_epoch": 8}
    whole = _Recorder()
    _trainer(tmp_path, max_epochs=3).fit(whole, _module(**data))
    first = _Recorder()
    trainer = _trainer(tmp_path, max_epochs=1)
    trainer.fit(first, _module(**data))
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    rest = _Recorder()
    _trainer(tmp_path, max_epochs=3).fit(rest, _module(**data), ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    resumed = first.seen + rest.seen
    assert len(resumed) == len(whole.seen) == 6
    assert all(torch.equal(a, b) for a, b in zip(resumed, whole.seen, strict=True))


def test_test_set_falls_back_to_validation_set(photos, pairs):
    module = _ready("test", val=photos, val_crop=32)
    assert len(_flat(module.test_dataloader())) == 12
    module = _ready("test", test_pairs=[PairFolder(*pairs)])
    assert set(_flat(module.test_dataloader())) == {f"p{i}" for i in range(6)}


def test_predict_takes_folders_and_files_or_the_validation_set(photos):
    module = _ready("predict", predict=[photos, str(val_samples()[1])])
    images = _flat(module.predict_dataloader())
    assert list(images)[-1] == "coffee"
    assert torch.equal(images["01"][0], read_image(photos / "01.png"))
    assert images["01"][1] is None
    degraded = _flat(_ready("predict", val=photos, val_crop=32).predict_dataloader())
    assert degraded["01"][0].shape == (3, 8, 8)
    assert degraded["01"][1] is None


def test_small_and_unreadable_photos_are_named_once(photos):
    write_image(photos / "small.png", draw_photo(20, 20, 0))
    (photos / "broken.jpg").write_text("no image")
    module = _module(photos)
    with pytest.warns(UserWarning, match=r"`train`: 2 of 14 images are left out: .*broken.jpg.*; .*small.png"):
        module.setup("fit")
    module.setup("validate")  # a second warning would be an error
    module.setup("test")


def test_overlap_of_training_and_validation_is_said(photos):
    with pytest.warns(UserWarning, match="12 files are both trained and validated on"):
        _ready(train=photos, val=photos)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"train": "missing"}, FileNotFoundError, "Expected a folder of images at 'missing', found nothing"),
        ({"train": "empty"}, FileNotFoundError, "found none"),
        ({"train": "photos", "crop": 256}, ValueError, r"usable image for `train`, found none. 12 of 12 .* 256 needed"),
        ({"train": "photos", "val": "missing"}, FileNotFoundError, "missing"),
        ({"train": "photos", "val_crop": 64}, ValueError, "Expected enough images to hold out"),
        ({"pairs": [PairFolder("photos", "gt")]}, ValueError, "files without a partner"),
    ],
)
def test_wrong_folders_are_refused(photos, pairs, tmp_path, monkeypatch, options, error, message):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    with pytest.raises(error, match=message):
        _ready(**options)


def test_nothing_to_validate_or_restore_is_refused(photos):
    for stage in ("validate", "test", "predict"):
        with pytest.raises(ValueError, match="found none"):
            _ready(stage, train=photos, val_split=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop": 130}, "`crop` to be a multiple of the scale 4, found 130. Set `crop: 128`"),
        ({"val_crop": 2}, "`val_crop` to be a multiple of the scale 4, found 2. Set `val_crop: 4`"),
        ({"scale": 0}, "`scale` of at least 1, found 0"),
        ({"samples_per_epoch": 0}, "`samples_per_epoch` of at least 1"),
        ({"pairs": [PairFolder("a", "b")], "sharpen_gt": True}, "Expected photos in `train` to sharpen"),
    ],
)
def test_wrong_numbers_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        _module(**options)


def _from_yaml(text):
    parser = ArgumentParser(exit_on_error=False, parser_mode="omegaconf")
    parser.add_argument("--config", action="config")
    parser.add_subclass_arguments(RealESRGANDataModule, "data")
    return parser.instantiate(parser.parse_args(["--config", text])).data


def test_the_paper_s_sets_have_weights(monkeypatch):
    monkeypatch.setenv("CTSR_DATA", "/somewhere")
    monkeypatch.setenv("CTSR_RUNS", "/runs")
    module = _from_yaml(f"data: {CONFIGS / 'ctsr'}.yaml")
    sources = {Path(source.folder).name: (source.weight, source.min_side) for source in module.sources["train"]}
    assert sources.pop("ImageNet") == (25, "enlarge")
    assert sources == {"DIV2K": (15, "skip"), "LSDIR": (40, "skip"), "DRealSR": (10, "skip"), "RealSR": (10, "skip")}
    assert module.samples_per_epoch % 128 == 0, "whole steps of batches that are powers of two"
    assert module._splits.index.folder == Path("/runs/index")


@pytest.mark.reference
def test_the_nikon_half_of_realsr(monkeypatch):
    monkeypatch.setenv("CTSR_REALSR", str(SHARED / "data/realsr"))
    module = _from_yaml(f"data: {CONFIGS / 'realsr_nikon'}.yaml")
    module.setup("test")
    keys = [key for batch in module.test_dataloader() for key in batch.key]
    assert len(keys) == 50
    assert all("Nikon" in key for key in keys)


@pytest.mark.parametrize("name", ["samples", "folders", "pairs"])
def test_config_files_make_the_module(name, monkeypatch):
    monkeypatch.setenv("CTSR_DATA", "/somewhere")
    module = _from_yaml(f"data: {CONFIGS / name}.yaml")
    assert isinstance(module, RealESRGANDataModule)
    named = [] if name == "samples" else [PhotoFolder("/somewhere/train_hr")]
    assert module.sources["train"] == named
    if name == "pairs":
        assert module.pair_folders["train"] == [
            PairFolder("/somewhere/realsr_train/lq", "/somewhere/realsr_train/gt", lq_suffix="_LR4", gt_suffix="_HR")
        ]


def test_recipe_can_be_overridden_field_by_field(tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text(
        "data:\n  class_path: ctsr_lightning.data.RealESRGANDataModule\n  init_args:\n    degradation:\n"
        "      class_path: ctsr_lightning.degradation.light\n      init_args: {second: {blur_prob: 0.25}}\n"
    )
    degradation = _from_yaml(str(config)).degradation
    assert degradation.second.blur_prob == 0.25
    assert degradation.second.jpeg_quality == light().second.jpeg_quality
    assert degradation.first == light().first


@pytest.mark.reference
def test_real_photos_and_pairs_load():
    realsr = PairFolder(SHARED / "data/realsr/lq", SHARED / "data/realsr/gt")
    module = _ready(val=[SHARED / "data/val_hr"], val_crop=256, stage="validate", degradation=light())
    assert len(module.val_dataloader()) == 24
    module = _ready(stage="test", test_pairs=[realsr])
    batch = next(iter(module.test_dataloader()))
    assert (batch.lq.shape, batch.gt.shape) == ((1, 3, 128, 128), (1, 3, 512, 512))
    assert batch.key == ["realsr_Canon_001_LR4"]


def test_links_that_lead_nowhere_are_left_out_and_counted(photos):
    (photos / "gone.png").symlink_to(photos / "nowhere.png")
    module = _module(photos)
    with pytest.warns(UserWarning, match=r"`train`: 1 of 13 images are left out: .*gone.png': a link that leads now"):
        module.setup("fit")


def test_the_empty_text_names_no_folder():
    for name in ("train", "val", "test", "predict"):
        with pytest.raises(ValueError, match="Expected a path, found ''"):
            _module(**{name: ""} if name != "train" else {"train": [""]})


def test_the_end_of_a_training_says_which_photos_were_replaced(photos):
    module = _module(photos)
    module.setup("fit")
    module.teardown("fit")
    module._datasets["train"].parts[0]._damaged[0] = True
    with pytest.warns(UserWarning, match=r"`train`: 1 of 10 images could not be read while training"):
        module.teardown("fit")
