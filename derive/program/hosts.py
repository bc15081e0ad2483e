"""The host side of a program: what a grid needs evaluated once, in float64, before the first step.

    Scalar      a closed expression
    Integral    of an expression over a part of the step
    Law         tables of the law of z at a time: the score's parameterisation, the offset of the mean, the mean of the data
    Propagate   Y' = Y M(t): the transition of a linear ODE over a part of the step, augmented by its sources
    Flow        the same of the deviation z - p d from the mean along the probability flow, where M is -F - G G^T Sigma^-1/2 + B
    Moments     the same where d is a polynomial in a clock, with what each of its derivatives drives
    Spread      the triangular factor of the covariance of the noise that a linear ODE gathers over a part of the step

Arguments are SymPy expressions and matrices over t, the parameters, the lets and values of the law at t.  Each kind is read
by three interpreters: torch text (templates), balls (reference.py) and formal power series (orders/point.py).

A host symbol is spelled like what it names: the entry [i, j] of a table ``skip_0`` is the symbol ``skip_0[i, j]``.  Functions
of one block and of the lets stand applied: ``alpha(t0)``, ``sigma(t1)``, ``beta(t0)``; ``phi2(h)``; ``time_of(l)``.
"""

from __future__ import annotations

from dataclasses import dataclass

import sympy as sp


def entry(table: str, i: int, j: int) -> sp.Symbol:
    """The symbol of the entry [i, j] of a host table of matrices."""
    return sp.Symbol(f"{table}[{i}, {j}]", real=True)


def entries(table: str, rows: int, columns: int) -> sp.Matrix:
    """The matrix of the symbols of a host table."""
    return sp.Matrix(rows, columns, lambda i, j: entry(table, i, j))


def table_of(symbol: sp.Symbol) -> str:
    """The name of the table or scalar that a host symbol belongs to."""
    return symbol.name.split("[")[0]


def applied(name: str, argument: sp.Expr) -> sp.Expr:
    """A host function of one argument: alpha, sigma, a let, phi1 ..., time_of."""
    return sp.Function(name, real=True)(argument)


class Named:
    """What gives its own ``name`` a value."""

    name: str

    @property
    def targets(self) -> tuple[str, ...]:
        return (self.name,)


@dataclass(frozen=True)
class Scalar(Named):
    """``name = expr``; expr is SymPy over times, parameters, earlier scalars, table entries and applied functions."""

    name: str
    expr: sp.Expr

    @property
    def reads(self) -> tuple[sp.Expr, ...]:
        return (self.expr,)


class OverStep:
    """What runs from the time ``lower`` to the time ``upper``."""

    lower: sp.Expr
    upper: sp.Expr

    @property
    def reads(self) -> tuple[sp.Expr, ...]:
        return (self.lower, self.upper)


@dataclass(frozen=True)
class Integral(Named, OverStep):
    """``name`` = the integral of ``rate`` from lower to upper, an expression in t, the lets, the parameters, alpha(t), sigma(t).

    ``clock`` says in what its nodes are even: t, or "log" for log(t - START), where the rate may be steep near the data.
    """

    name: str
    rate: sp.Expr
    lower: sp.Expr
    upper: sp.Expr
    clock: str = "t"


@dataclass(frozen=True)
class Law:
    """Tables of the law of n >= 2 blocks at ``time``; ``kind`` says which (see meaning.py for their definitions):

    denoiser, x0, edm     C_skip (n, n), C_out (n, 1), C_in (1, n), C_noise
    eps-L, eps-U, eps-R   C_out (n, n) and its inverse (n, n)
    offset                o(t, START), (n, m + 1)                     also of one block
    mean                  p = Psi(t, START) e, (n, 1)
    covariance            Sigma, (n, n)
    tweedie[-L | -U]      pull (data, n), lift (data, n): the mean of the data is pull z + lift score, or + lift eps
    """

    targets: tuple[str, ...]
    kind: str
    time: sp.Expr

    @property
    def reads(self) -> tuple[sp.Expr, ...]:
        return (self.time,)


@dataclass(frozen=True)
class Flow(OverStep):
    """[P | S] = the first n rows of Y(upper), Y' = Y [[-F - G G^T Sigma^-1/2 + B, B p], [0, 0]], Y(lower) = I.

    With B = 0 it is U alone, z - p d from upper to lower along the probability flow; ``targets`` names P, or P and S.
    """

    targets: tuple[str, ...]
    B: sp.ImmutableMatrix
    lower: sp.Expr
    upper: sp.Expr


@dataclass(frozen=True)
class Moments(OverStep):
    """P (n, n) and [M_0, M_1, ...] with z_1 = P z_0 + sum_k M_k r^(k) over (lower, upper) = (t_1, t_0), where r is a
    polynomial of this ``degree`` in a clock u, r^(k) its k-th derivative in u at t_0, and dz/dt = L z + K r in a frame:

        x0          L = F + G G^T Sigma^-1/2,  K = -G G^T Sigma^-1 p/2
        gaussian    the same with Sigma + variance p p^T in the place of Sigma: the data have that variance
        eps-R       L = F,  K = G G^T R^-T/2 with gDDIM's R

    the first n rows of Y(upper), Y' = Y [[-L, -K, 0], [0, 0, -u'], [0, 0, 0]], Y(lower) = I.

    ``rate`` is u' = du/dt, an expression in t, the lets, the parameters, the effective sigma ``sigma_hat`` and its
    derivative ``rise``.  With ``noise``, an expression eta of the same kind, (1 + eta) G G^T stands in the place of G G^T, and
    a third target, where there is one, is the lower factor of int P(t_1, s) eta G G^T P(t_1, s)^T ds.  With ``skew``
    G G^T/2 - Q stands in the place of G G^T/2 (meaning.py has Q).
    """

    targets: tuple[str, ...]
    frame: str
    degree: int
    rate: sp.Expr
    variance: sp.Expr
    noise: sp.Expr
    skew: bool
    lower: sp.Expr
    upper: sp.Expr


@dataclass(frozen=True)
class Propagate(OverStep):
    """The first rows of Y(upper), Y' = Y [[rate], [0]], Y(lower) = I, cut into ``targets`` of so many columns ``widths``.

    ``rate`` (r, r + sources) holds values of the law at the running time t, spelled ``skip[i, j]``, ``out[i, k]`` of the
    parameterisation ``kind`` ("" where none is read) and ``offset[i, k]``.
    """

    targets: tuple[str, ...]
    widths: tuple[int, ...]
    rate: sp.ImmutableMatrix
    kind: str
    lower: sp.Expr
    upper: sp.Expr


@dataclass(frozen=True)
class Spread(Named, OverStep):
    """``name`` = the lower factor of int X(lower, s) noise noise^T X(lower, s)^T ds over (lower, upper), X' = X linear.

    On the blocks ``reached`` by the noise, zero elsewhere; positive diagonal.
    """

    name: str
    linear: sp.ImmutableMatrix
    noise: sp.ImmutableMatrix
    reached: tuple[int, ...]
    lower: sp.Expr
    upper: sp.Expr


Host = Scalar | Integral | Law | Flow | Moments | Propagate | Spread
