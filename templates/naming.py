"""How the names of a program are spelled in the text: attributes of the diffusion, local variables, entries of tables."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from typing import Any

import sympy as sp

from stepsmith.derive.program import Propagate

from .shake import CORE

# Attributes and methods of the emitted class Diffusion, and names of the emitted module: a user's name is spelled with an
# underscore behind it where it would hide one of them.
METHODS = frozenset(
    """F G L0 b alpha sigma offset time_of change rates panels log_alpha GG self speed order data A clock transition""".split()  # noqa: SIM905
)
GLOBALS = frozenset(
    """torch math Diffusion start start_data start_mean transition coefficients step step_first step_last denoise nfe sde law
    times params state c network noise history table columns rows row like skip out offset zero one Y""".split()  # noqa: SIM905
) | {node.name for node in ast.parse(CORE).body if isinstance(node, ast.FunctionDef | ast.ClassDef)}


def local(name: str) -> str:
    """A name of the program as a variable."""
    return f"{name}_" if name in GLOBALS or (name.isupper() and len(name) > 2) else name


def attribute(name: str) -> str:
    """A parameter or let as an attribute of the diffusion."""
    return f"{name}_" if name in METHODS else name


@dataclass(frozen=True)
class Naming:
    """The spelling of host symbols: parameters and lets are attributes of the diffusion, which ``prefix`` names."""

    attributes: frozenset[str]
    prefix: str

    def __call__(self, name: str) -> str:
        if name in self.attributes:
            return f"{self.prefix}.{attribute(name)}"
        if name in ("alpha", "sigma", "time_of", "log_alpha"):
            return f"{self.prefix}.{name}"
        return name if "[" in name else local(name)


def is_transition(statement: Propagate, sde: Any) -> bool:
    """Whether a linear ODE is the diffusion's own, backward."""
    return sde.n > 1 and statement.rate == sp.ImmutableMatrix(-sde.F_let)
