"""Time epochs of a training on photographs: as they are, and as the step `frames` makes them.

    make bench-training DATA=photos/data.yaml TASK=detect

Prints seconds an epoch of each, the ratio, and what `frames` itself takes, once. The first epoch
is left out: caches are cold in it.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from scripts.bench_quality import camera_of, linked
from scripts.stage_jobs import run_step


def main() -> None:
    options = _options()
    if options.data is None:
        sys.exit("pass DATA= with photographs of your own")
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        data = linked(options.data.absolute(), work / "data")
        params = {"task": options.task}
        check = run_step("stages.train.check", work / "check", params, {"data": data})
        inputs = {"data": data, "dataset.json": check.out / "dataset.json"}
        frame = {key: camera_of(None)[key] for key in ("width", "height", "framing")}
        started = time.monotonic()
        settings = {"imgsz": options.imgsz, "camera": frame}
        frames = run_step("stages.train.frames", work / "frames", settings, inputs).out / "data"
        once = time.monotonic() - started
        before = epoch_s(work / "before", options, inputs)
        after = epoch_s(work / "after", options, {**inputs, "data": frames})
    print(f"an epoch on the images as they are  {before:7.1f} s")
    print(
        f"an epoch on what `frames` made       {after:7.1f} s, {before / after:.1f} times as fast"
    )
    print(f"`frames`, once                       {once:7.1f} s")


def epoch_s(work: Path, options: argparse.Namespace, inputs: dict[str, Path]) -> float:
    """Seconds an epoch, over all but the first of a training from nothing on the CPU."""
    params: dict[str, Any] = {
        "task": options.task,
        "model": "yolov8n",
        "imgsz": options.imgsz,
        "batch": 16,
        "seed": 0,
        "gpu": "none",
        "reproducible": False,
        "overrides": {},
    }
    seconds: list[float] = []
    for epochs in (1, 1 + options.epochs):
        started = time.monotonic()
        done = run_step(
            "stages.train.train", work / str(epochs), {**params, "epochs": epochs}, inputs
        )
        seconds.append(time.monotonic() - started)
        with (done.out / "curves.csv").open(encoding="utf-8") as stream:
            assert len(list(csv.DictReader(stream))) == epochs
    return (seconds[1] - seconds[0]) / int(options.epochs)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    given = os.environ.get
    data = given("KILN_DATA")
    parser.add_argument("--data", type=Path, default=Path(data) if data else None)
    parser.add_argument("--task", default=given("KILN_TASK") or "pose", choices=("pose", "detect"))
    parser.add_argument("--imgsz", type=int, default=int(given("KILN_IMGSZ") or 192))
    parser.add_argument("--epochs", type=int, default=3)
    return parser.parse_args()


if __name__ == "__main__":
    main()
