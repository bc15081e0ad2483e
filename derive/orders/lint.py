"""Words of warning about a composition: what costs calls or draws and changes nothing."""

from __future__ import annotations

from typing import Any

from ..lower import raw
from ..program import Evaluate
from ..program.passes import reuse
from ..program.program import sources


def lint(method: Any) -> list[str]:
    """One sentence a finding; none for samplers that are not compositions."""
    sampler = method.sampler
    if not sampler.composition:
        return []
    return [*_idle_calls(method), *_neighbours(sampler), *_doubled_draws(sampler)]


def _idle_calls(method: Any) -> list[str]:
    """Calls that the passes drop: of a state and a time that did not change, or of which nothing is read."""
    program = raw(method.sde, method.sampler, method.network, method.frame, method.params)
    found = []
    if repeated := program.nfe - reuse(program).nfe:
        found.append(
            f"{repeated} of the {program.nfe} network calls see a state and a time that did not change; leave out their !"
        )
    step = method.program
    used = {value for op in step.ops for value in sources(op)} | {*step.result, *step.carry}
    if idle := sum(isinstance(op, Evaluate) and used.isdisjoint(op.outputs) for op in step.ops):
        found.append(f"nothing reads {idle} of the {program.nfe} network calls on {method.sde.name}; leave out their !")
    return found


def _neighbours(sampler: Any) -> list[str]:
    """Equal letters side by side without a fresh evaluation between them."""
    found = []
    for first, second in zip(sampler.composition, sampler.composition[1:], strict=False):
        if first.letter == second.letter and not second.fresh:
            share = first.share + second.share
            found.append(f"{first.letter} stands twice in a row; one {first.letter}({share}) does the same")
    return found


def _doubled_draws(sampler: Any) -> list[str]:
    """A noisy letter that returns before any network call has seen its first draw."""
    found: list[str] = []
    waiting: set[str] = set()
    for before, token in zip((None, *sampler.composition), sampler.composition, strict=False):
        if token.fresh:
            waiting.clear()
        if sampler.parts[token.letter].noise == "none":
            continue
        if token.letter in waiting and (before is None or before.letter != token.letter):
            found.append(
                f"no network call sees the first of two draws of {token.letter}; one draw does the same"
            )
        waiting.add(token.letter)
    return found
