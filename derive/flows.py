"""Propagators of a diffusion, its alpha and sigma, and its offset, as host functions of an emitted module."""

from __future__ import annotations

from typing import Any

import sympy as sp
from sympy.codegen.cfunctions import expm1

from . import offset
from .bounded import cancelled, tame, tidied
from .calculus import careful, exact, increment, is_zero, plain, s, t
from .kernel import commutes
from .leaves import FEW, PANELS, Leaves, depends_on_time

SPAN_PANELS = 128  # short panels of the span where Psi is carried in the order of time


def one_clock(entries: sp.Matrix) -> tuple[sp.Expr, sp.Matrix] | None:
    """(c, A) with entries = c A and no time in A, or None."""
    lead = sp.factor_terms(next(e for e in entries if e != 0))
    timed = {symbol for e in entries for symbol in e.free_symbols if symbol in (s, t) or symbol.name.endswith("_st")}
    _, clock = lead.as_independent(*timed, as_Add=False)
    direction = entries.applyfunc(lambda e: cancelled(e / clock))
    return None if direction.free_symbols & timed else (clock, direction)


class Flows(Leaves):
    """The functions collected for one module, with the propagators."""

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

    def carried(self) -> str:
        """Psi(t, START) of an F that does not commute with itself."""
        psi, helper = self.psi(), self.ordered()
        uses = (self.quadrature(), helper, self.pieces(), f"{psi}_rate", *self.fineness())
        return self.add("carried", "carried", (), uses, psi=psi, n=self.sde.n, panels=SPAN_PANELS, few=FEW)

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
                "sigma", "sigma_stationary", (law, sde.initial_let[0, 0], sde.F_let[0, 0]), uses, law=law, start=sde.time[0],
                variance=sde.initial_let[0, 0], exponent=expr, lets=self.timeless_lets((expr, sde.initial_let[0, 0])),
                integrals=tuple((use.removeprefix("integral_"), use) for use in uses),
            )  # fmt: skip
        if f == 0 and (growth := increment(g2, t, s)) is not None:
            variance = self._collected(
                sde.initial[0, 0] + plain(growth.subs(s, start)), sde.initial[0, 0] + growth.subs(s, start)
            )
            return self.add("sigma", "sigma_grown", (g2, sde.initial[0, 0]), variance=variance)
        uses = (self.quadrature(), self.psi(), self.diffusion(), *(() if sde.field else (self.panels_to(),)))
        return self.add(
            "sigma", "sigma_by_quadrature", (sde.initial_let[0, 0],), uses, start=sde.time[0],
            variance=sde.initial_let[0, 0], lets=self.timeless_lets((sde.initial_let[0, 0],)),
            panels=PANELS,
        )  # fmt: skip

    def _given(self, name: str, expr: sp.Expr, doc: str) -> str:
        """alpha or sigma as the user wrote it, cancellations against 1 mended."""
        return self.add(name, f"{name}_given", (expr,), expr=careful(expr), lets=self.lets((expr,)), doc=doc)

    @staticmethod
    def _collected(simple: sp.Expr, careful: sp.Expr) -> sp.Expr:
        """The single power that a variance may collapse to (VE: sigma_min^2 ratio^(2t)), else the careful form."""
        collapsed = sp.powsimp(sp.expand(simple)) if tame(simple) else simple
        return collapsed if not collapsed.is_Add and is_zero(collapsed - simple) else careful

    def offset(self) -> str:
        """o(t, start), (..., n, m + 1): (1 - alpha) mu of one block that is drawn to mu, else the integral of Psi b."""
        sde, doc = self.sde, f"What {' and '.join((*self.sde.constant, 'one'))} are multiplied with in the mean of z_t."
        kept = offset.equilibrium(sde) if sde.n == 1 and sde.schedule is None else None
        drift = sde.offset_terms_let
        if kept is None:
            needs = (self.quadrature(), self.psi(), self.offset_rate(), self.panels_to())
            return self.add("offset", "offset", (), needs, start=sde.time[0], doc=doc)
        exponent, uses = self.integrated(sde.F_let[0, 0])
        return self.add(
            "offset", "offset_scalar", (*kept, sde.F_let[0, 0], *drift), (*uses, self.static("matrix")), doc=doc,
            entries=(-expm1(exponent) * kept).applyfunc(sp.sympify), start=sde.time[0],
            integrals=tuple((use.removeprefix("integral_"), use) for use in uses),
            lets=self.timeless_lets((exponent, *kept)),
        )  # fmt: skip

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
