"""Adapters: networks as they were trained, made into what the samplers call (a denoiser, or a network of all components)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from stepsmith.errors import InputError
from stepsmith.runtime.networks.base import Network, Range, Tensors, misfit, recorded

Map = Callable[[Tensor], Tensor]
Raw = Callable[..., Tensor]  # of the state, the time, and conditions by name


def called(fn: Raw, arguments: str, like: str) -> Raw:
    """``fn``, which is called as ``fn(arguments, **conditions)``, held to returning one tensor.

    InputError (key ``network``) for what does not take two arguments, and at a call for an output that is no tensor.
    """
    fix = f"let it take both, and return one tensor {like}"
    if why := misfit(fn):
        raise InputError("-", "network", f"it is called as fn({arguments}), and cannot be ({why})", fix)

    def run(*given: Any, **cond: Any) -> Tensor:
        out = fn(*given, **cond)
        if not isinstance(out, Tensor):
            raise InputError("-", "network", f"it is called as fn({arguments}), and gives {type(out).__name__}", fix)
        return out

    return run


def clip_sigma(y: Tensor, sigma: Tensor, sigma_range: Range | None, sigma_data: float) -> tuple[Tensor, Tensor]:
    """Bring ``sigma`` into the range and rescale ``y`` to the standard deviation that belongs to it."""
    if sigma_range is None:
        return y, sigma
    inside = sigma.clamp(*sigma_range)
    ratio = (inside.square() + sigma_data**2) / (sigma.square() + sigma_data**2)
    return y * ratio.sqrt(), inside


def edm_coefficients(sigma: Tensor, sigma_data: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``c_skip, c_out, c_in, c_noise`` of Karras et al. 2022: ``D(y) = c_skip y + c_out F(c_in y, c_noise)``."""
    total = sigma.square() + sigma_data**2
    root = total.sqrt()
    return sigma_data**2 / total, sigma * sigma_data / root, 1 / root, sigma.log() / 4


@recorded
def denoiser(
    fn: Raw,
    shape: tuple[int, ...],
    sigma_range: Range | None = None,
    *,
    sigma_data: float = 0.5,
    dtype: torch.dtype | None = torch.float32,
    batched: bool = False,
    **known: Any,
) -> Network:
    """A network from ``fn(y, sigma) = E[x0 | y]``.

    ``fn`` runs in ``dtype`` (None: that of the state, at least float32) and gets sigma 0-d, or of shape (batch,) if
    ``batched``. In every adapter, ``known`` is ``module``, ``name`` and ``digest`` of the Network.
    """
    fn = called(fn, "y, sigma", "of the shape of y")

    def call(inputs: Tensors, time: Tensor, **cond: Any) -> Tensors:
        (y,) = inputs
        wide, sigma = clip_sigma(y.to(_wide(y)), time, sigma_range, sigma_data)
        run = dtype or wide.dtype
        return (fn(wide.to(run), _argument(sigma, run, y, batched), **cond).to(y.dtype),)

    return Network(call, "denoiser", tuple(shape), sigma_range, **known)


@recorded
def from_edm(
    net: Raw,
    sigma_data: float,
    shape: tuple[int, ...],
    sigma_range: Range | None = None,
    *,
    dtype: torch.dtype | None = torch.float32,
    **known: Any,
) -> Network:
    """A denoiser from the raw network ``F(c_in y, c_noise)`` of EDM, ``c_noise = ln(sigma)/4`` of shape (1,)."""
    net = called(net, "x, c_noise", "of the shape of x")

    def call(inputs: Tensors, time: Tensor, **cond: Any) -> Tensors:
        (y,) = inputs
        wide, sigma = clip_sigma(y.to(_wide(y)), time, sigma_range, sigma_data)
        run = dtype or wide.dtype
        skip, out, scale, noise = edm_coefficients(sigma, sigma_data)
        raw = net((scale * wide).to(run), _argument(noise, run, y, False).reshape(1), **cond)
        return ((skip * wide + out * raw.to(wide.dtype)).to(y.dtype),)

    return Network(call, "denoiser", tuple(shape), sigma_range, **known)


def from_eps(fn: Raw, alpha: Map, sigma: Map, inverse: Map, *args: Any, **options: Any) -> Network:
    """A denoiser from ``fn(x_t, t) = eps`` where ``x_t = alpha(t) x0 + sigma(t) eps``.

    ``inverse`` takes the effective sigma, ``sigma(t)/alpha(t)``, to t. The three are torch functions of a 0-d float64
    tensor. Then come ``shape, sigma_range=None`` and, by keyword, ``sigma_data=0.5, dtype=torch.float32, batched=True``
    (t of shape (batch,)) and what is ``known``, as in ``denoiser``.
    """
    return _scalar("eps", fn, (alpha, sigma, inverse), *args, **options)


def from_v(fn: Raw, alpha: Map, sigma: Map, inverse: Map, *args: Any, **options: Any) -> Network:
    """A denoiser from ``fn(x_t, t) = v = alpha eps - sigma x0``; the arguments are those of ``from_eps``."""
    return _scalar("v", fn, (alpha, sigma, inverse), *args, **options)


def from_score(fn: Raw, alpha: Map, sigma: Map, inverse: Map, *args: Any, **options: Any) -> Network:
    """A denoiser from ``fn(x_t, t) = grad log p_t(x_t)``; the arguments are those of ``from_eps``."""
    return _scalar("score", fn, (alpha, sigma, inverse), *args, **options)


def from_flow(fn: Raw, *args: Any, **options: Any) -> Network:
    """A denoiser from a rectified flow, ``fn(x_t, t) = eps - x0`` where ``x_t = (1 - t) x0 + t eps``."""
    return _scalar("flow", fn, (lambda t: 1 - t, lambda t: t, lambda s: s / (1 + s)), *args, **options)


@recorded
def channels(
    fn: Raw,
    components: int,
    shape: tuple[int, ...],
    kind: str = "eps-L",
    *,
    outputs: int | None = None,
    dtype: torch.dtype | None = torch.float32,
    **known: Any,
) -> Network:
    """A network from ``fn(z, t)`` as PSLD and CLD call it: components side by side as channels, t of shape (batch,).

    It has ``outputs`` outputs (None: as many as components), equal shares of the channels that ``fn`` returns.
    """
    count = components if outputs is None else outputs
    fn = called(fn, "z, t", "of the channels of its outputs side by side")

    def call(inputs: Tensors, time: Tensor, **cond: Any) -> Tensors:
        state = torch.cat(inputs, dim=1)
        run = dtype or _wide(state)
        out = fn(state.to(run), _argument(time, run, state, True), **cond).to(state.dtype)
        return out.chunk(count, dim=1)

    return Network(call, kind, tuple(shape), None, components, count, **known)


@recorded
def guided(
    network: Any, scale: float, null: Mapping[str, Any], interval: Range | None = None, rescale: float = 0.0
) -> Network:
    """Classifier-free guidance: n = n_0 + w (n_c - n_0), w = ``scale`` for times within ``interval`` (all of them unless given),
    else 1, from one call of the doubled batch.

    ``null`` holds, for every condition by name, that of no condition: a tensor or list of one entry. ``rescale`` in [0, 1] is
    the share of n that is brought to the standard deviation of n_c, sample by sample, where n is not constant (arXiv 2305.08891,
    section 3.4; interval: arXiv 2404.07724). Raises InputError (key ``cond``) where a condition of a call has none in ``null``.
    """

    if not hasattr(network, "shape"):
        what = f"{type(network).__name__} does not say the shape of a sample"
        raise InputError("-", "network", what, "make a Network of it, by networks.denoiser or another adapter")

    def call(inputs: Tensors, time: Tensor, **cond: Any) -> Tensors:
        if set(cond) != set(null):
            what = f"the conditions are {', '.join(sorted(cond)) or 'none'}, and null has {', '.join(sorted(null))}"
            raise InputError("-", "cond", what, "give the same names in cond={...} of sample, or in cond of the Network")
        both = {name: _doubled(null[name], value, len(inputs[0])) for name, value in cond.items()}
        outputs = network(tuple(torch.cat((z, z)) for z in inputs), time, **both)
        w = scale if interval is None else _within(time, interval, scale)
        return tuple(_rescaled(none + w * (own - none), own, rescale) for none, own in (out.chunk(2) for out in outputs))

    names = ("sigma_range", "inputs", "outputs", "module", "name", "digest", "picture", "cond", "made_by")
    said = {name: getattr(network, name) for name in names if hasattr(network, name)}
    return Network(call, getattr(network, "kind", "denoiser"), tuple(network.shape), **said)


def _doubled(none: Any, value: Any, count: int) -> Any:
    if isinstance(value, Tensor):
        none = none.to(value.device, value.dtype)
        return torch.cat((none.expand(count, *none.shape[1:]), value.expand(count, *value.shape[1:])))
    return [*list(none) * count, *(value if len(value) == count else list(value) * count)]


def _within(time: Any, interval: Range, scale: float) -> Any:
    low, high = interval
    inside = (time >= low) & (time <= high) if isinstance(time, Tensor) else low <= time <= high
    return torch.where(inside, torch.full_like(time, scale), 1.0) if isinstance(inside, Tensor) else scale if inside else 1.0


def _rescaled(out: Tensor, own: Tensor, share: float) -> Tensor:
    if not share:
        return out
    wanted, has = (z[..., None].flatten(1).std(1, correction=0).reshape(-1, *[1] * (z.ndim - 1)) for z in (own, out))
    flat = has == 0  # a constant stays as it is
    return out * (1 - share + share * wanted.masked_fill(flat, 1) / has.masked_fill(flat, 1))


@recorded
def _scalar(
    predicted: str,
    fn: Raw,
    maps: tuple[Map, Map, Map],
    shape: tuple[int, ...],
    sigma_range: Range | None = None,
    *,
    sigma_data: float = 0.5,
    dtype: torch.dtype | None = torch.float32,
    batched: bool = True,
    **known: Any,
) -> Network:
    alpha, sigma, inverse = maps
    fn = called(fn, "x, t", "of the shape of x")

    def call(inputs: Tensors, time: Tensor, **cond: Any) -> Tensors:
        (y,) = inputs
        wide, effective = clip_sigma(y.to(_wide(y)), time, sigma_range, sigma_data)
        run, t = dtype or wide.dtype, inverse(effective)
        a, b = alpha(t), sigma(t)
        x = a * wide
        out = fn(x.to(run), _argument(t, run, y, batched), **cond).to(wide.dtype)
        return (_SOLVED[predicted](x, out, a, b).to(y.dtype),)

    return Network(call, "denoiser", tuple(shape), sigma_range, **known)


_SOLVED: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]] = {  # x0 of x_t = a x0 + b eps and a prediction
    "eps": lambda x, out, a, b: (x - b * out) / a,
    "v": lambda x, out, a, b: (a * x - b * out) / (a.square() + b.square()),
    "score": lambda x, out, a, b: (x + b.square() * out) / a,
    "flow": lambda x, out, a, b: x - b * out,
}


def _wide(y: Tensor) -> torch.dtype:
    return torch.promote_types(y.dtype, torch.float32)


def _argument(value: Tensor, run: torch.dtype, y: Tensor, batched: bool) -> Tensor:
    value = value.to(torch.promote_types(run, torch.float32))
    return value.expand(y.shape[0]) if batched else value
