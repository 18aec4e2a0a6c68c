"""Time what Kiln itself costs: a build with nothing to do, one changed image, the driver's share.

A build with nothing to do, and one after a single image has changed, are measured in turn with
`dvc repro` of the same pipeline on the same images. DVC's stages have the same inputs and
outputs and copy what Kiln's steps gave, so that the knowing alone is compared. A demo build is
measured in turn with its steps run by hand.

    .kiln/driver/bin/python -m scripts.bench_nothing
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import struct
import sys
import tempfile
import time
import zlib
from collections.abc import Sequence
from pathlib import Path

from kiln.executors.environments import ENVIRONMENT_NAMES, load_environment
from kiln.executors.local.executor import LocalExecutor
from kiln.plan.plan import Plan, make_plan
from kiln.plan.request import Flags, load_request
from kiln.plan.step import FromHost
from kiln.plan.targets import load_target
from scripts.dvc_pipeline import DvcPipeline
from scripts.stage_jobs import HOME, ROOT, python, run, run_step
from scripts.watch import Watched, expect, machine, watch

#: Argv: file. Writes an untrained network as ultralytics saves a trained one.
MAKE_WEIGHTS = """
import sys
import torch
from ultralytics.nn.tasks import DetectionModel

torch.manual_seed(0)
torch.save({"model": DetectionModel("yolov8n.yaml", nc=1, verbose=False)}, sys.argv[1])
"""

_SIDE = 64
_VAL = 200
_NOTHING_TO_DO = "nothing to do"


class Kiln:
    """The command line with a home of its own, but for the stage environments."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.home.mkdir(parents=True)
        (self.home / "envs").symlink_to(HOME / "envs")

    def build(self, flags: Sequence[str], *, until_a_step_runs: bool = False) -> Watched:
        """Run `kiln build`."""
        return watch(
            [sys.executable, "-m", "kiln", "build", *flags],
            cwd=self.folder,
            variables={"KILN_HOME": str(self.home), "PYTHONPATH": str(ROOT)},
            until_a_step_runs=until_a_step_runs,
        )


def main() -> None:
    """Measure everything and print one table."""
    options = _options()
    for name in ENVIRONMENT_NAMES:
        python(name)
    with tempfile.TemporaryDirectory(dir=options.work) as folder:
        work = Path(folder)
        sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
        print(machine(work))
        measure_knowing(work / "knowing", options.images, options.repeats)
        if options.demo_repeats:
            measure_overhead(work / "demo", options.demo_repeats, options.demo)
        if options.environments:
            measure_environments(work / "fresh")


def measure_knowing(work: Path, images: int, repeats: int) -> None:
    """Nothing to do and one changed image, against DVC."""
    kiln = Kiln(work)
    make_data(work / "data", images)
    run([python("train"), "-c", MAKE_WEIGHTS, work / "weights.pt"], cwd=work)
    settings = {"task": "detect", "data": "data", "weights": "weights.pt", "imgsz": str(_SIDE)}
    flags = [word for name, value in settings.items() for word in (f"--{name}", value)]
    # The quickest way to a whole build: it is made once, and what it gives is no matter.
    flags += ["--executor", "local", "--quant", "per-tensor", "--force", "--name", "bench"]
    _tell(f"a first build with {images:,} images")
    first = expect(kiln.build(flags), "report ")
    plan = plan_of(
        work,
        task="detect",
        data="data",
        weights="weights.pt",
        imgsz=_SIDE,
        granularity="per-tensor",
        force=True,
    )
    build = json.loads((work / "build/grove-v2/bench/build.json").read_text(encoding="utf-8"))
    _tell("the same for DVC")
    dvc = DvcPipeline(work, plan, build, kiln.home / "store")
    expect(dvc.repro(), "dvc push")
    # Both hash again what is as young as the clock's tick.
    expect(kiln.build(flags), _NOTHING_TO_DO)
    nothing: list[tuple[Watched, Watched]] = []
    changed: list[tuple[float, float]] = []
    for _ in range(repeats):
        _tell("nothing to do")
        nothing.append(
            (
                expect(kiln.build(flags), _NOTHING_TO_DO),
                expect(dvc.repro(), dvc.up_to_date),
            )
        )
    for number in range(repeats):
        _tell("one image changed")
        draw_picture(work / "data/images/train/00000.png", seed=images + number)
        watched = kiln.build(flags, until_a_step_runs=True)
        assert watched.first_step_s is not None, watched.said
        changed.append((watched.first_step_s, dvc.seconds_to_first_stage()))
    print(f"\n{images:,} images, {len(plan.steps)} steps; medians of {repeats}, in turn")
    print(f"{'':44}{'Kiln':>10}{'DVC ' + dvc.version():>14}{'Kiln/DVC':>10}")
    _row("nothing to do, s", [(a.seconds, b.seconds) for a, b in nothing])
    _row("nothing to do, s of a processor", [(a.cpu_s, b.cpu_s) for a, b in nothing])
    _row("one image changed, s to the first step", changed)
    _row("peak memory with nothing to do, MiB", [(a.peak_mib, b.peak_mib) for a, b in nothing])
    print(f"{'peak memory of the driver in a build, MiB':44}{first.peak_mib:10.0f}")


def measure_overhead(work: Path, repeats: int, flags: Sequence[str]) -> None:
    """A demo build against its steps run by hand."""
    builds, hands = [], []
    for number in range(repeats):
        _tell("a demo build")
        kiln = Kiln(work / f"kiln-{number}")
        builds.append(expect(kiln.build(["--executor", "local", *flags]), "report "))
        _tell("its steps by hand")
        settings = [flag.removeprefix("--") for flag in flags]
        chosen = {key: int(value) for key, value in zip(*[iter(settings)] * 2, strict=True)}
        started = time.monotonic()
        run_by_hand(plan_of(work, **chosen), work / f"hand-{number}")
        hands.append(time.monotonic() - started)
    print(f"\na demo build {' '.join(flags)}; medians of {repeats}, in turn")
    print(f"{'':44}{'Kiln':>10}{'by hand':>14}{'Kiln/hand':>10}")
    _row("all steps, s", list(zip((each.seconds for each in builds), hands, strict=True)))
    alone = statistics.median(each.alone_s for each in builds)
    share = statistics.median(each.alone_s / each.seconds for each in builds)
    print(f"{'of it with no step running, s':44}{alone:10.2f}{'':14}{share:10.1%}")


def measure_environments(home: Path) -> None:
    """How long each stage environment takes to make, with uv's cache as it is."""
    executor = LocalExecutor(root=ROOT, home=home, logs=home / "logs")
    print("\nenvironments made, s")
    for name in ENVIRONMENT_NAMES:
        started = time.monotonic()
        executor.prepare([load_environment(ROOT, name)], _tell)
        print(f"{name:44}{time.monotonic() - started:10.1f}")


def plan_of(folder: Path, **flags: object) -> Plan:
    """The plan of a request for the default board."""
    request = load_request(Flags(**flags), None, folder)  # type: ignore[arg-type]
    return make_plan(request, load_target(ROOT / "targets", request.target))


def run_by_hand(plan: Plan, folder: Path) -> None:
    """Run every step of a plan that needs nothing from the host."""
    outs: dict[str, Path] = {}
    for step in plan.steps:
        inputs = {
            name: outs[source.step] / source.path
            for name, source in step.inputs.items()
            if not isinstance(source, FromHost)
        }
        outs[step.name] = run_step(step.module, folder / step.name, step.params, inputs).out


def make_data(folder: Path, count: int) -> None:
    """A detection data set of ``count`` small images, one object each."""
    for number in range(count):
        split = "val" if number >= count - _VAL else "train"
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True, exist_ok=True)
        draw_picture(folder / "images" / split / f"{number:05}.png", seed=number)
        label = folder / "labels" / split / f"{number:05}.txt"
        label.write_text("0 0.5 0.5 0.4 0.4\n", encoding="ascii")
    description = "path: .\ntrain: images/train\nval: images/val\nnames: [thing]\n"
    (folder / "data.yaml").write_text(description, encoding="ascii")


def draw_picture(path: Path, *, seed: int) -> None:
    """Write a PNG of 64x64 random RGB pixels."""
    pixels = random.Random(seed).randbytes(_SIDE * _SIDE * 3)
    rows = (pixels[start : start + _SIDE * 3] for start in range(0, len(pixels), _SIDE * 3))
    header = struct.pack(">2I5B", _SIDE, _SIDE, 8, 2, 0, 0, 0)
    chunks = {
        b"IHDR": header,
        b"IDAT": zlib.compress(b"".join(b"\0" + row for row in rows)),
        b"IEND": b"",
    }
    with path.open("wb") as stream:
        stream.write(b"\x89PNG\r\n\x1a\n")
        for kind, data in chunks.items():
            check = zlib.crc32(kind + data)
            stream.write(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check))


def _row(name: str, pairs: Sequence[tuple[float, float]]) -> None:
    ours, theirs, ratio = (
        statistics.median(values)
        for values in ([a for a, _ in pairs], [b for _, b in pairs], [a / b for a, b in pairs])
    )
    print(f"{name:44}{ours:10.2f}{theirs:14.2f}{ratio:10.2f}")


def _tell(message: str) -> None:
    print(f"{message} ...", file=sys.stderr)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--demo-repeats", type=int, default=2)
    parser.add_argument("--demo", type=str.split, default=[], help="flags of the demo build")
    parser.add_argument("--environments", action="store_true", help="also make them, 8 GB")
    parser.add_argument("--work", type=Path, help="folder to work in; by default the system's")
    return parser.parse_args()


if __name__ == "__main__":
    main()
