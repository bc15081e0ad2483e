"""The lines under "Use, ..." in the docstring of an emitted module are a program that runs."""

from __future__ import annotations

import textwrap
from typing import Any

import pytest
import torch

import stepsmith as ss

SHAPE = (2, 4, 4)
GRID = torch.linspace(1, 0.05, 7, dtype=torch.float64) ** 2
KINDS = {  # what the lines of the module have to bring along
    "one block": ("vp", "ddim", "denoiser"),
    "one block and noise": ("vp", "euler-maruyama", "denoiser"),
    "history": ("vp", "dpmpp-2m", "denoiser"),
    "history and noise": ("vp", "sa-solver", "denoiser"),
    "a first and a last step of their own": ("vp", "unipc-3", "denoiser"),
    "a last step of its own": ("vp", "heun", "denoiser"),
    "a mean of the start and a constant": ("ir-sde", "euler-maruyama", "denoiser"),
    "a constant and a deterministic step": ("ir-sde", "conjugate", "denoiser"),
    "a field": ("blurring", "conjugate", "eps-L"),
    "a field and noise": ("blurring", "euler-maruyama", "x0"),
    "two blocks": ("psld", "rvv", "denoiser"),
    "two blocks and merged draws": ("psld", "sscs", "denoiser"),
    "an eps-L network of two blocks": ("psld", "conjugate", "eps-L"),
    "four blocks": ("four-blocks", "sscs", "denoiser"),
    "four blocks and a kick": ("four-blocks", "rvv", "denoiser"),
}


def usage(text: str) -> str:
    """The lines of use in a docstring, without their indentation."""
    _, lines = text.split("To use it, with decreasing times, a network and the shape (batch, ...) of a component:\n")
    return textwrap.dedent(lines.split("\n\n")[0])


def setting(module: Any) -> tuple[dict[str, Any], list[Any]]:
    """The names that the lines take as given, and the calls of the network."""
    calls: list[Any] = []
    given = tuple(torch.full(SHAPE, 0.5) for _ in getattr(module, "CONSTANTS", ()))

    def network(inputs: tuple[torch.Tensor, ...], time: torch.Tensor) -> tuple[torch.Tensor, ...]:
        assert len(inputs) == module.INPUTS and all(z.shape == SHAPE for z in inputs)
        calls.append(time)
        return tuple(0.1 * torch.tanh(inputs[k % len(inputs)]) for k in range(module.OUTPUTS))

    names = {name: value for name, value in vars(module).items() if not name.startswith("__")}
    names |= {"torch": torch, "times": module.START + (module.END - module.START) * GRID}
    names |= {"network": network, "shape": SHAPE, "given": given}
    if field := getattr(module, "FIELD", ""):
        i = torch.arange(SHAPE[-1]) ** 2
        names[field] = torch.pi**2 * (i[:, None] + i).expand(SHAPE[1:])
    return names, calls


@pytest.mark.parametrize("kind", KINDS)
def test_the_lines_of_use_give_data_with_the_calls_that_the_module_counts(kind: str) -> None:
    module = ss.load(ss.emit(ss.derive(*KINDS[kind][:2], network=KINDS[kind][2]), certified=False))
    torch.manual_seed(0)
    names, calls = setting(module)
    exec(compile(usage(module.__doc__), "usage", "exec"), names)
    assert names["data"].shape == SHAPE and names["data"].isfinite().all() and names["data"].std() > 0
    assert len(calls) == module.nfe(6) + 1
