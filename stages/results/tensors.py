"""A tensor at an end of a TFLite model."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tensor:
    """An input or output. ``scale`` and ``zero_point`` are None if it is not quantised."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    scale: float | None
    zero_point: int | None
