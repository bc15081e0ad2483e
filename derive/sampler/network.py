"""Score parameterisations: what a network's output has to do with the score.

    s(z, t) = C_skip(t) z + C_out(t) n(C_in(t) z, C_noise(t))

With alpha, sigma of one block (z = alpha x_0 + sigma eps), and Z, W, sigma_eff of host.py for n blocks:

    name       C_skip                   C_out                 C_in                 C_noise
    score      0                        I                     I                    t
    eps-L      0                        -L^-T                 I                    t       lower Cholesky of Sigma
    eps-U      0                        -U^-T                 I                    t       upper Cholesky
    eps-R      0                        -R^-T                 I                    t       gDDIM's R, O = I at the grid's end
    x0         -Sigma^-1                Sigma^-1 Psi e        I                    t       n predicts the data
    v          -1/S                     -alpha/(sigma S)      I                    t       S = alpha^2 + sigma^2, one block
    denoiser   -Sigma^-1                Sigma^-1 Psi e        sigma_eff Z[0]       sigma_eff       the bridge
    edm        as denoiser with D(y) = c_skip y + c_out n(c_in y, ln(sigma_eff)/4)

Where the SDE has an offset, z stands for z - o(t, start) (offset.py); the networks whose C_in is I are given z itself and the
constant components behind it.

For one block eps-L = eps-U = eps-R is the epsilon of DDPM, s = -eps/sigma.  EDM's factors are those of arXiv 2206.00364,
table 1: c_skip = d^2/(s^2 + d^2), c_out = s d/sqrt(s^2 + d^2), c_in = 1/sqrt(s^2 + d^2), d = sigma_data.
"""

from __future__ import annotations

from dataclasses import dataclass

import sympy as sp

from stepsmith.errors import InputError, Unsupported

from ..maths.calculus import t
from ..sde.linear import LinearSDE

NETWORKS = ("denoiser", "x0", "v", "score", "eps-L", "eps-U", "eps-R", "edm")
BRIDGES = ("denoiser", "edm")
EDM_SIGMA_DATA = 0.5


@dataclass(frozen=True)
class ScoreParameterization:
    """A parameterisation of the user's own, in t and the parameters of the SDE: s = skip z + out n(inp z, noise).

    skip (n, n), out (n, k), inp (j, n) for a network of j inputs and k outputs; noise is the time it is told.
    """

    name: str
    skip: sp.ImmutableMatrix
    out: sp.ImmutableMatrix
    inp: sp.ImmutableMatrix
    noise: sp.Expr = t


@dataclass(frozen=True)
class Score:
    """A parameterisation at one time of the step, in host symbols.  ``inverse`` (k, n): out inverted, where it can be."""

    skip: sp.Matrix
    out: sp.Matrix
    inp: sp.Matrix
    noise: sp.Expr
    inverse: sp.Matrix | None


def checked(network: str | ScoreParameterization, sde: LinearSDE) -> str | ScoreParameterization:
    """The network, if the SDE has that parameterisation; InputError or Unsupported with the mend otherwise."""
    if isinstance(network, ScoreParameterization):
        return network  # given.py has checked it
    if network not in NETWORKS:
        raise InputError("-", "network", f"no parameterisation {network!r}", f"choose from {', '.join(NETWORKS)}")
    if network in (*BRIDGES, "x0") and len(sde.data) != 1:
        raise InputError(
            sde.name,
            "data",
            f"the bridge needs one data block, and {sde.name} has {len(sde.data)}",
            "give the other blocks an initial variance",
        )
    if network == "v" and sde.n > 1:
        raise Unsupported(f"v is defined for one block, {sde.name} has {sde.n}", "use denoiser, x0 or eps-R")
    return network


def scalar(network: str, alpha: sp.Expr, sigma: sp.Expr, time: sp.Expr, sigma_data: sp.Expr) -> tuple[sp.Expr, ...]:
    """(skip, out, inp, noise) of a named parameterisation of one block with z = alpha x_0 + sigma eps."""
    S = alpha**2 + sigma**2
    ratio = sigma / alpha
    table = {
        "score": (0, 1, 1, time),
        "x0": (-1 / sigma**2, alpha / sigma**2, 1, time),
        "v": (-1 / S, -alpha / (sigma * S), 1, time),
        "denoiser": (-1 / sigma**2, alpha / sigma**2, 1 / alpha, ratio),
        "edm": (
            -1 / (sigma**2 + alpha**2 * sigma_data**2),
            sigma_data / (sigma * sp.sqrt(ratio**2 + sigma_data**2)),
            1 / (alpha * sp.sqrt(ratio**2 + sigma_data**2)),
            sp.log(ratio) / 4,
        ),
    }
    eps = (0, -1 / sigma, 1, time)
    return tuple(sp.sympify(e) for e in table.get(network, eps))


def spread(network: str, alpha: sp.Expr, sigma: sp.Expr, sigma_data: sp.Expr) -> sp.Expr | None:
    """sqrt(S) with C_skip = -1/S of one block, or None where C_skip = 0.

    The propagator of F + G^2/(2S) is then sqrt(S_1/S_0), for S = sigma^2 + c alpha^2 with any constant c.
    """
    return {
        "x0": sigma,
        "denoiser": sigma,
        "v": sp.sqrt(alpha**2 + sigma**2),
        "edm": sp.sqrt(sigma**2 + alpha**2 * sigma_data**2),
    }.get(network)
