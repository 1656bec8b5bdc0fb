"""Models with what no control changes, one random start and an image at every control."""
