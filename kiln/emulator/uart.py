"""One direction of a serial line, at the pace of its baud rate."""

from __future__ import annotations

#: Start bit, eight bits, stop bit.
_BITS_PER_BYTE = 10
#: Bytes arrive in portions of this length, so that pacing costs at most a few thousand wake-ups a
#: second; the last byte always arrives at its own time.
_PORTION_S = 0.0005


class Uart:
    """One direction of the line, at times of ``time.monotonic``; ``baud`` None takes no time."""

    def __init__(self, baud: int | None) -> None:
        self._byte_s = _BITS_PER_BYTE / baud if baud else 0.0
        self._portion = max(1, int(_PORTION_S / self._byte_s)) if baud else 1 << 30
        self._waiting = bytearray()
        #: When the last byte that was taken had arrived, and so when the next may start.
        self.clock = 0.0

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, data: bytes, now: float) -> None:
        """Send after the bytes that are on their way."""
        if not self._waiting:
            self.clock = max(self.clock, now)
        self._waiting += data

    def due(self) -> float | None:
        """When the next portion will have arrived; None if nothing is on its way."""
        if not self._waiting:
            return None
        return self.clock + min(len(self._waiting), self._portion) * self._byte_s

    def take(self, now: float) -> bytes:
        """The bytes that have arrived by now."""
        count = len(self._waiting)
        if self._byte_s:
            # A thread that slept until a deadline may see a time a rounding error before it.
            count = min(count, int((now - self.clock) / self._byte_s + 1e-3))
        if count <= 0:
            return b""
        taken = bytes(self._waiting[:count])
        del self._waiting[:count]
        self.clock += count * self._byte_s
        return taken

    def stall(self, now: float) -> None:
        """The other end took nothing until now: waiting bytes start from here."""
        self.clock = max(self.clock, now)

    def clear(self) -> None:
        self._waiting.clear()
