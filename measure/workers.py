"""A process a core, each with one thread of torch."""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor


def workers_for(tasks: int, most: int | None = None) -> int:
    """How many processes serve a number of tasks: ``most``, or as many as there are cores, and never more than tasks."""
    return max(1, min(most or os.cpu_count() or 1, tasks))


def pool(workers: int) -> ProcessPoolExecutor:
    """Fresh processes (spawned, not forked), each with one thread of torch."""
    return ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), one_thread)


def one_thread() -> None:
    """Let torch use one thread in this process."""
    import torch

    torch.set_num_threads(1)
