"""``kiln device``: what a board is and what it sees, and its thresholds."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
from collections.abc import Iterator, Mapping
from typing import Any

import click

from kiln.cli.console import Terminal
from kiln.cli.options import board_options
from kiln.cli.session import Session
from kiln.device.at_errors import CommandRefused
from kiln.device.detections import Box, Detections
from kiln.device.discovery import find_board
from kiln.device.labels import Description, from_info
from kiln.device.link import open_link
from kiln.device.replies import ALGORITHMS, Invocation
from kiln.device.sscma import FOREVER, AtClient
from kiln.errors import Interrupted, RequestError

_PERCENT = click.IntRange(0, 100)
_NO_DESCRIPTION = Description(name="")


@click.group()
def device() -> None:
    """Talk to a board that runs SSCMA firmware."""


@device.command()
@board_options
@click.option("--json", "as_json", is_flag=True, help="Print what the board says as JSON.")
def info(port: str | None, target: str | None, as_json: bool) -> None:
    """Say which board and firmware it is, and what model, labels and thresholds it has."""
    session = Session.start()
    with _opened(port, target, session) as board:
        facts = _facts(board)
    if as_json:
        session.terminal.json(facts)
    else:
        for line in _fact_lines(facts):
            session.terminal.result(line)


@device.command()
@board_options
@click.option("--times", type=click.IntRange(min=1), help="How many frames; left out, for ever.")
@click.option("--json", "as_json", is_flag=True, help="Print a line of JSON for each frame.")
def invoke(port: str | None, target: str | None, times: int | None, as_json: bool) -> None:
    """Print what the board sees, a line for each frame. Ctrl-C stops the board."""
    session = Session.start()
    count = 0
    with _opened(port, target, session) as board:
        description = from_info(board.info()) or _NO_DESCRIPTION
        frames = board.invoke(FOREVER if times is None else times, with_images=False)
        with contextlib.closing(frames):
            try:
                for frame in frames:
                    count += 1
                    _print_frame(frame, description, session.terminal, as_json=as_json)
            except KeyboardInterrupt:
                frames.close()
                raise Interrupted("interrupted; the board has stopped") from None
    if times is not None and count < times:
        session.terminal.say(f"{times - count} of {times} frames did not arrive whole")


@device.command("set")
@board_options
@click.option("--score", type=_PERCENT, help="The least score that is reported, in percent.")
@click.option("--iou", type=_PERCENT, help="How far two boxes may overlap, in percent.")
def set_thresholds(
    port: str | None, target: str | None, score: int | None, iou: int | None
) -> None:
    """Set the thresholds, which the board keeps."""
    if score is None and iou is None:
        raise RequestError("there is nothing to set", hint="kiln device set --score 50 --iou 45")
    session = Session.start()
    with _opened(port, target, session) as board, _invoking(board) as invocation:
        has_iou = invocation.iou is not None
        if iou is not None and not has_iou:
            raise RequestError(
                "the board's model has no IoU threshold: it finds no boxes",
                hint="kiln device set --score 50",
            )
        if score is not None:
            board.set_score(score)
        if iou is not None:
            board.set_iou(iou)
        kept = {"score": board.score(), "IoU": board.iou() if has_iou else None}
    session.terminal.result(_percents(kept))


@contextlib.contextmanager
def _opened(port: str | None, target: str | None, session: Session) -> Iterator[AtClient]:
    """The board that is meant, not invoking its model."""
    found = find_board(session.paths.root / "targets", port=port, target=target)
    link = open_link(found.port.path, found.target.device.baud)
    try:
        board = AtClient(link)
        # It may still be invoking for a program that was killed: answers would come late.
        board.stop()
        yield board
    finally:
        link.close()


@contextlib.contextmanager
def _invoking(board: AtClient) -> Iterator[Invocation]:
    """For what the firmware does only while it invokes its model."""
    try:
        yield board.start(FOREVER, with_images=False)
    finally:
        board.stop()


def _facts(board: AtClient) -> dict[str, Any]:
    identity, slot = board.identity(), board.model()
    description = from_info(board.info())
    facts: dict[str, Any] = {
        **dataclasses.asdict(identity),
        "model": dataclasses.asdict(slot) if slot else None,
        "description": dataclasses.asdict(description) if description else None,
        "sensors": [dataclasses.asdict(sensor) for sensor in board.sensors()],
        "decoder": None,
        "thresholds": None,
        "problem": None,
    }
    try:
        with _invoking(board) as invocation:
            facts["decoder"] = ALGORITHMS.get(invocation.algorithm, str(invocation.algorithm))
            facts["thresholds"] = {"score": invocation.score, "IoU": invocation.iou}
    except CommandRefused as error:
        facts["problem"] = f"{error.message} ({error.hint})"
    return facts


def _fact_lines(facts: Mapping[str, Any]) -> Iterator[str]:
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
        yield f"camera     {sensor['options'].get(sensor['option']) or sensor['id']}"
    if facts["thresholds"]:
        yield f"thresholds {_percents(facts['thresholds'])}"
    if facts["problem"]:
        yield f"problem    {facts['problem']}"


def _print_frame(
    frame: Detections, description: Description, terminal: Terminal, *, as_json: bool
) -> None:
    now = datetime.datetime.now().astimezone()
    if as_json:
        table = dataclasses.asdict(frame)
        del table["image"]
        terminal.line({"time": now.isoformat(timespec="milliseconds"), **table})
        return
    objects = [_object_text(box, description) for box in frame.boxes]
    objects += [
        f"{_object_text(pose.box, description)}, {len(pose.points)} keypoints"
        for pose in frame.poses
    ]
    objects += [f"{description.label(each.target)} {each.score:g} %" for each in frame.classes]
    objects += [f"{key} {value}" for key, value in frame.raw.items()]
    times = "+".join(f"{each:g}" for each in frame.perf_ms)
    terminal.result(f"{now:%H:%M:%S.%f}"[:12] + f"  {times} ms  {'; '.join(objects) or 'nothing'}")


def _object_text(box: Box, description: Description) -> str:
    label = description.label(box.target)
    return f"{label} {box.score:g} % at {box.x:g},{box.y:g} {box.w:g}x{box.h:g}"


def _percents(values: Mapping[str, int | None]) -> str:
    return ", ".join(f"{name} {value} %" for name, value in values.items() if value is not None)
