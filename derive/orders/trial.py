"""The reference problem that schemes are ranked on: two Gaussian modes in the data, exact score, numbers instead of series.

Data x_0 = +-1 (weights 2/5, 3/5) with standard deviation 1/5, the other blocks as the diffusion starts them; the probability flow
is run from 512 states of the law at the end of the span to a hundredth of it, on a quadratic grid; the error of a scheme is
the median over the states of the distance in the data block to a fine solution from the same states.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import sympy as sp

from ..sampler.sampler import load_sampler
from ..sampler.split import bind

MODES = ((-1.0, 0.4), (1.0, 0.6))
SPREAD = 0.2
STATES = 512
FINE = 2000  # steps of the fine solution, by the classical Runge-Kutta method


@dataclass(frozen=True, eq=False)
class Trial:
    """The law at any time, the parts of the drift and the states to start from."""

    n: int
    data: int
    span: tuple[float, float]
    law: Callable[[float], tuple[np.ndarray, np.ndarray]]
    parts: dict[str, tuple[Callable[[float], Any], Callable[[float], Any]]]
    start: np.ndarray

    def score(self, z: np.ndarray, t: float) -> np.ndarray:
        """grad log p_t at z, (n, states)."""
        psi, sigma = self.law(t)
        column = psi[:, self.data]
        inverse = np.linalg.inv(sigma + SPREAD**2 * np.outer(column, column))
        pulls = [inverse @ (mean * column[:, None] - z) for mean, _ in MODES]
        logs = np.array(
            [
                np.log(w) - 0.5 * ((mean * column[:, None] - z) * p).sum(0)
                for (mean, w), p in zip(MODES, pulls, strict=True)
            ]
        )
        weights = np.exp(logs - logs.max(0))
        weights /= weights.sum(0)
        return sum(w * p for w, p in zip(weights, pulls, strict=True))

    def drift(self, letter: str, seen: np.ndarray, score: np.ndarray, t: float) -> np.ndarray:
        linear, gain = (np.asarray(f(t), dtype=float).reshape(self.n, self.n) for f in self.parts[letter])
        return linear @ seen + gain @ score

    def slope(self, z: np.ndarray, t: float) -> np.ndarray:
        """dz/dtau of the probability flow."""
        return self.drift("E", z, self.score(z, t), t)

    @cached_property
    def end(self) -> np.ndarray:
        """Where the states end."""
        z = self.start
        for t0, t1 in itertools.pairwise(times(self.span, FINE)):
            h, middle = t0 - t1, (t0 + t1) / 2
            a = self.slope(z, t0)
            b = self.slope(z + h / 2 * a, middle)
            c = self.slope(z + h / 2 * b, middle)
            d = self.slope(z + h * c, t1)
            z = z + h / 6 * (a + 2 * b + 2 * c + d)
        return z


def parts_of(sde: Any) -> dict[str, tuple[Any, Any]]:
    """What a letter multiplies the state and the score by: E, of several blocks A and B."""
    texts = ("E!", "A! B") if sde.n > 1 else ("E!",)
    return {letter: (p.linear, p.score) for text in texts for letter, p in bind(load_sampler(text), sde).items()}


def trial(sde: Any, derived: Any) -> Trial:
    """The problem on a diffusion with one data block, at its default parameters."""
    view = sde.at()
    high = float(sde.time[1])
    low = float(sde.time[0]) + (high - float(sde.time[0])) / 100
    if sde.schedule is not None:
        high = float(sde.time[0]) + (high - float(sde.time[0])) * 0.99
    known: dict[float, tuple[np.ndarray, np.ndarray]] = {}

    def law(t: float) -> tuple[np.ndarray, np.ndarray]:
        if t not in known:
            known[t] = view.transition(t, float(sde.time[0])), view.covariance(t)
        return known[t]

    parts = {letter: (_function(sde, linear), _function(sde, gain)) for letter, (linear, gain) in parts_of(sde).items()}
    psi, sigma = law(high)
    column, rng = psi[:, sde.data[0]], np.random.default_rng(0)
    means = rng.choice([m for m, _ in MODES], p=[w for _, w in MODES], size=STATES)
    root = np.linalg.cholesky(sigma + SPREAD**2 * np.outer(column, column))
    start = means * column[:, None] + root @ rng.standard_normal((sde.n, STATES))
    return Trial(sde.n, sde.data[0], (high, low), law, parts, start)


def _function(sde: Any, M: sp.Matrix) -> Callable[[float], Any]:
    values = {sp.Symbol(k, real=True): sp.Float(v) for k, v in sde.params.items()}
    return sp.lambdify(sp.Symbol("t", real=True), sde.written_out(sp.Matrix(M)).subs(values), "numpy")


def times(span: tuple[float, float], steps: int) -> np.ndarray:
    """The quadratic grid (runtime/grid.py)."""
    high, low = span
    return low + (high - low) * (1 - np.arange(steps + 1) / steps) ** 2


def error_of(scheme: Any, problem: Trial, budget: int) -> float:
    """The median error in the data block of a run with at most ``budget`` calls."""
    z, grid = problem.start, times(problem.span, max(1, budget // scheme.calls))
    for t0, t1 in itertools.pairwise(grid):
        z = stepped(scheme, problem, z, t0, t1)
        if not np.isfinite(z).all() or np.abs(z).max() > 1e12:
            return float("inf")
    return float(np.median(np.abs(z - problem.end)[problem.data]))


def stepped(scheme: Any, problem: Trial, z: np.ndarray, t0: float, t1: float) -> np.ndarray:
    """One step of a scheme."""
    h = t0 - t1
    at = lambda c: t0 if c == 0 else t1 if c == 1 else t0 - float(c) * h  # noqa: E731

    def push(state: np.ndarray, term: Any, seen: np.ndarray, score: np.ndarray) -> np.ndarray:
        return state + float(term.weight) * h * problem.drift(term.letter, seen, score, at(term.at))

    return scheme.run(z, lambda state, time: problem.score(state, at(time)), push)
