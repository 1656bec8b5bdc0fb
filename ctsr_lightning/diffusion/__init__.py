"""Noise schedules, parametrizations and samplers: torch only, no networks."""

from ctsr_lightning.diffusion.schedule import NoiseSchedule, ResShiftSchedule, structure_steps

__all__ = ("NoiseSchedule", "ResShiftSchedule", "structure_steps")
