"""Compare ways to quantise: accuracy against float32 on the host, cost on the NPU.

For a pose and a detection network, every variant of `quality_variants` is evaluated with the
boards' arithmetic on images that neither training nor calibration has seen, and compiled for
grove-v2. The weights are the demo's, built if the store has none, or those given.

    .kiln/driver/bin/python -m scripts.bench_quality
    .kiln/driver/bin/python -m scripts.bench_quality --task pose --pose my.safetensors --images 100

Columns: mAP50-95 of boxes and of keypoints in points, with what is lost against float32; how much
the objects shown differ from float32's (IoU, score and keypoints, `report_images.change`), in
hundredths; mean signal-to-noise ratio of the outputs; Vela's estimates of cycles, flash and SRAM;
seconds to quantise. A few tenths of a point of mAP are chance, because every variant
rounds differently; how much the objects differ distinguishes variants better.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kiln.plan.targets import load_target
from scripts.stage_jobs import ROOT, python, run, run_step

TASKS = ("pose", "detect")
TARGET = "grove-v2"
#: Images for calibration come from one demo data set, those for evaluation from another.
POOL, POOL_SEED, EVALUATION_SEED = 256, 0, 7

HEAD = (
    *("", "box", "lost", "keypoints", "lost", "differs", "SNR dB"),
    *("Mcycles", "flash KiB", "SRAM KiB", "s"),
)


def main() -> None:
    options = _options()
    for task in options.task:
        given = getattr(options, task)
        weights = given or demo_weights(task, options.imgsz)
        with tempfile.TemporaryDirectory() as folder:
            compare(task, weights, Path(folder), images=options.images, imgsz=options.imgsz)


def compare(task: str, weights: Path, work: Path, *, images: int, imgsz: int) -> None:
    """Make, measure and print every variant for one network."""
    inputs = {"weights.safetensors": weights}
    exported = run_step("stages.train.onnx", work / "onnx", {"imgsz": imgsz}, inputs).out
    drawn = draw(task, work / "evaluation-set", seed=EVALUATION_SEED, count=images, imgsz=imgsz)
    pool = draw(task, work / "pool", seed=POOL_SEED, count=POOL, imgsz=imgsz)
    (work / "model.onnx").symlink_to(exported / "model.onnx")
    (work / "pool.npy").symlink_to(pool / "calibration.npy")
    (work / "evaluation").symlink_to(drawn / "evaluation")
    print(f"{task}: quantising in every way takes minutes ...", file=sys.stderr)
    script = [python("export"), "-m", "scripts.quality_variants", work, work / "variants"]
    rows: list[dict[str, Any]] = json.loads(run(script, cwd=work).splitlines()[-1])
    print(f"\n{task}, {imgsz}x{imgsz}, {images} images")
    _print_row(HEAD)
    _print_row(("float32", *_accuracy(rows[0], "float32")))
    for number, row in enumerate(rows):
        cost = npu_cost(Path(row["file"]), work / f"compile{number}", imgsz=imgsz)
        accuracy = _accuracy(row, "int8")
        _print_row((row["name"], *accuracy, row["differs"], row["snr"], *cost, row["seconds"]))


def draw(task: str, folder: Path, *, seed: int, count: int, imgsz: int) -> Path:
    """Images of a new demo data set, for calibration or for evaluation."""
    params = {"task": task, "train": 1, "val": count, "seed": seed}
    data = run_step("stages.train.demo", folder / "demo", params, {}).out / "data"
    check = run_step("stages.train.check", folder / "check", {"task": task}, {"data": data})
    wanted = {"imgsz": imgsz, "calibration": count, "evaluation": count, "letterbox": False}
    inputs = {"data": data, "dataset.json": check.out / "dataset.json"}
    return run_step("stages.train.images", folder / "images", wanted, inputs).out


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


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--task", choices=TASKS, nargs="*", default=TASKS)
    for task in TASKS:
        parser.add_argument(f"--{task}", type=Path, help=f"weights.safetensors of a {task} network")
    parser.add_argument("--images", type=int, default=200, help="images to evaluate on")
    parser.add_argument("--imgsz", type=int, default=192)
    return parser.parse_args()


if __name__ == "__main__":
    main()
