"""Train nano's autoencoder on your photographs: python examples/train_from_python.py photos/."""

import sys
from pathlib import Path

import torch

import ctsr_lightning as ctsr
from ctsr_lightning.metrics.distortion import psnr_y


def main(photos: str, *options: str) -> None:
    """Train, and say how well a photograph survives the way through the latents.

    Args:
        photos: Folder of photographs, five or more.
        *options: Further options of `ctsr fit`.
    """
    training = ctsr.fit("nano/codec.yaml", f"--data.train={photos}", "--trainer.max_steps=500", *options)
    photo = ctsr.read_image(min(Path(photos).iterdir()))[None, :, :128, :128]
    with torch.no_grad():
        decoded = training.codec.decode(training.codec.encode(photo * 2 - 1)) / 2 + 0.5
    print(f"PSNR after encoding and decoding: {psnr_y(decoded.clamp(0, 1), photo).item():.2f} dB")


if __name__ == "__main__":
    main(*sys.argv[1:])
