"""Somebody else's sampler, judged as it ships: a diffusers scheduler or a k-diffusion function on exactly known problems.

Noise levels are s = sigma/alpha.  In y = x/alpha the probability flow is dy/ds = (y - D(y, s))/s with D the exact denoiser, here
of a mixture of Gaussians in the plane; scipy follows it to 1e-11.

    formula   each step starts from the exact state with exact values before it; its error falls like h^(p+1), h = log(s0/s1),
              at middling noise levels: p is the order of the common step (schedulers only).  Of a corrector that keeps its
              state as ``last_sample`` that state is judged
    run       from the first level to s = .2 the error falls like N^-p, first steps included
    last      the error that the step to the end itself makes: it does not fall with N where the end is s = 0
    variance  of the data over the exact one, for samplers that draw noise, on Gaussian data
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

from stepsmith.measure.problems import Gaussian, GaussianMixture
from stepsmith.measure.subjects import Denoiser, Function, Scheduler, Subject

STEPS = (20, 40, 80, 160, 320)
MIDDLE = (0.2, 5.0)  # the noise levels between which the formula is judged
PATHS, SAMPLES, SEED = 24, 4096, 3
FLOOR = 4e-7  # schedulers that round states or coefficients to float32 have errors of this size
MIXTURE = GaussianMixture([0.5, 0.3, 0.2], [[1.0, 0.5], [-0.8, 0.7], [0.1, -1.2]], [0.3, 0.2, 0.25])
PLAIN = Gaussian(torch.tensor([0.2, -0.1]), 0.25)


@dataclass(frozen=True)
class Report:
    """What was found; None where it was not measured."""

    name: str
    random: bool
    formula: float | None
    run: float | None
    errors: dict[int, float]  # of a run, by its steps
    last: float | None
    variance: dict[int, tuple[float, float]]  # with its standard error
    repeats: bool  # the same generator, the same samples
    batch: bool  # a sample does not depend on its neighbours
    syncs: float  # values read back from the device a step
    half: dict[str, float]  # the error that a state of bfloat16 and of float32 adds


def judge(subject: Subject, steps: Sequence[int] = STEPS) -> Report:
    """All of it; a minute or less."""
    runs = [ended(subject, 12, seed) for seed in (1, 1, 2)]
    random = not torch.equal(runs[0], runs[2])
    found: dict[str, Any] = {"formula": None, "run": None, "errors": {}, "last": None, "variance": {}}
    if random:
        found["variance"] = {n: variance(subject, n) for n in steps[:2]}
    else:
        errors, last = run_errors(subject, steps)
        found |= {"run": slope({1 / n: e for n, e in errors.items()}), "errors": errors, "last": last}
        if isinstance(subject, Scheduler):
            found["formula"] = formula(subject, steps)
    half = {name: rounding(subject, kind) for name, kind in (("bfloat16", torch.bfloat16), ("float32", torch.float32))}
    repeats, syncs = torch.equal(runs[0], runs[1]), synchronisations(subject)
    return Report(subject.name, random, **found, repeats=repeats, batch=batch_invariant(subject), syncs=syncs, half=half)


def starts(problem: GaussianMixture, count: int) -> Callable[[float], torch.Tensor]:
    """Draws of y at a level, (count, 2, 1, 1), the same normals at every level."""
    noise = torch.randn(count, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(SEED + 1))
    data = problem.sample(count, SEED)
    return lambda level: (data + level * noise)[..., None, None]


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
    """log(e1/e2)/log(h1/h2) of the last two errors by h before they reach the floor or cease to fall, as rounding makes them."""
    known: list[tuple[float, float]] = []
    for h, e in errors.items():
        if e < floor or (known and e > 0.8 * known[-1][1]):
            break
        known.append((h, e))
    if len(known) < 2:
        return None
    (h1, e1), (h2, e2) = known[-2:]
    return math.log(e1 / e2) / math.log(h1 / h2)


def ended(subject: Subject, steps: int, seed: int, rows: slice = slice(None), dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """The last y of a run of the mixture; schedulers get a generator a sample, where they draw."""
    start = starts(MIXTURE, 4)
    generators: Any = torch.Generator().manual_seed(seed)
    if isinstance(subject, Scheduler):
        generators = [torch.Generator().manual_seed(seed + i) for i in range(4)][rows]
    walk = subject.walk(steps, lambda level: start(level)[rows], network(MIXTURE), generators, dtype=dtype)
    return subject.y(walk, len(walk.levels))


def batch_invariant(subject: Subject) -> bool:
    """Whether one of four samples is the same alone, up to rounding: the third of a scheduler, whose samples have a generator
    each; the first of a function, which torch's own generator, seeded anew, gives the same first draw."""
    rows = slice(2, 3) if isinstance(subject, Scheduler) else slice(0, 1)
    return torch.allclose(ended(subject, 12, 1)[rows], ended(subject, 12, 1, rows), rtol=0, atol=1e-5)


def variance(subject: Subject, steps: int) -> tuple[float, float]:
    """Variance of the data over the exact one on Gaussian data, and its standard error."""
    generator = torch.Generator().manual_seed(SEED)
    walk = subject.walk(steps, starts(PLAIN, SAMPLES), network(PLAIN), generator)
    y = subject.y(walk, len(walk.levels))
    wanted = 0.25 + walk.end**2
    return y.flatten(1).var(0).mean().item() / wanted, math.sqrt(2 / (2 * SAMPLES))


def rounding(subject: Subject, dtype: torch.dtype) -> float:
    """The root mean square of what states of a narrower type change, at 20 steps."""
    return (ended(subject, 20, 1, dtype=dtype) - ended(subject, 20, 1)).square().mean().sqrt().item()


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
