"""Outputs of frozen networks, kept on disk by image, and what reads them in the networks' place."""

from ctsr_lightning.cache.cached_prompt import CachedPrompt
from ctsr_lightning.cache.cached_teacher import CachedTeacher
from ctsr_lightning.cache.store import OutputCache

__all__ = ("CachedPrompt", "CachedTeacher", "OutputCache")
