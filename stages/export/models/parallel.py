"""Shares work on images among all cores; the results do not depend on how many there are."""

from __future__ import annotations

import os
import queue
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Worker = TypeVar("Worker")
Result = TypeVar("Result")


def worker_count(most: int) -> int:
    """A worker for each core, at most ``most``: each holds models in memory."""
    return min(len(os.sched_getaffinity(0)), most)


def on_all_cores(
    workers: Sequence[Worker], work: Callable[[Worker, int], Result], count: int
) -> Iterator[Result]:
    """``work(worker, number)`` for the numbers 0 to ``count``, in their order; any worker may do
    any number."""
    idle: queue.SimpleQueue[Worker] = queue.SimpleQueue()
    for worker in workers:
        idle.put(worker)

    def one(number: int) -> Result:
        worker = idle.get()
        try:
            return work(worker, number)
        finally:
            idle.put(worker)

    with ThreadPoolExecutor(len(workers)) as pool:
        yield from pool.map(one, range(count))
