"""What ``stepsmith derive`` prints: the mathematics of a diffusion, each piece derived or its absence explained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import sympy as sp

from stepsmith.errors import Unsupported

from .calculus import t
from .describe import equations
from .sde import LinearSDE


@dataclass(frozen=True)
class Section:
    key: str
    title: str
    text: str
    latex: str


def report(sde: LinearSDE) -> list[Section]:
    """F, G, transition, covariance, stationary law, reverse SDE and probability flow."""
    start = sp.nsimplify(repr(sde.time[0]), rational=True)
    clock = "" if sde.commutes() else "  (F does not commute with itself: the ordered route is taken)"
    flow, reverse = sde.reverse(0), sde.reverse(1)
    return [
        Section("sde", f"{sde.name}: {sde.doc or 'a linear SDE'}{clock}", "\n".join(equations(sde)), _matrices(sde)),
        _section("transition", f"transition Psi(t, {start})", lambda: sde.transition(t, start)),
        _section("covariance", "covariance Sigma(t) given the data", lambda: sde.covariance(t)),
        _section("stationary", "stationary law", sde.stationary),
        _pair("probability_flow", "probability flow dz = (F z + b - A s) dt, A =", flow.score),
        _pair("reverse_sde", "reverse SDE dz = (F z + b - A s) dt + G dw, dt < 0, A =", reverse.score),
    ]


def _matrices(sde: LinearSDE) -> str:
    return f"F = {sp.latex(sde.F_let)}\nG = {sp.latex(sde.G_let)}"


def _pair(key: str, title: str, matrix: sp.Matrix) -> Section:
    return Section(key, title, _entries(matrix), sp.latex(matrix))


def _section(key: str, title: str, make: Callable[[], sp.Matrix]) -> Section:
    try:
        matrix = make()
    except Unsupported as error:
        return Section(key, title, f"not in closed form: {error}", rf"\text{{not in closed form: {error}}}")
    return Section(key, title, _entries(matrix), sp.latex(matrix))


def _entries(matrix: sp.Matrix) -> str:
    rows, columns = matrix.shape
    return "\n".join(f"[{i}][{j}]  {matrix[i, j]}" for i in range(rows) for j in range(columns))
