"""Draws the shapes of the detection demo."""

from __future__ import annotations

import random

from stages.train.demo_data.canvas import Canvas, Point, add, turn
from stages.train.demo_data.scenery import vivid

SHAPES = ("circle", "square", "triangle", "star", "cross")
_STAR_POINTS = 5


def draw_shape(
    canvas: Canvas, rng: random.Random, *, kind: int, centre: Point, radius: int, owner: int
) -> None:
    """One shape, turned at random, in half of the cases with a darker rim."""
    colour = vivid(rng)
    angle, stretch = rng.randrange(360), rng.randrange(80, 121)
    layers = [(radius, colour)]
    if rng.randrange(2):
        rim = (colour[0] // 2, colour[1] // 2, colour[2] // 2)
        layers = [(radius, rim), (radius * 4 // 5, colour)]
    for size, paint in layers:
        if SHAPES[kind] == "circle":
            canvas.oval(centre, (size * stretch // 100, size), paint, owner)
        else:
            corners = _outline(SHAPES[kind], size, angle, stretch)
            canvas.polygon([add(centre, corner) for corner in corners], paint, owner)


def _outline(name: str, radius: int, angle: int, stretch: int) -> list[Point]:
    """The corners around (0, 0)."""
    if name in ("square", "triangle"):
        count = 4 if name == "square" else 3
        return [turn(radius, angle + 360 * n // count, stretch) for n in range(count)]
    if name == "star":
        return [
            turn(
                radius if n % 2 == 0 else radius * 42 // 100,
                angle + 180 * n // _STAR_POINTS,
                stretch,
            )
            for n in range(2 * _STAR_POINTS)
        ]
    # A plus: three corners for each arm, two outer ones 18 degrees off its direction, and an inner
    # one between two arms.
    corners = []
    for arm in range(4):
        direction = angle + 90 * arm
        corners += [turn(radius, direction - 18, stretch), turn(radius, direction + 18, stretch)]
        corners.append(turn(radius * 44 // 100, direction + 45, stretch))
    return corners
