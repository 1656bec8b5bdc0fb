"""The trainings behind `make demo` and `make nano`, up to where one would begin."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml

from ctsr_lightning.inference.devices import computes_bfloat16
from ctsr_lightning.inference.settings import TrainingPrecision
from recipes.chain import (
    CHAIN,
    HELD_OUT,
    Length,
    configured_steps,
    data_options,
    read_training,
    train_link,
)

CONFIGS = Path(__file__).parents[2] / "configs" / "nano"
Run = Callable[..., dict[str, list[str]]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the chain in `tmp_path` with trainings that only leave their weights; their words by name."""
    monkeypatch.setenv("CTSR_RUNS", "before")

    def chain(precision: TrainingPrecision = "float32", interrupt: str = "") -> dict[str, list[str]]:
        given: dict[str, list[str]] = {}

        def training(words: list[str]) -> SimpleNamespace:
            name = Path(words[2]).stem
            given[name] = words
            (tmp_path / name / "checkpoints").mkdir(parents=True, exist_ok=True)
            if name == interrupt:
                (tmp_path / name / "checkpoints" / "last.ckpt").touch()
                raise SystemExit(130)
            (tmp_path / name / "weights.safetensors").touch()
            return SimpleNamespace(model=None)

        monkeypatch.setattr("ctsr_lightning.training.training_cli", training)
        for link in CHAIN:
            options = ["--data.init_args.pool", "7"]
            train_link("nano", CONFIGS, tmp_path, link, Length(100, 4), options, "cpu", precision)
        return given

    return chain


def value(words: list[str], option: str) -> str:
    return words[words.index(option) + 1]


@pytest.mark.parametrize(
    ("precision", "native", "expected"),
    [
        ("auto", True, "bf16-mixed"),
        ("auto", False, "32-true"),
        ("float32", True, "32-true"),
        ("bfloat16", False, "bf16-mixed"),
    ],
)
def test_precision(
    run: Run, monkeypatch: pytest.MonkeyPatch, precision: TrainingPrecision, native: bool, expected: str
) -> None:
    monkeypatch.setattr("recipes.chain.computes_bfloat16", lambda device: native)
    found = {name: value(words, "--trainer.precision") for name, words in run(precision).items()}
    assert found == {link.name: "32-true" if link.name == "codec" else expected for link in CHAIN}


def test_every_training_gets_its_length_and_the_options(run: Run) -> None:
    given = run()
    assert list(given) == [link.name for link in CHAIN]
    for name, words in given.items():
        assert words[:3] == ["fit", "--config", str(CONFIGS / f"{name}.yaml")]
        assert value(words, "--trainer.max_steps") == "100"
        assert value(words, "--trainer.val_check_interval") == "25"
        assert value(words, "--data.init_args.pool") == "7"
        assert value(words, "--trainer.accelerator") == "cpu"


def test_an_interrupted_chain_goes_on(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run(interrupt="stage1")
    assert "the same `python -m recipes nano` or `make nano` goes on" in capsys.readouterr().err
    first = read_training(tmp_path / "stage1")["seconds"]
    (tmp_path / "stage1" / "training.json").write_text(json.dumps({"seconds": first + 1000}))
    given = run()
    assert list(given) == ["stage1", "stage2"]
    assert value(given["stage1"], "--ckpt_path") == str(tmp_path / "stage1" / "checkpoints" / "last.ckpt")
    assert "--ckpt_path" not in given["stage2"]
    assert read_training(tmp_path / "stage1")["seconds"] > first + 1000
    assert read_training(tmp_path / "stage1")["device"].startswith("cpu, ")
    assert run() == {}


@pytest.mark.parametrize("link", CHAIN, ids=lambda link: link.name)
def test_the_full_length_is_the_configuration_s(link) -> None:
    text = (CONFIGS / f"{link.name}.yaml").read_text()
    assert configured_steps(CONFIGS, link) == yaml.safe_load(text)["trainer"]["max_steps"] > 100


def test_photographs_to_validate_on_are_held_out_or_named() -> None:
    assert data_options(None, 2) == ["--data.init_args.val_repeats", "2"]
    assert value(data_options("/photos", 2), "--data.init_args.val_split") == str(HELD_OUT)
    named = data_options("/photos", 1, "/others")
    assert value(named, "--data.init_args.val") == '["/others"]'
    assert "--data.init_args.val_split" not in named


class TestBfloat16:
    @pytest.fixture(autouse=True)
    def no_gpu(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)

    @pytest.mark.parametrize("accelerator", ["auto", "cpu"])
    @pytest.mark.parametrize("able", [{"avx512_bf16": True}, {"avx512_bf16": False, "amx_bf16": True}])
    def test_processors_that_multiply_it(
        self, monkeypatch: pytest.MonkeyPatch, accelerator: str, able: dict[str, bool]
    ) -> None:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able, raising=False)
        assert computes_bfloat16(accelerator)
        assert not computes_bfloat16("mps")

    def test_processors_that_emulate_it_or_cannot_tell(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_f": True}, raising=False)
        assert not computes_bfloat16("cpu")
        monkeypatch.delattr(torch.cpu, "get_capabilities")
        assert not computes_bfloat16("cpu")

    def test_a_gpu_decides_unless_the_processor_is_asked_for(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True}, raising=False)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation)
        assert not computes_bfloat16("auto")
        assert not computes_bfloat16("gpu")
        assert computes_bfloat16("cpu")
