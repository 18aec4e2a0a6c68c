"""Measure the accuracy of every form of the model on the evaluation images, and the loss by int8.

``params``: frame (width and height of the camera's frames, in pixels). ``in/``: any of model.onnx,
float32.tflite, int8.tflite, and outputs.npz (what the compiled file has given in the step
`outputs`); ``evaluation/`` (images.npy, uint8 [m,S,S,3] RGB, and truth.json).
``out/evidence.json``: the fields of ``stages.results.evaluate.Evidence``.

Images go in as on the board and detections come out as in the firmware, with the threshold of 45
percent at which it takes two boxes for one. Its score threshold is not used: mAP ranks all
detections, so whatever the firmware would report at its lowest threshold counts, which are poses of
0.1 % and more and boxes of 1 %. They are ranked by their scores before the firmware makes whole
percents of them (see ``stages.export.evaluation.decode``).
Without a float32.tflite, the ONNX file stands for float32; they are the same function. A compiled
file that gives what int8 gives on all images has no figures of its own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import Any

from stages.contract import Events, Job, main, write_json
from stages.export.evaluation import report_images
from stages.export.evaluation.coco_map import Precision, measure
from stages.export.evaluation.forms import FILES, present, sides_of, unlike_int8
from stages.export.evaluation.inference import (
    Artifact,
    Evaluation,
    ImageResult,
    open_artifact,
    read_evaluation,
    run_on_all,
)
from stages.export.evaluation.snr import snr_db
from stages.export.models.model_runners import is_per_channel
from stages.results.evaluate import (
    LEAST_MAP50,
    METRICS,
    ClassAccuracy,
    EvaluateResult,
    Evidence,
    Kind,
    OutputSnr,
    ReportImage,
)
from stages.suppression import IOU, LEAST_BOX_PERCENT, LEAST_POSE_SCORE

#: A larger drop, in points of any mAP, is a warning.
ACCEPTED_DROP = 2.0
#: So many of the outputs that lost most are named, and of the classes that are never found.
NAMED_OUTPUTS = 3
NAMED_CLASSES = 5

PACKAGES = ("tensorflow-cpu", "onnxruntime", "pycocotools", "numpy")

Figures = Mapping[str, float | None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Findings:
    """The results of all images, and the precision of each artifact.

    ``sides``: what is compared, float32 and int8, each with the artifact that stands for it.
    ``equal``: for each image whether the compiled file gives what int8 gives; () without both.
    """

    evaluation: Evaluation
    results: Sequence[ImageResult]
    precision: Mapping[str, Mapping[Kind, Precision]]
    sides: Mapping[str, str]
    equal: Sequence[bool]

    def figures(self, artifact: str) -> dict[str, float | None]:
        """Every mAP of an artifact, 0 to 1; None if there is no object to find."""
        return {
            f"{kind}/{name}": None if value is None else round(value, 4)
            for kind, precision in self.precision[artifact].items()
            for name, value in (("map50", precision.map50), ("map50_95", precision.map50_95))
        }

    def pairs(self) -> dict[str, tuple[float, float]]:
        """Every mAP of float32 and of int8, if both are there and there are objects to find."""
        if len(self.sides) < 2:
            return {}
        before, after = (self.figures(self.sides[side]) for side in ("float32", "int8"))
        both = {name: (before[name], after[name]) for name in before}
        return {
            name: (one, other)
            for name, (one, other) in both.items()
            if one is not None and other is not None
        }

    def finds_nothing(self, side: str) -> str:
        """The mAP50 of a side by which it finds next to nothing, or ""."""
        known = self.figures(self.sides[side]) if side in self.sides else {}
        low = {
            name: value
            for name, value in known.items()
            if name.endswith("/map50") and value is not None and value < LEAST_MAP50
        }
        return min(low, key=lambda name: low[name], default="")

    def never_found(self) -> list[str]:
        """The labelled classes of which the model, int8 if it is there, finds no object."""
        side = "int8" if "int8" in self.sides else "float32"
        found = self.precision[self.sides[side]]["box"].classes
        return [
            name for name, value in zip(self.evaluation.names, found, strict=True) if value == 0
        ]

    def drop(self) -> dict[str, float]:
        """Points of every mAP that int8 is below float32."""
        return {name: round(100 * (one - other), 2) for name, (one, other) in self.pairs().items()}

    def outputs(self) -> tuple[OutputSnr, ...]:
        """Signal-to-noise ratio of every output, float32 against int8."""
        return tuple(
            OutputSnr(name=role, snr_db=snr_db([result.powers[role] for result in self.results]))
            for role in self.results[0].powers
        )

    def classes(self) -> tuple[ClassAccuracy, ...]:
        """By class the mAP50-95 of what the model is for: keypoints for pose, else boxes."""
        kind: Kind = "pose" if self.evaluation.keypoints else "box"
        counts = [0] * len(self.evaluation.names)
        for objects in self.evaluation.truth:
            for each in objects:
                counts[each["class"]] += 1
        return tuple(
            ClassAccuracy(
                name=name,
                objects=counts[number],
                float32=self._of_class("float32", kind, number),
                int8=self._of_class("int8", kind, number),
            )
            for number, name in enumerate(self.evaluation.names)
        )

    def _of_class(self, side: str, kind: Kind, number: int) -> float | None:
        if side not in self.sides:
            return None
        value = self.precision[self.sides[side]][kind].classes[number]
        return None if value is None else round(value, 4)


def run(job: Job, events: Events) -> EvaluateResult:
    """Run everything, then measure, warn, and keep what a report shows."""
    width, height = job.params["frame"]
    evaluation = read_evaluation(job.inputs / "evaluation", frame=(width, height), iou=IOU)
    findings = run_and_measure(open_artifacts(job, evaluation), evaluation, events)
    for message, hint in shortcomings(findings, job):
        events.warning(message, hint=hint)
    write_json(job.out / "evidence.json", evidence(findings))
    names = list(findings.precision)
    return EvaluateResult(
        images=len(findings.results),
        objects=sum(map(len, evaluation.truth)),
        artifacts={name: findings.figures(name) for name in names},
        drop=findings.drop(),
        classes=findings.classes(),
        outputs=findings.outputs(),
        seconds={
            name: round(sum(result.seconds[name] for result in findings.results), 3)
            for name in findings.results[0].seconds
        },
        score_threshold=LEAST_POSE_SCORE if evaluation.keypoints else LEAST_BOX_PERCENT / 100,
        iou_threshold=IOU / 100,
        versions={package: version(package) for package in PACKAGES},
        finds_nothing=any(findings.finds_nothing(side) for side in ("float32", "int8")),
        equal_to_int8=all(findings.equal) if findings.equal else None,
    )


def open_artifacts(job: Job, evaluation: Evaluation) -> list[Artifact]:
    """The forms of the model that the job has; raises StepFailed if one cannot be evaluated."""
    return [open_artifact(*form, evaluation) for form in present(job.inputs).items()]


def run_and_measure(
    artifacts: Sequence[Artifact], evaluation: Evaluation, events: Events
) -> Findings:
    """Run every artifact on every image, then compare with the labels."""
    names = [artifact.name for artifact in artifacts]
    sides = sides_of(names)
    results = []
    for result in run_on_all(artifacts, evaluation, list(sides.values())):
        results.append(result)
        events.progress(len(results), len(evaluation.images), "images")
    equal = [result.equal for result in results if result.equal is not None]
    if equal and all(equal):
        names.remove("compiled")
    precision = {
        name: measure(
            evaluation.truth,
            [result.detections[name] for result in results],
            classes=len(evaluation.names),
            keypoints=evaluation.keypoints,
        )
        for name in names
    }
    return Findings(
        evaluation=evaluation, results=results, precision=precision, sides=sides, equal=equal
    )


def shortcomings(findings: Findings, job: Job) -> Iterator[tuple[str, str]]:
    """What the user is warned of, each with what to do about it."""
    figures = findings.figures(next(iter(findings.precision)))
    if unknown := [words for name, words in METRICS.items() if figures.get(name, 0) is None]:
        yield (
            f"{' and '.join(unknown)} cannot be measured: no evaluation image has such an object",
            "label some images of val, or evaluate on more of them ([evaluation] images)",
        )
    if small := _finds_little(findings):
        yield small
    if not all(findings.equal):
        yield unlike_int8([each.file for each in findings.evaluation.labelled], findings.equal)
    drop = findings.drop()
    worst = max(drop, key=lambda name: drop[name], default="")
    if not worst or drop[worst] <= ACCEPTED_DROP:
        return
    before, after = findings.pairs()[worst]
    finer = "" if is_per_channel(job.inputs / FILES["int8"]) else "per-channel weights, "
    yield (
        f"int8 loses {drop[worst]:.1f} points of {METRICS[worst]} ({100 * before:.1f} to "
        f"{100 * after:.1f}){_worst_outputs(findings.outputs())}",
        f"try more calibration images ([calibration] images) that look like those the board "
        f"will see, {finer}or a larger IMGSZ",
    )


def _finds_little(findings: Findings) -> tuple[str, str] | None:
    """A network that finds next to nothing; else the classes that it never finds."""
    side = "float32" if "float32" in findings.sides else "int8"
    if metric := findings.finds_nothing(side):
        value = findings.figures(findings.sides[side])[metric]
        return (
            f"the network finds next to nothing: its {METRICS[metric]} is {value:.3f}",
            "train for more epochs (EPOCHS=), start from weights of a similar task (WEIGHTS=), "
            "or look in the report at what is labelled and what is found",
        )
    missing = findings.never_found()
    if not missing:
        return None
    named = ", ".join(missing[:NAMED_CLASSES])
    more = len(missing) - NAMED_CLASSES
    others = f" and {more} more" if more > 0 else ""
    verb = "is" if len(missing) == 1 else "are"
    return (
        f"{len(missing)} of {len(findings.evaluation.names)} classes {verb} "
        f"labelled and never found: {named}{others}",
        "add images of them, train for more epochs, or leave them out of the data set",
    )


def evidence(findings: Findings) -> Evidence:
    """What a report draws: images, and precision over recall."""
    evaluation, sides = findings.evaluation, findings.sides
    kinds = next(iter(findings.precision.values()))
    return Evidence(
        images=_report_images(findings),
        precision_recall={
            kind: {side: findings.precision[name][kind].curve for side, name in sides.items()}
            for kind in kinds
        },
        names=evaluation.names,
        skeleton=evaluation.skeleton,
    )


def _report_images(findings: Findings) -> tuple[ReportImage, ...]:
    evaluation, sides = findings.evaluation, findings.sides
    changes = [
        report_images.change(*(result.detections[name] for name in sides.values()))
        if len(sides) == 2
        else 0.0
        for result in findings.results
    ]

    def found(number: int, side: str) -> tuple[Mapping[str, Any], ...] | None:
        if side not in sides:
            return None
        return report_images.describe(findings.results[number].detections[sides[side]])

    return tuple(
        ReportImage(
            file=evaluation.labelled[number].file,
            size=evaluation.labels.size,
            image=report_images.data_url(evaluation.images[number]),
            truth=evaluation.labelled[number].objects,
            note=note,
            float32=found(number, "float32"),
            int8=found(number, "int8"),
        )
        for number, note in report_images.choose(changes).items()
    )


def _worst_outputs(outputs: Sequence[OutputSnr]) -> str:
    """The outputs with the least signal-to-noise ratio, in words."""
    known = sorted((each.snr_db, each.name) for each in outputs if each.snr_db is not None)
    if not known:
        return ""
    named = ", ".join(f"{name} ({ratio:.1f} dB)" for ratio, name in known[:NAMED_OUTPUTS])
    return f"; the outputs with the least signal to noise: {named}"


if __name__ == "__main__":
    main(run)
