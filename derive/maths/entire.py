"""The entire functions in which the exponential of a 2 x 2 matrix is written without a case for its eigenvalues.

    C_k(x) = 0F1(; k + 1/2; x/4),    C_0 = cosh sqrt(x),    C_1 = sinh sqrt(x) / sqrt(x)

All C_k are entire with C_k(0) = 1, so under, critical and over damping are one formula.  For a 2 x 2 matrix M with
a = tr M / 2 and x = a^2 - det M (Cayley-Hamilton):

    exp(M) = e^a (C_0(x) I + C_1(x) (M - a I))
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mpmath
import sympy as sp

from .bounded import tame


class C(sp.Function):
    """C(k, x) = 0F1(; k + 1/2; x/4): entire in x, C(k, 0) = 1, dC(k, x)/dx = C(k+1, x) / (4k + 2).

    >>> from sympy.abc import x
    >>> C(0, x).diff(x), C(1, 0)
    (C(1, x)/2, 1)
    """

    nargs = 2

    @classmethod
    def eval(cls, k: Any, x: Any) -> Any:
        return sp.S.One if x.is_zero else None

    def fdiff(self, argindex: int = 2) -> sp.Expr:
        if argindex != 2:
            raise sp.ArgumentIndexError(self, argindex)
        k, x = self.args
        return C(k + 1, x) / (4 * k + 2)

    def _eval_evalf(self, prec: int) -> sp.Expr | None:
        k, x = self.args
        value = x._eval_evalf(prec) if not x.is_number else x.evalf(mpmath.libmp.prec_to_dps(prec) + 5)
        if not value.is_number:
            return None
        with mpmath.workprec(prec + 20):
            return sp.Expr._from_mpmath(mpmath.hyp0f1(mpmath.mpf(int(k)) + 0.5, value._to_mpmath(prec + 20) / 4), prec)

    def _latex(self, printer: Any, exp: str | None = None) -> str:
        k, x = self.args
        power = f"^{{{exp}}}" if exp else ""
        return rf"C_{{{k}}}{power}\left({printer._print(x)}\right)"


def exponential(M: sp.Matrix, meaning: Callable[[sp.Expr], sp.Expr] = lambda e: e) -> sp.Matrix:
    """exp(M) of a 1 x 1 or 2 x 2 matrix, exact for every parameter value.

    ``meaning`` writes out the words that M is spelled in, so that x = 0 is seen where it holds identically (critical
    damping): the exponential is then nilpotent.  Raises ValueError for larger matrices: they take the numeric route.
    """
    if M.shape == (1, 1):
        return sp.Matrix([[sp.exp(M[0, 0])]])
    if M.shape != (2, 2):
        raise ValueError(f"no closed exponential for a {M.shape[0]} x {M.shape[1]} matrix")
    a = (M[0, 0] + M[1, 1]) / 2
    half = (M[0, 0] - M[1, 1]) / 2
    x = half**2 + M[0, 1] * M[1, 0]
    plain = meaning(x)
    x = sp.S.Zero if tame(plain) and sp.expand(plain) == 0 else sp.factor_terms(x)
    deviator = sp.Matrix([[half, M[0, 1]], [M[1, 0], -half]])
    return sp.exp(a) * (C(0, x) * sp.eye(2) + C(1, x) * deviator)
