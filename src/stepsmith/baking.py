"""``stepsmith.bake``: a module for one grid and one set of parameters, its table as literals.

The text is handed out once its trajectory, from random states through a network that is not linear, is that of the module it was
made from, to the last place.
"""

from __future__ import annotations

import hashlib
import linecache
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from stepsmith.errors import CertificateError, InputError, Unsupported
from stepsmith.runtime import TimeGrid, modules
from stepsmith.runtime.plan import full_params
from stepsmith.runtime.sampler import steps_of

LIMIT = 1e-15  # of the largest value of a trajectory
LEARNED = 1e-9  # of the largest value at the end of a learned run, whose sums are taken in another order
SEED, BATCH, SIZE = 1, 3, 2  # of the states that a text is held at
State = tuple[torch.Tensor, ...]


def bake(
    source: Any, grid: Any, params: Mapping[str, float] | None = None, *, network_digest: str | None = None,
    about: Sequence[str] = (),
) -> str:  # fmt: skip
    """The text of a module of the same steps for the times of ``grid`` and these parameters alone; it stands on torch.

    ``source``: a Method, a module, or what :func:`load` takes; ``grid``: a TimeGrid or times.  In the text ``TIMES``, the
    ``TABLE`` and the ``FACTOR`` of the start are Python floats, so that a device without float64 runs it.
    ``coefficients(TIMES)`` gives the table; other times or parameters are a ValueError.  ``network_digest``: that of the
    network that the grid was tuned to (``NETWORK_DIGEST``), None for any.  ``about``: lines for the docstring.

    Raises InputError for a grid or parameters that do not fit, Unsupported for a diffusion with a coefficient a frequency,
    CertificateError where the text does not walk the trajectory of the module.
    """
    from stepsmith.templates.baked import Baked, assigned, write

    module = _module(source)
    grid = grid if isinstance(grid, TimeGrid) else TimeGrid.explicit(grid)
    if getattr(module, "FIELD", ""):
        raise Unsupported(f"{module.SDE} has a coefficient a frequency, too many to bake", "use the module itself")
    if hasattr(module, "TIMES"):
        raise InputError("-", "module", "it is baked already", "bake the module that it was made from")
    values, times = full_params(module, params, full=True), grid.times.tolist()
    table, factor, gain, mean = _tables(module, grid, values)
    noisy = any(draws for _, draws in steps_of(module, grid.steps))
    cost = f"{module.nfe(grid.steps)} network calls in all, {'noise at every step' if noisy else 'no noise'}."
    name = f"{module.SDE}_{module.SAMPLER}"
    constants = {
        "PARAMS": f"PARAMS = {assigned(values)}",
        "DIGEST": f'DIGEST = "{digest_of(module.DIGEST, times, values, table)}"',
    }
    text = write(
        Baked(
            source_text(module), times, table, factor, gain, mean, constants,
            about=[f"The grid is {grid.name}, from {times[0]:.6g} to {times[-1]:.6g}; {cost}", *about],
            network_digest=network_digest,
            note=f"Held to {name} (program {module.DIGEST[:12]}): the same trajectory to {LIMIT:g}.",
        )
    )  # fmt: skip
    hold(name, module, modules.from_text(text), grid.times, values)
    return text


def bake_learned(module: Any, linear: Any, times: torch.Tensor, params: Mapping[str, float], **said: Any) -> str:
    """The text of a run that was learned around ``module`` (measure/learning.py): its rows weigh every output so far.

    Raises CertificateError where the text is not that run.
    """
    from stepsmith.templates.baked import Baked, assigned, write
    from stepsmith.templates.printer import listed, literal

    values, rows = full_params(module, params, full=True), linear.table().tolist()
    names = ["y_x", "sigma_hat_0", "x_x", "x_d", *(f"x_d_m{k}" for k in range(1, len(rows))), "y_end_x", "sigma_hat_1"]
    constants = {
        "SAMPLER": f"SAMPLER = {literal(module.SAMPLER + '-learned')}", "HISTORY": f"HISTORY = {len(rows) - 1}",
        "ORDER": "ORDER = None", "COEFFICIENTS": f"COEFFICIENTS = {listed(map(literal, names))}",
        "SIGMA_COLUMNS": 'SIGMA_COLUMNS = ("sigma_hat_0", "sigma_hat_1")', "PARAMS": f"PARAMS = {assigned(values)}",
        "DIGEST": f'DIGEST = "{digest_of(module.DIGEST, times.tolist(), values, rows)}"',
    }  # fmt: skip
    factor, gain = (f(times[0], **values) for f in (module.start, module.start_data))
    name = f"{module.SDE}_{module.SAMPLER}"
    note = f"Learned around {name} (program {module.DIGEST[:12]}): held to what was learned, to {LEARNED:g}."
    text = write(
        Baked(
            source_text(module), times.tolist(), rows, factor.tolist(), gain.tolist(), (), constants,
            note=note, learned=True, **said,
        )
    )  # fmt: skip
    baked = modules.from_text(text)
    normals = torch.randn(BATCH, SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(SEED))
    wanted = linear.run(waves(1), normals)
    state, history = (normals * factor[0, 0],), (torch.zeros_like(normals),) * baked.HISTORY
    for row in baked.TABLE:
        state, history = baked.step(state, row, waves(1), (), history)
    gap = (state[0] - wanted).abs().max().item() / max(1.0, wanted.abs().max().item())
    if not gap <= LEARNED:
        raise CertificateError(name, f"the baked text leaves the learned run by {gap:.1e}")
    return text


def digest_of(*values: Any) -> str:
    """The sha256 of what a table was made from."""
    return hashlib.sha256(repr(values).encode()).hexdigest()


def source_text(module: Any) -> str:
    """The text of a loaded module."""
    return "".join(linecache.getlines(module.__file__))


def hold(name: str, module: Any, baked: Any, times: torch.Tensor, params: Mapping[str, float]) -> None:
    """CertificateError where the baked module's run on Python floats is not that of the module on its table."""
    tables = module.coefficients(times, **params).unbind(), baked.TABLE
    one, two = (trajectory(each, rows) for each, rows in zip((module, baked), tables, strict=True))
    worst = max((a - b).abs().max().item() / max(1.0, a.abs().max().item()) for a, b in zip(one, two, strict=True))
    if not worst <= LIMIT:
        raise CertificateError(name, f"the baked text leaves the module's trajectory by {worst:.1e}")


def waves(outputs: int) -> Callable[[State, Any], State]:
    """A network that is not linear and of the size of its inputs over the noise level."""

    def network(inputs: State, time: Any) -> State:
        level = sum(inputs[1:], inputs[0]) / (1 + abs(float(time)))
        return tuple(level + torch.sin(level + k) for k in range(outputs))

    return network


def trajectory(module: Any, rows: Sequence[Any]) -> list[torch.Tensor]:
    """Every state of a run from random states through a network that is not linear, ``denoise`` last, in float64."""
    random = torch.Generator().manual_seed(SEED)
    draw = lambda: torch.randn(BATCH, SIZE, dtype=torch.float64, generator=random)  # noqa: E731
    network = waves(module.OUTPUTS)
    state: State = tuple(draw() for _ in module.COMPONENTS)
    history: State = (torch.zeros_like(state[0]),) * module.HISTORY
    seen = list(state)
    for row, (step, draws) in zip(rows, steps_of(module, len(rows)), strict=True):
        values = row.unbind() if isinstance(row, torch.Tensor) else row
        state, history = step(state, values, network, tuple(draw() for _ in range(draws)), history)
        seen += state
    last = rows[-1].unbind() if isinstance(rows[-1], torch.Tensor) else rows[-1]
    return [*seen, *module.denoise(state, last, network)]


def _tables(module: Any, grid: TimeGrid, values: Mapping[str, float]) -> tuple[Any, ...]:
    """The table of a grid, and at its first time the factor, what the data are multiplied with, and the rest of the mean."""
    t0 = grid.times[0].item()
    try:
        mean = module.start_mean(t0, **values).tolist() if hasattr(module, "start_mean") else ()
        start = (f(t0, **values).tolist() for f in (module.start, module.start_data))
        return module.coefficients(grid.times, **values).tolist(), *start, mean
    except ValueError as error:
        raise InputError("-", "grid", str(error), "change the grid or the parameters") from error


def _module(source: Any) -> Any:
    """A module from whatever stands for one."""
    import stepsmith

    if hasattr(source, "program"):  # a Method
        return modules.from_text(stepsmith.emit(source))
    if isinstance(source, str) or hasattr(source, "__fspath__"):
        return stepsmith.load(source)
    return modules.check_module(source)
