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
from sympy.codegen.cfunctions import expm1

from stepsmith.errors import InputError, Unsupported

from . import offset
from .bounded import cancelled, tame, tidied
from .calculus import careful, exact, increment, is_zero, plain, s, t
from .kernel import commutes, in_lets, stationary_words
from .lift import Lift, lifted, noise_change, own_rows
from .program import Function, ProgramError
from .sde import LinearSDE

NODES = 20  # Gauss-Legendre nodes a panel
PANELS = 2  # panels from the start of the span to t: 40 nodes hold exp(-40) to float64
REACH, MOST = 12, 256  # what |F| times a panel of 20 nodes may be for float64, and the panels that are still followed
FEW = 8  # nodes of a short panel: e^4 to float64
SPAN_PANELS = 128  # short panels of the span where Psi is carried in the order of time


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


def one_clock(entries: sp.Matrix) -> tuple[sp.Expr, sp.Matrix] | None:
    """(c, A) with entries = c A and no time in A, or None."""
    lead = sp.factor_terms(next(e for e in entries if e != 0))
    timed = {symbol for e in entries for symbol in e.free_symbols if symbol in (s, t) or symbol.name.endswith("_st")}
    _, clock = lead.as_independent(*timed, as_Add=False)
    direction = entries.applyfunc(lambda e: cancelled(e / clock))
    return None if direction.free_symbols & timed else (clock, direction)


def stationary_law(sde: LinearSDE) -> sp.Matrix | None:
    """The constant S with F S + S F^T + G G^T = 0 in the words of let, where it exists and is short."""
    try:
        law = stationary_words(sde)
    except Unsupported:
        return None
    return law if sum(sp.count_ops(e) for e in law) < 200 else None


class Library:
    """The functions collected for one module, callees first, each once; the one mutable thing of the lowering."""

    def __init__(self, sde: LinearSDE, params: Iterable[str]) -> None:
        self.sde = sde
        self.params = tuple(params)
        self.functions: dict[str, Function] = {}
        self.taken = {*self.params, *sde.let, *sde.state}
        self._rest: tuple[sp.Matrix | None] | None = None

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
        function = Function(name, template, params, uses, data)
        if self.functions.setdefault(name, function) != function:
            raise ProgramError(f"{name} would be two functions of one module")
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

    def quadrature(self) -> str:
        counts = (NODES,) if self.sde.n == 1 else (FEW, NODES)
        return self.add("gauss_legendre", "helpers/gauss_legendre", counts=counts)

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

    # -- propagators -------------------------------------------------------------------------------------------------

    def transition(self, name: str, generator: sp.Matrix, doc: str) -> str:
        """X(t, s) with dX/dt = generator X, X(s, s) = I; t < s is allowed.  (..., n, n)."""
        n = generator.shape[0]
        written = self.sde.written_out(generator)
        if self.sde.schedule is not None and generator == -self.sde.F_let:  # alpha is given: nothing to integrate
            given = (self.alpha(), self.static("matrix"))
            return self.add(name, "transition_inverse", (), given, generator=generator, doc=doc)
        if not commutes(written):
            rate = self.matrix(f"{name}_rate", -generator, f"Minus the generator of {name}.")
            uses = (self.quadrature(), self.ordered(), self.pieces(), rate, *self.fineness())
            return self.add(
                name, "transition_ordered", (), uses, n=n, rate=rate, few=FEW, doc=doc, generator=generator
            )
        integrals = [self.integrated(e) for e in generator]
        entries = sp.Matrix(n, n, [value for value, _ in integrals])
        used = tuple(dict.fromkeys(use for _, uses in integrals for use in uses))
        helper, template = {1: (None, "transition_scalar"), 2: ("exponential", "transition_pair")}.get(
            n, ("exponential_n", "transition_n")
        )
        data: dict[str, Any] = {}
        if n > 2 and (split := one_clock(entries)) is not None:
            helper, template = "exponential_on_clock", "transition_clock"
            data = dict(zip(("clock", "direction"), split, strict=True))
        below = (self.static(helper, self.static("matrix")),) if helper else ()
        return self.add(
            name, template, generator, (*used, self.static("matrix"), *below), doc=doc, n=n, generator=generator,
            entries=entries, **data,
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
        uses = (self.quadrature(), self.psi(), self.diffusion(), *self.fineness())
        return self.add(
            "sigma", "sigma_by_quadrature", (sde.initial[0, 0],), uses, start=sde.time[0],
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

    def offset(self) -> str:
        """o(t, start), (..., n, m + 1): (1 - alpha) mu of one block that is drawn to mu, else the integral of Psi b."""
        sde, doc = self.sde, f"What {' and '.join((*self.sde.constant, 'one'))} are multiplied with in the mean of z_t."
        kept = offset.equilibrium(sde) if sde.n == 1 and sde.schedule is None else None
        drift = sde.offset_terms_let
        if kept is None:
            needs = (self.quadrature(), self.psi(), self.offset_rate(), *self.fineness())
            return self.add("offset", "offset", (), needs, start=sde.time[0], panels=PANELS, doc=doc)
        exponent, uses = self.integrated(sde.F_let[0, 0])
        return self.add(
            "offset", "offset_scalar", (*kept, sde.F_let[0, 0], *drift), (*uses, self.static("matrix")), doc=doc,
            entries=(-expm1(exponent) * kept).applyfunc(sp.sympify), start=sde.time[0],
            integrals=tuple((use.removeprefix("integral_"), use) for use in uses),
            lets=self.timeless_lets((exponent, *kept)),
        )  # fmt: skip

    def reverse_drift(self) -> str | None:
        """[R | e] of lift.py, for one block e alone; None where there is no lift."""
        sde, found = self.sde, lifted(self.sde)
        if found is None:
            return None
        needs = [self.quadrature(), self.psi(), self.diffusion(), self.drift()]
        needs.append(self.matrix("lift", found.lift, "b: G G^T b is the drift on rows of the data with noise of their own."))
        changing = not found.change.is_zero_matrix
        if changing:
            needs.append(self.matrix("lift_change", found.change, "b'."))
        moved = not sde.offset_let.is_zero_matrix
        own = (*(sde.state if sde.n > 1 else ()), *((*sde.constant, "one") if moved else ()))
        doc = f"What {', '.join(own[:-1])} and {own[-1]} are multiplied with in the reverse SDE beside the network's output."
        if sde.n == 1:
            needs += [self.sigma(), *self.fineness()]
            return self.add("reverse_drift", "reverse_drift_scalar", (), needs, panels=PANELS, doc=doc, changing=changing)
        near = self._reverse_near(found, needs, changing)
        uses = [near, self.whitening(), self.close(), self.drift(), self.diffusion(), *self.fineness()]
        if moved:
            uses += [self.offset(), self.offset_rate()]
        return self.add("reverse_drift", "reverse_drift", (), uses, moved=moved, doc=doc)

    def _reverse_near(self, found: Lift, needs: list[str], changing: bool) -> str:
        sde, law, change = self.sde, self._law(), noise_change(self.sde)
        needs += [self.static("matrix"), self.static("lower"), self.collocation()]
        needs.append(self.matrix("lift_rest", found.rest, "What the drift has beside G G^T b."))
        if law["ordered"]:
            needs += [self.ordered(), f"{law['psi']}_rate"]
        sharp, spread = ([i for i in range(sde.n) if (sde.initial_let[i, i] != 0) == started] for started in (False, True))
        if not change.is_zero_matrix:
            needs.append(self.matrix("noise_change", change, "(G G^T)'."))
        data = dict(sharp=sharp, spread=spread, own=own_rows(sde), changing=changing, louder=not change.is_zero_matrix)
        return self.add("reverse_near", "reverse_near", law["initial"], needs, **data, **law)

    # -- the law of z_t ----------------------------------------------------------------------------------------------

    @property
    def order(self) -> list[int] | None:
        """The blocks with the data first, or None where they stand so already."""
        order = [*self.sde.data, *(i for i in range(self.sde.n) if i not in self.sde.data)]
        return None if order == list(range(self.sde.n)) else order

    def _law(self) -> dict[str, Any]:
        """What the functions of the law share: Psi and its push from the start, and the factor of the start."""
        sde, psi = self.sde, self.psi()
        ordered = self.functions[psi].template == "transition_ordered"
        push = self.carried() if ordered else psi
        initial = sde.initial_let.applyfunc(sp.sqrt)
        columns = [j for j in range(sde.n) if initial[j, j] != 0]
        start = initial[:, columns] if columns else sp.zeros(sde.n, 0)
        return dict(
            psi=psi, push=push, push_times=("t",) if ordered else ("t", "torch.full_like(t, START)"), n=sde.n,
            ordered=ordered, initial=start, order=self.order, panels=PANELS, lets=self.timeless_lets(start),
        )  # fmt: skip

    def carried(self) -> str:
        """Psi(t, START) of an F that does not commute with itself."""
        psi, helper = self.psi(), self.ordered()
        uses = (self.quadrature(), helper, self.pieces(), f"{psi}_rate", *self.fineness())
        return self.add("carried", "carried", (), uses, psi=psi, n=self.sde.n, panels=SPAN_PANELS, few=FEW)

    def ordered(self) -> str:
        return self.static("ordered", self.collocation())

    def collocation(self) -> str:
        uses = (self.quadrature(),)
        if self.sde.n == 1:  # one rule of quadrature
            return self.add("collocation", "helpers/collocation", (), uses, single=True)
        return self.add("collocation", "helpers/collocation", (), uses)

    def graded(self) -> str:
        """The lower factor of noise whose rows begin alike, of graded.py."""
        return self.static("graded", self.quadrature(), self.collocation(), self.static("lower_in"))

    def diffusion(self) -> str:
        G = self.sde.G_let
        return self.matrix("diffusion", G, f"G(t), (..., {G.shape[0]}, {G.shape[1]})")

    def pulled(self) -> str:
        """W at the start of the span, of the module docstring."""
        law = self._law()
        uses = [self.quadrature(), self.static("matrix"), self.static("lower"), law["psi"], self.diffusion()]
        if law["ordered"]:
            uses += [self.ordered(), f"{law['psi']}_rate"]
        return self.add("pulled", "pulled", law["initial"], uses, **law)

    def settled(self) -> bool:
        """Adds the factor of Sigma_t far from the data, from the stationary law, and says whether there is one."""
        if self._rest is None:
            self._rest = (stationary_law(self.sde),)
        (rest,), order = self._rest, self.order
        if rest is not None:
            gap = sp.Matrix(self.sde.initial_let) - rest
            permuted = f"[..., {order}, :][..., {order}]" if order else ""
            lets = self.timeless_lets((*rest, *gap))
            self.add(
                "settled", "settled", (*rest, *gap), (self.static("matrix"),), law=rest, gap=gap, permuted=permuted, lets=lets
            )
        return rest is not None

    def gathered(self) -> str:
        """The factor of Sigma_t from the columns of its noise pulled to t: in between, and where there is no stationary law."""
        law, order = self._law(), self.order
        uses = [self.quadrature(), self.static("matrix"), self.static("lower"), law["psi"], self.diffusion(), self.drift()]
        uses += [self.pieces(), *self.fineness()]
        if law["ordered"]:
            uses += [self.ordered(), f"{law['psi']}_rate"]
        rows = f"[..., {order}, :]" if order else ""
        return self.add("gathered", "gathered", law["initial"], uses, rows=rows, **law)

    def pieces(self) -> str:
        return self.add("pieces", "helpers/pieces", reach=REACH, most=MOST)

    def cut(self) -> str:
        """The pieces of a step."""
        return self.add("cut", "helpers/cut", uses=(self.pieces(), *self.fineness()))

    def offset_rate(self) -> str:
        own = " and ".join((*self.sde.constant, "one"))
        return self.matrix("offset_rate", self.sde.offset_terms_let, f"What {own} are multiplied with in the drift.")

    def drift(self) -> str:
        return self.matrix("drift", self.sde.F_let, "F(t).")

    def close(self) -> str:
        """Where z_t is so close to the data that its law is carried from the start."""
        law = self._law()
        uses = (*(("settled",) if self.settled() else ()), law["push"], self.drift(), self.pulled(), *self.fineness())
        return self.add("close", "close", (), uses, law=self.settled(), reach=REACH // 3 if law["ordered"] else REACH, **law)

    def whitening(self) -> str:
        """(Z, K, lead) of the module docstring, for two blocks or more."""
        law, order = self._law(), self.order
        place = [order.index(i) for i in range(self.sde.n)] if order else None
        uses = (*(("settled",) if self.settled() else ()), law["push"], self.pulled(), self.gathered())
        return self.add("whitening", "whitening", (), uses, place=place, law=self.settled(), **law)

    def denoiser(self) -> str:
        """(skip, out, inp, sigma) of the bridge."""
        return self.add("denoiser", "denoiser", (), (self.whitening(), self.close()))

    def edm(self) -> str:
        """(skip, out, inp, told) of an EDM-preconditioned network behind the bridge."""
        return self.add("edm", "edm", (sp.Symbol("sigma_data", real=True),), (self.whitening(), self.close()), n=self.sde.n)

    def cholesky(self, kind: str) -> str:
        """(out, inverse): out = -L^-T for the lower (or upper) Cholesky factor of Sigma, and its inverse -L^T."""
        uses = (self.whitening(), self.close(), self.static("lower"))
        return self.add(f"eps_{kind}", f"eps_{kind}", (), uses, n=self.sde.n)

    def turning(self) -> str:
        """Om of O' = Om O, with what whitens: R = K O is gDDIM's frame."""
        return self.add("turning", "turning", (), (self.whitening(), self.diffusion(), self.drift()))

    def rotation(self) -> str:
        """O(t1, t0): R_t = K O solves R' = (F + G G^T Sigma^-1 / 2) R."""
        uses = (self.log_nodes(), self.cut(), self.drift(), self.turning(), self.ordered(), self.reach())
        return self.add("rotation", "rotation", (), uses, n=self.sde.n)

    def reach(self) -> str:
        return self.static("log_reach", self.log_nodes(), self.collocation())

    def log_nodes(self) -> str:
        """The nodes of a step, fewer on a grid of short steps."""
        few = FEW if self.sde.n > 1 else None
        return self.add("log_nodes", "helpers/log_nodes", (), (self.quadrature(),), few=few, panels=2 * SPAN_PANELS)

    def transport_score(self, kind: str | None) -> str:
        """(Psi, gap = (Psi - U) Sigma at t0): the step of order one in the frame eps-R, on the score; with ``kind`` on the
        output of a network of that Cholesky factor, or of the frame itself ("gddim"), gap C_out."""
        nodes = self.log_nodes()
        uses = [nodes, self.psi(), self.whitening(), self.turning(), self.ordered(), self.reach(), self.close()]
        uses += [self.cut(), self.drift()]
        if kind is not None:
            uses.append(self.gddim() if kind == "gddim" else self.cholesky(kind))
        return self.add("transport_score", "transport_score", (), uses, kind=kind, n=self.sde.n)

    def gddim(self) -> str:
        """(out, inverse) at t0 and at t1 for R_t anchored at the data end of the grid, O = I there."""
        uses = (self.whitening(), self.close(), self.rotation())
        return self.add("eps_gddim", "eps_gddim", (), uses, n=self.sde.n)

    def tweedie(self, kind: str | None) -> str:
        """(pull, lift), a row a data block: its mean is pull z + lift s; with ``kind`` + lift eps, of a Cholesky factor."""
        uses = (self.whitening(), self.close(), self.pulled(), *((self.cholesky(kind),) if kind else ()))
        several = {"data": self.sde.data} if len(self.sde.data) > 1 else {}
        return self.add("tweedie", "tweedie", (), uses, kind=kind, **several)

    # -- formulas ----------------------------------------------------------------------------------------------------

    def time_of(self) -> str:
        """The time at which lambda = log(alpha/sigma) has a value; d lambda/dt = -G^2 / (2 sigma^2)."""
        flat = self.sde.F.is_zero_matrix
        noise = self.diffusion()
        uses = (self.sigma(), *(() if flat else (self.alpha(),)), noise)
        return self.add("time_of", "time_of", (), uses, flat=flat)

    def log_sigma(self) -> sp.Expr | None:
        """log sigma as a sum in t, where sigma is one power and alpha = 1 (VE): its differences keep all digits."""
        function = self.functions[self.sigma()]
        if function.template != "sigma_grown" or function.data["variance"].is_Add:
            return None
        factors = sp.Mul.make_args(function.data["variance"])
        logs = (
            f.args[0] if isinstance(f, sp.exp) else f.exp * sp.log(f.base) if f.is_Pow else sp.log(f) for f in factors
        )
        return sum(logs, sp.S.Zero) / 2

    def phi(self, order: int) -> str:
        """phi_k(x) = int_0^1 exp((1 - r) x) r^(k-1)/(k-1)! dr."""
        uses = () if order == 1 else (self.quadrature(),)
        return self.add(f"phi_{order}", "phi_function", (), uses, order=order)

    def start(self) -> str:
        """The lower factor of the covariance at a time: what the start of a run is drawn with."""
        if self.sde.n == 1:
            return self.add("start_factor", "start_scalar", (), (self.sigma(),))
        return self.add("start_factor", "start", (), (self.whitening(), self.close(), self.static("lower")))
