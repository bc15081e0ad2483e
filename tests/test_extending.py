"""What docs/extending.md shows is true: each of its three examples is derived, and its order proven, from that entry alone."""

import re
import tomllib
from pathlib import Path

import pytest
import sympy as sp

import stepsmith as ss
from stepsmith.derive.sampler import network

PAGE = (Path(__file__).parents[1] / "docs" / "extending.md").read_text()
SPECS = {
    kind: table
    for text in re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    for kind, table in tomllib.loads(text).items()
}


def test_a_sampler_is_one_file() -> None:
    method = ss.derive("psld", {"sampler": SPECS["sampler"]})
    assert (method.nfe, method.order) == (2, 2)


def test_a_diffusion_is_one_file() -> None:
    method = ss.derive({"sde": SPECS["sde"]}, "dpmpp-2m")
    assert method.order == 2
    assert "beta_max > beta_min" in ss.emit(method)


def test_a_network_kind_is_one_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "KINDS", kinds := dict(network.KINDS))
    (block,) = re.findall(r"```python\n.*?\n\n(.*?)```", PAGE, re.DOTALL)
    exec(block, {"KINDS": kinds, "NetworkKind": network.NetworkKind})
    alpha, sigma, data, noise = sp.symbols("alpha sigma data noise", positive=True)
    skip, out, _, _ = kinds["difference"].one_block(alpha, sigma, sp.Symbol("t"), sp.Symbol("d"))
    assert sp.simplify(skip * (alpha * data + sigma * noise) + out * (noise - data) + noise / sigma) == 0


def test_the_new_kind_is_derived_and_its_order_proven(monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    monkeypatch.delitem(network.KINDS, "difference", raising=False)
    try:
        exec(block, {})
        for sampler, order in (("euler", 1), ("conjugate", 1), ("dpmpp-2m", 2)):
            method = ss.derive("rectified-flow", sampler, "difference")
            assert method.order == order
            assert "The network gives noise - data" in ss.emit(method)
    finally:
        network.KINDS.pop("difference", None)
