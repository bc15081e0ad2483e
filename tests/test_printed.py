"""What is printed is what is proven: terms, orders and bounds parsed back from the text and held to the program in numbers.

Mutants of the printing and of four derivations are planted, and each is seen.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable
from typing import Any

import flint
import pytest
import sympy as sp
import torch

import stepsmith as ss
from stepsmith.derive.describe import about
from stepsmith.derive.method import Method
from stepsmith.derive.orders import conjugate, local, moments, prediction, strong, symbolic
from stepsmith.derive.orders.rings import PRECISION, Balls
from stepsmith.derive.orders.stability import Linear
from stepsmith.derive.orders.symbolic import jet_name
from stepsmith.derive.orders.taylor import Setting, exact_flow, setting
from stepsmith.derive.sampler.network import ScoreParameterization
from stepsmith.derive.sde.load import load_sde

Numbers = dict[str, float]
GENERAL = {"name": "general", "family": "conjugate", "B": [["1 + t", "2*t"], ["-t**2", "3"]]}
LATE = {
    "name": "late", "family": "conjugate-splitting", "target": "ode", "composition": "B!(1/3) A!@1/3 B!@2/3(2/3)",
    "parts": {
        "A": {"rows": "data", "linear": "rest", "score": "all", "solve": "conjugate", "B": "1 + t"},
        "B": {"rows": "auxiliary", "linear": "rest", "score": "all", "solve": "conjugate", "B": "t/2"},
    },
}  # fmt: skip


def printed(method: Method) -> list[tuple[int, sp.Expr]]:
    """(power of h, coefficient) of each block, read from the lines of the docstring."""
    text = " ".join(line.strip() for line in about(method))
    text = text[text.index("exact minus numerical:") :]
    found = []
    for block in method.sde.state:
        body = re.search(
            rf"e_{block} = (O\(h\^(\d+)\)|h\^(\d+) \* (.*?))(?= e_\w+ =| [\w, ]+ = | e is in units| The network)", text
        )
        assert body is not None, text
        if body[2]:
            found.append((int(body[2]) - 1, sp.S.Zero))
            continue
        names = set(re.findall(r"[A-Za-z_]\w*", body[4]))
        found.append(
            (int(body[3]), sp.sympify(body[4].replace("^", "**"), locals={name: sp.Symbol(name) for name in names}))
        )
    return found


def by_drift(method: Method, seed: int) -> tuple[Numbers, list[list[float]]]:
    """Numbers of the symbols of a splitting error and the local error by powers of h, at a random point."""
    other, power = method.on(method.sde, "score"), (method.step_order or 0) + 1
    sde = other.sde
    at = setting(other, Balls(), seed, power + 2, 1, max(1, power - 1))
    point = at.point
    values = {name: number(v) for name, v in point.params.items()} | {"t": number(point.t0)}
    lets = {name: point.one(e) for name, e in sde.let.items()}
    if sde.n == 1:
        lets |= {"f": point.F[0][0], "g2": point.V[0][0]}
    for name, series in lets.items():
        values |= {name + ("_" + "t" * k if k else ""): number(c) * math.factorial(k) for k, c in enumerate(series.c)}
    flow = exact_flow(at, Balls().number(1, 2))
    for block, row in zip(sde.state, flow, strict=True):
        values |= {block: number(row[0].c[0]), f"d{block}": -number(row[0].c[1])}
    for index, row in zip(at.net.monomials, at.net.coefficients, strict=True):
        scale = math.prod(map(math.factorial, index))
        values |= {jet_name(b, index, sde.state): number(c) * scale for b, c in zip(sde.state, row, strict=True)}
    return values, errors(at, power, ())


def by_frame(method: Method, seed: int) -> tuple[Numbers, list[list[float]]]:
    at = setting(method, Balls(), seed, 4, 1, 1)
    values = {name: number(v) for name, v in conjugate.conjugate_values(at).items()}
    for b in method.sde.state:
        if f"({b} - o_{b})" in values:
            values[f"o_{b}"] = values[b] - values[f"({b} - o_{b})"]
    return values, errors(at, 2, ())


def by_data(method: Method, seed: int) -> tuple[Numbers, list[list[float]]]:
    other, power = method.on(load_sde(prediction.CLOCK), "x0"), (method.step_order or 0) + 1
    at = setting(other, Balls(), seed, power + 4, 1, power)
    flow = exact_flow(at, Balls().number(1, 2))
    seen = at.net(flow, at.point.time)[0][0]
    values = {f"D{k}": number(c) * math.factorial(k) * (-1) ** k for k, c in enumerate(seen.c)}
    for (i, j), (c,) in zip(at.net.monomials, at.net.coefficients, strict=True):
        if i:
            values[f"D_{'x' * i}{'l' * j}"] = number(c) * math.factorial(i) * math.factorial(j) * (-1) ** j
    rng = random.Random(seed)
    r1, r2 = (flint.fmpq(rng.randint(7, 13), 10) for _ in range(2))
    if "the steps before it were as long" in " ".join(" ".join(about(method)).split()):
        r1 = r2 = flint.fmpq(1)
    values |= {"r1": number(r1), "r2": number(r2)}
    return values, errors(at, power, [r1, *[r1 * r2] * 8])


def number(value: Any) -> float:
    return float(flint.arb(value).mid())


def errors(at: Setting, power: int, steps: Any) -> list[list[float]]:
    """The local error of the common step, a row a power of h, a column a block."""
    made = local.local_error_at(at, local.step_chain(at.method), power, steps)
    return [[number(e) for (e,) in blocks] for blocks in made.coefficients]


Reader = Callable[[Method, int], tuple[Numbers, list[list[float]]]]
CASES: dict[str, tuple[Any, Any, str, Reader]] = {
    "psld rvv": ("psld", "rvv", "denoiser", by_drift),
    "psld rvv2": ("psld", "B! A!@1/2", "score", by_drift),
    "cld nvv": ("cld", "nvv", "denoiser", by_drift),
    "vp euler": ("vp", "euler", "denoiser", by_drift),
    "ve euler": ("ve", "euler", "denoiser", by_drift),
    "sub-vp euler": ("sub-vp", "euler", "denoiser", by_drift),
    "swinging rvv": ("swinging-damping", "rvv", "denoiser", by_drift),
    "psld conjugate": ("psld", "conjugate", "denoiser", by_frame),
    "general B": ("psld", GENERAL, "denoiser", by_frame),
    "general B on eps-L": ("psld", GENERAL, "eps-L", by_frame),
    "ir-sde": ("ir-sde", "conjugate-identity", "denoiser", by_frame),
    "conjugate-se": ("psld", "conjugate-se", "denoiser", by_frame),
    "conjugate-vv": ("psld", "conjugate-vv", "denoiser", by_frame),
    "late kicks": ("psld", LATE, "denoiser", by_frame),
    "dpmpp-2m": ("vp", "dpmpp-2m", "denoiser", by_data),
    "heun": ("vp", "heun", "denoiser", by_data),
    "dpmpp-3m": ("vp", "dpmpp-3m", "denoiser", by_data),
    "unipc-3": ("vp", "unipc-3", "denoiser", by_data),
}  # fmt: skip


def gaps(name: str) -> list[float]:
    """Relative gaps between the printed terms and the program, at two points."""
    sde, sampler, network, read = CASES[name]
    method = ss.derive(sde, sampler, network)
    order = re.search(r"Proven order (\d)", " ".join(about(method)))
    assert order is not None
    terms = printed(method)
    assert max(power for power, _ in terms) == (method.step_order or 0) + 1 >= int(order[1]) + 1
    found = []
    for seed in (5, 6):
        with flint.ctx.workprec(PRECISION):
            values, error = read(method, seed)
        lower = [abs(e) for row in error[: terms[0][0]] for e in row]
        assert max(lower, default=0.0) < 1e-30, "the error begins at a lower power than is printed"
        for (_, expr), e in zip(terms, error[terms[0][0]], strict=True):
            missing = {s.name for s in expr.free_symbols} - set(values)
            assert not missing, missing
            made = float(expr.subs({s: values[s.name] for s in expr.free_symbols}))
            found.append(abs(made - e) / max(1e-6, abs(e), abs(made)))
    return found


@pytest.mark.parametrize("name", CASES)
def test_the_printed_leading_error_is_that_of_the_program(name: str) -> None:
    assert max(gaps(name)) < 1e-9


def dropped(expr: sp.Expr) -> sp.Expr:
    first = next((e for e in sp.preorder_traversal(expr) if e.is_Add), None)
    return expr if first is None else expr.xreplace({first: sp.Add(*first.args[1:])})


def flipped(expr: sp.Expr) -> sp.Expr:
    first = next((e for e in sp.preorder_traversal(expr) if e.is_Add), None)
    return -expr if first is None else expr.xreplace({first: sp.Add(-first.args[0], *first.args[1:])})


@pytest.mark.parametrize("mutant", [dropped, flipped, lambda expr: 2 * expr], ids=["drop", "flip", "factor"])
@pytest.mark.parametrize("name", ["psld rvv", "general B", "conjugate-vv", "dpmpp-2m"])
def test_a_mutant_of_the_printing_is_seen(name: str, mutant: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    sstr = sp.sstr
    monkeypatch.setattr(symbolic.sp, "sstr", lambda expr: sstr(mutant(expr)))
    assert max(gaps(name)) > 1e-6


@pytest.mark.parametrize("sampler", [GENERAL, "conjugate-vv"], ids=["general", "conjugate-vv"])
def test_a_term_lost_in_the_derivation_of_a_conjugate_error_is_refused(
    sampler: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """dB dropped, or any other term: the terms that will be printed are held to the program before they are returned."""
    tidy = symbolic.tidy
    monkeypatch.setattr(conjugate, "tidy", lambda expr, *a: tidy(dropped(sp.expand(expr)), *a))
    with pytest.raises(ArithmeticError):
        ss.derive("psld", sampler).local_error  # noqa: B018


@pytest.mark.parametrize("sampler", ["rvv", "euler"])
def test_the_printed_largest_step_is_stable_and_one_longer_is_not(sampler: str) -> None:
    method = ss.derive("psld", sampler)
    (line,) = [line for line in method.stability().lines() if "largest stable step" in line]
    probe = Linear(method, 0.25)
    for at_least, h, t in re.findall(r"(at least )?([\d.e-]+) from t = ([\d.e-]+)", line):
        assert probe.stable(float(t), float(h))
        assert at_least or not probe.stable(float(t), 1.02 * float(h))


# -- mutants of derivations ------------------------------------------------------------------------------------------------------

LANGEVIN: dict[str, Any] = {
    "name": "langevin", "state": ["x", "v"], "F": [["0", "-1"], ["0", "g"]], "G": [["0"], ["sqrt(2*g)"]],
    "params": {"g": 1.5}, "initial": {"v": "1"}, "time": [0.0, 1.0],
}  # fmt: skip
FORCE = ScoreParameterization(
    "force", sp.ImmutableMatrix.zeros(2, 2), sp.ImmutableMatrix([[0], [1]]), sp.ImmutableMatrix([[1, 0]])
)
UBU: dict[str, Any] = {
    "name": "ubu", "family": "splitting", "target": "sde", "composition": "L B!@1/2 L",
    "parts": {
        "L": {"linear": [["0", "1"], ["0", "-g"]], "noise": "all", "solve": "exact"}, "B": {"rows": ["v"], "score": "all"},
    },
}  # fmt: skip


def test_a_wrong_variance_of_the_integrated_path_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Var Z = 1/3: with 1/2 in its place an exact linear part loses strong order 3/2."""
    method = ss.derive(LANGEVIN, UBU, FORCE)
    assert method.strong_order == 1.5
    true = strong.brownian_levels

    def louder(at: Setting, drift: Any) -> Any:
        one, cross, third = true(at, drift)
        return one, cross, [[e * 3 / 2 for e in row] for row in third]

    monkeypatch.setattr(strong, "brownian_levels", louder)
    assert strong.strong_order(method) == 1.0


def test_the_two_meanings_of_strong_order_are_named() -> None:
    """Coupled at their best the draws know the integral of the path too; as its increments they do not."""
    text = " ".join(about(ss.derive(LANGEVIN, UBU, FORCE)))
    words = (
        "strong order 1.5 if the draws are coupled to the Brownian path in the best way, 1 if they are its increments"
    )
    assert words in re.sub(r"\s+", " ", text)


def test_two_coordinates_confirm_every_power_of_h(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    true = moments.around

    def around(method: Method, seed: int, powers: int, width: int) -> Setting:
        asked.append((powers, width))
        return true(method, seed, powers, width)

    monkeypatch.setattr(moments, "around", around)
    assert moments.weak_order(ss.derive(LANGEVIN, "euler-maruyama", FORCE), (1,)) == 1
    assert moments.weak_order(ss.derive(LANGEVIN, UBU, FORCE), (1,)) == 2
    assert asked[-4:] == [(2, 1), (2, 2), (4, 1), (4, 2)]


def test_a_run_starts_from_the_plain_part_of_the_mean_too() -> None:
    """dx = (2 - x) dt + dw without given constants: x at t = 1 has the mean 2 (1 - 1/e) beside what the data give."""
    sde = {"name": "driven", "state": ["x"], "time": [0.0, 1.0], "F": [["-1"]], "offset": ["2"], "G": [["1"]]}
    module = ss.load(ss.emit(ss.derive(sde, "euler", "score"), certified=False))
    grid = ss.TimeGrid.explicit([1.0, 1.0 - 1e-6])
    network = lambda inputs, time: tuple(torch.zeros_like(x) for x in inputs)  # noqa: E731
    found = ss.sample(module, network, grid, range(2000), shape=(1,), dtype=torch.float64).mean().item()
    assert found == pytest.approx(2 * (1 - math.exp(-1)), abs=0.06)
