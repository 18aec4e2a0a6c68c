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
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tflite_micro.python.tflite_micro import runtime

#: Room enough for any model that a board could hold; only what a model takes becomes memory.
ARENA_BYTES = 256 << 20

_USED = re.compile(r"Arena allocation (head|tail) (\d+) bytes")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trial:
    """How a model fared: ``refusal`` is the interpreter's own words, "" if it ran.

    ``head`` and ``tail`` are bytes of the arena: tensors and scratch buffers, and the interpreter's
    own structures. ``difference`` says where an output differs from the reference, "" if nowhere.
    """

    refusal: str
    head: int = 0
    tail: int = 0
    images: int = 0
    seconds: float = 0.0
    difference: str = ""


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
    differences = []
    for number, image in enumerate(images):
        interpreter.set_input(image[None], 0)
        interpreter.invoke()
        differences += _differences(interpreter, arrays, number)
    seconds = time.monotonic() - started
    interpreter.print_allocations()
    return {
        "images": len(images),
        "seconds": round(seconds, 3),
        "difference": differences[0] if differences else "",
    }


def _differences(
    interpreter: runtime.Interpreter, arrays: Mapping[str, NDArray[Any]], number: int
) -> list[str]:
    """Where the outputs differ from those of the reference, in a sentence for each output."""
    found = []
    for index in range(len(arrays)):
        have, want = interpreter.get_output(index), arrays[f"output_{index}"][number]
        if have.tobytes() != want.tobytes():
            steps = np.abs(have.astype(np.float64) - want)
            found.append(
                f"image {number}, output {index}: {np.count_nonzero(steps)} of {steps.size} "
                f"numbers differ, by {steps.max():g} at most"
            )
    return found


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
