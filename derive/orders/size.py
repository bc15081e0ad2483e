"""The size of the leading local error on Gaussian data, at the parameters of a method.

For data N(0, S0) the network is linear, D(y, sigma) = S0 y/(S0 + sigma^2), and so is the leading local error: e = C z h^p, p the
order of the step + 1, expanded like a proof (local.py) but at the law of the diffusion, from the unit states all at once.  Its
root mean square over the exact law z ~ N(0, S_t), in standard deviations of a block, is

    |e_b| / std(z_b) = sqrt((C S_t C^T)_bb / (S_t)_bb) h^p,   h the step in t

with equal steps before it where the method has a history.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flint
import numpy as np

from stepsmith.errors import Unsupported

from .history import reach
from .local import MARGINS, LocalError, local_error_at, step_chain, with_terms
from .point import Point
from .rings import PRECISION, Balls
from .series import Series
from .taylor import Setting, Value

SIGMA = 1.0  # the effective sigma at which it is read


def sizes(method: Any, variance: float = 0.25) -> tuple[float, tuple[float, ...]]:
    """(t, what multiplies h^p for each block) of a deterministic method for a denoiser, where the effective sigma is 1.

    Raises Unsupported for several data blocks, a field, an offset, noise, another network, a history that remembers
    itself, and a step that is not consistent.
    """
    sde = method.sde
    plain = len(sde.data) == 1 and not sde.field and not sde.constant and sde.offset_let.is_zero_matrix
    looped = method.program.history and reach(method.program) is None  # its history remembers itself
    if not plain or looped or method.network != "denoiser" or not method.step_order:
        raise Unsupported(f"the size of the error of {method.name} is not derived", "take a deterministic method for a denoiser")
    view = sde.at()
    t0 = _time(view)
    psi, sigma = view.transition(t0, float(sde.time[0])), view.covariance(t0)
    law = sigma + variance * np.outer(psi[:, sde.data[0]], psi[:, sde.data[0]])
    C = _coefficient(method, t0, psi, np.linalg.cholesky(sigma), variance)
    return t0, tuple(float(value) for value in np.sqrt(np.diag(C @ law @ C.T) / np.diag(law)))


def _coefficient(method: Any, t0: float, psi: np.ndarray, low: np.ndarray, variance: float) -> np.ndarray:
    """C, n x n."""
    power, deep = method.step_order + 1, 2 * len(method.program.history)
    unit, chain = np.eye(method.sde.n), step_chain(method)
    with flint.ctx.workprec(PRECISION):
        params = {name: flint.arb(value) for name, value in method.program.params.items()}

        def network(inputs: Sequence[Value], noise: Series) -> tuple[Value]:
            gain = flint.arb(variance) / (noise * noise + flint.arb(variance))
            return ([gain * e for e in inputs[0]],)

        def expanded(margin: int) -> LocalError:
            point = Point(Balls(), method.sde, params, flint.arb(t0), _balls(psi), _balls(low), power + 1 + margin)
            return local_error_at(Setting(point, method, _balls(unit), [], network), chain, power, [1] * len(chain.rows))

        found = with_terms(method, (*MARGINS, MARGINS[-1] + deep), expanded).coefficients[power]
        return np.array([[float(flint.arb(e).mid()) for e in row] for row in found])


def _balls(M: np.ndarray) -> list[list[Any]]:
    return [[flint.arb(float(e)) for e in row] for row in M]


def _time(view: Any) -> float:
    """The time at which the effective sigma is SIGMA, by bisection; the end of the span where it is less throughout."""
    low, high = (float(t) for t in view.sde.time)
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if float(view.effective_sigma(middle)) < SIGMA else (low, middle)
    return high
