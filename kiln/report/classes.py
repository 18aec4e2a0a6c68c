"""What the page shows of a classifier: images and their classes, and which it mixes up."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from kiln.report.page import MODELS
from kiln.report.result import BuildEvidence
from stages.results.evaluate import ClassMistake, ClassProbability, Evidence

#: With more classes a table of all pairs is too wide for the page.
MOST_IN_TABLE = 12
MISTAKES = 10


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answer:
    """The most probable class to one model, and whether it is the right one."""

    model: str
    name: str
    probability: float
    right: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassFigure:
    """An image, its class, and what each model says; ``image`` is a data URL."""

    file: str
    size: int
    image: str
    note: str
    truth: str
    answers: Sequence[Answer]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mistake:
    """``count`` images of ``truth``, of ``images`` that there are, were taken for ``taken``."""

    truth: str
    taken: str
    count: int
    images: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Confusion:
    """Which classes a model mixes up.

    ``rows``: by true class the numbers of images taken for each class of ``names``; both are empty
    for many classes. ``mistakes``: the most frequent ones.
    """

    model: str
    names: Sequence[str]
    rows: Sequence[tuple[str, Sequence[int]]]
    mistakes: Sequence[Mistake]


def class_figures(evidence: Evidence) -> list[ClassFigure]:
    """The images of a classifier's report."""

    def answers(truth: int, found: Mapping[str, Sequence[ClassProbability] | None]) -> list[Answer]:
        return [
            Answer(
                model=model,
                name=evidence.names[best[0].number],
                probability=best[0].probability,
                right=best[0].number == truth,
            )
            for model, best in found.items()
            if best
        ]

    return [
        ClassFigure(
            file=image.file,
            size=image.size,
            image=image.image,
            note=image.note,
            truth=evidence.names[image.truth],
            answers=answers(image.truth, {model: getattr(image, model) for model in MODELS}),
        )
        for image in evidence.classified
    ]


def confusion(evidence: BuildEvidence) -> Confusion | None:
    """Which classes the model that was quantised last mixes up; None for other tasks."""
    measured = [model for model in MODELS if model in evidence.mistakes]
    if not measured:
        return None
    found, names = evidence.mistakes[measured[-1]], evidence.names
    images = [each.objects for each in evidence.classes]
    fits = len(names) <= MOST_IN_TABLE
    return Confusion(
        model=measured[-1],
        names=names if fits else (),
        rows=_rows(names, images, found) if fits else (),
        mistakes=[
            Mistake(
                truth=names[each.truth],
                taken=names[each.taken],
                count=each.count,
                images=images[each.truth],
            )
            for each in found[:MISTAKES]
        ],
    )


def _rows(
    names: Sequence[str], images: Sequence[int], found: Sequence[ClassMistake]
) -> list[tuple[str, Sequence[int]]]:
    """By true class the numbers of images taken for each class: the right ones are those left."""
    table = [[0] * len(names) for _ in names]
    for each in found:
        table[each.truth][each.taken] = each.count
    for number, row in enumerate(table):
        row[number] = images[number] - sum(row)
    return list(zip(names, table, strict=True))
