"""The dialects k-diffusion and comfyui: held to trajectories that were recorded from k-diffusion (benchmarks/trajectories.py)."""

import functools
import itertools
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
import trajectories

import stepsmith as ss
from stepsmith.templates import attach

ROOT = Path(__file__).parents[1]
RECORD = json.loads((ROOT / "tests" / "data" / "k_diffusion.json").read_text())
GENERATED = ROOT / "generated"


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


SIGMAS, X = tensor(RECORD["sigmas"]), tensor(RECORD["x"])


@functools.cache
def module(sde, sampler, dialect="k-diffusion"):
    name = f"{sde}_{sampler}".replace("-", "_")
    if (GENERATED / f"{name}.py").exists():
        return ss.load(attach((GENERATED / f"{name}.py").read_text(), dialect))
    return ss.load(ss.emit(ss.derive(sde, sampler), dialect, certified=False))


def function(sde, sampler, dialect="k-diffusion"):
    return getattr(module(sde, sampler, dialect), f"sample_{sde}_{sampler}".replace("-", "_"))


def given(run, dtype=torch.float64):
    """A noise_sampler that hands out the recorded normals, for a run that draws."""
    rows = iter(tensor(RECORD["noise"]).to(dtype))
    return {"noise_sampler": lambda *_: next(rows)} if run["draws"] else {}


@pytest.mark.parametrize(
    ("sde", "sampler"), [("edm", "heun"), *((sde, name) for sde in ("edm", "vp") for name in RECORD["runs"] if name != "heun")]
)
def test_the_function_walks_the_trajectory_of_k_diffusion(sde, sampler):
    """Whatever the diffusion of the module, for one block the steps are those of x = data + sigma eps; Heun's are in its time."""
    run, seen = RECORD["runs"][sampler], []
    sample = function(sde, sampler)
    result = sample(trajectories.model, X, SIGMAS, callback=seen.append, disable=True, **run["more"], **given(run))
    assert (result - tensor(run["result"])).abs().max() < 1e-12
    assert [call["i"] for call in seen] == list(range(len(SIGMAS) - 1))
    for k, call in enumerate(seen):
        assert set(call) == {"x", "i", "sigma", "sigma_hat", "denoised"} and call["sigma"] == SIGMAS[k] == call["sigma_hat"]
        for key in ("x", "denoised"):
            assert (call[key] - tensor(run[key][k])).abs().max() < 1e-11 * tensor(run[key][k]).abs().max()


def test_the_function_is_k_diffusions_in_float32_too():
    for sampler in ("dpmpp-2m", "sde-dpmpp-2m"):
        run = RECORD["runs"][sampler]
        noise = given(run, torch.float32)
        result = function("vp", sampler)(trajectories.model, X.float(), SIGMAS.float(), disable=True, **run["more"], **noise)
        assert result.dtype == torch.float32 and (result - tensor(run["result"])).abs().max() < 2e-6


def flow_model(x, sigma, **_):
    """The same network as a flow: x = (1 - s) data + s eps, s = sigma."""
    s = sigma.reshape(-1, *[1] * (x.ndim - 1))
    return trajectories.model(x / (1 - s), sigma / (1 - sigma))


@pytest.mark.parametrize("sampler", ["dpmpp-2m", "sde-dpmpp-2m"])
def test_a_flow_is_walked_in_its_own_sigmas(sampler):
    """s = sigma/(1 + sigma) of the recorded run, x/(1 + sigma): the same data; at s = 1 the start is x itself."""
    run = RECORD["runs"][sampler]
    s = SIGMAS / (1 + SIGMAS)
    sample = function("edm", sampler)
    result = sample(flow_model, X / (1 + SIGMAS[0]), s, disable=True, flow=True, **run["more"], **given(run))
    assert (result - tensor(run["result"])).abs().max() < 1e-12


def test_from_pure_noise_a_flow_starts_at_x():
    s, seen = torch.tensor([1.0, 0.7, 0.3, 0.0]), []
    model = lambda x, sigma, **_: seen.append((x, sigma)) or torch.tanh(x)  # noqa: E731
    result = function("rectified-flow", "conjugate")(model, X.float(), s, disable=True, flow=True)
    assert torch.allclose(seen[0][0], X.float(), rtol=1e-5) and torch.allclose(seen[0][1], torch.ones(2), rtol=2e-6)
    x = X.float()
    for s0, s1 in itertools.pairwise(s):
        x = s1 / s0 * x + (1 - s1 / s0) * torch.tanh(x)
    assert (result - x).abs().max() < 1e-5 * x.abs().max()


def test_noise_levels_beyond_the_diffusion_are_told_with_what_a_function_can_do():
    """No Scheduler is named, and the module that is named goes as far."""
    sample = function("vp", "dpmpp-2m")
    with pytest.raises(ValueError, match="begin at 292: take a module of edm, which has no end, or begin with less noise"):
        sample(trajectories.model, X, torch.tensor([292.0, 1.0]), disable=True)
    assert function("edm", "dpmpp-2m")(trajectories.model, X, torch.tensor([292.0, 1.0]), disable=True).isfinite().all()
    with pytest.raises(ValueError, match="begin at pure noise: take a module of rectified-flow, or begin with less noise"):
        sample(flow_model, X, torch.tensor([1.0, 0.5]), disable=True, flow=True)
    for none in ([0.0], []):
        with pytest.raises(ValueError, match="there are no noise levels"):
            sample(flow_model, X, torch.tensor(none), disable=True)


def test_the_largest_seed_of_comfyui_is_a_seed():
    found = function("vp", "sde-dpmpp-2m")(trajectories.model, X, SIGMAS, extra_args={"seed": 2**64 - 1}, disable=True)
    assert found.isfinite().all()


def test_a_comfyui_model_says_itself_whether_it_is_a_flow():
    """As ComfyUI wraps it: under inner_model a patcher of the model, or in older versions the model itself."""

    class CONST:
        pass

    class ModelSamplingFlux(CONST):
        pass

    class Wrapped:
        def __init__(self, **inner):
            self.inner_model = SimpleNamespace(**inner)

        def __call__(self, x, sigma, model_options, seed):
            assert (model_options, seed) == ({"transformer_options": {}}, 7)
            return flow_model(x, sigma)

    s, extra = SIGMAS / (1 + SIGMAS), {"model_options": {"transformer_options": {}}, "seed": 7}
    patcher = SimpleNamespace(get_model_object=lambda name: {"model_sampling": ModelSamplingFlux()}[name])
    older = SimpleNamespace(model_sampling=ModelSamplingFlux())
    for model in (Wrapped(model_patcher=patcher), Wrapped(inner_model=older)):
        result = function("edm", "dpmpp-2m")(model, X / (1 + SIGMAS[0]), s, extra_args=extra, disable=True)
        assert (result - tensor(RECORD["runs"]["dpmpp-2m"]["result"])).abs().max() < 1e-12


def test_the_last_sigma_may_be_above_0_and_the_rest_can_follow():
    """An advanced sampler node in two parts: the first returns x at its last sigma."""
    sample = function("vp", "conjugate")
    whole = sample(trajectories.model, X, SIGMAS, disable=True)
    half = sample(trajectories.model, X, SIGMAS[:4], disable=True)
    assert (sample(trajectories.model, half, SIGMAS[3:], disable=True) - whole).abs().max() < 1e-12


def test_a_step_without_a_call_shows_the_last_one():
    seen = []
    function("vp", "unipc-2")(trajectories.model, X, SIGMAS[:4], callback=seen.append, disable=True)
    assert module("vp", "unipc-2").NFE_LAST == 0
    assert [call["i"] for call in seen] == [0, 1, 2] and seen[2]["denoised"] is seen[1]["denoised"]


def test_one_step_is_one_call_of_the_model():
    for sampler in ("dpmpp-2m", "unipc-3"):
        result = function("vp", sampler)(trajectories.model, X, SIGMAS[[0, -1]], disable=True)
        assert (result - trajectories.model(X, SIGMAS[:1].expand(2))).abs().max() < 1e-12


@pytest.mark.parametrize("name", ["psld_rvv2", "psld_adams_3", "psld_sscs", "psld_baoab"])
def test_several_blocks_start_at_x_and_draw_the_rest(name):
    """The first input of the network is x; the seed of ComfyUI decides the momentum and the noise; draws are independent."""
    sde, _, sampler = name.partition("_")
    sample, seen, cuts = function(sde, sampler.replace("_", "-")), [], []
    model = lambda x, sigma, **_: seen.append((x, sigma)) or trajectories.model(x, sigma)  # noqa: E731
    once, again, other = (sample(model, X, SIGMAS, extra_args={"seed": seed}, disable=True) for seed in (1, 1, 2))
    if name not in ("psld_baoab", "psld_sscs"):  # their first letters move the state before the network sees it
        assert (seen[0][0] - X).abs().max() < 1e-10 and abs(seen[0][1][0] / SIGMAS[0] - 1) < 1e-9
    assert torch.equal(once, again) and not torch.equal(once, other) and once.isfinite().all()
    noise = lambda a, b: cuts.append((float(a), float(b))) or torch.zeros_like(X)  # noqa: E731
    sample(trajectories.model, X, SIGMAS, noise_sampler=noise, disable=True)
    assert len(set(cuts)) == len(cuts) and all(a > b for a, b in cuts)


def test_the_node_gives_comfyui_a_sampler(monkeypatch):
    class KSAMPLER:
        def __init__(self, function, extra_options):
            self.function, self.extra_options = function, extra_options

    comfy, samplers = ModuleType("comfy"), ModuleType("comfy.samplers")
    comfy.samplers, samplers.KSAMPLER = samplers, KSAMPLER
    monkeypatch.setitem(sys.modules, "comfy", comfy)
    monkeypatch.setitem(sys.modules, "comfy.samplers", samplers)
    made = module("vp", "sde-dpmpp-2m", "comfyui")
    ((key, node),) = made.NODE_CLASS_MAPPINGS.items()
    assert key in made.NODE_DISPLAY_NAME_MAPPINGS and node.RETURN_TYPES == ("SAMPLER",)
    assert set(node.INPUT_TYPES()["required"]) == {"eta", "s_noise"}
    (sampler,) = getattr(node(), node.FUNCTION)(eta=0.7, s_noise=1.003)
    run = RECORD["runs"]["sde-dpmpp-2m"]
    given_by_comfyui = {"extra_args": {}, "callback": None, "disable": True}
    result = sampler.function(trajectories.model, X, SIGMAS, **given_by_comfyui, **sampler.extra_options, **given(run))
    assert (result - tensor(run["result"])).abs().max() < 1e-12


def test_a_function_that_is_made_reads_nothing_of_stepsmith():
    for dialect in ("k-diffusion", "comfyui", "diffusers"):
        text = attach((GENERATED / "vp_unipc_3.py").read_text(), dialect)
        assert "import stepsmith" not in text and "from stepsmith" not in text
