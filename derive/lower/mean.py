"""The mean of the data at t1, a value a data block: the output of a bridge, else Tweedie's e^T Psi^-1 (z - o + Sigma s)."""

from __future__ import annotations

import sympy as sp

from ..maths.calculus import symbol
from ..program import Op
from .writer import Writer


def data_mean(w: Writer) -> tuple[tuple[Op, ...], tuple[str, ...]]:
    """(operations, results) of the last program: one network call at t1."""
    w.ops, w.suffix = [], "_end"
    state = dict(enumerate(w.sde.state))
    w.evaluate(state, "1")
    if w.kind.predicts == "data":
        return tuple(w.ops), (w.asked.output[0],)
    scheme = _preconditioned if w.kind.bridge else _one_block if w.sde.n == 1 else _tweedie
    result = scheme(w)
    return tuple(w.ops), result


def _preconditioned(w: Writer) -> tuple[str, ...]:
    """D = d (d y + sigma width n) / width^2 with the network's own input y / width, width^2 = sigma^2 + d^2."""
    score, d = w.score_at(w.network, "1"), symbol("sigma_data")
    sigma = w.define("sigma_end", sp.exp(4 * score.noise))
    width = w.define("width_end", sp.sqrt(sigma**2 + d**2))
    pull = d**2 / width * score.inp
    out = sp.Matrix([[sigma * d / width]])
    return w.rows(["mean"], (pull, w.sde.state), (-pull * w.offset("1"), w.constants), (out, w.asked.output))


def _one_block(w: Writer) -> tuple[str, ...]:
    """(z - o + sigma^2 s)/alpha."""
    pull, lift = w.converted("1", lambda a, s, skip: (1 + s**2 * skip) / a, lambda a, s, out: s**2 * out / a)
    return w.rows(["mean"], (pull, w.sde.state), (lift, w.asked.output), (-pull * w.offset("1"), w.constants))


def _tweedie(w: Writer) -> tuple[str, ...]:
    """pull (z - o) + lift s, or lift eps of an epsilon network (eps-R is eps-L at the data end of the grid)."""
    sde = w.sde
    side = {"L": "-L", "U": "-U", "R": "-L"}.get(w.kind.factor, "")
    shape = len(sde.data), sde.n
    pull, lift = w.law(f"tweedie{side}", "1", ("pull", *shape), ("lift", *shape))
    values = w.asked.output if side else w.asked.score
    names = ["mean"] if len(sde.data) == 1 else [f"mean_of_{sde.state[block]}" for block in sde.data]
    return w.rows(names, (pull, sde.state), (lift, values), (-pull * w.offset("1"), w.constants))
