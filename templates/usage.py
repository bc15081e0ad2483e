"""How to run an emitted module, as the end of its docstring says it: lines that a test executes (tests/test_usage.py)."""

from __future__ import annotations

from typing import Any


def usage(method: Any) -> list[str]:
    """How to run the module, in lines that a test executes."""
    rows, sde = method.rows, method.sde
    given = f", {sde.field}={sde.field}" if sde.field else ""
    factor = "ij,j...->i..." if not sde.field else "ij...,jb...->ib..."
    state = f'tuple(torch.einsum("{factor}", L, torch.randn(len(L), *shape, dtype=torch.float64)))'
    lines = [f"table, L = coefficients(times{given}), start(times[0]{given})", f"state = {state}"]
    if sde.constant:
        lines[0] += f"  # {', '.join(sde.constant)}: given, shaped like a component"
        start = "state = tuple(z + sum(m * c for m, c in zip(row, (*given, 1)))"
        lines.append(f"{start} for z, row in zip(state, start_mean(times[0]))) + given")
    if rows.step.history:
        lines.append("history = tuple(torch.zeros(shape) for _ in range(HISTORY))")
    step, draws = "step", "DRAWS"
    ends = [
        (name, k) for name, k, program in (("first", 0, rows.first), ("last", -1, rows.last)) if program is not None
    ]
    if ends:
        special = ", ".join(
            f"{'0' if k == 0 else 'len(table) - 1'}: (step_{name}, DRAWS_{name.upper()})" for name, k in ends
        )
        loop = ["for i, row in enumerate(table):", f"    run, draws = {{{special}}}.get(i, (step, DRAWS))"]
        step, draws = "run", "draws"
    else:
        loop = ["for row in table:"]
    noise = f"tuple(torch.randn(shape) for _ in range({draws}))" if method.random else "()"
    if method.random:
        loop.append(f"    noise = {noise}")
        noise = "noise"
    carried = ", history" if rows.step.history else ""
    given = f", {noise}" if method.random or carried else ""
    tail = f"state, {'history' if carried else '_'} = {step}(state, row.unbind(), network{given}{carried})"
    loop.append(f"    {tail}")
    lines += [*loop, "data = denoise(state, table[-1].unbind(), network)[DATA]"]
    return [
        "To use it, with decreasing times, a network and the shape (batch, ...) of a component:",
        *(f"    {line}" for line in lines),
    ]
