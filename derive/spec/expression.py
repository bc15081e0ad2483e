"""The expression grammar of the specs: a text in, an exact SymPy expression out, and nothing executed on the way.

Grammar, loosest first (sums and products from left to right, powers from right to left)::

    sum      = product { ("+" | "-") product }
    product  = signed { ("*" | "/") signed }
    signed   = "-" signed | power
    power    = atom [ ("**" | "^") signed ]                 2^3^2 = 2^9, -x^2 = -(x^2), 2^-x is allowed
    atom     = number | "pi" | name | function "(" sum ")" | "(" sum ")"
    number   = digits ["." [digits]] [exponent] | "." digits [exponent]
    exponent = ("e" | "E") ["+" | "-"] digits
    name     = letter { letter | digit | "_" }              ASCII; one of the names the caller gives
    function = sqrt abs exp log sin cos tan sinh cosh tanh asin acos atan

Numbers are exact: "0.01" is 1/100. ``^`` is another spelling of ``**``. Euler's number is ``exp(1)``, so that ``e``
is free to be a name. ``abs(a)`` is built as ``sqrt(a**2)``: the same for real a, while SymPy's ``Abs`` expands an
argument that may be complex, however large.

Limits: the constants below, and those of ``gauge``, which keeps SymPy from evaluating what would not come back. What
is refused is an ``InputError`` that names the column; no text raises anything else.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, NoReturn, Protocol

import sympy
from sympy import S

from stepsmith.derive.spec.gauge import FUNCTIONS, MAX_HEIGHT, Gauge, Measure, Refusal
from stepsmith.errors import InputError

MAX_TEXT = 4096  # characters
MAX_NODES = 2000  # numbers, names, operators and calls; a name weighs as much as the expression it stands for
MAX_DEPTH = MAX_HEIGHT  # nested brackets, calls, signs and powers
MAX_NAME = 40  # characters
MAX_DIGITS = 40  # of a literal, its exponent apart
MAX_DECIMAL = 308  # magnitude of a literal's decimal exponent


class Names(dict[str, sympy.Expr]):
    """What an expression may name; ``measures`` holds the names that stand for an expression, and what that measures.

    An entry is then held to the limits that it meets once its names are written out.
    """

    def __init__(self, names: Mapping[str, sympy.Expr], measures: Mapping[sympy.Basic, Measure] | None = None) -> None:
        super().__init__(names)
        self.measures = dict(measures or {})

    def let(self, name: str, value: sympy.Expr) -> None:
        """From here on ``name`` stands for ``value``, and is written as a symbol."""
        self[name] = sympy.Symbol(name, real=True)
        self.measures[self[name]] = Gauge(self.measures)(value)


class Words(Protocol):
    """What a line of a sampler may say beyond the grammar above: ``word(a, b)`` and, for an earlier step, ``name[-k]``.

    Both give the symbol that stands for what was said; a ``Refusal`` is reported with its column.
    """

    known: tuple[str, ...]

    def call(self, word: str, args: list[sympy.Expr]) -> sympy.Expr: ...

    def earlier(self, name: str, steps: int) -> sympy.Expr: ...


class _Token(NamedTuple):
    kind: str  # number, name, sign or end
    text: str
    column: int


_TOKEN = re.compile(
    r"(?P<space>[ \t\r\n]+)|(?P<number>(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?)"
    r"|(?P<name>[A-Za-z][A-Za-z0-9_]*)|(?P<sign>\*\*|[-+*/^()])"
)
_WORDED = re.compile(_TOKEN.pattern.replace(r"[-+*/^()]", r"[-+*/^()\[\],]"))
_SUM, _PRODUCT, _SIGN, _POWER = 1, 2, 3, 4
_BINDING = {"+": _SUM, "-": _SUM, "*": _PRODUCT, "/": _PRODUCT, "**": _POWER, "^": _POWER}


class _Parser:
    """Precedence climbing over the tokens; a chain of one precedence is built at once, as SymPy likes it."""

    def __init__(
        self, text: str, names: Mapping[str, sympy.Expr], where: str, key: str, words: Words | None = None
    ) -> None:
        self.names, self.where, self.key, self.words = names, where, key, words
        self.gauge, self.depth, self.nodes = Gauge(getattr(names, "measures", None)), 0, 0
        self.tokens = self._tokens(text)
        self.at = 0

    def refuse(self, column: int, what: str, fix: str) -> NoReturn:
        raise InputError(self.where, self.key, f"column {column}: {what}", fix) from None

    def _tokens(self, text: str) -> list[_Token]:
        tokens, at = [], 0
        while at < len(text):
            match = (_TOKEN if self.words is None else _WORDED).match(text, at)
            if match is None:
                sign = f"{text[at]!a}"
                self.refuse(at + 1, f"{sign} has no place in an expression", "use names, numbers, + - * / ^ ( )")
            if match.lastgroup != "space":
                tokens.append(_Token(str(match.lastgroup), match[0], at + 1))
            at = match.end()
        return [*tokens, _Token("end", "", len(text) + 1)]

    def take(self) -> _Token:
        self.at += 1
        return self.tokens[self.at - 1]

    def weigh(self, column: int, nodes: int = 1) -> None:
        self.nodes += nodes
        if self.nodes > MAX_NODES:
            self.refuse(column, f"the expression has more than {MAX_NODES} nodes", "split it, or name less in it")

    def guarded(self, column: int, make: Callable[..., sympy.Expr], *args: Any) -> sympy.Expr:
        """``make(*args)``, its result measured; a refusal is reported with its column."""
        try:
            result = make(*args)
            self.gauge(result)
        except Refusal as refusal:
            self.refuse(column, f"the expression {refusal.what}", refusal.fix)
        return result

    def until(self, end: str, column: int) -> sympy.Expr:
        """The sum from here to ``end``, which is passed over; ``column`` is where it was opened."""
        result, token = self.climb(0), self.take()
        if token.text == end:
            return result
        if token.kind == "end":
            self.refuse(column, "'(' is never closed", "close it")
        if token.text == ")":
            self.refuse(token.column, "')' closes nothing", "remove it")
        self.refuse(token.column, f"{token.text[:MAX_NAME]!r} follows without an operator", "write the one between")

    def climb(self, floor: int) -> sympy.Expr:
        """The longest expression from here whose operators all bind tighter than ``floor``."""
        left = self.prefix()
        while (binding := _BINDING.get(self.tokens[self.at].text, 0)) > floor:
            if binding == _POWER:
                column = self.take().column
                self.weigh(column)
                left = self.guarded(column, self.gauge.power, left, self.inside(column, self.climb, _SIGN))
            else:
                left = self.chain(left, binding)
        return left

    def inside(self, column: int, read: Callable[..., sympy.Expr], *args: Any) -> sympy.Expr:
        """``read(*args)``, one level down."""
        self.depth += 1
        if self.depth > MAX_DEPTH:
            self.refuse(column, f"nested more than {MAX_DEPTH} deep", "name a part of it")
        result = read(*args)
        self.depth -= 1
        return result

    def chain(self, first: sympy.Expr, binding: int) -> sympy.Expr:
        """The sum or product that goes on after ``first``."""
        parts, column = [first], self.tokens[self.at].column
        while _BINDING.get(self.tokens[self.at].text) == binding:
            sign = self.take()
            self.weigh(sign.column)
            part = self.climb(binding)
            if sign.text == "/":
                part = self.guarded(sign.column, self.gauge.power, part, S.NegativeOne)
            parts.append(-part if sign.text == "-" else part)
        return self.guarded(column, sympy.Add if binding == _SUM else self.gauge.product, *parts)

    def prefix(self) -> sympy.Expr:
        """A sign, a bracket, a number, a name or a call."""
        kind, text, column = token = self.take()
        if text == "-":
            self.weigh(column)
            return self.guarded(column, sympy.Mul, S.NegativeOne, self.inside(column, self.climb, _SIGN))
        if text == "(":
            return self.inside(column, self.until, ")", column)
        if kind == "number":
            self.weigh(column)
            return self.guarded(column, _literal, text)
        if kind == "name":
            return self.name(token)
        shown = repr(text) if text else "the end"
        self.refuse(column, f"{shown} stands where a value should", "write a number, a name or a bracket")

    def name(self, token: _Token) -> sympy.Expr:
        word, column, called = token.text, token.column, self.tokens[self.at].text == "("
        if len(word) > MAX_NAME:
            self.refuse(column, f"a name of more than {MAX_NAME} characters", "shorten it")
        if self.words is not None and (called or self.tokens[self.at].text == "["):
            if not called:
                return self.earlier(self.words, token)
            if word in self.words.known:
                return self.worded(self.words, token)
            if word == "expm1":
                opened = self.take().column
                argument = self.inside(opened, self.until, ")", opened)
                return self.guarded(column, lambda: self.gauge.call("exp", argument) - 1)
        if word in FUNCTIONS and called:
            self.weigh(column)
            opened = self.take().column
            return self.guarded(column, self.gauge.call, word, self.inside(opened, self.until, ")", opened))
        if word in FUNCTIONS:
            self.refuse(column, f"the function {word} has no argument", f"write {word}(...)")
        value = S.Pi if word == "pi" else self.names.get(word)
        if value is None:
            calls = (*FUNCTIONS, *(("expm1", *self.words.known) if self.words else ()))
            known = calls if called else (*self.names, "pi")
            self.refuse(column, f"unknown {'function' if called else 'name'} {word!r}", suggest(word, known))
        if called:
            self.refuse(column, f"{word!r} is not a function", f"write {word}*(...)")
        result = self.guarded(column, lambda: value)
        self.weigh(column, self.gauge(result).nodes)
        return result

    def worded(self, words: Words, token: _Token) -> sympy.Expr:
        """``word(a, b, ...)`` of the words."""
        opened = self.take().column
        args: list[sympy.Expr] = []
        while not args or self.tokens[self.at - 1].text == ",":
            args.append(self.inside(opened, self.climb, 0))
            if self.tokens[self.at].text != ",":
                break
            self.take()
        if self.take().text != ")":
            what = f"the brackets of {token.text} do not close"
            self.refuse(token.column, what, "close them behind its last argument")
        self.weigh(token.column)
        return self.guarded(token.column, words.call, token.text, args)

    def earlier(self, words: Words, token: _Token) -> sympy.Expr:
        """``name[-k]``: the value of a name k steps ago."""
        texts = [self.take().text for _ in range(4)] if self.at + 4 < len(self.tokens) else [""]
        if len(texts) < 4 or texts[1] != "-" or texts[2] not in ("1", "2", "3") or texts[3] != "]":
            what = f"{token.text}[ is no value of an earlier step"
            self.refuse(token.column, what, f"write {token.text}[-1], [-2] or [-3]")
        self.weigh(token.column)
        return self.guarded(token.column, words.earlier, token.text, int(texts[2]))


def _literal(text: str) -> sympy.Rational:
    mantissa, _, exponent = text.lower().partition("e")
    integer, _, fraction = mantissa.partition(".")
    if len(integer + fraction) > MAX_DIGITS:
        raise Refusal(f"holds a number of more than {MAX_DIGITS} digits", "round it")
    if abs(int(exponent or 0)) > MAX_DECIMAL:
        raise Refusal(f"holds a number with an exponent above {MAX_DECIMAL}", "rescale it")
    shift = int(exponent or 0) - len(fraction)
    return sympy.Rational(int(integer + fraction) * 10 ** max(shift, 0), 10 ** max(-shift, 0))


def suggest(word: str, known: Iterable[str]) -> str:
    """How to fix an unknown word: the closest known one, and all of them unless they are many."""
    known = sorted(known)
    closest = difflib.get_close_matches(word[:MAX_NAME], known, 1, 0.5)
    listed = f"known: {', '.join(known) or 'none'}"
    return f"did you mean {closest[0]!r}?" + (f" {listed}" if len(listed) < 300 else "") if closest else listed


def parse(
    text: str | int | float, names: Mapping[str, sympy.Expr], *, where: str, key: str, words: Words | None = None
) -> sympy.Expr:
    """The expression that ``text`` writes in the grammar above, over ``names`` and ``pi`` and, if given, ``words``.

    A number is taken exactly as it prints (0.1 is 1/10); bool, nan and the infinities are refused. A refusal is an
    ``InputError(where, key, ...)``; what is wrong inside a text starts with its column, counted from 1.
    """
    if isinstance(text, bool) or not isinstance(text, str | int | float):
        raise InputError(where, key, f"is a {type(text).__name__}, not an expression", "write a string or a number")
    if isinstance(text, int | float):
        if not abs(text) <= 1e308:
            raise InputError(where, key, "is not a finite number of float64", "write one up to 1e308")
        text = (int if isinstance(text, int) else float).__repr__(text)
    if len(text) > MAX_TEXT:
        raise InputError(where, key, f"has {len(text)} characters, more than {MAX_TEXT}", "name parts of it")
    try:
        return _Parser(text, names, where, key, words).until("", 1)
    except RecursionError:
        raise InputError(where, key, "is nested too deeply for the stack it is read on", "write it flatter") from None
