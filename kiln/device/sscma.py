"""Talks to a board with SSCMA firmware: the AT protocol, over any Link.

Protocol: SSCMA-Micro, branch 1.0.x, docs/protocol/at-protocol-en_US.md and sscma/. What the
document leaves open, as the source has it: letters of a command and of its tag come back as
capitals; commands wait their turn behind a running inference, which takes seconds on a board
without an NPU; the thresholds can be asked for and set only while a model is being invoked; and
of a model that was flashed as a plain TFLite file the board tells neither the size nor the type.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import secrets
import string
import time
from collections import deque
from collections.abc import Generator, Mapping, Sequence
from typing import Any, TypeGuard

from kiln.device.at_errors import Ended, NotUnderstood, Refused, Silent, UnknownCommand
from kiln.device.detections import Box, Detections, Point, Pose, read_detections
from kiln.device.frames import Event, Frame, FrameReader, Log, Reply
from kiln.device.link import Link
from kiln.errors import BoardError

__all__ = ["Board", "Box", "Detections", "Event", "Identity", "ModelSlot", "Point", "Pose"]

#: A request with everything in it, the carriage return too.
MAX_REQUEST_BYTES = 4095
#: The slowest published inference takes 2.6 s, and a command may have to wait for two.
PATIENCE_S = 6.0
#: Without an event for so long the board is asked whether it is still at work.
_QUIET_S = 2.0
#: While a board starts, it is asked this often.
_STARTING_S = 0.5
#: A `1` that reaches a WiseEye2 while it restarts opens the menu of its boot loader, which then
#: waits for ever: so what asks a board whether it has started must not hold a digit.
_LETTERS = str.maketrans("0123456789", "GHIJKLMNOP")
#: Events that came while nobody asked for them; at 30 a second those of eight seconds.
MAX_EVENTS = 256

#: How often to invoke, where there is no end.
FOREVER = -1
_SLOT = ("id", "type", "address", "size")
_INVALID = 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Identity:
    """Which board, with which firmware; empty where it does not tell."""

    id: str
    name: str
    software: str
    hardware: str
    at_api: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelSlot:
    """A model on the board's flash; ``type`` and ``size`` (bytes) are 0 if it does not know."""

    id: int
    type: int
    address: int
    size: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sensor:
    """A camera; ``state`` 2 is ready for use; ``option`` is its resolution in words."""

    id: int
    state: int
    option: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Invocation:
    """What the board set up to invoke the model; thresholds in percent, None if it has none."""

    algorithm: int
    score: int | None
    iou: int | None


#: Algorithm types, by the names of the protocol's table.
ALGORITHMS: Mapping[int, str] = {
    **{0: "undefined", 1: "FOMO", 2: "PFLD", 3: "YOLOv5", 4: "classifier", 5: "YOLOv8 pose"},
    **{6: "YOLOv8", 7: "NVIDIA detection", 8: "YOLO-World", 9: "YOLO11", 10: "YOLO11 pose"},
}


class Board:
    """The firmware at the other end of a link; for one thread.

    Whatever it is asked, it raises Refused for an error code, Silent if no answer comes within
    ``patience_s``, NotUnderstood, and BoardGone. Events that come while an answer is awaited are
    kept; ``dropped`` counts those for which there was no room, ``strays`` frames that belong to
    earlier requests. ``invocation`` is the last one that it set up.
    """

    def __init__(self, link: Link, *, patience_s: float = PATIENCE_S) -> None:
        self._link = link
        self._patience_s = patience_s
        self._reader = FrameReader()
        self._events: deque[Event] = deque()
        self.dropped = 0
        self.strays = 0
        # Answers to another program, which had the port before, may still be on their way.
        self._session = "".join(secrets.choice(string.ascii_uppercase) for _ in range(4))
        self._numbers = itertools.count(1)
        self._invoked = ""
        self.invocation = Invocation(algorithm=0, score=None, iou=None)

    @property
    def broken(self) -> int:
        """Frames that did not arrive whole."""
        return self._reader.broken

    # What it is

    def wait(self, timeout_s: float) -> None:
        """Wait until the firmware has started; raises Silent if it does not in time."""
        deadline = time.monotonic() + timeout_s
        tags: set[str] = set()
        while (left := deadline - time.monotonic()) > 0:
            tags.add(tag := self._tag())
            self._send("ID?", "", tag)
            if self._await(frozenset(tags), min(left, _STARTING_S)) is not None:
                return
        raise Silent("ID?", self._reader.skipped)

    def identity(self) -> Identity:
        """The board's id and name, and the versions of its firmware."""
        number, name, version = self._ask("ID"), self._ask("NAME"), self._ask("VER")
        if not isinstance(version, Mapping):
            raise NotUnderstood("VER?", version)
        versions = {key: str(version.get(key, "")) for key in ("software", "hardware", "at_api")}
        return Identity(id=str(number), name=str(name), **versions)

    def model(self) -> ModelSlot | None:
        """The model that it would invoke; None if it has found none on its flash."""
        try:
            slot = _slot("MODEL?", self._ask("MODEL"))
        except Refused as error:
            if error.code == _INVALID and not isinstance(error, UnknownCommand):
                return None
            raise
        return slot if slot.id else None

    def models(self) -> tuple[ModelSlot, ...]:
        """All models that it has found, by address."""
        slots = [_slot("MODELS?", each) for each in _list("MODELS?", self._ask("MODELS"))]
        return tuple(sorted(slots, key=lambda slot: slot.address))

    def algorithms(self) -> tuple[int, ...]:
        """The decoders that its firmware has, by ALGORITHMS' numbers."""
        found = _list("ALGOS?", self._ask("ALGOS"))
        types = [each.get("type") if isinstance(each, Mapping) else None for each in found]
        return tuple(sorted(kind for kind in types if type(kind) is int))

    def sensors(self) -> tuple[Sensor, ...]:
        """Its cameras."""
        return tuple(_sensor("SENSORS?", each) for each in _list("SENSORS?", self._ask("SENSORS")))

    # What it keeps

    def info(self) -> str:
        """The text that AT+INFO= left on its flash; empty if there is none."""
        data = self._ask("INFO")
        text = data.get("info", "") if isinstance(data, Mapping) else None
        if not isinstance(text, str):
            raise NotUnderstood("INFO?", data)
        return text

    def set_info(self, text: str) -> None:
        """Leave a text on its flash; raises BoardError if it is longer than a request may be."""
        if not (text.isascii() and text.isprintable()):
            raise BoardError("the board keeps plain ASCII text alone", hint="encode it as base64")
        quoted = text.replace("\\", "\\\\").replace('"', '\\"')
        self._do("INFO", f'"{quoted}"')

    def score(self) -> int:
        """The least score, in percent, of what it reports; only while it invokes a model."""
        return self._number("TSCORE")

    def iou(self) -> int:
        """How far boxes may overlap, in percent; only while it invokes a model."""
        return self._number("TIOU")

    def set_score(self, percent: int) -> None:
        """Kept on its flash; only while it invokes a model."""
        self._do("TSCORE", str(percent))

    def set_iou(self, percent: int) -> None:
        """Kept on its flash; only while it invokes a model."""
        self._do("TIOU", str(percent))

    # What it sees

    def invoke(self, times: int, *, with_images: bool) -> Generator[Detections, None, None]:
        """Invoke the model so many times, -1 for ever, and give what it sees as it comes.

        However the loop ends, the board is told to stop; close the generator (or let
        ``contextlib.closing`` do so) to have that at once. Frames that did not arrive whole are
        missing, and counted in ``broken``.
        """
        try:
            self.start(times, with_images=with_images)
            yield from self._detections(times)
        except BaseException:
            # What ended the loop is the news: a board that is gone need not be stopped.
            with contextlib.suppress(BoardError):
                self.stop()
            raise
        self.stop()

    def start(self, times: int, *, with_images: bool) -> Invocation:
        """Begin to invoke the model; the events are got by ``poll``, and ``stop`` ends them."""
        self._events.clear()
        self._invoked = tag = self._tag()
        arguments = f"{times},0,{int(not with_images)}"
        self.invocation = _invocation(self._carry_out("INVOKE", arguments, [tag]))
        return self.invocation

    def poll(self, timeout_s: float) -> list[Event]:
        """All events that have come; waits for the first of them, at most so long."""
        deadline = time.monotonic() + timeout_s
        while not self._events:
            left = deadline - time.monotonic()
            self._receive(max(0.0, left), frozenset())
            if left <= 0:
                break
        events = list(self._events)
        self._events.clear()
        return events

    def is_invoking(self) -> bool:
        """Whether it is at work on an invocation."""
        return bool(self._ask("INVOKE"))

    def stop(self) -> None:
        """End whatever runs on the board."""
        self._carry_out("BREAK", "", [self._tag(), self._tag()])
        self._events.clear()

    def reset(self) -> None:
        """Restart the firmware, which answers nothing; ``wait`` until it is back."""
        self._send("RST", "", self._tag())
        self._events.clear()

    def _detections(self, times: int) -> Generator[Detections, None, None]:
        while True:
            events = self.poll(_QUIET_S)
            for event in events:
                if event.code:
                    raise Refused("INVOKE", event.code)
                seen = read_detections(event.data)
                yield seen
                if times != FOREVER and seen.count >= times:
                    return
            # The answer comes behind the last events, if there are any.
            if not events and not self.is_invoking() and not self._events:
                if times == FOREVER:
                    raise Ended
                return

    # Requests and answers

    def _ask(self, name: str) -> Any:
        """A question may be asked twice."""
        return self._carry_out(f"{name}?", "", [self._tag(), self._tag()])

    def _do(self, command: str, arguments: str) -> Any:
        return self._carry_out(command, arguments, [self._tag()])

    def _number(self, name: str) -> int:
        data = self._ask(name)
        if type(data) is not int:
            raise NotUnderstood(f"{name}?", data)
        return data

    def _carry_out(self, command: str, arguments: str, tags: Sequence[str]) -> Any:
        """Send a request once for each tag until one of them is answered; the answer's data."""
        for number, tag in enumerate(tags, start=1):
            self._send(command, arguments, tag)
            answer = self._await(frozenset(tags[:number]), self._patience_s)
            if isinstance(answer, Reply):
                if answer.code:
                    raise Refused(command, answer.code)
                return answer.data
            # A command that lost a letter on its way is unknown, too, and may be sent again.
            if answer is not None and f"@{command}" in answer.text:
                raise UnknownCommand(command, answer.code, answer.text)
        raise Silent(command, self._reader.skipped)

    def _await(self, tags: frozenset[str], timeout_s: float) -> Reply | Log | None:
        """The first answer to any of the requests of these tags; None if none comes in time."""
        deadline = time.monotonic() + timeout_s
        while (left := deadline - time.monotonic()) > 0:
            answer = self._receive(left, tags)
            if answer is not None:
                return answer
        return None

    def _send(self, command: str, arguments: str, tag: str) -> None:
        request = f"AT+{tag}@{command}{'=' if arguments else ''}{arguments}\r".encode("ascii")
        if len(request) > MAX_REQUEST_BYTES:
            raise BoardError(
                f"AT+{command} would be {len(request)} bytes long; the board takes "
                f"{MAX_REQUEST_BYTES}"
            )
        self._link.write(request)

    def _receive(self, timeout_s: float, tags: frozenset[str]) -> Reply | Log | None:
        """Read what there is, keep the events, and give the answer to one of these tags."""
        answer = None
        for frame in self._reader.feed(self._link.read(timeout_s)):
            if _answers(frame, tags):
                answer = frame
            else:
                self._keep(frame)
        return answer

    def _keep(self, frame: Frame) -> None:
        if isinstance(frame, Reply):
            self.strays += 1
        elif isinstance(frame, Event):
            if self._invoked and frame.tag != self._invoked:
                self.strays += 1
                return
            if len(self._events) == MAX_EVENTS:
                self._events.popleft()
                self.dropped += 1
            self._events.append(frame)

    def _tag(self) -> str:
        return f"{self._session}{next(self._numbers)}".translate(_LETTERS)


def _answers(frame: Frame, tags: frozenset[str]) -> TypeGuard[Reply | Log]:
    """A line that the firmware does not know is answered by a log that repeats it."""
    if isinstance(frame, Log):
        return any(f"{tag}@" in frame.text for tag in tags)
    return isinstance(frame, Reply) and frame.tag in tags


def _slot(command: str, data: object) -> ModelSlot:
    table = data if isinstance(data, Mapping) else {}
    values: dict[str, Any] = {name: table.get(name) for name in _SLOT}
    if any(type(value) is not int for value in values.values()):
        raise NotUnderstood(command, data)
    return ModelSlot(**values)


def _sensor(command: str, data: object) -> Sensor:
    table = data if isinstance(data, Mapping) else {}
    number, state = table.get("id"), table.get("state")
    if type(number) is not int or type(state) is not int:
        raise NotUnderstood(command, data)
    return Sensor(id=number, state=state, option=str(table.get("opt_detail", "")))


def _invocation(data: object) -> Invocation:
    algorithm = data.get("algorithm") if isinstance(data, Mapping) else None
    table = algorithm if isinstance(algorithm, Mapping) else {}
    kind, config = table.get("type"), table.get("config")
    if type(kind) is not int:
        raise NotUnderstood("INVOKE", data)
    limits = config if isinstance(config, Mapping) else {}
    return Invocation(
        algorithm=kind, score=_percent(limits, "tscore"), iou=_percent(limits, "tiou")
    )


def _percent(limits: Mapping[str, Any], name: str) -> int | None:
    value = limits.get(name)
    return value if type(value) is int else None


def _list(command: str, data: object) -> list[Any]:
    if not isinstance(data, list):
        raise NotUnderstood(command, data)
    return data
