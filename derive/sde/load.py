"""Reading the spec of a diffusion: a catalogue name, a TOML file or a dict becomes a LinearSDE, each entry checked."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import sympy as sp

from stepsmith.errors import InputError

from ..maths.budget import within
from ..maths.calculus import t
from ..spec import latex as formulas
from ..spec import sources as spec
from ..spec.expression import Names, parse
from ..spec.words import refuse_taken
from . import offset
from .equations import Constraint
from .linear import LinearSDE
from .schedule import named, of_schedule, read_schedule, written_out
from .sound import check_values

KEYS = (
    "name", "doc", "state", "data", "time", "open", "F", "G", "alpha", "sigma", "offset", "constant", "field", "params", "let",
    "initial", "constraints", "latex",
)  # fmt: skip


@within("reading the diffusion")
def load_sde(source: Any) -> LinearSDE:
    """A LinearSDE from a catalogue name, a path to a .toml file, or a dict of the same keys (docs/specs.md).

    Raises InputError naming the file, the key and the fix.
    """
    if isinstance(source, LinearSDE):
        return source
    where, table = spec.read(source, kind="sde")
    paired = "alpha" in table or "sigma" in table
    required = ("name", "state", *(("alpha", "sigma") if paired else ("F", "G")))
    spec.check_keys(where, "sde", table, allowed=KEYS, required=required)
    state = tuple(spec.listed(where, "sde.state", table["state"], spec.MAX_BLOCKS))
    if not state:
        raise InputError(where, "sde.state", "names no block", 'write one such as ["x"]')
    params = spec.table_of_numbers(where, "sde.params", table.get("params", {}))
    lets, field = table.get("let", {}), table.get("field", "")
    constant = offset.constant_names(where, table.get("constant", []))
    used = (*params, *((field,) if "field" in table else ()))
    check_names(where, state, used, lets, constant)
    names, written, spelled = _names(where, used, lets)
    span = check_span(where, table.get("time", [0.0, 1.0]))
    n = len(state)
    schedule = read_schedule(where, table, n, names, written, span[0]) if paired else None
    if schedule is not None:
        F, G, rates = named(schedule, of_schedule(schedule, written, bool(field)), written, (*state, *used, *lets, *constant))
        for name, rate in rates.items():
            spelled[name], written[name] = rate, written_out(rate, written)
    else:
        F, G = (spec.matrix(where, f"sde.{k}", table[k], (n, m), names) for k, m in (("F", n), ("G", None)))
    drift = offset.read(where, table.get("offset"), n, names, constant)
    timeless = _free_of(names, written, "t")
    initial, data = _initial(where, table, state, timeless)
    constraints = _constraints(where, table.get("constraints", ()), _free_of(timeless, written, field), written)
    sde = LinearSDE(
        spec.name_of(where, "sde.name", table["name"]), state, span,
        sp.ImmutableMatrix(F), sp.ImmutableMatrix(G), drift, initial, data,
        params, written, constraints, str(table.get("doc", "")), schedule, constant, field, _open(where, table),
        formulas.read(where, "sde.latex", table.get("latex", {}), dict.fromkeys((*state, *used, *lets, *constant))), spelled,
    )  # fmt: skip
    return _with_sound_defaults(where, sde)


def _with_sound_defaults(where: str, sde: LinearSDE) -> LinearSDE:
    """The diffusion, if its default values fulfil its constraints and make a diffusion of it."""
    try:
        sde.values({})
    except InputError as error:
        raise InputError(where, error.key, error.what, "change the defaults in sde.params") from None
    check_values(where, sde)
    return sde


def check_names(
    where: str, state: Iterable[Any], params: Iterable[Any], lets: Iterable[Any], constant: Iterable[Any]
) -> None:
    """Refuse names that are none, that stand twice, or that the formulas and the emitted modules use themselves."""
    spec.check_names(where, "sde.state", state)
    spec.check_names(where, "sde.params", (*params, *lets, *state, *constant))
    for key, names in (("params", params), ("let", lets), ("state", state), ("constant", constant)):
        refuse_taken(where, f"sde.{key}", names)


def _names(
    where: str, used: Iterable[str], lets: Mapping[str, Any]
) -> tuple[Names, dict[str, sp.Expr], dict[str, sp.Expr]]:
    """The names that entries may use, every let written out, and every let in the words of those before it."""
    names = Names({"t": t, **{name: sp.Symbol(name, real=True) for name in used}})
    written: dict[str, sp.Expr] = {}
    spelled: dict[str, sp.Expr] = {}
    for name, text in lets.items():
        # Parsed with what the earlier lets stand for, so that lets that double each other meet the parser's limits.
        written[name] = parse(text, {**names, **written}, where=where, key=f"sde.let.{name}")
        spelled[name] = parse(text, names, where=where, key=f"sde.let.{name}")
        names.let(name, written[name])
    return names, written, spelled


def _free_of(names: Names, lets: Mapping[str, sp.Expr], held: str) -> Names:
    """The names that stand for nothing with ``held`` in it."""
    symbol = sp.Symbol(held, real=True)
    return Names({k: v for k, v in names.items() if symbol not in lets.get(k, v).free_symbols}, names.measures)


def check_span(where: str, time: Any) -> tuple[float, float]:
    numbers = isinstance(time, list | tuple) and len(time) == 2 and all(type(v) in (int, float) for v in time)
    if not numbers or not 0 <= time[0] < time[1] <= 1e6:
        raise InputError(where, "sde.time", "is no span", "write two numbers, 0 <= start < end <= 1e6")
    return float(time[0]), float(time[1])


def _open(where: str, table: Mapping[str, Any]) -> bool:
    if not isinstance(table.get("open", False), bool):
        raise InputError(where, "sde.open", "is neither true nor false", "write true to take times beyond the span")
    return bool(table.get("open", False))


def _initial(where: str, table: Mapping[str, Any], state: tuple[str, ...], names: Mapping[str, sp.Expr]) -> Any:
    """Variances at time[0] and the data blocks: named by ``data``, else those without a variance, else the first."""
    given = table.get("initial", {})
    spec.check_keys(where, "sde.initial", given, allowed=state, required=())
    variances = [
        parse(given[b], names, where=where, key=f"sde.initial.{b}") if b in given else sp.S.Zero for b in state
    ]
    data = spec.listed(where, "sde.data", table.get("data", [b for b in state if b not in given] or [state[0]]))
    if not data or any(b not in state for b in data) or len(set(data)) < len(data):
        raise InputError(where, "sde.data", "does not name blocks, each once", f"choose from {', '.join(state)}")
    return sp.ImmutableMatrix(sp.diag(*variances)), tuple(state.index(b) for b in data)


def _constraints(where: str, given: Any, names: Names, lets: Mapping[str, sp.Expr]) -> tuple[Constraint, ...]:
    constraints = []
    for text in spec.listed(where, "sde.constraints", given):
        match = re.fullmatch(r"([^<>=!]+)(!=|==|<=|>=|<|>)([^<>=!]+)", text) if isinstance(text, str) else None
        if match is None:
            raise InputError(where, "sde.constraints", "an item is no relation", "write one such as 'Gamma != nu'")
        left, right = (parse(side.strip(), names, where=where, key="sde.constraints") for side in match.group(1, 3))
        gap = written_out(left - right, lets)
        constraints.append(Constraint(" ".join(text.split()), left, match[2], right, gap))
    return tuple(constraints)
