"""`ctsr cache`: outputs of a training's frozen networks, computed once."""

# Annotations are not postponed here: to resolve them for `--help`, jsonargparse would import torch.
import logging
import shlex
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctsr_lightning.commands.options import listed
from ctsr_lightning.commands.output import result, tell
from ctsr_lightning.configs import find_config
from ctsr_lightning.inference.settings import Precision
from ctsr_lightning.share import Share, own_device, own_share

if TYPE_CHECKING:
    from ctsr_lightning.cache.fill import FillCounts
    from ctsr_lightning.cache.store import OutputCache
    from ctsr_lightning.data import RealESRGANDataModule

ALONE = (
    "--trainer.accelerator=cpu", "--trainer.devices=1", "--trainer.num_nodes=1", "--trainer.strategy=auto",
    "--trainer.precision=32-true", "--trainer.logger=false", "--trainer.callbacks=null",
)  # fmt: skip
"""A trainer that needs nothing: the configuration's is built with it, but never runs."""


def cache(
    config: str | list[str] | None = None,
    output: str | Path = "runs/cache",
    samples: int | None = None,
    options: str = "",
    batch_size: int | None = None,
    skip_restorations: bool = False,
    rank: int | None = None,
    ranks: int | None = None,
    device: str = "auto",
    precision: Precision = "float32",
) -> int:
    """Ask the frozen networks of stage 2 once, so that its training runs the velocity field alone.

    For every image of a finite training set stage 2 asks the student for z_0 and z_L, T_f, the most expensive, for its
    restoration, the codec for z_1, and the prompt for c. This command writes the outputs to a folder, with T_f's
    restorations of the validation images for the pictures there. Of OneStepTraining with a target it keeps the target's
    images. Records are found by the image itself, each is written whole: after Ctrl-C the same command continues, and
    a larger --samples adds what is not there yet. At the end it prints how to train with the folder, and of stage 2
    also how to do so without T_f in memory.

    Example:
        ctsr cache --config ctsr/stage2.yaml --samples 20000 --output runs/ctsr/cache
    On all GPUs of a machine, each process with its share; SLURM's srun works alike, on any number of machines:
        torchrun --nproc-per-node gpu -m ctsr_lightning.cli cache --config ctsr/stage2.yaml --samples 20000
    In parts, by hand, wherever the folder can be reached:
        ctsr cache --config ctsr/stage2.yaml --samples 20000 --rank 0 --ranks 2

    Args:
        config: Configuration of the stage 2, or of OneStepTraining with a target, as --config of ctsr fit; several with
            commas between.
        output: Folder for the outputs: at full size with 512-pixel crops 1 MB per sample, or 0.2 MB with
            --skip-restorations.
        samples: Number of training samples, where the configuration sets no data.pool.
        options: Further options of ctsr fit, as in --options "data.train=photos data.seed=1".
        batch_size: Training images at once; by default the training's batch size.
        skip_restorations: Do not keep T_f's restorations of training images, only their latents. They are needed only
            by a CachedTeacher that is trained with in place of --model.cache, as for another student.
        rank: Which part this process does, from 0; by default what torchrun or SLURM say, else everything.
        ranks: Number of parts.
        device: auto, cpu, cuda, cuda:1, mps; auto gives each process of torchrun or SLURM a GPU of its own.
        precision: Type to compute in; half types run under autocast, records are float32.

    Returns:
        0.
    """
    for name, value in (("samples", samples), ("batch-size", batch_size)):
        if value is not None and value < 1:
            raise ValueError(f"Expected --{name} of at least 1, found {value}.")
    share = own_share(rank, ranks)
    files, further = [str(find_config(file)) for file in listed(config)], option_words(options)
    if not files:
        raise ValueError("Expected the configuration of a training: --config ctsr/stage2.yaml, for example.")
    if missing := [file for file in files if not Path(file).expanduser().is_file()]:
        raise FileNotFoundError(f"Expected a training's configuration at '{missing[0]}', found nothing.")
    configured = [word for file in files for word in ("--config", file)] + further
    keep = not skip_restorations
    model, pool = fill_cache(configured, output, samples, batch_size, share, device, precision, keep=keep)
    if share.rank == 0:
        tell(_advice([*configured, *pool], str(output), model))
    return 0


def fill_cache(
    configured: list[str],
    output: str | Path,
    samples: int | None,
    batch_size: int | None,
    share: Share,
    device: str,
    precision: Precision,
    *,
    keep: bool,
) -> "tuple[Any, list[str]]":
    """Write what is not in a cache yet, and say so.

    Args:
        configured: The stage-2 training, as options of `ctsr fit`.
        output: Folder for the outputs.
        samples: Number of training samples, where the configuration sets no data.pool.
        batch_size: Training images at once; None for the training's.
        share: The part of the work to do.
        device: As in `cache`.
        precision: Type to compute in.
        keep: Whether T_f's restorations of training images are kept.

    Returns:
        The training's model, and the option that trains with the cache's pool where the configuration has none.
    """
    model, data = _built(configured)

    from ctsr_lightning.cache.fill import CacheFiller
    from ctsr_lightning.cache.store import OutputCache

    cache = OutputCache(output)
    _check(model, cache)
    pool = data.pool
    data.pool = _agreed(pool, samples)
    data.setup("fit")
    loaders = data.finite_dataloaders(batch_size or data.batch_size, *share)
    facts = {"images": len(loaders["train"].dataset)}  # type: ignore[arg-type]
    facts |= {name: getattr(data, name) for name in ("pool", "crop", "seed", "val_crop", "val_repeats")}
    cache.open({**model.cache_signature(), "precision": precision}, facts)
    if share.ranks > 1:
        tell(f"Part {share.rank} of {share.ranks}, counted from 0.")
    filler, done = CacheFiller(model, own_device(device), precision, keep=keep), dict[str, Any]()
    try:
        for split, loader in loaders.items():
            if filler.names[split]:
                tally = filler.fill(cache, split, loader)
                tell(_summary(split, tally))
                done[split] = {"images": tally.images, "computed": tally.computed, "seconds": tally.seconds}
    except KeyboardInterrupt:
        print(f"ctsr: {len(cache)} records are in '{cache.folder}'. The same command continues.", file=sys.stderr)
        raise
    size = sum(file.stat().st_size for file in cache.folder.glob("??/[!.]*.safetensors"))
    tell(f"→ {cache.folder} ({len(cache)} records, {size / 2**20:,.1f} MiB)")
    result(output=cache.folder, records=len(cache), bytes=size, part=[share.rank, share.ranks], splits=done)
    return model, [] if pool is not None else [f"--data.pool={data.pool}"]


def option_words(text: str) -> list[str]:
    """Options of the training as LightningCLI takes them.

    Args:
        text: name=value, with spaces between several; values with spaces in quotes.

    Raises:
        ValueError: If a word is no name=value.
    """
    words = [word.removeprefix("--") for word in shlex.split(text)]
    if wrong := [word for word in words if "=" not in word]:
        raise ValueError(f"Expected name=value in --options, such as \"data.seed=1\", found '{wrong[0]}'.")
    return [f"--{word}" for word in words]


def _built(words: list[str]) -> "tuple[Any, RealESRGANDataModule]":
    """Model and data of a training's configuration.

    Raises:
        ValueError: If they are not those of a training whose outputs can be cached, with this package's data module.
    """
    from ctsr_lightning.data import RealESRGANDataModule
    from ctsr_lightning.training import training_cli

    with _quiet():
        built = training_cli([*words, *ALONE], run=False)
    model, data = built.model, built.datamodule
    if not getattr(model, "frozen_networks", None):
        raise ValueError(
            "Expected the configuration of a stage-2 training (CTSRStage2), or of OneStepTraining with a target, in "
            f"--config, found one of {type(model).__name__}{' without' * hasattr(model, 'frozen_networks')}. "
            "Other trainings run their networks on something new in every step."
        )
    if not isinstance(data, RealESRGANDataModule):
        raise ValueError(f"Expected data of a RealESRGANDataModule, found {type(data).__name__}.")  # noqa: TRY004
    return model, data


def _check(model: Any, cache: "OutputCache") -> None:
    """Refuse what cannot be kept, or would be read from the folder that is to be written."""
    for name, part in model.frozen_networks.items():
        other = getattr(part, "output_cache", None)
        if other is not None and other.folder.resolve() == cache.folder.resolve():
            raise ValueError(
                f"Expected model.{name} to be the network itself, found {type(part).__name__} of '{cache.folder}'. "
                "Make the cache with the configuration that names the network, and train with the one that reads."
            )
    if getattr(model.frozen_networks.get("student"), "random", False):
        raise ValueError(
            "Expected a student with `sample_latent: false`: it draws z_L anew in every step, of which a cache would "
            "keep one draw for ever. Set it to false, or train without a cache."
        )


def _agreed(pool: int | None, samples: int | None) -> int:
    """The number of training samples."""
    if pool is not None and samples is not None and pool != samples:
        raise ValueError(
            f"Expected one number of training samples, found data.pool {pool} in the configuration and --samples "
            f'{samples}. Leave --samples out, or change the configuration\'s: --options "data.pool={samples}".'
        )
    if pool is None and samples is None:
        raise ValueError(
            "Expected a finite number of training samples: the configuration sets no data.pool, so give --samples "
            "20000, for example. Training then goes through these again and again, in new orders."
        )
    return pool or samples or 0


def _summary(split: str, tally: "FillCounts") -> str:
    each = f", {tally.seconds / tally.computed:.2f} s each" if tally.computed else ""
    return f"{split}: {tally.computed} computed{each}, {tally.images - tally.computed} were there."


def _advice(configured: list[str], folder: str, model: Any) -> str:
    """The commands to train with."""
    fit = ["ctsr", "fit", *configured, f"--model.cache={folder}"]
    lines = ["Train with:", f"  {shlex.join(fit)}"]
    if "fidelity" in model.frozen_networks:
        without = [*fit, "--model.fidelity=CachedTeacher", f"--model.fidelity.folder={folder}"]
        if model.frozen_networks["student.prompt"].varies:
            without += ["--model.student.prompt=CachedPrompt", f"--model.student.prompt.folder={folder}"]
        lines += ["without T_f in memory:", f"  {shlex.join(without)}"]
    return "\n".join(lines)


@contextmanager
def _quiet() -> Iterator[None]:
    """Within this context the trainer that never runs does not say which devices it leaves alone."""
    log = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    level = log.level
    log.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*available but not used.*")
            yield
    finally:
        log.setLevel(level)
