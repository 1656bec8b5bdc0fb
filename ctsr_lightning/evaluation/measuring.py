"""The measuring of a data set: image by image, every method, in one process or a share of it in each of several."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from torch.utils.data import DataLoader, Subset

from ctsr_lightning.batch import Batch
from ctsr_lightning.evaluation.measurements import Measurements
from ctsr_lightning.evaluation.methods import Methods

if TYPE_CHECKING:
    from ctsr_lightning.evaluation.pictures import Examples
    from ctsr_lightning.evaluation.records import Records

AT_ONCE: Final = 256
"""Records that are put together at once."""


def measure_methods(
    methods: Methods,
    batches: Iterable[Batch],
    measurements: Measurements,
    examples: Examples | None = None,
    records: Records | None = None,
    numbers: Sequence[int] | None = None,
) -> None:
    """Restore every image by every method and measure the results; a first, unmeasured pass warms the device up.

    Args:
        methods: The methods.
        batches: Images one by one, with their ground truth.
        measurements: Where the results go.
        examples: Collects images to show side by side.
        records: Keeps what was measured of each image.
        numbers: The images' numbers in the data set; by default 0, 1, …
    """
    warm = False
    for position, batch in enumerate(batches):
        assert batch.gt is not None
        index = position if numbers is None else numbers[position]
        size = (batch.gt.shape[-2], batch.gt.shape[-1])
        if not warm:
            for _ in methods.restore(batch.lq, size, keys=batch.key):
                pass
            warm = True
        if examples is not None:
            examples.begin(index, batch.lq)
        one = measurements.of_one_image()
        for seed in range(methods.runs):
            for restored in methods.restore(batch.lq, size, seed, batch.key):
                one.add(batch.key[0], restored, batch.gt, seed)
                if examples is not None and seed == 0:
                    examples.add(restored)
        if examples is not None:
            examples.end(batch.gt)
        part = one.part()
        if records is None:
            measurements.include([part])
        else:
            measurements.rows += part.rows  # for a report of what was measured; `collect` puts all together
            records.write(index, part, examples.rows.get(index) if examples is not None else None)


def collect(records: Records, measurements: Measurements, examples: Examples | None = None) -> int:
    """Put the records of all processes together, in the order of the data set.

    Args:
        records: The records.
        measurements: Where they go, in place of what is there; untouched where an image is missing.
        examples: Where images to show go.

    Returns:
        Number of images that are still missing, of processes at work or interrupted.
    """
    if missing := len(records.missing()):
        return missing
    measurements.clear()
    try:
        for first in range(0, records.total, AT_ONCE):
            numbers = range(first, min(first + AT_ONCE, records.total))
            parts, shown = zip(*(records.read(index) for index in numbers), strict=True)
            measurements.include(parts)
            if examples is not None:
                examples.rows |= {index: example for index, example in zip(numbers, shown, strict=True) if example}
    except FileNotFoundError:  # another process finished at the same time, wrote the report and tidied up
        return len(records.missing())
    return 0


def announce(records: Records | None, numbers: Sequence[int]) -> str:
    """Describe the progress of this process, and say on standard error what was measured before.

    Args:
        records: The records, where there are any.
        numbers: Numbers of the images to measure.
    """
    if records is None:
        return "measuring"
    rank, ranks = records.share
    there = len(range(rank, records.total, ranks)) - len(numbers)
    if there:
        rest = f"{len(numbers)} are left" if numbers else "none is left"
        sys.stderr.write(f"ctsr: {there} images were measured before, in '{records.folder}'; {rest}.\n")
    return "measuring" if ranks == 1 else f"measuring, part {rank} of {ranks}"


def load_images(module: Any, limit: int | None = None) -> int:
    """Find the test images of a data module.

    Args:
        module: The data module.
        limit: Number of images to stop after.

    Returns:
        How many there are.

    Raises:
        ValueError: If the limit is less than 1.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"Expected --limit of at least 1, found {limit}.")
    module.setup("test")
    total = len(module.test_dataloader().dataset)
    return min(total, limit or total)


def load_batches(module: Any, numbers: Sequence[int]) -> Iterator[Batch]:
    """Test images of a data module one by one.

    Args:
        module: The data module, after `load_images`.
        numbers: Their numbers in the data set.
    """
    loader = module.test_dataloader()
    yield from DataLoader(
        Subset(loader.dataset, numbers),
        collate_fn=loader.collate_fn,
        num_workers=loader.num_workers if numbers else 0,
        pin_memory=loader.pin_memory,
    )
