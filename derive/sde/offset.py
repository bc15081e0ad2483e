"""The offset of an affine SDE, dz = (F z + b) dt + G dw, and what it adds to the mean.

    b(t) = b_1(t) c_1 + ... + b_m(t) c_m + b_0(t)      c the constant components: given, the same at all times
    z_t = Psi(t, s) z_s + o(t, s) + noise              o(t, s) = int_s^t Psi(t, r) b(r) dr,  linear in c and in 1
    F m + b = 0  =>  o(t, s) = (I - Psi(t, s)) m       m the mean that the SDE keeps, where one constant m solves it

With o taken off, z - o(t, start) obeys the SDE without the offset: covariance and score are those of that one, taken there.
Tables of what multiplies c_1, ..., c_m and 1 are n x (m + 1), in this order.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sympy as sp

from stepsmith.errors import InputError, Unsupported

from ..maths.bounded import cancelled, solvable
from ..maths.calculus import is_zero, symbol, t
from ..spec import sources as spec
from ..spec.expression import Names
from . import closed
from .equations import Equations, coupled, linear_terms


def constant_names(where: str, given: Any) -> tuple[str, ...]:
    """The names of the constant components; InputError for what is no list of names."""
    if not isinstance(given, list | tuple):
        raise InputError(where, "sde.constant", "is no list of names", 'write such as constant = ["mu"]')
    spec.check_names(where, "sde.constant", given)
    return tuple(given)


def read(
    where: str,
    given: Any,
    n: int,
    names: Mapping[str, sp.Expr],
    constant: tuple[str, ...],
    key: str = "sde.offset",
    every: bool = True,
) -> sp.ImmutableMatrix:
    """The offset, n x 1; InputError where it is not linear in the constant components, or (``every``) leaves one out."""
    own = [symbol(name) for name in constant]
    known = Names({**names, **dict(zip(constant, own, strict=True))}, getattr(names, "measures", None))
    rows = [[e] for e in ([0] * n if given is None else given)] if isinstance(given, list | None) else given
    offset = sp.ImmutableMatrix(spec.matrix(where, key, rows, (n, 1), known))
    for i, entry in enumerate(offset):
        if any(entry.diff(c).free_symbols & {*own} for c in own):
            what = f"entry [{i}] is not linear in {', '.join(constant)}"
            raise InputError(where, key, what, "write a sum of coefficients times constant components")
    columns = linear_terms(offset, constant).T.tolist()
    unused = [name for name, column in zip(constant, columns, strict=False) if not any(column)]
    if unused and every:
        raise InputError(where, key, f"no entry uses the constant component {unused[0]}", "use it, or remove it")
    return offset


def reached(F: sp.Matrix, terms: sp.Matrix) -> sp.Matrix:
    """n x (m + 1) of 0 and 1: which entries of o(t, s) can differ from zero, by way of the couplings in F."""
    rows, columns = map(range, terms.shape)
    blocks = [coupled(F, {i for i in rows if terms[i, k] != 0}) for k in columns]
    return sp.Matrix(*terms.shape, lambda i, k: int(i in blocks[k]))


def equilibrium(sde: Equations) -> sp.Matrix | None:
    """m, n x (m + 1) in the words of let, with F m + b = 0 and m free of t; None where there is none."""
    b = sde.offset_terms_let
    if b.is_zero_matrix:
        return sp.zeros(*b.shape)
    if sde.F_let.is_zero_matrix or not solvable(sde.F_let) or (sde.n > 1 and is_zero(sde.F_let.det())):
        return None
    m = (sde.F_let.LUsolve(-b)).applyfunc(cancelled)
    timed = sde.written_out(m).applyfunc(cancelled).has(t)
    return None if timed else closed.timeless(sde, sp.Matrix(m))


def mean_words(sde: Equations, upper: sp.Expr, lower: sp.Expr) -> closed.Words:
    """o(upper, lower), n x 1, in words: (I - Psi) m, or the integral of b where F = 0."""
    carried = sp.Matrix([*map(symbol, sde.constant), 1])
    if sde.F_let.is_zero_matrix:
        growth = closed.generator(sde, sde.offset_terms_let, upper, lower)
        return closed.Words(growth.entries * carried, growth.integrals)
    m = equilibrium(sde)
    if m is None:
        raise Unsupported(f"the offset of {sde.name} has no mean that the SDE keeps", closed.NUMERIC)
    if m.is_zero_matrix:
        return closed.Words(sp.zeros(sde.n, 1), {})
    psi = closed.transition_words(sde, upper, lower)
    return closed.Words((sp.eye(sde.n) - psi.entries) * m * carried, psi.integrals)
