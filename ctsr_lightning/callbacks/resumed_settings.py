"""Settings of optimizer and schedule in a resumed training: those of its configuration, not of its checkpoint."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from torch.optim import Optimizer

_PLAIN = (bool, int, float, str, tuple, list, type(None))


def put_in_force(checkpoint: Mapping[str, Any], optimizers: Sequence[Optimizer], schedules: Sequence[Any]) -> list[str]:
    """Put the configured learning rates, other settings of optimizers, and lengths of schedules into a checkpoint.

    What is equal stays as it is, to the bit. A learning rate that a schedule has moved is moved alike: with twice the
    configured rate, the training goes on at twice the rate. States, such as Adam's moments, are kept.

    Args:
        checkpoint: A checkpoint that a training is about to be resumed from, changed in place.
        optimizers: The configured optimizers, as they were made.
        schedules: The configured schedules, as they were made.

    Returns:
        What was changed, in words.

    Raises:
        ValueError: If optimizer or schedule are of another kind.
    """
    notes: list[str] = []
    for saved, optimizer in zip(checkpoint["optimizer_states"], optimizers, strict=True):
        groups = saved["param_groups"]
        kind = type(optimizer).__name__
        if len(groups) != len(optimizer.param_groups):
            raise _other(f"{len(groups)} groups of parameters", f"{len(optimizer.param_groups)}")
        for group, own in zip(groups, optimizer.param_groups, strict=True):
            if group.keys() != own.keys():
                settings = sorted(group.keys() - {"params", "initial_lr"})
                raise _other(f"an optimizer with the settings {', '.join(settings)}", kind)
            if len(group["params"]) != len(own["params"]):
                raise _other(f"an optimizer of {len(group['params'])} parameters", str(len(own["params"])))
            _follow_group(group, own, notes)
    saved_schedules = checkpoint["lr_schedulers"]
    if len(saved_schedules) != len(schedules):
        raise _other(f"{len(saved_schedules)} schedules of the learning rate", str(len(schedules)))
    for saved, schedule in zip(saved_schedules, schedules, strict=True):
        _follow_schedule(saved, schedule, checkpoint["optimizer_states"][0]["param_groups"], notes)
    return list(dict.fromkeys(notes))


def _follow_group(group: dict[str, Any], own: Mapping[str, Any], notes: list[str]) -> None:
    """Take a group's settings from the configuration."""
    before, now = group.get("initial_lr", group["lr"]), own.get("initial_lr", own["lr"])
    if before != now:
        group["lr"] = group["lr"] * (now / before) if "initial_lr" in group and before else now
        if "initial_lr" in group:
            group["initial_lr"] = now
        notes.append(f"learning rate {now:g} for {before:g}")
    for name in group.keys() - {"params", "lr", "initial_lr"}:
        if isinstance(own[name], _PLAIN) and group[name] != own[name]:
            notes.append(f"{name} {own[name]} for {group[name]}")
            group[name] = own[name]


def _follow_schedule(saved: dict[str, Any], schedule: Any, groups: list[dict[str, Any]], notes: list[str]) -> None:
    """Take a schedule's peaks and the arguments that it was made with from the configuration."""
    now = schedule.state_dict()
    if saved.keys() != now.keys():
        raise _other(f"a schedule that keeps {', '.join(sorted(saved))}", type(schedule).__name__)
    changed = False
    arguments = set(inspect.signature(type(schedule).__init__).parameters) - {"optimizer", "last_epoch"}
    for name in sorted(arguments & saved.keys()):
        if isinstance(now[name], _PLAIN) and saved[name] != now[name]:
            notes.append(f"{name} {now[name]} for {saved[name]}")
            saved[name], changed = now[name], True
    if "base_lrs" in saved and saved["base_lrs"] != now["base_lrs"]:
        saved["base_lrs"], changed = now["base_lrs"], True
    factor = getattr(schedule, "factor", None)
    if changed and factor is not None:  # WarmupCosine, whose rate at a step is known from its arguments alone
        for group, peak in zip(groups, saved["base_lrs"], strict=True):
            group["lr"] = peak * factor(saved["last_epoch"])
    saved["_last_lr"] = [group["lr"] for group in groups] if changed else saved["_last_lr"]


def _other(there: str, here: str) -> ValueError:
    return ValueError(
        f"Expected the optimizer and schedule that the checkpoint was written with, {there}, found {here}. Resume with "
        "these, or begin a new training from the checkpoint's weights by `weights:` of the network."
    )
