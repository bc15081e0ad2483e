"""What every network is to a sampler: a callable that says of itself what a run must know."""

from __future__ import annotations

import functools
import hashlib
import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from numbers import Real
from typing import Any, ParamSpec

import torch
from torch import Tensor, nn

from stepsmith.errors import InputError

Tensors = tuple[Tensor, ...]
Range = tuple[float, float]
P = ParamSpec("P")


@dataclass(frozen=True, eq=False, repr=False)
class Network:
    """``network(inputs, time, **cond) -> outputs``, tuples of (batch, *shape) tensors, with what a run must know of it.

    ``kind`` is the name of what it predicts (``denoiser``, ``eps-L``, ...), ``shape`` that of one component of one sample,
    ``sigma_range`` the least and the largest effective sigma that it was trained for; ``inputs`` and ``outputs`` are counts.
    ``module`` holds the weights, if there are any; ``name`` and ``digest`` (sha256 of the file of weights) go into records.
    ``picture`` maps samples to [-1, 1] for a person to look at, where the data are not in that range themselves.
    ``cond`` holds conditions, an entry for all samples of a batch, which a call that does not name them gets.
    ``made_by`` tells records which adapters made it, each with its settings and, among these, what it was made of.

    A call raises ValueError for inputs of another number or shape.  InputError (key ``sigma_range``) for what is no range.
    """

    fn: Callable[..., Tensors]
    kind: str
    shape: tuple[int, ...]
    sigma_range: Range | None = None
    inputs: int = 1
    outputs: int = 1
    module: nn.Module | None = None
    name: str = "custom"
    digest: str | None = None
    picture: Callable[[Tensor], Tensor] | None = None
    cond: Mapping[str, Any] = field(default_factory=dict)
    made_by: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if (bounds := self.sigma_range) is not None:
            pair = isinstance(bounds, tuple | list) and len(bounds) == 2 and all(isinstance(b, Real) for b in bounds)
            if not pair or not 0 <= bounds[0] < bounds[1]:
                what = f"{bounds!r} is no range of effective sigmas"
                raise InputError("-", "sigma_range", what, "give (least, largest), such as (0.002, 80.0), or None")

    def __repr__(self) -> str:
        levels = "" if self.sigma_range is None else ", sigma {:g} to {:g}".format(*self.sigma_range)
        return f"Network({self.name}: {self.kind}, shape {self.shape}{levels})"

    def __call__(self, inputs: Tensors, time: Tensor | float, **cond: Any) -> Tensors:
        if len(inputs) != self.inputs:
            raise ValueError(f"the network takes {self.inputs} inputs, not {len(inputs)}")
        for item in inputs:
            if tuple(item.shape[1:]) != self.shape:
                raise ValueError(f"the network takes samples of shape {self.shape}, not {tuple(item.shape[1:])}")
        if isinstance(time, float):  # a row of a baked module: no float64 on the device
            time = torch.tensor(time, dtype=torch.promote_types(inputs[0].dtype, torch.float32), device=inputs[0].device)
        left_out = {name: value for name, value in self.cond.items() if name not in cond}
        return self.fn(inputs, time, **conditions(left_out, inputs[0].shape[0], inputs[0].device), **cond)


def recorded(adapter: Callable[P, Network]) -> Callable[P, Network]:
    """The adapter, whose networks say in ``made_by`` with which arguments it was called: with these and the weights a run is told
    from others.  Code is left out, and so is what is ``known``, which a Network has as its own."""
    signature, name = inspect.signature(adapter), adapter.__name__.strip("_")

    @functools.wraps(adapter)
    def made(*args: P.args, **options: P.kwargs) -> Network:
        network, call = adapter(*args, **options), signature.bind(*args, **options)
        call.apply_defaults()
        settings = {key: _plain(value) for key, value in call.arguments.items() if key != "known"}
        own = {key: value for key, value in settings.items() if value is not None}
        return replace(network, made_by={name: {**own, **network.made_by}})

    return made


def _plain(value: Any) -> Any:
    """A setting as JSON can hold it: tensors and arrays by their digest, an emitted module by its own, other code as None."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, torch.dtype | os.PathLike):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return fingerprint(value) if hasattr(value, "__array__") else getattr(value, "DIGEST", None)


def fingerprint(value: Any) -> str:
    """The SHA-256 of a tensor or an array: of its dtype, its shape and its bytes."""
    tensor = torch.as_tensor(value).detach().cpu().contiguous()
    total = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    total.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def misfit(fn: Any) -> str:
    """Why ``fn(a, b)`` cannot be called, as far as its signature tells; nothing where it can be."""
    try:
        signature = inspect.signature(fn.forward if isinstance(fn, nn.Module) else fn)
    except (TypeError, ValueError):  # none is known, or it cannot be called at all
        return "" if callable(fn) else f"it is of type {type(fn).__name__}"
    try:
        signature.bind_partial(None, None)
    except TypeError as error:
        return str(error)
    return ""


def conditions(cond: Mapping[str, Any] | None, count: int, device: Any = None) -> dict[str, Any]:
    """Conditions with an entry a sample: tensors and lists; one of a single entry is that of every sample.  InputError (key
    ``cond``) for another number of entries."""
    given: dict[str, Any] = {}
    for name, value in (cond or {}).items():
        listed = isinstance(value, list | tuple) or (isinstance(value, Tensor) and value.ndim > 0)
        if not listed or len(value) not in (1, count):
            what = f"{name} has {len(value)} entries, and there are {count} seeds" if listed else f"{name} is no tensor or list"
            raise InputError("-", "cond", what, f"give {count} entries, or one for all of them")
        if isinstance(value, Tensor):
            given[name] = value.to(device).expand(count, *value.shape[1:])
        else:
            given[name] = value if len(value) == count else value * count
    return given


class Wrapped:
    """A network that is called in another way, and says of itself what the one inside says."""

    def __init__(self, network: Any) -> None:
        self.network = network

    def __getattr__(self, name: str) -> Any:
        if name == "network":  # not set yet: a copy or an unpickling is under way
            raise AttributeError(name)
        return getattr(self.network, name)


class Counting(Wrapped):
    """The same network; ``calls`` is how often it was called."""

    def __init__(self, network: Any) -> None:
        super().__init__(network)
        self.calls = 0

    def __call__(self, inputs: Tensors, time: Tensor, **cond: Any) -> Tensors:
        self.calls += 1
        return self.network(inputs, time, **cond)


class InParts(Wrapped):
    """The same network, called for at most ``batch`` samples at a time: for one that is too large for all of them."""

    def __init__(self, network: Any, batch: int) -> None:
        super().__init__(network)
        self.batch = batch

    def __call__(self, inputs: Tensors, time: Tensor, **cond: Any) -> Tensors:
        count = inputs[0].shape[0]
        given, parts = conditions(cond, count), [slice(first, first + self.batch) for first in range(0, count, self.batch)]
        outputs = [self.network(tuple(z[p] for z in inputs), time, **{name: v[p] for name, v in given.items()}) for p in parts]
        return tuple(map(torch.cat, zip(*outputs, strict=True)))


def counting(network: Any) -> Counting:
    """Wrap a network so that its calls are counted."""
    return Counting(network)
