"""The front door of a run: parameters, grids, modules, constants and checkpoints that nobody should believe."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import stepsmith as ss
from stepsmith.errors import InputError
from stepsmith.runtime.constants import read_constant
from stepsmith.runtime.networks.checkpoint import read_checkpoint
from stepsmith.runtime.networks.shipped import WEIGHTS as FOLDER
from stepsmith.runtime.networks.unet import FORMAT
from stepsmith.templates.files import compare, write

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def psld() -> Any:
    return ss.load(ss.emit(ss.derive("psld", "rvv"), certified=False))


@pytest.fixture(scope="module")
def net() -> Any:
    return ss.networks.load("digits")


def refused(words: str, call: Any, *args: Any, **kwargs: Any) -> None:
    with pytest.raises(InputError) as caught:
        call(*args, **kwargs)
    assert words in str(caught.value) and str(caught.value).isprintable(), str(caught.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e308, 10**400, "x"])
def test_a_parameter_that_float64_cannot_follow_is_refused(psld: Any, net: Any, value: Any) -> None:
    """inf, and 1e308 whose square is inf, ended in an OverflowError."""
    grid = ss.TimeGrid.uniform(ss.load_sde("psld"), 3)
    refused("params: ", ss.sample, psld, net, grid, "0", params={"beta_max": value, "beta_min": value})


def test_a_coefficient_that_is_not_finite_is_named_with_its_step(psld: Any, net: Any) -> None:
    def coefficients(times: Any, **params: float) -> torch.Tensor:
        table = psld.coefficients(times, **params)
        table[1, 2] = float("inf")
        return table

    module, grid = SimpleNamespace(**{**vars(psld), "coefficients": coefficients}), ss.TimeGrid.explicit([0.9, 0.5, 0.25, 0.1])
    refused(f"grid: {psld.COEFFICIENTS[2]} of the step 0.5 -> 0.25 is inf; ", ss.sample, module, net, grid, "0")


@pytest.mark.parametrize("shape", ["abc", (None,), 3, (float("inf"),), (2**62,), (0,)])
def test_what_is_no_shape_is_refused(psld: Any, net: Any, shape: Any) -> None:
    refused("shape: ", ss.sample, psld, net, ss.TimeGrid.uniform(ss.load_sde("psld"), 3), "0", shape=shape)


@pytest.mark.parametrize("kind", ["uniform", "quadratic", "logsnr", "edm"])
def test_a_grid_that_no_machine_holds_is_refused(kind: str) -> None:
    refused("steps: ", getattr(ss.TimeGrid, kind), ss.load_sde("vp"), 10**11)


def test_the_calls_of_a_long_run_are_counted_at_once() -> None:
    rows = ss.derive("vp", "unipc-3").rows
    assert rows.nfe(10**12) - rows.nfe(10**6) == rows.step.nfe * (10**12 - 10**6)
    assert [rows.nfe(n) for n in range(9)] == [sum(rows.at(k, n).nfe for k in range(n)) for n in range(9)]


@pytest.mark.parametrize("source", ["a\0.py", "\ud800.py", "a=1\n\ud800", "raise SystemExit(0)\n", "x" * 5000 + ".py"])
def test_what_is_no_module_is_refused(source: str) -> None:
    refused("module: ", ss.load, source)


def test_a_pipe_or_a_device_is_no_module(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.py")
    (tmp_path / "zero.py").symlink_to("/dev/zero")
    for name in ("pipe.py", "zero.py", "."):
        refused("there is no such file", ss.load, tmp_path / name)


@pytest.mark.parametrize(
    "array",
    [
        np.array(["a"]), np.array(b"a"), np.zeros(3, dtype=[("a", "f4")]), np.array(["2020-01-01"], dtype="M8[D]"),
        np.ones(3, dtype=complex), np.array([object()], dtype=object),
    ],
)  # fmt: skip
def test_a_constant_that_is_no_array_of_real_numbers_is_refused(tmp_path: Path, array: Any) -> None:
    np.savez(tmp_path / "c.npz", samples=array)
    refused("constant: it", read_constant, tmp_path / "c.npz")


def test_a_constant_is_finite_in_the_dtype_of_the_run(net: Any) -> None:
    module = ss.load(ss.emit(ss.derive("ir-sde", "euler"), certified=False))
    grid = ss.TimeGrid.uniform(ss.load_sde("ir-sde"), 2)
    for value in (float("nan"), 1e300, 1j):
        refused("constants: ", ss.sample, module, net, grid, "0", constants={"mu": value})


@pytest.mark.parametrize(
    "meta", [{"sizes": '{"width": Infinity}'}, {"sizes": "[" * 100_000}, {"training": "[" * 100_000}, {"sigma_max": "inf"}]
)
def test_metadata_that_cannot_be_read_are_refused(tmp_path: Path, meta: dict[str, str]) -> None:
    weights, known = read_checkpoint(FOLDER / "digits.safetensors", FORMAT, "-")
    save_file(weights, tmp_path / "n.safetensors", {**known, **meta})
    refused("n.safetensors: ", ss.networks.load, tmp_path / "n.safetensors")


@pytest.mark.parametrize("kind", [torch.complex64, torch.float8_e4m3fn, torch.float64])
def test_weights_that_float32_does_not_hold_are_refused(tmp_path: Path, kind: torch.dtype) -> None:
    weights, known = read_checkpoint(FOLDER / "digits.safetensors", FORMAT, "-")
    name = next(name for name, value in weights.items() if value.dim() > 1)
    odd = torch.full_like(weights[name], float("nan")).to(kind) if kind != torch.float64 else weights[name].double() * 1e300
    save_file({**weights, name: odd}, tmp_path / "n.safetensors", known)
    refused("weights: ", ss.networks.load, tmp_path / "n.safetensors")


def test_building_into_a_folder_of_the_user_removes_nothing_of_theirs(tmp_path: Path) -> None:
    """``stepsmith build --out ~`` took every file of the folder for an orphan."""
    for name in ("letter.txt", "own.py", "__init__.py"):
        (tmp_path / name).write_text("mine\n")
    (tmp_path / "latin.py").write_bytes(b"# \xe9\n")
    (tmp_path / "old_module.py").write_text('"""Title."""\n\nDIGEST = "' + 64 * "0" + '"\n')
    found = compare(tmp_path, {"vp_new.py": "text\n"}, orphans=True)
    assert [(d.name, d.orphan) for d in found] == [("vp_new", False), ("old_module", True)]
    write(tmp_path, {"vp_new.py": "text\n"}, remove=[d.file for d in found if d.orphan])
    assert {path.name for path in tmp_path.iterdir()} == {"letter.txt", "own.py", "__init__.py", "latin.py", "vp_new.py"}
