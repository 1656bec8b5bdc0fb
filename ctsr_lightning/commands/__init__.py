"""The commands beside LightningCLI's: thin, typed functions."""
