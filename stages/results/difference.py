"""The result of the step `difference`."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class Difference:
    """How many of a model's tensors differ.

    ``where``: what differs first, in words; None if no tensor does, or for an unknown format.
    """

    where: str | None = None
    differing: int = 0
    tensors: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class DifferenceResult(Difference):
    """``offset`` of the first differing byte, or the end of the shorter file; ``sizes`` of both
    files, left and right, in bytes."""

    offset: int
    sizes: tuple[int, ...]
