"""Compare ways to quantise: accuracy against float32 on the host, cost on the NPU.

Every variant of `quality_variants` is evaluated with the boards' arithmetic on images that neither
training nor calibration has seen, and compiled for grove-v2. Without --data that is done for the
demo's pose and detection networks, built if the store has none, on images of another demo. With
--data the network is --weights, calibrated on images of train and evaluated on val.

    make bench-quality
    make bench-quality DATA=photos/data.yaml WEIGHTS=my.pt TASK=detect
    make bench-quality QUANT=finetuned

With QUANT=finetuned the network is fine-tuned too, without a wish and to several coarsenesses, on
images of train; on a few cores each of these rows takes half an hour.

Columns: mAP50-95 of boxes and of keypoints in points, with what is lost against float32; how much
the objects shown differ from float32's (IoU, score and keypoints, `report_images.change`), in
hundredths; mean signal-to-noise ratio of the outputs; Vela's estimates of cycles, flash and SRAM;
seconds to quantise. A few tenths of a point of mAP are chance, because every variant
rounds differently; how much the objects differ distinguishes variants better.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kiln.pipeline.dataset import load_dataset
from kiln.plan import steps
from kiln.plan.request import BuildRequest, CameraSettings, FinetuneSettings, Task
from kiln.plan.step import FromHost
from kiln.plan.targets import load_target
from scripts.quality_finetuned import Start, finetuned
from scripts.stage_jobs import ROOT, python, run, run_step

TASKS: tuple[Task, ...] = ("pose", "detect")
TARGET = "grove-v2"
#: At most so many images for calibration; the seeds of the demo's.
POOL, POOL_SEED, EVALUATION_SEED = 256, 0, 7
#: As many images as the demo has in train.
DEMO_TRAIN = 256

HEAD = (
    *("", "box", "lost", "keypoints", "lost", "differs", "SNR dB"),
    *("Mcycles", "flash KiB", "SRAM KiB", "s"),
)


def main() -> None:
    options = _options()
    if options.data is None:
        for task in [options.task] if options.task else TASKS:
            with tempfile.TemporaryDirectory() as folder:
                weights = options.weights or demo_weights(task, options.imgsz)
                sets = drawn(
                    task,
                    Path(folder),
                    images=options.images,
                    imgsz=options.imgsz,
                    trains=options.finetune,
                )
                compare(task, weights, sets, Path(folder), options)
        return
    if options.weights is None or options.task is None:
        sys.exit("a data set of your own needs WEIGHTS= and TASK= too")
    with tempfile.TemporaryDirectory() as folder:
        work, task = Path(folder), options.task
        weights = imported(options.weights, task, work)
        data = linked(options.data.absolute(), work / "data")
        camera = camera_of(options.camera)
        settings = {"imgsz": options.imgsz, "camera": camera}
        sets = split_in_two(
            task, data, work, settings, images=options.images, trains=options.finetune
        )
        compare(task, weights, sets, work, options)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sets:
    """Images to calibrate with, uint8 [n,S,S,3], and a folder of images to evaluate on; those of
    ``training`` are for a fine-tuning, None without one."""

    pool: Path
    evaluation: Path
    training: Path | None


def compare(task: Task, weights: Path, sets: Sets, work: Path, options: argparse.Namespace) -> None:
    """Make, measure and print every variant for one network."""
    imgsz = options.imgsz
    inputs = {"weights.safetensors": weights}
    exported = run_step("stages.train.onnx", work / "onnx", {"imgsz": imgsz}, inputs).out
    (work / "model.onnx").symlink_to(exported / "model.onnx")
    (work / "pool.npy").symlink_to(sets.pool)
    (work / "evaluation").symlink_to(sets.evaluation)
    print(f"{task}: quantising in every way takes minutes ...", file=sys.stderr)
    rows = _variants(work)
    images = len(json.loads((sets.evaluation / "truth.json").read_text())["images"])
    print(f"\n{task}, {imgsz}x{imgsz}, {images} images")
    _print_row(HEAD)
    _print_row(("float32", *_accuracy(rows[0], "float32")))
    for number, row in enumerate(rows):
        _print_variant(row, work / f"compile{number}", imgsz)
    if sets.training is not None:
        numbers = {row["name"]: number for number, row in enumerate(rows)}
        start = Start(
            float32=work / "variants/float32.tflite",
            int8=Path(rows[numbers["mixed"]]["file"]),
            compiled=work / f"compile{numbers['mixed']}/out",
            plain=work / f"compile{numbers['per-tensor']}/out",
            training=sets.training,
        )
        finetune(start, task, work, options)


def finetune(start: Start, task: Task, work: Path, options: argparse.Namespace) -> None:
    """Fine-tune, measure and print what comes of it."""
    request = BuildRequest(
        task=task,
        data=None if options.data is None else str(options.data.absolute()),
        finetune=FinetuneSettings(updates=options.updates),
    )
    target = load_target(ROOT / "targets", TARGET)
    for number, tuned in enumerate(finetuned(start, request, target, work)):
        (row,) = _variants(work, tuned.file)
        row |= {"name": tuned.name, "seconds": tuned.seconds}
        _print_variant(row, work / f"compile-finetuned{number}", options.imgsz)


def _variants(work: Path, *files: Path) -> list[dict[str, Any]]:
    """Every variant, or these files in their place."""
    script = [python("export"), "-m", "scripts.quality_variants", work, work / "variants", *files]
    rows: list[dict[str, Any]] = json.loads(run(script, cwd=work).splitlines()[-1])
    return rows


def _print_variant(row: Mapping[str, Any], work: Path, imgsz: int) -> None:
    cost = npu_cost(Path(row["file"]), work, imgsz=imgsz)
    accuracy = _accuracy(row, "int8")
    _print_row((row["name"], *accuracy, row["differs"], row["snr"], *cost, row["seconds"]))


def drawn(task: Task, work: Path, *, images: int, imgsz: int, trains: bool) -> Sets:
    """Images of new demo data sets."""
    settings = {"imgsz": imgsz, "camera": camera_of(None)}

    def draw(folder: Path, seed: int, count: int, train: int = 1) -> Path:
        params = {"task": task, "train": train, "val": count, "seed": seed}
        data = run_step("stages.train.demo", folder / "demo", params, {}).out / "data"
        wanted = {**settings, "training": train} if train > 1 else settings
        return seen(task, data, folder, wanted, images=count)

    return Sets(
        pool=draw(work / "pool", POOL_SEED, POOL) / "calibration.npy",
        evaluation=draw(work / "drawn", EVALUATION_SEED, images) / "evaluation",
        training=draw(work / "training", POOL_SEED, 1, DEMO_TRAIN) / "training.npy"
        if trains
        else None,
    )


def split_in_two(
    task: str, data: Path, work: Path, settings: Mapping[str, Any], *, images: int, trains: bool
) -> Sets:
    """The images of train to calibrate with, and to fine-tune with; those of val to evaluate on."""
    swapped = work / "swapped"
    for kind in ("images", "labels"):
        (swapped / kind).mkdir(parents=True)
        for split, other in (("train", "val"), ("val", "train")):
            (swapped / kind / split).symlink_to(data / kind / other)
    (swapped / "data.yaml").symlink_to(data / "data.yaml")
    wanted = {**settings, "training": FinetuneSettings().images} if trains else settings
    judged = seen(task, data, work / "judged", wanted, images=images)
    return Sets(
        pool=seen(task, swapped, work / "pool", settings, images=POOL) / "calibration.npy",
        evaluation=judged / "evaluation",
        training=judged / "training.npy" if trains else None,
    )


def seen(task: str, data: Path, folder: Path, settings: Mapping[str, Any], *, images: int) -> Path:
    """The images of val as the board sees them; the output of the step `images`."""
    check = run_step("stages.train.check", folder / "check", {"task": task}, {"data": data})
    wanted = {**settings, "calibration": images, "evaluation": images}
    inputs = {"data": data, "dataset.json": check.out / "dataset.json"}
    return run_step("stages.train.images", folder / "images", wanted, inputs).out


def linked(source: Path, target: Path) -> Path:
    """A data set of this host in the steps' layout, as a folder of links."""
    index = target.with_suffix(".index.json")
    for name, file in load_dataset(source, index=index, scratch=target.parent).tree.files.items():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).symlink_to(file.path)
    return target


def imported(weights: Path, task: str, work: Path) -> Path:
    """Own weights in the canonical form."""
    name = "weights.safetensors" if weights.suffix == ".safetensors" else "weights.pt"
    params = {"task": task, "trust": False}
    done = run_step("stages.train.import_weights", work / "import", params, {name: weights})
    return done.out / "weights.safetensors"


def npu_cost(model: Path, work: Path, *, imgsz: int) -> list[float]:
    """Vela's estimates for an int8 model: million cycles, KiB of flash and of SRAM."""
    vela = load_target(ROOT / "targets", TARGET).compilation(imgsz)
    cost = run_step("stages.vela.compile", work, vela, {"int8.tflite": model}).result
    return [cost["cycles"] / 1e6, cost["flash_kib"], cost["sram_kib"]]


def demo_weights(task: str, imgsz: int) -> Path:
    """The weights that a build of the demo trains, or has trained."""
    command = ["build", "--target", TARGET, "--task", task, "--imgsz", str(imgsz), "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "kiln", *command], cwd=ROOT, check=True, stdout=subprocess.PIPE
    )
    name: str = json.loads(done.stdout)["name"]
    return ROOT / "build" / TARGET / name / f"{name}.safetensors"


def _accuracy(row: Mapping[str, Any], artifact: str) -> list[float | None]:
    """Points of mAP50-95, and points lost, for boxes and for keypoints."""
    cells: list[float | None] = []
    for kind in ("box", "pose"):
        exact, found = (row[each].get(f"{kind}/map50_95") for each in ("float32", artifact))
        lost = artifact != "float32" and exact is not None
        cells += [None if found is None else 100 * found, 100 * (exact - found) if lost else None]
    return cells


def _print_row(cells: tuple[Any, ...]) -> None:
    name, *rest = cells
    texts = [
        "" if cell is None else cell if isinstance(cell, str) else f"{cell:.2f}" for cell in rest
    ]
    print(f"{name:34}" + "".join(f"{text:>11}" for text in texts), flush=True)


def camera_of(mode: str | None) -> Mapping[str, Any]:
    """The camera as the step `images` takes it."""
    request = BuildRequest(camera=CameraSettings(mode=mode))
    step = steps.images(request, load_target(ROOT / "targets", TARGET), FromHost(source="data"), 32)
    camera: Mapping[str, Any] = step.params["camera"]
    return camera


def _options() -> argparse.Namespace:
    """A make variable comes in the environment, as for `kiln`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    given = os.environ.get
    parser.add_argument("--task", choices=TASKS, default=given("KILN_TASK"))
    parser.add_argument("--data", type=Path, default=_path(given("KILN_DATA")))
    parser.add_argument("--weights", type=Path, default=_path(given("KILN_WEIGHTS")))
    parser.add_argument("--camera", default=given("KILN_CAMERA"), help="mode of its camera")
    parser.add_argument("--imgsz", type=int, default=int(given("KILN_IMGSZ") or 192))
    parser.add_argument("--images", type=int, default=200, help="images to evaluate on")
    tunes = given("KILN_QUANT") == "finetuned"
    parser.add_argument("--finetune", action="store_true", default=tunes, help="hours more")
    parser.add_argument("--updates", type=int, default=FinetuneSettings().updates)
    return parser.parse_args()


def _path(text: str | None) -> Path | None:
    return Path(text) if text else None


if __name__ == "__main__":
    main()
