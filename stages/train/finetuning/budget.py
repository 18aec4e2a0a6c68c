"""How many bits a weight may have, for an inference of so many cycles or a file of so many KiB.

The plain file, compiled by Vela, says what its convolutions read from the flash and which of them
wait for it. Cycles go down with bytes where the flash is waited for, and only there.
"""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path

from stages.contract import StepFailed

#: A coarser weight is coded a little less well than its entropy says: so many bits more on the way
#: (measured on yolov8n with Vela 4.5, 6.7 to 4.3 bits).
_CODING_LOSS = 0.1
#: Fewer bits a weight than these leave no network.
_LEAST_BITS = 1.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlainFile:
    """What Vela says of the plain file: estimated cycles and size; the bytes that its convolutions
    read from the flash, those of them that wait for it, and how many bytes it gives a cycle."""

    cycles: int
    flash_kib: float
    read: int
    waited_for: int
    bytes_per_cycle: float


def read_plain(layers: Path, summary: Path) -> PlainFile:
    """Read layers.json and summary.csv of the step `compile`."""
    with summary.open(newline="", encoding="utf-8") as stream:
        row = next(csv.DictReader(stream))
    # Vela writes GiB a second.
    speed = float(row["off_chip_flash_bandwidth"]) * (1 << 30) / float(row["core_clock"])
    counted = [
        each["counted"]
        for each in json.loads(layers.read_text(encoding="utf-8"))
        if each["operator"] == "CONV_2D" and each["counted"]
    ]
    waiting = [each for each in counted if each["flash_bytes"] / speed > each["floor_cycles"]]
    return PlainFile(
        cycles=round(float(row["cycles_total"])),
        flash_kib=float(row["off_chip_flash_memory_used"]),
        read=sum(each["flash_bytes"] for each in counted),
        waited_for=sum(each["flash_bytes"] for each in waiting),
        bytes_per_cycle=speed,
    )


def wanted_bits(
    plain: PlainFile, *, entropy: float, weights: int, cycles: float | None, flash_kib: float | None
) -> float | None:
    """The mean entropy of a weight that satisfies both limits, None without any.

    ``entropy`` is the plain file's, ``weights`` their number; ``cycles`` a part of the plain file's
    cycles. Raises StepFailed("request") for what no weights could give.
    """
    saved = [0.0]
    if cycles is not None and plain.waited_for:
        of_waiting = plain.waited_for / plain.read
        saved.append((1 - cycles) * plain.cycles * plain.bytes_per_cycle / of_waiting)
    if flash_kib is not None:
        saved.append((plain.flash_kib - flash_kib) * 1024)
    if cycles is None and flash_kib is None:
        return None
    bits = entropy - 8 * max(saved) / weights
    bits -= _CODING_LOSS if max(saved) else 0
    if bits < _LEAST_BITS:
        raise StepFailed(
            "request",
            f"weights of {max(bits, 0):.1f} bits would be needed, and no network is left of them "
            f"below {_LEAST_BITS}",
            hint="ask for more cycles or flash in [finetune], or take a smaller IMGSZ or MODEL",
        )
    return bits
