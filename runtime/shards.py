"""Many samples as a folder of shards: files of fixed ranges of seeds, which several workers fill and a later run completes.

    manifest.json           the record of the run: all that decides the bytes of its shards; written first
    FIRST-LAST.safetensors  shard k: the seeds [k B, (k+1) B) of the run, B its batch, and its own record

A shard is drawn as one batch, so its bytes depend neither on the worker that makes it nor on what stood there before. Worker r
of W makes the shards k with k mod W = r and talks to no other; a run goes on by making what is missing or damaged.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from tqdm import tqdm

from stepsmith.errors import InputError
from stepsmith.files import write_whole
from stepsmith.runtime.grid import TimeGrid
from stepsmith.runtime.networks.base import conditions, fingerprint
from stepsmith.runtime.noise import parse_seeds, seeds_text
from stepsmith.runtime.output import check_folder, write
from stepsmith.runtime.plan import Plan, make_plan, resolve
from stepsmith.runtime.sampler import batch_size, record, run_part

MANIFEST = "manifest.json"
BATCH = 256
_ANOTHER = "give another folder, or the arguments of that run"


@dataclass(frozen=True, eq=False)
class Shards:
    """A folder and its manifest. A shard is a slice of the seeds of the run."""

    folder: Path
    manifest: Mapping[str, Any]

    @functools.cached_property
    def seeds(self) -> tuple[int, ...]:
        return parse_seeds(self.manifest["seeds"])

    @functools.cached_property
    def parts(self) -> tuple[slice, ...]:
        """Every shard of the run, in order."""
        batch, count = self.manifest["batch"], len(self.seeds)
        return tuple(slice(first, min(count, first + batch)) for first in range(0, count, batch))

    def size(self, k: int) -> int:
        """How many samples shard k has."""
        return self.parts[k].stop - self.parts[k].start

    def path(self, part: slice) -> Path:
        """The file of a shard, named after its first and its last seed."""
        return self.folder / f"{self.seeds[part.start]:08d}-{self.seeds[part.stop - 1]:08d}.safetensors"

    def record(self, part: slice, batch: int) -> dict[str, Any]:
        """The record of a shard whose samples were drawn ``batch`` at a time."""
        return {**self.manifest, "seeds": seeds_text(self.seeds[part]), "batch": batch}

    def is_whole(self, part: slice) -> bool:
        """Whether a shard is there, of its full size, and of this run."""
        try:
            with safe_open(self.path(part), framework="pt") as file:
                found = json.loads((file.metadata() or {})["record"])
                size = file.get_slice("samples").get_shape()
            expected = self.record(part, found["batch"])
        except (OSError, SafetensorError, ValueError, KeyError, TypeError):
            return False
        return found == expected and list(size) == [part.stop - part.start, *self.manifest["shape"]]

    def read(self, part: slice) -> torch.Tensor:
        with safe_open(self.path(part), framework="pt") as file:
            return file.get_tensor("samples")


@dataclass(frozen=True)
class Written:
    """What a worker did: how many shards are its own, how many it made now, and which k are left because it was stopped."""

    shards: int
    made: int
    left: tuple[int, ...]


def write_samples(
    folder: str | os.PathLike[str], module: Any, network: Any, grid: TimeGrid, seeds: str | int | Iterable[int], *,
    batch: int = BATCH, params: Mapping[str, float] | None = None, last: str = "none",
    device: torch.device | str | None = None, dtype: torch.dtype | None = None, shape: Sequence[int] | None = None,
    constants: Mapping[str, Any] | None = None, cond: Mapping[str, Any] | None = None,
    specs: Mapping[str, Any] | None = None, rank: int = 0, workers: int = 1, stop: Callable[[], Any] = lambda: False,
    progress: bool = False,
) -> Written:  # fmt: skip
    """Write one sample a seed into ``folder``, ``batch`` seeds a file, and leave the files alone that are there already.

    Arguments as of :func:`sample`; ``seeds`` must ascend. A file holds ``samples`` (seeds, *shape) and, in its metadata, a
    ``record``. The same call goes on where an earlier one ended: what is missing, of another size or unreadable is made again.
    Worker ``rank`` of ``workers`` makes the shards k with k mod workers = rank. ``stop()`` is asked before each shard and
    ends the run where it is true. Files appear whole or not at all, so a run that is killed loses its shard in flight.

    A shard that does not fit into the device's memory is drawn in halves, quarters, ..., equal up to the rounding of the
    network; its record has the ``batch`` that fitted. ``specs`` (plain values) go into the record.

    Raises :class:`InputError` as :func:`sample`, and (key ``out``) where the folder holds another run or other files.
    """
    module, values = resolve(module), parse_seeds(seeds)
    if any(after <= before for before, after in itertools.pairwise(values)):
        raise InputError("-", "seeds", "they do not ascend", "give each once, in ascending order")
    if not 0 <= rank < workers:
        raise InputError("-", "rank", f"there is no worker {rank} of {workers}", "count the workers from 0")
    arguments: dict[str, Any] = {"params": params, "last": last, "dtype": dtype, "constants": constants}
    plan = make_plan(module, network, grid, values, device=device, shape=shape, **arguments)
    given = conditions(cond, len(values))
    run = record(module, grid, values, device=plan.device.type, network=network, **arguments)
    run |= {"specs": dict(specs or {}), "cond": _digests(cond or {}), "batch": batch_size(batch, len(values))}
    shards = _opened(Path(folder), _deciding(run, plan, network))
    own = range(rank, len(shards.parts), workers)
    todo = [k for k in own if not shards.is_whole(shards.parts[k])]
    total, missing = (sum(shards.size(k) for k in numbers) for numbers in (own, todo))
    with tqdm(total=total, initial=total - missing, desc=str(folder), unit="sample", disable=not progress) as bar:
        for done, k in enumerate(todo):
            if stop():
                return Written(len(own), done, tuple(todo[done:]))
            samples, size = _drawn(plan, network, grid, shards.parts[k], given)
            write(shards.path(shards.parts[k]), samples, shards.record(shards.parts[k], size))
            bar.update(shards.size(k))
    return Written(len(own), len(todo), ())


def read_samples(folder: str | os.PathLike[str]) -> Iterator[torch.Tensor]:
    """The samples of a folder that :func:`write_samples` filled, a tensor (seeds, *shape) a shard, in the order of the seeds.

    Raises :class:`InputError` (key ``out``) where there is no manifest, or a shard is missing or damaged.
    """
    place = Path(folder)
    if not (place / MANIFEST).is_file():
        raise InputError(str(place), "out", f"there is no {MANIFEST}", "name a folder that stepsmith sample wrote")
    shards = Shards(place, _read_manifest(place / MANIFEST))
    missing = [part for part in shards.parts if not shards.is_whole(part)]
    if missing:
        name = shards.path(missing[0]).name
        what = f"{len(missing)} of {len(shards.parts)} shards are missing or damaged, first {name}"
        raise InputError(str(place), "out", what, "give the command that wrote it again, it makes these")
    return map(shards.read, shards.parts)


def _drawn(plan: Plan, network: Any, grid: TimeGrid, part: slice, cond: Mapping[str, Any]) -> tuple[torch.Tensor, int]:
    """The samples of a shard, on the host, and how many were drawn at a time: all, unless they need too much memory."""
    size = part.stop - part.start
    while True:
        pieces = [slice(first, min(part.stop, first + size)) for first in range(part.start, part.stop, size)]
        try:
            return torch.cat([run_part(plan, network, grid, piece, cond).cpu() for piece in pieces]), size
        except torch.cuda.OutOfMemoryError:  # torch.OutOfMemoryError, by the name it has since before 2.5
            if size == 1:
                raise
        size = (size + 1) // 2  # out here, where the traceback holds no tensors any more
        if plan.device.type == "cuda":
            torch.cuda.empty_cache()


def _opened(folder: Path, manifest: Mapping[str, Any]) -> Shards:
    """The folder with this manifest, which is written where there is none; refused where it holds anything else."""
    check_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    place, wanted = folder / MANIFEST, json.loads(json.dumps(manifest))
    if not place.exists():
        foreign = sorted(name for name in os.listdir(folder) if name != MANIFEST and not name.startswith("."))
        if foreign and not place.exists():  # another worker may have written it by now
            what = f"the folder holds other files ({foreign[0]}) and no {MANIFEST}"
            raise InputError(str(folder), "out", what, "give a new or an empty folder")
        write_whole(place, (json.dumps(manifest, indent=1) + "\n").encode())
    found = _read_manifest(place)
    if differing := list(_differences(found, wanted)):
        what = f"the samples there are of another run: {', '.join(differing)}"
        raise InputError(str(place), "out", what, _ANOTHER)
    return Shards(folder, found)


def _read_manifest(place: Path) -> dict[str, Any]:
    try:
        found = json.loads(place.read_text(encoding="utf-8"))
        parse_seeds(found["seeds"])
        if batch_size(found["batch"], 1) and isinstance(found["shape"], list):
            return found
    except (OSError, ValueError, KeyError, TypeError):  # InputError is a ValueError
        pass
    raise InputError(str(place), "out", "it cannot be read as the manifest of a run", "give another folder")


def _differences(found: Mapping[str, Any], wanted: Mapping[str, Any], above: str = "") -> Iterator[str]:
    """Each entry that differs, by its dotted name, with both values where they are short."""
    for name in sorted({*found, *wanted}):
        there, here = found.get(name), wanted.get(name)
        if there == here:
            continue
        if isinstance(there, dict | None) and isinstance(here, dict | None):
            yield from _differences(there or {}, here or {}, f"{above}{name}.")
        else:
            short = max(len(str(there)), len(str(here))) <= 40
            yield f"{above}{name} ({there} there, {here} here)" if short else f"{above}{name}"


def _deciding(run: dict[str, Any], plan: Plan, network: Any) -> dict[str, Any]:
    """The record of a run with what else decides the bytes, the rounding of the machine among it, and nothing that does not."""
    versions = {name: version for name, version in run["versions"].items() if name != "python"}
    model = {**run["model"], "digest": run["model"]["digest"] or _weights(network), **getattr(network, "made_by", {})}
    held = getattr(network, "cond", None)
    model["cond"] = _digests(held if isinstance(held, Mapping) else {})
    machine: dict[str, Any] = {}
    if plan.device.type == "cpu":
        machine = {"processor": torch.backends.cpu.get_cpu_capability(), "threads": torch.get_num_threads()}
    if plan.device.type == "cuda":
        machine = {"processor": torch.cuda.get_device_name(plan.device)}
    return {**run, "shape": list(plan.shape), "model": model, "versions": versions, **machine}


def _weights(network: Any) -> str | None:
    """The SHA-256 of the weights of a network that has a ``module`` but no ``digest``."""
    weights = getattr(network, "module", None)
    if not isinstance(weights, torch.nn.Module):
        return None
    total = hashlib.sha256()
    for name, value in weights.state_dict().items():
        total.update(f"{name} {fingerprint(value)}".encode())
    return total.hexdigest()


def _digests(cond: Mapping[str, Any]) -> dict[str, str]:
    """The SHA-256 of each condition: the fingerprint of a tensor, that of a list as JSON."""
    found = {}
    for name, value in cond.items():
        if isinstance(value, torch.Tensor):
            found[name] = fingerprint(value)
            continue
        try:
            found[name] = hashlib.sha256(json.dumps(value).encode()).hexdigest()
        except (TypeError, ValueError):
            what = f"{name} is a list of what a record cannot hold"
            raise InputError("-", "cond", what, "give a tensor, or a list of texts or numbers") from None
    return found
