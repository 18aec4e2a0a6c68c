"""Other builds that lie beside a fine-tuned one, and are ways to the int8 of the same network.

A report shows them, and is out of date as soon as they change. They are in no build.json and in no
release, which are of one build alone.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping
from pathlib import Path

from kiln.errors import RequestError
from kiln.report.result import BUILD_FILE, BuildResult, load_build
from kiln.store.tree import digest_of, hash_file

#: What makes figures comparable: inputs of the step `evaluate`.
_SAME_INPUTS = ("model.onnx", "evaluation")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Way:
    """A way from a float network to int8: a build's, or the plain one; ``kind`` is own, tuned or
    other. Figures are those of Numbers; accuracy is that of the int8 file."""

    name: str
    quant: str
    kind: str
    cycles: int | None
    flash_kib: float
    accuracy: Mapping[str, float | None]

    @staticmethod
    def of(build: BuildResult, *, own: bool = False) -> Way:
        """What a build came to."""
        tuned = build.step("finetune") is not None
        return Way(
            name=build.name,
            quant=build.request.quantize.granularity,
            kind="own" if own else "tuned" if tuned else "other",
            cycles=build.numbers.cycles,
            flash_kib=build.numbers.flash.used_kib,
            accuracy=build.numbers.accuracy.artifacts["int8"],
        )

    @staticmethod
    def plain(build: BuildResult) -> Way:
        """The plain int8 file by which a fine-tuned build is measured."""
        plain = build.numbers.plain
        assert plain is not None
        return Way(
            name="plain int8",
            quant="per-tensor",
            kind="other",
            cycles=plain.cycles,
            flash_kib=plain.flash_kib,
            accuracy=build.numbers.accuracy.artifacts["plain"],
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Beside:
    """What a report shows beside its own build; ``state`` changes if any build beside it does."""

    state: str
    ways: tuple[Way, ...]


def state_of(result: BuildResult, folder: Path) -> str:
    """The state of the builds beside a fine-tuned one; "" if the report shows no others.

    Quick: a build with nothing to do asks for it.
    """
    if result.numbers.plain is None:
        return ""
    digests = {}
    for path in _others(folder):
        with contextlib.suppress(OSError):  # it is being removed
            digests[path.parent.name] = hash_file(path)
    return digest_of(digests)


def look_beside(result: BuildResult, folder: Path) -> Beside:
    """The builds of the same network that are judged on the same images, by their names."""
    state = state_of(result, folder)
    if not state:
        return Beside(state="", ways=())
    found = []
    for path in _others(folder):
        with contextlib.suppress(RequestError):  # of another version, or not whole
            other = load_build(path)
            if _comparable(result) == _comparable(other):
                found.append(Way.of(other))
    return Beside(state=state, ways=tuple(found))


def _others(folder: Path) -> list[Path]:
    own = folder.resolve()
    return [path for path in sorted(own.parent.glob(f"*/{BUILD_FILE}")) if path.parent != own]


def _comparable(build: BuildResult) -> tuple[str | None, ...]:
    """The same for builds whose accuracies and cycles may stand in one chart."""
    evaluated = build.step("evaluate")
    inputs = evaluated.inputs if evaluated else {}
    return (*(inputs.get(name) for name in _SAME_INPUTS), build.numbers.performance_model)
