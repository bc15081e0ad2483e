"""What the host statements of a program mean, read with numbers of any kind: balls (reference.py), formal series (orders/).

With Psi = Psi(t, START), Sigma the covariance of z given the data, o the offset of its mean, e the data block, p = Psi e:

    denoiser       C_skip = -Sigma^-1, C_out = Sigma^-1 p, C_in = p^T Sigma^-1 / w, C_noise = w^(-1/2), w = p^T Sigma^-1 p
    edm            the same with D(y) = c_skip y + c_out F(c_in y, ln(sigma)/4)  (arXiv 2206.00364, table 1)
    eps-L, eps-U   C_out = -L^-T for the lower or upper Cholesky factor L of Sigma, and its inverse -L^T
    eps-R          the same with gDDIM's R, R' = (F + G G^T Sigma^-1/2) R
    tweedie        pull = e^T Psi^-1, lift = pull Sigma; with a factor lift = -pull L

Nothing of what the emitted text does for its digits (pieces, whitening, collocation) is used here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from itertools import pairwise
from typing import Any

import sympy as sp

from ..maths.matrix import Matrix, add, factor, inverse_of, mul, scaled, solve, transpose
from ..maths.values import evaluate_matrix
from .hosts import Flow, Integral, Law, Moments, Propagate, Scalar, Spread, table_of
from .program import StepProgram, host_names


class Around(ABC):
    """The law of z as series around a time: Psi, Sigma, offset, gDDIM's R, and ``known``, what a rate may name."""

    sde: Any
    params: Any
    Psi: Any
    Sigma: Any
    offset: Any
    R: Any
    known: Any

    @abstractmethod
    def number(self, expr: sp.Expr) -> Any:
        """A rational, pi or e as a constant series."""

    def of(self, entries: sp.Matrix, kind: str = "", given: Mapping[str, Any] | None = None) -> Matrix:
        """A matrix of expressions in t, lets, parameters and values of the law, those of the parameterisation ``kind``."""
        values = {**self.known, **(given or {})}
        names = {table_of(symbol) for symbol in entries.free_symbols if "[" in symbol.name}
        if "offset" in names:
            put(values, "offset", self.offset)
        for name, value in zip(table_names(kind), self.tables(kind) if names - {"offset"} else (), strict=False):
            put(values, name, value)
        return evaluate_matrix(self.sde.written_out(entries), values, self.number)

    def tables(self, kind: str) -> tuple[Any, ...]:
        """What the law gives a parameterisation."""
        if kind == "eps-R":
            return of_factor(self.R)
        return tables(kind, self.sde.data, self.Psi, self.Sigma, self.offset, self.params)

    @cached_property
    def F(self) -> Matrix:
        return self.of(self.sde.F_let)

    @cached_property
    def V(self) -> Matrix:
        """G G^T."""
        return self.of(self.sde.GG_let)


Env = Any  # an Around
Rate = Callable[[Env], Matrix]


class Reading:
    """Numbers of one kind: at times, around times, and along linear equations."""

    sde: Any
    params: Any

    def scalar(self, expr: sp.Expr, values: Mapping[str, Any]) -> Any: ...
    def law(self, time: Any) -> Any: ...  # Psi, Sigma, o at a time
    def rotation(self, time: Any) -> Any: ...  # gDDIM's R at a time
    def let(self, expr: sp.Expr, time: Any) -> Any: ...
    def phi(self, k: int, x: Any) -> Any: ...  # sum_j x^j / (j + k)!
    def time_of(self, target: Any) -> Any: ...  # at which log(alpha/sigma) is the target
    def propagate(self, rate: Rate, rows: int, lower: Any, upper: Any) -> Any: ...
    def spread(self, linear: Rate, noise: Rate, lower: Any, upper: Any) -> Any: ...

    def functions(self) -> dict[str, Callable[[Any], Any]]:
        """phi_k, the lets, and of one block alpha, sigma and the time of a log signal-to-noise ratio."""
        own: dict[str, Callable[[Any], Any]] = {f"phi{k}": partial(self.phi, k) for k in range(1, 6)}
        own |= {name: partial(self.let, expr) for name, expr in self.sde.let.items()}
        if self.sde.n == 1:
            own |= {"alpha": lambda t: self.law(t)[0][0][0], "sigma": lambda t: self.law(t)[1][0][0].sqrt()}
            own["time_of"] = self.time_of
        return own


def host_values(
    reading: Reading, program: StepProgram, values: dict[str, Any], needed: set[str] | None = None
) -> dict[str, Any]:
    """``values`` (the times, the parameters) with every scalar and table of the host, or those that ``needed`` names."""
    for statement in program.host:
        if needed is not None and not needed & set(statement.targets):
            continue
        at = [reading.scalar(sp.sympify(e), values) for e in statement.reads]
        found: tuple[Any, ...]
        if isinstance(statement, Scalar):
            found = tuple(at)
        elif isinstance(statement, Law):
            if statement.kind == "eps-R":
                found = of_factor(reading.rotation(*at))
            else:
                psi, sigma, offset = reading.law(*at)
                found = tables(statement.kind, reading.sde.data, psi, sigma, offset, reading.params)
        elif isinstance(statement, Spread):
            found = (_spread(reading, statement, *at),)
        elif isinstance(statement, Flow):
            found = _flow(reading, statement, *at)
        elif isinstance(statement, Moments):
            found = moments(reading, statement, *at)
        elif isinstance(statement, Propagate):
            found = _propagate(reading, statement, *at)
        else:
            assert isinstance(statement, Integral)
            found = (reading.propagate(partial(_of, sp.Matrix([[0, statement.rate]])), 1, *at)[0][1],)
        for name, value in zip(statement.targets, found, strict=True):
            put(values, name, value)
    return values


def _of(entries: sp.Matrix, env: Env) -> Matrix:
    return env.of(entries)  # type: ignore[no-any-return]


def put(values: dict[str, Any], name: str, value: Any) -> None:
    """A scalar by its name, a table entry by entry."""
    if not isinstance(value, list):
        values[name] = value
        return
    for i, row in enumerate(value):
        for j, e in enumerate(row):
            values[f"{name}[{i}, {j}]"] = e


def needed_by(program: StepProgram, exprs: Any) -> set[str]:
    """The host names that some expressions read, directly or not."""
    needed = host_names(exprs)
    for statement in reversed(program.host):
        if needed & set(statement.targets):
            needed |= host_names(statement.reads)
    return needed


# -- the law ---------------------------------------------------------------------------------------------------------------


def tables(
    kind: str, data: tuple[int, ...], psi: Matrix, sigma: Matrix, offset: Matrix, params: Mapping[str, Any]
) -> tuple[Any, ...]:
    """The tables of a kind from the law, numbers or series alike."""
    if kind == "offset":
        return (offset,)
    if kind == "mean":
        return ([[row[data[0]]] for row in psi],)
    if kind == "covariance":
        return (sigma,)
    if kind == "denoiser":
        return bridge(data[0], psi, sigma)
    if kind == "edm":
        return preconditioned(bridge(data[0], psi, sigma), params["sigma_data"])
    if kind in ("eps-L", "eps-U"):
        return of_factor(factor(sigma, kind == "eps-U"))
    whole = inverse_of(psi)
    pull = [whole[i] for i in data]
    _, _, side = kind.partition("-")
    return pull, mul(pull, scaled(factor(sigma, side == "U"), -1) if side else sigma)


def of_factor(L: Matrix) -> tuple[Matrix, Matrix]:
    """(C_out, its inverse) = (-L^-T, -L^T) of an epsilon that was scaled with a factor L of the covariance."""
    return scaled(transpose(inverse_of(L)), -1), scaled(transpose(L), -1)


def table_names(kind: str) -> tuple[str, ...]:
    """What a rate calls the first tables of a kind: C_out alone where C_skip = 0."""
    return ("skip", "out") if kind in ("denoiser", "edm") else ("out",)


def bridge(data: int, psi: Matrix, sigma: Matrix) -> tuple[Matrix, Matrix, Matrix, Any]:
    """(skip, out, inp, effective sigma) from Psi and Sigma, numbers or series alike."""
    column = [[row[data]] for row in psi]
    precision = solve(sigma)
    out = mul(precision, column)
    weight = mul(transpose(column), out)[0][0]
    return scaled(precision, -1), out, [[e[0] / weight for e in out]], 1 / weight.sqrt()


def preconditioned(law: tuple[Matrix, Matrix, Matrix, Any], d: Any) -> tuple[Matrix, Matrix, Matrix, Any]:
    """The bridge of D(y) = c_skip y + c_out F(c_in y, ln(sigma)/4)."""
    skip, out, inp, sigma = law
    width = (sigma * sigma + d * d).sqrt()
    gain = scaled(mul(out, inp), d * d / (width * width))
    return add(skip, gain), scaled(out, sigma * d / width), scaled(inp, 1 / width), sigma.log() / 4


# -- linear equations along the step ---------------------------------------------------------------------------------------


def _propagate(reading: Reading, statement: Propagate, lower: Any, upper: Any) -> tuple[Matrix, ...]:
    X = reading.propagate(lambda env: env.of(statement.rate, statement.kind), statement.rate.shape[0], lower, upper)
    cuts = [sum(statement.widths[:k]) for k in range(len(statement.widths) + 1)]
    return tuple([row[a:b] for row in X] for a, b in pairwise(cuts))


def _flow(reading: Reading, statement: Flow, lower: Any, upper: Any) -> tuple[Matrix, ...]:
    n, driven = reading.sde.n, len(statement.targets) > 1

    def rate(env: Env) -> Matrix:
        half = scaled(mul(env.V, solve(env.Sigma)), env.number(sp.Rational(-1, 2)))
        M = add(scaled(env.F, -1), half)
        if not driven:
            return M
        B = env.of(statement.B)
        source = mul(B, [[row[reading.sde.data[0]]] for row in env.Psi])
        return [[*row, *more] for row, more in zip(add(M, B), source, strict=True)]

    X = reading.propagate(rate, n, lower, upper)
    return ([row[:n] for row in X], [row[n:] for row in X]) if driven else (X,)


def moments(reading: Reading, statement: Moments, lower: Any, upper: Any) -> tuple[Matrix, ...]:
    n, degree = reading.sde.n, statement.degree
    width = n if statement.frame == "eps-R" else 1

    def flow(env: Env) -> tuple[Matrix, Matrix, Any, Any]:
        """(L, K, u', eta) at the running time."""
        p, w, weight, known = effective(env)
        (du,), (data,), (eta,) = env.of(sp.Matrix([statement.rate, statement.variance, statement.noise]), "", known)
        M = scaled(env.V, (1 + eta) * env.number(sp.Rational(1, 2)))
        M = add(M, scaled(skew_matrix(p, env.Sigma, env.V), -1)) if statement.skew else M
        if statement.frame == "eps-R":
            return env.F, mul(M, transpose(inverse_of(env.R))), du, eta
        inverse = add(solve(env.Sigma), scaled(mul(w, transpose(w)), -data / (1 + data * weight)))
        pull = mul(M, inverse)
        return add(env.F, pull), scaled(mul(pull, p), -1), du, eta

    def rate(env: Env) -> Matrix:
        L, K, du, _ = flow(env)
        zero = env.number(sp.S.Zero)
        top = [[-e for e in (*a, *b)] + [zero] * (degree * width) for a, b in zip(L, K, strict=True)]
        whole = range(n + width * (degree + 1))
        return top + [[-du if j == i + width else zero for j in whole] for i in whole[n : n + width * degree]]

    X = reading.propagate(rate, n + width * degree, lower, upper)[:n]
    found = [row[:n] for row in X], [row[n:] for row in X]
    if len(statement.targets) == 2:
        return found
    C = reading.spread(lambda env: scaled(flow(env)[0], -1), lambda env: scaled(env.V, flow(env)[3]), lower, upper)
    return *found, factor(C)


def effective(env: Env) -> tuple[Matrix, Matrix, Any, dict[str, Any]]:
    """(p, w = Sigma^-1 p, p^T w, what a clock names: the effective sigma and its derivative) of one data block."""
    p = [[row[env.sde.data[0]]] for row in env.Psi]
    w = mul(solve(env.Sigma), p)
    weight, gained = mul(transpose(p), w)[0][0], mul(transpose(w), mul(env.V, w))[0][0]
    sigma = 1 / weight.sqrt()
    return p, w, weight, {"sigma_hat": sigma, "rise": gained * sigma * sigma * sigma / 2}


def skew_matrix(p: Matrix, sigma: Matrix, V: Matrix) -> Matrix:
    """Q = (g p^T - p g^T)/(2 p^T Sigma^-1 p), g = G G^T Sigma^-1 p: with Q s in the drift y = p^T Sigma^-1 z/(p^T Sigma^-1 p)
    follows the probability flow of one block; in the metric of Sigma.
    """
    w = mul(solve(sigma), p)
    half = mul(mul(V, w), transpose(p))
    return scaled(add(half, scaled(transpose(half), -1)), 1 / (2 * mul(transpose(p), w)[0][0]))


def _spread(reading: Reading, statement: Spread, lower: Any, upper: Any) -> Matrix:
    GG = statement.noise * statement.noise.T
    C = reading.spread(partial(_of, statement.linear), partial(_of, GG), lower, upper)
    used, n = list(statement.reached), len(C)
    small = factor([[C[i][j] for j in used] for i in used])
    zero = C[0][0] - C[0][0]
    return [
        [small[used.index(i)][used.index(j)] if i in used and j in used else zero for j in range(n)] for i in range(n)
    ]
