"""`ctsr evaluate` from the command line to its files: folders, models, stability, and everything that can be wrong."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from ctsr_lightning.cli import main
from ctsr_lightning.evaluation.experts import Expert
from ctsr_lightning.evaluation.measurements import Measurements
from ctsr_lightning.evaluation.measuring import measure_methods
from ctsr_lightning.evaluation.methods import Method, Methods, Restoration
from ctsr_lightning.images import quantize, read_image, upsample, write_image
from ctsr_lightning.inference.color import match_adain
from ctsr_lightning.inference.loading import load_teachers
from ctsr_lightning.inference.restorer import Restorer
from ctsr_lightning.metrics.distortion import PSNRY, psnr_y, ssim_y
from helpers import tiny_experts
from helpers.reference import SHARED

NAMES = ("a_1", "b_2", "c_3")


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three pairs at x4 with restored images, and a machine without any weights."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch_home"))
    generator = torch.Generator().manual_seed(0)
    for name in NAMES:
        gt = torch.nn.functional.interpolate(torch.rand(1, 3, 6, 8, generator=generator), scale_factor=8)[0]
        write_image(f"gt/set_{name}.png", gt)
        write_image(f"restored/{name}.png", (gt + 0.1 * torch.randn(gt.shape, generator=generator)).clamp(0, 1))
        write_image(f"lq/{name}.png", torch.nn.functional.avg_pool2d(gt, 4))


def run(*words: str) -> None:
    main(["evaluate", *words, "--output", "out"])


def table(path: str = "out/per_image.csv") -> list[dict[str, str]]:
    with Path(path).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def summary() -> dict:
    return json.loads(Path("out/summary.json").read_text(encoding="utf-8"))


def failure(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as end:
        run(*words)
    assert end.value.code == 1
    error = capsys.readouterr().err
    assert "Traceback" not in error
    return error


class TestFolders:
    def test_values_are_those_of_the_files(self, capsys: pytest.CaptureFixture[str]) -> None:
        run("restored", "gt")
        rows = table()
        assert [row["image"] for row in rows] == [f"{name}.png" for name in NAMES]
        assert list(rows[0]) == ["image", "psnr_y", "ssim_y"]
        pairs = [(read_image(f"restored/{n}.png")[None], read_image(f"gt/set_{n}.png")[None]) for n in NAMES]
        assert [float(row["psnr_y"]) for row in rows] == pytest.approx([psnr_y(*p).item() for p in pairs], abs=1e-8)
        assert [float(row["ssim_y"]) for row in rows] == pytest.approx([ssim_y(*p).item() for p in pairs], abs=1e-8)
        (result,) = summary()["results"]
        assert result["psnr_y"] == pytest.approx(sum(psnr_y(*p).item() for p in pairs) / 3, abs=1e-12)
        out = capsys.readouterr().out
        assert "carry the prefix 'set_'" in out
        assert Path("out/summary.md").read_text(encoding="utf-8") in out

    def test_the_record_says_how(self) -> None:
        run("restored", "gt", "--name", "ours", "--crop-border", "2")
        record = summary()
        assert record["name"] == "ours"
        assert record["images"] == 3
        assert record["protocol"]["border_crop"] == 2
        assert "BT.601" in record["protocol"]["metrics"]["psnr_y"]["definition"]
        assert record["protocol"]["rounding"].endswith("8 bits")
        assert record["versions"].keys() >= {"ctsr-lightning", "torch", "pyiqa", "python"}
        cut = [x[..., 2:-2, 2:-2] for x in (read_image("restored/a_1.png")[None], read_image("gt/set_a_1.png")[None])]
        assert float(table()[0]["psnr_y"]) == pytest.approx(psnr_y(*cut).item(), abs=1e-8)

    def test_weights_and_their_hashes(self) -> None:
        """A metric with a parameter file: found by --weights, named with its hash, and skipped only when asked."""
        import numpy as np

        generator = np.random.default_rng(0)
        half = generator.normal(size=(36, 36))
        Path("params/pyiqa").mkdir(parents=True)
        np.savez(
            "params/pyiqa/niqe_pris_params.npz",
            mu_pris_param=generator.normal(size=(1, 36)),
            cov_pris_param=half @ half.T,
        )
        for name in NAMES:
            write_image(f"big_gt/{name}.png", torch.rand(3, 100, 200))
            write_image(f"big/{name}.png", torch.rand(3, 100, 200))
        run("big", "big_gt", "--metrics", "psnr,niqe", "--weights", "params")
        (file,) = summary()["protocol"]["metrics"]["niqe"]["weights"]
        data = Path("params/pyiqa/niqe_pris_params.npz").read_bytes()
        assert file == {"file": "niqe_pris_params.npz", "sha256": hashlib.sha256(data).hexdigest()}
        assert all(float(row["niqe"]) > 0 for row in table())

    def test_unavailable_metrics(self, capsys: pytest.CaptureFixture[str]) -> None:
        error = failure(capsys, "restored", "gt", "--metrics", "psnr,lpips,musiq")
        for text in ("lpips_alex", "musiq_koniq_ckpt-e95806b9.pth", "TORCH_HOME", "--weights", "--skip-unavailable"):
            assert text in error
        assert not Path("out").exists()
        run("restored", "gt", "--metrics", "psnr,lpips,musiq", "--skip-unavailable")
        assert list(table()[0]) == ["image", "psnr_y"]
        assert summary()["settings"]["skipped_metrics"] == ["lpips_alex", "musiq"]
        assert "Left out, weights not on this machine: lpips_alex, musiq" in capsys.readouterr().out
        assert "none is left" in failure(capsys, "restored", "gt", "--metrics", "musiq", "--skip_unavailable")

    def test_ground_truth_of_a_benchmark_folder(self) -> None:
        for name in NAMES:
            write_image(f"pack/test_LR/{name}.png", read_image(f"lq/{name}.png"))
            shutil.copy(f"gt/set_{name}.png", "pack")
        Path("pack/test_HR").mkdir()
        for path in Path("pack").glob("set_*.png"):
            path.rename(Path("pack/test_HR") / path.name.removeprefix("set_"))
        Path("bench.yaml").write_text(
            "class_path: RealESRGANDataModule\ninit_args: {test_pairs: [{root: pack, count: 3}], num_workers: 0}\n"
        )
        run("restored", "pack")
        first = table()
        run("restored", "--data", "bench.yaml")
        assert table() == first
        assert summary()["benchmark"] == "bench"
        part = f'include: ["*{NAMES[1]}*"], count: 1'  # as configs/data/realsr_nikon.yaml takes half of a benchmark
        Path("part.yaml").write_text(Path("bench.yaml").read_text().replace("count: 3", part))
        run("restored", "--data", "part.yaml")
        assert table() == [row for row in first if NAMES[1] in row["image"]]

    def test_lossy_files_are_mentioned(self, capsys: pytest.CaptureFixture[str]) -> None:
        for name in NAMES:
            write_image(f"jpegs/{name}.jpg", read_image(f"restored/{name}.png"))
        run("jpegs", "gt")
        assert "3 restored files are JPEG" in capsys.readouterr().out

    @pytest.mark.reference
    def test_published_figures_through_the_command(self) -> None:
        names = ["Canon_003_LR4.png", "Canon_040_LR4.png", "Nikon_007_LR4.png", "Nikon_033_LR4.png"]
        for name in names:
            Path("theirs").mkdir(exist_ok=True)
            Path("truth").mkdir(exist_ok=True)
            shutil.copy(SHARED / "reference" / "osediff_realsr" / name, "theirs")
            shutil.copy(SHARED / "data" / "realsr" / "gt" / f"realsr_{name}", "truth")
        run("theirs", "truth", "--metrics", "psnr,ssim,niqe", "--weights", str(SHARED / "params" / "niqe"))
        with (SHARED / "reference" / "osediff_realsr_published_metrics.csv").open() as file:
            published = {row["image"]: row for row in csv.DictReader(file)}
        rows = table()
        assert [row["image"] for row in rows] == names
        for row in rows:
            theirs = published[row["image"]]
            assert float(row["psnr_y"]) == pytest.approx(float(theirs["PSNR"]), abs=1e-5)
            assert float(row["ssim_y"]) == pytest.approx(float(theirs["SSIM"]), abs=1e-5)
            assert float(row["niqe"]) == pytest.approx(float(theirs["NIQE"]), rel=5e-3)


class TestBadInput:
    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["restored"], "Expected a folder of restored images"),
            (["restored", "nowhere"], "'nowhere'"),
            (["restored", "gt", "--metrics", "psnr,magic"], "'magic' is not a metric"),
            (["restored", "gt", "--metrics", ","], "at least one metric"),
            (["restored", "gt", "--seeds", "3"], "--seeds"),
            (["restored", "gt", "--limit", "0"], "--limit of at least 1"),
            (["restored", "gt", "--examples", "2"], "--examples of at least 0, and of a model"),
            (["restored", "gt", "--crop-border", "-1"], "--crop-border"),
            (["restored", "gt", "--crop-border", "40"], "nothing is left"),
            (["restored", "restored"], "two folders"),
            (["restored", "gt", "--gt-prefix", "other_"], "--gt-prefix"),
            (["restored", "gt", "--weights", "no_folder"], "no_folder"),
            (["restored", "--data", "no.yaml"], "Expected a data configuration at 'no.yaml'"),
            (["lq", "--checkpoint", "x.ckpt"], "either two folders"),
        ],
    )
    def test_options(self, words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert message in failure(capsys, *words)

    def test_empty_folder(self, capsys: pytest.CaptureFixture[str]) -> None:
        Path("empty").mkdir()
        assert "Expected images" in failure(capsys, "empty", "gt")

    def test_missing_and_extra_files(self, capsys: pytest.CaptureFixture[str]) -> None:
        Path("restored/b_2.png").unlink()
        error = failure(capsys, "restored", "gt")
        assert "set_b_2.png" in error
        Path("gt/set_c_3.png").unlink()
        Path("gt/set_b_2.png").unlink()
        assert "c_3.png" in failure(capsys, "restored", "gt")

    def test_duplicate_stems(self, capsys: pytest.CaptureFixture[str]) -> None:
        shutil.copy("restored/a_1.png", "restored/a_1.bmp")
        assert "'a_1.bmp' and 'a_1.png'" in failure(capsys, "restored", "gt")

    def test_every_kind_of_bad_file_is_named_before_anything_is_measured(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        data = Path("restored/a_1.png").read_bytes()
        Path("restored/a_1.png").write_bytes(data[: len(data) // 2])
        write_image("restored/b_2.png", torch.rand(3, 46, 64))
        error = failure(capsys, "restored", "gt")
        assert "2 problems" in error
        assert "a_1.png" in error
        assert "has 64x46 pixels, its ground truth 64x48" in error
        assert not Path("out").exists()

    def test_grey_and_transparent_images(self, capsys: pytest.CaptureFixture[str]) -> None:
        Image.open("restored/a_1.png").convert("L").save("restored/a_1.png")
        see_through = Image.open("restored/b_2.png").convert("RGBA")
        see_through.putalpha(128)
        see_through.save("restored/b_2.png")
        error = failure(capsys, "restored", "gt")
        assert "is a grey image, its ground truth 'set_a_1.png' has colours" in error
        assert "transparent pixels" in error

    def test_grey_against_grey_and_opaque_alpha_are_fine(self) -> None:
        run("restored", "gt")
        before = table()
        Image.open("restored/b_2.png").convert("RGBA").save("restored/b_2.png")
        for path in ("restored/a_1.png", "gt/set_a_1.png"):
            Image.open(path).convert("L").save(path)
        run("restored", "gt")
        after = table()
        assert after[1] == before[1]
        assert float(after[0]["psnr_y"]) > 0

    def test_nan_is_named_and_what_was_measured_is_kept(self, tmp_path: Path) -> None:
        from ctsr_lightning.evaluation.setup import save_partial_on_error

        measurements = Measurements({"psnr_y": PSNRY()})
        gt, good = torch.rand(1, 3, 16, 16), torch.rand(1, 3, 16, 16)
        bad = good.clone()
        bad[0, 1, 3, 3] = torch.nan
        method = Method("restored", "restored")
        measurements.add("good", Restoration(method, good), gt)
        with pytest.raises(ValueError, match=r"'bad' .*NaN"), save_partial_on_error(tmp_path, measurements):
            measurements.add("bad", Restoration(method, bad), gt)
        assert [row["image"] for row in table(str(tmp_path / "incomplete_per_image.csv"))] == ["good"]
        assert measurements.images == 1


class TestModels:
    @pytest.mark.slow
    def test_model_teachers_blend_and_bicubic_in_one_table(self, taught: str) -> None:
        run(
            "lq",
            "gt",
            "--checkpoint",
            taught,
            "--device",
            "cpu",
            "--control",
            "0,1",
            "--alphas",
            "0.25",
            "--examples",
            "2",
        )
        assert read_image("out/examples.png").shape[-1] > 6 * 64  # low quality, bicubic, teachers, two t, ground truth
        labels = ["bicubic", "T_f", "T_r", "blend α=0.25", "t=0.00", "t=1.00"]
        results = {result["setting"]: result for result in summary()["results"]}
        assert list(results) == labels
        rows = table()
        assert [row["setting"] for row in rows] == labels * 3
        assert {row["alpha"] for row in rows if row["setting"].startswith("blend")} == {"0.25"}
        teachers = load_teachers(Path(taught))
        gt, lq = read_image("gt/set_a_1.png")[None], read_image("lq/a_1.png")[None]
        faithful, realistic = (Expert(teachers[label], torch.device("cpu"))(lq) for label in ("T_f", "T_r"))
        expected = {
            "T_f": faithful,
            "T_r": realistic,
            "blend α=0.25": 0.25 * faithful + 0.75 * realistic,
            "t=1.00": Restorer.from_pretrained(taught, "cpu")(lq, 1.0),
        }
        for label, image in expected.items():
            (row,) = [row for row in rows if row["setting"] == label and row["image"] == "a_1"]
            assert float(row["psnr_y"]) == pytest.approx(psnr_y(quantize(image), gt).item(), abs=1e-4)
        blend, ends = results["blend α=0.25"]["seconds"], results["T_f"]["seconds"] + results["T_r"]["seconds"]
        assert blend > ends
        assert results["t=1.00"]["seconds"] > results["t=1.00"]["further"] > 0

    @pytest.mark.slow
    def test_colours_are_corrected_for_all_alike(self, taught: str) -> None:
        run("lq", "gt", "--checkpoint", taught, "--device", "cpu", "--control", "1", "--color", "adain")
        assert summary()["settings"]["color"] == "adain"
        gt, lq = read_image("gt/set_a_1.png")[None], read_image("lq/a_1.png")[None]
        reference = upsample(lq, 4)
        images = {
            "T_f": match_adain(Expert(load_teachers(Path(taught))["T_f"], torch.device("cpu"))(lq), reference),
            "t=1.00": match_adain(Restorer.from_pretrained(taught, "cpu")(lq, 1.0), reference),
        }
        for label, image in images.items():
            (row,) = [row for row in table() if row["setting"] == label and row["image"] == "a_1"]
            assert float(row["psnr_y"]) == pytest.approx(psnr_y(quantize(image), gt).item(), abs=1e-4)

    def test_t_acts_in_the_images_space(self, stage2: str) -> None:
        words = ["--control", "0.25", "--metrics", "psnr", "--baselines", "none", "--space", "image"]
        run("lq", "gt", "--checkpoint", stage2, "--device", "cpu", *words)
        assert summary()["settings"]["space"] == "image"
        assert "`space: image`" in Path("out/summary.md").read_text(encoding="utf-8")
        gt, lq = read_image("gt/set_a_1.png")[None], read_image("lq/a_1.png")[None]
        low, high = Restorer.from_pretrained(stage2, "cpu")(lq, [0.0, 1.0])
        (row,) = [row for row in table() if row["image"] == "a_1"]
        assert float(row["psnr_y"]) == pytest.approx(psnr_y(quantize(0.75 * low + 0.25 * high), gt).item(), abs=1e-4)

    def test_settings_that_round_alike_stay_apart(self, taught: str) -> None:
        words = ["--control", "0.251,0.254", "--alphas", "0.251,0.254", "--metrics", "psnr"]
        run("lq", "gt", "--checkpoint", taught, "--device", "cpu", *words)
        labels = [r["setting"] for r in summary()["results"]]
        assert labels[3:] == ["blend α=0.251", "blend α=0.254", "t=0.251", "t=0.254"]

    def test_baselines_can_be_left_out(self, taught: str) -> None:
        run("lq", "gt", "--checkpoint", taught, "--device", "cpu", "--baselines", "none")
        assert [r["setting"] for r in summary()["results"]] == ["t=0.00", "t=0.50", "t=1.00"]

    @pytest.mark.parametrize("words", [["lq", "gt", "--checkpoint", "nano"], ["--data", "pairs.yaml"]])
    def test_the_shipped_model(self, shipped: Path, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        pairs = "{class_path: RealESRGANDataModule, init_args: {test_pairs: [{lq: lq, gt: gt}], num_workers: 0}}"
        Path("pairs.yaml").write_text(pairs)
        run(*words, "--device", "cpu", "--control", "0")
        assert summary()["name"].startswith("nano (shipped with ctsr_lightning")
        assert summary()["settings"]["checkpoint"] == summary()["name"]
        assert [row["setting"] for row in table()[:3]] == ["bicubic", "T_f", "T_r"]
        assert str(shipped) not in Path("out/summary.json").read_text()
        assert "model: nano" in capsys.readouterr().err

    def test_a_checkpoint_without_teachers_says_so(self, stage1: str, capsys: pytest.CaptureFixture[str]) -> None:
        run("lq", "gt", "--checkpoint", stage1, "--device", "cpu")
        assert [r["setting"] for r in summary()["results"]] == ["bicubic", "t=0.00"]
        assert "names no T_f and no T_r" in capsys.readouterr().out

    def test_missing_teacher_weights(self, taught: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        moved = tmp_path / "moved"
        moved.mkdir()
        shutil.copy(taught, moved)
        shutil.copy(Path(taught).with_suffix(".base"), moved)
        words = ["lq", "gt", "--checkpoint", str(moved / "taught.ckpt"), "--device", "cpu"]
        assert "--baselines bicubic" in failure(capsys, *words)
        run(*words, "--baselines", "bicubic")

    def test_published_networks_are_measured_beside_the_model(self, taught: str) -> None:
        for name, state in (("sharp", tiny_experts.rrdb()), ("light", tiny_experts.compact())):
            tiny_experts.saved(Path(f"{name}.pth"), state)
        words = ["--checkpoint", taught, "--device", "cpu", "--control", "0", "--alphas", "0.5"]
        run("lq", "gt", *words, "--expert", "sharp.pth, light.pth")
        labels = ["bicubic", "T_f", "T_r", "sharp (ESRGAN)", "light (RealESRGAN Compact)", "blend α=0.50", "t=0.00"]
        results = {result["setting"]: result for result in summary()["results"]}
        assert list(results) == labels
        assert results["sharp (ESRGAN)"]["kind"] == "expert"
        assert results["sharp (ESRGAN)"]["seconds"] > 0
        gt, lq = read_image("gt/set_b_2.png")[None], read_image("lq/b_2.png")[None]
        for label, state in (("sharp (ESRGAN)", tiny_experts.rrdb()), ("light (RealESRGAN Compact)", None)):
            (row,) = [row for row in table() if row["setting"] == label and row["image"] == "b_2"]
            expected = psnr_y(quantize(tiny_experts.expert_teacher(state).restore(lq)), gt).item()
            assert float(row["psnr_y"]) == pytest.approx(expected, abs=1e-4)
        files = summary()["settings"]["experts"]
        assert [file["file"] for file in files] == ["sharp.pth", "light.pth"]
        assert files[0]["sha256"] == hashlib.sha256(Path("sharp.pth").read_bytes()).hexdigest()

    @pytest.mark.usefixtures("shipped")
    def test_a_published_network_alone_takes_the_shipped_model_beside_it(self) -> None:
        tiny_experts.saved(Path("light.safetensors"))
        run("lq", "gt", "--expert", "light.safetensors", "--device", "cpu", "--baselines", "none", "--control", "0")
        assert [r["setting"] for r in summary()["results"]] == ["light (RealESRGAN Compact)", "t=0.00"]

    def test_published_networks_that_cannot_take_part(self, stage1: str, capsys: pytest.CaptureFixture[str]) -> None:
        words = ["lq", "gt", "--checkpoint", stage1, "--device", "cpu", "--expert"]
        tiny_experts.saved(Path("x2.pth"), tiny_experts.compact(2))
        assert "network for x4 in 'x2.pth', found RealESRGAN Compact for x2" in failure(capsys, *words, "x2.pth")
        for name in ("a/same.pth", "b/same.pth"):
            Path(name).parent.mkdir()
            tiny_experts.saved(Path(name))
        assert "found two of same (RealESRGAN Compact)" in failure(capsys, *words, "a/same.pth,b/same.pth")
        assert "found nothing" in failure(capsys, *words, "nowhere.pth")

    @pytest.mark.slow
    def test_stability_of_a_deterministic_model_is_exactly_zero(
        self, taught: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        run("lq", "gt", "--checkpoint", taught, "--device", "cpu", "--seeds", "3", "--alphas", "0.5")
        results = {result["setting"]: result for result in summary()["results"]}
        for label in ("t=0.00", "t=0.50", "t=1.00", "T_r"):
            assert results[label]["g_std"] == {"psnr_y": 0.0, "ssim_y": 0.0, "grid_energy": 0.0}
            assert results[label]["l_std"] == 0.0
        for label in ("T_f", "blend α=0.50"):  # several steps, each with noise
            assert results[label]["g_std"]["psnr_y"] > 1e-3
            assert results[label]["l_std"] > 1e-3
        assert len(table()) == 3 * 3 * len(results)
        assert "| t=0.00 | 0 | 0 | 0 | 0 |" in capsys.readouterr().out

    def test_stability_of_a_sampled_encoding_is_not_zero(self) -> None:
        from ctsr_lightning.batch import Batch
        from ctsr_lightning.codecs import KLCodec
        from ctsr_lightning.models import OneStepStudent
        from helpers import tiny

        batch = Batch(torch.rand(1, 3, 8, 8), torch.rand(1, 3, 32, 32), ["x"])
        found = {}
        for sampled in (False, True):
            student = OneStepStudent(tiny.unet(), KLCodec(tiny.autoencoder()), timestep=250, sample_latent=sampled)
            measurements = Measurements({"psnr_y": PSNRY()})
            measure_methods(Methods(Restorer(student, "cpu"), [0.0], bicubic=False, seeds=4), [batch], measurements)
            found[sampled] = measurements.summaries()[0].stability
        assert found[False]["l_std"] == found[False]["g_std"]["psnr_y"] == 0.0
        assert found[True]["l_std"] > 0.0
        assert found[True]["g_std"]["psnr_y"] > 0.0
        assert found[True]["runs"] == 4
