"""No-reference quality metrics on the networks of the `pyiqa` package.

pyiqa and the files it publishes are licensed for non-commercial use. It is imported only when one of these metrics is
built, after its weight file has been found.
"""

from __future__ import annotations

import importlib
import warnings
import zipfile
from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ctsr_lightning.files import file_hash
from ctsr_lightning.metrics.base import ImageMean
from ctsr_lightning.metrics.third_party import patched_constructor
from ctsr_lightning.networks.frozen import Frozen
from ctsr_lightning.weights.published import CLIP_RN50, MANIQA_PIPAL, MUSIQ_KONIQ, NIQE_MODEL
from ctsr_lightning.weights.reading import load_strictly, read_state_dict
from ctsr_lightning.weights.search import find_weights

_BLOCK = 96  # pixels; Mittal et al. 2013, section II.C
_MANIQA_CROPS = 20  # of 224 pixels per image, pyiqa's default


class _Blind(ImageMean):
    """A mean over images of a value that no ground truth enters; images are measured one by one."""

    needs_reference = False
    smallest = 1
    """Shortest side that can be measured, in pixels."""

    def measure(self, restored: Tensor, gt: Tensor) -> Tensor:  # noqa: ARG002
        """Score of each image, the same in every batch."""
        if min(restored.shape[-2:]) < self.smallest:
            raise ValueError(
                f"Expected images of at least {self.smallest} pixels a side for {type(self).__name__}, found "
                f"{tuple(restored.shape)}. Leave them or the metric out."
            )
        with torch.no_grad():
            return torch.stack([self.score(image[None]).reshape(()) for image in restored])

    @abstractmethod
    def score(self, image: Tensor) -> Tensor:
        """Score of one rounded float32 image in [0, 1], shape (1, 3, H, W)."""


class NIQE(_Blind):
    """Mean over images of NIQE (Mittal et al. 2013), the distance from the statistics of pristine photographs.

    Y of YIQ is rounded to integers as in the published tables, but from exact products: in float32 the rounding of
    ties depends on the machine, and NIQE with it by up to half a percent.

    Args:
        weights: The model of pristine images, pyiqa's `niqe_modelparameters.mat` or the same numbers as
            `niqe_pris_params.npz`; null searches `weight_search_path` and torch.hub's folder for either.

    Raises:
        MissingWeightsError: If neither file is found.
        ValueError: If the file does not hold the model.
    """

    higher_is_better = False
    smallest = _BLOCK
    definition = "NIQE (Mittal et al. 2013) by pyiqa, Y of YIQ rounded to integers (ties to even), 96-pixel blocks"

    def __init__(self, weights: str | Path | None = None) -> None:
        super().__init__()
        path = find_weights(weights or NIQE_MODEL)
        self.mean, self.covariance = _pristine(path)
        self.distance: Callable[..., Tensor] = _pyiqa("niqe_arch").niqe
        self.weight_files = (path,)

    def score(self, image: Tensor) -> Tensor:
        """NIQE of one image."""
        weights = image.new_tensor([299.0, 587.0, 114.0], dtype=torch.float64).view(3, 1, 1)  # Y of YIQ, thousandths
        y = ((image.double() * 255.0).round() * weights).sum(dim=1, keepdim=True).div(1000.0).round()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # a flat image has no features; the caller's error says so
            try:
                return self.distance(y, self.mean.to(y), self.covariance.to(y))
            except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
                return y.new_tensor(torch.nan)


class _NetworkScore(_Blind):
    """Score of a network, which is shared by copies and absent from state dicts."""

    higher_is_better = True

    def __init__(self, network: nn.Module, path: Path) -> None:
        super().__init__()
        self.network = Frozen(network)
        self.weight_files = (path,)

    def score(self, image: Tensor) -> Tensor:
        """Score of one image."""
        score: Tensor = self.network(image)
        return score


class MUSIQ(_NetworkScore):
    """Mean over images of MUSIQ (Ke et al. 2021) trained on KonIQ-10k, about 0 to 100.

    Args:
        weights: pyiqa's `musiq_koniq_ckpt-e95806b9.pth`; null looks for it.

    Raises:
        MissingWeightsError: If the file is not found.
        ValueError: If it is damaged or that of another network.
    """

    definition = "MUSIQ (Ke et al. 2021) by pyiqa, trained on KonIQ-10k, scales 224, 384 and the image's own"

    def __init__(self, weights: str | Path | None = None) -> None:
        path = find_weights(weights or MUSIQ_KONIQ)
        state = read_state_dict(path)
        arch = _pyiqa("musiq_arch")
        with patched_constructor():
            network = arch.MUSIQ(pretrained=False)
        load_strictly(network, state, path)
        super().__init__(network, path)


class MANIQA(_NetworkScore):
    """Mean over images of MANIQA (Yang et al. 2022) trained on PIPAL, about 0 to 1.

    Args:
        weights: pyiqa's `MANIQA_PIPAL-ae6d356b.pth`; null looks for it.

    Raises:
        MissingWeightsError: If the file is not found.
        ValueError: If it is damaged or that of another network.
    """

    definition = (
        f"MANIQA (Yang et al. 2022) by pyiqa, trained on PIPAL, mean of {_MANIQA_CROPS} uniform 224-pixel crops"
    )

    def __init__(self, weights: str | Path | None = None) -> None:
        path = find_weights(weights or MANIQA_PIPAL)
        state = read_state_dict(path)
        arch = _pyiqa("maniqa_arch")
        create = arch.timm.create_model
        untrained = SimpleNamespace(create_model=lambda name, **_: create(name, pretrained=False))
        with patched_constructor(
            arch, "timm", untrained
        ):  # its constructor would download a ViT that the file holds anyway
            network = arch.MANIQA(pretrained=False, test_sample=_MANIQA_CROPS)
        load_strictly(network, state, path)
        super().__init__(network, path)


class CLIPIQA(_NetworkScore):
    """Mean over images of CLIP-IQA (Wang et al. 2023) with CLIP's ResNet-50, 0 to 1.

    Args:
        weights: OpenAI's `RN50.pt`, or its state dict in a file that holds tensors only; null looks for it.

    Raises:
        MissingWeightsError: If the file is not found.
        ValueError: If it is damaged, or an archive of code that is not OpenAI's.
        ImportError: If `clip` cannot be imported; the message says what to install.
    """

    smallest = 32  # the network halves five times
    definition = "CLIP-IQA (Wang et al. 2023) by pyiqa, CLIP ResNet-50, five antonym prompts, no position embedding"

    def __init__(self, weights: str | Path | None = None) -> None:
        path = find_weights(weights or CLIP_RN50)
        state = _clip_state(path)
        arch, clip = _pyiqa("clipiqa_arch"), _pyiqa("clip_model")
        with patched_constructor():
            try:
                model = clip.build_model(state).float()
            except (KeyError, RuntimeError, AssertionError, ZeroDivisionError) as error:
                raise ValueError(f"Expected CLIP's ResNet-50 in '{path}', found another network ({error}).") from error
        with patched_constructor(arch, "load", lambda *_: model):
            network = arch.CLIPIQA()
        super().__init__(network, path)


def _pyiqa(module: str) -> Any:
    """Import a module of pyiqa's networks."""
    try:
        with patched_constructor():
            return importlib.import_module(f"pyiqa.archs.{module}")
    except ImportError as error:
        remedy = (
            "its dependency openai-clip needs pkg_resources, which setuptools 81 dropped: `pip install 'setuptools<81'`"
            if error.name == "pkg_resources"
            else "install it: `pip install pyiqa`"
        )
        raise ImportError(
            f"This metric needs the package pyiqa, which cannot be imported ({error}); {remedy}."
        ) from error


def _pristine(path: Path) -> tuple[Tensor, Tensor]:
    """Mean, shape (1, 36), and covariance, shape (1, 36, 36), of NIQE's features over pristine images, float64."""
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                mean, covariance = arrays["mu_pris_param"], arrays["cov_pris_param"]
        else:
            from scipy.io import loadmat

            arrays = loadmat(path, variable_names=["mu_prisparam", "cov_prisparam"])
            mean, covariance = arrays["mu_prisparam"], arrays["cov_prisparam"]
        model = torch.as_tensor(mean.astype(np.float64)), torch.as_tensor(covariance.astype(np.float64))
        return model[0].reshape(1, 36), model[1].reshape(1, 36, 36)
    except Exception as error:  # each reader raises many kinds, depending on where the file breaks
        raise ValueError(
            f"Expected NIQE's mean of 36 features and their covariance in '{path}', but: "
            f"{str(error) or type(error).__name__}. Fetch the file again."
        ) from error


def _clip_state(path: Path) -> dict[str, Tensor]:
    """Tensors of a CLIP file: OpenAI's own TorchScript archive, or any file of tensors only."""
    if not _is_torchscript(path):
        return read_state_dict(path)
    if file_hash(path) != CLIP_RN50.sha256:
        raise ValueError(
            f"'{path}' is a TorchScript archive, which can hold code, and not the published one (SHA-256 "
            f"{CLIP_RN50.sha256}). It was not opened. Fetch {CLIP_RN50.url} again."
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is on its way out
        state: dict[str, Tensor] = dict(torch.jit.load(path, map_location="cpu").state_dict())
    return state


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.rsplit("/", maxsplit=1)[-1] == "constants.pkl" for name in archive.namelist())
