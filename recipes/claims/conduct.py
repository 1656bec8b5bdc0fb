"""Doing the experiments of `make claims` one after the other, beside other processes that may do the same."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

from recipes.claims.bench import Bench
from recipes.claims.plan import Experiment, foundation
from recipes.claims.records import Record, Records

WAIT: Final = 5.0
"""Seconds between two looks at what another process is doing."""


def conduct(experiments: Sequence[Experiment], bench: Bench, records: Records) -> list[tuple[Experiment, Record]]:
    """Do all experiments that have no record yet; what another process is doing is waited for.

    Args:
        experiments: The experiments in order; what one starts from comes before it.
        bench: Where they are done.
        records: Where their records are.

    Returns:
        Every experiment with its record.
    """
    bases = {e: foundation(e, experiments) for e in experiments}
    settings = {e: bench.settings(e, bases[e]) for e in experiments}
    found = {e: record for e in experiments if (record := records.find(e, settings[e])) is not None}
    needed = {base for e, base in bases.items() if base is not None and e not in found}
    waiting = [e for e in experiments if e not in found or (e in needed and not bench.has_weights(e))]
    clock = Clock(len(experiments), {e: record for e, record in found.items() if e not in waiting})
    if len(waiting) < len(experiments):
        print(f"{len(experiments) - len(waiting)} of {len(experiments)} experiments are finished.", flush=True)
    while waiting:
        later = []
        for experiment in waiting:
            base = bases[experiment]
            if base is not None and not bench.has_weights(base):
                later.append(experiment)
                continue
            with records.held(experiment, settings[experiment]) as mine:
                if not mine:
                    later.append(experiment)
                    continue
                record = records.find(experiment, settings[experiment])
                if record is None or (experiment in needed and not bench.has_weights(experiment)):
                    clock.announce(experiment, records.others(experiment, settings[experiment]))
                    record = bench.run(experiment, base)
                    records.write(experiment, settings[experiment], record)
                found[experiment] = record
                clock.finish(experiment, record)
        if len(later) == len(waiting):
            clock.wait(later)
            time.sleep(WAIT)
        waiting = later
    return [(e, found[e]) for e in experiments]


class Clock:
    """Says which experiment of how many is done, and about how long the rest will take.

    Args:
        total: Number of experiments.
        found: Those that are finished.
    """

    def __init__(self, total: int, found: dict[Experiment, Record]) -> None:
        self.total, self.found = total, dict(found)
        self._waits = False

    def announce(self, experiment: Experiment, differs: Sequence[str]) -> None:
        """Say what begins.

        Args:
            experiment: The experiment.
            differs: The settings in which a record of it differs that is not used.
        """
        if differs:
            print(f"{experiment.title}: its record was made with other settings ({', '.join(differs)}).")
        print(f"\n[{len(self.found) + 1}/{self.total}] {experiment.title}{self._left()}", flush=True)
        self._waits = False

    def finish(self, experiment: Experiment, record: Record) -> None:
        """Count an experiment that is done.

        Args:
            experiment: The experiment.
            record: Its record.
        """
        self.found[experiment] = record

    def wait(self, others: Sequence[Experiment]) -> None:
        """Say, once, what is waited for.

        Args:
            others: What another process is doing.
        """
        if not self._waits:
            print(f"Waiting for another process, which does {others[0].title}.", flush=True)
        self._waits = True

    def _left(self) -> str:
        seconds = [sum(r.seconds.values()) for e, r in self.found.items() if e.variation.group != "chain"]
        if not seconds:
            return ""
        minutes = (self.total - len(self.found)) * sum(seconds) / len(seconds) / 60.0
        return f"; about {minutes:.0f} minutes left" if minutes >= 1.0 else "; less than a minute left"
