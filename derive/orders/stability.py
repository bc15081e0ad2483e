"""Stability and conditioning of a step on Gaussian data: numbers, not claims about trained networks.

For data N(0, S0) the exact network is linear, so a step without its noise is z' = A z, and the exact dynamics too:

    z(t1) = E z(t0),   dE/dt = (F + w G G^T S^-1) E,   S_t = Sigma_t + S0 Psi e e^T Psi^T,   w = 1/2 (flow) or 1 (reverse SDE)

(with w = 1 it is the mean that follows E).  Reported are the spectral radius of A beside that of E, the largest stable step
from a time, the condition of the factor of Sigma (the frame), and that of E.

A step is stable if the spectral radius of A is at most that of E or at most 1, to SLACK.  Stability need not be monotone in the
length of a step, so the largest stable step from t0 is the largest h such that every shorter step is stable too.  It is found by
trying POINTS lengths, h_k = H (k / POINTS)^2, up to the first that is not stable, and bisecting between that and the one before.
H is the longest step tried: it ends NEAREST of the way to the start of the span, and is printed as "at least H" if no step fails.
An interval of instability narrower than the distance of two lengths may be missed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import flint
import numpy as np
import sympy as sp

from stepsmith.errors import Unsupported

from ..maths.balls import floats, terms_of
from ..program import UNIT, Evaluate, Moments, Normal, StepProgram
from ..program.meaning import moments
from ..proofs.reading import BallReading
from ..proofs.reference import reference
from ..sampler.network import kind_of, scalar

SLACK = 1e-9  # relative; the radius of a step in which nothing decays is 1 up to rounding
POINTS = 24
NEAREST = 1e-3
PLACES = (0.8, 0.5, 0.1)  # of the span, where steps begin
SHORTEST = 1e-6  # of H: no step is tried below this
TIGHT = 1e-4  # relative width of the final bracket


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
class Limit:
    """The largest stable step ``h`` from a time ``t``, 0 where the shortest step tried is not stable.

    ``bracketed``: a step longer by TIGHT is not stable.  Otherwise every step tried is stable, and ``h`` is the longest.
    """

    t: float
    h: float
    bracketed: bool

    def __str__(self) -> str:
        """``h`` to three digits, rounded down, so that the step printed is stable."""
        if self.h == 0:
            return f"none found from t = {self.t:.4g}"
        unit = 10.0 ** (math.floor(math.log10(self.h)) - 2)
        length = f"{math.floor(self.h / unit + 1e-9) * unit:.3g}"
        return f"{length if self.bracketed else f'at least {length}'} from t = {self.t:.4g}"


@dataclass(frozen=True)
class Stability:
    """``steps`` on a grid, and the ``largest`` stable step from each of their times (none for a method with a history)."""

    variance: float
    steps: tuple[Amplification, ...]
    largest: tuple[Limit, ...]

    def record(self) -> dict[str, Any]:
        return {
            "data_variance": self.variance, "steps": [vars(step) for step in self.steps],
            "largest_stable_step": [vars(limit) for limit in self.largest],
        }  # fmt: skip

    def lines(self) -> list[str]:
        """What ``stepsmith error`` prints."""
        if not self.steps:
            return []
        head = f"stability on data N(0, {self.variance:g}), with their exact network:"
        rows = [
            f"    step t = {s.t0:.4g} -> {s.t1:.4g}: spectral radius {s.radius:.4f}, of the exact step {s.exact:.4f}; "
            f"condition number {s.condition:.3g}, of the factor of the covariance {s.frame:.3g}"
            for s in self.steps
        ]
        if not self.largest:
            return [head, *rows]
        return [head, *rows, f"    largest stable step: {', '.join(map(str, self.largest))}"]


def stability(method: Any, variance: float = 0.25, steps: int = 50) -> Stability:
    """The stability of the common step on data N(0, variance), on a quadratic grid of so many steps, at three times.

    Raises Unsupported for several data blocks and for a network whose linear form is not known.
    """
    low, high = (float(end) for end in method.sde.time)
    chosen = [low + (high - low) * part for part in PLACES]
    probe = Linear(method, variance)
    found = []
    for t0 in chosen:
        u = ((t0 - low) / (high - low)) ** 0.5
        t1 = low + (high - low) * max(u - 1 / steps, 0.5 / steps) ** 2
        found.append(probe.amplification(t0, min(t1, t0 - (high - low) * 1e-4)))
    alone = not method.program.history  # a long step has no room for equal steps before it
    return Stability(variance, tuple(found), tuple(probe.largest(t0) for t0 in chosen) if alone else ())


def curves(method: Any, variance: float = 0.25, points: int = 12) -> list[tuple[float, list[float], list[float], list[float]]]:
    """(t0, step lengths, spectral radii of the step, exact radii) from three times, for a plot.  One-step methods only."""
    if method.program.history:
        raise Unsupported(f"{method.name} has a history, which long steps leave no room for", "plot a one-step method")
    probe, found = Linear(method, variance), []
    low, high = (float(end) for end in method.sde.time)
    for t0 in (low + (high - low) * part for part in PLACES):
        lengths = [(t0 - low) * (1 - NEAREST) * 10 ** (-2 + 2 * k / (points - 1)) for k in range(points)]
        radii = [(spectral_radius(probe.step(t0, t0 - h)), spectral_radius(probe.flow(t0, t0 - h))) for h in lengths]
        found.append((t0, lengths, [a for a, _ in radii], [b for _, b in radii]))
    return found


def spectral_radius(M: np.ndarray) -> float:
    return float(np.abs(np.linalg.eigvals(M)).max())


@dataclass(frozen=True, eq=False)
class Linear:
    """A method and the exact linear network of N(0, variance)."""

    method: Any
    variance: float

    @cached_property
    def view(self) -> Any:
        sde = self.method.sde
        if len(sde.data) != 1 or sde.field:
            raise Unsupported(
                f"stability of {sde.name} is not derived", "take a diffusion with one data block and no field"
            )
        return sde.at()

    @cached_property
    def exact_reference(self) -> Any:
        """Coefficients to about 1e-13: a radius needs no more, and a proof's 400 bits take ten times as long."""
        return reference(self.method, dict(self.method.params), terms=24, precision=128, accuracy=60)

    def law(self, t: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Psi e, Sigma and S at a time."""
        start = float(self.method.sde.time[0])
        column = self.view.transition(t, start)[:, self.method.sde.data[0]]
        sigma = self.view.covariance(t)
        return column, sigma, sigma + self.variance * np.outer(column, column)

    def outputs(self, inputs: np.ndarray, time: float) -> np.ndarray:
        """The network's outputs, rows of maps of the state, for inputs (rows of maps) and the time that it is given."""
        network, d = self.method.network, self.variance
        kind = kind_of(network)
        if kind.bridge and kind.predicts == "data":
            return d / (d + time**2) * inputs
        if kind.bridge:
            sigma, s2 = np.exp(4 * time), self.method.params["sigma_data"] ** 2
            gain = d / (d + sigma**2) - s2 / (sigma**2 + s2)
            return gain * (sigma**2 + s2) / (sigma * np.sqrt(s2)) * inputs
        column, sigma, S = self.law(time)
        inverse = np.linalg.inv(S)
        if kind.predicts == "score":
            return -inverse @ inputs
        if kind.predicts == "data":
            return d * (column @ inverse)[None, :] @ inputs
        if kind.factor in ("L", "U"):
            root = self.view.factor(time, "upper" if kind.factor == "U" else "lower")
            return root.T @ inverse @ inputs
        if self.method.sde.n == 1 and isinstance(network, str):
            skip, out, _, _ = scalar(
                network, sp.Float(column[0]), sp.sqrt(sp.Float(sigma[0, 0])), sp.Float(time), sp.S.One
            )
            return (-inverse[0, 0] - float(skip)) / float(out) * inputs
        raise Unsupported(
            f"the linear form of a {self.method.network_name} network is not known here",
            "use denoiser, score, x0, eps-L or v",
        )

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
        return [
            float(value.mid()) for value in self.exact_reference.scalars([flint.arb(t) for t in times], before, exprs)
        ]

    def flow(self, t0: float, t1: float) -> np.ndarray:
        """E.  For the reverse SDE, the mean of z(t1) given z(t0): S_t1 Psi(t0, t1)^T S_t0^-1.  For the flow, the propagator of
        a step in the frame of Gaussian data, which freezes nothing."""
        if self.method.sampler.target == "sde":
            return self.law(t1)[2] @ np.linalg.solve(self.law(t0)[2], self.view.transition(t0, t1)).T
        adams, (low, high), exact = self.method.sampler.adams, map(flint.arb, (t1, t0)), self.exact_reference
        skew, zero = adams is not None and adams.skew, sp.S.Zero
        E = Moments(("P", "M"), "gaussian", 0, zero, sp.Rational(self.variance), zero, skew, zero, zero)
        with flint.ctx.workprec(exact.view.precision), terms_of(exact.view.terms):
            return floats(moments(BallReading(exact.view, exact.params, low), E, low, high)[0])

    def amplification(self, t0: float, t1: float) -> Amplification:
        A, E = self.step(t0, t1), self.flow(t0, t1)
        radius, exact = spectral_radius(A), spectral_radius(E)
        frame = np.linalg.cond(np.linalg.cholesky(self.law(t0)[1]))
        return Amplification(t0, t1, radius, exact, float(np.linalg.cond(E)), float(frame))

    def largest(self, t0: float) -> Limit:
        """The largest stable step from t0, as the head of this file defines it."""
        longest = (t0 - float(self.method.sde.time[0])) * (1 - NEAREST)
        stable = 0.0
        for k in range(1, POINTS + 1):
            h = longest * (k / POINTS) ** 2
            if not self.stable(t0, h):
                return Limit(t0, self._bisected(t0, stable, h, longest * SHORTEST), True)
            stable = h
        return Limit(t0, longest, False)

    def _bisected(self, t0: float, stable: float, unstable: float, shortest: float) -> float:
        """The last stable step between a stable one and one that is not, to TIGHT; from 0 by halving, 0 below ``shortest``."""
        while not stable and unstable > shortest:
            if self.stable(t0, unstable / 2):
                stable = unstable / 2
            else:
                unstable /= 2
        while 0 < stable < unstable * (1 - TIGHT):
            middle = (stable + unstable) / 2
            stable, unstable = (middle, unstable) if self.stable(t0, middle) else (stable, middle)
        return stable

    def stable(self, t0: float, h: float) -> bool:
        """Whether a step amplifies at most by 1 or by what the exact dynamics do.

        E carries the covariance S_t0 to S_t1 or less, so its spectral radius is at most the root of the largest eigenvalue of
        S_t0^-1 S_t1.  Above that no integration of E is needed.
        """
        t1 = t0 - h
        radius = spectral_radius(self.step(t0, t1)) / (1 + SLACK)
        if radius <= 1:
            return True
        bound = spectral_radius(np.linalg.solve(self.law(t0)[2], self.law(t1)[2])) ** 0.5
        return radius <= bound and radius <= spectral_radius(self.flow(t0, t1))


def _coefficients(op: Any) -> list[Any]:
    """The host expressions of an operation, in the order in which the step reads them."""
    return [op.time] if isinstance(op, Evaluate) else [c for c, _ in getattr(op, "terms", ())]
