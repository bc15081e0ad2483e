"""FD (digits-CNN): how far samples are from the digits, as the Fréchet distance of two Gaussians in a feature space.

The features are the penultimate layer of a small classifier of the digits, standardised over the whole data set; the
distance means nothing elsewhere, and is not FID. A finite sample is biased upwards: compare at a like number of them.
``examples/train_classifier.py`` measured, at ``COUNT`` samples, ``FLOOR``: data drawn again with replacement against
the whole, what perfect samples reach; ``CEILING``: Gaussian noise of the mean and variance of the data against the
whole; and ``HALVES``: two halves of the data against each other, biased on both sides, so it lies above the floor.
"""

from __future__ import annotations

import functools
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stepsmith.errors import InputError
from stepsmith.runtime.networks.checkpoint import fill, read_checkpoint

FORMAT = "stepsmith-digits-classifier-1"
WEIGHTS = Path(__file__).parent / "weights" / "digits_classifier.safetensors"
STATISTICS = ("feature_mean", "feature_scale", "mean", "covariance")
_RETRAIN = "write it with examples/train_classifier.py"


class Classifier(nn.Module):
    """Ten logits from 32 features of a digit in [-1, 1]."""

    def __init__(self, features: int = 32, dropout: float = 0.3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 3, padding=1)
        self.conv2 = nn.Conv2d(32, 64, 3, padding=1, stride=2)
        self.conv3 = nn.Conv2d(64, 64, 3, padding=1)
        self.dropout = nn.Dropout(dropout)
        self.hidden = nn.Linear(64 * 4 * 4, features)
        self.logits = nn.Linear(features, 10)

    def features(self, x: Tensor) -> Tensor:
        h = F.silu(self.conv2(F.silu(self.conv1(x))))
        return F.silu(self.hidden(self.dropout(F.silu(self.conv3(h)).flatten(1))))

    def forward(self, x: Tensor) -> Tensor:
        return self.logits(self.features(x))


FLOOR: float
CEILING: float
HALVES: float
ACCURACY: float
COUNT: int


@dataclass(frozen=True, eq=False)
class Reference:
    """The classifier, the statistics of the whole data set in its features, and the figures measured with them."""

    classifier: Classifier
    feature_mean: Tensor
    feature_scale: Tensor
    mean: Tensor
    covariance: Tensor
    figures: dict[str, Any]


@functools.cache
def reference(path: str | os.PathLike[str] = WEIGHTS) -> Reference:
    """What is shipped, read once."""
    tensors, meta = read_checkpoint(path, FORMAT, _RETRAIN)
    try:
        shift, scale, mean, covariance = (tensors.pop(name).double() for name in STATISTICS)
        figures = json.loads(meta["figures"])
    except (KeyError, ValueError) as error:
        raise InputError(os.fspath(path), "metadata", f"cannot be read ({error})", _RETRAIN) from None
    classifier = Classifier()
    fill(classifier, tensors, path, _RETRAIN)
    return Reference(classifier, shift, scale, mean, covariance, figures)


def raw_features(classifier: Classifier, images: Tensor, chunk: int = 512) -> Tensor:
    """The penultimate layer, float64; images of shape (n, 1, 8, 8) or (n, 64) in [-1, 1]."""
    with torch.no_grad():
        parts = images.detach().to("cpu", torch.float32).reshape(-1, 1, 8, 8).split(chunk)
        return torch.cat([classifier.features(part) for part in parts]).double()


def features(images: Tensor) -> Tensor:
    """The standardised features of images: (n, 32), float64."""
    shipped = reference()
    return (raw_features(shipped.classifier, images) - shipped.feature_mean) / shipped.feature_scale


def predict(images: Tensor) -> Tensor:
    """The class probabilities of images: (n, 10)."""
    classifier = reference().classifier
    with torch.no_grad():
        return classifier(images.detach().to("cpu", torch.float32).reshape(-1, 1, 8, 8)).softmax(dim=1)


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


def distance(samples: Tensor) -> float:
    """The distance of samples, (n, 1, 8, 8) in [-1, 1], to the whole data set; a few hundred samples at the least."""
    if len(samples) < 2:
        raise ValueError("a distance takes at least two samples")
    shipped = reference()
    return frechet_distance(*statistics(features(samples)), shipped.mean, shipped.covariance)


def __getattr__(name: str) -> Any:
    """``FLOOR``, ``CEILING``, ``HALVES``, ``ACCURACY`` and the ``COUNT`` of samples they were measured at."""
    if name in ("FLOOR", "CEILING", "HALVES", "ACCURACY", "COUNT"):
        return reference().figures[name.lower()]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
