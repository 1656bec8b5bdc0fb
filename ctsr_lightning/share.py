"""Shares of the work of several processes, which torchrun, SLURM or the user starts; imports no torch by itself."""

from __future__ import annotations

import os
from typing import NamedTuple

LAUNCHERS = (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_NTASKS"))
"""Where torchrun and SLURM say which process this is, of how many."""

LOCAL = ("LOCAL_RANK", "SLURM_LOCALID")
"""Where they say which process of its machine it is."""


class Share(NamedTuple):
    """Which images this process handles: number rank, rank + ranks, and so on."""

    rank: int
    """Number of this process."""
    ranks: int
    """Number of processes."""


ALONE = Share(0, 1)
"""All of the work."""


def own_share(rank: int | None, ranks: int | None) -> Share:
    """Find out which part of the work is this process's.

    Args:
        rank: What the user says, or None.
        ranks: How many parts, or None.

    Raises:
        ValueError: If only one of the two is given, or they do not fit.
    """
    if (rank is None) != (ranks is None):
        raise ValueError(f"Expected --rank and --ranks together, found rank {rank} of {ranks}.")
    if rank is None or ranks is None:
        named = next((pair for pair in LAUNCHERS if all(name in os.environ for name in pair)), None)
        rank, ranks = (int(os.environ[name]) for name in named) if named else (0, 1)
    if not 0 <= rank < ranks:
        raise ValueError(f"Expected --rank from 0 to {ranks - 1} with --ranks {ranks}, found {rank}.")
    return Share(rank, ranks)


def own_device(name: str) -> str:
    """The device of this process: `auto` is its own GPU where a launcher has started several processes on a machine.

    Args:
        name: What the user says.
    """
    import torch

    local = next((os.environ[variable] for variable in LOCAL if variable in os.environ), None)
    if name != "auto" or local is None or not torch.cuda.is_available():
        return name
    return f"cuda:{int(local) % torch.cuda.device_count()}"
