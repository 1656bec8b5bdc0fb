"""`ctsr tag`: a folder, or a test set, to a caption file."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ctsr_lightning.cli import main
from ctsr_lightning.commands import tag as command
from ctsr_lightning.images import read_image, upsample, write_image
from ctsr_lightning.prompts.captions import read_captions
from ctsr_lightning.prompts.taggers import ImageTagger
from ctsr_lightning.training import INTERRUPTED

LEVELS = {"a": 0.2, "b/c": 0.6, "b/d_2": 0.8}


class LevelTagger(ImageTagger):
    """Tags by size and grey level.

    Args:
        word: What every tag begins with.
    """

    shown: list[Tensor] = []  # noqa: RUF012  # of all objects

    def __init__(self, word: str = "level") -> None:
        self.word = word

    def tags(self, images: Tensor) -> list[str]:
        self.shown.append(images)
        return [f"{self.word} {image.mean():.1f}" for image in images]


@pytest.fixture(autouse=True)
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three images, and the tagger in an importable module."""
    monkeypatch.chdir(tmp_path)
    for key, level in LEVELS.items():
        write_image(f"photos/{key}.png", torch.full((3, 8, 12), level))
    module = types.ModuleType("my_taggers")
    LevelTagger.__module__ = "my_taggers"
    module.LevelTagger = LevelTagger  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "my_taggers", module)
    LevelTagger.shown.clear()


def run(*words: str, code: int = 0) -> None:
    words = ("tag", *words, "--device", "cpu")
    if not code:
        main(list(words))
        return
    with pytest.raises(SystemExit) as end:
        main(list(words))
    assert end.value.code == code


OWN = ("--tagger", "my_taggers.LevelTagger")


@pytest.mark.parametrize("suffix", [".json", ".tsv"])
def test_a_folder_becomes_a_caption_file(suffix: str, capsys: pytest.CaptureFixture[str]) -> None:
    output = f"texts/captions{suffix}"
    run("photos", *OWN, "--output", output, "--template", "{tags}, ,")
    assert read_captions(Path(output)) == {key: f"level {level}, ," for key, level in LEVELS.items()}
    assert [tuple(image.shape) for image in LevelTagger.shown] == [(1, 3, 8, 12)] * 3
    said = capsys.readouterr()
    assert "3 images tagged, " in said.out
    assert output in said.out
    assert "tagging 3/3" in said.err


def test_a_tagger_by_its_configuration_sees_enlarged_images() -> None:
    Path("tagger.yaml").write_text("class_path: my_taggers.LevelTagger\ninit_args: {word: grey}\n")
    run("photos", "--tagger", "tagger.yaml", "--scale", "3")
    assert read_captions(Path("captions.json")) == {key: f"grey {level}" for key, level in LEVELS.items()}
    assert torch.equal(LevelTagger.shown[0], upsample(read_image("photos/a.png")[None], 3))


def test_it_goes_on_where_it_stopped(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    tags = LevelTagger.tags

    def press_ctrl_c(self: LevelTagger, images: Tensor) -> list[str]:
        if len(self.shown) == 2:
            raise KeyboardInterrupt
        return tags(self, images)

    with monkeypatch.context() as patch:
        patch.setattr(LevelTagger, "tags", press_ctrl_c)
        run("photos", *OWN, code=INTERRUPTED)
    assert read_captions(Path("captions.json")) == {"a": "level 0.2", "b/c": "level 0.6"}
    Path("captions.json").write_text(json.dumps({"a": "my own", "b/c.png": "level 0.6", "elsewhere": "kept"}))
    run("photos", *OWN)
    assert "1 image tagged" in (out := capsys.readouterr().out)
    assert "2 already there (--overwrite replaces them)" in out
    # b/d_2 is an image of its own here, no repetition of b/d
    kept = {"a": "my own", "b/c": "level 0.6", "elsewhere": "kept", "b/d_2": "level 0.8"}
    assert read_captions(Path("captions.json")) == kept
    run("photos", *OWN, "--overwrite")
    assert read_captions(Path("captions.json")) == {**kept, "a": "level 0.2"}


def test_the_file_is_written_while_it_works(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    tags = LevelTagger.tags

    def look(self: LevelTagger, images: Tensor) -> list[str]:
        file = Path("captions.json")
        sizes.append(len(read_captions(file)) if file.exists() else 0)
        return tags(self, images)

    monkeypatch.setattr(LevelTagger, "tags", look)
    monkeypatch.setattr(command, "INTERVAL", 0.0)
    run("photos", *OWN)
    assert sizes == [0, 1, 2]


def test_bad_images_are_named_and_skipped(capsys: pytest.CaptureFixture[str]) -> None:
    Path("photos/b/broken.png").write_bytes(b"nothing")
    Path("photos/gone.png").symlink_to("nowhere.png")
    run("photos", *OWN, code=1)
    assert read_captions(Path("captions.json")).keys() == LEVELS.keys()
    said = capsys.readouterr()
    assert "3 images tagged" in said.out
    assert "2 failed, named above" in said.out
    assert said.err.count("ctsr: skipped: ") == 2
    assert all(name in said.err for name in ("broken.png", "gone.png"))


def test_a_test_set_s_low_quality_images_have_the_names_of_their_pairs() -> None:
    for key, level in LEVELS.items():
        write_image(f"lq/{key}_LR4.png", torch.full((3, 8, 12), level))
        write_image(f"gt/{key}_HR.png", torch.full((3, 32, 48), 0.5))
    pairs = "{class_path: RealESRGANDataModule, init_args: {test_pairs: [{lq: lq, gt: gt}], num_workers: 0}}"
    Path("pairs.yaml").write_text(pairs)
    run("--data", "pairs.yaml", *OWN)
    assert read_captions(Path("captions.json")) == {key: f"level {level}" for key, level in LEVELS.items()}
    assert [tuple(image.shape) for image in LevelTagger.shown] == [(1, 3, 32, 48)] * 3


class ToyRAM(nn.Module):
    """As much of RAM as is used."""

    def __init__(self, seen: list[Tensor]) -> None:
        super().__init__()
        self.seen = seen

    def generate_tag(self, images: Tensor) -> tuple[list[str], list[str]]:
        self.seen.append(images)
        return ["dog | cat"] * len(images), [""] * len(images)


@pytest.mark.parametrize("adapted", [False, True])
def test_ram_tags_ground_truth_and_dape_enlarged_images(adapted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []
    seen: list[Tensor] = []

    def build(**options: Any) -> ToyRAM:
        asked.append(options)
        return ToyRAM(seen)

    for name in ("ram", "ram.models", "ram.models.ram_lora"):
        module = types.ModuleType(name)
        module.ram = build  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, name, module)
    shown: list[tuple[int, ...]] = []
    resize = torch.nn.functional.interpolate

    def watched(images: Tensor, *args: Any, **options: Any) -> Tensor:
        shown.append(tuple(images.shape[-2:]))
        return resize(images, *args, **options)

    monkeypatch.setattr("ctsr_lightning.prompts.taggers.F.interpolate", watched)
    for name in ("ram.pth", "DAPE.pth"):
        torch.save({"model": {"a": torch.zeros(1)}}, name)
    run("photos", "--ram", "ram.pth", *(["--dape", "DAPE.pth"] if adapted else []))
    assert read_captions(Path("captions.json")) == dict.fromkeys(LEVELS, "dog, cat")
    assert len(asked) == 1
    assert ("pretrained_condition" in asked[0]) == adapted
    assert [image.shape[-1] for image in seen] == [384] * 3
    assert ((32, 48) in shown) == adapted
    assert (8, 12) in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["photos"], "Expected a tagger: --ram FILE"),
        (["photos", *OWN, "--ram", "ram.pth"], "Expected a tagger"),
        (["photos", "--dape", "DAPE.pth", *OWN], "Expected a tagger"),
        (["photos", "--tagger", "no.Such"], "Expected the class of an ImageTagger"),
        (["photos", "--tagger", "NoPrompt"], "Expected the class of an ImageTagger"),
        (["photos", *OWN, "--data", "pairs.yaml"], "Expected a folder of images or --data FILE"),
        ([*OWN], "Expected a folder of images or --data FILE"),
        (["nowhere", *OWN], "'nowhere'"),
        (["photos", *OWN, "--output", "captions"], "Expected an --output ending in .json, .tsv, .txt"),
        (["photos", *OWN, "--template", "tags"], "Expected a template with '{tags}'"),
        (["photos", *OWN, "--scale", "0"], "Expected --scale of at least 1"),
    ],
)
def test_mistakes_are_explained(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    run(*words, code=1)
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not Path("captions.json").exists()


def test_an_unreadable_caption_file_is_not_replaced(capsys: pytest.CaptureFixture[str]) -> None:
    Path("captions.json").write_text("{")
    run("photos", *OWN, code=1)
    assert "found no JSON" in capsys.readouterr().err
    assert Path("captions.json").read_text() == "{"
