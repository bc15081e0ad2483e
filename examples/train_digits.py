"""Train the shipped denoiser of scikit-learn's digits: EDM's loss, log-normal noise, averaged weights.

    python examples/train_digits.py                        # seven minutes on one core
    python examples/train_digits.py --steps 500 --out quick.safetensors

Every fifth digit is held out; the record in the checkpoint tells the loss on both parts.
"""

from __future__ import annotations

import copy
import math
import time
from pathlib import Path

import click
import torch
from torch import Tensor, nn

from stepsmith.runtime import networks
from stepsmith.runtime.networks import digits

RANGE = (0.005, 80.0)


def load_data() -> tuple[Tensor, Tensor]:
    """The digits in [-1, 1], (n, 1, 8, 8): those trained on, and every fifth, held out."""
    from sklearn.datasets import load_digits

    images = torch.tensor(load_digits().images, dtype=torch.float32)[:, None] / 8 - 1
    held = torch.arange(len(images)) % 5 == 0
    return images[~held], images[held]


def draw_sigma(count: int, generator: torch.Generator) -> Tensor:
    """Four fifths log-normal, where the digits form; one fifth even in ln(sigma), a little past the range."""
    normal = torch.randn(count, generator=generator) * 1.3 - 0.5
    lo, hi = (math.log(value) for value in RANGE)
    even = lo - 0.2 + (hi - lo + 0.4) * torch.rand(count, generator=generator)
    return torch.where(torch.rand(count, generator=generator) < 0.2, even, normal).exp()


def loss(net: nn.Module, clean: Tensor, sigma: Tensor, noise: Tensor, sigma_data: float) -> Tensor:
    """EDM's weighted squared error of the denoiser, one number a sample; the linear denoiser of white data has 1."""
    level = sigma.reshape(-1, 1, 1, 1)
    noisy = clean + level * noise
    skip, out, scale, feature = networks.edm_coefficients(level, sigma_data)
    denoised = skip * noisy + out * net(scale * noisy, feature)
    return ((denoised - clean) / out).square().mean(dim=(1, 2, 3))


def evaluate(net: nn.Module, images: Tensor, sigma_data: float, levels: tuple[float, ...]) -> list[float]:
    """The loss at each of the levels, with the same noise every time."""
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        sigmas = (torch.full((len(images),), level) for level in levels)
        return [round(loss(net, images, sigma, noise, sigma_data).mean().item(), 4) for sigma in sigmas]


def follow(average: nn.Module, net: nn.Module, step: int) -> None:
    """Move the average towards the weights; quickly at first."""
    weight = 1 - min(0.999, (1 + step) / (10 + step))
    for mean, value in zip(average.parameters(), net.parameters(), strict=True):
        mean.lerp_(value.detach(), weight)


def record(average: nn.Module, data: Tensor, held: Tensor, sigma_data: float) -> dict[str, object]:
    """The loss of the averaged network, on what it was trained on and on what it never saw."""
    levels = (0.02, 0.1, 0.3, 1.0, 3.0, 10.0)
    trained, unseen = (evaluate(average, images, sigma_data, levels) for images in (data, held))
    click.echo(f"loss at sigma {levels}: trained {trained}, held out {unseen}")
    return {"levels": levels, "trained": trained, "held_out": unseen}


def train(steps: int, batch: int, rate: float, dropout: float, seed: int) -> tuple[digits.DigitsNet, digits.About]:
    """The averaged network and its record."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    data, held = load_data()
    sigma_data = round(data.std().item(), 3)
    net = digits.DigitsNet(dropout=dropout)
    average = copy.deepcopy(net).eval().requires_grad_(False)
    optimizer = torch.optim.AdamW(net.parameters(), lr=rate, betas=(0.9, 0.99), weight_decay=0.01)
    start, mean = time.time(), 1.0
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1, (step + 1) / 300) * math.cos(math.pi / 2 * step / steps) ** 2
        clean = data[torch.randint(len(data), (batch,), generator=generator)]
        noise = torch.randn(clean.shape, generator=generator)
        value = loss(net, clean, draw_sigma(batch, generator), noise, sigma_data).mean()
        optimizer.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        follow(average, net, step)
        mean += 0.01 * (value.item() - mean)
        if (step + 1) % 250 == 0 or step + 1 == steps:
            click.echo(f"step {step + 1}/{steps}  loss {mean:.4f}  {time.time() - start:.0f} s")
    about = {"steps": steps, "batch": batch, "rate": rate, "dropout": dropout, "seed": seed, "loss": round(mean, 4)}
    about |= {"seconds": round(time.time() - start)} | record(average, data, held, sigma_data)
    return average, digits.About(net.sizes, sigma_data, RANGE, about)


@click.command()
@click.option("--steps", default=4500, show_default=True)
@click.option("--batch", default=128, show_default=True)
@click.option("--rate", default=1e-3, show_default=True)
@click.option("--dropout", default=0.2, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--threads", default=1, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=digits.WEIGHTS, show_default=True)
def main(steps: int, batch: int, rate: float, dropout: float, seed: int, threads: int, out: Path) -> None:
    """Train, and write the checkpoint."""
    torch.set_num_threads(threads)
    net, about = train(steps, batch, rate, dropout, seed)
    digits.write(out, net, about)
    click.echo(f"{out}: {out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
