"""How the names of a program are spelled in the text: attributes of the diffusion, local variables, entries of tables."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sympy as sp

from stepsmith.derive.program import Flow, Law, Propagate, StepProgram

# Attributes and methods of the emitted class Diffusion, and names of the emitted module: a user's name is spelled with an
# underscore behind it where it would hide one of them.
METHODS = frozenset(
    ("F", "G", "L0", "b", "alpha", "sigma", "offset", "time_of", "change", "panels", "log_alpha", "GG", "self")
)
GLOBALS = frozenset(
    """torch math gauss integral antiderivative log_integral smooth tail phi matrix propagate columns upper
    lower evolve accumulate Law Diffusion start start_mean coefficients step step_first step_last
    denoise nfe sde law times params state c network noise history table rule rows lower_time upper_time
    row like full Y skip out offset zero one""".split()  # noqa: SIM905
)


def local(name: str) -> str:
    """A name of the program as a variable."""
    return f"{name}_" if name in GLOBALS or (name.isupper() and len(name) > 2) else name


def attribute(name: str) -> str:
    """A parameter or let as an attribute of the diffusion."""
    return f"{name}_" if name in METHODS else name


@dataclass(frozen=True)
class Naming:
    """The spelling of host symbols; ``order`` are the blocks with the data first, None where they stand so already."""

    attributes: frozenset[str]
    prefix: str
    order: tuple[int, ...] | None = None
    axes: Mapping[str, tuple[bool, bool]] = None  # type: ignore[assignment]

    def __call__(self, name: str) -> str:
        if name in self.attributes:
            return f"{self.prefix}.{attribute(name)}"
        if name in ("alpha", "sigma", "time_of", "log_alpha"):
            return f"{self.prefix}.{name}"
        match = re.fullmatch(r"(\w+)\[(\d+), (\d+)\]", name)
        if match is None:
            return local(name)
        stem, i, j = match[1], int(match[2]), int(match[3])
        rows, columns = (self.axes or {}).get(stem, (False, False))
        return f"{stem}[{self.place(i) if rows else i}, {self.place(j) if columns else j}]"

    def place(self, block: int) -> int:
        """Where a block stands with the data first."""
        return self.order.index(block) if self.order else block


def data_first(sde: Any) -> tuple[int, ...] | None:
    """The blocks with the data first; None where they stand so already."""
    order = (*sde.data, *(i for i in range(sde.n) if i not in sde.data))
    return None if order == tuple(range(sde.n)) else order


BRIDGE_AXES = ((True, True), (True, False), (False, True))


def table_axes(programs: list[StepProgram], sde: Any) -> dict[str, tuple[bool, bool]]:
    """Which axes of each table of the law are blocks with the data first; the others are in the order of the state."""
    axes: dict[str, tuple[bool, bool]] = {"skip": (True, True), "offset": (True, False)}
    for statement in (s for program in programs for s in program.host):
        if isinstance(statement, Flow):
            axes.update(zip(statement.targets, ((True, True), (True, False)), strict=False))
        elif isinstance(statement, Propagate):
            if is_transition(statement, sde):
                axes[statement.targets[0]] = (True, True)
            if statement.kind in ("denoiser", "edm"):
                axes["out"] = (True, False)
        elif isinstance(statement, Law):
            axes.update(zip(statement.targets, _law_axes(statement.kind), strict=False))
    return axes


def _law_axes(kind: str) -> tuple[tuple[bool, bool], ...]:
    if kind.startswith("tweedie"):
        return (False, True), (False, kind == "tweedie")
    known = {"offset": ((True, False),), "mean": ((True, False),), "covariance": ((True, True),)}
    return known.get(kind, BRIDGE_AXES if kind in ("denoiser", "edm") else ())


def is_transition(statement: Propagate, sde: Any) -> bool:
    """Whether a linear ODE is the diffusion's own, backward."""
    return sde.n > 1 and statement.rate == sp.ImmutableMatrix(-sde.F_let)
