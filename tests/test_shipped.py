"""The samplers that people ship, written as lines, walk the same trajectories as the shipped code.

The trajectories are those of diffusers and k-diffusion in float64 on uneven grids with the exact network of a Gaussian
mixture, recorded by benchmarks/shipped.py with the versions that made them.
"""

import json
from pathlib import Path

import pytest
import torch

import stepsmith as ss
from stepsmith.measure.problems import GaussianMixture
from stepsmith.runtime.sampler import steps_of

TOLD = json.loads((Path(__file__).parent / "data" / "shipped.json").read_text())
RUNS = {f"{run['sampler']}-{run['shipped_by']}-{run['params']}": run for run in TOLD["runs"]}


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


def walked(run, module, times):
    """The states of a run of the emitted module, after each step."""
    mixture = GaussianMixture(**TOLD["problem"])
    network = {
        "denoiser": lambda inputs, sigma: (mixture.denoiser(inputs[0], sigma),),
    }[module.NETWORK]
    table = module.coefficients(times, **run["params"])
    start = tensor(TOLD["start"])
    state = (start if run["sde"] == "vp" else start * times[0],)
    history = (torch.zeros_like(start),) * module.HISTORY
    states = []
    chosen = steps_of(module, len(table))
    for k, (row, (step, draws)) in enumerate(zip(table.unbind(0), chosen, strict=True)):
        noise = (tensor(TOLD["noise"][k]),) * draws
        state, history = step(state, row.unbind(0), network, noise, history)
        states.append(state[0])
    return torch.stack(states)


@pytest.mark.parametrize("name", RUNS)
def test_a_sampler_in_lines_walks_the_trajectory_of_the_shipped_code(name):
    run = RUNS[name]
    module = ss.load(f"{run['sde']}_{run['sampler']}".replace("-", "_"))
    found, shipped = walked(run, module, tensor(TOLD["times"][run["sde"]])), tensor(run["states"])
    assert found.shape == shipped.shape
    gap = (found - shipped).abs().amax((1, 2)) / shipped.abs().amax((1, 2))
    assert gap.max() < 1e-10
