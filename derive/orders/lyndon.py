"""Order conditions of compositions of exact flows, on Lyndon words.

A step applies exact flows one after the other, X_1 for the share c_1 of the step, then X_2 for c_2, ...  On functions of
the state (Lie derivatives) that is a product in the same order, to be compared with the flow of the whole:

    exp(c_1 h X_1) exp(c_2 h X_2) ... = exp(h (A + B + ...)) + O(h^(p+1))

The coefficient of a word w in the left product counts the ways to read w as powers of the letters in their order, each
x^m weighted c^m / m!; on the right it is 1 / |w|!.  Both sides are exponentials of Lie series, so they agree up to length p
if they do on the Lyndon words: those smaller than every proper end of themselves.  The leading error is a Lie polynomial,
numerical minus exact; it is written in the brackets of the Lyndon words, b[w] = [b[u], b[v]] for w = u v with v the longest
proper end that is a Lyndon word.  A palindrome has errors of odd length only.

Each letter has its own clock (the shares of a letter sum to 1 at the end of the step), so t counts as one more variable of
every letter and time-dependent parts obey the same conditions.

Only exact flows: a kick solved by Euler is none where the score depends on what the kick moves (methods.md F7, K1), and
the conditions say nothing of it; its order is what ``orders.local`` proves.

References: Sheng 1989, Suzuki 1991 (order above 2 needs a negative share); Yoshida 1990; Blanes and Moan 2002.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import sympy as sp

from stepsmith.errors import Unsupported

from ..sampler.sampler import Sampler
from ..spec.composition import parse_composition

MAX_ORDER = 8
ZERO = 1e-13  # a coefficient of float shares below this counts as 0
Step = tuple[str, Any]  # a letter and its share


def lyndon_words(letters: str, length: int) -> tuple[str, ...]:
    """The Lyndon words of this length, in alphabetical order.

    >>> lyndon_words("AB", 3)
    ('AAB', 'ABB')
    """
    words = map("".join, itertools.product(sorted(set(letters)), repeat=length))
    return tuple(w for w in words if all(w < w[k:] for k in range(1, length)))


def bracket(word: str) -> dict[str, int]:
    """b[w] written out: word -> coefficient.

    >>> bracket("AAB")
    {'AAB': 1, 'ABA': -2, 'BAA': 1}
    """
    if len(word) == 1:
        return {word: 1}
    cut = next(k for k in range(1, len(word)) if all(word[k:] < word[j:] for j in range(k + 1, len(word))))
    left, right = bracket(word[:cut]), bracket(word[cut:])
    total: dict[str, int] = {}
    for (u, a), (v, b) in itertools.product(left.items(), right.items()):
        for key, value in ((u + v, a * b), (v + u, -a * b)):
            total[key] = total.get(key, 0) + value
    return {key: value for key, value in total.items() if value}


def spelled(word: str) -> str:
    """The bracket of a Lyndon word as text: AAB is [A, [A, B]]."""
    if len(word) == 1:
        return word
    cut = next(k for k in range(1, len(word)) if all(word[k:] < word[j:] for j in range(k + 1, len(word))))
    return f"[{spelled(word[:cut])}, {spelled(word[cut:])}]"


def coefficient(word: str, steps: Sequence[Step], one: Any = 1) -> Any:
    """The coefficient of a word in prod exp(c_i X_i); ``one`` is the 1 of the shares' ring."""
    reach = [one, *[0] * len(word)]  # reach[j]: the coefficient of the first j letters in the product so far
    for letter, share in steps:
        new = list(reach)
        for j, value in enumerate(reach[:-1]):
            power = value
            for m in range(1, len(word) - j + 1):
                if word[j + m - 1] != letter:
                    break
                power = power * share / m
                new[j + m] = new[j + m] + power
        reach = new
    return reach[-1]


def _gap(word: str, steps: Sequence[Step], one: Any) -> Any:
    """Numerical minus exact on a word."""
    return coefficient(word, steps, one) - one / math.factorial(len(word))


# -- the order of a composition ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Order:
    """The order of a composition of exact flows, and its leading error: Lyndon word -> coefficient of its bracket.

    ``error`` is numerical minus exact, times h^(order + 1); it is empty where nothing was found up to MAX_ORDER.
    """

    order: int
    error: Mapping[str, Any]

    def __str__(self) -> str:
        terms = " + ".join(f"({c}) {spelled(w)}" for w, c in self.error.items())
        return f"order {self.order}" + (f", leading error h^{self.order + 1} ({terms})" if terms else "")


def order_of(composition: str | Sequence[Step]) -> Order:
    """The order of a composition string, or of (letter, share) pairs, every letter an exact flow.

    Shares are exact (int, Fraction, SymPy Rational) or floats, complex ones too; those of floats that are below ZERO count as 0.
    Unsupported for a string with ``!``: a token that calls the network is no exact flow.

    >>> print(order_of("A(1/2) B A(1/2)"))
    order 2, leading error h^3 ((-1/24) [A, [A, B]] + (1/12) [[A, B], B])
    """
    steps = _steps(composition)
    letters = "".join(sorted({letter for letter, _ in steps}))
    one = Fraction(1) if all(isinstance(c, Fraction) for _, c in steps) else 1.0
    for length in range(1, MAX_ORDER + 2):
        gaps = {word: _gap(word, steps, one) for word in lyndon_words(letters, length)}
        if any(abs(gap) > (0 if one == Fraction(1) and isinstance(one, Fraction) else ZERO) for gap in gaps.values()):
            return Order(length - 1, _in_brackets(letters, length, steps, one))
        if len(letters) == 1:
            break
    return Order(MAX_ORDER, {})


def _in_brackets(letters: str, length: int, steps: Sequence[Step], one: Any) -> dict[str, Any]:
    """The gap of the leading length in the brackets of the Lyndon words: b[w] is w and larger words."""
    words = map("".join, itertools.product(letters, repeat=length))
    rest = {word: _gap(word, steps, one) for word in words}
    error = {}
    for word in lyndon_words(letters, length):
        c = rest[word]
        for key, value in bracket(word).items():
            rest[key] = rest[key] - c * value
        if c != 0:
            error[word] = c
    return error


def _steps(composition: str | Sequence[Step]) -> list[Step]:
    if isinstance(composition, str):
        tokens = parse_composition(composition)
        kicks = [token.letter for token in tokens if token.fresh]
        if kicks:
            raise _no_flow(kicks[0])
        return [(token.letter, Fraction(int(token.share.p), int(token.share.q))) for token in tokens]
    steps = []
    for letter, share in composition:
        if isinstance(share, int | sp.Rational | Fraction) and not isinstance(share, sp.Float):
            share = (
                Fraction(int(sp.Rational(share).p), int(sp.Rational(share).q))
                if not isinstance(share, Fraction)
                else share
            )
        elif isinstance(share, sp.Expr):
            share = complex(share) if not share.is_real else float(share)
        steps.append((letter, share))
    return steps


def _no_flow(letter: str) -> Unsupported:
    return Unsupported(
        f"{letter} is a kick that is no exact flow: the score depends on what it moves, so the conditions do not apply",
        "`stepsmith error` proves the order that the composition has",
    )


def order_of_sampler(sampler: Sampler) -> Order:
    """The order of a sampler whose parts are all solved exactly; Unsupported names a part that is not."""
    for token in sampler.composition:
        part = sampler.parts[token.letter]
        if part.solve != "exact" or part.score != "none" or token.fresh:
            raise _no_flow(token.letter)
    if not sampler.composition:
        raise Unsupported(f"{sampler.name} is no composition", "give a splitting")
    return order_of([(token.letter, token.share) for token in sampler.composition])
