"""Request and target to the steps of a build: pure, no file is opened here."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import PurePosixPath
from urllib.parse import urlsplit

from kiln.plan import finetuning
from kiln.plan import steps as catalogue
from kiln.plan.request import BuildRequest, FinetuneSettings
from kiln.plan.step import FromHost, FromStep, Input, Step
from kiln.plan.targets import Target


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """Steps in the order in which they run; the files that the user gets, by name, the last of
    them the one that goes onto the board; and what the report shows beyond figures, by name.
    """

    name: str
    target: Target
    request: BuildRequest
    imgsz: int
    notes: tuple[str, ...]
    steps: tuple[Step, ...]
    files: Mapping[str, FromStep]
    evidence: Mapping[str, FromStep]

    @property
    def deployed(self) -> str:
        """The name of the file that goes onto the board."""
        return list(self.files)[-1]


def make_plan(request: BuildRequest, target: Target) -> Plan:
    """Decide every step of a build; raises RequestError if the target cannot take the request."""
    target = target.choose(request.task, request.firmware)
    imgsz = request.imgsz or target.input.default_size
    target.check_size(imgsz)
    data, steps = data_steps(request)
    weights, weight_steps = _weight_steps(request, target, data, imgsz)
    steps += [
        *weight_steps,
        catalogue.images(request, target, data, imgsz),
        catalogue.onnx(weights, imgsz),
        catalogue.quantize(request, target),
    ]
    int8 = catalogue.INT8
    if request.finetunes:
        steps += _finetuning_steps(request, target, imgsz)
        int8 = catalogue.FINETUNED
    name = request.name or _default_name(request, imgsz)
    files = {f"{name}.safetensors": weights}
    files |= {f"{name}{ending}": each for ending, each in catalogue.model_files(int8).items()}
    if target.vela is not None:
        steps.append(catalogue.compile_npu(target, imgsz, int8))
        files[f"{name}_full_integer_quant_vela.tflite"] = catalogue.COMPILED
    steps += _judging_steps(request, target, imgsz, int8)
    names = {step.name for step in steps}
    return Plan(
        name=name,
        target=target,
        request=request,
        imgsz=imgsz,
        notes=tuple(_notes(request, target)),
        steps=tuple(steps),
        files=files,
        evidence={name: each for name, each in catalogue.EVIDENCE.items() if each.step in names},
    )


def _finetuning_steps(request: BuildRequest, target: Target, imgsz: int) -> list[Step]:
    """From the int8 model as it is to the one whose weights were learned."""
    compiled = [] if target.vela is None else finetuning.compile_before(target, imgsz)
    learning = [finetuning.graph(), finetuning.finetune(request, target), finetuning.requantize()]
    return [finetuning.quantize_plain(request, target), *compiled, *learning]


def _judging_steps(request: BuildRequest, target: Target, imgsz: int, int8: FromStep) -> list[Step]:
    """From the file that goes onto the board to what is known of it."""
    layers = [catalogue.layers(int8)] if request.evaluation.layers else []
    evaluated = catalogue.evaluated(int8)
    check = functools.partial(catalogue.check_firmware, request, target, imgsz)
    if target.vela is None:
        # The board's own interpreter runs in the check, and must give the reference's bytes; so
        # what the reference kernels find is what the board finds.
        checked = check(int8, reference=catalogue.reference_of(int8))
        return [checked, catalogue.evaluate(request, target, evaluated), *layers]
    run, outputs = [], {}
    if target.vela.executed:
        run, outputs = [catalogue.outputs(catalogue.COMPILED)], {"outputs.npz": catalogue.OUTPUTS}
    evaluate = catalogue.evaluate(request, target, {**evaluated, **outputs})
    return [check(catalogue.COMPILED), *run, evaluate, *layers]


def needs_host_data(request: BuildRequest) -> bool:
    """True if the data set lies on this host, rather than being drawn or fetched."""
    return request.data is not None and PurePosixPath(request.data).is_absolute()


def data_steps(request: BuildRequest) -> tuple[Input, list[Step]]:
    """Where the data set comes from, and the steps that bring and check it."""
    data: Input
    source: list[Step] = []
    if request.data is None:
        source = [catalogue.demo(request.task)]
        data = FromStep(step="demo", path="data")
    elif needs_host_data(request):
        data = FromHost(source="data")
    else:
        source = [catalogue.fetch("data", request.data)]
        data = FromStep(step="fetch-data", path="data")
    return data, [*source, catalogue.check(request.task, data)]


def _weight_steps(
    request: BuildRequest, target: Target, data: Input, imgsz: int
) -> tuple[FromStep, list[Step]]:
    """Own or published weights are imported; then they are trained, or are final as they are."""
    steps: list[Step] = []
    start: Input | None = None
    if request.weights is not None and request.weights != "scratch":
        source: Input = FromHost(source="weights")
        if request.weights_file is None:
            steps.append(catalogue.fetch("weights", request.weights))
            source = FromStep(step="fetch-weights", path="weights.pt")
        steps.append(catalogue.import_weights(request, source))
        start = FromStep(step="import", path="weights.safetensors")
    if request.trains:
        steps.append(catalogue.frames(request, target, data, imgsz))
        steps.append(catalogue.train(request, start, imgsz))
    return FromStep(step=steps[-1].name, path="weights.safetensors"), steps


def _default_name(request: BuildRequest, imgsz: int) -> str:
    """Own weights keep their name; a training is named by architecture and data set."""
    tuned = _coarseness_name(request.finetune) if request.finetunes else ""
    if not request.trains and request.weights is not None:
        return f"{_stem(request.weights)}-{imgsz}{tuned}"
    suffix = {"pose": "-pose", "detect": "", "classify": "-cls"}[request.task]
    return f"{request.architecture.name}{suffix}-{_data_name(request.data)}-{imgsz}{tuned}"


def _coarseness_name(settings: FinetuneSettings) -> str:
    """Fine-tunings of several coarsenesses lie beside each other, where a report compares them."""
    cycles = "" if settings.cycles is None else f"-c{settings.cycles:g}"
    flash = "" if settings.flash_kib is None else f"-f{settings.flash_kib:g}"
    return f"-finetuned{cycles}{flash}"


def _data_name(data: str | None) -> str:
    """A file called data.yaml says nothing; its folder does."""
    if data is None:
        return "demo"
    stem = _stem(data)
    return _clean(PurePosixPath(data).parent.name) if stem == "data" else stem


def _stem(text: str) -> str:
    return _clean(PurePosixPath(urlsplit(text).path if "://" in text else text).stem)


def _clean(text: str) -> str:
    """Letters, digits, dots, dashes and underscores: what every file system and shell takes."""
    kept = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in text)
    return kept.strip(".-_")[:60] or "model"


def _notes(request: BuildRequest, target: Target) -> list[str]:
    """What a user should know before anything runs."""
    notes = []
    if request.data is None:
        notes.append("no DATA given: using the built-in demo data set")
    if target.vela is not None and not target.vela.executed:
        notes.append(
            f"what is compiled for {target.vela.accelerator} cannot be executed here: its accuracy "
            "is taken from the int8 file"
        )
    finetune = request.finetune
    if finetune != FinetuneSettings() and not request.finetunes:
        notes.append("[finetune] has no effect without QUANT=finetuned")
    limited = (finetune.cycles, finetune.flash_kib) != (None, None)
    if request.finetunes and limited and target.vela is None:
        notes.append(f"{target.title} has no NPU: [finetune] cycles and flash_kib have no effect")
    if request.trains and request.train.reproducible and request.train.gpu == "auto":
        notes.append("reproducible training: on the CPU, even with a GPU")
    if not request.trains and request.weights_file is not None:
        notes.append(
            f"own weights {request.weights_file.name}: no training (EPOCHS=n trains them further)"
        )
        if request.data is None:
            notes.append("calibrating own weights on the demo images costs accuracy: pass DATA=")
    return notes
