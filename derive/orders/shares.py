"""Free shares: the polynomial conditions that a pattern of exact flows must fulfil for an order, and their solutions.

What a condition is, and where it applies, stands in lyndon.py.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mpmath
import sympy as sp

from stepsmith.errors import InputError, Unsupported

from .lyndon import MAX_ORDER, ZERO, coefficient, lyndon_words


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
        raise InputError("-", "pattern", "is no palindrome", "fix it, or leave out symmetric")


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
