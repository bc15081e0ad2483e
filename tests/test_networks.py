"""The two real networks, the adapters, and the distance of digits."""

from __future__ import annotations

import inspect
import itertools
import json
import math
import os
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import stepsmith as ss
from stepsmith.errors import InputError
from stepsmith.measure import frechet
from stepsmith.runtime import networks
from stepsmith.runtime.networks import checkpoint, galaxies, unet
from stepsmith.runtime.networks.shipped import WEIGHTS

torch.set_num_threads(1)
DIGITS = WEIGHTS / "digits.safetensors"
CLASSIFIER = frechet.WEIGHTS / "digits_classifier.safetensors"
FIGURES = frechet.reference().figures


def at(sigma: float) -> torch.Tensor:
    return torch.tensor(sigma, dtype=torch.float64)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def heun(network, count, steps, lo=0.02, hi=80.0, seed=0):
    """EDM's deterministic sampler: 2 steps - 1 calls."""
    grid = (hi ** (1 / 7) + torch.linspace(0, 1, steps, dtype=torch.float64) * (lo ** (1 / 7) - hi ** (1 / 7))) ** 7
    z = hi * normal(count, *network.shape, seed=seed)
    for s, t in itertools.pairwise(grid):
        slope = (z - network((z,), s)[0]) / s
        ahead = z + (t - s) * slope
        z = z + (t - s) * (slope + (ahead - network((ahead,), t)[0]) / t) / 2
    return network((z,), grid[-1])[0]


@pytest.fixture(scope="module")
def net():
    return networks.load("digits")


@pytest.fixture(scope="module")
def images():
    sklearn = pytest.importorskip("sklearn.datasets")
    return torch.tensor(sklearn.load_digits().images, dtype=torch.float32)[:, None] / 8 - 1


@pytest.fixture(scope="module")
def samples(net):
    return heun(net, 600, 15).clamp(-1, 1)


@pytest.fixture(scope="module")
def galaxy():
    try:
        return networks.load("galaxies")
    except InputError as error:
        if "could not be fetched" not in error.what:
            raise
        pytest.skip(f"the wheel of the galaxies cannot be fetched here: {error}")


# The adapters


def vp_alpha(t):
    return torch.exp(-t / 2)


def vp_sigma(t):
    return torch.sqrt(-torch.expm1(-t))


def vp_time(s):
    return torch.log1p(s * s)


def gaussian_denoiser(y, sigma):
    """E[x0 | y] for x0 ~ N(0, 1/4)."""
    return y * 0.25 / (0.25 + sigma**2)


def vp_score(x, t):
    t = t.reshape(-1, 1)
    return -x / (0.25 * torch.exp(-t) - torch.expm1(-t))


def vp_eps(x, t):
    return -torch.sqrt(-torch.expm1(-t.reshape(-1, 1))) * vp_score(x, t)


def vp_v(x, t):
    a, b = vp_alpha(t).reshape(-1, 1), vp_sigma(t).reshape(-1, 1)
    return a * vp_eps(x, t) - b * (x - b * vp_eps(x, t)) / a


def flow_velocity(x, t):
    t = t.reshape(-1, 1)
    eps = t * x / (0.25 * (1 - t) ** 2 + t**2)
    return eps - (x - t * eps) / (1 - t)


@pytest.mark.parametrize("sigma", [0.02, 0.7, 30.0])
@pytest.mark.parametrize("adapter", ["denoiser", "eps", "v", "score", "flow", "edm"])
def test_every_adapter_gives_the_same_exact_denoiser(adapter, sigma):
    vp = (vp_alpha, vp_sigma, vp_time, (3,))
    sd = 0.5

    def raw(x, noise):  # F of the exact denoiser
        s = torch.exp(4 * noise)
        skip, out, scale, _ = networks.edm_coefficients(s, sd)
        return (gaussian_denoiser(x / scale, s) - skip * x / scale) / out

    made = {
        "denoiser": lambda: networks.denoiser(gaussian_denoiser, (3,), dtype=None),
        "eps": lambda: networks.from_eps(vp_eps, *vp, dtype=None),
        "v": lambda: networks.from_v(vp_v, *vp, dtype=None),
        "score": lambda: networks.from_score(vp_score, *vp, dtype=None),
        "flow": lambda: networks.from_flow(flow_velocity, (3,), dtype=None),
        "edm": lambda: networks.from_edm(raw, sd, (3,), dtype=None),
    }[adapter]()
    y = normal(5, 3).double() * math.hypot(0.5, sigma)
    (got,) = made((y,), at(sigma))
    assert made.kind == "denoiser" and got.dtype == torch.float64
    torch.testing.assert_close(got, gaussian_denoiser(y, sigma), rtol=1e-9, atol=1e-12)


CODE = {"fn", "net", "alpha", "sigma", "inverse", "args", "options", "known", "shape"}
@pytest.mark.parametrize("given", [(80.0, 0.005), (0.005,), 5.0, ("a", "b"), (0.1, 2.0, 3.0), (-1.0, 2.0), (0.1, float("nan"))])
def test_what_is_no_range_of_sigmas_is_refused(given):
    with pytest.raises(InputError, match=r"sigma_range: .* is no range of effective sigmas; give"):
        networks.denoiser(lambda y, sigma: y, (2,), sigma_range=given)


RANGE, RUN = {"sigma_range": (0.1, 2.0), "sigma_data": 0.7}, {"dtype": None}
def test_what_is_no_network_yet_is_told_how_to_become_one() -> None:
    with pytest.raises(InputError, match="function does not say the shape of a sample; make a Network of it"):
        networks.guided(lambda y, sigma, label: y, 2.0, {"label": [0]})
    for name, meant in (("eps", "eps-L"), ("v_prediction", "v"), ("sample", "x0")):
        with pytest.raises(InputError, match=f"no parameterisation '{name}'; it is called '{meant}' here"):
            ss.derive("vp", "ddim", name)
    assert repr(ss.networks.load("digits")) == "Network(digits: denoiser, shape (1, 8, 8), sigma 0.005 to 80)"


VP = {"fn": vp_eps, "alpha": vp_alpha, "sigma": vp_sigma, "inverse": vp_time, "shape": (3,)}
INNER, OTHER = (networks.denoiser(gaussian_denoiser, (3,), sigma_data=width) for width in (0.5, 0.6))
ZERO, ONE = torch.zeros(3), torch.ones(3)
FALLING = torch.tensor([0.9, 0.5, 0.1])
SETTINGS = {  # how an adapter is called, and another value of each of its settings
    "denoiser": ({"fn": gaussian_denoiser, "shape": (3,)}, {**RANGE, **RUN, "batched": True}),
    "from_edm": ({"net": gaussian_denoiser, "sigma_data": 0.5, "shape": (3,)}, {**RANGE, **RUN}),
    "from_eps": (VP, {**RANGE, **RUN, "batched": False}),
    "from_v": (VP, {**RANGE, **RUN, "batched": False}),
    "from_score": (VP, {**RANGE, **RUN, "batched": False}),
    "from_flow": ({"fn": flow_velocity, "shape": (3,)}, {**RANGE, **RUN, "batched": False}),
    "channels": (
        {"fn": vp_eps, "components": 2, "shape": (3,)},
        {"components": 3, "kind": "eps-U", "outputs": 1, **RUN},
    ),
    "guided": (
        {"network": INNER, "scale": 2.0, "null": {"label": ZERO}},
        {"network": OTHER, "scale": 5.0, "null": {"label": ONE}, "interval": (0.1, 2.0), "rescale": 0.7},
    ),
    "inpainting": (
        {"network": INNER, "image": ZERO, "mask": ONE},
        {"network": OTHER, "image": ONE, "mask": ZERO, "iterations": 3, "noise": 0.1},
    ),
    "discrete": (
        {"fn": vp_eps, "alphas_cumprod": FALLING, "shape": (3,)},
        {"alphas_cumprod": FALLING / 2, "prediction": "sample", "whole": True, "sigma_data": 0.7, **RUN},
    ),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_network_says_in_what_its_adapter_was_called_otherwise(name):
    adapter, (call, changes) = getattr(networks, name), SETTINGS[name]
    assert set(inspect.signature(adapter).parameters) - CODE <= set(changes)
    made = [adapter(**call, module=torch.nn.Identity()) if "fn" in call else adapter(**call) for _ in range(2)]
    texts = [json.dumps(each.made_by) for each in (*made, *(adapter(**{**call, key: changes[key]}) for key in changes))]
    assert texts[0] == texts[1] and len(set(texts)) == 1 + len(changes)


def test_networks_say_what_their_outputs_mean_and_no_adapter_says_nothing():
    made = [getattr(networks, f"from_{kind}")(*VP.values()).made_by for kind in ("eps", "v", "score")]
    assert len({json.dumps(each) for each in made}) == 3
    named = {each: getattr(networks, each) for each in networks.__all__ if inspect.isfunction(getattr(networks, each))}
    adapters = {each for each, made in named.items() if inspect.signature(made).return_annotation == "Network"}
    others = adapters - set(SETTINGS) - {"load", "diffusers"}  # these two call the others
    assert others == {"onnx", "psld", "cld", "predicting_data"}
    assert all(hasattr(named[each], "__wrapped__") for each in others)


def test_channels_are_joined_for_the_network_and_parted_after_it():
    seen = {}

    def fn(z, t):
        seen.update(z=z, t=t)
        return 2 * z

    net = networks.channels(fn, 2, (3, 4, 4), kind="eps-U")
    x, m = normal(5, 3, 4, 4), normal(5, 3, 4, 4, seed=1)
    first, second = net((x, m), at(0.25))
    assert (net.kind, net.shape, net.inputs, net.outputs) == ("eps-U", (3, 4, 4), 2, 2)
    assert seen["z"].shape == (5, 6, 4, 4) and seen["t"].shape == (5,) and seen["t"].dtype == torch.float32
    assert torch.equal(first, 2 * x) and torch.equal(second, 2 * m)
    only = networks.channels(lambda z, t: z[:, 3:], 2, (3, 4, 4), outputs=1)
    assert torch.equal(only((x, m), at(0.25))[0], m) and only.outputs == 1


def test_counting_counts_and_hides_nothing(net):
    counted = networks.counting(net)
    for _ in range(3):
        counted((normal(2, 1, 8, 8),), at(1.0))
    assert counted.calls == 3
    assert (counted.kind, counted.shape, counted.inputs, counted.outputs) == ("denoiser", (1, 8, 8), 1, 1)
    with pytest.raises(AttributeError):
        _ = counted.absent


def test_a_wrong_number_or_shape_of_inputs_is_told(net):
    with pytest.raises(ValueError, match="takes 1 inputs, not 2"):
        net((normal(2, 1, 8, 8),) * 2, at(1.0))
    with pytest.raises(ValueError, match=r"shape \(1, 8, 8\), not \(8, 8\)"):
        net((normal(2, 8, 8),), at(1.0))


# The digits


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_dtype_of_the_state_is_kept(net, dtype):
    y = (2 * normal(4, 1, 8, 8)).to(dtype)
    kept = y.clone()
    (out,) = net((y,), at(1.3))
    assert out.dtype == dtype and out.shape == y.shape and torch.equal(y, kept)
    torch.testing.assert_close(out.float(), net((y.float(),), at(1.3))[0], rtol=0.02, atol=0.02)


def test_the_weights_run_in_the_dtype_that_was_asked_for(net):
    y = normal(4, 1, 8, 8)
    half, double = (networks.load("digits", dtype=dtype) for dtype in (torch.bfloat16, torch.float64))
    (exact,) = double((y.double(),), at(0.8))
    assert half((y,), at(0.8))[0].dtype == torch.float32
    torch.testing.assert_close(net((y,), at(0.8))[0].double(), exact, rtol=0, atol=1e-5)
    torch.testing.assert_close(half((y,), at(0.8))[0].double(), exact, rtol=0, atol=0.1)


def test_the_denoiser_is_the_preconditioned_network(net):
    sd, sigma = unet.read(DIGITS)[1].sigma_data, 0.7
    y = normal(4, 1, 8, 8)
    root = math.sqrt(sigma**2 + sd**2)
    raw = net.module(y / root, torch.tensor([math.log(sigma) / 4]))
    expected = y * sd**2 / root**2 + raw * sigma * sd / root
    torch.testing.assert_close(net((y,), at(sigma))[0], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("end", [0, 1])
def test_clipping_is_continuous_and_rescales_the_input(net, end):
    edge = net.sigma_range[end]
    step = 1e-6 if end else -1e-6
    y = math.hypot(edge, 0.75) * normal(4, 1, 8, 8)
    inside, outside = (net((y,), at(edge * (1 + sign * step)))[0] for sign in (-1, 1))
    torch.testing.assert_close(inside, outside, rtol=0, atol=1e-4)
    if end:  # far outside: as if the noise were what the network knows
        far, same = net((y * 10,), at(edge * 10))[0], net((y,), at(edge))[0]
        torch.testing.assert_close(far, same, rtol=0, atol=1e-2)


class NoCopyToHost(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        assert "cpu" not in str(kwargs.get("device")), f"{func} copies to the host"
        assert "_local_scalar_dense" not in str(func), f"{func} waits for the device"
        return func(*args, **kwargs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("which", ["digits", "galaxies", "channels"])
def test_a_call_waits_for_no_device(which, dtype):
    made = {"digits": unet.UNet, "galaxies": galaxies.GalaxyScore, "channels": lambda: torch.nn.Conv2d(2, 2, 1)}
    module = made[which]().eval()
    with FakeTensorMode(), torch.device("cuda"):
        for part in module.modules():  # .to("cuda") wants a CUDA build, fresh fake tensors do not
            for name, value in part.named_parameters(recurse=False):
                part._parameters[name] = torch.nn.Parameter(torch.empty(value.shape), requires_grad=False)
            for name, value in part.named_buffers(recurse=False):
                part._buffers[name] = torch.empty(value.shape)
        if which == "digits":
            net = networks.from_edm(module, 0.75, (1, 8, 8), (0.005, 80.0))
        elif which == "galaxies":
            maps = galaxies.alpha, galaxies.sigma, galaxies.time_of
            net = networks.from_score(module, *maps, (1, 32, 32), (0.05, 148.0))
        else:
            net = networks.channels(lambda z, t: module(z) + t.reshape(-1, 1, 1, 1), 2, (1, 4, 4))
        inputs = tuple(torch.empty(3, *net.shape, dtype=dtype) for _ in range(net.inputs))
        time = torch.empty((), dtype=torch.float64)
        with torch.no_grad(), NoCopyToHost():
            outputs = net(inputs, time)
    assert all(out.device.type == "cuda" and out.dtype == dtype for out in outputs)
    assert [out.shape for out in outputs] == [x.shape for x in inputs]


class NoFloat64(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        assert not any(leaf.dtype == torch.float64 for leaf in made), f"{func} gives float64"
        return result


@pytest.mark.parametrize("which", ["digits", "galaxies", "eps", "flow", "discrete", "channels", "guided", "inpainting"])
def test_a_float32_time_makes_no_float64(which):
    """As on MPS, which has none."""
    conv = torch.nn.Conv2d(2, 2, 1)
    fn = lambda x, t, **cond: conv(x) + t.reshape(-1, 1, 1, 1)  # noqa: E731
    shape, bar = (2, 4, 4), torch.linspace(0.99, 0.01, 10)
    net = {
        "digits": lambda: networks.from_edm(unet.UNet().eval(), 0.75, (1, 8, 8), (0.005, 80.0)),
        "galaxies": lambda: networks.from_score(
            galaxies.GalaxyScore().eval(), galaxies.alpha, galaxies.sigma, galaxies.time_of, (1, 32, 32), (0.05, 148.0)
        ),
        "eps": lambda: networks.from_eps(fn, vp_alpha, vp_sigma, vp_time, shape),
        "flow": lambda: networks.from_flow(fn, shape),
        "discrete": lambda: networks.discrete(fn, bar, shape, "v_prediction"),
        "channels": lambda: networks.channels(lambda z, t: torch.tanh(z) + t.reshape(-1, 1, 1, 1), 2, (1, 4, 4)),
        "guided": lambda: networks.guided(networks.from_flow(fn, shape), 3.0, {}, (0.1, 2.0), 0.5),
        "inpainting": lambda: networks.inpainting(networks.from_flow(fn, shape), torch.ones(shape), torch.eye(4)),
    }[which]()
    inputs = tuple(torch.rand(3, *net.shape) for _ in range(net.inputs))
    with torch.no_grad(), NoFloat64():
        outputs = net(inputs, torch.tensor(0.7))
    assert all(out.dtype == torch.float32 and out.isfinite().all() for out in outputs)


def test_digits_never_seen_are_denoised_better_than_any_linear_map_does_it(net, images):
    held = images[::5]
    centred = images.flatten(1) - images.flatten(1).mean(0)
    values, vectors = torch.linalg.eigh(centred.T @ centred / len(images))
    for sigma in (0.1, 0.3, 1.0, 2.0):
        y = held + sigma * normal(*held.shape)
        error = (net((y,), at(sigma))[0] - held).square().mean()
        shrink = vectors * (values / (values + sigma**2)) @ vectors.T
        wiener = (y - images.mean(0)).flatten(1) @ shrink + images.mean(0).flatten()
        linear = (wiener - held.flatten(1)).square().mean()
        assert error < 0.95 * min(linear, sigma**2, images.var()), f"at sigma {sigma}"
    far = held + 50 * normal(*held.shape)  # where nothing is left to see, the mean is the answer
    assert (net((far,), at(50.0))[0] - images.mean(0)).square().mean() < 0.02


def test_samples_are_digits_the_classifier_is_sure_of(samples):
    probability, label = frechet.predict(samples).max(dim=1)
    assert (probability > 0.8).float().mean() > 0.85
    assert torch.bincount(label, minlength=10).min() > 20  # of 600; all ten are there


def test_samples_lie_between_the_floor_and_the_ceiling(samples):
    found = frechet.distance(samples)  # of fewer samples than the floor is told for: that alone puts it above
    assert FIGURES["floor"] < found < 0.1 * FIGURES["ceiling"]


def test_samples_are_not_copies_of_the_data(samples, images):
    nearest = torch.cdist(samples.flatten(1), images.flatten(1)).min(dim=1).values
    assert (nearest > 0.5).float().mean() > 0.9


# The distance


def test_the_distance_of_the_data_to_itself_is_zero(images):
    assert abs(frechet.distance(images)) < 1e-6


def test_noise_reaches_the_ceiling_and_half_the_data_stays_below_the_floor(images):
    noise = images.mean() + images.std() * normal(FIGURES["count"], 1, 8, 8)
    assert frechet.distance(noise) == pytest.approx(FIGURES["ceiling"], rel=0.1)
    half = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[: FIGURES["count"]]
    assert frechet.distance(images[half]) < FIGURES["floor"] < FIGURES["halves"]
    assert FIGURES["accuracy"] > 0.97


def test_the_distance_of_two_gaussians_is_the_closed_form():
    c1, c2 = torch.diag(torch.tensor([1.0, 4.0])), torch.diag(torch.tensor([9.0, 4.0]))
    turn = torch.tensor([[0.6, -0.8], [0.8, 0.6]])
    found = frechet.frechet_distance(torch.zeros(2), turn @ c1 @ turn.T, torch.ones(2), turn @ c2 @ turn.T)
    assert found == pytest.approx(2 + (3 - 1) ** 2, abs=1e-6)


# The files


def test_shipped_files_are_small_and_say_how_they_were_made():
    for path in (DIGITS, CLASSIFIER):
        assert path.stat().st_size <= 3_000_000
    about = unet.read(DIGITS)[1]
    assert about.training["steps"] > 4000 and about.sigma_range[0] <= 0.01 and about.sigma_range[1] >= 80


def test_a_checkpoint_comes_back_as_it_was_written(tmp_path, net):
    path = tmp_path / "mine.safetensors"
    module, about = unet.read(DIGITS)
    unet.write(path, module, about)
    y = normal(2, 1, 8, 8)
    again = networks.load(path)
    rounded = networks.from_edm(
        module.half().float().to(memory_format=torch.channels_last), about.sigma_data, about.shape, about.sigma_range
    )  # weights are float16
    assert torch.equal(rounded((y,), at(1.0))[0], again((y,), at(1.0))[0])
    assert again.sigma_range == net.sigma_range and len(again.digest) == 64
    assert [item.name for item in tmp_path.iterdir()] == ["mine.safetensors"]


def test_a_checkpoint_that_cannot_be_written_leaves_nothing_behind(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    monkeypatch.setattr(os, "rename", full)
    with pytest.raises(OSError, match="No space left"):
        unet.write(tmp_path / "mine.safetensors", *unet.read(DIGITS))
    assert not list(tmp_path.iterdir())


def test_an_epsilon_checkpoint_whose_times_do_not_increase_is_refused(tmp_path):
    tensors, meta = checkpoint.read_checkpoint(WEIGHTS / "fashion-psld-eps-l.safetensors", unet.FORMAT, "")
    checkpoint.write_checkpoint(tmp_path / "bad.safetensors", tensors | {"table": tensors["table"].flip(0)}, meta)
    with pytest.raises(InputError, match="table: its times do not increase"):
        networks.load(tmp_path / "bad.safetensors")


@pytest.mark.parametrize("damage", ["cut", "empty", "pickle", "absent", "other", "folder", "nan", "sizes", "range"])
def test_a_bad_checkpoint_is_refused_in_one_line(tmp_path, damage):
    path = tmp_path / "bad.safetensors"
    blob = DIGITS.read_bytes()
    tensors, meta = checkpoint.read_checkpoint(DIGITS, unet.FORMAT, "")
    if damage == "nan":
        tensors["last.bias"] = torch.full_like(tensors["last.bias"], math.nan)
    meta |= {"sizes": '{"width": 4096}'} if damage == "sizes" else {}
    meta |= {"sigma_min": "-1"} if damage == "range" else {}
    if damage == "folder":
        path.mkdir()
    elif damage in ("nan", "sizes", "range"):
        checkpoint.write_checkpoint(path, tensors, meta)
    elif damage == "pickle":
        torch.save(tensors, path)
    elif damage != "absent":
        path.write_bytes({"cut": blob[:-1000], "empty": b"", "other": CLASSIFIER.read_bytes()}[damage])
    with pytest.raises(InputError) as error:
        networks.load(path)
    assert error.value.where == str(path) and error.value.fix and "\n" not in str(error.value)


ADAPTED = {
    "y, sigma": lambda fn: networks.denoiser(fn, (2,)),
    "x, c_noise": lambda fn: networks.from_edm(fn, 0.5, (2,)),
    "x, t": lambda fn: networks.from_flow(fn, (2,)),
    "x, k": lambda fn: networks.discrete(fn, [0.9, 0.5, 0.1], (2,)),
    "z, t": lambda fn: networks.channels(fn, 1, (2,)),
}


@pytest.mark.parametrize("arguments", ADAPTED)
def test_a_function_is_told_what_it_is_called_with_and_what_it_must_return(arguments):
    adapted, told = ADAPTED[arguments], rf"network: it is called as fn\({arguments}\), and"
    for fn in (lambda y: y, torch.nn.ReLU(), 3):
        with pytest.raises(InputError, match=f"{told} cannot be .* return one tensor"):
            adapted(fn)
    for fn, kind in ((lambda y, t: (y,), "tuple"), (lambda y, t: y.numpy(), "ndarray"), (lambda y, t: None, "NoneType")):
        with pytest.raises(InputError, match=f"{told} gives {kind}; .* return one tensor"):
            adapted(fn)((normal(3, 2),), at(1.0))


@pytest.mark.parametrize("name", ["digit", "", "weights.pt", "../digits"])
def test_an_unknown_name_is_refused_with_the_known_ones(name):
    known = r"name one of fashion, fashion-psld-eps-l, digits, galaxies, a \.safetensors or \.onnx file, or module:name"
    with pytest.raises(InputError, match=known):
        networks.load(name)


# The galaxies


def test_the_score_of_the_galaxies_is_that_of_noise_at_late_times(galaxy):
    x = normal(16, 1, 32, 32)
    score = galaxy.module(x, torch.full((16,), 9.0))
    assert torch.corrcoef(torch.stack([score.flatten(), -x.flatten()]))[0, 1] >= 0.999


def test_the_galaxies_are_denoised_on_the_range_they_are_offered_on(galaxy):
    clean = heun(galaxy, 8, 12, lo=galaxy.sigma_range[0], hi=140.0)
    assert clean.shape == (8, 1, 32, 32) and 0.3 < clean.std() < 2 and clean.min() > -1
    for sigma in (0.06, 0.3, 3.0):
        y = clean + sigma * normal(*clean.shape)
        assert (galaxy((y,), at(sigma))[0] - clean).square().mean().sqrt() < 0.5 * sigma
    assert galaxy((y.bfloat16(),), at(300.0))[0].dtype == torch.bfloat16


def test_galaxies_out_of_reach_are_told_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("STEPSMITH_CACHE", str(tmp_path))
    monkeypatch.setattr(galaxies.sys, "executable", str(tmp_path / "no-python"))
    with pytest.raises(InputError, match=r"galaxygrad==0\.1\.5 could not be fetched") as error:
        networks.load("galaxies")
    assert str(tmp_path) in error.value.fix and "\n" not in str(error.value)


def test_a_damaged_cache_is_not_trusted(tmp_path, monkeypatch):
    monkeypatch.setenv("STEPSMITH_CACHE", str(tmp_path))
    (tmp_path / Path(galaxies.MEMBER).name).write_bytes(b"not the weights")
    monkeypatch.setattr(galaxies, "_download", lambda folder: tmp_path / "absent.whl")
    monkeypatch.setattr(galaxies, "_member", lambda wheel: b"nor these")
    with pytest.raises(InputError, match="sha256"):
        networks.load("galaxies")
