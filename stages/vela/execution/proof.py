"""Holds a compiled file against what it was compiled from: equal images must give equal bytes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from stages.vela.execution.board_models import BoardModel


@dataclasses.dataclass(frozen=True, kw_only=True)
class Difference:
    """The first output that differs, on the first image on which one does."""

    image: int
    output: int
    name: str
    values: int
    of: int
    by: int

    def __str__(self) -> str:
        return (
            f"on image {self.image} {self.values} of {self.of} values of output {self.output} "
            f"({self.name}) differ, by {self.by} at most"
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Proof:
    """On how many images a compiled file was run, and how it differs, None if it does not."""

    images: int
    difference: Difference | None


def prove(compiled: BoardModel, reference: Path) -> Proof:
    """Run a compiled file on the images of a reference.npz; raises NpuError."""
    with np.load(reference) as arrays:
        images = arrays["images"]
        expected = [arrays[f"output_{index}"] for index in range(len(compiled.outputs))]
    for number, image in enumerate(images):
        given = compiled.run(image[None])
        for index, (tensor, output) in enumerate(zip(compiled.outputs, given, strict=True)):
            wanted = expected[index][number]
            if output.dtype == wanted.dtype and np.array_equal(output, wanted):
                continue
            errors = np.abs(output.astype(np.int64) - wanted.astype(np.int64))
            difference = Difference(
                image=number,
                output=index,
                name=tensor.name,
                values=int(np.count_nonzero(errors)),
                of=errors.size,
                by=int(errors.max()),
            )
            return Proof(images=number + 1, difference=difference)
    return Proof(images=len(images), difference=None)
