"""The host functions of an emitted module: what a diffusion needs evaluated in float64 before the first step.

Each function below returns a ``Function``, or a tuple of them, with its expressions; how it is written down is the
template's business.  All of it is said in quantities that keep their digits near the data.  With Psi the transition and
z_0 the state pulled back to the start of the span,

    Psi(0, t) z_t = z_0 + noise,   N_t = Cov(noise) = Sigma_0 + int_0^t Psi(0, s) G G^T Psi(0, s)^T ds = W W^T,

``W`` is upper triangular with the data block first, and is the R factor of a QR decomposition of the quadrature columns
of N: nothing is squared, nothing is subtracted.  ``Z = W^-1 Psi(0, t)`` whitens.  The same holds with any time tau in the
place of the start: tau = 0 keeps all digits near the data, where Sigma_t is nearly singular, tau = t far from it, where
Psi(0, t) is.  With e the data block and p = Z Psi(t, 0) e,

    Sigma^-1 = Z^T Z,   sigma = 1/|p|,   y = sigma^2 p^T Z z,   s = -Z^T Z z + Z^T p D(y, sigma)

is the denoiser bridge: y is x_0 plus noise of standard deviation sigma (methods.md F3).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import sympy as sp

from stepsmith.errors import InputError

from .bounded import tame, tidied
from .calculus import careful, exact, increment, is_zero, plain, s, t
from .kernel import commutes, in_lets
from .program import Function
from .sde import LinearSDE

NODES = 20  # Gauss-Legendre nodes a panel
PANELS = 2  # panels from the start of the span to t: 40 nodes hold exp(-40) to float64


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


class Library:
    """The functions collected for one module, callees first, each once; the one mutable thing of the lowering."""

    def __init__(self, sde: LinearSDE, params: Iterable[str]) -> None:
        self.sde = sde
        self.params = tuple(params)
        self.functions: dict[str, Function] = {}
        self.taken = {*self.params, *sde.let, *sde.state}

    def add(
        self, name: str, template: str, expressions: Iterable[sp.Expr] = (), uses: Iterable[str] = (), **data: Any
    ) -> str:
        """Register a function; its parameters are those of its expressions and of what it calls."""
        self.refuse(name)
        uses = tuple(dict.fromkeys(uses))
        written = [self.sde.written_out(sp.sympify(e)) for e in expressions]
        own = params_in(self.params, written)
        below = {p for use in uses for p in self.functions[use].params}
        params = tuple(p for p in self.params if p in own or p in below)
        if name not in self.functions:
            self.functions[name] = Function(name, template, params, uses, data)
        return name

    def refuse(self, *names: str) -> None:
        """InputError where the module needs a name for itself that the user has given to something."""
        for name in self.taken.intersection(names):
            what = "the emitted module uses this name itself"
            raise InputError(self.sde.name, f"the name {name}", what, f"rename it, to {name}_ for example")

    # -- leaves ------------------------------------------------------------------------------------------------------

    def lets(self, expressions: Iterable[sp.Expr]) -> tuple[tuple[str, sp.Expr], ...]:
        """(name, expression) of the lets in the expressions."""
        return tuple((name, self.sde.let[name]) for name in lets_in(self.sde, expressions))

    def static(self, name: str, *uses: str) -> str:
        """A helper that is the same in every module."""
        return self.add(name, f"helpers/{name}", uses=uses)

    def quadrature(self) -> str:
        return self.add("gauss_legendre", "helpers/gauss_legendre", nodes=NODES)

    def matrix(self, name: str, entries: sp.Matrix, doc: str) -> str:
        """A matrix-valued function of t."""
        return self.add(
            name, "matrix", entries, (self.static("matrix"),), entries=entries, lets=self.lets(entries), doc=doc
        )

    def integral(self, name: str) -> str:
        """The integral of a let over (s, t), in closed form where the table has a row for each of its terms."""
        closed = increment(self.sde.let[name], t, s)
        expr = self.sde.let[name]
        if closed is not None:
            return self.add(f"integral_{name}", "integral", (expr,), expr=closed, of=name)
        return self.add(f"integral_{name}", "integral_by_quadrature", (expr,), (self.quadrature(),), expr=expr, of=name)

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
        self.add(name, "integral_by_quadrature", (expr,), (self.quadrature(),), expr=expr, of=expr)
        return sp.Symbol(f"{name.removeprefix('integral_')}_st", real=True), (name,)

    # -- propagators -------------------------------------------------------------------------------------------------

    def transition(self, name: str, generator: sp.Matrix, doc: str) -> str:
        """X(t, s) with dX/dt = generator X, X(s, s) = I; t < s is allowed.  (..., n, n)."""
        n = generator.shape[0]
        written = self.sde.written_out(generator)
        if not commutes(written):
            rate = self.matrix(f"{name}_rate", -generator, f"Minus the generator of {name}.")
            uses = (self.quadrature(), self.static("ordered", self.quadrature()), rate)
            return self.add(
                name, "transition_ordered", (), uses, n=n, rate=rate, panels=PANELS, doc=doc, generator=generator
            )
        integrals = [self.integrated(e) for e in generator]
        entries = sp.Matrix(n, n, [value for value, _ in integrals])
        used = tuple(dict.fromkeys(use for _, uses in integrals for use in uses))
        helper = (
            (self.add("exponential", f"helpers/exponential{'' if n == 2 else '_n'}", uses=(self.static("matrix"),)),)
            if n > 1
            else ()
        )
        template = {1: "transition_scalar", 2: "transition_pair"}.get(n, "transition_n")
        return self.add(
            name, template, generator, (*used, self.static("matrix"), *helper), doc=doc, n=n, generator=generator,
            entries=entries,
            integrals=tuple((use.removeprefix("integral_"), use) for use in used),
            lets=tuple(pair for pair in self.lets(entries) if not depends_on_time(self.sde, pair[0])),
        )  # fmt: skip

    def psi(self) -> str:
        """Psi of the diffusion."""
        if self.sde.schedule is not None:
            F = self.sde.F_let
            return self.add("transition", "transition_ratio", (), (self.alpha(), self.static("matrix")), generator=F)
        return self.transition("transition", self.sde.F_let, "Psi(t, s): z_t = Psi z_s + noise.")

    def alpha(self) -> str:
        """One block: the transition from the start of the span, a tensor like t."""
        if self.sde.schedule is not None:
            return self._given("alpha", self.sde.schedule[0], "The factor of the data in z_t.")
        return self.add("alpha", "alpha", (), (self.psi(),), start=self.sde.time[0])

    def sigma(self) -> str:
        """One block: the standard deviation of z_t given the data point, a tensor like t."""
        if self.sde.schedule is not None:
            return self._given("sigma", self.sde.schedule[1], "The standard deviation of z_t given the data.")
        sde, f, g2 = self.sde, self.sde.F[0, 0], self.sde.GG[0, 0]
        start = exact(sde.time[0])
        law = tidied(-g2 / (2 * f)) if f != 0 else None
        if law is not None and t not in law.free_symbols:
            expr, uses = self.integrated(sde.F_let[0, 0])
            return self.add(
                "sigma", "sigma_stationary", (law, sde.initial[0, 0], sde.F_let[0, 0]), uses, law=law, start=sde.time[0],
                variance=sde.initial_let[0, 0], exponent=expr, lets=self.timeless_lets((expr, sde.initial_let[0, 0])),
                integrals=tuple((use.removeprefix("integral_"), use) for use in uses),
            )  # fmt: skip
        if f == 0 and (growth := increment(g2, t, s)) is not None:
            variance = self._collected(
                sde.initial[0, 0] + plain(growth.subs(s, start)), sde.initial[0, 0] + growth.subs(s, start)
            )
            return self.add("sigma", "sigma_grown", (g2, sde.initial[0, 0]), variance=variance)
        noise = self.matrix("diffusion", sde.G_let, "G(t), (..., 1, r)")
        return self.add(
            "sigma", "sigma_by_quadrature", (sde.initial[0, 0],), (self.quadrature(), self.psi(), noise), start=sde.time[0],
            variance=sde.initial_let[0, 0], lets=self.timeless_lets((sde.initial_let[0, 0],)), panels=PANELS,
        )  # fmt: skip

    def _given(self, name: str, expr: sp.Expr, doc: str) -> str:
        """alpha or sigma as the user wrote it, cancellations against 1 mended."""
        return self.add(name, f"{name}_given", (expr,), expr=careful(expr), lets=self.lets((expr,)), doc=doc)

    @staticmethod
    def _collected(simple: sp.Expr, careful: sp.Expr) -> sp.Expr:
        """The single power that a variance may collapse to (VE: sigma_min^2 ratio^(2t)), else the careful form."""
        collapsed = sp.powsimp(sp.expand(simple)) if tame(simple) else simple
        return collapsed if not collapsed.is_Add and is_zero(collapsed - simple) else careful

    def timeless_lets(self, expressions: Iterable[sp.Expr]) -> tuple[tuple[str, sp.Expr], ...]:
        return tuple(pair for pair in self.lets(expressions) if not depends_on_time(self.sde, pair[0]))

    # -- the law of z_t ----------------------------------------------------------------------------------------------

    def whitening(self) -> str:
        """(Z, W) of the module docstring, for two blocks or more."""
        sde = self.sde
        psi, noise = self.psi(), self.matrix("diffusion", sde.G_let, f"G(t), (..., {sde.n}, {sde.G_let.shape[1]})")
        ordered = self.functions[psi].template == "transition_ordered"
        initial = sde.initial_let.applyfunc(sp.sqrt)
        columns = [j for j in range(sde.n) if initial[j, j] != 0]
        start = initial[:, columns] if columns else sp.zeros(sde.n, 0)
        uses = [self.quadrature(), self.static("matrix"), self.static("lower"), psi, noise]
        if ordered:
            uses += [self.static("ordered", self.quadrature()), f"{psi}_rate"]
        return self.add(
            "whitening", "whitening_ordered" if ordered else "whitening", initial, uses, n=sde.n, psi=psi,
            start=sde.time[0], initial=start, ordered=ordered, lets=self.timeless_lets(initial), panels=PANELS,
            order=self.order,
        )  # fmt: skip

    @property
    def order(self) -> list[int] | None:
        """The blocks with the data first, or None where they stand so already."""
        order = [*self.sde.data, *(i for i in range(self.sde.n) if i not in self.sde.data)]
        return None if order == list(range(self.sde.n)) else order

    def anchor(self) -> str:
        """The time to which the state is pulled back: the start near the data, t where Sigma_t is well conditioned."""
        return self.add("anchor", "anchor", (), (self.whitening(),))

    def denoiser(self) -> str:
        """(skip, out, inp, sigma) of the bridge."""
        return self.add("denoiser", "denoiser", (), (self.whitening(), self.anchor(), self.psi()), order=self.order)

    def edm(self) -> str:
        """(skip, out, inp, told) of an EDM-preconditioned network behind the bridge."""
        return self.add("edm", "edm", (sp.Symbol("sigma_data", real=True),), (self.denoiser(),))

    def cholesky(self, kind: str) -> str:
        """(out, inverse): out = -L^-T for the lower (or upper) Cholesky factor of Sigma, and its inverse -L^T."""
        uses = (self.whitening(), self.anchor(), self.static("lower"))
        return self.add(f"eps_{kind}", f"eps_{kind}", (), uses, n=self.sde.n)

    def rotation(self) -> str:
        """O(t0, t1) at nodes and ends, in the frame of W: R_t = Psi W O solves R' = (F + G G^T Sigma^-1 / 2) R."""
        n = self.sde.n
        nodes, diffusion = self.static("log_nodes", self.quadrature()), "diffusion"
        uses = [self.quadrature(), nodes, self.whitening(), diffusion]
        if n > 2:
            ordered = self.static("ordered", self.quadrature())
            uses += [ordered, self.static("log_reach", nodes, ordered)]
        return self.add("rotation", "rotation_pair" if n == 2 else "rotation", (), uses, n=n, start=self.sde.time[0])

    def transport(self) -> str:
        """(Psi(t1, t0), U = R(t1) R(t0)^-1, Psi(t1, 0)): all that the step of order one in the frame eps-R needs."""
        return self.add(
            "transport", "transport", (), (self.psi(), self.whitening(), self.rotation()), start=self.sde.time[0]
        )

    def gddim(self) -> str:
        """(out, inverse) at t0 and at t1 for R_t anchored at the data end of the grid, O = I there."""
        uses = (self.whitening(), self.anchor(), self.rotation(), self.static("lower"))
        return self.add("eps_gddim", "eps_gddim", (), uses, n=self.sde.n)

    def start(self) -> str:
        """The lower factor of the covariance at a time: what the start of a run is drawn with."""
        if self.sde.n == 1:
            return self.add("start_factor", "start_scalar", (), (self.sigma(),))
        return self.add("start_factor", "start", (), (self.whitening(), self.anchor(), self.static("lower")))
