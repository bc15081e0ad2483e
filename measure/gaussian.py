"""The error of a run on Gaussian data, exactly and without a network: what finds a parameter of a sampler at no network call.

Data N(mean, C) fall apart into the eigenvalues c of C; for each the exact network is linear in the n blocks of the state, and so
is each step, so that a run from z = L xi is a linear map, also of the normals that its steps draw.  With a mode a column, and a
unit of xi or of a draw a row, a run of the emitted ``step`` itself gives the responses r of the data, their variance
v = sum r^2, and

    e^2 = sum over the modes (sqrt(v) - sqrt(c))^2,

the squared Wasserstein distance to the data of covariance C (the mean is met exactly by all).  It ranks values of a parameter of
one sampler; samplers of different kinds it ranks for Gaussian data only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn.functional import pad

from stepsmith.errors import InputError, Unsupported
from stepsmith.runtime.sampler import steps_of

KINDS = ("denoiser", "x0", "eps-L", "score")
State = tuple[torch.Tensor, ...]


def modes(values: Any) -> torch.Tensor:
    """The eigenvalues of a covariance, (d,): from images (n, *shape), from a covariance (d, d) or as they are (d,)."""
    found = torch.as_tensor(np.asarray(values), dtype=torch.float64)
    if found.ndim > 2:
        flat = found.flatten(1) - found.flatten(1).mean(0)
        found = flat.T @ flat / (len(flat) - 1)
    if found.ndim == 2:
        found = torch.linalg.eigvalsh((found + found.T) / 2)
    if found.ndim != 1 or not len(found) or not bool(found.isfinite().all()) or found.min() < -1e-9 * found.abs().max():
        raise InputError("-", "gaussian", "it is no covariance of data", "give images, a covariance or its eigenvalues")
    return found.clamp_min(0)


def network(module: Any, variances: torch.Tensor) -> Callable[[State, Any], State]:
    """The exact network of the modes for a module, of the kinds KINDS: with w = L^-1 z, v = L^-1 psi, k = c/(1 + c |v|^2),

    E[x0 | z] = k v.w,   eps = w - v E[x0 | z],   score = -L^-T eps,   D(y, sigma) = c y/(c + sigma^2).
    """
    kind = module.NETWORK
    if kind not in KINDS:
        raise Unsupported(f"Gaussian data have no exact network of kind {kind}", f"use one of {', '.join(KINDS)}")

    def call(inputs: State, time: Any) -> State:
        if kind == "denoiser":
            return (inputs[0] * variances / (variances + torch.as_tensor(time) ** 2),)
        L, z = module.start(time), torch.stack(inputs)
        v = torch.linalg.solve_triangular(L, module.start_data(time), upper=False)[:, 0]
        w = torch.linalg.solve_triangular(L, z.flatten(1), upper=False).reshape(z.shape)
        data = variances / (1 + variances * v.square().sum()) * torch.einsum("i,i...->...", v, w)
        if kind == "x0":
            return (data,)
        eps = w - v[:, None, None] * data
        return tuple(eps) if kind == "eps-L" else tuple(-torch.einsum("ji,j...->i...", torch.linalg.inv(L), eps))

    return call


def distance(
    module: Any, grid: Any, variances: torch.Tensor, params: Mapping[str, float] | None = None, last: str = "denoise"
) -> float:
    """e of a module on a grid; Unsupported for one that has constants or works on frequencies."""
    if hasattr(module, "FIELD") or getattr(module, "CONSTANTS", False):
        raise Unsupported(f"{module.SDE} {module.SAMPLER} has constants or frequencies", "take a sampler of other data")
    known, times = network(module, variances), grid.times
    table = module.coefficients(times, **(params or {}))
    state: State = tuple(factor[:, None].expand(-1, len(variances)) for factor in module.start(times[0]))
    history: State = (torch.zeros_like(state[0]),) * module.HISTORY
    for row, (step, draws) in zip(table, steps_of(module, len(table)), strict=True):
        state, history = (tuple(pad(part, (0, 0, 0, draws)) for part in parts) for parts in (state, history))
        units = torch.eye(draws, dtype=torch.float64)[..., None].expand(-1, -1, len(variances))
        noise = tuple(pad(unit, (0, 0, len(state[0]) - draws, 0)) for unit in units)
        state, history = step(state, row.unbind(), known, noise, history)
    if last == "denoise":
        state = module.denoise(state, table[-1].unbind(), known)
    spread = state[module.DATA].square().sum(0).sqrt()
    return float((spread - variances.sqrt()).square().sum().sqrt())


def best(measure: Callable[[float], float], among: Sequence[float]) -> tuple[float, dict[float, float]]:
    """The value with the least error: the best of some, then between its neighbours (scipy), and what was seen on the way."""
    from scipy.optimize import minimize_scalar

    seen = {value: measure(value) for value in sorted(among)}
    finite = [value for value in seen if np.isfinite(seen[value])]
    if not finite:
        raise Unsupported("no value gives a finite error", "take more network calls")
    at = finite.index(min(finite, key=seen.__getitem__))
    low, high = finite[max(at - 1, 0)], finite[min(at + 1, len(finite) - 1)]
    if low < high:
        found = minimize_scalar(measure, bounds=(low, high), method="bounded", options={"xatol": 1e-3})
        seen[round(float(found.x), 4)] = float(found.fun)
    return min(seen, key=seen.__getitem__), seen
