"""The exact law of a linear SDE on a compact span, and its probability flow to float64: what a measurement is held to.

``Law`` samples a numeric view (any number of digits, slow) at Chebyshev nodes of the span and interpolates: on a compact
span Psi, Sigma, the offset, F and G G^T are analytic, so a few dozen nodes give all of float64.  It is a numeric view itself.

``transport`` solves  dz/dt = F z + b - G G^T s(z, t) / 2  from t_a down to t_b: Gragg's modified midpoint rule with Richardson
extrapolation in h^2 (Bulirsch and Stoer; Hairer, Norsett, Wanner, Solving ODEs I, II.9), of order 2 * COLUMNS.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

NODES = 36
COLUMNS = 7  # extrapolation takes 2, 4, ..., 2 COLUMNS substeps of a panel
_MISS = 1e-13  # what the interpolation may miss, of the largest entry
_ROOTS = ("lower", "upper", "gddim")
Rate = Callable[[torch.Tensor, float], torch.Tensor]


@dataclass(frozen=True, eq=False)
class Law:
    """Transition, covariance, offset, factors and rates of an SDE on [low, high], interpolated; results are numpy float64.

    ``transition(t, s)`` and ``offset(t, s)`` know s = the start of the SDE alone.  ``factor(t, "gddim")`` is anchored at
    ``low``: the end of the grid of a measurement.
    """

    sde: Any
    low: float
    high: float
    nodes: np.ndarray  # (NODES,)
    values: dict[str, np.ndarray]  # (NODES, rows, columns)

    @classmethod
    def of(cls, view: Any, low: float, high: float, roots: Sequence[str] = _ROOTS) -> Law:
        """Samples the view and the factors named; ArithmeticError where the interpolation misses it between the nodes."""
        angles = (2 * np.arange(NODES) + 1) * math.pi / (2 * NODES)
        nodes = (low + high) / 2 + (high - low) / 2 * np.cos(angles)
        rows = [_sampled(view, float(t), low, roots) for t in nodes]
        law = cls(view.sde, low, high, nodes, {name: np.array([row[name] for row in rows]) for name in rows[0]})
        for share in (0.013, 0.5081, 0.987):
            t = low + share * (high - low)
            for name, value in _sampled(view, t, low, roots).items():
                if not np.abs(law.value(name, t) - value).max() <= _MISS * max(np.abs(value).max(), 1e-300):
                    raise ArithmeticError(f"{name} of {view.sde.name} is not interpolated on [{low:g}, {high:g}]")
        return law

    @functools.cached_property
    def _weights(self) -> np.ndarray:
        angles = (2 * np.arange(NODES) + 1) * math.pi / (2 * NODES)
        return (-1.0) ** np.arange(NODES) * np.sin(angles)

    def value(self, name: str, t: float) -> np.ndarray:
        """One of the sampled matrices at t, by the barycentric formula."""
        gap = float(t) - self.nodes
        if (gap == 0).any():
            return self.values[name][int(np.argmin(np.abs(gap)))]
        share = self._weights / gap
        return np.tensordot(share / share.sum(), self.values[name], 1)

    def transition(self, t: float, s: float) -> np.ndarray:
        """Psi(t, start), (n, n)."""
        return self.value("transition", t)

    def offset(self, t: float, s: float) -> np.ndarray:
        """o(t, start), (n, m + 1)."""
        return self.value("offset", t)

    def covariance(self, t: float) -> np.ndarray:
        """Sigma_t, (n, n)."""
        return self.value("covariance", t)

    def factor(self, t: float, kind: str = "lower", end: float | None = None) -> np.ndarray:
        """A factor of Sigma_t, (n, n); ``end`` is ``low``."""
        return self.value(kind, t)

    def rates(self, t: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """F (n, n), the terms of the offset (n, m + 1) and G G^T (n, n)."""
        return self.value("drift", t), self.value("source", t), self.value("power", t)


def _sampled(view: Any, t: float, low: float, roots: Sequence[str]) -> dict[str, np.ndarray]:
    first = float(view.sde.time[0])
    drift, source, power = view.rates(t)
    found = {
        "transition": view.transition(t, first), "covariance": view.covariance(t), "offset": view.offset(t, first),
        "drift": drift, "source": source, "power": power,
    }  # fmt: skip
    return found | {kind: view.factor(t, kind, **({"end": low} if kind == "gddim" else {})) for kind in roots}


@dataclass(frozen=True, eq=False)
class Laws:
    """A law on a span that one interpolation cannot bear: ``pieces`` from noise to data, each ending where the next begins.

    Factors are the lower ones alone: gDDIM's would be anchored anew in each piece.
    """

    pieces: tuple[Law, ...]

    @classmethod
    def of(cls, view: Any, times: Sequence[float]) -> Laws:
        """From decreasing times, halved geometrically where one interpolation misses; ArithmeticError where 16 of a piece do."""
        pairs = itertools.pairwise(times)
        return cls(tuple(piece for high, low in pairs for piece in _pieces(view, low, high, 4)))

    @property
    def sde(self) -> Any:
        return self.pieces[0].sde

    @property
    def low(self) -> float:
        return self.pieces[-1].low

    @property
    def high(self) -> float:
        return self.pieces[0].high

    def _at(self, t: float) -> Law:
        return next((piece for piece in self.pieces if t >= piece.low), self.pieces[-1])

    def transition(self, t: float, s: float) -> np.ndarray:
        """Psi(t, start), (n, n)."""
        return self._at(t).transition(t, s)

    def offset(self, t: float, s: float) -> np.ndarray:
        """o(t, start), (n, m + 1)."""
        return self._at(t).offset(t, s)

    def covariance(self, t: float) -> np.ndarray:
        """Sigma_t, (n, n)."""
        return self._at(t).covariance(t)

    def factor(self, t: float, kind: str = "lower", end: float | None = None) -> np.ndarray:
        """The lower Cholesky factor of Sigma_t, (n, n); KeyError for another."""
        return self._at(t).factor(t, kind)


def _pieces(view: Any, low: float, high: float, halvings: int) -> list[Law]:
    try:
        return [Law.of(view, low, high, ("lower",))]
    except ArithmeticError:
        if not halvings:
            raise
    first = float(view.sde.time[0])
    middle = first + math.sqrt((low - first) * (high - first))
    return [*_pieces(view, middle, high, halvings - 1), *_pieces(view, low, middle, halvings - 1)]


def transport(
    law: Law,
    score: Callable[[tuple[torch.Tensor, ...], torch.Tensor], Sequence[torch.Tensor]],
    state: torch.Tensor,
    given: Sequence[torch.Tensor] = (),
    panels: int = 12,
    skew: bool = False,
) -> torch.Tensor:
    """The states (n, ...) at ``law.high`` carried down to ``law.low`` by the probability flow, float64.

    With ``skew`` the drift has Q s more, Q = (g p^T - p g^T)/(2 p^T Sigma^-1 p), g = G G^T Sigma^-1 p, p the mean of z for
    unit data: another map with the same marginals.  ``score(inputs, time)`` takes the n blocks and the ``given`` constant
    components, as a network of kind ``score`` does.
    """
    ones = [*given, torch.ones_like(state[0])]

    def rate(z: torch.Tensor, t: float) -> torch.Tensor:
        F, b, V = (torch.from_numpy(np.ascontiguousarray(M)) for M in law.rates(t))
        s = torch.stack(tuple(score((*z.unbind(0), *given), torch.tensor(t, dtype=torch.float64))))
        M = V / 2 - torch.from_numpy(_skew_matrix(law, t)) if skew else V / 2
        flat = torch.einsum("ij,j...->i...", F, z) - torch.einsum("ij,j...->i...", M, s)
        return flat + torch.einsum("ij,j...->i...", b, torch.stack(ones))

    for k in range(panels):
        start, end = (law.high + (law.low - law.high) * j / panels for j in (k, k + 1))
        state = _extrapolated(rate, state, start, end)
    return state


def _skew_matrix(law: Law, t: float) -> np.ndarray:
    p = law.transition(t, law.low)[:, law.sde.data[0]]
    w = np.linalg.solve(law.covariance(t), p)
    half = np.outer(law.rates(t)[2] @ w, p) / (2 * p @ w)
    return half - half.T


def _extrapolated(rate: Rate, z: torch.Tensor, start: float, end: float) -> torch.Tensor:
    """One panel: T_jk = T_j,k-1 + (T_j,k-1 - T_j-1,k-1) / ((n_j / n_j-k)^2 - 1) over the midpoint rule with n_j substeps."""
    counts = [2 * (j + 1) for j in range(COLUMNS)]
    slope = rate(z, start)
    row: list[torch.Tensor] = []
    for j, count in enumerate(counts):
        last, row = row, [_midpoint(rate, z, slope, start, end, count)]
        for k in range(1, j + 1):
            row.append(row[k - 1] + (row[k - 1] - last[k - 1]) / ((count / counts[j - k]) ** 2 - 1))
    return row[-1]


def _midpoint(rate: Rate, z: torch.Tensor, slope: torch.Tensor, start: float, end: float, count: int) -> torch.Tensor:
    """Gragg's rule without the smoothing step: an even number of substeps."""
    h = (end - start) / count
    before, now = z, z + h * slope
    for i in range(1, count):
        before, now = now, before + 2 * h * rate(now, start + i * h)
    return now
