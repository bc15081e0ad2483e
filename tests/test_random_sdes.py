"""A property of every linear SDE: each update of the emitted table is the 400-bit one to 1e-12 of its largest coefficient on
grids down to t = 1e-4, to 1e-10 down to 1e-5, or there is a refusal.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import stepsmith as ss
from stepsmith.errors import InputError, Unsupported
from stepsmith.measure.coefficients import limit, worst_of

torch.set_num_threads(1)


def numbers(low: float, high: float) -> st.SearchStrategy[float]:
    return st.integers(round(100 * low), round(100 * high)).map(lambda k: k / 100)


@st.composite
def sdes(draw: Any) -> dict[str, Any]:
    """A stable SDE of one to four blocks, affine or not: constant, on one clock, or with an F(t) that does not commute."""
    n = draw(st.sampled_from((1, 2, 2, 3, 4)))
    kind = draw(st.sampled_from(("constant", "clock", "turning") if n > 1 else ("constant", "clock")))
    A = np.array([[draw(numbers(-2, 2)) for _ in range(n)] for _ in range(n)])
    shift = max(float(np.linalg.eigvals(A).real.max()), 0.0) + draw(numbers(0.3, 2))
    A = np.round(A - shift * np.eye(n), 2)
    rank = draw(st.integers(1, n))
    quiet = n - rank if draw(st.booleans()) else 0  # rows that the noise does not reach by itself
    G = [[draw(numbers(0.2, 1.5)) if i >= quiet else 0.0 for _ in range(rank)] for i in range(n)]

    def entry(i: int, j: int) -> str:
        beta = "*beta" if kind != "constant" else ""
        wave = f"*(1 + {draw(numbers(0.1, 0.6))}*sin({draw(numbers(1, 5))}*t))" if kind == "turning" and (i + j) % 2 else ""
        return f"{A[i, j]}{beta}{wave}" if A[i, j] else "0"

    def shift_of(i: int) -> str:
        wave = draw(st.sampled_from(("", "*cos(2*t)", "*(1 + t)")))
        return f"{draw(numbers(0.2, 2))}*mu{wave} - {draw(numbers(0.1, 1))}" if i in moved else "0"

    moved = draw(st.sets(st.integers(0, n - 1), min_size=1)) if draw(st.booleans()) else ()
    affine = {"constant": ["mu"], "offset": [shift_of(i) for i in range(n)]} if moved else {}
    root = "*sqrt(beta)" if kind != "constant" else ""
    clock = {"params": {"low": draw(numbers(0.5, 3)), "high": draw(numbers(3, 8))}, "let": {"beta": "low + t*(high - low)"}}
    state = list("xmvw"[:n])
    return {
        "name": "random", "state": state, "F": [[entry(i, j) for j in range(n)] for i in range(n)],
        "G": [[f"{g}{root}" if g else "0" for g in row] for row in G],
        "initial": {block: str(draw(numbers(0.01, 1))) for block in state[1:]}, **(clock if kind != "constant" else {}), **affine,
    }  # fmt: skip


@st.composite
def grids(draw: Any) -> list[float]:
    steps, end = draw(st.sampled_from((2, 5, 12, 40))), 10 ** draw(st.floats(-5, -1.5))
    shape = draw(st.sampled_from(("uniform", "quadratic", "geometric")))
    left = [1 - k / steps for k in range(steps + 1)]
    if shape == "geometric":
        return [end ** (1 - x) for x in left]
    return [end + (1 - end) * x ** (1 if shape == "uniform" else 2) for x in left]


SAMPLERS = (
    ("euler", "denoiser"), ("euler-maruyama", "denoiser"), ("conjugate", "denoiser"), ("conjugate-identity", "denoiser"),
    ("conjugate", "eps-L"), ("conjugate", "x0"), ("rvv", "denoiser"), ("roba", "denoiser"), ("sscs", "denoiser"),
    ("euler-maruyama", "x0"), ("euler", "edm"), ("nse", "edm"), ("noba", "x0"), ("nvv", "eps-L"), ("oso", "denoiser"),
    ("euler-maruyama", "eps-U"), ("E! E!^@1", "denoiser"),
)  # fmt: skip


@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(spec=sdes(), pair=st.sampled_from(SAMPLERS), times=grids(), data=st.data())
def test_the_updates_of_any_sde_are_right(spec: dict[str, Any], pair: tuple[str, str], times: list[float], data: Any) -> None:
    row = data.draw(st.integers(0, len(times) - 2))
    try:
        found = worst_of(ss.derive(spec, *pair), times, [row])
    except (InputError, Unsupported) as refusal:
        assert str(refusal)  # by name: no stationary law, no auxiliary block, ...
        return
    assert found.error < limit(times[-1]), found


CLOCK = {"params": {"low": 1.13, "high": 6.74}, "let": {"beta": "low + t*(high - low)"}}
ALIKE: dict[str, dict[str, Any]] = {
    "two rows, one noise": {
        "F": [["-1.3", "0.7"], ["-0.4", "-2.1"]], "G": [["0.8"], ["1.1"]],
    },
    "two rows, one noise, on a clock": {
        "F": [["-1.3*beta", "0.7*beta"], ["-0.4*beta", "-2.1*beta"]], "G": [["0.8*sqrt(beta)"], ["1.1*sqrt(beta)"]], **CLOCK,
    },
    "three rows, one noise": {
        "F": [["-1.39", "0.73", "0"], ["-0.58", "-0.74", "0.87"], ["0", "-1.52", "-1.41"]], "G": [["0.69"], ["1.02"], ["0.38"]],
    },
    "three rows, one noise, does not commute": {
        "F": [["-2.5*beta", "0.6*beta*(1 + 0.3*sin(2*t))", "0.4*beta"], ["-0.5*beta", "-1.2*beta", "0.7*beta"],
              ["0.2*beta", "-0.9*beta*(1 + 0.5*sin(3*t))", "-1.7*beta"]],
        "G": [["0.69*sqrt(beta)"], ["1.02*sqrt(beta)"], ["0.38*sqrt(beta)"]], **CLOCK,
    },
    "two rows that one noise reaches alike": {
        "F": [["-1.9", "0.4", "1.3"], ["-0.6", "-1.4", "0.8"], ["-0.7", "-0.2", "-2.2"]], "G": [["0"], ["0"], ["1.1"]],
    },
    "four rows, two noises": {
        "F": [["-2.4", "0.5", "0.3", "-0.2"], ["-0.3", "-1.6", "0.9", "0.1"], ["0.4", "-0.8", "-2.9", "0.6"],
              ["-0.1", "0.2", "-0.5", "-3.3"]],
        "G": [["0.9", "0.3"], ["0.4", "1.2"], ["1.1", "0.7"], ["0.6", "1.4"]],
    },
    "four rows, one noise": {
        "F": [["-2.4", "0.5", "0.3", "-0.2"], ["-0.3", "-1.6", "0.9", "0.1"], ["0.4", "-0.8", "-2.9", "0.6"],
              ["-0.1", "0.2", "-0.5", "-3.3"]],
        "G": [["0.9"], ["0.4"], ["1.1"], ["0.6"]],
    },
}  # fmt: skip


PAIRS = [(sampler, kind) for kind in ALIKE for sampler in ("sscs", "oso") if sampler == "oso" or "commute" not in kind]


@pytest.mark.parametrize(("sampler", "kind"), PAIRS)  # sscs wants a law that F and G keep
def test_noise_that_reaches_rows_alike_keeps_its_digits(sampler: str, kind: str) -> None:
    """What tells such rows apart over a step h is O(h), O(h^2), ...: the values at the nodes lost up to all of its digits."""
    state = list("xmuw"[: len(ALIKE[kind]["F"])])
    spec = {"name": "alike", "state": state, "initial": {block: "0.3" for block in state[1:]}, **ALIKE[kind]}
    times = [1.0, 0.97, 0.3, 2e-3, 1e-3, 2e-5, 1e-5]
    found = worst_of(ss.derive(spec, sampler), times, [0, 3, 5])
    assert found.error < limit(times[-1]), found
