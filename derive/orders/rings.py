"""The numbers that a verdict is computed with: exact rationals, and balls where a rational will not do.

A local error coefficient that is not zero is a proof of failure in both rings (a ball that excludes zero).  A coefficient
that is zero at a random rational point is zero identically but for the small chance that the point lies on the zero set
of a polynomial that is not; callers ask several points.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, TypeVar

import flint

from stepsmith.errors import Unsupported

from .polynomial import Polynomial

T = TypeVar("T")
PRECISION = 512  # bits of a ball
TINY = flint.arb(2) ** -200  # a ball around zero that is smaller counts as zero


class IrrationalError(Exception):
    """A value that the exact ring cannot hold: the caller takes the balls."""


class Ring(ABC):
    """What a power series needs of its coefficients."""

    @abstractmethod
    def number(self, p: int, q: int = 1) -> Any:
        """p/q."""

    def of(self, q: Any) -> Any:
        """A rational of SymPy or of flint."""
        return self.number(int(q.p), int(q.q))

    def constant(self, name: str) -> Any:
        raise IrrationalError(name)

    def is_zero(self, value: Any) -> bool:
        return bool(value == 0)

    def function(self, name: str, value: Any) -> Any:
        known = {"exp": (0, 1), "log": (1, 0), "sin": (0, 0), "cos": (0, 1), "atan": (0, 0), "asin": (0, 0)}
        if name in known and value == known[name][0]:
            return self.number(known[name][1])
        raise IrrationalError(f"{name}({value})")

    def sqrt(self, value: Any) -> Any:
        raise IrrationalError(f"sqrt({value})")


class Rationals(Ring):
    """Exact rational numbers; a root or an exponential that is not rational raises IrrationalError."""

    def number(self, p: int, q: int = 1) -> Any:
        return flint.fmpq(p, q)

    def sqrt(self, value: Any) -> Any:
        value = flint.fmpq(value)
        p, q = (value.p.isqrt(), value.q.isqrt()) if value >= 0 else (0, 1)
        return flint.fmpq(p, q) if p * p == value.p and q * q == value.q else super().sqrt(value)


class Balls(Ring):
    """Real balls of PRECISION bits."""

    def number(self, p: int, q: int = 1) -> Any:
        return flint.arb(flint.fmpq(p, q))

    def constant(self, name: str) -> Any:
        return {"pi": flint.arb.pi, "e": lambda: flint.arb(1).exp()}[name]()

    def is_zero(self, value: Any) -> bool:
        if isinstance(value, Polynomial):
            return all(self.is_zero(c) for c in value.terms.values())
        value = flint.arb(value)
        return bool(value.contains(0)) and bool(value.rad() < TINY)

    def function(self, name: str, value: Any) -> Any:
        return _finite(getattr(flint.arb(value), name)())

    def sqrt(self, value: Any) -> Any:
        return _finite(flint.arb(value).sqrt())


def _finite(value: Any) -> Any:
    """A value; ZeroDivisionError where there is none, as of log 0: no series begins there."""
    if not value.is_finite():
        raise ZeroDivisionError("a function at its pole or outside its domain")
    return value


def held_to_zero(gap: Any, formula: str) -> None:
    """Hold a difference, a ball, to zero: ArithmeticError where it is none, Unsupported where the ball is too wide to tell."""
    if Balls().is_zero(gap):
        return
    if flint.arb(gap).contains(0):
        raise Unsupported(f"the numbers are too large to prove the {formula}", "give smaller ones")
    raise ArithmeticError(f"the {formula} does not hold")


def exactly(made: Callable[[Ring], T]) -> T:
    """A result in exact rationals where they hold its values, else in balls."""
    with flint.ctx.workprec(PRECISION):
        try:
            return made(Rationals())
        except IrrationalError:
            return made(Balls())


def in_balls(made: Callable[[Ring], T]) -> T:
    """A result in balls, where its values are never rational or rationals grow too long."""
    with flint.ctx.workprec(PRECISION):
        return made(Balls())


def small_rational(rng: random.Random, low: float = -1.0, high: float = 1.0) -> flint.fmpq:
    """A rational of small height between two numbers, never zero."""
    q = rng.choice((7, 11, 13, 17, 19, 23))
    p = 0
    while p == 0:
        p = rng.randint(round(low * q), round(high * q))
    return flint.fmpq(p, q)
