"""Polynomials in a few variables over any ring, as dictionaries: Gaussians in a step, displacements in a generator."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Index = tuple[int, ...]


class Polynomial:
    """sum of coefficient * x^index; behaves as a number among the coefficients of a Series."""

    __slots__ = ("terms",)

    def __init__(self, terms: Mapping[Index, Any]) -> None:
        self.terms = dict(terms)

    @classmethod
    def variable(cls, i: int, count: int, one: Any) -> Polynomial:
        return cls({tuple(int(j == i) for j in range(count)): one})

    def __add__(self, other: Any) -> Any:
        if not isinstance(other, Polynomial):
            if type(other) is int and other == 0:
                return self
            other = Polynomial({(0,) * self._width(): other})
        out = dict(self.terms)
        for index, c in other.terms.items():
            out[index] = out[index] + c if index in out else c
        return Polynomial(out)

    __radd__ = __add__

    def _width(self) -> int:
        return len(next(iter(self.terms), ()))

    def __neg__(self) -> Polynomial:
        return Polynomial({index: -c for index, c in self.terms.items()})

    def __sub__(self, other: Any) -> Any:
        return self + (-other)

    def __rsub__(self, other: Any) -> Any:
        return -self + other

    def __mul__(self, other: Any) -> Any:
        if not isinstance(other, Polynomial):
            return Polynomial({index: c * other for index, c in self.terms.items()})
        out: dict[Index, Any] = {}
        for p, a in self.terms.items():
            for q, b in other.terms.items():
                index = tuple(i + j for i, j in zip(p, q, strict=True))
                out[index] = out[index] + a * b if index in out else a * b
        return Polynomial(out)

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Polynomial:
        return Polynomial({index: c / other for index, c in self.terms.items()})

    def derivative(self, i: int) -> Polynomial:
        return Polynomial(
            {(*index[:i], index[i] - 1, *index[i + 1 :]): c * index[i] for index, c in self.terms.items() if index[i]}
        )

    def without(self, zero: Callable[[Any], bool]) -> Polynomial:
        """Without the terms whose coefficient is zero."""
        return Polynomial({index: c for index, c in self.terms.items() if not zero(c)})

    def cut(self, degree: int) -> Polynomial:
        """The terms up to a total degree."""
        return Polynomial({index: c for index, c in self.terms.items() if sum(index) <= degree})

    def at_zero(self) -> Any:
        return next((c for index, c in self.terms.items() if not any(index)), 0)

    def mean(self) -> Any:
        """The expectation when every variable is an independent standard normal: E x^(2k) = (2k - 1)!!."""
        total: Any = 0
        for index, c in self.terms.items():
            if not any(k % 2 for k in index):
                for k in index:
                    for odd in range(1, k, 2):
                        c = c * odd
                total = total + c
        return total


def mean(value: Any) -> Any:
    """The expectation of a polynomial or of a number."""
    return value.mean() if isinstance(value, Polynomial) else value
