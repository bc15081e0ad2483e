"""Lowering: the one place where (SDE, sampler, network, frame) becomes a StepProgram.

    writer.py     the growing program: names, host statements, operations, the score of a network call
    letters.py    the letters of a composition: Euler, exact and conjugate parts
    conjugate.py  a conjugate step
    lines.py      a sampler that is written as lines of text
    adams.py      multistep steps that are exact for polynomials in a clock
    mean.py       the mean of the data at the end of the grid

A scheme writes plain linear updates, in the order in which one would do them by hand; score conversion is among them.
"""

from __future__ import annotations

from collections.abc import Mapping

import sympy as sp

from stepsmith.errors import InputError, Unsupported

from ..program import Evaluate, StepProgram, passes, verify
from ..program.rows import Rows, aligned
from ..sampler.network import Network, ScoreParameterization, checked, kind_of
from ..sampler.sampler import Sampler
from ..sampler.split import Part, bind
from ..sde.forms import timed
from ..sde.linear import LinearSDE
from ..sde.sound import check_density
from ..spec.formula import Line
from .adams import AdamsStep
from .conjugate import conjugate_step, conjugation
from .letters import split_step
from .lines import Lines
from .mean import data_mean
from .writer import Writer


def raw(
    sde: LinearSDE, sampler: Sampler, network: Network, frame: Network | None, params: Mapping[str, float]
) -> StepProgram:
    """The program as the scheme writes it down, before the passes."""
    w = _writer(sde, sampler, network, frame, params)
    if sampler.formula is not None:
        return _lined(w, sampler.formula.step)
    if sampler.adams is not None:
        return _program(w, *AdamsStep(w, sampler.adams.history).run())
    if sampler.family == "conjugate":
        state = conjugate_step(w, conjugation(sampler, sde), w.frame)
    else:
        state = split_step(w, bind(sampler, sde))
    return _program(w, tuple(state[i] for i in range(sde.n)))


def lower_rows(
    sde: LinearSDE, sampler: Sampler, network: Network, frame: Network | None, params: Mapping[str, float]
) -> Rows:
    """The programs of a grid: those of its first and last rows where a formula or a history gives them.

    Only the first and the last row may have another structure than the step (other network calls): the rows between
    are run by the step itself, with weights of their own.
    """
    if sampler.adams is not None:
        settings = [(sampler.adams.history, False), *((k, False) for k in range(sampler.adams.history))]
        settings.append((sampler.adams.history, True))
        programs = []
        for earlier, table in settings:
            step = AdamsStep(_writer(sde, sampler, network, frame, params), earlier, table)
            programs.append(verify(passes.optimised(_program(step.w, *step.run()))))
        return Rows(programs[0], tuple(programs[1:-1]), table=programs[-1])
    if sampler.formula is None:
        return Rows(verify(passes.optimised(raw(sde, sampler, network, frame, params))))
    writers = ((_writer(sde, sampler, network, frame, params), lines) for lines in sampler.formula.programs)
    programs = [verify(passes.optimised(_lined(w, lines))) for w, lines in writers]
    count = len(sampler.formula.warmup)
    rows = Rows(programs[0], tuple(programs[1 : 1 + count]), tuple(programs[1 + count :]))
    inner = [(f"warmup[{k}]", p) for k, p in enumerate(rows.warmup) if k]
    inner += [(f"final[{k}]", p) for k, p in enumerate(rows.ending[:-1])]
    for key, program in inner:
        if not aligned(rows.step, program):
            what = "has other network calls or values than the step, and only the first and the last row may"
            raise InputError(sampler.where, f"sampler.{key}", what, "give it the lines of the step with other weights")
    return rows


def _writer(
    sde: LinearSDE, sampler: Sampler, network: Network, frame: Network | None, params: Mapping[str, float]
) -> Writer:
    """An empty program for a network and a frame that the sampler has."""
    if sampler.formula is not None and not sde.offset_let.is_zero_matrix:
        what = f"{sde.name} has an offset, and lines of text say nothing of it"
        raise Unsupported(what, "take a splitting or a conjugate sampler")
    check_density(sde)
    network = checked(network, sde)
    if sde.field:
        _check_field(sde, sampler, network, frame)
    conjugate = sampler.family == "conjugate" or any(part.solve == "conjugate" for part in sampler.parts.values())
    if not conjugate and frame is not None and frame != network:
        raise Unsupported(f"a {sampler.family} sampler has no conjugate part", "leave the frame out")
    return Writer(sde, sampler, network, checked(frame, sde) if frame is not None else network, params)


def _check_field(sde: LinearSDE, sampler: Sampler, network: Network, frame: Network | None) -> None:
    """A coefficient a frequency is derived for one block without an offset, and networks that see the whole image."""
    if sde.n > 1 or not sde.offset_let.is_zero_matrix:
        what = f"{sde.name} has a field, and more than one block or an offset"
        raise Unsupported(what, "use one block without an offset")
    for each in (network, frame):
        if each is not None and kind_of(each).bridge:
            what = f"a scalar denoiser is given one noise level, and {sde.name} has one a frequency"
            raise Unsupported(what, "use the network eps-L, x0, v or score")
        if (
            isinstance(each, ScoreParameterization)
            and sde.symbols[sde.field] in sde.written_out(each.noise).free_symbols
        ):
            raise Unsupported(f"{each.name} gives the network a {sde.field}", "give it the time")
    if any(part.solve == "conjugate" for part in sampler.parts.values()):
        what = "conjugate parts are not derived for a field"
        raise Unsupported(what, "take a conjugate sampler, or parts solved by euler")


def _program(
    w: Writer,
    result: tuple[str, ...],
    history: tuple[str, ...] = (),
    carry: tuple[str, ...] = (),
    corrected: tuple[str, ...] = (),
) -> StepProgram:
    ops, sde = tuple(w.ops), w.sde
    last, last_results = data_mean(w)
    timeless = (name for name in sde.let if name not in timed(sde))
    return verify(StepProgram(
        (*sde.state, *sde.constant), w.params, (*sde.params, *timeless), _about(sde), tuple(w.host), ops,
        (*result, *sde.constant), last, last_results, _sigma_columns(w, (*ops, *last)), history, carry, corrected, sde.field,
    ))  # fmt: skip


def _about(sde: LinearSDE) -> tuple[str, ...]:
    """The lines that say which diffusion a program is of."""
    lines = [f"F {sde.F_let.tolist()}", f"G {sde.G_let.tolist()}", f"initial {sde.initial_let.diagonal().tolist()}"]
    lines += [f"offset {sde.offset_let.tolist()}"] if not sde.offset_let.is_zero_matrix else []
    lines += [f"alpha, sigma {sde.schedule}"] if sde.schedule is not None else []
    lines += [f"let {name} = {expr}" for name, expr in sde.let.items()]
    lines += ["open"] if sde.open else []
    return (*lines, f"data {sde.data}", f"span {sde.time}", f"constraints {[c.text for c in sde.constraints]}")


def _sigma_columns(w: Writer, ops: tuple[object, ...]) -> tuple[str, ...]:
    """The columns that hold an effective sigma that is given to a denoiser network."""
    times = [str(op.time) for op in ops if isinstance(op, Evaluate)]
    return tuple(dict.fromkeys(times)) if w.kind.bridge and w.kind.predicts == "data" else ()


def _lined(w: Writer, lines: tuple[Line, ...]) -> StepProgram:
    """The program of the lines of a formula."""
    assert w.sampler.formula is not None
    sde = w.sde
    if w.sampler.parts:
        parts = bind(w.sampler, sde)
    else:
        power, none = sde.GG_let if w.sampler.target == "sde" else sde.GG_let / 2, sp.ImmutableMatrix.zeros(sde.n)
        rows, linear, score, offset = tuple(range(sde.n)), -sde.F_let, sp.ImmutableMatrix(power), -sde.offset_terms_let
        parts = {"drift": Part("drift", rows, linear, score, (), (), "euler", none, True, offset)}
    return _program(w, *Lines(w, w.sampler.formula, parts).run(lines))


__all__ = ["conjugation", "lower_rows", "raw"]
