"""Draws people whose 17 COCO keypoints are known."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence

from stages.coco import KEYPOINTS
from stages.train.demo_data.canvas import Canvas, Colour, Point, add, turn
from stages.train.demo_data.scenery import tint, vivid

#: Lengths in thousandths of the height of a person who stands upright.
_HEAD, _NECK, _TORSO, _SHOULDER, _HIP = 72, 115, 300, 105, 62
_UPPER_ARM, _FOREARM, _THIGH, _SHIN = 165, 150, 240, 230
_SKINS: Sequence[Colour] = ((244, 208, 177), (224, 172, 125), (176, 120, 80), (120, 78, 52))
_HAIR: Sequence[Colour] = (
    (40, 28, 22),
    (96, 62, 34),
    (190, 150, 80),
    (130, 130, 130),
    (150, 60, 30),
)
#: Ranges of degrees for one arm (upper arm from hanging down, then the bend of the elbow) and one
#: leg (thigh, then the bend of the knee); thighs of "sitting" point at the viewer.
_ARMS = (((4, 18), (0, 20)), ((15, 60), (40, 110)), ((70, 110), (-15, 60)), ((125, 168), (-20, 35)))
_LEGS = (((-2, 9), (0, 4)), ((8, 26), (2, 12)), ((24, 50), (30, 80)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Appearance:
    """Colours of a person; ``bare`` forearms show skin."""

    skin: Colour
    hair: Colour
    top: Colour
    trousers: Colour
    shoes: Colour
    bare: bool
    long_hair: bool

    @staticmethod
    def choose(rng: random.Random) -> Appearance:
        top = vivid(rng) if rng.randrange(3) else tint(rng, rng.randrange(30, 240), 20)
        return Appearance(
            skin=rng.choice(_SKINS),
            hair=rng.choice(_HAIR),
            top=top,
            trousers=tint(rng, rng.randrange(25, 170), 45),
            shoes=tint(rng, rng.randrange(15, 90), 15),
            bare=rng.randrange(2) == 0,
            long_hair=rng.randrange(3) == 0,
        )


class Person:
    """One person: joints by name, in canvas units, ready to be drawn."""

    def __init__(self, rng: random.Random, *, hips: Point, height: int) -> None:
        self.height = height
        self.stretch = rng.randrange(75, 131)
        self.appearance = Appearance.choose(rng)
        self.joints: dict[str, Point] = {}
        lean = rng.randrange(-12, 13)
        neck = add(hips, self._part(_TORSO, 180 + lean))
        self._head(rng, neck, 180 + lean + rng.randrange(-10, 11))
        sitting = rng.randrange(6) == 0
        # Left is the person's left, on the right of the image: people face the viewer.
        for name, side in (("left", 1), ("right", -1)):
            shoulder = add(neck, self._part(_SHOULDER, 90 * side + lean))
            hip = add(hips, self._part(_HIP, 90 * side + lean // 2))
            self._arm(rng, name, side, shoulder)
            self._leg(rng, name, side, hip, sitting=sitting)

    def keypoints(self) -> list[Point]:
        """In the order of COCO."""
        return [self.joints[name] for name in KEYPOINTS]

    def draw(self, canvas: Canvas, owner: int) -> None:
        colours, joints, width = self.appearance, self.joints, self._width
        if colours.long_hair:
            canvas.oval(
                add(joints["head"], (0, self._size(35))), self._oval(92, 120), colours.hair, owner
            )
        for side in ("left", "right"):
            leg = [joints[f"{side}_{part}"] for part in ("hip", "knee", "ankle")]
            canvas.limb(leg, width(78), colours.trousers, owner)
            canvas.oval(add(leg[2], (0, self._size(12))), self._oval(42, 22), colours.shoes, owner)
        self._draw_torso(canvas, owner)
        self._draw_head(canvas, owner)
        for side in ("left", "right"):
            arm = [joints[f"{side}_{part}"] for part in ("shoulder", "elbow", "wrist")]
            canvas.limb(arm[1:], width(46), colours.skin if colours.bare else colours.top, owner)
            canvas.limb(arm[:2], width(58), colours.top, owner)
            canvas.disc(arm[2], self._size(26), colours.skin, owner)

    def _draw_torso(self, canvas: Canvas, owner: int) -> None:
        colours, joints = self.appearance, self.joints
        corners = [
            joints[name] for name in ("left_shoulder", "right_shoulder", "right_hip", "left_hip")
        ]
        canvas.limb([corners[3], corners[2]], self._width(80), colours.trousers, owner)
        canvas.limb([joints["neck"], joints["head"]], self._width(50), colours.skin, owner)
        canvas.polygon(corners, colours.top, owner)
        canvas.limb(
            [*corners[:2], corners[2], corners[3], corners[0]], self._width(52), colours.top, owner
        )

    def _draw_head(self, canvas: Canvas, owner: int) -> None:
        colours, joints = self.appearance, self.joints
        for side in ("left", "right"):
            canvas.disc(joints[f"{side}_ear"], self._size(17), colours.skin, owner)
        up = add(joints["head"], (0, -self._size(14)))
        canvas.oval(up, self._oval(_HEAD + 4, 78), colours.hair, owner)
        canvas.oval(
            add(joints["head"], (0, self._size(6))), self._oval(64, 74), colours.skin, owner
        )
        for side in ("left", "right"):
            canvas.disc(joints[f"{side}_eye"], max(1, self._size(11)), (25, 25, 30), owner)
        darker: Colour = (
            colours.skin[0] * 3 // 4,
            colours.skin[1] * 2 // 3,
            colours.skin[2] * 2 // 3,
        )
        canvas.disc(joints["nose"], max(1, self._size(11)), darker, owner)

    def _head(self, rng: random.Random, neck: Point, degrees: int) -> None:
        head = add(neck, self._part(_NECK, degrees))
        self.joints |= {"neck": neck, "head": head}
        # Turning the head moves the face sideways over it.
        face = add(head, (self._wide(rng.randrange(-20, 21)), self._size(8)))
        self.joints["nose"] = face
        for name, side in (("left", 1), ("right", -1)):
            self.joints[f"{name}_eye"] = add(face, (self._wide(26 * side), -self._size(24)))
            self.joints[f"{name}_ear"] = add(head, (self._wide(68 * side), 0))

    def _arm(self, rng: random.Random, name: str, side: int, shoulder: Point) -> None:
        upper, bend = (rng.randrange(*limits) for limits in rng.choice(_ARMS))
        elbow = add(shoulder, self._part(_UPPER_ARM, side * upper))
        wrist = add(elbow, self._part(_FOREARM, side * (upper + bend)))
        self.joints |= {
            f"{name}_shoulder": shoulder,
            f"{name}_elbow": elbow,
            f"{name}_wrist": wrist,
        }

    def _leg(self, rng: random.Random, name: str, side: int, hip: Point, *, sitting: bool) -> None:
        thigh, bend = (rng.randrange(*limits) for limits in rng.choice(_LEGS))
        length = _THIGH * (45 if sitting else 100) // 100
        knee = add(hip, self._part(length, side * thigh))
        ankle = add(knee, self._part(_SHIN, side * (thigh - bend)))
        self.joints |= {f"{name}_hip": hip, f"{name}_knee": knee, f"{name}_ankle": ankle}

    def _part(self, thousandths: int, degrees: int) -> Point:
        return turn(self._size(thousandths), degrees, self.stretch)

    def _size(self, thousandths: int) -> int:
        return thousandths * self.height // 1000

    def _wide(self, thousandths: int) -> int:
        return thousandths * self.height * self.stretch // 100_000

    def _width(self, thousandths: int) -> int:
        """The thickness of a limb: the mean of both directions' stretch."""
        return thousandths * self.height * (100 + self.stretch) // 200_000

    def _oval(self, across: int, along: int) -> tuple[int, int]:
        return self._wide(across), self._size(along)
