"""Names of the user and names of the emitted module do not meet."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest
import torch

import stepsmith as ss
from stepsmith.derive.spec.words import HOST_NAMES
from stepsmith.templates.render import LOCALS

torch.set_num_threads(1)
GENERATED = Path(__file__).parent.parent / "generated"
PLAIN = {
    "name": "own",
    "state": ["x", "m"],
    "F": [["-qq*G1/2", "qq*2"], ["-qq/2", "-qq*nu/2"]],
    "G": [["sqrt(qq*G1)", "0"], ["0", "sqrt(qq*nu/4)"]],
    "params": {"G1": 0.01, "nu": 4.01, "kap": 0.04, "aa": 8.0, "bb": 8.0},
    "let": {"qq": "aa + t*(bb - aa)"},
    "initial": {"m": "kap/4"},
}
CLASHING = {"G1": "g", "kap": "k", "aa": "a", "bb": "b", "qq": "rate"}


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
def test_a_parameter_named_like_a_variable_of_a_host_function_changes_nothing(sampler: str, network: str) -> None:
    assert set(CLASHING.values()) <= LOCALS
    plain, clashing = (ss.load(ss.emit(ss.derive(sde, sampler, network))) for sde in (PLAIN, renamed()))
    times = torch.linspace(1.0, 0.01, 9, dtype=torch.float64)
    assert torch.equal(plain.coefficients(times, aa=4.0, G1=0.02), clashing.coefficients(times, a=4.0, g=0.02))
    assert torch.equal(plain.start(1.0, kap=0.1), clashing.start(1.0, k=0.1))


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
        assert torch.equal(plain.coefficients(times), module.coefficients(times))


def test_the_lists_of_names_hold_every_name_that_is_emitted() -> None:
    """Locals of host functions stand in LOCALS, functions and globals in HOST_NAMES, or carry the name of a let."""
    for path in sorted(GENERATED.glob("*_*.py")):
        if path.name == "__init__.py":
            continue
        module = ast.parse(path.read_text(encoding="utf-8"))
        functions = [node for node in module.body if isinstance(node, ast.FunctionDef)]
        sde = ss.load_sde(path_sde(module))
        own = {
            *sde.symbols,
            *sde.let,
            *(f"{name}_st" for name in sde.let),
            "lambda_",
            "lambda_a",
            "lambda_b",
            "lambda_s",
            "sigma_data",
        }
        own |= {
            f.name
            for f in functions
            if re.fullmatch(r"(conjugate|flow|noise|exact|eps|integral|start|transition)_\w+|conjugate|nfe", f.name)
        }
        for function in functions:
            assert function.name in HOST_NAMES | own, (path.name, function.name)
            if function.name in ("coefficients", "step", "step_first", "step_last", "denoise", "start", "nfe"):
                continue
            if function.name.endswith(("_row", "_rows", "_but_one")):  # as coefficients: scalars known to the lowering
                continue
            stored = {n.id for n in ast.walk(function) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
            names = stored | {argument.arg for argument in function.args.args}
            own |= {f"{name}_" for name in LOCALS & own}  # a let of such a name is respelled
            assert names - own <= LOCALS | HOST_NAMES, (path.name, function.name, names - own - LOCALS - HOST_NAMES)


def path_sde(module: ast.Module) -> str:
    """The value of the module's SDE constant."""
    for node in module.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "SDE":
            return ast.literal_eval(node.value)
    raise AssertionError("no SDE constant")
