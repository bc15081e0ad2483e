"""Linear SDEs: dz = (F(t) z + b(t)) dt + G(t) dw for z = (z_1, ..., z_n), each block a tensor of the data's shape.

F, G and b act on the blocks alone (n x n times the identity on each block).  One or more blocks start at a data point,
the others at independent centred Gaussians of known variance.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import sympy as sp

from stepsmith.errors import InputError

from ..maths.budget import within
from ..maths.calculus import exact, t
from ..maths.point import sign
from ..spec import sources as spec
from ..spec.expression import Names, parse
from . import closed as kernel
from . import offset
from . import sound as structure
from .schedule import of_schedule, read_schedule, written_out

if TYPE_CHECKING:
    from .numeric import NumericSDE

KEYS = (
    "name", "doc", "state", "data", "time", "F", "G", "alpha", "sigma", "offset", "constant", "field", "params", "let", "initial",
    "constraints",
)  # fmt: skip


# Functions and globals of the emitted modules: a parameter of the same name would hide them.  (A parameter that is only a
# local variable of some host function is respelled there by the printer, see templates/render.py.)
HOST_NAMES = frozenset(
    """API COEFFICIENTS COMPONENTS DATA DIGEST DRAWS END FIELD HISTORY INPUTS NETWORK NFE NFE_FIRST NFE_LAST NODES
    NODES_8 ORDER OUTPUTS PARAMS SAMPLER SDE SIGMA_COLUMNS START STRONG_ORDER WEAK_ORDER WEIGHTS WEIGHTS_8 alpha
    carried close coefficients collocation column columns cut denoise denoiser diffusion drift edm exponential
    exponential_n exponential_on_clock fineness first_row frame gathered gauss_legendre graded last_row
    last_row_but_one lift lift_change lift_rest log_nodes log_reach lower lower_in math matrix nfe noise_change
    offset offset_rate ordered other_rows panels_to phi phi_1 phi_2 phi_3 phi_4 pieces pulled reverse_drift
    reverse_near rotation second_row settled sigma start start_mean step step_first step_last t t0 t1 t_m1 t_m2
    t_m3 table third_row time time_of times torch transition transport_score turning turns tweedie whitening""".split()  # noqa: SIM905
)
# Symbols that derive itself writes into expressions: a name of the diffusion that is one of them would become it.
OWN_SYMBOLS = frozenset(("s", "alpha_1", "alpha_s", "anchor", "sigma_1", "sigma_data", "sigma_s"))
STEP_NAMES = re.compile(r"c|_|state|network|noise|history|mean(_of_.*)?|torch|math|[dey]\d*|[dey]_end|w\d+|.*_new")


@dataclass(frozen=True)
class Constraint:
    """A relation between the parameters that a run must fulfil, such as ``Gamma != nu``."""

    text: str
    left: sp.Expr
    relation: str
    right: sp.Expr
    gap: sp.Expr  # left - right, every let written out

    def holds(self, values: Mapping[sp.Symbol, sp.Expr]) -> bool:
        """Whether the relation holds at a point; False where a side has no real value there."""
        found = sign(self.gap, values)
        if found is None:
            return False
        tests = {"!=": found != 0, "==": found == 0, "<": found < 0, "<=": found <= 0, ">": found > 0, ">=": found >= 0}
        return tests[self.relation]


@dataclass(frozen=True)
class LinearSDE:
    """dz = (F z + offset) dt + G dw on the forward time span ``time``; entries are SymPy in t and the parameters.

    ``F_let``, ``G_let``, ``offset_let`` and ``initial_let`` hold the same entries in the words of ``let``, as the user
    spelled them; ``F``, ``G``, ``offset`` and ``initial`` (the variances at time[0]) hold them written out.
    ``data`` are the indices of the blocks that start at a data point.  ``constant`` names the components that never
    change (an image that is given); ``offset`` is linear in them and in 1, F and G act on the state alone.
    ``field`` names what differs from coefficient to coefficient of the state where that is a cosine transform: the
    eigenvalue of minus the Laplacian, pi^2 (i^2/H^2 + j^2/W^2).  Entries use it like a parameter.
    """

    name: str
    state: tuple[str, ...]
    time: tuple[float, float]
    F_let: sp.ImmutableMatrix
    G_let: sp.ImmutableMatrix
    offset_let: sp.ImmutableMatrix
    initial_let: sp.ImmutableMatrix
    data: tuple[int, ...]
    params: Mapping[str, float]
    let: Mapping[str, sp.Expr]
    constraints: tuple[Constraint, ...]
    doc: str = ""
    schedule: tuple[sp.Expr, sp.Expr] | None = None  # (alpha, sigma) as the user gave them, one block
    constant: tuple[str, ...] = ()
    field: str = ""

    @property
    def n(self) -> int:
        return len(self.state)

    @cached_property
    def symbols(self) -> dict[str, sp.Symbol]:
        """The parameters as SymPy symbols, and the field where there is one."""
        return {name: sp.Symbol(name, real=True) for name in (*self.params, *filter(None, [self.field]))}

    @cached_property
    def _written_out(self) -> dict[sp.Symbol, sp.Expr]:
        return {sp.Symbol(name, real=True): expr for name, expr in self.let.items()}

    def written_out(self, entries: Any) -> Any:
        """Entries with every let replaced by what it stands for."""
        return entries.subs(self._written_out)

    @cached_property
    def F(self) -> sp.ImmutableMatrix:
        return self.written_out(self.F_let)

    @cached_property
    def G(self) -> sp.ImmutableMatrix:
        return self.written_out(self.G_let)

    @cached_property
    def GG_let(self) -> sp.ImmutableMatrix:
        """G G^T in the words of let; the square roots of a diagonal G cancel here."""
        return sp.ImmutableMatrix(self.G_let * self.G_let.T)

    @cached_property
    def GG(self) -> sp.ImmutableMatrix:
        return self.written_out(self.GG_let)

    @cached_property
    def offset(self) -> sp.ImmutableMatrix:
        return self.written_out(self.offset_let)

    @cached_property
    def offset_terms_let(self) -> sp.ImmutableMatrix:
        """n x (m + 1): what multiplies the m constant components and 1 in the offset, in the words of let."""
        return offset.terms(self.offset_let, self.constant)

    @cached_property
    def initial(self) -> sp.ImmutableMatrix:
        return self.written_out(self.initial_let)

    def commutes(self) -> bool:
        """Whether [F(t), F(s)] = 0 for all t and s, so that exp of the integral of F is the transition."""
        return kernel.commutes(self.F)

    @within("the transition")
    def transition(self, t: sp.Expr, s: sp.Expr) -> sp.Matrix:
        """Psi(t, s), n x n: z_t = Psi(t, s) z_s + o(t, s) + noise; t < s is allowed.  Unsupported without a closed form."""
        return kernel.transition(self, sp.sympify(t), sp.sympify(s))

    @within("the offset of the mean")
    def mean_offset(self, t: sp.Expr, s: sp.Expr) -> sp.Matrix:
        """o(t, s), n x 1, linear in the constant components: o' = F o + offset, o(s, s) = 0.  Unsupported as above."""
        return offset.mean(self, sp.sympify(t), sp.sympify(s))

    @within("the covariance")
    def covariance(self, t: sp.Expr) -> sp.Matrix:
        """Sigma_t, n x n: the law of z_t given the data point.  Solves S' = F S + S F^T + G G^T."""
        return kernel.covariance(self, sp.sympify(t))

    @within("the stationary law")
    def stationary(self) -> sp.Matrix:
        """S_inf with F S + S F^T + G G^T = 0 for all t.  Unsupported where no constant S solves it."""
        return kernel.stationary(self)

    def reverse(self, eta: Any = 1) -> kernel.Reverse:
        """The reverse dynamics with noise eta^2 G G^T; eta = 0 is the probability flow, eta = 1 the reverse SDE."""
        return kernel.reverse(self, sp.sympify(eta))

    def at(self, **params: float) -> NumericSDE:
        """The numeric view at these parameter values (defaults for the rest): numpy float64 from 80-digit arithmetic.

        A field is given like a parameter; it is that of the constant image, 0, unless it is.
        """
        from .numeric import NumericSDE

        at = {self.field: float(params.pop(self.field, 0.0))} if self.field else {}
        return NumericSDE.of(self, {**self.values(params), **at})

    def values(self, params: Mapping[str, float]) -> dict[str, float]:
        """Defaults overridden by ``params``; InputError on an unknown name or a broken constraint."""
        for name in params:
            if name not in self.params:
                known = ", ".join(self.params) or "none"
                raise InputError(self.name, f"params.{name}", "no such parameter", f"known are {known}")
        spec.table_of_numbers(self.name, "params", params)
        values = {**self.params, **params}
        point = {self.symbols[k]: exact(v) for k, v in values.items()}
        for constraint in self.constraints:
            if not constraint.holds(point):
                raise InputError(self.name, "constraints", f"{constraint.text} does not hold", "change the parameters")
        return values


@within("reading the diffusion")
def load_sde(source: Any) -> LinearSDE:
    """A LinearSDE from a catalogue name, a path to a .toml file, or a dict of the same keys (DESIGN section 6).

    Raises InputError naming the file, the key and the mend.
    """
    if isinstance(source, LinearSDE):
        return source
    where, table = spec.read(source, kind="sde")
    paired = "alpha" in table or "sigma" in table
    spec.check_keys(
        where, "sde", table, allowed=KEYS, required=("name", "state", *(("alpha", "sigma") if paired else ("F", "G")))
    )
    state = tuple(spec.listed(where, "sde.state", table["state"], spec.MAX_BLOCKS))
    if not state:
        raise InputError(where, "sde.state", "names no block", 'write one such as ["x"]')
    spec.check_names(where, "sde.state", state)
    params = spec.table_of_numbers(where, "sde.params", table.get("params", {}))
    lets = table.get("let", {})
    constant = offset.constant_names(where, table.get("constant", []))
    field = table.get("field", "")
    used = (*params, *((field,) if "field" in table else ()))
    spec.check_names(where, "sde.params", (*used, *lets, *state, *constant))
    check_unused(where, used, lets, (*state, *constant))
    names = Names({"t": t, **{name: sp.Symbol(name, real=True) for name in used}})
    written: dict[str, sp.Expr] = {}
    for name, text in lets.items():
        # Parsed with what the earlier lets stand for, so that lets that double each other meet the parser's limits.
        written[name] = parse(text, {**names, **written}, where=where, key=f"sde.let.{name}")
        names.let(name, written[name])
    n = len(state)
    span = check_span(where, table.get("time", [0.0, 1.0]))
    schedule = read_schedule(where, table, n, names, written, span[0]) if paired else None
    if schedule is not None:
        F, G = of_schedule(schedule, written, bool(field))
    else:
        F = spec.matrix(where, "sde.F", table["F"], (n, n), names)
        G = spec.matrix(where, "sde.G", table["G"], (n, None), names)
    drift = offset.read(where, table.get("offset"), n, names, constant)
    timeless = _free_of(names, written, "t")
    initial, data = _initial(where, table, state, timeless)
    free = _free_of(timeless, written, field)
    listed = spec.listed(where, "sde.constraints", table.get("constraints", ()))
    constraints = tuple(_constraint(where, text, free, written) for text in listed)
    sde = LinearSDE(
        spec.name_of(where, "sde.name", table["name"]), state, span,
        sp.ImmutableMatrix(F), sp.ImmutableMatrix(G), drift, initial, data,
        params, written, constraints, str(table.get("doc", "")), schedule, constant, field,
    )  # fmt: skip
    try:
        sde.values({})
    except InputError as error:
        raise InputError(where, error.key, error.what, "change the defaults in sde.params") from None
    structure.check_values(where, sde)
    return sde


def _free_of(names: Names, lets: Mapping[str, sp.Expr], held: str) -> Names:
    """The names that stand for nothing with ``held`` in it."""
    symbol = sp.Symbol(held, real=True)
    return Names({k: v for k, v in names.items() if symbol not in lets.get(k, v).free_symbols}, names.measures)


def check_unused(where: str, params: Iterable[str], lets: Iterable[str], state: Iterable[str]) -> None:
    """Names become arguments and variables of the emitted module: refuse those that it needs itself."""
    for key, names in (("sde.params", params), ("sde.let", lets)):
        for name in names:
            if name in HOST_NAMES | OWN_SYMBOLS:
                raise InputError(
                    where,
                    f"{key}.{name}",
                    "the emitted module uses this name itself",
                    f"rename it, to {name}_ for example",
                )
    for name in state:
        if STEP_NAMES.fullmatch(name):
            raise InputError(where, "sde.state", f"the emitted step uses the name {name!r} itself", "rename the block")


def check_span(where: str, time: Any) -> tuple[float, float]:
    numbers = isinstance(time, list | tuple) and len(time) == 2 and all(type(v) in (int, float) for v in time)
    if not numbers or not 0 <= time[0] < time[1] <= 1e6:
        raise InputError(where, "sde.time", "is no span", "write two numbers, 0 <= start < end <= 1e6")
    return float(time[0]), float(time[1])


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


def _constraint(where: str, text: Any, names: Names, lets: Mapping[str, sp.Expr]) -> Constraint:
    match = re.fullmatch(r"([^<>=!]+)(!=|==|<=|>=|<|>)([^<>=!]+)", text) if isinstance(text, str) else None
    if match is None:
        raise InputError(where, "sde.constraints", "an item is no relation", "write one such as 'Gamma != nu'")
    left, relation, right = match.groups()
    sides = [parse(side.strip(), names, where=where, key="sde.constraints") for side in (left, right)]
    spelled = " ".join(text.split())
    return Constraint(spelled, sides[0], relation, sides[1], written_out(sides[0] - sides[1], lets))
