"""Reading the lines of a formula: text in, checked linear combinations out (formula.py describes the language)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import sympy as sp

from stepsmith.errors import InputError

from ..maths.calculus import symbol
from . import sources as spec
from .expression import Names, parse
from .formula import (
    EARLIER_VALUE,
    MAX_FINAL,
    MAX_LINES,
    MAX_WARMUP,
    NETWORK,
    NOISE,
    SCALAR,
    TIMES,
    Applied,
    Formula,
    Line,
)
from .gauge import FUNCTIONS, Refusal
from .words import refuse_taken


def read(where: str, table: Mapping[str, Any], parts: Iterable[str], params: Iterable[str], target: str) -> Formula:
    """The checked lines of the table of a sampler; InputError names the line and the fix."""
    return _Reader(where, tuple(parts), tuple(params), target).read(table)


class _Reader:
    """Reads lines in order; also the ``Words`` of the parser: it keeps what each symbol stands for."""

    def __init__(self, where: str, parts: tuple[str, ...], params: tuple[str, ...], target: str) -> None:
        self.where, self.parts, self.params, self.target = where, parts, params, target
        self.known = (*NETWORK, *SCALAR, "drift", *parts)
        self.applied: dict[str, Applied] = {}
        self.let: dict[str, sp.Expr] = {}
        self.values: set[str] = set()  # defined so far in the program at hand
        self.steady: set[str] = set()  # names that every step defines
        self.depth: dict[str, int] = {}
        self.before: dict[str, int] = {}  # how many steps before the first row 0 gives a name values for

    def read(self, table: Mapping[str, Any]) -> Formula:
        self._lets(table.get("let", {}))
        if "step" not in table:
            fix = 'write step = ["D = ...", "z = ..."]'
            raise InputError(self.where, "sampler.step", "the lines of the step are missing", fix)
        texts = {"step": self._texts("sampler.step", table["step"])}
        warmup = self._programs("warmup", table.get("warmup", []), MAX_WARMUP)
        given = table.get("final", [])
        plain = isinstance(given, list | tuple) and bool(given) and all(isinstance(line, str) for line in given)
        final = self._programs("final", [given] if plain else given, MAX_FINAL)
        self.steady = {self._split("sampler.step", line)[0].strip() for line in texts["step"]} - {"z"}
        step = self._program("sampler.step", texts["step"])
        formula = Formula(
            step,
            tuple(self._program(f"sampler.warmup[{k}]", lines) for k, lines in enumerate(warmup)),
            tuple(self._program(f"sampler.final[{k}]", lines) for k, lines in enumerate(final)),
            self.let, self.applied, tuple(self.depth.items()),
            {name: " ".join(str(text).split()) for name, text in table.get("let", {}).items()},
        )  # fmt: skip
        check(formula, self.where, self.target, self.before)
        return formula

    def _texts(self, key: str, lines: Any) -> tuple[str, ...]:
        if not isinstance(lines, list | tuple) or not lines or not all(isinstance(line, str) for line in lines):
            raise InputError(self.where, key, "is not a list of lines", 'write ["D = x0(z, t0)", "z = ..."]')
        if len(lines) > MAX_LINES:
            raise InputError(self.where, key, f"has more than {MAX_LINES} lines", "write fewer")
        return tuple(lines)

    def _programs(self, name: str, given: Any, most: int) -> list[tuple[str, ...]]:
        if not isinstance(given, list | tuple):
            raise InputError(self.where, f"sampler.{name}", "is not a list of programs", "write [[line, ...], ...]")
        if len(given) > most:
            raise InputError(self.where, f"sampler.{name}", f"has more than {most} programs", f"{most} rows at most")
        return [self._texts(f"sampler.{name}[{k}]", lines) for k, lines in enumerate(given)]

    def _lets(self, lets: Mapping[str, Any]) -> None:
        spec.check_names(self.where, "sampler.let", (*lets, *self.params))
        refuse_taken(self.where, "sampler.let", lets)
        for name in (*lets, *self.params):
            key = f"sampler.{'let' if name in lets else 'params'}.{name}"
            if name in self.known or name in (*TIMES, "z", "expm1") or NOISE.fullmatch(name):
                raise InputError(self.where, key, f"{name} is a word of the formulas", f"rename it, to {name}_")
        for name, text in lets.items():
            key = f"sampler.let.{name}"
            self.let[name] = parse(text, self._scalars(), where=self.where, key=key, words=self)

    def _scalars(self) -> Names:
        """What a coefficient may name; a let weighs what it stands for."""
        names = Names({name: symbol(name) for name in (*TIMES, *self.params)})
        for name, value in self.let.items():
            names.let(name, value)
        return names

    # -- the words, as the parser asks for them ----------------------------------------------------------------------

    def call(self, word: str, args: list[sp.Expr]) -> sp.Expr:
        """The symbol that stands for ``word(args)``."""
        count = 0 if word in SCALAR else 1 if word in NETWORK else 2
        if len(args) != count + 1:
            shape = ("s", "y, s", "y, q, s")[count]
            raise Refusal(f"gives {word} {len(args)} arguments", f"write {word}({shape})")
        values, scalar = args[:count], args[count]
        for value in values:
            if value.name not in self.values if value.is_Symbol else True:
                raise Refusal(f"gives {word} {value}, which is no name of a value", "give the value a line of its own")
        if self._holds_values(scalar):
            raise Refusal(f"gives {word} a value where a time or a number belongs", "use t0, t1 or a let")
        text = f"{word}({', '.join(map(str, args))})"
        if word not in SCALAR:  # the same words at another place may mean another value
            text = f"{text}#{len(self.applied)}"
        self.applied[text] = Applied(word, tuple(value.name for value in values), (scalar,))
        return symbol(text)

    def earlier(self, name: str, steps: int) -> sp.Expr:
        """The symbol that stands for ``name[-steps]``."""
        if name not in self.steady:
            which = "the state, which every step changes" if name == "z" else "not given a value by the step"
            what = f"asks for {name} of an earlier step, but {name} is {which}"
            raise Refusal(what, "give that value a line and a name")
        self.depth[name] = max(steps, self.depth.get(name, 0))
        return symbol(f"{name}[-{steps}]")

    def _is_value(self, name: str) -> bool:
        if name in self.applied:
            return self.applied[name].word not in SCALAR
        return name in self.values or name.endswith("]") or bool(NOISE.fullmatch(name))

    def _holds_values(self, expr: sp.Expr) -> bool:
        return any(self._is_value(s.name) for s in expr.free_symbols)

    # -- lines -------------------------------------------------------------------------------------------------------

    def _split(self, key: str, line: str) -> tuple[str, str]:
        left, sign, right = line.partition("=")
        if not sign:
            raise InputError(self.where, key, f"{line[:40]!r} is no line", 'write "name = value"')
        return left, right

    def _program(self, key: str, lines: tuple[str, ...]) -> tuple[Line, ...]:
        self.values, later = {"z"}, {self._split(key, line)[0].strip() for line in lines}
        read = []
        for k, text in enumerate(lines):
            read.append(self._line(f"{key}[{k}]", text, later))
            self.values.add(read[-1].target)
        if "z" not in later:
            raise InputError(self.where, key, "no line gives the new state", 'end with "z = ..."')
        return tuple(read)

    def _line(self, key: str, text: str, later: set[str]) -> Line:
        left, right = self._split(key, text)
        target = left.strip()
        self._check_target(key, target)
        names = self._scalars()
        names |= {name: symbol(name) for name in self.values}
        names |= {name: symbol(name) for name in re.findall(r"\bxi\d{0,2}\b", right)}
        for name in sorted(later - self.values - set(names)):
            if name.isalnum() and re.search(rf"\b{name}\b(?!\[)", right):
                raise InputError(self.where, key, f"{name} is used before it is defined", "move its line up")
        expr = parse(" " * (len(left) + 1) + right, names, where=self.where, key=key, words=self)
        return Line(" ".join(text.split()), target, self._linear(key, expr))

    def _check_target(self, key: str, target: str) -> None:
        """A name of the user's; in row 0 also what later rows read as the value of a step before the first."""
        before = EARLIER_VALUE.fullmatch(target)
        if before and key.startswith("sampler.warmup[0]") and before[1] in self.steady:
            self.before[before[1]] = max(int(before[2]), self.before.get(before[1], 0))
            return
        taken = {*self.known, *TIMES, *self.params, *self.let, "pi", *FUNCTIONS, "expm1"}
        if not re.fullmatch("[A-Za-z][A-Za-z0-9]{0,19}", target) or target in taken or NOISE.fullmatch(target):
            what = f"{target[:40]!r} cannot name a value"
            raise InputError(self.where, key, what, "use letters and digits, and no word of the formulas")

    def _order(self, value: sp.Symbol) -> tuple[int, int, str]:
        """The state, the values of this step, the calls as written, earlier values, normals."""
        name = value.name
        if name in self.applied:
            return 2, int(name.split("#")[1]), name
        return (0 if name == "z" else 1 if name in self.values else 3 if name.endswith("]") else 4), 0, name

    def _linear(self, key: str, expr: sp.Expr) -> tuple[tuple[sp.Expr, str], ...]:
        """The terms of a line; refused unless it is linear in the values."""
        values = sorted((s for s in expr.free_symbols if self._is_value(s.name)), key=self._order)
        terms = [(expr.diff(value), value.name) for value in values]
        none = dict.fromkeys(values, sp.S.Zero)
        flat = all(not self._holds_values(coefficient) for coefficient, _ in terms)
        if not flat or not values or expr.xreplace(none) != 0:
            fix = "write a sum of numbers times values, without products of values and without a constant"
            raise InputError(self.where, key, "the line is not linear in the values", fix)
        return tuple((coefficient, name) for coefficient, name in terms if coefficient != 0)


# -- what the programs owe each other: no row reads a step that it does not have ---------------------------------------------


def check(formula: Formula, where: str, target: str, before: Mapping[str, int]) -> None:
    """InputError names the line and the fix.  ``before``: for how many steps before the first row 0 gives a name values."""
    if not formula.calls(formula.step):
        raise InputError(where, "sampler.step", "no line calls the network", "write one such as D = x0(z, t0)")
    noisy = any(NOISE.fullmatch(v) for lines in formula.programs for line in lines for _, v in line.terms)
    if noisy and target == "ode":
        raise InputError(where, "sampler.target", "the lines draw noise", 'say target = "sde"')
    w, last = len(formula.warmup), len(formula.final) - 1
    rows = [("sampler.step", formula.step, w)]
    rows += [(f"sampler.warmup[{k}]", lines, k) for k, lines in enumerate(formula.warmup)]
    rows += [(f"sampler.final[{k}]", lines, 1 if k == last else w) for k, lines in enumerate(formula.final)]
    for key, lines, row in rows:
        _check_reach(formula, where, key, lines, row, before)
        missing = [name for name, _ in formula.history if name not in {line.target for line in lines}]
        if missing and not key.startswith("sampler.final"):
            what = f"{missing[0]} has no value here, and a later step reads it"
            raise InputError(where, key, what, f"add a line that defines {missing[0]}")


def _check_reach(
    formula: Formula, where: str, key: str, lines: tuple[Line, ...], row: int, before: Mapping[str, int]
) -> None:
    """No row reads a step before the first: row k has k steps behind it, and what row 0 says of those before."""
    given: set[str] = set()
    for k, line in enumerate(lines):
        for reach, word in _reaches(formula, line):
            name = word.split("[")[0]
            if word not in given and reach > row + (before.get(name, 0) if row else 0):
                what = f"{word} is not there in row {row}, which has {row or 'no'} steps behind it"
                fix = "give the last row a program that needs one step" if "final" in key else "add a program to warmup"
                raise InputError(where, f"{key}[{k}]", what, fix)
        given.add(line.target)


def _reaches(formula: Formula, line: Line) -> list[tuple[int, str]]:
    """(how many steps back, the word) of what a line reads of earlier steps."""
    applied = formula.applied
    reaches = [(int(v[-2]), v) for _, v in line.terms if v.endswith("]")]
    todo = [c for c, _ in line.terms]
    todo += [s for _, v in line.terms if v in applied for s in applied[v].scalars]
    seen: set[str] = set()
    while todo:
        for name in sorted({s.name for s in todo.pop().free_symbols} - seen):
            seen.add(name)
            reaches += [(int(name[3:]), name)] if name in TIMES[2:] else []
            todo += [formula.let[name]] if name in formula.let else []
            todo += applied[name].scalars if name in applied else ()
    return reaches
