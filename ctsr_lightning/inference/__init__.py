"""Image in, image out, without a trainer."""
