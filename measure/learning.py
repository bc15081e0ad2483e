"""Learned times and weights: what ``stepsmith tune --learn`` adds to the choice, for one block.

A run of a deterministic row of one call a step is linear in n, the start in standard deviations, and the outputs D_0, D_1, ...
of a denoiser.  Its steps, run on unit rows, give these coefficients as functions of the times.
Learned are numbers th around it:

    log steps     of log sigma: those of the grid times exp(2 tanh(th/2)), scaled to the same whole
    weights       y_(i+1) = base + tau_i (th_i0 n + sum_(j<=i) th_ij D_j),   tau_i = sqrt(sigma_(i+1)^2 + 0.05^2)/10

with y the network's input, so that th = 0 is the row on its grid.  The loss is log(mean of e)/2 + (mean of log e)/2 + 1e-4 |th|^2
with e the root mean squares of the paths, minimised by L-BFGS through the network.

With ``order`` p the perturbation of each row is one of the values of r, the quantity that the row interpolates (D_j, or what
its frame makes of D_j and y_j), nothing acts on n, and sum_j th_ij u_j^k = 0 for k < p in the row's clock u: projected, not
penalised.  So where r is a polynomial of degree < p in u, every learned value gives what the row gives on these times.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from stepsmith.errors import InputError
from stepsmith.measure.choosing import Error, Paths, Row, stretched
from stepsmith.runtime.roots import invert_increasing

PENALTY, FLOOR, SHARE = 1e-4, 0.05, 0.1
NUDGE = 1e-6  # of the step before it: by what a time is moved for the derivatives of a table
NEAR = 1e-4  # of the way to the ends of the span: over what a derivative of sigma is taken


@dataclass(frozen=True, eq=False)
class Linear:
    """A run in (n, D_0, ..., D_(N-1)): the network's inputs y_0 .. y_N, (N + 1, N + 1), its sigmas and 1/alpha, (N + 1,)."""

    inputs: torch.Tensor
    sigmas: torch.Tensor
    scales: torch.Tensor

    def run(self, network: Any, normals: torch.Tensor) -> torch.Tensor:
        """The state at the end of the run from n = ``normals``, (K, ...)."""
        known = [normals]
        for i in range(len(self.sigmas) - 1):
            known += network((self._combined(i, known),), self.sigmas[i])
        return self._combined(-1, known) / self.scales[-1]

    def _combined(self, i: int, known: list[torch.Tensor]) -> torch.Tensor:
        return torch.tensordot(self.inputs[i, : len(known)], torch.stack(known), 1)

    def table(self) -> torch.Tensor:
        """The rows of the learned step: x = y/scale, x_(i+1) = x_x x_i + the weighted outputs, newest first."""
        steps = len(self.sigmas) - 1
        states = self.inputs / self.scales[:, None]
        carried = states[1:, 0] / states[:-1, 0]
        weights = (states[1:] - carried[:, None] * states[:-1])[:, 1:]
        rows = [torch.cat((row[: i + 1].flip(0), row.new_zeros(steps - 1 - i))) for i, row in enumerate(weights)]
        ends = torch.stack((self.scales[1:], self.sigmas[1:]), 1)
        return torch.cat((torch.stack((self.scales[:-1], self.sigmas[:-1], carried), 1), torch.stack(rows), ends), 1)


@dataclass(frozen=True, eq=False)
class Base:
    """A row on a grid, to be learned around: its module and parameters, the times and the diffusion's numeric view.

    ``order``: learn only what leaves polynomials of a degree under it in the row's clock as they are; None: anything.
    """

    row: Row
    module: Any
    params: Mapping[str, float]
    grid: torch.Tensor
    view: Any
    order: int | None = None

    @property
    def steps(self) -> int:
        return len(self.grid) - 1

    @functools.cached_property
    def levels(self) -> torch.Tensor:
        """log sigma of the grid."""
        return torch.from_numpy(np.log(self.view.effective_sigma(self.grid.numpy())))

    def zero(self) -> torch.Tensor:
        """th of the row on its grid: the steps, then the weights of each row."""
        return torch.zeros(self.steps + sum(range(2, self.steps + 2)), dtype=torch.float64)

    def times(self, th: torch.Tensor) -> torch.Tensor:
        """The times of th, with their derivatives."""
        inner = stretched(self.levels, th[: self.steps])[1:-1]
        sigma, (high, low) = self.view.effective_sigma, self.grid[[0, -1]].tolist()
        times = invert_increasing(sigma, inner.detach().exp().numpy(), low, high)
        near = np.minimum(NEAR * (times - low), NEAR * (high - times))
        slope = (np.log(sigma(times + near)) - np.log(sigma(times - near))) / (2 * near)
        moving = torch.from_numpy(times) + (inner - inner.detach()) / torch.from_numpy(slope)
        return torch.cat((self.grid[:1], moving, self.grid[-1:]))

    def table(self, times: torch.Tensor) -> torch.Tensor:
        """The module's table with its derivatives in the times, by differences: the text of a module divides by infinite gaps,
        which autograd does not.  A row reads at most ``width`` times in a line, so every width-th time is moved at once.
        """
        at, steps, width = times.detach(), self.steps, self.module.HISTORY + 2
        table = found = self.module.coefficients(at, **self.params)
        nudge, rows = NUDGE * at.diff(prepend=at[:1]), torch.arange(steps)
        for first in range(width if times.requires_grad else 0):
            moves = torch.arange(steps + 1) % width == first
            moves[0] = moves[-1] = False
            change = self.module.coefficients(torch.where(moves, at + nudge, at), **self.params) - found
            moved = rows + 1 - (rows + 1 - first) % width  # the time that a row saw moving
            seen = (moved > 0) & (moved < steps)
            slope = change[seen] / nudge[moved[seen], None]
            table = table.index_add(0, rows[seen], slope * (times - at)[moved[seen], None])
        return table

    def at(self, th: torch.Tensor) -> Linear:
        """The run with th."""
        module, times = self.module, self.times(th)
        unit = torch.eye(self.steps + 1, dtype=torch.float64)
        state, history = unit[0] * module.start(self.grid[0], **self.params)[0, 0], (torch.zeros_like(unit[0]),) * module.HISTORY
        called: list[tuple[torch.Tensor, torch.Tensor]] = []  # y and sigma of each call
        scales: list[torch.Tensor] = []

        def network(inputs: tuple[torch.Tensor, ...], sigma: torch.Tensor) -> tuple[torch.Tensor, ...]:
            called.append((inputs[0], sigma))
            return (unit[len(called)],)

        weights = th[self.steps :].split(list(range(2, self.steps + 2)))
        for row, own in zip(self.table(times).unbind(), weights, strict=True):
            (new,), history = module.step((state,), row.unbind(), network, (), history)
            if not scales:
                scales.append(called[0][0][0] / state[0])
            scale, sigma = _end(module, row)
            tau = SHARE * (sigma**2 + FLOOR**2).sqrt()
            state = new + tau / scale * self._moved(own, called, unit)
            scales.append(scale)
        called.append((state * scales[-1], sigma))
        inputs, sigmas = zip(*called, strict=True)
        return Linear(torch.stack(inputs), torch.stack(sigmas), torch.stack(scales))

    def _moved(self, own: torch.Tensor, called: list[tuple[torch.Tensor, torch.Tensor]], unit: torch.Tensor) -> torch.Tensor:
        """What a row of weights adds, before tau."""
        if self.order is None:
            return own @ unit[: len(own)]
        sigmas, values = torch.stack([sigma for _, sigma in called]), self._interpolated(called, unit)
        free = projected(own[1:], self._clock(sigmas), self.order)
        return free @ values

    def _interpolated(self, called: list[tuple[torch.Tensor, torch.Tensor]], unit: torch.Tensor) -> torch.Tensor:
        """The values of r at the calls so far."""
        inputs, sigmas = (torch.stack(each) for each in zip(*called, strict=True))
        outputs = unit[1 : len(called) + 1]
        if self.row.frame == "x0":
            return outputs
        if self.row.frame == "eps-R":
            return (inputs - outputs) / sigmas[:, None]
        skip = 1 / (1 + (sigmas[:, None] / self.params["sigma_data"]) ** 2)
        return (outputs - skip * inputs) / (1 - skip)

    def _clock(self, sigmas: torch.Tensor) -> torch.Tensor:
        return -sigmas.log() if self.row.clock == "log" else -torch.atan(sigmas / self.params["sigma_data"])


def _end(module: Any, row: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """1/alpha and sigma at the end of a row."""
    found: list[torch.Tensor] = []

    def network(inputs: tuple[torch.Tensor, ...], sigma: torch.Tensor) -> tuple[torch.Tensor, ...]:
        found.extend((inputs[0], sigma))
        return inputs

    module.denoise((row.new_ones(()),), row.unbind(), network)
    return found[0], found[1]


def projected(weights: torch.Tensor, clock: torch.Tensor, order: int) -> torch.Tensor:
    """The part of some weights that annihilates the polynomials of degree < ``order`` over the nodes of the clock."""
    if len(weights) <= order:
        return torch.zeros_like(weights)
    u = (clock - clock.mean()) / (clock[0] - clock[-1])
    Q, _ = torch.linalg.qr(u[:, None] ** torch.arange(order))
    return weights - Q @ (Q.mT @ weights)


def loss_of(base: Base, th: torch.Tensor, network: Any, normals: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    """The logarithms of the mean and of the geometric mean of the paths' errors, halved, and the penalty."""
    errors = (base.at(th).run(network, normals) - ends).flatten(1).square().mean(1).sqrt()
    return (errors.mean().log() + errors.log().mean()) / 2 + PENALTY * th.square().sum()


def normals_of(base: Base, paths: Paths) -> torch.Tensor:
    """n of some paths."""
    return paths.starts[0] / base.module.start(base.grid[0], **base.params)[0, 0]


def error_of(base: Base, th: torch.Tensor, network: Any, paths: Paths) -> Error:
    with torch.no_grad():
        return Error.of(base.at(th).run(paths.given(network), normals_of(base, paths)), paths.ends)


def learned(
    base: Base, network: Any, paths: Paths, evaluations: int, first: torch.Tensor | None = None,
    told: Callable[[], Any] = lambda: None,
) -> torch.Tensor:  # fmt: skip
    """th of the least loss that L-BFGS (strong Wolfe) finds from ``first`` or th = 0; ``told`` is called at every evaluation.

    Raises InputError (key ``network``) where the network gives no derivatives.
    """
    normals = normals_of(base, paths)
    th = (base.zero() if first is None else first.clone()).requires_grad_()
    best = float("inf"), th.detach().clone()
    search = torch.optim.LBFGS(
        [th], max_iter=evaluations, max_eval=evaluations, history_size=30, line_search_fn="strong_wolfe",
        tolerance_grad=1e-7, tolerance_change=1e-9,
    )  # fmt: skip

    def closure() -> torch.Tensor:
        nonlocal best
        told()
        try:
            loss = loss_of(base, th, paths.given(network), normals, paths.ends)
            (th.grad,) = torch.autograd.grad(loss, th)
        except RuntimeError as error:
            if "grad" not in str(error):
                raise
            what = f"it gives no derivatives ({str(error).splitlines()[0]})"
            raise InputError("-", "network", what, "leave learning out, or use a network of torch") from None
        loss = loss.detach()
        if float(loss) < best[0]:
            best = float(loss), th.detach().clone()
        return loss

    search.step(closure)
    return best[1]
