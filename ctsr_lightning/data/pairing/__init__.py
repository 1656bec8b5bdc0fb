"""Pairs of low-quality and ground-truth files."""
