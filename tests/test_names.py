"""Names of the user and names of the emitted module do not meet."""

from __future__ import annotations

import json
import re

import pytest
import torch

import stepsmith as ss

torch.set_num_threads(1)
PLAIN = {
    "name": "own",
    "state": ["x", "m"],
    "F": [["-qq*G1/2", "qq*2"], ["-qq/2", "-qq*nu/2"]],
    "G": [["sqrt(qq*G1)", "0"], ["0", "sqrt(qq*nu/4)"]],
    "params": {"G1": 0.01, "nu": 4.01, "kap": 0.04, "aa": 8.0, "bb": 8.0},
    "let": {"qq": "aa + t*(bb - aa)"},
    "initial": {"m": "kap/4"},
}
CLASHING = {"G1": "F", "kap": "L0", "aa": "law", "bb": "self_", "qq": "G"}  # attributes and variables of an emitted module


def same(one: torch.Tensor, other: torch.Tensor) -> None:
    """Equal but for the order of the terms of a sum, which follows the names."""
    assert float((one - other).abs().max()) <= 1e-13 * float(one.abs().max())


def renamed() -> dict:
    text = json.dumps(PLAIN)
    for old, new in CLASHING.items():
        text = re.sub(rf"\b{old}\b", new, text)
    return json.loads(text)


@pytest.mark.parametrize(
    ("sampler", "network"),
    [
        ("rvv", "denoiser"),
        ("sscs", "denoiser"),
        ("roba", "denoiser"),
        ("conjugate", "eps-L"),
        ("conjugate-vv", "denoiser"),
    ],
)
def test_a_parameter_named_like_something_of_the_module_changes_nothing(sampler: str, network: str) -> None:
    plain, clashing = (ss.load(ss.emit(ss.derive(sde, sampler, network))) for sde in (PLAIN, renamed()))
    times = torch.linspace(1.0, 0.01, 9, dtype=torch.float64)
    same(plain.coefficients(times, aa=4.0, G1=0.02), clashing.coefficients(times, law=4.0, F=0.02))
    same(plain.start(1.0, kap=0.1), clashing.start(1.0, L0=0.1))


def test_a_parameter_named_like_a_function_of_the_module_is_refused() -> None:
    spec = renamed()
    spec["params"]["sigma"] = 1.0
    with pytest.raises(ss.InputError, match="uses this name itself"):
        ss.load_sde(spec)


@pytest.mark.parametrize(
    ("name", "sampler", "network"),
    [
        ("s", "conjugate", "eps-L"), ("h", "sscs", "denoiser"), ("DATA", "conjugate", "eps-L"), ("qq_st", "conjugate", "eps-L"),
        ("out_0", "roba", "denoiser"), ("Phi_A2", "conjugate-vv", "denoiser"), ("conjugate_a_rate", "conjugate-vv", "denoiser"),
        ("eps_lower", "conjugate", "eps-L"), ("integral_qq", "rvv", "denoiser"), ("m_S2_w1", "sscs", "denoiser"),
        ("m_d2", "rvv", "denoiser"),
        ("m_x", "conjugate-vv", "denoiser"), ("mean_m", "rvv", "denoiser"), ("pull", "conjugate", "eps-L"),
        ("noise_a", "sscs", "denoiser"), ("s_m_m", "roba", "denoiser"), ("sigma_data", "rvv", "edm"), ("h_", "sscs", "denoiser"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("own", ["G1", "aa", "qq", "m"])
def test_a_name_that_the_module_uses_is_refused_or_changes_nothing(
    own: str, name: str, sampler: str, network: str
) -> None:
    """Parameters, lets and blocks named like tables, functions, columns and constants of the module (all met at once)."""
    spec = json.loads(re.sub(rf"\b{own}\b", name, json.dumps(PLAIN)))
    times = torch.linspace(1.0, 0.01, 4, dtype=torch.float64)
    plain = ss.load(ss.emit(ss.derive(PLAIN, sampler, network)))
    try:
        module = ss.load(ss.emit(ss.derive(spec, sampler, network)))
    except ss.InputError as error:
        assert "uses" in error.what and "itself" in error.what
    else:
        same(plain.coefficients(times), module.coefficients(times))
