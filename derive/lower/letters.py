"""A splitting step: the parts of a composition applied in order, one short function a kind of letter.

An Euler part adds share * h * (linear z + score s), with F and G frozen at its network time; an exact part solves its
linear flow and its noise over its own sub-interval, each letter with its own clock; a conjugate part is a conjugate Euler
step of its rows (psld-and-splitting.md, section 5), the other rows and the network's output frozen.
"""

from __future__ import annotations

from collections.abc import Mapping

import sympy as sp
from sympy.codegen.cfunctions import expm1

from stepsmith.errors import InputError

from ..maths.bounded import cancelled
from ..maths.calculus import is_zero, t
from ..program import ONE, Propagate, Spread, entries
from ..sampler.split import Part
from ..sde.equations import coupled
from ..sde.forms import zero_by_default
from ..sde.offset import reached as offset_reached
from ..spec.composition import Token
from .conjugate import part_step, reframed
from .writer import State, Writer


def split_step(w: Writer, parts: Mapping[str, Part]) -> State:
    """The new state after the parts of the composition, in order."""
    state: State = dict(enumerate(w.sde.state))
    done = dict.fromkeys(parts, sp.Integer(0))
    for position, token in enumerate(w.sampler.composition, start=1):
        part = parts[token.letter]
        upper, lower = w.time(done[token.letter]), w.time(done[token.letter] + token.share)
        done[token.letter] += token.share
        ahead = state
        if token.fresh:
            if token.predict and w.asked.output:
                ahead = apply(w, part, token, f"{position}p", state, state, upper, lower)
            w.evaluate(ahead, w.time(token.at))
            w.asked.frozen = reframed(w, w.frame, ahead)
        state = apply(w, part, token, str(position), state, ahead if token.predict else state, upper, lower)
    return state


def apply(w: Writer, part: Part, token: Token, mark: str, state: State, seen: State, upper: str, lower: str) -> State:
    """The part over its sub-interval; ``seen`` is the state that an Euler part takes its drift at."""
    name = f"{part.letter}{mark}"
    if part.solve == "exact":
        return _exact(w, part, name, state, upper, lower)
    if part.solve == "conjugate":
        return part_step(w, part, name, state, upper, lower)
    return _euler(w, part, name, state, seen, token, upper)


def _euler(w: Writer, part: Part, name: str, state: State, seen: State, token: Token, upper: str) -> State:
    """z + share h (linear z_seen + score s) + sqrt(share h) G xi, F and G at the network time."""
    key, step, n = w.asked.clock if part.scored else upper, token.share * w.h, w.sde.n
    noise = _euler_noise(w, part, name, key, step)
    new = dict(state)
    for i in part.rows:
        at = lambda e: step * w.at(e, key)  # noqa: E731
        terms = [(ONE, state[i]), *zip(map(at, part.linear.row(i)), (seen[j] for j in range(n)), strict=True)]
        if not part.score.is_zero_matrix:
            terms += zip(map(at, part.score.row(i)), w.asked.score, strict=True)
        terms += zip(map(at, part.offset.row(i)), w.constants, strict=True)
        new[i] = w.update(f"{w.block(i)}_{name}", terms + noise.get(i, []), str(token))
    return new


def _euler_noise(w: Writer, part: Part, name: str, key: str, step: sp.Expr) -> dict[int, list[tuple[sp.Expr, str]]]:
    """sqrt(step) G xi on the rows of the part's noise, one draw a column of G that reaches them."""
    if not part.noise_rows:
        return {}
    if any(clock != 1 for clock in part.noise_clock):
        raise _clocked(w, part, "an Euler part has no clock of its own", "solve the part exactly")
    G = w.sde.G_let
    columns = [k for k in range(G.shape[1]) if any(G[i, k] != 0 for i in part.noise_rows)]
    draws = {k: w.normal(f"xi_{name}_{k}") for k in columns}
    return {i: [(sp.sqrt(step) * w.at(G[i, k], key), draws[k]) for k in columns] for i in part.noise_rows}


def _clocked(w: Writer, part: Part, what: str, fix: str) -> InputError:
    return InputError(w.sampler.where, f"sampler.parts.{part.letter}.noise_clock", what, fix)


def _exact(w: Writer, part: Part, name: str, state: State, upper: str, lower: str) -> State:
    """The exact flow of dz = linear z dtau + noise^(1/2) dw over the part's own sub-interval."""
    n = w.sde.n
    decay, factor, shift = _rows_apart(w, part, name, upper, lower) or _coupled(w, part, name, upper, lower)
    draws = {j: w.normal(f"xi_{name}_{w.block(j)}") for j in range(n) if any(factor.col(j))}
    noise = (factor.extract(range(n), list(draws)), draws.values())
    names, states = [f"{b}_{name}" for b in w.sde.state], (state[j] for j in range(n))
    return dict(enumerate(w.rows(names, (decay, states), (shift, w.constants), noise, note=part.letter)))


def _rows_apart(w: Writer, part: Part, name: str, upper: str, lower: str) -> tuple[sp.Matrix, ...] | None:
    """Closed form where every row is by itself and no clock changes with time: decay exp(k), k = int linear, noise
    sqrt(v (1 - exp(2k))), and (1 - exp(k)) m where linear and offset are linear (z - m), m constant.
    """
    sde, n = w.sde, w.sde.n
    noise = part.noise(sde)
    if not (part.linear.is_diagonal() and noise.is_diagonal()) or any(clock.has(t) for clock in part.noise_clock):
        return None
    if any(zero_by_default(sde, e) for e in part.linear.diagonal()):
        return None
    kept = [_stationary(w, part, noise[i, i], i) for i in range(n)]
    if any(sde.written_out(sp.Matrix([row])).has(t) for row in kept if row is not None):
        return None
    decay, factor, shift = sp.eye(n), sp.zeros(n), sp.zeros(*part.offset.shape)
    for i in range(n):
        clock = part.noise_clock[i]
        exponent = w.define(f"{name}_{w.block(i)}_rate", w.integral(part.linear[i, i], upper, lower))
        decay[i, i] = sp.exp(exponent)
        if (row := kept[i]) is None:
            factor[i, i] = sp.sqrt(clock * w.integral(noise[i, i], upper, lower)) if noise[i, i] != 0 else 0
            shift[i, :] = part.offset.row(i).applyfunc(lambda e: w.integral(e, upper, lower) if e != 0 else 0)
        else:
            law, *mean = row
            factor[i, i] = sp.sqrt(-w.at(law, upper) * expm1(2 * clock * exponent)) if law != 0 else 0
            shift[i, :] = sp.Matrix([[-expm1(exponent) * w.at(e, upper) for e in mean]])
    return decay, factor, shift


def _stationary(w: Writer, part: Part, power: sp.Expr, i: int) -> tuple[sp.Expr, ...] | None:
    """(variance, means) that a row by itself would keep, v = -power/(2 linear) and m = -offset/linear; None where linear is 0."""
    rate = part.linear[i, i]
    if is_zero(w.sde.written_out(rate)):
        return None
    return (cancelled(-power / (2 * rate)), *(cancelled(-e / rate) for e in part.offset.row(i)))


def _coupled(w: Writer, part: Part, name: str, upper: str, lower: str) -> tuple[sp.Matrix, ...]:
    """(decay, lower factor of the noise covariance, shift by the offset) of coupled rows over the sub-interval.  The noise of a
    row with a clock c is that of dz = c linear z dtau + (c noise)^(1/2) dw."""
    if any(clock != 1 for clock in part.noise_clock) and not (part.linear.is_diagonal() and part.noise(w.sde).is_diagonal()):
        fix = "leave it out, as a composition such as 'O B! A' does"
        raise _clocked(w, part, "only a part of independent rows has a clock a row", fix)
    sde, n, clock = w.sde, w.sde.n, sp.diag(*part.noise_clock)
    low, high = w.moments[lower], w.moments[upper]
    shifted = offset_reached(part.linear, part.offset)
    drift = [] if shifted.is_zero_matrix else [f"shift_{name}"]
    rate = part.linear.row_join(part.offset) if drift else part.linear
    widths = (n, *(part.offset.shape[1] for _ in drift))
    w.add(Propagate((f"decay_{name}", *drift), widths, sp.ImmutableMatrix(rate), "", low, high))
    decay = sp.Matrix(entries(f"decay_{name}", n, n))
    reach = [coupled(part.linear, {j}) for j in range(n)]
    decay = sp.Matrix(n, n, lambda i, j: decay[i, j] if i in reach[j] else 0)
    noise = sp.Matrix(n, sde.G_let.shape[1], lambda i, j: sde.G_let[i, j] if i in part.noise_rows else 0)
    noise = clock.applyfunc(sp.sqrt) * noise
    touched = coupled(part.linear, {i for i in range(n) if any(noise.row(i))})
    factor = sp.zeros(n)
    if touched:
        decaying = sp.ImmutableMatrix(clock * part.linear)
        w.add(Spread(f"factor_{name}", decaying, sp.ImmutableMatrix(noise), tuple(sorted(touched)), low, high))
        table = entries(f"factor_{name}", n, n)
        factor = sp.Matrix(n, n, lambda i, j: table[i, j] if j <= i and i in touched and j in touched else 0)
    shift = entries(f"shift_{name}", *shifted.shape) if drift else sp.zeros(*shifted.shape)
    return decay, factor, sp.Matrix(*shifted.shape, lambda i, k: shift[i, k] if shifted[i, k] else 0)
