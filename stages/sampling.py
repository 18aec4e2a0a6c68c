"""Which items stand for all."""

from __future__ import annotations


def evenly(count: int, most: int) -> list[int]:
    """At most ``most`` of the numbers 0 to ``count``, evenly over them."""
    kept = min(count, most)
    return [number * count // kept for number in range(kept)]
