"""Lowering the lines of a formula (formula.py): values become updates, words become host scalars and tables.

A network call of any parameterisation is turned into the quantity that the line names.  With s = skip y + out n and
y = alpha x0 + sigma eps,

    score = s,    eps = -sigma s,    x0 = (y + sigma^2 s)/alpha,    v = alpha eps - sigma x0.
"""

from __future__ import annotations

import sympy as sp

from stepsmith.errors import InputError

from .bounded import cancelled
from .builder import Lowering, symbol
from .calculus import t0, t1
from .formula import EARLIER_VALUE, NETWORK, NOISE, ONE_BLOCK, SCALAR, Applied, Formula, Line
from .program import EARLIER, Normal
from .sde import STEP_NAMES
from .split import Split

Values = tuple[str, ...]  # the values of a name, one a block
MOMENTS = {t0: "0", t1: "1", **{time: time.name.removeprefix("t_") for time in EARLIER}}


class Lines:
    """One program of a formula, growing on a Lowering: which values the names of the lines hold."""

    def __init__(self, low: Lowering, formula: Formula, split: Split | None) -> None:
        self.low, self.formula, self.split = low, formula, split
        low.naming = False
        self.names: dict[str, Values] = {"z": low.sde.state}
        self.taken = {*low.sde.state, *low.params}
        self.called: dict[str, Values] = {}
        self.lets: dict[str, sp.Expr] = {}
        self.score: Values = ()
        self.history = self._history()

    def _history(self) -> tuple[tuple[str, int, Values], ...]:
        """(name, steps ago, values) of what is carried in, newest first."""
        found = []
        for steps in range(1, 1 + max((depth for _, depth in self.formula.history), default=0)):
            for name, depth in self.formula.history:
                if steps <= depth:
                    values = self._fresh(f"{name}_m{steps}")
                    self.names[f"{name}[-{steps}]"] = values
                    found.append((name, steps, values))
        return tuple(found)

    def _fresh(self, name: str) -> Values:
        """Unused names, one a block."""
        earlier = EARLIER_VALUE.fullmatch(name)  # "D[-1]" of row 0
        stem = f"{earlier[1]}{1 - int(earlier[2])}".replace("-", "0") if earlier else name
        while True:
            values = tuple(stem if self.low.sde.n == 1 else f"{stem}_{b}" for b in self.low.sde.state)
            clash = STEP_NAMES.fullmatch(stem) or (stem[0] == "s" and stem[1:].isdigit())
            if not clash and not self.taken & set(values):
                self.taken |= set(values)
                return values
            stem += "_"

    def run(self, lines: tuple[Line, ...]) -> tuple[Values, Values, Values]:
        """(the new state, what is carried in, what is carried out) of the lines."""
        self.low.calls = self.formula.calls(lines)
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
        sums: list[list[tuple[sp.Expr, str]]] = [[] for _ in self.low.sde.state]
        for coefficient, value in line.terms:
            name = line.target if len(line.terms) == 1 and coefficient == 1 else ""
            c = self.scalar(coefficient)
            for block, terms in enumerate(self._terms(value, name)):
                sums[block] += [(c * factor, name) for factor, name in terms]
        collected = [self._collected(terms) for terms in sums]
        if all(len(terms) == 1 and terms[0][0] == 1 for terms in collected):
            return tuple(terms[0][1] for terms in collected)
        names = self._fresh(line.target)
        return tuple(
            self.low.update(name, [("", c, value) for c, value in terms])
            for name, terms in zip(names, collected, strict=True)
        )

    @staticmethod
    def _collected(terms: list[tuple[sp.Expr, str]]) -> list[tuple[sp.Expr, str]]:
        total: dict[str, sp.Expr] = {}
        for c, value in terms:
            total[value] = total.get(value, sp.S.Zero) + c
        return [(c, value) for value, c in total.items()]

    def _terms(self, value: str, name: str) -> list[list[tuple[sp.Expr, str]]]:
        """What a value of a line is, block by block, in values of the program; ``name`` for the quantity of a call."""
        applied = self.formula.applied.get(value)
        if applied is None and NOISE.fullmatch(value) and value not in self.names:
            if self.low.sde.n > 1:
                raise self._refused("xi", "noise")
            self.names[value] = (f"{value}_",)
            self.low.ops.append(Normal(f"{value}_"))
        if applied is None:
            return [[(sp.S.One, name)] for name in self.names[value]]
        if applied.word in NETWORK:
            if value not in self.called:
                self.called[value] = self._call(applied, name)
            return [[(sp.S.One, name)] for name in self.called[value]]
        return self._part(applied)

    def _call(self, applied: Applied, name: str) -> Values:
        """One network call, converted to the quantity of the word."""
        low, word = self.low, applied.word
        if low.sde.n > 1 and word in ONE_BLOCK:
            raise self._refused(word, "quantity of a network")
        key = self.moment(applied.scalars[0])
        values = self.names[applied.values[0]]
        low.evaluate_at(dict(enumerate(values)), key)
        if word == "score":
            return low.score
        score = low.score_at(low.network, key)
        (alpha, sigma), skip, out = low.alpha_sigma(key), score.skip[0, 0], score.out
        eps, x0 = -sigma * skip, (1 + sigma**2 * skip) / alpha
        state = {"eps": eps, "x0": x0, "v": alpha * eps - sigma * x0}[word]
        gain = {"eps": -sigma, "x0": sigma**2 / alpha, "v": -sigma * (alpha**2 + sigma**2) / alpha}[word]
        if isinstance(low.network, str):
            state = cancelled(state)  # v's x0 = (alpha y - sigma v)/S: nothing is left to cancel in float64
        (name,) = self._fresh(name or f"{word}{low.evaluations}")
        terms = [("", state, values[0]), *(("", gain * out[0, k], raw) for k, raw in enumerate(low.output))]
        return (low.update(name, terms),)

    def _part(self, applied: Applied) -> list[list[tuple[sp.Expr, str]]]:
        """linear y + score q of a part of the split, or of all of it, F and G at the time."""
        low = self.low
        assert self.split is not None
        parts = [part for name, part in self.split.parts.items() if applied.word in ("drift", name)]
        y, q = (self.names[name] for name in applied.values)
        key = self.moment(applied.scalars[0])
        found: list[list[tuple[sp.Expr, str]]] = [[] for _ in low.sde.state]
        for part in parts:
            for matrix, values in ((part.linear, y), (part.score, q)):
                for i, terms in enumerate(found):
                    terms += [(low.at(matrix[i, j], key), values[j]) for j in range(low.sde.n) if matrix[i, j] != 0]
        return found

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
        applied = self.formula.applied.get(str(expr))
        if applied is not None and applied.word == "t":
            return self._word(applied, name)
        return self.low.define(name, self.scalar(expr))

    def moment(self, time: sp.Expr) -> str:
        """The key of a time: its suffix in the names of host scalars."""
        if time in MOMENTS:
            return MOMENTS[time]
        found = self.scalar(time)
        if not found.is_Symbol:
            found = self.low.define(f"t_in{len(self.low.moments)}", found)  # no digit alone: 0 and 1 are the ends of the step
        if STEP_NAMES.fullmatch(str(found)) or str(found) in self.low.sde.state:
            what = f"the emitted step has another use for the name {found}"
            raise InputError(self.low.sampler.where, f"sampler.let.{found}", what, f"rename it, to t_{found}")
        key = str(found).removeprefix("t_")
        self.low.moments[key] = found
        return key

    def _word(self, applied: Applied, name: str) -> sp.Expr:
        """The host symbol of a word of one block; ``name`` that of a let which is nothing but the word."""
        low, word = self.low, applied.word
        if word not in SCALAR:
            raise InputError(low.sampler.where, "sampler.step", f"{word} stands where a number belongs", "name it in a line")
        if word.startswith("phi"):
            argument = self.scalar(applied.scalars[0])
            name = self._numbered(f"{word}_at", argument)
            low.call((name,), low.library.phi(int(word[3:])), argument)
            return symbol(name)
        if low.sde.n > 1:
            raise self._refused(word, "word")
        if word == "t":
            target = self.scalar(applied.scalars[0])
            name = name or self._numbered("t_of", target)
            while name in low.known and low.known[name] != "time_of":
                name += "_"
            low.call((name,), low.library.time_of(), target)
            return symbol(name)
        key = self.moment(applied.scalars[0])
        alpha, sigma = low.alpha_sigma(key)
        if word == "lambda":
            closed = low.library.log_sigma()
            if closed is not None:
                return -low.at(sp.expand(closed), key)
            return low.define(f"lambda_{key}", -sp.log(sigma) if alpha == 1 else sp.log(alpha / sigma))
        return {"alpha": alpha, "sigma": sigma, "rho": sigma / alpha}[word]

    def _numbered(self, stem: str, argument: sp.Expr) -> str:
        """One name for each argument of a word."""
        found = self.low.named.setdefault((stem, argument), len(self.low.named))
        return f"{stem}_{found}"

    def _refused(self, word: str, kind: str) -> InputError:
        sde, where = self.low.sde, self.low.sampler.where
        key = next(
            (f"sampler.step[{k}]" for k, line in enumerate(self.formula.step) if word in line.text), "sampler.step"
        )
        mend = "use score(y, s) and parts, or a diffusion of one block"
        return InputError(where, key, f"{word} is a {kind} of one block, and {sde.name} has {sde.n}", mend)
