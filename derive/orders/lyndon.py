"""Order conditions of compositions of exact flows, in the Lyndon basis.

    exp(c_1 h X_1) exp(c_2 h X_2) ... exp(c_s h X_s) = exp(h (A + B)) + O(h^(p+1))

Both sides are group-like, so the coefficients of Lyndon words decide: the composition has order p where for every Lyndon
word w of length k <= p its coefficient is 1/k!, and its leading error is a Lie element, told by its coefficients in the basis of
bracketed Lyndon words.  A palindrome has even order.  (methods.md 3.1, numerics.md 5c; Murua and Sanz-Serna 1999.)

The conditions are of exact flows.  An Euler kick of what its own score depends on is none (methods.md, F7), however the shares
are chosen: ``inexact`` names such letters, and the order of the composition is then what ``Method.order`` derives.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import sympy as sp

from stepsmith.errors import InputError, Unsupported

from ..composition import parse_composition

Word = tuple[int, ...]
Step = tuple[int, Any]  # (letter, share)


def lyndon_words(letters: int, most: int) -> Iterator[Word]:
    """The Lyndon words over 0 < 1 < ... of length up to ``most``, by length (Duval)."""
    found: list[Word] = []
    word = [-1]
    while word:
        word[-1] += 1
        found.append(tuple(word))
        size = len(word)
        while len(word) < most:
            word.append(word[-size])
        while word and word[-1] == letters - 1:
            word.pop()
    yield from sorted(found, key=lambda w: (len(w), w))


def coefficients(steps: Sequence[Step], most: int, one: Any = 1) -> dict[Word, Any]:
    """The coefficients of the words of length up to ``most`` in the product of the exponentials, in the order written."""
    product: dict[Word, Any] = {(): one}
    for letter, share in steps:
        powers = [one]
        for k in range(1, most + 1):
            powers.append(powers[-1] * share / k)
        grown: dict[Word, Any] = {}
        for word, c in product.items():
            for k in range(most - len(word) + 1):
                longer = word + (letter,) * k
                grown[longer] = grown.get(longer, 0) + c * powers[k]
        product = grown
    return product


def defects(steps: Sequence[Step], letters: int, most: int, one: Any = 1) -> dict[Word, Any]:
    """Coefficient minus 1/k! of every Lyndon word of length k up to ``most``: all zero means order ``most``."""
    found = coefficients(steps, most, one)
    return {word: found.get(word, 0 * one) - one / math.factorial(len(word)) for word in lyndon_words(letters, most)}


def bracket(word: Word) -> dict[Word, int]:
    """The bracketed Lyndon word as a sum of words: [b(u), b(v)], v the longest proper Lyndon suffix."""
    if len(word) == 1:
        return {word: 1}
    cut = next(i for i in range(1, len(word)) if is_lyndon(word[i:]))
    u, v = bracket(word[:cut]), bracket(word[cut:])
    found: dict[Word, int] = {}
    for (a, x), (b, y) in itertools.product(u.items(), v.items()):
        found[a + b] = found.get(a + b, 0) + x * y
        found[b + a] = found.get(b + a, 0) - x * y
    return found


def is_lyndon(word: Word) -> bool:
    return all(word < word[i:] for i in range(1, len(word)))


def spelled(word: Word, names: str) -> str:
    """The bracketed word as text, such as [A,[A,B]]."""
    if len(word) == 1:
        return names[word[0]]
    cut = next(i for i in range(1, len(word)) if is_lyndon(word[i:]))
    return f"[{spelled(word[:cut], names)},{spelled(word[cut:], names)}]"


@dataclass(frozen=True)
class CompositionOrder:
    """The order of a composition of exact flows and its leading error: h^(order + 1) times a sum of brackets."""

    order: int
    error: Mapping[str, Any]


def order_of(steps: Sequence[Step] | str, names: str = "AB", most: int = 6, tolerance: float = 0.0) -> CompositionOrder:
    """The order of exact flows composed with these shares (or those of a composition string) and its leading error.

    ``tolerance`` is what counts as zero where the shares are floating-point numbers.
    """
    if isinstance(steps, str):
        tokens = parse_composition(steps)
        names = "".join(sorted({token.letter for token in tokens}))
        steps = [(names.index(token.letter), Fraction(int(token.share.p), int(token.share.q))) for token in tokens]
    exact = all(isinstance(share, int | Fraction) for _, share in steps)
    one = Fraction(1) if exact else steps[0][1] * 0 + 1  # in the arithmetic of the shares
    found = defects(steps, len(names), most, one)
    for length in range(1, most + 1):
        gaps = {word: gap for word, gap in found.items() if len(word) == length}
        if any(abs(gap) > tolerance for gap in gaps.values()):
            return CompositionOrder(length - 1, {spelled(w, names): c for w, c in _lie(gaps).items() if abs(c) > tolerance})
    return CompositionOrder(most, {})


def _lie(gaps: Mapping[Word, Any]) -> dict[Word, Any]:
    """The coefficients of a Lie element in the bracket basis from those of its Lyndon words: the basis is triangular."""
    rest, found = dict(gaps), {}
    for word in sorted(gaps):
        found[word] = rest[word]
        for other, c in bracket(word).items():
            if other in rest and other != word:
                rest[other] = rest[other] - c * found[word]
    return found


# -- free shares ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Conditions:
    """Polynomial equations = 0 in the free shares, by Lyndon word; ``steps`` are the letters with their shares."""

    shares: tuple[sp.Symbol, ...]
    steps: tuple[Step, ...]
    equations: Mapping[Word, sp.Expr]


def conditions(pattern: str, order: int, symmetric: bool = True) -> Conditions:
    """The order conditions of a pattern of letters such as "ABA" with free shares a1, b1, a2, ...

    A palindrome with ``symmetric`` shares has no error at even powers, so words of even length are left out.
    """
    names = sorted(set(pattern))
    if symmetric and pattern != pattern[::-1]:
        raise InputError("-", "pattern", f"{pattern} is no palindrome", "mirror it, or say symmetric=False")
    count: dict[str, int] = {}
    symbols: list[sp.Symbol] = []
    for position, letter in enumerate(pattern):
        if symmetric and position >= (len(pattern) + 1) // 2:
            symbols.append(symbols[len(pattern) - 1 - position])
        else:
            count[letter] = count.get(letter, 0) + 1
            symbols.append(sp.Symbol(f"{letter.lower()}{count[letter]}"))
    free = tuple(dict.fromkeys(symbols))
    ring = sp.QQ[free]
    steps = tuple((names.index(letter), ring.from_sympy(symbol)) for letter, symbol in zip(pattern, symbols, strict=True))
    found = defects([(k, _Ring(ring, share)) for k, share in steps], len(names), order, _Ring(ring, ring.one))
    kept = {word: ring.to_sympy(gap.value) for word, gap in found.items() if not symmetric or len(word) % 2}
    shown = tuple((names.index(letter), symbol) for letter, symbol in zip(pattern, symbols, strict=True))
    return Conditions(free, shown, {word: sp.expand(e) for word, e in kept.items() if e != 0})


@dataclass(frozen=True)
class _Ring:
    """A polynomial that can be divided by an integer."""

    ring: Any
    value: Any

    def _of(self, other: Any) -> Any:
        return other.value if isinstance(other, _Ring) else self.ring(other)

    def __add__(self, other: Any) -> _Ring:
        return _Ring(self.ring, self.value + self._of(other))

    __radd__ = __add__

    def __sub__(self, other: Any) -> _Ring:
        return _Ring(self.ring, self.value - self._of(other))

    def __mul__(self, other: Any) -> _Ring:
        return _Ring(self.ring, self.value * self._of(other))

    __rmul__ = __mul__

    def __truediv__(self, k: int) -> _Ring:
        return _Ring(self.ring, self.value * self.ring(sp.Rational(1, k)))


def solve(pattern: str, order: int, positive: bool = False) -> list[tuple[Any, ...]]:
    """All shares of a symmetric pattern that give the order, in the order written, real solutions first.

    Raises Unsupported where ``positive`` shares are asked for an order above two, which no real composition has (Sheng 1989,
    Suzuki 1991), and where the conditions leave shares free.
    """
    if positive and order > 2:
        raise Unsupported(
            f"no composition of order {order} has only positive shares: above order 2 each letter needs a negative one",
            "take order 2, complex shares, or a part that may run backwards (never one that draws noise)",
        )
    found = conditions(pattern, order)
    solutions = sp.solve(list(found.equations.values()), found.shares, dict=True)
    if any(set(found.shares) - set(s) for s in solutions):
        what = f"the conditions of {pattern} at order {order} leave shares free"
        raise Unsupported(what, "ask for a higher order or fewer letters")
    shares = [tuple(share.subs(s) for _, share in found.steps) for s in solutions]
    shares.sort(key=lambda row: sum(abs(sp.im(sp.N(e))) for e in row))
    return [row for row in shares if not positive or all(sp.N(e) > 0 for e in row)]


def triple_jump(order: int, count: int = 3) -> sp.Expr:
    """p of S(p) ... S(1 - (count - 1) p) ... S(p), symmetric, that lifts a symmetric S of this even order by two.

    (count - 1) p^(order + 1) + (1 - (count - 1) p)^(order + 1) = 0: Yoshida for three factors, Suzuki for five.
    """
    root = sp.root(count - 1, order + 1)
    return 1 / (count - 1 - root)


def inexact(method: Any) -> list[str]:
    """The letters of a splitting whose flow is not solved exactly: the conditions above do not say their order.

    An Euler part with a score moves rows that the score sees (methods.md, K1 and F7), or damps them.
    """
    parts = method.sampler.parts
    return [letter for letter, part in parts.items() if part.solve != "exact" and part.score != "none"]
