"""Lowering the lines of a formula (formula.py): values become updates, words become host scalars and tables.

A network call of any parameterisation is turned into the quantity that the line names.  With s = skip y + out n and
y = alpha x0 + sigma eps,

    score = s,    eps = -sigma s,    x0 = (y + sigma^2 s)/alpha,    v = alpha eps - sigma x0.
"""

from __future__ import annotations

from collections.abc import Mapping

import sympy as sp

from stepsmith.errors import InputError

from ..maths.bounded import cancelled
from ..maths.calculus import symbol
from ..program import EARLIER, applied
from ..sampler.split import Part
from ..spec.formula import EARLIER_VALUE, NETWORK, NOISE, ONE_BLOCK, SCALAR, Applied, Formula, Line
from ..spec.words import STEP
from .writer import Conversion, Term, Writer

Values = tuple[str, ...]  # the values of a name, one a block

# Of the quantity that a word of a line means, in z and in the network's outputs: eps = -sigma s, x0 = (z + sigma^2 s)/alpha.
CONVERSIONS: dict[str, tuple[Conversion, Conversion]] = {
    "eps": (lambda a, s, skip: -s * skip, lambda a, s, out: -s * out),
    "x0": (lambda a, s, skip: (1 + s**2 * skip) / a, lambda a, s, out: s**2 * out / a),
    "v": (
        lambda a, s, skip: -(s / a) * (1 + (a**2 + s**2) * skip),
        lambda a, s, out: -(s / a) * (a**2 + s**2) * out,
    ),
}


class Lines:
    """One program of a formula, growing on a Writer: which values the names of the lines hold."""

    def __init__(self, w: Writer, formula: Formula, parts: Mapping[str, Part]) -> None:
        self.w, self.formula, self.parts = w, formula, parts
        w.moments |= {time.name.removeprefix("t_"): time for time in EARLIER}
        self.names: dict[str, Values] = {"z": w.sde.state}
        self.taken = {*w.sde.state, *w.params}
        self.called: dict[str, Values] = {}
        self.lets: dict[str, sp.Expr] = {}
        self.converted: dict[str, list[Term]] = {}  # what a quantity made of a network's output is made of
        self.numbers: dict[object, int] = {}  # of the arguments of words that have no name of their own
        self.history = self._history()

    def _history(self) -> tuple[tuple[str, int, Values], ...]:
        """(name, steps ago, values) of what is carried in, newest first."""
        carried = []
        for steps in range(1, 1 + max((depth for _, depth in self.formula.history), default=0)):
            for name, depth in self.formula.history:
                if steps <= depth:
                    values = self._fresh(f"{name}_m{steps}")
                    self.names[f"{name}[-{steps}]"] = values
                    carried.append((name, steps, values))
        return tuple(carried)

    def _fresh(self, name: str) -> Values:
        """Unused names, one a block."""
        earlier = EARLIER_VALUE.fullmatch(name)  # "D[-1]" of row 0
        stem = f"{earlier[1]}{1 - int(earlier[2])}".replace("-", "0") if earlier else name
        while True:
            values = tuple(stem if self.w.sde.n == 1 else f"{stem}_{b}" for b in self.w.sde.state)
            clash = STEP.fullmatch(stem) or (stem[0] == "s" and stem[1:].isdigit())
            if not clash and not self.taken & set(values):
                self.taken |= set(values)
                return values
            stem += "_"

    def run(self, lines: tuple[Line, ...]) -> tuple[Values, Values, Values]:
        """(the new state, what is carried in, what is carried out) of the lines."""
        self.w.calls = self.formula.calls(lines)
        defined = {line.target for line in lines}
        for line in lines:
            self.names[line.target] = self._value(line)
        carried = []
        for name, steps, values in self.history:
            before = name if steps == 1 else f"{name}[-{steps - 1}]"
            carried.append(self.names[before] if name in defined else values)
        loaded = tuple(value for _, _, values in self.history for value in values)
        return self.names["z"], loaded, tuple(value for values in carried for value in values)

    # -- values ------------------------------------------------------------------------------------------------------

    def _value(self, line: Line) -> Values:
        """The updates of a line."""
        sums: list[list[Term]] = [[] for _ in self.w.sde.state]
        for coefficient, value in line.terms:
            name = line.target if len(line.terms) == 1 and coefficient == 1 else ""
            c = self.scalar(coefficient)
            for block, terms in enumerate(self._terms(value, name)):
                sums[block] += [(c * factor, name) for factor, name in terms]
        collected = [self._collected(terms) for terms in sums]
        if all(len(terms) == 1 and terms[0][0] == 1 for terms in collected):
            return tuple(terms[0][1] for terms in collected)
        names = self._fresh(line.target)
        return tuple(self.w.update(name, terms) for name, terms in zip(names, collected, strict=True))

    def _collected(self, terms: list[Term]) -> list[Term]:
        """A coefficient a value; what a network's conversion put in and the line takes out again cancels exactly."""
        total = _summed(terms)
        if any(value in self.converted for value in total):
            raw = [(c * d, v) for value, c in total.items() for d, v in self.converted.get(value, [(sp.S.One, value)])]
            plain = {value: cancelled(c) for value, c in _summed(raw).items()}
            if any(c == 0 for c in plain.values()):
                return [(c, value) for value, c in plain.items() if c != 0]
        return [(sp.factor_terms(c), value) for value, c in total.items()]

    def _terms(self, value: str, name: str) -> list[list[Term]]:
        """What a value of a line is, block by block, in values of the program; ``name`` for the quantity of a call."""
        use = self.formula.applied.get(value)
        if use is None and NOISE.fullmatch(value) and value not in self.names:
            if self.w.sde.n > 1:
                raise self._refused("xi", "noise")
            self.names[value] = (f"{value}_",)
            self.w.normal(f"{value}_")
        if use is None:
            return [[(sp.S.One, name)] for name in self.names[value]]
        if use.word in NETWORK:
            if value not in self.called:
                self.called[value] = self._call(use, name)
            return [[(sp.S.One, name)] for name in self.called[value]]
        return self._part(use)

    def _call(self, use: Applied, name: str) -> Values:
        """One network call, converted to the quantity of the word."""
        w, word = self.w, use.word
        if w.sde.n > 1 and word in ONE_BLOCK:
            raise self._refused(word, "quantity of a network")
        key = self.moment(use.scalars[0])
        values = self.names[use.values[0]]
        w.evaluate(dict(enumerate(values)), key)
        if word == "score":
            return w.asked.score
        state, gain = w.converted(key, *CONVERSIONS[word])
        (name,) = self._fresh(name or f"{word}{w.evaluations}")
        terms = [(state[0, 0], values[0]), *zip(gain, w.asked.output, strict=True)]
        if isinstance(w.network, str):
            self.converted[name] = terms
        return (w.update(name, terms),)

    def _part(self, use: Applied) -> list[list[Term]]:
        """linear y + score q of a part of the split, or of all of it, F and G at the time."""
        w = self.w
        parts = [part for name, part in self.parts.items() if use.word in ("drift", name)]
        y, q = (self.names[name] for name in use.values)
        key = self.moment(use.scalars[0])
        rows: list[list[Term]] = [[] for _ in w.sde.state]
        for part in parts:
            for matrix, values in ((part.linear, y), (part.score, q)):
                for i, terms in enumerate(rows):
                    terms += [(w.at(matrix[i, j], key), values[j]) for j in range(w.sde.n) if matrix[i, j] != 0]
        return rows

    # -- scalars -----------------------------------------------------------------------------------------------------

    def scalar(self, expr: sp.Expr) -> sp.Expr:
        """An expression of a line in host symbols; what it needs is defined on the way."""
        known = {s: self._symbol(s.name) for s in sorted(expr.free_symbols, key=str)}
        return expr.xreplace(known)

    def _symbol(self, name: str) -> sp.Expr:
        if name in self.formula.let:
            if name not in self.lets:
                self.lets[name] = self._let(name)
            return self.lets[name]
        if name in self.formula.applied:
            return self._word(self.formula.applied[name], "")
        return symbol(name)

    def _let(self, name: str) -> sp.Expr:
        expr = self.formula.let[name]
        use = self.formula.applied.get(str(expr))
        if use is not None and use.word == "t":
            return self._word(use, name)
        return self.w.define(name, self.scalar(expr))

    def moment(self, time: sp.Expr) -> str:
        """The key of a time: its suffix in the names of host scalars."""
        known = {moment: key for key, moment in self.w.moments.items()}
        scalar = self.scalar(time)
        if scalar not in known:
            if not scalar.is_Symbol:
                scalar = self.w.define(f"t_in{len(self.w.moments)}", scalar)
            self.w.moments[str(scalar).removeprefix("t_")] = scalar
        return known.get(scalar, str(scalar).removeprefix("t_"))

    def _word(self, use: Applied, name: str) -> sp.Expr:
        """The host symbol of a word of one block; ``name`` that of a let which is nothing but the word."""
        w, word = self.w, use.word
        if word not in SCALAR:
            what = f"{word} stands where a number belongs"
            raise InputError(w.sampler.where, "sampler.step", what, "name it in a line")
        if word.startswith("phi"):
            argument = self.scalar(use.scalars[0])
            return w.define(self._numbered(f"{word}_at", argument), applied(word, argument))
        if w.sde.n > 1:
            raise self._refused(word, "word")
        if word == "t":
            target = self.scalar(use.scalars[0])
            return w.define(name or self._numbered("t_of", target), applied("time_of", target))
        key = self.moment(use.scalars[0])
        alpha, sigma = w.alpha_sigma(key)
        if word == "lambda":
            return w.define(f"lambda_{key}", -sp.log(sigma) if alpha == 1 else sp.log(alpha / sigma))
        return {"alpha": alpha, "sigma": sigma, "rho": sigma / alpha}[word]

    def _numbered(self, stem: str, argument: sp.Expr) -> str:
        """One name for each argument of a word."""
        return f"{stem}_{self.numbers.setdefault((stem, argument), len(self.numbers))}"

    def _refused(self, word: str, kind: str) -> InputError:
        sde, where = self.w.sde, self.w.sampler.where
        lines = enumerate(self.formula.step)
        key = next((f"sampler.step[{k}]" for k, line in lines if word in line.text), "sampler.step")
        fix = "use score(y, s) and parts, the family adams (as adams-2), or a diffusion of one block"
        return InputError(where, key, f"{word} is a {kind} of one block, and {sde.name} has {sde.n}", fix)


def _summed(terms: list[Term]) -> dict[str, sp.Expr]:
    """The coefficient of each value."""
    total: dict[str, sp.Expr] = {}
    for c, value in terms:
        total[value] = total.get(value, sp.S.Zero) + c
    return total
