"""The AT server of the SSCMA firmware.

After SSCMA-Micro 1.0.x: docs/protocol/at-protocol-en_US.md for the requests, sscma/main_task.hpp,
sscma/repl/server.hpp and sscma/callback/*.hpp for the replies. A reply is one JSON object between
``\\r`` and ``\\n``.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Mapping
from typing import Any

from kiln.emulator.arguments import Command, crc16_maxim, read_command, whole_number
from kiln.emulator.classifier import ClassifiedFrame, RecordedClassifier
from kiln.emulator.flash import Flash, Slot
from kiln.emulator.postprocess import EmulatedModel, RecordedFrame, report

_NAME = "Grove Vision AI V2"
_DEVICE_ID = "7e2d02cf"
_REPLY, _EVENT, _LOG = 0, 1, 2
_OK, _INVALID, _NOT_SUPPORTED, _NOT_PERMITTED = 0, 5, 8, 9
_MAX_LINE = 4095

_CLASSIFIER, _POSE, _DETECT = 4, 5, 8
_CAMERA = 1
#: Category of each type of algorithm.
_CATEGORIES = {1: 1, 2: 2, 3: 1, _CLASSIFIER: 3, _POSE: 2, 6: 1, 7: 1, _DETECT: 1}
_UNDEFINED = {"type": 0, "categroy": 0, "input_from": 0}
_SENSOR = {"id": 1, "type": _CAMERA, "state": 2, "opt_id": 0, "opt_detail": "240x240 Auto"}
_NO_MODEL = {"id": 0, "type": 0, "address": 0, "size": 0}

#: Keys for the bootloader, which the real firmware ignores: see ``kiln.emulator.board``. A command
#: may hold a few of them.
_RESTART_KEYS = 5
_RESTART_KEYS_IN_A_COMMAND = 20
_KEY = ord("1")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Release:
    """Which firmware it is: what AT+VER? tells of it, and the types that AT+ALGOS? lists, None for
    the main line, which does not know that command."""

    software: str
    algorithms: tuple[int, ...] | None


#: What HimaxWiseEyePlus/Seeed_Grove_Vision_AI_Module_V2 holds as the board's factory image.
FACTORY_2023 = Release(software="2023.12.19", algorithms=(1, 2, 3, 4))
#: A build of what sscma-example-we2@97978d9 pins.
RELEASE_1_0 = Release(software="2024.12.07", algorithms=(1, 3, 4, _POSE, 6, 7, _DETECT))
MAIN_2024 = Release(software="2024.11.13", algorithms=None)


@dataclasses.dataclass
class Thresholds:
    """In percent; the defaults are those of poses, of both forms of boxes, and of a classifier,
    which has no ``iou``.

    Source: the constructors in core/algorithm/el_algorithm_yolo_pose.h, el_algorithm_yolo_world.h,
    el_algorithm_yolov8.h and el_algorithm_imcls.h; the values in their config structs are used by
    nothing.
    """

    score: int = 50
    iou: int = 45


@dataclasses.dataclass
class Storage:
    """What the firmware keeps over resets and new models; thresholds by type of algorithm."""

    info: str = ""
    boot_count: int = 0
    thresholds: dict[int, Thresholds] = dataclasses.field(default_factory=dict)

    def of(self, algorithm: int) -> Thresholds:
        """An algorithm's thresholds; its first run stores the defaults."""
        return self.thresholds.setdefault(algorithm, Thresholds())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Camera:
    """How fast the board is: at most ``fps`` frames a second, and the milliseconds that it reports
    for preprocessing, inference and postprocessing.
    """

    fps: float = 10.0
    perf_ms: tuple[int, int, int] = (7, 38, 4)


#: How many arguments a command has, and its handler.
_Handler = tuple[int, Callable[[Command, list[str]], None]]


@dataclasses.dataclass
class _Invocation:
    """A running INVOKE. ``name`` is that of the request, with its tag; ``times`` -1 is for ever."""

    name: str
    times: int
    differed: bool
    result_only: bool
    due: float
    count: int = 0
    last: Mapping[str, Any] | None = None


class Firmware:
    """Runs from the end of the bootloader to the next reset.

    ``is_busy`` says that the line still carries what was sent. As on the board, the next frame is
    taken only when the last one was written, so a slow line or host slows the camera.
    ``on_command`` is told every line.
    """

    def __init__(
        self,
        flash: Flash,
        storage: Storage,
        model: EmulatedModel | RecordedClassifier | None,
        camera: Camera,
        send: Callable[[bytes], None],
        is_busy: Callable[[], bool],
        restart: Callable[[], None],
        on_command: Callable[[str], None],
        release: Release = RELEASE_1_0,
    ) -> None:
        self._release = release
        self._memory = flash.memory
        self._storage = storage
        self._model = model
        self._camera = camera
        self._send = send
        self._is_busy = is_busy
        self._restart = restart
        self._on_command = on_command
        self._slots = flash.models()
        self._current = self._slots[0] if self._slots else None
        self._line = bytearray()
        self._restart_keys = 0
        self._off = False
        self._invocation: _Invocation | None = None
        self._frames = 0
        self._started = time.monotonic()
        self._commands = self._table()

    @property
    def invoking(self) -> bool:
        return self._invocation is not None

    def start(self) -> None:
        """Count the start and report that the firmware is ready."""
        self._storage.boot_count += 1
        self._frame(_REPLY, "INIT@STAT?", _OK, self._status())

    def receive(self, data: bytes, now: float) -> None:
        """Bytes from the host."""
        del now
        for byte in data:
            if byte not in b"\r\n":
                self._line.append(byte)
            elif self._line:
                line = self._line[:_MAX_LINE].decode("latin-1")
                self._line.clear()
                self._do(line)
            if self._is_restart(byte):
                self._reset()
            if self._off:
                return

    def due(self) -> float | None:
        """When the next frame is taken."""
        if self._invocation is None or self._is_busy():
            return None
        return self._invocation.due

    def tick(self, now: float) -> None:
        """Take a frame and report what the model finds in it."""
        invocation = self._invocation
        if invocation is None or self._model is None:
            return
        invocation.count += 1
        if 0 <= invocation.times <= invocation.count:
            self._invocation = None
        invocation.due = max(now, invocation.due + 1 / self._camera.fps)
        frame = self._model.infer(self._frames)
        self._frames += 1
        found = self._report(frame)
        if invocation.differed and found == invocation.last:
            return
        invocation.last = found
        data = {"count": invocation.count, "perf": self._camera.perf_ms, **found}
        data["resolution"] = self._model.resolution
        if not invocation.result_only:
            data["image"] = frame.image
        self._frame(_EVENT, invocation.name, _OK, data)

    def _report(self, frame: RecordedFrame | ClassifiedFrame) -> dict[str, Any]:
        """What an event says of a frame."""
        limits = self._limits()
        if isinstance(frame, ClassifiedFrame):
            return frame.report(limits.score)
        pose = self._algorithm_of(self._model) == _POSE
        return report(frame, score=limits.score, iou=limits.iou, pose=pose)

    def _do(self, line: str) -> None:
        self._on_command(line)
        command = read_command(line)
        known = self._commands | (self._thresholds() if self.invoking else {})
        if command is None or command.name not in known:
            self._frame(_LOG, "AT", _INVALID, f"Unknown command: {line}\n")
            return
        count, handle = known[command.name]
        arguments = command.take(count)
        if len(arguments) != count:
            text = f"Command {command.tagged} got wrong arguements.\n"
            self._frame(_LOG, "AT", _INVALID, text)
            return
        handle(command, arguments)

    def _table(self) -> dict[str, _Handler]:
        """Commands that are always available."""
        listed = self._release.algorithms
        algorithms = None if listed is None else [*map(_algorithm, listed)]
        version = {"at_api": "v0", "software": self._release.software, "hardware": "1"}
        table: dict[str, _Handler] = {
            "ID?": (0, lambda command, _: self._reply(command, _DEVICE_ID)),
            "NAME?": (0, lambda command, _: self._reply(command, _NAME)),
            "VER?": (0, lambda command, _: self._reply(command, version)),
            "STAT?": (0, lambda command, _: self._reply(command, self._status())),
            "ALGOS?": (0, lambda command, _: self._reply(command, algorithms)),
            "MODELS?": (0, lambda command, _: self._reply(command, [*map(_model, self._slots)])),
            "MODEL?": (0, self._reply_model),
            "MODEL": (1, self._set_model),
            "SENSORS?": (0, lambda command, _: self._reply(command, [_SENSOR])),
            "SENSOR?": (0, lambda command, _: self._reply(command, _SENSOR)),
            "SENSOR": (3, self._set_sensor),
            "INFO?": (0, self._reply_info),
            "INFO": (1, self._set_info),
            "INVOKE?": (0, lambda command, _: self._reply(command, int(self.invoking))),
            "INVOKE": (3, self._invoke),
            "BREAK": (0, self._break),
            "RST": (0, lambda *_: self._reset()),
        }
        if algorithms is None:
            del table["ALGOS?"]
        return table

    def _thresholds(self) -> dict[str, _Handler]:
        """Commands that are available only while an algorithm runs, if it has the threshold."""
        score: dict[str, _Handler] = {
            "TSCORE?": (0, lambda command, _: self._reply(command, self._limits().score)),
            "TSCORE": (1, lambda *asked: self._set_threshold("score", *asked)),
        }
        if self._algorithm_of(self._model) == _CLASSIFIER:
            return score
        return score | {
            "TIOU?": (0, lambda command, _: self._reply(command, self._limits().iou)),
            "TIOU": (1, lambda *asked: self._set_threshold("iou", *asked)),
        }

    def _set_threshold(self, name: str, command: Command, arguments: list[str]) -> None:
        percent = whole_number(arguments[0]) & 0xFF  # kept in a byte
        if percent <= 100:
            setattr(self._limits(), name, percent)
        code = _OK if percent <= 100 else _INVALID
        self._reply(command, getattr(self._limits(), name), code)

    def _reply_model(self, command: Command, _arguments: list[str]) -> None:
        code = _OK if self._current else _INVALID
        self._reply(command, _model(self._current), code)

    def _set_model(self, command: Command, arguments: list[str]) -> None:
        number = whole_number(arguments[0])
        chosen = next((slot for slot in self._slots if slot.id == number), None)
        self._invocation = None
        self._current = chosen or self._current
        self._reply(command, {"model": _model(chosen)}, _OK if chosen else _INVALID)

    def _set_sensor(self, command: Command, arguments: list[str]) -> None:
        """The emulated camera has one mode."""
        self._invocation = None
        sensor, enabled, option = map(whole_number, arguments)
        code = _OK if (sensor, option) == (1, 0) and enabled else _INVALID
        self._reply(command, {"sensor": _SENSOR}, code)

    def _reply_info(self, command: Command, _arguments: list[str]) -> None:
        info = self._storage.info
        checksum = crc16_maxim(info.encode("latin-1"))
        self._reply(command, {"crc16_maxim": checksum, "info": info})

    def _set_info(self, command: Command, arguments: list[str]) -> None:
        self._storage.info = arguments[0]
        checksum = crc16_maxim(arguments[0].encode("latin-1"))
        self._reply(command, {"crc16_maxim": checksum})

    def _invoke(self, command: Command, arguments: list[str]) -> None:
        self._invocation = None
        times, differed, result_only = map(whole_number, arguments)
        code = self._readiness()
        algorithm: dict[str, Any] = dict(_UNDEFINED)
        if code == _OK and self._model is not None:
            number, limits = self._algorithm_of(self._model), self._limits()
            algorithm = _algorithm(number)
            algorithm["config"] = {"tscore": limits.score}
            if number != _CLASSIFIER:
                algorithm["config"]["tiou"] = limits.iou
            if times:
                self._invocation = _Invocation(
                    name=command.tagged,
                    times=times,
                    differed=bool(differed),
                    result_only=bool(result_only),
                    due=time.monotonic(),
                )
        data = {"model": _model(self._current), "algorithm": algorithm, "sensor": _SENSOR}
        self._reply(command, data, code)

    def _limits(self) -> Thresholds:
        return self._storage.of(self._algorithm_of(self._model))

    def _readiness(self) -> int:
        """The code of an INVOKE: the current model must be there, and be the emulated one.

        A real board refuses an incomplete model as well.
        """
        if self._current is None:
            return _INVALID
        memory = memoryview(self._memory).toreadonly()[self._current.address :]
        if self._model is None or not self._model.matches(memory):
            return _NOT_PERMITTED
        known = self._release.algorithms
        return _OK if known is None or self._algorithm_of(self._model) in known else _NOT_SUPPORTED

    def _algorithm_of(self, model: EmulatedModel | RecordedClassifier | None) -> int:
        """The type by which the firmware reads a model's outputs."""
        if isinstance(model, RecordedClassifier):
            return _CLASSIFIER
        return _POSE if model is not None and model.pose else _DETECT

    def _break(self, command: Command, _arguments: list[str]) -> None:
        self._invocation = None
        self._reply(command, int(1000 * (time.monotonic() - self._started)))

    def _reset(self) -> None:
        self._off = True
        self._restart()

    def _is_restart(self, byte: int) -> bool:
        self._restart_keys = self._restart_keys + 1 if byte == _KEY else 0
        is_command = self._line[:2].upper() == b"AT"
        return self._restart_keys >= (_RESTART_KEYS_IN_A_COMMAND if is_command else _RESTART_KEYS)

    def _status(self) -> dict[str, int]:
        return {"boot_count": self._storage.boot_count, "is_ready": 1}

    def _reply(self, command: Command, data: Any, code: int = _OK) -> None:
        self._frame(_REPLY, command.tagged, code, data)

    def _frame(self, kind: int, name: str, code: int, data: Any) -> None:
        frame = {"type": kind, "name": name, "code": code, "data": data}
        self._send(b"\r" + json.dumps(frame).encode("ascii") + b"\n")


def _algorithm(number: int) -> dict[str, Any]:
    """An algorithm in a reply; the key is misspelt there."""
    return {"type": number, "categroy": _CATEGORIES[number], "input_from": _CAMERA}


def _model(slot: Slot | None) -> Mapping[str, int]:
    """A slot in a reply; of a plain TFLite file the firmware knows neither type nor size."""
    return _NO_MODEL if slot is None else {**_NO_MODEL, "id": slot.id, "address": slot.address}
