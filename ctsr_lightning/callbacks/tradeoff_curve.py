"""Plot of the trade-off curve of a controllable module after each validation."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer

from ctsr_lightning.callbacks.evaluation import Evaluation
from ctsr_lightning.callbacks.image_grid import keeps_files, log_folder, publish
from ctsr_lightning.figures.plots import render, tradeoff_figure
from ctsr_lightning.frontier import Axis, Point
from ctsr_lightning.images import write_image


class TradeOffCurve(Callback):
    """Draws what `Evaluation` measured on the perception-distortion plane: t = 0 … 1 as a curve, baselines as marks.

    The picture goes to the logger as `val/tradeoff` and, the latest one, to `tradeoff.png` in the log folder
    (`test/tradeoff` and `tradeoff_test.png` after a test). Modules without a control are left alone.

    Args:
        x: Metric of the horizontal axis, a distortion measure.
        y: Metric of the vertical axis; null for the perceptual distance of `Evaluation`.
    """

    def __init__(self, x: str = "psnr_y", y: str | None = None) -> None:
        self.x, self.y = x, y
        self._folder = Path()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the log folder, and check that what is to be drawn is measured.

        Args:
            trainer: The trainer.
            pl_module: The module.
            stage: The trainer's function.

        Raises:
            ValueError: If there is no `Evaluation` or it lacks a metric.
        """
        self._folder = log_folder(trainer)
        if stage in {"fit", "validate", "test"} and getattr(pl_module, "controllable", False):
            self._axes(self._evaluation(trainer))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the validation's curve."""
        if not trainer.sanity_checking:
            self._draw(trainer, pl_module, "val")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the test's curve."""
        self._draw(trainer, pl_module, "test")

    def _draw(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if not trainer.is_global_zero or not getattr(pl_module, "controllable", False):
            return
        evaluation = self._evaluation(trainer)
        x, y = self._axes(evaluation)
        points = {
            label: Point(label, v[x.name], v[y.name])
            for label, v in evaluation.results.items()
            if x.name in v and y.name in v
        }
        curve = [points.pop(label) for label in evaluation.control_labels]
        title = f"{stage}, step {trainer.global_step}"
        method = str(getattr(pl_module, "method", "CTSR"))
        image = render(tradeoff_figure({method: curve}, list(points.values()), x, y, title))
        publish(trainer, f"{stage}/tradeoff", image)
        if keeps_files(trainer):
            write_image(self._folder / ("tradeoff.png" if stage == "val" else f"tradeoff_{stage}.png"), image)

    def _evaluation(self, trainer: Trainer) -> Evaluation:
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, Evaluation):
                return callback
        raise ValueError("TradeOffCurve draws what Evaluation measures, but there is none: add it to the callbacks.")

    def _axes(self, evaluation: Evaluation) -> tuple[Axis, Axis]:
        vertical = self.y or evaluation.perceptual_name
        if vertical is None:
            raise ValueError(
                "TradeOffCurve needs a perceptual metric: set `perceptual` of Evaluation, or name it as `y`."
            )
        directions = evaluation.higher_is_better
        for name in (self.x, vertical):
            if name not in directions:
                raise ValueError(f"TradeOffCurve is to draw '{name}', but Evaluation measures {sorted(directions)}.")
        return Axis(self.x, directions[self.x] is not False), Axis(vertical, directions[vertical] is not False)
