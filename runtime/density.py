"""The density of a step that draws noise, given the state before it: what reinforcement learning asks of a sampler.

Where every draw follows the step's last network call, the step is Gaussian,

    z' = m(z, n) + N xi,    xi standard normals,    log p(z' | z) = -|N^+ (z' - m)|^2/2 - log |det R| - (r/2) log 2 pi

at every place of a component, N = Q R of r = DRAWS columns; the sum over the places is the density of a sample.  m is the step
without noise and keeps the graph of the network's outputs n; N is a matrix of the row.  With fewer draws than components the
density is that on the range of N.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from stepsmith.errors import InputError
from stepsmith.runtime.constants import blocks_of

State = tuple[torch.Tensor, ...]


@dataclass(frozen=True, eq=False)
class Transition:
    """The law of a step: ``mean``, a tensor (batch, ...) a component, and ``factor`` N, (n, DRAWS) float64 on the host;
    ``history`` is that after the step."""

    mean: State
    factor: torch.Tensor
    history: State

    def draw(self, noise: State) -> State:
        """m + N xi, with one tensor of normals a draw."""
        moving = zip(self.mean, self.factor.tolist(), strict=False)
        new = (m + sum((w * xi for w, xi in zip(row, noise, strict=True)), torch.zeros_like(m)) for m, row in moving)
        return (*new, *self.mean[len(self.factor) :])

    def log_prob(self, state: State) -> torch.Tensor:
        """(batch,) log p(state), differentiable in the mean.  A state off the range of N has the density of its projection."""
        Q, R = torch.linalg.qr(self.factor)
        back = torch.linalg.solve_triangular(R, Q.mT, upper=True)
        gap = torch.stack([z - m for z, m in zip(state[: len(self.factor)], self.mean, strict=False)])
        xi = torch.einsum("ij,jb...->bi...", back.to(gap.device, gap.dtype), gap).flatten(1)
        places = gap[0].numel() // max(1, gap.shape[1])
        volume = float(R.diagonal().abs().log().sum()) + len(R) / 2 * math.log(2 * math.pi)
        return -xi.square().sum(1) / 2 - places * volume


def transition(
    module: Any, row: torch.Tensor, state: State, network: Callable[[State, Any], State], history: State = ()
) -> Transition:
    """The law of the state after ``module.step`` with a row of its table, given the state before it.

    InputError (key ``sampler``) for a step that draws no noise, that calls its network after a draw, whose law is not
    Gaussian, or that works on frequencies.
    """
    factor = noise_factor(module, row)
    zeros = tuple(torch.zeros_like(state[0]) for _ in range(module.DRAWS))
    mean, after = module.step(state, row.unbind(), network, zeros, history)
    return Transition(tuple(mean), factor, tuple(after))


def step_with_logprob(
    module: Any, row: torch.Tensor, state: State, network: Callable[[State, Any], State], noise: State, history: State = ()
) -> tuple[State, State, torch.Tensor]:
    """(the state after the step, the history, the log-density (batch,) of that state); as ``module.step`` but for the last."""
    law = transition(module, row, state, network, history)
    new = law.draw(noise)
    return new, law.history, law.log_prob(new)


def noise_factor(module: Any, row: torch.Tensor) -> torch.Tensor:
    """N of a row, (n, DRAWS) float64: what one unit of each draw adds to the state; InputError as ``transition``."""
    name, count = f"{module.SDE} {module.SAMPLER}", len(module.COMPONENTS)
    if not module.DRAWS or hasattr(module, "FIELD"):
        what = f"{name} draws no noise, or works on frequencies"
        raise InputError("-", "sampler", what, "use one such as ddim-eta or sde-dpmpp-2m")
    seen: list[torch.Tensor] = []

    def network(inputs: State, time: Any) -> State:
        seen.extend(inputs)
        return tuple(torch.zeros_like(inputs[0]) for _ in range(module.OUTPUTS))

    units = torch.cat((torch.zeros(1, module.DRAWS), torch.eye(module.DRAWS))).to(torch.float64)
    still = (torch.zeros(len(units), dtype=torch.float64),)
    moved, _ = module.step(still * count, row.cpu().unbind(), network, units.unbind(1), still * module.HISTORY)
    if any((value != value[0]).any() for value in seen):
        what = f"{name} calls its network after a draw, so the law of its step is not Gaussian"
        raise InputError("-", "sampler", what, "use one whose draws come last, such as ddim-eta or euler-maruyama")
    return torch.stack([z[1:] - z[0] for z in moved[: blocks_of(module)]])
