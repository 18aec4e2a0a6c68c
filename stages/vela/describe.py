"""Describe a TFLite file: its kind, task, image size, tensors and operators.

``in/``: model.tflite, an untrusted file. It is not run.
"""

from __future__ import annotations

from importlib.metadata import version

from stages.contract import Events, Job, main
from stages.results.describe import DescribeResult
from stages.vela.tflite.model import describe, read_model

PACKAGES = ("numpy",)


def run(job: Job, _events: Events) -> DescribeResult:
    """Read the file; raises StepFailed if it is no TFLite file."""
    model = read_model((job.inputs / "model.tflite").read_bytes())
    return DescribeResult(
        model=describe(model),
        versions={package: version(package) for package in PACKAGES},
    )


if __name__ == "__main__":
    main(run)
