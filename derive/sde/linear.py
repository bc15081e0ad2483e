"""Linear SDEs: dz = (F(t) z + b(t)) dt + G(t) dw, the record (equations.py) with the methods that a user calls.

One or more blocks start at a data point, the others at independent centred Gaussians of known variance.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sympy as sp

from stepsmith.errors import InputError

from ..maths.budget import within
from ..maths.calculus import exact
from ..maths.notation import latex
from ..spec import sources as spec
from . import closed, offset
from .equations import Equations
from .numeric import NumericSDE


@dataclass(frozen=True)
class Reverse:
    """Reverse-time dynamics, time running down from T: dz = (F z + b - score s) dt + noise^(1/2) dw, dt < 0.

    ``score`` = (G G^T + V)/2 multiplies the score s = grad log p_t(z); ``noise`` = V = eta^2 G G^T (arXiv 2206.05564).
    """

    linear: sp.Matrix
    offset: sp.Matrix
    score: sp.Matrix
    noise: sp.Matrix


@dataclass(frozen=True)
class LinearSDE(Equations):
    """A linear SDE: the fields of ``Equations``, its transition, covariance, stationary law and reverse dynamics."""

    def _repr_latex_(self) -> str:
        """dz = F z dt + G dw, for a notebook."""
        F = latex(self.F_let)
        drift = rf"\left({F} z + {latex(self.offset_let)}\right)" if any(self.offset_let) else f"{F} z"
        return rf"$\displaystyle dz = {drift}\,dt + {latex(self.G_let)}\,dw$"

    def commutes(self) -> bool:
        """Whether [F(t), F(s)] = 0 for all t and s, so that exp of the integral of F is the transition."""
        return closed.commutes(self.F)

    @within("the transition")
    def transition(self, t: sp.Expr, s: sp.Expr) -> sp.Matrix:
        """Psi(t, s), n x n: z_t = Psi(t, s) z_s + o(t, s) + noise; t < s is allowed.  Unsupported without a closed form."""
        return closed.transition_words(self, sp.sympify(t), sp.sympify(s)).written_out(self)

    @within("the offset of the mean")
    def mean_offset(self, t: sp.Expr, s: sp.Expr) -> sp.Matrix:
        """o(t, s), n x 1, linear in the constant components: o' = F o + offset, o(s, s) = 0.  Unsupported as above."""
        return offset.mean_words(self, sp.sympify(t), sp.sympify(s)).written_out(self)

    @within("the covariance")
    def covariance(self, t: sp.Expr) -> sp.Matrix:
        """Sigma_t, n x n: the law of z_t given the data point.  Solves S' = F S + S F^T + G G^T."""
        return closed.covariance_words(self, sp.sympify(t)).written_out(self)

    @within("the stationary law")
    def stationary(self) -> sp.Matrix:
        """S_inf with F S + S F^T + G G^T = 0 for all t.  Unsupported where no constant S solves it."""
        return closed.stationary(self)

    def reverse(self, eta: Any = 1) -> Reverse:
        """The reverse dynamics with noise eta^2 G G^T; eta = 0 is the probability flow, eta = 1 the reverse SDE."""
        noise = sp.sympify(eta) ** 2 * self.GG
        return Reverse(sp.Matrix(self.F), sp.Matrix(self.offset), (self.GG + noise) / 2, sp.Matrix(noise))

    def at(self, **params: float) -> NumericSDE:
        """The numeric view at these parameter values (defaults for the rest): numpy float64 from 80-digit arithmetic.

        A field is given like a parameter; it is that of the constant image, 0, unless it is.
        """
        at = {self.field: float(params.pop(self.field, 0.0))} if self.field else {}
        return NumericSDE(self, {**self.values(params), **at})

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
