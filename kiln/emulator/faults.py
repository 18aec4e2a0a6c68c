"""What can go wrong between a host and the emulated board, switchable one by one."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator
from typing import Literal

#: What happens to the board at a byte that it receives.
Fault = Literal["silence", "unplug", "reboot"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Noise:
    """How likely each byte of one direction is lost, duplicated, or changed in one bit."""

    drop: float = 0.0
    duplicate: float = 0.0
    corrupt: float = 0.0

    @property
    def total(self) -> float:
        return self.drop + self.duplicate + self.corrupt


@dataclasses.dataclass(frozen=True, kw_only=True)
class Faults:
    """Faults to inject, none by default.

    ``silent_after``, ``unplug_after`` and ``reboot_after`` count bytes received since the faults
    were set; each happens once. ``nak_storm`` is (packet, times): the packet of a model, from 1,
    that is refused although it is intact, and how often. ``flash_full`` is the byte of a model at
    which the flash takes no more. ``truncate_json`` is the probability that a frame of the firmware
    loses its end. ``boot_noise`` is the number of random bytes at each start.
    """

    seed: int = 0
    to_board: Noise = Noise()
    to_host: Noise = Noise()
    silent_after: int | None = None
    unplug_after: int | None = None
    reboot_after: int | None = None
    nak_storm: tuple[int, int] | None = None
    refuse_preamble: bool = False
    flash_full: int | None = None
    truncate_json: float = 0.0
    boot_noise: int = 0


class FaultInjector:
    """Injects faults; the same seed and the same bytes give the same ones."""

    def __init__(self, faults: Faults) -> None:
        self.faults = faults
        self._to_board = random.Random(f"{faults.seed} to the board")
        self._to_host = random.Random(f"{faults.seed} to the host")
        self._received = 0
        self._naks = faults.nak_storm[1] if faults.nak_storm else 0
        ahead: tuple[tuple[int | None, Fault], ...] = (
            (faults.silent_after, "silence"),
            (faults.unplug_after, "unplug"),
            (faults.reboot_after, "reboot"),
        )
        self._ahead = sorted((at, what) for at, what in ahead if at is not None)

    def to_board(self, data: bytes) -> bytes:
        """What arrives of the bytes that the host sent."""
        return _with_noise(data, self.faults.to_board, self._to_board)

    def to_host(self, data: bytes) -> bytes:
        """What arrives of the bytes that the board sent."""
        return _with_noise(data, self.faults.to_host, self._to_host)

    def parts(self, data: bytes) -> Iterator[tuple[bytes, Fault | None]]:
        """Received bytes up to each fault, with that fault, then the rest."""
        while self._ahead and self._ahead[0][0] <= self._received + len(data):
            at, what = self._ahead.pop(0)
            count = max(0, at - self._received)
            part, data = data[:count], data[count:]
            self._received += count
            yield part, what
        self._received += len(data)
        yield data, None

    def refuses(self, packet: int) -> bool:
        """Whether an intact packet of a model, counted from 1, is answered with NAK."""
        storm = self.faults.nak_storm
        if storm is None or packet != storm[0] or not self._naks:
            return False
        self._naks -= 1
        return True

    def frame(self, data: bytes) -> bytes:
        """A frame of the firmware, possibly cut short."""
        if self._to_host.random() >= self.faults.truncate_json:
            return data
        return data[: self._to_host.randrange(len(data))]

    def boot_noise(self) -> bytes:
        return self._to_host.randbytes(self.faults.boot_noise)


def _with_noise(data: bytes, noise: Noise, draw: random.Random) -> bytes:
    if not noise.total:
        return data
    spoilt = bytearray()
    for byte in data:
        chance = draw.random()
        if chance < noise.drop:
            continue
        if chance < noise.drop + noise.duplicate:
            spoilt += bytes((byte, byte))
        elif chance < noise.total:
            spoilt.append(byte ^ 1 << draw.randrange(8))
        else:
            spoilt.append(byte)
    return bytes(spoilt)
