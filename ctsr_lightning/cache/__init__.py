"""Outputs of frozen networks, kept on disk by image, and what reads them in the networks' place."""

from ctsr_lightning.cache.prompt import CachedPrompt
from ctsr_lightning.cache.store import Answers
from ctsr_lightning.cache.teacher import CachedTeacher

__all__ = ("Answers", "CachedPrompt", "CachedTeacher")
