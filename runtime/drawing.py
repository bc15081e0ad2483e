"""A step that is asked for its density: its arguments, checked, and the parts in which it draws its noise."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from stepsmith.errors import InputError
from stepsmith.runtime.constants import blocks_of
from stepsmith.runtime.plan import check_network, resolve
from stepsmith.runtime.sampler import steps_of
from stepsmith.runtime.watch import Network, State, called

Step = Callable[..., tuple[State, State]]


@dataclass(frozen=True, eq=False)
class Part:
    """A drawing part: how many network ``calls`` come before it, whether it is ``last``, with none behind it, which ``draws`` it
    has, and N, (n, draws) float64."""

    calls: int
    last: bool
    draws: tuple[int, ...]
    factor: torch.Tensor


@dataclass(frozen=True, eq=False)
class Given:
    """A step that is asked for: what it starts from, its function, how many normals it draws, and its drawing parts."""

    module: Any
    row: torch.Tensor
    state: State
    network: Network
    history: State
    function: Step
    draws: int
    parts: tuple[Part, ...]

    @classmethod
    def of(cls, module: Any, row: torch.Tensor, state: State, network: Network, history: State, step: Step | None) -> Given:
        """The arguments of :func:`transition`, checked."""
        module = resolve(module)
        function, draws = _stepping(module, step)
        parts = drawing_parts(module, row, step)
        check_network(module, network)
        state = tensors(taker(module), "state", state, len(module.COMPONENTS))
        newest = history[: module.HISTORY] if isinstance(history, tuple | list) else history
        known = tensors(taker(module), "history", newest, module.HISTORY, state[0].shape)
        return cls(module, row, state, network, known, function, draws, parts)

    def normals(self, noise: Any) -> State:
        """The noise of this step, checked."""
        return tensors(taker(self.module), "noise", noise, self.draws, self.state[0].shape)

    def step(self, network: Network, noise: State) -> tuple[State, State]:
        """The state and the history after it, with a network and noise."""
        return self.function(self.state, self.row.unbind(), functools.partial(called, self.module, network), noise, self.history)


def drawing_parts(module: Any, row: torch.Tensor, step: Step | None = None) -> tuple[Part, ...]:
    """The parts of a step with a row of its table, read off one call of it: unit draws side by side in the batch, and a network
    of zeros, which sees a draw where it enters.  InputError as :func:`draw_path`."""
    function, count = _stepping(module, step)
    if not count or hasattr(module, "FIELD"):
        raise _refused(f"{name_of(module)} draws no noise, or works on frequencies")
    shape, width = tuple(getattr(row, "shape", ())), len(module.COEFFICIENTS)
    if shape != (width,):
        what = f"it is a {type(row).__name__} of shape {shape}, and a row of {name_of(module)} has {width} numbers"
        raise InputError("-", "row", what, "give one row of the table, such as module.coefficients(times)[0]")
    seen: list[torch.Tensor] = []

    def network(inputs: State, time: Any) -> State:
        seen.append(torch.stack(inputs))
        return zeros(inputs[0], module.OUTPUTS)

    units = torch.cat((torch.zeros(1, count), torch.eye(count))).to(torch.float64)
    still = zeros(units[:, 0], len(module.COMPONENTS)), zeros(units[:, 0], module.HISTORY)
    moved, _ = function(still[0], row.cpu().unbind(), network, units.unbind(1), still[1])
    reach = [values[:, 1:] - values[:, :1] for values in (*seen, torch.stack(moved[: blocks_of(module)]))]
    entered = [next((k for k, values in enumerate(reach) if values[:, j].any()), None) for j in range(count)]
    parts = []
    for calls in sorted({k for k in entered if k is not None}):
        draws = tuple(j for j, k in enumerate(entered) if k == calls)
        factor = reach[-1][:, draws]
        if torch.linalg.matrix_rank(factor) < torch.linalg.matrix_rank(torch.cat(reach)[:, draws]):
            raise _refused(f"{name_of(module)} draws noise that its network sees and its state does not keep")
        parts.append(Part(calls, calls == len(seen), draws, factor))
    if not parts:
        raise _refused(f"{name_of(module)} draws no noise in this step")
    return tuple(parts)


def tensors(name: str, key: str, values: Any, count: int, shape: torch.Size | None = None) -> State:
    """The ``count`` tensors that what has this name takes, all of this shape, which is that of the first unless given."""
    several = isinstance(values, tuple | list) and all(isinstance(value, torch.Tensor) for value in values)
    have = f"a tuple of {len(values)}" if several else f"of type {type(values).__name__}"
    if not several or len(values) != count:
        what = f"it is {have}, and {name} takes a tuple of {count}"
        raise InputError("-", key, what, f"give {count} tensor{'s' * (count != 1)}{', such as (x,)' * (count == 1)}")
    for value in values:
        if value.shape != (values[0].shape if shape is None else shape):
            what = f"one of its tensors has the shape {tuple(value.shape)}, and the state {tuple(shape or values[0].shape)}"
            raise InputError("-", key, what, "give tensors of one shape, (batch, *shape of a sample)")
    return tuple(values)


def _stepping(module: Any, step: Step | None) -> tuple[Step, int]:
    """The step function and how many normals it draws."""
    step = module.step if step is None else step
    draws = dict(steps_of(module, 3))  # of three rows one is the first, one the last and one between
    if step not in draws:
        raise InputError("-", "step", f"it is no step of {name_of(module)}", "give module.step or its step_first or step_last")
    return step, draws[step]


def zeros(like: torch.Tensor, count: int) -> State:
    return tuple(torch.zeros_like(like) for _ in range(count))


def name_of(module: Any) -> str:
    return f"{module.SDE} {module.SAMPLER}"


def taker(module: Any) -> str:
    return f"a step of {name_of(module)}"


def _refused(what: str) -> InputError:
    return InputError("-", "sampler", what, "use one such as ddim-eta or sde-dpmpp-2m")
