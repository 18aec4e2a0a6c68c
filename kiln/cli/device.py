"""What `kiln device` does: says what a board is and what it sees, and sets its thresholds."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
from collections.abc import Iterator, Mapping
from typing import Any

from kiln.cli.console import Terminal
from kiln.device.at_errors import Refused
from kiln.device.detections import Box, Detections
from kiln.device.discovery import find_board
from kiln.device.labels import Description, from_info
from kiln.device.link import open_link
from kiln.device.sscma import ALGORITHMS, FOREVER, Board, Invocation
from kiln.errors import Interrupted, RequestError
from kiln.paths import Paths

_NOBODY = Description(name="")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Where:
    """The board that is meant: by its port, by its target, or the only one that is attached."""

    port: str | None
    target: str | None


def show_board(where: Where, paths: Paths, *, as_json: bool) -> None:
    """Say what a board is: identity, firmware, model, labels, camera and thresholds."""
    terminal = Terminal()
    with _attached(where, paths) as board:
        found = _facts(board)
    if as_json:
        terminal.json(found)
    else:
        for line in _shown_facts(found):
            terminal.result(line)


def watch_board(where: Where, paths: Paths, *, times: int | None, as_json: bool) -> None:
    """Invoke the model and print a line for each frame; raises Interrupted on Ctrl-C."""
    terminal = Terminal()
    wanted = FOREVER if times is None else times
    seen = 0
    with _attached(where, paths) as board:
        description = from_info(board.info()) or _NOBODY
        with contextlib.closing(board.invoke(wanted, with_images=False)) as frames:
            try:
                for frame in frames:
                    seen += 1
                    _print_frame(frame, description, terminal, as_json=as_json)
            except KeyboardInterrupt:
                frames.close()
                raise Interrupted("interrupted; the board has stopped") from None
        if times is not None and seen < times:
            terminal.say(f"{times - seen} of {times} frames did not arrive whole")


def set_thresholds(where: Where, paths: Paths, *, score: int | None, iou: int | None) -> None:
    """Set what is not None, in percent; the board keeps it. Raises RequestError for nothing."""
    if score is None and iou is None:
        raise RequestError("there is nothing to set", hint="kiln device set --score 50 --iou 45")
    terminal = Terminal()
    with _attached(where, paths) as board, _invoking(board):
        if score is not None:
            board.set_score(score)
        if iou is not None:
            board.set_iou(iou)
        kept = {"score": board.score(), "IoU": board.iou()}
    terminal.result(_percents(kept))


@contextlib.contextmanager
def _attached(where: Where, paths: Paths) -> Iterator[Board]:
    """The board that is meant, at rest."""
    found = find_board(paths.root / "targets", port=where.port, target=where.target)
    link = open_link(found.port.path, found.target.device.baud)
    try:
        board = Board(link)
        # It may be invoking still, for a program that was killed: answers would come late.
        board.stop()
        yield board
    finally:
        link.close()


@contextlib.contextmanager
def _invoking(board: Board) -> Iterator[Invocation]:
    """For what the firmware does only while it invokes its model."""
    try:
        yield board.start(FOREVER, with_images=False)
    finally:
        board.stop()


def _facts(board: Board) -> dict[str, Any]:
    identity, slot = board.identity(), board.model()
    description = from_info(board.info())
    facts: dict[str, Any] = {
        **dataclasses.asdict(identity),
        "model": dataclasses.asdict(slot) if slot else None,
        "description": dataclasses.asdict(description) if description else None,
        "sensors": [dataclasses.asdict(sensor) for sensor in board.sensors()],
        "decoder": None,
        "thresholds": None,
        "trouble": None,
    }
    try:
        with _invoking(board) as setup:
            facts["decoder"] = ALGORITHMS.get(setup.algorithm, str(setup.algorithm))
            facts["thresholds"] = {"score": setup.score, "IoU": setup.iou}
    except Refused as error:
        facts["trouble"] = f"{error.message} ({error.hint})"
    return facts


def _shown_facts(facts: dict[str, Any]) -> Iterator[str]:
    firmware = facts["software"] or "unknown"
    yield f"board      {facts['name']}, id {facts['id']}"
    yield f"firmware   {firmware}, hardware {facts['hardware'] or 'unknown'}"
    slot, description = facts["model"], facts["description"]
    if slot is None:
        yield "model      none on its flash"
    else:
        size = f", {slot['size']:,} bytes" if slot["size"] else ""
        yield f"model      at 0x{slot['address']:x}{size}, decoder {facts['decoder'] or 'unknown'}"
    if description is None:
        yield "labels     none that Kiln or SenseCraft wrote"
    else:
        digest = f" (sha256 {description['sha256'][:12]})" if description["sha256"] else ""
        yield f"labels     {description['name']}{digest}: {', '.join(description['classes'])}"
    for sensor in facts["sensors"]:
        yield f"camera     {sensor['option'] or sensor['id']}"
    if facts["thresholds"]:
        yield f"thresholds {_percents(facts['thresholds'])}"
    if facts["trouble"]:
        yield f"trouble    {facts['trouble']}"


def _print_frame(
    frame: Detections, description: Description, terminal: Terminal, *, as_json: bool
) -> None:
    now = datetime.datetime.now().astimezone()
    if as_json:
        table = dataclasses.asdict(frame)
        del table["image"]
        terminal.line({"time": now.isoformat(timespec="milliseconds"), **table})
        return
    seen = [_shown(box, description) for box in frame.boxes]
    seen += [
        f"{_shown(pose.box, description)}, {len(pose.points)} keypoints" for pose in frame.poses
    ]
    seen += [f"{key} {value}" for key, value in frame.raw.items()]
    times = "+".join(f"{each:g}" for each in frame.perf_ms)
    terminal.result(f"{now:%H:%M:%S.%f}"[:12] + f"  {times} ms  {'; '.join(seen) or 'nothing'}")


def _shown(box: Box, description: Description) -> str:
    label = description.label(box.target)
    return f"{label} {box.score:g} % at {box.x:g},{box.y:g} {box.w:g}x{box.h:g}"


def _percents(values: Mapping[str, int | None]) -> str:
    return ", ".join(f"{name} {value} %" for name, value in values.items() if value is not None)
