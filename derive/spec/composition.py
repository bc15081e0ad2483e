"""The composition string: a splitting integrator as a line of text.

    token := letter [`!` [`^`] [`@` fraction]] [`(` share `)`]

A letter is a part of the split, applied in the order written; blanks between tokens are optional.

    !        a fresh network evaluation before the part; no mark reuses the last one
    !^       the evaluation is made at the state the part would reach with the previous output (a predictor), and an Euler
             part takes its whole drift there: E! E!^@1 is the explicit trapezoidal rule
    @f       the network time t0 - (t0 - t1) f of that evaluation, 0 <= f <= 1; without it f = 0
    (p/q)    the letter's share of the step; else 1 / (how often the letter stands there).  All or none of a letter's
             tokens carry a share, and its shares sum to 1

NFE, the number of network calls a step, is the number of ``!``.

>>> [str(token) for token in parse_composition("B! A B!@1")]
['B!(1/2)', 'A', 'B!@1(1/2)']
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import sympy as sp

from stepsmith.errors import InputError

Refuse = Callable[[str, str], InputError]
_NUMBER = r"-?\d{1,6}(?:/\d{1,6})?"
_TOKEN = re.compile(rf"\s*([A-Z])(!)?(?:(\^))?(?:@({_NUMBER}))?(?:\(({_NUMBER})\))?", re.ASCII)
LIMIT = 64  # tokens
MAX_TEXT = 4096  # characters


@dataclass(frozen=True)
class Token:
    """One part applied for ``share`` of the step, with a fresh evaluation (``fresh``) at network time fraction ``at``."""

    letter: str
    fresh: bool
    predict: bool
    at: sp.Rational
    share: sp.Rational
    stated: bool = field(default=False, compare=False)  # the share stood in the string

    def __str__(self) -> str:
        at = f"@{self.at}" if self.at else ""
        share = f"({self.share})" if self.share != 1 or self.stated else ""
        return f"{self.letter}{'!' * self.fresh}{'^' * self.predict}{at}{share}"


def parse_composition(text: str, where: str = "-", key: str = "composition") -> tuple[Token, ...]:
    """The tokens of a composition string; InputError names the column and the fix."""

    def refuse(what: str, fix: str) -> InputError:
        return InputError(where, key, what, fix)

    if not isinstance(text, str) or not text.strip():
        raise refuse("the composition is empty", "write one such as 'O B! A'")
    if len(text) > MAX_TEXT:
        raise refuse(f"has {len(text)} characters, more than {MAX_TEXT}", "shorten it")
    raw, position = [], 0
    while text[position:].strip():
        match = _TOKEN.match(text, position)
        if match is None:
            column = position + len(text[position:]) - len(text[position:].lstrip()) + 1
            what = f"{text[column - 1]!a} at column {column} starts no token"
            raise refuse(what, "a token is a letter, then !, ^, @fraction, (share)")
        raw.append(match.groups())
        position = match.end()
        if len(raw) > LIMIT:
            raise refuse(f"more than {LIMIT} tokens", "shorten the composition")
    tokens = tuple(_token(group, refuse) for group in raw)
    return _shared(tokens, refuse)


def _token(group: tuple[str | None, ...], refuse: Refuse) -> Token:
    letter, fresh, predict, at, share = group
    try:
        fraction, part = sp.Rational(at or 0), sp.Rational(share) if share else sp.Integer(0)
    except ZeroDivisionError:
        raise refuse(f"a division by zero in the token of {letter}", "write a fraction p/q with q > 0") from None
    if (predict or at) and not fresh:
        raise refuse(f"{letter} carries ^ or @ without a fresh evaluation", f"write {letter}! before them")
    if not 0 <= fraction <= 1:
        raise refuse(f"@{at} lies outside the step", "choose a fraction from 0 (start) to 1 (end)")
    if share and part == 0:
        raise refuse(f"a share of {letter} is zero", "leave the token out")
    return Token(str(letter), bool(fresh), bool(predict), fraction, part, part != 0)


def _shared(tokens: tuple[Token, ...], refuse: Refuse) -> tuple[Token, ...]:
    count = Counter(token.letter for token in tokens)
    for letter, number in count.items():
        shares = [token.share for token in tokens if token.letter == letter]
        if any(shares) and not all(shares):
            raise refuse(f"some tokens of {letter} carry a share and some do not", "give all of them one, or none")
        if any(shares) and sum(shares) != 1:
            raise refuse(f"the shares of {letter} sum to {sum(shares)}", f"the {number} shares must sum to 1")
    even = {letter: sp.Rational(1, number) for letter, number in count.items()}
    return tuple(token if token.share else replace(token, share=even[token.letter]) for token in tokens)
