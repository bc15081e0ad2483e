"""The drift of the reverse SDE under the score of the bridge, written so that it keeps its digits near the data.

Without the network's output that drift is R z + e with

    R = -F - G G^T Sigma^-1,      e = G G^T Sigma^-1 o - b       (o the offset of the mean, offset.py)

and on a row of the data that noise moves, in e and in the columns of blocks that start with a variance, the two terms are
alike near the data: their difference, O(t), has no digits left.  Each column of [R | e] is G G^T Sigma^-1 a - c, with
a' = F a + c from a = v at the start: c = F e_j and a = v = -e_j at all times for R, c = b and v = 0 for e.  Write
c = G G^T lift + rest, no rest on these rows; then

    a = Sigma lift - r,   r' = F r + Sigma (lift' + F^T lift) - rest,   r = Sigma lift - v at the start,
    G G^T Sigma^-1 a - c = -G G^T Sigma^-1 r - rest,

where nothing is subtracted but what differs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import sympy as sp

from .bounded import cancelled, solvable
from .calculus import is_zero, is_zero_matrix
from .schedule import slope

if TYPE_CHECKING:
    from .sde import LinearSDE
    from .split import Part


@dataclass(frozen=True)
class Lift:
    """c = G G^T lift + rest and change = lift', a column as in ``columns``, in the words of let."""

    lift: sp.Matrix
    rest: sp.Matrix
    change: sp.Matrix


def columns(sde: LinearSDE) -> sp.Matrix:
    """c of the module docstring, the drift of the SDE forward in time: F and, where it has one, the offset beside it."""
    return beside(sde, sde.F_let, sde.offset_terms_let)


def beside(sde: LinearSDE, linear: sp.Matrix, offset: sp.Matrix) -> sp.Matrix:
    """[linear | offset]; without ``linear`` for one block, where only e cancels, and without an offset that no SDE has."""
    kept = sp.Matrix(linear) if sde.n > 1 else sp.zeros(1, 0)
    return kept if sde.offset_let.is_zero_matrix else kept.row_join(sp.Matrix(offset))


def own_rows(sde: LinearSDE) -> list[int]:
    """The blocks that start at a point and have noise of their own."""
    return [i for i in range(sde.n) if sde.initial_let[i, i] == 0 and sde.GG_let[i, i] != 0]


def lifted(sde: LinearSDE) -> Lift | None:
    """The drift over the noise of the own rows; None where there are none, or where their G G^T is singular or too large."""
    rows = own_rows(sde)
    noise, c = sde.GG_let.extract(rows, rows), columns(sde)
    if not rows or not solvable(noise) or is_zero(sde.written_out(noise.det())):
        return None
    lift = sp.zeros(*c.shape)
    for i, row in zip(rows, noise.LUsolve(c.extract(rows, range(c.shape[1]))).tolist(), strict=True):
        lift[i, :] = sp.Matrix([row])
    lift = lift.applyfunc(cancelled)
    rest = (c - sde.GG_let * lift).applyfunc(cancelled)
    return Lift(lift, rest, lift.applyfunc(lambda e: cancelled(slope(e, sde.let))))


def noise_change(sde: LinearSDE) -> sp.Matrix:
    """(G G^T)', in the words of let."""
    return sp.Matrix(sde.GG_let).applyfunc(lambda e: cancelled(slope(e, sde.let)))


def extra(sde: LinearSDE, part: Part, share: sp.Expr = sp.S.One) -> sp.Matrix:
    """What the drift of a part has beyond ``share`` times that of the reverse SDE, -c, a column as in ``columns``."""
    return (beside(sde, part.linear, part.offset) + share * columns(sde)).applyfunc(cancelled)


def whole_rows(sde: LinearSDE, part: Part, network: object) -> dict[int, sp.Expr]:
    """The rows of a part that are better said by [R | e], and the share of the reverse SDE's score in them, 1 or 1/2.

    Those with the whole score and an entry of the drift that may cancel against it, and, where one noise moves the data and
    a block that starts with a variance, all: the sums of G G^T Sigma^-1 cancel there among themselves.  There are none where
    the network is no bridge, for then the score has no term of the state, and where noise reaches the data by way of other
    blocks alone, for then Sigma^-1 outgrows F.
    """
    own, c, V = own_rows(sde), columns(sde), sde.GG_let
    if network not in ("denoiser", "x0") or not own:
        return {}
    mixed = any(V[i, j] != 0 for i in own for j in range(sde.n) if sde.initial_let[j, j] != 0)
    shares: dict[int, sp.Expr] = {}
    for i in part.rows:
        share = next((cancelled(part.score[i, j] / V[i, j]) for j in range(sde.n) if V[i, j] != 0), sp.S.Zero)
        if share in (1, sp.Rational(1, 2)) and is_zero_matrix(part.score.row(i) - share * V.row(i)):
            beyond = extra(sde, part).row(i)
            if mixed or (share == 1 and any(c[i, k] != 0 and beyond[k] == 0 for k in range(c.shape[1]))):
                shares[i] = share
    return shares
