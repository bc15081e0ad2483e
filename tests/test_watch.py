"""A network that fails late is noticed, with the step and its times: shapes, dtypes, writes into inputs, NaN and infinity."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import stepsmith as ss
from stepsmith.errors import InputError
from stepsmith.runtime import load, sample

torch.set_num_threads(1)
DDIM = load(Path(__file__).parent / "data" / "vp_ddim_by_hand.py")
GRID = ss.TimeGrid.explicit([1.0, 0.6, 0.3, 0.1, 0.01])
PLACES = ("step 1 of 4, 1 -> 0.6", "step 2 of 4, 0.6 -> 0.3", "step 3 of 4, 0.3 -> 0.1", "step 4 of 4, 0.1 -> 0.01",
          "the last call, at the time 0.01")  # fmt: skip


class Failing:
    """Right until the call ``first``, counted from 1; then ``wrong(input)``."""

    def __init__(self, first: int, wrong: Callable[[Any], Any]) -> None:
        self.first, self.wrong, self.calls = first, wrong, 0

    def __call__(self, inputs: Any, time: Any) -> Any:
        self.calls += 1
        return self.wrong(inputs[0]) if self.calls >= self.first else (inputs[0] / (1 + time * time),)


def run(network: Any, module: Any = DDIM, **more: Any) -> torch.Tensor:
    return sample(module, network, GRID, range(3), **{"shape": (3, 2, 2), "last": "denoise", **more})


def one(x: torch.Tensor, value: float) -> torch.Tensor:
    """The input with one value changed."""
    y = x.clone()
    y.view(-1)[5] = value
    return y


def written(x: torch.Tensor) -> tuple[torch.Tensor]:
    x.mul_(0.5)
    return (x,)


AT_ONCE: dict[str, tuple[Callable[[Any], Any], str]] = {  # refused before the step makes anything of it
    "one channel for three": (lambda x: (x[:, :1],), r"outputs of shape \(3, 1, 2, 2\) for inputs of shape \(3, 3, 2, 2\)"),
    "one image for three": (lambda x: (x[:1],), "outputs of shape"),
    "float64": (lambda x: (x.double(),), "torch.float64 for torch.float32"),
    "whole numbers": (lambda x: (x.long(),), "torch.int64 for torch.float32"),
    "no tensor": (lambda x: (0.0,), "not a tuple of tensors"),
    "a tensor": (lambda x: x, "it gives Tensor"),
    "nothing": (lambda x: None, "it gives NoneType"),
    "two outputs": (lambda x: (x, x), "gives 2 outputs, vp ddim for denoiser needs 1"),
    "a write into the input": (written, "writes into its inputs"),
    "a write into a view of it": (lambda x: written(x[:, 0]) and (x / 2,), "writes into its inputs"),
}


@pytest.mark.parametrize("call", range(1, 6))
@pytest.mark.parametrize("wrong", AT_ONCE)
def test_an_output_that_does_not_fit_is_refused_at_its_call(wrong: str, call: int) -> None:
    network = Failing(call, AT_ONCE[wrong][0])
    with pytest.raises(InputError, match=AT_ONCE[wrong][1]) as refused:
        run(network)
    assert network.calls == call and refused.value.key == "network" and PLACES[call - 1] in refused.value.what


@pytest.mark.parametrize("call", range(1, 6))
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_value_that_is_not_finite_is_named_with_its_step_when_the_run_is_over(value: float, call: int) -> None:
    network = Failing(call, lambda x: (one(x, value),))
    with pytest.raises(InputError, match="NaN or infinity") as refused:
        run(network)
    assert network.calls == 5 and PLACES[call - 1] in refused.value.what


def test_a_value_that_leaves_no_trace_in_the_samples_is_named_too() -> None:
    calls: list[Any] = []

    def network(inputs: Any, time: Any) -> Any:
        calls.append(time)
        return (torch.full_like(inputs[0], float("inf") if len(calls) == 2 else 0.0),)

    with pytest.raises(InputError, match="step 2 of 4"):
        run(network)


def test_samples_that_float16_does_not_hold_are_refused_though_the_network_is_finite() -> None:
    def network(inputs: Any, time: Any) -> Any:
        return (torch.full_like(inputs[0], 6e4),)

    assert run(network, Overflowing, last="none").isfinite().all()
    with pytest.raises(InputError, match="the samples are not finite"):
        run(network, Overflowing, last="none", dtype=torch.float16)


class Overflowing:
    """DDIM with a step that leaves the range of float16."""

    locals().update(vars(DDIM))

    @staticmethod
    def step(state: Any, c: Any, network: Any, noise: Any = (), history: Any = ()) -> Any:
        (d,) = network(state, c[1])
        return (d + d,), ()


def test_a_network_of_a_narrower_dtype_is_taken() -> None:
    found = run(lambda inputs, time: ((inputs[0] / (1 + time * time)).to(torch.bfloat16),))
    assert found.dtype == torch.float32
    with pytest.raises(InputError, match=r"torch\.bfloat16 for torch\.float16"):
        run(lambda inputs, time: (inputs[0].to(torch.bfloat16),), dtype=torch.float16)


def test_a_run_inside_inference_mode_goes_through() -> None:
    plain = run(Failing(9, written))
    with torch.inference_mode():
        assert torch.equal(run(Failing(9, written)), plain)


def test_a_right_network_gives_the_same_samples_as_the_steps_alone() -> None:
    network = Failing(9, written)
    grid, x = GRID.times, ss.NoiseSource(range(3)).normal((3, 2, 2), "start", 0, 0, dtype=torch.float64)
    state, table = (x * DDIM.start(1.0)[0, 0],), DDIM.coefficients(grid)
    for row in table:
        state, _ = DDIM.step(state, row.unbind(), network)
    (data,) = DDIM.denoise(state, table[-1].unbind(), network)
    assert (run(Failing(9, written), dtype=torch.float64) - data).abs().max() < 1e-14 * data.abs().max()


def test_several_calls_a_step_and_coefficients_a_frequency_are_watched_too() -> None:
    heun, blurred = ss.load("vp_heun"), ss.load("blurring_oso_eps_l")
    with pytest.raises(InputError, match="step 2 of 4"):
        run(Failing(4, lambda x: (one(x, float("nan")),)), heun)
    grid = ss.TimeGrid.explicit([0.9, 0.6, 0.3, 0.1, 0.01])
    for wrong in (lambda x: (x[:, :1],), lambda x: (one(x, float("nan")),)):
        with pytest.raises(InputError, match="step 3 of 4"):
            sample(blurred, Failing(3, wrong), grid, range(3), shape=(3, 2, 2))


@pytest.mark.parametrize(("name", "calls"), [("vp_ddim", 4), ("vp_dpmpp_2m", 4), ("vp_heun", 8), ("psld_rvv2", 8)])
@pytest.mark.parametrize("in_place", [True, False])
def test_a_callback_gets_the_data_as_the_first_call_of_the_step_predicts_them(name: str, calls: int, in_place: bool) -> None:
    module = ss.load(name) if in_place else SimpleNamespace(**vars(ss.load(name)))
    made: list[torch.Tensor] = []

    def network(inputs: Any, time: Any) -> Any:
        made.append(torch.tanh(inputs[0]) / (1 + time * time))
        return (made[-1],)

    def run_with(callback: Any) -> torch.Tensor:
        made.clear()
        return sample(module, network, GRID, range(3), shape=(3, 2, 2), callback=callback)

    seen: list[torch.Tensor] = []
    plain = run_with(None)
    found = run_with(lambda k, state, x0: seen.append(x0))
    assert torch.equal(found, plain) and len(made) == calls and len(seen) == 4
    assert all(map(torch.equal, seen, made[:: calls // 4]))
    assert torch.equal(run_with(lambda k, state, x0: x0.zero_()), plain)  # a copy: the history keeps its own


def test_a_callback_gets_no_data_where_the_network_predicts_something_else() -> None:
    seen: list[Any] = []
    sample("vp_conjugate_v", Failing(9, written), GRID, [0], shape=(2,), callback=lambda k, state, x0: seen.append(x0))
    assert seen == [None] * 4


def test_a_callback_gets_images_of_a_module_that_runs_on_frequencies() -> None:
    module, seen, made = ss.load(ss.emit(ss.derive("blurring", "conjugate", "x0"), certified=False)), [], []

    def network(inputs: Any, time: Any) -> Any:
        made.append(0.5 * inputs[0])
        return (made[-1],)

    grid = ss.TimeGrid.explicit([0.9, 0.6, 0.3, 0.1])
    sample(module, network, grid, [0], shape=(1, 4, 4), callback=lambda k, state, x0: seen.append(x0))
    assert len(seen) == 3 and all(map(torch.equal, seen, made))
