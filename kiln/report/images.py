"""What is drawn over the images of the evaluation set: boxes, skeletons and scores."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from kiln.report.page import MODELS
from stages.results.evaluate import Evidence, ReportImage

#: Keypoints that a model itself holds for hidden are not drawn.
VISIBLE = 0.5
#: Height of the text in parts of the image, and how wide a letter is in parts of that.
FONT = 0.058
WIDTH_OF_LETTER = 0.6

Point = tuple[float, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mark:
    """One object in pixels of the image; ``text`` stands at ``at``, anchored at ``anchor``."""

    x: float
    y: float
    width: float
    height: float
    points: Sequence[Point]
    limbs: Sequence[tuple[Point, Point]]
    text: str
    at: Point
    anchor: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnnotatedImage:
    """An image, what its labels say, and what each model finds in it, by the model's name."""

    file: str
    size: int
    image: str
    note: str
    truth: Sequence[Mark]
    found: Mapping[str, Sequence[Mark]]


def annotated_images(evidence: Evidence) -> list[AnnotatedImage]:
    """The images with their marks; boxes are [x1, y1, x2, y2], keypoints [x, y, visibility]."""

    def marks(image: ReportImage, objects: Sequence[Mapping[str, Any]]) -> list[Mark]:
        return [_mark(each, image.size, evidence.names, evidence.skeleton) for each in objects]

    return [
        AnnotatedImage(
            file=image.file,
            size=image.size,
            image=image.image,
            note=image.note,
            truth=marks(image, image.truth),
            found={
                model: marks(image, found)
                for model in MODELS
                if (found := getattr(image, model)) is not None
            },
        )
        for image in evidence.images
    ]


def _mark(
    found: Mapping[str, Any], size: int, names: Sequence[str], skeleton: Sequence[Sequence[int]]
) -> Mark:
    x1, y1, x2, y2 = found["box"]
    seen = {
        index: (point[0], point[1])
        for index, point in enumerate(found["keypoints"] or [])
        if len(point) < 3 or point[2] >= VISIBLE
    }
    text, font = _text(found, names), FONT * size
    # Above the box's top left corner, but never outside the image.
    over_the_edge = x1 + WIDTH_OF_LETTER * font * len(text) > size
    y = y1 - 0.3 * font if y1 > 1.3 * font else max(y1, 0.0) + 1.1 * font
    return Mark(
        x=x1,
        y=y1,
        width=x2 - x1,
        height=y2 - y1,
        points=list(seen.values()),
        limbs=[(seen[i], seen[j]) for i, j in skeleton if i in seen and j in seen],
        text=text,
        at=(min(x2, size) if over_the_edge else max(x1, 0.0), y),
        anchor="end" if over_the_edge else "start",
    )


def _text(found: Mapping[str, Any], names: Sequence[str]) -> str:
    """Class and score; with one class only, its name on every box would say nothing."""
    words = [names[found["class"]]] if len(names) > 1 else []
    return " ".join([*words, *([f"{found['score']:.2f}"] if "score" in found else [])])
