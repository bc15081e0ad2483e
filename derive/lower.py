"""Lowering: the one place where (SDE, sampler, network, frame) becomes a StepProgram.

The scheme (conjugate.py, splitting.py) writes plain linear updates through a Lowering (builder.py); score conversion is
among them, so the passes can melt all that stands between two network calls into one affine map.
"""

from __future__ import annotations

from collections.abc import Mapping

import sympy as sp

from stepsmith.errors import InputError, Unsupported

from . import passes
from .builder import Lowering, Network, symbol
from .calculus import t1
from .conjugate import conjugate_step, conjugation
from .formula import Line
from .lines import Lines
from .program import Normal, Op, StepProgram, entries, entry, verify
from .rows import Rows, aligned
from .sampler import Sampler
from .score import BRIDGES, ScoreParameterization, checked
from .sde import LinearSDE
from .split import Part, Split, bind
from .splitting import split_step
from .structure import check_density


def lower(
    sde: LinearSDE, sampler: Sampler, network: Network, frame: Network | None, params: Mapping[str, float]
) -> StepProgram:
    """The verified, fused program of one step; ``params`` are the defaults that the emitted module shall have."""
    return verify(passes.optimised(raw(sde, sampler, network, frame, params)))


def raw(
    sde: LinearSDE, sampler: Sampler, network: Network, frame: Network | None, params: Mapping[str, float]
) -> StepProgram:
    """The program as the scheme writes it down, before the passes."""
    low = _lowering(sde, sampler, network, frame, params)
    if sampler.formula is not None:
        return _lined(low, sampler.formula.step)
    if sampler.family == "conjugate":
        state = conjugate_step(low, conjugation(sampler, sde), low.frame)
    else:
        state = split_step(low, bind(sampler, sde))
    return _program(low, tuple(state[i] for i in range(sde.n)))


def _lowering(
    sde: LinearSDE, sampler: Sampler, network: Network, frame: Network | None, params: Mapping[str, float]
) -> Lowering:
    """An empty program for a network and a frame that the sampler has."""
    if sampler.formula is not None and not sde.offset_let.is_zero_matrix:
        raise Unsupported(
            f"{sde.name} has an offset, and lines of text say nothing of it", "take a splitting or a conjugate sampler"
        )
    check_density(sde)
    network = checked(network, sde)
    if sde.field:
        _check_field(sde, sampler, network, frame)
    if sampler.family != "conjugate" and frame is not None and frame != network:
        raise Unsupported(f"a {sampler.family} sampler freezes what its network gives", "leave the frame out")
    return Lowering(sde, sampler, network, checked(frame, sde) if frame is not None else network, params)


def _check_field(sde: LinearSDE, sampler: Sampler, network: Network, frame: Network | None) -> None:
    """A coefficient a frequency is derived for one block without an offset, and networks that see the whole image."""
    if sde.n > 1 or not sde.offset_let.is_zero_matrix:
        raise Unsupported(
            f"{sde.name} has a field, and more than one block or an offset", "take one block without an offset"
        )
    for each in (network, frame):
        if each in BRIDGES:
            what = f"a scalar denoiser is told one noise level, and {sde.name} has one a frequency"
            raise Unsupported(what, "use the network eps-L, x0, v or score")
        if (
            isinstance(each, ScoreParameterization)
            and sde.symbols[sde.field] in sde.written_out(each.noise).free_symbols
        ):
            raise Unsupported(f"{each.name} tells the network a {sde.field}", "tell it the time")
    if any(part.solve == "conjugate" for part in sampler.parts.values()):
        raise Unsupported(
            "conjugate parts are not derived for a field", "take a conjugate sampler, or parts solved by euler"
        )


def _program(
    low: Lowering, result: tuple[str, ...], history: tuple[str, ...] = (), carry: tuple[str, ...] = ()
) -> StepProgram:
    ops, low.ops = low.ops, []
    last, last_results = _last(low)
    low.library.start()
    if sum(isinstance(op, Normal) for op in ops) > 1:  # they may be merged into one
        low.library.static("matrix")
        low.library.static("lower")
    if not low.sde.offset_let.is_zero_matrix:
        low.library.offset()
    constant = low.sde.constant
    return verify(StepProgram(
        (*low.sde.state, *constant), low.params, tuple(low.library.functions.values()), tuple(low.host), tuple(ops),
        (*result, *constant), last, last_results, _told(low), history, carry, low.sde.field,
    ))  # fmt: skip


def _lined(low: Lowering, lines: tuple[Line, ...]) -> StepProgram:
    """The program of the lines of a formula."""
    assert low.sampler.formula is not None
    sde = low.sde
    if low.sampler.parts:
        split = bind(low.sampler, sde)
    else:
        whole, none = sde.GG_let if low.sampler.target == "sde" else sde.GG_let / 2, sp.ImmutableMatrix.zeros(sde.n)
        rows, linear, score, offset = tuple(range(sde.n)), -sde.F_let, sp.ImmutableMatrix(whole), -sde.offset_terms_let
        drift = Part("drift", rows, linear, score, (), (), "euler", none, True, offset)
        split = Split(sde, low.sampler.target, {"drift": drift})
    return _program(low, *Lines(low, low.sampler.formula, split).run(lines))


def lower_rows(
    sde: LinearSDE, sampler: Sampler, network: Network, frame: Network | None, params: Mapping[str, float]
) -> Rows:
    """The programs of a grid's first and last rows; none but for a formula that gives them.

    Only the first and the last row may have another structure than the step (other network calls): the rows between
    are run by the step itself, with weights of their own.
    """
    if sampler.formula is None:
        return Rows(lower(sde, sampler, network, frame, params))
    library = None
    found = []
    for lines in sampler.formula.programs:
        low = _lowering(sde, sampler, network, frame, params)
        low.library = library = low.library if library is None else library
        found.append(verify(passes.optimised(_lined(low, lines))))
    count = len(sampler.formula.warmup)
    rows = Rows(found[0], tuple(found[1 : 1 + count]), tuple(found[1 + count :]))
    inner = [(f"warmup[{k}]", p) for k, p in enumerate(rows.warmup) if k]
    inner += [(f"final[{k}]", p) for k, p in enumerate(rows.ending[:-1])]
    for key, program in inner:
        if aligned(rows.step, program) is None:
            what = "has other network calls or values than the step, and only the first and the last row may"
            raise InputError(sampler.where, f"sampler.{key}", what, "give it the lines of the step with other weights")
    return rows


def _last(low: Lowering) -> tuple[tuple[Op, ...], tuple[str, ...]]:
    """The mean of the data at t1, a value a data block: D of a bridge, else Tweedie's e^T Psi^-1 (z + Sigma s)."""
    sde = low.sde
    low.ending = True
    low.evaluate(dict(enumerate(sde.state)), sp.Integer(1))
    if low.network in ("denoiser", "x0"):
        return tuple(low.ops), (low.output[0],)
    offset = low.offset("1")
    if low.network == "edm":  # D = d (d y + sigma w n) / w^2 with the network's own input y / w
        score, d = low.score_at("edm", "1"), symbol("sigma_data")
        noise = low.define("noise_end", sp.exp(4 * score.noise))
        width = low.define("width_end", sp.sqrt(noise**2 + d**2))
        terms = [(f"mean_{b}", d**2 / width * score.inp[j], b) for j, b in enumerate(sde.state)]
        terms += low.carry("mean", -(d**2) / width * score.inp * offset)
        result = low.update("mean", [*terms, ("mean_n", noise * d / width, low.output[0])])
        return tuple(low.ops), (result,)
    if sde.n == 1:
        alpha, sigma = low.alpha_sigma("1")
        terms = [("mean_x", 1 / alpha, sde.state[0]), ("mean_s", sigma**2 / alpha, low.score[0])]
        terms += low.carry("mean", -offset / alpha)
        result = low.update("mean", terms)
        return tuple(low.ops), (result,)
    # eps-R is eps-L at the data end of the grid, where its mean is asked for
    kind = {"eps-L": "lower", "eps-U": "upper", "eps-R": "lower"}.get(str(low.network))
    low.call(("pull", "lift"), low.library.tweedie(kind), t1)
    shift = -entries("pull", len(sde.data), sde.n) * offset
    values, letter = (low.output, "e") if kind else (low.score, "s")
    results = []
    for k, block in enumerate(sde.data):
        name = "mean" if len(sde.data) == 1 else f"mean_of_{sde.state[block]}"
        terms = [(f"{name}_{b}", entry("pull", k, j), b) for j, b in enumerate(sde.state)]
        terms += [(f"{name}_{letter}{b}", entry("lift", k, j), values[j]) for j, b in enumerate(sde.state)]
        results.append(low.update(name, terms + low.carry(name, shift.row(k))))
    return tuple(low.ops), tuple(results)


def _told(low: Lowering) -> tuple[str, ...]:
    """The columns that hold an effective sigma told to a denoiser network."""
    if low.network != "denoiser":
        return ()
    return tuple(dict.fromkeys(str(score.noise) for (network, _), score in low.scores.items() if network == "denoiser"))
