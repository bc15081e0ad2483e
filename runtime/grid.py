"""Time grids: where a sampler stops on its way from noise to data.

A grid is N + 1 times, float64, strictly decreasing, ``times[0]`` nearest the noise and ``times[-1]`` nearest the data.
Time is the network's forward time and row i of a coefficient table belongs to ``times[i] -> times[i + 1]``; nobody
looks a time up by its value. With ``start = T`` and ``end = eps`` and k = 0 .. N,

- uniform:   t_k = T + (k/N) (eps - T)
- quadratic: t_k = eps + (T - eps) (1 - k/N)^2, the striding of the public PSLD code (there in s = T - t:
  s_k = (T - eps) (1 - ((N - k)/N)^2)). It ends exactly at eps with a last step of (T - eps)/N^2. The other grid that is
  called quadratic, uniform in sqrt(t) (DDIM, DEIS), has a last step of about 2 sqrt(eps T)/N; it is not this one.
- shifted:   t_k = s u_k / (1 + (s - 1) u_k) with u_k uniform and a shift s, for times from 0 to 1: the timesteps of Stable
             Diffusion 3 and Flux (arXiv 2403.03206, section 5.3.2)
- logsnr:    log sigma(t_k) uniform
- edm:       sigma(t_k)^(1/rho) uniform (Karras et al. 2022, eq. 5)
- tan:       arctan(sigma(t_k)/scale) uniform: Euler's steps are equally long for Gaussian data of the standard deviation
             ``scale``
- asinh:     asinh(log(sigma(t_k)/centre)/k) uniform: the steps of logsnr around centre, longer ones far from it
- sigmas, timesteps: the caller's own values of sigma

where sigma(t) is the SDE's effective standard deviation, that of the best linear unbiased estimate of the data from the
state (sigma/alpha for one block). It is inverted by a bracketing method to the last places of float64.

An ``sde`` is a name, a file or a spec, or anything with ``.name``, ``.time`` (a pair, the span) and ``.at(**params)``, a numeric
view with ``.effective_sigma(t)`` (float64 array in and out, strictly increasing in t); with ``.open`` true times beyond the
span are taken too.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from stepsmith.errors import Unsupported

from .grid_checks import SLACK, check_positive, check_span, checked, checked_ends, diffusion, numbers, refusal
from .roots import invert_increasing

END = 1e-3  # where grids end unless told
FEW = 12  # times that are shown
Params = Mapping[str, float] | None


@dataclass(frozen=True, eq=False, repr=False)
class TimeGrid:
    """The times of one sampling run: ``.times`` (steps + 1,) float64 on the CPU, strictly decreasing and finite.

    Made by the constructors below, from ``start`` (the end of the span unless given) to ``end`` (1e-3); ends that are not given
    lie within the ``sigma_range`` of the ``network``, where there is one. All raise :class:`stepsmith.errors.InputError`, with
    ``key`` one of ``grid``, ``steps``, ``start``, ``end`` or the name of another argument, when the grid would not be
    decreasing, finite and inside the span (t_min, t_max] of the SDE.
    """

    times: torch.Tensor
    name: str = "explicit"

    def __post_init__(self) -> None:
        object.__setattr__(self, "times", checked(self.times))

    def __repr__(self) -> str:
        return f"TimeGrid({self.name}: {self.steps} steps from {self.times[0]:.4g} to {self.times[-1]:.4g})"

    def _repr_html_(self) -> str:
        """The times in a row, at most FEW of them, for a notebook."""
        told = [f"{t:.4g}" for t in self.times.tolist()]
        told = told if len(told) <= FEW else [*told[: FEW // 2], "...", *told[-FEW // 2 :]]
        return f"<table><tr><th>{html.escape(self.name)}, {self.steps} steps</th><td>{'</td><td>'.join(told)}</td></tr></table>"

    @property
    def steps(self) -> int:
        """The number of steps N; there are N + 1 times."""
        return self.times.shape[0] - 1

    @classmethod
    def explicit(cls, times: Any, sde: Any = None) -> TimeGrid:
        """These very times (a sequence, an array or a tensor), checked; against the span too where an ``sde`` is
        given."""
        grid = cls(times)
        if sde is not None:
            check_span(sde, float(grid.times[0]), float(grid.times[-1]), key="grid")
        return grid

    @classmethod
    def uniform(
        cls, sde: Any, steps: int, start: float | None = None, end: float | None = None, *, network: Any = None
    ) -> TimeGrid:
        """t_k = start + (k/N) (end - start)."""
        start, end = _ends(sde, steps, start, end, network)
        return cls(_pin(start + _fractions(steps) * (end - start), start, end), "uniform")

    @classmethod
    def quadratic(
        cls, sde: Any, steps: int, start: float | None = None, end: float | None = None, *, network: Any = None
    ) -> TimeGrid:
        """t_k = end + (start - end) (1 - k/N)^2, the quadratic striding of the public PSLD code."""
        start, end = _ends(sde, steps, start, end, network)
        return cls(_pin(end + (start - end) * _fractions(steps)[::-1] ** 2, start, end), "quadratic")

    @classmethod
    def shifted(
        cls, sde: Any, steps: int, start: float | None = None, end: float | None = None, shift: float = 3.0, *,
        network: Any = None,
    ) -> TimeGrid:  # fmt: skip
        """t_k = shift u_k / (1 + (shift - 1) u_k), u_k uniform between its values at start and end, which lie in (0, 1]."""
        check_positive("shift", shift)
        start, end = _ends(sde, steps, start, end, network)
        if start > 1:
            raise refusal("start", f"{start:g} is above 1, and shifted is a grid of times from 0 to 1", "take another grid")
        first, last = (t / (shift - (shift - 1) * t) for t in (start, end))
        u = first + _fractions(steps) * (last - first)
        return cls(_pin(shift * u / (1 + (shift - 1) * u), start, end), "shifted")

    @classmethod
    def logsnr(
        cls, sde: Any, steps: int, start: float | None = None, end: float | None = None, *,
        params: Params = None, network: Any = None,
    ) -> TimeGrid:  # fmt: skip
        """log sigma(t_k) uniform between its values at start and end; ``params`` override the SDE's own."""
        return cls(_by_sigma(sde, steps, start, end, params, network, np.log, np.exp), "logsnr")

    @classmethod
    def edm(
        cls, sde: Any, steps: int, start: float | None = None, end: float | None = None, rho: float = 7.0, *,
        params: Params = None, network: Any = None,
    ) -> TimeGrid:  # fmt: skip
        """sigma(t_k)^(1/rho) uniform between its values at start and end; ``params`` override the SDE's own."""
        check_positive("rho", rho)
        return cls(_by_sigma(sde, steps, start, end, params, network, lambda s: s ** (1 / rho), lambda w: w**rho), "edm")

    @classmethod
    def tan(
        cls, sde: Any, steps: int, start: float | None = None, end: float | None = None, scale: float = 0.5, *,
        params: Params = None, network: Any = None,
    ) -> TimeGrid:  # fmt: skip
        """arctan(sigma(t_k)/scale) uniform between its values at start and end; ``params`` override the SDE's own."""
        check_positive("scale", scale)
        warps = (lambda s: np.arctan(s / scale)), (lambda w: scale * np.tan(w))
        return cls(_by_sigma(sde, steps, start, end, params, network, *warps), "tan")

    @classmethod
    def asinh(
        cls, sde: Any, steps: int, start: float | None = None, end: float | None = None, centre: float = 0.3, k: float = 2.5, *,
        params: Params = None, network: Any = None,
    ) -> TimeGrid:  # fmt: skip
        """asinh(log(sigma(t_k)/centre)/k) uniform between its values at start and end."""
        check_positive("centre", centre)
        check_positive("k", k)
        warps = (lambda s: np.arcsinh(np.log(s / centre) / k)), (lambda w: centre * np.exp(k * np.sinh(w)))
        return cls(_by_sigma(sde, steps, start, end, params, network, *warps), "asinh")

    @classmethod
    def sigmas(cls, sde: Any, sigmas: Any, *, params: Params = None) -> TimeGrid:
        """The times at which the effective sigma is that of ``sigmas``, strictly decreasing numbers, as they are.

        Raises InputError (key ``grid``) where the span of the SDE does not reach one of them.
        """
        sde, levels = diffusion(sde), checked(sigmas).numpy()
        low, high = (float(end) for end in sde.time)
        sigma = sde.at(**dict(params or {})).effective_sigma
        first = low + (high - low) * 1e-12
        least, most = (float(s) for s in np.asarray(sigma(np.array([first, high])), dtype=np.float64))
        if getattr(sde, "open", False):
            high, most = _beyond(sigma, low, high, most, levels[0])
        for level in levels:
            if not least < level <= most * (1 + SLACK):
                what = f"the effective sigma of {sde.name} runs from {least:.3g} to {most:.6g}, and {level:g} is not in it"
                raise refusal("grid", what, "leave the step to 0 to last='denoise', or take another diffusion")
        times = invert_increasing(sigma, np.minimum(levels, most), first, high)
        return cls(torch.from_numpy(np.minimum(times, high)), "sigmas")

    @classmethod
    def timesteps(
        cls, sde: Any, timesteps: Any, table: Any, *, params: Params = None
    ) -> TimeGrid:
        """The times of some indices of a table of effective sigmas that rises (sqrt(1/alphas_cumprod - 1) of DDPM's).

        Between two entries of the table log sigma is linear in the index, as in the schedulers of diffusers.
        """
        indices, levels = checked(timesteps).numpy(), numbers(table).numpy()
        if not (levels[0] > 0 and (np.diff(levels) > 0).all() and levels[-1] < np.inf):
            what = f"the table does not rise from a positive sigma: it runs from {levels[0]:g} to {levels[-1]:g}"
            raise refusal("grid", what, "give finite sigmas that rise, such as sqrt(1/alphas_cumprod - 1)")
        if not 0 <= indices[-1] <= indices[0] <= len(levels) - 1:
            raise refusal("grid", f"the table has the indices 0 to {len(levels) - 1}", "give timesteps within it")
        return cls.sigmas(sde, np.exp(np.interp(indices, np.arange(len(levels)), np.log(levels))), params=params)


def span_of(
    sde: Any, sigmas: tuple[float, float] | None, start: float | None = None, end: float | None = None, params: Params = None
) -> tuple[float, float]:
    """Where a grid starts and ends: as asked, else at the end of the span of the SDE and at END, but within the effective
    ``sigmas`` that a network was trained for, if they are given.  Raises InputError for times that are not those of a grid."""
    sde = diffusion(sde)
    first, last = checked_ends(sde, 1, start, END if end is None else end)
    if sigmas is None:
        return first, last
    least, most = np.asarray(sde.at(**dict(params or {})).effective_sigma(np.array([last, first]))).tolist()
    if end is None and least < sigmas[0] < most:
        last = TimeGrid.sigmas(sde, [most, sigmas[0]], params=params).times[-1].item()
    if start is None and most > sigmas[1] > least:
        first = TimeGrid.sigmas(sde, [sigmas[1], max(least, sigmas[0])], params=params).times[0].item()
    return first, last


def budget_steps(nfe: int, nfe_per_step: int, last: str = "none") -> tuple[int, int]:
    """How many grid steps a budget of network calls buys: ``(steps, left_over)``.

    steps = (nfe - l) // nfe_per_step with l = 1 for ``last="denoise"`` and 0 for ``"none"``; left_over = nfe - l -
    steps * nfe_per_step.

    Raises :class:`InputError` (key ``nfe`` or ``last``) where the budget does not pay for one step.
    """
    if last not in ("none", "denoise"):
        raise refusal("last", f"{last!r} is not known", "give none or denoise")
    if not isinstance(nfe, int) or isinstance(nfe, bool) or nfe_per_step < 1:
        raise refusal("nfe", f"{nfe!r} calls at {nfe_per_step!r} a step cannot be divided", "give whole numbers")
    extra = 1 if last == "denoise" else 0
    steps, left = divmod(nfe - extra, nfe_per_step)
    if steps < 1:
        need = nfe_per_step + extra
        raise refusal(
            "nfe", f"a budget of {nfe} buys no step", f"one step needs {need} network calls, give nfe >= {need}"
        )
    return steps, left


def _beyond(
    sigma: Callable[[np.ndarray], np.ndarray], low: float, high: float, most: float, level: float
) -> tuple[float, float]:
    """A time beyond the span, and its sigma, at or above ``level``; as far as there is one before a pole."""
    step = (high - low) / 4
    while most < level and step > 1e-12 * high:
        try:
            found = float(sigma(np.array([high + step]))[0])
        except Unsupported:
            found = 0.0
        high, most, step = (high + step, found, 2 * step) if found > most else (high, most, step / 4)
    return high, most


def _fractions(steps: int) -> np.ndarray:
    """k/N for k = 0 .. N; reversed it is 1 - k/N exactly at both ends."""
    return np.arange(steps + 1, dtype=np.float64) / steps


def _pin(times: np.ndarray, start: float, end: float) -> torch.Tensor:
    """``times`` with its two ends put exactly where they were asked for."""
    times[0], times[-1] = start, end
    return torch.from_numpy(times)


def _ends(
    sde: Any, steps: int, start: float | None, end: float | None, network: Any, params: Params = None
) -> tuple[float, float]:
    """Start and end of a grid of some steps, within the ``sigma_range`` of a network that has one."""
    start, end = span_of(sde, getattr(network, "sigma_range", None), start, end, params)
    return checked_ends(sde, steps, start, end)


def followed(sde: Any) -> Any:
    """A diffusion at its defaults, for many grids: its law is followed once for all of them."""
    view = sde.at()
    return SimpleNamespace(name=sde.name, time=sde.time, open=getattr(sde, "open", False), at=lambda **_: view)


def _by_sigma(
    sde: Any, steps: int, start: float | None, end: float | None, params: Params, network: Any,
    warp: Callable[[np.ndarray], np.ndarray], unwarp: Callable[[np.ndarray], np.ndarray],
) -> torch.Tensor:  # fmt: skip
    """The grid whose warp(sigma(t)) is uniform: inner times by inversion, the two ends as given."""
    sde = diffusion(sde)
    start, end = _ends(sde, steps, start, end, network, params)
    sigma = sde.at(**dict(params or {})).effective_sigma
    first, last = (float(s) for s in np.asarray(sigma(np.array([start, end])), dtype=np.float64))
    if not (np.isfinite(first) and np.isfinite(last) and 0 < last < first):
        fix = (
            "start a little earlier"
            if not np.isfinite(first)
            else "choose start and end where sigma is positive and rises in t"
        )
        raise refusal("grid", f"the effective sigma of {sde.name} runs from {first:g} to {last:g} on this grid", fix)
    ends = warp(np.array([first, last]))
    levels = unwarp(ends[0] + _fractions(steps)[1:-1] * (ends[1] - ends[0]))
    return _pin(np.concatenate([[start], invert_increasing(sigma, levels, end, start), [end]]), start, end)
