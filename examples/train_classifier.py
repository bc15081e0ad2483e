"""Train the small classifier in whose features the Frechet distance is measured, and measure its floor and ceiling.

    python examples/train_classifier.py --data digits      # some seconds
    python examples/train_classifier.py --data fashion     # three minutes; Debian: dataset-fashion-mnist

Every fifth digit is held out; Fashion-MNIST has test images of its own.  The statistics are those of all digits, and of the
60,000 images that networks are trained on.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import click
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from stepsmith.measure import frechet
from stepsmith.measure.paper import laplacian
from stepsmith.runtime import data as images_of
from stepsmith.runtime.networks import checkpoint


@dataclass(frozen=True, eq=False)
class Data:
    """Images to learn from and held out, their classes, those that samples are compared with, and how long to train."""

    images: Tensor
    classes: Tensor
    held: Tensor
    held_classes: Tensor
    whole: Tensor
    epochs: int
    noise: float  # added to what is learned from: features of noisy images say less of noise
    count: int  # samples that a distance is usually measured on


def read(name: str) -> Data:
    if name == "fashion":
        images, classes = images_of.fashion()
        return Data(images, classes, *images_of.fashion(split="test"), images, 5, 0.0, 1000)
    from sklearn.datasets import load_digits

    data = load_digits()
    images, classes = torch.tensor(data.images, dtype=torch.float32)[:, None] / 8 - 1, torch.tensor(data.target)
    held = torch.arange(len(images)) % 5 == 0
    return Data(images[~held], classes[~held], images[held], classes[held], images, 25, 0.1, 900)


def train(data: Data, batch: int = 64) -> frechet.Classifier:
    """Cross entropy."""
    classifier = frechet.Classifier(data.images.shape[1:])
    steps = data.epochs * len(data.images) // batch
    optimizer = torch.optim.AdamW(classifier.parameters(), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    bar = tqdm(range(steps), desc="train")
    for step in bar:
        pick = torch.randint(len(data.images), (batch,))
        clean = data.images[pick]
        loss = F.cross_entropy(classifier(clean + data.noise * torch.randn(clean.shape)), data.classes[pick])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            bar.set_postfix(loss=f"{loss.item():.4f}")
    return classifier.eval().requires_grad_(False)


def standardised(classifier: frechet.Classifier, images: Tensor) -> dict[str, Tensor]:
    """The features of the whole data set: their scale, and their statistics on that scale."""
    raw = frechet.raw_features(classifier, images)
    mean, scale = raw.mean(dim=0), raw.std(dim=0)
    centre, covariance = frechet.statistics((raw - mean) / scale)
    return {"feature_mean": mean, "feature_scale": scale, "mean": centre, "covariance": covariance}


def measure(classifier: frechet.Classifier, data: Data, stats: dict[str, Tensor]) -> dict[str, float]:
    """Distances of ``count`` images, the mean of ten: drawn again, held out, slightly spoiled, noise; and of two halves."""
    repeats, whole = 10, data.whole

    def statistics(batch: Tensor) -> tuple[Tensor, Tensor]:
        raw = frechet.raw_features(classifier, batch)
        return frechet.statistics((raw - stats["feature_mean"]) / stats["feature_scale"])

    def distance(batch: Tensor) -> float:
        return frechet.frechet_distance(*statistics(batch), stats["mean"], stats["covariance"]) / repeats

    figures = dict.fromkeys(("floor", "halves", "held", "noise .05", "noise .10", "blurred", "ceiling"), 0.0)
    for _ in range(repeats):
        order = torch.randperm(len(whole))
        halves = statistics(whole[order[: data.count]]), statistics(whole[order[data.count : 2 * data.count]])
        again = whole[torch.randint(len(whole), (data.count,))]
        figures["halves"] += frechet.frechet_distance(*halves[0], *halves[1]) / repeats
        figures["floor"] += distance(again)
        figures["held"] += distance(data.held[torch.randint(len(data.held), (data.count,))])
        figures["noise .05"] += distance(again + 0.05 * torch.randn(again.shape))
        figures["noise .10"] += distance(again + 0.1 * torch.randn(again.shape))
        figures["blurred"] += distance(F.interpolate(F.avg_pool2d(again, 2), scale_factor=2))
        figures["ceiling"] += distance(whole.mean() + whole.std() * torch.randn(again.shape))
    return figures


@click.command()
@click.option("--data", type=click.Choice(frechet.DATA), required=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--threads", default=1, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="The file in the package by default.")
def main(data: str, seed: int, threads: int, out: Path | None) -> None:
    """Train, measure, and write the checkpoint."""
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    known = read(data)
    classifier = train(known)
    with torch.no_grad():
        right = [classifier(x).argmax(1) == c for x, c in zip(known.held.split(500), known.held_classes.split(500), strict=True)]
    stats = standardised(classifier, known.whole)
    figures = {key: round(value, 4) for key, value in measure(classifier, known, stats).items()}
    figures["laplacian"] = round(laplacian(known.whole), 4)
    figures |= {"accuracy": round(torch.cat(right).float().mean().item(), 4), "count": known.count}
    meta = {"format": frechet.FORMAT, "figures": json.dumps(figures), "shape": json.dumps(list(known.images.shape[1:]))}
    out = out or frechet.WEIGHTS / f"{data}_classifier.safetensors"
    checkpoint.write_checkpoint(out, classifier.state_dict() | stats, meta)
    click.echo(f"{figures}\n{out}: {out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
