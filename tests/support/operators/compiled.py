"""A compiled file taken apart, so that a test can change one piece and put it together again."""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Iterator, Sequence

from stages.vela.npu.payload import read_payload
from stages.vela.npu.registers import CODE_MASK, ONE_WORD, PAYLOAD_MASK
from stages.vela.tflite.file import NPU_OPERATOR, open_file


@dataclasses.dataclass(frozen=True, kw_only=True)
class Command:
    """A command of a stream: ``at`` is the number of its first word in the payload. ``long``: it
    has a second word, ``data``."""

    at: int
    code: int
    long: bool
    param: int
    data: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompiledFile:
    """A file and its first NPU operator: where payload and constants lie in it."""

    content: bytes
    payload_at: int
    payload: bytes
    constants_at: int
    constants: bytes

    @property
    def words(self) -> list[int]:
        """Those of the payload."""
        return [word for (word,) in struct.iter_unpack("<I", self.payload)]

    def commands(self) -> Iterator[Command]:
        words, stream = self.words, read_payload(self.payload).commands
        at = next(
            start for start in range(len(words)) if tuple(words[start:][: len(stream)]) == stream
        )
        while at < len(words):
            word = words[at]
            long = word & PAYLOAD_MASK == ONE_WORD
            data = words[at + 1] if long else 0
            yield Command(at=at, code=word & CODE_MASK, long=long, param=word >> 16, data=data)
            at += 2 if long else 1

    def with_words(self, words: Sequence[int]) -> bytes:
        """The file with other words in its payload, as many as before."""
        return self._with(self.payload_at, struct.pack(f"<{len(words)}I", *words))

    def with_word(self, at: int, word: int) -> bytes:
        return self._with(self.payload_at + 4 * at, struct.pack("<I", word))

    def with_constants(self, at: int, piece: bytes) -> bytes:
        return self._with(self.constants_at + at, piece)

    def _with(self, at: int, piece: bytes) -> bytes:
        return self.content[:at] + piece + self.content[at + len(piece) :]


def take_apart(content: bytes) -> CompiledFile:
    graph = open_file(content).graphs[0]
    operator = next(each for each in graph.operators if each.name == NPU_OPERATOR)
    payload, constants = (graph.tensors[index].data or b"" for index in operator.inputs[:2])
    return CompiledFile(
        content=content,
        payload_at=_only_place(content, payload),
        payload=payload,
        constants_at=_only_place(content, constants) if constants else 0,
        constants=constants,
    )


def _only_place(content: bytes, piece: bytes) -> int:
    at = content.find(piece)
    assert at >= 0, "the piece is not in the file"
    assert content.find(piece, at + 1) < 0, "the piece is twice in the file"
    return at
