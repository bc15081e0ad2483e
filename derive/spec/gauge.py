"""What SymPy may be asked to build: every step of the expression reader is measured here, before and after.

SymPy evaluates while it builds: 9**9**9, sqrt(1/10**9999) or exp(exp(exp(100))) never come back,
(2**(10**9*x))**(1/x) becomes 2**(10**9), and the sign of a sum that cancels is sought through its minimal polynomial.
So before two expressions are combined, their measures must allow it:

- a constant is followed at 60 digits: it stays real, finite, and 0 or between 1e-308 and 1e308 in magnitude, and none
  of its sums cancels to 40 digits;
- a constant exponent is at most 64 in magnitude, its denominator at most 1000; where an exponent holds names, no
  number in it is above 64 (``exp`` is free of this, unless a logarithm stands in it) and its base holds no such
  power;
- numerators and denominators have at most 1280 bits, those under a root or below a named exponent at most 320, and
  what SymPy writes (a/b)^(p/q) with, a^p b^(q-p), at most 1000;
- multiplied out, an expression has a degree of at most 100 and, over one denominator, numbers of at most 65,536 bits: a
  power of n multiplies both by n, products add the degrees, sums and products the bits;
- its questions of sign, and of real and imaginary parts, take a time exponential in the nest of powers (divisions too)
  and functions: these are nested at most 8 deep, and 3 deep where SymPy cannot tell that their argument is real, as
  the square root of a real name need not be (names are best declared real: else all of this is in doubt); their
  powers are at most 4, and hyperbolic functions of them count twice;
- the expression has at most 10,000 nodes and 64 levels, its names written out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import mpmath
import sympy
from sympy import S

MAX_HEIGHT = 64  # levels of an expression, those of its names included
MAX_POWER = 64  # magnitude of a constant exponent, and of every number in an exponent with names
MAX_ROOT = 1000  # denominator of a rational exponent
MAX_WEIGHT = 65_536  # bits of the numbers of an expression, were it written over one denominator
MAX_ROOTED = 1000  # bits of a number of which a root is left; SymPy takes its floating logarithm
MAX_ANGLE = 1e15  # magnitude of a constant in sin, cos and tan
MAX_DEGREE = 100  # of an expression, were it multiplied out
MAX_STACK = 8  # nested powers and functions
MAX_DOUBT = 3  # those of what SymPy does not know to be real
MAX_DOUBTED = 4  # magnitude of an integer exponent of such a thing, if it is no name
MAX_SIZE = 10_000  # nodes of an expression, those of its names included
MAX_BITS = 1280  # of the numerator and denominator of any number: 40 digits times 1e-308, and some air

_MP: Any = mpmath.MPContext()
_MP.dps = 60
_TINY, _HUGE, _CANCELLED = _MP.mpf("1e-308"), _MP.mpf("1e308"), _MP.mpf("1e-40")


class Refusal(Exception):
    """What is wrong and how to fix it; the parser adds the column."""

    def __init__(self, what: str, fix: str) -> None:
        self.what, self.fix = what, fix


def _sum(*terms: Any) -> Any:
    total = _MP.fsum(terms)
    if abs(total) < _CANCELLED * max(map(abs, terms)):
        raise Refusal("holds a constant sum that cancels to 40 digits", "write what is left of it")
    return total


_NAMES = ("exp", "log", "sin", "cos", "tan", "sinh", "cosh", "tanh", "asin", "acos", "atan")
FUNCTIONS = ("sqrt", "abs", *_NAMES)
_HEADS: dict[Any, Callable[..., Any]] = {  # what SymPy's nodes are worth at constants
    **{getattr(sympy, name): getattr(_MP, name) for name in (*_NAMES, "cot", "coth")},
    **{sympy.Add: _sum, sympy.Mul: lambda *factors: _MP.fprod(factors), sympy.Pow: _MP.power, sympy.Abs: _MP.fabs},
}


def _value(head: Callable[..., Any], values: Iterable[Any]) -> Any:
    """The value of a function of constants, if it is one that float64 can hold."""
    try:
        value = head(*values)
    except (ValueError, ZeroDivisionError, OverflowError):
        raise Refusal("divides by zero", "fix the constant") from None
    if isinstance(value, _MP.mpc):
        raise Refusal("is not a real number", "fix the constant")
    if not _MP.isfinite(value):
        raise Refusal("has no finite value", "fix the constant")
    if value and not _TINY <= abs(value) <= _HUGE:
        raise Refusal("is a constant outside the range of float64 (1e-308 to 1e308)", "rescale it")
    return value


@dataclass(frozen=True)
class Measure:
    """What has to be known of an expression before SymPy may combine it with another."""

    value: Any = None  # of a constant, to 60 digits; None where it holds a name
    bits: int = 0  # the longest numerator or denominator in it
    weight: Any = 1  # the bits of its numbers, were it written over one denominator
    degree: Any = 0  # in its names and functions, were it multiplied out
    peak: Any = 0  # the largest magnitude of a rational number in it
    nodes: int = 1
    height: int = 1
    stack: int = 0  # levels of powers and functions in it
    doubt: int = 0  # those of what is not known to be real
    tower: bool = False  # it holds a power with a name in its exponent


def _unknown(expr: sympy.Basic) -> bool:
    return expr.is_extended_real is None


def _levels(head: Any) -> int:
    """What a function of a doubtful argument adds to the doubt: the hyperbolic ones look at its imaginary part modulo pi."""
    return 2 if head in (sympy.sinh, sympy.cosh, sympy.tanh, sympy.coth) else 1


def _degree(expr: sympy.Basic, degrees: list[Any], power: Any) -> Any:
    if isinstance(expr, sympy.Mul):
        return sum(degrees)
    return max(degrees) * power if isinstance(expr, sympy.Add | sympy.Pow) else 1


def _is_root(factor: Any) -> bool:
    return factor.is_Pow and factor.base.is_number and factor.exp.is_Rational and not factor.exp.is_Integer


class Gauge:
    """Measures expressions, each of their parts once; refuses those that break a limit."""

    def __init__(self, known: Mapping[sympy.Basic, Measure] | None = None) -> None:
        """``known``: names that stand for more than themselves, and what that measures."""
        self.seen: dict[sympy.Basic, Measure] = {S.Pi: Measure(+_MP.pi), S.Exp1: Measure(+_MP.e), **(known or {})}

    def __call__(self, expr: sympy.Basic) -> Measure:
        if expr not in self.seen:
            self.seen[expr] = self._node(expr) if expr.args else self._leaf(expr)
        return self.seen[expr]

    def _leaf(self, expr: Any) -> Measure:
        if expr is S.ImaginaryUnit:
            raise Refusal("is not a real number", "fix the constant, or the sign under a root or a logarithm")
        if expr in (S.NaN, S.ComplexInfinity, S.Infinity, S.NegativeInfinity):
            raise Refusal("has no finite value", "fix the constant")
        if not expr.is_Rational:
            return Measure(degree=1)
        bits = max(abs(expr.p).bit_length(), expr.q.bit_length())
        if bits > MAX_BITS:
            raise Refusal(f"holds a number of more than {MAX_BITS} bits", "use fewer digits or smaller powers")
        value = _value(lambda: _MP.mpf(expr.p) / expr.q, ())
        return Measure(value, bits, max(1, bits), 0, abs(value))

    def _node(self, expr: Any) -> Measure:
        parts = [self(part) for part in expr.args]
        constant = all(part.value is not None for part in parts) and expr.func in _HEADS
        flat = isinstance(expr, sympy.Add | sympy.Mul)
        if expr.is_Pow and parts[1].peak > (MAX_POWER if parts[1].value is None else MAX_POWER**2):
            raise Refusal("multiplies exponents past the limit", f"keep the numbers in exponents below {MAX_POWER}")
        power = max(1, abs(parts[1].value or 1)) if expr.is_Pow else 1
        measure = Measure(
            _value(_HEADS[expr.func], [part.value for part in parts]) if constant else None,
            max(part.bits for part in parts),
            parts[0].weight * power if expr.is_Pow else sum(part.weight for part in parts),
            _degree(expr, [part.degree for part in parts], power),
            max(part.peak for part in parts),
            1 + sum(part.nodes for part in parts),
            1 + max(part.height for part in parts),
            max(part.stack for part in parts) + (not flat),
            max(part.doubt for part in parts) + _levels(expr.func) * (not flat and any(map(_unknown, expr.args))),
            any(part.tower for part in parts) or (isinstance(expr, sympy.Pow | sympy.exp) and parts[-1].value is None),
        )
        if power > MAX_DOUBTED and _unknown(expr.args[0]) and not expr.args[0].is_Symbol:
            raise Refusal(f"raises what may not be real to a power above {MAX_DOUBTED}", "use smaller powers")
        if measure.weight > MAX_WEIGHT or measure.degree > MAX_DEGREE:
            raise Refusal("raises too much to high powers", "use smaller powers, or fewer digits")
        if measure.height > MAX_HEIGHT or measure.nodes > MAX_SIZE:
            what = f"is more than {MAX_HEIGHT} deep or {MAX_SIZE} nodes large"
            raise Refusal(what, "name parts of it, or write less")
        return measure

    def _stacked(self, *arguments: sympy.Expr, levels: int = 1) -> None:
        """Refuse one power or function more on top of these, where SymPy would ponder too long about them."""
        for part in arguments:
            measure = self(part)
            if measure.stack >= MAX_STACK or (measure.doubt + levels > MAX_DOUBT and _unknown(part)):
                what = "nests too many powers, divisions and functions"
                raise Refusal(what, "name a part of it, or write it flatter")

    def power(self, base: sympy.Expr, exponent: sympy.Expr) -> sympy.Expr:
        """``base**exponent``, once it is known to be small, real and finite."""
        low, high = self(base), self(exponent)
        self._stacked(base, exponent)
        if high.value is None:
            if low.tower:
                raise Refusal("raises a power with names in its exponent to another", "multiply the two exponents")
            if high.peak > MAX_POWER:
                raise Refusal(f"has a number above {MAX_POWER} in an exponent", "write it with exp, or rescale")
        elif abs(high.value) > MAX_POWER or (exponent.is_Rational and exponent.q > MAX_ROOT):
            limit = f"a constant exponent is at most {MAX_POWER}, its denominator at most {MAX_ROOT}"
            raise Refusal("has an exponent that is too large or too fine", limit)
        elif low.value is not None:
            _value(_MP.power, [low.value, high.value])
        times = 1 if high.value is None else abs(high.value)
        growth = abs(int(exponent)) if exponent.is_Integer else 4  # roots make SymPy look for factors
        if low.weight * times > MAX_WEIGHT or low.degree * times > MAX_DEGREE:
            raise Refusal("raises too much to high powers", "use smaller powers, or fewer digits")
        if low.bits * growth > MAX_BITS:
            raise Refusal("raises a number with too many digits to a power", "use fewer digits or a smaller power")
        if exponent.is_Rational:
            self._roots(base, exponent)
        return sympy.Pow(base, exponent)

    def _rooted(self, bits: int, exponent: Any) -> None:
        """Refuse a root of a number that SymPy would write with one that is too large.

        (a/b)^(p/q), 0 < p < q, becomes a^(p/q) b^((q - p)/q) / b, c^(-p/q) likewise c^((q - p)/q) / c, and c^(p/q) the
        q-th root of the primes of c^p.
        """
        if bits * (exponent.p % exponent.q) > MAX_ROOTED:
            raise Refusal("takes a root of a number with too many digits", "use fewer digits, or a root such as 1/2")

    def _roots(self, base: sympy.Expr, exponent: Any) -> None:
        """Look at the numbers, and the roots of numbers, that a rational power of this base would take."""
        for factor in sympy.Mul.make_args(base):
            if factor.is_Rational and not exponent.is_Integer:
                self._rooted(abs(factor.p).bit_length() if abs(factor.p) > 1 else 0, exponent)
                self._rooted(factor.q.bit_length() if factor.q > 1 else 0, -exponent)
            elif _is_root(factor):
                self._roots(factor.base, factor.exp * exponent)

    def product(self, *factors: sympy.Expr) -> sympy.Expr:
        """The product of all; roots of one number come together over the multiple of their q, and those of one exponent."""
        roots = [part for factor in factors for part in sympy.Mul.make_args(factor) if _is_root(part)]
        for root in roots if len(roots) > 1 else ():
            same = [other.exp.q for other in roots if other.base == root.base]
            if len(same) > 1:
                self._rooted(self(root.base).bits, S.One - S.One / math.lcm(*map(int, same)))
            self._rooted(sum(self(other.base).bits for other in roots if other.exp == root.exp), root.exp)
        return sympy.Mul(*factors)

    def call(self, name: str, argument: sympy.Expr) -> sympy.Expr:
        """``name(argument)``, under the same conditions."""
        value, peak = self(argument).value, self(argument).peak
        if name == "sqrt":
            return self.power(argument, S.Half)
        if name == "abs" and value is None:  # not Abs(a): of an a that may be complex, it expands every power
            return self.power(self.power(argument, sympy.Integer(2)), S.Half)
        if name == "abs":
            return argument if value >= 0 else -argument
        head = getattr(sympy, name)
        self._stacked(argument, levels=_levels(head))
        if name in ("sin", "cos", "tan") and value is not None and abs(value) > MAX_ANGLE:
            raise Refusal(f"takes {name} of a number above {MAX_ANGLE:g}, where float64 knows no angle", "rescale it")
        if value is not None:
            _value(_HEADS[head], [value])
        elif name == "exp" and peak > MAX_POWER and argument.has(sympy.log):  # exp(n log a) becomes a**n
            raise Refusal(f"has a number above {MAX_POWER} beside a logarithm in exp", "write it as a power")
        for term in sympy.Add.make_args(argument) if name == "exp" else ():
            factors = sympy.Mul.make_args(term)
            logs = [factor for factor in factors if isinstance(factor, sympy.log)]
            if len(logs) == 1:  # exp(c log a) becomes a**c
                self.power(logs[0].args[0], sympy.Mul(*(factor for factor in factors if factor is not logs[0])))
        return head(argument)
