"""The order of a run: zero-stability, starts and ends, histories that remember themselves, uneven steps; against slopes."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sympy as sp

import stepsmith as ss
from stepsmith.derive.describe import claims
from stepsmith.derive.method import Method
from stepsmith.derive.orders import history, local
from stepsmith.derive.program import Update
from stepsmith.measure.orders import compare, reference
from stepsmith.measure.slopes import measure

SPECS = Path(__file__).parent / "data" / "faults"
F = ["s = score(z, t0)", "f = drift(z, s, t0)"]
WRONG = ["s = score(z, t0)", "g = drift(z, s, t0)", "z = z + h*g", "f = 1/h*g"]
BEGINS = "not consistent: the local error of a step begins with h^1"
KEPT = "its history keeps what it starts with: a root 1 of its own"
START = [*F, "Y = z", "z = z + h*f"]
EULER = [*F, "z = z + h*f"]
HEUN = [*F, "Y = z", "y = z + h*f", "q = score(y, t1)", "z = z + h/2*(f + drift(y, q, t1))"]
SLOPED = "z = z + h*((1 + r/2)*f - r/2*f[-1])"  # Adams and Bashforth of order 2


def spec(name: str) -> dict[str, Any]:
    return tomllib.loads((SPECS / f"{name}.toml").read_text())["sampler"]


def own(step: list[str], *warmup: list[str], **let: str) -> dict[str, Any]:
    """A sampler of lines on the drift f, h the step and hp the one before it."""
    return {
        "name": "own", "family": "multistep", "target": "ode", "step": step, "warmup": list(warmup),
        "let": {"h": "t0 - t1", "hp": "t_m1 - t0", "r": "h/hp", **let},
    }  # fmt: skip


def rooted(root: str) -> dict[str, Any]:
    """Consistent to order 2 for any steps, with the roots 1 and ``root``."""
    line = "z = Y + a*(Y - Y[-1]) + (h - a*hp - B1)*f + B1*f[-1]"
    return own([*F, "Y = z", line], HEUN, a=root, B1="-(h**2/2 + a*hp**2/2)/hp")


def remembering(line: str, last: str, begin: str = "M = f") -> dict[str, Any]:
    return own([*F, line, last], [*F, begin, "z = z + h*f"])


# (spec, order, what is said of it).  The claims of each are held to slopes below.
RUNS: dict[str, tuple[dict[str, Any], int | None, str]] = {
    "unstable": (spec("unstable"), None, "not zero-stable: root 3.0"),
    "root -5": (rooted("-5"), None, "not zero-stable: root -5.0"),
    "root 1.02": (rooted("51/50"), None, "not zero-stable: root 1.02"),
    "root -1.02": (rooted("-51/50"), None, "not zero-stable: root -1.02"),
    "root 1 twice": (rooted("1"), None, "not zero-stable: a root of modulus 1 is multiple"),
    "hidden": (
        own([*F, "Y = 3*Y[-1] + h*f", "z = z + h*f"], START), None, "not zero-stable: root 3.0"
    ),
    "hidden, read": (
        own([*F, "Y = 3*Y[-1] - 2*z", "z = z + h*f + h**2*Y[-1]"], START), None, "not zero-stable: root 3.0"
    ),
    "sum": (remembering("M = M[-1] + f", "z = z + h*f + h**2*M"), None, "not zero-stable: a root of modulus 1 is multiple"),
    "through the network": (
        own(["u = z + f[-1] - f[-2]", "s = score(u, t0)", "f = drift(u, s, t0)", "z = z + h*f"], EULER, EULER), None,
        "not zero-stable: root",
    ),
    "kept": (
        remembering("M = M[-1]", "z = z + h*f + h*(M - M[-1])"), None, KEPT
    ),
    "root -1": (rooted("-1"), 2, ""),
    "root 1/2": (rooted("1/2"), 2, ""),
    "root -9/10": (rooted("-9/10"), 2, ""),
    "badstart": (spec("badstart"), 0, "the local error of row 2 from the start begins with h^0"),
    "read two rows later": (
        own(
            [*F, "z = z + h*((1 + c)*f - c*f[-2])"], WRONG, EULER,
            c="h/(2*(t_m2 - t0))",
        ), 0, "the local error of row 3 from the start begins with h^0",
    ),
    "right two rows later": (own([*F, "z = z + h*((1 + c)*f - c*f[-2])"], EULER, EULER, c="h/(2*(t_m2 - t0))"), 2, ""),
    "momentum": (spec("momentum"), 1, ""),
    "memory of two": (
        own([*F, "M = 1/2*M[-1] + 1/2*f", "N = 1/3*N[-1] + 2/3*M", "z = z + h*N"], [*F, "M = f", "N = f", "z = z + h*f"]), 1, ""
    ),
    "a remembered slope": (remembering("M = 1/2*M[-1] + 1/2/hp*(f - f[-1])", "z = z + h*f + h**2/2*M"), 2, ""),
    "a fading hidden mode": (
        own([*F, "Y = 1/3*Y[-1] + 2/3*z", "z = z + h*f + h**2*Y[-1]"], START), 1, ""
    ),
    "a memory that lags": (remembering("M = 1/2*M[-1] + 1/2*f", "z = z + h*f + h/2*(f - M)"), 1, "2 on equal steps alone"),
    "a memory of another size": (
        remembering("M = 1/2*M[-1] + 1/3*f", "z = z + h*M"), 0, BEGINS
    ),
    "a memory that begins wrong": (remembering("M = 1/2*M[-1] + 1/2*f", "z = z + h*M", "M = 3*f"), 1, ""),
    "a slope carried": (own([*F, "P = 1/hp*(f - f[-1])", "z = z + h*f + h**2/2*P[-1]"], [*F, "P = f", "z = z + h*f"],
                            [*F, "P = 1/hp*(f - f[-1])", "z = z + h*f"]), 2, ""),
    "the network at an old state": (
        own(["u = 2*z - Y[-1]", "s = score(u, t0)", "f = drift(u, s, t0)", "Y = z", "z = z + h*f"], START), 1, ""
    ),
    "ratio": (spec("ratio"), 0, BEGINS),
    "another ratio": (
        own([*F, f"{SLOPED} + h*(r - 3/2)*(r - 2/3)*f"], EULER), 0, BEGINS
    ),
    "equal steps": (own([*F, f"{SLOPED} + h*(r - 1)*f"], EULER), 0, "2 on equal steps alone"),
    "equal steps, order 1": (own([*F, "z = z + h*(3/2*f - 1/2*f[-1])"], EULER), 1, "2 on equal steps alone"),
    "uneven steps": (own([*F, SLOPED], EULER), 2, ""),
}  # fmt: skip


def derived(name: str) -> Method:
    return ss.derive("vp", RUNS[name][0])


@pytest.mark.parametrize("name", RUNS)
def test_the_order_of_a_run_and_what_is_said_of_it(name: str) -> None:
    _, order, why = RUNS[name]
    method = derived(name)
    assert method.order == order
    assert method.why.startswith(why) if why else method.why == ""
    shown = "none" if order is None else str(order)
    assert claims(method).startswith(f"Proven order {shown} ({why}" if why else f"Proven order {shown}")


MEASURED = (
    "badstart", "momentum", "ratio", "another ratio", "read two rows later", "right two rows later", "memory of two", "root 1/2",
    "a remembered slope", "a memory of another size", "a memory that begins wrong", "uneven steps",
)  # fmt: skip


@pytest.mark.parametrize("name", MEASURED)
def test_the_order_of_a_run_is_what_is_measured(name: str) -> None:
    method = derived(name)
    module = ss.load(ss.emit(method, certified=False))
    slopes = [measure(module, reference(method.sde), grid).lowest for grid in ("uniform", "uneven")]
    assert method.order is not None
    assert min(slopes) == pytest.approx(method.order, abs=0.1)


def test_a_run_without_an_order_says_so_wherever_it_is_printed() -> None:
    method = derived("root 1.02")
    text = ss.emit(method, certified=False)
    module = ss.load(text)
    assert module.ORDER is None and "ORDER = None" in text
    assert "Proven order none (not zero-stable: root 1.02)." in " ".join(text.split())
    check = compare(method, module)
    assert check.measured < 0  # it diverges, as it was said to
    assert check.ok and "none (not zero-stable: root 1.02)" in str(check)


def test_two_blocks_and_a_run_that_draws_noise_are_asked_too() -> None:
    assert ss.derive("psld", spec("unstable")).why == "not zero-stable: root 3.0"
    step = ["D = x0(z, t0)", "Y = z", "z = Y + 3*(Y - Y[-1]) + h*D + sqrt(h)*xi"]
    noisy = {**own(step, ["D = x0(z, t0)", "Y = z", "z = z + h*D + sqrt(h)*xi"]), "target": "sde"}
    method = ss.derive("vp", noisy)
    assert (method.weak_order, method.why) == (None, "not zero-stable: root 3.0")
    assert "Proven weak order none (not zero-stable: root 3.0)" in claims(method)


SPECIAL: dict[str, Any] = {
    "name": "special", "state": ["x"], "time": [0.0, 1.0], "params": {"a": 1.5}, "F": [["-a/2"]], "G": [["sqrt(a)"]],
}  # fmt: skip


def test_a_scheme_that_is_right_at_the_default_parameters_alone_is_told_so() -> None:
    method = ss.derive(SPECIAL, "euler", "score")
    factor = sp.Symbol("a", real=True) - sp.Rational(1, 2)  # 1 at the default of a
    ops = tuple(
        replace(op, terms=tuple((c * factor, value) for c, value in op.terms)) if isinstance(op, Update) else op
        for op in method.program.ops
    )
    planted = replace(method, program=replace(method.program, ops=ops))
    assert (planted.order, planted.why) == (0, "1 at its default parameters alone")


def test_steps_are_other_rationals_for_each_seed() -> None:
    drawn = [history.lengths(seed, 6) for seed in range(20)]
    assert len({tuple(map(str, steps)) for steps in drawn}) == 20
    assert all(1 < step <= 1.4 for steps in drawn for step in map(float, steps))


def test_a_pole_in_the_step_is_expanded_or_refused_in_a_line() -> None:
    assert ss.derive("vp", spec("hp10")).order == 1
    poles = own([*F, "z = z + h*f + (h - hp)**26/hp**25*(f - f[-1])"], EULER)
    with pytest.raises(ss.Unsupported, match="divides by what vanishes with the step, or takes the root"):
        ss.derive("vp", poles).order  # noqa: B018
    assert ss.derive("vp", own([*F, "z = z + h*f + h**3/(h - hp)*(f - f[-1])"], EULER)).why == (
        "its coefficients divide by zero on equal steps"
    )


@pytest.mark.parametrize("term", ["exp(-1/h)", "h*exp(-1/h**2)", "h*tanh(1/h) - h", "h**3*log(h)", "h**(5/2)"])
def test_what_has_no_power_series_in_h_is_refused_in_a_line(term: str) -> None:
    with pytest.raises(ss.Unsupported, match=r"has no power series in h; write it in whole powers of h"):
        ss.derive("vp", own([*HEUN, f"z = z + ({term})*f"])).order  # noqa: B018


@pytest.mark.parametrize("term", ["abs(h**3)", "abs(h) - h", "sqrt(h**2) - h"])
def test_a_root_that_is_a_power_of_h_is_one(term: str) -> None:
    assert ss.derive("vp", own([*HEUN[:-1], f"{HEUN[-1]} + ({term})*f"])).order == 2


def test_an_order_that_parameters_of_the_lines_decide_is_said_to_be_that_of_the_defaults() -> None:
    step = [*HEUN[:-1], "z = z + h*((1 - b)*f + b*drift(y, q, t1))"]
    method = ss.derive("vp", {**own(step), "params": {"b": 0.5}})
    assert claims(method) == "Proven order 2 (at the default parameters of its lines, 1 at others)."
    middle = ["y = z + h/(2*b)*f", "q = score(y, t0 - h/(2*b))", "z = z + h*((1 - b)*f + b*drift(y, q, t0 - h/(2*b)))"]
    assert claims(ss.derive("vp", {**own([*F, *middle]), "params": {"b": 0.5}})) == "Proven order 2."


MARUYAMA = [*F, "z = z + h*f + sqrt(2*h)*xi1"]
UNIT = {"name": "unit", "state": ["x"], "F": [["-1"]], "G": [["sqrt(2)"]]}


@pytest.mark.parametrize(
    ("step", "warmup", "weak", "strong"),
    [
        (MARUYAMA, [], 1, 1), (MARUYAMA, [EULER], 1, None), (MARUYAMA, [["z = z/2"]], 0, None), (EULER, [MARUYAMA], 0, None),
        ([*F, "z = z + (h + h**(3/2))*f + sqrt(2*h)*xi1"], [], 0, 0.5),  # of order 1/2
        ([*F, "z = z + h*f + sqrt(2*h)*xi1 + h*xi1"], [], 0, 0.5),
        ([*F, "z = z + h*f + sqrt(2*h)*xi1 + h*xi2"], [], 1, 0.5),
    ],
)  # fmt: skip
def test_rows_without_noise_and_half_powers_of_h_count_for_what_they_are(
    step: list[str], warmup: list[list[str]], weak: int, strong: float | None
) -> None:
    method = ss.derive(UNIT, {**own(step, *warmup), "target": "sde"})
    assert (method.weak_order, method.strong_order) == (weak, strong)


# -- the history of a long run -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["momentum", "memory of two", "a remembered slope"])
def test_the_history_that_is_solved_for_is_the_one_that_many_rows_make(name: str) -> None:
    """From the solved history and from none, a hundred equal rows apart: the difference has faded."""
    method = derived(name)

    def error(rows: int, solved: bool) -> list[float]:
        chain = local.Chain((method.program,) * rows, solved)
        found = local.local_error(method, 1, 2, chain, steps=lambda seed, count: [1] * count)
        return [
            float(e.mid()) if hasattr(e, "mid") else float(e)
            for blocks in found.coefficients
            for b in blocks
            for e in b
        ]

    assert error(2, True) == pytest.approx(error(80, False), abs=1e-12)
