"""A module executed at one random point, and held there to the law and to the program in balls.

A point is parameters, each within a factor of two of its default (between 0 and 1/2 where that is 0; drawn again where the
diffusion is refused), and a grid with one row of every program.  At it

    coefficients   |c - exact| of each update, relative to the largest coefficient of the update
    start          |L L^T - Sigma|_ij relative to sqrt(Sigma_ii Sigma_jj), and the mean of the start
    step, denoise  z' = A z + b + N xi on a random affine network, relative to the sizes of what is added up

with the balls of derive/proofs/reference.py and the affine maps of measure/probe.py.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from stepsmith.derive.maths.balls import arb, floats
from stepsmith.derive.method import Method
from stepsmith.derive.program import UNIT, Evaluate, Normal
from stepsmith.derive.proofs.reference import ExactStep, Lines, Reference, reference
from stepsmith.derive.sde.sound import check_values
from stepsmith.errors import CertificateError, InputError, Unsupported
from stepsmith.measure.probe import AffineMap, affine_map
from stepsmith.runtime.sampler import steps_of

TABLE, STEP = 1e-12, 1e-11  # errors that are allowed
LIMITS = {"coefficients": TABLE, "start": TABLE, "step": STEP, "denoise": STEP}
SETTING: dict[str, Any] = {"terms": 32, "precision": 240, "accuracy": 80}  # of the balls
STILL = 1e-4  # a change of log sigma_hat over a step that is too small to be divided by
HUGE = 1e100  # a coefficient that an emitted module need not reach
SPREADS = (0.0, *(1.0,) * 8, *(0.5,) * 4, *(0.25,) * 4, 0.1, 0.03, 0.0, 0.0)  # octaves around the defaults, try after try


@dataclass(frozen=True)
class Point:
    """Where a module is executed: its parameters, the times of a grid, and the value of a field."""

    params: Mapping[str, float]
    times: tuple[float, ...]
    field: float


class Refused(Exception):
    """The diffusion, or the module for a reason that it may have, says no at these parameters: others are drawn."""


def points(method: Method, seed: int) -> Iterator[Point]:
    """The default parameters, then random ones, nearer to the defaults the longer they are refused; random grids, and random
    values of a field after 0, the mean of a picture.
    """
    rng, sde = random.Random(f"{seed} {method.digest}"), method.sde
    start, end = sde.time
    for spread in SPREADS:
        params = {name: _near(value, spread, rng) for name, value in method.params.items()}
        times = [start + (end - start) * rng.uniform(0.6, 0.95)]
        for _ in range(max(1, len(method.rows.warmup)) + 1 + len(method.rows.ending)):
            times.append(start + (times[-1] - start) * rng.uniform(0.35, 0.85))
        yield Point(params, tuple(times), rng.uniform(0.0, 20.0) if sde.field and spread else 0.0)


def _near(value: float, spread: float, rng: random.Random) -> float:
    octaves, share = rng.uniform(-spread, spread), rng.uniform(0.0, spread / 2)
    return value * 2**octaves if value else share


@dataclass(frozen=True)
class Affine:
    """A network of the certificate: outputs = W inputs + bias + tilt * time, the same at every place of a component."""

    W: tuple[tuple[float, ...], ...]
    bias: tuple[float, ...]
    tilt: tuple[float, ...]
    calls: list[int]

    @classmethod
    def drawn(cls, inputs: int, outputs: int, rng: random.Random) -> Affine:
        draw = lambda: rng.choice((-1, 1)) * rng.uniform(0.2, 1.0)  # noqa: E731
        W = tuple(tuple(draw() for _ in range(inputs)) for _ in range(outputs))
        return cls(W, tuple(draw() for _ in W), tuple(draw() for _ in W), [])

    def __call__(self, inputs: Sequence[torch.Tensor], time: Any) -> tuple[torch.Tensor, ...]:
        self.calls.append(len(inputs))
        z = torch.stack(tuple(inputs), -1)
        W, bias, tilt = (torch.tensor(v, dtype=z.dtype) for v in (self.W, self.bias, self.tilt))
        return (z @ W.mT + bias + tilt * float(time)).unbind(-1)

    @property
    def size(self) -> Affine:
        """The network of the absolute values, for the size of what is added up."""
        W = tuple(tuple(map(abs, row)) for row in self.W)
        return Affine(W, tuple(map(abs, self.bias)), tuple(map(abs, self.tilt)), [])


class Executed:
    """A module at one point, and what it should give there."""

    def __init__(self, method: Method, module: Any, point: Point) -> None:
        self.method, self.module, self.point = method, module, point
        self.field = {method.sde.field: torch.tensor(point.field, dtype=torch.float64)} if method.sde.field else {}
        self.steps = len(point.times) - 1
        self.rows = (*range(len(method.rows.warmup)), *range(max(1, len(method.rows.warmup)), self.steps))  # one a program
        self.network = Affine.drawn(method.inputs, method.outputs, random.Random(0))

    def errors(self) -> Iterator[tuple[str, float]]:
        """The errors, claim by claim; CertificateError where one is above its limit."""
        self._sound()
        self._moves()
        try:
            table = self._asked(self.module.coefficients, list(self.point.times))
            if table.shape != (self.steps, len(self.module.COEFFICIENTS)):
                raise self._failed(f"the table is {tuple(table.shape)} for {self.steps} steps")
            yield "start", self._start(self.exact)
            for i, step in self.exact_steps.items():
                yield "coefficients", self._coefficients(i, table[i], step)
                yield from self._steps(i, table[i].unbind(), *step.lines())
        except Unsupported as error:
            raise Refused(error.reason) from None

    @cached_property
    def exact(self) -> Reference:
        """The method at this point in balls."""
        params = {**self.method.params, **self.point.params, **dict.fromkeys(self.field, self.point.field)}
        return reference(self.method, params, **SETTING)

    @cached_property
    def exact_steps(self) -> dict[int, ExactStep]:
        """The rows that are looked at, one of every program."""
        times = [arb(time) for time in self.point.times]
        return {i: self.exact.at(times, i) for i in self.rows}

    def _sound(self) -> None:
        """Refused where the diffusion would not be accepted with these defaults."""
        sde = self.method.sde
        own = {name: value for name, value in self.point.params.items() if name in sde.params}
        try:
            check_values("-", replace(sde, params=sde.values(own)))
        except InputError as error:
            raise Refused(error.what) from None

    def _moves(self) -> None:
        """Refused where the effective sigma, by whose change a multistep method divides, stands still over a step."""
        sde, times = self.method.sde, self.point.times
        if not self.method.program.history or sde.field or len(sde.data) > 1:
            return
        levels = np.log(self.exact.view.effective_sigma(np.array(times)))
        for (begin, high), (end, low) in itertools.pairwise(zip(times, levels, strict=True)):
            if not high - low > STILL:
                raise Refused(
                    f"the noise ends: from t = {begin:.6g} to {end:.6g} the effective sigma changes by {high - low:.1e} of itself"
                )

    def _asked(self, function: Callable[..., Any], *times: Any) -> Any:
        """What a function of the module gives.  It may refuse rates, and coefficients that are large indeed; no more."""
        try:
            return torch.as_tensor(function(*times, **self.field, **self.point.params))
        except Exception as error:
            said = str(error)
            rates, size = "too large" in said or "too fast" in said, "float64 does not hold" in said
            if isinstance(error, ValueError) and (rates or (size and not self._mild())):
                raise Refused(said) from None
            raise self._failed(f"{function.__name__} raises {type(error).__name__} ({said})") from error

    def _mild(self) -> bool:
        """Whether every coefficient of the grid is a number that float64 holds with room."""
        times = [arb(time) for time in self.point.times]
        rows = (self.exact.row(times, i) for i in range(self.steps))
        return all(abs(float(arb(c).mid())) < HUGE for row in rows for c in row.values())

    def _failed(self, what: str) -> CertificateError:
        params = ", ".join(f"{name} = {value:.6g}" for name, value in self.point.params.items())
        return CertificateError(self.method.name, f"{what}, at {params or 'no parameters'}")

    def _coefficients(self, i: int, row: torch.Tensor, step: ExactStep) -> float:
        column, error = step.worst(dict(zip(self.module.COEFFICIENTS, row.tolist(), strict=True)))
        if not error <= TABLE:
            raise self._failed(f"the column {column} {self._place(i)} is off by {error:.1e} of its update")
        return error

    def _place(self, i: int) -> str:
        return f"of row {i}, {self.point.times[i]:.6g} -> {self.point.times[i + 1]:.6g},"

    def _start(self, exact: Reference) -> float:
        """The error of the factor and of the mean of the start, and of what leads to it from the next time."""
        (time, earlier, *_), view = self.point.times, exact.view
        law = torch.from_numpy(floats(view.exact_covariance(time)))
        scale = law.diagonal().sqrt()
        L = self._asked(self.module.start, time)
        if L.shape != law.shape or L.triu(1).any() or not (L.diagonal() > 0).all():
            raise self._failed("start is no lower factor")
        found = float(((L @ L.mT - law).abs() / scale / scale[:, None]).max())
        psi = torch.from_numpy(floats(view.exact_transition(time, self.method.sde.time[0])))
        data, told = psi[:, list(self.method.sde.data)], self._asked(self.module.start_data, time)
        if told.shape[:2] != data.shape:
            raise self._failed("start_data is no matrix of a column a data block")
        found = max(found, float(((told.reshape(data.shape) - data).abs() / data.abs().max().clamp_min(1e-300)).max()))
        if hasattr(self.module, "start_mean"):
            mean = torch.from_numpy(floats(view.exact_offset(time, self.method.sde.time[0])))
            size = torch.maximum(mean.abs().max(), scale.max())
            found = max(found, float((self._asked(self.module.start_mean, time) - mean).abs().max() / size))
        if hasattr(self.module, "transition"):
            psi = torch.from_numpy(floats(view.exact_transition(time, earlier)))
            told = self._asked(self.module.transition, time, earlier)
            if told.shape != psi.shape:
                raise self._failed("transition is no matrix of a row and a column a block")
            found = max(found, float((told - psi).abs().max() / psi.abs().max().clamp_min(1e-300)))
        if not found <= TABLE:
            raise self._failed(f"start at the time {time:.6g} is off by {found:.1e} of the law")
        return found

    def _steps(self, i: int, row: Sequence[torch.Tensor], lines: Lines, last: Lines) -> Iterator[tuple[str, float]]:
        """The error of an executed step, and of ``denoise`` after the last one."""
        program, (step, draws) = self.method.rows.at(i, self.steps), steps_of(self.module, self.steps)[i]
        ends = (*program.result, *program.carry)
        yield "step", self._compared(row, step, draws, lines, ends, f"the step {self._place(i)}")
        if last.ops and i == self.steps - 1:
            data = dict(zip(self.method.sde.data, program.last_results, strict=True))
            ends = (*(data.get(k, name) for k, name in enumerate(program.components)), *program.history)
            denoise = lambda state, c, network, noise, history: (self.module.denoise(state, c, network), history)  # noqa: E731
            yield "denoise", self._compared(row, denoise, 0, last, ends, "denoise")

    def _compared(
        self, row: Sequence[Any], step: Callable[..., Any], draws: int, lines: Lines, results: tuple[str, ...], place: str
    ) -> float:
        """The error of the affine map of an executed function, relative to the sizes of what is added up in it."""
        self.network.calls.clear()
        try:
            emitted = affine_map(self.module, row, self.network, step=step, draws=draws)
        except Exception as error:
            raise self._failed(f"{place} fails on an affine network ({type(error).__name__}: {error})") from error
        asked = [len(op.inputs) for op in lines.ops if isinstance(op, Evaluate)]
        if self.network.calls != asked:
            raise self._failed(f"{place} calls the network {len(self.network.calls)} times, the program {len(asked)}")
        normals = [op.output for op in lines.ops if isinstance(op, Normal)]
        true, size = (
            affine_map(self.module, row, network, step=own, draws=len(normals))
            for network, own in (
                (self.network, self._program_step(lines, results, normals, float)),
                (self.network.size, self._program_step(lines, results, normals, abs)),
            )
        )
        found = max(_gap(emitted, true, size))
        if not found <= STEP:
            raise self._failed(f"{place} is off by {found:.1e} of the program's affine map")
        return found

    def _program_step(
        self, lines: Lines, results: tuple[str, ...], normals: Sequence[str], of: Callable[[float], float]
    ) -> Callable[..., Any]:
        """The program's own lines as a step, every coefficient through ``of``."""
        program = self.method.program

        def step(state: Any, c: Any, network: Any, noise: Any = (), history: Any = ()) -> tuple[Any, Any]:
            known = {UNIT: torch.ones_like(state[0])}
            for names, values in ((program.components, state), (program.history, history), (normals, noise)):
                known.update(zip(names, values, strict=True))

            def value(name: str) -> torch.Tensor:
                return sum((of(w) * known[base] for base, w in lines.forms[name].items()), torch.zeros_like(state[0]))

            clock = iter(map(of, lines.times))
            for op in lines.ops:
                if isinstance(op, Evaluate):
                    known.update(zip(op.outputs, network(tuple(map(value, op.inputs)), next(clock)), strict=True))
            ends = tuple(map(value, results))
            return ends[: len(state)], ends[len(state) :]

        return step


def _gap(emitted: AffineMap, true: AffineMap, size: AffineMap) -> Iterable[float]:
    """The errors of A, b and N N^T, each row relative to the largest of its sizes; b to that of its row of A too."""
    noise, largest = size.N @ size.N.mT, size.A.amax(-1)
    pairs = (
        (emitted.A, true.A, largest[:, None]),
        (emitted.b, true.b, torch.maximum(size.b, largest)),
        (emitted.N @ emitted.N.mT, true.N @ true.N.mT, (noise.diagonal() * noise.diagonal()[:, None]).sqrt()),
    )
    for found, wanted, scale in pairs:
        yield float(((found - wanted).abs() / scale.clamp_min(1e-300)).max())
