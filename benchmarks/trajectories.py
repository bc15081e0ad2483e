"""Record what k-diffusion's own functions give, for tests/data/k_diffusion.json.

    pip install --no-deps k-diffusion && python benchmarks/trajectories.py tests/data/k_diffusion.json

Its sampling.py alone is run, with empty modules in the place of solvers that the recorded functions do not call.
"""

import importlib.metadata
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

SIGMAS = [20.0, 8.0, 3.0, 1.2, 0.5, 0.1, 0.0]
SHAPE = (2, 1, 2, 2)
CALLS = {  # name of ours: (function of k-diffusion, more arguments, whether it draws)
    "dpmpp-2m": ("sample_dpmpp_2m", {}, False),
    "heun": ("sample_heun", {}, False),
    "sde-dpmpp-2m": ("sample_dpmpp_2m_sde", {"eta": 0.7, "s_noise": 1.003}, True),
    "sde-dpmpp-3m": ("sample_dpmpp_3m_sde", {"eta": 1.0}, True),
}


def model(x: torch.Tensor, sigma: torch.Tensor, **_: Any) -> torch.Tensor:
    """A denoiser that is not linear, of x = data + sigma eps; sigma a number a sample."""
    s = sigma.reshape(-1, *[1] * (x.ndim - 1))
    return 1.2 * torch.tanh(x / (1 + s**2) + 0.1 * torch.log(s)) + 0.1 * x.roll(1, -1) / (1 + s**2)


def sampling() -> ModuleType:
    """k_diffusion/sampling.py."""
    spec = importlib.util.find_spec("k_diffusion")
    assert spec is not None and spec.submodule_search_locations
    for name in ("torchdiffeq", "torchsde", "peer", "peer.utils"):
        sys.modules.setdefault(name, ModuleType(name))
    sys.modules["torchdiffeq"].odeint = None  # type: ignore[attr-defined]
    sys.modules["peer"].utils = sys.modules["peer.utils"]  # type: ignore[attr-defined]
    sys.modules["peer.utils"].append_dims = lambda x, n: x[(..., *(None,) * (n - x.ndim))]  # type: ignore[attr-defined]
    found = ModuleType("peer.sampling")
    found.__package__ = "peer"
    path = Path(next(iter(spec.submodule_search_locations))) / "sampling.py"
    exec(compile(path.read_text(), str(path), "exec"), found.__dict__)
    return found


def main(file: str) -> None:
    peer, sigmas = sampling(), torch.tensor(SIGMAS, dtype=torch.float64)
    random = torch.Generator().manual_seed(0)
    x = SIGMAS[0] * torch.randn(SHAPE, dtype=torch.float64, generator=random)
    noise = torch.randn(len(SIGMAS) - 1, *SHAPE, dtype=torch.float64, generator=random)
    runs = {}
    for name, (function, more, draws) in CALLS.items():
        rows, seen = iter(noise), []
        given = {"noise_sampler": lambda *_, rows=rows: next(rows)} if draws else {}
        result = getattr(peer, function)(model, x, sigmas, callback=seen.append, disable=True, **more, **given)
        runs[name] = {
            "more": more,
            "draws": draws,
            "x": [call["x"].tolist() for call in seen],
            "denoised": [call["denoised"].tolist() for call in seen],
            "result": result.tolist(),
        }
    version = importlib.metadata.version("k-diffusion")
    record = {"k-diffusion": version, "sigmas": SIGMAS, "x": x.tolist(), "noise": noise.tolist(), "runs": runs}
    Path(file).write_text(json.dumps(record))


if __name__ == "__main__":
    main(sys.argv[1])
