"""What ``stepsmith derive`` prints: the mathematics of a diffusion, each piece derived or its absence explained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import sympy as sp

from stepsmith.errors import Unsupported

from .describe import equations, frequency
from .maths.bounded import small, tame
from .maths.budget import within
from .maths.calculus import exact, t
from .maths.notation import latex
from .sde import closed as kernel
from .sde import offset
from .sde.linear import LinearSDE


@dataclass(frozen=True)
class Section:
    key: str
    title: str
    text: str
    latex: str


MAX_SHOWN = 5000  # nodes of the entries of a section


@within("the report")
def report(sde: LinearSDE) -> list[Section]:
    """F, G, transition, offset, covariance, stationary law, reverse SDE and probability flow."""
    start = exact(sde.time[0])
    clock = "" if sde.commutes() else "  (F does not commute with itself: the ordered route is taken)"
    heads = [f"{name} = {expr}" for name, expr in sde.let.items()]
    heads += [frequency(sde)] if sde.field else []
    flow = "dz = (F z + b - A s)"
    where = rf"F = {latex(sde.F_let)}" + "\n" + rf"G = {latex(sde.G_let)}"
    return [
        Section("sde", f"{sde.name}: {sde.doc or 'a linear SDE'}{clock}", "\n".join([*equations(sde), *heads]), where),
        _section("transition", f"transition Psi(t, {start})", lambda: kernel.transition_words(sde, t, start)),
        *_offset(sde, start),
        _section("covariance", "covariance Sigma(t) given the data", lambda: kernel.covariance_words(sde, t)),
        _section("stationary", "stationary law", lambda: kernel.Words(kernel.stationary_words(sde), {})),
        _section("probability_flow", f"probability flow {flow} dt, A =", lambda: kernel.Words(sde.GG_let / 2, {})),
        _section("reverse_sde", f"reverse SDE {flow} dt + G dw, dt < 0, A =", lambda: kernel.Words(sde.GG_let, {})),
    ]


def _offset(sde: LinearSDE, start: sp.Expr) -> list[Section]:
    if sde.offset_let.is_zero_matrix:
        return []
    return [_section("offset", f"offset of the mean o(t, {start})", lambda: offset.mean_words(sde, t, start))]


def _section(key: str, title: str, make: Callable[[], kernel.Words]) -> Section:
    try:
        words = make()
    except Unsupported as error:
        return Section(key, title, f"not in closed form: {error}", rf"\text{{not in closed form: {error}}}")
    if not small(sp.Tuple(*words.entries), MAX_SHOWN):
        return Section(key, title, "too long to be shown; use sde.at(...)", r"\text{too long to be shown}")
    entries = words.entries.applyfunc(lambda e: sp.factor_terms(e) if tame(e) else e)
    rows, columns = entries.shape
    lines = [f"[{i}][{j}]  {entries[i, j]}" for i in range(rows) for j in range(columns)]
    lines += [f"{name} = {value}" for name, value in words.integrals.items()]
    maths = [latex(entries), *(f"{latex(name)} = {latex(value)}" for name, value in words.integrals.items())]
    return Section(key, title, "\n".join(lines), "\n".join(maths))
