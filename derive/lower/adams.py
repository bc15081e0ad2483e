"""A step of the family adams (sampler/adams.py), of any number of blocks.

With score = C_skip z + C_out r in the frame, the probability flow is dz/dt = L z + K r, L = F - G G^T C_skip/2 and
K = -G G^T C_out/2.  A step is exact where r is a polynomial in the clock u: with P the propagator of L and r^(k) the
derivatives of the polynomial at t0,

    z' = P z + sum_k M_k r^(k),      M_k = int_t0^t1 P(t1, s) K(s) (u(s) - u_0)^k/k! ds      (the moments of the step)

where the polynomial goes through the values of r at t0 and the times before, by Newton's divided differences

    d01 = (r_0 - r_1)/(u_0 - u_1),   d012 = (d01 - d12)/(u_0 - u_2),   ...

The corrector gives the state at t0 what the step before lacked.  With e what the polynomial of that step misses of the
value of r at t0, and N the polynomial that is 1 there and 0 at the times u_1, u_2, ... that it went through,

    z_c = z + sum_k M_k(t_m1 -> t0) N^(k)(u_1) e,      N(u) = (u - u_1)/(u_0 - u_1) prod_j>1 (1 - (u_0 - u)/(u_0 - u_j)).

With noise (1 + eta) G G^T stands in the place of G G^T, and a step draws C xi at once, the noise of the reverse SDE over it:

    C C^T = int_t1^t0 P(t1, s) eta G G^T(s) P(t1, s)^T ds,

and with a skew drift G G^T/2 - Q in the place of G G^T/2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import sympy as sp
from sympy.codegen.cfunctions import expm1

from stepsmith.errors import Unsupported

from ..maths.bounded import cancelled
from ..maths.calculus import t
from ..program import EARLIER, ONE, Moments, Propagate, Spread, applied, entries
from ..sampler.network import EDM_SIGMA_DATA
from .frames import LETTER, RISE, SIGMA, STEP, WIDTH, clock_of, gained, noise_of, one_block, quantity, rate_of
from .writer import Writer

Values = tuple[str, ...]


@dataclass(frozen=True)
class Span:
    """z_1 = P z_0 + sum_k M_k r^(k) + C xi over a step, in host symbols."""

    P: sp.Matrix
    M: list[sp.Matrix]
    C: sp.Matrix | None = None


class AdamsStep:
    """One program: a step that has ``earlier`` steps before it; with ``table``, one that serves for every row.

    In the latter the gaps to steps that are not there yet are infinite, since1(gap), since2(gap), ..., so that the
    differences across them vanish, and a step out of alpha = 0, infinitely long in the clock log, has its limit: finite(gain).
    """

    def __init__(self, w: Writer, earlier: int, table: bool = False) -> None:
        assert w.sampler.adams is not None
        self.w, self.adams, self.earlier, self.table = w, w.sampler.adams, earlier, table
        w.moments |= {time.name.removeprefix("t_"): time for time in EARLIER}
        w.params |= {WIDTH.name: EDM_SIGMA_DATA}
        self.keys = ("0", *(f"m{k}" for k in range(1, earlier + 1)))
        self.clock, self.noise = clock_of(w.sampler, w.sde), noise_of(w.sampler, w.sde)
        self.found: dict[tuple[int, int], Values] = {}  # the values of r, and their differences

    def run(self) -> tuple[Values, Values, Values, Values]:
        """(the new state, what is carried in, what is carried out, the corrected state)."""
        w, most = self.w, self.adams.history
        w.evaluate(dict(enumerate(w.sde.state)), "0")
        self.found[0, 0] = quantity(w)
        letter = LETTER[self.adams.frame]
        loaded = [tuple(self.fresh(f"{letter}_m{k}{tail}") for tail in self.tails) for k in range(1, most + 1)]
        self.found |= {(k, k): values for k, values in enumerate(loaded[: self.earlier], start=1)}
        count = min(self.earlier, self.adams.order) if self.adams.corrector else 0
        state = self._corrected(count) if count else w.sde.state
        new, carried = self._predicted(state), [self.found[0, 0], *loaded][:most]
        corrected = (*state, *w.sde.constant) if count else ()
        return new, sum(loaded, ()), sum(carried, ()), corrected

    @property
    def tails(self) -> list[str]:
        """What tells the values of r apart where there is one a block."""
        return [""] if len(self.found[0, 0]) == 1 else [f"_{b}" for b in self.w.sde.state]

    def fresh(self, name: str) -> str:
        """The name, or one that no component has."""
        while name in (*self.w.sde.state, *self.w.sde.constant):
            name += "_"
        return name

    def _values(self, stem: str, *terms: tuple[sp.Expr, Values]) -> Values:
        """A combination of values of r, in each of its values."""
        names = [self.fresh(f"{stem}{tail}") for tail in self.tails]
        return self.w.rows(names, *((c * sp.eye(len(names)), values) for c, values in terms))

    # -- the polynomial --------------------------------------------------------------------------------------------------

    def gain(self, new: int, old: int) -> sp.Expr:
        """The clock's gain from ``old`` to ``new`` steps ago; -1 is t1."""
        ends = (self.keys[old], self.keys[new] if new >= 0 else "1")
        found = gained(self.w, self.clock, *ends)
        endless = self.table and self.w.sde.open and not self.w.sde.F.is_zero_matrix and found.has(sp.log)
        return self.w.define(f"du_{ends[1]}_{ends[0]}", applied("finite", found) if endless else found)

    def gap(self, new: int, old: int) -> sp.Expr:
        """The same, where it is divided by."""
        gain = self.gain(new, old)
        name = f"gap_{self.keys[new]}_{self.keys[old]}"
        return self.w.define(name, applied(f"since{old}", gain)) if self.table else gain

    def difference(self, j: int, k: int) -> Values:
        """The divided difference through the values of j to k steps ago."""
        if (j, k) not in self.found:
            tag, gap = "".join(map(str, range(j, k + 1))), self.gap(j, k)
            one, two = self.difference(j, k - 1), self.difference(j + 1, k)
            self.found[j, k] = self._values(f"d{tag}", (1 / gap, one), (-1 / gap, two))
        return self.found[j, k]

    def _slopes(self, degree: int) -> list[Values]:
        """r and its derivatives in the clock at t0, of the polynomial of this degree."""
        v = sp.Dummy("v")
        nodes = [v, *(v + self.gain(0, j) for j in range(1, degree))]
        parts = [dict(derivatives(sp.prod(nodes[:k]), v)) for k in range(degree + 1)]
        slopes = [self.found[0, 0]]
        for k in range(1, degree + 1):
            slopes.append(self._values(f"d{k}", *((parts[m][k], self.difference(0, m)) for m in range(k, degree + 1))))
        return slopes

    # -- the step --------------------------------------------------------------------------------------------------------

    def _predicted(self, state: Values) -> Values:
        w, degree = self.w, min(self.earlier, self.adams.order - 1)
        span, slopes = self.span(-1, degree), self._slopes(degree)
        driven, names = list(zip(span.M, slopes, strict=True)), [f"{b}_new" for b in w.sde.state]
        if span.C is not None:
            driven.append((span.C, tuple(w.normal(f"xi_{b}") for b in w.sde.state)))
        if self.adams.frame == "eps-R" and w.sde.n > 1 and w.kind.predicts == "data":
            return w.rows(names, *self._transported(span.P, state), (w.offset("1"), w.constants), *driven[1:])
        away = w.rows([f"z_{b}" for b in w.sde.state], (sp.eye(w.sde.n), state), (-w.offset("0"), w.constants))
        return w.rows(names, (span.P, away), (w.offset("1"), w.constants), *driven)

    def _transported(self, P: sp.Matrix, state: Values) -> list[tuple[sp.Matrix, Values]]:
        """P (z - o) + M_0 r where z - o = p_0 D + R_0 r, so that P, which grows on the way to the data, cancels by hand.

        What is left is p_1 D + R_1 r, and P times what the corrector added to z.
        """
        w, inverse = self.w, self.w.score_at("eps-R", "1").inverse
        assert inverse is not None
        p1 = w.law("mean", "1", ("p", w.sde.n, 1))[0]
        terms = [(p1, w.asked.output), (-inverse.T, self.found[0, 0])]
        return terms if state == w.sde.state else [(P, state), (-P, w.sde.state), *terms]

    def _corrected(self, count: int) -> Values:
        """z + sum_k M_k N^(k)(u_1) e over the step before, whose polynomial went through the values of ``count`` steps."""
        w, span, gain = self.w, self.span(0, count), self.gain(0, 1)
        weight = sp.zeros(*span.M[0].shape)
        for k, share in enumerate(self._shares(count, gain), start=1):
            weight += span.M[k] * share
        reach = [sp.prod([self.gain(0, j) for j in range(1, k)]) for k in range(1, count + 1)]
        before = ((-c, self.difference(1, k)) for k, c in enumerate(reach, start=1))
        missed = self._values("missed", (ONE, self.found[0, 0]), *before)
        names = [self.fresh(f"{b}_c") for b in w.sde.state]
        return w.rows(names, (sp.eye(w.sde.n), w.sde.state), (weight, missed))

    def _shares(self, count: int, gain: sp.Expr) -> list[sp.Expr]:
        """N^(k)(u_1), k = 1, 2, ...; written in inverse gaps, so that no infinite one stands above a fraction bar."""
        v = sp.Dummy("v")
        inverse = {sp.Dummy(f"g{j}"): 1 / self.gap(0, j) for j in range(1, count + 1)}
        first, *others = inverse
        N = v * first * sp.prod([1 - (gain - v) * g for g in others])
        return [self.w.define(f"share_{k}", c.subs(inverse)) for k, c in derivatives(N, v)[1:]]

    # -- the moments -----------------------------------------------------------------------------------------------------

    def span(self, end: int, degree: int) -> Span:
        """The propagator and the moments of the step that ends ``end`` steps ago; -1 is the step to t1."""
        if self.w.sde.n > 1:
            return self._blocks(end, degree)
        if self.adams.skew:
            raise Unsupported("a skew matrix of one block is zero", "leave skew out, or take a diffusion of several blocks")
        closed = self.adams.clock == "log" and self.adams.frame in ("x0", "eps-R") and not self.noise.has(SIGMA, t)
        return self._closed(end, degree) if closed else self._quadrature(end, degree)

    def _ends(self, end: int) -> tuple[str, str, str]:
        """The mark of what belongs to that step, and the keys of its lower and upper time."""
        return ("", "1", "0") if end < 0 else ("_m1", "0", "m1")

    def _closed(self, end: int, degree: int) -> Span:
        """One block in the clock log, h its gain: M_k = alpha_1 h^(k+1) phi_(k+1)(-h) of x0, -sigma_1 h^(k+1) phi_(k+1)(h) of
        epsilon.
        """
        mark, lower, upper = self._ends(end)
        (a0, s0), (a1, s1) = self.w.alpha_sigma(upper), self.w.alpha_sigma(lower)
        h = self.gain(end, end + 1)
        eta = self.w.define(f"eta{mark}", self.noise.subs(STEP, h)) if self.noise.has(STEP) else self.noise
        if self.adams.frame == "x0":
            ratio, scale, x, spread = s1 / s0 * sp.exp(-eta * h), a1, -(1 + eta) * h, -expm1(-2 * eta * h)
        else:
            ratio, scale, x, spread = a1 / a0, -s1, h, eta * expm1(2 * h)
        moments = [scale * ((1 + eta) * h / x) * (sp.exp(x) - 1)]
        moments += [scale * (1 + eta) * h ** (k + 1) * applied(f"phi{k + 1}", x) for k in range(1, degree + 1)]
        named = [self.w.define(f"moment_{k}{mark}", M) for k, M in enumerate(moments)]
        C = sp.Matrix([[s1 * sp.sqrt(spread)]]) if self.adams.random and end < 0 else None
        return Span(sp.Matrix([[ratio]]), [sp.Matrix([[M]]) for M in named], C)

    def _quadrature(self, end: int, degree: int) -> Span:
        """One block in any frame and clock: the moments along the step, r^(k)' = r^(k+1) u'."""
        sde = self.w.sde
        alpha, sigma = sde.schedule or (ONE if sde.F.is_zero_matrix else applied("alpha", t), applied("sigma", t))
        V = sde.GG_let[0, 0]
        skip, out = one_block(self.adams.frame, alpha, sigma)
        level = {SIGMA: sigma / alpha, RISE: V / (2 * alpha * sigma)}
        tidy = cancelled if sde.schedule is not None else sp.sympify  # at alpha = 0 the whole may have a value
        rate, eta = (tidy(e.subs(level, simultaneous=True)) for e in (rate_of(self.clock), self.noise))
        half = (1 + eta) * V / 2
        top = sp.Matrix([[tidy(-sde.F_let[0, 0] + half * skip), tidy(half * out)]]).row_join(sp.zeros(1, degree))
        shift = sp.Matrix(degree, degree + 2, lambda i, j: -rate if j == i + 2 else 0)
        mark, lower, upper = self._ends(end)
        low, high = self.w.moments[lower], self.w.moments[upper]
        whole = sp.ImmutableMatrix(top.col_join(shift))
        self.w.add(Propagate((f"P{mark}", f"M{mark}"), (1, degree + 1), whole, "", low, high))
        M, C = entries(f"M{mark}", 1, degree + 1), None
        if self.adams.random and end < 0:
            noise = sp.ImmutableMatrix([[sp.sqrt(tidy(eta * V))]])
            self.w.add(Spread("C", sp.ImmutableMatrix(top[:, :1]), noise, (0,), low, high))
            C = entries("C", 1, 1)
        return Span(entries(f"P{mark}", 1, 1), [M[:, k] for k in range(degree + 1)], C)

    def _blocks(self, end: int, degree: int) -> Span:
        """Several blocks."""
        w, n, width = self.w, self.w.sde.n, len(self.tails)
        mark, lower, upper = self._ends(end)
        if (self.adams.random or self.adams.skew) and self.adams.frame == "eps-R":
            what = f"the frame eps-R of {n} blocks is not derived with noise or a skew drift"
            raise Unsupported(what, "use the frame x0 or gaussian")
        variance = WIDTH**2 if self.adams.frame == "gaussian" else sp.S.Zero
        ends = w.moments[lower], w.moments[upper]
        drawn = self.adams.random and end < 0
        targets = (f"P{mark}", f"M{mark}", *(["C"] if drawn else []))
        w.add(Moments(targets, self.adams.frame, degree, rate_of(self.clock), variance, self.noise, self.adams.skew, *ends))
        M, C = entries(f"M{mark}", n, width * (degree + 1)), entries("C", n, n)
        lower_half = sp.Matrix(n, n, lambda i, j: C[i, j] if j <= i else 0) if drawn else None
        P = entries(f"P{mark}", n, n)
        return Span(P, [M[:, k * width : (k + 1) * width] for k in range(degree + 1)], lower_half)


def derivatives(polynomial: sp.Expr, v: sp.Symbol) -> list[tuple[int, sp.Expr]]:
    """(k, the k-th derivative at 0) of a polynomial in v."""
    coefficients = sp.Poly(polynomial, v).all_coeffs()[::-1]
    return [(k, sp.factor_terms(c) * math.factorial(k)) for k, c in enumerate(coefficients)]
