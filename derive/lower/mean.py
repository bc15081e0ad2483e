"""The mean of the data at t1, a value a data block: the output of a bridge, else Tweedie's e^T Psi^-1 (z - o + Sigma s)."""

from __future__ import annotations

import sympy as sp

from ..program import Op
from .writer import Writer, symbol


def data_mean(w: Writer) -> tuple[tuple[Op, ...], tuple[str, ...]]:
    """(operations, results) of the last program: one network call at t1."""
    w.ops, w.suffix = [], "_end"
    state = dict(enumerate(w.sde.state))
    w.evaluate(state, sp.Integer(1))
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
    terms = w.combination(pull, w.sde.state) + w.combination(-pull * w.offset("1"), w.constants)
    return (w.update("mean", [*terms, (sigma * d / width, w.asked.output[0])]),)


def _one_block(w: Writer) -> tuple[str, ...]:
    """(z - o + sigma^2 s)/alpha."""
    alpha, sigma = w.alpha_sigma("1")
    terms = [(1 / alpha, w.sde.state[0]), (sigma**2 / alpha, w.asked.score[0])]
    return (w.update("mean", terms + w.combination(-w.offset("1") / alpha, w.constants)),)


def _tweedie(w: Writer) -> tuple[str, ...]:
    """pull (z - o) + lift s, or lift eps of an epsilon network (eps-R is eps-L at the data end of the grid)."""
    sde = w.sde
    side = {"L": "-L", "U": "-U", "R": "-L"}.get(w.kind.factor, "")
    shape = len(sde.data), sde.n
    pull, lift = w.law(f"tweedie{side}", "1", ("pull", *shape), ("lift", *shape))
    values = w.asked.output if side else w.asked.score
    results = []
    for k, block in enumerate(sde.data):
        name = "mean" if len(sde.data) == 1 else f"mean_of_{sde.state[block]}"
        terms = w.combination(pull.row(k), sde.state) + w.combination(lift.row(k), values)
        results.append(w.update(name, terms + w.combination(-pull.row(k) * w.offset("1"), w.constants)))
    return tuple(results)
