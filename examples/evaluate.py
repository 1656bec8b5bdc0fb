"""Measure a model on folders of pairs: python examples/evaluate.py lq/ gt/ runs/evaluate."""

import sys

import ctsr_lightning as ctsr


def main(lq: str, gt: str, output: str) -> None:
    """Print a table and save it with the values of every image.

    Args:
        lq: Folder of low-quality images.
        gt: Folder of ground truth, of the same names.
        output: Folder for the results.
    """
    model = ctsr.Restorer.from_pretrained()  # or a checkpoint, a folder, a hub id
    table = ctsr.evaluate_model(model, lq=lq, gt=gt, t=[0, 0.5, 1])
    print(table.to_markdown())
    table.save(output)


if __name__ == "__main__":
    main(*sys.argv[1:])
