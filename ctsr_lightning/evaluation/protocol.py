"""How figures were taken: definitions and weights of metrics, versions of packages."""

from __future__ import annotations

import platform
from importlib.metadata import version
from typing import Any

from ctsr_lightning.evaluation.measurements import Measurements
from ctsr_lightning.files import file_hash
from ctsr_lightning.metrics.grid import GridEnergy


def protocol(measurements: Measurements) -> dict[str, Any]:
    """How the numbers were taken: what a reader has to know before setting them beside others.

    Args:
        measurements: The measurements.
    """
    metrics = {}
    for name, metric in measurements.metrics.items():
        files = [{"file": path.name, "sha256": file_hash(path)} for path in getattr(metric, "weight_files", ())]
        metrics[name] = {
            "definition": getattr(metric, "definition", ""),
            "higher_is_better": measurements.higher_is_better[name],
            **({"ideal": metric.ideal} if isinstance(metric, GridEnergy) else {}),
            "weights": files,
        }
    return {
        "colour_space": "RGB files; psnr_y and ssim_y on Y of BT.601 YCbCr in studio swing, psnr_rgb on RGB",
        "rounding": "restored images and ground truth rounded to 8 bits",
        "border_crop": measurements.border,
        "reduction": "mean over images, each counted once",
        "metrics": metrics,
    }


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    packages = (
        "ctsr-lightning", "torch", "torchvision", "torchmetrics", "diffusers", "lpips", "pyiqa", "numpy", "scipy",
        "pillow",
    )  # fmt: skip
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}
