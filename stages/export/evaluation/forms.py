"""The forms of a model that are evaluated side by side, and the one that goes onto the board."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from stages.contract import StepFailed

#: Each form, and the file of the job that has it. The plain one is int8 before a fine-tuning. The
#: compiled one is executed in another environment: the step `outputs` has recorded its outputs.
FILES: Mapping[str, str] = {
    "onnx": "model.onnx",
    "float32": "float32.tflite",
    "plain": "plain.tflite",
    "int8": "int8.tflite",
    "compiled": "outputs.npz",
}
#: What each form stands for; the later one of a side replaces the earlier one.
_SIDES = {"onnx": "float32", "float32": "float32", "compiled": "int8", "int8": "int8"}


def present(folder: Path) -> dict[str, Path]:
    """The forms that a job has, in the order in which they are made; raises StepFailed if none."""
    found = {name: folder / file for name, file in FILES.items() if (folder / file).exists()}
    if not found:
        files = ", ".join(FILES.values())
        raise StepFailed("request", "there is no model to evaluate", hint=f"pass one of {files}")
    return found


def sides_of(names: Iterable[str]) -> dict[str, str]:
    """What is compared, float32 and int8, each with the form that stands for it."""
    there = set(names)
    return {side: name for name, side in _SIDES.items() if name in there}


def title(path: Path) -> str:
    """What a user calls the file."""
    return "the compiled file" if path.name == FILES["compiled"] else path.name


def unlike_int8(files: Sequence[str], equal: Sequence[bool]) -> tuple[str, str]:
    """The warning that a compiled file does not give what the int8 file gives; ``files`` are the
    images, ``equal`` says for each whether all outputs are."""
    wrong = [file for file, same in zip(files, equal, strict=True) if not same]
    return (
        "the compiled file, executed as Vela's encodings define it, "
        "does not give the bytes of the int8 file on "
        f"{len(wrong)} of {len(files)} images, first on {wrong[0]}",
        "its own figures stand beside those of int8; do not flash it before it is known why, and "
        "please report it with both files",
    )
