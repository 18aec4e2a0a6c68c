"""A model for the emulated board that always finds the same two people."""

from __future__ import annotations

import base64

from playwright.sync_api import Browser

from kiln.emulator.postprocess import Candidate, RecordedFrame
from tests.support.emulated_models import MODEL, candidate

SIZE = 240
#: Where joints are, from the middle of a person: a stick figure with 17 keypoints as in COCO.
JOINTS = (
    *((0, -60), (-5, -66), (5, -66), (-11, -62), (11, -62), (-18, -40), (18, -40)),
    *((-26, -12), (26, -12), (-30, 14), (30, 14), (-11, 4), (11, 4), (-12, 32), (12, 32)),
    *((-13, 62), (13, 62)),
)
#: An ankle that is hidden to the model.
HIDDEN = 15
#: Middles of the sure and the doubtful person, and their scores.
SURE, DOUBTFUL = (70, 120), (180, 120)
SURE_SCORE, DOUBTFUL_SCORE = 0.9, 0.42

#: A wall in one colour with this much noise on it, as the browser compresses it.
_JPEG = """([colour, noise]) => {
  const canvas = document.createElement('canvas')
  canvas.width = canvas.height = 240
  const context = canvas.getContext('2d')
  context.fillStyle = colour
  context.fillRect(0, 0, 240, 240)
  for (let each = 0; each < noise; each++) {
    context.fillStyle = `hsl(${Math.random() * 360} 60% 50%)`
    context.fillRect(Math.random() * 240, Math.random() * 240, 3, 3)
  }
  return canvas.toDataURL('image/jpeg', 0.9).split(',')[1]
}"""


class TwoPeople:
    """Two people before a wall whose colour changes; ``noise`` makes the images larger.

    ``frames_taken`` counts the frames that the board has taken.
    """

    pose = True
    resolution = (SIZE, SIZE)

    def __init__(self, browser: Browser, *, noise: int = 0) -> None:
        page = browser.new_page()
        people = (_person(SURE, SURE_SCORE), _person(DOUBTFUL, DOUBTFUL_SCORE))
        self._frames = []
        for level in range(40, 160, 8):
            jpeg = base64.b64decode(page.evaluate(_JPEG, [f"rgb(60 {level} 120)", noise]))
            self._frames.append(RecordedFrame(jpeg, people))
        page.close()
        self.frames_taken = 0

    def matches(self, memory: memoryview) -> bool:
        return bytes(memory[: len(MODEL)]) == MODEL

    def infer(self, frame: int) -> RecordedFrame:
        self.frames_taken += 1
        return self._frames[frame % len(self._frames)]


def joints(middle: tuple[int, int]) -> list[tuple[int, int]]:
    """Where the keypoints of a person are, in pixels of the frame."""
    return [(middle[0] + right, middle[1] + down) for right, down in JOINTS]


def _person(middle: tuple[int, int], score: float) -> Candidate:
    x, y = middle
    points = tuple(
        (float(right), float(down), 0.1 if number == HIDDEN else 0.95)
        for number, (right, down) in enumerate(joints(middle))
    )
    return candidate((x - 36, y - 76, x + 36, y + 70), score=score, points=points)
