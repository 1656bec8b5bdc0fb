"""What processes that share an evaluation do, importable from a fresh interpreter."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from ctsr_lightning.cli import main
from ctsr_lightning.evaluation.records import Records


def evaluate(rank: int, count: int, folder: str, killed: int | None, words: list[str]) -> bool:
    """Measure a share, found by torchrun's variables.

    Args:
        rank: This process.
        count: Number of processes.
        folder: Where relative paths start.
        killed: Images after which the process kills itself.
        words: The command line after `ctsr`.
    """
    os.chdir(folder)
    write, done = Records.write, list[int]()

    def and_then_die(self: Records, index: int, *args: Any) -> None:
        write(self, index, *args)
        done.append(index)
        if len(done) == killed:
            os.kill(os.getpid(), signal.SIGKILL)

    Records.write = and_then_die  # type: ignore[method-assign]
    main(words)
    return Path(words[-1]).is_dir()
