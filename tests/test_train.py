"""Images in, a network out: loaders, the epsilon network of several blocks, examples/train.py from a folder to samples."""

import gzip
import importlib.util
import struct
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

import stepsmith as ss
from stepsmith.errors import InputError
from stepsmith.runtime import data
from stepsmith.runtime.networks import unet

torch.set_num_threads(1)
SCRIPT = Path(__file__).parents[1] / "examples" / "train.py"
SIZES = unet.Sizes(8, 16, 16, 2, 2)


@pytest.fixture(scope="module")
def train() -> ModuleType:
    spec = importlib.util.spec_from_file_location("train", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["train"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


# Loaders


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def test_fashion_reads_plain_and_packed_idx_files(tmp_path: Path) -> None:
    pixels = np.arange(3 * 4 * 4, dtype=np.uint8).reshape(3, 4, 4) * 5
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx(pixels))
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(np.array([7, 0, 9], np.uint8))))
    images, classes = data.fashion(tmp_path)
    assert images.shape == (3, 1, 4, 4) and classes.tolist() == [7, 0, 9]
    assert torch.equal(((images[:, 0] + 1) * 127.5).round().byte(), torch.from_numpy(pixels))


@pytest.mark.parametrize("damage", ["absent", "cut", "other", "split"])
def test_files_that_are_none_are_refused_with_what_to_do(tmp_path: Path, damage: str) -> None:
    whole = idx(np.zeros((2, 4, 4), np.uint8))
    if damage != "absent":
        (tmp_path / "train-images-idx3-ubyte").write_bytes({"cut": whole[:-1], "other": b"P5 4 4 255"}.get(damage, whole))
        (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(np.zeros(2, np.uint8)))
    with pytest.raises(InputError, match=r"data: .*; (install Debian's package|ask for)"):
        data.fashion(tmp_path, "held" if damage == "split" else "train")


def test_folders_and_npz_files_become_images(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 6, 4, 3), dtype=np.uint8)
    for k, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / f"{k}.png")
    np.savez(tmp_path / "bytes.npz", images=pixels)
    folder, bytes_ = data.images(tmp_path), data.images(tmp_path / "bytes.npz")
    assert folder.shape == (3, 3, 6, 4) and torch.equal(folder, bytes_)
    np.savez(tmp_path / "floats.npz", samples=folder.numpy())
    assert torch.equal(data.images(tmp_path / "floats.npz"), folder)
    Image.new("L", (6, 4)).save(tmp_path / "9.png")
    with pytest.raises(InputError, match=r"9\.png: data: it is 6 x 4 with 1 channels"):
        data.images(tmp_path)
    np.savez(tmp_path / "loud.npz", images=9 * folder.numpy())
    for path in (tmp_path / "loud.npz", tmp_path / "none.npz", tmp_path.parent):
        with pytest.raises(InputError, match="data: "):
            data.images(path)


# The epsilon network


def test_the_table_is_the_law_and_its_times_are_those_of_the_levels(train: ModuleType) -> None:
    task = train.epsilon("psld", noise(8, 1, 8, 8), SIZES, 0.0)
    sde = ss.load_sde("psld").at()
    sigma = torch.tensor([0.02, 0.77, 9.0, 200.0], dtype=torch.float64)
    time, psi, L = task.net.law(sigma)
    assert task.net.sigma_at(time) == pytest.approx(sigma, rel=1e-5)
    for t, s, p, factor in zip(time.tolist(), sigma.tolist(), psi, L, strict=True):
        assert sde.effective_sigma(t) == pytest.approx(s, rel=2e-6)
        assert factor.numpy() == pytest.approx(sde.factor(t, "lower"), rel=1e-5, abs=1e-8)
        assert p.numpy() == pytest.approx(sde.transition(t, 0.0)[:, 0], rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("name", ["psld", "hold"])
def test_an_untrained_network_is_exact_on_gaussian_data(train: ModuleType, name: str) -> None:
    """With F = 0, eps = E[eps | z]: its error is uncorrelated with z, and its size is that of the posterior."""
    task = train.epsilon(name, noise(4, 1, 8, 8), SIZES, 0.0)
    net, spread = task.net.double(), task.about.sigma_data
    sigma = torch.full((4000,), 0.5, dtype=torch.float64)
    _, psi, L = (item[..., None, None, None] for item in net.law(sigma))
    x0 = net.mean + spread * noise(4000, 1, 8, 8, seed=1, dtype=torch.float64)
    eps = noise(4000, net.blocks, 1, 8, 8, seed=2, dtype=torch.float64)
    z = psi * x0[:, None] + (L * eps[:, None]).sum(2)
    with torch.no_grad():
        missed = net(z, sigma) - eps
    centred = z - z.mean(0)
    correlation = (missed * centred).mean((0, 2, 3, 4)) / (missed.std() * centred.std())
    assert correlation.abs().max() < 0.01  # 256,000 values
    wanted = spread**2 / (0.25 + spread**2)
    assert missed.square().sum(1).mean().item() == pytest.approx(wanted, rel=0.02)


def test_an_epsilon_checkpoint_comes_back_and_samples(train: ModuleType, tmp_path: Path) -> None:
    task = train.epsilon("psld", noise(4, 3, 8, 8), SIZES, 0.0)
    unet.write(tmp_path / "mine.safetensors", task.net, task.about)
    network = ss.networks.load(tmp_path / "mine.safetensors")
    assert network.kind == "eps-L" and network.shape == (3, 8, 8) and network.outputs == 2
    adams = {"name": "adams-eps-r", "family": "adams", "order": 2, "frame": "eps-R"}
    method = ss.derive("psld", {"sampler": adams}, "eps-L")
    samples = ss.sample(ss.load(ss.emit(method, certified=False)), network, ss.TimeGrid.quadratic(method.sde, 80), range(24))
    mean, spread = task.net.mean, task.about.sigma_data
    assert (samples - mean).square().mean().sqrt().item() == pytest.approx(spread, rel=0.03)  # F = 0: Gaussian data


# The script


@pytest.mark.parametrize("sde", ["edm", "psld"])
def test_a_folder_of_colour_images_trains_resumes_and_samples(tmp_path: Path, sde: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 32, 32, 3), dtype=np.uint8)
    (tmp_path / "images").mkdir()
    for k, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / "images" / f"{k}.png")
    out = tmp_path / "net.safetensors"

    def run(minutes: float) -> int:
        command = [sys.executable, SCRIPT, "--data", "images", "--sde", sde, "--out", out, "--minutes", minutes]
        command += ["--width", 8, "--batch", 8]
        done = subprocess.run([str(word) for word in command], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return unet.read(out)[1].training["steps"]

    first = run(0.01)
    assert first > 0
    if sde == "psld":
        assert run(0.02) > first  # it goes on from the state
    assert (tmp_path / "net.png").is_file()
    network = ss.networks.load(out)
    method = ss.derive("psld", "rvv", network.kind)
    module = ss.load(ss.emit(method, certified=False))
    assert ss.sample(module, network, ss.TimeGrid.quadratic(method.sde, 2, 0.5), range(2)).isfinite().all()


def test_a_state_of_another_network_and_sides_that_do_not_fit_are_refused(tmp_path: Path, train: ModuleType) -> None:
    task = train.denoiser(noise(4, 1, 8, 8), SIZES, 0.0)
    course = train.Course.of(task, 1e-3, 0)
    course.advance(noise(16, 1, 8, 8), 4, 1e-3, 0.0)
    course.save(tmp_path / "state.safetensors")
    again = train.Course.of(train.denoiser(noise(4, 1, 8, 8), SIZES, 0.0), 1e-3, 0)
    again.load(tmp_path / "state.safetensors")
    value = [c.advance(noise(16, 1, 8, 8), 4, 1e-3, 0.5) for c in (course, again)]
    assert value[0] == value[1] and course.step == again.step == 2  # the same draws, weights and moments
    other = train.Course.of(train.denoiser(noise(4, 3, 8, 8), SIZES, 0.0), 1e-3, 0)
    with pytest.raises(InputError, match="state: it is of another network"):
        other.load(tmp_path / "state.safetensors")
