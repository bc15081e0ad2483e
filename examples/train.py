"""Train a small network on your own images: a denoiser of plain noise, or the epsilon network of a diffusion of several blocks.

    python examples/train.py --data DIR --sde psld --out net.safetensors     # pictures of one size, or an .npz
    python examples/train.py --data fashion --minutes 45                     # Fashion-MNIST (Debian: dataset-fashion-mnist)
    python examples/train.py --data digits --patch 1 --batch 128 --dropout 0.2 --minutes 7   # scikit-learn's
    stepsmith sample --network net.safetensors --sde psld --out samples.png

The loss is the squared error of F, the raw network (runtime/networks/unet.py), whose target has the variance 1 at every noise
level; noise levels are log-normal, one in five even in ln(sigma).  Every tenth image, at most 1,000, is held out.  What is
written: the averaged weights as float16 safetensors, beside them FILE.state.safetensors, from which the same command goes on, and
a picture of the loss and of samples.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

import stepsmith as ss
from stepsmith.errors import InputError
from stepsmith.runtime import data as images_of
from stepsmith.runtime.networks import edm_coefficients, unet
from stepsmith.runtime.roots import invert_increasing

RANGE = (0.005, 80.0)
TIMES = (0.001, 0.01, 0.1, 0.3, 0.8)  # at which an epsilon network is judged
SIGMAS = (0.02, 0.1, 0.3, 1.0, 3.0, 10.0)  # and a denoiser
SAVE = 240.0  # seconds between two checkpoints


@dataclass(frozen=True, eq=False)
class Task:
    """What is learned: the network, its loss a sample at noise levels (batch,), and the levels at which it is judged."""

    net: nn.Module
    about: unet.About
    loss: Callable[[nn.Module, Tensor, Tensor, torch.Generator], Tensor]
    levels: dict[str, float]
    network: Callable[[nn.Module], Any]


def denoiser(data: Tensor, sizes: unet.Sizes, dropout: float) -> Task:
    """A denoiser in EDM's preconditioning (arXiv 2206.00364)."""
    about = unet.About(tuple(data.shape[1:]), sizes, round(data.std().item(), 4), RANGE)
    channels = about.shape[0]

    def loss(net: nn.Module, clean: Tensor, sigma: Tensor, generator: torch.Generator) -> Tensor:
        level = sigma.reshape(-1, 1, 1, 1)
        noisy = clean + level * torch.randn(clean.shape, generator=generator)
        skip, out, scale, feature = edm_coefficients(level, about.sigma_data)
        return ((skip * noisy + out * net(scale * noisy, feature) - clean) / out).square().mean((1, 2, 3))

    def network(net: nn.Module) -> Any:
        return ss.networks.from_edm(net, about.sigma_data, about.shape, about.sigma_range)

    return Task(unet.UNet(channels, channels, sizes, dropout), about, loss, {f"sigma {s:g}": s for s in SIGMAS}, network)


def epsilon(name: str, data: Tensor, sizes: unet.Sizes, dropout: float) -> Task:
    """The epsilon of a diffusion whose first block is the data, in its lower Cholesky factor: PSLD's hybrid score matching."""
    sde = ss.load_sde(name)
    module = ss.load(ss.emit(ss.derive(sde, "euler", "eps-L")))
    mean = data.mean(0)
    spread = round((data - mean).square().mean().sqrt().item(), 4)
    ends = torch.tensor([sde.time[0] + 5e-4, sde.time[1]], dtype=torch.float64)
    first, last = sigma_of(module, ends).tolist()
    about = unet.About(tuple(data.shape[1:]), sizes, spread, (first, last), sde.name)
    net = unet.EpsL(len(sde.state), about, dropout)
    net.mean.copy_(mean)
    net.table.copy_(table(module, ends, first, last))

    def loss(net: nn.Module, clean: Tensor, sigma: Tensor, generator: torch.Generator) -> Tensor:
        _, psi, L = net.law(sigma)
        psi, L = psi.float()[..., None, None, None], L.float()[..., None, None, None]
        eps = torch.randn(len(clean), net.blocks, *clean.shape[1:], generator=generator)
        z = psi * clean[:, None] + (L * eps[:, None]).sum(2)
        scale = (sigma.square() + spread**2) / spread**2  # an error of F has this share in that of eps
        return scale * (net(z, sigma) - eps).square().sum(1).mean((1, 2, 3))

    times = torch.tensor(TIMES, dtype=torch.float64)
    levels = {f"t {t:g}": s for t, s in zip(TIMES, net.sigma_at(times).tolist(), strict=True)}
    return Task(net, about, loss, levels, lambda net: unet.eps_network(net, about))


def sigma_of(module: Any, times: Tensor) -> Tensor:
    """The effective sigma 1/|L^-1 psi| at times (n,)."""
    lead = torch.linalg.solve_triangular(module.start(times), module.start_data(times), upper=False)
    return 1 / lead.norm(dim=(-2, -1))


def table(module: Any, ends: Tensor, first: float, last: float) -> Tensor:
    """t, psi and L at unet.LEVELS times from one end to the other, even in ln(sigma)."""
    inner = np.geomspace(first, last, unet.LEVELS)[1:-1]
    found = invert_increasing(lambda t: sigma_of(module, torch.from_numpy(t)).numpy(), inner, *ends.tolist())
    times = torch.cat((ends[:1], torch.from_numpy(found), ends[1:]))
    return torch.cat((times[:, None], module.start_data(times)[..., 0], module.start(times).flatten(1)), dim=1)


def draw_sigma(count: int, about: unet.About, generator: torch.Generator) -> Tensor:
    """Four fifths log-normal, where the image forms; one fifth even in ln(sigma)."""
    normal = torch.randn(count, generator=generator) * 1.3 - 0.5
    lo, hi = (math.log(value) for value in about.sigma_range)
    even = lo + (hi - lo) * torch.rand(count, generator=generator)
    return torch.where(torch.rand(count, generator=generator) < 0.2, even, normal.clamp(lo, hi)).exp()


def read(source: str) -> Tensor:
    """The images that are named on the command line, (n, channels, H, W) in [-1, 1]."""
    if source == "digits":
        from sklearn.datasets import load_digits

        return torch.tensor(load_digits().images, dtype=torch.float32)[:, None] / 8 - 1
    return images_of.fashion()[0] if source == "fashion" else images_of.images(source)


@torch.no_grad()
def judge(task: Task, average: nn.Module, held: Tensor) -> dict[str, float]:
    """The loss on images that were held out, the same noise every time; of an epsilon network the mean square of its error."""
    found = {}
    for name, level in task.levels.items():
        sigma = torch.full((len(held),), level)
        loss = task.loss(average, held, sigma, torch.Generator().manual_seed(1)).mean().item()
        scale = (level**2 + task.about.sigma_data**2) / task.about.sigma_data**2 * task.net.blocks if task.about.sde else 1.0
        found[name] = round(loss / scale, 6)
    return found


@dataclass(eq=False)
class Course:
    """A training run: what changes while it runs, and how it is kept."""

    task: Task
    average: nn.Module
    optimizer: torch.optim.Optimizer
    generator: torch.Generator
    step: int = 0
    seconds: float = 0.0
    curve: tuple[float, ...] = ()

    @classmethod
    def of(cls, task: Task, rate: float, seed: int) -> Course:
        average = copy.deepcopy(task.net).eval().requires_grad_(False)
        optimizer = torch.optim.AdamW(task.net.parameters(), lr=rate, betas=(0.9, 0.99), weight_decay=0.01)
        return cls(task, average, optimizer, torch.Generator().manual_seed(seed))

    def advance(self, data: Tensor, batch: int, rate: float, progress: float) -> float:
        """One step of AdamW at a rate that rises over 300 steps and falls like a cosine over the time given; the loss."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate * min(1, (self.step + 1) / 300) * math.cos(math.pi / 2 * min(progress, 1)) ** 2
        pick = torch.randint(len(data), (batch,), generator=self.generator)
        sigma = draw_sigma(batch, self.task.about, self.generator)
        value = self.task.loss(self.task.net, data[pick], sigma, self.generator).mean()
        self.optimizer.zero_grad(set_to_none=True)
        value.backward()
        nn.utils.clip_grad_norm_(self.task.net.parameters(), 1.0)
        self.optimizer.step()
        weight = 1 - min(0.999, (1 + self.step) / (10 + self.step))
        for mean, weights in zip(self.average.parameters(), self.task.net.parameters(), strict=True):
            mean.lerp_(weights.detach(), weight)
        self.step += 1
        return value.item()

    def save(self, path: Path) -> None:
        """Everything that the run goes on from; whole, or not at all."""
        tensors = {f"net.{key}": value for key, value in self.task.net.state_dict().items()}
        tensors |= {f"average.{key}": value for key, value in self.average.state_dict().items()}
        for k, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{k}.{key}": value for key, value in state.items()}
        tensors |= {"generator": self.generator.get_state(), "torch": torch.get_rng_state(), "curve": torch.tensor(self.curve)}
        part = path.with_name(f"{path.name}.part")
        meta = {"step": str(self.step), "seconds": repr(self.seconds)}
        save_file({key: value.contiguous().clone() for key, value in tensors.items()}, part, meta)
        part.replace(path)

    def load(self, path: Path) -> None:
        """Go on from a file of ``save``."""
        with safe_open(path, framework="pt") as file:
            meta, tensors = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
        parts: dict[str, dict[str, Tensor]] = {"net": {}, "average": {}, "optimizer": {}}
        for key, value in tensors.items():
            head, _, rest = key.partition(".")
            if head in parts:
                parts[head][rest] = value
        try:
            self.task.net.load_state_dict(parts["net"])
            self.average.load_state_dict(parts["average"])
        except RuntimeError as error:
            raise InputError(str(path), "state", "it is of another network", "give another --out, or remove it") from error
        known: dict[int, dict[str, Tensor]] = {}
        for key, value in parts["optimizer"].items():
            k, _, name = key.partition(".")
            known.setdefault(int(k), {})[name] = value
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": known})
        self.generator.set_state(tensors["generator"])
        torch.set_rng_state(tensors["torch"])
        self.step, self.seconds = int(meta["step"]), float(meta["seconds"])
        self.curve = tuple(tensors["curve"].tolist())


def picture(path: Path, task: Task, course: Course) -> None:
    """The loss so far, and sixteen samples of the averaged network."""
    import warnings

    from matplotlib.figure import Figure

    from stepsmith.runtime.output import image_grid

    name, kind = (task.about.sde, "eps-L") if task.about.sde else ("edm", "denoiser")
    method = ss.derive(name, "conjugate", kind, frame="eps-R" if task.about.sde else None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        grid = ss.TimeGrid.quadratic(method.sde, 25) if task.about.sde else ss.TimeGrid.edm(method.sde, 25)
        samples = ss.sample(ss.load(ss.emit(method)), task.network(course.average), grid, range(16))
    figure = Figure(figsize=(9, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.semilogy(np.linspace(0, course.step, len(course.curve)), course.curve, color="black", linewidth=0.8)
    left.set(xlabel="step", ylabel="loss", title=f"{course.seconds / 60:.0f} minutes")
    right.imshow(image_grid(samples), cmap="gray")
    right.set(xticks=[], yticks=[], title=f"{method.name}, 25 calls")
    figure.savefig(path)


def keep(course: Course, held: Tensor, out: Path, told: dict[str, Any]) -> None:
    """Write the averaged weights with their record, the state and the picture."""
    course.save(out.with_name(f"{out.name}.state.safetensors"))
    losses = judge(course.task, course.average, held)
    record = told | {"steps": course.step, "seconds": round(course.seconds), "held_out": losses}
    unet.write(out, course.average, replace(course.task.about, training=record))
    tqdm.write(f"step {course.step}, {course.seconds:.0f} s: held out {losses}")
    picture(out.with_suffix(".png"), course.task, course)


@click.command()
@click.option("--data", required=True, help="fashion, digits, a folder of pictures of one size, or an .npz file.")
@click.option("--sde", default="edm", show_default=True, help="edm: a denoiser; else a diffusion: its epsilon.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("net.safetensors"), show_default=True)
@click.option("--minutes", default=45.0, show_default=True)
@click.option("--batch", default=64, show_default=True)
@click.option("--rate", default=1e-3, show_default=True)
@click.option("--width", default=32, show_default=True, help="Channels of the outer resolution; the inner one has twice as many.")
@click.option("--patch", default=2, show_default=True, help="Pixels a side that are one place of the outer resolution.")
@click.option("--dropout", default=0.0, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--threads", default=1, show_default=True)
def main(
    data: str, sde: str, out: Path, minutes: float, batch: int, rate: float, width: int, patch: int, dropout: float, seed: int,
    threads: int,
) -> None:  # fmt: skip
    """Train, or go on training."""
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    known = read(data)
    if any(side % (2 * patch) for side in known.shape[2:]):
        what = f"sides of {tuple(known.shape[2:])} are no multiples of {2 * patch}"
        raise InputError(data, "patch", what, "crop or pad the images")
    held_out = torch.arange(len(known)) % 10 == 0
    held, known = known[held_out][:1000], known[~held_out]
    sizes = unet.Sizes(width, 2 * width, 4 * width, 4, patch)
    task = denoiser(known, sizes, dropout) if sde == "edm" else epsilon(sde, known, sizes, dropout)
    course = Course.of(task, rate, seed)
    state = out.with_name(f"{out.name}.state.safetensors")
    if state.is_file():
        course.load(state)
    told = {"data": Path(data).name, "batch": batch, "rate": rate, "seed": seed, "minutes": minutes}
    count = sum(p.numel() for p in task.net.parameters())
    click.echo(f"{len(known)} images of {tuple(known.shape[1:])}, {count / 1e6:.2f} M parameters, from step {course.step}")
    saved, mean = time.monotonic(), course.curve[-1] if course.curve else 1.0
    with tqdm(total=round(60 * minutes), initial=round(course.seconds), unit="s", desc="train") as bar:
        while course.seconds < 60 * minutes:
            begun = time.monotonic()
            mean += 0.02 * (course.advance(known, batch, rate, course.seconds / (60 * minutes)) - mean)
            course.seconds += time.monotonic() - begun
            if course.step % 20 == 0:
                course.curve += (mean,)
                bar.n = min(round(course.seconds), bar.total)
                bar.set_postfix(loss=f"{mean:.4f}", step=course.step)
            if time.monotonic() - saved > SAVE:
                keep(course, held, out, told)
                saved = time.monotonic()
    keep(course, held, out, told)


if __name__ == "__main__":
    try:
        main()
    except InputError as wrong:
        raise SystemExit(str(wrong)) from None
