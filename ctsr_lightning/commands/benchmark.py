"""`ctsr benchmark`: time and memory of a model, part by part."""

# Annotations are not postponed here: to resolve them for `--help`, jsonargparse would import torch.
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from ctsr_lightning.commands.options import load_restorer
from ctsr_lightning.commands.output import result, tell
from ctsr_lightning.inference.devices import describe_device
from ctsr_lightning.inference.settings import Precision
from ctsr_lightning.tables import markdown_row, markdown_table

ONE_VALUE = "whole, 1 value of t"
"""The part that is one whole restoration."""
COLUMNS = ("part", "type", "parameters", "median s", "fastest s", "plain diffusers s", "ratio", "peak memory")


def benchmark(
    checkpoint: str | Path | None = None,
    shape: Literal["nano", "sd21"] = "nano",
    size: int = 128,
    batch: int = 1,
    warmup: int = 1,
    repeats: int | None = None,
    device: str = "auto",
    precision: Precision = "float32",
    output: str | Path | None = None,
) -> int:
    """Measure time and memory of a model: encoding, UNets, decoding, and whole restorations at 1, 2 and 6 values of t.

    Encoder, UNets and decoder are timed in turns with diffusers' bare networks of the same weights and type; `ratio` is
    the median of ours over theirs, pair by pair. In a half precision the pictures are compared with those in float32
    first. Lines appear as they are measured. Reading and writing files is in no figure. Without a checkpoint, nano is
    measured, the model that comes with this package; --shape sd21 measures networks of full size with generated
    weights, whose time and memory are those of trained ones.

    Example:
        ctsr benchmark --checkpoint runs/stage2/last.ckpt --size 128

    Args:
        checkpoint: A checkpoint of a training with a `student`, such as stage 2, stage 1 or the one-step teacher.
        shape: Without a checkpoint, nano (the shipped model) or sd21 (Stable Diffusion 2.1-base: 866 M and 84 M
            parameters, generated weights).
        size: Side of the low-quality image in pixels.
        batch: Images at once.
        warmup: Passes of each part before anything is measured.
        repeats: Measured passes of each part; by default up to 10, and of slow parts two, without warming up; then 2
            and 6 values of t are left out as well.
        device: auto, cpu, cuda, cuda:1, mps.
        precision: Type that the networks have and compute in.
        output: A JSON file for the figures.

    Returns:
        0.
    """
    for option, value, least in (
        ("size", size, 1),
        ("batch", batch, 1),
        ("repeats", 1 if repeats is None else repeats, 1),
        ("warmup", warmup, 0),
    ):
        if value < least:
            raise ValueError(f"Expected --{option} of at least {least}, found {value}.")
    import torch

    from ctsr_lightning.evaluation.protocol import versions
    from ctsr_lightning.evaluation.report import write_json
    from ctsr_lightning.inference.pretrained import describe_model
    from ctsr_lightning.inference.restorer import Restorer
    from ctsr_lightning.inference.timing import differences, generated_model, measure, parts, points

    generated = generated_model() if checkpoint is None and shape == "sd21" else None

    def read(kind: Precision) -> Restorer:
        if generated is not None:
            return Restorer(generated, device, getattr(torch, kind), tile=0)
        return load_restorer(checkpoint, tile=0, device=device, precision=kind)

    lq = torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(0))
    expected = None if precision == "float32" else points(read("float32"), lq)  # whose networks are then let go
    restorer = read(precision)
    compared = [] if expected is None else differences(points(restorer, lq), expected)
    name = describe_model(restorer.source) if generated is None else "sd21, generated weights"
    record: dict[str, Any] = {
        "model": name,
        "input": [batch, 3, size, size],
        "output": [batch, 3, size * restorer.scale, size * restorer.scale],
        "device": describe_device(restorer.device),
        "precision": precision,
        "differences": [difference._asdict() for difference in compared],
        "warmup": warmup,
        "parts": [],
        "versions": versions(),
    }
    for difference in compared:
        tell(
            f"{precision} against float32 at t = {difference.control:g}: PSNR {difference.psnr:.1f} dB, error of the "
            f"latent {100.0 * difference.latent:.2g} % of its spread"
        )
    tell(markdown_table(COLUMNS, []))
    for cost in measure(parts(restorer, lq), restorer.device, warmup, repeats):
        record["parts"].append(cost._asdict())
        tell(row(record["parts"][-1]))
    tell(summary(record))
    if output is not None:
        path = Path(output).expanduser()
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, record)
        tell(f"\n→ {path}")
    result(**record)
    return 0


def row(cost: Mapping[str, Any]) -> str:
    """The cost of a part as a row of a Markdown table.

    Args:
        cost: The part, as `benchmark` has measured it.
    """
    memory = "" if cost["memory"] is None else f"{cost['memory'] / 2**30:.2f} GiB"
    bare = ("", "") if cost["plain"] is None else (f"{cost['plain']:.4f}", f"{cost['ratio']:.3f}")
    cells = (f"{cost['parameters'] / 1e6:.1f} M", f"{cost['seconds']:.4f}", f"{cost['fastest']:.4f}")
    return markdown_row((cost["part"], cost["dtype"], *cells, *bare, memory))


def summary(record: Mapping[str, Any]) -> str:
    """Time per image, and how it was measured.

    Args:
        record: The figures of all parts.
    """
    sizes = [" x ".join(str(side) for side in record[key]) for key in ("input", "output")]
    where = f"{record['device']}, {record['precision']}, torch {record['versions']['torch']}"
    small, large = (" x ".join(str(side) for side in record[key][2:]) for key in ("input", "output"))
    passes = [cost["passes"] for cost in record["parts"]]
    images = record["input"][0]
    each = next(cost["seconds"] for cost in record["parts"] if cost["part"] == ONE_VALUE) / images
    again = [cost for cost in record["parts"] if cost["per_t"]]
    further = f"{' and '.join(cost['part'] for cost in again)}, {sum(cost['seconds'] for cost in again) / images:.3f} s"
    lines = [
        "",
        f"**{each:.3f} s per image**, {small} to {large} pixels at one t. Each further t: {further}.",
        "",
        f"{record['model']}; {sizes[0]} to {sizes[1]}; {where}.",
        f"{min(passes)} to {max(passes)} passes of each part after {record['warmup']}.",
        "Peak memory is the whole process on a CPU, the tensors on a GPU; one part after the other.",
    ]
    return "\n".join(lines)
