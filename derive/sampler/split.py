"""A split bound to a diffusion: parts whose sum is proven to be the reverse SDE or the probability flow.

In reverse time tau (dtau = -dt) the whole is

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
from typing import Any

import sympy as sp

from stepsmith.errors import InputError, Unsupported

from ..maths import bounded
from ..maths.bounded import cancelled, tame
from ..maths.calculus import exact, is_zero, t
from ..maths.point import sign
from ..sde.equations import linear_terms
from ..sde.linear import LinearSDE
from ..sde.offset import equilibrium
from ..sde.offset import read as read_offset
from ..spec import sources as spec
from ..spec.expression import Names
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


@dataclass(frozen=True)
class Split:
    """The parts of a sampler on an SDE, their sum proven."""

    sde: LinearSDE
    target: str
    parts: dict[str, Part]


def names_of(sde: LinearSDE, sampler: Sampler) -> Names:
    """What an expression of a sampler's spec may use: t, the SDE's parameters and lets, the sampler's own parameters."""
    clash = set(sampler.params) & {*sde.symbols, *sde.let, *sde.state, *sde.constant}
    if clash:
        raise InputError(
            sampler.where, "sampler.params", f"{sorted(clash)[0]} is a name of {sde.name} already", "rename it"
        )
    names = Names({"t": t, **{name: sp.Symbol(name, real=True) for name in (*sde.symbols, *sampler.params)}})
    for name, value in sde.let.items():
        names.let(name, value)
    return names


def bind(sampler: Sampler, sde: LinearSDE) -> Split:
    """The split of ``sde`` that ``sampler`` describes; InputError names the missing or the extra term."""
    names = names_of(sde, sampler)
    explicit = {letter: _linear(sampler, part, sde, names) for letter, part in sampler.parts.items()}
    stated = {letter: _offset(sampler, part, sde, names) for letter, part in sampler.parts.items()}
    given = sum((matrix for matrix in stated.values() if matrix is not None), sp.zeros(*sde.offset_terms_let.shape))
    taken = sum((matrix for matrix in explicit.values() if matrix is not None), sp.zeros(sde.n))
    whole = sde.GG_let if sampler.target == "sde" else sde.GG_let / 2
    parts = {}
    for letter, part in sampler.parts.items():
        rows = _rows(sampler, part, sde)
        linear = explicit[letter] if explicit[letter] is not None else _masked(-sde.F_let - taken, rows)
        offset = stated[letter]
        offset = offset if offset is not None else _masked(-sde.offset_terms_let - given, rows)
        parts[letter] = _part(sampler, part, sde, rows, (linear, offset), whole, names)
    split = Split(sde, sampler.target, parts)
    _prove_sum(split, sampler, whole)
    return split


def _blocks(sampler: Sampler, key: str, value: Any, sde: LinearSDE) -> tuple[int, ...]:
    words = {"none": (), "all": tuple(range(sde.n)), "data": sde.data}
    words["auxiliary"] = tuple(i for i in range(sde.n) if i not in sde.data)
    if isinstance(value, str) and value in words:
        return words[value]
    if not isinstance(value, list | tuple) or not all(block in sde.state for block in value):
        raise InputError(
            sampler.where,
            key,
            f"names no blocks of {sde.name}",
            f"use all, data, auxiliary or a list of {', '.join(sde.state)}",
        )
    return tuple(sorted(sde.state.index(block) for block in value))


def _rows(sampler: Sampler, part: PartSpec, sde: LinearSDE) -> tuple[int, ...]:
    key = f"sampler.parts.{part.letter}.rows"
    rows = _blocks(sampler, key, part.rows, sde)
    if not rows:
        raise InputError(
            sampler.where,
            key,
            f"{sde.name} has no {part.rows} block, so {part.letter} moves nothing",
            "choose an SDE with auxiliary blocks, or another sampler",
        )
    return rows


def _shorter(sde: LinearSDE, expr: sp.Expr) -> sp.Expr:
    """An expression with the lets that are free of time written out and cancelled, where that is shorter."""
    lets = {sp.Symbol(name, real=True): e for name, e in sde.let.items() if not e.has(t)}
    other = cancelled(expr.subs(lets))
    return other if sp.count_ops(other) < sp.count_ops(expr) else expr


def _masked(matrix: sp.Matrix, rows: tuple[int, ...]) -> sp.Matrix:
    return sp.Matrix(*matrix.shape, lambda i, j: matrix[i, j] if i in rows else 0)


def _matrix(
    sampler: Sampler, part: PartSpec, key: str, value: Any, sde: LinearSDE, names: dict[str, sp.Expr]
) -> sp.Matrix:
    where = f"sampler.parts.{part.letter}.{key}"
    matrix = spec.matrix(sampler.where, where, value, (sde.n, sde.n), names)
    rows = _rows(sampler, part, sde)
    for i in range(sde.n):
        if i not in rows and any(e != 0 for e in matrix.row(i)):
            raise InputError(
                sampler.where,
                where,
                f"row {sde.state[i]} is not among the rows of {part.letter}",
                "add the row or empty it",
            )
    return matrix


def _linear(sampler: Sampler, part: PartSpec, sde: LinearSDE, names: dict[str, sp.Expr]) -> sp.Matrix | None:
    """The linear part that a spec states; None for "rest"."""
    rows = _rows(sampler, part, sde)
    if part.linear == "rest":
        return None
    if part.linear == "none":
        return sp.zeros(sde.n)
    if part.linear == "diagonal":
        return _masked(sp.diag(*sde.F_let.diagonal()), rows)
    if part.linear == "stationary":
        linear = _masked(-sde.F_let - sde.GG_let * bounded.inverse(sde.stationary()), rows)
        return linear.applyfunc(lambda e: _shorter(sde, cancelled(e)))
    return _matrix(sampler, part, "linear", part.linear, sde, names)


def _offset(sampler: Sampler, part: PartSpec, sde: LinearSDE, names: dict[str, sp.Expr]) -> sp.Matrix | None:
    """The offset that a spec states, n x (m + 1); None for "rest"."""
    b = sde.offset_terms_let
    word = part.offset
    if word is None:
        word = part.linear if part.linear in ("rest", "stationary") else "none"
    if word == "none" or (b.is_zero_matrix and isinstance(word, str)):
        return sp.zeros(*b.shape)
    if word == "rest":
        return None
    rows = _rows(sampler, part, sde)
    if word == "stationary":
        kept = equilibrium(sde)
        if kept is None:
            raise Unsupported(f"{sde.name} keeps no mean", "give the part its offset: offset = [...]")
        return _masked(sde.GG_let * bounded.inverse(sde.stationary()) * kept - b, rows).applyfunc(cancelled)
    key = f"sampler.parts.{part.letter}.offset"
    entries = read_offset(sampler.where, word, sde.n, names, sde.constant, key, every=False)
    outside = [sde.state[i] for i in range(sde.n) if i not in rows and entries[i] != 0]
    if outside:
        what = f"row {outside[0]} is not among the rows of {part.letter}"
        raise InputError(sampler.where, key, what, "add the row or empty it")
    return sp.Matrix(linear_terms(entries, sde.constant))


def _part(
    sampler: Sampler,
    part: PartSpec,
    sde: LinearSDE,
    rows: tuple[int, ...],
    drift: tuple[sp.Matrix, sp.Matrix],
    whole: sp.Matrix,
    names: dict[str, sp.Expr],
) -> Part:
    key = f"sampler.parts.{part.letter}"
    score = sp.zeros(sde.n)
    if part.score == "all":
        score = _masked(whole, rows)
    elif part.score != "none":
        score = _matrix(sampler, part, "score", part.score, sde, names)
    noise_rows = tuple(i for i in _blocks(sampler, f"{key}.noise", part.noise, sde) if part.noise != "all" or i in rows)
    if part.solve == "exact" and not score.is_zero_matrix:
        raise InputError(
            sampler.where, f"{key}.solve", "a part with a score has no exact flow", "use euler or conjugate"
        )
    if part.solve == "conjugate" and noise_rows:
        raise InputError(
            sampler.where, f"{key}.solve", "a conjugate part carries no noise", "give the noise to an exact part"
        )
    clock = tuple(
        spec.entry(sampler.where, f"{key}.noise_clock.{b}", part.noise_clock.get(b, "1"), names) for b in sde.state
    )
    if set(part.noise_clock) - set(sde.state) and not set(part.noise_clock) <= {"data", "auxiliary"}:
        raise InputError(
            sampler.where, f"{key}.noise_clock", "names no block", f"use {', '.join(sde.state)}, data or auxiliary"
        )
    for word in ("data", "auxiliary"):
        if word in part.noise_clock:
            value = spec.entry(sampler.where, f"{key}.noise_clock.{word}", part.noise_clock[word], names)
            clock = tuple(value if i in _blocks(sampler, key, word, sde) else c for i, c in enumerate(clock))
    defaults = {sp.Symbol(k, real=True): exact(v) for k, v in sampler.params.items()}
    if any(c.subs(defaults) != 1 for c in clock):
        raise InputError(
            sampler.where,
            f"{key}.noise_clock",
            "the clock of the noise is not 1 at the defaults",
            "only 1 samples the SDE; make it a parameter with default 1",
        )
    return Part(
        part.letter, rows, sp.ImmutableMatrix(drift[0]), sp.ImmutableMatrix(score), noise_rows, clock, part.solve,
        sp.ImmutableMatrix(_conjugation(sampler, part, sde, rows, names)), part.score != "none",
        sp.ImmutableMatrix(drift[1]),
    )  # fmt: skip


def _conjugation(
    sampler: Sampler, part: PartSpec, sde: LinearSDE, rows: tuple[int, ...], names: dict[str, sp.Expr]
) -> sp.Matrix:
    if isinstance(part.B, list):
        return _matrix(sampler, part, "B", part.B, sde, names)
    return _masked(sp.eye(sde.n) * spec.entry(sampler.where, f"sampler.parts.{part.letter}.B", part.B, names), rows)


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


def _prove_sum(split: Split, sampler: Sampler, whole: sp.Matrix) -> None:
    """Sum of linear = -F, of score = c G G^T, of noise = G G^T (sde) or none (ode); else the first gap is named."""
    sde = split.sde
    n = sde.n
    noise = sp.zeros(n)
    for part in split.parts.values():
        noise += sp.Matrix(
            n, n, lambda i, j, part=part: sde.GG_let[i, j] if i in part.noise_rows and j in part.noise_rows else 0
        )
    b = sde.offset_terms_let
    sums = {
        "linear": (sum((p.linear for p in split.parts.values()), sp.zeros(n)), -sde.F_let),
        "offset": (sum((p.offset for p in split.parts.values()), sp.zeros(*b.shape)), -b),
        "score": (sum((p.score for p in split.parts.values()), sp.zeros(n)), whole),
        "noise": (noise, sde.GG_let if split.target == "sde" else sp.zeros(n)),
    }
    for kind, (total, wanted) in sums.items():
        for i in range(n):
            for j in range(wanted.shape[1]):
                gap = wanted[i, j] - total[i, j]
                if not is_zero(sde.written_out(gap)):
                    column = (*sde.constant, "one")[j] if kind == "offset" else sde.state[j]
                    column = f"{'the score of ' if kind == 'score' else ''}{column}"
                    word, term = _gap(sde, total[i, j], wanted[i, j])
                    whole = "reverse SDE" if split.target == "sde" else "probability flow"
                    place = f"{kind} of row {sde.state[i]} in {column}, {word} {_shown(term)}"
                    what = f"the parts do not sum to the {whole} of {sde.name}: {place}"
                    raise InputError(sampler.where, "sampler.parts", what, "give the term to exactly one part")
