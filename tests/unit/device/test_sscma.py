"""The AT client: replies go to their own requests, events are kept, errors are sentences."""

from __future__ import annotations

import base64
import contextlib
import functools
from collections.abc import Callable
from typing import Any

import pytest

from kiln.device import sscma
from kiln.device.at_errors import (
    CommandRefused,
    InvocationEnded,
    NoReply,
    UnexpectedReply,
    UnknownCommand,
)
from kiln.device.detections import Box, ClassScore, Point, Pose, read_detections
from kiln.device.replies import Identity, ModelSlot, Sensor
from kiln.device.sscma import MAX_EVENTS, AtClient
from kiln.errors import BoardError, BoardGone
from tests.support.scripted_link import Answer, ScriptedLink, frame

JPEG = b"\xff\xd8 an image \xff\xd9"
SLOT = {"id": 1, "type": 0, "address": 0x400000, "size": 0}
SET_UP = {"model": SLOT, "algorithm": {"type": 5, "config": {"tscore": 60, "tiou": 50}}}


def _board(link: ScriptedLink) -> AtClient:
    return AtClient(link, timeout_s=0.02)


def _seen(tag: str, count: int, **more: object) -> bytes:
    data = {"count": count, "perf": [8, 36, 1], "boxes": [], "resolution": [240, 240], **more}
    return frame(1, f"{tag}@INVOKE", data)


def _events(last: int) -> list[Callable[[str], bytes]]:
    return [functools.partial(_seen, count=count) for count in range(1, last + 1)]


def _invoking(*events: Callable[[str], bytes], **answers: Answer) -> ScriptedLink:
    """A board that answers an invocation with these events."""

    def invoke(tag: str, _arguments: str) -> bytes:
        return frame(0, f"{tag}@INVOKE", SET_UP) + b"".join(event(tag) for event in events)

    return ScriptedLink(INVOKE=invoke, INVOKE_Q=0, BREAK=1530898, **answers)


def test_identity_is_asked_of_three_commands() -> None:
    link = ScriptedLink(
        ID_Q="7e2d02cf",
        NAME_Q="Grove Vision AI V2",
        VER_Q={"at_api": "v0", "software": "2024.8.16", "hardware": "1", "new": 3},
    )
    assert _board(link).identity() == Identity(
        id="7e2d02cf",
        name="Grove Vision AI V2",
        software="2024.8.16",
        hardware="1",
        at_api="v0",
    )


def test_a_board_without_a_model_has_none() -> None:
    empty = {"id": 0, "type": 0, "address": 0, "size": 0}
    link = ScriptedLink(MODEL_Q=lambda tag, _: frame(0, f"{tag}@MODEL?", empty, code=5))
    assert _board(link).model() is None
    assert _board(ScriptedLink(MODEL_Q=SLOT)).model() == ModelSlot(
        id=1, type=0, address=0x400000, size=0
    )


def test_cameras_are_records() -> None:
    told = {"id": 1, "type": 1, "state": 1, "opt_id": 0, "opt_detail": "240x240 Auto"}
    modes = {"2": "640x480 Auto", "0": "240x240 Auto"}
    link = ScriptedLink(SENSORS_Q=[{**told, "opts": modes}])
    options = {0: "240x240 Auto", 2: "640x480 Auto"}
    assert _board(link).sensors() == (Sensor(id=1, state=1, option=0, options=options),)
    older = _board(ScriptedLink(SENSORS_Q=[{"id": 1, "state": 1}])).sensors()
    assert older == (Sensor(id=1, state=1, option=None, options={}),)


def test_a_camera_is_put_into_a_mode() -> None:
    link = ScriptedLink(SENSOR={})
    _board(link).set_sensor(1, 2)
    assert link.requests == [("SENSOR", "1,1,2")]


def test_a_late_answer_is_never_taken_for_the_next_ones() -> None:
    asked: list[str] = []

    def late(tag: str, _arguments: str) -> bytes:
        asked.append(tag)
        return b""

    link = ScriptedLink(TSCORE=late)
    board = _board(link)
    with pytest.raises(NoReply):
        board.set_score(40)
    link.answers["TIOU?"] = lambda tag, _: (
        frame(0, f"{asked[0]}@TSCORE", 40) + frame(0, f"{tag}@TIOU?", 45)
    )
    assert board.iou() == 45
    assert board.unmatched == 1


def test_a_question_is_asked_twice_and_the_answer_to_either_will_do() -> None:
    tags: list[str] = []

    def slow(tag: str, _arguments: str) -> bytes:
        tags.append(tag)
        return frame(0, f"{tags[0]}@TSCORE?", 60) if len(tags) == 2 else b""

    assert _board(ScriptedLink(TSCORE_Q=slow)).score() == 60
    assert len(set(tags)) == 2


def test_a_question_that_was_damaged_on_its_way_is_asked_again() -> None:
    asked: list[str] = []

    def damaged(tag: str, _arguments: str) -> bytes:
        asked.append(tag)
        if len(asked) == 1:
            return frame(2, "AT", f"Unknown command: AT+{tag}@TSCRE?", code=5)
        return frame(0, f"{tag}@TSCORE?", 60)

    link = ScriptedLink(TSCORE_Q=damaged)
    assert _board(link).score() == 60
    assert link.reads == 2  # nothing was waited for


def test_a_silent_board_is_said_to_be_silent() -> None:
    link = ScriptedLink()
    with pytest.raises(NoReply, match=r"does not answer AT\+ID\?$") as caught:
        _board(link).identity()
    assert link.requests == [("ID?", ""), ("ID?", "")]
    assert "reset button" in caught.value.hint
    assert caught.value.exit_code == 17


def test_a_board_that_speaks_something_else_is_told_from_a_silent_one() -> None:
    link = ScriptedLink(ID_Q=b"Zephyr booting\r\n")
    with pytest.raises(NoReply, match="text that is not of the AT protocol"):
        _board(link).identity()


def test_what_changes_the_board_is_sent_once() -> None:
    link = ScriptedLink()
    with pytest.raises(NoReply):
        _board(link).set_info("text")
    assert link.requests == [("INFO", '"text"')]


@pytest.mark.parametrize("code", range(1, 12))
def test_an_error_code_is_a_sentence_with_advice(code: int) -> None:
    link = ScriptedLink(TSCORE=lambda tag, _: frame(0, f"{tag}@TSCORE", None, code=code))
    with pytest.raises(CommandRefused, match=rf"refused AT\+TSCORE: .*\(code {code}\)") as caught:
        _board(link).set_score(50)
    assert caught.value.code == code
    assert caught.value.hint


def test_a_threshold_without_an_invocation_says_so() -> None:
    link = ScriptedLink(
        TSCORE_Q=lambda tag, _: frame(2, "AT", f"Unknown command: AT+{tag}@TSCORE?", code=5)
    )
    with pytest.raises(UnknownCommand) as caught:
        _board(link).score()
    assert "while it invokes a model" in caught.value.hint


def test_an_answer_of_another_form_is_told() -> None:
    with pytest.raises(UnexpectedReply):
        _board(ScriptedLink(VER_Q=3, ID_Q=1, NAME_Q="x")).identity()
    for ask in (AtClient.model, AtClient.sensors, AtClient.info, AtClient.iou):
        command = {"iou": "TIOU"}.get(ask.__name__, ask.__name__.upper())
        with pytest.raises(UnexpectedReply):
            ask(_board(ScriptedLink(**{f"{command}_Q": "nonsense"})))


def test_a_text_is_kept_and_read_back() -> None:
    link = ScriptedLink(INFO={"crc16_maxim": 1}, INFO_Q={"crc16_maxim": 1, "info": "abc"})
    board = _board(link)
    board.set_info('a "b" \\c')
    assert link.requests == [("INFO", '"a \\"b\\" \\\\c"')]
    assert board.info() == "abc"
    with pytest.raises(BoardError, match="4095"):
        board.set_info("x" * 4095)
    with pytest.raises(BoardError, match="ASCII"):
        board.set_info("a\rAT+RST")
    assert len(link.requests) == 2


def test_what_it_sees_is_typed() -> None:
    box, point = [87, 83, 77, 65, 70, 0], [90, 60, 88, 3]
    link = _invoking(
        lambda tag: _seen(tag, 1, boxes=[box, ["odd"], [1, 2]]),
        lambda tag: _seen(
            tag,
            2,
            keypoints=[[box, [point]], "odd"],
            image=base64.b64encode(JPEG).decode(),
        ),
    )
    first, second = _board(link).invoke(2, with_images=True)
    assert first.boxes == (Box(87, 83, 77, 65, 70, 0),)
    assert (first.perf_ms, first.resolution, first.image) == ((8, 36, 1), (240, 240), None)
    assert second.poses == (Pose(Box(87, 83, 77, 65, 70, 0), (Point(90, 60, 88, 3),)),)
    assert (second.count, second.image) == (2, JPEG)
    assert link.requests == [("INVOKE", "2,0,0"), ("BREAK", "")]


def test_results_of_other_algorithms_are_kept_as_they_came() -> None:
    seen = read_detections({"count": 1, "points": [[1, 2, 3, 4]], "x": None})
    assert seen.raw == {"points": [[1, 2, 3, 4]], "x": None}
    assert seen.boxes == ()


def test_the_classes_of_a_frame_are_typed() -> None:
    seen = read_detections({"count": 1, "classes": [[70, 2], ["odd"], [20, 0], [3]]})
    assert seen.classes == (ClassScore(70, 2), ClassScore(20, 0))
    assert (seen.boxes, seen.raw) == ((), {})


@pytest.mark.parametrize(
    "data", [None, [], 7, {"perf": [1], "boxes": 3, "image": "a", "count": "x"}]
)
def test_a_strange_event_is_a_frame_without_detections(data: Any) -> None:
    seen = read_detections(data)
    assert (seen.count, seen.boxes, seen.image, seen.perf_ms) == (0, (), None, (0, 0, 0))


def test_it_asks_for_results_alone_unless_images_are_wanted() -> None:
    link = _invoking(lambda tag: _seen(tag, 1))
    assert len(list(_board(link).invoke(1, with_images=False))) == 1
    assert link.requests[0] == ("INVOKE", "1,0,1")


@pytest.mark.parametrize("give_up", [ValueError, KeyboardInterrupt])
def test_however_the_loop_ends_the_board_is_stopped(give_up: type[BaseException]) -> None:
    link = _invoking(*_events(50))

    def watch() -> None:
        with contextlib.closing(_board(link).invoke(-1, with_images=False)) as events:
            for _seen_now in events:
                raise give_up

    with pytest.raises(give_up):
        watch()
    assert link.requests[-1] == ("BREAK", "")


def test_an_unplugged_board_is_reported_and_not_that_it_cannot_be_stopped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sscma, "_QUIET_S", 0.01)
    link = _invoking(lambda tag: _seen(tag, 1))

    def gone(_tag: str, _arguments: str) -> bytes:
        raise BoardGone("/dev/ttyACM0")

    link.answers |= {"INVOKE?": gone, "BREAK": gone}
    events = _board(link).invoke(5, with_images=False)
    next(events)
    with pytest.raises(BoardGone, match="unplugged"):
        next(events)


def test_a_frame_that_was_lost_does_not_make_it_wait_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sscma, "_QUIET_S", 0.01)
    link = _invoking(lambda tag: _seen(tag, 1), lambda tag: _seen(tag, 2)[:-9] + b"\n")
    board = _board(link)
    assert [seen.count for seen in board.invoke(2, with_images=False)] == [1]
    assert board.broken == 1


def test_a_board_that_stops_by_itself_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sscma, "_QUIET_S", 0.01)
    events = _board(_invoking(lambda tag: _seen(tag, 1))).invoke(-1, with_images=False)
    next(events)
    with pytest.raises(InvocationEnded, match="may have restarted"):
        next(events)


def test_a_camera_that_fails_in_the_middle_is_told() -> None:
    link = _invoking(lambda tag: frame(1, f"{tag}@INVOKE", {"count": 1}, code=4))
    with pytest.raises(CommandRefused, match="the camera is not there"):
        list(_board(link).invoke(5, with_images=False))
    assert link.requests[-1] == ("BREAK", "")


def test_thresholds_are_changed_between_events_and_no_event_is_lost() -> None:
    events = _events(4)
    link = _invoking(*events[:2])
    tags: list[str] = []
    started = link.answers["INVOKE"]
    assert callable(started)

    def invoke(tag: str, arguments: str) -> Answer:
        tags.append(tag)
        return started(tag, arguments)

    def set_score(tag: str, arguments: str) -> bytes:
        later = b"".join(event(tags[0]) for event in events[2:])
        return later + frame(0, f"{tag}@TSCORE", int(arguments))

    link.answers |= {"INVOKE": invoke, "TSCORE": set_score}
    board = _board(link)
    counts = []
    for seen in board.invoke(4, with_images=False):
        counts.append(seen.count)
        if seen.count == 1:
            board.set_score(30)
    assert counts == [1, 2, 3, 4]
    assert (board.dropped, board.unmatched) == (0, 0)


def test_events_of_an_earlier_invocation_are_not_taken_for_this_ones() -> None:
    link = _invoking(lambda _tag: _seen("OLD1", 9), lambda tag: _seen(tag, 1))
    board = _board(link)
    assert [seen.count for seen in board.invoke(1, with_images=False)] == [1]
    assert board.unmatched == 1


def test_what_there_is_no_room_for_is_counted() -> None:
    total = MAX_EVENTS + 10
    link = _invoking(*_events(total))
    board = _board(link)
    invocation = board.start(total, with_images=False)
    assert (invocation.algorithm, invocation.score, invocation.iou) == (5, 60, 50)
    kept = [event.data["count"] for event in board.poll(0)]
    assert kept == list(range(11, total + 1))
    assert board.dropped == 10
    assert board.poll(0) == []


def test_a_board_that_starts_is_waited_for() -> None:
    asked: list[str] = []

    def booting(tag: str, _arguments: str) -> bytes:
        asked.append(tag)
        return b"boot\r\n" if len(asked) < 3 else frame(0, f"{tag}@ID?", "1")

    client = _board(ScriptedLink(ID_Q=booting))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sscma, "_STARTING_S", 0.01)
        client.wait_until_ready(5.0)
        assert len(asked) == 3
        # The bootloader of a WiseEye2 takes a 1 as the key that opens its menu.
        assert not any(letter.isdigit() for tag in asked for letter in tag)
        with pytest.raises(NoReply):
            _board(ScriptedLink()).wait_until_ready(0.03)
