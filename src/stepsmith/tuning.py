"""``stepsmith.tune``: a sampler of the family adams, its grid, and if wanted its times and weights, made for one network.

    1. the paths of K seeds, where a teacher takes them: adams-3 with a corrector on log-SNR, 80 steps
    2. every candidate (measure/choosing.py) on one half of the paths, and the steps of the two best rows searched
    3. the best is kept if it beats adams-3 with a corrector on log-SNR on the other half too; else that is kept
    4. with ``learn`` times and weights (measure/learning.py) on the first half, kept if they win on the other
    5. the certificate of the method that was kept, and the baked module

Only the network is called; no data are needed.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from stepsmith import __version__, baking
from stepsmith.certificate import emit, written
from stepsmith.derive import LinearSDE, load_sde
from stepsmith.derive.method import Method, derive
from stepsmith.errors import InputError, Unsupported
from stepsmith.measure import choosing, learning
from stepsmith.measure.choosing import BASELINE, FIRST, Candidate, Error, Paths, Row
from stepsmith.measure.trials import Trials
from stepsmith.runtime import TimeGrid, modules, parse_seeds, sample
from stepsmith.runtime.grid import followed, span_of
from stepsmith.runtime.networks.base import InParts, conditions
from stepsmith.runtime.noise import seeds_text
from stepsmith.runtime.plan import make_plan
from stepsmith.runtime.sampler import batch_size
from stepsmith.runtime.watch import PREDICT_DATA
from stepsmith.tuned import Tuned, summary

TEACHER, LEAST = 80, 8  # steps of the teacher, seeds at least
LEADERS, SEARCH = 2, 10  # rows whose steps are searched, evaluations of the error for each and a step
EVALUATIONS, TRIAL = 200, 0.25  # of the loss, when learning; the share of them that every start gets


@dataclass(frozen=True, eq=False)
class Bench:
    """What candidates are measured with: a diffusion, a network and its paths; methods and modules of rows as asked for."""

    sde: LinearSDE
    network: Any
    kind: str
    span: tuple[float, float]
    seeds: tuple[int, ...]
    teacher: int
    paths: Paths
    trials: Path | None = None
    progress: bool = False
    methods: dict[Row, Method] = field(default_factory=dict)
    loaded: dict[Row, Any] = field(default_factory=dict)

    def method(self, row: Row) -> Method:
        if row not in self.methods:
            self.methods[row] = derive(self.sde, row.source, self.kind)
        return self.methods[row]

    def module(self, row: Row) -> Any:
        """Of a row, its certificate left for later."""
        if row not in self.loaded:
            self.loaded[row] = modules.from_text(written(self.method(row), certified=False))
        return self.loaded[row]

    def params(self, candidate: Candidate) -> dict[str, float]:
        """The spread of the data, for a frame or a clock that asks for it."""
        return {"sigma_data": self.paths.spread} if "sigma_data" in self.module(candidate.row).PARAMS else {}

    @cached_property
    def law(self) -> Any:
        return followed(self.sde)

    def times(self, candidate: Candidate, nfe: int) -> torch.Tensor:
        return candidate.times(self.law, nfe, *self.span)

    def error(self, candidate: Candidate, nfe: int, half: int) -> Error:
        """On one half of the paths."""
        module, times = self.module(candidate.row), self.times(candidate, nfe)
        return choosing.error_of(module, self.network, times, self.paths.half(half), self.params(candidate))

    def log(self, nfe: int) -> Trials:
        """What was found before with the same network, paths and calls."""
        made = (self.sde.name, self.kind, nfe, self.teacher, self.span, self.paths.starts.tolist(), self.paths.ends.tolist())
        return Trials.of(hashlib.sha256(repr(made).encode()).hexdigest()[:16], self.trials)

    def watched(self, items: Iterable[Any] | None, length: int, what: str) -> Any:
        """With a progress bar and the time left."""
        return tqdm(items, total=length, desc=what, disable=not self.progress)


@dataclass(frozen=True)
class Chosen:
    """The candidate that was kept, its errors on the half that chose and on the other, and those of all candidates."""

    candidate: Candidate
    predicted: Error
    held_out: Error
    baseline: Error
    tried: Mapping[Candidate, Error]


@dataclass(frozen=True, eq=False)
class Learned:
    """The numbers that were learned around a candidate, and their errors on both halves."""

    candidate: Candidate
    base: learning.Base
    th: torch.Tensor
    predicted: Error
    held_out: Error


def tune(
    sde: Any, network: Any, nfe: int, *, seeds: str | int | Iterable[int] = range(64), kind: str | None = None,
    start: float | None = None, end: float | None = None, teacher: int = TEACHER, learn: bool = False,
    certified: int | None = None, evaluations: int = EVALUATIONS, shape: Sequence[int] | None = None, device: str = "cpu",
    cond: Mapping[str, Any] | None = None, batch: int | None = None, trials: Path | None = None, progress: bool = False,
) -> Tuned:  # fmt: skip
    """The sampler of ``nfe`` network calls that is best for this network, as a baked module with its record.

    ``sde`` as in ``load_sde``; ``network`` as in ``sample``, what it predicts in ``kind`` if it does not say so.  ``seeds`` start
    the paths that are tuned on, so judge with others; ``cond``, as in ``sample``, has an entry a seed or one for all, and
    ``batch`` is how many paths the network is called with at a time (all of them unless given).  The grid runs from ``start``
    (the end of the span) to ``end`` (1e-3), an end that is not given within the network's ``sigma_range``.

    ``learn``: times and weights are learned too, with ``evaluations`` of the loss from the best of three starts and a quarter of
    them from the others; ``certified=p``: only such weights that leave what the row gives for polynomials of degree < p.
    ``trials``: a file of lines that keeps what every candidate gave; a run that is stopped goes on from there.

    The error is the distance to the ends of a teacher of ``teacher`` steps, pooled over the paths and the median of the paths.
    Deterministic for given seeds on one machine.  Raises InputError for input that does not fit; Unsupported for a diffusion
    with constants, several data blocks or a coefficient a frequency, and for learning with several blocks.
    """
    bench = prepared(
        sde, network, seeds, kind=kind, start=start, end=end, teacher=teacher, shape=shape, device=device, cond=cond,
        batch=batch, trials=trials, progress=progress,
    )  # fmt: skip
    return tuned(bench, nfe, learn=learn, certified=certified, evaluations=evaluations)


def prepared(
    sde: Any, network: Any, seeds: str | int | Iterable[int], *, kind: str | None, start: float | None, end: float | None,
    teacher: int, shape: Sequence[int] | None = None, device: str = "cpu", cond: Mapping[str, Any] | None = None,
    batch: int | None = None, trials: Path | None = None, progress: bool = False,
) -> Bench:  # fmt: skip
    """The paths of a network, the teacher run, for any numbers of calls; arguments as :func:`tune`."""
    sde, seeds = load_sde(sde), parse_seeds(seeds)
    if sde.constant or sde.field or len(sde.data) != 1:
        raise Unsupported(f"{sde.name} has constants, several data blocks or a coefficient a frequency", "tune another diffusion")
    if len(seeds) < LEAST:
        raise InputError("-", "seeds", f"{len(seeds)} are too few to tune on", f"give {LEAST} or more, 64 by default")
    network = network if batch is None else InParts(network, batch_size(batch, len(seeds)))
    kind = kind or str(getattr(network, "kind", "denoiser"))
    if sde.n > 1 and kind not in PREDICT_DATA:
        what = f"samplers of {sde.n} blocks are tuned for a network that predicts the data, and this one predicts {kind}"
        raise Unsupported(what, "use a network of kind denoiser or x0")
    span = span_of(sde, getattr(network, "sigma_range", None), start, end)
    method = derive(sde, BASELINE.source, kind)
    module = modules.from_text(written(method, certified=False))
    grid = TimeGrid.logsnr(sde, teacher, *span)
    plan = make_plan(module, network, grid, seeds, shape=shape, device=device, dtype=torch.float64)  # refuses what does not fit
    ends = sample(
        module, network, grid, seeds, shape=plan.shape, device=device, dtype=torch.float64, cond=cond, progress=progress
    )
    given = conditions(cond, len(seeds), plan.device)
    paths = Paths(choosing.drawn(module, span[0], seeds, plan.shape, plan.device), ends, given)
    return Bench(sde, network, kind, span, seeds, teacher, paths, trials, progress, {BASELINE: method}, {BASELINE: module})


def tuned(
    bench: Bench, nfe: int, *, learn: bool = False, certified: int | None = None, evaluations: int = EVALUATIONS
) -> Tuned:
    """The best sampler of ``nfe`` calls on these paths; arguments as :func:`tune`."""
    check(bench, nfe, learn, certified, evaluations)
    log = bench.log(nfe)
    chosen = choose(bench, nfe, log)
    record = _record(bench, nfe, chosen)
    if learn:
        found = learned(bench, nfe, chosen, certified, evaluations, log)
        record["learned"] = {
            "from": found.candidate.name, "certified": certified, "predicted": _told(found.predicted),
            "held_out": _told(found.held_out), "kept": found.held_out.loss < chosen.held_out.loss,
        }  # fmt: skip
        if record["learned"]["kept"]:
            return Tuned(_baked_learned(bench, record, found), record)
    source = modules.from_text(emit(bench.method(chosen.candidate.row)))
    grid = TimeGrid(bench.times(chosen.candidate, nfe), chosen.candidate.grid)
    said = {"about": summary(record, chosen.held_out), "network_digest": record["network"]["digest"]}
    return Tuned(baking.bake(source, grid, bench.params(chosen.candidate), **said), record)


def choose(bench: Bench, nfe: int, log: Trials) -> Chosen:
    """The best candidate of one half, or the baseline where that is better on the other half."""
    tried: dict[Candidate, Error] = {}

    def measure(candidate: Candidate) -> None:
        known = log.known.get(candidate.name) or log.add(candidate.name, _told(bench.error(candidate, nfe, 0)))
        tried[candidate] = Error(**known)

    every = choosing.candidates(bench.sde.n, bench.paths.spread)
    for candidate in bench.watched(every, len(every), f"{bench.sde.name}, {nfe} calls"):
        measure(candidate)
    ranked = sorted(tried, key=lambda candidate: tried[candidate].loss)
    best = ranked[0]
    with bench.watched(None, SEARCH * nfe * LEADERS, f"{bench.sde.name}, {nfe} calls, the steps") as bar:
        for candidate in choosing.leaders(ranked, LEADERS):
            measure(searched(bench, nfe, candidate, log, bar.update))
    found = min(tried, key=lambda candidate: tried[candidate].loss)
    held = {candidate: bench.error(candidate, nfe, 1) for candidate in (found, best, FIRST)}
    kept = min(held, key=lambda candidate: held[candidate].loss)
    return Chosen(kept, tried[kept], held[kept], held[FIRST], tried)


def searched(bench: Bench, nfe: int, candidate: Candidate, log: Trials, told: Callable[[], Any]) -> Candidate:
    """The candidate with the steps that are best on the half that chooses."""
    evaluations = SEARCH * nfe
    name = f"steps from {candidate.name}, {evaluations} evaluations"

    def error(trial: Candidate) -> Error:
        told()
        return bench.error(trial, nfe, 0)

    if name not in log.known:
        log.add(name, choosing.searched(candidate, nfe, error, evaluations).th)
    return replace(candidate, th=tuple(log.known[name]))


def learned(bench: Bench, nfe: int, chosen: Chosen, certified: int | None, evaluations: int, log: Trials) -> Learned:
    """From the choice, from the best of another frame and from the baseline; after a part of the evaluations the best goes on."""
    ranked = sorted(chosen.tried, key=lambda candidate: chosen.tried[candidate].loss)
    other = next(candidate for candidate in ranked if candidate.row.frame != chosen.candidate.row.frame)
    starts = list(dict.fromkeys((chosen.candidate, other, FIRST)))
    trial = math.ceil(TRIAL * evaluations)
    with bench.watched(None, trial * (len(starts) - 1) + evaluations, f"{bench.sde.name}, learning") as bar:

        def around(candidate: Candidate, first: int, last: int, th: torch.Tensor | None = None) -> Learned:
            times, params = bench.times(candidate, nfe), bench.params(candidate)
            base = learning.Base(candidate.row, bench.module(candidate.row), params, times, bench.sde.at(), certified)
            name = f"learned from {candidate.name}, certified {certified}, evaluations {first} to {last}"
            if name not in log.known:
                found = learning.learned(base, bench.network, bench.paths.half(0), last - first, th, bar.update)
                log.add(name, found.tolist())
            th = torch.tensor(log.known[name], dtype=torch.float64)
            errors = [learning.error_of(base, th, bench.network, bench.paths.half(half)) for half in (0, 1)]
            return Learned(candidate, base, th, *errors)

        best = min((around(candidate, 0, trial) for candidate in starts), key=lambda each: each.predicted.loss)
        return around(best.candidate, trial, evaluations, best.th) if trial < evaluations else best


def check(bench: Bench, nfe: int, learn: bool, certified: int | None, evaluations: int = EVALUATIONS) -> None:
    """Refuse, before any candidate runs, calls and settings that do not fit."""
    if isinstance(nfe, bool) or not isinstance(nfe, int) or not 2 <= nfe <= bench.teacher // 2:
        raise InputError("-", "nfe", f"{nfe!r} calls", f"give 2 to {bench.teacher // 2}, half the steps of the teacher")
    if learn and (bench.sde.n > 1 or bench.kind != "denoiser"):
        raise Unsupported("times and weights are learned for a denoiser and one block", "leave learning out")
    if certified is not None and not (learn and type(certified) is int and 1 <= certified <= 4):
        raise InputError("-", "certified", f"{certified!r}", "give an order from 1 to 4, together with learning")
    if type(evaluations) is not int or evaluations < 1:
        raise InputError("-", "evaluations", f"{evaluations!r} of the loss", "give a whole number, 1 or more")


def _told(error: Error) -> dict[str, float]:
    return asdict(error)


def _record(bench: Bench, nfe: int, chosen: Chosen) -> dict[str, Any]:
    """What was tuned for what, and what it gave, as plain values."""
    ranked = sorted(chosen.tried.items(), key=lambda pair: pair[1].loss)
    own = bench.network.network if isinstance(bench.network, InParts) else bench.network
    name = str(getattr(own, "name", None) or getattr(own, "__name__", type(own).__name__))
    return {
        "sde": bench.sde.name, "nfe": nfe, "kind": bench.kind, "seeds": seeds_text(bench.seeds), "teacher": bench.teacher,
        "network": {"name": name, "digest": getattr(bench.network, "digest", None)},
        "span": list(bench.span), "spread": bench.paths.spread, "kept": chosen.candidate.name,
        "predicted": _told(chosen.predicted), "held_out": _told(chosen.held_out), "baseline": _told(chosen.baseline),
        "candidates": [{"name": candidate.name, **_told(error)} for candidate, error in ranked if error.loss < math.inf],
        "versions": {"stepsmith": __version__, "torch": str(torch.__version__)},
    }  # fmt: skip


def _baked_learned(bench: Bench, record: Mapping[str, Any], found: Learned) -> str:
    base, free = found.base, "learned"
    if base.order is not None:
        free = f"learned; what the row gives where r is a polynomial of degree < {base.order} in its clock is unchanged"
    about = [f"Around {found.candidate.name}, times and weights {free}.", *summary(record, found.held_out)]
    with torch.no_grad():
        linear, times = base.at(found.th), base.times(found.th)
    return baking.bake_learned(
        base.module, linear, times, base.params, about=about, network_digest=record["network"]["digest"]
    )
