"""`ctsr cache`: asked once, continued after an interruption, shared among processes, and trained with."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from ctsr_lightning.cache.store import OutputCache
from ctsr_lightning.cli import main
from ctsr_lightning.codecs import NanoCodec
from ctsr_lightning.commands.cache import option_words
from ctsr_lightning.models import OneStepStudent
from ctsr_lightning.models.tradeoff import TradeOff
from ctsr_lightning.networks import LatentResShift, nano_unet
from ctsr_lightning.share import Share, own_device, own_share
from ctsr_lightning.teachers import ResShiftTeacher
from ctsr_lightning.training import INTERRUPTED
from helpers.config_runs import Events, write_base

SIZES = {"latent_channels": 8, "widths": [8, 16]}
POOL = 6
LAUNCHED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID")


def made(class_path: str, **init_args: Any) -> dict[str, Any]:
    return {"class_path": class_path, "init_args": init_args}


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A stage 2 of the smallest networks on built-in photos, their weights in files."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    codec, unet = NanoCodec(8, 8), nano_unet(8, widths=(8, 16))
    network = LatentResShift(nano_unet(8, 16, widths=(8, 16)), NanoCodec(8, 8))
    states = {
        "codec": {f"codec.{k}": v for k, v in codec.state_dict().items()},
        "student": {f"student.unet.{k}": v for k, v in unet.state_dict().items()},
        "other": {f"student.unet.{k}": v + 0.01 for k, v in unet.state_dict().items()},
        "shift": {f"network.unet.{k}": v for k, v in network.unet.state_dict().items()},
    }
    for name, state in states.items():
        save_file(state, folder / f"{name}.safetensors")
    nano = "ctsr_lightning.networks.nano_unet"
    codec_part = made("NanoCodec", channels=8, width=8, weights=str(folder / "codec.safetensors"))
    shift = made(
        "LatentResShift",
        unet=made(nano, in_channels=16, **SIZES),
        codec=codec_part,
        weights=str(folder / "shift.safetensors"),
    )
    student = made(
        "OneStepStudent",
        unet=made(nano, **SIZES),
        codec=codec_part,
        timestep=250,
        weights=str(folder / "student.safetensors"),
    )
    parts = {
        "student": student,
        "velocity": made("VelocityField", unet=made(nano, **SIZES)),
        "fidelity": made("ResShiftTeacher", network=shift),
        "realness": None,
    }
    trainer = {
        "max_steps": 3,
        "accelerator": "cpu",
        "log_every_n_steps": 1,
        "num_sanity_val_steps": 0,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "logger": made("lightning.pytorch.loggers.TensorBoardLogger", save_dir="runs", name="plain", version=""),
        "callbacks": [
            made("Evaluation", perceptual=made("TextureDistance"), controls=[0.0, 1.0]),
            made("ImageGrid", num_images=2),
        ],
    }
    data = {"crop": 32, "val_crop": 32, "batch_size": 1, "samples_per_epoch": 3, "num_workers": 0}
    return {
        "model": made("CTSRStage2", **parts),
        "data": made("RealESRGANDataModule", **data),
        "trainer": trainer,
    }


@pytest.fixture
def config(settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in LAUNCHED:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "stage2.yaml").write_text(yaml.safe_dump(settings))
    return tmp_path / "stage2.yaml"


def cache(*words: str) -> None:
    main(["cache", "--config", "stage2.yaml", "--output", "kept", "--device", "cpu", *words])


def records(folder: str = "kept") -> list[Path]:
    return sorted(Path(folder).glob("??/[!.]*.safetensors"))


def losses(name: str) -> list[float]:
    return list(Events(Path("runs") / name).scalars("train/loss")["train/loss"].values())


@pytest.mark.slow
@pytest.mark.usefixtures("config")
def test_cached_then_trained_as_without(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    cache("--samples", str(POOL))
    out = capsys.readouterr().out
    assert f"train: {POOL} computed" in out
    assert "val: 2 computed" in out
    assert len(records()) == POOL + 2
    with_teacher, without = (shlex.split(line)[1:] for line in out.splitlines() if line.startswith("  ctsr fit"))
    plain = [word for word in with_teacher if "--model.cache" not in word]
    main(plain)
    named = ["--trainer.logger.init_args.name"]

    def refuse(*args: Any, **options: Any) -> None:
        raise AssertionError("asked")

    with monkeypatch.context() as asleep:
        for owner, method in (
            (OneStepStudent, "start"),
            (OneStepStudent, "encode"),
            (TradeOff, "start"),
            (ResShiftTeacher, "restore"),
        ):
            asleep.setattr(owner, method, refuse)
        main([*with_teacher, *named, "cached", "--trainer.limit_val_batches", "0"])
    monkeypatch.setattr(ResShiftTeacher, "__init__", refuse)  # no T_f at all, pictures and figures included
    main([*without, *named, "alone"])
    for name in ("cached", "alone"):  # up to rounding: the networks are not asked in the same place
        assert losses(name) == pytest.approx(losses("plain"), rel=1e-4)
    assert len(losses("plain")) == 3
    measured = [Events(Path("runs") / name).scalars("val/") for name in ("plain", "alone")]
    assert measured[0].keys() == measured[1].keys()
    assert [list(v.values()) for v in measured[0].values()] == [list(v.values()) for v in measured[1].values()]
    assert "val/T_f/psnr_y" in measured[0]
    assert Events(Path("runs/alone")).images().keys() == {"val/images"}
    main(
        ["test", "--config", "runs/alone/config.yaml", "--ckpt_path", "none"]
    )  # the validation images, where no others are named


@pytest.mark.slow
@pytest.mark.usefixtures("config")
def test_an_interrupted_run_continues(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    write = OutputCache.write

    def press_ctrl_c(self: OutputCache, *args: Any) -> None:
        if len(self) == 3:
            raise KeyboardInterrupt
        write(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(OutputCache, "write", press_ctrl_c)
        with pytest.raises(SystemExit) as end:
            cache("--samples", str(POOL))
    assert end.value.code == INTERRUPTED
    assert "3 records are in 'kept'. The same command continues." in capsys.readouterr().err
    damaged = records()[0]
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:-1])
    damaged.with_name(f".{damaged.stem}.1.part.safetensors").write_bytes(whole[:9])
    cache("--samples", str(POOL))
    out = capsys.readouterr().out
    assert f"train: {POOL - 2} computed" in out
    assert "2 were there" in out
    assert damaged.read_bytes() == whole
    cache("--samples", str(POOL + 2))  # a larger pool holds the smaller one
    out = capsys.readouterr().out
    assert "train: 2 computed, " in out
    assert "val: 0 computed, 2 were there." in out


@pytest.mark.slow
@pytest.mark.usefixtures("config")
def test_two_processes_share_the_work(capsys: pytest.CaptureFixture[str]) -> None:
    for rank in "01":
        cache("--samples", "5", "--rank", rank, "--ranks", "2", "--options", "data.num_workers=1")
    out = capsys.readouterr().out
    assert [line.split(",")[0] for line in out.splitlines() if "computed" in line] == [
        "train: 3 computed", "val: 1 computed", "train: 2 computed", "val: 1 computed",
    ]  # fmt: skip
    assert "Part 1 of 2" in out
    assert out.count("Train with:") == 1
    main(["cache", "--config", "stage2.yaml", "--samples", "5", "--output", "alone", "--device", "cpu"])
    assert [path.name for path in records()] == [path.name for path in records("alone")]
    for one, other in zip(records(), records("alone"), strict=True):
        assert one.read_bytes() == other.read_bytes()


@pytest.mark.slow
@pytest.mark.usefixtures("config")
def test_what_a_record_holds(capsys: pytest.CaptureFixture[str]) -> None:
    cache("--samples", "3", "--batch-size", "2", "--skip-restorations")
    kinds = sorted(sorted(load_file(path)) for path in records())
    assert kinds == [["fidelity"]] * 2 + [["z_0", "z_1", "z_l"]] * 3
    cache("--samples", "3", "--batch-size", "2")
    assert "train: 3 computed" in capsys.readouterr().out
    kinds = sorted(sorted(load_file(path)) for path in records())
    assert kinds == [["fidelity"]] * 2 + [["fidelity", "z_0", "z_1", "z_l"]] * 3
    record = load_file(next(path for path in records() if len(load_file(path)) == 4))
    assert {name: (tuple(t.shape), t.dtype) for name, t in record.items()} == {
        "fidelity": ((3, 32, 32), torch.uint8),
        **dict.fromkeys(("z_0", "z_1", "z_l"), ((8, 8, 8), torch.float32)),
    }
    description = json.loads(Path("kept/cache.json").read_text())
    assert description["cache_signature"].keys() == {"scale", "z0_source", "student", "prompt", "fidelity", "precision"}
    assert description["data"]["pool"] == 3


@pytest.mark.slow
@pytest.mark.usefixtures("config")
def test_mistakes_are_explained(settings: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    def message(*words: str) -> str:
        with pytest.raises(SystemExit) as end:
            cache(*words)
        assert end.value.code == 1
        return capsys.readouterr().err

    assert "the configuration sets no data.pool, so give --samples" in message()
    assert "--samples of at least 1, found 0" in message("--samples", "0")
    assert "--rank and --ranks together" in message("--rank", "1")
    assert "--rank from 0 to 1 with --ranks 2, found 2" in message("--rank", "2", "--ranks", "2")
    pool = ("--options", "data.pool=3")
    assert "found data.pool 3 in the configuration and --samples 4" in message("--samples", "4", *pool)
    assert "configuration at 'none.yaml', found nothing" in message("--config", "none.yaml")
    on_device = ("--options", "data.pool=3 data.degrade_on=device")
    assert "Set `degrade_on: worker`" in message(*on_device)
    assert "found nothing" in message("--options", "data.pool=3 model.student.weights=none.safetensors")
    assert not records()
    cache(*pool)
    weights = settings["model"]["init_args"]["student"]["init_args"]["weights"].replace("student", "other")
    other = message("--options", f"data.pool=3 model.student.weights={weights}")
    assert "found those of others (student: 'OneStepStudent " in other
    assert "precision: 'float32', not 'bfloat16'" in message(*pool, "--precision", "bfloat16")
    itself = "model.fidelity=CachedTeacher model.fidelity.folder=kept"
    assert "found CachedTeacher of 'kept'." in message("--options", f"data.pool=3 {itself}")


def test_another_training_is_refused(
    config: Path, settings: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    student = settings["model"]["init_args"]["student"]
    config.write_text(yaml.safe_dump({**settings, "model": made("PriorTraining", student=student)}))
    with pytest.raises(SystemExit):
        cache("--samples", "3")
    assert "or of OneStepTraining with a target, in --config, found one of PriorTraining." in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Expected a text in .captions.json")
def test_prompts_of_captions_are_kept(
    config: Path, settings: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The student's text encoder is not needed to train, nor to validate."""
    base = str(write_base(tmp_path / "base"))
    (tmp_path / "captions.json").write_text(json.dumps({"chelsea": "a", "coffee": "a a"}))
    load = "ctsr_lightning.networks.load_{}"
    codec = made("KLCodec", autoencoder=made(load.format("autoencoder"), path=base, expect="any"))
    unet = made(load.format("unet"), path=base, expect="any")
    captions = made("CaptionPrompt", captions="captions.json", path=base, cache="texts", fallback="")
    student = made("OneStepStudent", unet=unet, codec=codec, lora={"rank": 2}, prompt=captions)
    model = settings["model"]["init_args"]
    parts = {**model, "student": student, "velocity": made("VelocityField", unet=unet, lora={"rank": 2})}
    sizes = {"crop": 64, "val_crop": 64}
    data = {**settings["data"], "init_args": {**settings["data"]["init_args"], **sizes}}
    config.write_text(yaml.safe_dump({**settings, "model": made("CTSRStage2", **parts), "data": data}))
    cache("--samples", "2")
    assert all(load_file(path)["prompt"].shape == (8, 8) for path in records())
    out = capsys.readouterr().out
    with_texts, without = (shlex.split(line)[1:] for line in out.splitlines() if line.startswith("  ctsr fit"))
    main(with_texts)
    for path in Path("texts").rglob("*.safetensors"):
        path.unlink()
    (tmp_path / "captions.json").unlink()
    main([*without, "--trainer.logger.init_args.name", "alone"])
    assert losses("alone") == losses("plain")


def test_the_share_of_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in LAUNCHED:
        monkeypatch.delenv(name, raising=False)
    assert own_share(None, None) == Share(0, 1)
    monkeypatch.setenv("SLURM_PROCID", "3")
    assert own_share(None, None) == Share(0, 1)
    monkeypatch.setenv("SLURM_NTASKS", "8")
    assert own_share(None, None) == Share(3, 8)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert own_share(None, None) == Share(1, 2)
    assert own_share(0, 5) == Share(0, 5)


def test_the_device_of_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in LAUNCHED:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert own_device("auto") == "auto"
    monkeypatch.setenv("SLURM_LOCALID", "6")
    assert own_device("auto") == "cuda:2"
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert own_device("auto") == "cuda:3"
    assert own_device("cpu") == "cpu"


def test_options_of_the_training() -> None:
    assert option_words('data.seed=1 --data.train="my photos"') == ["--data.seed=1", "--data.train=my photos"]
    with pytest.raises(ValueError, match="Expected name=value in --options"):
        option_words("data.seed 1")
