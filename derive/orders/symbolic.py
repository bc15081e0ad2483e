"""The leading local error in the symbols of the diffusion: the same expansion over a field of rational functions.

Every time-dependent let k becomes k + k_t x + k_tt x^2/2 + ..., every constant one a symbol, the network a Taylor polynomial
whose coefficients are its partial derivatives (sx_m = d s_x / d m, s_t in the network's forward time t).  The drifts dx, dm, ...
(dz/dtau, tau running against t) take the place of the values they determine, so that what an error has in common shows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import sympy as sp
from sympy.polys.fields import field as rational_functions

from stepsmith.errors import InputError

from ..maths.calculus import t
from ..maths.notation import latex, word
from ..maths.values import evaluate
from ..sde.linear import LinearSDE
from .local import Chain, local_error_at
from .point import Point
from .rings import IrrationalError, Ring
from .taylor import Network, Setting, multi_indices

H = sp.Symbol("h", positive=True)
AT = sp.Symbol("t_", real=True)  # the time of the expansion


@dataclass(frozen=True, repr=False)
class ErrorTerm:
    """One block of the leading local error, exact minus numerical over a step: ``coefficient`` h^power.

    ``where`` says what the symbols are, a line each; ``names`` is the LaTeX of some.
    """

    block: str
    power: int
    coefficient: sp.Expr
    where: tuple[str, ...] = ()
    names: Mapping[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"ErrorTerm({self})"

    def __str__(self) -> str:
        if self.coefficient == 0:
            return f"e_{self.block} = O(h^{self.power + 1})"
        text = sp.sstr(self.coefficient)
        return f"e_{self.block} = h^{self.power} * {f'({text})' if self.coefficient.is_Add else text}".replace(
            "**", "^"
        )

    def latex(self) -> str:
        """The term as LaTeX."""
        block = self.names.get(self.block) or word(self.block)
        body = latex(self.coefficient * H**self.power, self.names) if self.coefficient != 0 else rf"O(h^{{{self.power + 1}}})"
        return rf"e_{{{block}}} = {body}"

    def _repr_latex_(self) -> str:
        return f"$\\displaystyle {self.latex()}$"

    def at(self, **numbers: float) -> float:
        """The coefficient of h^power at these values of its symbols; InputError names a symbol without one."""
        missing = sorted({s.name for s in self.coefficient.free_symbols} - set(numbers))
        if missing:
            raise InputError("-", f"local_error.{self.block}", f"{missing[0]} has no value", "give each symbol one")
        return float(self.coefficient.subs({s: numbers[s.name] for s in self.coefficient.free_symbols}))

    def number(self, values: Mapping[str, Any], ring: Ring) -> Any:
        """The coefficient in a ring."""
        return evaluate(self.coefficient, values, ring.of)


class Symbols(Ring):
    """A field of rational functions as a ring of coefficients."""

    def __init__(self, K: Any) -> None:
        self.K = K

    def number(self, p: int, q: int = 1) -> Any:
        return self.K(p) / self.K(q)

    def sqrt(self, value: Any) -> Any:
        return self.K(int(value == 1)) if value in (0, 1) else super().sqrt(value)


def symbolic(sde: LinearSDE, degree: int) -> LinearSDE:
    """The diffusion with its lets opaque: at t = AT the let k and its derivatives are the parameters k_0, k_t, k_tt, ..."""
    lets, params = {}, {**sde.params, AT.name: 1.0}
    for name, expr in sde.let.items():
        if t not in expr.free_symbols:
            params[name] = 1.0
            continue
        names = [f"{name}_{'t' * k or '0'}" for k in range(degree + 1)]
        params |= dict.fromkeys(names, 1.0)
        lets[name] = sum(sp.Symbol(n, real=True) * (t - AT) ** k / math.factorial(k) for k, n in enumerate(names))
    return replace(sde, let=lets, params=params, constraints=(), time=(0.0, 1.0))


def jet_name(block: str, index: Sequence[int], names: Sequence[str]) -> str:
    """The name of a partial derivative of the score of a block: sx, sx_m, sx_xt, ..."""
    letters = "".join(name * k for name, k in zip((*names, "t"), index, strict=True))
    return f"s{block}_{letters}" if letters else f"s{block}"


def by_drift(method: Any, derived: Any, power: int) -> tuple[ErrorTerm, ...]:
    """The terms of a splitting or a Runge-Kutta step on the score; ``derived`` makes the method on another diffusion.

    Raises IrrationalError for several blocks whose F or G G^T is no rational function of lets and parameters.
    """
    try:
        return _by_drift(method.sde, derived, power)
    except IrrationalError:
        if method.sde.n > 1:
            raise
        terms = _by_drift(opaque(method.sde), derived, power)
        return tuple(replace(term, where=(*term.where, "f, g2 = F, G^2 of the diffusion")) for term in terms)


def opaque(sde: LinearSDE) -> LinearSDE:
    """One block with F = f (or 0), G^2 = g2 and the offset b_mu mu + ... + b, functions of time that nothing is known of."""
    terms = {
        f"b_{c}" if c else "b": e for c, e in zip((*sde.constant, ""), sde.offset_terms_let, strict=True) if e != 0
    }
    lets = {name: sp.Function(name)(t) for name in ("f", "g2", *terms)}
    symbols = {name: sp.Symbol(name, real=True) for name in (*lets, *sde.constant)}
    F = sp.ImmutableMatrix([[0 if sde.F.is_zero_matrix else symbols["f"]]])
    offset = sum((symbols[name] * symbols.get(name[2:], sp.S.One) for name in terms), sp.S.Zero)
    return replace(
        sde, F_let=F, G_let=sp.ImmutableMatrix([[sp.sqrt(symbols["g2"])]]), offset_let=sp.ImmutableMatrix([[offset]]),
        let=lets, schedule=None, params={}, initial_let=sp.ImmutableMatrix([[0]]),
    )  # fmt: skip


def _by_drift(sde: LinearSDE, derived: Any, power: int) -> tuple[ErrorTerm, ...]:
    names = sde.state
    moving = [name for name, expr in sde.let.items() if t in expr.free_symbols]
    sde = symbolic(sde, power)
    other = derived(sde)
    indices = [i for total in range(power) for i in multi_indices(len(names) + 1, total)]
    jets = [jet_name(b, i, names) for b in names for i in indices]
    gens = [*sde.symbols, *other.program.params, *(f"d{b}" for b in names), *names, *sde.constant, *jets]
    K, *_ = rational_functions(list(dict.fromkeys(gens)), sp.ZZ)
    symbols = {str(g): K.from_expr(g.as_expr()) for g in K.gens}
    known = {k: symbols[k] for k in (*sde.symbols, *other.program.params)}
    point = Point(Symbols(K), sde, known, symbols[AT.name], [], [], power + 1)
    values = _eliminated(K, point, symbols, names, sde.constant)
    state = [[values[b]] for b in names]
    given = [[symbols[c]] for c in sde.constant]
    centre = [*(v[0] for v in (*state, *given)), point.t0]
    inner = [(*i[: len(names)], *([0] * len(given)), i[-1]) for i in indices]
    rows = [
        [
            values.get(jet_name(b, i, names), symbols[jet_name(b, i, names)]) / math.prod(map(math.factorial, i))
            for b in names
        ]
        for i in indices
    ]
    at = Setting(point, other, state, given, Network(centre, tuple(inner), rows, 1))
    found = local_error_at(at, Chain((other.program,)), power, ())
    shown = {sp.Symbol(f"{name}_0"): sp.Symbol(name) for name in moving} | {sp.Symbol(AT.name): sp.Symbol("t")}
    drifts = [sp.Symbol(f"d{b}") for b in names]
    slow = [sp.Symbol(f"{name}_{'t' * k}") for name in moving for k in range(1, power + 1)]
    terms = [tidy(c[0].as_expr().subs(shown), drifts, slow) for c in found.coefficients[power]]
    where = (_legend(terms, names, drifts),)
    return tuple(ErrorTerm(b, power, term, where) for b, term in zip(names, terms, strict=True))


def _legend(terms: Sequence[sp.Expr], names: Sequence[str], drifts: Sequence[sp.Symbol]) -> str:
    """What the symbols of some error terms are; of the derivatives of the score one that occurs, and one in time."""
    used = {symbol.name for term in terms for symbol in term.free_symbols}
    inner = [f"s{a}_{b} = d s_{a}/d {b}" for b in reversed(names) for a in names if f"s{a}_{b}" in used]
    timed = [f"s{a}_t = d s_{a}/d t in the network's time t" for a in names if f"s{a}_t" in used]
    return "; ".join([f"{', '.join(map(str, drifts))} = dz/dtau, tau = -t", *inner[:1], *timed[:1]])


def _eliminated(
    K: Any, point: Point, symbols: Mapping[str, Any], names: Sequence[str], constant: Sequence[str]
) -> dict[str, Any]:
    """State and scores at the point, as many of them as can be said by the drifts d_i = sum V_ij s_j/2 - F_ij z_j - b_i."""
    n = len(names)
    unknown = [*(f"s{b}" for b in names), *names]
    V, F, b = ([[e.c[0] for e in row] for row in M] for M in (point.V, point.F, point.b))
    carried = [*(symbols[c] for c in constant), K(1)]
    rows = []
    for i in range(n):
        driven = sum((b[i][k] * c for k, c in enumerate(carried)), K(0))
        rows.append([*(K(e) / 2 for e in V[i]), *(-K(e) for e in F[i]), symbols[f"d{names[i]}"] + driven])
    pivots: dict[int, int] = {}
    for i in range(n):
        column = next((j for j in range(2 * n) if j not in pivots.values() and rows[i][j] != 0), None)
        if column is None:
            continue
        pivots[i] = column
        rows[i] = [e / rows[i][column] for e in rows[i]]
        for k in range(n):
            if k != i and rows[k][column] != 0:
                rows[k] = [a - rows[k][column] * e for a, e in zip(rows[k], rows[i], strict=True)]
    values = {name: symbols[name] for name in unknown}
    for i, column in pivots.items():
        rest = (rows[i][j] * symbols[unknown[j]] for j in range(2 * n) if j != column)
        values[unknown[column]] = rows[i][-1] - sum(rest, K(0))
    return values


def tidy(expr: sp.Expr, first: Sequence[sp.Symbol], slow: Sequence[sp.Symbol] = ()) -> sp.Expr:
    """The same expression, the changes ``slow`` of the lets apart, each piece collected by ``first``, common factors outside."""
    numerator, denominator = sp.fraction(sp.together(expr))
    expanded = sp.expand(numerator)
    if len(sp.Add.make_args(expanded)) > LONG:
        return expanded / denominator
    still = expanded.subs(dict.fromkeys(slow, 0))
    moving = sp.collect(sp.expand(expanded - still), slow, evaluate=False) if slow else {}
    total = _collected(still, denominator, first)
    for change, piece in moving.items():
        total += _collected(sp.expand(piece), denominator, first) * change
    return total


LONG = 60  # terms of an expression that is left as it comes


def _collected(expanded: sp.Expr, denominator: sp.Expr, first: Sequence[sp.Symbol]) -> sp.Expr:
    if expanded == 0:
        return sp.S.Zero
    content, primitive = expanded.as_content_primitive()
    terms = sp.Add.make_args(sp.expand(primitive))
    powers = [term.as_powers_dict() for term in terms]
    shared = [base for base in powers[0] if base.free_symbols and all(base in others for others in powers)]
    common = sp.Mul(*(base ** min(others[base] for others in powers) for base in shared))
    inner = sp.collect(sp.Add(*(term / common for term in terms)), first, func=sp.factor)
    return sp.cancel(content * common / denominator) * inner
