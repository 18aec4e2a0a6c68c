"""What the page shows of a classifier: images and their classes, and which it mixes up."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from kiln.report.page import MODELS
from stages.results.evaluate import ClassProbability, Evidence

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


def confusion(evidence: Evidence) -> Confusion | None:
    """Which classes the model that was quantised last mixes up; None for other tasks."""
    measured = [model for model in MODELS if model in evidence.confusion]
    if not measured:
        return None
    table, names = evidence.confusion[measured[-1]], evidence.names
    mistakes = [
        Mistake(truth=names[true], taken=names[taken], count=count, images=sum(row))
        for true, row in enumerate(table)
        for taken, count in enumerate(row)
        if count and taken != true
    ]
    fits = len(names) <= MOST_IN_TABLE
    return Confusion(
        model=measured[-1],
        names=names if fits else (),
        rows=list(zip(names, table, strict=True)) if fits else (),
        mistakes=sorted(mistakes, key=lambda each: -each.count)[:MISTAKES],
    )
