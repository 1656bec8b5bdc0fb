"""Photographs that come with scikit-image: the built-in sample set, read offline."""

from __future__ import annotations

import importlib.util
from pathlib import Path

# Sizes in pixels from 512 to 741 on the long side; grey photos count as three equal channels.
TRAIN_SAMPLES = (
    "astronaut.png",
    "brick.png",
    "camera.png",
    "grass.png",
    "gravel.png",
    "motorcycle_left.png",
    "motorcycle_right.png",
    "rocket.jpg",
)
VAL_SAMPLES = ("chelsea.png", "coffee.png")


def train_samples() -> list[Path]:
    """List the sample photos to train on: eight, half of them grey textures and scenes."""
    return _files(TRAIN_SAMPLES)


def val_samples() -> list[Path]:
    """List the held-out sample photos, which are never trained on: a cat and a cup of coffee."""
    return _files(VAL_SAMPLES)


def _files(names: tuple[str, ...]) -> list[Path]:
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
