"""The family adams: a multistep method of order 1 to 4 that is exact where the frozen quantity is a polynomial in a clock.

    frame      the quantity r that the outputs of the network are turned into, and that is interpolated
    clock      the variable u of the interpolation: log (of the signal-to-noise ratio), theta = -arctan(sigma/sigma_data), or an
               expression in t and the parameters
    order      how many outputs the step uses
    corrector  whether the step first corrects the state with the output at t0: what the step before would have been, had it
               known that output (the idea of UniPC, arXiv 2302.04867); no further call

The first rows of a grid use the outputs that there are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stepsmith.errors import InputError

from ..spec import sources as spec

FRAMES = ("x0", "gaussian", "v", "eps-R")
KEYS = ("order", "frame", "clock", "corrector")
MOST = 4


@dataclass(frozen=True)
class Adams:
    """The settings of a sampler of this family; ``clock`` is log, theta or the text of an expression."""

    order: int
    frame: str = "x0"
    clock: str = "log"
    corrector: bool = False

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
    if not isinstance(settings.corrector, bool):
        what = f"{spec.shown(settings.corrector)} is neither true nor false"
        raise InputError(where, "sampler.corrector", what, "write true or false")
    return settings
