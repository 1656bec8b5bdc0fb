"""`--prompt` of `ctsr upscale`, `evaluate` and `sweep`: another prompt than the one that a model was trained with."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ctsr_lightning.cli import main
from ctsr_lightning.codecs import KLCodec
from ctsr_lightning.images import read_image, read_record, write_image
from ctsr_lightning.inference.loading import load_teachers
from ctsr_lightning.inference.restorer import Restorer
from ctsr_lightning.models import OneStepStudent
from ctsr_lightning.networks import VelocityField, load_autoencoder, load_unet
from ctsr_lightning.networks.lora import LoRA
from ctsr_lightning.prompts import CaptionPrompt, TextPrompt
from helpers.config_runs import write_base

KEYS = ("one", "two")
Write = Callable[..., str]


def made(class_path: str, **init_args: Any) -> dict[str, Any]:
    return {"class_path": class_path, "init_args": init_args}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    with torch.random.fork_rng(devices=[]):
        return str(write_base(tmp_path_factory.mktemp("base")))


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two pairs of alike images, so that only the prompt tells their restorations apart."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    generator = torch.Generator().manual_seed(0)
    gt = torch.nn.functional.interpolate(torch.rand(1, 3, 8, 8, generator=generator), scale_factor=8)[0]
    for key in KEYS:
        write_image(f"gt/{key}.png", gt)
        write_image(f"lq/{key}.png", torch.nn.functional.avg_pool2d(gt, 4))
    Path("texts.json").write_text('{"one": "a", "two.png": "a a"}')


@pytest.fixture
def checkpoint(base: str, tmp_path: Path) -> Write:
    """Writes a stage 2 on a toy Stable Diffusion, with T_r a student alike, by the prompt that it was trained with."""

    def write(prompt: dict[str, Any] | None) -> str:
        torch.manual_seed(0)
        unet = made("ctsr_lightning.networks.load_unet", path=base, expect="any")
        codec = made("KLCodec", autoencoder=made("ctsr_lightning.networks.load_autoencoder", path=base, expect="any"))
        student = made("OneStepStudent", unet=unet, codec=codec, lora={"rank": 2}, timestep=250, prompt=prompt)
        parts = {
            "student": OneStepStudent(
                load_unet(base, expect="any"),
                KLCodec(load_autoencoder(base, expect="any")),
                lora=LoRA(rank=2),
                timestep=250,
            ),
            "velocity": VelocityField(load_unet(base, expect="any"), lora=LoRA(rank=2)),
        }
        torch.nn.init.normal_(parts["velocity"].head.weight, std=0.3)
        state = {
            f"{part}.{name}": value.detach()
            for part, module in parts.items()
            for name, value in module.named_parameters()
            if value.requires_grad
        }
        config = {
            "_class_path": "ctsr_lightning.modules.stage2.CTSRStage2",
            "student": student,
            "velocity": made("VelocityField", unet=unet, lora={"rank": 2}),
            "realness": made("OneStepTeacher", network=student),
        }
        torch.save({"state_dict": state, "hyper_parameters": config}, tmp_path / "model.ckpt")
        return "model.ckpt"

    return write


@pytest.fixture
def captioned(checkpoint: Write, base: str) -> str:
    """Trained with tags, whose file is not on this machine."""
    return checkpoint(made("CaptionPrompt", captions="training/captions.json", path=base, cache="kept"))


def upscale(model: str, *words: str, code: int = 0) -> None:
    words = ("upscale", "lq", "out", "--checkpoint", model, "--device", "cpu", "--control", "1", *words)
    if not code:
        main(list(words))
        return
    with pytest.raises(SystemExit) as end:
        main(list(words))
    assert end.value.code == code


def image(key: str) -> torch.Tensor:
    return read_image(f"out/{key}.png")


def psnr(folder: str) -> dict[tuple[str, str], str]:
    """By image and setting."""
    with (Path(folder) / "per_image.csv").open(newline="", encoding="utf-8") as file:
        return {(row["image"], row["setting"]): row["psnr_y"] for row in csv.DictReader(file)}


@pytest.mark.slow
def test_a_text_takes_the_place_of_the_training_s_captions(
    captioned: str, base: str, capsys: pytest.CaptureFixture[str]
) -> None:
    upscale(captioned, code=1)
    error = capsys.readouterr().err
    assert "Expected a caption file at" in error
    assert "--prompt gives a text or another such file" in error
    upscale(captioned, "--prompt", "a a")
    assert torch.equal(image("one"), image("two"))
    restorer = Restorer.from_pretrained(captioned, "cpu", prompt="a a")
    assert isinstance(restorer.model.student.prompt, TextPrompt)
    assert torch.equal(restorer.model.student.prompt.embedding, TextPrompt(base, "a a").embedding)
    expected = restorer(read_image("lq/one.png"), 1.0)
    assert torch.allclose(image("one"), expected, atol=1 / 255)
    other = Restorer.from_pretrained(captioned, "cpu", prompt="")(read_image("lq/one.png"), 1.0)
    assert not torch.allclose(other, expected, atol=1e-4)


@pytest.mark.slow
def test_results_say_which_text_made_them(captioned: str, capsys: pytest.CaptureFixture[str]) -> None:
    upscale(captioned, "--prompt", "texts.json")
    records = {key: read_record(Path(f"out/{key}.png")) or "" for key in KEYS}
    assert ' prompt="a" ' in records["one"]
    assert ' prompt="a%20a" ' in records["two"]
    assert not torch.equal(image("one"), image("two"))
    upscale(captioned, "--prompt", "texts.json")
    assert "2 already there" in capsys.readouterr().out
    upscale(captioned, "--prompt", "a a", code=1)  # as the second was made
    said = capsys.readouterr()
    assert "1 already there" in said.out
    assert 'made with prompt "a" in place of "a a"' in said.err
    upscale(captioned, "--prompt", "", "--overwrite")
    assert ' prompt="" ' in (read_record(Path("out/one.png")) or "")


@pytest.mark.slow
def test_an_image_without_a_text_is_named_and_the_others_go_on(
    captioned: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("texts.txt").write_text("two\ta\n")
    upscale(captioned, "--prompt", "texts.txt", code=1)
    assert "found none for the image 'one'" in capsys.readouterr().err
    assert [path.name for path in Path("out").iterdir()] == ["two.png"]


@pytest.mark.slow
def test_own_captions_are_used_and_a_lacking_text_is_said(
    checkpoint: Write, base: str, capsys: pytest.CaptureFixture[str]
) -> None:
    own = {"captions": "own.json", "path": base, "cache": "kept"}
    Path("own.json").write_text('{"one": "a"}')
    upscale(checkpoint(made("CaptionPrompt", **own)), code=1)
    assert "found none for the image 'two'" in capsys.readouterr().err
    assert " prompt=own " in (read_record(Path("out/one.png")) or "")
    model = checkpoint(made("CaptionPrompt", **own, fallback=""))
    with pytest.warns(UserWarning, match=r"the image 'two' .*trained with texts.*--prompt FILE \(ctsr tag") as warned:
        upscale(model, "--overwrite")
    assert len(warned) == 1


@pytest.mark.slow
def test_a_tagger_that_is_not_installed_is_not_needed(
    checkpoint: Write, base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ram = made("RAMTagger", weights="nowhere.pth")
    model = checkpoint(made("TaggedPrompt", tagger=ram, path=base))
    upscale(model, "--prompt", "texts.json")
    assert list(Path("user/ctsr_lightning/text").rglob("*.safetensors"))  # the model's own prompt names no cache


@pytest.mark.slow
def test_measurements_hold_the_prompt_and_teachers_have_it(captioned: str) -> None:
    words = ["--checkpoint", captioned, "--device", "cpu", "--control", "0,1", "--output"]
    main(["evaluate", "lq", "gt", *words, "texts", "--prompt", "texts.json", "--metrics", "psnr"])
    record = json.loads(Path("texts/summary.json").read_text())
    assert record["settings"]["prompt"]["file"] == "texts.json"
    assert len(record["settings"]["prompt"]["sha256"]) == 64
    rows = psnr("texts")
    for setting in ("T_r", "t=0.00", "t=1.00"):
        assert rows["one", setting] != rows["two", setting]
    assert rows["one", "bicubic"] == rows["two", "bicubic"]
    main(["sweep", "--lq", "lq", "--gt", "gt", *words, "text", "--prompt", "a", "--examples", "0"])
    assert json.loads(Path("text/tradeoff.json").read_text())["settings"]["prompt"] == "a"
    rows = psnr("text")
    for setting in ("T_r", "t=0.00", "t=1.00"):
        assert rows["one", setting] == rows["two", setting]
    assert isinstance(load_teachers(captioned, "texts.json")["T_r"].frozen.network.prompt, CaptionPrompt)  # type: ignore[attr-defined]


def test_models_that_take_no_text_refuse_one(
    stage2: str, checkpoint: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    upscale(stage2, "--prompt", "a", code=1)
    assert "Expected a model that takes texts for a prompt, found one without any" in capsys.readouterr().err
    upscale(checkpoint(None), "--prompt", "a", code=1)
    assert "Expected a model that takes texts" in capsys.readouterr().err
    upscale(checkpoint(made("FixedPrompt", path="fixed.safetensors")), "--prompt", "a", code=1)
    assert "names a text encoder (CaptionPrompt, TaggedPrompt, TextPrompt)" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["evaluate", "lq", "gt", "--prompt", "a"])
    assert "Expected --prompt with --checkpoint" in capsys.readouterr().err
    shutil.rmtree("out", ignore_errors=True)
    upscale(stage2, "--prompt", "nowhere.json", code=1)
    assert "Expected a caption file at 'nowhere.json'" in capsys.readouterr().err
    assert not Path("out").exists()
