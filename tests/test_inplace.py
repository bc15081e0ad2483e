"""Steps in place: they are the emitted steps, they allocate nothing once warm, and what is handed out stays as it was."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from stepsmith.runtime import NoiseSource, TimeGrid, inplace, load, sample, sampler
from stepsmith.runtime.inplace import InPlace, read_step
from stepsmith.runtime.modules import from_text, installed
from stepsmith.runtime.sampler import steps_of

torch.set_num_threads(1)
SPEED = ("vp_ddim", "vp_dpmpp_2m", "vp_unipc_3", "psld_rvv", "psld_roba", "hold_conjugate")
GRID = TimeGrid.explicit(torch.linspace(0.9, 0.1, 9, dtype=torch.float64))
SHAPE = (2, 3)


@pytest.fixture(params=[1, inplace.LARGE], ids=["as a large state", "as a small one"])
def size(request: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small states in the way of large ones, too: with two terms of a sum in one pass."""
    monkeypatch.setattr(inplace, "LARGE", request.param)


def shrink(inputs: Any, time: Any) -> Any:
    return tuple(torch.tanh(y) / (1 + 0.1 * time * time) for y in inputs)


def normals(stream: str, count: int, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    return tuple(NoiseSource(range(3)).normal(SHAPE, stream, 0, j, dtype=dtype) for j in range(count))


@functools.cache
def in_order(name: str) -> Any:
    """A module of the catalogue, the rows of a grid within its span, and its step functions."""
    module = load(name)
    times = torch.linspace(0.9 * min(module.END, 1.5), max(0.1, 2 * module.START), 6, dtype=torch.float64)
    return module, module.coefficients(times), steps_of(module, 5)


# the numbers


@pytest.mark.usefixtures("size")
@pytest.mark.parametrize("name", [name for name in installed() if not name.startswith("blurring")])
def test_the_steps_of_every_module_are_those_in_place(name: str) -> None:
    module, table, steps = in_order(name)
    network = lambda inputs, time: shrink((*inputs, *inputs)[: module.OUTPUTS], time)  # noqa: E731
    for dtype, near in ((torch.float32, 1e-6), (torch.float64, 1e-14)):
        memory, state = InPlace(), normals("start", len(module.COMPONENTS), dtype)
        history = normals("past", module.HISTORY, dtype)  # not zero, as a first step would have it
        for (step, draws), row in zip(steps, table, strict=True):
            noise, before = normals("step", draws, dtype), [value.clone() for value in (*state, *history)]
            want = step(state, row.unbind(), network, noise, history)
            recipe = read_step(module, step, draws)
            assert recipe is not None
            found = memory.step(recipe, (*row.tolist(), 1.0), state, row.unbind(), network, noise, history)
            assert all(map(torch.equal, (*state, *history), before))
            for a, b in zip((*found[0], *found[1]), (*want[0], *want[1]), strict=True):
                assert a.dtype == dtype and (a - b).abs().max() <= near * max(1, b.abs().max())
            state, history = found[0], found[1][: module.HISTORY]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", SPEED)
def test_a_run_in_place_is_the_run_of_the_steps(name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    module = load(name)
    found = sample(module, shrink, GRID, range(3), shape=SHAPE, dtype=dtype)
    monkeypatch.setattr(sampler, "read_step", lambda *_: None)
    want = sample(module, shrink, GRID, range(3), shape=SHAPE, dtype=dtype)
    near = 1e-13 if dtype == torch.float64 else 0.1  # eight steps: bfloat16 has eight bits, and steps as written round every term
    assert (found - want).abs().max() < near * want.abs().max()


TEXT = (Path(__file__).parent / "data" / "vp_ddim_by_hand.py").read_text()
BODY = "    return (keep * x + gain * data,), ()"


def edited(line: str) -> Any:
    assert TEXT.count(BODY) == 1
    return from_text(TEXT.replace(BODY, line))


@pytest.mark.parametrize(
    "line",
    [
        "    return ((keep * x + gain * data).clamp(-1, 1),), ()",
        "    return (torch.tanh(keep * x + gain * data),), ()",
        "    return (keep * x + gain * data * data,), ()",
        "    return (keep * x + gain * data + 0.1,), ()",
        "    return (x - gain * data,), ()",
        "    return (keep * x if keep > 0.5 else gain * data,), ()",
        "    x += gain * data; x.mul_(0.5); return (x,), ()",
    ],
)
def test_a_step_that_is_more_than_sums_runs_as_it_is_written(line: str) -> None:
    module = edited(line)
    assert read_step(module, module.step, 0) is None


def test_somebody_elses_step_is_not_read() -> None:
    module = edited(BODY)
    assert read_step(module, module.step, 0) is not None
    assert read_step(module, torch.compile(module.step, backend="eager"), 0) is None
    assert read_step(module, functools.partial(module.step), 0) is None
    assert read_step(module, load("vp_ddim").step, 0) is None
    blurring = load("blurring_oso_eps_l")
    assert read_step(blurring, blurring.step, blurring.DRAWS) is None


@pytest.mark.usefixtures("size")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("given", [torch.float32, torch.float16], ids=str)
def test_outputs_in_another_layout_or_of_another_type_are_added_as_they_are(dtype: torch.dtype, given: torch.dtype) -> None:
    def network(inputs: Any, time: Any) -> Any:
        return (torch.tanh(inputs[0]).to(memory_format=torch.channels_last).to(given),)

    module, shape = load("vp_unipc_3"), (2, 3, 4)
    plain = lambda inputs, time: (network(inputs, time)[0].to(dtype).contiguous(),)  # noqa: E731
    found, want = (sample(module, net, GRID, range(3), shape=shape, dtype=dtype) for net in (network, plain))
    assert (found - want).abs().max() <= 1e-5 * want.abs().max()


# memory


class NewMemory(TorchDispatchMode):
    """Collects the operations that give memory of their own, while ``on``."""

    def __init__(self) -> None:
        super().__init__()
        self.on, self.found = False, []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if self.on:
            had = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
            new = [t for t in tree_leaves(result) if isinstance(t, torch.Tensor) and t.untyped_storage()._cdata not in had]
            self.found += [func] * len(new)
        return result


class Seen:
    """``shrink``, or something else, that is no part of what is counted; the loop is warm after ``warm`` calls."""

    def __init__(self, memory: NewMemory, warm: int, network: Any = shrink) -> None:
        self.memory, self.warm, self.network, self.calls = memory, warm, network, 0

    def __call__(self, inputs: Any, time: Any) -> Any:
        self.memory.on, self.calls = False, self.calls + 1
        outputs = self.network(inputs, time)
        self.memory.on = self.calls >= self.warm
        return outputs


@pytest.mark.usefixtures("size")
@pytest.mark.parametrize("name", [*SPEED, "ir_sde_conjugate", "rectified_flow_conjugate_flow", "vp_sa_solver"])
def test_nothing_is_allocated_once_the_loop_is_warm(name: str) -> None:
    module = load(name)
    memory = NewMemory()
    network = Seen(memory, (module.HISTORY + 3) * module.NFE)  # the history is full, and a step more is made
    constants = {key: torch.full(SHAPE, 0.1) for key in getattr(module, "CONSTANTS", ())} or None
    ready = sampler.make_plan(module, network, GRID, range(3), shape=SHAPE, constants=constants)
    with torch.no_grad(), memory:
        watch = sampler.Watch(module, network, GRID.times)
        sampler.run_plan(ready, watch)
    assert network.calls >= 7 * module.NFE and memory.found == []


def test_that_check_sees_a_step_that_allocates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampler, "read_step", lambda *_: None)
    with pytest.raises(AssertionError):
        test_nothing_is_allocated_once_the_loop_is_warm("vp_ddim")


@pytest.mark.usefixtures("size")
@pytest.mark.parametrize("name", SPEED)
def test_the_loop_may_be_captured_as_a_graph(fake_cuda: Any, name: str) -> None:
    """On a device that is not there: no read by the host, no upload and no new memory once warm."""
    module, memory = load(name), NewMemory()
    network = Seen(memory, (module.HISTORY + 3) * module.NFE, lambda inputs, time: tuple(y / (1 + time * time) for y in inputs))
    with memory:
        found, uploads = fake_cuda.run(module, network, GRID, last="none")
    assert found.device.type == "cuda" and network.calls >= 7 * module.NFE and memory.found == [] and len(uploads) == 2


def test_what_a_callback_keeps_stays_and_what_it_changes_counts() -> None:
    def run(change: bool) -> list[torch.Tensor]:
        kept, copies = [], []

        def callback(k: int, state: Any, x0: Any) -> None:
            if change and k == 3:
                state[0].zero_()
            kept.append(state[0])
            copies.append(state[0].clone())

        found = sample(load("psld_rvv"), shrink, GRID, range(3), shape=SHAPE, callback=callback)
        assert all(map(torch.equal, kept, copies)) and torch.equal(found, kept[-1])
        return kept

    plain, changed = run(False), run(True)
    assert all(map(torch.equal, plain[:3], changed)) and (changed[3] == 0).all()
    assert (plain[7] - changed[7]).abs().min() > 1e-3


@pytest.mark.parametrize("name", SPEED)
@pytest.mark.parametrize("given", ["inputs", "outputs", "themselves", "detached"])
def test_what_a_network_keeps_or_gives_back_stays(name: str, given: str) -> None:
    kept, copies = [], []

    def network(inputs: Any, time: Any) -> Any:
        outputs = {"themselves": inputs, "detached": tuple(y.detach() for y in inputs)}.get(given, shrink(inputs, time))
        if given != "detached":
            kept.extend(outputs if given == "outputs" else inputs)
            copies.extend(value.clone() for value in (outputs if given == "outputs" else inputs))
        return outputs

    other = lambda inputs, time: tuple(y.clone() for y in network(inputs, time))  # noqa: E731
    found, want = (sample(load(name), net, GRID, range(3), shape=SHAPE) for net in (network, other))
    assert torch.equal(found, want) and all(map(torch.equal, kept, copies))


def test_the_start_and_the_samples_are_the_callers_own() -> None:
    start = torch.ones(SHAPE)
    found = [sample(load("rectified_flow_conjugate_flow"), shrink, GRID, range(3), shape=SHAPE, start=start) for _ in range(2)]
    assert torch.equal(*found) and (start == 1).all() and found[0].untyped_storage().nbytes() == found[0].nbytes


# under torch's own machinery


@pytest.mark.usefixtures("size")
@pytest.mark.parametrize("name", SPEED)
def test_the_state_stays_float32_under_autocast(name: str) -> None:
    torch.manual_seed(0)
    layer, states = torch.nn.Linear(3, 3), []
    network = lambda inputs, time: (layer(inputs[0]),)  # noqa: E731

    def cast(inputs: Any, time: Any) -> Any:
        with torch.autocast("cpu", torch.bfloat16):
            return network(inputs, time)

    with torch.autocast("cpu", torch.bfloat16):
        assert network((torch.ones(3),), None)[0].dtype == torch.bfloat16
        found = sample(load(name), network, GRID, range(3), shape=SHAPE, callback=lambda k, state, x0: states.extend(state))
    assert found.dtype == torch.float32 and all(value.dtype == torch.float32 for value in states)
    assert torch.equal(found, sample(load(name), cast, GRID, range(3), shape=SHAPE))


@pytest.mark.parametrize("name", SPEED)
def test_a_step_compiles_whole_and_once_with_its_network(name: str) -> None:
    module, layer = load(name), torch.nn.Linear(3, 3)
    table = module.coefficients(torch.linspace(0.9, 0.1, 51, dtype=torch.float64))
    network = lambda inputs, time: (layer(inputs[0]) / (1 + time * time),)  # noqa: E731
    torch._dynamo.reset()
    compiled = torch.compile(module.step, fullgraph=True, backend="aot_eager")
    state, history = normals("start", len(module.COMPONENTS), torch.float32), normals("past", module.HISTORY, torch.float32)
    with torch.no_grad(), torch._dynamo.config.patch(error_on_recompile=True):
        for row in table:
            noise = normals("step", module.DRAWS, torch.float32)
            want, _ = module.step(state, row.unbind(), network, noise, history)
            state, history = compiled(state, row.unbind(), network, noise, history)
            assert all((a - b).abs().max() <= 1e-5 * max(1, b.abs().max()) for a, b in zip(state, want, strict=True))


def test_a_compiled_network_is_compiled_once_in_a_run() -> None:
    torch._dynamo.reset()
    inner = torch.compile(lambda y, time: torch.tanh(y) / (1 + time * time), fullgraph=True, backend="aot_eager")
    with torch._dynamo.config.patch(error_on_recompile=True):
        sample(load("psld_rvv"), lambda inputs, time: (inner(inputs[0], time),), GRID, range(3), shape=SHAPE)
