"""The digits: a small shipped denoiser of scikit-learn's 8 x 8 digits in [-1, 1].

``examples/train_digits.py`` trained it. ``DigitsNet`` is the raw network F of EDM's preconditioning: a U-Net of two
resolutions with attention at 4 x 4. A checkpoint is one safetensors file; its metadata say how the network is built and
which noise it knows.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stepsmith.errors import InputError
from stepsmith.runtime.networks.adapters import from_edm
from stepsmith.runtime.networks.base import Network
from stepsmith.runtime.networks.checkpoint import fill, read_checkpoint, write_checkpoint

FORMAT = "stepsmith-digits-1"
WEIGHTS = Path(__file__).parent / "weights" / "digits.safetensors"
_RETRAIN = "write it with examples/train_digits.py"


@dataclass(frozen=True)
class Sizes:
    """How the network is built."""

    width: int = 32
    inner: int = 64
    embedding: int = 128
    heads: int = 4


@dataclass(frozen=True)
class About:
    """What a checkpoint says of itself."""

    sizes: Sizes
    sigma_data: float
    sigma_range: tuple[float, float]
    training: dict[str, Any]
    digest: str | None = None


class NoiseEmbedding(nn.Module):
    """Waves of the noise level, then two layers."""

    frequencies: Tensor

    def __init__(self, size: int, waves: int = 16) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.logspace(math.log10(0.5), math.log10(32.0), waves))
        self.layers = nn.Sequential(nn.Linear(2 * waves, size), nn.SiLU(), nn.Linear(size, size), nn.SiLU())

    def forward(self, noise: Tensor) -> Tensor:
        angle = noise.reshape(-1, 1) * self.frequencies.to(noise.dtype)
        return self.layers(torch.cat([angle.cos(), angle.sin()], dim=1).to(self.frequencies.dtype))


class Residual(nn.Module):
    """Two convolutions; the noise level scales and shifts between them."""

    def __init__(self, inputs: int, outputs: int, embedding: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(8, inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.level = nn.Linear(embedding, 2 * outputs)
        self.norm2 = nn.GroupNorm(8, outputs)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = _zeroed(nn.Conv2d(outputs, outputs, 3, padding=1))
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        scale, shift = self.level(level).unflatten(1, (-1, 1, 1)).chunk(2, dim=1)
        h = F.silu(self.norm2(h) * (1 + scale) + shift)
        return self.skip(x) + self.conv2(self.dropout(h))


class Attention(nn.Module):
    """Every place looks at every other."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(8, width)
        self.qkv = nn.Conv2d(width, 3 * width, 1)
        self.out = _zeroed(nn.Conv2d(width, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        batch, width, rows, columns = x.shape
        parts = self.qkv(self.norm(x)).reshape(batch, 3, self.heads, width // self.heads, rows * columns)
        query, key, value = parts.transpose(-1, -2).unbind(1)
        mixed = F.scaled_dot_product_attention(query, key, value)
        return x + self.out(mixed.transpose(-1, -2).reshape(x.shape))


class DigitsNet(nn.Module):
    """``F(x, noise)``: noise is ln(sigma)/4, of shape (1,) or (batch,)."""

    shape = (1, 8, 8)

    def __init__(self, sizes: Sizes = Sizes(), dropout: float = 0.0) -> None:
        super().__init__()
        self.sizes = sizes
        outer, inner, level = sizes.width, sizes.inner, sizes.embedding
        self.noise = NoiseEmbedding(level)
        self.first = nn.Conv2d(self.shape[0], outer, 3, padding=1)
        self.down1 = Residual(outer, outer, level, dropout)
        self.shrink = nn.Conv2d(outer, inner, 2, stride=2)
        self.middle = nn.ModuleList(Residual(inner, inner, level, dropout) for _ in range(3))
        self.attention = nn.ModuleList(Attention(inner, sizes.heads) for _ in range(2))
        self.grow = nn.ConvTranspose2d(inner, outer, 2, stride=2)
        self.up1 = Residual(2 * outer, outer, level, dropout)
        self.up2 = Residual(2 * outer, outer, level, dropout)
        self.norm = nn.GroupNorm(8, outer)
        self.last = _zeroed(nn.Conv2d(outer, self.shape[0], 3, padding=1))

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        level = self.noise(noise)
        wide = self.first(x)
        side = self.down1(wide, level)
        h = self.middle[0](self.shrink(side), level)
        for attend, block in zip(self.attention, self.middle[1:], strict=True):
            h = block(attend(h), level)
        h = self.up1(torch.cat([self.grow(h), side], dim=1), level)
        h = self.up2(torch.cat([h, wide], dim=1), level)
        return self.last(F.silu(self.norm(h)))


def load(
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
    path: str | os.PathLike[str] = WEIGHTS,
    name: str = "digits",
) -> Network:
    """The digits, or another checkpoint of their format, as a denoiser; the weights run in ``dtype``."""
    module, about = read(path)
    module = module.to(device=device, dtype=dtype)
    known = {"module": module, "name": name, "digest": about.digest}
    return from_edm(module, about.sigma_data, module.shape, about.sigma_range, dtype=dtype, **known)


def read(path: str | os.PathLike[str]) -> tuple[DigitsNet, About]:
    """The network of a checkpoint, in evaluation mode and float32, and what the file says of it."""
    tensors, meta = read_checkpoint(path, FORMAT, _RETRAIN)
    try:
        sizes = _sizes(json.loads(meta["sizes"]))
        lo, hi, data = (float(meta[key]) for key in ("sigma_min", "sigma_max", "sigma_data"))
        training = json.loads(meta.get("training", "{}"))
    except RecursionError:
        raise InputError(os.fspath(path), "metadata", "are nested too deep", _RETRAIN) from None
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InputError(os.fspath(path), "metadata", f"cannot be read ({error})", _RETRAIN) from None
    if not 0 < lo < hi < math.inf or not 0 < data < math.inf:
        raise InputError(os.fspath(path), "sigma_min, sigma_max, sigma_data", "not a range of noise", _RETRAIN)
    module = DigitsNet(sizes)
    fill(module, tensors, path, _RETRAIN)
    digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    return module, About(sizes, data, (lo, hi), training, digest)


def write(path: str | os.PathLike[str], module: DigitsNet, about: About) -> None:
    """Write a checkpoint: whole, or not at all."""
    lo, hi = about.sigma_range
    meta = {"sizes": json.dumps(asdict(about.sizes)), "training": json.dumps(about.training)}
    meta |= {"sigma_data": repr(about.sigma_data), "sigma_min": repr(lo), "sigma_max": repr(hi)}
    write_checkpoint(path, module.state_dict(), {"format": FORMAT, **meta})


def _sizes(entries: Any) -> Sizes:
    sizes = Sizes(**{key: int(value) for key, value in dict(entries).items()})
    if not all(8 <= n <= 512 and n % 8 == 0 for n in (sizes.width, sizes.inner, sizes.embedding)):
        raise ValueError("width, inner and embedding are multiples of 8 up to 512")
    if sizes.heads < 1 or sizes.inner % sizes.heads:
        raise ValueError("heads divide inner")
    return sizes


def _zeroed(layer: nn.Conv2d) -> nn.Conv2d:
    """A layer that starts by adding nothing."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
