"""Boards as data: ``targets/*.toml`` to frozen records."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from kiln.errors import ModelError, RequestError, UnknownName
from kiln.plan.request import Task
from kiln.plan.schema import read_record, read_toml

#: Part of the arena that Vela must leave free: TensorFlow Lite Micro's own structures, about 1 KiB.
INTERPRETER_KIB = 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Firmware:
    """What the firmware's interpreter knows and how much memory it gives to it.

    ``arena_kib_at`` is for firmware that is built for some image sizes alone, each with an arena
    of its own; ``arena_kib`` is then the largest of them.
    """

    name: str
    source: str
    operators: tuple[str, ...]
    arena_kib: int
    arena_kib_at: Mapping[str, int] = dataclasses.field(default_factory=dict)

    @property
    def sizes(self) -> tuple[int, ...]:
        """The only image sizes that it is built for; () if it takes any."""
        return tuple(sorted(int(size) for size in self.arena_kib_at))

    def arena_at(self, imgsz: int | None) -> int:
        """The arena in KiB for an image size; without one, the largest."""
        return self.arena_kib_at.get(str(imgsz), self.arena_kib)


@dataclasses.dataclass(frozen=True, kw_only=True)
class InputContract:
    """The model's input as the firmware fills it; ``scale`` and ``zero_point`` of the int8."""

    default_size: int
    multiple_of: int
    min: int
    dtype: Literal["int8"]
    scale: float
    zero_point: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class CameraMode:
    """A size of the camera's frames, in pixels; ``option`` chooses it on the board, if it can."""

    name: str
    width: int
    height: int
    option: int | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Camera:
    """The camera's modes, and how the firmware makes the square input of a frame.

    ``sampling`` is the rule by which it picks the frame's pixel for each of the input's, and
    ``pixels`` what a frame holds: see ``stages.train.dataset.camera``.
    """

    default: str
    modes: tuple[CameraMode, ...]
    sampling: Literal["float32", "fixed16", "aligned-corners"]
    pixels: Literal["rgb888", "rgb565"] = "rgb888"

    def mode(self, name: str | None) -> CameraMode:
        """A mode by its name, or the default; raises UnknownName."""
        wanted = name or self.default
        named = {mode.name: mode for mode in self.modes}
        if wanted not in named:
            raise UnknownName("camera mode", wanted, list(named))
        return named[wanted]

    def frames(self, name: str | None) -> list[list[int]]:
        """Width and height of a mode's frames, then those of the other modes."""
        chosen = self.mode(name)
        others = [mode for mode in self.modes if mode != chosen]
        return [[mode.width, mode.height] for mode in (chosen, *others)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class FlashMap:
    """Where models lie in the board's flash, in bytes."""

    model_address: int
    model_bytes: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskContract:
    """The outputs that the firmware's post-processing reads, and the counts it can tell apart.

    ``outputs`` name what YOLOv8's raw heads give: ``box8`` is [1, N, 64] for the N cells of
    stride 8, ``score8`` [1, N, classes], ``keypoints`` [1, sum of N, 3 a keypoint]. In any order
    they are told apart by shape, in a fixed one by position. ``decoded_max_classes`` is the most
    classes that the firmware takes in one output decoded in the graph, if it takes one at all.
    ``probabilities`` is the one output [1, classes] of a classifier.
    """

    outputs: tuple[str, ...]
    order: Literal["any", "fixed"]
    keypoints: int | None = None
    min_classes: int = 1
    max_classes: int | None = None
    decoded_max_classes: int | None = None
    refused_classes: tuple[int, ...] = ()
    reason: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class VelaSettings:
    """The NPU and how Vela is to see the board's memories; ``ini`` is Vela's own config file."""

    accelerator: str
    system_config: str
    memory_mode: str
    optimise: Literal["Performance", "Size"]
    ini: Mapping[str, Mapping[str, str]]
    arguments: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProtectedRange:
    """Bytes of the flash that are never written: the board could lose more than a model."""

    name: str
    address: int
    bytes: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Handshake:
    """What a WiseEye2's bootloader prints and is answered.

    ``enter``, sent while the board restarts, brings up the line ``menu``. After each transfer it
    asks ``question``: ``go_on`` takes another transfer, ``reboot`` starts the firmware.
    """

    enter: str
    menu: str
    question: str
    go_on: str
    reboot: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Device:
    """How the board is reached. ``usb`` ids are `vendor:product` in lower-case hexadecimal.

    ``loader`` writes the flash, and ``protocol`` is what the firmware speaks, if Kiln speaks it
    too. ``handshake`` is of the loader `we2`, ``chip`` the one that `esp` must find.
    ``address_help`` says what to do if the default address cannot be written.
    """

    usb: tuple[str, ...]
    baud: int
    loader: Literal["we2", "esp"]
    protocol: Literal["sscma"] | None = None
    handshake: Handshake | None = None
    chip: str | None = None
    protected: tuple[ProtectedRange, ...] = ()
    address_help: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Target:
    """One board with one firmware."""

    name: str
    title: str
    description: str
    firmware: Firmware
    input: InputContract
    camera: Camera
    flash: FlashMap
    device: Device
    tasks: Mapping[Task, TaskContract]
    vela: VelaSettings | None = None

    def check_size(self, imgsz: int) -> None:
        """Raises RequestError for an image size that the firmware cannot fill."""
        if imgsz < self.input.min or imgsz % self.input.multiple_of:
            step = self.input.multiple_of
            below = max(self.input.min, imgsz // step * step)
            near = f"{below} or {below + step}" if imgsz >= self.input.min else str(below)
            raise RequestError(
                f"IMGSZ={imgsz} does not fit {self.name}: its firmware takes multiples of "
                f"{step} from {self.input.min}",
                hint=f"use IMGSZ={near}",
            )
        if self.firmware.sizes and imgsz not in self.firmware.sizes:
            sizes = ", ".join(str(size) for size in self.firmware.sizes)
            raise RequestError(
                f"IMGSZ={imgsz} does not fit {self.name}: its firmware is built for {sizes} alone",
                hint=f"use one of IMGSZ={sizes}",
            )

    def task(self, name: Task) -> TaskContract:
        """Raises RequestError for a task that this firmware has no post-processing for."""
        if name not in self.tasks:
            raise RequestError(
                f"{self.name} cannot do TASK={name}: its firmware reads {', '.join(self.tasks)}",
                hint="choose another target; `kiln targets` lists their tasks",
            )
        return self.tasks[name]

    def compilation(self, imgsz: int) -> dict[str, Any]:
        """What the step `compile` is told; for a target with an NPU."""
        assert self.vela is not None
        settings = dataclasses.asdict(self.vela)
        return {**settings, "arena_kib": self.firmware.arena_at(imgsz) - INTERPRETER_KIB}

    def contract(self, task: Task, imgsz: int | None, mode: str | None = None) -> dict[str, Any]:
        """What `check-firmware` holds a model against; without a size, the largest arena, and
        without a camera mode the default one."""
        firmware, source, form = self.firmware, self.input, self.task(task)
        return {
            "task": task,
            "firmware": firmware.name,
            "input": {
                "dtype": source.dtype,
                "scale": source.scale,
                "zero_point": source.zero_point,
                "multiple_of": source.multiple_of,
                "min": source.min,
            },
            "sizes": list(firmware.sizes),
            "outputs": list(form.outputs),
            "order": form.order,
            "keypoints": form.keypoints,
            "min_classes": form.min_classes,
            "max_classes": form.max_classes,
            "decoded_max_classes": form.decoded_max_classes,
            "refused_classes": list(form.refused_classes),
            "reason": form.reason,
            "operators": list(firmware.operators),
            "arena_kib": firmware.arena_at(imgsz),
            "flash_kib": self.flash.model_bytes / 1024,
            "accelerator": self.vela.accelerator if self.vela else None,
            "frames": self.camera.frames(mode),
        }

    def check_classes(self, task: Task, count: int) -> None:
        """Raises ModelError for a class count that the firmware cannot tell apart."""
        contract = self.task(task)
        refused = (
            count in contract.refused_classes
            or count < contract.min_classes
            or (contract.max_classes is not None and count > contract.max_classes)
        )
        if refused:
            raise ModelError(
                f"{count} classes for {task} would not be understood by {self.name}",
                hint=contract.reason,
            )


def target_names(folder: Path) -> list[str]:
    """Every target there is, sorted."""
    return sorted(path.stem for path in folder.glob("*.toml"))


def load_target(folder: Path, name: str) -> Target:
    """Read one target; raises UnknownName, which names the nearest, or RequestError."""
    names = target_names(folder)
    if name not in names:
        raise UnknownName("target", name, names)
    target = read_record(Target, read_toml(folder / f"{name}.toml"), f"targets/{name}.toml")
    if target.name != name:
        raise RequestError(f"targets/{name}.toml calls itself {target.name!r}")
    return target
