"""The emitted modules: current, alone on torch and math, true to the contract, and quiet on a device."""

import ast
import functools
import hashlib
import itertools
import json
import os
import re
import socket
import subprocess
import sys
import sysconfig
import textwrap
from pathlib import Path
from types import ModuleType

import pytest
import sympy as sp
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException

import stepsmith.generated
from stepsmith import digests, loading
from stepsmith.derive import catalogue, describe, dump, list_samplers, list_sdes
from stepsmith.runtime import TimeGrid, count_nfe, load, sample
from stepsmith.runtime.sampler import steps_of

NAMES = [row.name for row in catalogue.rows()]
KEPT = [row.name for row in catalogue.kept()]
FOLDER = Path(stepsmith.generated.__path__[0])
EVERY = pytest.mark.parametrize("name", NAMES)  # of the texts as they are emitted; that the files hold them is one test
# What a text does is asked of the kept rows: they are each diffusion, each sampler and each kind of network (a test below says
# so), and the others are made of the same by the same code and leave with a certificate, which executes table, start and steps.
ON_DISK = pytest.mark.parametrize("name", KEPT)
STEPS = 2


def grid_of(module: ModuleType, steps: int = STEPS, end: float = 1e-3, power: int = 1) -> torch.Tensor:
    """From the end of the span to the share ``end`` of it: uniform (power 1) or quadratic (power 2)."""
    left = torch.linspace(1, 0, steps + 1, dtype=torch.float64) ** power
    end = module.START + end * (module.END - module.START)
    times = end + (module.END - end) * left
    times[0], times[-1] = module.END, end
    return times


@functools.cache
def short(module: ModuleType) -> tuple[torch.Tensor, torch.Tensor]:
    """A grid of three steps and its table, for the tests of the step."""
    times = grid_of(module, 3, 0.05)
    return times, module.coefficients(times)


def given(module: ModuleType) -> dict[str, float]:
    """A value of each constant component."""
    return dict.fromkeys(getattr(module, "CONSTANTS", ()), 0.3)


def network_of(module: ModuleType, seen: list | None = None):
    """A network of the module's number of inputs and outputs that mixes all of them, in the dtype it is given."""

    def network(inputs, time):
        assert isinstance(inputs, tuple) and len(inputs) == module.INPUTS
        assert time.dtype == torch.float64 and time.dim() == 0
        if seen is not None:
            seen.append(time)
        mixed = sum((j + 1) * y for j, y in enumerate(inputs))
        return tuple(torch.tanh(mixed / (k + 2)) / (1 + time * time) for k in range(module.OUTPUTS))

    return network


def tensors(count: int, dtype=torch.float64, seed: int = 0, shape=(3, 2, 5)) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for _ in range(count))


def held(module: ModuleType, dtype=torch.float64, seed: int = 7) -> tuple[torch.Tensor, ...]:
    """What a step before may have handed on."""
    return tensors(module.HISTORY, dtype, seed)


def run(module: ModuleType, network, dtype=torch.float64, seed: int = 0, before: float = 0.0):
    """All steps by hand, without the runtime: the states, the start first.  ``before`` is what the first step is handed."""
    states = [tensors(len(module.COMPONENTS), dtype, seed)]
    history = tuple(torch.full_like(states[0][0], before) for _ in range(module.HISTORY))
    table = short(module)[1]
    for k, (row, (step, draws)) in enumerate(zip(table.unbind(0), steps_of(module, len(table)), strict=True)):
        noise = tensors(draws, dtype, seed + k + 1)
        state, history = step(states[-1], row.unbind(0), network, noise, history)
        assert len(history) == module.HISTORY
        assert all(value.dtype == dtype and value.shape == states[0][0].shape for value in history)
        states.append(state)
    return states


# --- the folder ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KEPT)
def test_a_file_is_what_the_catalogue_emits_byte_for_byte(name, emitted):
    assert (FOLDER / f"{name}.py").read_bytes() == emitted[name].text.encode(), "run `stepsmith build`"


@EVERY
def test_digests_hold_the_program_and_the_text_of_every_row(name, emitted):
    line = digests.Line.of(name, emitted[name].method.digest, emitted[name].text)
    assert loading.known()[name] == line, "run `stepsmith build`"


def test_no_file_is_an_orphan_and_every_row_has_a_line_in_its_order():
    found = {path.name for path in FOLDER.iterdir() if path.name != "__pycache__"}
    assert found == {"__init__.py", digests.FILE, *(f"{name}.py" for name in KEPT)}
    assert list(loading.known()) == NAMES


def test_the_catalogue_names_each_module_once_and_holds_every_scheme():
    assert len(set(NAMES)) == len(NAMES)
    for sde, sampler in itertools.product(("psld", "cld"), catalogue.SPLITTINGS + catalogue.CONJUGATE_SPLITTINGS):
        assert f"{sde}_{sampler}".replace("-", "_") in NAMES
    for sde, sampler in itertools.product(("psld", "cld", "vp", "ve"), catalogue.CONJUGATE + catalogue.STEPPERS):
        assert f"{sde}_{sampler}".replace("-", "_") in NAMES


def test_a_reader_finds_every_sampler_and_every_diffusion_on_disk():
    rows = catalogue.kept()
    assert {row.sampler for row in rows} == set(list_samplers()) and {row.sde for row in rows} == set(list_sdes())
    assert {row.sde for row in rows if row.sampler == "conjugate"} == set(list_sdes())
    assert set(catalogue.VARIANTS) <= set(KEPT) <= set(NAMES) and len(KEPT) < 65


# --- the text --------------------------------------------------------------------------------------------------------


@EVERY
def test_a_module_imports_torch_and_math_alone_and_runs_no_text(name, emitted):
    tree = ast.parse(emitted[name].text)
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    assert all(isinstance(node, ast.Import) for node in imports)
    assert {"torch"} <= {alias.name for node in imports for alias in node.names} <= {"math", "torch"}
    assert all(alias.asname is None for node in imports for alias in node.names)
    called = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    assert not called & {"__import__", "eval", "exec", "open", "compile", "globals", "getattr", "setattr", "print"}


@EVERY
def test_a_module_tells_no_path_date_or_machine(name, emitted):
    text = emitted[name].text
    for secret in (socket.gethostname(), os.getcwd(), str(Path.home()), str(FOLDER.parent), sys.prefix):
        assert len(secret) < 3 or secret not in text
    assert not re.search(r"(?<![\w.*)])/(home|work|tmp|usr|var|root)\b|[A-Z]:\\|\.\./|file:", text)
    assert not re.search(r"\b(19|20)\d\d-\d\d?-\d\d?\b|(?<!\[)\b\d\d:\d\d\b|\b(Mon|Tue|Wed|Thu|Fri|Sat|Sun) ", text)
    assert stepsmith.__version__ not in text  # which would change every digest with the version
    assert text.isascii() and text.endswith("\n") and "\t" not in text and "\r" not in text
    assert not [line for line in text.splitlines() if line != line.rstrip()]


@EVERY
def test_the_constants_are_those_of_the_contract(name, emitted):
    found = emitted[name]
    module, row, method = found.module, found.row, found.method
    kinds = {
        "API": int, "SDE": str, "SAMPLER": str, "NETWORK": str, "NFE": int, "DRAWS": int, "HISTORY": int, "DATA": int,
        "INPUTS": int, "OUTPUTS": int, "COMPONENTS": tuple, "COEFFICIENTS": tuple, "PARAMS": dict, "DIGEST": str,
    }  # fmt: skip
    assert {key: type(getattr(module, key)) for key in kinds} == kinds
    assert type(module.ORDER) in (int, type(None))
    assert {type(module.WEAK_ORDER), type(module.STRONG_ORDER)} <= {int, float, type(None)}
    assert (1, row.sde, row.sampler, row.network) == (module.API, module.SDE, module.SAMPLER, module.NETWORK)
    assert all(isinstance(word, str) and word.isidentifier() for word in (*module.COMPONENTS, *module.COEFFICIENTS))
    assert len(set(module.COEFFICIENTS)) == len(module.COEFFICIENTS)
    assert all(type(key) is str and type(value) is float for key, value in module.PARAMS.items())
    assert (*method.sde.state, *method.sde.constant) == module.COMPONENTS
    assert method.sde.constant == getattr(module, "CONSTANTS", ()) and method.sde.data[0] == module.DATA
    assert method.sde.time == (module.START, module.END)
    assert (method.nfe, method.draws, len(method.program.history)) == (module.NFE, module.DRAWS, module.HISTORY)
    for end, program in (("FIRST", method.rows.first), ("LAST", method.rows.last)):
        assert hasattr(module, f"NFE_{end}") == hasattr(module, f"step_{end.lower()}") == (program is not None)
        if program is not None:
            found = getattr(module, f"NFE_{end}"), getattr(module, f"DRAWS_{end}")
            assert (program.nfe, program.draws, len(program.carry)) == (*found, module.HISTORY)
    assert hashlib.sha256(method.rows.text.encode()).hexdigest() == module.DIGEST
    assert method.rows.text.startswith(dump(method.program))
    assert module.DRAWS > 0 if method.sampler.target == "sde" else module.DRAWS == 0
    assert (module.WEAK_ORDER, module.STRONG_ORDER) == (None, None) or module.DRAWS > 0
    assert module.ORDER is None or module.DRAWS == 0


@ON_DISK
def test_the_docstring_states_cost_and_order_and_its_lines_of_use_run(name, emitted):
    module = emitted[name].module
    text = module.__doc__
    calls = f"{describe.COUNTS[module.NFE]} network call{'s' * (module.NFE > 1)} and "
    draws = (
        f"{describe.COUNTS[module.DRAWS].lower()} normal draw{'s' * (module.DRAWS > 1)}" if module.DRAWS else "no noise"
    )
    assert f"{calls}{draws} per step." in text
    orders = [("order", module.ORDER), ("weak order", module.WEAK_ORDER), ("strong order", module.STRONG_ORDER)]
    assert all(f"{kind} {value:g}" in text for kind, value in orders if value is not None)
    constants = tuple(torch.full((2, 3), value, dtype=torch.float64) for value in given(module).values())
    field = {module.FIELD: torch.ones(3, dtype=torch.float64)} if hasattr(module, "FIELD") else {}
    names = {
        **vars(load(emitted[name].text)),
        **field,
        "torch": torch,
        "times": grid_of(module, 4, 0.02),
        "given": constants,
    }
    names |= {"network": network_of(module), "shape": (2, 3)}
    exec(textwrap.dedent(text.partition("shape (batch, ...) of a component:\n")[2]), names)
    assert names["data"].shape == (2, 3) and names["data"].isfinite().all()


# --- coefficients ----------------------------------------------------------------------------------------------------


@ON_DISK
def test_coefficients_are_finite_float64_on_the_host_down_to_1e_5(name, emitted):
    module = emitted[name].module
    for steps, end, power in ((1, 1e-3, 1), (10, 1e-5, 1), (20, 1e-3, 2), (20, 1e-5, 2)):
        table = module.coefficients(grid_of(module, steps, end, power))
        assert table.shape == (steps, len(module.COEFFICIENTS))
        assert table.dtype == torch.float64 and table.device.type == "cpu" and not table.requires_grad
        assert torch.isfinite(table).all()
    factor = module.start(module.END)
    n = len(module.COMPONENTS) - len(given(module))
    assert factor.shape == (n, n) and factor.dtype == torch.float64 and torch.equal(factor, factor.tril())
    assert torch.isfinite(factor).all() and (factor.diagonal() > 0).all()


@ON_DISK
def test_a_row_is_that_of_its_two_times(name, emitted):
    """No row reads a neighbour where nothing is carried: a grid of one step gives the same row; lists are taken too.

    Else a row reads what its program says, at most three times back: without the first time the rows are the same.
    """
    module, rows = emitted[name].module, emitted[name].method.rows
    times, table = short(module)
    assert torch.equal(module.coefficients(times.tolist()), table)
    if module.HISTORY:
        times = grid_of(module, 9, 0.02)
        first, last = len(rows.warmup) + 1, 9 - len(rows.ending)
        whole, less = module.coefficients(times)[first:last], module.coefficients(times[1:])[first - 1 : last - 1]
        assert torch.allclose(whole, less, rtol=1e-12, atol=1e-14) and len(whole) > 3
    elif "eps_r" not in name:  # anchored at the end of its grid
        alone = module.coefficients(times[1:3], **module.PARAMS)[0]
        assert torch.allclose(alone, table[1], rtol=1e-12, atol=1e-14)


@ON_DISK
def test_every_parameter_is_taken_by_keyword_and_matters(name, emitted):
    module = emitted[name].module
    times, table = short(module)
    factor = module.start(times[0].item())
    for key, value in module.PARAMS.items():
        other = {key: {"lambda_s": 1.25, "eta": 0.7}.get(key, value * 1.25 + 0.01)}  # DDIM's eta is at most 1
        changed = module.coefficients(times, **other)
        same_start = torch.equal(module.start(times[0].item(), **other), factor)
        assert not torch.equal(changed, table) or not same_start, key
        assert torch.isfinite(changed).all()
    with pytest.raises(TypeError):
        module.coefficients(times, 1.0)


def constraints_of(module: ModuleType, sde) -> list:
    """The constraints of the diffusion that the module can see: those of parameters that it takes."""
    seen = [(c, {s.name for s in sde.written_out(c.left - c.right).free_symbols}) for c in sde.constraints]
    return [(c, names) for c, names in seen if names and names <= set(module.PARAMS)]


def breaking(module: ModuleType, sde) -> dict[str, float] | None:
    """A parameter's value that breaks a constraint."""
    for constraint, names in constraints_of(module, sde):
        for key, value in itertools.product(sorted(names), (-1.0, 0.0, 1e-9, *module.PARAMS.values())):
            exact = {
                sde.symbols[k]: sp.Rational(str(v))
                for k, v in {**module.PARAMS, key: value}.items()
                if k in sde.symbols
            }
            if not constraint.holds(exact):
                return {key: value}
    return None


@ON_DISK
def test_coefficients_refuse_what_is_not_theirs(name, emitted):
    module = emitted[name].module
    good = grid_of(module)
    with pytest.raises(TypeError, match="gamma_0" if module.PARAMS else "no arguments"):
        module.coefficients(good, gamma_0=1.0)
    broken = breaking(module, emitted[name].method.sde)
    assert broken or not constraints_of(module, emitted[name].method.sde)
    if broken:
        with pytest.raises(ValueError, match="must fulfil"):
            module.coefficients(good, **broken)
        for function in filter(None, (module.start, getattr(module, "start_mean", None))):
            with pytest.raises(ValueError, match="must fulfil"):
                function(module.END, **broken)
    end, start = module.END, module.START
    within = f"above {start}" if emitted[name].method.sde.open else f"within ({start}, {end}]"
    nan = float("nan")
    for times in (
        good.flip(0), [end, 0.3, 0.3, 0.1], [0.5, nan, 0.1], [nan, 0.1], [0.5, nan], [0.5], [], 0.5, [[0.5, 0.1], [0.4, 0.2]],
        [float("inf"), 0.1], [0.5, start], [0.5, start - 0.1], [0.5, -float("inf")],
    ):  # fmt: skip
        with pytest.raises(ValueError, match=re.escape(f"decrease strictly {within}")):
            module.coefficients(times)
    if emitted[name].method.sde.open:
        assert module.coefficients([end + 1e-4, 0.1]).isfinite().all()
    else:
        with pytest.raises(ValueError, match=re.escape(within)):
            module.coefficients([end + 1e-3, 0.1])


@ON_DISK
def test_a_parameter_that_is_nan_breaks_a_constraint(name, emitted):
    module = emitted[name].module
    for constraint, names in constraints_of(module, emitted[name].method.sde):
        for key in names if constraint.relation != "!=" else ():
            with pytest.raises(ValueError, match="must fulfil"):
                module.coefficients(grid_of(module), **{key: float("nan")})


# --- steps -----------------------------------------------------------------------------------------------------------


def functions_of(module: ModuleType) -> list:
    """(function, calls, draws) of the step and, where they are others, of the first and the last."""
    ends = [end for end in ("first", "last") if hasattr(module, f"step_{end}")]
    found = [(module.step, module.NFE, module.DRAWS)]
    named = [(f"step_{end}", f"NFE_{end.upper()}", f"DRAWS_{end.upper()}") for end in ends]
    return found + [tuple(getattr(module, name) for name in names) for names in named]


@ON_DISK
def test_the_network_is_called_as_often_as_is_declared(name, emitted):
    module = emitted[name].module
    grid = TimeGrid.explicit(grid_of(module))
    seen = []
    row = short(module)[1][1].unbind(0)
    state = tensors(len(module.COMPONENTS))
    for step, calls, draws in functions_of(module):
        seen.clear()
        step(state, row, network_of(module, seen), tensors(draws, seed=1), held(module))
        assert len(seen) == calls
    for last in ("none", "denoise"):
        seen.clear()
        sample(module, network_of(module, seen), grid, [0, 1], shape=(2, 3), last=last, constants=given(module))
        assert len(seen) == module.nfe(STEPS) + (last == "denoise") == count_nfe(module, STEPS, last)
    for steps in (1, 2, 7):
        calls = {step: calls for step, calls, _ in functions_of(module)}
        assert module.nfe(steps) == sum(calls[step] for step, _ in steps_of(module, steps))


@ON_DISK
def test_the_network_is_told_times_or_noise_levels_of_the_step(name, emitted):
    module = emitted[name].module
    seen = []
    times, _ = short(module)
    run(module, network_of(module, seen))
    calls = {step: calls for step, calls, _ in functions_of(module)}
    told = torch.stack(seen).split([calls[step] for step, _ in steps_of(module, 3)])
    assert (torch.stack(seen).diff() <= 0).all() or module.NFE > 1
    for k, (step, end, begin) in enumerate(zip(told, times[1:], times[:-1], strict=True)):
        if module.NETWORK in ("denoiser", "edm"):  # rises with the time, whatever it is
            shared = [told[j][: len(step)] for j in (k - 1,) if k and len(told[j]) == len(step)]
            assert all((step < before).all() for before in shared) and (module.NETWORK == "edm" or (step > 0).all())
        else:
            assert ((step >= end) & (step <= begin)).all()
        assert (step.diff() <= 0).all()


@ON_DISK
def test_warm_up_rows_give_no_weight_to_a_history_that_is_not_there(name, emitted):
    """Whatever stands in the place of the missing values, the run is the same."""
    module = emitted[name].module
    plain, other = (run(module, network_of(module), before=value) for value in (0.0, 1e3))
    assert all(torch.equal(a, b) for one, two in zip(plain, other, strict=True) for a, b in zip(one, two, strict=True))


@ON_DISK
def test_every_draw_is_taken_and_moves_the_state(name, emitted):
    module = emitted[name].module
    row = short(module)[1][1].unbind(0)
    state, network = tensors(len(module.COMPONENTS)), network_of(module)
    noise = tensors(module.DRAWS, seed=1)
    past = held(module)
    before, _ = module.step(state, row, network, noise, past)
    for i in range(module.DRAWS):
        other = (*noise[:i], noise[i] + 1, *noise[i + 1 :])
        after, _ = module.step(state, row, network, other, past)
        assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    if module.DRAWS:
        for count in (module.DRAWS - 1, module.DRAWS + 1):
            with pytest.raises(ValueError, match="unpack"):
                module.step(state, row, network, tensors(count, seed=1), past)
    else:
        plain, _ = module.step(state, row, network, history=past)
        assert all(torch.equal(a, b) for a, b in zip(before, plain, strict=True))


@ON_DISK
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_state_keeps_its_dtype_while_coefficients_stay_float64(name, dtype, emitted):
    module = emitted[name].module
    rows = short(module)[1]
    assert all(c.dtype == torch.float64 and c.dim() == 0 for c in rows[0].unbind(0))
    states = run(module, network_of(module), dtype)
    exact = run(module, network_of(module))
    size = max(value.abs().max() for state in exact for value in state)
    for state, true in zip(states, exact, strict=True):
        assert isinstance(state, tuple) and len(state) == len(module.COMPONENTS)
        for value, reference in zip(state, true, strict=True):
            assert value.dtype == dtype and value.shape == reference.shape
            assert (value - reference).abs().max() < (1e-4 if dtype == torch.float32 else 0.5) * size
    mean = module.denoise(states[-1], rows[-1].unbind(0), network_of(module))
    assert isinstance(mean, tuple) and len(mean) == len(module.COMPONENTS)
    assert all(value.dtype == dtype and value.shape == states[0][0].shape for value in mean)


@ON_DISK
def test_a_step_changes_nothing_that_it_was_given_and_repeats_itself(name, emitted):
    module = emitted[name].module
    table = short(module)[1]
    row = table[1].unbind(0)
    given = (tensors(len(module.COMPONENTS)), tensors(module.DRAWS, seed=1), held(module))
    kept = [[value.clone() for value in values] for values in given]
    rows = table.clone()
    first, carried = module.step(given[0], row, network_of(module), *given[1:])
    copies = [value.clone() for value in first]
    second, again = module.step(given[0], row, network_of(module), *given[1:])
    assert all(torch.equal(a, b) for a, b in zip(carried, again, strict=True))
    module.denoise(given[0], row, network_of(module))
    assert torch.equal(rows, table)
    for values, before in zip(given, kept, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(values, before, strict=True))
    assert all(torch.equal(a, b) and torch.equal(a, c) for a, b, c in zip(first, second, copies, strict=True))


@ON_DISK
def test_step_and_loop_never_wait_for_a_device_mix_devices_or_copy_back(name, fake_cuda, emitted):
    module = emitted[name].module
    times = grid_of(module, 2)
    table = module.coefficients(times)
    seen = []
    network = network_of(module, seen)
    for dtype in (torch.float32, torch.bfloat16):
        with fake_cuda.guard():
            row = torch.empty(table.shape[1:], dtype=torch.float64, device="cuda").unbind(0)
            state, noise, past = (
                tuple(torch.empty(3, 2, 5, dtype=dtype, device="cuda") for _ in range(count))
                for count in (len(module.COMPONENTS), module.DRAWS, module.HISTORY)
            )
            after, carried = module.step(state, row, network, noise, past)
            for value in (*after, *carried, *module.denoise(state, row, network)):
                assert value.device.type == "cuda" and value.dtype == dtype and value.shape == (3, 2, 5)
        assert all(time.device.type == "cuda" for time in seen)
    dtype = (torch.float32, torch.bfloat16)[NAMES.index(name) % 2]
    found, uploads = fake_cuda.run(module, network, TimeGrid.explicit(times), dtype, constants=given(module))
    assert found.device.type == "cuda" and found.dtype == dtype and found.shape == (3, 2, 3)
    constants = [(1, 2, 3) for _ in given(module)]
    tables = [tuple(table.shape)]
    if hasattr(
        module, "FIELD"
    ):  # what is the same at every frequency, the others, two matrices, the factor of the start
        shared, own = uploads[1][1], uploads[2][1]
        assert shared >= 1 and shared + own == len(module.COEFFICIENTS)
        tables = [(STEPS, shared), (STEPS, own, 2, 3), (2, 2), (3, 3), (2, 3)]
    assert uploads == [(2, 3), *tables, *constants]  # the seeds' keys, the table and what is constant, once


def test_the_guard_sees_a_step_that_reads_back(fake_cuda, emitted):
    """The test above can fail: a step with each fault in turn."""
    text = emitted["vp_conjugate"].text
    line = "    return (x_new,), ()\n"
    assert line in text
    faults = {
        "x.sum().item()": DataDependentOutputException,
        "bool((x > 0).all())": DataDependentOutputException,
        "x.cpu()": AssertionError,
        "x + torch.zeros(3)": RuntimeError,
    }
    for fault, refusal in faults.items():
        module = load(text.replace(line, f"    {fault}\n{line}"))
        with pytest.raises(refusal):
            fake_cuda.run(module, network_of(module), TimeGrid.explicit(grid_of(module)), last="none")


# --- anywhere --------------------------------------------------------------------------------------------------------

ALONE = """
import hashlib, importlib.util, json, pathlib, sys
sys.path.append(sys.argv[1])
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("stepsmith", "jinja2", "flint", "click"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Refuse())
import torch
torch.set_num_threads(1)
told = {}
for path in sorted(pathlib.Path(".").glob("*.py")):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    field = {module.FIELD: 2.0} if hasattr(module, "FIELD") else {}
    table = module.coefficients(torch.linspace(module.END, 1e-3, 5, dtype=torch.float64), **field)
    calls = []
    def network(inputs, time):
        calls.append(1)
        return (sum(inputs) / (1 + time * time),) * module.OUTPUTS
    x = torch.arange(6, dtype=torch.float64).reshape(2, 3) / 7
    state = tuple(x + i for i in range(len(module.COMPONENTS)))
    history = (torch.zeros_like(x),) * module.HISTORY
    for k, row in enumerate(table.unbind(0)):
        end = "_first" if k == 0 and hasattr(module, "step_first") else ""
        end = "_last" if k == len(table) - 1 and hasattr(module, "step_last") else end
        noise = tuple(x - i for i in range(getattr(module, "DRAWS" + end.upper())))
        state, history = getattr(module, "step" + end)(state, row.unbind(0), network, noise, history)
    state = module.denoise(state, table[-1].unbind(0), network)
    factor = module.start(module.END, **field)
    digest = hashlib.sha256(b"".join(v.contiguous().numpy().tobytes() for v in (*state, factor))).hexdigest()
    told[path.stem] = [digest, len(calls), bool(all(v.isfinite().all() for v in state))]
names = {name.split(".")[0] for name in sys.modules}
print(json.dumps([told, sorted(names & {"stepsmith", "jinja2", "flint", "click", "safetensors", "PIL"})]))
"""


def test_modules_run_in_a_folder_with_torch_and_nothing_of_ours(tmp_path, emitted):
    for name in NAMES:
        (tmp_path / f"{name}.py").write_text(emitted[name].text)
    command = [sys.executable, "-I", "-S", "-B", "-c", ALONE, sysconfig.get_path("purelib")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told, ours = json.loads(done.stdout)
    assert ours == [] and list(told) == sorted(NAMES)
    assert {name: calls for name, (_, calls, _) in told.items()} == {n: emitted[n].module.nfe(4) + 1 for n in NAMES}
    assert all(finite for _, _, finite in told.values())
    assert len({digest for digest, _, _ in told.values()}) > len(NAMES) / 2  # they are not one and the same thing


EMIT = """
import hashlib, json, sys
from stepsmith.certificate import written
from stepsmith.derive import catalogue
told = [hashlib.sha256(written(catalogue.find(name).derive()).encode()).hexdigest() for name in sys.argv[1:]]
print(json.dumps([told, hash("stepsmith")]))
"""


def test_the_bytes_do_not_depend_on_the_hash_seed(emitted):
    names = ("psld_roba", "psld_conjugate_ones_eps_l", "swinging_damping_rvv", "vp_unipc_3")
    running = [
        subprocess.Popen(
            [sys.executable, "-c", EMIT, *names], env={**os.environ, "PYTHONHASHSEED": seed}, stdout=subprocess.PIPE, text=True
        )
        for seed in ("0", "123")
    ]  # fmt: skip
    found = [json.loads(process.communicate()[0]) for process in running]
    here = [hashlib.sha256(emitted[name].text.encode()).hexdigest() for name in names]
    assert all(texts == here for texts, _ in found) and len({value for _, value in found}) == 2
