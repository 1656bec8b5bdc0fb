"""Figures of trade-offs: plots, an interactive page, and labelled rows of images."""
