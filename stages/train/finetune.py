"""Fine-tune an int8 network: in the board's arithmetic, with the float network as teacher.

``params``: updates, batch, seed, gpu, reproducible (on the CPU: a fixed number of threads),
overrides (the training's, for its augmentation), cycles (a part of the plain file's) and flash_kib,
what to come down to, or null. ``in/``: network.json and
network.npz of the step `graph`, training.npy (uint8 [n,S,S,3] RGB, as the board sees them), and for
a board with an NPU what Vela says: layers.json and start.csv of this network's file before the
fine-tuning, plain.csv of the plain file.
``out/``: learned.npz, for each convolution by the number of its operator: weights_N, int8 [outputs,
height, width, inputs]; scales_N, float32 [1 or outputs]; bias_N, int32 [outputs]; also images,
uint8 [2,S,S,3], and output_0, output_1, ... as integers, what the network has come to give for
them. curves.csv: a line an update. ``state/`` holds the last checkpoint.

No labels are needed. Outputs are worked out in float32, exactly as TFLite's reference kernels do.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import stages.train.ultralytics_env  # noqa: F401 - before anything of ultralytics

# isort: split
from ultralytics.cfg import DEFAULT_CFG_DICT

from stages.contract import Events, Job, StepFailed, main
from stages.results.finetune import FinetuneResult
from stages.results.train import Device
from stages.train.finetuning.augmentation import Augmentation
from stages.train.finetuning.budget import LEAST_BITS, read_estimate, read_start
from stages.train.finetuning.coarseness import Budget, Prices
from stages.train.finetuning.network import Convolution, Int8Net, open_network
from stages.train.finetuning.run import Finetuning, Row, Settings
from stages.train.training.hardware import choose_hardware, set_threads, why_not_reproducible

PACKAGES = ("torch", "numpy")
#: So many images show that the written file computes what was learned.
_SHOWN = 2


def run(job: Job, events: Events) -> FinetuneResult:
    """Fine-tune, or continue, and write the integers."""
    params = job.params
    hardware = choose_hardware(params["gpu"])
    events.emit("device", name=hardware.name, kind=hardware.kind)
    if hardware.kind == "cpu":
        set_threads(reproducible=params["reproducible"])
    else:
        _compute_exactly_on_gpu()
    images = _read_images(job)
    net = open_network(job.inputs).to("cuda" if hardware.kind == "cuda" else "cpu")
    settings = Settings(**{key: params[key] for key in ("updates", "batch", "seed")})
    prices = Prices(net.layers())
    bits_before = prices.mean
    budget = _budget(job, net, prices)
    tuning = Finetuning(
        net,
        images,
        settings,
        prices=prices,
        budget=budget,
        augment=Augmentation({**DEFAULT_CFG_DICT, **params["overrides"]}),
        checkpoint=job.state / "last.pt",
        events=events,
    )
    tuning.run()
    write_arrays(job.out / "learned.npz", {**learned(net), **shown(net, images[:_SHOWN])})
    (job.out / "curves.csv").write_text(_curves(tuning.rows), encoding="utf-8")
    why_not = why_not_reproducible(hardware, {}, reproducible=params["reproducible"])
    return FinetuneResult(
        updates=len(tuning.rows),
        images=len(images),
        before=tuning.before,
        after=tuning.after,
        bits_before=round(bits_before, 4),
        bits_after=round(prices.mean, 4),
        expected_cycles=round(budget.estimate.cycles) if budget else None,
        expected_flash_kib=round(budget.estimate.flash_kib, 1) if budget else None,
        device=Device(name=hardware.name, kind=hardware.kind),
        reproducible=why_not is None,
        why_not=why_not,
        resumed_from=tuning.resumed_from,
        versions={package: version(package) for package in PACKAGES},
    )


@torch.no_grad()
def learned(net: Int8Net) -> dict[str, Any]:
    """The integers and scales of every convolution."""
    return {
        f"{name}_{layer.number}": values
        for layer in net.layers()
        for name, values in _of_layer(layer).items()
    }


@torch.no_grad()
def shown(net: Int8Net, images: torch.Tensor) -> dict[str, Any]:
    """Some images, and what the network gives for each of them, as the file's outputs have it."""
    device = next(net.parameters()).device
    outputs = net.integers(images.to(device))
    return {
        "images": images.permute(0, 2, 3, 1).numpy(),
        **{f"output_{number}": each.cpu().numpy() for number, each in enumerate(outputs)},
    }


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write what np.load reads, in the same bytes with every Python: what np.savez writes depends
    on how its zipfile marks large files."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, values in arrays.items():
            content = io.BytesIO()
            np.lib.format.write_array(content, values, allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), content.getvalue())


def _of_layer(layer: Convolution) -> dict[str, Any]:
    return {
        "weights": layer.integers().permute(0, 2, 3, 1).to(torch.int8).cpu().numpy(),
        "scales": layer.present_scales().cpu().numpy(),
        "bias": layer.bias_integers().to(torch.int32).cpu().numpy(),
    }


def _budget(job: Job, net: Int8Net, prices: Prices) -> Budget | None:
    """The limits, None for a board whose file is not compiled; raises StepFailed("request") for
    those that no weights could keep."""
    summary = job.inputs / "start.csv"
    if not summary.exists():
        return None
    layers = job.inputs / "layers.json"
    start = read_start(layers, summary, net.description, prices.entropies)
    part, flash_kib = job.params["cycles"], job.params["flash_kib"]
    cycles = None if part is None else part * read_estimate(job.inputs / "plain.csv").cycles
    least = start.estimate([min(LEAST_BITS, each) for each in prices.entropies])
    for name, wanted, possible in (
        ("cycles", cycles, least.cycles),
        ("KiB of flash", flash_kib, least.flash_kib),
    ):
        if wanted is not None and wanted < possible:
            raise StepFailed(
                "request",
                f"no weights would come down to {wanted:,.0f} {name}: with {LEAST_BITS} bits each, "
                f"of which no network is left, it would be {possible:,.0f}",
                hint="ask for more in [finetune], or take a smaller IMGSZ or MODEL",
            )
    return Budget(start, prices, cycles=cycles, flash_kib=flash_kib)


def _read_images(job: Job) -> torch.Tensor:
    """The images [n, channels, size, size]; raises StepFailed("data") if there are none."""
    images = np.load(job.inputs / "training.npy")
    if not len(images):
        raise StepFailed(
            "data", "there is no image to fine-tune with", hint="put images into the data's train"
        )
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()


def _compute_exactly_on_gpu() -> None:
    """Without TF32, whose 10 bits do not hold the integers."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def _curves(rows: Sequence[Row]) -> str:
    """One line an update; no times, so that equal fine-tunings give equal bytes."""
    names = list(rows[0])
    lines = [",".join(("update", *names))]
    for update, row in enumerate(rows, start=1):
        lines.append(",".join((str(update), *(f"{row[name]:.6g}" for name in names))))
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main(run)
