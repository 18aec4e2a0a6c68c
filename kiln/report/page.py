"""What the page shows, chosen from a build's result and put in order."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from kiln.report.result import Accuracy, BuildResult, Numbers, Usage
from stages.results.compile import Layer
from stages.results.evaluate import METRICS

_KINDS: Mapping[str, str] = {"pose": "Poses", "box": "Boxes"}
#: Titles of metrics by their key, those of poses first: the first one that was measured is the
#: page's headline.
METRIC_TITLES: Mapping[str, str] = {
    key: f"{plural}, {title.removeprefix(f'{kind} ')}"
    for kind, plural in _KINDS.items()
    for key, title in METRICS.items()
    if key.startswith(f"{kind}/")
} | {key: title.capitalize() for key, title in METRICS.items() if key.startswith("class/")}
_ARTIFACTS: Mapping[str, str] = {
    "trained": "trained",
    "onnx": "ONNX",
    "float32": "float32",
    "plain": "plain int8",
    "int8": "int8",
    "compiled": "compiled",
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
class MemoryBar(Usage):
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
    """A small chart over epochs or updates, from ``first`` on: a title and a line for each name."""

    title: str
    x: Sequence[float]
    x_title: str
    first: float
    lines: Mapping[str, Sequence[float | None]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Placed:
    """How many operators of a kind run on which processor."""

    operator: str
    npu: int
    cpu: int


def form_titles(accuracy: Accuracy) -> dict[str, str]:
    """What each form of the network is called, in the order in which they are made."""
    return {**_ARTIFACTS, **({"int8": "fine-tuned"} if "plain" in accuracy.artifacts else {})}


def scores(accuracy: Accuracy) -> list[Score]:
    """The measures that were taken, the task's own first."""
    measured, titles = accuracy.artifacts, form_titles(accuracy)
    before = next((name for name in ("float32", "onnx") if measured.get(name)), "float32")
    found = [
        Score(
            title=title,
            figures={
                titles[name]: measured[name][metric]
                for name in (before, "int8", "compiled")
                if metric in measured.get(name, {})
            },
            drop=accuracy.drop.get(metric),
        )
        for metric, title in METRIC_TITLES.items()
    ]
    return [score for score in found if score.figures]


def accuracy_table(accuracy: Accuracy) -> Table:
    """Every measure of every file that was measured, in the order in which the files were made."""
    measured, titles = accuracy.artifacts, form_titles(accuracy)
    files = [name for name in titles if measured.get(name)]
    return Table(
        columns=[titles[name] for name in files],
        rows=[
            (title, [measured[name].get(metric) for name in files])
            for metric, title in METRIC_TITLES.items()
            if any(metric in measured[name] for name in files)
        ],
    )


def memory(numbers: Numbers) -> list[MemoryBar]:
    """SRAM and flash against the board's limits."""
    return [
        MemoryBar(title=title, **dataclasses.asdict(usage))
        for title, usage in (("SRAM", numbers.sram), ("Flash", numbers.flash))
    ]


def panels(curves: Mapping[str, Sequence[float | None]]) -> list[Panel]:
    """The curves that answer how good the training got, and whether it was learning."""
    epochs = [epoch for epoch in curves.get("epoch", []) if epoch is not None]
    if len(epochs) < 2:
        return []
    wanted = [
        (f"Accuracy of {title} on val", {"mAP50-95": f"{kind}/map50_95", "mAP50": f"{kind}/map50"})
        for kind, title in (("pose", "poses"), ("box", "boxes"))
    ]
    wanted += [
        ("Accuracy on val", {"top-5": "class/top5", "top-1": "class/top1"}),
        ("Loss", {"train": "train/loss", "val": "val/loss"}),
    ]
    wanted += [
        (title, {"train": f"train/{loss}_loss", "val": f"val/{loss}_loss"})
        for loss, title in _LOSSES.items()
    ]
    found = [
        Panel(
            title=title,
            x=epochs,
            x_title="epoch",
            first=epochs[0],
            lines={name: curves[column] for name, column in columns.items() if column in curves},
        )
        for title, columns in wanted
    ]
    return [panel for panel in found if panel.lines]


def kept_epoch(build: BuildResult) -> int | None:
    """The epoch whose weights the training kept; None without a training."""
    trained = build.step("train")
    return trained.result.best_epoch if trained else None


def slowest(operators: Sequence[Layer]) -> list[Layer]:
    """The operators that take the most cycles; those without an estimate cannot be among them."""
    known = [each for each in operators if each.cycles]
    return sorted(known, key=lambda each: -(each.cycles or 0))[:SLOWEST]


def placement(operators: Mapping[str, Mapping[str, int]]) -> list[Placed]:
    """Each kind of operator, those that are left on the CPU of a board with an NPU first."""
    npu, cpu = operators.get("npu", {}), operators.get("cpu", {})
    rows = [
        Placed(operator=name, npu=npu.get(name, 0), cpu=cpu.get(name, 0))
        for name in npu.keys() | cpu.keys()
    ]
    return sorted(rows, key=lambda row: (-row.cpu, -row.npu, row.operator))
