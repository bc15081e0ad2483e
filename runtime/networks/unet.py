"""A small U-Net of two resolutions for small images, as a denoiser or as an epsilon network of a diffusion of several blocks.

``examples/train.py`` trains it.  ``UNet`` is the raw network F; what is around it (EDM's preconditioning, ``EpsL``) carries all
that is known of the answer beforehand, so that F has an output of the size of 1 at all noise levels.  A checkpoint is one
safetensors file; its metadata say how the network is built, for which diffusion, and which noise it knows.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stepsmith.errors import InputError
from stepsmith.runtime.networks.adapters import from_edm
from stepsmith.runtime.networks.base import Network, Tensors, recorded
from stepsmith.runtime.networks.checkpoint import fill, read_checkpoint, write_checkpoint
from stepsmith.runtime.networks.layers import Attention, NoiseEmbedding, Residual, zeroed

FORMAT = "stepsmith-unet-1"
RETRAIN = "write it with examples/train.py"
LEVELS = 4096  # of the table of a diffusion, even in ln(effective sigma)


@dataclass(frozen=True)
class Sizes:
    """How the network is built: channels at the two resolutions, of the noise level, heads of attention, pixels of a patch."""

    width: int = 32
    inner: int = 64
    embedding: int = 128
    heads: int = 4
    patch: int = 1

    @classmethod
    def of(cls, entries: Any) -> Sizes:
        """From a checkpoint; ValueError where no network can be built so."""
        sizes = cls(**{key: int(value) for key, value in dict(entries).items()})
        if not all(8 <= n <= 512 and n % 8 == 0 for n in (sizes.width, sizes.inner, sizes.embedding)):
            raise ValueError("width, inner and embedding are multiples of 8 up to 512")
        if sizes.heads < 1 or sizes.inner % sizes.heads:
            raise ValueError("heads divide inner")
        if sizes.patch not in (1, 2, 4, 8):
            raise ValueError("patch is 1, 2, 4 or 8")
        return sizes


@dataclass(frozen=True)
class About:
    """What a checkpoint says of itself; ``sde`` is the name of the diffusion of an epsilon network, None of a denoiser."""

    shape: tuple[int, int, int]
    sizes: Sizes
    sigma_data: float
    sigma_range: tuple[float, float]
    sde: str | None = None
    training: dict[str, Any] = field(default_factory=dict)
    digest: str | None = None


class UNet(nn.Module):
    """``F(x, noise)``: x (batch, inputs, H, W), noise = ln(sigma)/4 of shape (1,) or (batch,); (batch, outputs, H, W).

    H and W are multiples of 2 ``sizes.patch``: each patch of pixels is one place of the outer resolution.
    """

    def __init__(self, inputs: int = 1, outputs: int = 1, sizes: Sizes = Sizes(), dropout: float = 0.0) -> None:
        super().__init__()
        self.sizes = sizes
        outer, inner, level, pixels = sizes.width, sizes.inner, sizes.embedding, sizes.patch**2
        self.noise = NoiseEmbedding(level)
        self.first = nn.Conv2d(inputs * pixels, outer, 3, padding=1)
        self.down1 = Residual(outer, outer, level, dropout)
        self.shrink = nn.Conv2d(outer, inner, 2, stride=2)
        self.middle = nn.ModuleList(Residual(inner, inner, level, dropout) for _ in range(3))
        self.attention = nn.ModuleList(Attention(inner, sizes.heads) for _ in range(2))
        self.grow = nn.ConvTranspose2d(inner, outer, 2, stride=2)
        self.up1 = Residual(2 * outer, outer, level, dropout)
        self.up2 = Residual(2 * outer, outer, level, dropout)
        self.norm = nn.GroupNorm(8, outer)
        self.last = zeroed(nn.Conv2d(outer, outputs * pixels, 3, padding=1))

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        level = self.noise(noise)
        wide = self.first(F.pixel_unshuffle(x, self.sizes.patch))
        side = self.down1(wide, level)
        h = self.middle[0](self.shrink(side), level)
        for attend, block in zip(self.attention, self.middle[1:], strict=True):
            h = block(attend(h), level)
        h = self.up1(torch.cat([self.grow(h), side], dim=1), level)
        h = self.up2(torch.cat([h, wide], dim=1), level)
        return F.pixel_shuffle(self.last(F.silu(self.norm(h))), self.sizes.patch)


class EpsL(nn.Module):
    """The epsilon of a diffusion with data in one block, z = psi x0 + L eps, L the lower Cholesky factor of the covariance.

        eps = w - k v (v.w) + sqrt(k) v F(z/spread, ln(sigma)/4),   w = L^-1 (z - psi mean),   v = L^-1 psi,
        k = s^2/(1 + s^2 |v|^2),   sigma = 1/|v| the effective sigma

    Were the data N(mean, s^2), F = 0 would be exact; whatever they are, eps - w is a multiple of v, as eps = w - v (x0 - mean).
    So F has one output, and its target -(x0 - E_Gaussian[x0])/sqrt(k) has the variance 1 (without this skip a sampling run grows
    by exp(8): the drift of the reverse diffusion does, and eps must cancel it).  ``table`` has t, psi and L at LEVELS times, even
    in ln(sigma); between them it is linear (an error of about 1e-6).
    """

    mean: Tensor
    table: Tensor

    def __init__(self, blocks: int, about: About, dropout: float = 0.0) -> None:
        super().__init__()
        channels = about.shape[0]
        self.blocks, self.s = blocks, about.sigma_data
        self.lo, self.hi = (math.log(value) for value in about.sigma_range)
        self.net = UNet(blocks * channels, channels, about.sizes, dropout)
        self.register_buffer("mean", torch.zeros(about.shape))
        self.register_buffer("table", torch.zeros(LEVELS, 1 + blocks + blocks * blocks, dtype=torch.float64))

    def law(self, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(t, psi, L) at effective sigmas of any shape (*s): (*s), (*s, n), (*s, n, n), float64."""
        place = ((sigma.double().log() - self.lo) / (self.hi - self.lo)).clamp(0, 1) * (LEVELS - 1)
        left = place.floor().clamp(max=LEVELS - 2)
        at = left.long()
        row = torch.lerp(self.table[at], self.table[at + 1], (place - left)[..., None])
        n = self.blocks
        return row[..., 0], row[..., 1 : n + 1], row[..., n + 1 :].unflatten(-1, (n, n))

    def sigma_at(self, time: Tensor) -> Tensor:
        """The effective sigma at times of any shape, float64; those outside the table take its ends."""
        times = self.table[:, 0].contiguous()
        time = time.double().clamp(times[0], times[-1])
        right = torch.searchsorted(times, time).clamp(1, LEVELS - 1)
        a, b = times[right - 1], times[right]
        place = right - 1 + (time - a) / (b - a)
        return (self.lo + (self.hi - self.lo) * place / (LEVELS - 1)).exp()

    def forward(self, z: Tensor, sigma: Tensor) -> Tensor:
        """epsilon, (batch, n, *shape), from the state (batch, n, *shape) at effective sigmas (batch,) or (1,)."""
        w, v, shift = self._parts(z, sigma)
        return w - v * shift[:, None]

    def data(self, z: Tensor, sigma: Tensor) -> Tensor:
        """The same answer as a prediction of the data, x0 = mean + (k v.w - sqrt(k) F), (batch, *shape)."""
        return self.mean + self._parts(z, sigma)[2]

    def _parts(self, z: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """w, v and x0 - mean = k v.w - sqrt(k) F."""
        _, psi, L = self.law(sigma)
        spread = ((psi * self.s).square() + L.square().sum(-1)).sqrt()
        v = torch.linalg.solve_triangular(L, psi[..., None], upper=False)[..., 0]
        k = self.s**2 / (1 + self.s**2 * v.square().sum(-1))
        inverse = torch.linalg.inv(L)
        inverse, psi, spread, v = (item.to(z.dtype)[..., None, None, None] for item in (inverse, psi, spread, v))
        k = k.to(z.dtype)[:, None, None, None]
        w = (inverse * (z - psi * self.mean)[:, None]).sum(2)
        raw = self.net((z / spread).flatten(1, 2), sigma.log().to(z.dtype) / 4)
        return w, v, k * (v * w).sum(1) - k.sqrt() * raw


def load(
    path: str | os.PathLike[str], device: Any = None, dtype: torch.dtype = torch.float32, name: str | None = None
) -> Network:
    """A checkpoint as a Network: a denoiser, or an epsilon network (``eps-L``) of its diffusion; weights run in ``dtype``."""
    module, about = read(path)
    # Channels last take a fifth to a quarter less time on a CPU; torch's types do not know this argument.
    module = module.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    known = {"module": module, "name": name or os.fspath(path), "digest": about.digest}
    if isinstance(module, UNet):
        return from_edm(module.to(dtype), about.sigma_data, about.shape, about.sigma_range, dtype=dtype, **known)
    module.net.to(dtype)
    return eps_network(module, about, dtype, **known)


@recorded
def eps_network(net: EpsL, about: About, dtype: torch.dtype = torch.float32, **known: Any) -> Network:
    """An EpsL as a network of all components at the forward time t; times outside its table take the table's ends."""

    def call(inputs: Tensors, time: Tensor, **cond: Any) -> Tensors:
        z = torch.stack([item.to(dtype) for item in inputs], dim=1)
        out = net(z, net.sigma_at(time).reshape(-1))
        return tuple(item.to(inputs[0].dtype) for item in out.unbind(1))

    return Network(call, "eps-L", about.shape, about.sigma_range, net.blocks, net.blocks, **known)


@recorded
def predicting_data(network: Network) -> Network:
    """The same weights as a network of kind ``x0``, for samplers that interpolate the data prediction; InputError for others."""
    net = network.module
    if not isinstance(net, EpsL):
        what = f"{network.name} is no epsilon network of several blocks"
        raise InputError("-", "network", what, "give one of examples/train.py")
    dtype = net.net.last.weight.dtype

    def call(inputs: Tensors, time: Tensor, **cond: Any) -> Tensors:
        z = torch.stack([item.to(dtype) for item in inputs], dim=1)
        return (net.data(z, net.sigma_at(time).reshape(-1)).to(inputs[0].dtype),)

    return replace(network, fn=call, kind="x0", outputs=1)


def read(path: str | os.PathLike[str]) -> tuple[UNet | EpsL, About]:
    """The network of a checkpoint, in evaluation mode and float32, and what the file says of it."""
    tensors, meta = read_checkpoint(path, FORMAT, RETRAIN)
    name = os.fspath(path)
    try:
        sizes = Sizes.of(json.loads(meta["sizes"]))
        lo, hi, data = (float(meta[key]) for key in ("sigma_min", "sigma_max", "sigma_data"))
        channels, height, width = (int(x) for x in json.loads(meta["shape"]))
        blocks = int(meta.get("blocks", "0"))
        training = json.loads(meta.get("training", "{}"))
        if not (0 < lo < hi < math.inf and 0 < data < math.inf):
            raise ValueError("sigma_min, sigma_max and sigma_data are no range of noise")
        if not (1 <= channels <= 16 and all(0 < n <= 1024 and n % (2 * sizes.patch) == 0 for n in (height, width))):
            raise ValueError("shape does not fit the network")
        if not 0 <= blocks <= 8:
            raise ValueError("blocks is a number of up to 8")
    except RecursionError:
        raise InputError(name, "metadata", "are nested too deep", RETRAIN) from None
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InputError(name, "metadata", f"cannot be read ({error})", RETRAIN) from None
    digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    about = About((channels, height, width), sizes, data, (lo, hi), meta.get("sde"), training, digest)
    module = EpsL(blocks, about) if blocks else UNet(channels, channels, sizes)
    table = tensors.get("table")
    fill(module, tensors, path, RETRAIN)
    if isinstance(module, EpsL) and table is not None:
        module.table.copy_(table)  # in float64, as it was written
        if not bool((module.table[:, 0].diff() > 0).all()):
            raise InputError(name, "table", "its times do not increase", RETRAIN)
    return module, about


def write(path: str | os.PathLike[str], module: UNet | EpsL, about: About) -> None:
    """Write a checkpoint, weights as float16, the table of a diffusion as float64: whole, or not at all."""
    lo, hi = about.sigma_range
    meta = {"sizes": json.dumps(asdict(about.sizes)), "training": json.dumps(about.training), "shape": json.dumps(about.shape)}
    meta |= {"sigma_data": repr(about.sigma_data), "sigma_min": repr(lo), "sigma_max": repr(hi)}
    if isinstance(module, EpsL):
        meta |= {"blocks": str(module.blocks), "sde": about.sde or "custom"}
    tensors = {key: value if key == "table" else value.half() for key, value in module.state_dict().items()}
    write_checkpoint(path, tensors, {"format": FORMAT, **meta})
