"""Faults that a review found, each held as a class, on diffusions and samplers that no catalogue holds.

Only what a user calls is called here: the tests say nothing of how a module is emitted.
"""

from __future__ import annotations

import builtins
import functools
import itertools
import math
import pickle
import random
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import sympy as sp
import torch

import stepsmith as ss

SPECS = Path(__file__).parent / "data" / "faults"
TOLERANCE = 1e-12  # of the largest number of a row or a factor
TIMES = (1.0, 0.6, 0.25, 0.05, 0.001)


def spec(name: str) -> dict[str, Any]:
    return next(iter(tomllib.loads((SPECS / f"{name}.toml").read_text()).values()))


@functools.cache
def _emitted(sde: str, sampler: str, network: str) -> ModuleType:
    return ss.load(ss.emit(ss.derive(DIFFUSIONS[sde], sampler, network), certified=False))


def close(found: Any, expected: Any) -> None:
    """Within TOLERANCE of the largest number expected."""
    found, expected = (np.asarray(value, dtype=np.float64) for value in (found, expected))
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= TOLERANCE * np.abs(expected).max()


def row(module: ModuleType, t0: float, t1: float, **params: float) -> Any:
    return module.coefficients(torch.tensor([t0, t1], dtype=torch.float64), **params)[0].unbind()


def stepped(module: ModuleType, c: Any, state: Any, outputs: Any, asked: list[Any] | None = None) -> np.ndarray:
    """The new state of one step from numbers, the network's outputs given; what it was asked goes to ``asked``."""

    def network(inputs: tuple[Any, ...], time: Any) -> tuple[Any, ...]:
        if asked is not None:
            asked.append(([float(x) for x in inputs], float(time)))
        return tuple(torch.tensor([x], dtype=torch.float64) for x in outputs)

    noise = tuple(torch.zeros(1, dtype=torch.float64) for _ in range(module.DRAWS))
    new, _ = module.step(tuple(torch.tensor([x], dtype=torch.float64) for x in state), c, network, noise)
    return np.array([float(x) for x in new])


def held(module: ModuleType, sde: Any, **params: float) -> None:
    """``start`` is a factor of the covariance: to 1e-12 of its entries."""
    for t in TIMES:
        L = module.start(t, **params).numpy()
        close(L @ L.T, sde.at(**params).covariance(t))


# --- 1: sums in F and G G^T of one block -----------------------------------------------------------------------------

SUMS = ("a + b", "1 + a", "a + b/2 - c/9", "(a + b)/(1 + c)", "2*(a + c)", "a*b + c", "b - a/9", "a", "exp(a) - b/9")
RATES = ("1/2", "1", "3/2")  # of these the stationary variance is often itself a sum
CLOCKS = ("1", "d + t", "d*exp(-a*t)", "1 + d*t^2", "d + sin(t)/2")
KINDS = ("stationary", "moving", "still", "given")


def one_block(kind: str, rng: random.Random) -> dict[str, Any]:
    """A random diffusion of one block with symbolic parameters, its entries sums, some of them lets."""
    u, v = rng.choice(RATES if rng.random() < 0.6 else SUMS), rng.choice(SUMS)
    clock, other = rng.choice(CLOCKS), rng.choice(CLOCKS)
    lets = {"clock": clock, "u": u} if rng.random() < 0.6 else {}
    u, clock = ("u", "clock") if lets else (f"({u})", f"({clock})")
    table = {
        "stationary": {"F": [[f"-{clock}*{u}"]], "G": [[f"sqrt({clock}*({v}))"]]},
        "moving": {"F": [[f"-{u}/2"]], "G": [[f"sqrt({other} + ({v}))"]]},
        "still": {"F": [["0"]], "G": [[f"sqrt({clock}*({v}))"]]},
        "given": {"alpha": f"exp(-t*{u})", "sigma": f"t*({v})"},
    }[kind]
    initial = {"initial": {"x": rng.choice(SUMS)}} if kind != "given" and rng.random() < 0.5 else {}
    params = {name: round(rng.uniform(0.2, 1.8), 2) for name in "abcd"}
    return {"name": kind, "state": ["x"], "params": params, "let": lets, **initial, **table}


@pytest.mark.parametrize("kind", KINDS)
def test_sigma_and_the_step_of_one_block_are_those_of_the_diffusion(kind: str) -> None:
    rng, other = random.Random(f"a block, {kind}"), random.Random(kind)
    sums = 0  # stationary variances that are sums, from a data point
    for _ in range(12 if kind == "stationary" else 5):
        sde = ss.load_sde(one_block(kind, rng))
        sums += kind == "stationary" and bool(sde.stationary()[0, 0].is_Add and sde.initial.is_zero_matrix)
        module = ss.load(ss.emit(ss.derive(sde, "conjugate"), certified=False))
        for params in ({}, {name: round(other.uniform(0.2, 1.8), 2) for name in module.PARAMS}):
            held(module, sde, **params)
            _hold_bridge(module, sde, params)
    assert sums >= 4 or kind != "stationary"


def _hold_bridge(module: ModuleType, sde: Any, params: dict[str, float]) -> None:
    """x1 = (sigma1/sigma0) x + (alpha1 - alpha0 sigma1/sigma0) D, D asked about x/alpha0 at the noise sigma0/alpha0."""
    view = sde.at(**params)
    for t0, t1 in ((1.0, 0.6), (0.25, 0.05), (0.05, 0.001)):
        c = row(module, t0, t1, **params)
        (a0, s0), (a1, s1) = ((view.transition(t, 0.0)[0, 0], math.sqrt(view.covariance(t)[0, 0])) for t in (t0, t1))
        asked: list[Any] = []
        found = [stepped(module, c, (x,), (d,), asked)[0] for x, d in ((1, 0), (0, 1))]
        close(found, [s1 / s0, a1 - a0 * s1 / s0])
        close(asked[0][0], [1 / a0])
        close([asked[0][1]], [s0 / a0])


def test_the_review_s_hot_diffusion_has_its_variance() -> None:
    module = ss.load(ss.emit(ss.derive(spec("crit"), "euler"), certified=False))
    variances = [float(module.start(t)[0, 0]) ** 2 for t in (0.001, 0.3, 1.0)]
    assert variances == pytest.approx([7.6994e-5, 0.4233, 0.70], rel=2e-3)
    held(module, ss.load_sde(spec("crit")))


# --- 5: parameters and lets that cancel once they are written out ----------------------------------------------------

CANCELLING: dict[str, tuple[str, ...]] = {  # diffusion -> parameters that change nothing
    "cancel": ("c",), "in-noise": ("c",), "blurred": ("c",), "clocks": (), "drawn": ("c",), "pair": ("c",),
    "pair-clocks": (), "pair-initial": ("c",), "crossed": ("c",),
}  # fmt: skip
PAIR: dict[str, Any] = {
    "state": ["x", "m"], "params": {"b": 1.3, "c": 0.4, "r": 2.0}, "initial": {"m": "1/2"},
    "F": [["-a/2 + c/2", "r"], ["-r", "-b"]], "G": [["sqrt(b)", "0"], ["0", "sqrt(a - c + r)"]], "let": {"a": "b + c"},
}  # fmt: skip
ONE: dict[str, Any] = {"state": ["x"], "params": {"b": 1.3, "c": 0.4}, "let": {"a": "b + c"}, "G": [["sqrt(b)"]]}
CLOCKED = {"beta": "b*(1 + t)", "twice": "r*beta"}
DIFFUSIONS: dict[str, dict[str, Any]] = {
    "cancel": spec("cancel"),
    "in-noise": {**ONE, "F": [["-b"]], "G": [["sqrt(a*t - c*t + b)"]]},
    "blurred": {**ONE, "F": [["-b/2"]], "initial": {"x": "a - c"}},
    "clocks": {**ONE, "params": {"b": 1.3, "r": 2.0}, "let": CLOCKED, "F": [["-beta"]], "G": [["sqrt(twice)"]]},
    "drawn": {**ONE, "F": [["-(a - c)*t"]], "G": [["sqrt(b*t)"]], "offset": ["t*a - c*t"]},
    "pair": PAIR,
    "pair-clocks": {
        **PAIR, "params": {"b": 1.3, "r": 2.0}, "let": CLOCKED, "F": [["-beta", "twice"], ["-twice", "-beta"]],
        "G": [["sqrt(twice)", "0"], ["0", "sqrt(twice)"]],
    },
    "pair-initial": {**PAIR, "F": [["-b", "r*t"], ["-r", "-b/2"]], "initial": {"m": "a - c"}},
    "crossed": {**PAIR, "F": [["0", "(a - c)*t"], ["-b*t", "-r*t"]], "G": [["0"], ["sqrt((a - c)*t)"]]},
}  # fmt: skip
for _name, _table in DIFFUSIONS.items():
    _table["name"] = _name
BOTH = ("euler", "conjugate", "euler-maruyama", "sscs")
OF_ONE, OF_TWO = (*BOTH, "ddim"), (*BOTH, "roba", "noba", "rvv")
LINES = {"cancel": ("heun-drift", "dpmpp-2m", "heun"), "clocks": ("heun-drift",), "pair": ("heun-drift",)}
RUNS = [
    (name, sampler)
    for name, table in DIFFUSIONS.items()
    for sampler in (*(OF_ONE if len(table["state"]) == 1 else OF_TWO), *LINES.get(name, ()))
    if not ("offset" in table and sampler == "ddim")  # lines know no offset
    and not (sampler == "sscs" and name in ("in-noise", "pair-initial"))  # no stationary law
]


@pytest.mark.parametrize(("name", "sampler"), RUNS, ids=[": ".join(run) for run in RUNS])
def test_a_module_runs_where_parameters_and_lets_cancel(name: str, sampler: str) -> None:
    module = _emitted(name, sampler, "denoiser")
    times = torch.tensor(TIMES, dtype=torch.float64)
    table = module.coefficients(times)
    assert len(module.PARAMS) > 0
    others = {parameter: 1.25 * value + 0.01 for parameter, value in module.PARAMS.items()}
    for parameter, value in others.items():
        other = module.coefficients(times, **{parameter: value})
        assert bool(other.isfinite().all())
        if parameter in CANCELLING[name]:
            close(other, table)
        else:
            assert not torch.allclose(other, table, rtol=1e-9)
    sde = ss.load_sde(DIFFUSIONS[name])
    held(module, sde)
    held(module, sde, **{parameter: value for parameter, value in others.items() if parameter in sde.params})


# --- 6: an exact part without noise ----------------------------------------------------------------------------------

ROTOR: dict[str, Any] = {
    "name": "rotor", "state": ["x", "m"], "params": {"w": 2.0, "g": 1.5}, "initial": {"m": "g/3"},
    "F": [["-g*t", "w"], ["-w*(1 + t)", "-g"]], "G": [["0"], ["sqrt(2*g)"]],
}  # fmt: skip
EXACT: dict[str, Any] = {
    "psld": "psld", "cld": "cld", "hold": "hold", "rotor": ROTOR, "swinging-damping": "swinging-damping",
    "drawn-rotor": {**ROTOR, "name": "drawn-rotor", "offset": ["w", "t"]},
}  # fmt: skip


@pytest.mark.parametrize("name", EXACT)
def test_a_strang_step_of_the_probability_flow_is_the_exact_flow_around_a_kick(name: str) -> None:
    """z' = Psi(t1, t0) z + Psi(t1, m) h/2 G G^T(t0) s(Psi(m, t0) z, t0), m = t0 - h/2, offsets apart."""
    sde = ss.load_sde(EXACT[name])
    module = ss.load(ss.emit(ss.derive(sde, spec("exo"), "score"), certified=False))
    n, view, kick = sde.n, sde.at(), sde.reverse(0).score
    assert module.DRAWS == 0
    values = {sde.symbols[key]: value for key, value in sde.params.items()}
    for t0, t1 in ((1.0, 0.6), (0.25, 0.24), (0.05, 0.001)):
        c, middle = row(module, t0, t1), (t0 + t1) / 2
        columns = {}
        for label, states, outputs in (("z", np.eye(n), np.zeros((n, n))), ("s", np.zeros((n, n)), np.eye(n))):
            asked: list[Any] = []
            new = [stepped(module, c, z, s, asked) for z, s in zip(states, outputs, strict=True)]
            columns[label] = np.array(new).T, np.array([inputs for inputs, _ in asked]).T
        origin: list[Any] = []
        moved = stepped(module, c, np.zeros(n), np.zeros(n), origin)
        G = np.array(kick.subs({**values, sp.Symbol("t", real=True): t0}).evalf().tolist(), dtype=np.float64)
        close(columns["z"][0] - moved[:, None], view.transition(t1, t0))
        close(columns["z"][1] - np.array(origin[0][0])[:, None], view.transition(middle, t0))
        close(columns["s"][0] - moved[:, None], (t0 - t1) * view.transition(t1, middle) @ G)
        if "offset" in (EXACT[name] if isinstance(EXACT[name], dict) else ()):
            close(moved, view.offset(t1, t0).sum(-1))
        else:
            assert not moved.any()


@pytest.mark.parametrize("name", EXACT)
def test_the_strang_step_of_an_euler_kick_is_told_its_order(name: str) -> None:
    method = ss.derive(EXACT[name], spec("exo"))
    assert (method.order, method.weak_order, method.nfe, method.draws) == (1, None, 1, 0)


def test_the_order_of_the_strang_step_is_measured() -> None:
    """Data N(0, 1/4), the exact score, the probability flow down to t = 0.2: errors fall by 2 where steps double."""
    sde = ss.load_sde({**ROTOR, "time": [0.0, 1.0]})
    view, reference = sde.at(), ss.load(ss.emit(ss.derive(sde, "heun-drift", "score"), certified=False))
    module = ss.load(ss.emit(ss.derive(sde, spec("exo"), "score"), certified=False))

    @functools.cache
    def precision(t: float) -> np.ndarray:
        lead = view.transition(t, 0.0)[:, :1]
        return np.linalg.inv(view.covariance(t) + lead @ lead.T / 4)

    def score(inputs: tuple[Any, ...], time: Any) -> tuple[Any, ...]:
        found = -precision(float(time)) @ np.array([x.numpy() for x in inputs])
        return tuple(torch.from_numpy(x) for x in found)

    def run(module: ModuleType, steps: int) -> np.ndarray:
        state: Any = tuple(torch.tensor([x], dtype=torch.float64) for x in (0.7, -0.4))
        for c in module.coefficients(torch.linspace(1.0, 0.2, steps + 1, dtype=torch.float64)):
            state, _ = module.step(state, c.unbind(), score)
        return np.array([float(x) for x in state])

    exact = run(reference, 1024)
    errors = [np.abs(run(module, steps) - exact).max() for steps in (64, 128, 256)]
    for coarse, fine in itertools.pairwise(errors):
        assert math.log2(coarse / fine) == pytest.approx(1.0, abs=0.1)


# --- 8: texts that reach the emitted text ----------------------------------------------------------------------------

CODE = "import builtins; builtins.hostile_code_ran = True"
HOSTILE = [
    f'x"\n{CODE}\ny = "', f"x'\n{CODE}\ny = '", f'x"""\n{CODE}\n"""', f'x"; {CODE} #', f"x\r{CODE}", f"x\n{CODE}", f"x\\\n{CODE}",
    f"x\\n{CODE}", 'x"', "x'", "x\\", 'x\\"', "x\0", "x\x0by", "x\u2028y", "x\u202ey", "\ud800", "{{ 7*7 }}", "{% if x %}",
    "../../x", "a/b", "x y", "x;y", "x=1", "x)", "", " ", ".", "é", "ａ", "A" * 200, "__import__('os')",
]  # fmt: skip
OWN: dict[str, Any] = {
    "name": "own", "state": ["x"], "params": {"a": 1.5}, "F": [["-a*t"]], "G": [["sqrt(a*t)"]], "constraints": ["a > 0"],
}  # fmt: skip
PART = {"linear": "rest", "score": "all"}
KICK: dict[str, Any] = {"name": "kick", "family": "splitting", "composition": "E!", "parts": {"E": PART}}
LINED: dict[str, Any] = {
    "name": "lined", "family": "runge-kutta", "step": ["s = score(z, t0)", "z = z + h*drift(z, s, t0)"], "let": {"h": "t0 - t1"},
}  # fmt: skip
ONES, TIME = sp.ImmutableMatrix([[1]]), sp.Symbol("t", real=True)


def own_network(name: Any = "mine", entry: Any = 0, noise: Any = TIME) -> Any:
    return ss.ScoreParameterization(name, sp.ImmutableMatrix([[entry]]), ONES, ONES, noise)


Place = Callable[[Any], Any]  # a text -> what ss.derive gives
PLACES: dict[str, Place] = {
    "network.name": lambda text: ss.derive(OWN, "euler", own_network(text)),
    "network.name of a frame": lambda text: ss.derive(OWN, "conjugate", "score", frame=own_network(text)),
    "network": lambda text: ss.derive(OWN, "euler", text),
    "frame": lambda text: ss.derive(OWN, "conjugate", "score", frame=text),
    "target": lambda text: ss.derive(OWN, KICK, target=text),
    "network.skip": lambda text: ss.derive(OWN, "conjugate", own_network(entry=sp.Symbol(text, real=True))),
    "network.noise": lambda text: ss.derive(OWN, "euler", own_network(noise=sp.Symbol(f"t0[{text}]", real=True))),
    "params of the call": lambda text: ss.derive(OWN, "euler", params={text: 1.0}),
    "sde.name": lambda text: ss.derive({**OWN, "name": text}, "euler"),
    "sde.name of an object": lambda text: ss.derive(replace(ss.load_sde(OWN), name=text), "euler"),
    "sde.state": lambda text: ss.derive({**OWN, "state": [text]}, "euler"),
    "sde.state of an object": lambda text: ss.derive(replace(ss.load_sde(OWN), state=(text,)), "euler"),
    "sde.params": lambda text: ss.derive({**OWN, "params": {"a": 1.5, text: 1.0}}, "euler"),
    "sde.params of an object": lambda text: ss.derive(replace(ss.load_sde(OWN), params={"a": 1.5, text: 1.0}), "euler"),
    "sde.params of text": lambda text: ss.derive(replace(ss.load_sde(OWN), params={"a": text}), "euler"),
    "sde.let": lambda text: ss.derive({**OWN, "let": {text: "a"}}, "euler"),
    "sde.constant": lambda text: ss.derive({**OWN, "constant": [text], "offset": [text]}, "euler"),
    "sde.field": lambda text: ss.derive({**OWN, "field": text}, "euler", "score"),
    "sde.F": lambda text: ss.derive({**OWN, "F": [[text]]}, "euler"),
    "sde.F of an object": lambda text: ss.derive(
        replace(ss.load_sde(OWN), F_let=sp.ImmutableMatrix([[sp.Symbol(text, real=True)]])), "euler"
    ),
    "sde.time of an object": lambda text: ss.derive(replace(ss.load_sde(OWN), time=(0.0, text)), "euler"),
    "sde.constraints": lambda text: ss.derive({**OWN, "constraints": [f"a > {text}"]}, "euler"),
    "sampler.name": lambda text: ss.derive(OWN, {**KICK, "name": text}),
    "sampler.name of an object": lambda text: ss.derive(OWN, replace(ss.load_sampler(KICK), name=text)),
    "sampler.composition": lambda text: ss.derive(OWN, {**KICK, "composition": f"E! {text}" if text.strip() else text}),
    "sampler as a composition": lambda text: ss.derive(OWN, f"E!{text}" if text.strip() else text),
    "sampler.parts": lambda text: ss.derive(OWN, {**KICK, "parts": {text: PART}}),
    "sampler.params": lambda text: ss.derive(OWN, {**KICK, "params": {text: 1.0}}),
    "sampler.B": lambda text: ss.derive(OWN, {"name": "b", "family": "conjugate", "B": text}),
    "sampler.step": lambda text: ss.derive(OWN, {**LINED, "step": [f"{text} = score(z, t0)", "z = z"]}),
    "sampler.let": lambda text: ss.derive(OWN, {**LINED, "let": {"h": "t0 - t1", text: "t0"}}),
}


@pytest.fixture(autouse=True)
def nothing_ran() -> Iterator[None]:
    yield
    ran = vars(builtins).pop("hostile_code_ran", False)
    assert not ran, "a text of the input was executed"


@pytest.mark.parametrize("place", PLACES)
def test_a_hostile_name_is_refused_with_its_place_and_the_fix(place: str) -> None:
    for text in HOSTILE:
        with pytest.raises(ss.InputError) as refused:
            ss.load(ss.emit(PLACES[place](text), certified=False))
        assert refused.value.key and refused.value.fix and "\n" not in str(refused.value), text


@pytest.mark.parametrize("value", [None, 5, 1.5, b"x", ["x"], ("x",), {}, object()], ids=lambda v: type(v).__name__)
def test_a_name_that_is_no_text_is_refused(value: Any) -> None:
    for place in ("network.name", "sde.name", "sde.name of an object", "sampler.name", "sampler.name of an object"):
        with pytest.raises(ss.InputError):
            PLACES[place](value)


@pytest.mark.parametrize("name", ["denoiser", "eps-L", "EPS_l", "score"])
def test_a_parameterization_cannot_take_the_name_of_one_of_ours(name: str) -> None:
    with pytest.raises(ss.InputError, match="own"):
        ss.derive(OWN, "euler", own_network(name))


@pytest.mark.parametrize("name", ["mine", "My_net-2", "0"])
def test_a_plain_name_of_a_parameterization_is_kept(name: str) -> None:
    a, t = ss.load_sde(OWN).symbols["a"], sp.Symbol("t", real=True)
    module = ss.load(ss.emit(ss.derive(OWN, "euler", own_network(name, entry=-a * t - sp.exp(-t))), certified=False))
    assert name == module.NETWORK


@pytest.mark.parametrize(
    "entry",
    [
        sp.Symbol("a"), sp.Function("system")(1), sp.Indexed("print(1)", 0), sp.Symbol("q", real=True), sp.I, sp.nan, sp.oo,
        sp.Piecewise((1, sp.Symbol("t", real=True) > 0), (0, True)),
        sp.Function("exp")(sp.Symbol("t", real=True)),
    ],
    ids=str,
)  # fmt: skip
def test_an_entry_that_no_spec_could_hold_is_refused(entry: Any) -> None:
    for sampler in ("euler", "conjugate"):
        with pytest.raises(ss.InputError, match=r"network\.skip"):
            ss.derive(OWN, sampler, own_network(entry=entry))


@pytest.mark.parametrize("text", HOSTILE)
def test_a_note_is_refused_or_stands_in_the_docstring(text: str) -> None:
    places: list[Place] = [
        lambda text: ss.derive({**OWN, "doc": text}, KICK), lambda text: ss.derive(OWN, {**KICK, "doc": text}),
        lambda text: ss.derive(OWN, {**KICK, "reference": text}),
        lambda text: ss.derive(replace(ss.load_sde(OWN), doc=text), KICK),
        lambda text: ss.derive(OWN, replace(ss.load_sampler(KICK), doc=text)),
        lambda text: ss.derive(OWN, replace(ss.load_sampler(KICK), reference=text)),
    ]  # fmt: skip
    for place in places:
        try:
            method = place(text)
        except ss.InputError as refused:
            assert refused.key.endswith((".doc", ".reference")) and refused.fix
            continue
        module = ss.load(ss.emit(method, certified=False))
        assert text in (module.__doc__ or "") or text.strip().lower() in (module.__doc__ or "").lower()
        assert module.ORDER == 1


@pytest.mark.parametrize("text", HOSTILE)
def test_the_text_of_a_constraint_is_a_literal_of_the_module(text: str) -> None:
    sde = ss.load_sde(OWN)
    told = replace(sde, constraints=(replace(sde.constraints[0], text=text),))
    module = ss.load(ss.emit(ss.derive(told, KICK), certified=False))
    with pytest.raises(ValueError, match="the parameters must fulfil") as broken:
        module.coefficients([1.0, 0.5], a=-1.0)
    assert str(broken.value) == f"the parameters must fulfil {text}"


@pytest.mark.parametrize("text", HOSTILE)
def test_a_method_with_other_texts_still_prints_them_as_texts(text: str) -> None:
    """Methods too can be rebuilt after the checks: what is printed is then escaped."""
    method = ss.derive(OWN, KICK)
    for changed in (
        replace(method, sde=replace(method.sde, doc=text, name=text)),
        replace(method, sampler=replace(method.sampler, doc=text, reference=text, name=text)),
        replace(method, network=own_network(text)),
    ):
        try:
            module = ss.load(ss.emit(changed, certified=False))
        except ss.InputError:
            continue
        assert changed.sde.name == module.SDE
        assert changed.sampler.name == module.SAMPLER
        assert changed.network_name == module.NETWORK


def test_a_refusal_crosses_processes() -> None:
    for refusal in (ss.InputError("-", "sde.name", "is no name", "choose one"), ss.Unsupported("no order", "use another")):
        kept = pickle.loads(pickle.dumps(refusal))
        assert (type(kept), str(kept), vars(kept)) == (type(refusal), str(refusal), vars(refusal))
