"""Run an emitted step module over a time grid.

    start      z from its law at times[0], of the data where they are given (start.py), or the caller's own
    N steps    z, history = module.step(z, c_k, network, noise, history), c_k the K coefficients of row k
    last       "none": nothing;  "denoise": z = module.denoise(z, c_{N-1}, network), one more network call

and the data component of z is the sample. History is the HISTORY newest raw outputs, one tensor each, newest first; before
there are any they are zeros (the coefficients of the first rows weigh them with zero). Coefficients are computed once for the
whole grid, on the host, in float64, and uploaded once; a row enters a step as K 0-d float64 tensors, which do not promote the
state's dtype; on MPS, which has no float64, as float32. Where a step is sums and nothing else they are made in place, in memory
that is used again (inplace.py). A module with a FIELD runs on the cosine coefficients of the images, a coefficient a frequency
(spectral.py): the network still sees images, and images are returned. Between upload and return nothing is read back from the
device; then whether every output was finite is read, at once (watch.py).
"""

from __future__ import annotations

import functools
import math
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from tqdm import tqdm

import stepsmith
from stepsmith.errors import InputError
from stepsmith.runtime.constants import digest
from stepsmith.runtime.grid import TimeGrid
from stepsmith.runtime.inplace import InPlace, read_step
from stepsmith.runtime.networks.base import conditions
from stepsmith.runtime.noise import GeneratorSource, NoiseSource, parse_seeds, seeds_text, upload
from stepsmith.runtime.plan import Plan, find_device, find_dtype, find_grid, full_params, make_plan, resolve
from stepsmith.runtime.spectral import Transform
from stepsmith.runtime.start import Known
from stepsmith.runtime.watch import Watch

State = tuple[torch.Tensor, ...]
Callback = Callable[[int, State, torch.Tensor | None], Any]


def sample(
    module: Any,
    network: Callable[[State, torch.Tensor], State],
    grid: TimeGrid | None,
    seeds: str | int | Iterable[int],
    *,
    params: Mapping[str, float] | None = None,
    last: str = "none",
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    callback: Callback | None = None,
    shape: Sequence[int] | None = None,
    progress: bool = False,
    constants: Mapping[str, Any] | None = None,
    init: Any = None,
    start: Any = None,
    mask: Any = None,
    cond: Mapping[str, Any] | None = None,
    batch: int | None = None,
    generator: torch.Generator | Sequence[torch.Generator] | None = None,
    resample: int = 1,
) -> torch.Tensor:
    """Samples (len(seeds), *shape) in ``dtype`` (float32 unless given) on ``device`` (the CPU unless given).

    ``module``: an emitted module, or what :func:`load` takes; ``grid`` None is that of a baked one. ``network(inputs, time)
    -> outputs``: tuples of (batch, *shape) tensors and a 0-d float64 time, float32 on MPS; it may have ``shape``, ``inputs``,
    ``outputs`` (counts) and ``sigma_range``, which are then checked. ``constants``: the SDE's constant components by name,
    each a tensor that broadcasts to (len(seeds), *shape). ``seeds``: one a sample; a sample depends on its seed and not on
    its neighbours. ``params`` override the module's ``PARAMS``. ``shape`` is that of one component of one sample
    (``network.shape`` unless given).
    ``callback(k, state, x0)`` is called after step k = 0 .. N - 1 (the state in cosine coefficients, for a module with a
    FIELD): it may keep the state, and what it writes into it counts. ``x0`` is a copy of the data as the first network call
    of the step predicts them, None for networks that predict something else (eps, score, v, flow, edm). A network may keep
    its inputs and outputs, but must copy a view into its inputs that it keeps: their memory is used again.
    ``last="denoise"`` adds a network call at ``times[-1]`` and returns the mean of the data given that state.

    ``init``: data, a tensor that broadcasts to the samples (a tuple of them for several data blocks): the run starts from the
    law of the state given them at ``times[0]``, so a grid that starts lower changes them less. ``start``: the state itself
    at ``times[0]``, a tensor a component, in place of a draw; or ``"unit"``: a draw as if the data were N(0, 1), not 0, which
    makes it N(0, 1) where the variance is preserved, as hosts of such networks start. With ``mask``, 1 where ``init`` is to stay
    as it is, these places follow one path of the diffusion that ends at ``init``, drawn beside the run; where the sampler draws
    nothing, the state with the normals of the start, which has the same law at each time. ``resample`` takes every step that
    often, going back up by the diffusion in between (arXiv 2201.09865): the rest comes to terms with what is known.
    ``cond``: what the network is given by name besides, ``network(inputs, time, **cond)``: tensors and lists with an entry a
    seed. ``batch``: how many seeds run at a time (all of them unless given). ``generator``: one of torch, or a list of one a
    sample, from which all that is drawn comes in its order; the seeds then only count, and a sample is no longer a function of
    its seed (with one generator it depends on the batch too).

    Raises :class:`InputError` before the first network call for a module, network, grid, seed, parameter, shape or
    device that does not fit; at any call whose outputs have another number, shape or a wider dtype, or that wrote into its
    inputs, before the state is touched; and at the end, with the step and its times, where an output was not finite.
    """
    plan = make_plan(
        module, network, grid, seeds, params=params, last=last, device=device, dtype=dtype, shape=shape,
        constants=constants, init=init, start=start, mask=mask, generator=generator,
        resample=resample,
    )  # fmt: skip
    count, given = len(plan.noise), conditions(cond, len(plan.noise))
    size = batch_size(batch, count)
    parts = [slice(first, min(count, first + size)) for first in range(0, count, size)]
    return torch.cat([run_part(plan, network, grid, part, given, callback, progress) for part in parts])


def run_part(
    plan: Plan,
    network: Callable[..., State],
    grid: TimeGrid | None,
    part: slice,
    cond: Mapping[str, Any],
    callback: Callback | None = None,
    progress: bool = False,
) -> torch.Tensor:
    """The samples of some of the seeds of a plan, as one batch; refused where an output was not finite."""
    own = {name: upload(v[part], plan.device) if isinstance(v, torch.Tensor) else v[part] for name, v in cond.items()}
    watch = Watch(plan.module, functools.partial(network, **own) if own else network, find_grid(plan.module, grid).times)
    with torch.no_grad():
        data = run_plan(plan.of_seeds(part), watch, callback, progress)
        watch.read(data)
    return data


def batch_size(batch: int | None, count: int) -> int:
    """How many of the seeds run at a time: all of them unless given."""
    if batch is not None and (isinstance(batch, bool) or not isinstance(batch, int) or batch < 1):
        raise InputError("-", "batch", f"{batch!r} seeds cannot run at a time", "give a whole number, 1 or more")
    return batch or count


def run_plan(
    plan: Plan,
    watch: Watch,
    callback: Callback | None = None,
    progress: bool = False,
) -> torch.Tensor:
    """The loop: draws the start, takes every step, returns the data component. No read from the device, no copy."""
    module, noise, known = plan.module, plan.noise.to(plan.device), plan.known.to(plan.device)
    rows, network, transform = _uploaded(plan, watch)
    given = tuple(upload(c, plan.device).expand(len(noise), *plan.shape) for c in plan.constants)
    normals = tuple(noise.normal(plan.shape, "start", 0, j, dtype=plan.wide) for j in range(len(plan.law.factor)))
    state = _start(plan, known, normals, given, transform)
    history = (torch.zeros_like(state[0]),) * module.HISTORY  # the first rows weigh it with zero
    chosen = steps_of(module, len(rows))
    drawn = _normals(plan, noise, [draws for _, draws in chosen for _ in range(plan.resample)])
    steps = _steps(plan, chosen)
    for k, row in enumerate(tqdm(rows, desc=f"{module.SDE} {module.SAMPLER}", unit="step", disable=not progress)):
        for place in range(k * plan.resample, (k + 1) * plan.resample):
            own = functools.partial(_own, plan, noise, place)
            if place > k * plan.resample:
                state = (*known.bridges[k].up(state, own("again"), given, known.data), *given)
            kept = known.ahead(k, state, normals, own, given)
            state, history = steps[k](state, row, network(k), next(drawn), history)
            history = tuple(history)[: module.HISTORY]
            _check_state(plan, state)
            state = known.kept(state, kept)
        if callback is not None:
            state = tuple(value.clone() for value in state)  # not written into again: the callback may keep it
            callback(k, state, watch.predicted())
    if plan.last == "denoise":
        state = module.denoise(state, rows[-1], network(len(rows)))
    data = state[module.DATA]
    if known.mask is not None:
        data = torch.lerp(data, known.data[0], known.mask)
    return data if transform is None else transform.back(data)


def count_nfe(module: Any, steps: int, last: str = "none") -> int:
    """Network calls of a run of ``steps`` steps: the module's ``nfe(steps)`` where it has one, else NFE a step,
    NFE_FIRST and NFE_LAST for the first and the last where it has those; plus one for ``last="denoise"``."""
    if hasattr(module, "nfe"):
        calls = int(module.nfe(steps))
    else:
        calls = steps * module.NFE
        if hasattr(module, "step_first"):
            calls += module.NFE_FIRST - module.NFE
        if hasattr(module, "step_last") and (steps > 1 or not hasattr(module, "step_first")):
            calls += module.NFE_LAST - module.NFE
    return calls + (1 if last == "denoise" else 0)


def record(
    module: Any,
    grid: TimeGrid | None,
    seeds: str | int | Iterable[int],
    *,
    params: Mapping[str, float] | None = None,
    last: str = "none",
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    network: Any = None,
    constants: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What was run, as plain values that JSON can hold: arguments as :func:`sample`.

    Keys: sde, sampler, network, digest, params, constants (the digest of each, where there are any), grid (name and
    times), seeds (text that ``parse_seeds`` reads, such as "0-3,7"), last, nfe, dtype, device, model (the network's
    ``name`` or class, and its ``digest`` where it has one) and versions.
    """
    module = resolve(module)
    grid = find_grid(module, grid)
    return {
        "sde": module.SDE,
        "sampler": module.SAMPLER,
        "network": module.NETWORK,
        "digest": module.DIGEST,
        "params": full_params(module, params, full=True),
        **({"constants": digest(constants)} if constants else {}),
        "grid": {"name": grid.name, "times": grid.times.tolist()},
        "seeds": seeds_text(parse_seeds(seeds)),
        "last": last,
        "nfe": count_nfe(module, grid.steps, last),
        "dtype": str(find_dtype(dtype)).removeprefix("torch."),
        "device": str(find_device(device)),
        "model": _described(network),
        "versions": {
            "stepsmith": stepsmith.__version__,
            "torch": str(torch.__version__),
            "python": platform.python_version(),
        },
    }


def _described(network: Any) -> dict[str, Any] | None:
    if network is None:
        return None
    name = str(getattr(network, "name", type(network).__name__))
    return {"name": name, "digest": getattr(network, "digest", None)}


def steps_of(module: Any, steps: int) -> list[tuple[Callable[..., Any], int]]:
    """The step function of every row and how many normals it draws: ``step``, but ``step_first`` (with DRAWS_FIRST) for
    the first row and ``step_last`` (with DRAWS_LAST) for the last where the module has them. A grid of one step is a
    first step."""
    chosen = [(module.step, module.DRAWS)] * steps
    for at, end in ((-1, "last"), (0, "first")):
        if hasattr(module, f"step_{end}"):
            chosen[at] = getattr(module, f"step_{end}"), getattr(module, f"DRAWS_{end.upper()}", module.DRAWS)
    return chosen


def _uploaded(plan: Plan, watch: Watch) -> tuple[list[State], Callable[[int], Callable[..., State]], Transform | None]:
    """The coefficients of every row on the device, the network of a row, and the transform of images where there is one."""
    to_device = functools.partial(upload, device=plan.device)
    if plan.columns is None or plan.transform is None:
        return [row.unbind(0) for row in to_device(plan.table.to(plan.wide)).unbind(0)], watch.at, None
    rows, transform = plan.columns.rows(to_device), plan.transform.put(to_device)
    return rows, lambda step: transform.around(watch.at(step)), transform


def _steps(plan: Plan, chosen: Sequence[tuple[Callable[..., Any], int]]) -> list[Callable[..., Any]]:
    """The step of every row: in place where the functions can be read, else the function."""
    found = {step: read_step(plan.module, step, draws) for step, draws in set(chosen)}
    recipes = {step: recipe for step, recipe in found.items() if recipe is not None}
    if len(recipes) < len(found):
        return [step for step, _ in chosen]
    memory, rows = InPlace(), zip(chosen, plan.table.tolist(), strict=True)
    return [functools.partial(memory.step, recipes[step], (*row, 1.0)) for (step, _), row in rows]


def _start(plan: Plan, known: Known, normals: State, given: State, transform: Transform | None) -> State:
    """The state at the first time: the caller's own, or drawn; then the constants."""
    like = normals[0]
    if known.state:
        state = tuple(value.expand_as(like).to(plan.dtype) for value in known.state)
    else:
        data = known.data if known.mask is None else ()
        data = data if transform is None else tuple(map(transform.forth, data))
        state = plan.law.drawn(normals, given, data, plan.dtype)
    if known.mask is not None:
        state = known.kept(state, plan.law.drawn(normals, given, known.data, plan.dtype))
    return (*state, *given)


def _own(plan: Plan, noise: NoiseSource | GeneratorSource, place: int, use: str) -> State:
    """Normals of a use beside those of the sampler, one a block."""
    return tuple(noise.normal(plan.shape, use, place, j, dtype=plan.wide) for j in range(len(plan.law.factor)))


def _normals(plan: Plan, noise: NoiseSource | GeneratorSource, draws: Sequence[int]) -> Iterator[State]:
    """The draws of each step in turn, made for several small steps at once, which changes none of them."""
    most = max(draws)
    ahead = max(1, noise.ahead // max(1, most * len(noise) * math.prod(plan.shape)))
    for first in range(0, len(draws), ahead):
        wanted = draws[first : first + ahead]
        if max(wanted) == 0:
            yield from ((),) * len(wanted)
            continue
        block = noise.block(plan.shape, "step", first, len(wanted), max(wanted), dtype=plan.dtype)
        for count, step in zip(wanted, block.unbind(0), strict=True):
            yield step.unbind(0)[:count]


def _check_state(plan: Plan, state: State) -> None:
    for name, value in zip(plan.module.COMPONENTS, state, strict=True):
        if value.dtype != plan.dtype or value.shape[1:] != plan.shape:
            what = f"after a step {name} is {value.dtype} {tuple(value.shape[1:])}, it was {plan.dtype} {plan.shape}"
            raise InputError("-", "network", what, "its outputs must have the dtype and shape of its inputs")
