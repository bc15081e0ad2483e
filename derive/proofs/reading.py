"""A diffusion read in balls: the law of z and the host statements of a program, by Taylor series at 400 bits from t = 0.

Each host statement is read from its meaning (program/meaning.py): Psi, Sigma and their series, linear equations along the
step; nothing of the pieces or the collocation of the emitted text is used.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from typing import Any

import flint
import sympy as sp

from ..maths.balls import arb, eye, joined, linear, number, terms_of
from ..maths.matrix import Matrix, add, mul, scaled, solve, transpose
from ..maths.values import evaluate, evaluate_matrix
from ..program.meaning import of_factor, put, table_names, tables
from ..sde.numeric import NumericSDE


class Around:
    """The law of z as series around a time: what a rate of a linear equation may name."""

    def __init__(self, reading: BallReading, centre: Any) -> None:
        self.reading, self.centre = reading, centre

    @cached_property
    def law(self) -> tuple[Matrix, ...]:
        flows = self.reading.view.flows
        return tuple(joined(flow.series(self.centre, flow.value(self.centre))) for flow in flows)

    @property
    def Psi(self) -> Matrix:
        return self.law[0]

    @property
    def Sigma(self) -> Matrix:
        return self.law[1]

    @cached_property
    def F(self) -> Matrix:
        return self.of(self.reading.view.sde.F_let)

    @cached_property
    def V(self) -> Matrix:
        return self.of(self.reading.view.sde.GG_let)

    @cached_property
    def R(self) -> Matrix:
        """gDDIM's R, R' = (F + G G^T Sigma^-1/2) R."""
        rate = add(self.F, scaled(mul(self.V, solve(self.Sigma)), flint.arb(1) / 2))
        start = [[e.mid() for e in row] for row in self.reading.rotation(self.centre)]
        return joined(linear(start, self.reading.view.terms, L=rate))

    def _tables(self, kind: str) -> tuple[Any, ...]:
        """What the law gives a parameterisation (program/meaning.py)."""
        psi, sigma, offset = self.law
        return (
            of_factor(self.R)
            if kind == "eps-R"
            else tables(kind, self.reading.data, psi, sigma, offset, self.reading.sigma_data)
        )

    def number(self, expr: sp.Expr) -> Any:
        return flint.arb_series([number(expr)])

    def of(self, entries: sp.Matrix, kind: str = "", given: Mapping[str, Any] | None = None) -> Matrix:
        """A matrix of expressions in t, lets, parameters and values of the law, those of the parameterisation ``kind``."""
        values: dict[str, Any] = {name: flint.arb_series([value]) for name, value in self.reading.params.items()}
        values |= {"t": flint.arb_series([self.centre, 1]), **(given or {})}
        names = {symbol.name.split("[")[0] for symbol in entries.free_symbols if "[" in symbol.name}
        if "offset" in names:
            put(values, "offset", self.law[2])
        if names - {"offset"}:
            for name, value in zip(table_names(kind), self._tables(kind), strict=False):
                put(values, name, value)
        written = self.reading.view.sde.written_out(entries)
        if self.reading.n == 1 and written.atoms(sp.Function):
            values |= {"alpha": lambda _: self.Psi[0][0], "sigma": lambda _: self.Sigma[0][0].sqrt()}
        return evaluate_matrix(written, values, self.number)


class BallReading:
    """A diffusion at given parameters read in balls, on the grid that ends at ``end`` (see program/meaning.py)."""

    def __init__(self, view: NumericSDE, params: Mapping[str, Any], end: Any) -> None:
        self.view, self.params, self.end = view, params, end
        self.n, self.data = view.sde.n, view.sde.data

    def scalar(self, expr: sp.Expr, values: Mapping[str, Any]) -> Any:
        return evaluate(self.view.sde.written_out(expr), values, number)

    def functions(self) -> dict[str, Callable[[Any], Any]]:
        """alpha and sigma of one block, the lets, phi_k(x) = 1F1(1; k + 1; x)/k! and the time of a log signal-to-noise ratio."""
        own: dict[str, Callable[[Any], Any]] = {f"phi{k}": partial(_phi, k) for k in range(1, 6)}
        own |= {name: partial(self._let, expr) for name, expr in self.view.sde.let.items()}
        if self.n == 1:
            own["alpha"] = lambda time: self.law(time)[0][0][0]
            own["sigma"] = lambda time: self.law(time)[1][0][0].sqrt()
            own["time_of"] = self._time_of
        return own

    def _let(self, expr: sp.Expr, time: Any) -> Any:
        return self.scalar(expr, {**self.params, "t": time})

    def law(self, time: Any) -> tuple[Matrix, Matrix, Matrix]:
        psi, sigma, offset = self.view.flows
        return psi.value(time), sigma.value(time), offset.value(time)

    def rotation(self, time: Any) -> Matrix:
        return self.view.rotation(self.end, time)

    def sigma_data(self) -> Any:
        return self.params["sigma_data"]

    def propagate(self, rate: Callable[[Around], Matrix], rows: int, lower: Any, upper: Any) -> Matrix:
        """The first rows of Y(upper), Y' = Y [[rate], [0]], Y(lower) = I."""
        terms = self.view.terms

        def series(centre: Any, value: Matrix) -> list[Matrix]:
            with terms_of(terms):
                below = [[flint.arb_series([0])] * width for _ in range(width - rows)]
                return linear(value, terms, M=[*rate(Around(self, centre)), *below])

        with terms_of(terms):
            width = len(rate(Around(self, lower))[0])
        return self.view.flow(lower, eye(width)[:rows], series).value(upper)

    def spread(
        self, linear_part: Callable[[Around], Matrix], noise: Callable[[Around], Matrix], lower: Any, upper: Any
    ) -> Matrix:
        """Backward from upper to lower: C' = -(linear C + C linear^T) - noise, C = 0 at upper."""

        def series(centre: Any, value: Matrix) -> list[Matrix]:
            with terms_of(self.view.terms):
                around = Around(self, centre)
                L = scaled(linear_part(around), -1)
                return linear(value, self.view.terms, L, transpose(L), scaled(noise(around), -1))

        return self.view.flow(upper, scaled(eye(self.n), 0), series).value(lower)

    def _time_of(self, target: Any) -> Any:
        """The zero of log(alpha/sigma) - lambda, which falls in t, by halving the span."""
        low, high = (arb(end) for end in self.view.sde.time)
        for _ in range(self.view.accuracy):
            middle = ((low + high) / 2).mid()
            psi, sigma, _ = self.law(middle)
            low, high = (middle, high) if (psi[0][0] ** 2 / sigma[0][0]).log() / 2 > target else (low, middle)
        return low


def _phi(k: int, x: Any) -> Any:
    return x.hypgeom_1f1(1, k + 1) / math.factorial(k)
