"""The layers of the U-Net: the noise level, residual blocks that it scales and shifts, attention."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


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
        self.conv2 = zeroed(nn.Conv2d(outputs, outputs, 3, padding=1))
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
        self.out = zeroed(nn.Conv2d(width, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        batch, width, rows, columns = x.shape
        parts = self.qkv(self.norm(x)).reshape(batch, 3, self.heads, width // self.heads, rows * columns)
        query, key, value = parts.transpose(-1, -2).unbind(1)
        mixed = F.scaled_dot_product_attention(query, key, value)
        return x + self.out(mixed.transpose(-1, -2).reshape(x.shape))



def zeroed(layer: nn.Conv2d) -> nn.Conv2d:
    """A layer that starts by adding nothing."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
