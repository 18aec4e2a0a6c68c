"""Time the step `quantize` against `onnx2tf -oiqt` on the same model, in the same environment.

Both run as a user runs them, one after the other: the real step on a job folder, and onnx2tf's
own command, first with the 20 images that it takes by itself and then with Kiln's calibration
images. Without --onnx the model is a yolov8n-pose of random weights.

    .kiln/driver/bin/python -m scripts.bench_quantize --imgsz 192
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from scripts.stage_jobs import make_job, peak_mib, python, run

PARAMS = {"granularity": "mixed", "order": None}

#: Argv: folder, image size. Writes what the steps `onnx` and `images` would.
MAKE_MODEL = """
import sys
from pathlib import Path
from stages.train.onnx import export
from stages.train.weights.raw_heads import RawHeads
import numpy as np
import torch
from ultralytics.nn.tasks import PoseModel

folder, size = Path(sys.argv[1]), int(sys.argv[2])
torch.manual_seed(0)
raw = RawHeads(PoseModel("yolov8n-pose.yaml", nc=1, verbose=False), split_c2f=True).eval()
(folder / "model.onnx").write_bytes(export(raw, size).SerializeToString())
images = np.random.default_rng(0).integers(0, 256, (100, size, size, 3), dtype=np.uint8)
np.save(folder / "calibration.npy", images)
"""

#: Argv: calibration.npy, folder. Writes the images in the two forms that onnx2tf reads.
MAKE_IMAGES = """
import sys
from pathlib import Path
import numpy as np
from stages.export.quantization.onnx_to_keras import SAMPLE_FILE, sample_images

images, folder = np.load(sys.argv[1]), Path(sys.argv[2])
np.save(folder / SAMPLE_FILE, sample_images(images))
np.save(folder / "images.npy", images.astype(np.float32))
print(len(images))
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measured:
    """One run: wall seconds, peak memory in MiB, and the number of calibration images."""

    name: str
    seconds: float
    peak_mib: int
    images: int


def main() -> None:
    """Measure all three and print a table."""
    options = _options()
    export = options.env_python or python("export")
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        onnx, calibration = options.onnx, options.calibration
        if onnx is None:
            run([python("train"), "-c", MAKE_MODEL, work, options.imgsz], cwd=work)
            onnx, calibration = work / "model.onnx", work / "calibration.npy"
        count = int(run([export, "-c", MAKE_IMAGES, calibration, work], cwd=work))
        inputs = {"model.onnx": onnx, "calibration.npy": calibration}
        step = make_job(work / "job", "quantize", PARAMS, inputs)
        peer = [export, export.parent / "onnx2tf", "-i", "peer.onnx", "-oiqt", "-qt", "per-tensor"]
        same = ["-cind", "images", "images.npy", "[[[[0,0,0]]]]", "[[[[255,255,255]]]]"]
        rows = [
            _measure("quantize", count, [export, "-m", "stages.export.quantize", step], work, onnx),
            _measure("onnx2tf -oiqt", 20, peer, work, onnx),
            _measure("onnx2tf -oiqt, same images", count, [*peer, *same], work, onnx),
        ]
    _print(rows)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--onnx", type=Path, help="model.onnx of the step `onnx`")
    parser.add_argument("--calibration", type=Path, help="calibration.npy of the step `images`")
    parser.add_argument("--env-python", type=Path, help="interpreter of another export environment")
    parser.add_argument("--imgsz", type=int, default=192, help="image size of the random model")
    options = parser.parse_args()
    if (options.onnx is None) != (options.calibration is None):
        parser.error("--onnx and --calibration go together")
    return options


def _measure(name: str, images: int, command: Sequence[object], work: Path, onnx: Path) -> Measured:
    """Run one command on a fresh copy of the model: onnx2tf rewrites the file that it is given."""
    (work / "peer.onnx").write_bytes(onnx.read_bytes())
    print(f"{name} ...", file=sys.stderr)
    started = time.monotonic()
    peak = peak_mib(command, cwd=work)
    return Measured(name=name, seconds=time.monotonic() - started, peak_mib=peak, images=images)


def _print(rows: Sequence[Measured]) -> None:
    print(f"{'':28}{'seconds':>10}{'of onnx2tf':>12}{'peak MiB':>10}{'images':>8}")
    for row in rows:
        share = row.seconds / rows[1].seconds
        print(f"{row.name:28}{row.seconds:10.1f}{share:12.2f}{row.peak_mib:10}{row.images:8}")


if __name__ == "__main__":
    main()
