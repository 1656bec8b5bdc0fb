"""`make nano`, with two steps per training: what it packs, measures and writes down."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from ctsr_lightning import __version__
from ctsr_lightning.cache.store import OutputCache
from ctsr_lightning.images import quantize, write_image
from ctsr_lightning.inference.loading import load_model, load_teachers
from ctsr_lightning.inference.restorer import Restorer
from ctsr_lightning.models.student import OneStepStudent
from helpers import tiny_experts
from recipes.__main__ import main
from recipes.chain import CHAIN
from recipes.nano.pack import pack
from recipes.nano.run import test_sets as sets_of  # pytest would collect the function's own name

CONFIGS = str(Path(__file__).parents[2] / "configs" / "nano")
PARTS = ["codec", "prior", "fidelity_teacher", "realness_teacher", "stage1", "stage2"]
pytestmark = pytest.mark.slow


def small_crops(folder: Path) -> str:
    """The nano configurations on two crops of 64 pixels per step; the networks have their true size."""
    for group in ("nano", "data", "network", "teacher"):
        shutil.copytree(Path(CONFIGS).parent / group, folder / group)
    data = yaml.safe_load((folder / "data" / "nano.yaml").read_text(encoding="utf-8"))
    data["init_args"] |= {"crop": 64, "val_crop": 64, "batch_size": 2}
    (folder / "data" / "nano.yaml").write_text(yaml.safe_dump(data), encoding="utf-8")
    return str(folder / "nano")


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """The command line of a finished `python -m recipes nano`; no LPIPS weights are on disk."""
    root = tmp_path_factory.mktemp("nano")
    for name in ("photos/a.png", "pairs/gt/b.png"):
        write_image(root / name, torch.rand(3, 96, 128, generator=torch.Generator().manual_seed(0)))
    write_image(root / "pairs/lq/b.png", torch.full((3, 24, 32), 0.5))
    words = ["nano", "--output", str(root / "run"), "--configs", small_crops(root / "configs"), "--device", "cpu"]
    words += ["--steps", "0.0001", "--pool", "4", "--test", f"{root / 'photos'},{root / 'pairs'}"]
    words += ["--expert", str(tiny_experts.saved(root / "expert.pth"))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_HOME", str(root))
        patch.setenv("CTSR_RUNS", "before")
        main(words)
        yield words


@pytest.fixture
def output(words: list[str]) -> Path:
    return Path(words[2])


@pytest.fixture
def package(output: Path) -> Path:
    return output / "package"


def test_a_package_is_what_models_need_and_no_more(package: Path) -> None:
    found = sorted(str(path.relative_to(package)) for path in package.rglob("*") if path.is_file())
    configured = [f"{name}/config.yaml" for name in ("realness_teacher", "stage1", "stage2")]
    assert found == sorted(["README.md", "card.json", *configured, *(f"{name}/weights.safetensors" for name in PARTS)])
    assert sum((package / name).stat().st_size for name in found) < 36e6
    for name in PARTS:
        state = load_file(package / name / "weights.safetensors")
        assert {tensor.dtype for tensor in state.values()} == {torch.float16}
        assert not any(key.startswith("critic.") for key in state)
    for name in configured:
        text = (package / name).read_text()
        assert yaml.safe_load(text).keys() == {"model"}
        assert "critic" not in text
        assert str(package.parent.parent) not in text


def test_it_is_loaded_whole_whatever_lies_in_the_current_directory(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(package, tmp_path / "moved" / "nano")
    for name in CHAIN:  # a run of another model, in which its paths mean something, too
        (tmp_path / name.name).mkdir()
        (tmp_path / name.name / "weights.safetensors").write_text("not these")
    monkeypatch.chdir(tmp_path)
    moved = Path("moved/nano")
    for name in ("realness_teacher", "stage1"):
        assert isinstance(load_model(moved / name / "weights.safetensors"), OneStepStudent)
        assert load_teachers(moved / name / "weights.safetensors").keys() == (
            {"T_f", "T_r"} if name == "stage1" else set()
        )
    model = load_model(moved / "stage2" / "weights.safetensors")
    assert load_teachers(moved / "stage2" / "weights.safetensors").keys() == {"T_f", "T_r"}
    assert {tensor.dtype for tensor in model.state_dict().values() if tensor.is_floating_point()} == {torch.float32}
    codec = load_file(package / "codec" / "weights.safetensors")
    assert torch.equal(model.student.codec.decoder.bias, codec["codec.decoder.bias"].float())


def test_rounding_does_not_show(output: Path, package: Path) -> None:
    lq = torch.rand(2, 3, 24, 24, generator=torch.Generator().manual_seed(1))
    for name in ("stage1", "stage2"):
        exact, packed = (
            quantize(Restorer.from_pretrained(folder / name / "weights.safetensors", "cpu")(lq)) * 255
            for folder in (output, package)
        )
        change = (exact - packed).abs().round()
        assert change.max() <= 1
        assert (change > 0).float().mean() < 0.02
    T_r, packed = (load_teachers(folder / "stage2" / "weights.safetensors")["T_r"] for folder in (output, package))
    torch.testing.assert_close(T_r.eval().restore(lq), packed.eval().restore(lq), rtol=0, atol=2 / 255)


def test_its_card_says_how_it_was_made_and_what_it_reaches(output: Path, package: Path) -> None:
    card = json.loads((package / "card.json").read_text(encoding="utf-8"))
    text = (package / "README.md").read_text(encoding="utf-8")
    assert card["data"] == {
        "name": "sample photographs of scikit-image", "photographs": 8, "validated_on": 2,
        "degradation": "mixed(light_share=0.5, clean_share=0.15)",
        "scale": 4, "crop": 64, "batch_size": 2, "pool": 4, "seed": 0,
    }  # fmt: skip
    assert list(card["trainings"]) == [link.name for link in CHAIN]
    for training in card["trainings"].values():
        assert training["steps"] == 2
        assert training["seconds"] > 0
        assert training["device"].startswith("cpu, ")
        assert training["seed"] == 0
    assert card["trainings"]["codec"]["precision"] == "32-true"
    assert card["trainings"]["stage1"]["perceptual"] == "texture_distance"
    assert card["trainings"]["stage2"]["perceptual"] is None
    assert list(card["parts"]) == PARTS
    assert card["rounding"]["largest"] <= 1
    assert card["versions"]["ctsr-lightning"] == __version__
    photos, pairs = card["figures"]
    assert (photos["name"], photos["images"], pairs["name"], pairs["images"]) == ("photos", 1, "pairs", 1)
    for entry in card["figures"]:
        record = json.loads((output / "sweep" / entry["name"] / "tradeoff.json").read_text(encoding="utf-8"))
        assert [row["psnr_y"] for row in entry["results"]] == [row["psnr_y"] for row in record["results"]]
        assert [row["setting"] for row in entry["results"]][-6:] == [f"t={t:.2f}" for t in (0, 0.2, 0.4, 0.6, 0.8, 1)]
        assert f"| t=0.00 | {entry['results'][-6]['psnr_y']:.4f} |" in text
        assert any("grid energy" in sentence.lower() for sentence in entry["sentences"])
    for part in (card["limits"], card["license"], card["left_out"]):
        assert part in text
    assert str(output.parent) not in text + json.dumps(card)


def test_what_is_finished_is_not_repeated(
    words: list[str], output: Path, package: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (package / "card.json").read_text(encoding="utf-8")
    main(words)
    out = capsys.readouterr().out
    assert out.count("complete:") == len(CHAIN) + 2
    assert f"complete: {output / 'sweep' / 'pairs' / 'tradeoff.json'}" in out
    assert (package / "card.json").read_text(encoding="utf-8") == before


def test_the_realistic_teacher_learned_the_experts_pictures(output: Path) -> None:
    configured = yaml.safe_load((output / "realness_teacher" / "config.yaml").read_text(encoding="utf-8"))
    arguments = configured["model"]["init_args"]
    assert arguments["target"]["class_path"].endswith("ExpertTeacher")
    assert arguments["cache"] == str(output / "expert")
    assert len(OutputCache(output / "expert")) == 4  # the pool


def test_an_expert_needs_a_pool_and_has_to_be_one(words: list[str], tmp_path: Path) -> None:
    at = words.index("--expert")
    expert, others = words[at + 1], [*words[:at], "--output", str(tmp_path / "run")]
    for further in (["--expert", expert, "--pool", "null"], ["--expert", str(tmp_path / "none.pth")]):
        with pytest.raises(SystemExit):
            main([*others, *further])
    assert not (tmp_path / "run" / "codec").exists()


def test_too_large_or_mixed_packages_are_refused(
    output: Path, package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").touch()
    with pytest.raises(ValueError, match="an empty folder or an earlier package"):
        pack(output, tmp_path / "mine")
    monkeypatch.setattr("recipes.nano.pack.LIMIT", 10_000_000)
    with pytest.raises(ValueError, match=r"at most 10 MB, found 3\d\.\d MB"):
        pack(output, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_kinds_of_test_sets(tmp_path: Path) -> None:
    for folder in ("photos", "bench/test_LR", "bench/test_HR", "truth/HR"):
        (tmp_path / folder).mkdir(parents=True)
    photos, bench, truth, data = sets_of([*(str(tmp_path / n) for n in ("photos", "bench", "truth")), "data/real.yaml"])
    assert (photos.gt, photos.lq) == (tmp_path / "photos", None)
    assert (bench.gt, bench.lq) == (tmp_path / "bench" / "test_HR", tmp_path / "bench" / "test_LR")
    assert (truth.gt, truth.lq) == (tmp_path / "truth" / "HR", None)
    assert (data.name, data.gt, data.data) == ("real", None, Path("data/real.yaml"))
    with pytest.raises(ValueError, match="different names"):
        sets_of([str(tmp_path / "photos"), str(tmp_path / "photos")])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--photos", "nowhere"], "nowhere', found nothing"),
        (["--val", "nowhere"], "nowhere', found nothing"),
        (["--test", "nowhere"], "Expected a folder at 'nowhere'"),
        (["--test", "no.yaml"], "Expected a data configuration at 'no.yaml'"),
        (["--metrics", "magic"], "'magic' is not a metric"),
        (["--metrics", "niqe"], "lack theirs"),
        (["--steps", "-1"], "Expected a positive --steps"),
        (["--configs", "nowhere"], "Expected the nano configurations in 'nowhere'"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_trained(
    options: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(SystemExit):
        main(["nano", "--output", str(tmp_path / "run"), "--configs", CONFIGS, *options])
    assert message in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.safetensors"))
