"""Restore without torch what `ctsr export --format onnx exported/` wrote, by numpy, onnxruntime and Pillow alone.

python examples/restore_onnx.py exported/ photo.jpg restored.png 0.5
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image


def pad(image: np.ndarray, multiple: int) -> np.ndarray:
    """Pad an image (3, h, w) at the right and below by reflection, so that its sides are multiples, at least twice."""
    for axis in (2, 1):
        side = image.shape[axis]
        after = max(2, -(-side // multiple)) * multiple - side
        widths = [(0, after * (axis == other)) for other in range(3)]
        image = np.pad(image, widths, mode="reflect" if after < side else "edge")
    return image


def restore(folder: Path, image: np.ndarray, t: float) -> np.ndarray:
    """Restore RGB in [0, 1], float32, shape (3, h, w), at t from 0 (realness) to 1 (fidelity)."""
    manifest = json.loads((folder / "restorer.json").read_text(encoding="utf-8"))
    scale, padded = manifest["scale"], pad(image, manifest["multiple"])
    size = (scale * padded.shape[2], scale * padded.shape[1])
    planes = [Image.fromarray(plane).resize(size, Image.Resampling.BICUBIC) for plane in padded]
    known = {"image": np.stack(planes)[None].clip(0.0, 1.0)}

    def run(name: str) -> np.ndarray:
        graph = manifest["graphs"][name]
        session = onnxruntime.InferenceSession(folder / graph["file"], providers=["CPUExecutionProvider"])
        known[graph["output"]] = session.run(None, {word: known[word] for word in graph["inputs"]})[0]
        return known[graph["output"]]

    run("encoder")
    run("student")
    if t > 0.0:
        known["latent"] = known["latent"] + np.float32(t) * run("velocity")  # a further t takes the decoder alone
    return run("decoder")[0, :, : scale * image.shape[1], : scale * image.shape[2]]


if __name__ == "__main__":
    exported, photo, output, control = sys.argv[1:]
    pixels = np.asarray(Image.open(photo).convert("RGB"), dtype=np.float32).transpose(2, 0, 1) / np.float32(255)
    restored = restore(Path(exported), pixels, float(control)).transpose(1, 2, 0)
    Image.fromarray((restored * 255).round().astype(np.uint8)).save(output)
