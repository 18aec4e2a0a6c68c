"""ultralytics' trainers with Kiln's own checkpoints: an interrupted training ends with the same
weights as an uninterrupted one.

ultralytics resumes from averaged weights in half precision, in the middle of a random sequence.
Here the random numbers of an epoch depend on the seed and the epoch's number alone, and a
checkpoint holds the whole state that one epoch passes to the next, in full precision.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import math
import pickle
import random
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import stages.train.ultralytics_env  # noqa: F401 - before anything of ultralytics

# isort: split
import numpy as np
import torch
from ultralytics.data import YOLODataset, build_yolo_dataset
from ultralytics.engine.trainer import BaseTrainer
from ultralytics.models.yolo.detect import DetectionTrainer
from ultralytics.models.yolo.pose import PoseTrainer
from ultralytics.nn.modules import Pose
from ultralytics.utils import nms
from ultralytics.utils.torch_utils import intersect_dicts, unwrap_model

from stages.contract import Events, StepFailed
from stages.train.weights import checkpoint

_BETWEEN_EVENTS_S = 0.5
_VALUES = {"precision": "precision", "recall": "recall", "mAP50": "map50", "mAP50-95": "map50_95"}
_PARTS = {"B": "box", "P": "pose"}
_CLASSIFIED = {"metrics/accuracy_top1": "class/top1", "metrics/accuracy_top5": "class/top5"}
_METRIC = re.compile(r"metrics/(?P<value>.+)\((?P<part>[BP])\)")
Row = dict[str, float]

# By default it drops the rest of a batch after some seconds, and on a slow machine another epoch
# would be the best.
nms.non_max_suppression = functools.partial(nms.non_max_suppression, max_time_img=math.inf)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What to train.

    ``architecture``: the table of an ultralytics yaml; ``start``: the network whose
    weights are taken over if their shapes agree; ``data``: ultralytics' data set table;
    ``why_not``: what the weights depend on besides the job, None if on nothing else.
    """

    architecture: Mapping[str, Any]
    start: checkpoint.Model | None
    data: Mapping[str, Any]
    state: Path
    events: Events
    why_not: str | None

    @property
    def best(self) -> Path:
        return self.state / "best.safetensors"

    @property
    def last(self) -> Path:
        return self.state / "last.pt"


class Run(BaseTrainer):
    """Trains a network; goes before the trainer of ultralytics for its task in a class's bases.

    Its name does not contain "trainer", because ultralytics looks for that word in a class's name
    before it sends figures to services on the internet.

    ``rows``: the figures of each epoch by name. ``best_epoch``: counted from 1. ``resumed_from``:
    how many epochs an earlier attempt had done; ``finished`` if it had done all. ``taken_over``:
    how many of how many tensors came from the start weights. ``why_not``: as in the plan, over all
    attempts.
    """

    def __init__(self, plan: Plan, arguments: dict[str, Any]) -> None:
        self.plan = plan
        self._state = _read_state(plan)
        self.finished = self._state is not None and bool(self._state["stopped"])
        self.rows: list[Row] = self._state["rows"] if self._state else []
        self.best_epoch: int = self._state["best_epoch"] if self._state else 0
        self.resumed_from: int | None = self._state["epoch"] if self._state else None
        self.taken_over: tuple[int, int] | None = None
        # An earlier attempt may have run on a GPU.
        self.why_not: str | None = (self._state and self._state["why_not"]) or plan.why_not
        self.diverged = False
        self._batches_done = 0
        self._next_event = 0.0
        super().__init__(overrides=arguments)
        self.add_callback("on_train_epoch_start", type(self).begin_epoch)
        self.add_callback("on_train_batch_end", type(self).end_batch)

    def get_dataset(self) -> dict[str, Any]:
        """The data set as the step `check` accepted it; ultralytics' own check downloads a font."""
        data = dict(self.plan.data)
        if self.args.single_cls:
            data |= {"names": {0: "item"}, "nc": 1}
        return data

    def setup_model(self) -> None:
        """Build the network; raises StepFailed if Kiln cannot export it."""
        self.model = self.get_model(cfg=dict(self.plan.architecture), verbose=False)
        if self.plan.start is not None:
            # Not model.load(): it widens the new head to that of the start weights, so that the
            # architecture would no longer describe the network.
            own = self.model.state_dict()
            taken = intersect_dicts(self.plan.start.state_dict(), own)
            self.model.load_state_dict(taken, strict=False)
            self.taken_over = (len(taken), len(own))
            if len(taken) < len(own):
                why = _new_head(self.plan.start, self.model)
                self.plan.events.warning(
                    f"part of the head is new: {why}; {len(taken)} of {len(own)} tensors come from "
                    "the start weights"
                )
        checkpoint.describe(self.model)

    def resume_training(self, ckpt: object) -> None:  # noqa: ARG002
        """Continue from Kiln's checkpoint, if there is one."""
        if self._state is None:
            return
        state, self._state = self._state, None
        unwrap_model(self.model).load_state_dict(state["model"])
        self.ema.ema.load_state_dict(state["ema"])
        self.ema.updates = state["updates"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.stopper.best_fitness, self.stopper.best_epoch = state["stopper"]
        self.best_fitness = state["best_fitness"]
        self.start_epoch = state["epoch"]

    def begin_epoch(self) -> None:
        """Make the epoch's random numbers independent of everything before it."""
        if self.batch_size != self.args.nbs:  # the base class has just halved it to save memory
            raise StepFailed(
                "memory",
                f"the GPU has too little memory for batches of {self.args.nbs} images",
                hint="set a smaller batch in [train]",
            )
        seed = int.from_bytes(
            hashlib.sha256(f"{self.args.seed}/{self.epoch}".encode()).digest()[:4], "big"
        )
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        self.train_loader.reset()
        self.train_loader.generator.manual_seed(seed)
        self.forget_images()
        self._batches_done = 0

    def forget_images(self) -> None:
        """Drop what the data set keeps of the epoch before, if it does."""

    def end_batch(self) -> None:
        self._batches_done += 1
        now = time.monotonic()
        if now >= self._next_event:
            self._next_event = now + _BETWEEN_EVENTS_S
            done = self.epoch + self._batches_done / len(self.train_loader)
            self.plan.events.progress(round(done, 3), self.epochs, "epochs")

    def save_metrics(self, metrics: Mapping[str, Any]) -> None:
        """Keep and report the epoch's figures; the base class writes a file with times."""
        if self.diverged:
            return
        self.rows.append({_name(key): float(value) for key, value in metrics.items()})
        for name, value in self.rows[-1].items():
            if math.isfinite(value):  # a validation loss may overflow in the first epochs
                self.plan.events.metric(name, value, at=self.epoch + 1)
        self.plan.events.progress(self.epoch + 1, self.epochs, "epochs")

    def save_model(self) -> bool:
        """Write the averaged weights, if they are the best so far, and the checkpoint."""
        if self.diverged:
            return False
        if self.best_fitness == self.fitness:
            self.best_epoch = self.epoch + 1
            part = self.plan.best.with_suffix(".part")
            checkpoint.save(part, self.ema.ema, imgsz=self.args.imgsz)
            part.replace(self.plan.best)
        state = {
            "epoch": self.epoch + 1,
            "stopped": bool(self.stop),
            "model": unwrap_model(self.model).state_dict(),
            "ema": self.ema.ema.state_dict(),
            "updates": self.ema.updates,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "stopper": (float(self.stopper.best_fitness), int(self.stopper.best_epoch)),
            "best_fitness": None if self.best_fitness is None else float(self.best_fitness),
            "best_epoch": self.best_epoch,
            "why_not": self.why_not,
            "rows": self.rows,
        }
        part = self.plan.last.with_suffix(".part")
        torch.save(state, part)
        part.replace(self.plan.last)
        return True

    def _handle_nan_recovery(self, epoch: int) -> bool:
        """End a diverged training with its best weights so far; called after every epoch.

        The base class would try three more times from its own checkpoint, with the same learning
        rate.
        """
        fitness = 0.0 if self.fitness is None else float(self.fitness)
        if bool(self.loss.isfinite()) and math.isfinite(fitness):
            return False
        if not self.best_epoch:
            raise StepFailed(
                "request",
                f"the training diverged: in epoch {epoch + 1} the loss is no longer a number",
                hint="set a smaller lr0 in [train]",
            )
        self.diverged = self.stop = True
        self.plan.events.warning(
            f"the training diverged in epoch {epoch + 1} and ended there; "
            f"the weights are those of epoch {self.best_epoch}",
            hint="set a smaller lr0 in [train]",
        )
        return False

    def final_eval(self) -> None:
        """Do nothing: the best weights were evaluated at the end of their own epoch."""


class DetectRun(Run, DetectionTrainer):
    """Trains a detection network."""

    def build_dataset(
        self, img_path: str, mode: str = "train", batch: int | None = None
    ) -> YOLODataset:
        """As the base class does, but validate on squares with bars, as the board sees them, and
        not on the shapes that fit each batch."""
        stride = int(unwrap_model(self.model).stride.max())
        try:
            return build_yolo_dataset(
                self.args, img_path, batch, self.data, mode=mode, stride=stride
            )
        except (ValueError, RuntimeError, FileNotFoundError) as error:
            first = str(error).splitlines()[0]
            raise StepFailed(
                "data", f"the {mode} images cannot be used: {first}", hint="check the labels"
            ) from error

    def forget_images(self) -> None:
        """Drop the images from which mosaics are made."""
        dataset = self.train_loader.dataset
        while dataset.buffer:
            number = dataset.buffer.pop()
            dataset.ims[number] = dataset.im_hw0[number] = dataset.im_hw[number] = None


class PoseRun(DetectRun, PoseTrainer):
    """Trains a pose network."""


def _new_head(start: checkpoint.Model, model: checkpoint.Model) -> str:
    """In what the head of start weights differs from the one that the data set needs."""
    old, new = start.model[-1], model.model[-1]
    counts = [("classes", start.yaml["nc"], model.yaml["nc"])]
    if isinstance(old, Pose) and isinstance(new, Pose):
        counts.append(("keypoints", old.kpt_shape[0], new.kpt_shape[0]))
    differing = [
        f"the weights have {had} {what} and the data set {needs}"
        for what, had, needs in counts
        if had != needs
    ]
    return " and ".join(differing) or "the weights have a wider one"


def _read_state(plan: Plan) -> dict[str, Any] | None:
    """The last checkpoint; None, with a warning, if it is damaged."""
    if not (plan.last.is_file() and plan.best.is_file()):
        return None
    try:
        state: dict[str, Any] = torch.load(plan.last, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, KeyError, ValueError, pickle.UnpicklingError) as error:
        plan.events.warning(
            f"the last checkpoint cannot be read ({type(error).__name__}): training starts again"
        )
        return None
    return state


def _name(key: str) -> str:
    """Kiln's name of an ultralytics figure: metrics/mAP50(B) is box/map50."""
    if key in _CLASSIFIED:
        return _CLASSIFIED[key]
    found = _METRIC.fullmatch(key)
    return f"{_PARTS[found['part']]}/{_VALUES[found['value']]}" if found else key
