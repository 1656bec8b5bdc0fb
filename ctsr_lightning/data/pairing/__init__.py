"""Pairs of images: which file belongs to which."""
