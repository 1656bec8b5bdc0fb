"""Progress of long work on standard error: a bar on a terminal, plain lines in a log."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

TENTHS, SHORTEST, LONGEST = 10, 5.0, 30.0
"""A line is written after each tenth of the work, but not sooner than `SHORTEST` seconds after another one, and after
`LONGEST` seconds at the latest."""

_silent: ContextVar[bool] = ContextVar("silent", default=False)


@contextmanager
def without_progress(silent: bool = True) -> Iterator[None]:
    """Within this context no progress is shown; what is printed on its console, is.

    Args:
        silent: Whether that is so.
    """
    token = _silent.set(silent)
    try:
        yield
    finally:
        _silent.reset(token)


def progress() -> Progress:
    """Progress on standard error, so that results on standard output can be piped: a bar, or plain lines in a log."""
    console = Console(stderr=True)
    if _silent.get() or not sys.stderr.isatty():
        return PlainProgress(console)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
    )


class PlainProgress(Progress):
    """Writes lines such as `measuring 20/100, 1.87 s each, 2:30 left` in place of a bar that moves."""

    def __init__(self, console: Console, **options: Any) -> None:
        super().__init__(console=console, auto_refresh=False, disable=True, **options)
        self._written: dict[TaskID, tuple[float, int]] = {}

    def start(self) -> None:
        """Show nothing yet."""

    def stop(self) -> None:
        """Show nothing more."""

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        """Count what was done, and write a line if it is time for one.

        Args:
            task_id: What `add_task` returned.
            advance: How many were done.
        """
        super().advance(task_id, advance)
        if _silent.get():
            return
        task = next(task for task in self.tasks if task.id == task_id)
        elapsed, done, total = task.elapsed or 0.0, task.completed, task.total
        tenth = int(TENTHS * done / total) if total else 0
        last, before = self._written.get(task_id, (0.0, 0))
        complete = total is not None and done >= total
        if not (complete or elapsed - last >= LONGEST or (tenth > before and elapsed - last >= SHORTEST)):
            return
        self._written[task_id] = elapsed, tenth
        each = elapsed / done if done else 0.0
        count = f"{done:g}" if total is None else f"{done:g}/{total:g}"
        left = "" if total is None or complete else f", {clock(each * (total - done))} left"
        line = f"{task.description} {count}, {each:.2f} s each{left}"
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)


def clock(seconds: float) -> str:
    """`2:30`, or `1:02:30`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
