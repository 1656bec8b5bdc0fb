"""Metrics of restored images by name, and as a collection."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from torchmetrics import Metric

from ctsr_lightning.metrics.base import PerceptualDistance
from ctsr_lightning.metrics.distortion import PSNRRGB, PSNRY, SSIMY, PSNRRGBGTMean
from ctsr_lightning.metrics.dists import DISTS
from ctsr_lightning.metrics.frechet import (
    CleanInceptionFeatures,
    FeatureNetwork,
    FrechetDistance,
    InceptionFeatureNetwork,
)
from ctsr_lightning.metrics.grid import GridEnergy
from ctsr_lightning.metrics.lattice import Lattice
from ctsr_lightning.metrics.perceptual import LPIPS, PerceptualMetric
from ctsr_lightning.metrics.quality import CLIPIQA, MANIQA, MUSIQ, NIQE
from ctsr_lightning.metrics.texture import TextureDistance

NAMED: Final[dict[str, Callable[[], Metric]]] = {
    "psnr_y": PSNRY,
    "ssim_y": SSIMY,
    "psnr_rgb": PSNRRGB,
    "psnr_rgb_gtmean": PSNRRGBGTMean,
    "lpips_alex": lambda: PerceptualMetric(LPIPS("alex")),
    "lpips_vgg": lambda: PerceptualMetric(LPIPS("vgg")),
    "lpips_squeeze": lambda: PerceptualMetric(LPIPS("squeeze")),
    "dists": lambda: PerceptualMetric(DISTS()),
    "niqe": NIQE,
    "musiq": MUSIQ,
    "maniqa_pipal": MANIQA,
    "clipiqa": CLIPIQA,
    "fid_inception_clean": lambda: FrechetDistance(CleanInceptionFeatures()),
    "fid_inception": lambda: FrechetDistance(InceptionFeatureNetwork()),
    "texture_distance": lambda: PerceptualMetric(TextureDistance()),
    "grid_energy": GridEnergy,
    "lattice_4": Lattice,
    "lattice_8": lambda: Lattice(8),
}
"""The metrics that commands know by name; results carry these names."""

SHORT: Final = {
    "psnr": "psnr_y",
    "ssim": "ssim_y",
    "lpips": "lpips_alex",  # what the field's tables call LPIPS
    "maniqa": "maniqa_pipal",
    "fid": "fid_inception_clean",
}
"""Short names."""

PUBLISHED: Final = (
    "psnr_y",
    "ssim_y",
    "lpips_alex",
    "dists",
    "fid_inception_clean",
    "niqe",
    "musiq",
    "maniqa_pipal",
    "clipiqa",
)
"""The columns of the field's tables; `all` on the command line."""


def metric_names(text: str | Sequence[str]) -> list[str]:
    """Full names of the metrics that a list of names asks for, each once.

    Args:
        text: Full or short names with commas or spaces between them, or a list of them; `all` stands for `PUBLISHED`.

    Raises:
        ValueError: If a name is not known, or there is none.
    """
    words = text.replace(",", " ").split() if isinstance(text, str) else list(text)
    names: list[str] = []
    for word in words:
        plain = word.lower().replace("-", "_")
        for name in PUBLISHED if plain == "all" else (SHORT.get(plain, plain),):
            if name not in NAMED:
                known = ", ".join([*(f"{full} ({short})" for short, full in SHORT.items()), *_without_short_name()])
                raise ValueError(f"'{word}' is not a metric. Expected some of {known}, or all.")
            names.append(name)
    if not names:
        raise ValueError("Expected at least one metric, such as psnr,ssim,niqe; found none.")
    return list(dict.fromkeys(names))


def _without_short_name() -> list[str]:
    return [name for name in NAMED if name not in SHORT.values()]


def named_metrics(names: Sequence[str]) -> tuple[dict[str, Metric], dict[str, FileNotFoundError]]:
    """Metrics by full name, and those that cannot be had with the reason: their weights are not on this machine.

    Args:
        names: Full names.
    """
    results = {name: _built(name) for name in names}
    built = {name: metric for name, metric in results.items() if isinstance(metric, Metric)}
    missing = {name: error for name, error in results.items() if isinstance(error, FileNotFoundError)}
    return built, missing


def _built(name: str) -> Metric | FileNotFoundError:
    try:
        return NAMED[name]()
    except FileNotFoundError as error:
        return error


def restoration_metrics(
    metrics: Mapping[str, Metric | None] | None = None,
    perceptual: PerceptualDistance | None = None,
    fid: FeatureNetwork | None = None,
) -> dict[str, Metric]:
    """Metrics over pairs of restored images and ground truth by name, each updated as `update(restored, gt)`.

    Args:
        metrics: Metrics by name, beside `psnr_y` and `ssim_y`, or in their place under these names; None drops one.
        perceptual: A perceptual distance to add, under its own name.
        fid: A feature network to add a Fréchet distance over, as `fid_` and the network's name.

    Raises:
        ValueError: If two metrics have one name, or there is none.
    """
    own: dict[str, Metric | None] = {"psnr_y": PSNRY(), "ssim_y": SSIMY(), **(metrics or {})}
    chosen = {name: metric for name, metric in own.items() if metric is not None}
    added: list[tuple[str, Metric]] = []
    if perceptual is not None:
        added.append((perceptual.name, PerceptualMetric(perceptual)))
    if fid is not None:
        distance = FrechetDistance(fid)
        added.append((distance.name, distance))
    for name, metric in added:
        if name in chosen:
            raise ValueError(f"Two metrics are called '{name}': rename the one given in `metrics`.")
        chosen[name] = metric
    if not chosen:
        raise ValueError(
            "Expected at least one metric, found none. PSNR-Y and SSIM-Y are measured unless they are null."
        )
    return chosen
