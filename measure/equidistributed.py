"""Grids on which the steps of a sampler err alike, along paths of the network that it will run with.

    z_i     the states at nodes s_i, even in log sigma, of a run of the sampler with FINER steps between two nodes
    e_ij    the error of one step from z_i to s_j with the history that exact states leave, S(z_i) - z_j: what the denoiser
            sees of it, p^T Sigma^-1 e/(p^T Sigma^-1 p), in standard deviations (sigma^2 + c^2)^1/2, c that of the ends; the root
            mean square of a path, then the mean over the paths

    NINE steps and more   steps as dense in log sigma as e^(1/q)/h, e that of a step of length h between neighbours and q the
                          power of h in it: the sum of the errors of so many steps is then least, and each has the same share
    fewer                 the nodes with the least sum of errors, by a dynamic program; a node is reached with the history of
                          the best way to it

q is the proven order + 1, or the order where every second node says so: the error of a step that corrects the one before it is
that of its prediction, since an exact state has nothing to correct.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from stepsmith.errors import InputError
from stepsmith.measure.choosing import drawn
from stepsmith.runtime.constants import blocks_of
from stepsmith.runtime.grid import TimeGrid, diffusion
from stepsmith.runtime.networks.base import conditions
from stepsmith.runtime.noise import parse_seeds
from stepsmith.runtime.plan import make_plan
from stepsmith.runtime.roots import invert_increasing
from stepsmith.runtime.sampler import steps_of
from stepsmith.runtime.watch import called

State = tuple[torch.Tensor, ...]
NINE, NODES, DENSE, FINER = 9, 32, 48, 3  # steps; nodes of the program and of the density; steps between two nodes
SMOOTH = (0.1, 0.2, 0.4, 0.2, 0.1)  # weights of neighbours in the density


def equidistributed(
    module: Any, network: Any, sde: Any, steps: int, *, seeds: str | int | Iterable[int] = range(32),
    start: float | None = None, end: float | None = None, params: Mapping[str, float] | None = None,
    shape: Sequence[int] | None = None, device: str = "cpu", cond: Mapping[str, Any] | None = None,
) -> TimeGrid:  # fmt: skip
    """The grid of ``steps`` steps from ``start`` (the end of the span) to ``end`` (1e-3) for a deterministic module and its
    network, an end that is not given within the network's ``sigma_range``.

    ``sde`` is the diffusion of the module, or its name; ``seeds``, two or more, start the paths; the other arguments are those of
    ``sample``.  Raises InputError for a module of another diffusion, one that draws noise, has no proven order, or takes
    constants or a field, and for a network that gives no numbers.
    """
    sde, known = diffusion(sde), parse_seeds(seeds)
    if len(known) < 2:
        raise InputError("-", "seeds", "one path has no spread", "give two or more, 32 by default")
    own = {name: value for name, value in (params or {}).items() if name in sde.params}
    within = network if getattr(network, "kind", "") in ("denoiser", "edm") else None
    nodes = DENSE if TimeGrid.uniform(sde, steps, start, end).steps >= NINE else NODES
    view, grid = sde.at(**own), TimeGrid.logsnr(sde, nodes, start, end, params=own, network=within)
    plan = make_plan(module, network, grid, seeds, params=params, shape=shape, device=device, dtype=torch.float64)
    module = plan.module
    if sde.name != module.SDE:
        raise InputError("-", "sde", f"the module is one of {module.SDE}, not of {sde.name}", f"give {module.SDE}")
    if not module.ORDER or len(module.COMPONENTS) != blocks_of(module) or any(n for _, n in steps_of(module, 3)) or plan.columns:
        what = f"{module.SDE} {module.SAMPLER} draws noise, has no proven order, or takes constants or a field"
        raise InputError("-", "grid", what, "take a deterministic sampler with an order, such as adams-3")
    levels = np.log(view.effective_sigma(grid.times.numpy()))
    fine = np.interp(np.arange(nodes * FINER + 1) / FINER, np.arange(nodes + 1), levels)
    given = dict(params or {})
    starts = drawn(module, grid.times[0].item(), known, plan.shape, plan.device, **given)
    network = functools.partial(network, **conditions(cond, len(known), plan.device))
    paths = Paths.of(module, network, given, grid.times, _times(view, fine, grid.times), starts)
    found = _even(levels, paths.density(levels), steps) if steps >= NINE else levels[list(paths.least(steps))]
    return TimeGrid(_times(view, found, grid.times), "equidistributed")


def _times(view: Any, levels: np.ndarray, span: torch.Tensor) -> torch.Tensor:
    """The times of some levels log sigma, their ends those of the span."""
    inner = invert_increasing(view.effective_sigma, np.exp(levels[1:-1]), *span[[-1, 0]].tolist())
    return torch.cat((span[:1], torch.from_numpy(inner), span[-1:]))


def _even(levels: np.ndarray, density: np.ndarray, steps: int) -> np.ndarray:
    """Levels between which the integral of a density, a number an interval, is the same."""
    whole = np.concatenate(([0.0], np.cumsum(density * -np.diff(levels))))
    return np.interp(np.linspace(0.0, whole[-1], steps + 1), whole, levels)


@dataclass(frozen=True, eq=False)
class Paths:
    """The states of some paths at the nodes, (n, K, ...) each, and the rows that make an error what the denoiser sees of it."""

    module: Any
    network: Any
    params: Mapping[str, float]
    times: torch.Tensor
    states: Sequence[torch.Tensor]
    seen: Sequence[torch.Tensor]
    outputs: dict[int, tuple[State, Any, State]] = field(default_factory=dict)  # the first call in a step from each node

    @classmethod
    def of(
        cls, module: Any, network: Any, params: Mapping[str, float], times: torch.Tensor, fine: torch.Tensor,
        starts: torch.Tensor,
    ) -> Paths:  # fmt: skip
        """From a run over the ``fine`` times, FINER steps between two nodes."""
        table = module.coefficients(fine, **params)
        state, history, states = tuple(starts), _none(module, starts), [starts]
        with torch.no_grad():
            for k, (row, (step, _)) in enumerate(zip(table, steps_of(module, len(table)), strict=True)):
                state, history = step(state, row.unbind(), functools.partial(called, module, network), (), history)
                if (k + 1) % FINER == 0:
                    states.append(torch.stack(state))
        spread = states[-1][module.DATA].var(0).mean()
        L, p = module.start(times, **params), module.start_data(times, **params)
        w = torch.cholesky_solve(p, L)
        level = (p.mT @ w).reciprocal()  # sigma^2
        return cls(module, network, params, times, states, (level * w.mT / (level + spread).sqrt())[:, 0].unbind())

    def step(self, chain: tuple[int, ...], j: int, history: State, steps: int) -> tuple[float, State]:
        """The error of the step from the last node of a chain to the node j, and the history after it."""
        i, k, last = chain[-1], len(chain) - 1, len(self.times) - 1
        row = self.module.coefficients(self.times[[*chain, *dict.fromkeys((j, last))]], **self.params)[k]
        step, _ = steps_of(self.module, steps)[k]
        with torch.no_grad():
            found, history = step(tuple(self.states[i]), row.unbind(), self._asked(i), (), history)
        gap = torch.tensordot(self.seen[j].to(found[0]), torch.stack(found) - self.states[j], 1)
        error = gap.flatten(1).square().mean(1).sqrt().mean().item()
        if not math.isfinite(error):
            t0, t1 = self.times[[i, j]].tolist()
            what = f"a step from {t0:g} to {t1:g} is not finite with what it gives"
            raise InputError("-", "network", what, "look at what it does there")
        return error, history

    def _asked(self, i: int) -> Any:
        """The network, which is not called again where a step from a node asks what one before it asked."""

        def network(inputs: State, time: Any) -> State:
            if i in self.outputs:
                before, then, outputs = self.outputs[i]
                if time == then and all(map(torch.equal, inputs, before)):
                    return outputs
            outputs = called(self.module, self.network, inputs, time)
            self.outputs.setdefault(i, (inputs, time, outputs))
            return outputs

        return network

    def density(self, levels: np.ndarray) -> np.ndarray:
        """How dense the steps are to be in log sigma, up to a factor, a number an interval."""
        fine, double = self.errors(1), self.errors(2)
        first, order = self.module.HISTORY + 1, self.module.ORDER  # the first steps have another order
        fall = np.log2(double[first:] / np.sqrt(fine[0::2] * fine[1::2])[first:])
        density = fine ** (1 / np.clip(np.rint(np.median(fall)), order, order + 1)) / -np.diff(levels)
        density[:first] = density[first]
        padded = np.pad(np.log(density), len(SMOOTH) // 2, mode="edge")
        return np.exp(np.convolve(padded, SMOOTH, "valid"))

    def errors(self, stride: int) -> np.ndarray:
        """Of the steps from every stride-th node to the next."""
        nodes, history, errors = range(0, len(self.times), stride), _none(self.module, self.states[0]), []
        for k, j in enumerate(nodes[1:]):
            error, history = self.step(tuple(nodes[: k + 1]), j, history, len(nodes) - 1)
            errors.append(error)
        return np.maximum(errors, 1e-300)

    def least(self, steps: int) -> tuple[int, ...]:
        """The nodes of the least sum of errors."""
        last = len(self.times) - 1
        best: dict[int, tuple[float, tuple[int, ...], State]] = {0: (0.0, (0,), _none(self.module, self.states[0]))}
        for k in range(steps):
            reached: dict[int, tuple[float, tuple[int, ...], State]] = {}
            left = steps - k - 1  # steps after this one
            for i, (cost, chain, history) in best.items():
                for j in range(i + 1, last - left + 1) if left else (last,):
                    error, after = self.step(chain, j, history, steps)
                    if j not in reached or cost + error < reached[j][0]:
                        reached[j] = (cost + error, (*chain, j), after)
            best = reached
        return best[last][1]


def _none(module: Any, like: torch.Tensor) -> State:
    return (torch.zeros_like(like[0]),) * module.HISTORY
