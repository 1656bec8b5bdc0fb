"""The small model that comes with the package: trained, packed, measured, described."""
