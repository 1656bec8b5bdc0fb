"""A folder holds one run."""

import pytest
import yaml
from lightning import Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from ctsr_lightning.callbacks import LastCheckpoint
from ctsr_lightning.callbacks.run_folder import RunConfiguration, check_run_folder, differing_settings, resume_last

SETTINGS = {"data": {"batch_size": 4}, "trainer": {"callbacks": [{"class_path": "EMA"}]}, "ckpt_path": None}


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints" / "last.ckpt").touch()
    (folder / "config.yaml").write_text(yaml.safe_dump(SETTINGS))
    return folder


def configured(settings):
    class Configured(RunConfiguration):
        def __init__(self):
            pass

        def settings(self):
            return settings

    return Configured()


def trainer(run, settings):
    logger = TensorBoardLogger(run.parent, name=run.name, version="")
    return Trainer(callbacks=[LastCheckpoint(), configured(settings)], logger=logger, accelerator="cpu")


def test_differences_are_named_and_how_a_run_is_started_is_none(run):
    assert differing_settings(run, {**SETTINGS, "ckpt_path": "last"}) == []
    other = {**SETTINGS, "data": {"batch_size": 8}, "trainer": {"callbacks": [{"class_path": "ImageGrid"}]}}
    assert differing_settings(run, other) == [
        "data.batch_size (4 there, 8 here)",
        "trainer.callbacks.0.class_path (EMA there, ImageGrid here)",
    ]
    (run / "config.yaml").write_text("\t")
    assert differing_settings(run, SETTINGS) is None


def test_the_same_command_goes_on(run, capsys):
    arguments = resume_last({"ckpt_path": None}, trainer(run, SETTINGS), fits=True)
    assert arguments == {"ckpt_path": str(run / "checkpoints" / "last.ckpt")}
    assert "ctsr: resuming" in capsys.readouterr().err
    (run / "checkpoints" / "last.ckpt").rename(run / "checkpoints" / "previous.ckpt")
    arguments = resume_last({"ckpt_path": None}, trainer(run, SETTINGS), fits=True)
    assert arguments == {"ckpt_path": str(run / "checkpoints" / "previous.ckpt")}


def test_another_run_in_the_folder_is_refused(run, tmp_path):
    other = {**SETTINGS, "data": {"batch_size": 8}}
    with pytest.raises(ValueError, match=r"found one in '.*run', which differs in data.batch_size \(4 there, 8 here\)"):
        resume_last({"ckpt_path": None}, trainer(run, other), fits=True)
    elsewhere = tmp_path / "elsewhere.ckpt"
    elsewhere.touch()
    with pytest.raises(ValueError, match="--ckpt_path last"):
        resume_last({"ckpt_path": str(elsewhere)}, trainer(run, SETTINGS), fits=True)
    for path in ("last", str(run / "checkpoints" / "last.ckpt")):  # told to go on, with other settings
        arguments = resume_last({"ckpt_path": path}, trainer(run, other), fits=True)
        assert arguments == {"ckpt_path": str(run / "checkpoints" / "last.ckpt")}


def test_an_empty_folder_takes_any_run(tmp_path):
    check_run_folder(tmp_path, SETTINGS, None)
    check_run_folder(tmp_path, SETTINGS, "elsewhere.ckpt")
    (tmp_path / "weights.safetensors").touch()
    with pytest.raises(ValueError, match="Expected a folder without another run"):
        check_run_folder(tmp_path, None, None)
