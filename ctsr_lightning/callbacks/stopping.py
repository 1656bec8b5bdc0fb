"""Signals that end a training: it is stopped between two steps, after its checkpoint is written."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from types import FrameType
from typing import Final

import torch
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch import Trainer

SIGNALS: Final = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")
"""Ctrl-C, the end of a service or a batch job, a closed terminal, and the two that batch systems warn with."""


class Stopped(SystemExit):
    """A training was stopped by a signal; the exit code is 128 + its number.

    Args:
        signum: The signal.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(128 + signum)
        self.signum = signum


class StopSignals:
    """Takes the signals of a training: the first asks it to stop, a further Ctrl-C ends it at once."""

    def __init__(self) -> None:
        self.signum = 0
        """The signal that came; 0 before."""
        self._process, self._speaks = 0, False

    def listen(self, trainer: Trainer) -> None:
        """Take the signals, in place of Lightning, which gives them back when the trainer is done.

        A signal that is ignored, as `nohup` has it, stays so. Processes that load data are forks and do nothing then.

        Args:
            trainer: The trainer.
        """
        if threading.current_thread() is not threading.main_thread():
            return
        self._process, self._speaks = os.getpid(), trainer.is_global_zero
        for name in SIGNALS:
            number = getattr(signal, name, None)  # Windows has two of them
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._note)

    def agreed(self, trainer: Trainer) -> int:
        """The signal that came to any process; to be called by all together.

        Args:
            trainer: The trainer.
        """
        if trainer.world_size > 1:
            signum = torch.tensor(self.signum, device=trainer.strategy.root_device)
            self.signum = int(trainer.strategy.reduce(signum, reduce_op="max"))
        return self.signum

    def _note(self, signum: int, frame: FrameType | None) -> None:
        del frame
        if os.getpid() != self._process:
            return
        if self.signum and signum == signal.SIGINT:
            raise KeyboardInterrupt
        if not self.signum and self._speaks:
            name = signal.Signals(signum).name
            text = f"ctsr: {name}: stopping after this step; Ctrl-C ends at once, without saving.\n"
            os.write(2, text.encode())  # print() may be interrupted by this very function
        self.signum = self.signum or signum


def requeue(signum: int) -> None:
    """Put a SLURM job into its queue again, if it was warned by SIGUSR1 that its time is over.

    Args:
        signum: The signal.
    """
    if signum != getattr(signal, "SIGUSR1", None) or not SLURMEnvironment.detect():
        return
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    job = f"{array}_{task}" if array is not None else os.environ["SLURM_JOB_ID"]
    try:
        code = subprocess.run(["scontrol", "requeue", job], check=False).returncode  # noqa: S603, S607  # SLURM's own
    except FileNotFoundError:
        code = 127
    text = "is in its queue again" if code == 0 else f"could not be put into its queue again (scontrol: {code})"
    sys.stderr.write(f"ctsr: job {job} {text}.\n")
