"""Shares a model's runs among all cores; the results do not depend on how many there are.

Processes and not threads: numpy holds Python's lock for a good part of the simulator's time.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.contract import StepFailed
from stages.vela.execution.board_models import BoardModel, as_input

#: Each process holds the arena, and what the model's kernels take.
MOST_WORKERS = 8

#: In a worker: the model, and the images.
_opened: list[tuple[BoardModel, NDArray[np.uint8]]] = []


def run_on_all_cores(
    model: BoardModel, images: NDArray[np.uint8], numbers: Sequence[int]
) -> Iterator[list[NDArray[Any]]]:
    """The outputs for the images of these numbers, in their order."""
    workers = min(len(os.sched_getaffinity(0)), len(numbers), MOST_WORKERS)
    if workers < 2:
        yield from (model.run(as_input(images[number])) for number in numbers)
        return
    # Forked, they have the opened model: its weights are decoded once.
    forking = multiprocessing.get_context("fork")
    pool = ProcessPoolExecutor(
        workers, mp_context=forking, initializer=_begin, initargs=(model, images)
    )
    try:
        with pool:
            yield from pool.map(_run, numbers)
    except BrokenProcessPool as error:
        raise StepFailed(
            "model",
            "the process that ran it ended without a result",
            hint="the log may say why; a damaged file can do that, so copy or make it again",
        ) from error


def _begin(model: BoardModel, images: NDArray[np.uint8]) -> None:
    # The step's own handler raises; it is the step that ends these processes.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _opened.append((model, images))


def _run(number: int) -> list[NDArray[Any]]:
    ((model, images),) = _opened
    return model.run(as_input(images[number]))
