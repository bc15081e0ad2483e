"""A run of ``stepsmith sample``: from its options to the module, the grid and the network, and on to the samples."""

from __future__ import annotations

import contextlib
import math
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from stepsmith.cli.folder import is_folder
from stepsmith.cli.shared import file_pairs, named_network, noted, number_pairs, use_device
from stepsmith.errors import InputError, Unsupported

STEPS = 50  # where neither steps nor calls are given
BATCH = 256  # in a folder
DEFAULTS = "specs/defaults.toml"  # of stepsmith.derive: sampler and grid where no sampler is given


def silent(text: str) -> None:
    """Says nothing."""


@dataclass(frozen=True)
class Request:
    """The options as they were given."""

    sde: str | None
    sampler: str | None
    network: str
    kind: str | None
    shape: str | None
    steps: int | None
    nfe: int | None
    grid: str | None
    start: float | None
    end: float | None
    last: str
    seeds: str
    batch: int | None
    engine: str
    out: Path
    params: tuple[str, ...]
    constants: tuple[str, ...]
    device: str
    dtype: str
    threads: int


@dataclass(frozen=True)
class Run:
    """A request with everything made that a run needs; ``left``: calls of a budget that no step could use."""

    request: Request
    module: Any
    network: Any
    grid: Any
    seeds: Any
    left: int
    arguments: dict[str, Any]  # what ``sample`` and ``record`` of the runtime both take

    @classmethod
    def of(cls, request: Request, say: Callable[[str], None] = silent) -> Run:
        """Reads, derives, emits and loads; raises InputError before any long work for what can be seen beforehand.  ``say`` is
        called with what takes a while."""
        import torch

        import stepsmith as ss
        from stepsmith.runtime import check_folder, check_output, parse_seeds

        torch.set_num_threads(request.threads)
        if request.engine == "ray" and not is_folder(request.out):
            raise InputError(str(request.out), "engine", "ray makes the files of a folder", "give --out without a suffix")
        (check_folder if is_folder(request.out) else check_output)(request.out)
        seeds = parse_seeds(request.seeds)
        params, constants = number_pairs(request.params), file_pairs(request.constants)
        use_device(request.device)
        path = Path(request.sampler) if request.sampler is not None and request.sampler.endswith(".py") else None
        baked = None if path is None else ss.load(path)
        request = replace(request, sde=diffusion_of(request, baked))
        sde = None if request.kind is None else ss.load_sde(request.sde)
        network = named_network(request.network, sde, request.kind, request.shape, request.device)
        source: Any
        source, grid, left = derived(request, network, params) if baked is None else (baked, grid_of(request, baked), 0)
        arguments = {
            "params": params, "last": request.last, "device": request.device, "dtype": getattr(torch, request.dtype),
            "constants": constants,
        }  # fmt: skip
        if baked is None:
            check_given(source, params, constants, (len(seeds), *network.shape), arguments["dtype"])
            say(f"deriving {source.sampler.name} for {source.sde.name}")
        module = ss.load(ss.emit(source)) if baked is None else baked
        return cls(request, module, network, grid, seeds, left, arguments)

    @property
    def calls(self) -> int:
        """Network calls a sample."""
        from stepsmith.runtime import count_nfe

        return count_nfe(self.module, self.grid.steps, self.request.last)

    def draw(self, progress: bool) -> tuple[Any, list[str]]:
        """The samples, (seeds, ...), and what the run warned of."""
        import stepsmith as ss

        arguments = {"batch": self.request.batch, "progress": progress, **self.arguments}
        return noted(lambda: ss.sample(self.module, self.network, self.grid, self.seeds, **arguments))

    def fill(self, rank: int, workers: int, stop: Callable[[], Any], progress: bool) -> tuple[Any, list[str]]:
        """Writes the shards of a worker: what was done, and what the run warned of."""
        import stepsmith as ss

        return noted(
            lambda: ss.write_samples(
                self.request.out, self.module, self.network, self.grid, self.seeds, batch=self.request.batch or BATCH,
                specs=self.specs, rank=rank, workers=workers, stop=stop, progress=progress, **self.arguments,
            )
        )  # fmt: skip

    @property
    def specs(self) -> dict[str, str]:
        """What the record keeps of the specs; nothing of a baked module, which has none."""
        if hasattr(self.module, "TIMES"):
            return {}
        sampler = self.request.sampler or self.module.SAMPLER
        return {"sde": spec_text(str(self.request.sde)), "sampler": spec_text(sampler)}

    def write(self, samples: Any) -> dict[str, Any]:
        """Writes the samples with the record of the run, and returns the record."""
        from stepsmith.runtime import record, write

        out, picture = self.request.out, self.network.picture
        found = record(self.module, self.grid, self.seeds, network=self.network, **self.arguments)
        found |= {"specs": self.specs} if self.specs else {}
        write(out, picture(samples) if picture is not None and out.suffix == ".png" else samples, found)
        return found


def check_given(
    method: Any, params: dict[str, float], constants: dict[str, Any], shape: tuple[int, ...], dtype: Any
) -> None:
    """Refuse, before the module is made, parameters and constants that it will not take."""
    from stepsmith.runtime.constants import check_constants
    from stepsmith.runtime.plan import full_params

    known = {"PARAMS": method.params, "CONSTANTS": method.sde.constant}
    module = SimpleNamespace(SDE=method.sde.name, SAMPLER=method.sampler.name, **known)
    full_params(module, params)
    check_constants(module, constants, shape[0], shape[1:], dtype)


def diffusion_of(request: Request, baked: Any | None) -> str:
    """The diffusion of a run: that of a baked module, which another that is asked for contradicts; else what was asked for."""
    import stepsmith as ss

    if baked is None:
        return request.sde or "psld"
    if request.sde is not None and ss.load_sde(request.sde).name != baked.SDE:
        raise InputError("-", "sde", f"{request.sampler} was made for {baked.SDE}, not {request.sde}", "leave --sde out")
    return request.sde or str(baked.SDE)


def grid_of(request: Request, baked: Any) -> Any:
    """The grid of a baked module."""
    import stepsmith as ss

    path = str(request.sampler)
    if not hasattr(baked, "TIMES"):
        raise InputError(path, "TIMES", "it is not baked", "name its sampler, or bake it: stepsmith build --bake")
    if request.steps is not None or request.nfe is not None:
        raise InputError("-", "steps", f"{path} has its own grid", "leave --steps and --nfe out")
    return ss.TimeGrid.explicit(baked.TIMES)


def derived(request: Request, network: Any, params: dict[str, float]) -> tuple[Any, Any, int]:
    """The Method of the request, its grid, and the calls of a budget that are left over."""
    import stepsmith as ss

    sde = ss.load_sde(request.sde)
    method, grid = chosen(sde, request, network.kind)
    steps, left = steps_and_left(request, method)
    # Parameters that shape the grid are the diffusion's; the sampler's own (lambda) do not.
    own = {name: value for name, value in params.items() if name in sde.params}
    known = WithParameters(sde, own) if own else sde
    within = network if network.kind in ("denoiser", "edm") else None
    return method, getattr(ss.TimeGrid, grid)(known, steps, request.start, request.end, network=within), left


def chosen(sde: Any, request: Request, kind: str) -> tuple[Any, str]:
    """The method and the name of its grid: as asked, else of the defaults that are derived for diffusion and network the one
    that was measured at the nearest number of calls."""
    from stepsmith.derive.method import derive

    if request.sampler is not None:
        return derive(sde, request.sampler, kind), request.grid or "logsnr"
    known = tomllib.loads(files("stepsmith.derive").joinpath(DEFAULTS).read_text(encoding="utf-8"))
    calls = max(1, request.nfe or request.steps or STEPS)
    nearest = sorted(known["several" if sde.n > 1 else "one"], key=lambda row: abs(math.log(row["calls"] / calls)))
    for row in nearest:
        with contextlib.suppress(Unsupported):
            return derive(sde, row["sampler"], kind), request.grid or row["grid"]
    (last,) = known["else"]
    return derive(sde, last["sampler"], kind), request.grid or last["grid"]


def calls_of(method: Any, steps: int, last: str) -> int:
    """Network calls of a run."""
    return method.rows.nfe(steps) + (last == "denoise")


def steps_and_left(request: Request, method: Any) -> tuple[int, int]:
    """The steps of the grid, and what a budget of calls leaves over."""
    from stepsmith.runtime import budget_steps

    if request.nfe is None:
        return STEPS if request.steps is None else request.steps, 0
    if request.steps is not None:
        raise InputError("-", "nfe", "--steps and --nfe exclude each other", "give one of them")
    steps, _ = budget_steps(request.nfe, max(1, method.nfe), request.last)
    while steps > 1 and calls_of(method, steps, request.last) > request.nfe:  # the first step may cost more
        steps -= 1
    return steps, request.nfe - calls_of(method, steps, request.last)


def spec_text(source: str) -> str:
    """What a run's record keeps of a spec: the text of a file of the user's, else the name or the composition."""
    return Path(source).read_text(encoding="utf-8") if source.endswith(".toml") else source


class WithParameters:
    """A diffusion whose numeric view has these parameters: what a grid needs of it."""

    def __init__(self, sde: Any, params: dict[str, float]) -> None:
        self.name, self.time, self.open = sde.name, sde.time, sde.open
        self._sde, self._params = sde, params

    def at(self, **params: float) -> Any:
        return self._sde.at(**{**self._params, **params})
