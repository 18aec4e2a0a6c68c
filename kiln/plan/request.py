"""What the user asks for: defaults < kiln.toml < flags, resolved here and nowhere else."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from kiln.errors import RequestError, WeightsError
from kiln.executors.protocol import ExecutorName
from kiln.plan.architecture import Architecture, read_architecture
from kiln.plan.schema import read_record, read_toml
from stages.yolo import MAX_KEYPOINTS, fault_of_skeleton

Task = Literal["pose", "detect", "classify"]
Granularity = Literal["mixed", "per-tensor", "per-channel", "finetuned"]
Framing = Literal["fit", "fill"]
GpuChoice = Literal["none", "auto", "required"]

MAX_IMGSZ = 1280
#: Of the cycles of a plain file; what the flash takes is about half of them.
LEAST_CYCLES = 0.4

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_PUBLISHED_MODEL = re.compile(r"^yolov8[nsmlx](?=[-.])")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """The ``[train]`` table; ``overrides`` are ultralytics' own training arguments.

    ``reproducible``: the same weights on any number of cores; None: if it costs little.
    """

    epochs: int | None = None
    batch: int | None = None
    seed: int = 0
    gpu: GpuChoice = "auto"
    reproducible: bool | None = None
    overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CameraSettings:
    """The ``[camera]`` table: one of the board's modes by name, and how an image of the data set
    becomes a frame: it fits it whole, between grey bars, or fills it and is cut.
    """

    mode: str | None = None
    framing: Framing = "fit"


@dataclasses.dataclass(frozen=True, kw_only=True)
class CalibrationSettings:
    """The ``[calibration]`` table: how many images set the int8 ranges."""

    images: int = 100


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """The ``[evaluation]`` table; ``layers`` also asks where along the network int8 errs."""

    images: int = 200
    layers: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuantizeSettings:
    """The ``[quantize]`` table."""

    granularity: Granularity = "mixed"


@dataclasses.dataclass(frozen=True, kw_only=True)
class FinetuneSettings:
    """The ``[finetune]`` table: ``updates`` of ``batch`` images, out of at most ``images`` of
    train, or of a ``folder`` of any images. ``cycles`` (a part of the plain per-tensor file's) and
    ``flash_kib`` are what to come down to; without them weights become no coarser.
    """

    updates: int = 600
    batch: int = 8
    images: int = 1000
    folder: str | None = None
    cycles: float | None = None
    flash_kib: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class LimitSettings:
    """The ``[limits]`` table: what one step may use, and how many ``steps`` run at a time."""

    memory_mib: int | None = None
    timeout_s: float | None = None
    steps: int | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class BuildRequest:
    """A whole request. Paths are absolute; None means that Kiln chooses.

    ``skeleton``: pairs of keypoints that are joined when drawn, instead of the data set's own.
    """

    target: str = "grove-v2"
    firmware: str | None = None
    task: Task = "pose"
    data: str | None = None
    skeleton: tuple[tuple[int, ...], ...] | None = None
    weights: str | None = None
    model: str | None = None
    imgsz: int | None = None
    name: str | None = None
    executor: ExecutorName = "auto"
    registry: str | None = None
    trust_weights: bool = False
    force: bool = False
    camera: CameraSettings = CameraSettings()
    train: TrainSettings = TrainSettings()
    calibration: CalibrationSettings = CalibrationSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    quantize: QuantizeSettings = QuantizeSettings()
    finetune: FinetuneSettings = FinetuneSettings()
    limits: LimitSettings = LimitSettings()

    @property
    def finetunes(self) -> bool:
        """Whether the int8 network is trained once more, in the board's arithmetic."""
        return self.quantize.granularity == "finetuned"

    @property
    def finetune_folder(self) -> Path | None:
        """The folder of images to fine-tune with, None without: then it is train's."""
        folder = self.finetune.folder
        return Path(folder) if self.finetunes and folder is not None else None

    @property
    def weights_file(self) -> Path | None:
        """The user's own weights, or None if they are named, absent or from scratch."""
        if (
            self.weights is None
            or self.weights == "scratch"
            or not Path(self.weights).is_absolute()
        ):
            return None
        return Path(self.weights)

    @property
    def architecture(self) -> Architecture:
        """MODEL, else what published weights are called after, else the size for a board."""
        published = _PUBLISHED_MODEL.match(self.weights or "")
        return read_architecture(self.model or (published.group() if published else "yolov8n"))

    @property
    def trains(self) -> bool:
        """Own weights are finished unless EPOCHS asks for more; all others are trained."""
        if self.train.epochs is not None:
            return self.train.epochs > 0
        return self.weights_file is None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flags:
    """What came from the command line; None if the flag was not given."""

    target: str | None = None
    firmware: str | None = None
    task: Task | None = None
    data: str | None = None
    weights: str | None = None
    model: str | None = None
    imgsz: int | None = None
    name: str | None = None
    executor: ExecutorName | None = None
    registry: str | None = None
    trust_weights: bool | None = None
    force: bool | None = None
    epochs: int | None = None
    batch: int | None = None
    gpu: GpuChoice | None = None
    reproducible: bool | None = None
    granularity: Granularity | None = None
    camera: str | None = None
    framing: Framing | None = None
    layers: bool | None = None


#: Flags that are not at the top of the file: their table, and their key in it.
FLAG_PLACES: Mapping[str, tuple[str, str]] = {
    "camera": ("camera", "mode"),
    "framing": ("camera", "framing"),
    "epochs": ("train", "epochs"),
    "batch": ("train", "batch"),
    "gpu": ("train", "gpu"),
    "reproducible": ("train", "reproducible"),
    "granularity": ("quantize", "granularity"),
    "layers": ("evaluation", "layers"),
}


def load_request(flags: Flags, config: Path | None, folder: Path) -> BuildRequest:
    """Resolve defaults < ``config`` < ``flags``; relative paths are the file's or ``folder``'s.

    Raises RequestError for what no target could take and WeightsError for a missing file.
    """
    table = _read_config(config)
    if config is not None:
        _anchor(table, config.resolve().parent)
    for name, value in dataclasses.asdict(flags).items():
        if value is not None:
            place, key = FLAG_PLACES.get(name, ("", name))
            owner = table.setdefault(place, {}) if place else table
            if isinstance(owner, dict):  # else kiln.toml is refused for it
                owner[key] = value
    _anchor(table, folder)
    request = read_record(BuildRequest, table, str(config.name) if config else "the request")
    _validate(request)
    return request


def _read_config(config: Path | None) -> dict[str, Any]:
    """Read kiln.toml, moving what ``[train]`` holds beyond Kiln's own keys to ``overrides``."""
    if config is None:
        return {}
    table = read_toml(config)
    train = table.get("train", {})
    if isinstance(train, dict):
        own = {field.name for field in dataclasses.fields(TrainSettings)} - {"overrides"}
        overrides = {key: value for key, value in train.items() if key not in own}
        table["train"] = {key: value for key, value in train.items() if key in own}
        if overrides:
            table["train"]["overrides"] = overrides
    return table


def _anchor(table: dict[str, Any], folder: Path) -> None:
    """Make paths absolute. A name that is no file is a published data set or weights."""
    data = table.get("data")
    if isinstance(data, str) and data and not _is_url(data):
        path = _place(data, folder)
        if path.exists() or not _looks_published(data, ".yaml"):
            table["data"] = str(path)
    weights = table.get("weights")
    if isinstance(weights, str) and weights != "scratch" and not _is_url(weights):
        path = _place(weights, folder)
        if path.exists() or not _looks_published(weights, ".pt"):
            table["weights"] = str(path)
    finetune = table.get("finetune")
    if isinstance(finetune, dict) and isinstance(finetune.get("folder"), str):
        finetune["folder"] = str(_place(finetune["folder"], folder))


def _place(text: str, folder: Path) -> Path:
    """A path that can be looked at and written down; raises RequestError."""
    try:
        path = folder / Path(text).expanduser()
        path.exists()
        text.encode()
    except (OSError, RuntimeError, UnicodeEncodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise RequestError(
            f"the path {text[:80]!r} cannot be used: {reason}", hint="rename it, or move it"
        ) from error
    return path


def _is_url(text: str) -> bool:
    return text.startswith(("http://", "https://"))


def _looks_published(text: str, suffix: str) -> bool:
    return "/" not in text and text.endswith(suffix)


def _validate(request: BuildRequest) -> None:
    if request.name is not None and not _NAME.fullmatch(request.name):
        raise RequestError(
            f"NAME={request.name!r} cannot name files",
            hint="use letters, digits, dots, dashes and underscores",
        )
    if request.model is not None:
        read_architecture(request.model)
    if request.imgsz is not None and not 0 < request.imgsz <= MAX_IMGSZ:
        raise RequestError(
            f"IMGSZ={request.imgsz} is out of range", hint=f"use 32 to {MAX_IMGSZ}; 192 is usual"
        )
    counts = {
        "train.epochs": (request.train.epochs, 0, 1_000_000),
        "train.batch": (request.train.batch, 1, 1_000_000),
        "train.seed": (request.train.seed, 0, 2**32 - 1),
        "calibration.images": (request.calibration.images, 1, 1_000_000),
        "evaluation.images": (request.evaluation.images, 1, 1_000_000),
        "finetune.updates": (request.finetune.updates, 1, 1_000_000),
        "finetune.batch": (request.finetune.batch, 1, 1_000_000),
        "finetune.images": (request.finetune.images, 1, 1_000_000),
        "limits.memory_mib": (request.limits.memory_mib, 1, 2**30),
        "limits.timeout_s": (request.limits.timeout_s, 1, 2**30),
        "limits.steps": (request.limits.steps, 1, 1_000),
    }
    for name, (value, least, most) in counts.items():
        if value is not None and not least <= value <= most:
            bound = f"at least {least}" if value < least else f"at most {most}"
            raise RequestError(f"{name} is {value}", hint=f"it must be {bound}")
    _check_finetuning(request)
    fault = fault_of_skeleton(request.skeleton or (), MAX_KEYPOINTS)
    if fault is not None:
        raise RequestError(fault, hint="skeleton = [[0, 1], [1, 2]]")
    _check_reproducible(request.train)
    for address in (request.data, request.weights):
        if address is not None and _is_url(address):
            _refuse_secrets(address)
    weights = request.weights_file
    if weights is not None and not weights.is_file():
        raise WeightsError(
            f"the weights {weights} do not exist",
            hint="pass a .pt file, WEIGHTS=yolov8n-pose.pt to fetch it, or WEIGHTS=scratch",
        )
    if request.weights in (None, "scratch") and not request.trains:
        raise RequestError(
            "EPOCHS=0 without weights is an untrained network",
            hint="pass WEIGHTS=, or leave EPOCHS out",
        )


def _check_reproducible(train: TrainSettings) -> None:
    if train.reproducible and train.gpu == "required":
        raise RequestError(
            "a reproducible training runs on the CPU, and a GPU is required",
            hint="leave REPRODUCIBLE or GPU out",
        )
    if train.reproducible and "time" in train.overrides:
        raise RequestError(
            "[train] time ends a training by the clock, and a reproducible one must not be",
            hint="set epochs in its place",
        )


def _check_finetuning(request: BuildRequest) -> None:
    cycles, flash_kib = request.finetune.cycles, request.finetune.flash_kib
    if cycles is not None and not LEAST_CYCLES <= cycles <= 1:
        raise RequestError(
            f"finetune.cycles is {cycles:g}",
            hint=f"it is a part of the plain file's cycles: {LEAST_CYCLES} to 1",
        )
    if flash_kib is not None and flash_kib <= 0:
        raise RequestError(f"finetune.flash_kib is {flash_kib:g}", hint="it must be more than 0")
    if not request.finetunes:
        return
    if request.task == "classify":
        raise RequestError(
            "a classifier cannot be fine-tuned", hint="QUANT=mixed quantises any network"
        )
    folder = request.finetune.folder
    if folder is not None and not Path(folder).is_dir():
        raise RequestError(
            f"finetune.folder is {folder}, which is no folder",
            hint="name a folder of images, or leave it out: the images of train are taken",
        )


def _refuse_secrets(address: str) -> None:
    """A URL is part of a build's recipe and so of its logs; a password or token may not be."""
    try:
        parts = urlsplit(address)
    except ValueError as error:
        raise RequestError(f"{address[:80]!r} is no address: {error}") from error
    if not re.fullmatch("[!-~]+", address):
        raise RequestError(
            f"{address[:80]!r} is no address", hint="write spaces and accents as %20 and the like"
        )
    if parts.username or parts.password or parts.query:
        place = f"{parts.scheme}://{parts.hostname}{parts.path}"
        raise RequestError(
            f"the address at {place} holds a password or a query, which build.json would repeat",
            hint="download it yourself and pass its path",
        )
