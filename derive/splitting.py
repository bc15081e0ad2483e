"""A splitting step: the parts of a composition applied in order.

An Euler part adds share * h * (linear z + score s), with F and G frozen at its network time; an exact part integrates its
linear flow and its noise over its own sub-interval, each letter with its own clock; a conjugate part is a conjugate Euler
step of its rows (psld-and-splitting.md, section 5), the other rows and the network's output frozen.
"""

from __future__ import annotations

from typing import Any

import sympy as sp
from sympy.codegen.cfunctions import expm1

from stepsmith.errors import InputError

from . import structure
from .bounded import cancelled
from .builder import Lowering, State
from .calculus import is_zero, t
from .composition import Token
from .conjugate import conjugate_function
from .graded import noise_terms, terms_apart
from .lift import columns, extra, whole_rows
from .offset import reached as offset_reached
from .program import ONE, Normal, entries, entry
from .split import Part, Split


def split_step(low: Lowering, split: Split) -> State:
    state: State = dict(enumerate(low.sde.state))
    done = dict.fromkeys(split.parts, sp.Integer(0))
    for position, token in enumerate(low.sampler.composition, start=1):
        part = split.parts[token.letter]
        upper, lower = low.time(done[token.letter])[0], low.time(done[token.letter] + token.share)[0]
        done[token.letter] += token.share
        ahead = state
        if token.fresh:
            ahead = (
                apply(low, part, token, f"{position}p", state, state, upper, lower)
                if token.predict and low.output
                else state
            )
            low.evaluate(ahead, token.at)
        state = apply(low, part, token, str(position), state, ahead if token.predict else state, upper, lower)
    return state


def apply(
    low: Lowering, part: Part, token: Token, mark: str, state: State, seen: State, upper: str, lower: str
) -> State:
    """The part over its sub-interval; ``seen`` is the state that an Euler part takes its drift at."""
    name = f"{part.letter}{mark}"
    if part.solve == "exact":
        return _exact(low, part, name, state, upper, lower)
    if part.solve == "conjugate":
        return _conjugate_part(low, part, name, state, upper, lower)
    return _euler(low, part, name, state, seen, token, upper)


def _euler(low: Lowering, part: Part, name: str, state: State, seen: State, token: Token, upper: str) -> State:
    """z + share h (linear z_seen + score s) + sqrt(share h) G xi, F and G at the network time."""
    key = low.clock if part.scored else upper
    step = token.share * low.h
    noise = _euler_noise(low, part, name, key, step)
    whole = whole_rows(low.sde, part, low.network)
    table = low.reverse_drift(key) if whole else None
    new: State = {}
    for i in range(low.sde.n):
        if i not in part.rows:
            new[i] = state[i]
        elif table is not None and i in whole:
            terms = _whole_drift(low, part, name, i, whole[i], table, seen, key, step)
            new[i] = _gained(low, name, i, state, terms + noise.get(i, []))
        else:
            terms = _own_drift(low, part, name, i, state, seen, key, step)
            new[i] = low.update(f"{low.block(i)}_{name}", terms + noise.get(i, []))
    return new


Terms = list[tuple[str, sp.Expr, str]]


def _own_drift(
    low: Lowering, part: Part, name: str, i: int, state: State, seen: State, key: str, step: sp.Expr
) -> Terms:
    """The terms of z_i + step (linear z_seen + score s)_i."""
    block = low.block(i)
    terms = _moved(low, name, i, part.linear.row(i).applyfunc(lambda e: step * low.at(e, key)), state, seen)
    if not part.score.is_zero_matrix:
        terms += [
            (f"{name}_{block}s{low.block(j)}", step * low.at(part.score[i, j], key), s) for j, s in enumerate(low.score)
        ]
    return terms + low.carry(f"{name}_{block}", [step * low.at(e, key) for e in part.offset.row(i)])


def _whole_drift(
    low: Lowering, part: Part, name: str, i: int, share: sp.Expr, table: sp.Matrix, seen: State, key: str, step: sp.Expr
) -> Terms:
    """The same without z_i, as ``share`` times [R | e] of lift.py and what is beyond it.

    R acts on the state that the network was asked about, the part's own ``linear`` on what a block has gained since.
    """
    sde, score, block = low.sde, low.asked.score, low.block(i)
    assert score is not None
    beyond, terms = extra(sde, part, share).row(i).applyfunc(lambda e: low.at(e, key)), []
    for j in range(sde.n):
        label, own = f"{name}_{block}{low.block(j)}", step * low.at(part.linear[i, j], key)
        gained = _since(low, low.asked.state[j], seen[j])
        if sde.n == 1 or gained is None:
            pulled = sum((low.at(part.score[i, a], key) * score.skip[a, j] for a in range(sde.n)), sp.S.Zero)
            terms += [(label, own, seen[j]), (f"{label}_skip", step * pulled, low.asked.state[j])]
        else:
            terms.append((label, step * (share * table[i, j] + beyond[j]), low.asked.state[j]))
            terms += [(f"{label}_own", own, value) for value in gained]
    for k, value in enumerate(low.output):
        weight = sum((low.at(part.score[i, a], key) * score.out[a, k] for a in range(sde.n)), sp.S.Zero)
        terms.append((f"{name}_{block}n{k}", step * weight, value))
    if sde.offset_let.is_zero_matrix:
        return terms
    first = table.shape[1] - part.offset.shape[1]
    moved = [step * (share * table[i, k] + beyond[k]) for k in range(first, table.shape[1])]
    return terms + low.carry(f"{name}_{block}", moved)


def _since(low: Lowering, old: str, value: str) -> list[str] | None:
    """What was added to ``old`` to make ``value``; None where it did more than grow."""
    found: list[str] = []
    while value != old:
        if value not in low.gains:
            return None
        value, gain = low.gains[value]
        found.append(gain)
    return found


def _gained(low: Lowering, name: str, i: int, state: State, terms: Terms) -> str:
    """z_i and what it gains, which is kept apart."""
    gain = low.update(f"gain_{low.block(i)}_{name}", terms)
    value = low.update(f"{low.block(i)}_{name}", [("", ONE, state[i]), ("", ONE, gain)])
    low.gains[value] = (state[i], gain)
    return value


def _moved(
    low: Lowering, name: str, i: int, rate: sp.Matrix, state: State, seen: State
) -> list[tuple[str, sp.Expr, str]]:
    """The terms of z_i + rate z_seen, one a value where the state itself is seen."""
    names = [f"{name}_{low.block(i)}{low.block(j)}" for j in range(low.sde.n)]
    if all(seen[j] == state[j] for j in range(low.sde.n)):
        return [(names[j], (ONE if i == j else 0) + rate[j], state[j]) for j in range(low.sde.n)]
    return [(f"{names[i]}_kept", ONE, state[i]), *((names[j], rate[j], seen[j]) for j in range(low.sde.n))]


def _euler_noise(
    low: Lowering, part: Part, name: str, key: str, step: sp.Expr
) -> dict[int, list[tuple[str, sp.Expr, str]]]:
    """sqrt(step) G xi on the rows of the part's noise, one draw a column of G that reaches them."""
    if not part.noise_rows:
        return {}
    if any(clock != 1 for clock in part.noise_clock):
        raise InputError(
            low.sampler.where,
            f"sampler.parts.{part.letter}.noise_clock",
            "an Euler part has no clock of its own",
            "solve the part exactly",
        )
    G = low.sde.G_let
    columns = [k for k in range(G.shape[1]) if any(G[i, k] != 0 for i in part.noise_rows)]
    draws = {k: f"xi_{name}_{k}" for k in columns}
    low.ops += [Normal(draw) for draw in draws.values()]
    root = low.define(f"sqrt_h_{name}", sp.sqrt(step))
    return {
        i: [(f"{name}_{low.block(i)}w{k}", root * low.at(G[i, k], key), draws[k]) for k in columns]
        for i in part.noise_rows
    }


def _exact(low: Lowering, part: Part, name: str, state: State, upper: str, lower: str) -> State:
    """The exact flow of dz = linear z dtau + noise^(1/2) dw over the part's own sub-interval."""
    flow = _exact_rows(low, part, name, upper, lower) or _exact_matrix(low, part, name, upper, lower)
    decay, factor, shift = flow
    rows = [i for i in range(low.sde.n) if any(e != 0 for e in factor.row(i))]
    draws = {j: f"xi_{name}_{low.block(j)}" for j in range(low.sde.n) if any(factor[i, j] != 0 for i in rows)}
    low.ops += [Normal(draw) for draw in draws.values()]
    new: State = {}
    for i in range(low.sde.n):
        terms = [(f"{name}_{low.block(i)}{low.block(j)}", decay[i, j], state[j]) for j in range(low.sde.n)]
        terms += low.carry(f"{name}_{low.block(i)}", shift.row(i))
        terms += [(f"{name}_{low.block(i)}w{low.block(j)}", factor[i, j], draw) for j, draw in draws.items()]
        new[i] = low.update(f"{low.block(i)}_{name}", terms)
    return new


def _exact_rows(low: Lowering, part: Part, name: str, upper: str, lower: str) -> tuple[sp.Matrix, ...] | None:
    """Closed form where every row is by itself: decay exp(k), k = int linear, noise sqrt(v (1 - exp(2k))), and
    (1 - exp(k)) m where linear and offset are linear (z - m), m constant.
    """
    sde, n = low.sde, low.sde.n
    noise = sp.Matrix(n, n, lambda i, j: sde.GG_let[i, j] if i in part.noise_rows and j in part.noise_rows else 0)
    if not (part.linear.is_diagonal() and noise.is_diagonal()):
        return None
    decay, factor, shift = sp.eye(n), sp.zeros(n), sp.zeros(*part.offset.shape)
    for i in range(n):
        rate, power, clock = part.linear[i, i], noise[i, i], low.at(part.noise_clock[i], upper)
        law = cancelled(-power / (2 * rate)) if not is_zero(sde.written_out(rate)) else None
        kept = part.offset.row(i).applyfunc(lambda e, r=rate: cancelled(-e / r)) if law is not None else sp.zeros(1, 0)
        if any(t in sde.written_out(e).free_symbols for e in (law or sp.S.Zero, *kept)):
            return None
        exponent = low.define(f"{name}_{low.block(i)}_rate", low.increment(rate, upper, lower))
        decay[i, i] = sp.exp(exponent)
        if law is None:
            factor[i, i] = sp.sqrt(clock * low.increment(power, upper, lower))
            shift[i, :] = part.offset.row(i).applyfunc(lambda e: low.increment(e, upper, lower))
        else:
            shift[i, :] = kept.applyfunc(lambda e, k=exponent: -expm1(k) * low.at(e, upper))
            factor[i, i] = sp.sqrt(low.at(law, upper)) * sp.sqrt(-expm1(2 * clock * exponent))
    return decay, factor, shift


def _exact_matrix(low: Lowering, part: Part, name: str, upper: str, lower: str) -> tuple[sp.Matrix, ...]:
    """(decay, lower factor of the noise covariance, shift by the offset) by quadrature over the sub-interval."""
    if any(clock != 1 for clock in part.noise_clock):
        raise InputError(
            low.sampler.where,
            f"sampler.parts.{part.letter}.noise_clock",
            "only a part of independent rows has a clock a row",
            "leave it out",
        )
    n, letter = low.sde.n, part.letter.lower()
    noise = sp.Matrix(n, low.sde.G_let.shape[1], lambda i, j: low.sde.G_let[i, j] if i in part.noise_rows else 0)
    reached = tuple(sorted(structure.reached(part.linear, {i for i in range(n) if any(e != 0 for e in noise.row(i))})))
    moved = offset_reached(part.linear, part.offset)
    drift = not moved.is_zero_matrix
    if not reached and not drift:  # the propagator is all there is
        flow = low.library.transition(f"flow_{letter}", -part.linear, _flow_doc(part))
        low.call((f"decay_{name}",), flow, low.moment(lower), low.moment(upper))
        return entries(f"decay_{name}", n, n), sp.zeros(n), moved
    _exact_function(low, part, noise, reached, drift)
    tables = tuple(f"{stem}_{name}" for stem in ("decay", "factor", *(("shift",) if drift else ())))
    low.call(tables, f"exact_{letter}", low.moment(lower), low.moment(upper))
    factor = entries(f"factor_{name}", n, n)
    noise = sp.Matrix(n, n, lambda i, j: factor[i, j] if j <= i and i in reached and j in reached else 0)
    shift = sp.Matrix(*moved.shape, lambda i, k: entry(f"shift_{name}", i, k) if moved[i, k] else 0)
    return entries(f"decay_{name}", n, n), noise, shift


def _flow_doc(part: Part) -> str:
    return f"The exact linear flow of part {part.letter} from s to t."


def _exact_function(low: Lowering, part: Part, noise: sp.Matrix, reached: tuple[int, ...], drift: bool) -> None:
    """The host function of an exact part, with what it calls."""
    lib, letter = low.library, part.letter.lower()
    flow = lib.transition(f"flow_{letter}", -part.linear, _flow_doc(part))
    rows = lib.matrix(f"noise_{letter}", noise, f"The noise of part {part.letter}.")
    data: dict[str, Any] = {
        "flow": flow, "generator": -part.linear, "noise": rows, "letter": part.letter, "reached": reached,
    }  # fmt: skip
    if drift:
        data["drift"] = lib.matrix(f"drift_{letter}", part.offset, f"The offset of part {part.letter}.")
    ordered = lib.functions[flow].template == "transition_ordered"
    below = (lib.ordered(), f"{flow}_rate") if ordered else (flow,)
    count = terms_apart(low.sde, part.linear, noise, low.params)
    if count:
        data["terms"] = noise_terms(lib, part, rows, count)
    uses = [lib.quadrature(), *below, rows, lib.graded() if count else lib.static("lower")]
    uses += [data[key] for key in ("terms", "drift") if key in data]
    lib.add(f"exact_{letter}", "exact_ordered" if ordered else "exact", (), uses, **data)


def _conjugate_part(low: Lowering, part: Part, name: str, state: State, upper: str, lower: str) -> State:
    """z_R' = P (I - a h B) z_R + C z_other + Phi n, one conjugate Euler step of the rows R of the part."""
    shares = whole_rows(low.sde, part, low.network)
    whole = low.sde.n > 1 and all(shares.get(i) == 1 for i in part.rows)
    beyond = extra(low.sde, part).extract(part.rows, range(columns(low.sde).shape[1])) if whole else None
    function = conjugate_function(
        low, f"conjugate_{part.letter.lower()}", part.rows, part.linear, part.score, part.B, part.offset, beyond
    )
    rows, others = part.rows, [j for j in range(low.sde.n) if j not in part.rows]
    moved = not low.sde.offset_let.is_zero_matrix
    tables = tuple(f"{stem}_{name}" for stem in ("P", "C", "Phi", *(("D",) if moved else ())))
    low.call(tables, function, low.moment(lower), low.moment(upper))
    width = low.moment(upper) - low.moment(lower)
    P = entries(tables[0], len(rows), len(rows))
    frozen = low.define(f"h_{name}", width) * part.B.extract(rows, rows).applyfunc(lambda e: low.at(e, upper))
    kept = P * (sp.eye(len(rows)) - frozen)
    shift = sp.zeros(len(rows), len(low.carried))
    if moved:  # B acts on z - o: B o, taken from the rest, is given back frozen like B z itself
        shift = P * frozen * low.offset(upper).extract(rows, range(shift.shape[1])) + entries(tables[3], *shift.shape)
    new = dict(state)
    for a, i in enumerate(rows):
        terms = [(f"{name}_{low.block(i)}{low.block(j)}", kept[a, b], state[j]) for b, j in enumerate(rows)]
        terms += [
            (f"{name}_{low.block(i)}{low.block(j)}", entry(tables[1], a, b), state[j]) for b, j in enumerate(others)
        ]
        terms += low.carry(f"{name}_{low.block(i)}", shift.row(a))
        terms += [(f"{name}_{low.block(i)}n{k}", entry(tables[2], a, k), value) for k, value in enumerate(low.output)]
        new[i] = low.update(f"{low.block(i)}_{name}", terms)
    return new
