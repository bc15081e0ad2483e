"""The family adams: a multistep method of order 1 to 4 that is exact where the frozen quantity is a polynomial in a clock.

    frame      the quantity r that the outputs of the network are turned into, and that is interpolated
    clock      the variable u of the interpolation: log (of the signal-to-noise ratio), theta = -arctan(sigma/sigma_data), or an
               expression in t and the parameters
    order      how many outputs the step uses
    corrector  whether the step first corrects the state with the output at t0: what the step before would have been, had it
               known that output (the idea of UniPC, arXiv 2302.04867); no further call
    noise      eta, an expression in t, the parameters, the effective sigma ``sigma_hat`` and, of one block in the clock log,
               the step ``h`` in it: the reverse SDE dz = (F z - (1 + eta) G G^T s/2) dt + sqrt(eta) G dw is sampled, whose
               marginals are those of the diffusion for every eta >= 0
    skew       of several blocks: Q s with a skew matrix Q is added to the drift, which leaves the marginals as they are, so
               that what the scalar denoiser sees, y, follows the probability flow of one block, dy/dlog(sigma_hat) = y - D:
               the other blocks then change nothing about y

    Q = (g p^T - p g^T)/(2 p^T Sigma^-1 p),  g = G G^T Sigma^-1 p,      dz/dt = F z - (G G^T/2 - Q) s

With noise a step pulls z - p r (p r the mean, r the data) together by exp(-int eta dlambda) more than the probability flow
does, lambda = -log(sigma_hat) of one block, and draws what is lacking:

    eta = 1                                  the reverse SDE
    eta = tau^2                              SA-Solver (arXiv 2309.05019), SDE-DPM-Solver++ (arXiv 2211.01095)
    eta = -log(1 + e^2 expm1(-2 h))/(2 h)    DDIM with its own eta = e (arXiv 2010.02502)
    eta = sigma_hat phi'/phi - 1             ER-SDE of a function phi(sigma_hat) (arXiv 2309.06169)

The first rows of a grid use the outputs that there are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stepsmith.errors import InputError

from ..spec import sources as spec

FRAMES = ("x0", "gaussian", "v", "eps-R")
KEYS = ("order", "frame", "clock", "corrector", "noise", "skew")
MOST = 4


@dataclass(frozen=True)
class Adams:
    """The settings of a sampler of this family; ``clock`` is log, theta or the text of an expression, ``noise`` that of eta."""

    order: int
    frame: str = "x0"
    clock: str = "log"
    corrector: bool = False
    noise: str | float = 0
    skew: bool = False

    @property
    def random(self) -> bool:
        """Whether a step draws noise."""
        return self.noise not in (0, "0")

    @property
    def history(self) -> int:
        """How many earlier values of r a step reads."""
        return self.order if self.corrector else self.order - 1


def read(where: str, table: Mapping[str, Any]) -> Adams:
    """The settings of a spec; InputError names the key that does not fit."""
    settings = Adams(**{key: table[key] for key in KEYS if key in table}) if "order" in table else None
    if settings is None or isinstance(settings.order, bool) or settings.order not in range(1, MOST + 1):
        raise InputError(where, "sampler.order", f"a sampler of this family has an order of 1 to {MOST}", "write order = 2")
    if settings.frame not in FRAMES:
        what = f"{spec.shown(settings.frame)} is not one of {', '.join(FRAMES)}"
        raise InputError(where, "sampler.frame", what, "choose one of them")
    if not isinstance(settings.clock, str):
        what = f"{spec.shown(settings.clock)} is no clock"
        raise InputError(where, "sampler.clock", what, 'write log, theta or an expression such as "sqrt(t)"')
    for key in ("corrector", "skew"):
        if not isinstance(value := getattr(settings, key), bool):
            what = f"{spec.shown(value)} is neither true nor false"
            raise InputError(where, f"sampler.{key}", what, "write true or false")
    if settings.random and table.get("target") != "sde":
        raise InputError(where, "sampler.target", "the steps draw noise", 'say target = "sde"')
    if not settings.random and table.get("target", "ode") != "ode":
        what = "the step of the family adams without noise is one of the probability flow"
        raise InputError(where, "sampler.target", what, 'write noise = "eta", or leave out target')
    return settings
