"""Whether the noise and the start of the auxiliary blocks reach every block, so that z_t has a density given the data.

Pulled back to the start, the columns of noise are X G with X' = -X F, X = I at the start, analytic where F and G are.  Sigma_t
is regular for t > start exactly when their Taylor coefficients and the factor of the start span all blocks.
"""

from __future__ import annotations

import flint
import numpy as np
import sympy as sp

from stepsmith.errors import Unsupported

from .balls import arb, eye, joined, linear, mul, scaled, series_of, terms_of
from .sde import LinearSDE

PRECISION = 200


def check_reached(sde: LinearSDE) -> None:
    """Raise Unsupported where no noise moves some block (at the default parameters); silent where F or G is singular at the start."""
    if sde.schedule is not None:
        return
    if sde.G_let.is_zero_matrix:
        raise Unsupported(f"{sde.name} has no noise, so there is no score to follow", "give G an entry")
    n, terms = sde.n, 2 * sde.n + 2
    values = {symbol: arb(sde.params.get(name, 0.0)) for name, symbol in sde.symbols.items()}
    with flint.ctx.workprec(PRECISION), terms_of(terms):
        start = arb(sde.time[0])
        F, G, law = (series_of(sp.Matrix(M), values, start, terms) for M in (sde.F, sde.G, sde.initial))
        pulled = mul(joined(linear(eye(n), terms, M=scaled(F, -1))), G)
        columns = [[pulled[i][j][k] for i in range(n)] for j in range(len(G[0])) for k in range(terms)]
        columns += [[law[i][j][0] for i in range(n)] for j in range(n)]
        found = [[float(e.mid()) for e in column] for column in columns if all(e.is_finite() for e in column)]
    if len(found) < len(columns):
        return
    lengths = [float(np.linalg.norm(column)) for column in found]
    whole = np.array([np.array(column) / size for column, size in zip(found, lengths, strict=True) if size > 0])
    if not len(whole) or np.linalg.matrix_rank(whole, tol=1e-9) < n:
        raise Unsupported(
            f"no noise moves every block of {sde.name}, so z_t has no density given the data and no score",
            "give the block noise, couple it to a block with noise, or give it an initial variance",
        )
