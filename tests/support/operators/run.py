"""Compiles networks with Vela, runs the compiled files, and compares; in the vela environment.

Argv: the folder with what `write` wrote. Stdin: a JSON object with ``params`` of the step compile,
``accelerators`` and ``names``. Stdout: for each name and accelerator a ``Verdict``, in order. The
compiled files stay in the folder, as ``<accelerator>/<name>_vela.tflite``.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from stages.contract import StepFailed
from stages.vela.compile import _arguments, ini_text, run_vela
from stages.vela.execution.compiled_model import CompiledModel
from stages.vela.npu.errors import NpuError
from stages.vela.tflite.file import open_file
from tests.support.operators.catalogue import MODELS


@dataclasses.dataclass(kw_only=True)
class Verdict:
    """How a compiled file did: its operators, why it could not run, and for each output how many
    values of how many differ from the reference, and by how much at most."""

    name: str
    accelerator: str
    operators: Sequence[str] = ()
    refusal: str = ""
    outputs: Sequence[tuple[int, int, int]] = ()


def main() -> None:
    folder, wanted = Path(sys.argv[1]), json.load(sys.stdin)
    ini = folder / "vela.ini"
    ini.write_text(ini_text(wanted["params"]["ini"]), encoding="utf-8")
    verdicts = []
    for accelerator in wanted["accelerators"]:
        (folder / accelerator).mkdir(exist_ok=True)
        for name in wanted["names"]:
            params = {**wanted["params"], "accelerator": accelerator}
            verdicts.append(_in_a_process_of_its_own(folder, name, params))
    json.dump(verdicts, sys.stdout)


def _in_a_process_of_its_own(folder: Path, name: str, params: Mapping[str, Any]) -> Any:
    """What Vela has computed for one model changes what it does with the next one."""
    accelerator = params["accelerator"]
    answer = folder / accelerator / f"{name}.json"
    pid = os.fork()
    if pid == 0:
        _answer(answer, folder, name, params)
    _, status = os.waitpid(pid, 0)
    if code := os.waitstatus_to_exitcode(status):
        ended = Verdict(name=name, accelerator=accelerator, refusal=f"ended with {code}")
        return dataclasses.asdict(ended)
    return json.loads(answer.read_text(encoding="utf-8"))


def _answer(answer: Path, folder: Path, name: str, params: Mapping[str, Any]) -> NoReturn:
    """Judge a model in this process, which then ends."""
    code = 1
    os.dup2(2, 1)  # Vela prints
    try:
        verdict = dataclasses.asdict(_judge(folder, name, params))
        answer.write_text(json.dumps(verdict), encoding="utf-8")
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _judge(folder: Path, name: str, params: Mapping[str, Any]) -> Verdict:
    verdict = Verdict(name=name, accelerator=params["accelerator"])
    try:
        compiled = _compile(folder, name, params)
        verdict.operators = [operator.name for operator in open_file(compiled).operators]
        verdict.outputs = _compare(compiled, folder / f"{name}.npz")
    except StepFailed as failure:
        verdict.refusal = failure.message
    except NpuError as error:
        verdict.refusal = f"the simulator: {error}"
    return verdict


def _compile(folder: Path, name: str, params: Mapping[str, Any]) -> bytes:
    results: Path = folder / params["accelerator"]
    arena_kib = MODELS[name].arena_kib or params["arena_kib"]
    arguments = _arguments({**params, "arena_kib": arena_kib}, folder / "vela.ini", results)
    run_vela([str(folder / f"{name}.tflite"), *arguments])
    return (results / f"{name}_vela.tflite").read_bytes()


def _compare(compiled: bytes, reference: Path) -> list[tuple[int, int, int]]:
    arrays = dict(np.load(reference))
    model = CompiledModel(compiled)
    results = [model.run(image) for image in arrays.pop("images")]
    rows = [np.stack(row) for row in zip(*results, strict=True)]
    return [_difference(row, arrays[f"output_{number}"]) for number, row in enumerate(rows)]


def _difference(got: NDArray[Any], wanted: NDArray[Any]) -> tuple[int, int, int]:
    # Vela keeps the axis that ARG_MAX reduces, with one value.
    if got.shape not in (wanted.shape, (*wanted.shape, 1)) or got.dtype != wanted.dtype:
        raise NpuError(f"an output is {got.dtype} {got.shape}, not {wanted.dtype} {wanted.shape}")
    errors = np.abs(got.reshape(wanted.shape).astype(np.int64) - wanted)
    return int(np.count_nonzero(errors)), int(errors.size), int(errors.max(initial=0))
