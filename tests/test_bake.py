"""A baked module: the same trajectory from literals, on torch alone, for its own times and parameters."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import stepsmith as ss
from stepsmith.baking import hold, trajectory
from stepsmith.errors import CertificateError, InputError, Unsupported

SHAPE = (3, 2)
KINDS = {
    "one block": "vp_ddim",
    "history": "vp_adams_3",
    "a first and a last step of their own": "vp_unipc_3",
    "noise": "vp_sde_dpmpp_2m",
    "two blocks and two calls": "psld_rvv2",
    "two blocks and history": "psld_adams_3",
    "a constant and a mean": "ir_sde_conjugate",
    "one output a block": "psld_conjugate_eps_l",
}


def grid_of(module, steps=6):
    share = torch.linspace(1, 0, steps + 1, dtype=torch.float64) ** 2
    return ss.TimeGrid.explicit(module.START + (module.END - module.START) * (0.01 + 0.98 * share))


@pytest.fixture(scope="module", params=KINDS.values(), ids=KINDS)
def pair(request):
    module = ss.load(request.param)
    return module, ss.bake(module, grid_of(module))


def usage(text):
    lines = text.partition("so no float64 is needed:\n")[2].partition('"""')[0]
    return textwrap.dedent(lines)


class NoFloat64(TorchDispatchMode):
    """Refuse every operation that gives float64, as a device without it does."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        assert not any(leaf.dtype == torch.float64 for leaf in made), f"{func} gives float64"
        return result


def test_the_trajectory_is_that_of_the_module_to_the_last_place(pair):
    module, text = pair
    baked, grid = ss.load(text), grid_of(module)
    assert torch.equal(baked.coefficients(grid.times), module.coefficients(grid.times))
    assert torch.equal(baked.start(baked.TIMES[0]), module.start(baked.TIMES[0]))
    assert torch.equal(baked.start_data(baked.TIMES[0]), module.start_data(baked.TIMES[0]))
    one = trajectory(module, module.coefficients(grid.times).unbind())
    for a, b in zip(one, trajectory(baked, baked.TABLE), strict=True):
        assert (a - b).abs().max() <= 1e-15 * max(1.0, a.abs().max().item())


def test_the_lines_of_use_run_without_a_float64_tensor(pair):
    module, text = pair
    baked, calls = ss.load(text), []

    def network(inputs, time):
        calls.append(time)
        return tuple(0.1 * torch.tanh(inputs[k % len(inputs)]) for k in range(baked.OUTPUTS))

    given = tuple(torch.full(SHAPE, 0.5) for _ in getattr(baked, "CONSTANTS", ()))
    names = {name: value for name, value in vars(baked).items() if not name.startswith("__")}
    names |= {"torch": torch, "network": network, "shape": SHAPE, "given": given}
    with NoFloat64():
        exec(usage(text), names)
    assert names["data"].shape == SHAPE and names["data"].dtype == torch.float32 and names["data"].isfinite().all()
    assert len(calls) == module.nfe(len(baked.TABLE)) + 1 and all(isinstance(time, float) for time in calls)


def test_other_times_and_parameters_are_refused(pair):
    module, text = pair
    baked, times = ss.load(text), grid_of(module).times
    for wrong in (times[:-1], times * 0.99, times.flip(0)):
        with pytest.raises(ValueError, match="bake another"):
            baked.coefficients(wrong)
    with pytest.raises(ValueError, match="bake another"):
        baked.start(0.5)
    name = next(iter(module.PARAMS))
    with pytest.raises(ValueError, match="bake another"):
        baked.coefficients(times, **{name: module.PARAMS[name] + 1})
    with pytest.raises(TypeError, match="unknown"):
        baked.coefficients(times, unknown=1.0)


def test_sample_runs_a_baked_module_as_it_runs_the_module(pair):
    module, text = pair
    network = lambda inputs, time: tuple(0.1 * torch.tanh(inputs[0] + k) for k in range(module.OUTPUTS))  # noqa: E731
    more = {"constants": {name: torch.zeros(2) for name in getattr(module, "CONSTANTS", ())}, "shape": (2,)}
    one, two = (ss.sample(each, network, grid_of(module), range(4), **more) for each in (module, ss.load(text)))
    assert torch.equal(one, two)
    assert torch.equal(one, ss.sample(ss.load(text), network, None, range(4), **more))


def test_a_baked_module_runs_where_stepsmith_is_not_installed(tmp_path):
    module = ss.load("psld_rvv2")
    text = ss.bake(module, grid_of(module))
    (tmp_path / "baked.py").write_text(text)
    program = f"import sys, torch\nsys.path.insert(0, {str(tmp_path)!r})\nfrom baked import *\n"
    program += "shape, network = (3, 2), lambda inputs, time: (torch.tanh(inputs[0]),)\n" + usage(text)
    program += "\nassert data.isfinite().all() and not any(name.startswith('stepsmith') for name in sys.modules)\n"
    subprocess.run([sys.executable, "-I", "-c", program], check=True, cwd=tmp_path)


def test_a_network_of_the_package_takes_the_floats_of_a_baked_row():
    text = ss.bake("vp_ddim", ss.TimeGrid.logsnr(ss.load_sde("vp"), 3, start=0.5))
    baked = ss.load(text)
    network = ss.networks.load("digits")
    names = {name: value for name, value in vars(baked).items() if not name.startswith("__")}
    names |= {"torch": torch, "network": network, "shape": (2, *network.shape)}
    with torch.no_grad(), NoFloat64():
        exec(usage(text), names)
    assert names["data"].isfinite().all()


def test_a_baked_step_needs_no_host(fake_cuda):
    baked = ss.load(ss.bake("vp_adams_3", grid_of(ss.load("vp_adams_3"))))
    with fake_cuda.guard():
        state, history = (torch.empty(SHAPE, device="cuda"),), (torch.empty(SHAPE, device="cuda"),) * baked.HISTORY
        for row in baked.TABLE:
            state, history = baked.step(state, row, lambda inputs, time: (inputs[0] * time,), (), history)
        assert state[0].device.type == "cuda" and state[0].dtype == torch.float32


def test_parameters_are_baked_in():
    module, grid = ss.load("vp_ddim"), grid_of(ss.load("vp_ddim"))
    baked = ss.load(ss.bake(module, grid, {"beta_max": 15.0}))
    assert baked.PARAMS["beta_max"] == 15.0 and baked.DIGEST != module.DIGEST
    assert torch.equal(baked.coefficients(grid.times), module.coefficients(grid.times, beta_max=15.0))


def test_a_method_is_baked_and_what_cannot_be_is_refused():
    sde = ss.load_sde("vp")
    method = ss.derive(sde, "ddim")
    assert ss.load(ss.bake(method, ss.TimeGrid.logsnr(sde, 4))).SAMPLER == "ddim"
    text = ss.bake("vp_ddim", [1.0, 0.5, 0.1], network_digest="ab")
    assert ss.load(text).NETWORK_DIGEST == "ab"
    with pytest.raises(InputError, match="baked already"):
        ss.bake(text, [1.0, 0.5])
    with pytest.raises(InputError, match="decrease"):
        ss.bake("vp_ddim", [2.0, 0.5])
    with pytest.raises(Unsupported, match="a coefficient a frequency"):
        ss.bake("blurring_conjugate_eps_l", [1.0, 0.5])


def test_a_text_that_leaves_the_trajectory_is_not_handed_out():
    module, grid = ss.load("vp_ddim"), grid_of(ss.load("vp_ddim"))
    baked = ss.load(ss.bake(module, grid))
    first = baked.TABLE[0]
    baked.TABLE = ((first[0] * (1 + 1e-12), *first[1:]), *baked.TABLE[1:])
    with pytest.raises(CertificateError, match="trajectory"):
        hold("vp_ddim", module, baked, grid.times, {})


def test_sample_warns_of_another_network_than_the_one_it_was_tuned_for():
    network = ss.problems.GaussianMixture([1.0], [[0.0, 0.0]], 1.0).network()
    object.__setattr__(network, "digest", "one")
    for tuned_for, warns in (("one", 0), ("two", 1), (None, 0)):
        baked = ss.load(ss.bake("vp_ddim", [1.0, 0.5, 0.1], network_digest=tuned_for))
        for called in (network, ss.networks.guided(network, 2.0, {})):  # it is known by its weights, however it is called
            with pytest.warns(UserWarning, match="another network") if warns else contextlib.nullcontext():
                ss.sample(baked, called, None, 2)


def test_build_bakes(tmp_path):
    run = lambda *more: subprocess.run(  # noqa: E731
        [sys.executable, "-m", "stepsmith", "build", *more], capture_output=True, text=True, cwd=tmp_path
    )
    done = run("--bake", "--sde", "psld", "--sampler", "rvv2", "--steps", "4", "--out", "out", "vp-ddim")
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["psld_rvv2_quadratic_4.py", "vp_ddim_quadratic_4.py"]
    assert len(ss.load(tmp_path / "out" / "psld_rvv2_quadratic_4.py").TIMES) == 5
    refused = run("--bake", "vp-ddim", "--out", "out")
    assert refused.returncode == 2 and "--bake and --steps go together" in refused.stderr


def test_the_verb_sample_runs_a_baked_file_on_its_own_grid(tmp_path, monkeypatch, capsys):
    from stepsmith.cli import main

    grid = ss.TimeGrid.logsnr(ss.load_sde("vp"), 3, start=0.9)
    (tmp_path / "baked.py").write_text(ss.bake("vp_ddim", grid))
    (tmp_path / "module.py").write_text(Path(ss.load("vp_ddim").__file__).read_text())

    def run(*more):
        monkeypatch.setattr(sys, "argv", ["stepsmith", "sample", "--seeds", "0-1", "--out", str(tmp_path / "s.npz"), *more])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code, capsys.readouterr()

    code, told = run("--sampler", str(tmp_path / "baked.py"))
    assert code == 0 and "2 samples of ddim on explicit, 3 steps, 3 calls a sample" in told.out
    code, told = run("--sampler", str(tmp_path / "baked.py"), "--steps", "5")
    assert code == 2 and "has its own grid; leave --steps and --nfe out" in told.err
    code, told = run("--sampler", str(tmp_path / "module.py"))
    assert code == 2 and "it is not baked" in told.err
