"""stepsmith.derive: what is true.  SDEs, their kernels, splits and conjugate maps, and the programs made of them.

The package is also the function: ``stepsmith.derive(sde, sampler, ...)`` is ``stepsmith.derive.method.derive``.
"""

from __future__ import annotations

import inspect
import sys
import types

from .method import Method
from .method import derive as _derive
from .program import StepProgram, dump
from .sampler.network import ScoreParameterization
from .sampler.sampler import Sampler, load_sampler
from .sde.linear import LinearSDE
from .sde.load import load_sde
from .spec import sources as spec
from .spec.composition import Token, parse_composition

__all__ = [
    "LinearSDE", "Method", "Sampler", "ScoreParameterization", "StepProgram", "Token", "dump", "list_samplers", "list_sdes",
    "load_sampler", "load_sde", "parse_composition",
]  # fmt: skip


def list_sdes() -> tuple[str, ...]:
    """The names of the catalogue's diffusions."""
    return spec.catalogue("sde")


def list_samplers() -> tuple[str, ...]:
    """The names of the catalogue's samplers."""
    return spec.catalogue("sampler")


class _Callable(types.ModuleType):
    """A module that is called like the function it is named for."""

    __call__ = staticmethod(_derive)


sys.modules[__name__].__class__ = _Callable
__signature__ = inspect.signature(_derive)
_summary, _, _details = (inspect.getdoc(_derive) or "").partition("\n\n")
__doc__ = f"{_summary}\n\nderive{__signature__}\n\n{_details}\n\n{__doc__}"  # help(stepsmith.derive) speaks of the function first
