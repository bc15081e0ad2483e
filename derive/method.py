"""A Method: a sampler derived for a diffusion and a network; what ``stepsmith.derive(...)`` returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from stepsmith.errors import InputError

from . import describe, given
from .lower import lower_rows
from .maths.budget import within
from .maths.notation import html_table
from .orders import local, moments, stability, strong
from .orders.leading import leading_error
from .orders.symbolic import ErrorTerm
from .program import StepProgram
from .program.forms import layout
from .program.rows import Rows
from .sampler.network import FLOW, ScoreParameterization, kind_of, name_of, velocity
from .sampler.sampler import Sampler, load_sampler
from .sde.linear import LinearSDE
from .sde.load import load_sde
from .sde.sound import LARGE


def module_name(sde: str, sampler: str, network: str, frame: str | None) -> str:
    """<sde>_<sampler>[_<network>][_in_<frame>] in lower case, dashes as underscores: an identifier of Python."""
    parts = [sde, sampler, *([network] if network != "denoiser" else []), *([f"in_{frame}"] if frame else [])]
    return "_".join(parts).replace("-", "_").lower()


@dataclass(frozen=True, repr=False)
class Method:
    """One step of ``sampler`` on ``sde`` for a network of the given parameterisation, as a verified program.

    ``warmup`` are the programs of rows 0, 1, ... of a grid, ``ending`` those of its last rows, the last one last; both are
    empty but for samplers that say so.

    ``nfe`` network calls and ``draws`` normal draws a step.  ``order`` (of a whole run, None where noise is drawn),
    ``step_order`` (of the common step alone), ``weak_order``, ``strong_order`` and ``local_error`` are derived when they are
    asked for (derive/orders); what cannot be derived is None and printed as a dash, or as none with the reason ``why``.
    """

    sde: LinearSDE
    sampler: Sampler
    network: str | ScoreParameterization
    frame: str | ScoreParameterization | None
    program: StepProgram
    warmup: tuple[StepProgram, ...] = ()
    ending: tuple[StepProgram, ...] = ()
    table: StepProgram | None = None

    def __repr__(self) -> str:
        calls, draws = (f"{n} {word}{'' if n == 1 else 's'}" for n, word in ((self.nfe, "network call"), (self.draws, "draw")))
        return f"Method({self.name}: {calls}, {draws} a step)"

    def _repr_latex_(self) -> str | None:
        """The leading local error, for a notebook; None where none is written."""
        terms = self.local_error
        return None if not terms else r"$\displaystyle " + r",\quad ".join(term.latex() for term in terms) + "$"

    def _repr_html_(self) -> str:
        """What it is, its cost, its order and its leading local error, for a notebook."""
        terms = {f"local error of {term.block}": f"${term.latex()}$" for term in self.local_error or ()}
        about = {"diffusion": self.sde.name, "sampler": f"{self.sampler.name}: {self.sampler.text or self.sampler.family}"}
        return html_table({"method": self.title, **about, "cost": describe.cost(self), "order": describe.claims(self), **terms})

    @property
    def rows(self) -> Rows:
        """All programs, and which of them each row of a grid belongs to."""
        return Rows(self.program, self.warmup, self.ending, self.table)

    @property
    def params(self) -> dict[str, float]:
        """The parameters of the emitted module with their defaults, those of all programs."""
        return self.rows.params

    @property
    def digest(self) -> str:
        """sha256 of all programs as text."""
        return self.rows.digest

    @property
    def nfe(self) -> int:
        return self.program.nfe

    @property
    def draws(self) -> int:
        return len(layout(self.program).draws)

    @property
    def random(self) -> bool:
        """Whether any row of a run draws noise."""
        return any(program.draws for program in self.rows)

    @cached_property
    def order(self) -> int | None:
        """The order of a run of a deterministic method, in z and t (orders/local.py); None where it is not zero-stable."""
        return self._verdict.order

    @cached_property
    def why(self) -> str:
        """Why a run has no order, or where its order is higher; empty where there is nothing to say."""
        return self._verdict.why

    @cached_property
    def _verdict(self) -> local.Verdict:
        return local.verdict(self)

    @cached_property
    def step_order(self) -> int | None:
        """The order of the common step of a deterministic method, its first and last rows left out of account."""
        return self._verdict.step

    @cached_property
    def weak_order(self) -> int | None:
        """The weak order, at most 2, of a run that draws noise (orders/moments.py)."""
        return moments.weak_order(self) if self.random and self._few_draws and not self.why else None

    @cached_property
    def strong_order(self) -> float | None:
        """The strong order, at most 3/2, of a one-step method that draws noise, its draws coupled at their best."""
        return strong.strong_order(self) if self._one_step else None

    @property
    def _few_draws(self) -> bool:
        """Whether the moments of a step are polynomials of a size that can be asked for."""
        return max(program.draws for program in self.rows) <= moments.MOST_DRAWS

    @property
    def _one_step(self) -> bool:
        several = self.program.history or self.warmup or self.ending or self.sampler.adams is not None
        return self.random and self._few_draws and not several

    @cached_property
    def local_error(self) -> tuple[ErrorTerm, ...] | None:
        """The leading local error of the common step, one ErrorTerm a block; None where noise is drawn or none is written."""
        order = self.step_order
        return None if order is None else leading_error(self, order)

    def stability(self, variance: float = 0.25, steps: int = 50) -> stability.Stability:
        """Spectral radii, largest stable steps and conditions on data N(0, variance) (orders/stability.py)."""
        return stability.stability(self, variance, steps)

    def on(self, sde: LinearSDE, network: str | ScoreParameterization) -> Method:
        """The same sampler on another diffusion, for another network."""
        return _derived(sde, self.sampler, network, None, {})

    @property
    def network_name(self) -> str:
        return name_of(self.network)

    @property
    def frame_name(self) -> str:
        return name_of(self.frame if self.frame is not None else self.network)

    @property
    def name(self) -> str:
        """The name of the emitted module: <sde>_<sampler>[_<network>][_in_<frame>], dashes as underscores."""
        frame = self.frame_name if self.frame is not None and self.frame != self.network else None
        return module_name(self.sde.name, self.sampler.name, self.network_name, frame)

    @property
    def inputs(self) -> int:
        """How many tensors the network is given."""
        return kind_of(self.network).inputs(self.sde)

    @property
    def outputs(self) -> int:
        """How many tensors the network gives."""
        return kind_of(self.network).outputs(self.sde)

    @cached_property
    def title(self) -> str:
        return describe.title(self)

    @cached_property
    def about(self) -> list[str]:
        return describe.about(self)


@within("the derivation")
def derive(
    sde: Any, sampler: Any, network: str | ScoreParameterization = "denoiser", frame: str | ScoreParameterization | None = None,
    target: str | None = None, params: Mapping[str, float] | None = None,
) -> Method:  # fmt: skip
    """Derive the step of a sampler for a diffusion, with its cost; its orders and leading error follow when they are asked for.

    ``sde`` and ``sampler`` are whatever ``load_sde`` and ``load_sampler`` take. ``network`` says what the network predicts
    (denoiser, eps-L, eps-R, x0, v, flow, ..., or a ScoreParameterization). ``frame`` is the quantity that a conjugate step or
    part holds constant (None: the network's own output). ``target``, "ode" or "sde", replaces that of the sampler, and
    ``params`` the defaults of the emitted module.

    Raises InputError for bad input and Unsupported for what cannot be derived, both before any long work.
    """
    sde, sampler = load_sde(sde), load_sampler(sampler)
    given.check_sde(sde)
    given.check_sampler(sampler)
    for each in (network, frame):
        if isinstance(each, ScoreParameterization):
            given.check_parameterization(each, sde)
    if target is not None:
        if target not in ("ode", "sde"):
            raise InputError("-", "target", f"{target!r} is not ode or sde", "choose one of them")
        sampler = replace(sampler, target=target)
    return _derived(sde, sampler, network, frame, params or {})


def _derived(
    sde: LinearSDE, sampler: Sampler, network: str | ScoreParameterization, frame: str | ScoreParameterization | None,
    params: Mapping[str, float],
) -> Method:  # fmt: skip
    own = {k: v for k, v in params.items() if k in sampler.params}
    sampler = replace(sampler, params={**sampler.params, **{k: float(v) for k, v in own.items()}})
    for name, value in sampler.params.items():
        if not abs(value) < LARGE:
            what = f"passes {LARGE:g}, beyond which no order is proven"
            raise InputError(sampler.where, f"sampler.params.{name}", what, "give a smaller one")
    values = sde.values({k: v for k, v in params.items() if k not in own})
    network, frame = velocity(sde) if network == FLOW else network, velocity(sde) if frame == FLOW else frame
    rows = lower_rows(sde, sampler, network, frame, values)
    return Method(sde, sampler, network, frame, rows.step, warmup=rows.warmup, ending=rows.ending, table=rows.table)
