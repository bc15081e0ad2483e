"""The roots of an increasing function: where it takes given levels, all levels at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np


def invert_increasing(
    function: Callable[[np.ndarray], np.ndarray], levels: Any, low: float, high: float, nodes: int = 17
) -> np.ndarray:
    """t in [low, high] with function(t) = level, for all levels at once, to about two units in the last place of t.

    ``function`` maps a float64 array to one of its shape, is positive and increases strictly. A table of ``nodes``
    values brackets every level; Chandrupatla's method (1997: inverse quadratic interpolation where it is safe, else
    bisection) on log function closes the brackets, always keeping them, in some six more values a level.
    """
    levels = np.asarray(levels, dtype=np.float64)
    table = low + (high - low) * (np.arange(nodes) / (nodes - 1)) ** 2
    table[-1] = high
    height = np.log(np.asarray(function(table), dtype=np.float64))
    goal = np.log(levels)
    cell = np.clip(np.searchsorted(height, goal), 1, nodes - 1)
    a, b = table[cell], table[cell - 1]
    fa, fb = height[cell] - goal, height[cell - 1] - goal
    share = np.full(levels.shape, 0.5)
    active = (fa != 0) & (fb != 0)
    for _ in range(2200):  # bisection alone would need 60 in most spans, and 2100 over all of float64
        if not active.any():
            break
        at = np.flatnonzero(active)
        x = a[at] + share[at] * (b[at] - a[at])
        fx = np.log(np.asarray(function(x), dtype=np.float64)) - goal[at]
        same = np.sign(fx) == np.sign(fa[at])
        c, fc = np.where(same, a[at], b[at]), np.where(same, fa[at], fb[at])
        b[at], fb[at] = np.where(same, b[at], a[at]), np.where(same, fb[at], fa[at])
        a[at], fa[at] = x, fx
        least = 2 * np.finfo(np.float64).eps * np.abs(x) / np.abs(b[at] - x)
        share[at] = np.clip(_interpolated(x, b[at], c, fx, fb[at], fc), least, 1 - least)
        active[at] = (fx != 0) & (least < 0.5)
    return np.where(np.abs(fa) <= np.abs(fb), a, b)


def _interpolated(
    a: np.ndarray, b: np.ndarray, c: np.ndarray, fa: np.ndarray, fb: np.ndarray, fc: np.ndarray
) -> np.ndarray:
    """Where between a (0) and b (1) the inverse parabola through the three points crosses zero; 1/2 where it is not
    safe."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        xi, phi = (a - b) / (c - b), (fa - fb) / (fc - fb)
        safe = (phi**2 < xi) & ((1 - phi) ** 2 < 1 - xi)
        share = fa / (fb - fa) * fc / (fb - fc) + (c - a) / (b - a) * fa / (fc - fa) * fb / (fc - fb)
    return np.where(safe & np.isfinite(share), share, 0.5)
