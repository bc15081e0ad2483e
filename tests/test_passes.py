"""The emitted step has the law of the program as the scheme wrote it; the verifier refuses what is no program.

Between the two stand the passes (``reuse``, ``prune``), the fusion of updates into the columns of the table and the merging
of draws (program/forms.py), and the printer.  The judge runs the lines of the program one by one in balls, and the affine
probe reads both on Gaussian data: z' = A z + b + N xi.  A, b and N N^T agree to 1e-12, row by row, and so do
the mean and the variance of the data after a run.
"""

from dataclasses import replace
from types import SimpleNamespace

import flint
import pytest
import sympy as sp
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from stepsmith.derive import load_sampler, load_sde
from stepsmith.derive.lower import raw
from stepsmith.derive.method import Method, derive
from stepsmith.derive.program import (
    UNIT,
    Evaluate,
    Law,
    Normal,
    ProgramError,
    Propagate,
    Scalar,
    Spread,
    StepProgram,
    Update,
    dump,
    entry,
    passes,
    verify,
)
from stepsmith.derive.program.forms import layout
from stepsmith.derive.program.program import host_names, scalars
from stepsmith.derive.proofs.reference import reference, unit_rows
from stepsmith.measure import problems
from stepsmith.measure.probe import affine_map, moments
from stepsmith.runtime import TimeGrid, load, networks
from stepsmith.templates import emit

TIMES = (0.9, 0.6, 0.35, 0.2, 0.1)
DATA = problems.Gaussian(0.3, 0.25)
VIEWS: dict = {}  # the laws of the diffusions in balls, shared by all cases


def unpassed(sde, sampler, network="denoiser", frame=None) -> Method:
    """The Method with its program as the scheme wrote it."""
    sde, sampler = load_sde(sde), load_sampler(sampler)
    return Method(sde, sampler, network, frame, raw(sde, sampler, network, frame, sde.values({})))


def written(method: Method, program: StepProgram):
    """The module emitted of a program."""
    return load(emit(replace(method, program=verify(program))))


def line_by_line(method: Method, module) -> SimpleNamespace:
    """The program of a method as a module: its own lines one after the other, on unit rows of balls, rounded at the end."""
    program, exact = method.program, reference(method, method.params, VIEWS)
    draws = [op.output for op in program.ops if isinstance(op, Normal)]
    weights = list(dict.fromkeys(c for op in (*program.ops, *program.last) for c in scalars(op)))
    blocks = (program.ops, program.result), (program.last, program.last_results)
    asked = [value for op in (*program.ops, *program.last) if isinstance(op, Evaluate) for value in op.inputs]
    wanted = tuple(dict.fromkeys((*asked, *program.result, *program.last_results)))
    outputs = [name for ops, _ in blocks for op in ops if isinstance(op, Evaluate) for name in op.outputs]
    bases = (*program.components, UNIT, *draws, *outputs)
    times = [op.time for ops, _ in blocks for op in ops if isinstance(op, Evaluate)]

    def row(grid, i):
        c = dict(zip(weights, map(flint.arb, exact.scalars(grid, i, weights)), strict=True))
        forms = {}
        for ops, _ in blocks:
            forms |= unit_rows(ops, program, c.__getitem__)
        return [*(float(flint.arb(forms[v].get(b, 0)).mid()) for v in wanted for b in bases), *(float(c[t].mid()) for t in times)]

    def coefficients(grid):
        grid = [flint.arb(float(time)) for time in grid]
        with flint.ctx.workprec(exact.view.precision):
            return torch.tensor([row(grid, i) for i in range(len(grid) - 1)], dtype=torch.float64)

    def run(which, state, c, network, noise=()):
        c, (ops, result) = list(c), blocks[which]
        forms = {v: c[k * len(bases) : (k + 1) * len(bases)] for k, v in enumerate(wanted)}
        clock = iter(c[len(wanted) * len(bases) :][program.nfe * which :])
        known = dict(zip((*program.components, *draws), (*state, *noise), strict=False)) | {UNIT: torch.ones_like(state[0])}

        def value(name):
            return sum(e * known[base] for e, base in zip(forms[name], bases, strict=True) if base in known)

        for op in ops:
            if isinstance(op, Evaluate):
                known.update(zip(op.outputs, network(tuple(map(value, op.inputs)), next(clock)), strict=True))
        return tuple(map(value, result))

    def denoise(state, c, network):
        data = dict(zip(method.sde.data, run(1, state, c, network), strict=True))
        return tuple(data.get(i, z) for i, z in enumerate(state))

    return SimpleNamespace(
        COMPONENTS=program.components, HISTORY=0, DRAWS=program.draws, NFE=program.nfe, DATA=module.DATA, start=module.start,
        coefficients=coefficients, step=lambda z, c, network, noise=(), history=(): (run(0, z, c, network, noise), ()),
        denoise=denoise,
    )  # fmt: skip


def network_of(method: Method):
    """The exact network of the Gaussian data in the method's parameterisation."""
    if method.network == "denoiser":
        return DATA.network()
    if method.network != "edm":
        view = method.sde.at()
        end = {"end": TIMES[-1]} if method.network == "eps-R" else {}
        return DATA.score_network(method.network, view, method.sde.data[0], **end)

    def raw_edm(inputs, time):
        sigma = torch.exp(4 * time)
        skip, out, scale, _ = networks.edm_coefficients(sigma, 0.5)
        y = inputs[0] / scale
        return ((DATA.denoiser(y, sigma) - skip * y) / out,)

    return raw_edm


def assert_close(found: torch.Tensor, wanted: torch.Tensor, scale: float = 1.0) -> None:
    assert found.dtype == wanted.dtype == torch.float64
    size = max(scale, wanted.abs().max().item())
    assert found.shape == wanted.shape and not ((found - wanted).abs() > 1e-12 * size).any()


def law(module, network) -> list[torch.Tensor]:
    """A, b and N N^T of every row; means, covariances, and the mean and variance of the data with and without a last call."""
    times = torch.tensor(TIMES, dtype=torch.float64)
    found = []
    for row in module.coefficients(times):
        step = affine_map(module, row, network)
        assert step.A.isfinite().all() and step.A.abs().max() > 0
        found += [step.A, step.b, step.N @ step.N.T]
    for last in ("none", "denoise"):
        run = moments(module, network, TimeGrid.explicit(times), last=last)
        found += [run.mean, run.cov, torch.tensor([run.data_mean, run.data_var], dtype=torch.float64)]
    return found


def assert_same(found: list[torch.Tensor], wanted: list[torch.Tensor], scale: float = 1.0) -> None:
    """Equal to 1e-12 of the scale, the largest coefficient of an update: what an emitted table promises."""
    for one, two in zip(found, wanted, strict=True):
        assert_close(one, two, scale)


def largest(module) -> float:
    """The largest coefficient of the updates of the state, at least one."""
    table = module.coefficients(torch.tensor(TIMES, dtype=torch.float64))
    stems = tuple(f"{name}_" for name in module.COMPONENTS)
    return max(1.0, *(table[:, k].abs().max().item() for k, c in enumerate(module.COEFFICIENTS) if c.startswith(stems)))


# --- the samplers ----------------------------------------------------------------------------------------------------

KICKS = {
    "A": {"rows": "data", "linear": "rest", "score": "all"},
    "B": {"rows": "auxiliary", "linear": "rest", "score": "all"},
}
O_ALL = {"linear": "diagonal", "noise": "all", "solve": "exact"}


def split(composition: str, parts: dict, target: str = "sde") -> dict:
    return {"name": "own", "family": "splitting", "target": target, "composition": composition, "parts": parts}


IDLE = split("Z! B! A", {"Z": {}, **KICKS}, "ode")  # Z moves nothing, so B! asks what Z! has asked
IDLE_LATER = split("Z!@1 B! A", {"Z": {}, **KICKS}, "ode")
IDLE_BETWEEN = split("B! A! Z! B!", {"Z": {}, **KICKS}, "ode")
HALVES = split("O(1/2) O(1/2) B! A", {"O": O_ALL, **KICKS})
THIRDS = split("O(1/3) B! A O(2/3)", {"O": O_ALL, **KICKS})
TWO_NOISY = split(  # P passes the noise of x on to m, then draws its own; x is noisy twice
    "O P O B! A",
    {
        "O": {"rows": ["x"], "linear": [["-beta*Gamma/2", "0"], ["0", "0"]], "noise": ["x"], "solve": "exact"},
        "P": {"rows": ["m"], "linear": [["0", "0"], ["beta/2", "-beta*nu/2"]], "noise": ["m"], "solve": "exact"},
        **KICKS,
    },
)
MANY = split("O P O P B! O P A", TWO_NOISY["parts"])
TURNING = {
    "name": "turning",
    "state": ["x", "m"],
    "F": [["-p*t", "1"], ["-q", "-2*t*t - 1"]],
    "G": [["sqrt(p*t + 1)", "0"], ["0", "2"]],
    "params": {"p": 1.5, "q": 2.0},
    "initial": {"m": "0.25"},
}
CHAIN = {
    "name": "chain",
    "state": ["x", "p", "s"],
    "F": [["0", "beta", "0"], ["-beta", "0", "c*beta"], ["0", "-c*beta", "-xi*beta"]],
    "G": [["0"], ["0"], ["sqrt(2*xi*beta)"]],
    "params": {"beta": 3.0, "c": 1.4, "xi": 2.5},
    "initial": {"p": "0.04", "s": "1"},
}
CASES = {
    "rvv": ("psld", "rvv"), "roba": ("psld", "roba"), "baoab": ("psld", "baoab"), "sscs": ("cld", "sscs"),
    "vp-sscs": ("vp", "sscs"), "euler-maruyama": ("psld", "euler-maruyama"), "ddim": ("vp", "conjugate"),
    "eps-r": ("psld", "conjugate", "eps-R"), "score": ("psld", "conjugate", "score"), "conjugate-vv": ("cld", "conjugate-vv"),
    "conjugate-oba": ("psld", "conjugate-oba", "eps-L"), "idle": ("psld", IDLE), "idle-eps": ("psld", IDLE, "eps-L"),
    "idle-later": ("psld", IDLE_LATER), "idle-between": ("psld", IDLE_BETWEEN), "halves": ("psld", HALVES),
    "thirds": ("psld", THIRDS), "two-noisy": ("psld", TWO_NOISY), "turning": (TURNING, "O B! A B!@1"),
    "chain": (CHAIN, "O B! A B!@1"), "chain-halves": (CHAIN, HALVES),
    "predictor": ("psld", "B! A!^@1"), "psld-sscs": ("psld", "sscs"), "many": ("psld", MANY), "hold-sscs": ("hold", "sscs"),
    "four-sscs": ("four-blocks", "sscs"), "four-halves": ("four-blocks", HALVES),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_the_emitted_step_has_the_exact_law_of_the_program_run_line_by_line(case):
    method = unpassed(*CASES[case])
    network, program = network_of(method), method.program
    pruned, optimised = passes.prune(program), passes.prune(passes.reuse(program))
    module = written(method, pruned)
    wanted = law(line_by_line(method, module), network)
    assert_same(law(module, network), wanted, largest(module))
    if optimised != pruned:
        assert optimised.nfe <= program.nfe and optimised.draws == program.draws
        assert_same(law(written(method, optimised), network), wanted, largest(module))
    assert optimised == derive(*CASES[case]).program


def test_the_comparison_sees_a_pass_that_is_wrong_by_little():
    method = unpassed("psld", "O B! A B!@1")
    program = passes.optimised(method.program)
    network = network_of(method)
    wanted = law(line_by_line(method, written(method, program)), network)
    assert_same(law(written(method, program), network), wanted)
    for position, op in enumerate(program.ops):
        if isinstance(op, Update):
            for k, (c, value) in enumerate(op.terms):
                terms = (*op.terms[:k], (c * (1 + sp.Rational(1, 10**6)), value), *op.terms[k + 1 :])
                ops = (*program.ops[:position], replace(op, terms=terms), *program.ops[position + 1 :])
                wrong = law(written(method, replace(program, ops=ops)), network)
                with pytest.raises(AssertionError):
                    assert_same(wrong, wanted)


# --- reuse -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sampler", "network", "calls"),
    [(IDLE, "denoiser", (2, 1)), (IDLE, "eps-L", (2, 1)), (IDLE_LATER, "denoiser", (2, 2)), (IDLE_BETWEEN, "denoiser", (4, 3)),
     ("B! A! B!", "denoiser", (3, 3)), ("B! B!@0 A", "denoiser", (2, 2)), ("B! B!@0 A", "eps-L", (2, 2))],
)  # fmt: skip
def test_a_call_is_reused_where_state_and_time_are_the_same_and_nowhere_else(sampler, network, calls):
    before = unpassed("psld", sampler, network).program
    assert (before.nfe, passes.reuse(before).nfe) == calls
    assert derive("psld", sampler, network).nfe == calls[1]


A, B, C = (sp.Symbol(name, real=True) for name in "abc")
T0, T1 = sp.Symbol("t0", real=True), sp.Symbol("t1", real=True)


def program(*ops, result=("z",), host=(), **more) -> StepProgram:
    known = {"a": 1.0, "b": 2.0, "c": 3.0}
    return StepProgram(("x",), known, (), (), tuple(host), tuple(ops), tuple(result), **more)


def test_reuse_renames_what_read_the_dropped_values_the_result_too():
    first = (Evaluate(("d",), ("x",), T0), Update("z", ((A, "x"), (B, "d"))))
    again = (Evaluate(("e",), ("x",), T0), Update("y", ((B, "e"), (A, "x"))))
    assert passes.reuse(program(*first, *again, result=("y",))) == program(*first)
    other_time = (Evaluate(("e",), ("x",), T1), Update("y", ((B, "e"), (A, "x"))))
    kept = program(*first, *other_time, result=("y",))
    assert passes.reuse(kept) == kept


def test_two_draws_are_two_draws():
    kept = program(Normal("v"), Normal("w"), Update("z", ((A, "x"), (B, "v"), (B, "w"))))
    assert passes.reuse(kept) == kept


# --- noise -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sde", "sampler", "draws"),
    [("psld", HALVES, (4, 2)), ("psld", TWO_NOISY, (3, 2)), ("psld", "O B! A", (2, 2)), ("cld", "A S! A", (4, 3)),
     ("psld", "B! O(1/4) A O(3/4)", (4, 2)), ("psld", THIRDS, (4, 3)), ("hold", "sscs", (6, 4)), ("four-blocks", "sscs", (8, 5)),
     ("psld", MANY, (6, 3)), ("vp", "E!", (0, 0))],
)  # fmt: skip
def test_as_many_draws_are_left_as_values_between_two_calls_are_noisy(sde, sampler, draws):
    before = unpassed(sde, sampler).program
    assert (before.draws, derive(sde, sampler).draws) == draws
    assert bool(layout(before).noisy) == (draws[0] > draws[1])


@pytest.mark.parametrize(("sde", "sampler"), [("psld", HALVES), ("psld", TWO_NOISY), ("hold", "sscs"), ("psld", MANY)])
def test_merged_draws_enter_by_a_lower_factor_with_positive_diagonal(sde, sampler):
    """The j-th of the independent noisy values reads the first j draws, the others read all."""
    method = derive(sde, sampler)
    module, plan = written(method, method.program), layout(method.program)
    forms = {form.value: form for form in plan.forms}
    for row in module.coefficients(torch.tensor(TIMES, dtype=torch.float64)):
        value = dict(zip(module.COEFFICIENTS, row, strict=True))
        for j, name in enumerate(plan.noisy):
            columns = [dict(forms[name].terms).get(draw) for draw in plan.draws]
            assert all(columns[: j + 1]) and not any(columns[j + 1 :])
            assert j >= len(columns) or value[columns[j]] > 1e-9


def test_a_draw_that_is_read_again_behind_a_call_is_read_in_both_places():
    y, z = Update("y", ((A, "x"), (B, "v"), (C, "w"))), Update("z", ((A, "y"), (B, "d"), (C, "w")))
    plan = layout(verify(program(Normal("v"), Normal("w"), y, Evaluate(("d",), ("y",), T0), z)))
    assert plan.noisy == () and [form.name for form in plan.forms if dict(form.terms).get("w2")] == ["y", "x"]


def test_noise_that_the_flow_of_an_exact_part_passes_on_is_kept():
    """CLD draws on v alone, so "all" and ["v"] are the same noise."""
    laws = []
    for noise in ("all", ["v"]):
        parts = {
            "A": {"linear": "stationary", "noise": noise, "solve": "exact"},
            "S": {"linear": "rest", "score": "all"},
        }
        method = derive("cld", split("A S! A", parts))
        module = load(emit(method))
        laws.append(moments(module, network_of(method), TimeGrid.explicit(TIMES)).cov[-1])
    assert_close(laws[1], laws[0])


# --- fusion and prune ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_a_step_computes_one_affine_map_for_each_input_and_each_component(case):
    found = derive(*CASES[case]).program
    plan = layout(found)
    inputs = sum(len(op.inputs) for op in found.ops if isinstance(op, Evaluate))
    assert len(plan.forms) <= inputs + len(found.components)
    assert len(set(plan.columns)) == len(plan.columns)
    outputs = [name for op in found.ops if isinstance(op, Evaluate) for name in op.outputs]
    bases = {*found.components, *plan.draws, *outputs}  # never another form
    assert all({base for base, _ in form.terms} <= bases for form in plan.forms)


@pytest.mark.parametrize("case", CASES)
def test_the_host_holds_what_is_read_and_no_more(case):
    found = derive(*CASES[case]).program
    read = host_names(c for op in (*found.ops, *found.last) for c in scalars(op))
    for statement in reversed(found.host):
        assert set(statement.targets) & read, statement
        read |= host_names(statement.reads)


def test_prune_takes_away_what_nothing_reads_and_the_passes_are_idempotent():
    found = derive("psld", "O B! A B!@1").program
    junk = replace(
        found,
        host=(Scalar("junk", T0 * A), *found.host, Scalar("more", sp.Symbol("junk", real=True))),
        ops=(*found.ops, Update("unread", ((A, found.result[0]),))),
        params={"a": 1.0, **found.params},
    )
    assert passes.prune(junk) == found == passes.prune(found)
    for sampler in (TWO_NOISY, IDLE):
        before = unpassed("psld", sampler).program
        assert passes.optimised(passes.optimised(before)) == passes.optimised(before)


# --- any composition -------------------------------------------------------------------------------------------------

MARKS = st.sampled_from(["", "", "!", "!@0", "!@1", "!@1/2", "!^", "!^@1"])


@st.composite
def compositions(draw) -> str:
    """A word of O, A and B, two to six letters, A and B among them, the first that needs a score with a fresh one."""
    letters = [*draw(st.lists(st.sampled_from("OAB"), max_size=4)), "A", "B"]
    letters = draw(st.permutations(letters))
    tokens = [letter + ("" if letter == "O" and draw(st.booleans()) else draw(MARKS)) for letter in letters]
    first = next(i for i, letter in enumerate(letters) if letter in "AB")
    if not any("!" in token for token in tokens[: first + 1]):
        tokens[first] = letters[first] + draw(st.sampled_from(["!", "!@1/2", "!@1"]))
    # A predictor needs an earlier evaluation, and a part without noise.
    called = [any("!" in token for token in tokens[:i]) for i in range(len(tokens))]
    tokens = [t if called[i] and letters[i] != "O" else t.replace("^", "") for i, t in enumerate(tokens)]
    return " ".join(tokens)


@settings(max_examples=16, deadline=None, derandomize=True, database=None, phases=[Phase.generate])
@given(
    compositions(), st.sampled_from([("psld", "denoiser"), ("cld", "denoiser"), ("psld", "eps-L"), ("psld", "score")])
)
def test_any_composition_keeps_its_law(text, chosen):
    sde, kind = chosen
    method = unpassed(sde, text, kind)
    module = written(method, passes.optimised(method.program))
    network, judge = network_of(method), line_by_line(method, module)
    assert judge.NFE == text.count("!") >= module.NFE and module.DRAWS <= judge.DRAWS
    assert_same(law(module, network), law(judge, network))


# --- the verifier ----------------------------------------------------------------------------------------------------

S, K = sp.Symbol("s", real=True), sp.Symbol("k", real=True)
CALL, EVALUATE, NORMAL = Law(("s",), "covariance", T0), Evaluate(("d",), ("x",), T0), Normal("w")
Z = Update("z", ((A, "x"), (B, "d"), (C, "w")))
GOOD = program(EVALUATE, NORMAL, Z, host=(CALL, Scalar("k", S + A)), last=(EVALUATE,), last_results=("d",))


def test_a_good_program_is_verified_and_given_back():
    assert verify(GOOD) is GOOD
    text = dump(GOOD)
    assert "host s = Law(kind: covariance, time: t0)" in text and "d = network(x; t0)" in text
    assert "w = normal" in text and "z = (a)*x" in text
    assert verify(replace(GOOD, host=(CALL, Scalar("k", entry("s", 0, 1)), SPREAD)))


ONE = sp.ImmutableMatrix([[1]])
SPREAD = Spread("L", ONE, ONE, (0,), T1, K)
OTHER = sp.Symbol("t2", real=True)
BAD = {
    "host symbol unknown": (replace(GOOD, host=(CALL, Scalar("k", sp.Symbol("q", real=True)))), "k uses q"),
    "table unknown": (replace(GOOD, host=(Scalar("k", entry("q", 0, 1)),)), "k uses q"),
    "scalar before its definition": (replace(GOOD, host=(Scalar("k", S), CALL)), "k uses s"),
    "scalar of itself": (replace(GOOD, host=(Scalar("k", K),)), "k uses k"),
    "time of a law unknown": (replace(GOOD, host=(replace(CALL, time=OTHER),)), "s uses t2"),
    "spread up to an unknown time": (replace(GOOD, host=(SPREAD,)), "L uses k"),
    "propagator from an unknown time": (replace(GOOD, host=(Propagate(("P",), (1,), ONE, "", OTHER, T0),)), "P uses t2"),
    "scalar twice": (replace(GOOD, host=(CALL, Scalar("s", A))), "s is defined twice"),
    "scalar named like a parameter": (replace(GOOD, host=(Scalar("a", B),)), "a is defined twice"),
    "scalar named like a time": (replace(GOOD, host=(Scalar("t0", B),)), "t0 is defined twice"),
    "value unknown": (replace(GOOD, ops=(EVALUATE, NORMAL, Update("z", ((A, "y"), (B, "w"))))), "z uses y before"),
    "value before its definition": (replace(GOOD, ops=(NORMAL, Z, EVALUATE)), "z uses d before"),
    "input unknown": (replace(GOOD, ops=(Evaluate(("d",), ("y",), T0), NORMAL, Z)), "d uses y before"),
    "value twice": (replace(GOOD, ops=(EVALUATE, NORMAL, Z, Update("z", ((A, "x"),)))), "z is defined twice"),
    "component again": (replace(GOOD, ops=(EVALUATE, NORMAL, Z, Update("x", ((A, "d"),)))), "x is defined twice"),
    "output twice": (replace(GOOD, ops=(EVALUATE, EVALUATE, NORMAL, Z)), "d is defined twice"),
    "draw named like a value": (replace(GOOD, ops=(EVALUATE, Normal("d"), NORMAL, Z)), "d is defined twice"),
    "coefficient unknown": (replace(GOOD, ops=(Update("z", ((sp.Symbol("q", real=True), "x"),)),)), "z uses q"),
    "time unknown": (replace(GOOD, ops=(Evaluate(("d",), ("x",), sp.Symbol("q", real=True)), NORMAL, Z)), "d uses q"),
    "draw unused": (replace(GOOD, ops=(EVALUATE, NORMAL, Update("z", ((A, "d"),)))), "the draw w is not used"),
    "result too short": (replace(GOOD, components=("x", "y")), "one value for each component"),
    "result too long": (replace(GOOD, result=("z", "x")), "one value for each component"),
    "result unknown": (replace(GOOD, result=("q",)), "q"),
    "last uses a value of the step": (replace(GOOD, last=(Update("e", ((A, "z"),)),), last_results=("e",)), "e uses z before"),
    "last uses an unknown coefficient": (replace(GOOD, last=(Update("e", ((S + sp.Symbol("q", real=True), "x"),)),)), "e uses q"),
    "last result unknown": (replace(GOOD, last_results=("q",)), "q"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_program_is_refused(case):
    bad, words = BAD[case]
    with pytest.raises(ProgramError, match=words):
        verify(bad)
