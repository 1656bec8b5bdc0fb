"""Names in tables, logs and folders of results."""

BICUBIC, FAITHFUL, REALISTIC = "bicubic", "T_f", "T_r"
"""Baselines."""
INPUT = "input"
"""What bicubic enlargement is called at scale 1, where it changes nothing."""
CTSR, BLEND = "CTSR", f"{FAITHFUL}/{REALISTIC} blend"
"""Curves: the model's over t where it has no other name, and the blend of its teachers."""
OWN_ENDS = "'s own ends"
"""End of the name of a curve: the blend of a model's own images at t = 0 and t = 1."""
IN_STEPS = " in steps"
"""End of the name of a curve: a model with a slider at numbers of steps."""
GROUND_TRUTH = "ground truth"
"""The ground truth's own values."""
GRID = "grid_energy"
"""The metric that depends on the model's codec."""
PER_IMAGE = "per_image.csv"
"""Name of the file with the values of each image."""


def unrestored_label(scale: int) -> str:
    """How the enlarged input is called: `bicubic`, or `input` at scale 1."""
    return BICUBIC if scale > 1 else INPUT


def control_label(control: float) -> str:
    """How a control value is written everywhere: `t=0.25`, with more digits only where two lose some."""
    text = f"{control:.2f}"
    return f"t={text if float(text) == control else format(control, 'g')}"
