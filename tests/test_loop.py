"""The loop: loading, contract, seeds, batches, dtypes, calls, devices, the affine probe; on hand-written modules."""

import itertools
import json
import math
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from stepsmith.errors import InputError
from stepsmith.measure import problems
from stepsmith.measure.probe import affine_map, moments
from stepsmith.runtime import NoiseSource, TimeGrid, count_nfe, load, noise, plan, record, sample
from stepsmith.runtime.start import Law

torch.set_num_threads(1)
DATA = Path(__file__).parent / "data"
DDIM, TOY = load(DATA / "vp_ddim_by_hand.py"), load(DATA / "toy_two_blocks.py")
KEPT = sorted(path.stem for path in (Path(__file__).parents[1] / "generated").glob("[a-z]*.py"))
GRID = TimeGrid.explicit([1.0, 0.6, 0.3, 0.1, 0.01])


def variant(module, **changes):
    """The module with some of its names changed; None takes a name away."""
    names = {**vars(module), **changes}
    return SimpleNamespace(
        **{name: value for name, value in names.items() if name not in changes or changes[name] is not ...}
    )


class Counting:
    def __init__(self, network):
        self.network, self.calls, self.times, self.shape = network, 0, [], (2, 3)

    def __call__(self, inputs, time):
        self.calls += 1
        self.times.append(time)
        return self.network(inputs, time)


def shrink(inputs, time):
    return tuple(torch.tanh(y) / (1 + time * time) for y in inputs)


def by_hand(seeds, times, dtype=torch.float64):
    """DDIM on the noise of the start, with Python numbers."""

    def scales(t):
        B = t * (0.1 + 0.5 * 19.9 * t)
        return math.exp(-B / 2), math.sqrt(-math.expm1(-B))

    x = scales(times[0])[1] * NoiseSource(seeds).normal((2, 3), "start", 0, 0, dtype=dtype)
    for t0, t1 in itertools.pairwise(times):
        (a0, s0), (a1, s1) = scales(t0), scales(t1)
        data = torch.tanh(x / a0) / (1 + (s0 / a0) ** 2)
        x = s1 / s0 * x + (a1 - a0 * s1 / s0) * data
    return x


# loading


def test_the_runtime_loads_neither_sympy_nor_jinja_nor_the_deriver_nor_what_measures():
    code = (
        "import sys, stepsmith.runtime, stepsmith.runtime.networks; before = set(sys.modules);"
        "import stepsmith.measure.problems, stepsmith.measure.probe;"
        "print([m for m in before if m.startswith('stepsmith.measure')],"
        "[m for m in sys.modules if m.split('.')[0] in ('jinja2', 'flint') or m.startswith('stepsmith.derive')])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[] []\n"


def test_a_module_loads_from_a_path_and_from_its_text_and_is_the_same():
    text = (DATA / "vp_ddim_by_hand.py").read_text()
    for module in (load(str(DATA / "vp_ddim_by_hand.py")), load(text)):
        assert (module.API, module.SDE, module.COMPONENTS) == (1, "vp", ("x",))
        assert torch.equal(module.coefficients(GRID.times), DDIM.coefficients(GRID.times))


@pytest.mark.parametrize(
    ("source", "key"),
    [
        ("no_such_module", "module"),
        ("/nowhere/at/all.py", "module"),
        ("not python\n", "module"),
        ("raise RuntimeError('no')\n", "module"),
        ("API = 2\n", "API"),
        ("x = 1\n", "API"),
        ("API = 1\n", "SDE"),
        (
            (DATA / "vp_ddim_by_hand.py")
            .read_text()
            .replace("DRAWS, HISTORY = 1, 0, 0", "DRAWS, HISTORY = 1, None, 0"),
            "DRAWS",
        ),
        ((DATA / "vp_ddim_by_hand.py").read_text().replace("def denoise", "def other"), "denoise"),
        ((DATA / "vp_ddim_by_hand.py").read_text().replace("DATA = 0", "DATA = 1"), "DATA"),
    ],
)
def test_what_is_not_a_step_module_is_refused_by_name(source, key):
    with pytest.raises(InputError) as caught:
        load(source)
    assert caught.value.key == key and "\n" not in str(caught.value)


# the numbers


def test_samples_are_those_of_the_formula():
    found = sample(DDIM, shrink, GRID, "0-4", shape=(2, 3), dtype=torch.float64)
    assert (found - by_hand("0-4", GRID.times.tolist())).abs().max() < 1e-13
    single = sample(DDIM, shrink, GRID, "0-4", shape=(2, 3))
    assert single.dtype == torch.float32 and (single - found).abs().max() < 1e-5


@pytest.mark.parametrize("module", [DDIM, TOY], ids=["ddim", "toy"])
def test_a_sample_is_that_of_its_seed_in_every_batch(module):
    full = sample(module, shrink, GRID, range(16), shape=(2, 3))
    for seed in (0, 7, 15):
        assert (sample(module, shrink, GRID, [seed], shape=(2, 3))[0] - full[seed]).abs().max() < 1e-5
    assert (sample(module, shrink, GRID, "15,3", shape=(2, 3)) - full[[15, 3]]).abs().max() < 1e-5
    assert (full[0] - full[1]).abs().max() > 0.01


def test_history_is_carried_newest_first_and_starts_with_zeros_of_no_weight():
    seen = []

    def step(state, c, network, noise=(), history=()):
        assert len(history) == 1
        seen.append(history[0].clone())
        state, (output,) = TOY.step(state, c, network, noise, history)
        return state, (output, *history)  # one more than is held

    outputs = []

    def network(inputs, time):
        outputs.append(shrink(inputs, time)[0])
        return (outputs[-1],)

    sample(variant(TOY, step=step), network, GRID, [1, 2], shape=(2, 3))
    assert torch.equal(seen[0], torch.zeros(2, 2, 3))
    assert all(torch.equal(a, b) for a, b in zip(seen[1:], outputs[:-1], strict=True))


def test_noise_of_a_run_is_the_named_stream_of_each_step(monkeypatch):
    seen = []

    def step(state, c, network, noise=(), history=()):
        seen.append(noise)
        return TOY.step(state, c, network, noise, history)

    source = NoiseSource("3-5")
    for ahead in (2**18, 24, 1):  # all steps at once, two, one
        monkeypatch.setattr(NoiseSource, "ahead", ahead)
        seen.clear()
        sample(variant(TOY, step=step), shrink, GRID, "3-5", shape=(2,))
        assert len(seen) == GRID.steps
        for k, pair in enumerate(seen):
            assert all(torch.equal(pair[i], source.normal((2,), "step", k, i)) for i in (0, 1))


def test_the_start_has_the_covariance_of_the_factor():
    factor = TOY.start(1.0)
    xi = [NoiseSource(range(40000)).normal((), "start", 0, j, dtype=torch.float64) for j in (0, 1)]
    state = Law.at(TOY, 1.0, {}).drawn(xi, (), (), torch.float32)
    found = torch.cov(torch.stack(state).double())
    assert torch.equal(state[0], xi[0].float()) and torch.equal(state[1], (0.25 * xi[0] + 1.0 * xi[1]).float())
    assert (found - factor @ factor.T).abs().max() < 0.03


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("module", [DDIM, TOY], ids=["ddim", "toy"])
def test_the_state_keeps_its_dtype_and_the_network_gets_float64_times(module, dtype):
    states, network = [], Counting(lambda inputs, time: (0.5 * inputs[0],))
    found = sample(
        module, network, GRID, [0, 1], dtype=dtype, last="denoise", callback=lambda k, state, x0: states.append(state)
    )
    assert found.dtype == dtype and found.shape == (2, 2, 3)
    assert all(value.dtype == dtype for state in states for value in state)
    assert all(time.dtype == torch.float64 and time.dim() == 0 for time in network.times)


def test_network_calls_are_those_that_are_counted():
    for module in (DDIM, TOY):
        for last in ("none", "denoise"):
            network = Counting(shrink)
            sample(module, network, GRID, [0], last=last)
            assert network.calls == count_nfe(module, GRID.steps, last) == 4 + (last == "denoise")
    three = variant(DDIM, nfe=lambda steps: 3 * steps)
    assert count_nfe(three, 4, "denoise") == 13


def test_first_and_last_steps_replace_the_common_one_and_are_counted():
    calls = []

    def named(name):
        def step(state, c, network, noise=(), history=()):
            calls.append((name, len(noise)))
            return state, history

        return step

    ends = {"step_first": named("first"), "step_last": named("last"), "NFE_FIRST": 2, "NFE_LAST": 3, "DRAWS_FIRST": 0}
    module = variant(TOY, step=named("step"), **ends)
    sample(module, shrink, GRID, [0], shape=())
    assert calls == [("first", 0), ("step", 2), ("step", 2), ("last", 2)]
    assert count_nfe(module, 4) == 2 + 1 + 1 + 3 and count_nfe(module, 1) == 2 and count_nfe(module, 2) == 5
    calls.clear()
    sample(module, shrink, TimeGrid.explicit([1.0, 0.5]), [0], shape=())
    assert calls == [("first", 0)]


def test_the_callback_sees_every_state_in_order_and_denoise_is_the_mean_at_the_end():
    seen = []
    found = sample(DDIM, shrink, GRID, [0], shape=(2, 3), callback=lambda k, state, x0: seen.append((k, state[0])))
    assert [k for k, _ in seen] == [0, 1, 2, 3] and torch.equal(seen[-1][1], found)
    mean = sample(DDIM, shrink, GRID, [0], shape=(2, 3), last="denoise", dtype=torch.float64)
    x = by_hand([0], GRID.times.tolist())
    scale, sigma = DDIM.coefficients(GRID.times)[-1][4:]
    assert (mean - shrink((scale * x,), sigma)[0]).abs().max() < 1e-13


def test_a_network_with_weights_leaves_no_graph():
    weight = torch.ones((), requires_grad=True)
    found = sample(DDIM, lambda inputs, time: (weight * inputs[0],), GRID, [0], shape=(2,))
    assert not found.requires_grad and not found.is_inference()


def test_parameters_change_the_run():
    base = sample(DDIM, shrink, GRID, [0], shape=(4,))
    assert (sample(DDIM, shrink, GRID, [0], shape=(4,), params={"beta_max": 10.0}) - base).abs().max() > 1e-3
    assert torch.equal(sample(DDIM, shrink, GRID, [0], shape=(4,), params={"beta_max": 20.0}), base)


# what is refused, before the first network call


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"params": {"beta": 1.0}}, "params"),
        ({"params": {"beta_max": "much"}}, "params"),
        ({"params": {"beta_max": 0.05}}, "params"),
        ({"last": "twice"}, "last"),
        ({"shape": None}, "shape"),
        ({"shape": (0, 2)}, "shape"),
        ({"grid": [1.0, 0.5]}, "grid"),
        ({"grid": TimeGrid.explicit([1.0, 0.5, -0.005])}, "grid"),
        ({"seeds": "x"}, "seeds"),
        ({"device": "nowhere"}, "device"),
        ({"device": "mps", "dtype": torch.float64}, "dtype"),
        ({"dtype": torch.int64}, "dtype"),
        ({"dtype": "float32"}, "dtype"),
        ({"network": 3}, "network"),
    ],
    ids=str,
)
def test_bad_arguments_are_refused_before_the_first_network_call(change, key):
    def never(inputs, time):
        raise AssertionError("the network was called")

    arguments = {"network": never, "grid": GRID, "seeds": "0-1", "shape": (2,), **change}
    with pytest.raises(InputError) as caught:
        sample(DDIM, arguments.pop("network"), arguments.pop("grid"), arguments.pop("seeds"), **arguments)
    assert caught.value.key == key and "\n" not in str(caught.value)


def test_a_network_that_does_not_fit_is_refused():
    for attribute, value in (("inputs", 2), ("outputs", 3), ("kind", "eps-L")):
        network = Counting(shrink)
        setattr(network, attribute, value)
        with pytest.raises(InputError, match=str(value)) as caught:
            sample(DDIM, network, GRID, [0])
        assert caught.value.key == "network" and network.calls == 0
    for wrong in (lambda i, t: (i[0].double(),), lambda i, t: (i[0].sum(-1, keepdim=True) + torch.zeros(1, 2, 4),)):
        with pytest.raises((InputError, RuntimeError)):
            sample(DDIM, wrong, GRID, [0], shape=(2, 1))


def test_an_output_of_another_dtype_is_refused_after_one_step():
    with pytest.raises(InputError, match="float64") as caught:
        sample(DDIM, lambda inputs, time: (inputs[0].double(),), GRID, [0], shape=(2,))
    assert caught.value.key == "network"


def test_a_sigma_outside_the_range_of_the_network_warns_once_and_one_inside_never():
    network = Counting(shrink)
    network.sigma_range = (0.1, 50.0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        sample(DDIM, network, GRID, [0])
    assert len(caught) == 1 and "0.1 .. 50" in str(caught[0].message)
    network.sigma_range = (0.5, 1e6)
    with pytest.warns(UserWarning, match="0.5 .. 1e"):
        sample(DDIM, network, GRID, [0])
    sigma = DDIM.coefficients(GRID.times)[:, [1, 5]]
    ends = sigma.min().item(), sigma.max().item()
    network.sigma_range = (ends[0] * (1 + 2e-6), ends[1])
    with pytest.warns(UserWarning, match="is clipped"):
        sample(DDIM, network, GRID, [0])
    for network.sigma_range in (ends, tuple(torch.tensor(ends, dtype=torch.float32).tolist())):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            sample(DDIM, network, GRID, [0])
    network.sigma_range = (ends[0] * (1 + 5e-7), ends[1] * (1 - 5e-7))  # a few roundings of float32
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sample(DDIM, network, GRID, [0])


def test_the_record_is_json_and_tells_what_was_run():
    network = Counting(shrink)
    text = json.dumps(record(DDIM, GRID, "0-2", params={"beta_max": 10}, last="denoise", network=network))
    found = json.loads(text)
    assert found["seeds"] == "0-2" and found["nfe"] == 5 and found["digest"] == DDIM.DIGEST
    assert found["params"] == {"beta_min": 0.1, "beta_max": 10.0}
    assert found["grid"] == {"name": "explicit", "times": GRID.times.tolist()}
    assert (found["dtype"], found["device"], found["model"]["name"]) == ("float32", "cpu", "Counting")
    assert set(found["versions"]) == {"stepsmith", "torch", "python"}


# devices, without one


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("module", [DDIM, TOY], ids=["ddim", "toy"])
def test_the_loop_reads_nothing_back_from_a_device_and_uploads_once(fake_cuda, module, dtype):
    found, uploads = fake_cuda.run(module, lambda inputs, time: (inputs[0] / (1 + time * time),), GRID, dtype)
    assert found.device.type == "cuda" and found.dtype == dtype and found.shape == (3, 2, 3)
    assert uploads == [(2, 3), (GRID.steps, len(module.COEFFICIENTS))]  # the seeds' keys, the table


@pytest.mark.parametrize(
    ("network", "refusal"),
    [
        (lambda inputs, time: (inputs[0] / time.item(),), DataDependentOutputException),
        (lambda inputs, time: (inputs[0] if time > 1 else -inputs[0],), DataDependentOutputException),
        (lambda inputs, time: (inputs[0] / inputs[0].cpu().sum(),), AssertionError),
        (lambda inputs, time: (inputs[0] * torch.ones(2, 3),), RuntimeError),
    ],
    ids=["item", "bool", "cpu", "mixed"],
)
def test_that_check_sees_a_network_that_waits_or_mixes_devices(fake_cuda, network, refusal):
    with pytest.raises(refusal):
        fake_cuda.run(DDIM, network, GRID)


class NoFloat64(TorchDispatchMode):
    """Refuse a float64 tensor on MPS, which has none."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor) and leaf.device.type == "mps"]
        assert not any(leaf.dtype == torch.float64 for leaf in made), f"{func} gives float64"
        return result


@pytest.mark.parametrize("name", KEPT)
def test_no_float64_lands_on_a_device_that_has_none(fake_cuda, name):
    module = load(name)
    given = {"constants": {each: torch.zeros(()) for each in getattr(module, "CONSTANTS", ())}}
    if "blurring" not in name:
        given |= {"init": torch.zeros(()), "mask": torch.tensor([0.0, 1.0, 0.0])}
    seen = set()

    def network(inputs, time):
        seen.add((time.device.type, time.dtype))
        return tuple(torch.tanh(inputs[0]) / (1 + time * time) for _ in range(module.OUTPUTS))

    grid = TimeGrid.explicit([0.9 * module.END, 0.5 * module.END, 0.1 * module.END])
    with NoFloat64():
        found, _ = fake_cuda.run(module, network, grid, device="mps", **given)
    assert found.device.type == "mps" and found.dtype == torch.float32 and seen == {("mps", torch.float32)}


@pytest.mark.parametrize("name", ["vp_adams_3", "psld_rvv", "psld_roba"])
def test_a_run_with_float32_numbers_alone_is_the_run_to_float32(monkeypatch, name):
    """What MPS would compute, on the CPU: times, coefficients and the sums of the start in float32."""
    module, grid = load(name), TimeGrid.explicit(torch.linspace(1, 0.03, 20))
    given = {"shape": (2, 3), "last": "denoise", "init": torch.ones(3), "mask": torch.tensor([0.0, 1.0, 0.0])}
    wanted = sample(module, shrink, grid, range(4), **given)
    for where in (noise, plan):
        monkeypatch.setattr(where, "widest", lambda device: torch.float32)
    gap = (sample(module, shrink, grid, range(4), **given) - wanted).abs().max()
    assert 0 < gap < 1e-5 * wanted.abs().max()


# the affine probe


def test_the_probe_reads_the_map_of_a_step_exactly():
    mu, S0 = 0.3, 0.25
    row = DDIM.coefficients(GRID.times)[1]
    A, b, N = affine_map(DDIM, row, problems.Gaussian(mu, S0).network())
    scale, sigma, keep, gain, _, _ = row.tolist()
    slope = S0 / (S0 + sigma**2)
    assert abs(A.item() - (keep + gain * slope * scale)) < 1e-14 and abs(b.item() - gain * (1 - slope) * mu) < 1e-14
    assert N.shape == (1, 0)


def test_the_probe_carries_outputs_and_draws():
    row = TOY.coefficients(GRID.times)[2]
    sigma, keep, gain, w0, w1, kick, damp, pull, shake = row.tolist()
    g = 0.25 / (0.25 + sigma**2)
    A, b, N = affine_map(TOY, row, problems.Gaussian(0.3, 0.25).network())
    D = 0.3 * (1 - g)
    want = torch.tensor([[damp, pull, 0], [0, keep + gain * w0 * g, gain * w1], [0, g, 0]], dtype=torch.float64)
    assert (A - want).abs().max() < 1e-14
    assert (b - torch.tensor([0, gain * w0 * D, D], dtype=torch.float64)).abs().max() < 1e-14
    assert (N - torch.tensor([[0, shake], [kick, 0], [0, 0]], dtype=torch.float64)).abs().max() < 1e-14


def test_the_probe_agrees_with_samples():
    network = problems.Gaussian(0.3, 0.25).network()
    for last in ("none", "denoise"):
        exact = moments(TOY, network, GRID, last=last)
        drawn = sample(TOY, network, GRID, range(100_000), dtype=torch.float64, last=last)
        spread = exact.data_var**0.5
        assert abs(drawn.mean() - exact.data_mean) < 5 * spread / 1e5**0.5
        assert abs(drawn.var() / exact.data_var - 1) < 5 * (2 / 1e5) ** 0.5
    assert exact.mean.shape == (5, 2) and exact.cov.shape == (5, 2, 2) and exact.joint_cov.shape == (3, 3)


def test_the_probe_takes_the_last_call_into_account():
    grid, network = TimeGrid.explicit([0.9, 0.5]), problems.Gaussian(0.3, 0.25).network()
    scale, sigma = DDIM.coefficients(grid.times)[-1][4:].tolist()
    slope = 0.25 / (0.25 + sigma**2)
    plain, found = moments(DDIM, network, grid, [0.2]), moments(DDIM, network, grid, [0.2], last="denoise")
    assert abs(found.data_mean - (0.3 + slope * (scale * plain.data_mean - 0.3))) < 1e-14
    assert abs(found.data_var - (slope * scale) ** 2 * plain.data_var) < 1e-14
    assert plain.data_var == plain.cov[-1, 0, 0] and found.data_var < 0.5 * plain.data_var


def test_the_probe_measures_that_ddim_has_order_one():
    problem, errors = problems.Gaussian(0.3, 0.25), []
    alpha, sigma = DDIM._scales(torch.tensor([0.8, 0.05], dtype=torch.float64), 0.1, 20.0)
    exact = (alpha**2 * 0.25 + sigma**2).tolist()
    for steps in (64, 128, 256, 512):
        grid = TimeGrid.explicit(torch.linspace(0.8, 0.05, steps + 1, dtype=torch.float64))
        found = moments(DDIM, problem.network(), grid, [0.3 * alpha[0].item()], torch.tensor([[exact[0]]]))
        errors.append(abs(found.cov[-1].item() - exact[1]))
    slopes = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    assert abs(slopes[-1] - 1) < 0.1 and errors[-1] > 1e-9, slopes


def test_the_probe_refuses_a_network_that_is_not_affine():
    with pytest.raises(InputError, match="not affine"):
        affine_map(DDIM, DDIM.coefficients(GRID.times)[0], shrink)
