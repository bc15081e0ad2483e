"""Train the small classifier whose features FD (digits-CNN) is measured in, and measure its floor and ceiling.

    python examples/train_classifier.py                    # some seconds

The same fifth of the digits is held out, every fifth. The statistics are those of the whole data set.
"""

from __future__ import annotations

import json
from pathlib import Path

import click
import torch
import torch.nn.functional as F
from torch import Tensor

from stepsmith.measure import frechet
from stepsmith.runtime.networks import checkpoint

COUNT = 900  # samples that a distance is usually measured on; half of the data, nearly


def load_data() -> tuple[Tensor, Tensor, Tensor]:
    """The digits in [-1, 1], their classes, and which of them are held out."""
    from sklearn.datasets import load_digits

    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32)[:, None] / 8 - 1
    return images, torch.tensor(data.target), torch.arange(len(images)) % 5 == 0


def train(images: Tensor, classes: Tensor, epochs: int, batch: int = 64) -> frechet.Classifier:
    """Cross entropy with a little noise on the images."""
    classifier = frechet.Classifier()
    steps = epochs * len(images) // batch
    optimizer = torch.optim.AdamW(classifier.parameters(), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    for step in range(steps):
        pick = torch.randint(len(images), (batch,))
        noisy = images[pick] + 0.1 * torch.randn(batch, 1, 8, 8)
        loss = F.cross_entropy(classifier(noisy), classes[pick])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if (step + 1) % 100 == 0 or step + 1 == steps:
            click.echo(f"step {step + 1}/{steps}  loss {loss.item():.4f}")
    return classifier.eval().requires_grad_(False)


def standardised(classifier: frechet.Classifier, images: Tensor) -> dict[str, Tensor]:
    """The features of the whole data set: their scale, and their statistics on that scale."""
    raw = frechet.raw_features(classifier, images)
    mean, scale = raw.mean(dim=0), raw.std(dim=0)
    centre, covariance = frechet.statistics((raw - mean) / scale)
    return {"feature_mean": mean, "feature_scale": scale, "mean": centre, "covariance": covariance}


def measure(classifier: frechet.Classifier, images: Tensor, stats: dict[str, Tensor]) -> dict[str, float]:
    """The distance of two halves, of data drawn again, and of noise: the average of twenty."""
    repeats = 20

    def statistics(batch: Tensor) -> tuple[Tensor, Tensor]:
        raw = frechet.raw_features(classifier, batch)
        return frechet.statistics((raw - stats["feature_mean"]) / stats["feature_scale"])

    whole = (stats["mean"], stats["covariance"])
    figures = {"floor": 0.0, "halves": 0.0, "ceiling": 0.0}
    for _ in range(repeats):
        order = torch.randperm(len(images))
        halves = statistics(images[order[:COUNT]]), statistics(images[order[COUNT:]])
        again = images[torch.randint(len(images), (COUNT,))]
        noise = images.mean() + images.std() * torch.randn(COUNT, *images.shape[1:])
        figures["halves"] += frechet.frechet_distance(*halves[0], *halves[1]) / repeats
        figures["floor"] += frechet.frechet_distance(*statistics(again), *whole) / repeats
        figures["ceiling"] += frechet.frechet_distance(*statistics(noise), *whole) / repeats
    return figures


@click.command()
@click.option("--epochs", default=25, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--threads", default=1, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=frechet.WEIGHTS, show_default=True)
def main(epochs: int, seed: int, threads: int, out: Path) -> None:
    """Train, measure, and write the checkpoint."""
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    images, classes, held = load_data()
    classifier = train(images[~held], classes[~held], epochs)
    with torch.no_grad():
        accuracy = (classifier(images[held]).argmax(dim=1) == classes[held]).float().mean().item()
    stats = standardised(classifier, images)
    figures = {key: round(value, 4) for key, value in measure(classifier, images, stats).items()}
    figures |= {"accuracy": round(accuracy, 4), "count": COUNT}
    meta = {"format": frechet.FORMAT, "figures": json.dumps(figures)}
    checkpoint.write_checkpoint(out, classifier.state_dict() | stats, meta)
    click.echo(f"{figures}\n{out}: {out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
