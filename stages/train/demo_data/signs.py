"""Draws the road signs of the classification demo."""

from __future__ import annotations

import dataclasses
import random

from stages.train.demo_data.canvas import Canvas, Colour, Point, add, turn

SIGNS = ("give-way", "parking", "priority", "speed-limit", "stop")
_RED: Colour = (190, 30, 40)
_BLUE: Colour = (30, 80, 170)
_YELLOW: Colour = (245, 190, 40)
_WHITE: Colour = (240, 240, 235)
_BLACK: Colour = (25, 25, 30)
_GREY: Colour = (130, 130, 135)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Sign:
    """Where a sign is, how it leans (degrees), how narrow it looks from the side and how brightly
    it is lit (percent)."""

    canvas: Canvas
    centre: Point
    radius: int
    lean: int
    stretch: int
    light: int

    def plate(self, corners: int, first: int, *layers: tuple[int, Colour]) -> None:
        """Regular polygons inside each other, their sizes in percent of the sign's; ``first`` is
        the direction of a corner, in degrees from straight down."""
        angles = [first + self.lean + 360 * number // corners for number in range(corners)]
        for percent, colour in layers:
            size = self.radius * percent // 100
            outline = [add(self.centre, turn(size, angle, self.stretch)) for angle in angles]
            self.canvas.polygon(outline, self.lit(colour))

    def stroke(self, width: int, colour: Colour, *points: Point) -> None:
        """A line through points in percent of the sign's size, right and down from its centre."""
        joints = [self.centre] * len(points)
        for number, (right, down) in enumerate(points):
            across = turn(self.radius * right // 100, 90 + self.lean, self.stretch)
            along = turn(self.radius * down // 100, self.lean, self.stretch)
            joints[number] = add(add(self.centre, across), along)
        self.canvas.limb(joints, self.radius * width // 100, self.lit(colour))

    def lit(self, colour: Colour) -> Colour:
        """A colour in this light."""
        red, green, blue = (min(255, part * self.light // 100) for part in colour)
        return red, green, blue


def draw_sign(canvas: Canvas, rng: random.Random, *, kind: int, centre: Point, radius: int) -> None:
    """A sign on its pole."""
    sign = _Sign(
        canvas=canvas,
        centre=centre,
        radius=radius,
        lean=rng.randrange(-12, 13),
        stretch=rng.randrange(70, 106),
        light=rng.randrange(60, 111),
    )
    canvas.limb([centre, (centre[0], canvas.height)], max(3, radius // 8), sign.lit(_GREY))
    match SIGNS[kind]:
        case "give-way":
            sign.plate(3, 0, (118, _WHITE), (108, _RED), (56, _WHITE))
        case "parking":
            sign.plate(4, 45, (118, _WHITE), (108, _BLUE))
            sign.stroke(16, _WHITE, (-24, 50), (-24, -50), (18, -50), (18, 0), (-24, 0))
        case "priority":
            sign.plate(4, 0, (115, _WHITE), (104, _BLACK), (98, _WHITE), (70, _YELLOW))
        case "speed-limit":
            sign.plate(24, 0, (100, _RED), (76, _WHITE))
            for right in (-22, 22):
                sign.stroke(14, _BLACK, (right, -28), (right, 28))
        case _:
            sign.plate(8, 22, (108, _WHITE), (100, _RED))
            sign.stroke(24, _WHITE, (-56, 0), (56, 0))
