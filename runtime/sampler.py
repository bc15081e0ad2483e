"""Run an emitted step module over a time grid.

    start      z_i = sum_j L_ij xi_j, L = module.start(times[0], **params) lower triangular, L L^T = covariance(times[0])
    N steps    z, history = module.step(z, c_k, network, noise, history), c_k the K coefficients of row k
    last       "none": nothing;  "denoise": z = module.denoise(z, c_{N-1}, network), one more network call

and the data component of z is the sample. Coefficients are computed once for the whole grid, on the host, in float64, and uploaded
once; a row enters a step as K 0-d float64 tensors, which do not promote the state's dtype. Between upload and return nothing is read
back from the device.
"""

from __future__ import annotations

import platform
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tqdm import tqdm

import stepsmith
from stepsmith.errors import InputError
from stepsmith.runtime.grid import TimeGrid
from stepsmith.runtime.modules import check_module, load
from stepsmith.runtime.noise import NoiseSource, upload

State = tuple[torch.Tensor, ...]
_SPREAD = 1e-9  # an effective sigma may pass the end of a network's range by this much, relatively, without a word


@dataclass(frozen=True, eq=False)
class Plan:
    """One run, checked and computed on the host: all that the loop reads."""

    module: Any
    table: torch.Tensor  # (steps, K) float64, on the host; a coefficient a frequency adds trailing dimensions
    factor: tuple[tuple[float, ...], ...]  # L, of the start
    noise: NoiseSource
    shape: tuple[int, ...]  # one component of one sample
    device: torch.device
    dtype: torch.dtype
    last: str


def sample(
    module: Any,
    network: Callable[[State, torch.Tensor], State],
    grid: TimeGrid,
    seeds: str | int | Iterable[int],
    *,
    params: Mapping[str, float] | None = None,
    last: str = "none",
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    callback: Callable[[int, State], Any] | None = None,
    shape: Sequence[int] | None = None,
    progress: bool = False,
) -> torch.Tensor:
    """Samples (len(seeds), *shape) in ``dtype`` (float32 unless given) on ``device`` (the CPU unless given).

    ``module``: an emitted module, or what :func:`load` takes. ``network(inputs, time) -> outputs``: tuples of (batch, *shape) tensors and
    a 0-d float64 time; it may have ``shape``, ``inputs``, ``outputs`` (counts) and ``sigma_range``, which are then checked. ``seeds``: one
    a sample; a sample depends on its seed and not on its neighbours. ``params`` override the module's ``PARAMS``. ``shape`` is that of
    one component of one sample (``network.shape`` unless given). ``callback(k, state)`` is called after step k = 0 .. N - 1.
    ``last="denoise"`` adds a network call at ``times[-1]`` and returns the mean of the data given that state.

    Raises :class:`InputError` before the first network call for a module, network, grid, seed, parameter, shape or device that does not fit,
    and after the first step where the network's outputs changed the state's shape or dtype.
    """
    plan = make_plan(module, network, grid, seeds, params=params, last=last, device=device, dtype=dtype, shape=shape)
    with torch.no_grad():
        return run_plan(plan, network, callback, progress)


def make_plan(
    module: Any,
    network: Any,
    grid: TimeGrid,
    seeds: str | int | Iterable[int],
    *,
    params: Mapping[str, float] | None = None,
    last: str = "none",
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    shape: Sequence[int] | None = None,
) -> Plan:
    """All of a run that is decided on the host: arguments as :func:`sample`; refuses what does not fit."""
    module = load(module) if isinstance(module, str) or hasattr(module, "__fspath__") else check_module(module)
    if last not in ("none", "denoise"):
        raise _refuse("last", f"{last!r} is not known", "give none or denoise")
    if not isinstance(grid, TimeGrid):
        raise _refuse("grid", f"{type(grid).__name__} is not a TimeGrid", "use TimeGrid.explicit(times)")
    params = _params(module, params)
    _check_network(module, network)
    table = _table(module, grid, params)
    _warn_range(module, network, table)
    return Plan(
        module=module,
        table=table,
        factor=_factor(module, grid, params),
        noise=NoiseSource(seeds),
        shape=_shape(network, shape),
        device=_device(device),
        dtype=_dtype(dtype),
        last=last,
    )


def run_plan(
    plan: Plan,
    network: Callable[[State, torch.Tensor], State],
    callback: Callable[[int, State], Any] | None = None,
    progress: bool = False,
) -> torch.Tensor:
    """The loop: draws the start, takes every step, returns the data component. No read from the device, no copy."""
    module = plan.module
    noise = plan.noise.to(plan.device)
    rows = [row.unbind(0) for row in upload(plan.table, plan.device).unbind(0)]
    state, history = _start(plan, noise), ()
    for k, row in enumerate(tqdm(rows, desc=f"{module.SDE} {module.SAMPLER}", unit="step", disable=not progress)):
        step, draws = _step_of(module, k, len(rows))
        normals = tuple(noise.normal(plan.shape, "step", k, i, dtype=plan.dtype) for i in range(draws))
        state, history = step(state, row, network, normals, history)
        history = tuple(history)[: module.HISTORY]
        if k == 0:
            _check_state(plan, state)
        if callback is not None:
            callback(k, state)
    if plan.last == "denoise":
        state = module.denoise(state, rows[-1], network)
    return state[module.DATA]


def count_nfe(module: Any, steps: int, last: str = "none") -> int:
    """Network calls of a run of ``steps`` steps: the module's ``nfe(steps)`` where it has one, else NFE a step, NFE_FIRST and NFE_LAST
    for the first and the last where it has those; plus one for ``last="denoise"``."""
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
    grid: TimeGrid,
    seeds: str | int | Iterable[int],
    *,
    params: Mapping[str, float] | None = None,
    last: str = "none",
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    network: Any = None,
) -> dict[str, Any]:
    """What was run, as plain values that JSON can hold: arguments as :func:`sample`.

    Keys: sde, sampler, network, digest, params, grid (name and times), seeds, last, nfe, dtype, device, model (the network's ``name``
    or class, and its ``digest`` where it has one) and versions.
    """
    module = load(module) if isinstance(module, str) or hasattr(module, "__fspath__") else check_module(module)
    model = None
    if network is not None:
        model = {"name": str(getattr(network, "name", type(network).__name__)), "digest": getattr(network, "digest", None)}
    return {
        "sde": module.SDE,
        "sampler": module.SAMPLER,
        "network": module.NETWORK,
        "digest": module.DIGEST,
        "params": _params(module, params, full=True),
        "grid": {"name": grid.name, "times": grid.times.tolist()},
        "seeds": list(NoiseSource(seeds).seeds),
        "last": last,
        "nfe": count_nfe(module, grid.steps, last),
        "dtype": str(_dtype(dtype)).removeprefix("torch."),
        "device": str(_device(device)),
        "model": model,
        "versions": {"stepsmith": stepsmith.__version__, "torch": str(torch.__version__), "python": platform.python_version()},
    }


def _refuse(key: str, what: str, mend: str) -> InputError:
    return InputError(where="-", key=key, what=what, mend=mend)


def _step_of(module: Any, k: int, steps: int) -> tuple[Callable[..., Any], int]:
    """The step function of row k and its number of draws. A grid of one step is a first step."""
    name = "step_first" if k == 0 and hasattr(module, "step_first") else "step"
    if name == "step" and k == steps - 1 and hasattr(module, "step_last"):
        name = "step_last"
    return getattr(module, name), getattr(module, name.replace("step", "DRAWS").upper(), module.DRAWS)


def _start(plan: Plan, noise: NoiseSource) -> State:
    """z_i = sum_j L_ij xi_j, summed in float64 and rounded once to the state's dtype."""
    normals = [noise.normal(plan.shape, "start", 0, j, dtype=torch.float64) for j in range(len(plan.factor))]
    return tuple(
        sum((weight * xi for weight, xi in zip(row, normals, strict=True) if weight != 0.0), torch.zeros_like(normals[0])).to(plan.dtype)
        for row in plan.factor
    )


def _params(module: Any, params: Mapping[str, float] | None, full: bool = False) -> dict[str, float]:
    given: dict[str, float] = {}
    for name, value in (params or {}).items():
        if name not in module.PARAMS:
            known = ", ".join(module.PARAMS) or "none"
            raise _refuse("params", f"{module.SDE} {module.SAMPLER} has no parameter {name!r}", f"known are: {known}")
        try:
            given[name] = float(value)
        except (TypeError, ValueError):
            raise _refuse("params", f"{name} = {value!r} is not a number", "give a number") from None
    return {**{name: float(value) for name, value in module.PARAMS.items()}, **given} if full else given


def _table(module: Any, grid: TimeGrid, params: Mapping[str, float]) -> torch.Tensor:
    """(steps, K) float64 on the host, finite; a ValueError of the module (a constraint, a grid) becomes an InputError."""
    try:
        table = module.coefficients(grid.times, **params)
    except InputError:
        raise
    except ValueError as error:
        raise _refuse("params", f"{module.SDE} {module.SAMPLER} refuses them ({error})", "change the parameters or the grid") from error
    if table.shape[:2] != (grid.steps, len(module.COEFFICIENTS)) or table.dtype != torch.float64:
        raise _refuse("coefficients", f"the table is {tuple(table.shape)} {table.dtype}", "emit the module again")
    bad = ~torch.isfinite(table)
    if bad.any():
        k, column = (int(i) for i in bad.nonzero()[0][:2])
        t0, t1 = grid.times[k].item(), grid.times[k + 1].item()
        what = f"{module.COEFFICIENTS[column]} of the step {t0:g} -> {t1:g} is {table[k, column].flatten()[0].item()}"
        raise _refuse("grid", what, "start later or end earlier, or use a frame that is regular there (v or x0)")
    return table


def _factor(module: Any, grid: TimeGrid, params: Mapping[str, float]) -> tuple[tuple[float, ...], ...]:
    factor = torch.as_tensor(module.start(grid.times[0].item(), **params), dtype=torch.float64)
    n = len(module.COMPONENTS)
    if factor.shape != (n, n) or not torch.isfinite(factor).all():
        raise _refuse("start", f"the factor of the start is not a finite {n} x {n} matrix", "check the parameters and the grid's start")
    return tuple(tuple(row) for row in factor.tolist())


def _check_network(module: Any, network: Any) -> None:
    if not callable(network):
        raise _refuse("network", f"{type(network).__name__} cannot be called", "give a callable (inputs, time) -> outputs")
    for attribute, constant in (("inputs", "INPUTS"), ("outputs", "OUTPUTS")):
        has, needs = getattr(network, attribute, None), getattr(module, constant, None)
        if isinstance(has, int) and isinstance(needs, int) and has != needs:
            what = f"it has {has} {attribute}, {module.SDE} {module.SAMPLER} for {module.NETWORK} needs {needs}"
            raise _refuse("network", what, "use a network of that kind, or a module emitted for this one")


def _warn_range(module: Any, network: Any, table: torch.Tensor) -> None:
    """One warning where an effective sigma of the grid lies outside the network's ``sigma_range`` (the network clips there)."""
    bounds, names = getattr(network, "sigma_range", None), getattr(module, "SIGMA_COLUMNS", ())
    if bounds is None or not names:
        return
    sigma = table[:, [module.COEFFICIENTS.index(name) for name in names]]
    low, high = sigma.min().item(), sigma.max().item()
    if low < bounds[0] * (1 - _SPREAD) or high > bounds[1] * (1 + _SPREAD):
        text = f"this run asks the network for effective sigmas {low:.4g} .. {high:.4g}, it was trained for {bounds[0]:.4g} .. {bounds[1]:.4g}"
        warnings.warn(f"{text}; what lies outside is clipped there", stacklevel=4)


def _shape(network: Any, shape: Sequence[int] | None) -> tuple[int, ...]:
    found = getattr(network, "shape", None) if shape is None else shape
    if found is None:
        raise _refuse("shape", "the network does not tell the shape of a sample", "give shape=(channels, height, width) or what it is")
    found = tuple(int(size) for size in found)
    if any(size < 1 for size in found):
        raise _refuse("shape", f"{found} is no shape of a sample", "every size must be 1 or more")
    return found


def _device(device: torch.device | str | None) -> torch.device:
    try:
        found = torch.device("cpu" if device is None else device)
    except RuntimeError as error:
        raise _refuse("device", f"{device!r} is not a device ({str(error).splitlines()[0]})", "give cpu or cuda") from None
    if found.type == "mps":
        raise _refuse("device", "mps has no float64, which noise and coefficients need", "sample on the cpu or on cuda")
    return found


def _dtype(dtype: torch.dtype | None) -> torch.dtype:
    found = torch.float32 if dtype is None else dtype
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise _refuse("dtype", f"{found} cannot hold a state", "give torch.float32, float64, bfloat16 or float16")
    return found


def _check_state(plan: Plan, state: State) -> None:
    for name, value in zip(plan.module.COMPONENTS, state, strict=True):
        if value.dtype != plan.dtype or value.shape[1:] != plan.shape:
            what = f"after one step {name} is {value.dtype} {tuple(value.shape[1:])}, it was {plan.dtype} {plan.shape}"
            raise _refuse("network", what, "its outputs must have the dtype and shape of its inputs")
