"""The family adams: published multistep samplers are settings of it; orders are proven and measured, for any number of blocks.

The published formulas stand here as they are printed, for one block in lambda = log(alpha/sigma).
"""

import math
from pathlib import Path

import pytest
import sympy as sp
import torch

import stepsmith as ss
from stepsmith.derive.maths.balls import arb
from stepsmith.derive.orders.local import Verdict
from stepsmith.derive.proofs.reference import reference
from stepsmith.errors import InputError, Unsupported
from stepsmith.measure import bench, orders, slopes
from stepsmith.measure.coefficients import worst_of
from stepsmith.measure.problems import GaussianMixture
from stepsmith.runtime.sampler import steps_of

BLOCKS = {"vp": 1, "psld": 2, "hold": 3}
TIMES = torch.tensor([0.98, 0.81, 0.6, 0.44, 0.3, 0.21, 0.1, 0.06, 0.015], dtype=torch.float64)
MIXTURE = GaussianMixture([0.4, 0.6], [[0.7, -0.3], [-0.5, 0.8]], [0.2, 0.35])
PUBLISHED = Path(__file__).parent / "data" / "published"  # the formulas of samplers that are settings of adams


def adams(order, frame="x0", clock="log", corrector=False):
    return {"sampler": {"name": "own", "family": "adams", "order": order, "frame": frame, "clock": clock, "corrector": corrector}}


def module_of(sde, sampler, network="denoiser"):
    """The method and its emitted module; what the head of the text says of orders is left out, for it takes seconds."""
    method = ss.derive(sde, sampler, network)
    quick = ss.derive(sde, sampler, network)
    vars(quick)["_verdict"] = Verdict(None, None)
    return method, ss.load(ss.emit(quick, certified=False))


def walked(module, times, start):
    """The data block after each step of a run with the exact denoiser."""
    state, states = tuple(start), []
    history = (torch.zeros_like(state[0]),) * module.HISTORY
    network = lambda inputs, sigma: (MIXTURE.denoiser(inputs[0], sigma),)  # noqa: E731
    table = module.coefficients(times)
    for row, (step, _) in zip(table.unbind(), steps_of(module, len(table)), strict=True):
        state, history = step(state, row.unbind(), network, (), history)
        states.append(state[module.DATA])
    return torch.stack(states)


def start(blocks):
    return torch.randn(blocks, 64, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def gap(found, told):
    return ((found - told).abs().amax((1, 2)) / told.abs().amax((1, 2))).max().item()


# -- published samplers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sde", BLOCKS)
def test_order_one_in_the_frame_x0_is_the_conjugate_step_with_B_zero(sde):
    _, own = module_of(sde, adams(1))
    _, conjugate = module_of(sde, "conjugate")
    assert own.COEFFICIENTS == conjugate.COEFFICIENTS
    a, b = own.coefficients(TIMES), conjugate.coefficients(TIMES)
    assert (a - b).abs().max() < 1e-13 * b.abs().max()


@pytest.mark.parametrize("order", [2, 3])
def test_deis_as_diffusers_ships_it_is_the_frame_eps_R_in_the_clock_log(order):
    _, own = module_of("vp", f"deis-{order}")
    _, deis = module_of("vp", PUBLISHED / f"deis-{order}.toml")
    assert gap(walked(own, TIMES, start(1)), walked(deis, TIMES, start(1))) < 1e-10


def phi(k, x):
    """phi_k by its recurrence, from a long series."""
    return sum(x**j / float(math.factorial(j + k)) for j in range(60))


def lambdas(sde, times):
    view = ss.load_sde(sde).at()
    alpha = torch.tensor([view.transition(float(t), 0.0)[0, 0] for t in times], dtype=torch.float64)
    sigma = torch.tensor([math.sqrt(view.covariance(float(t))[0, 0]) for t in times], dtype=torch.float64)
    return alpha, sigma, torch.log(alpha / sigma)


def multistep(alpha, sigma, lam, z, rule):
    """A run of a multistep rule z' = sigma'/sigma z + alpha' rule(h, earlier steps, D, D[-1], ...) with the data prediction."""
    data, states = [], []
    for i in range(len(lam) - 1):
        data.insert(0, MIXTURE.denoiser(z / alpha[i], sigma[i] / alpha[i]))
        back = [lam[i - k] for k in range(min(i, 3) + 1)]
        z = sigma[i + 1] / sigma[i] * z + alpha[i + 1] * rule(lam[i + 1] - lam[i], back, data)
        states.append(z)
    return torch.stack(states)


def test_order_two_is_dpm_solver_pp_2m_with_its_integral_exact():
    """AB2 of the integral: -(e^-h - 1) D + (h^2 phi_2(-h)/h_0) (D - D[-1]), phi_2 where the publication has phi_1/2."""

    def rule(h, back, data):
        first = -torch.expm1(-h) * data[0]
        return first if len(back) == 1 else first + h**2 * phi(2, -h) * (data[0] - data[1]) / (back[0] - back[1])

    alpha, sigma, lam = lambdas("vp", TIMES)
    _, own = module_of("vp", adams(2))
    assert gap(walked(own, TIMES, start(1)), multistep(alpha, sigma, lam, start(1)[0], rule)) < 1e-10


def test_dpm_solver_pp_2m_as_published_differs_by_a_twelfth_of_the_cube_of_the_step():
    """Its weight of D1 is (1 - e^-h) h/2; the exact one is h^2 phi_2(-h) = h - 1 + e^-h: apart by h^3/12 + O(h^4)."""
    h = sp.Symbol("h", positive=True)
    difference = (h - 1 + sp.exp(-h)) - (1 - sp.exp(-h)) * h / 2
    assert sp.series(difference, h, 0, 4).removeO() == h**3 / 12
    error = ss.derive("vp", "dpmpp-2m").local_error[0].coefficient
    exact = ss.derive("vp", adams(2)).local_error[0].coefficient.subs(sp.Symbol("k_x"), 1)
    assert sp.simplify(error - exact - sp.Symbol("D1") / 12) == 0


def test_order_three_is_the_corrected_dpm_solver_pp_3m_from_the_third_row_on():
    _, own = module_of("vp", adams(3))
    _, other = module_of("vp", "dpmpp-3m-corrected")
    a, b = ({c: module.coefficients(TIMES)[2:, k] for k, c in enumerate(module.COEFFICIENTS)} for module in (own, other))
    for one, two in (("x_x", "x_x"), ("x_d", "x_d"), ("x_d_m1", "x_D_m1"), ("x_d_m2", "x_D_m2")):
        assert (a[one] - b[two]).abs().max() < 1e-10


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_the_corrector_is_unipc_with_all_its_systems_solved(order):
    """UniPC-p (arXiv 2302.04867, algorithms 5 to 8, B(h) = e^h - 1), R a = b solved in every row, no 1/2 in its place."""
    alpha, sigma, lam = lambdas("vp", TIMES)
    z, states, times, data = start(1)[0], [], [lam[0]], [MIXTURE.denoiser(start(1)[0] / alpha[0], sigma[0] / alpha[0])]

    def moved(z, i, nodes, values):
        """From t_i to t_(i+1) with the values at these nodes, the first of them at t_i."""
        h = lam[i + 1] - lam[i]
        base = sigma[i + 1] / sigma[i] * z - alpha[i + 1] * torch.expm1(-h) * values[0]
        if len(nodes) == 1:
            return base
        r = (torch.stack(nodes[1:]) - lam[i]) / h
        B = torch.expm1(-h)
        count = len(r)
        b = torch.stack([math.factorial(k) * -h * phi(k + 1, -h) / B for k in range(1, count + 1)])
        weights = torch.linalg.solve(torch.stack([r**k for k in range(count)]), b)
        differences = [(value - values[0]) / ratio for value, ratio in zip(values[1:], r, strict=True)]
        return base - alpha[i + 1] * B * sum(w * d for w, d in zip(weights, differences, strict=True))

    for i in range(len(lam) - 1):
        p = min(order, len(data))
        predicted = moved(z, i, times[:p], data[:p])
        states.append(predicted)
        new = MIXTURE.denoiser(predicted / alpha[i + 1], sigma[i + 1] / alpha[i + 1])
        z = moved(z, i, [times[0], lam[i + 1], *times[1:p]], [data[0], new, *data[1:p]])
        times, data = [lam[i + 1], *times], [new, *data]
    _, own = module_of("vp", adams(order, corrector=True))
    assert own.NFE == 1 and own.nfe(8) == 8 and order == own.HISTORY
    assert gap(walked(own, TIMES, start(1)), torch.stack(states)) < 1e-10


# -- proofs and measurements ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("order", "corrector", "step", "run"),
    [(1, False, 1, 1), (2, False, 2, 2), (3, False, 3, 2), (1, True, 2, 2), (2, True, 3, 3)],
)
@pytest.mark.parametrize("sde", ["vp", "psld"])
def test_orders_are_proven_and_the_first_rows_are_not_forgotten(sde, order, corrector, step, run):
    method = ss.derive(sde, adams(order, corrector=corrector))
    assert (method.step_order, method.order) == (step, run)


def test_order_four_is_four_and_its_corrector_adds_one():
    assert ss.derive("vp", adams(4)).step_order == 4
    assert ss.derive("vp", adams(4, corrector=True)).step_order == 5


@pytest.mark.parametrize(
    ("sde", "settings"),
    [
        ("vp", (2, "x0", "log", True)), ("psld", (2, "x0", "log", True)), ("psld", (2, "gaussian", "theta", True)),
        ("hold", (2, "x0", "log", False)), ("vp", (3, "gaussian", "theta", True)),
    ],
)  # fmt: skip
def test_the_measured_slope_is_the_proven_order(sde, settings):
    method, module = module_of(sde, adams(*settings))
    slope = slopes.measure(module, orders.reference(method.sde), "uniform")
    assert slope.value > method.order - 0.1


@pytest.mark.parametrize("sde", ["vp", "psld"])
def test_the_leading_error_is_that_of_the_interpolation_in_the_clock(sde):
    r1, D2, D3, D_k = sp.symbols("r1 D2 D3 D_k")
    for block, term in zip(ss.load_sde(sde).state, ss.derive(sde, adams(2)).local_error, strict=True):
        assert term.power == 3 and sp.expand(term.coefficient - sp.Symbol(f"k_{block}") * D2 * (3 * r1 + 2) / 12) == 0
    for block, term in zip(ss.load_sde(sde).state, ss.derive(sde, adams(2, corrector=True)).local_error, strict=True):
        told = (D2 * D_k * (3 * r1 + 2) ** 2 - D3 * (r1 + 1) * (2 * r1 + 1)) / (72 * (r1 + 1))
        assert term.power == 4 and sp.simplify(term.coefficient - sp.Symbol(f"k_{block}") * told) == 0


def test_a_block_without_noise_has_no_leading_error():
    terms = ss.derive("hold", adams(2)).local_error
    assert [term.coefficient == 0 for term in terms] == [True, True, False]


@pytest.mark.parametrize(
    ("sde", "settings"),
    [
        ("vp", (4, "x0", "log", True)), ("vp", (2, "gaussian", "theta", True)), ("edm", (2, "eps-R", "-sqrt(t)", True)),
        ("psld", (2, "gaussian", "theta", True)), ("hold", (2, "x0", "log", True)),
    ],
)  # fmt: skip
def test_every_row_is_that_of_the_independent_reference(sde, settings):
    method, module = module_of(sde, adams(*settings))
    times = [method.sde.time[1] * 10 ** (-4 * k / 24) for k in range(25)]
    assert worst_of(method, times, [1, settings[0], 23], module=module).error < 1e-12


@pytest.mark.parametrize(("sde", "network"), [("vp", "edm"), ("vp", "v"), ("psld", "edm")])
def test_every_network_gives_the_same_run(sde, network):
    _, own = module_of(sde, adams(2, "gaussian", "theta", True), network)
    _, other = module_of(sde, adams(2, "gaussian", "theta", True))
    view = ss.load_sde(sde).at()
    kind = slopes.network_of(own, MIXTURE, view)
    runs = []
    for module, net in ((own, kind), (other, lambda inputs, s: (MIXTURE.denoiser(inputs[0], s),))):
        state = tuple(start(len(module.COMPONENTS)))
        history = (torch.zeros_like(state[0]),) * module.HISTORY
        for row in module.coefficients(TIMES):
            state, history = module.step(state, row.unbind(), net, (), history)
        runs.append(state[0])
    assert (runs[0] - runs[1]).abs().max() < 1e-10


def test_an_offset_is_carried_along():
    method, module = module_of("ir-sde", adams(2, corrector=True))
    slope = slopes.measure(module, orders.reference(method.sde), "uniform")
    assert slope.value > method.order - 0.1


# -- the emitted text and the spec ---------------------------------------------------------------------------------------------


def test_one_function_makes_the_rows_of_all_orders():
    _, module = module_of("psld", adams(3, corrector=True))
    assert not hasattr(module, "step_first") and not hasattr(module, "other_rows")
    table = module.coefficients(TIMES)
    columns = {name: table[:, k] for k, name in enumerate(module.COEFFICIENTS)}
    for k in (1, 2, 3):
        assert (columns[f"x_d_m{k}"][:k] == 0).all() and (columns[f"x_d_m{k}"][k:] != 0).all()


def test_components_may_have_the_names_of_its_values():
    spec = {"sde": {
        "name": "odd", "state": ["x_c", "missed"], "time": [0.0, 1.0], "F": [["-1", "1"], ["-1", "-2"]],
        "G": [["0", "0"], ["0", "2"]], "initial": {"missed": "1"},
    }}  # fmt: skip
    method, module = module_of(spec, adams(2, corrector=True))
    assert module.COMPONENTS == ("x_c", "missed") and method.order == 3


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"order": 5}, "sampler.order"), ({"order": True}, "sampler.order"), ({"frame": "eps-Q"}, "sampler.frame"),
        ({"clock": 3}, "sampler.clock"), ({"clock": "lag"}, "sampler.clock"),
        ({"clock": "beta_max"}, "sampler.clock"), ({"clock": "abs(t - 1/2)"}, "sampler.clock"),
        ({"clock": "sin(20*t)"}, "sampler.clock"), ({"clock": "log(sigma_hat - 3)"}, "sampler.clock"),
        ({"clock": "0*sigma_hat"}, "sampler.clock"),
        ({"corrector": 1}, "sampler.corrector"),
        ({"composition": "A!"}, "sampler.composition"), ({"target": "sde"}, "sampler.target"),
    ],
)  # fmt: skip
def test_a_setting_that_does_not_fit_is_named(change, key):
    table = {**adams(2)["sampler"], **change}
    with pytest.raises(InputError) as told:
        ss.derive("vp", {"sampler": table})
    assert told.value.key == key


def test_a_clock_may_be_a_function_of_the_effective_sigma():
    grid = [1.0, 0.6, 0.3, 0.1]
    for own, named in (("-log(sigma_hat)", "log"), ("-atan(2*sigma_hat)", "theta")):
        one, two = (
            ss.load(ss.emit(ss.derive("vp", {"sampler": {**adams(2)["sampler"], "clock": clock}})))
            for clock in (own, named)
        )
        assert torch.allclose(one.coefficients(grid), two.coefficients(grid), rtol=1e-12, atol=1e-13)


def test_what_is_not_derived_is_said():
    with pytest.raises(Unsupported, match="frame v of 2 blocks"):
        ss.derive("psld", adams(2, "v"))
    with pytest.raises(Unsupported, match="for a eps-L network"):
        ss.derive("psld", adams(2), "eps-L")


@pytest.mark.parametrize("order", [1, 3])
def test_epsilon_of_two_blocks_keeps_its_digits_through_the_bridge_over_long_steps(order):
    """Psi grows on the way to the data: P z + M_0 r, term by term, would lose four digits here."""
    method = ss.derive("psld", bench.gddim(order))
    module, times = ss.load(ss.emit(method, certified=False)), [0.748, 0.273, 0.126, 0.071, 0.043]
    exact, table = reference(method, dict(method.params), terms=32, precision=240, accuracy=80), module.coefficients(times)
    for i, row in enumerate(table.tolist()):
        _, error = exact.at([arb(t) for t in times], i).worst(dict(zip(module.COEFFICIENTS, row, strict=True)))
        assert error < 1e-12
