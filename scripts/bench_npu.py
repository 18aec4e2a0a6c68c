"""Time compiled files in the simulator of the NPU, and hold them against what they are made from.

Each argument is a compiled file, or COMPILED=INT8 with the int8 file that it was compiled from,
which then runs on the same images in TensorFlow Lite Micro. Images are noise of a fixed seed.

    .kiln/driver/bin/python -m scripts.bench_npu x_vela.tflite=x_full_integer_quant.tflite
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scripts.stage_jobs import python, run

#: Argv: compiled file, int8 file or "", number of images. Stdout: a JSON object.
_JUDGE = """
import collections, json, resource, sys, time
from pathlib import Path
import numpy as np
from stages.vela.npu.errors import NpuError
from stages.vela.execution.compiled_model import CompiledModel
from stages.vela.npu.payload import accelerator_of
from stages.vela.tflite.file import NPU_OPERATOR, open_file

content, int8, count = Path(sys.argv[1]).read_bytes(), sys.argv[2], int(sys.argv[3])

def worst_difference(images, results):
    from tflite_micro.python.tflite_micro import runtime
    interpreter = runtime.Interpreter.from_file(int8, arena_size=64 << 20)
    worst = 0
    for image, outputs in zip(images, results):
        interpreter.set_input(image, 0)
        interpreter.invoke()
        for number, output in enumerate(outputs):
            wanted = interpreter.get_output(number)
            if output.shape != wanted.shape:
                raise SystemExit(f"output {number} is {output.shape}, not {wanted.shape}")
            errors = np.abs(output.astype(np.float64) - wanted)
            worst = max(worst, float(errors.max(initial=0)))
    return worst

def judge(said):
    model = CompiledModel(content)
    tensor = model.inputs[0]
    info = np.iinfo(tensor.dtype)
    shape = (count, *tensor.shape)
    images = np.random.default_rng(0).integers(info.min, info.max + 1, shape).astype(tensor.dtype)
    results, seconds = [], []
    for image in images:
        started = time.monotonic()
        results.append(model.run(image))
        seconds.append(time.monotonic() - started)
    said["seconds"] = min(seconds)
    said["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    said["images"] = count
    if int8:
        said["worst"] = worst_difference(images, results)

file = open_file(content)
streams = file.command_streams()
cpu = collections.Counter(each.name for each in file.operators if each.name != NPU_OPERATOR)
said = {"npu": ", ".join({accelerator_of(stream) for stream in streams}), "streams": len(streams),
        "cpu": " ".join(f"{count} {name}" for name, count in cpu.items())}
try:
    judge(said)
except NpuError as error:
    said["refused"] = str(error)
print(json.dumps(said))
"""


def main() -> None:
    """Print a row for each file; exits with 1 if one differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("pairs", nargs="+", metavar="COMPILED[=INT8]")
    parser.add_argument("--images", type=int, default=4, help="so many images a file")
    options = parser.parse_args()
    interpreter = python("vela")
    print(f"{'file':40}{'NPU':15}{'streams':>8}{'ms':>7}{'MiB':>6}{'images':>7}{'worst':>6}  CPU")
    worst = 0.0
    with tempfile.TemporaryDirectory() as folder:
        for pair in options.pairs:
            compiled, int8 = (Path(each).absolute() if each else "" for each in _split(pair))
            command = [interpreter, "-c", _JUDGE, compiled, int8, options.images]
            said = json.loads(run(command, cwd=Path(folder)))
            print(_row(Path(compiled).name, said))
            worst = max(worst, said.get("worst", 0.0))
    sys.exit(worst > 0)


def _split(pair: str) -> tuple[str, str]:
    compiled, _, int8 = pair.partition("=")
    return compiled, int8


def _row(name: str, said: Mapping[str, Any]) -> str:
    start = f"{name[-39:]:40}{said['npu']:15}{said['streams']:8}"
    if "refused" in said:
        return f"{start}  refused: {said['refused']}"
    worst = f"{said['worst']:g}" if "worst" in said else "-"
    figures = f"{said['seconds'] * 1000:7.0f}{said['peak_mib']:6}{said['images']:7}{worst:>6}"
    return f"{start}{figures}  {said['cpu']}"


if __name__ == "__main__":
    main()
