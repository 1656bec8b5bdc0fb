"""A search over sizes, modes, formats and options of `ctsr upscale` for anything that is not a result or a message."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from ctsr_lightning.commands.upscale import upscale

pytestmark = pytest.mark.slow

CHANNELS = {"1": 1, "L": 1, "P": 1, "LA": 2, "PA": 2, "RGB": 3, "YCbCr": 3, "LAB": 3, "RGBA": 4, "CMYK": 4, "I;16": 1}
FORMATS = {
    "png": {"1", "L", "P", "LA", "RGB", "RGBA", "I;16"},
    "jpg": {"L", "RGB", "CMYK", "YCbCr"},
    "tif": {"1", "L", "P", "LA", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I;16"},
    "webp": {"L", "RGB", "RGBA"},
    "bmp": {"1", "L", "P", "RGB"},
}
if int(PIL.__version__.partition(".")[0]) < 13:
    FORMATS["tif"].remove("YCbCr")  # which Pillow 12 writes and cannot read
FILES = st.sampled_from([(suffix, mode) for suffix, modes in FORMATS.items() for mode in sorted(modes)])


def pixels(mode: str, width: int, height: int, seed: int) -> Image.Image:
    """An image of noise."""
    draw = np.random.default_rng(seed)
    if mode == "I;16":
        return Image.fromarray(draw.integers(0, 2**16, (height, width), dtype=np.uint16))
    image = Image.frombytes("L" if mode == "1" else mode, (width, height), draw.bytes(width * height * CHANNELS[mode]))
    if mode in {"P", "PA"}:
        image.putpalette(draw.bytes(768))
    return image.convert("1") if mode == "1" else image


@pytest.mark.usefixtures("_toy")
@settings(max_examples=200, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(
    file=FILES,
    width=st.integers(1, 16),
    height=st.integers(1, 16),
    orientation=st.sampled_from([None, 1, 3, 6, 7, 99]),
    seed=st.integers(0, 2**16),
    options=st.fixed_dictionaries(
        {
            "control": st.sampled_from([0, 1.0, "0,0.5,1"]),
            "tile": st.sampled_from([None, 0, 3, 8]),
            "format": st.sampled_from(["png", "jpg", "webp", "bmp", "tif"]),
            "color": st.sampled_from(["none", "adain", "wavelet"]),
        }
    ),
)
def test_every_image_is_restored_at_four_times_its_size(
    file: tuple[str, str], width: int, height: int, orientation: int | None, seed: int, options: dict[str, Any]
) -> None:
    suffix, mode = file
    with tempfile.TemporaryDirectory() as folder:
        source, output = Path(folder, f"in.{suffix}"), Path(folder, "out")
        exif = Image.Exif()
        if orientation is not None:
            exif[0x0112] = orientation
        pixels(mode, width, height, seed).save(source, **({"exif": exif} if suffix in {"jpg", "png", "webp"} else {}))
        assert upscale(str(source), str(output), device="cpu", **options) == 0
        turned = suffix in {"jpg", "png", "webp"} and orientation in {6, 7}
        expected = (4 * height, 4 * width) if turned else (4 * width, 4 * height)
        results = sorted(output.iterdir())
        assert len(results) == (3 if options["control"] == "0,0.5,1" else 1)
        for result in results:
            with Image.open(result) as restored:
                restored.load()
                assert restored.size == expected
