"""Shares work on pictures among all cores, with a result that tells nothing of how many."""

from __future__ import annotations

import os
import queue
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Worker = TypeVar("Worker")
Seen = TypeVar("Seen")


def worker_count(most: int) -> int:
    """A worker for each core, ``most`` at most: each holds models in memory."""
    return min(len(os.sched_getaffinity(0)), most)


def on_all_cores(
    workers: Sequence[Worker], look: Callable[[Worker, int], Seen], count: int
) -> Iterator[Seen]:
    """``look(worker, number)`` for the numbers 0 to ``count``, in their order, whoever did it."""
    idle: queue.SimpleQueue[Worker] = queue.SimpleQueue()
    for worker in workers:
        idle.put(worker)

    def one(number: int) -> Seen:
        worker = idle.get()
        try:
            return look(worker, number)
        finally:
            idle.put(worker)

    with ThreadPoolExecutor(len(workers)) as pool:
        yield from pool.map(one, range(count))
