"""A folder of samples: ``stepsmith sample --out DIR``, by one process or by the workers of torchrun."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from stepsmith.cli.shared import fail, print_json, quiet
from stepsmith.errors import InputError, one_line


def is_folder(out: Path) -> bool:
    """Whether a path without a suffix was asked for: a folder of shards."""
    return not out.suffix


@dataclass(frozen=True)
class Worker:
    """Which of the processes this is: RANK, WORLD_SIZE and LOCAL_RANK as torchrun sets them, else the only one."""

    rank: int
    count: int
    local: int | None

    @classmethod
    def of(cls, environment: Mapping[str, str] = os.environ) -> Worker:
        found = {}
        if ("RANK" in environment) != ("WORLD_SIZE" in environment):
            raise InputError("-", "environment", "one of RANK and WORLD_SIZE is set", "set both, or start with torchrun")
        for name, usual in (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "-1")):
            text = environment.get(name, usual)
            if not (text.isdecimal() or text == usual):
                what = f"{name} is {text!r}, which is no number of a worker"
                raise InputError("-", "environment", what, f"unset it, or start with torchrun, which sets {name}")
            found[name] = int(text)
        local = found["LOCAL_RANK"]
        return cls(found["RANK"], found["WORLD_SIZE"], None if local < 0 else local)

    def device(self, asked: str) -> str:
        """``cuda`` is the GPU of this worker."""
        return f"cuda:{self.local}" if asked == "cuda" and self.local is not None else asked


@contextlib.contextmanager
def signals() -> Iterator[list[int]]:
    """The SIGTERM and SIGINT that came so far; in here they only add themselves. A second SIGINT ends at once."""
    seen: list[int] = []

    def note(number: int, _: Any) -> None:
        seen.append(number)
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield seen
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def fill(run: Any, worker: Worker, as_json: bool) -> None:
    """Write the shards of this worker and say what was done; a signal ends with the shard in flight, status 128 + signal."""
    first, begun = worker.rank == 0, time.perf_counter()
    with signals() as seen:
        written, notes = run.fill(worker.rank, worker.count, lambda: seen, first and not quiet(as_json))
    tell(run, written, notes if first else [], as_json, time.perf_counter() - begun, seen, worker)


def tell(
    run: Any, written: Any, notes: list[str], as_json: bool, seconds: float, seen: list[int], worker: Worker
) -> None:
    """The last line of a run, or of one that a signal ended before its last shard."""
    name, alone = run.request.out, worker.count == 1
    if seen and written.left:
        share = "" if alone else f" to worker {worker.rank}"
        what = f"{len(written.left)} of {written.shards} shards are left{share}"
        fail(f"{name}: stopped: {what}; give the same command again to go on", 128 + seen[0])
    for note in notes:
        click.echo(f"note: {one_line(note)}", err=True)
    counts = {"samples": len(run.seeds), "shards": written.shards, "made": written.made}
    if as_json:
        print_json({"out": str(name), **counts, "worker": worker.rank, "workers": worker.count, "seconds": seconds})
        return
    spare = f", {run.left} call{'s' * (run.left > 1)} left over" if run.left else ""
    share = "" if alone else f" of worker {worker.rank}"
    click.echo(
        f"{name}: {len(run.seeds)} samples, {run.grid.steps} steps, {run.calls} calls a sample{spare}; "
        f"{written.shards} shards{share}, {written.made} made now, {seconds:.1f} s"
    )
