"""The densities of a step that draws noise, given the state before it: what reinforcement learning asks of a sampler.

Draws that no network call separates are a drawing part.  What the network has given before it is known, so it is Gaussian,

    u = m + N xi,    xi standard normals,    log p(u) = -|N^+ (u - m)|^2/2 - log pdet N - (r/2) log 2 pi

at every place of a component; the sum over the places is the density of a sample.  u is the state that the step ends in if
nothing more is drawn and the network gives zeros from there on, and m the same without noise: it keeps the graph of the
network's outputs.  N is a matrix of the row, r its rank, pdet the product of its singular values that are not zero: where r is
less than the number of components the density is that on the range of N.

Where every draw follows the last network call there is one part, and u is the new state: its density is that of the step.
Elsewhere the step is not Gaussian, and the product over its parts is the density of the path (u_1, u_2, ...), given the state.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from stepsmith.errors import InputError
from stepsmith.runtime.drawing import Given, Network, State, Step, name_of, taker, tensors, zeros


@dataclass(frozen=True, eq=False)
class Transition:
    """The Gaussian law of a state: ``mean``, a tensor (batch, ...) a component, and ``factor`` N, (n, draws) float64 on the host;
    ``history`` is that after the step."""

    mean: State
    factor: torch.Tensor
    history: State

    def draw(self, noise: Sequence[torch.Tensor]) -> State:
        """m + N xi, with one tensor of normals a draw."""
        moving = zip(self.mean, self.factor.tolist(), strict=False)
        new = (m + sum((w * xi for w, xi in zip(row, noise, strict=True)), torch.zeros_like(m)) for m, row in moving)
        return (*new, *self.mean[len(self.factor) :])

    def normals(self, state: State) -> State:
        """N^+ (state - m), a tensor a draw: the shortest that lead to the state, or to its projection onto the range of N.
        InputError (key ``state``) for what is no state like the mean."""
        return self._wide_normals(state).to(torch.result_type(state[0], self.mean[0])).unbind()

    def _wide_normals(self, state: State) -> torch.Tensor:
        """The same side by side, (draws, batch, ...), in float32 at least."""
        state = tensors("this law", "state", state, len(self.mean), self.mean[0].shape)
        wide = torch.promote_types(torch.result_type(state[0], self.mean[0]), torch.float32)
        gap = torch.stack([z.to(wide) - m.to(wide) for z, m in zip(state[: len(self.factor)], self.mean, strict=False)])
        return torch.einsum("ij,jb...->ib...", torch.linalg.pinv(self.factor).to(gap.device, wide), gap)

    def log_prob(self, state: State) -> torch.Tensor:
        """(batch,) log p(state), differentiable in the mean.  A state off the range of N has the density of its projection.

        It is summed and returned in the dtype of the state, float32 at least: the sum over the places of an image leaves the
        precision and the range of narrower ones.  InputError (key ``state``) for what is no state like the mean.
        """
        xi = self._wide_normals(state).transpose(0, 1).flatten(1)
        lengths = torch.linalg.svdvals(self.factor)[: torch.linalg.matrix_rank(self.factor)]
        volume = float(lengths.log().sum()) + len(lengths) / 2 * math.log(2 * math.pi)
        return -xi.square().sum(1) / 2 - math.prod(state[0].shape[1:]) * volume


@dataclass(frozen=True, eq=False)
class Path:
    """A step as its drawing parts: ``drawn``, the state u that each of them drew; ``log_probs`` (parts, batch), the log-density
    of each given what came before it, in float32 at least; ``state`` and ``history`` after the step."""

    drawn: tuple[State, ...]
    log_probs: torch.Tensor
    state: State
    history: State

    @property
    def log_prob(self) -> torch.Tensor:
        """(batch,) the log-density of the path, log p(u_1) + log p(u_2 | u_1) + ..., given the state before the step."""
        return self.log_probs.sum(0)


def transition(
    module: Any, row: torch.Tensor, state: State, network: Network, history: State = (), step: Step | None = None
) -> Transition:
    """The law of the state after a step with a row of the module's table, given the state before it.

    ``step``: ``module.step`` unless given; ``module.step_first`` for the first row and ``module.step_last`` for the last where
    the module has them.  InputError (key ``sampler``) for a step that draws no noise, that calls its network after a draw, whose
    law is not Gaussian, or that works on frequencies; (key ``module``, ``row``, ``state``, ``network``, ``history``, ``step``)
    for what does not fit the module.
    """
    return _law(Given.of(module, row, state, network, history, step))


def step_with_logprob(
    module: Any, row: torch.Tensor, state: State, network: Network, noise: State, history: State = (), step: Step | None = None
) -> tuple[State, State, torch.Tensor]:
    """A step with the noise that is given, and the log-density of the state that it ends in.

    ``module`` is an emitted module or what :func:`load` takes, and ``row`` a row (K,) of ``module.coefficients(times)``.
    ``state`` is a tuple of a tensor (batch, *shape) for each component, ``noise`` one of ``module.DRAWS`` tensors of standard
    normals and ``history`` one of ``module.HISTORY`` earlier outputs (zeros before the first step), all of that shape.
    ``network(inputs, time) -> outputs`` is that of :func:`sample`, and ``step`` that of :func:`transition`.

    Returns the state after the step, the history after it, and (batch,) the log-density of that state given the one before,
    in float32 at least, differentiable in what the network gave and in the state before; the new state counts as drawn, so that
    no gradient goes through it into the density.  Raises InputError as
    :func:`transition`, and (key ``noise``) for noise of another number or shape; all before the first network call.
    """
    given = Given.of(module, row, state, network, history, step)
    normals = given.normals(noise)
    law = _law(given)
    new = law.draw([normals[j] for j in given.parts[0].draws])
    return new, law.history, law.log_prob(_fixed(new))


def draw_path(
    module: Any, row: torch.Tensor, state: State, network: Network, noise: State, history: State = (), step: Step | None = None
) -> Path:
    """A step of any sampler that draws noise, as the step with this noise, and the density of each of its drawing parts.

    Arguments as :func:`step_with_logprob`; the density has no gradient, which :func:`follow_path` has through the states that
    were drawn.  InputError (key ``sampler``) for a step that draws no noise or works on frequencies, and for what does not fit
    the module.
    """
    given = Given.of(module, row, state, network, history, step)
    normals = given.normals(noise)

    def chosen(law: Transition, draws: Sequence[int]) -> tuple[State, State]:
        own = tuple(normals[j] for j in draws)
        return law.draw(own), own

    path = _path(given, chosen)
    return replace(path, log_probs=path.log_probs.detach())


def follow_path(
    module: Any, row: torch.Tensor, state: State, network: Network, drawn: Sequence[State], history: State = (),
    step: Step | None = None,
) -> Path:  # fmt: skip
    """The step through the states that were ``drawn`` before: their density for this network and this state before the step,
    differentiable in the network's outputs and in ``state``, and the state to which they lead.  Errors as :func:`draw_path`."""
    given = Given.of(module, row, state, network, history, step)
    if not isinstance(drawn, tuple | list) or len(drawn) != len(given.parts):
        have = f"there are {len(drawn)} states" if isinstance(drawn, tuple | list) else f"it is of type {type(drawn).__name__}"
        what = f"{have}, this step of {name_of(given.module)} has {len(given.parts)} drawing parts"
        raise InputError("-", "drawn", what, "give those of a path of the same row")
    size, shape = len(given.state), given.state[0].shape
    following = iter([tensors(taker(given.module), "drawn", point, size, shape) for point in drawn])

    def chosen(law: Transition, draws: Sequence[int]) -> tuple[State, State]:
        point = next(following)
        return point, law.normals(point)

    return _path(given, chosen)


def _fixed(state: State) -> State:
    """A state that was drawn: a gradient through it would cancel that of the mean."""
    return tuple(z.detach() for z in state)


def _law(given: Given) -> Transition:
    part, module = given.parts[0], given.module
    if not part.last:
        what = f"{name_of(module)} calls its network after a draw, so the law of its step is not Gaussian"
        fix = "take draw_path, or a sampler whose draws come last, such as ddim-eta or euler-maruyama"
        raise InputError("-", "sampler", what, fix)
    mean, after = given.step(given.network, zeros(given.state[0], given.draws))
    return Transition(tuple(mean), part.factor, tuple(after))


def _path(given: Given, chosen: Callable[[Transition, Sequence[int]], tuple[State, State]]) -> Path:
    """The parts in turn: the law of each, then the state and the normals that ``chosen`` takes of it."""
    noise = list(zeros(given.state[0], given.draws))
    known: list[State] = []  # the outputs of the calls so far

    def reached(calls: float) -> tuple[State, State]:
        """Where the step ends with the noise so far, if its network gives zeros after some calls."""
        numbers = itertools.count()

        def answer(inputs: State, time: Any) -> State:
            if (number := next(numbers)) >= calls:
                return zeros(inputs[0], given.module.OUTPUTS)
            if number == len(known):
                known.append(given.network(inputs, time))
            return known[number]

        return given.step(answer, tuple(noise))

    drawn, log_probs = [], []
    for part in given.parts:
        mean, after = reached(part.calls)
        law = Transition(tuple(mean), part.factor, tuple(after))
        point, normals = chosen(law, part.draws)
        for j, xi in zip(part.draws, normals, strict=True):
            noise[j] = xi
        drawn.append(point)
        log_probs.append(law.log_prob(point))
    new, after = reached(math.inf)
    return Path(tuple(drawn), torch.stack(log_probs), tuple(new), tuple(after))
