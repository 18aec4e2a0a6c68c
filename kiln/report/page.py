"""What the page shows, chosen from build.json and put in order."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from kiln.report.result import Usage

#: Everything that the page reads, as it is in a build that gave none of it.
_EMPTY: Mapping[str, Any] = {
    "kiln": "",
    "name": "",
    "target": "",
    "board": {"title": "", "description": "", "firmware": "", "source": "", "npu": None},
    "imgsz": None,
    "task": None,
    "request": {},
    "environments": {},
    "steps": [],
    "files": {},
    "deployed": None,
    "verdict": {"accepted": None, "forced": False, "checks": []},
    "numbers": {
        "flash": None,
        "sram": None,
        "estimated_ms": None,
        "cycles": None,
        "estimator": None,
        "performance_model": None,
        "operators": {},
        "accuracy": {"images": 0, "artifacts": {}, "drop": {}},
    },
    "evidence": {
        "pictures": [],
        "precision_recall": {},
        "names": [],
        "skeleton": [],
        "outputs": [],
        "classes": [],
        "operators": [],
        "layers": [],
        "curves": {},
    },
    "warnings": [],
}

#: The first one that was measured is the page's headline.
_METRICS: Mapping[str, str] = {
    "pose/map50": "Poses, mAP50",
    "pose/map50_95": "Poses, mAP50-95",
    "box/map50": "Boxes, mAP50",
    "box/map50_95": "Boxes, mAP50-95",
}
_ARTIFACTS: Mapping[str, str] = {
    "trained": "trained",
    "onnx": "ONNX",
    "float32": "float32",
    "int8": "int8",
}
_LOSSES: Mapping[str, str] = {
    "box": "Loss of boxes",
    "dfl": "Loss of box edges",
    "cls": "Loss of classes",
    "pose": "Loss of keypoints",
}

#: The models that are held against each other, in the order in which they are shown.
MODELS = ("float32", "int8")
SLOWEST = 10


@dataclasses.dataclass(frozen=True, kw_only=True)
class Score:
    """A measure of accuracy, 0 to 1, of what stands before quantisation and of what comes after,
    or of the one that there is; ``drop`` in points."""

    title: str
    figures: Mapping[str, float | None]
    drop: float | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
    """Figures from 0 to 1, None for one that was not taken."""

    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[float | None]]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bar(Usage):
    """A memory's use as a bar with its limit marked; all widths in percent of the bar's length."""

    title: str

    @property
    def share(self) -> float:
        return 100 * self.used_kib / self.limit_kib

    @property
    def filled(self) -> float:
        return min(self.share, 100.0)

    @property
    def limit_at(self) -> float:
        return min(100 * self.limit_kib / self.used_kib, 100.0) if self.used_kib else 100.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Panel:
    """A small chart over the epochs: a title and a line for each name."""

    title: str
    epochs: Sequence[int]
    lines: Mapping[str, Sequence[float | None]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Placed:
    """How many operators of a kind run where."""

    operator: str
    npu: int
    cpu: int


def completed(document: Mapping[str, Any]) -> dict[str, Any]:
    """The document, and for everything that it leaves out or open what stands for none of it."""
    return _filled(document, _EMPTY)


def _filled(given: Mapping[str, Any], empty: Mapping[str, Any]) -> dict[str, Any]:
    known = {}
    for key, value in empty.items():
        if isinstance(value, Mapping) and value:
            known[key] = _filled(given.get(key) or {}, value)
        else:
            known[key] = value if given.get(key) is None else given[key]
    return {**given, **known}


def scores(build: Mapping[str, Any]) -> list[Score]:
    """The measures that were taken, the task's own first."""
    accuracy = build["numbers"]["accuracy"]
    measured = accuracy["artifacts"]
    before = next((name for name in ("float32", "onnx") if measured.get(name)), "float32")
    found = [
        Score(
            title=title,
            figures={
                _ARTIFACTS[name]: measured[name][metric]
                for name in (before, "int8")
                if metric in measured.get(name, {})
            },
            drop=accuracy["drop"].get(metric),
        )
        for metric, title in _METRICS.items()
    ]
    return [score for score in found if score.figures]


def accuracy(build: Mapping[str, Any]) -> Table:
    """Every measure of every file that was measured, in the order in which the files were made."""
    measured = build["numbers"]["accuracy"]["artifacts"]
    files = [name for name in _ARTIFACTS if measured.get(name)]
    return Table(
        columns=[_ARTIFACTS[name] for name in files],
        rows=[
            (title, [measured[name].get(metric) for name in files])
            for metric, title in _METRICS.items()
            if any(metric in measured[name] for name in files)
        ],
    )


def memory(build: Mapping[str, Any]) -> list[Bar]:
    numbers = build["numbers"]
    return [
        Bar(title=title, **numbers[name])
        for name, title in (("sram", "SRAM"), ("flash", "Flash"))
        if numbers[name]
    ]


def panels(curves: Mapping[str, Sequence[Any]]) -> list[Panel]:
    """The curves that answer how good the training got, and whether it was learning."""
    epochs = curves.get("epoch", [])
    if len(epochs) < 2:
        return []
    wanted = [
        (f"Accuracy of {title} on val", {"mAP50-95": f"{kind}/map50_95", "mAP50": f"{kind}/map50"})
        for kind, title in (("pose", "poses"), ("box", "boxes"))
    ] + [
        (title, {"train": f"train/{loss}_loss", "val": f"val/{loss}_loss"})
        for loss, title in _LOSSES.items()
    ]
    found = [
        Panel(
            title=title,
            epochs=epochs,
            lines={name: curves[column] for name, column in columns.items() if column in curves},
        )
        for title, columns in wanted
    ]
    return [panel for panel in found if panel.lines]


def kept_epoch(build: Mapping[str, Any]) -> int | None:
    """The epoch whose weights the training kept."""
    trained = (step["result"] for step in build["steps"] if step["name"] == "train")
    return next((result.get("best_epoch") for result in trained), None)


def slowest(operators: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The operators that take the most cycles; those without an estimate cannot be among them."""
    known = [each for each in operators if each["cycles"]]
    return sorted(known, key=lambda each: -int(each["cycles"]))[:SLOWEST]


def placement(operators: Mapping[str, Mapping[str, int]]) -> list[Placed]:
    """Each kind of operator, those that are left on the CPU of a board with an NPU first."""
    npu, cpu = operators.get("npu") or {}, operators.get("cpu") or {}
    rows = [
        Placed(operator=name, npu=npu.get(name, 0), cpu=cpu.get(name, 0))
        for name in npu.keys() | cpu.keys()
    ]
    return sorted(rows, key=lambda row: (-row.cpu, -row.npu, row.operator))
