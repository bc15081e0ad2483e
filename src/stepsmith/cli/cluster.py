"""A folder of samples by Ray: ``stepsmith sample --engine ray``, a shard a task, on this machine or on a cluster."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from tqdm import tqdm

from stepsmith.cli.folder import Worker, signals, tell
from stepsmith.cli.shared import quiet
from stepsmith.errors import InputError

RETRIES = 3  # of a shard whose process died


def fill_by_ray(run: Any, shard: Callable[[int, int], Any], as_json: bool) -> None:
    """Write the missing shards, ``shard(k, n)`` making shard k of n anywhere, and say what was done as ``fill`` does."""
    begun = time.perf_counter()
    ray, gpus = _ray(), int(run.request.device.startswith("cuda"))
    planned, notes = run.fill(0, 1, lambda: True, False)  # writes the manifest and no shard
    task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=RETRIES)(lambda k, shards: shard(k, shards))
    slots = max(1, int(ray.cluster_resources().get("GPU" if gpus else "CPU", 1)))
    waiting, made = list(planned.left), 0
    flying: list[Any] = []
    bar = tqdm(total=planned.shards, initial=planned.shards - len(waiting), desc=str(run.request.out), unit="shard",
               disable=quiet(as_json))  # fmt: skip
    with signals() as seen, bar:
        while flying or (waiting and not seen):
            while waiting and not seen and len(flying) < slots:
                flying.append(task.remote(waiting.pop(0), planned.shards))
            done, flying = ray.wait(flying, timeout=1.0)
            _finished(ray, done)
            made += len(done)
            bar.update(len(done))
    written = replace(planned, made=made, left=tuple(waiting))
    tell(run, written, notes, as_json, time.perf_counter() - begun, seen, Worker(0, 1, None))


def _ray() -> Any:
    """Ray, connected: to the cluster of RAY_ADDRESS, or to one on this machine that ends with this process."""
    try:
        import ray
    except ImportError:
        fix = "pip install 'stepsmith[ray]', or leave --engine out"
        raise InputError("-", "engine", "Ray is not installed", fix) from None
    if not ray.is_initialized():
        ray.init(logging_level=logging.ERROR, log_to_driver=False, include_dashboard=False)
    return ray


def _finished(ray: Any, tasks: list[Any]) -> None:
    """Raise what a shard raised, as if it had been made here."""
    try:
        ray.get(tasks)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    except ray.exceptions.RayError as error:
        what = f"a shard was lost {RETRIES + 1} times ({type(error).__name__})"
        raise InputError("-", "engine", what, "look at what kills its process: often its memory, so a smaller --batch") from None
