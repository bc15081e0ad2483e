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

import mpmath
import sympy as sp

from stepsmith.errors import InputError, Unsupported

from ..composition import parse_composition
from ..sampler import Sampler

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


# -- the conditions on free shares ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Conditions:
    """The polynomial equations, one a Lyndon word, that the shares of a pattern must fulfil for an order.

    ``shares`` are the unknowns, named a1, a2, ..., b1, ... by letter; ``steps`` the pattern in them; ``equations`` holds
    Lyndon word -> polynomial that must vanish.
    """

    order: int
    shares: tuple[sp.Symbol, ...]
    steps: tuple[tuple[str, sp.Expr], ...]
    equations: Mapping[str, sp.Expr]

    def residual(self, values: Mapping[sp.Symbol, Any]) -> Any:
        """The largest magnitude of an equation at these shares."""
        return max(abs(sp.N(e.subs(values), 40)) for e in self.equations.values())


def conditions(
    pattern: str, order: int, symmetric: bool = False, ties: Mapping[str, sp.Expr | str] | None = None
) -> Conditions:
    """The conditions on the shares of a pattern such as "ABABABA", each letter an exact flow.

    ``symmetric``: the pattern and its shares are palindromes, and even lengths hold by themselves.  ``ties`` gives shares
    in terms of others, such as {"a2": "1 - 2*a1"}.  Raises InputError for a pattern that is no word of two or three letters.

    >>> conditions("ABA", 2, symmetric=True).equations
    {'A': 2*a1 - 1, 'B': b1 - 1}
    """
    _check_pattern(pattern, order, symmetric)
    symbols, steps = _unknowns(pattern, symmetric)
    given = {sp.Symbol(k): sp.sympify(v, locals={s.name: s for s in symbols}) for k, v in (ties or {}).items()}
    free = tuple(s for s in symbols if s not in given)
    ring = sp.polys.rings.PolyRing(free or (sp.Symbol("none"),), sp.QQ, sp.polys.orderings.lex)
    inside = [(letter, ring.from_expr(sp.expand(share.subs(given)))) for letter, share in steps]
    lengths = range(1, order + 1, 2) if symmetric else range(1, order + 1)
    words = [w for length in lengths for w in lyndon_words(pattern, length)]
    equations = {w: (coefficient(w, inside, ring.one) - ring.one / math.factorial(len(w))).as_expr() for w in words}
    return Conditions(
        order,
        free,
        tuple((letter, share.subs(given)) for letter, share in steps),
        {w: e for w, e in equations.items() if e != 0},
    )


def _check_pattern(pattern: str, order: int, symmetric: bool) -> None:
    if (
        not pattern
        or not 2 <= len(set(pattern)) <= 3
        or not (pattern.isascii() and pattern.isalpha() and pattern.isupper())
    ):
        raise InputError("-", "pattern", "is no word of two or three capital letters", "write one such as ABA")
    if any(a == b for a, b in itertools.pairwise(pattern)):
        raise InputError("-", "pattern", "has equal neighbours, which are one flow", "write the letter once")
    if not 1 <= order <= MAX_ORDER:
        raise InputError("-", "order", f"{order} is not from 1 to {MAX_ORDER}", "choose one that is")
    if symmetric and pattern != pattern[::-1]:
        raise InputError("-", "pattern", "is no palindrome", "mend it, or leave out symmetric")


def _unknowns(pattern: str, symmetric: bool) -> tuple[list[sp.Symbol], list[tuple[str, sp.Symbol]]]:
    seen: dict[str, int] = {}
    symbols: list[sp.Symbol] = []
    steps: list[tuple[str, sp.Symbol]] = []
    half = (len(pattern) + 1) // 2
    for k, letter in enumerate(pattern):
        if symmetric and k >= half:
            steps.append((letter, steps[len(pattern) - 1 - k][1]))
            continue
        seen[letter] = seen.get(letter, 0) + 1
        symbols.append(sp.Symbol(f"{letter.lower()}{seen[letter]}"))
        steps.append((letter, symbols[-1]))
    return symbols, steps


# -- solving them ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Solution:
    """Shares that fulfil the conditions: name -> value, to ``digits`` digits; ``real`` and ``positive`` say of all of them."""

    shares: Mapping[str, sp.Expr]
    steps: tuple[tuple[str, sp.Expr], ...]

    @property
    def real(self) -> bool:
        return all(abs(sp.im(c)) < ZERO for _, c in self.steps)

    @property
    def positive(self) -> bool:
        return self.real and all(sp.re(c) > 0 for _, c in self.steps)


def solve(found: Conditions, digits: int = 30, positive: bool = False) -> tuple[Solution, ...]:
    """All solutions of conditions that leave finitely many, complex ones too, the real first.

    Unsupported with ``positive`` and an order above 2: no real composition of two flows that may not run backwards has one
    (Sheng 1989, Suzuki 1991).  Unsupported too where infinitely many are left: tie shares, or ``refine`` from a start.
    """
    if positive and found.order > 2:
        raise Unsupported(
            f"order {found.order} with positive shares alone is impossible: above order 2 every letter of a real composition "
            "needs a negative share (Sheng, Suzuki)",
            "take order 2, or allow negative shares where no noise is drawn",
        )
    basis = sp.groebner(list(found.equations.values()), *found.shares, order="lex")
    if basis.exprs == [sp.S.One]:
        return ()
    if not basis.is_zero_dimensional:
        left = len(found.shares) - len(found.equations)
        raise Unsupported(
            f"the conditions leave a family of {max(left, 1)} or more free shares", "tie shares, or refine a start"
        )
    roots = _roots(list(basis.exprs), found.shares, digits)
    made = [_solution(found, root) for root in roots]
    return tuple(sorted(made, key=lambda s: (not s.real, str(s.shares))))


def _roots(basis: list[sp.Expr], unknowns: Sequence[sp.Symbol], digits: int) -> list[dict[sp.Symbol, sp.Expr]]:
    """The points of a lex basis, one unknown after the other, from the last."""
    points: list[dict[sp.Symbol, sp.Expr]] = [{}]
    for k in range(len(unknowns) - 1, -1, -1):
        x, later = unknowns[k], set(unknowns[k:])
        own = [e for e in basis if x in e.free_symbols and e.free_symbols <= later]
        new = []
        for point in points:
            polys = [sp.Poly(e.subs(point), x) for e in own]
            for root in min(polys, key=lambda p: p.degree()).nroots(n=digits + 10, maxsteps=500):
                near = [abs(sp.N(p.eval(root), 20)) < 10 ** (-digits // 2) for p in polys]
                if all(near):
                    new.append({**point, x: sp.N(root, digits)})
        points = new
    return points


def _solution(found: Conditions, values: Mapping[sp.Symbol, Any]) -> Solution:
    steps = tuple((letter, sp.sympify(share).subs(values)) for letter, share in found.steps)
    return Solution({s.name: v for s, v in values.items()}, steps)


def refine(found: Conditions, start: Mapping[str, float], digits: int = 30) -> Solution:
    """The solution nearest to a start, by Newton steps of least length: families keep what distinguishes the start.

    Raises Unsupported where the steps do not settle.
    """
    unknowns = list(found.shares)
    equations = sp.Matrix(list(found.equations.values()))
    value, slope = (sp.lambdify(unknowns, e, "mpmath") for e in (equations, equations.jacobian(unknowns)))
    with mpmath.workdps(digits + 10):
        x = mpmath.matrix([mpmath.mpf(start[u.name]) for u in unknowns])
        for _ in range(60):
            f, J = value(*x), slope(*x)
            if mpmath.norm(f, mpmath.inf) < mpmath.mpf(10) ** -(digits + 5):
                return _solution(found, {u: sp.Float(str(v), digits) for u, v in zip(unknowns, x, strict=True)})
            x = x - J.T * mpmath.lu_solve(J * J.T, f)
    raise Unsupported("Newton's steps from this start do not settle", "start nearer to a solution")
