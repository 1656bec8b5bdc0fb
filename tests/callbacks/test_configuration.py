"""The callbacks are built from YAML as the command line builds them."""

from typing import Any

import pytest
import yaml
from jsonargparse import ArgumentParser
from lightning.pytorch import Callback

from ctsr_lightning import callbacks
from ctsr_lightning.metrics.base import PerceptualDistance
from helpers.evaluation_dummies import Distance


def shared_distance(gain: float = 1.0) -> PerceptualDistance:
    """Build a distance, as `perceptual_distance` does."""
    assert gain == 2.0
    return Distance()


CONFIG = f"""
callbacks:
  - class_path: Evaluation
    init_args:
      metrics:
        luma: {{class_path: ctsr_lightning.metrics.distortion.PSNRY}}
        ssim_y: null
      controls: [0, 0.5, 1]
      perceptual:
        class_path: {__name__}.shared_distance
        init_args: {{gain: 2.0}}
      fid: {{class_path: helpers.evaluation_dummies.Features}}
  - class_path: ImageGrid
    init_args: {{num_images: 2, upsampling: nearest, controls: [0, 1]}}
  - class_path: TradeOffCurve
    init_args: {{x: luma}}
  - class_path: EMA
    init_args: {{decay: 0.99}}
  - class_path: PredictionWriter
    init_args: {{output: somewhere}}
  - class_path: WeightsWriter
  - class_path: LastCheckpoint
    init_args: {{every_n_train_steps: 7}}
  - class_path: MemorySummary
  - class_path: TrainingStatistics
"""


def test_every_callback_is_built_from_yaml() -> None:
    parser = ArgumentParser()
    parser.add_argument("--callbacks", type=list[Callback])
    built: Any = parser.instantiate(parser.parse_object(yaml.safe_load(CONFIG))).callbacks
    assert [type(callback).__name__ for callback in built][:2] == ["Evaluation", "ImageGrid"]
    assert {type(callback).__name__ for callback in built} == set(callbacks.__all__)
    assert set(built[0].higher_is_better) == {"psnr_y", "luma", "edges", "fid_colours"}
    assert built[0].control_labels == ["t=0.00", "t=0.50", "t=1.00"]


def test_a_misspelt_option_is_an_error() -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--callbacks", type=list[Callback])
    with pytest.raises(Exception, match="decya"):
        parser.parse_object({"callbacks": [{"class_path": "EMA", "init_args": {"decya": 0.9}}]})
