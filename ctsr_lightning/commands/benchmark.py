"""`ctsr benchmark`: time and memory of a model, part by part."""

# Annotations are not postponed here: to resolve them for `--help`, jsonargparse would import torch.
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from ctsr_lightning.commands.options import load_restorer
from ctsr_lightning.inference.devices import describe_device
from ctsr_lightning.inference.settings import Precision
from ctsr_lightning.progress import progress
from ctsr_lightning.tables import markdown_table

WHOLE = "whole, 1 value"
"""Prefix of the parts that are whole restorations."""


def benchmark(
    checkpoint: str | Path | None = None,
    shape: Literal["nano", "sd21"] = "nano",
    size: int = 128,
    batch: int = 1,
    warmup: int = 2,
    repeats: int = 10,
    device: str = "auto",
    precision: Precision = "float32",
    output: str | Path | None = None,
) -> int:
    """Measure time and memory of a model: encoding, UNet, velocity field, decoding, and 1, 2 and 6 values of t.

    Times are medians over --repeats after --warmup passes of each part, with the device waited for; reading and writing
    files is not in them. Without a checkpoint, nano is measured, the model that comes with this package; --shape sd21
    measures networks of full size with generated weights, whose time and memory are those of trained ones.

    Example:
        ctsr benchmark --checkpoint runs/stage2/last.ckpt --size 128

    Args:
        checkpoint: A checkpoint of stage 2, stage 1 or the one-step teacher.
        shape: Without a checkpoint, nano (the shipped model) or sd21 (Stable Diffusion 2.1-base: 866 M and 84 M
            parameters, generated weights).
        size: Side of the low-quality image in pixels.
        batch: Images at once.
        warmup: Passes of each part before anything is measured.
        repeats: Measured passes of each part.
        device: auto, cpu, cuda, cuda:1, mps.
        precision: Type to compute in; half types run under autocast, weights stay in float32.
        output: A JSON file for the figures.

    Returns:
        0.
    """
    for option, value, least in (
        ("size", size, 1),
        ("batch", batch, 1),
        ("repeats", repeats, 1),
        ("warmup", warmup, 0),
    ):
        if value < least:
            raise ValueError(f"Expected --{option} of at least {least}, found {value}.")
    import torch

    from ctsr_lightning.evaluation.protocol import versions
    from ctsr_lightning.evaluation.report import write_json
    from ctsr_lightning.inference.pretrained import describe_model
    from ctsr_lightning.inference.restorer import Restorer
    from ctsr_lightning.inference.timing import generated_model, measure, works

    if checkpoint is None and shape == "sd21":
        name = "sd21, generated weights"
        restorer = Restorer(generated_model(), device, getattr(torch, precision), tile=0)
    else:
        restorer = load_restorer(checkpoint, tile=0, device=device, precision=precision)
        name = describe_model(restorer.source)
    lq = torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(0))
    with progress() as bar:
        parts = works(restorer, lq)
        timed = bar.track(measure(parts, restorer.device, warmup, repeats), total=len(parts), description="timing")
        costs = [cost._asdict() for cost in timed]
    record = {
        "model": name,
        "input": [batch, 3, size, size],
        "output": [batch, 3, size * restorer.scale, size * restorer.scale],
        "device": describe_device(restorer.device),
        "precision": precision,
        "warmup": warmup,
        "repeats": repeats,
        "parts": costs,
        "versions": versions(),
    }
    print(markdown(record))
    if output is not None:
        path = Path(output).expanduser()
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, record)
        print(f"\n→ {path}")
    return 0


def markdown(record: Mapping[str, Any]) -> str:
    """The figures as a Markdown table.

    Args:
        record: What `benchmark` has measured.
    """
    rows = []
    for cost in record["parts"]:
        memory = "" if cost["memory"] is None else f"{cost['memory'] / 2**30:.2f} GiB"
        millions = f"{cost['parameters'] / 1e6:.1f} M"
        rows.append([cost["part"], millions, f"{cost['seconds']:.4f}", f"{cost['fastest']:.4f}", memory])
    sizes = [" x ".join(str(side) for side in record[key]) for key in ("input", "output")]
    where = f"{record['device']}, {record['precision']}, torch {record['versions']['torch']}"
    whole = next(cost["seconds"] for cost in record["parts"] if cost["part"].startswith(WHOLE))
    small, large = (" x ".join(str(side) for side in record[key][2:]) for key in ("input", "output"))
    lines = [
        markdown_table(("part", "parameters", "median s", "fastest s", "peak memory"), rows),
        "",
        f"**{whole / record['input'][0]:.3f} s per image**, {small} to {large} pixels at one t.",
        "",
        f"{record['model']}; {sizes[0]} to {sizes[1]}; {where}; {record['repeats']} passes after {record['warmup']}.",
        "Peak memory is the whole process on a CPU, the tensors on a GPU; one part after the other.",
    ]
    return "\n".join(lines)
