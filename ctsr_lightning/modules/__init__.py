"""The trainings: both CTSR stages, and those that make the teachers."""

from ctsr_lightning.modules.adversarial_distillation import AdversarialDistillation
from ctsr_lightning.modules.base import RestorationModule, TrainingModule
from ctsr_lightning.modules.codec_training import CodecTraining
from ctsr_lightning.modules.conditional_flow import ConditionalFlow
from ctsr_lightning.modules.detail_training import DetailTraining
from ctsr_lightning.modules.guided_prior import GuidedPrior
from ctsr_lightning.modules.one_step_training import OneStepTraining
from ctsr_lightning.modules.prior_training import PriorTraining
from ctsr_lightning.modules.resshift_training import ResShiftTraining
from ctsr_lightning.modules.stage1 import CTSRStage1
from ctsr_lightning.modules.stage2 import CTSRStage2
from ctsr_lightning.modules.structure_refinement import StructureRefinement
from ctsr_lightning.modules.tunable_flow import TunableFlow

__all__ = (
    "AdversarialDistillation",
    "CTSRStage1",
    "CTSRStage2",
    "CodecTraining",
    "ConditionalFlow",
    "DetailTraining",
    "GuidedPrior",
    "OneStepTraining",
    "PriorTraining",
    "ResShiftTraining",
    "RestorationModule",
    "StructureRefinement",
    "TrainingModule",
    "TunableFlow",
)
