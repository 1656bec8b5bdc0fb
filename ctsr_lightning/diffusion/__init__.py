"""Noise schedules, parametrizations and samplers: torch only, no networks."""

from ctsr_lightning.diffusion.schedule import NoiseSchedule, ResidualShiftSchedule

__all__ = ("NoiseSchedule", "ResidualShiftSchedule")
