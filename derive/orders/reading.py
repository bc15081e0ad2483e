"""The host side of a program as formal power series around a point: times are t0 plus series that vanish at zero."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import sympy as sp

from ..maths.matrix import Matrix, add, mul, scaled, solve, transpose
from ..maths.values import evaluate
from ..program import StepProgram
from ..program.meaning import Reading, host_values
from .point import Point, composed, grow, unit
from .series import Series, constant


class SeriesReading(Reading):
    """A point read at times that are series (see program/meaning.py)."""

    def __init__(self, point: Point, like: Series) -> None:
        self.point, self.like = point, like
        self.sde, self.params = point.sde, point.params

    def _offset(self, time: Series) -> Series:
        """time - t0, the rounding of its constant term taken off."""
        return vanishing(self.point, time - self.point.t0)

    def scalar(self, expr: sp.Expr, values: Mapping[str, Any]) -> Series:
        sde, number = self.point.sde, partial(self.point.number, length=len(self.like.c))
        plain = sde.written_out(expr) if any(symbol.name in sde.let for symbol in expr.free_symbols) else expr
        return evaluate(plain, values, number)

    def let(self, expr: sp.Expr, time: Series) -> Series:
        return self.point.one(expr).at(self._offset(time))

    def law(self, time: Series) -> tuple[Matrix, Matrix, Matrix]:
        at, point = self._offset(time), self.point
        return composed(point.Psi, at), composed(point.Sigma, at), composed(point.offset, at)

    def rotation(self, time: Series) -> Matrix:
        return composed(self.point.R, self._offset(time))

    def propagate(self, rate: Callable[[Point], Matrix], rows: int, lower: Series, upper: Series) -> Matrix:
        """The first rows of Y(lower)^-1 Y(upper) with Y' = Y M, M = [rate; 0]."""
        point, top = self.point, rate(self.point)
        width = len(top[0])
        zero = constant(point.ring, 0, point.terms)
        M = [*top, *([[zero] * width for _ in range(width - rows)])]
        one = [[point.ring.number(1) if i == j else 0 for j in range(width)] for i in range(width)]
        Y = grow(point, one, right=M)
        return mul(solve(composed(Y, self._offset(lower))), composed(Y, self._offset(upper)))[:rows]

    def spread(
        self, linear: Callable[[Point], Matrix], noise: Callable[[Point], Matrix], lower: Series, upper: Series
    ) -> Matrix:
        """X(lower) (int X^-1 noise X^-T) X(lower)^T with X' = -linear X."""
        point, low, high = self.point, self._offset(lower), self._offset(upper)
        X = grow(point, unit(point), left=scaled(linear(point), -1))
        back = solve(X)
        grown = [[e.integral() for e in row] for row in mul(mul(back, noise(point)), transpose(back))]
        between = add(composed(grown, high), scaled(composed(grown, low), -1))
        ends = composed(X, low)
        return mul(mul(ends, between), transpose(ends))

    def time_of(self, target: Series) -> Series:
        """The time at which log(alpha/sigma) is the target: Newton's iteration on series, each pass doubles the terms."""
        point = self.point
        clock = point.Psi[0][0].log() - point.Sigma[0][0].log() / 2
        slope = clock.derivative()
        x = constant(point.ring, 0, len(target.c))
        for _ in range(max(1, math.ceil(math.log2(len(target.c))) + 1)):
            x = x - vanishing(point, clock.at(x) - target) / slope.at(x)
            x = Series([0, *x.c[1:]], point.ring)
        return x + point.t0

    def phi(self, k: int, value: Series) -> Series:
        """phi_k(a) = sum_j a^j / (j + k)!, a vanishing with the step."""
        outer = Series([self.point.ring.number(1, math.factorial(j + k)) for j in range(len(value.c))], self.point.ring)
        return outer.at(vanishing(self.point, value))


def vanishing(point: Point, value: Series) -> Series:
    """The series with the rounding of its zero constant term taken off."""
    return Series([0, *value.c[1:]], point.ring) if point.ring.is_zero(value.c[0]) else value


def series_values(point: Point, program: StepProgram, times: Mapping[str, Series], needed: set[str]) -> dict[str, Any]:
    """The host values that ``needed`` names; ``times`` are offsets from t0 by name (t0, t1, t_m1, ...)."""
    like = next(iter(times.values()))
    reading = SeriesReading(point, like)
    numbers = {name: constant(point.ring, value, len(like.c)) for name, value in point.params.items()}
    values = {**numbers, **{name: offset + point.t0 for name, offset in times.items()}, **reading.functions()}
    return host_values(reading, program, values, needed)
