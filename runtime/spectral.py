"""States of cosine coefficients: what a run with a coefficient a frequency needs around the step.

The orthonormal cosine transform (DCT-II) of the last two dimensions, as matrix products, X = C_H x C_W^T,

    C_N[k, i] = sqrt((2 - [k = 0]) / N) cos(pi k (2 i + 1) / (2 N)),     C_N C_N^T = I,

so white noise stays white and a Gaussian network's epsilon turns with its input.  The frequency (i, j) of an H x W image is
an eigenvector of minus the Laplacian (with its boundary reflecting), in the unit of a pixel; a module's ``FIELD`` is

    k2[i, j] = pi^2 (i^2/H^2 + j^2/W^2)

(arXiv 2209.05557, appendix A).  The network sees images: its inputs are transformed back, its outputs forth.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from stepsmith.errors import InputError

Tensors = tuple[torch.Tensor, ...]


def field_of(shape: Sequence[int]) -> torch.Tensor:
    """k2 of the frequencies of a sample of this shape, (H, W) float64; InputError (key ``shape``) for fewer than two dims."""
    if len(shape) < 2:
        what = f"a sample of shape {tuple(shape)} is no image, and the SDE has a coefficient a frequency"
        raise InputError("-", "shape", what, "use a shape of at least two dimensions, (..., height, width)")
    height, width = (torch.arange(size, dtype=torch.float64) / size for size in shape[-2:])
    return math.pi**2 * (height[:, None] ** 2 + width**2)


@functools.lru_cache(maxsize=16)
def _matrix(size: int) -> torch.Tensor:
    k, i = torch.arange(size, dtype=torch.float64)[:, None], torch.arange(size, dtype=torch.float64)
    matrix = math.sqrt(2 / size) * torch.cos(math.pi * k * (2 * i + 1) / (2 * size))
    matrix[0] /= math.sqrt(2)
    return matrix


@dataclass(frozen=True, eq=False)
class Transform:
    """The transform of images of one height and width; bfloat16 and float16 are widened for it."""

    rows: torch.Tensor  # C_H
    columns: torch.Tensor  # C_W

    @classmethod
    def of(cls, shape: Sequence[int], dtype: torch.dtype) -> Transform:
        """The transform of samples of this shape for states of this dtype, on the host."""
        wide = torch.promote_types(dtype, torch.float32)
        return cls(*(_matrix(size).to(wide) for size in shape[-2:]))

    def put(self, upload: Callable[[torch.Tensor], torch.Tensor]) -> Transform:
        """The same with its two matrices on a device."""
        return Transform(upload(self.rows), upload(self.columns))

    def forth(self, x: torch.Tensor) -> torch.Tensor:
        """The coefficients of images (..., H, W)."""
        return (self.rows @ x.to(self.rows.dtype) @ self.columns.mT).to(x.dtype)

    def back(self, u: torch.Tensor) -> torch.Tensor:
        """The images of coefficients (..., H, W)."""
        return (self.rows.mT @ u.to(self.rows.dtype) @ self.columns).to(u.dtype)

    def around(self, network: Callable[..., Tensors]) -> Callable[..., Tensors]:
        """The network of images as one of coefficients."""

        def call(inputs: Tensors, time: torch.Tensor) -> Tensors:
            return tuple(map(self.forth, network(tuple(map(self.back, inputs)), time)))

        return call


@dataclass(frozen=True, eq=False)
class Columns:
    """A table (steps, K, H, W) taken apart: (steps, A) of the columns that are the same at every frequency (a time is
    one of them), (steps, B, H, W) of the others, in the state's dtype or float32, and the place of each column in the two
    put one behind the other.
    """

    shared: torch.Tensor
    own: torch.Tensor
    place: tuple[int, ...]

    @classmethod
    def of(cls, table: torch.Tensor, dtype: torch.dtype, wide: torch.dtype) -> Columns:
        """The first enter a step as 0-d numbers, of the dtype ``wide``; the others as tensors, which would widen the state."""
        flat = table.flatten(2)
        same = (flat == flat[..., :1]).all(-1).all(0)
        shared, own = same.nonzero().flatten().tolist(), (~same).nonzero().flatten().tolist()
        place = {column: k for k, column in enumerate((*shared, *own))}
        fields = table[:, own].to(torch.promote_types(dtype, torch.float32))
        return cls(flat[:, shared, 0].to(wide), fields, tuple(place[k] for k in range(table.shape[1])))

    def rows(self, upload: Callable[[torch.Tensor], torch.Tensor]) -> list[Tensors]:
        """The columns of each row on a device, uploaded at once."""
        numbers, fields = upload(self.shared), upload(self.own)
        both = zip(numbers.unbind(0), fields.unbind(0), strict=True)
        return [tuple((*a.unbind(0), *b.unbind(0))[k] for k in self.place) for a, b in both]
