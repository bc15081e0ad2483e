"""What a time grid refuses: times that do not decrease, are not finite or lie outside the span of the diffusion."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

import stepsmith
from stepsmith.errors import InputError

MOST_STEPS = 1_000_000
SLACK = 1e-12  # an end given in decimal may miss the end of the span by a rounding


def refusal(key: str, what: str, fix: str) -> InputError:
    return InputError(where="-", key=key, what=what, fix=fix)


def check_positive(key: str, value: float) -> None:
    if not (isinstance(value, int | float | np.number) and np.isfinite(value) and value > 0):
        raise refusal(key, f"{value!r} is not a positive number", f"give {key} > 0")


def numbers(times: Any) -> torch.Tensor:
    """A private float64 copy on the CPU of at least two numbers, or the refusal."""
    try:
        values = times if isinstance(times, torch.Tensor) else torch.as_tensor(np.array(times, dtype=np.float64))
        values = values.detach().to("cpu", torch.float64, copy=True)
    except (TypeError, ValueError, RuntimeError) as error:
        raise refusal("grid", f"these are not times ({error})", "give a sequence of numbers") from None
    if values.dim() != 1 or values.shape[0] < 2:
        raise refusal("grid", f"the times have shape {tuple(values.shape)}", "give a sequence of at least two times")
    return values


def checked(times: Any) -> torch.Tensor:
    """Such a copy of finite numbers that decrease strictly, or the refusal."""
    values = numbers(times)
    bad = ~torch.isfinite(values)
    if bad.any():
        at = int(bad.nonzero()[0])
        raise refusal("grid", f"time {at} is {values[at].item()}", "every time must be finite")
    rising = values.diff() >= 0
    if rising.any():
        at = int(rising.nonzero()[0])
        pair = f"{values[at].item()!r}, {values[at + 1].item()!r}"
        raise refusal(
            "grid", f"times {at} and {at + 1} ({pair}) do not decrease", "times run down from noise to data, each once"
        )
    return values


def diffusion(sde: Any) -> Any:
    """A diffusion from its name, its file or its spec; itself if it is one."""
    return sde if hasattr(sde, "time") else stepsmith.load_sde(sde)


def checked_ends(sde: Any, steps: int, start: float | None, end: float) -> tuple[float, float]:
    """The checked pair (start, end); start defaults to the end of the SDE's time span."""
    if not isinstance(steps, (int, np.integer)) or isinstance(steps, bool) or not 1 <= steps <= MOST_STEPS:
        raise refusal(
            "steps", f"{steps!r} steps cannot be taken", f"give a whole number, 1 or more and at most {MOST_STEPS}"
        )
    sde = diffusion(sde)
    start = sde.time[1] if start is None else start
    for key, value in (("start", start), ("end", end)):
        try:
            finite = np.isfinite(float(value))
        except (TypeError, ValueError):
            finite = False
        if not finite:
            raise refusal(key, f"{value!r} is not a time", "give a finite number")
    start, end = float(start), float(end)
    if not end < start:
        raise refusal("end", f"{end:g} is not below the start {start:g}", "a grid runs down from start to end")
    check_span(sde, start, end)
    return start, end


def check_span(sde: Any, start: float, end: float, key: str | None = None) -> None:
    """Refuse what does not lie in (t_min, t_max] of the SDE; at t_min the score of a data set is not defined."""
    sde = diffusion(sde)
    low, high = (float(bound) for bound in sde.time)
    span = f"({low:g}, {high:g}] of {sde.name}"
    if start > high + SLACK * max(1.0, abs(high)) and not getattr(sde, "open", False):
        raise refusal(key or "start", f"{start!r} is outside the time span {span}", f"start at {high:g} or below")
    if end <= low:
        raise refusal(
            key or "end", f"{end!r} is outside the time span {span}", f"end above {low:g}, say at {low + 1e-3:g}"
        )
