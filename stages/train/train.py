"""Train a network on a data set, from start weights or from random ones.

``params``: task, model, perhaps activation (relu; else as the model or the start weights have it),
imgsz, epochs, batch, seed, gpu, reproducible (on the CPU: a fixed number of threads), overrides
(ultralytics' own training arguments). ``in/``: data of the step `frames`, dataset.json of `check`,
perhaps weights.safetensors. ``out/``: weights.safetensors, those of the best epoch; curves.csv, a
line an epoch. ``state/`` holds the last checkpoint.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import stages.train.ultralytics_env  # noqa: F401 - before anything of ultralytics

# isort: split
from ultralytics.nn.tasks import yaml_model_load
from ultralytics.utils import LOGGER

from stages.contract import Events, Job, StepFailed, main, read_json
from stages.results.dataset import Dataset, Task
from stages.results.evaluate import LEAST_MAP50, least_top1
from stages.results.train import Device, TrainResult
from stages.train.training.arguments import training_arguments
from stages.train.training.classify import ClassifyRun, link_classes
from stages.train.training.hardware import (
    Hardware,
    choose_hardware,
    hardware_arguments,
    set_threads,
    why_not_reproducible,
)
from stages.train.training.trainer import DetectRun, Plan, PoseRun, Row, Run
from stages.train.weights import checkpoint
from stages.train.weights.architecture import with_relu
from stages.yolo import SPLITS

_TRAINERS: Mapping[Task, type[Run]] = {
    "pose": PoseRun,
    "detect": DetectRun,
    "classify": ClassifyRun,
}
_METRIC_KINDS = ("box/", "pose/", "class/")
_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")


def run(job: Job, events: Events) -> TrainResult:
    """Train, or continue an interrupted training."""
    params = job.params
    arguments = training_arguments(params["overrides"], task=params["task"], batch=params["batch"])
    hardware = choose_hardware(params["gpu"])
    events.emit("device", name=hardware.name, kind=hardware.kind)
    arguments |= hardware_arguments(hardware, arguments, imgsz=params["imgsz"])
    arguments |= {
        "task": params["task"],
        "model": f"{params['model']}.yaml",
        "data": "data.yaml",
        "save_dir": str(job.state / "ultralytics"),
        **{key: params[key] for key in ("imgsz", "epochs", "seed")},
    }
    why_not = why_not_reproducible(
        hardware, params["overrides"], reproducible=params["reproducible"]
    )
    plan = _plan(job, events, why_not)
    trainer = _trainer(params["task"], plan, arguments)
    if not trainer.finished:  # an earlier attempt may have been stopped after its last epoch
        _train(trainer, hardware, reproducible=params["reproducible"])
    shutil.copyfile(plan.best, job.out / "weights.safetensors")
    _write_curves(job.out / "curves.csv", trainer.rows)
    return _result(trainer, hardware, events)


def _plan(job: Job, events: Events, why_not: str | None) -> Plan:
    """Collect what to train; raises StepFailed("weights") for weights of another task."""
    task: Task = job.params["task"]
    dataset = read_json(Dataset, job.inputs / "dataset.json")
    keypoints = {"kpt_shape": dataset.kpt_shape, "flip_idx": dataset.flip_idx}
    folder = job.state / "data"
    if task == "classify":
        link_classes(job.inputs / "data", folder, dataset.names)
    else:
        _link_data(job.inputs / "data", folder)
    data = {
        "path": folder,
        **{split: str(folder / "images" / split) for split in SPLITS},
        "names": dict(enumerate(dataset.names)),
        "nc": dataset.nc,
        "channels": 3,
        **{key: list(values) for key, values in keypoints.items() if values},
    }
    start, architecture = _network(job)
    return Plan(
        architecture=architecture,
        start=start,
        data=data,
        state=job.state,
        events=events,
        why_not=why_not,
    )


def _network(job: Job) -> tuple[checkpoint.Model | None, Mapping[str, Any]]:
    """The start weights' network, if there is one, and the architecture to train: theirs, or else
    that of the parameters. An activation in the parameters holds for either: start weights that
    were trained with another one are taken over all the same."""
    task: Task = job.params["task"]
    suffix = checkpoint.SUFFIXES[task]
    weights = job.inputs / "weights.safetensors"
    start: checkpoint.Model | None = None
    if weights.is_file():
        start, meta = checkpoint.load(weights)
        architecture = meta.model
        if meta.task != task:
            raise StepFailed(
                "weights",
                f"the start weights are of a {meta.task} model, and a {task} model is wanted",
                hint=f"pass WEIGHTS=yolov8n{suffix}.pt, WEIGHTS=scratch or TASK={meta.task}",
            )
    else:
        architecture = yaml_model_load(f"{job.params['model']}{suffix}.yaml")
    if job.params.get("activation") == "relu":
        architecture = with_relu(architecture)
    return start, architecture


def _link_data(source: Path, target: Path) -> None:
    """Make a folder of links, because ultralytics writes caches and repaired images beside the
    files, which are the user's own."""
    shutil.rmtree(target, ignore_errors=True)
    for kind in ("images", "labels"):
        for folder, _folders, names in os.walk(source / kind, followlinks=True):
            links = target / Path(folder).relative_to(source)
            links.mkdir(parents=True)
            for name in names:
                (links / name).symlink_to(Path(folder, name))


def _trainer(task: Task, plan: Plan, arguments: dict[str, Any]) -> Run:
    """Build the trainer; raises StepFailed("request") for an argument of a wrong type or value."""
    try:
        return _TRAINERS[task](plan, arguments)
    except (TypeError, ValueError, SyntaxError) as error:
        raise StepFailed(
            "request", f"[train]: {error}", hint="see ultralytics' table of training arguments"
        ) from error


def _train(trainer: Run, hardware: Hardware, *, reproducible: bool) -> None:
    for logger in (LOGGER, *LOGGER.handlers):  # the log of a step is read when it fails
        logger.setLevel(logging.INFO)
    if hardware.kind == "cpu":
        set_threads(reproducible=reproducible)
    try:
        trainer.train()
    except (RuntimeError, MemoryError) as error:
        if not isinstance(error, MemoryError) and not any(
            word in str(error) for word in _OUT_OF_MEMORY
        ):
            raise
        raise StepFailed(
            "memory",
            f"not enough memory to train on the {hardware.kind.upper()}: "
            f"{str(error).splitlines()[0] if str(error) else 'none is left'}",
            hint="set a smaller batch in [train]",
        ) from error


def _write_curves(path: Path, rows: list[Row]) -> None:
    """One line an epoch; no times, so that equal trainings give equal bytes."""
    names = list(rows[0])
    lines = [",".join(("epoch", *names))]
    for epoch, row in enumerate(rows, start=1):
        lines.append(",".join((str(epoch), *(f"{row[name]:.6g}" for name in names))))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _result(trainer: Run, hardware: Hardware, events: Events) -> TrainResult:
    best = trainer.rows[trainer.best_epoch - 1]
    metrics = {name: value for name, value in best.items() if name.startswith(_METRIC_KINDS)}
    if score := _too_little(metrics, len(trainer.plan.data["names"])):
        events.warning(
            f"the training has learnt next to nothing: {score}",
            hint="train for more epochs, start from WEIGHTS=, or look at the labels",
        )
    return TrainResult(
        metrics=metrics,
        epochs_run=len(trainer.rows),
        best_epoch=trainer.best_epoch,
        device=Device(name=hardware.name, kind=hardware.kind),
        reproducible=trainer.why_not is None,
        why_not=trainer.why_not,
        resumed_from=trainer.resumed_from,
        tensors_taken_over=trainer.taken_over,
        versions={name: version(name) for name in ("ultralytics", "torch", "numpy")},
    )


def _too_little(metrics: Mapping[str, float], classes: int) -> str | None:
    """The figure that shows that a model has learnt nothing; None if it has."""
    if "class/top1" in metrics:
        top1 = metrics["class/top1"]
        if top1 >= least_top1(classes):
            return None
        return f"top-1 accuracy is {top1:.3f}, and guessing gives {1 / classes:.3f}"
    map50 = min(value for name, value in metrics.items() if name.endswith("/map50"))
    return f"mAP50 is {map50:.3f}" if map50 < LEAST_MAP50 else None


if __name__ == "__main__":
    main(run)
