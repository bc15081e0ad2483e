"""Search for schemes: compositions of the letters A (data), B (the rest), E (all), and two-stage Runge-Kutta programs.

A scheme is a short list of moves that is run on power series, to find its order, and on numbers, to find its error; what is
found is derived as a method like any other, and its order proven there.

THEOREM says why compositions without ``!^`` are not enough.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

import flint

from ..maths.matrix import Matrix, add, mul, scaled
from ..spec.composition import parse_composition
from .point import composed
from .rings import PRECISION, Ring, exactly
from .series import Series, constant
from .taylor import Setting, Value, exact_flow, setting
from .trial import error_of, parts_of, trial

Number = Fraction
TOP = 3  # orders are told apart below it
THEOREM = """\
Theorem: a composition of Euler kicks without ^ has order 1 at most where the score of a block depends on that block.
Proof: let b_1, b_2, ... be the shares of the block moved under its successive evaluations; the j-th has seen b_1 + ... + b_(j-1).
The numerical h^2 term of (ds_m/dm) dm has the factor sum_j b_j (b_1 + ... + b_(j-1)) = (1 - sum_j b_j^2)/2 < 1/2 for real shares
with sum 1; the exact solution has 1/2."""


@dataclass(frozen=True)
class Score:
    """``name`` = the score at a state, network time t0 - at h."""

    name: str
    state: str
    at: Number


@dataclass(frozen=True)
class Term:
    """weight h (linear seen + score s) of the rows of a letter, F and G at t0 - at h."""

    weight: Number
    letter: str
    seen: str
    score: str
    at: Number


@dataclass(frozen=True)
class Move:
    """``name`` = base + the sum of the terms."""

    name: str
    base: str
    terms: tuple[Term, ...]


@dataclass(frozen=True)
class Scheme:
    """Moves from the state "z" to the state ``result``; ``text`` is a composition, ``lines`` those of a Runge-Kutta spec."""

    moves: tuple[Score | Move, ...]
    result: str
    text: str = ""
    lines: tuple[str, ...] = ()

    @property
    def calls(self) -> int:
        return sum(isinstance(move, Score) for move in self.moves)

    def run(self, start: Any, score: Callable[[Any, Number], Any], push: Callable[[Any, Term, Any, Any], Any]) -> Any:
        """The last state: ``score`` of a state at a time; ``push`` adds a term to a state, given the state and score it reads."""
        states, scores = {"z": start}, {}
        for move in self.moves:
            if isinstance(move, Score):
                scores[move.name] = score(states[move.state], move.at)
                continue
            state = states[move.base]
            for term in move.terms:
                state = push(state, term, states[term.seen], scores[term.score])
            states[move.name] = state
        return states[self.result]

    @property
    def source(self) -> Any:
        """What ``load_sampler`` takes."""
        if self.text:
            return self.text
        rows = {"A": "data", "B": "auxiliary"}
        parts = {k: {"rows": v, "linear": "rest", "score": "all"} for k, v in rows.items()}
        return {
            "name": "found", "family": "runge-kutta", "target": "ode", "parts": parts, "let": {"h": "t0 - t1"},
            "step": list(self.lines),
        }  # fmt: skip


def composed_of(text: str) -> Scheme:
    """The moves of a composition string."""
    moves: list[Score | Move] = []
    state, score, clock = "z", "", Number(0)
    for k, token in enumerate(parse_composition(text)):
        share, seen = Number(int(token.share.p), int(token.share.q)), state
        if token.fresh:
            at = Number(int(token.at.p), int(token.at.q))
            if token.predict:
                seen = f"p{k}"
                moves.append(Move(seen, state, (Term(share, token.letter, state, score, clock),)))
            score, clock = f"s{k}", at
            moves.append(Score(score, seen, at))
        moves.append(Move(f"z{k}", state, (Term(share, token.letter, seen, score, clock),)))
        state = f"z{k}"
    return Scheme(tuple(moves), state, text)


MARKS = ("", "!", "!@1/2", "!@1", "!^", "!^@1/2", "!^@1")


def compositions(length: int, calls: int, letters: Sequence[str] = ("AB", "E")) -> Iterator[Scheme]:
    """Every composition of up to so many tokens and calls, equal shares, that begins with a plain evaluation and has no letter
    twice in a row without a fresh evaluation between.
    """
    for alphabet in letters:
        for count in range(len(alphabet), length + 1):
            for word in itertools.product(alphabet, repeat=count):
                if set(word) != set(alphabet):
                    continue
                for marks in itertools.product(MARKS, repeat=count - 1):
                    again = any(a == b and not mark for a, b, mark in zip(word, word[1:], marks, strict=False))
                    if 1 + sum("!" in mark for mark in marks) <= calls and not again:
                        yield composed_of(" ".join(f"{a}{m}" for a, m in zip(word, ("!", *marks), strict=True)))


def two_stage() -> Iterator[Scheme]:
    """z' = z + h sum_l (v_l f_l(u_l, s1, t0) + w_l f_l(p, s2, t)), v_l + w_l = 1, p made of z with the one score s1.

    u_l is z or what half a step of the other letter made of it; p moves A and B from z or from such a u, once each; t = t0 - c h.
    """
    half, one, zero = Number(1, 2), Number(1), Number(0)
    for at in (half, one):
        for first, second in itertools.product(("z", "half"), repeat=2):
            seen = {"A": "yb" if first == "half" else "z", "B": "ya" if second == "half" else "z"}
            start: list[Score | Move] = [Score("s1", "z", zero)]
            if first == "half":
                start.append(Move("yb", "z", (Term(at / 2, "B", "z", "s1", zero),)))
            if second == "half":
                start.append(Move("ya", "z", (Term(at / 2, "A", "z", "s1", zero),)))
            ahead = Move("p", "z", tuple(Term(at, k, seen[k], "s1", zero) for k in "AB"))
            for weights in itertools.product((zero, half, one), repeat=2):
                for late in itertools.product(("z", "seen"), repeat=2):
                    terms = []
                    for k, w, how in zip("AB", weights, late, strict=True):
                        u = seen[k] if how == "seen" else "z"
                        terms += [Term(one - w, k, u, "s1", zero), Term(w, k, "p", "s2", at)]
                    if any(how == "seen" and seen[k] == "z" for k, how in zip("AB", late, strict=True)):
                        continue
                    last = Move("new", "z", tuple(term for term in terms if term.weight))
                    if any(weights):
                        yield _lined((*start, ahead, Score("s2", "p", at), last))


def _lined(moves: tuple[Score | Move, ...]) -> Scheme:
    lines = []
    for move in moves:
        if isinstance(move, Score):
            lines.append(f"{move.name} = score({move.state}, {_time(move.at)})")
        else:
            terms = " + ".join(f"{_weight(t.weight)}{t.letter}({t.seen}, {t.score}, {_time(t.at)})" for t in move.terms)
            lines.append(f"{'z' if move.name == 'new' else move.name} = {move.base} + {terms}")
    return Scheme(moves, "new", lines=tuple(lines))


def _time(at: Number) -> str:
    return {Number(0): "t0", Number(1): "t1"}.get(at, "(t0 + t1)/2")


def _weight(weight: Number) -> str:
    if weight.denominator == 1:
        return "h*" if weight == 1 else f"{weight.numerator}*h*"
    return f"{'' if weight.numerator == 1 else f'{weight.numerator}*'}h/{weight.denominator}*"


# -- orders of many schemes --------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Bench:
    """A random setting, its exact solution and the parts at the times of the step: what many schemes are tried on."""

    at: Setting
    parts: dict[str, tuple[Any, Any]]
    exact: list[Value] = field(default_factory=list)
    start: list[Value] = field(default_factory=list)
    at_times: dict[tuple[str, Number], tuple[Matrix, Matrix]] = field(default_factory=dict)

    def part(self, letter: str, time: Number) -> tuple[Matrix, Matrix]:
        if (letter, time) not in self.at_times:
            point = self.at.point
            linear, gain = (composed(point.of(M), self.ahead(time)) for M in self.parts[letter])
            self.at_times[letter, time] = linear, gain
        return self.at_times[letter, time]

    def ahead(self, time: Number) -> Series:
        """-time h."""
        ring = self.at.point.ring
        return Series([0, ring.number(-time.numerator, time.denominator), *([0] * (TOP - 1))], ring)


def bench(sde: Any, derived: Any) -> Bench:
    """Everything that does not depend on the scheme."""
    method, parts = derived("E!", "score"), parts_of(sde)

    def made(ring: Ring) -> Bench:
        at = setting(method, ring, 1, TOP + 1, 1, TOP - 1)
        bench = Bench(at, parts)
        bench.exact = [[e.at(bench.ahead(Number(1))) for e in block] for block in exact_flow(at, ring.number(1, 2))]
        bench.start = [[constant(ring, v, TOP + 1) for v in block] for block in at.state]
        return bench

    return exactly(made)


def order(scheme: Scheme, on: Bench) -> int:
    """The order of a scheme on one bench, at most TOP."""
    ring = on.at.point.ring

    def push(state: list[Value], term: Term, seen: list[Value], score: list[Value]) -> list[Value]:
        linear, gain = on.part(term.letter, term.at)
        return add(state, scaled(add(mul(linear, seen), mul(gain, score)), on.ahead(-term.weight)))

    made = scheme.run(on.start, lambda state, at: on.at.score(state, on.ahead(at)), push)
    for k in range(TOP + 1):
        for p, q in zip(on.exact, made, strict=True):
            if any(not ring.is_zero(a.c[k] - b.c[k]) for a, b in zip(p, q, strict=True)):
                return k - 1
    return TOP


@dataclass(frozen=True)
class Found:
    """A scheme, its proven order and its error at a budget of calls on the reference problem."""

    scheme: Scheme
    order: int
    error: float
    budget: int

    @property
    def constant(self) -> float:
        """The error times calls^order: what a call is worth."""
        return self.error * self.budget**self.order

    @property
    def text(self) -> str:
        return self.scheme.text or "; ".join(self.scheme.lines)


@dataclass(frozen=True)
class Search:
    """What was tried and what came out: the schemes by order, then by error; ``plain`` compositions without ^."""

    tried: int
    plain: int
    plain_passed: int
    found: tuple[Found, ...]


def search(sde: Any, derived: Any, length: int = 4, calls: int = 2, keep: int = 10, budget: int = 48) -> Search:
    """Enumerate, sort by order, prove the best, and rank them by their error at a budget of calls (reference.error_of).

    ``derived(source, network)`` makes the Method of a sampler on the diffusion.
    """
    with flint.ctx.workprec(PRECISION):
        on = bench(sde, derived)
        letters = ("AB", "E") if sde.n > 1 else ("E",)
        staged = two_stage() if sde.n > 1 and calls > 1 else ()
        schemes = [*compositions(length, calls, letters), *dict.fromkeys(staged)]
        orders = [order(scheme, on) for scheme in schemes]
    plain = [o for scheme, o in zip(schemes, orders, strict=True) if scheme.text and "^" not in scheme.text]
    problem = trial(sde, derived)
    best = max(orders)
    pairs = [(s, o) for s, o in zip(schemes, orders, strict=True) if o >= min(best, 2)]
    ranked = sorted((Found(s, o, error_of(s, problem, budget), budget) for s, o in pairs), key=lambda f: (-f.order, f.error))
    proven = [replace(each, order=derived(each.scheme.source, "denoiser").order) for each in ranked[:keep]]
    return Search(len(schemes), len(plain), sum(o > 1 for o in plain), tuple(proven))
