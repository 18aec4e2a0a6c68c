"""Measure how often every form of a classifier is right on the evaluation images.

``params``: those of the step `evaluate`; none is needed. ``in/``: any of model.onnx,
float32.tflite, int8.tflite, and outputs.npz (what the compiled file has given in the step
`outputs`); ``evaluation/`` (images.npy, uint8 [m,S,S,3] RGB, and truth.json, a ClassTruth).
``out/evidence.json``: the fields of ``stages.results.evaluate.Evidence``.

Top-1: the most probable class is the right one; top-5: it is among the five most probable. Of equal
probabilities, which int8 often has, the firmware reports the last class first
(SSCMA-Micro 1.0.x, core/algorithm/el_algorithm_imcls.cpp), and so it is counted here.
Without a float32.tflite, the ONNX file stands for float32; they are the same function. A compiled
file that gives what int8 gives on all images has no figures of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version

from stages.contract import Events, Job, main, write_json
from stages.export.evaluation import report_images
from stages.export.evaluation.classification import (
    Classified,
    Evaluation,
    accuracy,
    change,
    mistakes,
    most_probable,
    read_evaluation,
    right_by_class,
    run_on_all,
)
from stages.export.evaluation.forms import FILES, present, sides_of, unlike_int8
from stages.export.evaluation.snr import powers, snr_db
from stages.export.models.model_runners import is_per_channel
from stages.results.evaluate import (
    METRICS,
    ClassAccuracy,
    ClassifiedReportImage,
    EvaluateResult,
    Evidence,
    OutputSnr,
    least_top1,
)

#: So many classes that are never told are named.
NAMED_CLASSES = 5
#: A larger drop, in points of top-1 accuracy, is a warning.
ACCEPTED_DROP = 2.0
PACKAGES = ("tensorflow-cpu", "onnxruntime", "numpy")


def run(job: Job, events: Events) -> EvaluateResult:
    """Run everything, then measure, warn, and keep what a report shows."""
    evaluation = read_evaluation(job.inputs / "evaluation")
    found = {}
    for name, path in present(job.inputs).items():
        found[name] = run_on_all(
            path, evaluation, lambda done: events.progress(done, len(evaluation.truth), "images")
        )
    sides = {side: found[name] for side, name in sides_of(found).items()}
    equal = _equal(found)
    if equal and all(equal):
        del found["compiled"]
    figures = {name: accuracy(each, evaluation.truth) for name, each in found.items()}
    drop = _drop({side: accuracy(each, evaluation.truth) for side, each in sides.items()})
    differs = [] if all(equal) else [unlike_int8(evaluation.files, equal)]
    for message, hint in (*_shortcomings(evaluation, sides, drop, job), *differs):
        events.warning(message, hint=hint)
    write_json(job.out / "evidence.json", _evidence(evaluation, sides))
    return EvaluateResult(
        images=len(evaluation.truth),
        objects=len(evaluation.truth),
        artifacts=figures,
        drop=drop,
        classes=_classes(evaluation, sides),
        outputs=_outputs(sides),
        seconds={
            name: round(each.seconds, 3) for name, each in found.items() if name != "compiled"
        },
        score_threshold=None,
        iou_threshold=None,
        versions={package: version(package) for package in PACKAGES},
        finds_nothing=any(_guesses(each, evaluation) for each in sides.values()),
        equal_to_int8=all(equal) if equal else None,
    )


def _equal(found: Mapping[str, Classified]) -> list[bool]:
    """For each image whether the compiled file gives what int8 gives; [] without both."""
    if not {"int8", "compiled"} <= found.keys():
        return []
    one, other = (found[name].probabilities for name in ("int8", "compiled"))
    return (one == other).all(axis=1).tolist()


def _drop(figures: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Points of every figure that int8 is below float32, if both are there."""
    if len(figures) < 2:
        return {}
    before, after = figures["float32"], figures["int8"]
    return {name: round(100 * (before[name] - after[name]), 2) for name in before}


def _outputs(sides: Mapping[str, Classified]) -> tuple[OutputSnr, ...]:
    """The signal-to-noise ratio of the probabilities, float32 against int8, if both are there."""
    if len(sides) < 2:
        return ()
    both = powers(sides["float32"].probabilities, sides["int8"].probabilities)
    return (OutputSnr(name="probabilities", snr_db=snr_db([both])),)


def _classes(evaluation: Evaluation, sides: Mapping[str, Classified]) -> tuple[ClassAccuracy, ...]:
    """By class how many of its images are told right."""
    right = {side: right_by_class(each, evaluation) for side, each in sides.items()}
    counts = [int((evaluation.truth == number).sum()) for number in range(len(evaluation.names))]

    def share(side: str, number: int) -> float | None:
        if side not in right or not counts[number]:
            return None
        return round(int(right[side][number]) / counts[number], 4)

    return tuple(
        ClassAccuracy(
            name=name,
            objects=counts[number],
            float32=share("float32", number),
            int8=share("int8", number),
        )
        for number, name in enumerate(evaluation.names)
    )


def _shortcomings(
    evaluation: Evaluation, sides: Mapping[str, Classified], drop: Mapping[str, float], job: Job
) -> Iterator[tuple[str, str]]:
    """What the user is warned of, each with what to do about it."""
    if small := _tells_little(evaluation, sides):
        yield small
    if drop.get("class/top1", 0) <= ACCEPTED_DROP:
        return
    before, after = (accuracy(sides[side], evaluation.truth) for side in ("float32", "int8"))
    finer = "" if is_per_channel(job.inputs / FILES["int8"]) else "per-channel weights, "
    yield (
        f"int8 loses {drop['class/top1']:.1f} points of {METRICS['class/top1']} "
        f"({100 * before['class/top1']:.1f} to {100 * after['class/top1']:.1f})",
        f"try more calibration images ([calibration] images) that look like those the board "
        f"will see, {finer}or a larger IMGSZ",
    )


def _tells_little(
    evaluation: Evaluation, sides: Mapping[str, Classified]
) -> tuple[str, str] | None:
    """A network that is hardly better than guessing; else the classes that it never tells."""
    found = sides["float32" if "float32" in sides else "int8"]
    if _guesses(found, evaluation):
        top1 = accuracy(found, evaluation.truth)["class/top1"]
        return (
            f"the network tells next to nothing apart: its {METRICS['class/top1']} is {top1:.3f}, "
            f"and guessing gives {1 / len(evaluation.names):.3f}",
            "train for more epochs (EPOCHS=), start from WEIGHTS=yolov8n-cls.pt, or look in the "
            "report at what is labelled and what is found",
        )
    deployed = "int8" if "int8" in sides else "float32"
    shares = ((each.name, getattr(each, deployed)) for each in _classes(evaluation, sides))
    missing = [name for name, share in shares if share == 0]
    if not missing:
        return None
    others = f" and {len(missing) - NAMED_CLASSES} more" if len(missing) > NAMED_CLASSES else ""
    return (
        f"{len(missing)} of {len(evaluation.names)} classes {'is' if len(missing) == 1 else 'are'} "
        f"in val and never told: {', '.join(missing[:NAMED_CLASSES])}{others}",
        "add images of them, train for more epochs, or leave them out of the data set",
    )


def _guesses(found: Classified, evaluation: Evaluation) -> bool:
    top1 = accuracy(found, evaluation.truth)["class/top1"]
    return top1 < least_top1(len(evaluation.names))


def _evidence(evaluation: Evaluation, sides: Mapping[str, Classified]) -> Evidence:
    """What a report draws: images with what each model says, and which classes are mixed up."""
    changes: Sequence[float] = [0.0] * len(evaluation.truth)
    if len(sides) == 2:
        changes = change(sides["float32"], sides["int8"])
    images = tuple(
        ClassifiedReportImage(
            file=evaluation.files[number],
            size=evaluation.images.shape[1],
            image=report_images.data_url(evaluation.images[number]),
            truth=int(evaluation.truth[number]),
            note=note,
            **{
                side: most_probable(sides[side], number) if side in sides else None
                for side in ("float32", "int8")
            },
        )
        for number, note in report_images.choose(changes).items()
    )
    return Evidence(
        images=(),
        precision_recall={},
        names=evaluation.names,
        skeleton=(),
        classified=images,
        mistakes={side: mistakes(each, evaluation) for side, each in sides.items()},
    )


if __name__ == "__main__":
    main(run)
