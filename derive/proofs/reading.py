"""A diffusion read in balls: the law of z and the host statements of a program, by Taylor series at 400 bits from t = 0.

Each host statement is read from its meaning (program/meaning.py): Psi, Sigma and their series, linear equations along the
step; nothing of the pieces or the collocation of the emitted text is used.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cache, cached_property
from typing import Any

import flint
import sympy as sp

from ..maths.balls import arb, eye, joined, linear, number, terms_of
from ..maths.matrix import Matrix, add, mul, scaled, solve, transpose
from ..maths.values import evaluate
from ..program.meaning import Around, Reading
from ..sde.numeric import NumericSDE


def _part(k: int) -> Any:
    """Psi, Sigma or the offset."""
    return property(lambda self: self.law()[k])


class Near(Around):
    """The law around a time in balls."""

    def __init__(self, reading: BallReading, centre: Any) -> None:
        self.reading, self.centre, self.sde, self.params = reading, centre, reading.sde, reading.params
        flows = reading.view.flows
        self.law = cache(lambda: [joined(flow.series(centre, flow.value(centre))) for flow in flows])

    Psi, Sigma, offset = map(_part, range(3))

    @property
    def known(self) -> dict[str, Any]:
        values: dict[str, Any] = {name: flint.arb_series([value]) for name, value in self.params.items()}
        functions = {"alpha": lambda _: self.Psi[0][0], "sigma": lambda _: self.Sigma[0][0].sqrt()}
        return {**values, **functions, "t": flint.arb_series([self.centre, 1])}

    @cached_property
    def R(self) -> Matrix:
        """gDDIM's R, R' = (F + G G^T Sigma^-1/2) R."""
        rate = add(self.F, scaled(mul(self.V, solve(self.Sigma)), flint.arb(1) / 2))
        start = [[e.mid() for e in row] for row in self.reading.rotation(self.centre)]
        return joined(linear(start, self.reading.view.terms, L=rate))

    def number(self, expr: sp.Expr) -> Any:
        return flint.arb_series([number(expr)])


class BallReading(Reading):
    """A diffusion at given parameters read in balls, on the grid that ends at ``end`` (see program/meaning.py)."""

    def __init__(self, view: NumericSDE, params: Mapping[str, Any], end: Any) -> None:
        self.view, self.params, self.end, self.sde = view, params, end, view.sde

    def scalar(self, expr: sp.Expr, values: Mapping[str, Any]) -> Any:
        return evaluate(self.sde.written_out(expr), values, number)

    def let(self, expr: sp.Expr, time: Any) -> Any:
        return self.scalar(expr, {**self.params, "t": time})

    def phi(self, k: int, x: Any) -> Any:
        """1F1(1; k + 1; x)/k!."""
        return x.hypgeom_1f1(1, k + 1) / math.factorial(k)

    def law(self, time: Any) -> tuple[Matrix, Matrix, Matrix]:
        psi, sigma, offset = self.view.flows
        return psi.value(time), sigma.value(time), offset.value(time)

    def rotation(self, time: Any) -> Matrix:
        return self.view.rotation(self.end, time)

    def propagate(self, rate: Callable[[Near], Matrix], rows: int, lower: Any, upper: Any) -> Matrix:
        """The first rows of Y(upper), Y' = Y [[rate], [0]], Y(lower) = I."""
        terms = self.view.terms

        def series(centre: Any, value: Matrix) -> list[Matrix]:
            with terms_of(terms):
                below = [[flint.arb_series([0])] * width for _ in range(width - rows)]
                return linear(value, terms, M=[*rate(Near(self, centre)), *below])

        with terms_of(terms):
            width = len(rate(Near(self, lower))[0])
        return self.view.flow(lower, eye(width)[:rows], series).value(upper)

    def spread(
        self, linear_part: Callable[[Near], Matrix], noise: Callable[[Near], Matrix], lower: Any, upper: Any
    ) -> Matrix:
        """Backward from upper to lower: C' = -(linear C + C linear^T) - noise, C = 0 at upper."""

        def series(centre: Any, value: Matrix) -> list[Matrix]:
            with terms_of(self.view.terms):
                around = Near(self, centre)
                L = scaled(linear_part(around), -1)
                return linear(value, self.view.terms, L, transpose(L), scaled(noise(around), -1))

        return self.view.flow(upper, scaled(eye(self.sde.n), 0), series).value(lower)

    def time_of(self, target: Any) -> Any:
        """The zero of log(alpha/sigma) - lambda, which falls in t, by halving the span."""
        low, high = (arb(end) for end in self.view.sde.time)
        for _ in range(self.view.accuracy):
            middle = ((low + high) / 2).mid()
            psi, sigma, _ = self.law(middle)
            low, high = (middle, high) if (psi[0][0] ** 2 / sigma[0][0]).log() / 2 > target else (low, middle)
        return low
