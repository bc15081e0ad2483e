"""Lowering: the one place where (SDE, sampler, network, frame) becomes a StepProgram.

The scheme (conjugate.py, splitting.py) writes plain linear updates through a Lowering (builder.py); score conversion is
among them, so the passes can melt all that stands between two network calls into one affine map.
"""

from __future__ import annotations

from collections.abc import Mapping

import sympy as sp

from stepsmith.errors import Unsupported

from . import passes
from .builder import Lowering, Network
from .calculus import t1
from .conjugate import conjugate_step, conjugation
from .program import Op, StepProgram, entry, verify
from .sampler import Sampler
from .score import checked
from .sde import LinearSDE
from .split import bind
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
    if any(e != 0 for e in sde.offset):
        raise Unsupported(
            f"{sde.name} has an offset, and samplers with a constant component are not derived yet",
            "subtract the mean from z",
        )
    check_density(sde)
    network = checked(network, sde)
    low = Lowering(sde, sampler, network, checked(frame, sde) if frame is not None else network, params)
    if sampler.family == "conjugate":
        state = conjugate_step(low, conjugation(sampler, sde), low.frame)
    else:
        if frame is not None and frame != network:
            raise Unsupported(f"a {sampler.family} sampler freezes what its network gives", "leave the frame out")
        state = split_step(low, bind(sampler, sde))
    ops, low.ops = low.ops, []
    last, last_result = _last(low)
    low.library.start()
    program = StepProgram(
        sde.state, low.params, tuple(low.library.functions.values()), tuple(low.host), tuple(ops),
        tuple(state[i] for i in range(sde.n)), last, last_result, _told(low),
    )  # fmt: skip
    return verify(program)


def _last(low: Lowering) -> tuple[tuple[Op, ...], str]:
    """The mean of the data at t1: D itself for a bridge, else Tweedie's e^T Psi^-1 (z + Sigma s)."""
    sde = low.sde
    if len(sde.data) != 1:
        return (), ""
    low.ending = True
    low.evaluate(dict(enumerate(sde.state)), sp.Integer(1))
    if low.network in ("denoiser", "x0"):
        return tuple(low.ops), low.output[0]
    if sde.n == 1:
        alpha, sigma = low.alpha_sigma("1")
        terms = [("mean_x", 1 / alpha, sde.state[0]), ("mean_s", sigma**2 / alpha, low.score[0])]
    else:
        lib = low.library
        uses = (lib.whitening(), lib.anchor(), lib.psi())
        lib.add("tweedie", "tweedie", (), uses, data=sde.data[0], order=lib.order)
        low.call(("pull", "lift"), "tweedie", t1)
        terms = [(f"mean_{b}", entry("pull", 0, j), b) for j, b in enumerate(sde.state)]
        terms += [(f"mean_s{b}", entry("lift", 0, j), low.score[j]) for j, b in enumerate(sde.state)]
    result = low.update("mean", terms)
    return tuple(low.ops), result


def _told(low: Lowering) -> tuple[str, ...]:
    """The columns that hold an effective sigma told to a denoiser network."""
    if low.network != "denoiser":
        return ()
    return tuple(dict.fromkeys(str(score.noise) for (network, _), score in low.scores.items() if network == "denoiser"))
