"""Runs compiled files that are damaged at random: each gives outputs or one sentence; in the vela
environment.

Argv: the folder with what `write` and `run` wrote. Stdin: a JSON object with ``models``, the
number of the ``first`` file and the ``count``. Stdout: how many gave outputs and how many were
refused, and what else happened. A file depends on its number alone.
"""

from __future__ import annotations

import json
import os
import random
import resource
import struct
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from stages.vela.execution.compiled_model import CompiledModel
from stages.vela.npu.errors import NpuError
from tests.support.operators.compiled import Command, CompiledFile, take_apart

Mutation = Callable[[CompiledFile, random.Random], bytes]

_ACCELERATORS = ("ethos-u55-64", "ethos-u55-256")
#: Files that one process runs, before the next one takes over.
_BATCH = 250
#: What a process may have beyond what it has already.
_MEMORY_BYTES = 512 << 20
_EXTREMES = (
    *(0, 1, 2, 3, 7, 15, 16, 255, 256, 1023, 4096),
    *(0x7FFF, 0x8000, 0xFFFF, 0x10000, 0xFFFFFF),
    *(0x7FFFFFFF, 0x80000000, 0xFFFFFFF0, 0xFFFFFFFF),
)
#: Of a sentence.
_LONGEST = 400


def main() -> None:
    folder, wanted = Path(sys.argv[1]), json.load(sys.stdin)
    files = [
        (name, accelerator, take_apart((folder / accelerator / f"{name}_vela.tflite").read_bytes()))
        for name in wanted["models"]
        for accelerator in _ACCELERATORS
    ]
    shapes = {name: np.load(folder / f"{name}.npz")["images"][0] for name in wanted["models"]}
    outcomes: Counter[str] = Counter()
    last = wanted["first"] + wanted["count"]
    for first in range(wanted["first"], last, _BATCH):
        outcomes += _batch(folder, files, shapes, range(first, min(first + _BATCH, last)))
    json.dump(outcomes, sys.stdout)


def _batch(folder: Path, files: Sequence[Any], images: Any, numbers: range) -> Counter[str]:
    answer, current = folder / "fuzz.json", folder / "fuzz.current"
    answer.unlink(missing_ok=True)
    pid = os.fork()
    if pid == 0:
        _answer(answer, current, files, images, numbers)
    _, status = os.waitpid(pid, 0)
    if code := os.waitstatus_to_exitcode(status):
        where = current.read_text(encoding="utf-8")
        return Counter({f"the process ended with {code} in {where}": 1})
    return Counter(json.loads(answer.read_text(encoding="utf-8")))


def _answer(
    answer: Path, current: Path, files: Sequence[Any], images: Any, numbers: range
) -> NoReturn:
    """Run a batch in this process, which then ends."""
    code = 1
    try:
        used = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0])
        limit = used * resource.getpagesize() + _MEMORY_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        outcomes: Counter[str] = Counter()
        for number in numbers:
            what, content, image = mutant(files, images, number)
            current.write_text(what, encoding="utf-8")
            outcomes[_outcome(what, content, image)] += 1
        answer.write_text(json.dumps(outcomes), encoding="utf-8")
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def mutant(files: Sequence[Any], images: Any, number: int) -> tuple[str, bytes, Any]:
    """The damaged file of a number: what was done to which file, its bytes, and an image for it."""
    chance = random.Random(f"kiln {number}")
    name, accelerator, file = chance.choice(files)
    mutation = chance.choice(MUTATIONS)
    what = f"file {number}: {mutation.__name__} of {name} for {accelerator}"
    content = mutation(file, chance)
    return what, content, images[name]


def _outcome(what: str, content: bytes, image: Any) -> str:
    try:
        CompiledModel(content).run(image)
    except NpuError as error:
        return "refused" if _is_sentence(str(error)) else f"{what}: no sentence: {error}"
    except Exception:
        return f"{what}: {traceback.format_exc()}"
    return "outputs"


def _is_sentence(text: str) -> bool:
    return bool(text.strip()) and "\n" not in text and len(text) <= _LONGEST


def flip_bits(file: CompiledFile, chance: random.Random) -> bytes:
    changed = bytearray(file.content)
    for _ in range(chance.choice((1, 1, 1, 2, 4, 16))):
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def flip_bits_of_the_payload(file: CompiledFile, chance: random.Random) -> bytes:
    words = file.words
    for _ in range(chance.choice((1, 1, 2, 4))):
        words[chance.randrange(len(words))] ^= 1 << chance.randrange(32)
    return file.with_words(words)


def swap_words(file: CompiledFile, chance: random.Random) -> bytes:
    words = file.words
    a, b = (chance.randrange(len(words)) for _ in range(2))
    words[a], words[b] = words[b], words[a]
    return file.with_words(words)


def copy_words(file: CompiledFile, chance: random.Random) -> bytes:
    """Some words of the payload stand at another place, too."""
    words = file.words
    length = chance.randrange(1, min(20, len(words)))
    source, target = (chance.randrange(len(words) - length) for _ in range(2))
    words[target : target + length] = words[source : source + length]
    return file.with_words(words)


def cut_file(file: CompiledFile, chance: random.Random) -> bytes:
    return file.content[: chance.randrange(len(file.content))]


def blank_words(file: CompiledFile, chance: random.Random) -> bytes:
    words = file.words
    at = chance.randrange(len(words))
    until = chance.choice((len(words), min(len(words), at + chance.randrange(1, 9))))
    words[at:until] = [0] * (until - at)
    return file.with_words(words)


def extreme_parameter(file: CompiledFile, chance: random.Random) -> bytes:
    command = _command(file, chance, long=False)
    param = chance.choice((*_EXTREMES[:14], command.param + 1, command.param - 1)) & 0xFFFF
    word = (file.words[command.at] & 0xFFFF) | param << 16
    return file.with_word(command.at, word)


def extreme_data(file: CompiledFile, chance: random.Random) -> bytes:
    """Of an address, a stride, a length or a scale."""
    command = _command(file, chance, long=True)
    value = chance.choice(
        (*_EXTREMES, chance.getrandbits(32), command.data + chance.randint(-9, 9))
    )
    return file.with_word(command.at + 1, value & 0xFFFFFFFF)


def other_command(file: CompiledFile, chance: random.Random) -> bytes:
    command = _command(file, chance, long=chance.random() < 0.5)
    word = file.words[command.at]
    return file.with_word(
        command.at, (word & ~0x3FF) | chance.choice((chance.getrandbits(10), 0x10))
    )


def extreme_header(file: CompiledFile, chance: random.Random) -> bytes:
    at = chance.randrange(min(10, len(file.words)))
    value = chance.choice((*_EXTREMES, chance.getrandbits(32), file.words[at] + 1))
    return file.with_word(at, value & 0xFFFFFFFF)


def damage_constants(file: CompiledFile, chance: random.Random) -> bytes:
    """Weights, scales or tables."""
    if not file.constants:
        return flip_bits(file, chance)
    start = chance.randrange(len(file.constants))
    length = min(chance.choice((1, 1, 4, 16, 64, 10_000)), len(file.constants) - start)
    fill = chance.choice((None, 0, 0xFF, 0x55))
    piece = chance.randbytes(length) if fill is None else bytes((fill,)) * length
    return file.with_constants(start, piece)


def extreme_structure(file: CompiledFile, chance: random.Random) -> bytes:
    """A number of the FlatBuffer around: an offset, a size, a type, a place in the plan."""
    ends = (file.payload_at, file.payload_at + len(file.payload))
    constants = (file.constants_at, file.constants_at + len(file.constants))
    outside = [
        at
        for at in range(0, len(file.content) - 4, 2)
        if not ends[0] <= at < ends[1] and not constants[0] <= at < constants[1]
    ]
    at = chance.choice(outside)
    (old,) = struct.unpack_from("<I", file.content, at)
    value = chance.choice((*_EXTREMES, old + 1, old - 1, old * 2, chance.getrandbits(32)))
    piece = struct.pack("<I", value & 0xFFFFFFFF)[: chance.choice((1, 2, 4))]
    return file.content[:at] + piece + file.content[at + len(piece) :]


MUTATIONS: Sequence[Mutation] = (
    flip_bits,
    flip_bits_of_the_payload,
    swap_words,
    copy_words,
    cut_file,
    blank_words,
    extreme_parameter,
    extreme_parameter,
    extreme_data,
    extreme_data,
    other_command,
    extreme_header,
    damage_constants,
    extreme_structure,
    extreme_structure,
)


def _command(file: CompiledFile, chance: random.Random, *, long: bool) -> Command:
    return chance.choice([each for each in file.commands() if each.long == long])
