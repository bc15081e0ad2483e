"""The passes leave the law of a step unchanged, exactly; the verifier refuses what is no program.

A program is emitted before and after a pass and both modules are read by the affine probe on Gaussian data: z' = A z + b
+ N xi. A, b and N N^T must agree to 1e-12, row by row, and so must the mean and the variance of the data after a run.
"""

from dataclasses import replace

import pytest
import sympy as sp
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from stepsmith.derive import load_sampler, load_sde, passes
from stepsmith.derive.lower import raw
from stepsmith.derive.method import Method, derive
from stepsmith.derive.program import (
    Call,
    Evaluate,
    Factor,
    Function,
    Normal,
    ProgramError,
    Scalar,
    StepProgram,
    Update,
    dump,
    entry,
    verify,
)
from stepsmith.measure import problems
from stepsmith.measure.probe import affine_map, moments
from stepsmith.runtime import TimeGrid, load, networks
from stepsmith.templates import emit

PASSES = (passes.reuse, passes.merge_noise, passes.fuse, passes.prune)
TIMES = (0.9, 0.6, 0.35, 0.2, 0.1)
DATA = problems.Gaussian(0.3, 0.25)


def unpassed(sde, sampler, network="denoiser", frame=None) -> Method:
    """The Method with its program as the scheme wrote it."""
    sde, sampler = load_sde(sde), load_sampler(sampler)
    return Method(sde, sampler, network, frame, raw(sde, sampler, network, frame, sde.values({})))


def written(method: Method, program: StepProgram):
    """The module of a program; coefficients that are no column yet (before ``fuse`` they may be products) get a name."""
    host = list(program.host)

    def named(c: sp.Expr) -> sp.Expr:
        if c.is_Symbol or c == 1:
            return c
        host.append(Scalar(f"column_{len(host)}", c))
        return sp.Symbol(host[-1].name, real=True)

    def plain(op):
        return replace(op, terms=tuple((named(c), v) for c, v in op.terms)) if isinstance(op, Update) else op

    ops, last = tuple(map(plain, program.ops)), tuple(map(plain, program.last))
    return load(emit(replace(method, program=verify(replace(program, ops=ops, last=last, host=tuple(host))))))


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


def assert_close(found: torch.Tensor, wanted: torch.Tensor) -> None:
    assert found.dtype == wanted.dtype == torch.float64
    size = max(1.0, wanted.abs().max().item())
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


def assert_same(found: list[torch.Tensor], wanted: list[torch.Tensor]) -> None:
    for one, two in zip(found, wanted, strict=True):
        assert_close(one, two)


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
    "ve-edm": ("ve", "conjugate", "edm"), "v": ("vp", "conjugate", "v"), "eps-l": ("psld", "conjugate-ones", "eps-L"),
    "eps-r": ("psld", "conjugate", "eps-R"), "transported": ("psld", "conjugate", "eps-L", "eps-R"),
    "score": ("psld", "conjugate", "score"), "edm": ("psld", "conjugate", "edm"), "conjugate-vv": ("cld", "conjugate-vv"),
    "conjugate-oba": ("psld", "conjugate-oba", "eps-L"), "idle": ("psld", IDLE), "idle-eps": ("psld", IDLE, "eps-L"),
    "idle-later": ("psld", IDLE_LATER), "idle-between": ("psld", IDLE_BETWEEN), "halves": ("psld", HALVES),
    "thirds": ("psld", THIRDS), "two-noisy": ("psld", TWO_NOISY), "turning": (TURNING, "O B! A B!@1"),
    "turning-sscs": (TURNING, "conjugate-vv", "eps-L"), "chain": (CHAIN, "O B! A B!@1"), "chain-halves": (CHAIN, HALVES),
    "predictor": ("psld", "B! A!^@1"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_each_pass_keeps_the_exact_law(case):
    method = unpassed(*CASES[case])
    network, program = network_of(method), method.program
    before = law(written(method, program), network)
    for step in PASSES:
        program = verify(step(program))
        assert program.nfe <= method.program.nfe and program.draws <= method.program.draws
        if program != method.program:
            assert_same(law(written(method, program), network), before)
    if method.program.draws:  # fuse must not need merge_noise before it
        assert_same(law(written(method, verify(passes.fuse(method.program))), network), before)
    assert program == derive(*CASES[case]).program


def test_the_comparison_sees_a_pass_that_is_wrong_by_little():
    method = unpassed("psld", "O B! A B!@1")
    program = passes.optimised(method.program)
    network = network_of(method)
    before = law(written(method, method.program), network)
    assert_same(law(written(method, program), network), before)
    for position, op in enumerate(program.ops):
        if isinstance(op, Update):
            for k, (c, value) in enumerate(op.terms):
                terms = (*op.terms[:k], (c * (1 + sp.Rational(1, 10**6)), value), *op.terms[k + 1 :])
                ops = (*program.ops[:position], replace(op, terms=terms), *program.ops[position + 1 :])
                wrong = law(written(method, replace(program, ops=ops)), network)
                with pytest.raises(AssertionError):
                    assert_same(wrong, before)


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


def program(*ops, result=("z",), host=(), functions=(), components=("x",), params=None, **more) -> StepProgram:
    known = {"a": 1.0, "b": 2.0, "c": 3.0} if params is None else params
    return StepProgram(components, known, tuple(functions), tuple(host), tuple(ops), tuple(result), **more)


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
    [("psld", HALVES, (4, 2)), ("psld", TWO_NOISY, (3, 2)), ("psld", "O B! A", (2, 2)), ("cld", "A S! A", (4, 4)),
     ("psld", "B! O(1/4) A O(3/4)", (4, 2)), ("vp", "E!", (0, 0))],
)  # fmt: skip
def test_draws_are_merged_between_calls_and_not_across_them(sde, sampler, draws):
    before = unpassed(sde, sampler).program
    after = passes.merge_noise(before)
    assert (before.draws, after.draws) == draws
    assert derive(sde, sampler).draws == draws[1]
    assert any(isinstance(statement, Factor) for statement in after.host) == (draws[0] > draws[1])


def test_draws_on_two_sides_of_a_call_that_sees_the_first_stay_apart():
    before = unpassed("psld", THIRDS).program
    after = passes.optimised(before)
    assert (before.draws, after.draws) == (4, 4)
    position = [type(op) for op in after.ops].index(Evaluate)
    assert sum(isinstance(op, Normal) for op in after.ops[:position]) == 2


def test_merged_draws_enter_by_a_lower_factor_with_positive_diagonal():
    method = unpassed("psld", TWO_NOISY)
    merged = written(method, passes.optimised(method.program))
    plain, network = written(method, method.program), network_of(method)
    times = torch.tensor(TIMES, dtype=torch.float64)
    assert (plain.DRAWS, merged.DRAWS) == (3, 2)
    (table,) = (s for s in passes.optimised(method.program).host if isinstance(s, Factor))
    assert table.rows.shape == (2, 3)
    for first, second in zip(plain.coefficients(times), merged.coefficients(times), strict=True):
        many, few = affine_map(plain, first, network).N, affine_map(merged, second, network).N
        assert many.shape == (2, 3) and few.shape == (2, 2) and (many @ many.T - few @ few.T).abs().max() < 1e-13


def test_a_draw_that_is_read_again_behind_a_call_survives():
    y, z = Update("y", ((A, "x"), (B, "v"), (C, "w"))), Update("z", ((A, "y"), (B, "d"), (C, "w")))
    verify(passes.merge_noise(verify(program(Normal("v"), Normal("w"), y, Evaluate(("d",), ("y",), T0), z))))


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


# --- fuse and prune --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_after_the_passes_there_is_one_affine_map_for_each_input_and_each_component(case):
    method = derive(*CASES[case])
    found = method.program
    bases = set(found.components)
    updates = inputs = 0
    for op in found.ops:
        if isinstance(op, Update):
            updates += 1
            assert {value for _, value in op.terms} <= bases  # never another update
            assert len({value for _, value in op.terms}) == len(op.terms) and all(c != 0 for c, _ in op.terms)
            assert all(c == 1 or c.is_Symbol for c, _ in op.terms)
        else:
            bases |= set(passes.outputs(op))
            inputs += len(op.inputs) if isinstance(op, Evaluate) else 0
    assert updates <= inputs + len(found.components)


@pytest.mark.parametrize("case", CASES)
def test_the_host_holds_what_is_read_and_no_more(case):
    found = derive(*CASES[case]).program
    read = {
        s.name.split("[")[0] for op in (*found.ops, *found.last) for c in passes._scalars(op) for s in c.free_symbols
    }
    for statement in reversed(found.host):
        assert set(passes.defined_by(statement)) & read, statement
        read |= passes.reads(statement)
    called = {s.function for s in found.host if isinstance(s, Call)} | {"start_factor"}
    if any(isinstance(s, Factor) for s in found.host):
        called |= {"lower", "matrix"}
    for function in reversed(found.functions):
        assert function.name in called, function.name
        called |= set(function.uses)
    assert called == {function.name for function in found.functions}
    assert set(found.params) <= read | {name for function in found.functions for name in function.params}


def test_prune_takes_away_what_nothing_reads_and_the_first_passes_are_idempotent():
    found = derive("psld", "O B! A B!@1").program
    junk = replace(
        found,
        host=(Scalar("junk", T0 * A), *found.host, Scalar("more", sp.Symbol("junk", real=True))),
        functions=(Function("unread", "matrix"), *found.functions),
        params={"a": 1.0, **found.params},
    )
    assert passes.prune(junk) == found and passes.prune(found) == found
    before = unpassed("psld", TWO_NOISY).program
    for step in (passes.reuse, passes.merge_noise):
        assert step(step(before)) == step(before)


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
def test_any_composition_keeps_its_law_through_the_passes(text, chosen):
    sde, kind = chosen
    method = unpassed(sde, text, kind)
    network, found = network_of(method), method.program
    module = written(method, found)
    before = law(module, network)
    merged = passes.merge_noise(passes.reuse(found))
    after = verify(passes.optimised(found))
    assert module.NFE == text.count("!") >= after.nfe and after.draws <= module.DRAWS
    if merged.draws < found.draws:
        assert_same(law(written(method, merged), network), before)
    assert_same(law(written(method, after), network), before)


# --- the verifier ----------------------------------------------------------------------------------------------------

F = Function("f", "matrix")
S, K = sp.Symbol("s", real=True), sp.Symbol("k", real=True)
CALL, EVALUATE, NORMAL = Call(("s",), "f", (T0,)), Evaluate(("d",), ("x",), T0), Normal("w")
Z = Update("z", ((A, "x"), (B, "d"), (C, "w")))
GOOD = program(EVALUATE, NORMAL, Z, host=(CALL, Scalar("k", S + A)), functions=(F,), last=(EVALUATE,), last_results=("d",))


def test_a_good_program_is_verified_and_given_back():
    assert verify(GOOD) is GOOD
    text = dump(GOOD)
    assert "host s = f(t0)" in text and "d = network(x; t0)" in text and "w = normal" in text and "z = (a)*x" in text
    table = Scalar("k", entry("s", 0, 1))
    assert verify(replace(GOOD, host=(CALL, table, Factor("L", sp.Matrix([[K]])))))


BAD = {
    "host symbol unknown": (replace(GOOD, host=(CALL, Scalar("k", sp.Symbol("q", real=True)))), "k uses q"),
    "table unknown": (replace(GOOD, host=(Scalar("k", entry("q", 0, 1)),)), "k uses q"),
    "scalar before its definition": (replace(GOOD, host=(Scalar("k", S), CALL)), "k uses s"),
    "scalar of itself": (replace(GOOD, host=(Scalar("k", K),)), "k uses k"),
    "time of a call unknown": (replace(GOOD, host=(Call(("s",), "f", (sp.Symbol("t2", real=True),)),)), "s uses t2"),
    "factor of an unknown": (replace(GOOD, host=(Factor("L", sp.Matrix([[K]])),)), "L uses k"),
    "function unknown": (replace(GOOD, functions=()), "s calls f"),
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
