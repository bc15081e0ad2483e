"""Parts of a program that an expansion runs alone.

A program that corrects its state makes its step from one corrected state to the next:

    predicted state at t0 --head--> corrected state at t0 --tail--> predicted state at t1 --head of the next row--> corrected

A chain of programs that ends with a head asks about the corrected state.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..program import StepProgram
from ..program.passes import live


def head(program: StepProgram) -> StepProgram:
    """The part of a program that makes the corrected state, which is its result."""
    return replace(program, ops=live(program.ops, set(program.corrected)), result=program.corrected, carry=())


def ends_corrected(chain: Sequence[StepProgram]) -> bool:
    return bool(chain[-1].corrected) and chain[-1].result == chain[-1].corrected


def carrying(program: StepProgram) -> StepProgram:
    """The part of a program that makes what it carries out; its result is the state that it was given."""
    return replace(program, ops=live(program.ops, set(program.carry)), result=program.components, corrected=())
