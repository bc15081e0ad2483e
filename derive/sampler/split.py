"""A split bound to a diffusion: parts, by their letters, whose sum is proven to be the reverse SDE or the probability flow.

In reverse time tau (dtau = -dt) these are

    sde:  dz = (-F z - b + G G^T s) dtau + G dw          ode:  dz = (-F z - b + G G^T s / 2) dtau

and a part is ``dz = (linear z + offset + score s) dtau + noise^(1/2) dw`` on its rows.  Words of a spec:

    rows    all | data | auxiliary | a list of blocks
    linear  none | diagonal (of F) | stationary (-F - G G^T S_inf^-1, the reverse drift under the stationary score)
            | rest (what the other parts leave of -F on these rows) | a matrix of expressions
    offset  none | rest (of -b) | stationary (-b + G G^T S_inf^-1 m with F m + b = 0) | a list of expressions, one a block;
            where it is left out it goes with linear = rest or stationary
    score   none | all (of these rows) | a matrix of expressions that multiplies s
    noise   none | all (of these rows) | a list of blocks
    solve   exact (linear and noise only) | euler (F, G frozen at the network time) | conjugate (one conjugate Euler step)
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

import sympy as sp

from stepsmith.errors import InputError, Unsupported

from ..maths.bounded import cancelled, inverse, tame
from ..maths.calculus import exact, is_zero, t
from ..maths.point import sign
from ..sde.equations import linear_terms
from ..sde.linear import LinearSDE
from ..sde.offset import equilibrium
from ..sde.offset import read as read_offset
from ..spec import sources as spec
from ..spec.expression import Names, parse
from .sampler import PartSpec, Sampler


@dataclass(frozen=True)
class Part:
    """dz = (linear z + offset c + score s) dtau + noise^(1/2) dw, n x n matrices in the words of the SDE's let.

    ``offset``, n x (m + 1), multiplies c: the constant components and 1.
    """

    letter: str
    rows: tuple[int, ...]
    linear: sp.ImmutableMatrix
    score: sp.ImmutableMatrix
    noise_rows: tuple[int, ...]
    noise_clock: tuple[sp.Expr, ...]
    solve: str
    B: sp.ImmutableMatrix
    scored: bool  # the spec gives it a score, be it zero on this SDE
    offset: sp.ImmutableMatrix

    def noise(self, sde: LinearSDE) -> sp.Matrix:
        """G G^T on the rows of the noise, zero elsewhere."""
        return _masked(_masked(sde.GG_let, self.noise_rows).T, self.noise_rows)


def names_of(sde: LinearSDE, sampler: Sampler) -> Names:
    """What an expression of a sampler's spec may use: t, the SDE's parameters and lets, the sampler's own parameters."""
    clash = set(sampler.params) & {*sde.symbols, *sde.let, *sde.state, *sde.constant}
    if clash:
        what = f"{sorted(clash)[0]} is a name of {sde.name} already"
        raise InputError(sampler.where, "sampler.params", what, "rename it")
    names = Names({"t": t, **{name: sp.Symbol(name, real=True) for name in (*sde.symbols, *sampler.params)}})
    for name, value in sde.let.items():
        names.let(name, value)
    return names


def bind(sampler: Sampler, sde: LinearSDE) -> dict[str, Part]:
    """The parts of ``sde`` that ``sampler`` describes, their sum proven; InputError names the missing or the extra term."""
    names = names_of(sde, sampler)
    binders = [_Binder(sampler, part, sde, names) for part in sampler.parts.values()]
    linears = _completed([b.linear() for b in binders], -sde.F_let, binders)
    offsets = _completed([b.offset() for b in binders], -sde.offset_terms_let, binders)
    power = sde.GG_let if sampler.target == "sde" else sde.GG_let / 2
    parts = {
        binder.part.letter: binder.bound(linear, offset, power)
        for binder, linear, offset in zip(binders, linears, offsets, strict=True)
    }
    _prove_sum([*parts.values()], sampler, sde, power)
    return parts


def _masked(matrix: sp.Matrix, rows: tuple[int, ...]) -> sp.Matrix:
    return sp.Matrix(*matrix.shape, lambda i, j: matrix[i, j] if i in rows else 0)


def _completed(stated: list[sp.Matrix | None], wanted: sp.Matrix, binders: list[_Binder]) -> list[sp.Matrix]:
    """The matrices of the parts, those of "rest" (None) being what the others leave of the wanted one on their rows."""
    rest = wanted - sum((matrix for matrix in stated if matrix is not None), sp.zeros(*wanted.shape))
    return [_masked(rest, b.rows) if matrix is None else matrix for matrix, b in zip(stated, binders, strict=True)]


class _Binder:
    """One part on one diffusion: its words become matrices; a refusal names the key and the fix."""

    def __init__(self, sampler: Sampler, part: PartSpec, sde: LinearSDE, names: Names) -> None:
        self.where, self.part, self.sde, self.names = sampler.where, part, sde, names
        self.params = sampler.params
        self.rows = self.blocks("rows", part.rows)
        if not self.rows:
            what = f"{sde.name} has no {part.rows} block, so {part.letter} is a part of nothing"
            raise self.refused("rows", what, "choose an SDE with auxiliary blocks, or another sampler")

    def key(self, key: str) -> str:
        return f"sampler.parts.{self.part.letter}.{key}"

    def entry(self, key: str, value: Any) -> sp.Expr:
        return parse(value, self.names, where=self.where, key=self.key(key))

    def refused(self, key: str, what: str, fix: str) -> InputError:
        return InputError(self.where, self.key(key), what, fix)

    def blocks(self, key: str, value: Any) -> tuple[int, ...]:
        """The blocks that a word or a list names."""
        sde = self.sde
        auxiliary = tuple(i for i in range(sde.n) if i not in sde.data)
        words = {"none": (), "all": tuple(range(sde.n)), "data": sde.data, "auxiliary": auxiliary}
        if isinstance(value, str) and value in words:
            return words[value]
        if not isinstance(value, list | tuple) or not all(block in sde.state for block in value):
            fix = f"use all, data, auxiliary or a list of {', '.join(sde.state)}"
            raise self.refused(key, f"names no blocks of {sde.name}", fix)
        return tuple(sorted(sde.state.index(block) for block in value))

    def on_rows(self, key: str, matrix: sp.Matrix) -> sp.Matrix:
        """The matrix itself; refused where it has an entry outside the rows of the part."""
        for i in range(self.sde.n):
            if i not in self.rows and any(e != 0 for e in matrix.row(i)):
                what = f"row {self.sde.state[i]} is not among the rows of {self.part.letter}"
                raise self.refused(key, what, "add the row or empty it")
        return matrix

    def matrix(self, key: str, value: Any) -> sp.Matrix:
        """An n x n matrix of expressions on the rows of the part."""
        shape = (self.sde.n, self.sde.n)
        return self.on_rows(key, spec.matrix(self.where, self.key(key), value, shape, self.names))

    def linear(self) -> sp.Matrix | None:
        """The linear part that the spec states; None for "rest"."""
        sde, word = self.sde, self.part.linear
        if word == "rest":
            return None
        if word == "none":
            return sp.zeros(sde.n)
        if word == "diagonal":
            return _masked(sp.diag(*sde.F_let.diagonal()), self.rows)
        if word == "stationary":
            linear = _masked(-sde.F_let - sde.GG_let * inverse(sde.stationary()), self.rows)
            return linear.applyfunc(lambda e: _shorter(sde, cancelled(e)))
        return self.matrix("linear", word)

    def offset(self) -> sp.Matrix | None:
        """The offset that the spec states, n x (m + 1); None for "rest"."""
        sde, word, b = self.sde, self.part.offset, self.sde.offset_terms_let
        if word is None:
            word = self.part.linear if self.part.linear in ("rest", "stationary") else "none"
        if word == "none" or (b.is_zero_matrix and isinstance(word, str)):
            return sp.zeros(*b.shape)
        if word == "rest":
            return None
        if word == "stationary":
            kept = equilibrium(sde)
            if kept is None:
                raise Unsupported(f"{sde.name} keeps no mean", "give the part its offset: offset = [...]")
            return _masked(sde.GG_let * inverse(sde.stationary()) * kept - b, self.rows).applyfunc(cancelled)
        entries = read_offset(self.where, word, sde.n, self.names, sde.constant, self.key("offset"), every=False)
        return sp.Matrix(linear_terms(self.on_rows("offset", entries), sde.constant))

    def score(self, power: sp.Matrix) -> sp.Matrix:
        if self.part.score == "none":
            return sp.zeros(self.sde.n)
        return _masked(power, self.rows) if self.part.score == "all" else self.matrix("score", self.part.score)

    def conjugation(self) -> sp.Matrix:
        """B of a conjugate part: an expression times I on its rows, or a matrix of expressions."""
        if isinstance(self.part.B, list):
            return self.matrix("B", self.part.B)
        return _masked(sp.eye(self.sde.n) * self.entry("B", self.part.B), self.rows)

    def noise_clock(self) -> tuple[sp.Expr, ...]:
        """What multiplies the time of each block's noise, 1 unless the spec says otherwise of the block or its kind."""
        sde, given = self.sde, self.part.noise_clock
        if not (set(given) <= set(sde.state) or set(given) <= {"data", "auxiliary"}):
            raise self.refused("noise_clock", "names no block", f"use {', '.join(sde.state)}, data or auxiliary")
        read = {k: self.entry(f"noise_clock.{k}", e) for k, e in given.items()}
        defaults = {sp.Symbol(k, real=True): exact(v) for k, v in self.params.items()}
        if any(clock.subs(defaults) != 1 for clock in read.values()):
            what = "the clock of the noise is not 1 at the defaults"
            raise self.refused("noise_clock", what, "only 1 samples the SDE; make it a parameter with default 1")
        kinds = ("data" if i in sde.data else "auxiliary" for i in range(sde.n))
        return tuple(read.get(b, read.get(kind, sp.S.One)) for b, kind in zip(sde.state, kinds, strict=True))

    def bound(self, linear: sp.Matrix, offset: sp.Matrix, power: sp.Matrix) -> Part:
        """The part, ``power`` being what multiplies the score in the sum of all parts."""
        part, score = self.part, self.score(power)
        noise_rows = self.blocks("noise", part.noise) if part.noise != "all" else self.rows
        if part.solve == "exact" and not score.is_zero_matrix:
            raise self.refused("solve", "a part with a score has no exact flow", "use euler or conjugate")
        if part.solve == "conjugate" and noise_rows:
            raise self.refused("solve", "a conjugate part carries no noise", "give the noise to an exact part")
        linear, score, offset, B = map(sp.ImmutableMatrix, (linear, score, offset, self.conjugation()))
        clock, scored = self.noise_clock(), part.score != "none"
        return Part(part.letter, self.rows, linear, score, noise_rows, clock, part.solve, B, scored, offset)


def _shorter(sde: LinearSDE, expr: sp.Expr) -> sp.Expr:
    """An expression with the lets that are free of time written out and cancelled, where that is shorter."""
    lets = {sp.Symbol(name, real=True): e for name, e in sde.let.items() if not e.has(t)}
    other = cancelled(expr.subs(lets))
    return other if sp.count_ops(other) < sp.count_ops(expr) else expr


def _gap(sde: LinearSDE, total: sp.Expr, wanted: sp.Expr) -> tuple[str, sp.Expr]:
    """What is wrong about a sum: ("extra", the surplus) where it has all that is wanted and more, else ("missing", the lack).

    It has more where total / wanted > 1 at the default parameters in the middle of the span, or where nothing is wanted.
    """
    if total == 0:
        return "missing", wanted
    point = {**{sde.symbols[k]: exact(v) for k, v in sde.params.items()}, t: exact(sum(sde.time) / 2)}
    surplus = sde.written_out((total - wanted) * wanted)
    more = is_zero(sde.written_out(wanted)) or (surplus.free_symbols <= set(point) and (sign(surplus, point) or 0) > 0)
    return ("extra", total - wanted) if more else ("missing", wanted - total)


def _shown(term: sp.Expr) -> str:
    """A term in a message: tidy and short."""
    text = sp.sstr(sp.factor_terms(term) if tame(term) else term)
    return text if len(text) <= 200 else f"{text[:200]}..."


def _prove_sum(parts: list[Part], sampler: Sampler, sde: LinearSDE, power: sp.Matrix) -> None:
    """Sum of linear = -F, of score = c G G^T, of noise = G G^T (sde) or none (ode); else the first gap is named."""
    n, b = sde.n, sde.offset_terms_let
    sums = {
        "linear": (sum((p.linear for p in parts), sp.zeros(n)), -sde.F_let),
        "offset": (sum((p.offset for p in parts), sp.zeros(*b.shape)), -b),
        "score": (sum((p.score for p in parts), sp.zeros(n)), power),
        "noise": (
            sum((p.noise(sde) for p in parts), sp.zeros(n)),
            sde.GG_let if sampler.target == "sde" else sp.zeros(n),
        ),
    }
    for kind, (total, wanted) in sums.items():
        for i, j in product(range(n), range(wanted.shape[1])):
            if not is_zero(sde.written_out(wanted[i, j] - total[i, j])):
                column = (*sde.constant, "one")[j] if kind == "offset" else sde.state[j]
                column = f"{'the score of ' if kind == 'score' else ''}{column}"
                word, term = _gap(sde, total[i, j], wanted[i, j])
                aim = "reverse SDE" if sampler.target == "sde" else "probability flow"
                place = f"{kind} of row {sde.state[i]} in {column}, {word} {_shown(term)}"
                what = f"the parts do not sum to the {aim} of {sde.name}: {place}"
                raise InputError(sampler.where, "sampler.parts", what, "give the term to exactly one part")
