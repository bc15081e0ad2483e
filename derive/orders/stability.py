"""Stability and conditioning of a step on Gaussian data: numbers, not claims about trained networks.

For data N(0, S0) the exact network is linear, so a step without its noise is z' = A z, and the exact dynamics too:

    z(t1) = E z(t0),   dE/dt = (F + w G G^T S^-1) E,   S_t = Sigma_t + S0 Psi e e^T Psi^T,   w = 1/2 (flow) or 1 (reverse SDE)

(with w = 1 it is the mean that follows E).  What is told: the spectral radius of A against that of E, the largest step from a
time that does not amplify more than the exact dynamics do, the condition of the factor of Sigma (the frame), and that of E.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import flint
import numpy as np

from stepsmith.errors import Unsupported

from ..program import UNIT, Evaluate, Normal, StepProgram
from ..reference import reference


@dataclass(frozen=True)
class Amplification:
    """One step t0 -> t1: spectral radii of the numerical and the exact map, condition of the exact one and of the frame."""

    t0: float
    t1: float
    radius: float
    exact: float
    condition: float
    frame: float


@dataclass(frozen=True)
class Stability:
    """``steps`` on a grid; ``largest`` holds (time, largest stable step from there, or None where every step tried is)."""

    variance: float
    steps: tuple[Amplification, ...]
    largest: tuple[tuple[float, float | None], ...]

    def told(self) -> dict[str, Any]:
        return {
            "data_variance": self.variance, "steps": [vars(step) for step in self.steps],
            "largest_stable_step": [{"t": t, "h": h} for t, h in self.largest],
        }  # fmt: skip

    def lines(self) -> list[str]:
        """What ``stepsmith error`` prints."""
        if not self.steps:
            return []
        head = f"data N(0, {self.variance:g}): spectral radius of a step (exact), condition of the step and of the frame"
        rows = [
            f"    t = {s.t0:.4g} -> {s.t1:.4g}: {s.radius:.4f} ({s.exact:.4f}), {s.condition:.3g}, {s.frame:.3g}"
            for s in self.steps
        ]
        if not self.largest:
            return [head, *rows]
        found = ", ".join(f"{'any' if h is None else f'{h:.3g}'} from t = {t:.4g}" for t, h in self.largest)
        return [head, *rows, f"    largest stable step: {found}"]


def stability(method: Any, variance: float = 0.25, steps: int = 50, times: Sequence[float] | None = None) -> Stability:
    """The stability of the common step on data N(0, variance), on a quadratic grid of so many steps.

    ``times`` are those looked at (a tenth, half and nine tenths of the span by default).  Raises Unsupported for several data
    blocks and for a network whose linear form is not known.
    """
    low, high = (float(end) for end in method.sde.time)
    chosen = tuple(times) if times is not None else tuple(low + (high - low) * part for part in (0.8, 0.5, 0.1))
    probe = Linear(method, variance)
    found = []
    for t0 in chosen:
        u = ((t0 - low) / (high - low)) ** 0.5
        t1 = low + (high - low) * max(u - 1 / steps, 0.5 / steps) ** 2
        found.append(probe.amplification(t0, min(t1, t0 - (high - low) * 1e-4)))
    alone = not method.program.history  # a long step has no room for equal steps before it
    return Stability(variance, tuple(found), tuple((t0, probe.largest(t0)) for t0 in chosen) if alone else ())


def curves(method: Any, variance: float = 0.25, points: int = 12) -> list[tuple[float, list[float], list[float], list[float]]]:
    """(t0, step lengths, spectral radii of the step, exact radii) from three times, for a plot.  One-step methods only."""
    if method.program.history:
        raise Unsupported(f"{method.name} has a history, which long steps leave no room for", "plot a one-step method")
    probe, found = Linear(method, variance), []
    low, high = (float(end) for end in method.sde.time)
    for t0 in (low + (high - low) * part for part in (0.8, 0.5, 0.1)):
        lengths = [(t0 - low) * 0.97 * 10 ** (-2 + 2 * k / (points - 1)) for k in range(points)]
        maps = [(probe.step(t0, t0 - h), probe.flow(t0, t0 - h)) for h in lengths]
        radii = [[float(np.abs(np.linalg.eigvals(M)).max()) for M in pair] for pair in maps]
        found.append((t0, lengths, [a for a, _ in radii], [b for _, b in radii]))
    return found


@dataclass(frozen=True, eq=False)
class Linear:
    """A method and the exact linear network of N(0, variance)."""

    method: Any
    variance: float

    @cached_property
    def view(self) -> Any:
        sde = self.method.sde
        if len(sde.data) != 1 or sde.field:
            raise Unsupported(f"stability of {sde.name} is not derived", "take a diffusion with one data block and no field")
        return sde.at()

    @cached_property
    def exact_reference(self) -> Any:
        return reference(self.method, dict(self.method.params))

    def law(self, t: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Psi e, Sigma and S at a time."""
        start = float(self.method.sde.time[0])
        column = self.view.transition(t, start)[:, self.method.sde.data[0]]
        sigma = self.view.covariance(t)
        return column, sigma, sigma + self.variance * np.outer(column, column)

    def outputs(self, inputs: np.ndarray, told: float) -> np.ndarray:
        """The network's outputs, rows of maps of the state, for inputs (rows of maps) and the time it is told."""
        kind, d = self.method.network, self.variance
        if kind == "denoiser":
            return d / (d + told**2) * inputs
        if kind == "edm":
            sigma, s2 = np.exp(4 * told), self.method.params["sigma_data"] ** 2
            gain = d / (d + sigma**2) - s2 / (sigma**2 + s2)
            return gain * (sigma**2 + s2) / (sigma * np.sqrt(s2)) * inputs
        column, sigma, S = self.law(told)
        inverse = np.linalg.inv(S)
        if kind == "score":
            return -inverse @ inputs
        if kind == "x0":
            return d * (column @ inverse)[None, :] @ inputs
        if kind in ("eps-L", "eps-U", "v"):
            root = self.view.factor(told, "upper" if kind == "eps-U" else "lower")
            eps = root.T @ inverse @ inputs
            return eps if kind != "v" else column[0] * eps - np.sqrt(sigma[0, 0]) * d * column[0] * inverse[0, 0] * inputs
        raise Unsupported(f"the linear form of a {kind} network is not known here", "use denoiser, score, x0, eps-L or v")

    def step(self, t0: float, t1: float) -> np.ndarray:
        """A of (z', history') = A (z, history) + noise, equal steps before it."""
        program: StepProgram = self.method.program
        values = iter(self._row(t0, t1, [e for op in program.ops for e in _coefficients(op)]))
        n, width = self.method.sde.n, self.method.sde.n + len(program.history)
        zero = np.zeros((1, width))
        maps = {name: np.eye(width)[i : i + 1] for i, name in enumerate((*program.components[:n], *program.history))}
        maps |= dict.fromkeys((*program.components[n:], UNIT), zero)
        for op in program.ops:
            if isinstance(op, Normal):
                maps[op.output] = zero
            elif isinstance(op, Evaluate):
                made = self.outputs(np.concatenate([maps[name] for name in op.inputs])[:n], next(values))
                maps.update({name: made[i : i + 1] for i, name in enumerate(op.outputs)})
            else:
                maps[op.output] = sum((next(values) * maps[name] for _, name in op.terms), zero)
        return np.concatenate([maps[name] for name in (*program.result[:n], *program.carry)])

    def _row(self, t0: float, t1: float, exprs: list[Any]) -> list[float]:
        """Coefficients of the common step, with rows enough around it to be common."""
        h, low = t0 - t1, float(self.method.sde.time[0])
        before = max(len(self.method.warmup), 3 if self.method.program.history else 0)
        times = [t0 + k * h for k in range(before, 0, -1)] + [t0, t1]
        times += [low + (t1 - low) * 0.5**k for k in range(1, 2 + len(self.method.ending))]
        return [float(value.mid()) for value in self.exact_reference.scalars([flint.arb(t) for t in times], before, exprs)]

    def flow(self, t0: float, t1: float, parts: int = 16) -> np.ndarray:
        """E, by the classical Runge-Kutta method."""
        weight = 1.0 if self.method.sampler.target == "sde" else 0.5
        E, h = np.eye(self.method.sde.n), (t1 - t0) / parts
        for k in range(parts):
            t = t0 + k * h
            a = self._rate(t, weight) @ E
            b = self._rate(t + h / 2, weight) @ (E + h / 2 * a)
            c = self._rate(t + h / 2, weight) @ (E + h / 2 * b)
            d = self._rate(t + h, weight) @ (E + h * c)
            E = E + h / 6 * (a + 2 * b + 2 * c + d)
        return E

    def _rate(self, t: float, weight: float) -> np.ndarray:
        _, _, S = self.law(t)
        sde, now = self.method.sde, flint.arb(t)
        F, V = (np.array([[float(e[0].mid()) for e in row] for row in self.view.jets(M, now, 1)]) for M in (sde.F, sde.GG))
        return F + weight * V @ np.linalg.inv(S)

    def amplification(self, t0: float, t1: float) -> Amplification:
        A, E = self.step(t0, t1), self.flow(t0, t1)
        radius, exact = (float(np.abs(np.linalg.eigvals(M)).max()) for M in (A, E))
        frame = np.linalg.cond(np.linalg.cholesky(self.law(t0)[1]))
        return Amplification(t0, t1, radius, exact, float(np.linalg.cond(E)), float(frame))

    def largest(self, t0: float) -> float | None:
        """The largest of a ladder of steps from t0, each 3/2 of the one before, before the first that amplifies too much."""
        low = float(self.method.sde.time[0])
        h, best = (t0 - low) * 1e-2, 0.0
        while h < (t0 - low) * 0.98:
            A, E = self.step(t0, t0 - h), self.flow(t0, t0 - h)
            if np.abs(np.linalg.eigvals(A)).max() > max(1.0, np.abs(np.linalg.eigvals(E)).max()) * (1 + 1e-9):
                return best
            best, h = h, h * 1.5
        return None


def _coefficients(op: Any) -> list[Any]:
    """The host expressions of an operation, in the order in which the step reads them."""
    return [op.time] if isinstance(op, Evaluate) else [c for c, _ in getattr(op, "terms", ())]
