"""A network watched at every call of a run, without waiting for its device.

Number, shape and dtype of the outputs are known on the host, and so is a write into the inputs, by the version counter of a
tensor: such a call is refused before a step makes anything of it.  Whether values are finite only the device knows: the least and
the largest value of each output stay there, and are read once, when the run is over.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from stepsmith.errors import InputError

State = tuple[torch.Tensor, ...]
Network = Callable[[State, Any], Any]
PREDICT_DATA = ("denoiser", "x0")  # kinds of networks whose first output is the mean of the data
KINDS = "use a network of that kind, or an adapter of stepsmith.networks"


class Watch:
    """The network of one run of ``module`` over ``times``; ``at(k)`` is that of step k, ``at(steps)`` that of ``denoise``.

    A call raises InputError (key ``network``) for outputs of another number or shape than its inputs, of a dtype that would
    change that of the state, and for a write into its inputs.  ``read`` raises it for a value that was not finite.
    """

    def __init__(self, module: Any, network: Network, times: torch.Tensor) -> None:
        self.module, self.network, self.times = module, network, times
        self.calls = 0  # of this step so far
        self.first: State = ()  # the outputs of the first of them
        self.ends: list[tuple[torch.Tensor, Any]] = []  # (steps + 1, outputs, 2) of each call of a step, and its pairs

    def at(self, step: int) -> Callable[[State, torch.Tensor], State]:
        """The network of a step."""
        self.calls, self.first = 0, ()
        return functools.partial(self._call, step)

    def predicted(self) -> torch.Tensor | None:
        """A copy of the data as the first call of this step predicts them; None without a call, or for another kind."""
        return self.first[0].clone() if self.first and self.module.NETWORK in PREDICT_DATA else None

    def _call(self, step: int, inputs: State, time: torch.Tensor) -> State:
        outputs = called(self.module, self.network, inputs, time, lambda: f", {self._place(step)}")
        self.first = self.first or outputs
        self._note(step, outputs)
        return outputs

    def _note(self, step: int, outputs: State) -> None:
        """Keep the least and the largest value of each output, in memory made at the first call of its number in a step."""
        if self.calls == len(self.ends):
            ends = outputs[0].new_zeros(len(self.times), len(outputs), 2)
            self.ends.append((ends, [[pair.unbind() for pair in row.unbind()] for row in ends.unbind()]))
        for value, (least, largest) in zip(outputs, self.ends[self.calls][1][step], strict=True):
            torch.amin(value, dim=(), out=least)
            torch.amax(value, dim=(), out=largest)
        self.calls += 1

    def _place(self, step: int) -> str:
        last = len(self.times) - 1
        if step == last:
            return f"in the last call, at the time {float(self.times[-1]):g}"
        t0, t1 = self.times[step : step + 2].tolist()
        return f"in step {step + 1} of {last}, {t0:g} -> {t1:g}"

    def read(self, data: torch.Tensor) -> None:
        """Refuse a run in which an output, or what it made of the data, was not finite.  This waits for the device, once."""
        ends = [ends.flatten(1) for ends, _ in self.ends]
        steps = [torch.cat(ends, 1).isfinite().all(1)] if ends else []
        *good, end = torch.cat([*steps, torch.stack(torch.aminmax(data)).isfinite().all()[None]]).tolist()
        if not all(good):
            what = f"it gives NaN or infinity, first {self._place(good.index(False))}"
            raise InputError("-", "network", what, "look at what it does there, or take a wider dtype")
        if not end:
            fix = "take a wider dtype, or a network that stays in bounds"
            raise InputError("-", "network", "the samples are not finite, though its outputs are", fix)


def called(module: Any, network: Network, inputs: State, time: Any, place: Callable[[], str] = str) -> State:
    """The outputs of one call for a step of the module, refused as :class:`Watch` does; ``place`` says where it happened."""
    before = [_version(value) for value in inputs]
    outputs = network(inputs, time)
    if [_version(value) for value in inputs] != before:
        what = f"it writes into its inputs{place()}"
        raise InputError("-", "network", what, "let it make new tensors: x = x + 1, not x += 1")
    if what := _wrong(module, inputs[0], outputs):
        raise InputError("-", "network", f"{what}{place()}", KINDS)
    return tuple(value.to(inputs[0].dtype) for value in outputs)  # a narrower one is welcome


def _wrong(module: Any, like: torch.Tensor, outputs: Any) -> str:
    """What is wrong with the outputs, as far as the host knows; like the first of the inputs they should be."""
    if not isinstance(outputs, tuple | list) or not all(isinstance(value, torch.Tensor) for value in outputs):
        return f"it gives {type(outputs).__name__}, not a tuple of tensors"
    needs = getattr(module, "OUTPUTS", len(outputs))  # OUTPUTS is beyond the contract
    if len(outputs) != needs:
        return f"it gives {len(outputs)} outputs, {module.SDE} {module.SAMPLER} for {module.NETWORK} needs {needs}"
    for value in outputs:
        if value.shape != like.shape:
            return f"it gives outputs of shape {tuple(value.shape)} for inputs of shape {tuple(like.shape)}"
        if not value.is_floating_point() or torch.promote_types(value.dtype, like.dtype) != like.dtype:
            return f"it gives {value.dtype} for {like.dtype}, which would change the state's"
    return ""


def _version(value: torch.Tensor) -> int:
    """How often a tensor was written into; those of torch.inference_mode do not count."""
    return 0 if value.is_inference() else value._version
