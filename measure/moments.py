"""Mean and covariance of features of many samples, a shard at a time: what a Fréchet distance needs."""

from __future__ import annotations

import os
from collections.abc import Callable

import torch
from torch import Tensor

from stepsmith.errors import InputError
from stepsmith.runtime import read_samples


def feature_moments(
    folder: str | os.PathLike[str], features: Callable[[Tensor], Tensor]
) -> tuple[int, Tensor, Tensor]:
    """How many samples a folder holds, the mean (k,) and the covariance (k, k) of their features, float64 on the CPU.

    ``features``: samples (batch, *shape), as :func:`read_samples` gives them, to (batch, k). Two sets of n and m samples merge
    by mean + d m/(n + m) and scatter + scatter' + d d^T n m/(n + m), d the difference of their means (Chan, Golub and LeVeque
    1979); the covariance is the scatter over n - 1.

    Raises :class:`InputError` as :func:`read_samples`, for features of another shape and for fewer than two samples.
    """
    count, mean, scatter = 0, torch.zeros(()), torch.zeros(())
    for samples in read_samples(folder):
        with torch.no_grad():
            found = features(samples).double().cpu()
        if found.dim() != 2 or len(found) != len(samples):
            what = f"they are {tuple(found.shape)} for {len(samples)} samples"
            raise InputError("-", "features", what, "give a row a sample, (batch, k)")
        own = found.mean(0)
        shift, total = own - mean, count + len(found)
        mean = mean + shift * (len(found) / total)
        scatter = scatter + (found - own).T @ (found - own) + torch.outer(shift, shift) * (count * len(found) / total)
        count = total
    if count < 2:
        raise InputError(os.fspath(folder), "out", "one sample has no covariance", "draw two or more")
    return count, mean, scatter / (count - 1)
