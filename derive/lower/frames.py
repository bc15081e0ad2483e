"""The frames and clocks of the family adams: which quantity is interpolated, and in which variable.

    x0         C_skip = -Sigma^-1, C_out = Sigma^-1 p: r is the prediction of the data
    gaussian   the same with Sigma + sigma_data^2 p p^T in the place of Sigma: data taken for a Gaussian of that variance,
               r = mu = D + (sigma_data/sigma_hat)^2 (D - y) with the denoiser's image y = C_in z
    v          C_skip = -1/(alpha^2 + sigma^2), C_out = alpha C_skip/sigma, of one block
    eps-R      C_skip = 0, C_out = -R^-T with gDDIM's R, a value a block; of one block R = sigma, and r is epsilon

A clock is an expression in t, the parameters and the effective sigma, ``sigma_hat``, whose derivative is ``rise``.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import sympy as sp

from stepsmith.errors import InputError, Unsupported

from ..maths.calculus import exact, symbol, t
from ..maths.point import Point
from ..program import Law, entries
from ..sampler.network import kind_of, name_of, scalar
from ..sampler.sampler import Sampler
from ..sampler.split import names_of
from ..sde.linear import LinearSDE
from ..sde.smooth import defaults
from ..spec.expression import parse
from .writer import Writer

LARGE = 1e15  # of eta
SIGMA, RISE, WIDTH, STEP = symbol("sigma_hat"), symbol("rise"), symbol("sigma_data"), symbol("h")
LETTER = {"x0": "d", "gaussian": "r", "v": "v", "eps-R": "e"}


# -- clocks --------------------------------------------------------------------------------------------------------------------


def clock_of(sampler: Sampler, sde: LinearSDE) -> sp.Expr:
    """The clock as an expression."""
    assert sampler.adams is not None
    named = {"log": -sp.log(SIGMA), "theta": -sp.atan(SIGMA / WIDTH)}
    text = sampler.adams.clock
    if text in named:
        return named[text]
    names = {SIGMA.name: SIGMA, **names_of(sde, sampler)}
    found = sde.written_out(parse(text, names, where=sampler.where, key="sampler.clock"))
    rate = rate_of(found)
    if rate == 0 or rate.has(sp.sign):
        what = "it does not change with t" if rate == 0 else "it holds abs, which has no rate at its kink"
        raise InputError(sampler.where, "sampler.clock", what, "write a smooth function of t")
    values = [float(value.real.mid()) for _, value in _along(found, sampler, sde, 64)]
    gaps = [b - a for a, b in itertools.pairwise(values)]
    if not (all(gap > 0 for gap in gaps) or all(gap < 0 for gap in gaps)):
        what = "it turns back or has no value within the span, at the defaults"
        raise InputError(sampler.where, "sampler.clock", what, "write a function that grows or falls all along")
    return found


def noise_of(sampler: Sampler, sde: LinearSDE) -> sp.Expr:
    """eta, in t, the parameters, the effective sigma and ``STEP``, the gain of the clock log over a step.

    InputError for one that is zero, or without a real finite value or negative inside the span, at the defaults.
    """
    if sampler.adams is None or not sampler.adams.random:
        return sp.S.Zero
    names = {STEP.name: STEP, SIGMA.name: SIGMA, **names_of(sde, sampler)}
    found = sde.written_out(parse(sampler.adams.noise, names, where=sampler.where, key="sampler.noise"))
    own = sampler.adams
    known = sde.n == 1 and own.clock == "log" and own.frame in ("x0", "eps-R") and not own.corrector
    if found.has(STEP) and not (known and not found.has(SIGMA, t)):
        what = "eta names the step h, known of one block in the clock log and the frame x0 or eps-R, without a corrector or t"
        raise InputError(sampler.where, "sampler.noise", what, "write eta in t, sigma_hat and the parameters")
    if found == 0:
        raise InputError(sampler.where, "sampler.noise", "is zero", "leave out noise and target: the probability flow")
    for time, value in _along(found, sampler, sde, 4):
        if not (value.is_finite() and value.imag.contains(0) and not value.real < 0 and abs(value).upper() < LARGE):
            what = f"has no value between 0 and {LARGE:g} at t = {time:.6g} and the defaults"
            raise InputError(sampler.where, "sampler.noise", what, "write an eta that is real and not negative")
    return found


def _along(expr: sp.Expr, sampler: Sampler, sde: LinearSDE, parts: int) -> Iterator[tuple[float, Any]]:
    """(t, the value of an expression there at the defaults) where equal parts of the span meet; h is a tenth."""
    start, end = map(exact, sde.time)
    known = defaults(sde) | {symbol(name): exact(value) for name, value in sampler.params.items()}
    for k in range(1, parts):
        time = start + sp.Rational(k, parts) * (end - start)
        level = sde.at().effective_sigma(float(time)) if expr.has(SIGMA) else 1.0
        yield float(time), Point({**known, t: time, SIGMA: exact(float(level)), STEP: sp.Rational(1, 10)})(expr)


def rate_of(clock: sp.Expr) -> sp.Expr:
    """du/dt."""
    return sp.together(clock.diff(t) + clock.diff(SIGMA) * RISE)


def gained(w: Writer, clock: sp.Expr, old: str, new: str) -> sp.Expr:
    """The clock's gain between two times of the grid, in host scalars; of the log a logarithm of a ratio."""
    times = {key: w.moments[key] for key in (old, new)}
    levels = {key: effective_sigma(w, key) for key in times} if clock.has(SIGMA) else {}
    if clock == -sp.log(SIGMA):
        return sp.log(levels[old] / levels[new])
    u = {}
    for key, time in times.items():
        u[key] = w.define(f"u_{key}", clock.subs({SIGMA: levels.get(key, SIGMA), t: time}, simultaneous=True))
    return u[new] - u[old]


def effective_sigma(w: Writer, key: str) -> sp.Expr:
    """The effective sigma at a time of the grid, a host scalar."""
    if w.sde.n > 1:
        return _bridge(w, key)[1]
    alpha, sigma = w.alpha_sigma(key)
    return w.define(f"sigma_hat_{key}", sigma / alpha)


def _bridge(w: Writer, key: str) -> tuple[sp.Matrix, sp.Expr]:
    """(C_in, the effective sigma) of the scalar denoiser of several blocks."""
    if w.network == "denoiser":
        score = w.score_at("denoiser", key)
        return score.inp, score.noise
    n, names = w.sde.n, [f"bridge_{name}_{key}" for name in ("skip", "out", "inp")]
    w.add(Law((*names, f"sigma_hat_{key}"), "denoiser", w.moments[key]))
    return entries(names[2], 1, n), symbol(f"sigma_hat_{key}")


# -- frames --------------------------------------------------------------------------------------------------------------------


def one_block(frame: str, alpha: sp.Expr, sigma: sp.Expr) -> tuple[sp.Expr, sp.Expr]:
    """(C_skip, C_out) of a frame of one block."""
    if frame in ("v", "eps-R"):
        skip, out, _, _ = scalar(frame, alpha, sigma, t, WIDTH)
        return skip, out
    spread = sigma**2 + (alpha**2 * WIDTH**2 if frame == "gaussian" else 0)
    return -1 / spread, alpha / spread


def quantity(w: Writer) -> tuple[str, ...]:
    """What the outputs of the call at t0 are in the frame of the sampler."""
    assert w.sampler.adams is not None
    kind, frame = kind_of(w.network), w.sampler.adams.frame
    own = {"R": "eps-R", "L": "eps-R" if w.sde.n == 1 else "", "U": "eps-R" if w.sde.n == 1 else ""}
    if frame == ("x0" if kind.predicts == "data" else own.get(kind.factor, w.network)):
        return w.asked.output
    if w.sde.n == 1:
        return _of_one_block(w, frame)
    return _rotated(w) if frame == "eps-R" else _of_blocks(w, frame)


def _of_one_block(w: Writer, frame: str) -> tuple[str, ...]:
    """r with C_skip z + C_out r = s."""
    own = lambda alpha, sigma: one_block(frame, alpha, sigma)  # noqa: E731
    gain, raw = w.converted("0", lambda a, s, skip: (skip - own(a, s)[0]) / own(a, s)[1], lambda a, s, out: out / own(a, s)[1])
    shift = (-gain * w.offset("0"), w.constants)
    return w.rows([f"{LETTER[frame]}0"], (gain, w.sde.state), shift, (raw, w.asked.output))


def _rotated(w: Writer) -> tuple[str, ...]:
    """-R^T s."""
    inverse = w.score_at("eps-R", "0").inverse
    assert inverse is not None
    return w.rows([f"e0_{b}" for b in w.sde.state], (inverse, w.asked.score))


def _of_blocks(w: Writer, frame: str) -> tuple[str, ...]:
    """D, or mu made of it."""
    if not kind_of(w.network).single or frame == "v":
        what = f"the frame {frame} of {w.sde.n} blocks is not derived for a {name_of(w.network)} network"
        raise Unsupported(what, "use the frame eps-R, or x0 or gaussian with a network denoiser, x0 or edm")
    inp, sigma = _bridge(w, "0")
    seen = ((inp, w.sde.state), (-inp * w.offset("0"), w.constants))
    data = w.asked.output
    if kind_of(w.network).predicts != "data":  # D = y + sigma_hat^2 p^T s
        pull = sigma**2 * w.law("mean", "0", ("p", w.sde.n, 1))[0].T
        data = w.rows(["d0"], (pull, w.asked.score), *seen)
    if frame == "x0":
        return data
    ratio = sp.Matrix([[WIDTH**2 / sigma**2]])
    return w.rows(["r0"], (ratio + sp.eye(1), data), (-ratio, w.rows(["image"], *seen)))
