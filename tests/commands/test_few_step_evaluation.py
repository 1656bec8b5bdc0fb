"""`ctsr evaluate --seeds` and `ctsr upscale` of a student of a few steps, beside CTSR, which is deterministic."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file

from ctsr_lightning.cli import main
from ctsr_lightning.codecs.codec import NanoCodec
from ctsr_lightning.images import write_image
from ctsr_lightning.models import FewStepStudent
from ctsr_lightning.networks import GuidedByInput, nano_unet
from helpers import tiny

UNET = {"class_path": "nano_unet", "init_args": {"latent_channels": 8, "widths": [8, 16]}}


def saved(folder: Path, **settings: Any) -> str:
    """The folder of weights and configuration that a training leaves."""
    torch.manual_seed(0)
    denoiser = tiny.shaken(GuidedByInput(nano_unet(8, widths=(8, 16))))
    student = FewStepStudent(denoiser, NanoCodec(8, 8))
    folder.mkdir()
    save_file(
        {f"student.denoiser.{key}": value for key, value in denoiser.state_dict().items()}, folder / "w.safetensors"
    )
    codec_file = str(folder / "codec.safetensors")
    save_file({f"codec.{key}": value for key, value in student.codec.state_dict().items()}, codec_file)
    unet = UNET | {"class_path": "ctsr_lightning.networks.nano.nano_unet"}
    guided = {"class_path": "ctsr_lightning.networks.GuidedByInput", "init_args": {"unet": unet}}
    codec = {"class_path": "ctsr_lightning.codecs.codec.NanoCodec", "init_args": {"channels": 8, "width": 8}}
    codec["init_args"] |= {"weights": codec_file}
    options = {"denoiser": guided, "codec": codec, "prediction": "v_prediction", "between": "posterior", **settings}
    model = {"class_path": "ctsr_lightning.models.FewStepStudent", "init_args": options}
    training = {"class_path": "ctsr_lightning.modules.StructureRefinement", "init_args": {"student": model}}
    (folder / "config.yaml").write_text(yaml.safe_dump({"model": training}))
    return str(folder / "w.safetensors")


@pytest.fixture(autouse=True)
def pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two pairs at x4 in the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch_home"))
    gt = torch.nn.functional.interpolate(
        torch.rand(2, 3, 6, 8, generator=torch.Generator().manual_seed(0)), scale_factor=8
    )
    for name, image in zip("ab", gt, strict=True):
        write_image(f"gt/{name}.png", image)
        write_image(f"lq/{name}.png", torch.nn.functional.avg_pool2d(image, 4))


def evaluated(checkpoint: str, *words: str, output: str = "out") -> dict[str, Any]:
    """Results by setting, over ten seeds."""
    model = ["--checkpoint", checkpoint, "--device", "cpu", "--seeds", "10"]
    main(["evaluate", "lq", "gt", *model, *words, "--output", output])
    results = json.loads(Path(output, "summary.json").read_text())["results"]
    return {result["setting"]: result for result in results}


def test_a_student_of_a_few_steps_depends_on_its_seed_and_ctsr_does_not(stage2: str, tmp_path: Path) -> None:
    found = evaluated(saved(tmp_path / "two", steps=[999, 667]), "--control", "0,0.5,1")
    for t in ("t=0.00", "t=0.50", "t=1.00"):
        assert found[t]["l_std"] > 1e-4
        assert found[t]["g_std"]["psnr_y"] > 1e-4
    found = evaluated(stage2, "--control", "0,1", output="ctsr")
    for t in ("t=0.00", "t=1.00"):
        assert found[t]["l_std"] == 0.0
        assert set(found[t]["g_std"].values()) == {0.0}


def test_without_noise_it_is_exactly_stable(tmp_path: Path) -> None:
    found = evaluated(saved(tmp_path / "still", steps=[999, 667], temperature=0.0), "--control", "0,1")
    for t in ("t=0.00", "t=1.00"):
        assert found[t]["l_std"] == 0.0
        assert set(found[t]["g_std"].values()) == {0.0}


def test_numbers_of_steps_are_the_first_timesteps(stage2: str, tmp_path: Path, capsys: Any) -> None:
    """`sweep --steps N` measures what a student of the first N timesteps restores, beside every t."""
    timesteps = [999, 749, 499]
    whole, *shorter = (saved(tmp_path / f"first {n}", steps=timesteps[:n], between="renoise") for n in (3, 1, 2))
    pairs = ["sweep", "--checkpoint", stage2, "--gt", "gt", "--lq", "lq", "--device", "cpu", "--examples", "0"]
    pairs += ["--control", "0,1", "--alphas", "0.5", "--baselines", "none", "--rival_seeds", "1", "--metrics", "psnr"]

    def swept(*words: str, output: str) -> dict[str, Any]:
        main([*pairs, *words, "--output", output])
        results = json.loads(Path(output, "tradeoff.json").read_text())["results"]
        return {result["setting"]: result for result in results}

    found = swept("--rivals", f"two={shorter[1]},AddSR={whole}", "--steps", "1,2,3", output="steps")
    names = ["AddSR 1 step", "AddSR 2 steps", "AddSR 3 steps"]
    assert [name for name, each in found.items() if each["curve"] == "AddSR in steps"] == names
    assert [name for name, each in found.items() if each["curve"] == "AddSR"] == ["AddSR t=0.00", "AddSR t=1.00"]
    assert [name for name, each in found.items() if each["curve"] == "two in steps"] == ["two 1 step", "two 2 steps"]
    for step, t in ((names[0], "AddSR t=1.00"), (names[2], "AddSR t=0.00")):  # its slider has all its steps
        assert found[step]["psnr_y"] == pytest.approx(found[t]["psnr_y"], abs=1e-6)
    single = swept("--rivals", f"a={shorter[0]},b={shorter[1]},c={whole}", output="t")
    for name, setting in zip(names, ("a", "b t=0.00", "c t=0.00"), strict=True):
        assert found[name]["psnr_y"] == pytest.approx(single[setting]["psnr_y"], abs=1e-6)
    assert len({found[name]["psnr_y"] for name in names}) == 3
    with pytest.raises(SystemExit):
        swept("--rivals", f"AddSR={whole}", "--steps", "1,4", output="more")
    assert "Expected numbers of steps that a rival has, found 4, which none has." in capsys.readouterr().err
    assert not Path("more").exists()


def test_a_slider_and_a_single_step(tmp_path: Path) -> None:
    weights = saved(tmp_path / "two", steps=[999, 667])
    main(["upscale", "lq", "restored", "--checkpoint", weights, "--control", "0,1", "--device", "cpu"])
    assert len(list(Path("restored").rglob("*.png"))) == 4
    one = saved(tmp_path / "one", steps=[999])
    assert evaluated(one).keys() >= {"t=0.00"}
