"""The Frechet distance of samples to a data set, in the features of a small classifier of it: digits, or Fashion-MNIST.

The features are the penultimate layer, standardised over the whole data set; the distance means nothing elsewhere, and is not
FID.  A finite sample is biased upwards: compare at a like number of samples.  ``examples/train_classifier.py`` measured the
figures of ``reference(data).figures`` at ``count`` samples: ``floor``, data drawn again against all, which perfect samples
reach; ``ceiling``, Gaussian noise of the mean and variance of the data; ``halves``, two halves of the data against each other,
biased on both sides; ``held``, images that were held out; and slightly spoiled data.
"""

from __future__ import annotations

import functools
import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stepsmith.errors import InputError
from stepsmith.runtime.networks.checkpoint import fill, read_checkpoint

FORMAT = "stepsmith-classifier-2"
WEIGHTS = Path(__file__).parent / "weights"
DATA = ("digits", "fashion")
STATISTICS = ("feature_mean", "feature_scale", "mean", "covariance")
RETRAIN = "write it with examples/train_classifier.py"
SMALL = 16  # the side of an image from which on the classifier halves it twice


class Classifier(nn.Module):
    """Ten logits from the features of an image in [-1, 1]: 32 of a small one, 64 of a larger one."""

    def __init__(self, shape: Sequence[int], dropout: float = 0.3) -> None:
        super().__init__()
        channels, side, _ = shape
        self.shape = tuple(shape)
        first, width, places = (1, 32, math.ceil(side / 2)) if side < SMALL else (2, 64, math.ceil(side / 4))
        self.conv1 = nn.Conv2d(channels, 32, 3, padding=1, stride=first)
        self.conv2 = nn.Conv2d(32, 64, 3, padding=1, stride=2)
        self.conv3 = nn.Conv2d(64, 64, 3, padding=1)
        self.dropout = nn.Dropout(dropout)
        self.hidden = nn.Linear(64 * places**2, width)
        self.logits = nn.Linear(width, 10)

    def features(self, x: Tensor) -> Tensor:
        h = F.silu(self.conv3(F.silu(self.conv2(F.silu(self.conv1(x))))))
        return F.silu(self.hidden(self.dropout(h.flatten(1))))

    def forward(self, x: Tensor) -> Tensor:
        return self.logits(self.features(x))


@dataclass(frozen=True, eq=False)
class Reference:
    """The classifier, the statistics of the whole data set in its features, and the figures measured with them."""

    classifier: Classifier
    feature_mean: Tensor
    feature_scale: Tensor
    mean: Tensor
    covariance: Tensor
    figures: dict[str, Any]

    def features(self, images: Tensor) -> Tensor:
        """The standardised features, (n, k) float64, of images (n, *shape) in [-1, 1]."""
        return (raw_features(self.classifier, images) - self.feature_mean) / self.feature_scale


@functools.cache
def reference(data: str | os.PathLike[str] = "digits") -> Reference:
    """What is shipped for a data set, read once; or the file of another one."""
    path = WEIGHTS / f"{data}_classifier.safetensors" if data in DATA else Path(data)
    tensors, meta = read_checkpoint(path, FORMAT, RETRAIN)
    try:
        shift, scale, mean, covariance = (tensors.pop(name).double() for name in STATISTICS)
        figures, shape = json.loads(meta["figures"]), [int(n) for n in json.loads(meta["shape"])]
        if len(shape) != 3 or not all(0 < n <= 1024 for n in shape):
            raise ValueError("shape is not that of an image")
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(os.fspath(path), "metadata", f"cannot be read ({error})", RETRAIN) from None
    classifier = Classifier(shape)
    fill(classifier, tensors, path, RETRAIN)
    return Reference(classifier, shift, scale, mean, covariance, figures)


def raw_features(classifier: Classifier, images: Tensor, chunk: int = 512) -> Tensor:
    """The penultimate layer, float64."""
    with torch.no_grad():
        parts = images.detach().to("cpu", torch.float32).reshape(-1, *classifier.shape).split(chunk)
        return torch.cat([classifier.features(part) for part in parts]).double()


def predict(images: Tensor, data: str = "digits") -> Tensor:
    """The class probabilities of images: (n, 10)."""
    classifier = reference(data).classifier
    with torch.no_grad():
        return classifier(images.detach().to("cpu", torch.float32).reshape(-1, *classifier.shape)).softmax(dim=1)


def statistics(values: Tensor) -> tuple[Tensor, Tensor]:
    """The mean and covariance of rows."""
    return values.mean(dim=0), torch.cov(values.T)


def frechet_distance(mean1: Tensor, covariance1: Tensor, mean2: Tensor, covariance2: Tensor) -> float:
    """``|m1 - m2|^2 + tr(C1 + C2 - 2 (C1^(1/2) C2 C1^(1/2))^(1/2))`` in float64."""
    c1, c2 = covariance1.double(), covariance2.double()
    values, vectors = torch.linalg.eigh((c1 + c1.T) / 2)
    root = vectors * values.clamp_min(0).sqrt() @ vectors.T
    inner = root @ c2 @ root
    cross = torch.linalg.eigvalsh((inner + inner.T) / 2).clamp_min(0).sqrt().sum()
    apart = (mean1.double() - mean2.double()).square().sum()
    return float(apart + c1.trace() + c2.trace() - 2 * cross)


def distance(samples: Tensor, data: str = "digits") -> float:
    """The distance of samples (n, *shape) in [-1, 1] to the whole data set; a few hundred samples at the least."""
    return distance_and_error(samples, data, 0)[0]


def distance_and_error(samples: Tensor, data: str = "digits", repeats: int = 40) -> tuple[float, float]:
    """The distance, and its standard error by the bootstrap, of ``repeats`` sets of samples drawn again.

    Drawing again adds the bias of a finite sample once more, so only the spread is taken from it.
    """
    if len(samples) < 2:
        raise ValueError("a distance takes at least two samples")
    known = reference(data)
    found = known.features(samples)

    def of(values: Tensor) -> float:
        return frechet_distance(*statistics(values), known.mean, known.covariance)

    generator = torch.Generator().manual_seed(0)
    again = [of(found[torch.randint(len(found), (len(found),), generator=generator)]) for _ in range(repeats)]
    return of(found), float(torch.tensor(again).std()) if repeats > 1 else math.nan
