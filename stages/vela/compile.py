"""Compile the int8 model for an Ethos-U NPU with Vela, and prove that nothing was lost.

``params``: accelerator, ini {section: {key: value}}, system_config, memory_mode, optimise,
arena_kib (the SRAM that Vela may plan with), arguments (further ones of Vela's own).
``in/``: int8.tflite, and reference.npz of the step `quantize`, unless Kiln cannot execute what is
compiled for this accelerator.
``out/``: vela.tflite, vela.ini (Vela's configuration), summary.csv (Vela's own, unchanged), and
layers.json, a list of the fields of ``stages.results.compile.Layer`` for each operator in order.

The compiled file is executed on the images of reference.npz, as Vela's encodings define it
(``stages.vela.npu``). Unless it gives the bytes of the reference kernels, the step fails.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import re
import shutil
import sys
import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, TextIO

from ethosu.vela import vela
from ethosu.vela.errors import CliOptionError, ConfigOptionError, VelaError

from stages.contract import Events, Job, StepFailed, main, write_json
from stages.results.compile import CompileResult, Execution, Layer, Operators, Traffic
from stages.vela.execution.board_models import not_executed
from stages.vela.execution.proof import prove
from stages.vela.npu.errors import NpuError
from stages.vela.npu.traffic import results_per_cycle
from stages.vela.tflite.file import TFLiteFile, open_file
from stages.vela.tflite.layer_traffic import count_commands
from stages.vela.tflite.placement import (
    count,
    read_estimate,
    read_layers,
    read_reasons,
    read_sequences,
    read_speed,
)

PACKAGES = ("ethos-u-vela", "tflite-micro", "numpy")
USAGE_ERROR = 2
#: The first Vela with another model of the NPU's speed; estimates of different models cannot be
#: compared.
NEW_MODEL_VERSION = 5
_SETTINGS_HINT = "correct [vela] in the target's file, or the extra Vela arguments"


class Tee(io.StringIO):
    """Keeps what is written, and writes it to another stream too."""

    def __init__(self, other: TextIO) -> None:
        super().__init__()
        self._other = other

    def write(self, text: str) -> int:
        self._other.write(text)
        return super().write(text)


def run(job: Job, events: Events) -> CompileResult:
    """Compile, then report the estimates and what is left to the CPU."""
    ini = job.out / "vela.ini"
    ini.write_text(ini_text(job.params["ini"]), encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder)
        log = run_vela([str(job.inputs / "int8.tflite"), *_arguments(job.params, ini, results)])
        compiled = open_file((results / "int8_vela.tflite").read_bytes())
        layers = read_layers(compiled, results / "int8_per-layer.csv")
        summary = results / f"int8_summary_{job.params['system_config']}.csv"
        _report(layers, read_reasons(log), events)
        layers, traffic = _count(compiled, layers, results / "int8", summary, events)
        shutil.copyfile(results / "int8_vela.tflite", job.out / "vela.tflite")
        shutil.copyfile(summary, job.out / "summary.csv")
    execution = execute(job)
    write_json(job.out / "layers.json", layers)
    return CompileResult(
        **dataclasses.asdict(read_estimate(job.out / "summary.csv")),
        operators=Operators(npu=count(layers, "npu"), cpu=count(layers, "cpu")),
        cpu_operators=tuple(
            f"{each.operator} {each.name}" for each in layers if each.place == "cpu"
        ),
        estimator=f"Vela {version('ethos-u-vela')}",
        performance_model=performance_model(version("ethos-u-vela")),
        accelerator=job.params["accelerator"],
        versions={package: version(package) for package in PACKAGES},
        execution=execution,
        traffic=traffic,
    )


def execute(job: Job) -> Execution | None:
    """Run what was compiled; raises StepFailed unless it computes what the int8 file computes."""
    reference = job.inputs / "reference.npz"
    if not reference.exists():
        return None
    compiled, int8 = (job.out / "vela.tflite", job.inputs / "int8.tflite")
    try:
        proof = prove(compiled.read_bytes(), int8.read_bytes(), reference)
    except NpuError as error:
        raise not_executed(error) from error
    if proof.difference:
        raise StepFailed(
            "model",
            f"the compiled file does not compute what the int8 file computes: {proof.difference}",
            hint="another IMGSZ or granularity may avoid it; please report it with the int8 file, "
            "it is a fault of Vela or of Kiln",
        )
    return Execution(images=proof.images, equal=True)


def ini_text(sections: Mapping[str, Mapping[str, object]]) -> str:
    """The text of Vela's configuration file; it does not depend on the order of the settings."""
    blocks = [
        "".join([f"[{name}]\n", *(f"{key}={value}\n" for key, value in sorted(keys.items()))])
        for name, keys in sorted(sections.items())
    ]
    return "\n".join(blocks)


def performance_model(release: str) -> str:
    """The name of the model of the NPU's speed in a release of Vela."""
    return "Vela 5" if int(release.partition(".")[0]) >= NEW_MODEL_VERSION else "Vela 3-4"


def run_vela(arguments: list[str]) -> str:
    """Run Vela in this process and return its output; raises StepFailed with its messages."""
    output = Tee(sys.stderr)
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            code = vela.main(arguments)
    except SystemExit as error:
        code = error.code
    except (CliOptionError, ConfigOptionError) as error:
        raise StepFailed(
            "request", f"Vela refuses its settings: {_plain(error.data)}", hint=_SETTINGS_HINT
        ) from error
    except VelaError as error:
        raise _refusal(_plain(error.data)) from error
    except (OSError, MemoryError):
        raise
    except Exception as error:  # Vela may raise anything for an unexpected model
        raise _refusal(f"{type(error).__name__}: {error}") from error
    if code == USAGE_ERROR:
        raise StepFailed(
            "request",
            f"Vela refuses its arguments: {_last_error(output.getvalue())}",
            hint=_SETTINGS_HINT,
        )
    if code:
        raise _refusal(_last_error(output.getvalue()))
    return output.getvalue()


def _arguments(params: Mapping[str, Any], ini: Path, folder: Path) -> list[str]:
    return [
        f"--accelerator-config={params['accelerator']}",
        f"--config={ini}",
        f"--system-config={params['system_config']}",
        f"--memory-mode={params['memory_mode']}",
        f"--optimise={params['optimise']}",
        # Otherwise Vela plans weight buffers in SRAM that the firmware does not have.
        f"--arena-cache-size={params['arena_kib'] * 1024}",
        f"--output-dir={folder}",
        "--verbose-performance",
        # It says which layer a command is for; the compiled file is the same.
        "--enable-debug-db",
        *params["arguments"],
    ]


def _count(
    compiled: TFLiteFile, layers: list[Layer], results: Path, summary: Path, events: Events
) -> tuple[list[Layer], Traffic | None]:
    """Add what each layer costs; a model is no worse if that cannot be told. ``results``: Vela's
    files, less what differs in their names."""
    sequences = read_sequences(results.with_name(f"{results.name}_per-layer.csv"))
    operators = [[row["NNG Operator"] for row in sequence] for sequence in sequences]
    database = results.with_name(f"{results.name}_debug.xml")
    try:
        commands = count_commands(compiled.command_streams(), operators, database)
    except NpuError as error:
        events.warning(
            f"what the layers cost cannot be counted: {error}",
            hint="the model is not affected; its report lacks these figures",
        )
        return layers, None
    counted = iter(commands.layers)
    clock_hz, flash_bytes_per_cycle = read_speed(summary)
    return [
        dataclasses.replace(each, counted=next(counted)) if each.place == "npu" else each
        for each in layers
    ], Traffic(
        **dataclasses.asdict(commands.total),
        macs_per_cycle=commands.macs_per_cycle,
        results_per_cycle=results_per_cycle(commands.macs_per_cycle),
        clock_hz=clock_hz,
        flash_bytes_per_cycle=flash_bytes_per_cycle,
    )


def _report(layers: list[Layer], reasons: Mapping[str, str], events: Events) -> None:
    """Warn of each layer that is left to the CPU; raises StepFailed if all of them are."""
    if not count(layers, "npu"):
        raise _refusal(
            f"the NPU can run no layer of it ({next(iter(reasons.values()), 'see the log')})"
        )
    for layer in (each for each in layers if each.place == "cpu"):
        reason = reasons.get(layer.name)
        events.warning(
            f"{layer.operator} {layer.name} is left on the CPU",
            hint=f"Vela says: {reason}" if reason else "Vela has no NPU form of this operator",
        )


def _refusal(reason: str) -> StepFailed:
    return StepFailed(
        "model",
        f"Vela cannot compile the model: {reason}",
        hint="it takes a full int8 TFLite file, such as the step `quantize` writes",
    )


def _last_error(output: str) -> str:
    found = re.findall(r"error: (.+)", output, re.IGNORECASE)
    return found[-1] if found else "it gave no reason; see the log"


def _plain(text: str) -> str:
    return text.removeprefix("Error: ")


if __name__ == "__main__":
    main(run)
