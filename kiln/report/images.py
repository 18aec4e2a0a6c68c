"""What is drawn over the pictures of the evaluation set: boxes, skeletons and scores."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from kiln.report.page import MODELS

#: Keypoints that a model itself holds for hidden are not drawn.
VISIBLE = 0.5
#: Height of the text in parts of the picture, and how wide a letter is in parts of that.
FONT = 0.058
WIDTH_OF_LETTER = 0.6

Point = tuple[float, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mark:
    """One object in pixels of the picture; ``text`` stands at ``at``, anchored at ``anchor``."""

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
class Picture:
    """A picture, what its labels say, and what each model finds in it, by the model's name."""

    file: str
    size: int
    image: str
    note: str
    truth: Sequence[Mark]
    found: Mapping[str, Sequence[Mark]]


def pictures(evidence: Mapping[str, Any]) -> list[Picture]:
    """The pictures with their marks; boxes are [x1, y1, x2, y2], keypoints [x, y, visibility]."""
    names, skeleton = evidence["names"], evidence["skeleton"]

    def marks(picture: Mapping[str, Any], kind: str) -> list[Mark]:
        return [_mark(each, picture["size"], names, skeleton) for each in picture[kind]]

    return [
        Picture(
            file=picture["file"],
            size=picture["size"],
            image=picture["image"],
            note=picture["note"],
            truth=marks(picture, "truth"),
            found={model: marks(picture, model) for model in MODELS if picture[model] is not None},
        )
        for picture in evidence["pictures"]
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
    # Above the box's top left corner, but never outside the picture.
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
