"""`ctsr sweep --rivals`: further models on the same plane, the blends of their own ends, means over seeds."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ctsr_lightning.batch import Batch
from ctsr_lightning.cli import main
from ctsr_lightning.evaluation.measurements import Measurements
from ctsr_lightning.evaluation.measuring import measure_methods
from ctsr_lightning.evaluation.methods import Methods
from ctsr_lightning.evaluation.tradeoff_report import judge, planes
from ctsr_lightning.frontier import Axis
from ctsr_lightning.images import quantize, read_image, write_image
from ctsr_lightning.inference.restorer import Restorer
from ctsr_lightning.metrics.distortion import PSNRY, psnr_y
from helpers import tiny

KEYS = ["checker", "waves"]


@pytest.fixture(autouse=True)
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two pairs, and a machine without LPIPS's weights."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch_home"))
    rows, columns = torch.meshgrid(torch.arange(48.0), torch.arange(64.0), indexing="ij")
    checker, waves = ((rows // 8 + columns // 8) % 2), (torch.sin(rows / 5) * torch.cos(columns / 7) + 1) / 2
    for key, image in zip(KEYS, (checker, waves), strict=True):
        write_image(f"gt/{key}.png", image.expand(3, -1, -1))
        write_image(f"lq/{key}.png", torch.nn.functional.avg_pool2d(image[None], 4)[0].expand(3, -1, -1))


def variant(stage2: str, path: Path, velocity: float = 1.0, **student: Any) -> str:
    """The model with another length of v, and other arguments of its student."""
    checkpoint = torch.load(stage2, weights_only=True)
    checkpoint["state_dict"] = {
        name: velocity * value if ".head." in name else value for name, value in checkpoint["state_dict"].items()
    }
    arguments = checkpoint["hyper_parameters"]["student"]["init_args"]
    arguments |= {"weights": str(Path(stage2).with_suffix(".base")), **student}
    torch.save(checkpoint, path)
    return str(path)


@pytest.fixture
def other(stage2: str, tmp_path: Path) -> str:
    return variant(stage2, tmp_path / "other.ckpt", 0.1)


def run(stage2: str, *words: str, output: str = "out") -> None:
    pairs = ["--gt", "gt", "--lq", "lq", "--device", "cpu", "--examples", "0", "--output", output]
    main(["sweep", "--checkpoint", stage2, *pairs, *words])


def rows(path: str) -> list[dict[str, str]]:
    with Path(path).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def written(folder: str = "out") -> dict[str, Any]:
    record: dict[str, Any] = json.loads((Path(folder) / "tradeoff.json").read_text(encoding="utf-8"))
    return record


@pytest.mark.slow
def test_curves_of_rivals_and_of_own_ends(stage2: str, other: str, tmp_path: Path) -> None:
    model = variant(stage2, tmp_path / "model.ckpt", 0.2)
    words = ["--control", "0,0.5,1", "--alphas", "0,0.5,1", "--baselines", "bicubic", "--rival_seeds", "2"]
    run(model, *words, "--rivals", f"same={model}, other={other}")
    means = {row["setting"]: row for row in rows("out/tradeoff.csv")}
    names = ["CTSR", "same", "other"]
    curves: dict[str, list[str]] = {}
    for row in means.values():
        curves.setdefault(row["curve"], []).append(row["setting"])
    assert list(curves) == ["", *(curve for name in names for curve in (name, f"{name}'s own ends"))]
    assert curves["CTSR"] == ["t=0.00", "t=0.50", "t=1.00"]
    assert curves["other"] == ["other t=0.00", "other t=0.50", "other t=1.00"]
    assert curves["other's own ends"] == [f"other's own ends α={alpha}" for alpha in ("0.00", "0.50", "1.00")]
    assert {row["t"] for row in means.values() if row["curve"] == "other"} == {"0.0", "0.5", "1.0"}

    metrics = ("psnr_y", "ssim_y", "texture_distance", "grid_energy")
    for setting in curves["CTSR"]:
        assert [means[setting][m] for m in metrics] == [means[f"same {setting}"][m] for m in metrics]
    for prefix, name in (("", "CTSR"), ("same ", "same"), ("other ", "other")):
        for end in ("0.00", "1.00"):
            blend, own = means[f"{name}'s own ends α={end}"], means[f"{prefix}t={end}"]
            assert [blend[m] for m in metrics] == [own[m] for m in metrics]
    restorer = Restorer.from_pretrained(other, "cpu")
    expected = []
    for key in KEYS:
        realistic, faithful = restorer(read_image(f"lq/{key}.png")[None], [0.0, 1.0])
        blend = quantize((realistic + faithful) / 2)
        expected.append(psnr_y(blend, read_image(f"gt/{key}.png")[None]).item())
    assert float(means["other's own ends α=0.50"]["psnr_y"]) == pytest.approx(sum(expected) / 2, abs=1e-4)

    assert all(row["seconds"] and (row["further"] or not row["curve"]) for row in means.values())
    assert float(means["other t=0.50"]["seconds"]) > float(means["other t=0.50"]["further"])
    assert {row["l_std"] for row in means.values() if row["curve"].startswith(("same", "other"))} == {"0.00000000"}
    assert {row["l_std"] for row in means.values() if row["curve"].startswith("CTSR")} == {""}
    images = rows("out/per_image.csv")
    assert {row["seed"] for row in images if row["curve"].startswith("CTSR")} == {"0"}
    assert {row["seed"] for row in images if row["curve"].startswith("other")} == {"0", "1"}

    record = written()
    assert record["frontier"]["monotone"].keys() == set(names)
    assert record["settings"]["rivals"] == {"same": model, "other": other}
    compared = {(each["curve"]["name"], each["other"]["name"]): each for each in record["frontier"]["compared"]}
    ends = [(name, f"{name}'s own ends") for name in names]
    others = [("CTSR", curve) for curve in curves if curve not in {"", "CTSR", ends[0][1]}]
    assert list(compared) == [ends[0], *others, *ends[1:]]
    assert compared["CTSR", "same"]["dominates"]
    assert compared["CTSR", "same"]["dominated"]  # a tie
    assert "CTSR and same have the same front" in compared["CTSR", "same"]["sentence"]
    assert compared["CTSR", "same"]["curve"]["points"] == compared["CTSR", "same"]["other"]["points"]
    assert "have the same front" not in compared["CTSR", "other"]["sentence"]
    table, page = (Path(f"out/tradeoff.{kind}").read_text(encoding="utf-8") for kind in ("md", "html"))
    assert "|  | curve | psnr_y ↑ |" in table
    assert "| other t=0.50 | other |" in table
    assert all(each["sentence"] in table for each in compared.values())
    assert "other, t=0.50" in page.replace("\\u003c", "<")


def test_the_curve_has_the_name_of_the_results(stage2: str, other: str) -> None:
    words = ["--control", "0,1", "--baselines", "none", "--rival_seeds", "1", "--name", "ours"]
    run(stage2, *words, "--rivals", f"CTSR={other}")
    assert [each["curve"] for each in written()["results"]][::6] == ["ours", "CTSR"]
    assert written()["runs"] == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--rivals", "file.ckpt"], "Expected --rivals NAME=WEIGHTS"),
        (["--rivals", "a={other},a={other}"], "found 'a' twice"),
        (["--rivals", "a=nothing.ckpt"], "nothing.ckpt"),
        (["--rivals", "a=large.ckpt"], "Expected rivals of the model's scale, x4, found 'a' of x2"),
        (["--rivals", "bicubic={other}"], "Expected a name of its own for each rival, found 'bicubic'"),
        (["--rivals", "CTSR={other}"], "Expected a name of its own for each rival, found 'CTSR'"),
        (["--rivals", "a={other}", "--steps", "1,2"], "Expected numbers of steps that a rival has, found 1"),
        (["--rivals", "a={other}", "--steps", "few"], "Expected numbers of steps such as 1,2,4,8"),
        (["--rivals", "a={other}", "--rival_seeds", "0"], "Expected numbers of seeds and steps of at least 1, found 0"),
    ],
)
def test_mistakes_are_found_before_anything_is_measured(
    stage2: str, other: str, words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    variant(stage2, tmp_path / "large.ckpt", scale=2)
    with pytest.raises(SystemExit) as end:
        run(stage2, *(word.format(other=other) for word in words))
    assert end.value.code == 1
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not Path("out").exists()


@pytest.mark.slow
def test_shared_among_processes_and_gone_on_with(stage2: str, other: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--control", "0,1", "--alphas", "0.5", "--baselines", "none", "--rival_seeds", "2"]
    rivals = ["--rivals", f"other={other}"]
    run(stage2, *words, *rivals, output="whole")
    run(stage2, *words, *rivals, "--rank", "1", "--ranks", "2")
    for changed_words, named in (
        (["--rivals", f"another={other}"], "rivals: "),
        (["--rivals", f"other={stage2}"], "model: "),
        ([*rivals, "--rival_seeds", "3"], "rival_seeds: 2, now 3"),
    ):
        with pytest.raises(SystemExit):
            run(stage2, *words, *changed_words)
        assert named in capsys.readouterr().err
    run(stage2, *words, *rivals)  # the share of the process that did not come
    for name in ("tradeoff.csv", "per_image.csv"):
        timeless = [
            [{k: v for k, v in row.items() if k not in {"seconds", "further"}} for row in rows(f"{folder}/{name}")]
            for folder in ("whole", "out")
        ]
        assert timeless[0] == timeless[1]
    assert written("whole")["frontier"] == written("out")["frontier"]


def batch() -> Batch:
    generator = torch.Generator().manual_seed(0)
    gt = torch.rand(1, 3, 32, 32, generator=generator)
    return Batch(torch.nn.functional.avg_pool2d(gt, 4), gt, ["x"])


class Drawing(Restorer):
    """Restores with noise that depends on the seed."""

    def decode(self, trajectory: Any, t: float | Tensor = 0.0, *options: Any) -> Tensor:
        image = super().decode(trajectory, t, *options)
        noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(self.seed))
        return (image + 0.05 * noise).clamp(0, 1)


def test_random_rivals_are_averaged_over_seeds(stage2: str) -> None:
    model, rival, one = Restorer.from_pretrained(stage2, "cpu"), Drawing(tiny.student(), "cpu"), batch()
    assert one.gt is not None
    measurements = Measurements({"psnr_y": PSNRY()})
    methods = Methods(model, [0.0, 1.0], bicubic=False, rivals={"random": rival}, rival_seeds=3)
    measure_methods(methods, [one], measurements)
    *own, single = measurements.summaries()
    assert [s.stability for s in own] == [None, None]
    assert single.method.label == "random"
    assert not single.method.curve
    images: list[Tensor] = []
    for rival.seed in range(3):
        images.append((rival(one.lq) * 255).round() / 255)
    expected = [psnr_y(image, one.gt).item() for image in images]
    assert len(set(expected)) == 3
    assert single.values["psnr_y"] == pytest.approx(sum(expected) / 3, abs=1e-4)
    assert single.stability is not None
    assert single.stability["runs"] == 3
    assert single.stability["l_std"] == pytest.approx(torch.stack(images).std(0, correction=0).mean().item(), rel=1e-4)
    assert measurements.runs == 3


class InSteps(Restorer):
    """Restores the better, the more steps its model takes."""

    def decode(self, trajectory: Any, t: float | Tensor = 0.0, *options: Any) -> Tensor:
        image = super().decode(trajectory, t, *options)
        return image.lerp(torch.full_like(image, 0.5), 1.0 / float(self.model.steps))  # type: ignore[arg-type]


def test_numbers_of_steps_are_a_curve(stage2: str) -> None:
    model, rival = Restorer.from_pretrained(stage2, "cpu"), InSteps(tiny.student(), "cpu")
    rival.model.steps = 4  # type: ignore[assignment]
    labels = {}
    for steps in ((), (1, 2, 8)):
        measurements = Measurements({"psnr_y": PSNRY(), "other": PSNRY()})
        methods = Methods(model, [0.0, 1.0], rivals={"flow": rival}, steps=steps)
        measure_methods(methods, [batch()], measurements)
        summaries = measurements.summaries()
        labels[steps] = [s.method.label for s in summaries if s.method.kind in {"rival", "steps"}]
    assert labels == {(): ["flow"], (1, 2, 8): ["flow 1 step", "flow 2 steps", "flow 8 steps"]}
    assert len({s.values["psnr_y"] for s in summaries if s.method.kind == "steps"}) == 3
    axes = Axis("psnr_y", higher_is_better=True), Axis("other", higher_is_better=True)
    curves, markers = planes(summaries, *axes)
    assert list(curves) == ["CTSR", "flow"]
    assert [point.label for point in curves["flow"]] == ["1 step", "2 steps", "8 steps"]
    assert [point.label for point in markers] == ["bicubic"]
    verdicts, comparisons = judge(summaries, {"psnr_y": True}, curves, markers, axes)
    assert verdicts.keys() == {"CTSR"}  # more steps promise no direction
    assert [(c.curve.name, c.other.name) for c in comparisons] == [("CTSR", "flow")]
