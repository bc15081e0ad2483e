"""Somebody else's sampler, judged as it ships: a diffusers scheduler or a k-diffusion function on exactly known problems.

Noise levels are s = sigma/alpha.  In y = x/alpha the probability flow is dy/ds = (y - D(y, s))/s with D the exact denoiser, here
of a mixture of Gaussians in the plane; scipy follows it to 1e-11.

    formula   each step starts from the exact state with exact values before it; its error falls like h^(p+1), h = log(s0/s1),
              at middling noise levels: p is the order of the common step (schedulers only).  Of a corrector that keeps its
              state as ``last_sample`` that state is judged
    run       from the first level to s = .2 the error falls like N^-p, first steps included
    last      the error that the step to the end itself makes: it does not fall with N where the end is s = 0
    drawn     for samplers that draw noise, on Gaussian data of independent values with means that differ: the variance over the
              exact one, the offset of the mean, and the correlations of the values of a sample and of the samples, which are 0
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from stepsmith.errors import InputError
from stepsmith.measure.problems import Gaussian, GaussianMixture
from stepsmith.measure.subjects import Denoiser, Function, Scheduler, Subject

STEPS = (20, 40, 80, 160, 320)
MIDDLE = (0.2, 5.0)  # the noise levels between which the formula is judged
PATHS, SAMPLES, SEED = 24, 2048, 3
MOMENTS = ("variance", "mean", "within", "between")
CHANCE = 6  # standard errors: what is further off than this is wrong, not unlucky
FLOOR = 4e-7  # schedulers that round states or coefficients to float32 have errors of this size
LEAST = 0.3  # an error that falls by less than h^LEAST does not fall
ALL, ROWS = slice(None), [slice(i, i + 1) for i in range(4)]  # of a batch of four
MIXTURE = GaussianMixture([0.5, 0.3, 0.2], [[1.0, 0.5], [-0.8, 0.7], [0.1, -1.2]], [0.3, 0.2, 0.25])
PLAIN = Gaussian(torch.linspace(-0.35, 0.35, 8), 0.25)  # images of two channels and two by two pixels


@dataclass(frozen=True)
class Report:
    """What was found; None where it was not measured."""

    name: str
    random: bool
    formula: float | None
    run: float | None
    errors: dict[int, float]  # of a run, by its steps
    last: float | None
    variance: dict[int, tuple[float, float]]  # over the exact one, by the steps, with its standard error
    mean: dict[int, tuple[float, float]]  # the offset of the value that is furthest off, likewise
    within: dict[int, tuple[float, float]]  # the largest correlation of two values of a sample, likewise
    between: dict[int, tuple[float, float]]  # and of samples a distance apart in the batch
    repeats: bool  # the same generator, the same samples
    batch: bool  # a sample is the same alone and in a batch
    independent: bool  # a sample stays as it is where the others of its batch are replaced
    syncs: float  # values read back from the device a step
    half: dict[str, float]  # the error that a state of bfloat16 and of float32 adds

    @property
    def stalls(self) -> bool:
        """The error of a run does not go on falling with its grid, and that is not rounding."""
        return self.run is None and bool(self.errors) and not list(self.errors.values())[-1] < rounded()


def judge(subject: Subject, steps: Sequence[int] = STEPS) -> Report:
    """All of it; a minute or less.  InputError for a sampler that gives what is no number."""
    runs = [ended(subject, 12, seed) for seed in (1, 1, 2)]
    if not all(run.isfinite().all() for run in runs):
        raise InputError("-", "sampler", f"{subject.name} gives NaN or infinity in 12 steps", "look at what it does there")
    random = not torch.equal(runs[0], runs[2])
    found: dict[str, Any] = {"formula": None, "run": None, "errors": {}, "last": None}
    moments = {n: drawn(subject, n) for n in steps[:2]} if random else {}
    for name in MOMENTS:
        found[name] = {n: moment[name] for n, moment in moments.items()}
    if not random:
        errors, last = run_errors(subject, steps)
        found |= {"run": slope({1 / n: e for n, e in errors.items()}), "errors": errors, "last": last}
        if isinstance(subject, Scheduler):
            found["formula"] = formula(subject, steps)
    batch = batch_invariant(subject)
    found |= {"repeats": torch.equal(runs[0], runs[1]), "batch": batch, "independent": batch or independent(subject)}
    return Report(subject.name, random, **found, syncs=synchronisations(subject), half=rounding(subject))


def starts(problem: GaussianMixture, count: int) -> Callable[[float], torch.Tensor]:
    """Draws of y at a level, images of two channels, the same normals at every level."""
    data = problem.sample(count, SEED)
    noise = torch.randn(data.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(SEED + 1))
    side = math.isqrt(problem.size // 2)
    return lambda level: (data + level * noise).reshape(count, 2, side, side)


def network(problem: GaussianMixture) -> Denoiser:
    return lambda y, level: problem.denoiser(y.flatten(1), level).reshape(y.shape)


def flow(y: torch.Tensor, levels: Sequence[float]) -> list[torch.Tensor]:
    """y along the probability flow of the mixture, from the first level down to each of them, by scipy in log s."""
    from scipy.integrate import solve_ivp

    def rate(u: float, flat: np.ndarray) -> np.ndarray:
        here = torch.from_numpy(flat).reshape(-1, 2)
        return (here - MIXTURE.denoiser(here, math.exp(u))).numpy().ravel()

    times = np.log(np.maximum(levels, 1e-7))
    found = solve_ivp(rate, (times[0], times[-1]), y.numpy().ravel(), "DOP853", times, rtol=1e-11, atol=1e-11)
    return [torch.from_numpy(column).reshape(y.shape) for column in found.y.T]


def formula(subject: Scheduler, steps: Sequence[int]) -> float | None:
    """The order of the common step."""
    found: dict[float, float] = {}
    for n in steps:
        one = subject.make()
        one.set_timesteps(n)
        levels, calls = subject.levels(one), subject.calls
        if len(levels) - 1 not in (n, n * calls - calls + 1):
            return None  # steps of several kinds: no row is the common one
        ends = levels[::calls]
        truth = flow(starts(MIXTURE, PATHS)(ends[0]), ends)

        def exact(i: int, truth: list[torch.Tensor] = truth, calls: int = calls) -> torch.Tensor:
            return truth[min(i // calls, len(truth) - 1)]

        walk = subject.walk(n, starts(MIXTURE, PATHS), network(MIXTURE), exact=exact)
        pairs = []
        for k, (a, b) in enumerate(itertools.pairwise(ends)):
            if MIDDLE[0] < b and a < MIDDLE[1] and k >= 4 and (k + 1) * calls < len(walk.states) - 1:
                gap = subject.y(walk, (k + 1) * calls) - truth[k + 1]
                pairs.append((math.log(a / b), gap.square().mean().sqrt().item()))
        if len(pairs) >= 2:
            h, e = np.exp(np.mean(np.log(np.maximum(pairs, 1e-300)), axis=0)).tolist()
            found[h] = e
    order = slope(found, 1e-9)  # in float64 but for what a scheduler casts by itself
    return None if order is None else order - 1


def run_errors(subject: Subject, steps: Sequence[int]) -> tuple[dict[int, float], float | None]:
    """The error at the last level before the end by the number of steps, and that of the step to the end with the most steps."""
    errors, last = {}, None
    for n in steps:
        walk = subject.walk(n, starts(MIXTURE, PATHS), network(MIXTURE))
        calls = getattr(subject, "calls", 1)
        if isinstance(subject, Function):
            k = 1
        else:
            near = [abs(math.log(level / MIDDLE[0])) for level in walk.levels[::calls]]
            k = calls * near.index(min(near[1:]))
            final = (len(walk.levels) - 1) // calls * calls
            here = flow(subject.y(walk, final), [walk.levels[final], walk.end])[1]
            last = (subject.y(walk, len(walk.levels)) - here).square().mean().sqrt().item()
        truth = flow(subject.y(walk, 0), [walk.levels[0], walk.levels[k]])[1]
        errors[n] = (subject.y(walk, k) - truth).square().mean().sqrt().item()
    return errors, last


def slope(errors: Mapping[float, float], floor: float = FLOOR) -> float | None:
    """log(e1/e2)/log(h1/h2) of the error of the finest grid and the least one before it, by h; None where it is no fall.

    Rounding makes a plateau at the end: what does not fall there is left out, but only if it is as small as roundings are.
    """
    known = [(h, max(e, floor)) for h, e in errors.items()]
    while len(known) > 1:
        h2, e2 = known.pop()
        h1, e1 = min(known, key=lambda pair: pair[1])
        order = math.log(e1 / e2) / math.log(h1 / h2)
        if e2 > floor and order >= LEAST:
            return order
        if not e2 < rounded(floor):
            return None
    return None


def rounded(floor: float = FLOOR) -> float:
    """Errors below this size may be those of rounding; a scheduler may cast to float32 by itself."""
    return max(10 * floor, FLOOR)


def ended(
    subject: Subject, steps: int, seed: int, rows: slice = ALL, kept: slice = ALL, dtype: torch.dtype = torch.float64
) -> torch.Tensor:  # fmt: skip
    """The last y of a run of the mixture, from some rows of four starts, of which those that are not ``kept`` are replaced by
    others; schedulers get a generator a sample, where they draw."""
    four = starts(MIXTURE, 4)
    generators: Any = torch.Generator().manual_seed(seed)
    if isinstance(subject, Scheduler):
        generators = [torch.Generator().manual_seed(seed + i) for i in range(4)][rows]

    def start(level: float) -> torch.Tensor:
        y = four(level) + level  # others: a standard deviation away
        y[kept] = four(level)[kept]
        return y[rows]

    walk = subject.walk(steps, start, network(MIXTURE), generators, dtype=dtype)
    return subject.y(walk, len(walk.levels))


def batch_invariant(subject: Subject) -> bool:
    """Whether each of four samples is the same alone, up to rounding; a scheduler is given a generator a sample, and torch's own,
    from which a function draws, is seeded anew."""
    return _same(subject, [(row, ended(subject, 12, 1, rows=row)) for row in ROWS])


def independent(subject: Subject) -> bool:
    """Whether each of four samples is the same, up to rounding, where the other three are replaced and the draws are not."""
    return _same(subject, [(row, ended(subject, 12, 1, kept=row)[row]) for row in ROWS])


def _same(subject: Subject, found: Sequence[tuple[slice, torch.Tensor]]) -> bool:
    together = ended(subject, 12, 1)
    return all(torch.allclose(together[row], y, rtol=0, atol=1e-5) for row, y in found)


def drawn(subject: Subject, steps: int) -> dict[str, tuple[float, float]]:
    """What MOMENTS names of the samples of Gaussian data, each with its standard error."""
    generator = torch.Generator().manual_seed(SEED)
    walk = subject.walk(steps, starts(PLAIN, SAMPLES), network(PLAIN), generator)
    y = subject.y(walk, len(walk.levels)).flatten(1)
    middle, spread = y.mean(0), y.std(0)
    offsets = middle - PLAIN.means[0]
    worst = offsets.abs().argmax()
    units = (y - middle) / spread.clamp_min(1e-300)
    matrix = units.T @ units / SAMPLES
    values = matrix.triu(1)
    spectrum = torch.fft.rfft(units, dim=0).abs().square().mean(1)  # of the samples one after the other: all distances at once
    samples = torch.fft.irfft(spectrum, n=SAMPLES)[1:] / SAMPLES
    return {
        "variance": (spread.square().mean().item() / (0.25 + walk.end**2), math.sqrt(2 / y.numel())),
        "mean": (offsets[worst].item(), spread[worst].item() / math.sqrt(SAMPLES)),
        "within": (values.flatten()[values.abs().argmax()].item(), 1 / math.sqrt(SAMPLES)),
        "between": (samples[samples.abs().argmax()].item(), matrix.norm().item() / PLAIN.size / math.sqrt(SAMPLES)),
    }


def rounding(subject: Subject) -> dict[str, float]:
    """The root mean square of what states of a narrower type change, at 20 steps."""
    kinds = {"bfloat16": torch.bfloat16, "float32": torch.float32}
    wide = ended(subject, 20, 1)
    return {name: (ended(subject, 20, 1, dtype=kind) - wide).square().mean().sqrt().item() for name, kind in kinds.items()}


class Reads(TorchDispatchMode):
    """Counts the values that are read back from a tensor: each waits for the device, where there is one."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            self.count += 1
        return func(*args, **(kwargs or {}))


def synchronisations(subject: Subject) -> float:
    """Values read back a step, those of the network not counted."""
    counts = []
    for steps in (10, 20):
        reads = Reads()
        subject.walk(steps, starts(MIXTURE, 2), network(MIXTURE), torch.Generator().manual_seed(1), reads=reads)
        counts.append(reads.count)
    return (counts[1] - counts[0]) / 10
