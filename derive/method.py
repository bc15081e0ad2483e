"""A Method: a sampler derived for a diffusion and a network; what ``stepsmith.derive(...)`` returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import stepsmith
from stepsmith.errors import InputError

from . import describe
from .budget import within
from .lower import lower
from .program import StepProgram
from .sampler import Sampler, load_sampler
from .score import BRIDGES, ScoreParameterization
from .sde import LinearSDE, load_sde


@dataclass(frozen=True)
class Method:
    """One step of ``sampler`` on ``sde`` for a network of the given parameterisation, as a verified program.

    ``nfe`` network calls and ``draws`` normal draws a step.  ``order`` (deterministic), ``weak_order``, ``strong_order``
    and ``local_error`` are None until they are derived; nothing is printed that was not.
    """

    sde: LinearSDE
    sampler: Sampler
    network: str | ScoreParameterization
    frame: str | ScoreParameterization | None
    program: StepProgram
    order: int | None = None
    weak_order: float | None = None
    strong_order: float | None = None
    local_error: Any = None

    @property
    def nfe(self) -> int:
        return self.program.nfe

    @property
    def draws(self) -> int:
        return self.program.draws

    @property
    def network_name(self) -> str:
        return self.network if isinstance(self.network, str) else self.network.name

    @property
    def frame_name(self) -> str:
        frame = self.frame if self.frame is not None else self.network
        return frame if isinstance(frame, str) else frame.name

    @property
    def name(self) -> str:
        """The name of the emitted module: <sde>_<sampler>[_<network>][_in_<frame>], dashes as underscores."""
        parts = [self.sde.name, self.sampler.name]
        if self.network_name != "denoiser":
            parts.append(self.network_name)
        if self.frame is not None and self.frame != self.network:
            parts.append(f"in_{self.frame_name}")
        return "_".join(parts).replace("-", "_").lower()

    @property
    def inputs(self) -> int:
        """How many tensors the network is given."""
        if isinstance(self.network, ScoreParameterization):
            return int(self.network.inp.shape[0])
        return 1 if self.network in BRIDGES else self.sde.n

    @property
    def outputs(self) -> int:
        """How many tensors the network gives."""
        if isinstance(self.network, ScoreParameterization):
            return int(self.network.out.shape[1])
        return 1 if self.network in (*BRIDGES, "x0") else self.sde.n

    @cached_property
    def title(self) -> str:
        return describe.title(self)

    @cached_property
    def about(self) -> list[str]:
        return describe.about(self)

    @property
    def version(self) -> str:
        return stepsmith.__version__


@within("the derivation")
def derive(
    sde: Any, sampler: Any, network: str | ScoreParameterization = "denoiser", frame: str | ScoreParameterization | None = None,
    target: str | None = None, params: Mapping[str, float] | None = None,
) -> Method:  # fmt: skip
    """The sampler derived for the diffusion: sources as in ``load_sde`` and ``load_sampler``.

    ``network`` says what the network gives (a name of DESIGN section 3 or a ScoreParameterization), ``frame`` the
    quantity that a conjugate sampler freezes over the step (None: the network's own output), ``target`` "ode" or "sde"
    overrides the sampler's, ``params`` overrides the defaults that the emitted module shall have.

    Raises InputError for bad input and Unsupported for what cannot be derived, both before any long work.
    """
    sde, sampler = load_sde(sde), load_sampler(sampler)
    if target is not None:
        if target not in ("ode", "sde"):
            raise InputError("-", "target", f"{target!r} is not ode or sde", "choose one of them")
        sampler = replace(sampler, target=target)
    own = {k: v for k, v in (params or {}).items() if k in sampler.params}
    sampler = replace(sampler, params={**sampler.params, **{k: float(v) for k, v in own.items()}})
    values = sde.values({k: v for k, v in (params or {}).items() if k not in own})
    return Method(sde, sampler, network, frame, lower(sde, sampler, network, frame, values))
