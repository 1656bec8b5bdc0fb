"""No-reference metrics against pyiqa's own pipeline, on generated weights in the published formats."""

from __future__ import annotations

import copy
import hashlib
import socket
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.io import savemat
from torch import Tensor, nn

from ctsr_lightning.images import quantize
from ctsr_lightning.metrics import quality
from ctsr_lightning.metrics.base import ImageMean
from ctsr_lightning.metrics.quality import CLIPIQA, MANIQA, MUSIQ, NIQE
from ctsr_lightning.weights.published import CLIP_RN50
from ctsr_lightning.weights.search import MissingWeightsError, weight_search_path

FILES = {
    NIQE: "niqe_modelparameters.mat",
    MUSIQ: "musiq_koniq_ckpt-e95806b9.pth",
    MANIQA: "MANIQA_PIPAL-ae6d356b.pth",
    CLIPIQA: "RN50.pt",
}


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("went to the network"))


def images(count: int = 2, size: tuple[int, int] = (100, 204), seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, size[0] // 4 + 1, size[1] // 4 + 1, generator=generator)
    smooth = nn.functional.interpolate(coarse, size=size, mode="bicubic")
    return (smooth + 0.1 * torch.randn(smooth.shape, generator=generator)).clamp(0, 1)


def halved(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.half() if value.is_floating_point() else value for key, value in state.items()}


def model_of_pristine_images() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    root = random.normal(size=(36, 36)) * 0.1
    return random.uniform(0.1, 3.0, size=(1, 36)), root @ root.T + 0.01 * np.eye(36)


def niqe_file(path: Path) -> Path:
    mean, covariance = model_of_pristine_images()
    if path.suffix == ".npz":
        np.savez(path, mu_pris_param=mean, cov_pris_param=covariance, gaussian_window=np.zeros((7, 7)))
    else:
        savemat(path, {"mu_prisparam": mean, "cov_prisparam": covariance})
    return path


def musiq_file(path: Path) -> Path:
    from pyiqa.archs.musiq_arch import MUSIQ as Network

    torch.save(halved(Network(pretrained=False).state_dict()), path)
    return path


def tiny_clip() -> nn.Module:
    from pyiqa.archs.clip_model import CLIP

    torch.manual_seed(0)
    model = CLIP(32, 224, (1, 1, 1, 1), 4, None, 77, 49408, 64, 1, 1)
    for parameter in model.parameters():
        if parameter.dim() == 1:  # some are zero, which would hide the image
            parameter.data.uniform_(0.5, 1.5)
    return model.half().float().eval()


def clip_file(path: Path) -> Path:
    extra = {"input_resolution": 224, "context_length": 77, "vocab_size": 49408}
    torch.save(halved(tiny_clip().state_dict()) | {key: torch.tensor(value) for key, value in extra.items()}, path)
    return path


GENERATORS: dict[type[ImageMean], Callable[[Path], Path]] = {NIQE: niqe_file, MUSIQ: musiq_file, CLIPIQA: clip_file}


@pytest.fixture(scope="module", params=GENERATORS, ids=lambda kind: kind.__name__)
def metric(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ImageMean:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / FILES[request.param]
    return request.param(GENERATORS[request.param](path))


class TestEveryMetric:
    @pytest.mark.slow
    def test_batched_equals_unbatched_to_the_last_bit(self, metric: ImageMean) -> None:
        x = images(3)
        values = metric.values(x)
        assert values.dtype == torch.float64
        assert values.shape == (3,)
        assert len(set(values.tolist())) == 3
        assert [metric.values(image[None]).item() for image in x] == values.tolist()

    @pytest.mark.slow
    def test_is_a_mean_that_needs_no_ground_truth(self, metric: ImageMean) -> None:
        metric = metric.clone()
        x = images(3)
        metric.update(x[:2])
        metric.update(x[2:], images(1, seed=1))
        assert metric.compute().item() == pytest.approx(metric.values(x).mean().item(), abs=1e-12)
        assert not metric.needs_reference
        assert metric.higher_is_better is not isinstance(metric, NIQE)
        assert metric.state_dict() == {}
        assert list(metric.parameters()) == []
        assert metric.definition
        assert [path.name for path in metric.weight_files] == [FILES[type(metric)]]

    def test_images_are_rounded_as_in_files(self, metric: ImageMean) -> None:
        x = images(1)
        assert metric.values(x).item() == metric.values(quantize(x)).item()

    def test_grey_images_have_values(self, metric: ImageMean) -> None:
        assert metric.values(images(1)[:, :1].repeat(1, 3, 1, 1)).isfinite().all()

    def test_nan_and_infinity_are_refused(self, metric: ImageMean) -> None:
        x = images(3)
        x[1, 0, 5, 5], x[2, 2, 0, 0] = torch.nan, -torch.inf
        with pytest.raises(ValueError, match=r"`restored` is not finite for image \[1, 2\]"):
            metric.update(x)
        with pytest.raises(ValueError, match=r"`gt` is not finite for image \[1, 2\]"):
            metric.update(images(3), x)


@pytest.mark.parametrize("kind", FILES, ids=lambda kind: kind.__name__)
class TestFiles:
    def test_a_missing_file_is_named_at_once(
        self, kind: type[ImageMean], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(
            quality, "_pyiqa", lambda _: pytest.fail("imported pyiqa, which takes seconds, for nothing")
        )
        start = time.perf_counter()
        with pytest.raises(MissingWeightsError) as error:
            kind()
        assert time.perf_counter() - start < 0.5
        for expected in (FILES[kind], "https://", "--weights FOLDER", str(tmp_path / "torch" / "hub")):
            assert expected in str(error.value)

    def test_a_damaged_file_is_named(self, kind: type[ImageMean], tmp_path: Path) -> None:
        (tmp_path / FILES[kind]).write_bytes(b"not weights" * 100)
        with weight_search_path(tmp_path), pytest.raises(ValueError, match=FILES[kind]):
            kind()

    @pytest.mark.slow
    def test_weights_of_another_network_are_refused(self, kind: type[ImageMean], tmp_path: Path) -> None:
        if kind is NIQE:
            savemat(tmp_path / FILES[kind], {"mu_prisparam": np.ones((1, 35)), "cov_prisparam": np.eye(35)})
        else:
            torch.save(nn.Linear(2, 2).state_dict(), tmp_path / FILES[kind])
        with weight_search_path(tmp_path), pytest.raises(ValueError, match=FILES[kind]):
            kind()


class TestNIQE:
    @pytest.mark.parametrize("suffix", [".mat", ".npz"])
    def test_equals_pyiqa_up_to_ties(self, tmp_path: Path, suffix: str) -> None:
        from pyiqa.archs.niqe_arch import NIQE as Reference

        reference = Reference(pretrained_model_path=str(niqe_file(tmp_path / "model.mat")))
        x = quantize(images(2, (200, 300)))
        expected = torch.stack([reference(image[None]) for image in x])  # in batches it fails
        found = NIQE(niqe_file(tmp_path / f"model{suffix}")).values(x)
        assert found.tolist() == pytest.approx(expected.tolist(), rel=5e-3)

    def test_luma_is_rounded_from_exact_products(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        metric = NIQE(niqe_file(tmp_path / "model.mat"))
        seen: list[Tensor] = []
        monkeypatch.setattr(metric, "distance", lambda y, *_: (seen.append(y), y.mean())[1])
        levels = torch.tensor([[1, 2, 3], [0, 0, 250], [250, 0, 0], [0, 50, 50], [255, 255, 255]])
        metric.values((levels / 255.0).view(5, 3, 1, 1).expand(5, 3, 96, 96))
        # 1.815, 28.5 to even, 74.75, 35.05
        assert [y.unique().tolist() for y in seen] == [[2.0], [28.0], [75.0], [35.0], [255.0]]

    def test_small_and_flat_images_are_refused(self, tmp_path: Path) -> None:
        metric = NIQE(niqe_file(tmp_path / "model.mat"))
        with pytest.raises(ValueError, match=r"at least 96 pixels a side for NIQE, found \(2, 3, 95, 120\)"):
            metric.update(images(2, (95, 120)))
        assert metric.values(images(1, (96, 96))).isfinite().all()
        x = images(2, (100, 100))
        x[1] = 0.5
        with pytest.raises(ValueError, match=r"NIQE is not finite for image \[1\].*flat"):
            metric.update(x)

    def test_pickled_arrays_are_refused(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "m.npz", mu_pris_param=np.array([{}], dtype=object), cov_pris_param=np.eye(36))
        with pytest.raises(ValueError, match=r"m\.npz.*allow_pickle"):
            NIQE(tmp_path / "m.npz")


class TestMUSIQ:
    @pytest.mark.slow
    def test_equals_pyiqa(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        from pyiqa.archs.musiq_arch import MUSIQ as Reference

        reference = Reference(pretrained=False).eval()
        path = musiq_file(tmp_path / "weights.pth")
        reference.load_state_dict(torch.load(path, weights_only=True))
        x = quantize(images(2, (70, 130)))
        with torch.no_grad():
            expected = reference(x).flatten()
        before = torch.get_rng_state()
        metric = MUSIQ(path)
        assert torch.equal(before, torch.get_rng_state())
        assert metric.values(x).tolist() == pytest.approx(expected.tolist(), rel=1e-5)
        assert metric.values(images(1, (9, 5))).isfinite().all()
        assert metric.clone().network.network is metric.network.network
        assert {p.dtype for p in metric.network.network.parameters()} == {torch.float32}
        assert capsys.readouterr().out == ""


class TestCLIPIQA:
    def test_equals_pyiqa(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from pyiqa.archs import clipiqa_arch

        monkeypatch.setattr(clipiqa_arch, "load", lambda *_: tiny_clip())
        reference = clipiqa_arch.CLIPIQA()
        x = quantize(images(2, (64, 90)))
        with torch.no_grad():
            expected = reference(x).flatten()
        found = CLIPIQA(clip_file(tmp_path / "weights.pt")).values(x)
        assert found.tolist() == pytest.approx(expected.tolist(), abs=1e-5)

    def test_archives_of_code_are_opened_only_if_published(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "RN50.pt"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            traced = torch.jit.trace(tiny_clip(), (torch.rand(1, 3, 224, 224), torch.ones(1, 77, dtype=torch.long)))
            torch.jit.save(traced, path)
        opened = torch.jit.load
        monkeypatch.setattr(torch.jit, "load", lambda *_, **__: pytest.fail("opened"))
        with pytest.raises(ValueError, match=r"RN50\.pt.*TorchScript.*not opened"):
            CLIPIQA(path)
        monkeypatch.setattr(torch.jit, "load", opened)
        ours = replace(CLIP_RN50, sha256=hashlib.sha256(path.read_bytes()).hexdigest())
        monkeypatch.setattr(quality, "CLIP_RN50", ours)
        x = images(1, (64, 64))
        plain = CLIPIQA(clip_file(tmp_path / "plain.pt"))
        assert CLIPIQA(path).values(x).item() == pytest.approx(plain.values(x).item(), abs=1e-6)

    def test_small_images_are_refused(self, tmp_path: Path) -> None:
        metric = CLIPIQA(clip_file(tmp_path / "weights.pt"))
        assert metric.values(images(1, (32, 32))).isfinite().all()
        with pytest.raises(ValueError, match="at least 32 pixels a side for CLIPIQA"):
            metric.values(images(1, (31, 40)))

    def test_missing_pkg_resources_is_explained(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in [name for name in sys.modules if name.split(".")[0] == "clip"]:
            monkeypatch.delitem(sys.modules, name)
        for name in ("clip_imports", "clipiqa_arch"):
            monkeypatch.delitem(sys.modules, f"pyiqa.archs.{name}", raising=False)
        monkeypatch.setitem(sys.modules, "pkg_resources", None)
        with pytest.raises(ImportError, match="pip install 'setuptools<81'"):
            CLIPIQA(clip_file(tmp_path / "weights.pt"))


@pytest.mark.slow
def test_maniqa_equals_pyiqa(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import timm
    from pyiqa.archs import maniqa_arch

    create = timm.create_model
    with monkeypatch.context() as patch:
        patch.setattr(timm, "create_model", lambda name, **_: create(name, pretrained=False))
        reference = maniqa_arch.MANIQA(pretrained=False, test_sample=1).eval()
    path = tmp_path / FILES[MANIQA]
    torch.save(halved(reference.state_dict()), path)
    reference.load_state_dict(halved(reference.state_dict()))
    metric = MANIQA(path)
    assert maniqa_arch.timm is timm
    assert metric.network.network.test_sample == 20
    metric.network.network.test_sample = 1
    x = quantize(images(1, (100, 120)))
    with torch.no_grad():
        assert metric.values(x).item() == pytest.approx(reference(x).item(), rel=1e-5)
    assert metric.higher_is_better
    assert not metric.needs_reference
    assert metric.weight_files == (path,)
    assert copy.deepcopy(metric).network.network is metric.network.network
