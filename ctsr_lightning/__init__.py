"""Controllable fidelity-realness trade-off super-resolution (CTSR) with PyTorch Lightning.

    import ctsr_lightning as ctsr

    model = ctsr.Restorer.from_pretrained()
    realistic, faithful = model(ctsr.read_image("photo.jpg"), t=[0, 1])

The names below are the public interface, imported when they are used; what is not among them may change.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ctsr_lightning.batch import Batch
    from ctsr_lightning.data.datamodule import RealESRGANDataModule
    from ctsr_lightning.evaluation.evaluate import evaluate_folder, evaluate_model
    from ctsr_lightning.evaluation.report import Report
    from ctsr_lightning.images import read_image, write_image
    from ctsr_lightning.inference.loading import load_teachers
    from ctsr_lightning.inference.restorer import Restorer
    from ctsr_lightning.inference.settings import OutputSize
    from ctsr_lightning.inference.trajectory import Trajectory
    from ctsr_lightning.inference.trust import trusting
    from ctsr_lightning.training import fit

__version__ = "0.1.0"

__all__ = (
    "Batch",
    "OutputSize",
    "RealESRGANDataModule",
    "Report",
    "Restorer",
    "Trajectory",
    "evaluate_folder",
    "evaluate_model",
    "fit",
    "load_teachers",
    "read_image",
    "trusting",
    "write_image",
)

_HOMES = {
    "Batch": "batch",
    "OutputSize": "inference.settings",
    "RealESRGANDataModule": "data.datamodule",
    "Report": "evaluation.report",
    "Restorer": "inference.restorer",
    "Trajectory": "inference.trajectory",
    "evaluate_folder": "evaluation.evaluate",
    "evaluate_model": "evaluation.evaluate",
    "fit": "training",
    "load_teachers": "inference.loading",
    "read_image": "images",
    "trusting": "inference.trust",
    "write_image": "images",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562), so that `import ctsr_lightning` stays cheap."""
    if name not in _HOMES:
        raise AttributeError(f"module 'ctsr_lightning' has no attribute '{name}'")
    return getattr(import_module(f"ctsr_lightning.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
