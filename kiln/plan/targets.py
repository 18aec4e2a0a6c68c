"""Boards as data: ``targets/*.toml`` to frozen records."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from kiln.errors import ModelError, RequestError, UnknownName
from kiln.plan.generations import DECODED, generation_tables
from kiln.plan.request import Task
from kiln.plan.schema import read_record, read_toml

#: Part of the arena that Vela must leave free: TensorFlow Lite Micro's own structures, about 1 KiB.
INTERPRETER_KIB = 2


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
    ``probabilities`` is the one output [1, classes] of a classifier. ``forms`` are what a firmware
    that tries several forms takes these models for, Kiln's own first.
    """

    outputs: tuple[str, ...]
    order: Literal["any", "fixed"]
    forms: tuple[str, ...] = ()
    keypoints: int | None = None
    min_classes: int = 1
    max_classes: int | None = None
    decoded_max_classes: int | None = None
    refused_classes: tuple[int, ...] = ()
    reason: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Firmware:
    """One generation of a firmware: its interpreter, its memory, and what its algorithms decode.

    ``generation`` is what FIRMWARE= says, empty if there is only one. ``arena_kib_at`` is for
    firmware that is built for some image sizes alone, each with an arena of its own; ``arena_kib``
    is then the largest of them.

    The board tells its generation by ``AT+VER?``: no build before the date ``since`` (ISO) is of
    this one; or its version is one of ``software``, if that is no date of a build.

    ``forms`` are the forms of a model that are tried, in this order (() if the firmware takes
    whatever it is given); with ``exact_outputs`` each wants its number of outputs and no more.
    ``flaws`` say why a task does not work although its form is tried.
    """

    name: str
    source: str
    operators: tuple[str, ...]
    arena_kib: int
    tasks: Mapping[Task, TaskContract]
    generation: str = ""
    arena_kib_at: Mapping[str, int] = dataclasses.field(default_factory=dict)
    since: str = ""
    software: tuple[str, ...] = ()
    forms: tuple[str, ...] = ()
    exact_outputs: bool = False
    flaws: Mapping[Task, str] = dataclasses.field(default_factory=dict)

    @property
    def sizes(self) -> tuple[int, ...]:
        """The only image sizes that it is built for; () if it takes any."""
        return tuple(sorted(int(size) for size in self.arena_kib_at))

    def arena_at(self, imgsz: int | None) -> int:
        """The arena in KiB for an image size; without one, the largest."""
        return self.arena_kib_at.get(str(imgsz), self.arena_kib)


@dataclasses.dataclass(frozen=True, kw_only=True)
class VelaSettings:
    """The NPU and how Vela is to see the board's memories; ``ini`` is Vela's own config file."""

    accelerator: str
    system_config: str
    memory_mode: str
    optimise: Literal["Performance", "Size"]
    ini: Mapping[str, Mapping[str, str]]
    arguments: tuple[str, ...] = ()

    @property
    def executed(self) -> bool:
        """Whether a host can execute what is compiled for this NPU (``stages.vela.npu``)."""
        return self.accelerator.startswith("ethos-u55-")


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
class CopyByHand:
    """Where the user puts the file: under which name, in which place, and what to do then."""

    name: str
    place: str
    then: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Device:
    """How the board is reached. ``usb`` ids are `vendor:product` in lower-case hexadecimal.

    ``loader`` writes the flash, and ``protocol`` is what the firmware speaks, if Kiln speaks it
    too. ``handshake`` is of the loader `we2`, ``chip`` the one that `esp` must find; `copy` writes
    nothing and says ``copy``. ``before`` is what the user must do before the flash is written, and
    ``address_help`` what to do if the default address cannot be.
    """

    loader: Literal["we2", "esp", "copy"]
    usb: tuple[str, ...] = ()
    baud: int = 0
    protocol: Literal["sscma"] | None = None
    handshake: Handshake | None = None
    chip: str | None = None
    copy: CopyByHand | None = None
    protected: tuple[ProtectedRange, ...] = ()
    before: str = ""
    address_help: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Target:
    """One board with one firmware.

    ``generations`` are those of its firmware that a build may be for, oldest first; ``firmware`` is
    the one that is taken, that of the first task until one is chosen. ``tasks`` are those that any
    of them has.
    """

    name: str
    title: str
    description: str
    firmware: Firmware
    generations: tuple[Firmware, ...]
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

    def choose(self, task: Task, generation: str | None = None) -> Target:
        """The target with the named generation, or else with the oldest that has the task.

        Raises UnknownName, which lists them, and RequestError for one without the task.
        """
        among = self.generations
        if generation is not None:
            among = (self._generation(generation),)
        able = [firmware for firmware in among if task in firmware.tasks]
        if not able:
            raise self._without(task, among)
        return dataclasses.replace(self, firmware=able[0], generations=among)

    def _generation(self, name: str) -> Firmware:
        names = {firmware.generation: firmware for firmware in self.generations}
        if name not in names and list(names) == [""]:
            raise RequestError(
                f"{self.name} has one firmware, {self.firmware.name}, and FIRMWARE={name} is none",
                hint="leave FIRMWARE out",
            )
        if name not in names:
            raise UnknownName("firmware", name, names, where=f"targets/{self.name}.toml")
        return names[name]

    def _without(self, task: Task, among: Sequence[Firmware]) -> RequestError:
        able = [each.generation for each in self.generations if task in each.tasks]
        if not able:
            return RequestError(
                f"{self.name} cannot do TASK={task}: its firmware reads {', '.join(self.tasks)}",
                hint="choose another target; `kiln targets` lists their tasks",
            )
        firmware = among[0]
        reads = ", ".join(firmware.tasks) or "none of Kiln's tasks"
        return RequestError(
            f"{firmware.name} on {self.name} cannot do TASK={task}: "
            + (firmware.flaws.get(task) or f"it reads {reads}"),
            hint=f"leave FIRMWARE out, or use one of FIRMWARE={', '.join(able)}",
        )

    def task(self, name: Task) -> TaskContract:
        """Raises RequestError for a task that this firmware has no post-processing for."""
        return self.choose(name).firmware.tasks[name]

    def compilation(self, imgsz: int) -> dict[str, Any]:
        """What the step `compile` is told; for a target with an NPU."""
        assert self.vela is not None
        settings = dataclasses.asdict(self.vela)
        return {**settings, "arena_kib": self.firmware.arena_at(imgsz) - INTERPRETER_KIB}

    def contract(self, task: Task, imgsz: int | None, mode: str | None = None) -> dict[str, Any]:
        """What `check-firmware` holds a model against; without a size, the largest arena, and
        without a camera mode the default one."""
        firmware, source = self.choose(task).firmware, self.input
        form = firmware.tasks[task]
        decoded = not firmware.forms or DECODED in firmware.forms
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
            "decoded_max_classes": form.decoded_max_classes if decoded else None,
            "refused_classes": list(form.refused_classes),
            "reason": form.reason,
            "operators": list(firmware.operators),
            "arena_kib": firmware.arena_at(imgsz),
            "flash_kib": self.flash.model_bytes / 1024,
            "accelerator": self.vela.accelerator if self.vela else None,
            "forms": list(form.forms),
            "tried": list(firmware.forms),
            "exact_outputs": firmware.exact_outputs,
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
    where = f"targets/{name}.toml"
    table = read_toml(folder / f"{name}.toml")
    generations = generation_tables(table, where)
    tasks = {task: facts for each in reversed(generations) for task, facts in each["tasks"].items()}
    listed = [task for task in table["tasks"] if task in tasks]
    own = {"firmware": generations[0], "generations": generations}
    own["tasks"] = {task: tasks[task] for task in listed}
    target = read_record(Target, {**table, **own}, where)
    if target.name != name:
        raise RequestError(f"{where} calls itself {target.name!r}")
    return target.choose(next(iter(target.tasks))) if target.tasks else target
