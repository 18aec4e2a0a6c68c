"""Runs a model in TensorFlow Lite Micro on this host, in a process of its own.

A file from anywhere may end that process; and the interpreter tells what it took of its arena, and
why it refuses a model, on stderr alone.

Run as a script, with a model and perhaps a reference.npz, this file is that process: it prints one
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

#: Room enough for any model that a board could hold; only what a model takes becomes memory.
ARENA_BYTES = 256 << 20

_USED = re.compile(r"Arena allocation (head|tail) (\d+) bytes")


#: Of an output's numbers, at most so many may be one step off.
MOST_TIES = 0.01


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trial:
    """How a model fared: ``refusal`` is the interpreter's own words, "" if it ran.

    ``head`` and ``tail`` are bytes of the arena: tensors and scratch buffers, and the interpreter's
    own structures. ``difference`` says where an output differs from the reference, "" if nowhere;
    ``ties`` is how many numbers are one step off because LOGISTIC was rounded the other way.
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
        # -P keeps this folder, whose modules have names of their own, off the path.
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
    """The work of the process; raises RuntimeError if the interpreter refuses the model."""
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
            steps = np.abs(
                interpreter.get_output(index).astype(np.float64) - arrays[f"output_{index}"][number]
            )
            if _are_ties(steps):
                ties += int(np.count_nonzero(steps))
            else:
                differences.append(
                    f"image {number}, output {index}: {np.count_nonzero(steps)} of {steps.size} "
                    f"numbers differ, by {steps.max():g} at most"
                )
    seconds = time.monotonic() - started
    interpreter.print_allocations()
    return {
        "images": len(images),
        "seconds": round(seconds, 3),
        "difference": differences[0] if differences else "",
        "ties": ties,
    }


def _are_ties(steps: NDArray[np.float64]) -> bool:
    """True if an output agrees but for rounding: a step of one in a number here and there.

    Where the true value of LOGISTIC lies in the middle between two int8 steps, TensorFlow Lite's
    table, made with floats, and TensorFlow Lite Micro's fixed-point kernel may take one each.
    """
    return bool(steps.max() <= 1 and np.count_nonzero(steps) <= MOST_TIES * steps.size)


def _refusal(done: subprocess.CompletedProcess[str]) -> str:
    """The interpreter's reason: the last it said before Python's own report began."""
    if done.returncode < 0:
        return f"it ended with {signal.Signals(-done.returncode).name}"
    said = done.stderr.partition("Traceback (most recent call last)")[0]
    reasons = [line.strip() for line in said.splitlines() if line.strip()]
    return reasons[-1] if reasons else "it gave no reason; see the log"


def main() -> None:
    """Argv: the model, and the reference if there is one."""
    model, *reference = map(Path, sys.argv[1:])
    json.dump(run(model, next(iter(reference), None)), sys.stdout)


if __name__ == "__main__":
    main()
