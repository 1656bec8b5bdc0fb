"""Photographs that come with scikit-image, for trainings that name none."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Final

TRAIN_SAMPLES: Final = (
    "astronaut.png", "brick.png", "camera.png", "grass.png", "gravel.png", "motorcycle_left.png",
    "motorcycle_right.png", "rocket.jpg",
)  # fmt: skip
"""Photographs of scikit-image to train on, 512 to 741 pixels on the long side; grey ones get three equal channels."""
VAL_SAMPLES: Final = ("chelsea.png", "coffee.png")
"""Photographs of scikit-image that are held out."""


def train_samples() -> list[Path]:
    """List the sample photos to train on: eight, half of them grey textures and scenes."""
    return _samples(TRAIN_SAMPLES)


def val_samples() -> list[Path]:
    """List the held-out sample photos, which are never trained on: a cat and a cup of coffee."""
    return _samples(VAL_SAMPLES)


def _samples(names: tuple[str, ...]) -> list[Path]:
    # The package is only located, not imported: its files are all we need.
    spec = importlib.util.find_spec("skimage")
    if spec is None or spec.origin is None:
        raise FileNotFoundError(
            "Expected the sample photos of scikit-image, which is not installed. "
            'Run `pip install "ctsr-lightning[demo]"`, or name a folder of your own photos.'
        )
    folder = Path(spec.origin).parent / "data"
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"Expected {', '.join(missing)} in '{folder}', found nothing. This scikit-image comes without them: "
            'run `pip install --force-reinstall "ctsr-lightning[demo]"`, or name a folder of your own photos.'
        )
    return [folder / name for name in names]
