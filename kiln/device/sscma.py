"""The AT client: talks to a board with SSCMA firmware over any Link.

Protocol: SSCMA-Micro, branch 1.0.x, docs/protocol/at-protocol-en_US.md and sscma/. Not in the
document, but in the source: a command and its tag come back in capitals; commands are queued behind
a running inference, which takes seconds on a board without an NPU; the thresholds can be read and
set only while a model is being invoked; the size and type of a model that was flashed as a plain
TFLite file are unknown.
"""

from __future__ import annotations

import contextlib
import itertools
import secrets
import string
import time
from collections import deque
from collections.abc import Generator, Mapping, Sequence
from typing import Any, TypeGuard

from kiln.device.at_errors import (
    CommandRefused,
    InvocationEnded,
    NoReply,
    UnexpectedReply,
    UnknownCommand,
)
from kiln.device.detections import Detections, read_detections
from kiln.device.frames import Event, Frame, FrameReader, Log, Reply
from kiln.device.link import Link
from kiln.device.replies import (
    Identity,
    Invocation,
    ModelSlot,
    Sensor,
    read_invocation,
    read_sensor,
    read_slot,
)
from kiln.errors import BoardError

#: Of a whole request, carriage return included.
MAX_REQUEST_BYTES = 4095
#: The slowest published inference takes 2.6 s, and a command may have to wait for two of them.
REPLY_TIMEOUT_S = 6.0
#: After so long without an event the board is asked whether it is still invoking.
_QUIET_S = 2.0
#: How often a starting board is asked whether it is ready.
_STARTING_S = 0.5
#: Tags have no digits: a `1` that reaches a WiseEye2 while it restarts opens the menu of its
#: bootloader, which then waits for ever.
_LETTERS = str.maketrans("0123456789", "GHIJKLMNOP")
#: Events that are kept until they are polled; eight seconds at 30 a second.
MAX_EVENTS = 256

#: The number of times to invoke, for no end.
FOREVER = -1
_INVALID = 5


class AtClient:
    """The firmware at the other end of a link; for one thread.

    Every request raises CommandRefused for an error code, NoReply after ``timeout_s``,
    UnexpectedReply, and BoardGone. Events that come before a reply are kept; ``dropped`` counts
    those for which there was no room, ``unmatched`` frames that reply no request of this client.
    ``invocation`` is the last one that was started.
    """

    def __init__(self, link: Link, *, timeout_s: float = REPLY_TIMEOUT_S) -> None:
        self._link = link
        self._timeout_s = timeout_s
        self._reader = FrameReader()
        self._events: deque[Event] = deque()
        self.dropped = 0
        self.unmatched = 0
        # Replies to the program that had the port before may still be on their way.
        self._tag_prefix = "".join(secrets.choice(string.ascii_uppercase) for _ in range(4))
        self._numbers = itertools.count(1)
        self._invoke_tag = ""
        self.invocation = Invocation(algorithm=0, score=None, iou=None)

    @property
    def broken(self) -> int:
        """Frames that arrived damaged."""
        return self._reader.broken

    # Identity

    def wait_until_ready(self, timeout_s: float) -> None:
        """Wait until the firmware has started; raises NoReply if it does not in time."""
        deadline = time.monotonic() + timeout_s
        tags: set[str] = set()
        while (left := deadline - time.monotonic()) > 0:
            tags.add(tag := self._tag())
            self._send("ID?", "", tag)
            if self._wait_for_reply(frozenset(tags), min(left, _STARTING_S)) is not None:
                return
        raise NoReply("ID?", self._reader.skipped)

    def identity(self) -> Identity:
        """The board's id and name, and the versions of its firmware."""
        number, name, version = self._query("ID"), self._query("NAME"), self._query("VER")
        if not isinstance(version, Mapping):
            raise UnexpectedReply("VER?", version)
        versions = {key: str(version.get(key, "")) for key in ("software", "hardware", "at_api")}
        return Identity(id=str(number), name=str(name), **versions)

    def version(self) -> str:
        """The version of its firmware: of 1.0.x the date of its build, as 2024.12.07."""
        version = self._query("VER")
        software = version.get("software") if isinstance(version, Mapping) else None
        if not isinstance(software, str):
            raise UnexpectedReply("VER?", version)
        return software

    def algorithms(self) -> frozenset[int]:
        """The types of the algorithms that the firmware holds; raises UnknownCommand."""
        listed = self._query("ALGOS")
        types = [each.get("type") if isinstance(each, Mapping) else None for each in listed or ()]
        if not isinstance(listed, list) or any(type(each) is not int for each in types):
            raise UnexpectedReply("ALGOS?", listed)
        return frozenset(each for each in types if each)

    def model(self) -> ModelSlot | None:
        """The model that it would invoke; None if it has found none on its flash."""
        try:
            slot = read_slot(self._query("MODEL"))
        except CommandRefused as error:
            if error.code == _INVALID and not isinstance(error, UnknownCommand):
                return None
            raise
        return slot if slot.id else None

    def use_model_at(self, address: int) -> None:
        """Invoke the model at an address from now on, which the board keeps; none is there: as it
        was. The labels of AT+INFO are those of the model that it uses."""
        listed = self._query("MODELS")
        if not isinstance(listed, list):
            raise UnexpectedReply("MODELS?", listed)
        for slot in map(read_slot, listed):
            if slot.address == address:
                self._command("MODEL", str(slot.id))

    def sensors(self) -> tuple[Sensor, ...]:
        """Its cameras."""
        data = self._query("SENSORS")
        if not isinstance(data, list):
            raise UnexpectedReply("SENSORS?", data)
        return tuple(map(read_sensor, data))

    def set_sensor(self, number: int, option: int) -> None:
        """Put a camera into one of its modes; ends any invocation. Boards but the Watcher keep it
        over a reset."""
        self._command("SENSOR", f"{number},1,{option}")

    # Settings that the board keeps

    def info(self) -> str:
        """The text that AT+INFO= stored on its flash; empty if there is none."""
        data = self._query("INFO")
        text = data.get("info", "") if isinstance(data, Mapping) else None
        if not isinstance(text, str):
            raise UnexpectedReply("INFO?", data)
        return text

    def set_info(self, text: str) -> None:
        """Store a text on its flash; raises BoardError if it is too long for a request."""
        if not (text.isascii() and text.isprintable()):
            raise BoardError("the board stores plain ASCII text only", hint="encode it as base64")
        quoted = text.replace("\\", "\\\\").replace('"', '\\"')
        self._command("INFO", f'"{quoted}"')

    def score(self) -> int:
        """The score threshold in percent; only while the board invokes a model."""
        return self._number("TSCORE")

    def iou(self) -> int:
        """The IoU threshold in percent; only while the board invokes a model."""
        return self._number("TIOU")

    def set_score(self, percent: int) -> None:
        """Stored on its flash; only while the board invokes a model."""
        self._command("TSCORE", str(percent))

    def set_iou(self, percent: int) -> None:
        """Stored on its flash; only while the board invokes a model."""
        self._command("TIOU", str(percent))

    # Inference

    def invoke(self, times: int, *, with_images: bool) -> Generator[Detections, None, None]:
        """Invoke the model so many times, FOREVER for no end, and yield each frame's detections.

        However the loop ends, the board is stopped; use ``contextlib.closing`` to have that at
        once. Frames that arrived damaged are missing, and counted in ``broken``.
        """
        try:
            self.start(times, with_images=with_images)
            yield from self._detections(times)
        except BaseException:
            # The first error is the one to report: a board that is gone cannot be stopped.
            with contextlib.suppress(BoardError):
                self.stop()
            raise
        self.stop()

    def start(self, times: int, *, with_images: bool) -> Invocation:
        """Start to invoke the model: ``poll`` gives the events, ``stop`` ends them."""
        self._events.clear()
        self._invoke_tag = tag = self._tag()
        arguments = f"{times},0,{int(not with_images)}"
        self.invocation = read_invocation(self._request("INVOKE", arguments, [tag]))
        return self.invocation

    def poll(self, timeout_s: float) -> list[Event]:
        """All events that have come; waits at most ``timeout_s`` for the first."""
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
        """Whether an invocation is running."""
        return bool(self._query("INVOKE"))

    def stop(self) -> None:
        """End any invocation."""
        self._request("BREAK", "", [self._tag(), self._tag()])
        self._events.clear()

    def _detections(self, times: int) -> Generator[Detections, None, None]:
        while True:
            events = self.poll(_QUIET_S)
            for event in events:
                if event.code:
                    raise CommandRefused("INVOKE", event.code)
                seen = read_detections(event.data)
                yield seen
                if times != FOREVER and seen.count >= times:
                    return
            # The reply comes after the last events.
            if not events and not self.is_invoking() and not self._events:
                if times == FOREVER:
                    raise InvocationEnded
                return

    # Requests and replies

    def _query(self, name: str) -> Any:
        """A query changes nothing, so it is repeated once if no reply comes."""
        return self._request(f"{name}?", "", [self._tag(), self._tag()])

    def _command(self, command: str, arguments: str) -> Any:
        return self._request(command, arguments, [self._tag()])

    def _number(self, name: str) -> int:
        data = self._query(name)
        if type(data) is not int:
            raise UnexpectedReply(f"{name}?", data)
        return data

    def _request(self, command: str, arguments: str, tags: Sequence[str]) -> Any:
        """Send a request once for each tag until one of them is answered; the reply's data."""
        for number, tag in enumerate(tags, start=1):
            self._send(command, arguments, tag)
            reply = self._wait_for_reply(frozenset(tags[:number]), self._timeout_s)
            if isinstance(reply, Reply):
                if reply.code:
                    raise CommandRefused(command, reply.code)
                return reply.data
            # A command that lost a letter on the line is unknown too, and may be sent again.
            if reply is not None and f"@{command}" in reply.text:
                raise UnknownCommand(command, reply.code, reply.text)
        raise NoReply(command, self._reader.skipped)

    def _wait_for_reply(self, tags: frozenset[str], timeout_s: float) -> Reply | Log | None:
        """The first reply to any of the requests of these tags; None if none comes in time."""
        deadline = time.monotonic() + timeout_s
        while (left := deadline - time.monotonic()) > 0:
            reply = self._receive(left, tags)
            if reply is not None:
                return reply
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
        """Read what there is, keep the events, and return the reply to one of these tags."""
        reply = None
        for frame in self._reader.feed(self._link.read(timeout_s)):
            if _is_reply(frame, tags):
                reply = frame
            else:
                self._keep_event(frame)
        return reply

    def _keep_event(self, frame: Frame) -> None:
        if isinstance(frame, Reply):
            self.unmatched += 1
        elif isinstance(frame, Event):
            if self._invoke_tag and frame.tag != self._invoke_tag:
                self.unmatched += 1
                return
            if len(self._events) == MAX_EVENTS:
                self._events.popleft()
                self.dropped += 1
            self._events.append(frame)

    def _tag(self) -> str:
        return f"{self._tag_prefix}{next(self._numbers)}".translate(_LETTERS)


def _is_reply(frame: Frame, tags: frozenset[str]) -> TypeGuard[Reply | Log]:
    """The firmware answers an unknown command by a log that repeats it."""
    if isinstance(frame, Log):
        return any(f"{tag}@" in frame.text for tag in tags)
    return isinstance(frame, Reply) and frame.tag in tags
