"""Entries of F and G that change fast within the span: more nodes are taken for them, or they are refused."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

import stepsmith as ss

torch.set_num_threads(1)

SPECS: dict[str, Any] = {
    "the integral of F": {"F": [["-exp(a*sin(w*t))"]], "G": [["1 + t"]]},
    "the variance of one block": {"F": [["-1"]], "G": [["1 + a*sin(w*t)"]]},
    "the law of two blocks": {"F": [["0", "2"], ["-1", "-3"]], "G": [["1 + a*sin(w*t)"], ["1"]]},
    "noise that turns": {"F": [["0", "2"], ["-1", "-3"]], "G": [["cos(w*t)", "sin(w*t)"], ["-sin(w*t)", "cos(w*t)"]]},
    "an F that does not commute": {"F": [["0", "2"], ["-1", "-3 - 2*a*sin(w*t)"]], "G": [["0"], ["1 + a*sin(w*t)"]]},
}
TIMES = (1.0, 0.3, 0.02)


@cache
def diffusion(name: str) -> Any:
    n = len(SPECS[name]["F"])
    more = {} if n == 1 else {"initial": {"m": "1/10"}}
    return ss.load_sde({"name": "fast", "state": ["x", "m"][:n], "params": {"a": 0.9, "w": 5.0}, **SPECS[name], **more})


@cache
def module_of(name: str) -> Any:
    return ss.load(ss.emit(ss.derive(diffusion(name), "conjugate"), certified=False))


@pytest.mark.parametrize("w", [5.0, 40.0])  # at 200 the balls take half a minute
@pytest.mark.parametrize("name", SPECS)
def test_the_start_is_right_however_fast_the_entries_change(name: str, w: float) -> None:
    module, view, n = module_of(name), diffusion(name).at(w=w), diffusion(name).n
    for time in TIMES:
        wanted = view.factor(time)
        found = np.array(module.start(time, w=w).tolist()).reshape(n, n)
        assert np.abs((found - wanted) / np.linalg.norm(wanted, axis=1)[:, None]).max() < 1e-12, time


@pytest.mark.parametrize("w", [5.0, 40.0, 200.0])
@pytest.mark.parametrize("name", SPECS)
def test_a_long_step_is_its_two_halves(name: str, w: float) -> None:
    """For an output that stays what it is, steps compose."""
    module, sde = module_of(name), diffusion(name)

    def affine(row: torch.Tensor) -> torch.Tensor:
        state = tuple(torch.eye(sde.n + 1, dtype=torch.float64)[: sde.n].unbind(0))
        one = torch.eye(sde.n + 1, dtype=torch.float64)[sde.n]
        new, _ = module.step(state, row.unbind(0), lambda inputs, time: (one,))
        return torch.stack((*new, one))

    whole = affine(module.coefficients([0.7, 0.1], w=w)[0])
    late, early = map(affine, module.coefficients([0.7, 0.35, 0.1], w=w))
    size = whole.abs().amax(-1, keepdim=True)
    assert float(((whole - early @ late) / size).abs().max()) < 1e-11


@pytest.mark.parametrize("name", [name for name in SPECS if name != "noise that turns"])  # its G G^T stands still
def test_what_no_panel_holds_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="change too fast"):
        module_of(name).coefficients([0.7, 0.1], w=1e5)
