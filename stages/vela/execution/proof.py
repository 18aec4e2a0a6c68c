"""Holds a compiled file against what it was compiled from: equal images must give equal bytes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.vela.execution.compiled_model import CompiledModel
from stages.vela.execution.first_difference import first_difference
from stages.vela.tflite.file import Tensor


@dataclasses.dataclass(frozen=True, kw_only=True)
class Proof:
    """On how many images a compiled file was run; the first output that differs, on the first image
    on which one does, and if known the operator that is at fault, in words; "" if none does."""

    images: int
    difference: str


def prove(content: bytes, int8: bytes, reference: Path) -> Proof:
    """Run a compiled file on the images of a reference.npz of its int8 file; raises NpuError."""
    compiled = CompiledModel(content)
    with np.load(reference) as arrays:
        images = arrays["images"]
        expected = [arrays[f"output_{index}"] for index in range(len(compiled.outputs))]
    for number, image in enumerate(images):
        wanted = [output[number] for output in expected]
        difference = _difference(compiled.outputs, compiled.run(image[None]), wanted)
        if difference:
            cause = first_difference(compiled, int8, image[None], wanted)
            words = f"on image {number} {difference}" + (f"; {cause}" if cause else "")
            return Proof(images=number + 1, difference=words)
    return Proof(images=len(images), difference="")


def _difference(
    tensors: Sequence[Tensor], given: Sequence[NDArray[Any]], wanted: Sequence[NDArray[Any]]
) -> str:
    """The first output that is not as wanted, in words."""
    for index, (tensor, one, other) in enumerate(zip(tensors, given, wanted, strict=True)):
        if one.dtype != other.dtype or one.shape != other.shape:
            return f"output {index} ({tensor.name}) is of another type or shape"
        errors = np.abs(one.astype(np.int64) - other.astype(np.int64))
        if errors.any():
            return (
                f"{np.count_nonzero(errors)} of {errors.size} values of output {index} "
                f"({tensor.name}) differ, by {errors.max()} at most"
            )
    return ""
