"""Runs a model in TensorFlow Lite Micro on this host, in a process of its own.

An untrusted file may crash that process, and the interpreter writes the size of its arena, and why
it refuses a model, only to stderr.

This file, run as a script with a model and perhaps a reference.npz, is that process: it prints one
JSON object, and imports nothing of Kiln.
"""

from __future__ import annotations

import dataclasses
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tflite_micro.python.tflite_micro import runtime

#: Enough for any model that fits a board; memory that a model does not touch is not allocated.
ARENA_BYTES = 256 << 20

_USED = re.compile(r"Arena allocation (head|tail) (\d+) bytes")

#: At most this part of an output's values may differ by one.
MOST_TIES = 0.01


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trial:
    """A model in the interpreter: ``refusal`` is the interpreter's own message, "" if it ran.

    ``head`` and ``tail`` are bytes of the arena: tensors and scratch buffers, and the interpreter's
    own structures. ``difference`` describes the first output that differs from the reference, "" if
    none does; ``ties`` is the number of values that differ by one because LOGISTIC was rounded the
    other way.
    """

    refusal: str
    head: int = 0
    tail: int = 0
    images: int = 0
    seconds: float = 0.0
    difference: str = ""
    ties: int = 0


def try_model(model: Path, reference: Path | None) -> Trial:
    """Load a model and run it on the images of a reference.npz, or on none."""
    files = [str(path) for path in (model, reference) if path is not None]
    done = subprocess.run(
        # -P keeps this folder off the path, where its modules could hide others.
        [sys.executable, "-P", __file__, *files],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    sys.stderr.write(done.stderr)
    if done.returncode != 0:
        return Trial(refusal=_refusal(done))
    head, tail = (int(size) for _end, size in _USED.findall(done.stderr))
    return Trial(refusal="", head=head, tail=tail, **json.loads(done.stdout))


def run(model: Path, reference: Path | None) -> dict[str, Any]:
    """Run the model in this process; raises RuntimeError if the interpreter refuses it."""
    arrays = dict(np.load(reference)) if reference is not None else {}
    images = arrays.pop("images", ())
    interpreter = runtime.Interpreter.from_file(str(model), arena_size=ARENA_BYTES)
    started = time.monotonic()
    differences: list[str] = []
    ties = 0
    for number, image in enumerate(images):
        interpreter.set_input(image[None], 0)
        interpreter.invoke()
        for index in range(len(arrays)):
            output = interpreter.get_output(index).astype(np.float64)
            errors = np.abs(output - arrays[f"output_{index}"][number])
            if _are_ties(errors):
                ties += int(np.count_nonzero(errors))
            else:
                differences.append(
                    f"image {number}, output {index}: {np.count_nonzero(errors)} of {errors.size} "
                    f"values differ, by {errors.max():g} at most"
                )
    seconds = time.monotonic() - started
    interpreter.print_allocations()
    return {
        "images": len(images),
        "seconds": round(seconds, 3),
        "difference": differences[0] if differences else "",
        "ties": ties,
    }


def _are_ties(errors: NDArray[np.float64]) -> bool:
    """Whether an output agrees except for rounding: few values differ, and by one.

    If the true value of LOGISTIC is in the middle between two int8 values, TensorFlow Lite's table,
    computed with floats, and TensorFlow Lite Micro's fixed-point kernel may choose different ones.
    """
    return bool(errors.max() <= 1 and np.count_nonzero(errors) <= MOST_TIES * errors.size)


def _refusal(done: subprocess.CompletedProcess[str]) -> str:
    """The interpreter's reason: its last message before Python's traceback."""
    if done.returncode < 0:
        return f"it ended with {signal.Signals(-done.returncode).name}"
    messages = done.stderr.partition("Traceback (most recent call last)")[0]
    reasons = [line.strip() for line in messages.splitlines() if line.strip()]
    return reasons[-1] if reasons else "it gave no reason; see the log"


def main() -> None:
    """Argv: the model, and the reference if there is one."""
    model, *reference = map(Path, sys.argv[1:])
    json.dump(run(model, next(iter(reference), None)), sys.stdout)


if __name__ == "__main__":
    main()
