"""Reproduction of the paper in small: run in the project's folder, not part of the installed package."""
