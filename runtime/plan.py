"""What is decided on the host before a run: every check, the coefficient table, the factor of the start."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

import stepsmith
from stepsmith.errors import InputError
from stepsmith.runtime.constants import check_constants
from stepsmith.runtime.grid import TimeGrid
from stepsmith.runtime.modules import check_module
from stepsmith.runtime.networks.base import misfit
from stepsmith.runtime.noise import GeneratorSource, NoiseSource, parse_seeds, widest
from stepsmith.runtime.spectral import Columns, Transform, field_of
from stepsmith.runtime.start import Bridge, Known, Law, asked

_SPREAD = 1e-6  # relative: by less an effective sigma may pass the end of a network's range, which is often rounded to float32


@dataclass(frozen=True, eq=False)
class Plan:
    """One run, checked and computed on the host: all that the loop reads."""

    module: Any
    table: torch.Tensor  # (steps, K) float64, on the host; a coefficient a frequency adds trailing dimensions
    law: Law  # of the state at the first time
    known: Known
    noise: NoiseSource | GeneratorSource
    shape: tuple[int, ...]  # one component of one sample
    device: torch.device
    dtype: torch.dtype
    last: str
    constants: tuple[torch.Tensor, ...] = ()  # (batch or 1, *shape), on the host
    resample: int = 1  # how often a step is taken where a part is known
    columns: Columns | None = None  # the table taken apart, where a coefficient depends on the frequency
    transform: Transform | None = None  # of images to the state, there

    @property
    def wide(self) -> torch.dtype:
        """Of the times and coefficients on the device, and of the sums that make the start there."""
        return widest(self.device)

    def of_seeds(self, part: slice) -> Plan:
        """The same run of some of the seeds."""
        cut = tuple(value if value.shape[0] == 1 else value[part] for value in self.constants)
        return replace(self, noise=self.noise.of_seeds(part), known=self.known.of_seeds(part), constants=cut)


def make_plan(
    module: Any, network: Any, grid: TimeGrid | None, seeds: str | int | Iterable[int], *,
    params: Mapping[str, float] | None = None, last: str = "none", device: torch.device | str | None = None,
    dtype: torch.dtype | None = None, shape: Sequence[int] | None = None, constants: Mapping[str, Any] | None = None,
    init: Any = None, start: Any = None, mask: Any = None, generator: Any = None, resample: int = 1,
) -> Plan:  # fmt: skip
    """All of a run that is decided on the host: arguments as :func:`sample`; refuses what does not fit."""
    module = resolve(module)
    if last not in ("none", "denoise"):
        raise _refuse("last", f"{last!r} is not known", "give none or denoise")
    grid = find_grid(module, grid)
    params = full_params(module, params)
    check_network(module, network)
    size = _shape(network, shape)
    own = getattr(module, "FIELD", "")
    inputs: dict[str, Any] = {**params, **({own: field_of(size)} if own else {})}
    table = _table(module, grid, inputs)
    _check_sigma(module, table)
    _warn_range(module, network, table)
    _warn_tuned(module, network)
    kind, device = find_dtype(dtype), find_device(device)
    if torch.promote_types(kind, widest(device)) != widest(device):
        raise _refuse("dtype", f"{device.type} has no {kind}", "take torch.float32, or sample on the cpu or on cuda")
    noise = NoiseSource(seeds) if generator is None else GeneratorSource.of(generator, len(parse_seeds(seeds)), kind)
    known = Known.of(module, init, start, mask, len(noise), size, kind)
    _check_resample(module, mask, resample)
    if mask is not None:
        known = _over_the_grid(known, module, grid, inputs, resample)
    unit = isinstance(start, str)
    law = Law.at(module, grid.times[0].item(), inputs, data=unit or init is not None)
    if known.data and len(known.data) != len(law.data[0]):
        what = f"the number of data blocks is {len(law.data[0])} for {module.SDE}, not {len(known.data)}"
        raise _refuse("init", what, "give a tensor, or a tuple of one a data block")
    return Plan(
        module, table, law.of_unit_data() if unit else law, known, noise, size, device, kind, last,
        constants=check_constants(module, constants, len(noise), size, kind), resample=resample,
        columns=Columns.of(table, kind, widest(device)) if own else None, transform=Transform.of(size, kind) if own else None,
    )  # fmt: skip


def _check_resample(module: Any, mask: Any, resample: Any) -> None:
    if isinstance(resample, bool) or not isinstance(resample, int) or resample < 1:
        raise _refuse("resample", f"a step cannot be taken {resample!r} times", "give a whole number, 1 or more")
    if resample > 1 and (mask is None or module.HISTORY):
        what = "no part is known" if mask is None else f"{module.SDE} {module.SAMPLER} remembers earlier outputs"
        fix = "give init and mask" if mask is None else "take a sampler of one step, such as ddim-eta or conjugate"
        raise _refuse("resample", what, fix)


def _over_the_grid(known: Known, module: Any, grid: TimeGrid, params: Mapping[str, Any], resample: int) -> Known:
    """With the laws at the times, or, where noise is drawn, with the bridges between them.  A baked module does not know them."""
    if not hasattr(module, "transition"):
        what = f"{module.SDE} {module.SAMPLER} is baked, and knows the law of the state at its first time alone"
        fix = "take the module that it was made from, on TimeGrid.explicit(module.TIMES), or ss.networks.inpainting"
        raise _refuse("mask", what, fix)
    times = grid.times.tolist()
    laws = [Law.at(module, time, params, data=True) for time in times]
    if resample == 1 and not any(getattr(module, name, 0) for name in ("DRAWS", "DRAWS_FIRST", "DRAWS_LAST")):
        return replace(known, laws=tuple(laws))
    pairs = zip(itertools.pairwise(times), itertools.pairwise(laws), strict=True)
    return replace(known, bridges=tuple(Bridge.of(module, *pair, params) for pair in pairs))


def resolve(module: Any) -> Any:
    """An emitted module from itself, or from what ``stepsmith.load`` takes; checked."""
    by_source = isinstance(module, str) or hasattr(module, "__fspath__")
    return stepsmith.load(module) if by_source else check_module(module)


def find_grid(module: Any, grid: TimeGrid | None) -> TimeGrid:
    """The grid; for None the times of a baked module."""
    if grid is None and hasattr(module, "TIMES"):
        return TimeGrid.explicit(module.TIMES)
    if not isinstance(grid, TimeGrid):
        raise _refuse("grid", f"{type(grid).__name__} is not a TimeGrid", "make one, such as TimeGrid.logsnr(sde, 20)")
    return grid


def _refuse(key: str, what: str, fix: str) -> InputError:
    return InputError(where="-", key=key, what=what, fix=fix)


def full_params(module: Any, params: Mapping[str, float] | None, full: bool = False) -> dict[str, float]:
    given: dict[str, float] = {}
    for name, value in (params or {}).items():
        if name not in module.PARAMS:
            known = ", ".join(module.PARAMS) or "none"
            raise _refuse("params", f"{module.SDE} {module.SAMPLER} has no parameter {name!r}", f"known are: {known}")
        try:
            given[name] = float(value)
        except (TypeError, ValueError, OverflowError):
            raise _refuse("params", f"{name} = {value!r} is not a number", "give a number") from None
        if not math.isfinite(given[name]):
            raise _refuse("params", f"{name} = {given[name]} is not finite", "give a number that float64 holds")
    return {**{name: float(value) for name, value in module.PARAMS.items()}, **given} if full else given


def _table(module: Any, grid: TimeGrid, params: Mapping[str, Any]) -> torch.Tensor:
    """(steps, K) float64 on the host, finite."""
    table = asked(module, module.coefficients, grid.times, params)
    if table.shape[:2] != (grid.steps, len(module.COEFFICIENTS)) or table.dtype != torch.float64:
        raise _refuse("coefficients", f"the table is {tuple(table.shape)} {table.dtype}", "emit the module again")
    bad = ~torch.isfinite(table)
    if bad.any():
        k, column = (int(i) for i in bad.nonzero()[0][:2])
        t0, t1 = grid.times[k].item(), grid.times[k + 1].item()
        what = f"{module.COEFFICIENTS[column]} of the step {t0:g} -> {t1:g} is {table[k, column].flatten()[0].item()}"
        raise _refuse("grid", what, "start later or end earlier, or use a frame that is regular there (v or x0)")
    return table


def check_network(module: Any, network: Any) -> None:
    """Refuse what cannot be called, and a network of another kind or with other inputs or outputs than the module's."""
    if not callable(network):
        raise _refuse(
            "network", f"{type(network).__name__} cannot be called", "give a callable (inputs, time) -> outputs"
        )
    if why := misfit(network):
        what = f"it is called as network(inputs, time), and cannot be ({why})"
        raise _refuse("network", what, "let it take both and return a tuple of tensors, or use an adapter of ss.networks")
    kind = getattr(network, "kind", None)
    if isinstance(kind, str) and kind != module.NETWORK:
        what = f"it is a network of kind {kind}, {module.SDE} {module.SAMPLER} calls {module.NETWORK}"
        raise _refuse("network", what, "use a network of that kind, or a module emitted for this one")
    for attribute, constant in (("inputs", "INPUTS"), ("outputs", "OUTPUTS")):
        has, needs = getattr(network, attribute, None), getattr(module, constant, None)
        if isinstance(has, int) and isinstance(needs, int) and has != needs:
            what = f"it has {has} {attribute}, {module.SDE} {module.SAMPLER} for {module.NETWORK} needs {needs}"
            raise _refuse("network", what, "use a network of that kind, or a module emitted for this one")


def _check_sigma(module: Any, table: torch.Tensor) -> None:
    """Refuse an effective sigma that is not positive: alpha of the diffusion changes its sign before that time."""
    for name in getattr(module, "SIGMA_COLUMNS", ()):
        low = table[:, module.COEFFICIENTS.index(name)].min().item()
        if low <= 0:
            what = f"the effective sigma {low:.4g} is not positive: alpha of {module.SDE} passes zero"
            raise _refuse("grid", what, "start the grid, and end the span, before that time")


def _warn_range(module: Any, network: Any, table: torch.Tensor) -> None:
    """One warning where an effective sigma of the grid lies outside the network's ``sigma_range`` (the network clips
    there)."""
    bounds, names = getattr(network, "sigma_range", None), getattr(module, "SIGMA_COLUMNS", ())
    if bounds is None or not names:
        return
    sigma = table[:, [module.COEFFICIENTS.index(name) for name in names]]
    low, high = sigma.min().item(), sigma.max().item()
    if low < bounds[0] * (1 - _SPREAD) or high > bounds[1] * (1 + _SPREAD):
        asked, trained = f"{low:.4g} .. {high:.4g}", f"{bounds[0]:.4g} .. {bounds[1]:.4g}"
        text = f"the grid reaches effective sigmas {asked}, the network knows {trained}; what lies outside is clipped"
        warnings.warn(text, stacklevel=4)


def _warn_tuned(module: Any, network: Any) -> None:
    """One warning where the module was tuned to a network with other weights."""
    tuned, digest = getattr(module, "NETWORK_DIGEST", None), getattr(network, "digest", None)
    if tuned is not None and digest is not None and tuned != digest:
        text = f"the module was tuned to another network ({tuned[:12]}) than this one ({digest[:12]}): tune it again"
        warnings.warn(text, stacklevel=4)


def _shape(network: Any, shape: Sequence[int] | None) -> tuple[int, ...]:
    found = getattr(network, "shape", None) if shape is None else shape
    if found is None:
        raise _refuse(
            "shape",
            "the network does not tell the shape of a sample",
            "give shape=(channels, height, width) or what it is",
        )
    try:
        found = tuple(int(size) for size in found)
    except (TypeError, ValueError, OverflowError):
        raise _refuse(
            "shape", f"{found!r} is no shape of a sample", "give whole numbers, (1, 8, 8) for example"
        ) from None
    if any(not 1 <= size < 2**31 for size in found):
        raise _refuse(
            "shape", f"{found} is no shape of a sample", "every size is 1 or more, and one that a machine holds"
        )
    own = getattr(network, "shape", None)
    if own is not None and tuple(int(size) for size in own) != found:
        raise _refuse("shape", f"the network takes samples of shape {tuple(own)}, not {found}", "leave shape out")
    return found


def find_device(device: torch.device | str | None) -> torch.device:
    try:
        found = torch.device("cpu" if device is None else device)
    except RuntimeError as error:
        raise _refuse(
            "device", f"{device!r} is not a device ({str(error).splitlines()[0]})", "give cpu or cuda"
        ) from None
    return found


def find_dtype(dtype: torch.dtype | None) -> torch.dtype:
    found = torch.float32 if dtype is None else dtype
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        what = f"{found} cannot hold a state" if isinstance(found, torch.dtype) else f"{found!r} is no dtype of torch"
        raise _refuse("dtype", what, "give torch.float32, torch.float64, torch.bfloat16 or torch.float16")
    return found
