"""The command line, driven as users drive it."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from lightning import Callback, LightningDataModule, Trainer
from lightning.pytorch.cli import LightningCLI
from safetensors.torch import save_file
from torch.nn import functional as F
from torch.utils.data import DataLoader

from ctsr_lightning.batch import Batch
from ctsr_lightning.callbacks import LastCheckpoint
from ctsr_lightning.callbacks.run_folder import resume_last
from ctsr_lightning.cli import main, user_error
from ctsr_lightning.images import read_image
from ctsr_lightning.training import INTERRUPTED, how_to_continue, training_cli

pytestmark = [
    pytest.mark.filterwarnings("ignore:Checkpoint directory"),  # resuming into the same folder is what is tested
    pytest.mark.filterwarnings("ignore:Experiment logs directory"),
]

UNET = {
    "class_path": "ctsr_lightning.networks.nano.nano_unet",
    "init_args": {"latent_channels": 8, "widths": [8, 16]},
}
STUDENT = {
    "class_path": "OneStepStudent",
    "init_args": {"unet": UNET, "codec": {"class_path": "NanoCodec", "init_args": {"channels": 8, "width": 8}}},
}


class NoiseData(LightningDataModule):
    """Eight random images.

    Args:
        scale: Enlargement.
    """

    def __init__(self, scale: int = 4) -> None:
        super().__init__()
        self.scale = scale

    def train_dataloader(self) -> DataLoader:
        gt = torch.rand(8, 3, 16 * self.scale, 16 * self.scale, generator=torch.Generator().manual_seed(0))
        pairs = list(zip(F.avg_pool2d(gt, self.scale), gt, strict=True))
        return DataLoader(pairs, batch_size=4, collate_fn=self.collate)

    val_dataloader = test_dataloader = predict_dataloader = train_dataloader

    @staticmethod
    def collate(pairs: list) -> Batch:
        lq, gt = zip(*pairs, strict=True)
        return Batch(torch.stack(lq), torch.stack(gt), [str(image.sum().item()) for image in gt])


class PressCtrlC(Callback):
    """Interrupts the third step."""

    def on_train_batch_start(self, trainer, *args) -> None:
        if trainer.global_step == 2:
            raise KeyboardInterrupt


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stage-2 training of two steps on noise, to be run in an empty folder."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "tiny.yaml"
    settings = {
        "model": {
            "class_path": "CTSRStage2",
            "init_args": {
                "student": STUDENT,
                "velocity": {"class_path": "VelocityField", "init_args": {"unet": UNET}},
                "fidelity": {"class_path": "OneStepTeacher", "init_args": {"network": STUDENT}},
            },
        },
        "data": {"class_path": f"{__name__}.NoiseData"},
        "trainer": {
            "max_steps": 2,
            "accelerator": "cpu",
            "log_every_n_steps": 1,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "default_root_dir": "${oc.env:CTSR_TEST_ROOT,runs}",
            "logger": {
                "class_path": "lightning.pytorch.loggers.TensorBoardLogger",
                "init_args": {"save_dir": "runs", "name": "tiny", "version": ""},
            },
            "callbacks": [
                {
                    "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
                    "init_args": {"dirpath": "kept", "save_last": True, "save_on_exception": True},
                }
            ],
        },
    }
    path.write_text(yaml.safe_dump(settings))
    return path


@pytest.mark.slow
def test_fit_resume_and_test_from_the_saved_config(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["fit", "--config", str(config)])
    note = "no WeightsWriter and LastCheckpoint, so this training leaves no weights.safetensors and last.ckpt to go on"
    assert note in capsys.readouterr().err
    saved = "runs/tiny/config.yaml"
    resumed = training_cli(["fit", "--config", saved, "--ckpt_path", "kept/last.ckpt", "--trainer.max_steps", "3"])
    assert resumed.trainer.global_step == 3
    text = Path(saved).read_text()
    main(["test", "--config", saved, "--ckpt_path", "kept/last.ckpt"])
    assert Path(saved).read_text() == text
    assert yaml.safe_load(Path("runs/tiny/test.yaml").read_text())["ckpt_path"] == "kept/last.ckpt"


@pytest.mark.slow
def test_a_configuration_without_evaluation_is_measured(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also from `weights.safetensors`, which is no checkpoint of Lightning's."""
    main(["fit", "--config", str(config)])
    state = torch.load("kept/last.ckpt", weights_only=True)["state_dict"]
    save_file({key: value.contiguous() for key, value in state.items()}, "weights.safetensors")
    capsys.readouterr()
    found = []
    for words in (["--ckpt_path", "kept/last.ckpt"], ["--ckpt_path", "weights.safetensors"], []):
        cli = training_cli(["test", "--config", str(config), *words])
        err = capsys.readouterr().err
        assert "names no Evaluation; measuring psnr_y, ssim_y and " in err
        assert ("which lies beside the configuration" in err) is (not words)
        found.append({name: float(value) for name, value in cli.trainer.callback_metrics.items()})
    assert found[0] == found[1] == found[2]
    assert {"test/psnr_y/realness", "test/ssim_y/fidelity", "test/bicubic/psnr_y"} <= found[0].keys()
    assert found[0]["test/psnr_y/realness"] != found[0]["test/psnr_y/fidelity"]  # the velocity is a trained one
    Path("weights.safetensors").unlink()
    for verb in ("validate", "test", "predict"):
        with pytest.raises(ValueError, match=rf"Expected trained weights to {verb}, .* say --ckpt_path none to {verb}"):
            training_cli([verb, "--config", str(config)])


@pytest.mark.slow
def test_a_run_that_measures_nothing_fails(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for verb, limit in (("test", "limit_test_batches"), ("validate", "limit_val_batches")):
        with pytest.raises(SystemExit) as ended:
            main([verb, "--config", str(config), "--ckpt_path", "none", f"--trainer.{limit}", "0"])
        assert ended.value.code == 1
        assert "but nothing was measured" in capsys.readouterr().err


@pytest.mark.slow
def test_a_package_is_found_from_anywhere(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Weights that a configuration names lie above or beside it, whatever the current directory is."""
    settings = yaml.safe_load(config.read_text())
    unet = training_cli(["--config", str(config)], run=False).model.student.network.unet
    (tmp_path / "package/stage1").mkdir(parents=True)
    (tmp_path / "package/stage2").mkdir()
    save_file({f"student.unet.{k}": v for k, v in unet.state_dict().items()}, "package/stage1/weights.safetensors")
    settings["model"]["init_args"]["student"] = {
        **STUDENT,
        "init_args": {**STUDENT["init_args"], "weights": "stage1/weights.safetensors"},
    }
    Path("package/stage2/config.yaml").write_text(yaml.safe_dump(settings))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    cli = training_cli(["test", "--config", str(tmp_path / "package/stage2/config.yaml"), "--ckpt_path", "none"])
    assert "test/psnr_y/realness" in cli.trainer.callback_metrics
    with pytest.raises(SystemExit):
        main(["fit", "--config", str(tmp_path / "package/stage2/config.yaml")])  # a training names what it starts from
    assert "stage1/weights.safetensors" in capsys.readouterr().err


@pytest.mark.slow
def test_typed_options_win_over_the_checkpoint(config: Path) -> None:
    main(["fit", "--config", str(config)])
    assert torch.load("kept/last.ckpt", weights_only=True)["hyper_parameters"]["z0_source"] == "latent"
    words = ["--config", str(config), "--ckpt_path", "kept/last.ckpt", "--model.z0_source", "reencode"]
    assert training_cli(["test", *words]).model.z0_source == "reencode"


@pytest.mark.slow
def test_environment_variables_in_a_config(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert training_cli(["--config", str(config)], run=False).trainer.default_root_dir.endswith("runs")
    monkeypatch.setenv("CTSR_TEST_ROOT", "elsewhere")
    assert training_cli(["--config", str(config)], run=False).trainer.default_root_dir.endswith("elsewhere")


def test_scale_is_said_once(config: Path) -> None:
    teacher = ["--model.fidelity.network.scale", "2"]
    cli = training_cli(["--config", str(config), "--data.scale", "2", *teacher], run=False)
    assert cli.model.scale == cli.datamodule.scale == 2


@pytest.mark.slow
def test_user_error_is_one_message(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["fit", "--config", str(config), "--model.student.timestep", "1000"]
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 1
    message = capsys.readouterr().err.split("ctsr: ")[-1]
    assert message.startswith("Expected 0 <= timestep < 1000, found 1000.\n(CTSR_TRACEBACK=1")
    monkeypatch.setenv("CTSR_TRACEBACK", "1")
    with pytest.raises(ValueError, match="Expected 0 <= timestep"):
        main(words)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--ckpt_path", "nothing.ckpt"], "Checkpoint file not found: nothing.ckpt"),
        (["--model.student.codec.weights", "nothing.ckpt"], "Expected a weight file (.safetensors, .ckpt or .pkl) at"),
        (["--trainer.strategy", "nonsense"], "You selected an invalid strategy name"),
    ],
)
def test_errors_about_files_and_settings(
    config: Path, capsys: pytest.CaptureFixture[str], words: list[str], expected: str
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["fit", "--config", str(config), *words])
    assert end.value.code == 1
    assert f"ctsr: {expected}" in capsys.readouterr().err


def test_mistyped_option_is_named_without_the_whole_usage(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["fit", "--config", str(config), "--model.z0_sauce", "latent"])
    assert end.value.code == 2
    message = capsys.readouterr().err
    assert "Option 'z0_sauce' is not accepted" in message
    assert message.count("\n") < 20


def test_programming_errors_keep_their_traceback() -> None:
    assert user_error(TypeError("x")) is None
    with pytest.raises(ValueError, match="invalid literal") as caught:
        int("x")
    assert user_error(caught.value) is None  # not raised by this package


def test_package_errors_and_files_are_for_users(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as missing:
        read_image(tmp_path / "none.png")
    assert user_error(missing.value) is missing.value
    with pytest.raises(IsADirectoryError) as folder:
        tmp_path.open()
    assert user_error(folder.value) is folder.value


@pytest.fixture
def sigint() -> Iterator[None]:
    """Lightning ignores further Ctrl-C after the first."""
    handler = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, handler)


@pytest.mark.slow
@pytest.mark.usefixtures("sigint")
def test_ctrl_c_says_how_to_go_on(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = yaml.safe_load(config.read_text())
    settings["trainer"]["callbacks"] += [{"class_path": f"{__name__}.PressCtrlC"}]
    settings["trainer"]["max_steps"] = 4
    config.write_text(yaml.safe_dump(settings))
    with pytest.raises(SystemExit) as end:
        main(["fit", "--config", config.name])
    assert end.value.code == INTERRUPTED
    line = capsys.readouterr().err.splitlines()[-1]
    expected = f"--ckpt_path {Path('kept/last.ckpt').resolve()}"
    assert line == f"ctsr: interrupted at step 2. To continue: ctsr fit --config tiny.yaml {expected}"
    state = torch.load("kept/last.ckpt", weights_only=True)
    assert state["global_step"] == 2
    with pytest.raises(SystemExit):
        main(["fit", "--config", config.name, "--ckpt_path", "last", "--trainer.max_steps", "5"])
    assert "The same command continues from" in capsys.readouterr().err.splitlines()[-1]


class Stopped:
    """A trainer that was interrupted before it wrote a checkpoint."""

    global_step, checkpoint_callbacks = 7, ()


def test_ctrl_c_before_the_first_checkpoint_and_outside_training() -> None:
    assert how_to_continue(Stopped(), ["fit", "-c", "x.yaml"], resumes=False).startswith(
        "interrupted at step 7; no checkpoint was written yet"
    )
    assert how_to_continue(Stopped(), ["test", "-c", "x.yaml"], resumes=False) == "interrupted."


@pytest.mark.parametrize(
    ("logger", "text"),
    [
        ("lightning.pytorch.utilities.rank_zero", "💡 Tip: For seamless cloud logging"),
        ("bitsandbytes.backends.cpu.ops", "Failed to load CPU gemm_4bit_forward from kernels-community: %s"),
    ],
)
def test_adverts_are_dropped_and_nothing_else(logger: str, text: str) -> None:
    main(["--version"])
    log = logging.getLogger(logger)
    kept = [record for record in (text, "Something that matters") if log.filter(_record(record))]
    assert kept == ["Something that matters"]
    count = len(log.filters)
    main(["--version"])
    assert len(log.filters) == count


def _record(text: str) -> logging.LogRecord:
    return logging.LogRecord("x", logging.INFO, os.fspath(__file__), 1, text, None, None)


@pytest.mark.parametrize("name", ["_parse_ckpt_path", "_prepare_subcommand_kwargs", "_run_subcommand"])
def test_what_is_overridden_is_there(name: str) -> None:
    """Renamed in Lightning, the override would be dead, and a checkpoint's hyperparameters would win silently again."""
    assert name in vars(LightningCLI)


def test_last_is_the_runs_own_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer = Trainer(callbacks=[LastCheckpoint(folder=tmp_path)], logger=False, accelerator="cpu")
    assert resume_last({"ckpt_path": "last"}, trainer, fits=True) == {"ckpt_path": None}
    assert "nothing to resume" in capsys.readouterr().err
    with pytest.raises(FileNotFoundError, match=r"last checkpoint at .*Train first"):
        resume_last({"ckpt_path": "last"}, trainer, fits=False)
    (tmp_path / "last.ckpt").touch()
    assert resume_last({"ckpt_path": "last"}, trainer, fits=True) == {"ckpt_path": str(tmp_path / "last.ckpt")}
    assert resume_last({"ckpt_path": "other.ckpt"}, trainer, fits=True) == {"ckpt_path": "other.ckpt"}
