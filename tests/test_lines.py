"""Samplers written as lines of text: what is read, what is refused, and that the programs say what the lines say."""

import contextlib
import itertools
import math
from pathlib import Path

import flint
import mpmath
import pytest
import sympy as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import stepsmith as ss
from stepsmith.derive.program.rows import Rows, aligned
from stepsmith.errors import InputError, Unsupported
from stepsmith.measure.probe import moments
from stepsmith.measure.problems import Gaussian, GaussianMixture
from stepsmith.runtime import TimeGrid
from stepsmith.runtime.sampler import steps_of

MIXTURE = GaussianMixture([0.6, 0.4], [[0.9, -0.4], [-0.7, 0.8]], [0.3, 0.2])
TIMES = torch.tensor([1.0, 0.83, 0.7, 0.52, 0.41, 0.3, 0.18, 0.1, 0.05], dtype=torch.float64)
PUBLISHED = Path(__file__).parent / "data" / "published"
D, FIRST = "D = x0(z, t0)", "z = sigma(t1)/sigma(t0)*z - alpha(t1)*expm1(-h)*D"
SECOND = "z = sigma(t1)/sigma(t0)*z - alpha(t1)*expm1(-h)*((1 + 1/(2*r))*D - 1/(2*r)*D[-1])"
LET = {"h": "lambda(t1) - lambda(t0)", "r": "(lambda(t0) - lambda(t_m1))/h"}


def spec(step=(D, SECOND), warmup=((D, FIRST),), **more):
    """The table of a sampler in lines."""
    table = {"name": "mine", "family": "multistep", "step": list(step), "let": LET, **more}
    return {**table, "warmup": [list(lines) for lines in warmup]} if warmup else table


def network_of(sde, kind, mixture=MIXTURE):
    if kind == "denoiser":
        return lambda inputs, sigma: (mixture.denoiser(inputs[0], sigma),)
    if kind == "edm":

        def raw_edm(inputs, told):
            sigma, d = torch.exp(4 * told), 0.5
            w = torch.sqrt(sigma**2 + d**2)
            y = inputs[0] * w
            return ((mixture.denoiser(y, sigma) - d**2 / w**2 * y) / (sigma * d / w),)

        return raw_edm
    return mixture.score_network(kind, ss.load_sde(sde).at())


def walk(module, network, times=TIMES, start=None):
    """The state after each step, by hand."""
    table = module.coefficients(times)
    shape = (3, 2) if start is None else start[0].shape
    generator = torch.Generator().manual_seed(3)
    state = start or tuple(torch.randn(shape, generator=generator, dtype=torch.float64) for _ in module.COMPONENTS)
    history = (torch.zeros(shape, dtype=torch.float64),) * module.HISTORY
    states = []
    for row, (step, draws) in zip(table.unbind(0), steps_of(module, len(table)), strict=True):
        noise = tuple(torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(draws))
        state, history = step(state, row.unbind(0), network, noise, history)
        states.append(state)
    return states


def module_of(method):
    """The emitted module, its orders left out: what they say is held elsewhere, and takes seconds."""
    orders = ("order", "step_order", "weak_order", "strong_order", "local_error")
    method.__dict__.update(dict.fromkeys(orders), why="")
    return ss.load(ss.emit(method, certified=False))


def emitted(sde, sampler, network="denoiser"):
    return module_of(ss.derive(sde, sampler, network))


# --- what the lines mean ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sampler", "kind"),  # lines that name the data and lines that name the noise; the others name one of them
    [
        *itertools.product(("dpmpp-2m", PUBLISHED / "deis-3.toml"), ("x0", "eps-L", "score", "v", "edm")),
        *itertools.product(("unipc-3", "heun", "sa-solver", "ddim-eta"), ("v",)),
    ],
)
def test_every_parameterisation_of_a_network_takes_the_same_steps(sampler, kind):
    """A call is converted to the quantity that the line names, whatever the network gives."""
    plain = walk(emitted("vp", sampler), network_of("vp", "denoiser"))
    other = walk(emitted("vp", sampler, kind), network_of("vp", kind))
    for (x,), (y,) in zip(plain, other, strict=True):
        assert (x - y).abs().max() < 1e-10


def test_each_quantity_of_a_network_is_what_its_name_says():
    """z = alpha x0 + sigma eps, v = alpha eps - sigma x0, score = -eps/sigma: four ways to write one step."""
    lines = {
        "x0": ["Q = x0(z, t0)", "z = sigma(t1)/sigma(t0)*z + (alpha(t1) - alpha(t0)*sigma(t1)/sigma(t0))*Q"],
        "eps": ["Q = eps(z, t0)", "z = alpha(t1)/alpha(t0)*z + (sigma(t1) - sigma(t0)*alpha(t1)/alpha(t0))*Q"],
        "score": ["Q = score(z, t0)", "z = alpha(t1)/alpha(t0)*z - (sigma(t1) - sigma(t0)*alpha(t1)/alpha(t0))*sigma(t0)*Q"],
        "v": [
            "Q = v(z, t0)",
            "E = (sigma(t0)*z + alpha(t0)*Q)/(alpha(t0)**2 + sigma(t0)**2)",
            "z = alpha(t1)/alpha(t0)*z + alpha(t1)*(rho(t1) - rho(t0))*E",
        ],
    }
    for sde in ("vp", "sub-vp", "rectified-flow"):
        times = TIMES * ss.load_sde(sde).time[1]
        found = [
            walk(emitted(sde, spec(step, (), let={})), network_of(sde, "denoiser"), times)[-1][0] for step in lines.values()
        ]
        assert all((other - found[0]).abs().max() < 1e-11 for other in found[1:])


def test_rvv2_is_the_form_written_out():
    """s1 = s(x, m, t0), mh = m + h/2 b(x, m, s1), x1 = x + h a(x, mh, s1), mp = m + h b(x, m, s1), s2 = s(x1, mp, t1),
    m' = mh + h/2 b(x1, mp, s2, t1), x' = x + h/2 (a(x, m, s1, t0) + a(x1, mp, s2, t1))."""
    module = emitted("psld", "rvv2", "score")
    p = module.PARAMS
    Gamma, nu, beta, Minv = p["Gamma"], p["nu"], p["beta_min"], (p["Gamma"] - p["nu"]) ** 2 / 4
    assert p["beta_min"] == p["beta_max"]

    def score(x, m, time):
        return torch.tanh(x + 2 * m) * (1 + time), torch.sin(m - x / 2) - time * m

    def a(x, m, s):
        return beta / 2 * (Gamma * x - m * Minv + Gamma * s[0])

    def b(x, m, s):
        return beta / 2 * (x + nu * m + nu / Minv * s[1])

    x, m = torch.linspace(-1, 1, 6, dtype=torch.float64), torch.linspace(0.7, -0.9, 6, dtype=torch.float64)
    (found,) = walk(module, lambda inputs, time: score(*inputs, time), torch.tensor([0.6, 0.47], dtype=torch.float64), (x, m))
    t0, t1, h = 0.6, 0.47, 0.6 - 0.47
    s1 = score(x, m, t0)
    mh = m + h / 2 * b(x, m, s1)
    x1, mp = x + h * a(x, mh, s1), m + h * b(x, m, s1)
    s2 = score(x1, mp, t1)
    assert (found[1] - (mh + h / 2 * b(x1, mp, s2))).abs().max() < 1e-13
    assert (found[0] - (x + h / 2 * (a(x, m, s1) + a(x1, mp, s2)))).abs().max() < 1e-13


def test_a_part_and_the_whole_drift_are_those_of_the_split():
    """Euler's method by ``drift`` and by the sum of the parts is the splitting E!."""
    parts = {
        "A": {"rows": "data", "linear": "rest", "score": "all"},
        "B": {"rows": "auxiliary", "linear": "rest", "score": "all"},
    }
    whole = spec(["s1 = score(z, t0)", "z = z + h*drift(z, s1, t0)"], (), let={"h": "t0 - t1"}, family="runge-kutta")
    summed = {**whole, "step": ["q = score(z, t0)", "k = A(z, q, t0)", "z = z + h*(k + B(z, q, t0))"], "parts": parts}
    network = network_of("psld", "denoiser")
    states = [walk(emitted("psld", sampler), network)[-1] for sampler in ("euler", whole, summed)]
    for other in states[1:]:
        assert all((x - y).abs().max() < 1e-11 for x, y in zip(states[0], other, strict=True))


def test_a_value_keeps_its_name_unless_the_step_has_it_for_itself():
    step = ["f = score(z, t0)", "s1 = z + h/2*drift(z, f, t0)", "slow = s1 + h/2*drift(z, f, t0)", "z = slow"]
    own = spec(step, (), let={"h": "t0 - t1"}, family="runge-kutta")
    assert {"s1_", "slow"} <= {op.output for op in ss.derive("vp", own).program.ops if hasattr(op, "output")}


@pytest.mark.parametrize(
    "name", ["vp_dpmpp_2m", "vp_dpmpp_3m_corrected", "vp_unipc_2", "vp_unipc_3", "vp_deis_3", "edm_dpmpp_3m"]
)
def test_the_probe_carries_history_over_first_and_last_rows(name):
    """On Gaussian data a run is affine: mean and variance by the recursion are those of the run of 0 and of 1."""
    module, network = ss.load(name), Gaussian(0.3, 0.7).network()
    end = module.END
    grid = TimeGrid.explicit(TIMES * end)
    found = moments(module, network, grid, start_mean=[0.2], start_cov=torch.tensor([[1.7]], dtype=torch.float64))
    zero, one = walk(module, network, TIMES * end, (torch.tensor([0.0, 1.0], dtype=torch.float64),))[-1][0]
    slope = one - zero
    assert found.data_mean == pytest.approx((zero + 0.2 * slope).item(), rel=1e-11)
    assert found.data_var == pytest.approx((1.7 * slope**2).item(), rel=1e-11)


@pytest.mark.parametrize("name", ["vp_unipc_3", "vp_sa_solver", "edm_sde_dpmpp_3m", "vp_dpmpp_3m_corrected"])
def test_a_sample_with_history_is_that_of_its_seed_in_every_batch(name):
    module, network = ss.load(name), MIXTURE.network()
    grid = TimeGrid.explicit(TIMES * module.END)
    whole = ss.sample(module, network, grid, range(8), dtype=torch.float64)
    for seeds in ([0], [5], [7, 2]):
        alone = ss.sample(module, network, grid, seeds, dtype=torch.float64)
        assert (alone - whole[seeds]).abs().max() <= 1e-13 * whole.abs().max()
    assert (whole[0] - whole[1]).abs().max() > 1e-2


def test_two_calls_of_the_same_value_are_one_and_two_draws_of_one_step_are_merged():
    twice = spec([D, "E = x0(z, t0)", SECOND.replace("(1 + 1/(2*r))*D", "D + 1/(2*r)*E")], let=LET)
    once = ss.derive("vp", spec())
    method = ss.derive("vp", twice)
    assert method.nfe == 1 == once.nfe and len(method.program.carry) == 1
    network = network_of("vp", "denoiser")
    for (x,), (y,) in zip(walk(module_of(method), network), walk(module_of(once), network), strict=True):
        assert (x - y).abs().max() < 1e-12
    root = "sqrt(h)"  # noise that vanishes with the step
    drawn = [D, SECOND + f" + 0.3*sigma(t1)*{root}*xi1 + 0.4*sigma(t1)*{root}*xi2"]
    noisy = spec(drawn, ((D, FIRST + f" + sigma(t1)*{root}*xi"),), target="sde")
    method = ss.derive("vp", noisy)
    assert method.draws == 1 and [p.draws for p in method.warmup] == [1]
    module = module_of(method)
    factor = dict(zip(module.COEFFICIENTS, module.coefficients(TIMES)[2].tolist(), strict=True))
    draws = [value for key, value in factor.items() if "merged" in key or key.endswith("w1")]
    grown = [-math.expm1(-(0.1 + 19.9 * time / 2) * time) for time in TIMES[2:4].tolist()]
    h = (math.log(1 / grown[1] - 1) - math.log(1 / grown[0] - 1)) / 2
    assert draws == [pytest.approx(0.5 * math.sqrt(grown[1] * h), rel=1e-12)]


# --- host functions --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sde", ["vp", "vp-cosine", "ve", "sub-vp", "edm", "rectified-flow"])
def test_the_time_of_a_lambda_is_found_to_the_last_digits(sde):
    module = emitted(sde, "dpmpp-2s")
    own = module.Diffusion(**module.PARAMS)
    times = module.START + (module.END - module.START) * torch.logspace(-5, -0.001, 400, base=10.0, dtype=torch.float64)
    alpha = own.alpha(times) if hasattr(own, "alpha") else torch.ones_like(times)
    level = torch.log(alpha / own.sigma(times))
    found = own.time_of(level)
    # lambda itself is rounded: a relative error e in alpha/sigma moves the time by e / |d lambda/dt|
    slope = (level[2:] - level[:-2]) / (times[2:] - times[:-2])
    assert ((found - times).abs()[1:-1] <= 1e-15 * (times[1:-1] + 8 * (1 + level.abs()[1:-1]) / slope.abs())).all()


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_the_phi_functions_keep_their_digits_everywhere(k):
    lines = ["D = x0(z, t0)", f"z = phi{k}(-h)*D + z"]
    module = emitted("edm", spec(lines, (), let={"h": "lambda(t1) - lambda(t0)"}))
    x = torch.cat([sign * torch.logspace(-12, 1.6, 300, dtype=torch.float64) for sign in (-1, 1)])
    found = module.phi(k, x)
    with mpmath.workdps(120):
        for value, here in zip(x.tolist(), found.tolist(), strict=True):
            exact = mpmath.exp(value)
            for j in range(k):
                exact = (exact - 1 / mpmath.factorial(j)) / mpmath.mpf(value)
            assert abs(here - exact) <= 1e-15 * exact


# --- rows ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 8])
def test_each_row_of_any_grid_holds_the_weights_of_its_own_program(steps):
    """UniPC-3: two warm-up rows, two ending ones; the first row wins, then the last, then the others."""
    from stepsmith.derive.proofs import reference

    method = ss.derive("vp", "unipc-3")
    rows, times = method.rows, TIMES[: steps + 1]
    table = module_of(method).coefficients(times)
    assert len(table) == steps and torch.isfinite(table).all()
    wanted = [rows.warmup[0], *([rows.warmup[1]] if steps > 2 else []), *[rows.step] * max(0, steps - 4)]
    wanted += [rows.ending[0]] * (steps > 3) + [rows.ending[1]] * (steps > 1)
    assert [rows.at(k, steps) for k in range(steps)] == wanted
    exact = reference.reference(method, method.params)
    names = module_of(method).COEFFICIENTS
    for k in range(steps):
        true = exact.row([flint.arb(time) for time in times.tolist()], k)
        for name, value in zip(names, table[k].tolist(), strict=True):
            wanted_value = float(true[name].mid()) if name in true else 0.0
            assert abs(value - wanted_value) <= 1e-13 * max(1, abs(value)), name


def test_a_program_is_aligned_with_the_step_only_if_weights_can_make_it():
    step, other = ss.derive("vp", "dpmpp-2m").program, ss.derive("vp", "dpmpp-3m-corrected")
    first = ss.derive("vp", "dpmpp-2m").warmup[0]
    assert aligned(step, first)
    assert not aligned(first, step)  # the first row has no term to put the history's weight in
    assert not aligned(other.program, other.warmup[0]) and other.rows.first is other.warmup[0]
    assert Rows(step).first is None and Rows(step).last is None


# --- what is refused -------------------------------------------------------------------------------------------------

REFUSED = {
    "product": ({"step": [D, "z = z*D"]}, "sampler.step[1]", "not linear", "sum of numbers times values"),
    "function": ({"step": [D, "z = exp(D)"]}, "sampler.step[1]", "not linear", "sum of numbers"),
    "quotient": ({"step": [D, "z = z/D"]}, "sampler.step[1]", "not linear", "sum of numbers"),
    "constant": ({"step": [D, "z = D + 1"]}, "sampler.step[1]", "not linear", "without a constant"),
    "nothing": ({"step": [D, "z = h"]}, "sampler.step[1]", "not linear", "sum of numbers"),
    "unknown": ({"step": [D, "z = D + w"]}, "sampler.step[1]", "unknown name 'w'", "known"),
    "unknown word": ({"step": [D, "z = beta(t0)*D"]}, "sampler.step[1]", "unknown function 'beta'", "known"),
    "late": ({"step": ["z = D", D]}, "sampler.step[0]", "used before it is defined", "move its line up"),
    "no call": ({"step": ["D = z", "z = D"]}, "sampler.step", "no line calls the network", "D = x0(z, t0)"),
    "no state": ({"step": [D]}, "sampler.step", "no line gives the new state", "z = ..."),
    "no sign": ({"step": [D, "z"]}, "sampler.step", "is no line", "name = value"),
    "no list": ({"step": "z = z"}, "sampler.step", "not a list of lines", "write"),
    "many": ({"step": [D] * 40}, "sampler.step", "more than 32 lines", "fewer"),
    "history of z": ({"step": [D, "z = D + z[-1]"]}, "sampler.step[1]", "the state", "a line and a name"),
    "history of nothing": ({"step": [D, "z = D + E[-1]"]}, "sampler.step[1]", "not given a value by the step", "a line"),
    "history too far": ({"step": [D, "z = D + D[-4]"]}, "sampler.step[1]", "no value of an earlier step", "[-3]"),
    "no warm-up": ({"warmup": []}, "sampler.step[1]", "which has no steps behind it", "add a program to warmup"),
    "warm-up reads back": ({"warmup": [[D, SECOND]]}, "sampler.warmup[0][1]", "no steps behind it", "warmup"),
    "warm-up forgets": ({"warmup": [["E = x0(z, t0)", "z = E"]]}, "sampler.warmup[0]", "D has no value here", "defines D"),
    "warm-up too long": ({"warmup": [[D, FIRST]] * 4}, "sampler.warmup", "more than 3 programs", "3 rows"),
    "final reads back": (
        {"step": [D, SECOND + " + D[-2]"], "warmup": [[D, FIRST], [D, SECOND]], "final": [D, "z = D + D[-2]"]},
        "sampler.final[0][1]", "D[-2] is not there in row 1", "needs one step",
    ),
    "noise": ({"step": [D, "z = D + xi"], "warmup": []}, "sampler.target", "the lines draw noise", "sde"),
    "word as name": ({"step": [D, "eps = D", "z = D"]}, "sampler.step[1]", "cannot name a value", "no word"),
    "time as name": ({"step": [D, "t0 = D", "z = D"]}, "sampler.step[1]", "cannot name a value", "no word"),
    "no identifier": ({"step": [D, "2y = D", "z = D"]}, "sampler.step[1]", "cannot name a value", "letters"),
    "let named word": ({"let": {**LET, "rho": "1"}}, "sampler.let.rho", "word of the formulas", "rename"),
    "let named host": ({"let": {**LET, "torch": "1"}}, "sampler.let.torch", "uses this name", "rename"),
    "let of a value": ({"let": {**LET, "k": "z"}}, "sampler.let.k", "unknown name 'z'", "known"),
    "arguments": ({"step": ["D = x0(z)", "z = D"]}, "sampler.step[0]", "gives x0 1 arguments", "x0(y, s)"),
    "no value": ({"step": ["D = x0(2*z, t0)", "z = D"]}, "sampler.step[0]", "no name of a value", "a line of its own"),
    "value as time": ({"step": [D, "z = alpha(D)*D"]}, "sampler.step[1]", "where a time or a number belongs", "t0, t1"),
    "open": ({"step": ["D = x0(z, t0", "z = D"]}, "sampler.step[0]", "do not close", "close"),
    "composition": ({"composition": "A"}, "sampler.composition", "does not belong to the family", "step"),
    "huge": ({"step": [D, "z = 9**9**9*D"]}, "sampler.step[1]", "column", ""),
    "let raised": ({"let": {**LET, "w": "(1 + t0)^60"}, "step": [D, "z = w^2*D"]}, "sampler.step[1]", "high powers", "smaller"),
    "code": ({"step": [D, "z = __import__('os')*D"]}, "sampler.step[1]", "has no place", "names, numbers"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_a_sampler_is_refused_with_the_line_and_the_fix(case):
    change, key, what, fix = REFUSED[case]
    with pytest.raises(InputError) as caught:
        ss.load_sampler({**spec(), **change})
    assert caught.value.key.startswith(key) and what in caught.value.what and fix in caught.value.fix


WORDS = [
    "z", "D", "D[-1]", "D[-2]", "xi", "h", "r", "t0", "t1", "t_m1", "2", "1/3", "+", "-", "*", "/", "**", "(", ")", ",",
    "=", "[", "]", "x0(z, t0)", "eps(D, t1)", "alpha(t0)", "lambda(", "t(h)", "phi2(h)", "expm1(", "sqrt(",
    "drift(z, D, t0)", "9e99", "é", "'", " ",
]  # fmt: skip


SCALARS = ["h", "r", "1/3", "alpha(t0)", "sigma(t(lambda(t1)))", "phi2(-h)", "exp(r)", "t_m1", "(h + r)", "rho(t_m1)", "sqrt(h)"]
VALUES = ["z", "D", "D[-1]", "xi1", "x0(D, t1)", "eps(z, t0)", "v(z, t1)", "score(D, t0)", "drift(z, D, t0)", "D[-2]"]
SOUPS = st.lists(st.sampled_from(WORDS), max_size=14).map("".join)
TERMS = st.tuples(st.sampled_from(SCALARS), st.sampled_from("*/"), st.sampled_from(VALUES))
SUMS = st.lists(TERMS, min_size=1, max_size=4).map(
    lambda terms: " - ".join(f"{c}*{v}" if sign == "*" else f"{v}/{c}" for c, sign, v in terms)
)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.one_of(SOUPS, SUMS, SUMS), st.one_of(SOUPS, st.sampled_from(SCALARS[2:6])), st.booleans())
def test_no_line_raises_anything_but_the_refusal_and_what_is_read_is_linear(line, let, warm):
    table = spec([D, "z = " + line], ((D, "z = " + line),) if warm else ((D, FIRST),), target="sde")
    table["let"] = {"h": LET["h"], "r": let}
    try:
        sampler = ss.load_sampler(table)
    except InputError as refusal:
        assert refusal.key.startswith("sampler.") and refusal.fix
        return
    for coefficient, value in sampler.formula.step[1].terms:
        assert isinstance(coefficient, sp.Expr) and value
    with contextlib.suppress(InputError, Unsupported):
        assert ss.derive("vp", sampler).nfe >= 1


@pytest.mark.parametrize("case", ["step in a splitting", "warm-up of another structure", "block words", "an offset"])
def test_what_does_not_fit_a_diffusion_or_a_family_is_refused(case):
    if case == "step in a splitting":
        table = {"name": "mine", "family": "splitting", "composition": "E!", "parts": {"E": {}}, "step": [D, "z = D"]}
        with pytest.raises(InputError, match="does not belong to the family splitting"):
            ss.load_sampler(table)
    elif case == "warm-up of another structure":
        other = (D, "y = z + D", "E = x0(y, t1)", FIRST)
        with pytest.raises(InputError, match="other network calls or values than the step"):
            ss.derive("vp", spec(warmup=((D, FIRST), other)))
    elif case == "block words":
        for line in ("D = x0(z, t0)", "D = eps(z, t0)", "D = v(z, t0)", "D = alpha(t0)*score(z, t0)"):
            table = spec([line.replace("D = alpha", "Q = score(z, t0)\nD = alpha")] if "\n" in line else [line, "z = z + D"], ())
            with pytest.raises(InputError, match="of one block, and psld has 2"):
                ss.derive("psld", table)
        with pytest.raises(InputError, match="xi is a noise of one block"):
            noisy = spec(["s = score(z, t0)", "z = z + s + xi"], (), let={}, target="sde")
            ss.derive("psld", noisy)
    else:
        with pytest.raises(Unsupported, match="has an offset"):
            ss.derive("ir-sde", "ddim")


def test_a_budget_of_calls_counts_what_the_first_and_the_last_step_cost():
    for sampler, steps in itertools.product(("unipc-3", "dpmpp-3m-corrected", "sa-solver", "dpmpp-2m", "heun"), (1, 2, 3, 10)):
        method = ss.derive("vp", sampler)
        calls = []
        module = module_of(method)

        def network(inputs, sigma, calls=calls):
            calls.append(sigma)
            return (inputs[0] / (1 + sigma),)

        walk(module, network, torch.linspace(1, 0.05, steps + 1, dtype=torch.float64))
        assert len(calls) == method.rows.nfe(steps) == module.nfe(steps)
