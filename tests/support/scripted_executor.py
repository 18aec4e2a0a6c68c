"""An executor that runs no step, but leaves and says what steps would."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

from kiln.executors.environments import Environment
from kiln.executors.events import Finished, LogLine, StepObserver
from kiln.executors.protocol import Say, StepExit, StepRun
from kiln.pipeline.events import Event, Message, StepReused, StepStarted
from stages.results.fetch import FetchResult
from stages.results.finetune import FinetuneResult
from stages.results.import_weights import ImportResult
from stages.results.int8_network import GraphResult
from stages.results.layers import LayersResult
from stages.results.requantize import RequantizeResult
from stages.results.train import Device
from tests.chaos import standin

OUTPUTS: Mapping[str, Sequence[str]] = {
    "demo": ["data/data.yaml", "data/images/train/a.png"],
    "fetch-data": ["data/data.yaml"],
    "check": ["dataset.json"],
    "frames": ["data/images/train/a.bmp"],
    "train": ["weights.safetensors", "curves.csv"],
    "import": ["weights.safetensors"],
    "images": ["calibration.npy", "training.npy", "evaluation/truth.json"],
    "onnx": ["model.onnx"],
    "quantize": ["float32.tflite", "int8.tflite", "reference.npz"],
    "quantize-plain": ["float32.tflite", "int8.tflite", "reference.npz"],
    "compile-plain": ["vela.tflite", "layers.json", "summary.csv"],
    "compile-start": ["vela.tflite", "layers.json", "summary.csv"],
    "graph": ["network.json", "network.npz"],
    "finetune": ["learned.npz", "curves.csv"],
    "requantize": ["int8.tflite", "reference.npz"],
    "compile": ["vela.tflite", "layers.json", "summary.csv"],
    "check-firmware": ["log.txt"],
    "outputs": ["outputs.npz"],
    "evaluate": ["evidence.json"],
    "layers": ["layers.json"],
    "difference": [],
}
#: What the driver itself reads of them.
CONTENTS: Mapping[str, str] = {
    "curves.csv": "epoch,box/map50\n1,0.25\n2,nan\n",
    "compile layers.json": "[]",
    "compile-start layers.json": "[]",
    "finetune curves.csv": "update,score,bits\n1,0.5,7\n2,0.25,6\n",
    "layers layers.json": '{"layers": [{"name": "conv", "operator": "CONV_2D", "snr_db": 30.0}]}',
    "evidence.json": '{"images": [], "precision_recall": {}, "names": [], "skeleton": []}',
}
_COMPILED: Any = standin.RESULTS["compile"]
#: What each step says of what it made.
RESULTS: Mapping[str, Any] = {
    **standin.RESULTS,
    "fetch-data": FetchResult(url="https://host/data.zip", sha256="a" * 64, bytes=9, versions={}),
    "import": ImportResult(
        task="pose",
        nc=1,
        names=("person",),
        kpt_shape=(17, 3),
        model="yolov8n-pose",
        parameters=9,
        versions={},
    ),
    "compile-plain": dataclasses.replace(_COMPILED, cycles=30_000_000, inference_ms=75.0),
    "compile-start": _COMPILED,
    "quantize-plain": standin.RESULTS["quantize"],
    "graph": GraphResult(convolutions=3, weights=9, versions={}),
    "finetune": FinetuneResult(
        updates=2,
        images=4,
        before={"score": 0.5},
        after={"score": 0.25},
        bits_before=7.0,
        bits_after=6.0,
        expected_cycles=None,
        expected_flash_kib=None,
        device=Device(name="a processor", kind="cpu"),
        reproducible=True,
        why_not=None,
        resumed_from=None,
        versions={},
    ),
    "requantize": RequantizeResult(layers=3, bytes=9, different=0.0, versions={}),
    "layers": LayersResult(compared=1, worst=("conv",), images=4, versions={}),
}

Script = Callable[[StepRun, StepObserver], StepExit]


class ScriptedExecutor:
    """Writes each step's outputs; the bytes follow from its inputs, as those of real steps do.

    A step in ``scripts`` does that instead.
    """

    name: Literal["docker", "local"] = "local"

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.prepared: list[str] = []
        self.scripts: dict[str, Script] = {}
        self.results: dict[str, Any] = dict(RESULTS)
        self.constant: set[str] = set()

    def prepare(self, environments: Sequence[Environment], say: Say) -> None:
        self.prepared += [environment.name for environment in environments]
        say("preparing")

    @contextlib.contextmanager
    def run(self, run: StepRun, observe: StepObserver) -> Iterator[StepExit]:
        self.ran.append(run.step)
        yield self.scripts.get(run.step, self._work)(run, observe)

    def _work(self, run: StepRun, observe: StepObserver) -> StepExit:
        taken = "" if run.step in self.constant else _taken(run)
        for name in OUTPUTS[run.step]:
            path = run.out / name
            path.parent.mkdir(parents=True, exist_ok=True)
            content = CONTENTS.get(f"{run.step} {name}") or CONTENTS.get(name)
            path.write_text(content or f"{run.step} {name} {taken}", encoding="utf-8")
        observe(LogLine(text="working"))
        return finish(observe, self._result(run))

    def _result(self, run: StepRun) -> Any:
        """What a step says; an evaluation says it of the plain int8 file if it is there."""
        result = self.results[run.step]
        if "plain.tflite" in run.inputs:
            artifacts = {**result.artifacts, "plain": {"pose/map50": 0.77}}
            return dataclasses.replace(result, artifacts=artifacts)
        return result


def finish(observe: StepObserver, result: Any, **facts: Any) -> StepExit:
    """A good end, told as steps and executors tell it."""
    table = json.loads(json.dumps(dataclasses.asdict(result)))
    observe(Finished(seconds=1, peak_memory_mib=100, result=table))
    return StepExit(code=0, facts=facts)


def _taken(run: StepRun) -> str:
    inputs = {name: tree.digest for name, tree in run.inputs.items()}
    return json.dumps([dict(run.params), inputs], sort_keys=True)


class Record:
    """An observer that keeps what it hears."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.reused: list[str] = []
        self.why: dict[str, str] = {}

    def __call__(self, event: Event) -> None:
        match event:
            case Message():
                self.said.append(event.text)
            case StepReused():
                self.reused.append(event.step.name)
            case StepStarted():
                self.why[event.step.name] = event.why


def gives(step: str, result: Any) -> Script:
    """A run that leaves a step's usual files and says another result."""

    def run(run: StepRun, observe: StepObserver) -> StepExit:
        for name in OUTPUTS[step]:
            (run.out / name).parent.mkdir(parents=True, exist_ok=True)
            content = CONTENTS.get(f"{step} {name}") or CONTENTS.get(name) or "given"
            (run.out / name).write_text(content, encoding="utf-8")
        return finish(observe, result)

    return run
