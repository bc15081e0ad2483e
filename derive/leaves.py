"""What the host functions of an emitted module are built of: matrices and integrals of the entries, rules of quadrature.

``Leaves`` collects functions, callees first; flows.py adds the propagators, host.py the law of z_t and the frames.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import sympy as sp

from stepsmith.errors import InputError

from .calculus import increment, s, t
from .kernel import in_lets
from .program import Function, ProgramError
from .sde import LinearSDE

NODES = 20  # Gauss-Legendre nodes a panel
PANELS = 2  # panels from the start of the span to t: 40 nodes hold exp(-40) to float64
REACH, MOST = 12, 256  # what |F| times a panel of 20 nodes may be for float64, and the panels that are still followed
FEW = 8  # nodes of a short panel: e^4 to float64


def lets_in(sde: LinearSDE, expressions: Iterable[sp.Expr]) -> tuple[str, ...]:
    """The names of let that occur in the expressions, in the order of the spec."""
    used = {symbol.name for expr in expressions for symbol in expr.free_symbols}
    return tuple(name for name in sde.let if name in used)


def depends_on_time(sde: LinearSDE, name: str) -> bool:
    return t in sde.let[name].free_symbols


def params_in(known: Iterable[str], expressions: Iterable[sp.Expr]) -> tuple[str, ...]:
    """The parameters that occur in the expressions, in the order of ``known``."""
    used = {symbol.name for expr in expressions for symbol in expr.free_symbols}
    return tuple(name for name in known if name in used)


class Leaves:
    """The functions collected for one module, callees first, each once; the one mutable thing of the lowering."""

    def __init__(self, sde: LinearSDE, params: Iterable[str]) -> None:
        self.sde = sde
        self.params = tuple(params)
        self.functions: dict[str, Function] = {}
        self.taken = {*self.params, *sde.let, *sde.state}

    def add(
        self, name: str, template: str, expressions: Iterable[sp.Expr] = (), uses: Iterable[str] = (), **data: Any
    ) -> str:
        """Register a function; its parameters are those of its expressions, of their lets and of what it calls.

        An expression is printed in the words of let, and each let that stands in it is printed too: so a parameter that
        cancels once the lets are written out is still an argument.
        """
        self.refuse(name)
        uses = tuple(dict.fromkeys(uses))
        printed = [sp.sympify(e) for e in expressions]
        own = params_in(self.params, [*printed, *(let for _, let in self.lets(printed))])
        below = {p for use in uses for p in self.functions[use].params}
        params = tuple(p for p in self.params if p in own or p in below)
        function = Function(name, template, params, uses, data)
        if self.functions.setdefault(name, function) != function:
            raise ProgramError(f"{name} would be two functions of one module")
        return name

    def refuse(self, *names: str) -> None:
        """InputError where the module needs a name for itself that the user has given to something."""
        for name in self.taken.intersection(names):
            what = "the emitted module uses this name itself"
            raise InputError(self.sde.name, f"the name {name}", what, f"rename it, to {name}_ for example")

    def lets(self, expressions: Iterable[sp.Expr]) -> tuple[tuple[str, sp.Expr], ...]:
        """(name, expression) of the lets in the expressions."""
        return tuple((name, self.sde.let[name]) for name in lets_in(self.sde, expressions))

    def timeless_lets(self, expressions: Iterable[sp.Expr]) -> tuple[tuple[str, sp.Expr], ...]:
        return tuple(pair for pair in self.lets(expressions) if not depends_on_time(self.sde, pair[0]))

    def static(self, name: str, *uses: str) -> str:
        """A helper that is the same in every module."""
        return self.add(name, f"helpers/{name}", uses=uses)

    def matrix(self, name: str, entries: sp.Matrix, doc: str) -> str:
        """A matrix-valued function of t."""
        return self.add(
            name, "matrix", entries, (self.static("matrix"),), entries=entries, lets=self.lets(entries), doc=doc
        )

    def quadrature(self) -> str:
        counts = (NODES,) if self.sde.n == 1 else (FEW, NODES)
        return self.add("gauss_legendre", "helpers/gauss_legendre", counts=counts)

    def collocation(self) -> str:
        uses = (self.quadrature(),)
        if self.sde.n == 1:  # one rule of quadrature
            return self.add("collocation", "helpers/collocation", (), uses, single=True)
        return self.add("collocation", "helpers/collocation", (), uses)

    def ordered(self) -> str:
        return self.static("ordered", self.collocation())

    def pieces(self) -> str:
        return self.add("pieces", "helpers/pieces", reach=REACH, most=MOST)

    def turns(self, *entries: sp.Expr) -> tuple[str, ...]:
        """The count of the panels that entries ask of the span, where they are no polynomials in time."""
        if self.sde.field or all(self.sde.written_out(e).is_polynomial(t) for e in entries):
            return ()
        return (self.static("turns", self.quadrature()),)

    def fineness(self) -> tuple[str, ...]:
        """The same of F, G G^T and the offset."""
        moved = not self.sde.offset_let.is_zero_matrix
        uses = self.turns(*self.sde.F, *self.sde.GG, *self.sde.offset)
        if not uses or self.sde.schedule is not None:
            return ()
        rates = (self.drift(), self.diffusion(), *((self.offset_rate(),) if moved else ()))
        return (self.add("fineness", "fineness", (), (*uses, *rates), moved=moved),)

    def panels_to(self) -> str:
        """The panels from the start of the span to t: PANELS, which hold exp(-40), or what F asks for."""
        uses = (self.quadrature(), self.pieces(), self.drift(), *self.fineness())
        return self.add("panels_to", "panels_to", (), uses, least=PANELS)

    def drift(self) -> str:
        return self.matrix("drift", self.sde.F_let, "F(t).")

    def diffusion(self) -> str:
        G = self.sde.G_let
        return self.matrix("diffusion", G, f"G(t), (..., {G.shape[0]}, {G.shape[1]})")

    def offset_rate(self) -> str:
        own = " and ".join((*self.sde.constant, "one"))
        return self.matrix("offset_rate", self.sde.offset_terms_let, f"What {own} are multiplied with in the drift.")

    def graded(self) -> str:
        """The lower factor of noise whose rows begin alike, of graded.py."""
        return self.static("graded", self.quadrature(), self.collocation(), self.static("lower_in"))

    def integral(self, name: str) -> str:
        """The integral of a let over (s, t), in closed form where the table has a row for each of its terms."""
        closed = increment(self.sde.let[name], t, s)
        expr = self.sde.let[name]
        if closed is not None:
            return self.add(f"integral_{name}", "integral", (expr,), expr=closed, of=name)
        uses = (self.quadrature(), *self.turns(expr))
        return self.add(f"integral_{name}", "integral_by_quadrature", (expr,), uses, expr=expr, of=name)

    def integrated(self, expr: sp.Expr) -> tuple[sp.Expr, tuple[str, ...]]:
        """The integral of an expression over (s, t) in the words of let: (expression, integrals used).

        The integral of the let ``beta`` is spelled ``beta_st``.
        """
        parts = in_lets(self.sde, expr)
        if parts is not None:
            self.refuse(*(f"{name}_st" for name in parts if name))
            uses = tuple(self.integral(name) for name in parts if name)
            terms = (c * sp.Symbol(f"{k}_st", real=True) if k else c * (t - s) for k, c in parts.items())
            return sum(terms, sp.S.Zero), uses
        written = self.sde.written_out(expr)
        closed = increment(written, t, s)
        return (closed, ()) if closed is not None else self._by_quadrature(written)

    def _by_quadrature(self, expr: sp.Expr) -> tuple[sp.Expr, tuple[str, ...]]:
        """The integral of an expression that no row of the table holds, spelled like that of a let."""
        same = [
            f.name for f in self.functions.values() if f.template == "integral_by_quadrature" and f.data["expr"] == expr
        ]
        name = (
            same[0]
            if same
            else f"integral_f{sum(f.template == 'integral_by_quadrature' for f in self.functions.values()) + 1}"
        )
        self.add(name, "integral_by_quadrature", (expr,), (self.quadrature(), *self.turns(expr)), expr=expr, of=expr)
        return sp.Symbol(f"{name.removeprefix('integral_')}_st", real=True), (name,)
