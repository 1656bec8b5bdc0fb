"""Where weights, published numbers and photographs lie that the repository does not hold."""

from pathlib import Path

SHARED = Path(__file__).resolve().parents[3] / "shared"
"""The folder beside the checkout; tests that need it are marked `reference` and skipped without it."""
