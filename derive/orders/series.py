"""Truncated power series in one small quantity over any ring, and SymPy expressions evaluated on them.

A Series is its list of coefficients, as far as they are known: a sum or product is as long as its shorter side, a
division by a series that begins with zeros loses as many terms, so nothing unknown is ever read.  The quantity is
h = t0 - t1 for deterministic programs, r = sqrt(h) where noise is drawn, x = t - t0 inside the rules.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Number = Any


class Series:
    """x^v sum_k c[k] x^k + O(x^(v + len(c))), v <= 0, coefficients in a ring that knows + - * / among themselves and with
    integers.  v < 0 is a pole, which a coefficient may have on its way (1/h); what a program ends with has none.
    """

    __slots__ = ("c", "ring", "v")

    def __init__(self, c: Sequence[Number], ring: Any, v: int = 0) -> None:
        self.c, self.ring, self.v = list(c), ring, v
        while self.v < 0 and self.c and (nil(self.c[0]) or ring.is_zero(self.c[0])):
            self.c, self.v = self.c[1:], self.v + 1

    def _from(self, v: int) -> list[Any]:
        """The coefficients from x^v on."""
        return [0] * (self.v - v) + self.c

    def __add__(self, other: Any) -> Series:
        if not isinstance(other, Series):
            if self.v:
                return self + Series([other] + [0] * (len(self.c) + self.v - 1), self.ring)
            return Series([self.c[0] + other, *self.c[1:]], self.ring)
        v = min(self.v, other.v)
        pairs = zip(self._from(v), other._from(v), strict=False)
        return Series([a + b for a, b in pairs], self.ring, v)

    __radd__ = __add__

    def __neg__(self) -> Series:
        return Series([-a for a in self.c], self.ring, self.v)

    def __sub__(self, other: Any) -> Series:
        if isinstance(other, Series) and not self.v and not other.v:
            return Series([a - b for a, b in zip(self.c, other.c, strict=False)], self.ring)
        return self + (-other)

    def __rsub__(self, other: Any) -> Series:
        return -self + other

    def __mul__(self, other: Any) -> Series:
        if not isinstance(other, Series):
            return Series([a * other for a in self.c], self.ring, self.v)
        if self.v or other.v:
            return self._about_pole(other)
        n = min(len(self.c), len(other.c))
        out: list[Any] = [0] * n
        right = [(j, b) for j, b in enumerate(other.c) if not nil(b)]
        for i, a in enumerate(self.c[:n] if right else ()):
            if not nil(a):
                for j, b in right:
                    if i + j >= n:
                        break
                    out[i + j] = out[i + j] + a * b
        return Series(out, self.ring)

    def _about_pole(self, other: Series) -> Series:
        """The product where one has a pole: what the leading zeros of the other take off it costs no term."""
        lost = [0, 0]
        for side, (one, two) in enumerate(((self, other), (other, self))):
            while two.v and lost[side] < len(one.c) - 1 and self.ring.is_zero(one.c[lost[side]]):
                lost[side] += 1
        a, b = (Series(one.c[k:], self.ring) for one, k in zip((self, other), lost, strict=True))
        v = self.v + other.v + sum(lost)
        return Series([0] * max(v, 0) + (a * b).c, self.ring, min(v, 0))

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Series:
        if not isinstance(other, Series):
            return Series([_over(a, other) for a in self.c], self.ring, self.v)
        shift = other.valuation()
        below, lost = other.c[shift:], 0
        while lost < min(shift, len(self.c)) and self.ring.is_zero(self.c[lost]):
            lost += 1
        out: list[Any] = []
        for k, a in enumerate(self.c[lost : lost + len(below)]):
            for j in range(1, k + 1):
                if not nil(below[j]) and not nil(out[k - j]):
                    a = a - below[j] * out[k - j]
            out.append(_over(a, below[0]))
        v = self.v + lost - other.v - shift
        return Series([0] * max(v, 0) + out, self.ring, min(v, 0))

    def __rtruediv__(self, other: Any) -> Series:
        return Series([other] + [0] * (len(self.c) - 1), self.ring) / self

    def valuation(self) -> int:
        """The number of leading coefficients in ``c`` that vanish; ZeroDivisionError where all do."""
        for k, a in enumerate(self.c):
            if not self.ring.is_zero(a):
                return k
        raise ZeroDivisionError("a series that vanishes to the order kept")

    def sqrt(self) -> Series:
        """The root with positive leading coefficient; a leading power of the small quantity must be even."""
        if all(self.ring.is_zero(a) for a in self.c):
            return Series([0] * len(self.c), self.ring)
        first = self.valuation()
        v, odd = divmod(self.v + first, 2)
        if odd:
            raise ZeroDivisionError("the root of an odd power of the step")
        c = self.c[first:]
        root = [self.ring.sqrt(c[0])]
        for k in range(1, len(c)):
            inner = sum((root[j] * root[k - j] for j in range(1, k)), 0)
            root.append((c[k] - inner) / (2 * root[0]))
        return Series([0] * max(v, 0) + root, self.ring, min(v, 0))

    def exp(self) -> Series:
        c = self.regular
        out = [self.ring.function("exp", c[0])]
        for k in range(1, len(c)):
            out.append(_over(sum((j * c[j] * out[k - j] for j in range(1, k + 1)), 0), k))
        return Series(out, self.ring)

    def log(self) -> Series:
        c = self.regular
        out = [self.ring.function("log", c[0])]
        for k in range(1, len(c)):
            inner = sum((j * out[j] * c[k - j] for j in range(1, k)), 0)
            out.append((c[k] - _over(inner, k)) / c[0])
        return Series(out, self.ring)

    def sincos(self) -> tuple[Series, Series]:
        x = self.regular
        s, c = [self.ring.function("sin", x[0])], [self.ring.function("cos", x[0])]
        for k in range(1, len(x)):
            s.append(_over(sum((j * x[j] * c[k - j] for j in range(1, k + 1)), 0), k))
            c.append(-_over(sum((j * x[j] * s[k - j] for j in range(1, k + 1)), 0), k))
        return Series(s, self.ring), Series(c, self.ring)

    def sin(self) -> Series:
        return self.sincos()[0]

    def cos(self) -> Series:
        return self.sincos()[1]

    def atan(self) -> Series:
        return self._from_slope("atan", self.derivative() / (self * self + 1))

    def asin(self) -> Series:
        return self._from_slope("asin", self.derivative() / (1 - self * self).sqrt())

    def acos(self) -> Series:
        return self._from_slope("acos", -self.derivative() / (1 - self * self).sqrt())

    def _from_slope(self, name: str, slope: Series) -> Series:
        """A function of this series by its derivative along it."""
        return Series([self.ring.function(name, self.regular[0]), *slope.integral().c[1:]], self.ring)

    def integral(self) -> Series:
        """The antiderivative that vanishes at zero."""
        return Series([0] + [_over(a, k + 1) for k, a in enumerate(self.c[:-1])], self.ring)

    def derivative(self) -> Series:
        return Series([k * a for k, a in enumerate(self.c)][1:], self.ring)

    def at(self, inner: Series) -> Series:
        """The composition with a series that vanishes at zero."""
        if not self.ring.is_zero(inner.c[0]):
            raise ValueError("the inner series of a composition must vanish at zero")
        inner = Series([0, *inner.c[1:]], self.ring)
        n = len(inner.c)
        powers = [k for k, a in enumerate(inner.c) if not nil(a)]
        known = min(n, len(self.c) * min(powers, default=n))  # what the first term that is missing here would reach
        if len(powers) == 1:
            return Series(self._stretched(inner.c[powers[0]], powers[0], n)[:known], self.ring)
        total = Series([self.c[-1]] + [0] * (n - 1), self.ring)
        for a in reversed(self.c[:-1]):
            total = total * inner + a
        return Series(total.c[:known], self.ring)

    def _stretched(self, factor: Any, power: int, length: int) -> list[Any]:
        """The coefficients with factor x^power in place of x."""
        out: list[Any] = [self.c[0]] + [0] * (length - 1)
        scale = factor
        for k, a in zip(range(power, length, power), self.c[1:], strict=False):
            out[k] = 0 if nil(a) else a * scale
            scale = scale * factor
        return out

    def __pow__(self, k: int) -> Series:
        if k < 0:
            return 1 / self ** (-k)
        out = Series([self.ring.number(1)] + [0] * (len(self.c) - 1), self.ring)
        for _ in range(k):
            out = out * self
        return out

    @property
    def regular(self) -> list[Any]:
        """The coefficients of a series without a pole."""
        if self.v:
            raise ZeroDivisionError("a pole in the step")
        return self.c


def nil(a: Any) -> bool:
    """Whether a coefficient is the integer zero: exact, whatever the ring."""
    return type(a) is int and a == 0


def _over(a: Any, b: Any) -> Any:
    """a / b, where an integer zero stays one (Python would make a float of it)."""
    return 0 if nil(a) else a / b


def clock(ring: Any, value: Any, length: int) -> Series:
    """value + x."""
    return Series(([value, ring.number(1)] + [0] * length)[:length], ring)


def constant(ring: Any, value: Any, length: int) -> Series:
    return Series([value] + [0] * (length - 1), ring)
