"""Times a flash at the pace of a real wire against the least that wire needs.

    .kiln/dev/bin/python -m scripts.bench_flash

The board is emulated in a process of its own, so that the two do not share an interpreter.
"""

from __future__ import annotations

import multiprocessing
import random
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path

from kiln.device.link import open_link
from kiln.device.we2 import BootloaderClient, packets_of
from kiln.emulator.board import EmulatedBoard
from kiln.plan.targets import load_target

ROOT = Path(__file__).resolve().parent.parent
MODEL_BYTES = 3_000_000
#: Of start bit, eight data bits and stop bit; of a packet, and the ACK that answers it.
_BITS_A_BYTE = 10
_PACKET_BYTES, _ANSWER_BYTES = 133, 1
#: The flash may take this many times as long as the wire, and the emulated wire must not be faster
#: than the real one.
_MOST, _LEAST = 1.15, 0.99


def _be_a_board(pipe: Connection, baud: int, address: int, size: int) -> None:
    with EmulatedBoard(baud=baud) as board:
        pipe.send(board.port)
        pipe.recv()
        pipe.send(bytes(board.flash[address : address + size]))


def main() -> int:
    """Print both times; 1 if the flash takes longer than it may, or less time than it must."""
    target = load_target(ROOT / "targets", "grove-v2")
    baud, address = target.device.baud, target.flash.model_address
    assert target.device.handshake is not None
    model = b"\x1c\0\0\0TFL3" + random.Random(0).randbytes(MODEL_BYTES - 8)
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    board = context.Process(target=_be_a_board, args=(theirs, baud, address, len(model)))
    board.start()
    link = open_link(ours.recv(), baud)
    first: list[float] = []
    last: list[float] = []

    def note(_done: int, _total: int) -> None:
        now = time.monotonic()
        if not first:
            first.append(now)
        last[:] = [now]

    started = time.monotonic()
    BootloaderClient(link, target.device.handshake).write(model, address, note)
    took_s = time.monotonic() - started
    ours.send("done")
    same = ours.recv() == model
    board.join()
    packets = len(packets_of(model)) // 128
    least_s = packets * (_PACKET_BYTES + _ANSWER_BYTES) * _BITS_A_BYTE / baud
    sending_s = last[0] - first[0]
    print(f"{MODEL_BYTES:,} bytes at {baud:,} baud, {packets:,} packets; byte for byte: {same}")
    print(f"wire and answers alone  {least_s:6.2f} s")
    print(f"first packet to last    {sending_s:6.2f} s ({sending_s / least_s:.3f} times that)")
    print(f"with entry and restart  {took_s:6.2f} s ({took_s / least_s:.3f} times that)")
    return 0 if same and took_s <= _MOST * least_s and sending_s >= _LEAST * least_s else 1


if __name__ == "__main__":
    sys.exit(main())
