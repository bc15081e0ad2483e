"""From data back to the state that a run would have started from: each step of a deterministic sampler solved for its start.

A step is z1 = S(z0).  With P the matrix of the step for a network that is not there (for a denoiser: one that gives its input
back, D(y) = y),

    z0 <- z0 + f,    f = P^-1 (z1 - S(z0)),    from z0 = z1,

contracts where the network's Jacobian lies between none and that, as an exact denoiser's does along a step that is not too
long; from the second iteration on the last two are combined so that f is least (Anderson's acceleration), sample by sample.
Every iteration is one step, so N steps cost N NFE iterations calls; `sample(..., start=state)` then returns the data.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

from stepsmith.errors import InputError
from stepsmith.runtime.constants import blocks_of
from stepsmith.runtime.grid import TimeGrid
from stepsmith.runtime.networks.base import conditions
from stepsmith.runtime.noise import upload
from stepsmith.runtime.plan import Plan, full_params, make_plan, resolve
from stepsmith.runtime.sampler import steps_of
from stepsmith.runtime.start import Known, Law
from stepsmith.runtime.watch import Watch

State = tuple[torch.Tensor, ...]
LEFT = 1e-3  # of the largest value that the state of a sample had so far: what may be left of a step


def invert(
    module: Any, network: Callable[[State, torch.Tensor], State], grid: TimeGrid, data: Any, *, iterations: int = 4,
    seeds: str | int | Iterable[int] | None = None, params: Mapping[str, float] | None = None,
    device: torch.device | str | None = None, dtype: torch.dtype | None = None, constants: Mapping[str, Any] | None = None,
    cond: Mapping[str, Any] | None = None,
) -> State:  # fmt: skip
    """The state at ``times[0]``, a tensor (batch, *shape) a component, from which a run over the grid ends at ``data``.

    ``data`` (batch, *shape) is the data component at ``times[-1]``; the other components there are drawn from their law given
    it, by ``seeds`` (0, 1, ... unless given).  The other arguments are those of ``sample``.

    Raises InputError for a sampler that draws noise or remembers earlier outputs, for data of several blocks, and where a step
    of a sample is not solved to a thousandth of the largest value of its states after the ``iterations``.
    """
    if isinstance(iterations, bool) or not isinstance(iterations, int) or iterations < 1:
        raise InputError("-", "iterations", f"{iterations!r} iterations", "give a whole number, 1 or more")
    if hasattr(module := resolve(module), "TIMES"):
        what = "a baked module knows the law of the state at its start alone"
        raise InputError("-", "sampler", what, "invert the module that it was baked from, on the same grid")
    images = _images(data)
    plan = make_plan(
        module, network, grid, range(len(images)) if seeds is None else seeds, params=params, device=device, dtype=dtype,
        shape=tuple(images.shape[1:]), constants=constants,
    )  # fmt: skip
    module = plan.module
    if module.HISTORY or any(draws for _, draws in steps_of(module, len(plan.table))) or plan.transform is not None:
        what = f"{module.SDE} {module.SAMPLER} draws noise, remembers earlier outputs, or works on frequencies"
        raise InputError("-", "sampler", what, "invert a sampler of one deterministic step, such as conjugate or rvv")
    given = conditions(cond, len(images), plan.device)
    watch, left = Watch(module, functools.partial(network, **given) if given else network, grid.times), []
    with torch.no_grad():
        z, held = _end(plan, Law.at(module, grid.times[-1].item(), full_params(module, params), data=True), images)
        size = _largest(z).clamp_min(torch.finfo(z.dtype).tiny)
        for k in reversed(range(len(plan.table))):
            z, rest = _solved(_gap(plan, watch, k, z, held), z, iterations)
            size = torch.maximum(size, _largest(z))
            left.append(_largest(rest) / size)
        watch.read(z[module.DATA])
    worst = float(torch.stack(left).max())
    if not worst <= LEFT:
        what = f"after {iterations} iterations {worst:.1e} of a step is left"
        raise InputError("-", "grid", what, "take more steps, or more iterations")
    return z.unbind(0)


def _images(data: Any) -> torch.Tensor:
    """The data component of every sample, (batch, *shape)."""
    try:
        images = torch.as_tensor(data)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError("-", "data", f"it is no tensor ({error})", "give one, (batch, *shape), of one data block") from None
    if not images.ndim:
        raise InputError("-", "data", "it is a single number", "give a tensor (batch, *shape)")
    return images


def _gap(plan: Plan, watch: Watch, k: int, wanted: torch.Tensor, held: State) -> Callable[[torch.Tensor], torch.Tensor]:
    """f = P^-1 (z1 - S(z0)) of step k as a function of z0, z1 the state that is wanted after it."""
    step, _ = steps_of(plan.module, len(plan.table))[k]
    row = upload(plan.table[k].to(plan.wide), plan.device).unbind(0)
    back = upload(torch.linalg.inv(_matrix(plan.module, step, plan.table[k])).to(plan.wide), plan.device)

    def gap(z: torch.Tensor) -> torch.Tensor:
        found, _ = step((*z.unbind(0), *held), row, watch.at(k))
        return torch.einsum("ij,j...->i...", back.to(z.dtype), wanted - torch.stack(found[: len(z)]))

    return gap


def _solved(gap: Callable[[torch.Tensor], torch.Tensor], z: torch.Tensor, iterations: int) -> tuple[torch.Tensor, torch.Tensor]:
    """z with gap(z) = 0, (n, batch, ...), and what the last iteration moved it by."""
    f, before = gap(z), None
    for _ in range(iterations - 1):
        move = f
        if before is not None:
            df, dz = f - before[1], z - before[0]
            over = tuple(i for i in range(z.ndim) if i != 1)
            share = (f * df).sum(over, keepdim=True) / (df * df).sum(over, keepdim=True).clamp_min(torch.finfo(f.dtype).tiny)
            move = f - share * (dz + df)
        before, z = (z, f), z + move
        f = gap(z)
    return z + f, f


def _largest(z: torch.Tensor) -> torch.Tensor:
    """The size of the largest value of every sample, (batch,)."""
    return z.abs().transpose(0, 1).flatten(1).amax(1)


def _end(plan: Plan, law: Law, images: torch.Tensor) -> tuple[torch.Tensor, State]:
    """The state at the last time, (n, batch, *shape), the data as they are and the other components from their law given
    them; and the constant components."""
    if (blocks := len(law.data[0])) > 1:
        raise InputError("-", "data", f"{plan.module.SDE} has {blocks} data blocks", "invert a diffusion with one")
    known = Known.of(plan.module, images, None, None, len(plan.noise), plan.shape, plan.dtype)
    noise = plan.noise.to(plan.device)
    normals = tuple(noise.normal(plan.shape, "start", 0, j, dtype=plan.wide) for j in range(len(law.factor)))
    like = normals[0]
    given = tuple(upload(c, plan.device).expand_as(like).to(plan.dtype) for c in plan.constants)
    data = tuple(upload(value, plan.device).expand_as(like) for value in known.data)
    drawn = list(law.drawn(normals, given, data, plan.dtype))
    drawn[plan.module.DATA] = data[0].to(plan.dtype)
    return torch.stack(drawn), given


def _matrix(module: Any, step: Callable[..., Any], row: torch.Tensor) -> torch.Tensor:
    """P, float64: the step of the unit states, column by column; the network is D(y) = y for a denoiser, else 0."""
    blocks, count = blocks_of(module), len(module.COMPONENTS)
    through = module.NETWORK == "denoiser"

    def network(inputs: State, time: torch.Tensor) -> State:
        return inputs if through else tuple(torch.zeros_like(inputs[0]) for _ in range(module.OUTPUTS))

    units = torch.eye(blocks, dtype=torch.float64)
    held = (torch.zeros(blocks, dtype=torch.float64),) * (count - blocks)
    still, _ = step((*torch.zeros_like(units).unbind(1), *held), row.unbind(0), network)
    moved, _ = step((*units.unbind(1), *held), row.unbind(0), network)
    return torch.stack([a - b for a, b in zip(moved[:blocks], still[:blocks], strict=True)])
