"""Restore a photograph at several t: python examples/restore.py photo.jpg restored/."""

import sys
from pathlib import Path

import ctsr_lightning as ctsr


def main(photo: str, output: str) -> None:
    """Write one file per t.

    Args:
        photo: The photograph.
        output: The folder to write to.
    """
    model = ctsr.Restorer.from_pretrained()  # or a checkpoint, a folder, a hub id
    path = model.trajectory(ctsr.read_image(photo))  # the networks run once
    for t in (0.0, 0.25, 0.5, 0.75, 1.0):
        image = model.decode(path, t)[0]
        ctsr.write_image(Path(output) / f"{Path(photo).stem}_t{t:.2f}.png", image)


if __name__ == "__main__":
    main(*sys.argv[1:])
