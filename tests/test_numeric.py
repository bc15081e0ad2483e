"""The numeric view: transition, covariance, factors and effective sigma, against closed forms and other integrators."""

from __future__ import annotations

from functools import cache
from typing import Any

import flint
import mpmath
import numpy as np
import pytest
import sympy as sp

from stepsmith.derive import load_sde
from stepsmith.derive.maths.calculus import plain, t
from stepsmith.derive.sde import numeric
from stepsmith.derive.sde.numeric import NumericSDE
from stepsmith.errors import InputError, Unsupported

HOLD = {
    "name": "hold", "state": ["x", "v", "w"],
    "F": [["0", "beta", "0"], ["-beta", "0", "beta*chi"], ["0", "-beta*chi", "-beta*xi"]],
    "G": [["0"], ["0"], ["sqrt(2*beta*xi)"]], "params": {"beta": 4.0, "chi": 2.0, "xi": 3.0}, "initial": {"v": "0.1", "w": "0.2"},
}  # fmt: skip
CHAIN = {
    "name": "chain", "state": ["x", "v", "w", "q"],
    "F": [["0", "beta", "0", "0"], ["-beta", "0", "beta", "0"], ["0", "-beta", "0", "2*beta"], ["0", "0", "-2*beta", "-3*beta"]],
    "G": [["0"], ["0"], ["0"], ["sqrt(6*beta)"]], "params": {"low": 1.0, "high": 6.0}, "let": {"beta": "low + t*(high - low)"},
    "initial": {"v": "0.1", "w": "0.2", "q": "0.3"},
}  # fmt: skip
TWISTED = {
    "name": "twisted", "state": ["x", "m"], "F": [["0", "2*beta"], ["-beta/2", "-beta*(4 + 3*sin(5*t))/2"]],
    "G": [["0"], ["sqrt(beta*(4 + 3*sin(5*t))/4)"]], "params": {"low": 4.0, "high": 12.0},
    "let": {"beta": "low + t*(high - low)"}, "initial": {"m": "0.01"},
}  # fmt: skip
TABLES = {"hold": HOLD, "chain": CHAIN, "twisted": TWISTED}


@cache
def sde_of(name: str) -> Any:
    return load_sde(TABLES.get(name, name))


@cache
def view_of(name: str) -> NumericSDE:
    return sde_of(name).at()


def high(entries: Any) -> mpmath.matrix:
    """Balls as numbers of 70 digits."""
    return mpmath.matrix([[mpmath.mpf(e.mid().str(70, radius=False, more=True)) for e in row] for row in entries])


def exact_symbols(sde: Any) -> dict[Any, Any]:
    """The defaults as the rationals that the float64 numbers are."""
    return {sde.symbols[k]: sp.Rational(*float(v).as_integer_ratio()) for k, v in sde.params.items()}


def numbers(M: Any, values: dict[Any, Any]) -> mpmath.matrix:
    """The entries of a SymPy matrix at a point, to 90 digits."""
    return mpmath.matrix([[sp.N(plain(e).subs(values), 90)._to_mpmath(290) for e in row] for row in M.tolist()])


def distance(got: mpmath.matrix, wanted: mpmath.matrix) -> Any:
    """The largest relative error of an entry; an entry that is zero counts by itself."""
    return max(abs(a - b) / (abs(b) or 1) for a, b in zip(got, wanted, strict=True))


@pytest.mark.parametrize("name", ["psld", "psld-damped", "cld", "vp", "vp-cosine", "ve"])
@pytest.mark.parametrize("time", [1e-5, 1e-3, 0.3, 0.99])
def test_the_numeric_route_is_the_closed_form_entry_by_entry(name: str, time: float) -> None:
    sde, view = sde_of(name), view_of(name)
    values = {**exact_symbols(sde), t: sp.Rational(*time.as_integer_ratio())}
    with mpmath.workdps(70):
        for balls, closed in (
            (view.exact_transition(time, 0.0), sde.transition(t, 0)),
            (view.exact_covariance(time), sde.covariance(t)),
        ):
            assert distance(high(balls), numbers(closed, values)) < mpmath.mpf("1e-50")


@pytest.mark.parametrize("name", ["hold", "chain"])
@pytest.mark.parametrize("time", [1e-4, 0.05, 0.7])
def test_three_and_four_blocks_are_van_loans_exponential(name: str, time: float) -> None:
    """All of F and G G^T runs on one clock here, so [[F, G G^T], [0, -F^T]] exponentiates to Psi and Psi^-T-free Sigma."""
    sde, view, n = sde_of(name), view_of(name), sde_of(name).n
    values, span = exact_symbols(sde), (t, 0, sp.Rational(*time.as_integer_ratio()))
    with mpmath.workdps(80):
        F, V = (numbers(sp.Matrix(M).applyfunc(lambda e: sp.integrate(e, span)), values) for M in (sde.F, sde.GG))
        S0 = numbers(sde.initial, values)
        block = mpmath.matrix(2 * n, 2 * n)
        block[:n, :n], block[:n, n:], block[n:, n:] = F, V, -F.T
        E = mpmath.expm(block)
        psi = E[:n, :n]
        sigma = E[:n, n:] * psi.T + psi * S0 * psi.T
        assert distance(high(view.exact_transition(time, 0.0)), psi) < mpmath.mpf("1e-45")
        assert distance(high(view.exact_covariance(time)), sigma) < mpmath.mpf("1e-40")


def test_an_sde_that_does_not_commute_follows_the_ordered_equation() -> None:
    """Against mpmath's own Taylor integrator (odefun), which knows nothing of F being linear."""
    view, end = view_of("twisted"), 0.35
    with mpmath.workdps(22):

        def right(time: Any, y: Any) -> list[Any]:
            b, c = 4 + 8 * time, 4 + 3 * mpmath.sin(5 * time)
            a, d, v = -b / 2, -b * c / 2, b * c / 4
            p00, p01, p10, p11, s00, s01, s11 = y
            return [
                2 * b * p10, 2 * b * p11, a * p00 + d * p10, a * p01 + d * p11,
                4 * b * s01, 2 * b * s11 + a * s00 + d * s01, 2 * (a * s01 + d * s11) + v,
            ]  # fmt: skip

        y = mpmath.odefun(right, 0, [1, 0, 0, 1, 0, 0, mpmath.mpf(0.01)], tol=mpmath.mpf("1e-20"))(mpmath.mpf(end))
        psi, sigma = high(view.exact_transition(end, 0.0)), high(view.exact_covariance(end))
        for got, wanted in zip([*psi, sigma[0, 0], sigma[0, 1], sigma[1, 1]], y, strict=True):
            assert abs(got - wanted) < mpmath.mpf("1e-17") * abs(wanted)
    integral = sde_of("twisted").F.applyfunc(lambda e: sp.integrate(e, (t, 0, sp.Rational(7, 20))))
    naive = mpmath.expm(numbers(integral, exact_symbols(sde_of("twisted"))))  # another matrix, and not a near one
    assert max(abs(a - b) for a, b in zip(naive, psi, strict=True)) > 1e-2


@pytest.mark.parametrize("name", ["psld", "hold", "vp-cosine"])
def test_other_settings_of_the_taylor_route_agree(name: str) -> None:
    sde = sde_of(name)
    other = NumericSDE(sde, dict(sde.params), terms=137, precision=700, accuracy=420)
    first, second = ([high(M) for time in (1e-4, 0.4) for M in two(view, time)] for view in (view_of(name), other))
    with mpmath.workdps(70):
        assert max(distance(a, b) for a, b in zip(first, second, strict=True)) < mpmath.mpf("1e-60")


def two(view: NumericSDE, time: float) -> tuple[Any, Any]:
    return view.exact_transition(time, 0.25), view.exact_covariance(time)


@pytest.mark.parametrize("name", ["psld", "cld", "hold", "chain", "twisted", "vp", "ve"])
def test_transitions_invert_and_compose(name: str) -> None:
    view, n = view_of(name), sde_of(name).n
    with mpmath.workdps(70):
        one = high(view.exact_transition(0.8, 0.3)) * high(view.exact_transition(0.3, 0.8))
        assert max(abs(e) for e in one - mpmath.eye(n)) < mpmath.mpf("1e-50")
        chain = high(view.exact_transition(0.8, 0.3)) * high(view.exact_transition(0.3, 0.01))
        assert distance(chain, high(view.exact_transition(0.8, 0.01))) < mpmath.mpf("1e-50")
    assert view.transition(0.3, 0.3) == pytest.approx(np.eye(n), abs=1e-15)


@pytest.mark.parametrize("name", ["psld", "cld", "psld-damped", "hold", "chain", "twisted", "vp", "ve"])
@pytest.mark.parametrize("time", [1e-5, 1e-3, 0.5, 1.0])
def test_factors_have_their_shape_and_give_the_covariance(name: str, time: float) -> None:
    view, n = view_of(name), sde_of(name).n
    sigma = view.covariance(time)
    scale = np.sqrt(np.outer(np.diag(sigma), np.diag(sigma)))
    for kind in ("lower", "upper"):
        factor = view.factor(time, kind=kind)
        assert factor.shape == (n, n)
        assert (np.abs(factor @ factor.T - sigma) / scale).max() < 1e-14, kind
        if kind == "lower":
            assert (np.triu(factor, 1) == 0).all() and (np.diag(factor) > 0).all()
        if kind == "upper":
            assert (np.tril(factor, -1) == 0).all() and (np.diag(factor) > 0).all()


@pytest.mark.parametrize(
    ("name", "last"), [("psld", 0.1), ("cld", 0.05), ("vp", 0.2), ("hold", 0.03), ("twisted", 0.02)]
)
def test_gddims_factor_solves_its_equation_and_is_lower_at_the_data_end(name: str, last: float) -> None:
    """R' = F R + G G^T R^-T / 2, by a central difference of 10^-24 in balls; other ends differ by a rotation."""
    sde, view, n = sde_of(name), view_of(name), sde_of(name).n
    end, step = 1e-2, mpmath.mpf(2) ** -80
    with mpmath.workdps(90), flint.ctx.workprec(numeric.PRECISION):
        for time in (0.013, last):
            near = [high(view.rotation(flint.arb(end), flint.arb(time) + k * flint.arb(2) ** -80)) for k in (-1, 0, 1)]
            values = {**exact_symbols(sde), t: sp.Rational(*float(time).as_integer_ratio())}
            F, V = numbers(sde.F, values), numbers(sde.GG, values)
            right = F * near[1] + V * (near[1].T ** -1) / 2
            slope = (near[2] - near[0]) / (2 * step)
            assert max(abs(e) for e in slope - right) < mpmath.mpf("1e-35") * max(abs(e) for e in right)
            assert distance(near[1] * near[1].T, high(view.exact_covariance(time))) < mpmath.mpf("1e-45")
    assert view.factor(end, kind="gddim", end=end) == pytest.approx(view.factor(end, kind="lower"), rel=1e-14)
    one, other = view.factor(last, kind="gddim", end=end), view.factor(last, kind="gddim", end=0.7 * last)
    rotation = np.linalg.solve(one, other)
    assert rotation @ rotation.T == pytest.approx(np.eye(n), abs=1e-11)
    if n > 1:
        assert abs(rotation - np.eye(n)).max() > 1e-3


@pytest.mark.parametrize(("name", "time"), [("cld", 3e-4), ("chain", 0.004), ("hold", 3e-4)])
def test_gddims_factor_reaches_every_time(name: str, time: float) -> None:
    view = view_of(name)
    factor, sigma = view.factor(time, kind="gddim", end=1e-3), view.covariance(time)
    assert (np.abs(factor @ factor.T - sigma) / np.sqrt(np.outer(np.diag(sigma), np.diag(sigma)))).max() < 1e-14


@pytest.mark.parametrize("name", ["psld", "cld", "hold", "chain", "twisted", "vp", "vp-cosine", "ve"])
def test_the_effective_sigma_grows(name: str) -> None:
    view = view_of(name)
    last = sde_of(name).time[1]
    values = view.effective_sigma(np.geomspace(1e-5, last, 40))
    assert values.shape == (40,)
    assert (np.diff(values) > 0).all() and values[0] > 0


def test_the_effective_sigma_of_one_block_is_sigma_over_alpha() -> None:
    times = np.array([1e-5, 1e-3, 0.1, 0.5, 1.0])
    B = 0.1 * times + 19.9 * times**2 / 2
    assert view_of("vp").effective_sigma(times) == pytest.approx(np.sqrt(np.expm1(B)), rel=2e-15)
    assert view_of("ve").effective_sigma(times) == pytest.approx(0.01 * 5000**times, rel=5e-15)
    shape = view_of("vp").effective_sigma(times.reshape(1, 5, 1)).shape
    assert shape == (1, 5, 1)


@pytest.mark.parametrize("name", ["psld", "hold", "twisted"])
def test_the_effective_sigma_is_the_error_of_the_best_linear_estimate(name: str) -> None:
    """Of all w with w^T Psi e = 1 the least w^T Sigma w: by least squares here, not by the formula."""
    view, n = view_of(name), sde_of(name).n
    for time in (0.1, 0.6):
        e, sigma = view.transition(time, 0.0)[:, 0], view.covariance(time)
        base = e / (e @ e)
        free = np.linalg.svd(e[None, :])[2][1:].T  # the directions that leave w^T e alone
        w = base - free @ np.linalg.solve(free.T @ sigma @ free, free.T @ sigma @ base)
        assert free.shape == (n, n - 1)
        assert view.effective_sigma(time) == pytest.approx(np.sqrt(w @ sigma @ w), rel=1e-9)


def test_what_is_refused() -> None:
    view = view_of("psld")
    for ask in (lambda: view.covariance(1.5), lambda: view.transition(-0.1, 0.2), lambda: view.transition(0.2, 1.01),
                lambda: view.factor(2.0), lambda: view.effective_sigma([0.5, 1.2])):  # fmt: skip
        with pytest.raises(InputError, match="outside the span"):
            ask()
    with pytest.raises(InputError, match=r"params\.Gama"):
        sde_of("psld").at(Gama=0.1)
    with pytest.raises(InputError, match="Gamma != nu"):
        sde_of("psld").at(Gamma=4.01)
    with pytest.raises(InputError, match="kind"):
        view.factor(0.5, kind="qr")
    two_points = load_sde({"name": "two", "state": ["x", "m"], "F": [["-1", "0"], ["1", "-1"]], "G": [["1", "0"], ["0", "1"]],
                           "data": ["x", "m"]})  # fmt: skip
    with pytest.raises(Unsupported, match="data blocks"):
        two_points.at().effective_sigma(0.5)


def test_parameters_are_taken_as_the_floats_they_are() -> None:
    one = sde_of("psld").at(beta_min=0.1, beta_max=16.0)
    assert float(one.exact_transition(1.0, 0.0)[0][0]) != view_of("psld").transition(1.0, 0.0)[0, 0]
    B = 0.1 * 0.5 + 15.9 * 0.125
    wanted = np.exp(-4.02 * B / 4) * np.array([[1 + B, 2 * B], [-B / 2, 1 - B]])
    assert one.transition(0.5, 0.0) == pytest.approx(wanted, rel=1e-14)
