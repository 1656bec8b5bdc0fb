"""The metrics that restored images are judged by."""

from __future__ import annotations

from collections.abc import Mapping

from torchmetrics import Metric, MetricCollection

from ctsr_lightning.metrics.distortion import PSNRY, SSIMY
from ctsr_lightning.metrics.frechet import FeatureNetwork, FrechetDistance
from ctsr_lightning.metrics.perceptual import PerceptualDistance, PerceptualMetric


def restoration_metrics(
    metrics: Mapping[str, Metric] | None = None,
    perceptual: PerceptualDistance | None = None,
    fid: FeatureNetwork | None = None,
) -> MetricCollection:
    """Metrics over pairs of restored images and ground truth, each updated as `update(restored, gt)`.

    Args:
        metrics: Metrics by name, in place of `psnr_y` and `ssim_y`.
        perceptual: A perceptual distance to add, under its own name.
        fid: A feature network to add a Fréchet distance over, as `fid_` and the network's name.

    Raises:
        ValueError: If two metrics have one name, or there is none.
    """
    chosen: dict[str, Metric | MetricCollection] = (
        dict(metrics) if metrics is not None else {"psnr_y": PSNRY(), "ssim_y": SSIMY()}
    )
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
        raise ValueError("Expected at least one metric, found none. Leave `metrics` out for PSNR-Y and SSIM-Y.")
    # Compute groups are found from the first update, so a process without images would synchronise other states.
    return MetricCollection(chosen, compute_groups=False)


def higher_is_better(metrics: MetricCollection) -> dict[str, bool | None]:
    """Direction of each metric: True where larger is better, None where the metric does not say."""
    return {str(name): metric.higher_is_better for name, metric in metrics.items()}
