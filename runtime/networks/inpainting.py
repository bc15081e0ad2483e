"""A denoiser that is told a part of the data: the mean of the rest given what is known, through its own covariance.

With y = x + sigma n, the denoiser D(y) = E[x | y] and its Jacobian J, sigma^2 J is the covariance of x given y (Tweedie, second
order).  For known places M of the data, x_M = a, the mean given both is

    E[x | y, x_M + s n = a] = D + J M^T v,    (M J M^T + s^2/sigma^2) v = a - M D

for places that are known up to noise of standard deviation s: exact where x given y is Gaussian, and elsewhere the best that the
first two moments give (arXiv 2405.13712, section 4).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from stepsmith.errors import InputError
from stepsmith.runtime.networks.base import Network, Tensors, recorded

TINY = 1e-12  # relative: where a residual is that small, conjugate gradients stop moving


@recorded
def inpainting(network: Network, image: Any, mask: Any, iterations: int = 2, noise: float = 0.0) -> Network:
    """A denoiser of the data that are ``image`` where ``mask`` is 1, from one that knows nothing of it.

    Any sampler of any diffusion then draws the rest given what is known.  ``image`` and ``mask`` (0 or 1) broadcast to a sample.
    ``iterations`` of conjugate gradients solve for v, each a pass back through the network: as many as there are known places
    solve it exactly for Gaussian data; a trained network, whose Jacobian is not symmetric, bears only a few.  ``noise`` is s.

    InputError (key ``network``) for what is no denoiser, and at a call for one that gives no derivatives, (``image``, ``mask``)
    for what does not fit a sample, (``mask``) for values other than 0 and 1.
    """
    if getattr(network, "kind", None) != "denoiser":
        raise InputError("-", "network", "only a Network of the kind denoiser can be told a part of the data", "make one of it")
    known, keep = (_fitted(key, value, network.shape) for key, value in (("image", image), ("mask", mask)))
    if not ((keep == 0) | (keep == 1)).all():
        raise InputError("-", "mask", "it has values other than 0 and 1", "give 1 where the image is known, else 0")

    def call(inputs: Tensors, time: Any, **cond: Any) -> Tensors:
        (y,) = inputs
        image, mask = (value.to(y.device, y.dtype) for value in (known, keep))
        with torch.enable_grad():
            y = y.detach().requires_grad_()
            mean = _followed(network, y, time, cond)
        pull = lambda v: torch.autograd.grad(mean, y, v, retain_graph=True)[0]  # noqa: E731  # J^T v, and J is symmetric
        told = mean.detach()
        loose = (noise / time) ** 2
        v = _solved(lambda v: mask * (pull(mask * v) + loose * v), mask * (image - told), iterations)
        return (torch.lerp(told + pull(v), image.expand_as(told), mask),)

    return replace(network, fn=call)


def _followed(network: Network, y: Tensor, time: Any, cond: Any) -> Tensor:
    """The network's output, which knows how it depends on y; InputError where it does not."""
    try:
        (mean,) = network((y,), time, **cond)
        if mean.requires_grad:
            return mean
        why = "it gives no derivatives"
    except RuntimeError as error:
        if "grad" not in str(error):
            raise
        why = f"it gives no derivatives ({str(error).splitlines()[0]})"
    fix = "use a network of torch that knows nothing yet, and one image and mask for all that is known"
    raise InputError("-", "network", why, fix)


def _fitted(key: str, value: Any, shape: tuple[int, ...]) -> Tensor:
    """As a sample with one entry, float64."""
    try:
        return torch.as_tensor(value, dtype=torch.float64).expand(1, *shape)
    except (RuntimeError, TypeError, ValueError) as error:
        what = f"it does not broadcast to a sample of shape {shape} ({str(error).splitlines()[0]})"
        raise InputError("-", key, what, "give one image") from None


def _solved(matrix: Any, wanted: Tensor, iterations: int) -> Tensor:
    """v with matrix(v) = wanted by conjugate gradients, sample by sample."""
    dot = lambda a, b: (a * b).flatten(1).sum(1).reshape(-1, *[1] * (a.ndim - 1))  # noqa: E731
    v, rest, ahead = torch.zeros_like(wanted), wanted, wanted
    first = size = dot(rest, rest)
    for _ in range(iterations):
        along = matrix(ahead)
        curve = dot(ahead, along)
        share = torch.where((size > TINY * first) & (curve > 0), size / curve, 0.0)
        v, rest = v + share * ahead, rest - share * along
        before, size = size, dot(rest, rest)
        ahead = rest + torch.where(before > 0, size / before, 0.0) * ahead
    return v
