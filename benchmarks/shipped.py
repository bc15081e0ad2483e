"""Trajectories of the samplers that diffusers and k-diffusion ship, on an exact network, for tests/test_shipped.py.

    pip install diffusers && pip install --no-deps k-diffusion && python benchmarks/shipped.py tests/data/shipped.json

Both run in float64 on grids of their own making: diffusers schedulers get their table of sigmas set, and the casts to
float32 inside ``DPMSolverMultistepScheduler.step`` are rewritten to float64; k-diffusion's ``sampling.py`` is loaded
alone, with a stand-in for its helpers, so that what its package imports besides need not be there.  Noise is the given
one.  ``state`` of a predictor-corrector is the corrected state, which diffusers holds as ``last_sample``.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import inspect
import json
import sys
import textwrap
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from stepsmith.measure.problems import GaussianMixture

STEPS, BATCH = 18, 3
PROBLEM = {"weights": [0.5, 0.3, 0.2], "means": [[1.0, 0.5], [-0.8, 0.7], [0.1, -1.2]], "spread": [0.3, 0.2, 0.25]}
VP = [0.98, 0.95, 0.9, 0.86, 0.78, 0.73, 0.66, 0.6, 0.51, 0.47, 0.39, 0.33, 0.25, 0.2, 0.14, 0.09, 0.06, 0.03, 0.012]
EDM = [70.0, 55.0, 38.0, 30.0, 20.0, 13.0, 10.0, 6.5, 4.0, 3.1, 2.0, 1.2, 0.9, 0.5, 0.3, 0.21, 0.12, 0.07, 0.03]


def vp_scales(times: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """alpha and sigma of the diffusion vp at its defaults."""
    increment = (0.1 + 19.9 * times / 2) * times
    return torch.exp(-increment / 2), torch.sqrt(-torch.expm1(-increment))


def start() -> torch.Tensor:
    return torch.cos(torch.arange(2.0 * BATCH, dtype=torch.float64) * 1.3).reshape(BATCH, 2) * 1.4


def noise(step: int) -> torch.Tensor:
    return torch.sin(torch.arange(1.0, 2.0 * BATCH + 1, dtype=torch.float64) * (1.7 + 0.37 * step)).reshape(BATCH, 2) * 1.4


PROBLEM_NETWORK = GaussianMixture(**PROBLEM)


# -- diffusers -----------------------------------------------------------------------------------------------------------


def scheduled(name: str, corrected: bool = False, patch: Callable[[Any], None] | None = None, **config: Any) -> list[Any]:
    """The states that a diffusers scheduler passes through, data prediction, on the VP grid."""
    import diffusers

    scheduler = getattr(diffusers, name)(prediction_type="sample", **config)
    scheduler.set_timesteps(STEPS)
    alpha, sigma = vp_scales(torch.tensor(VP, dtype=torch.float64))
    scheduler.sigmas = sigma / alpha
    scheduler.timesteps = torch.arange(STEPS, 0, -1)
    scheduler._step_index, scheduler._begin_index = 0, 0
    if patch is not None:
        patch(scheduler)
    state, states = start(), []
    for k in range(STEPS):
        data = PROBLEM_NETWORK.denoiser(state / alpha[k], sigma[k] / alpha[k])
        state = scheduler.step(data, scheduler.timesteps[k], state).prev_sample
        if corrected and k:
            states.append(scheduler.last_sample)
        if not corrected or k == STEPS - 1:
            states.append(state)
    assert all(value.dtype == torch.float64 for value in states)
    return [value.tolist() for value in states]


def in_float64(scheduler: Any) -> None:
    """``step`` without its casts to float32."""
    kind = type(scheduler)
    text = textwrap.dedent(inspect.getsource(kind.step)).replace("torch.float32", "torch.float64")
    space = dict(vars(sys.modules[kind.__module__]))
    exec(compile(text, "step", "exec"), space)
    scheduler.step = types.MethodType(space["step"], scheduler)


def given_noise(scheduler: Any) -> None:
    """The k-th draw of the scheduler's module is ``noise(k)``."""
    module, count = sys.modules[type(scheduler).__module__], iter(range(STEPS))
    module.randn_tensor = lambda *args, **kwargs: noise(next(count))


def ddim(eta: float) -> list[Any]:
    """DDIM reads a table of alpha^2 by whole timesteps: index k of it is the k-th time from the end of the grid."""
    import diffusers

    scheduler = diffusers.DDIMScheduler(prediction_type="sample", clip_sample=False, num_train_timesteps=STEPS + 1)
    scheduler.set_timesteps(STEPS)
    alpha, sigma = vp_scales(torch.tensor(VP, dtype=torch.float64))
    scheduler.alphas_cumprod = (alpha**2).flip(0)
    state, states = start(), []
    for k in range(STEPS):
        data = PROBLEM_NETWORK.denoiser(state / alpha[k], sigma[k] / alpha[k])
        draw = noise(k) if eta else None
        state = scheduler.step(data, STEPS - k, state, eta=eta, variance_noise=draw).prev_sample
        states.append(state.tolist())
    return states


# -- k-diffusion ---------------------------------------------------------------------------------------------------------


@functools.cache
def k_sampling() -> Any:
    """k_diffusion/sampling.py alone."""
    place = importlib.util.find_spec("k_diffusion")
    assert place is not None and place.submodule_search_locations
    package = types.ModuleType("k_diffusion")
    package.utils = types.SimpleNamespace(append_dims=lambda x, n: x[(...,) + (None,) * (n - x.ndim)])  # type: ignore[attr-defined]
    stubs = {"k_diffusion": package, "torchsde": types.ModuleType("torchsde"), "torchdiffeq": types.ModuleType("torchdiffeq")}
    stubs["torchdiffeq"].odeint = None  # type: ignore[attr-defined]
    sys.modules.update({name: stub for name, stub in stubs.items() if name == "k_diffusion" or name not in sys.modules})
    path = Path(next(iter(place.submodule_search_locations))) / "sampling.py"
    spec = importlib.util.spec_from_file_location("k_diffusion.sampling", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def k_diffusion(name: str, noisy: bool = False, **options: Any) -> list[Any]:
    """The states of a k-diffusion sampler on the EDM grid."""
    sigmas = torch.tensor(EDM, dtype=torch.float64)
    begin = start() * sigmas[0]
    states: list[Any] = []

    def model(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return PROBLEM_NETWORK.denoiser(x, sigma[0])

    if noisy:
        count = iter(range(STEPS))
        options["noise_sampler"] = lambda a, b: noise(next(count))
    seen = lambda info: states.append(info["x"])  # noqa: E731
    last = getattr(k_sampling(), f"sample_{name}")(model, begin, sigmas, callback=seen, disable=True, **options)
    return [value.tolist() for value in (*states[1:], last)]


def main(out: Path) -> None:
    multistep: dict[str, Any] = {"algorithm_type": "dpmsolver++", "lower_order_final": False, "final_sigmas_type": "sigma_min"}
    multistep["patch"] = in_float64
    deis = {"lower_order_final": False}
    rows = {
        "ddim": ("vp", {}, "diffusers", ddim(0.0)),
        "ddim-eta": ("vp", {"eta": 0.7}, "diffusers", ddim(0.7)),
        "dpmpp-2m": ("edm", {}, "k-diffusion", k_diffusion("dpmpp_2m")),
        "dpmpp-2m ": ("vp", {}, "diffusers", scheduled("DPMSolverMultistepScheduler", solver_order=2, **multistep)),
        "dpmpp-2s": ("edm", {}, "k-diffusion", k_diffusion("dpmpp_2s_ancestral", eta=0.0)),
        "dpmpp-3m": ("vp", {}, "diffusers", scheduled("DPMSolverMultistepScheduler", solver_order=3, **multistep)),
        "unipc-2": ("vp", {}, "diffusers", scheduled("UniPCMultistepScheduler", True, solver_order=2)),
        "unipc-3": ("vp", {}, "diffusers", scheduled("UniPCMultistepScheduler", True, solver_order=3)),
        "deis-2": ("vp", {}, "diffusers", scheduled("DEISMultistepScheduler", solver_order=2, **deis)),
        "deis-3": ("vp", {}, "diffusers", scheduled("DEISMultistepScheduler", solver_order=3, **deis)),
        "heun": ("edm", {}, "k-diffusion", k_diffusion("heun")),
        "sde-dpmpp-2m": ("edm", {"eta": 0.8}, "k-diffusion", k_diffusion("dpmpp_2m_sde", True, eta=0.8)),
        "sde-dpmpp-3m": ("edm", {"eta": 0.8}, "k-diffusion", k_diffusion("dpmpp_3m_sde", True, eta=0.8)),
        "sa-solver": ("vp", {"tau": 1.0}, "diffusers", sa_solver(1)),
        "sa-solver ": ("vp", {"tau": 0.0}, "diffusers", sa_solver(0)),
    }  # fmt: skip
    versions = {name: importlib.metadata.version(name) for name in ("diffusers", "k-diffusion", "torch")}
    found = [
        {"sampler": key.strip(), "sde": sde, "params": params, "shipped_by": source, "states": states}
        for key, (sde, params, source, states) in rows.items()
    ]
    told = {
        "made_by": "benchmarks/shipped.py", "versions": versions, "problem": PROBLEM, "times": {"vp": VP, "edm": EDM},
        "start": start().tolist(), "noise": [noise(k).tolist() for k in range(STEPS)], "runs": found,
    }  # fmt: skip
    out.write_text(json.dumps(told, indent=None, separators=(",", ":")).replace('{"sampler"', '\n{"sampler"') + "\n")


def sa_solver(tau: int) -> list[Any]:
    return scheduled("SASolverScheduler", True, given_noise, tau_func=lambda t: tau)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
