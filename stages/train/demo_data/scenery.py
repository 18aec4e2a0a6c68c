"""Draws what is behind the objects of the demo images, and sometimes in front of them."""

from __future__ import annotations

import random

from stages.train.demo_data.canvas import Canvas, Colour, add, turn

#: Width and height in pixels; several proportions, because the board stretches all of them.
SIZES = ((320, 240), (320, 240), (320, 180), (288, 288), (240, 320))


def draw_backdrop(canvas: Canvas, rng: random.Random, *, blocks: bool) -> None:
    """A wall or a sky, a floor, and unlabelled things; ``blocks`` allows rectangles."""
    bright = rng.randrange(60, 200)
    canvas.gradient(tint(rng, bright, 30), tint(rng, min(255, bright + 40), 30))
    horizon = canvas.height * rng.randrange(55, 85) // 100
    floor = tint(rng, rng.randrange(50, 170), 35)
    canvas.polygon(
        [(0, horizon), (canvas.width, horizon), (canvas.width, canvas.height), (0, canvas.height)],
        floor,
    )
    for _ in range(rng.randrange(2, 7)):
        _clutter(canvas, rng, horizon, rng.randrange(0 if blocks else 1, 4))


def draw_obstacle(canvas: Canvas, rng: random.Random) -> None:
    """A block in the foreground, such as a table or a box, that hides what is behind it."""
    width = canvas.width * rng.randrange(10, 25) // 100
    height = canvas.height * rng.randrange(12, 30) // 100
    left = rng.randrange(0, canvas.width - width)
    top = canvas.height - height
    colour = tint(rng, rng.randrange(50, 190), 40)
    right, bottom = left + width, canvas.height
    canvas.polygon([(left, top), (right, top), (right, bottom), (left, bottom)], colour)
    edge = max(2, height // 8)
    lighter: Colour = tuple(min(255, part + 25) for part in colour)  # type: ignore[assignment]
    canvas.polygon([(left, top), (right, top), (right, top + edge), (left, top + edge)], lighter)


def tint(rng: random.Random, bright: int, spread: int) -> Colour:
    """A colour near the grey of this brightness (0 to 255)."""
    red, green, blue = (
        max(0, min(255, bright + rng.randrange(-spread, spread + 1))) for _ in range(3)
    )
    return red, green, blue


def vivid(rng: random.Random) -> Colour:
    """A saturated colour."""
    parts = [rng.randrange(150, 256), rng.randrange(20, 256), rng.randrange(0, 110)]
    rng.shuffle(parts)
    return parts[0], parts[1], parts[2]


def _clutter(canvas: Canvas, rng: random.Random, horizon: int, kind: int) -> None:
    colour = tint(rng, rng.randrange(50, 210), 45)
    x = rng.randrange(0, canvas.width)
    if kind == 0:  # a window, a painting, a house
        size = (rng.randrange(20, canvas.width // 4), rng.randrange(20, canvas.height // 3))
        y = rng.randrange(0, horizon)
        right, bottom = x + size[0], min(horizon, y + size[1])
        canvas.polygon([(x, y), (right, y), (right, bottom), (x, bottom)], colour)
    elif kind == 1:  # a pole
        foot = (x, horizon + rng.randrange(0, canvas.height - horizon))
        canvas.limb([foot, (x, rng.randrange(0, horizon))], rng.randrange(4, 14), colour)
    elif kind == 2:  # a bush
        y = horizon - rng.randrange(0, canvas.height // 8)
        for _ in range(3):
            place = (x + rng.randrange(-20, 21), y + rng.randrange(-10, 11))
            canvas.oval(place, (rng.randrange(12, 36), rng.randrange(10, 26)), colour)
    else:  # a wire or a crack
        start = (x, rng.randrange(0, canvas.height))
        end = add(start, turn(rng.randrange(40, canvas.width // 2), rng.randrange(360)))
        canvas.limb([start, end], rng.randrange(2, 6), colour)
