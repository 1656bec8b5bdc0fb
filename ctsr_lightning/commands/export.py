"""`ctsr export`: a trained model for other programs."""

# Annotations are not postponed here: to resolve them for `--help`, jsonargparse would import torch.
from pathlib import Path
from typing import Literal

from ctsr_lightning.commands.output import result, tell


def export(
    output: str | Path,
    checkpoint: str | Path | None = None,
    format: Literal["folder", "safetensors", "osediff", "onnx", "torch"] = "folder",  # noqa: A002 (the option's name)
    prompt: str | None = None,
) -> int:
    """Write a model for other programs, adapters merged; it is loaded again and compared before this ends.

    folder: UNets and autoencoder as subfolders in diffusers' layout, which `--checkpoint OUTPUT`, from_pretrained and,
    uploaded, the hub's id read. safetensors: all weights in one file. osediff: adapters, or merged weights, as the
    programs of OSEDiff read them; of stage 2 the student alone. onnx and torch (torch.export): encoder, UNets and
    decoder as graphs of any height and width, with restorer.json, which names their inputs and outputs. All but osediff
    come with a card and a licence. What does not restore the same images is not left behind.

    Example:
        ctsr export --checkpoint runs/stage2/checkpoints/last.ckpt --format onnx exported/

    Args:
        output: The folder to write, new or empty; for osediff the file, such as osediff.pkl.
        checkpoint: A checkpoint, a folder or a hub id; by default nano, the model that comes with this package.
        format: What to write. onnx needs the extra: pip install 'ctsr-lightning[export]'.
        prompt: Text in place of the model's own prompt, kept as its embedding; for all but osediff.

    Returns:
        0.
    """
    from ctsr_lightning.exporting.export import export_model
    from ctsr_lightning.weights.shipped import SHIPPED

    done = export_model(SHIPPED if checkpoint is None else checkpoint, format, Path(output).expanduser(), prompt)
    what = "weights" if format == "osediff" else "pixels in [0, 1]"
    for name, size in done.files.items():
        tell(f"{size / 1e6:10.2f} MB  {name}")
    tell(f"Loaded again and compared: {what} differ by {done.difference:.2g} at most → {done.path}")
    result(output=done.path, format=format, difference=done.difference, bytes=done.files)
    return 0
