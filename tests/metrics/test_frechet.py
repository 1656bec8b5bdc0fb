"""The Fréchet distance against NumPy and SciPy."""

import socket
import time
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from PIL import Image
from torch import Tensor, nn
from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x
from torchmetrics.image.fid import FrechetInceptionDistance

from ctsr_lightning.images import quantize, write_image
from ctsr_lightning.metrics.frechet import (
    CleanInceptionFeatures,
    FeatureNetwork,
    FrechetDistance,
    InceptionFeatureNetwork,
    clean_resize,
)
from ctsr_lightning.metrics.third_party import patched_constructor
from ctsr_lightning.weights.search import MissingWeightsError, weight_search_path


class Colours(FeatureNetwork):
    """Means and deviations of the colour channels."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(3.0))

    @property
    def name(self) -> str:
        return "colours"

    def forward(self, images: Tensor) -> Tensor:
        return self.scale * torch.cat([images.mean(dim=(2, 3)), images.std(dim=(2, 3))], dim=1)


class Projections(FeatureNetwork):
    """More features than images: random projections of the pixels, of very different sizes."""

    def __init__(self, count: int = 64) -> None:
        super().__init__()
        matrix = torch.randn(3 * 8 * 8, count, generator=torch.Generator().manual_seed(3))
        self.matrix = matrix * torch.logspace(1, -3, count)

    @property
    def name(self) -> str:
        return "projections"

    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.adaptive_avg_pool2d(images, 8).flatten(1) @ self.matrix


def images(seed: int, count: int = 20) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 3, 8, 8, generator=generator) ** (1 + seed)


def vectors(network: FeatureNetwork, *sets: Tensor) -> list[np.ndarray]:
    return [network(quantize(i)).detach().double().numpy() for i in sets]


def oracle(x: Tensor, y: Tensor) -> float:
    a, b = vectors(Colours(), x, y)
    c_a, c_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = scipy.linalg.sqrtm(c_a @ c_b).real
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(c_a + c_b - 2 * root))


@pytest.mark.parametrize("sizes", [[20], [3] * 6 + [2], [1] * 20, [1, 12, 2, 5]])
def test_equals_the_oracle_in_any_batching(sizes: list[int]) -> None:
    x, y = images(0), images(1)
    metric = FrechetDistance(Colours())
    for restored, gt in zip(x.split(sizes), y.split(sizes), strict=True):
        metric.update(restored, gt)
    assert metric.compute().dtype == torch.float64
    assert metric.compute().item() == pytest.approx(oracle(x, y), rel=1e-6)


def test_features_accumulate_in_float64() -> None:
    """A mean that dwarfs the variance leaves nothing of it in float32."""
    network = Colours()
    network.scale.data.fill_(1e3)
    x, y = 0.9 + 0.01 * images(0), 0.9 + 0.01 * images(1)
    a, b = vectors(network, x, y)
    c_a, c_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(c_a + c_b - 2 * scipy.linalg.sqrtm(c_a @ c_b).real)
    metric = FrechetDistance(network)
    for i in range(20):
        metric.update(x[i : i + 1], y[i : i + 1])
    assert metric.compute().item() == pytest.approx(expected, rel=1e-6)


def test_fewer_images_than_features() -> None:
    """Then the trace of the root is the nuclear norm of the product of the centred features, which is well posed."""
    x, y = images(0), images(1)
    parts = [
        vectors(Projections(), x[rows], y[rows]) for rows in (slice(13), slice(13, None))
    ]  # float32 batches differ
    a, b = (np.concatenate(side) for side in zip(*parts, strict=True))
    centred_a, centred_b = ((i - i.mean(0)) / np.sqrt(len(i) - 1) for i in (a, b))
    nuclear = np.linalg.norm(centred_a @ centred_b.T, ord="nuc")
    squares = (centred_a**2).sum() + (centred_b**2).sum()
    metric = FrechetDistance(Projections())
    metric.update(x[:13], y[:13])
    metric.update(x[13:], y[13:])
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + squares - 2 * nuclear
    assert metric.compute().item() == pytest.approx(expected, rel=1e-9)


def test_equals_torchmetrics() -> None:
    x, y = images(0), images(1)
    reference = FrechetInceptionDistance(Colours(), normalize=True, input_img_size=(3, 64, 64)).set_dtype(torch.float64)
    reference.update(quantize(y), real=True)
    reference.update(quantize(x), real=False)
    metric = FrechetDistance(Colours())
    metric.update(x, y)
    assert metric.compute().item() == pytest.approx(reference.compute().item(), rel=1e-5)


def test_bad_images_are_refused_before_anything_is_added() -> None:
    metric, x = FrechetDistance(Colours()), images(0, 4)
    bad = x.clone()
    bad[2, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"fid_colours: `restored` is not finite for image \[2\]"):
        metric.update(bad, x)
    with pytest.raises(ValueError, match=r"`gt` is not finite for image \[2\]"):
        metric.update(x, bad)
    assert metric.gt_count == metric.restored_count == 0


def test_name_direction_and_state() -> None:
    network = Colours()
    metric = FrechetDistance(network)
    assert metric.name == "fid_colours"
    assert metric.higher_is_better is False
    assert metric.state_dict() == {}
    assert list(metric.parameters()) == []
    assert metric.clone().features.network is network
    assert metric.weight_files == ()
    assert "colours" in metric.definition


def test_equal_sets_are_at_distance_zero() -> None:
    metric = FrechetDistance(Colours())
    metric.update(images(2), images(2))
    assert metric.compute().item() == pytest.approx(0.0, abs=1e-6)


def test_one_image_has_no_covariance() -> None:
    metric = FrechetDistance(Colours())
    metric.update(images(0, 1), images(1, 1))
    assert metric.compute().isnan()


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("went to the network"))


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize(
    ("network", "name"),
    [
        (InceptionFeatureNetwork, "weights-inception-2015-12-05-6726825d.pth"),
        (CleanInceptionFeatures, "pt_inception-2015-12-05-6726825d.pth"),
    ],
)
class TestMissing:
    def test_inception_is_never_downloaded(self, network: type[FeatureNetwork], name: str) -> None:
        start = time.perf_counter()
        with pytest.raises(MissingWeightsError, match=rf"{name}.*https://.*--weights"):
            network()
        assert time.perf_counter() - start < 0.5

    def test_damaged_files_are_refused(self, network: type[FeatureNetwork], name: str, tmp_path: Path) -> None:
        (tmp_path / name).write_bytes(b"not weights")
        with weight_search_path(tmp_path), pytest.raises(ValueError, match=name):
            network()


@pytest.fixture(scope="module")
def inception_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights, in half precision, of the network that both packages build."""
    from pyiqa.archs import inception

    built: list[nn.Module] = []
    with patched_constructor(inception, "load_pretrained_network", lambda network, _: built.append(network)):
        inception.InceptionV3()
    generator = torch.Generator().manual_seed(0)
    state = {}
    for key, initial in built[0].state_dict().items():
        if initial.dim() == 4:  # keeps the size of what passes through
            state[key] = torch.randn(initial.shape, generator=generator) * (2.0 / initial[0].numel()) ** 0.5
        elif not key.endswith("num_batches_tracked"):  # older files have none
            state[key] = initial
    path = tmp_path_factory.mktemp("weights") / "pt_inception-2015-12-05-6726825d.pth"
    torch.save({key: value.half() for key, value in state.items()}, path)
    return path


@pytest.fixture(scope="module")
def clean(inception_file: Path) -> CleanInceptionFeatures:
    with weight_search_path(inception_file.parent):
        return CleanInceptionFeatures()


def photos(size: tuple[int, int], count: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return quantize(torch.rand(count, 3, *size, generator=generator).round())  # hard edges overshoot


@pytest.mark.parametrize("size", [(512, 512), (128, 96), (299, 299), (37, 640), (300, 298)])
def test_resizing_equals_pillow(size: tuple[int, int]) -> None:
    x = photos(size)
    levels = (x * 255).numpy()
    for image, resized in zip(levels, clean_resize(x), strict=True):
        for channel, found in zip(image, resized, strict=True):
            expected = np.asarray(Image.fromarray(channel).resize((299, 299), resample=Image.Resampling.BICUBIC))
            assert np.abs(expected.clip(0, 255) - found.numpy()).max() < 1e-3


@pytest.mark.slow
def test_clean_features_equal_those_of_pyiqa(clean: CleanInceptionFeatures, tmp_path: Path) -> None:
    from pyiqa.archs.fid_arch import get_folder_features

    folders = {}
    for name, size in (("restored", (120, 130)), ("gt", (310, 400))):
        folders[name] = photos(size, 3) if name == "gt" else images_of(size)
        for i, image in enumerate(folders[name]):
            write_image(tmp_path / name / f"{i}.png", image)
    metric = FrechetDistance(clean)
    with torch.no_grad():
        for name, x in folders.items():
            device = torch.device("cpu")
            path = str(tmp_path / name)
            expected = get_folder_features(path, clean.inception, num_workers=0, device=device, verbose=False)
            assert expected.shape == (3, 2048)
            assert expected.std(axis=0).max() > 1e-3
            np.testing.assert_allclose(clean(x).numpy(), expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
    metric.update(folders["restored"], folders["gt"])
    assert metric.compute().isfinite()
    assert metric.name == "fid_inception_clean"


def images_of(size: tuple[int, int]) -> Tensor:
    return quantize(torch.rand(3, 3, *size, generator=torch.Generator().manual_seed(6)))


def test_clean_features_are_frozen_and_known_by_their_file(
    clean: CleanInceptionFeatures, inception_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    metric = FrechetDistance(clean)
    assert metric.weight_files == clean.weight_files == (inception_file,)
    assert "clean-fid" in metric.definition
    assert not any(p.requires_grad for p in clean.parameters())
    assert not any(module.training for module in clean.modules())
    assert {p.dtype for p in clean.parameters()} == {torch.float32}
    assert capsys.readouterr().out == ""


@pytest.mark.slow
def test_the_two_inceptions_share_a_file_and_differ_in_resizing(
    clean: CleanInceptionFeatures, inception_file: Path
) -> None:
    with weight_search_path(inception_file.parent):
        tensorflow = InceptionFeatureNetwork()
    assert tensorflow.weight_files == (inception_file,)
    at_size, larger = photos((299, 299), 1), photos((400, 360), 1)
    with torch.no_grad():
        scale = clean(at_size).abs().max()
        assert (tensorflow(at_size) - clean(at_size)).abs().max() < 1e-4 * scale
        assert (tensorflow(larger) - clean(larger)).abs().max() > 1e-2 * scale
    expected = interpolate_bilinear_2d_like_tensorflow1x(larger * 255, size=(299, 299), align_corners=False)
    with torch.no_grad():
        same = clean.inception((expected - 128.0) / 128.0)[0].flatten(1)
        assert (tensorflow(larger) - same).abs().max() < 1e-4 * scale
