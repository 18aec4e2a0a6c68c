"""`kiln device` and the on-device check against the emulated board, over a pseudo-terminal."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from kiln.cli.device import device
from kiln.device.at_errors import CommandRefused
from kiln.device.labels import Description, from_info, to_info
from kiln.device.link import Link, open_link
from kiln.device.on_device_check import FRAMES, check_on_device
from kiln.device.sscma import AtClient
from kiln.emulator.board import EmulatedBoard
from kiln.emulator.faults import Faults, Noise
from kiln.emulator.firmware import Camera
from kiln.emulator.postprocess import Candidate
from kiln.errors import BoardError, BoardGone, RequestError
from stages import coco
from tests.support.checkout import ROOT
from tests.support.emulated_models import FixedModel, candidate

ADDRESS = 0x400000
MODEL = b"\x1c\0\0\0TFL3" + bytes(range(256)) * 8
JPEG = b"\xff\xd8" + bytes(20_000) + b"\xff\xd9"
PERSON = Description(
    name="people",
    sha256="ab" * 32,
    size=len(MODEL),
    task="pose",
    classes=("person",),
    keypoints=coco.KEYPOINTS,
    skeleton=coco.SKELETON,
)


def _person(left: float, top: float, right: float, bottom: float, *, score: float) -> Candidate:
    points = tuple((100.0 + n, 60.0 + n, 0.9) for n in range(17))
    return candidate((left, top, right, bottom), score=score, points=points)


@pytest.fixture
def board() -> Iterator[EmulatedBoard]:
    """Always finds the same person, and one whom only a low threshold lets through."""
    people = (_person(80, 40, 140, 200, score=0.87), _person(10, 10, 50, 90, score=0.45))
    model = FixedModel(*people, file=MODEL, jpeg=lambda _frame: JPEG)
    emulated = EmulatedBoard(model, camera=Camera(fps=200), boot_s=0.05)
    emulated.load(MODEL)
    with emulated:
        yield emulated


@pytest.fixture
def link(board: EmulatedBoard) -> Iterator[Link]:
    opened = open_link(board.port, 921_600)
    yield opened
    opened.close()


@pytest.fixture
def client(link: Link) -> AtClient:
    return AtClient(link, timeout_s=1)


def _device(board: EmulatedBoard, command: str, *arguments: str) -> None:
    """`kiln device` in this process: what it raises is the test's."""
    device.main([command, "--port", board.port, *arguments], standalone_mode=False)


def test_the_board_says_what_it_is(
    board: EmulatedBoard, capsys: pytest.CaptureFixture[str]
) -> None:
    _device(board, "info")
    out = capsys.readouterr().out
    assert "board      Grove Vision AI V2" in out
    assert "model      at 0x400000, decoder YOLOv8 pose" in out
    assert "labels     none that Kiln or SenseCraft wrote" in out
    assert "thresholds score " in out
    assert not board.invoking


def test_it_says_whose_labels_it_has_for_people_and_machines(
    board: EmulatedBoard, client: AtClient, link: Link, capsys: pytest.CaptureFixture[str]
) -> None:
    client.set_info(to_info(PERSON))
    assert from_info(client.info()) == PERSON
    link.close()
    _device(board, "info")
    assert "labels     people (sha256 abababababab): person" in capsys.readouterr().out
    _device(board, "info", "--json")
    found = json.loads(capsys.readouterr().out)
    assert found["description"]["classes"] == ["person"]
    assert found["model"]["address"] == ADDRESS


def test_a_board_without_a_model_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    with EmulatedBoard() as empty:
        _device(empty, "info")
        out = capsys.readouterr().out
        assert "model      none on its flash" in out
        assert "there is no model that it can run" in out
        with pytest.raises(CommandRefused, match="no model that it can run"):
            _device(empty, "invoke", "--times", "1")


def test_a_line_for_each_frame(
    board: EmulatedBoard, client: AtClient, link: Link, capsys: pytest.CaptureFixture[str]
) -> None:
    client.set_info(to_info(PERSON))
    link.close()
    _device(board, "invoke", "--times", "3")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert "person 87 % at 110,120 60x160, 17 keypoints" in lines[0]
    _device(board, "invoke", "--times", "2", "--json")
    frames = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [frame["count"] for frame in frames] == [1, 2]
    assert frames[0]["poses"][0]["box"]["score"] == 87
    assert not board.invoking


def test_images_arrive_intact(client: AtClient) -> None:
    frames = list(client.invoke(3, with_images=True))
    assert [frame.image for frame in frames] == [JPEG] * 3
    assert frames[0].resolution == (240, 240)


def test_thresholds_are_set_kept_and_obeyed(
    board: EmulatedBoard, capsys: pytest.CaptureFixture[str]
) -> None:
    _device(board, "set", "--score", "30")
    assert capsys.readouterr().out.startswith("score 30 %, IoU ")
    assert not board.invoking
    _device(board, "invoke", "--times", "1", "--json")
    assert len(json.loads(capsys.readouterr().out)["poses"]) == 2
    _device(board, "set", "--score", "60", "--iou", "50")
    assert capsys.readouterr().out.strip() == "score 60 %, IoU 50 %"
    _device(board, "invoke", "--times", "1", "--json")
    assert len(json.loads(capsys.readouterr().out)["poses"]) == 1
    with pytest.raises(RequestError, match="nothing to set"):
        _device(board, "set")


def test_ctrl_c_stops_the_board(board: EmulatedBoard) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "kiln", "device", "invoke", "--port", board.port],
        cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert "87 %" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "the board has stopped" in err
    assert "Traceback" not in err
    board.wait_until(lambda emulated: not emulated.invoking)
    assert board.commands[-1].endswith("@BREAK")


def test_a_board_that_a_killed_program_left_invoking_is_taken_over(
    board: EmulatedBoard, client: AtClient, link: Link, capsys: pytest.CaptureFixture[str]
) -> None:
    client.start(-1, with_images=True)
    link.close()
    board.wait_until(lambda emulated: emulated.invoking)
    _device(board, "info", "--json")
    assert json.loads(capsys.readouterr().out)["name"] == "Grove Vision AI V2"
    assert not board.invoking


@pytest.mark.parametrize("seed", range(4))
def test_frames_cut_short_cost_themselves_alone(
    board: EmulatedBoard, client: AtClient, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kiln.device.sscma._QUIET_S", 0.2)
    frames = client.invoke(40, with_images=True)
    seen = [next(frames)]
    board.set_faults(Faults(seed=seed, truncate_json=0.2))
    seen += list(frames)
    assert all(frame.image == JPEG for frame in seen)
    assert 20 <= len(seen) <= 40
    assert len(seen) + client.broken + client.dropped >= 40 - 2
    board.set_faults(Faults())
    assert client.identity().name == "Grove Vision AI V2"


@pytest.mark.parametrize("seed", range(4))
def test_noise_on_the_line_is_survived(
    board: EmulatedBoard, client: AtClient, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kiln.device.sscma._QUIET_S", 0.2)
    frames = client.invoke(60, with_images=False)
    seen = [next(frames)]
    noise = Noise(drop=0.0002, duplicate=0.0002, corrupt=0.0002)
    board.set_faults(Faults(seed=seed, to_host=noise))
    seen += list(frames)
    assert len(seen) >= 30
    board.set_faults(Faults())
    assert client.model() is not None


def test_boot_noise_is_waited_out(board: EmulatedBoard, client: AtClient) -> None:
    board.set_faults(Faults(boot_noise=400))
    board.reset()
    client.wait_until_ready(10)
    assert board.boot_count == 2
    assert client.identity().id


def test_a_board_that_has_just_started_is_asked_as_any_other(
    board: EmulatedBoard, client: AtClient
) -> None:
    """What it says by itself when it starts, a reply with code 0, is nobody's answer."""
    board.reset()
    board.wait_until(lambda emulated: emulated.boot_count == 2)
    assert client.start(1, with_images=False).algorithm == 5
    assert client.unmatched == 1


def test_unplugging_in_the_middle_is_a_sentence(board: EmulatedBoard, client: AtClient) -> None:
    frames = client.invoke(-1, with_images=True)
    next(frames)
    board.unplug()
    with pytest.raises(BoardGone, match="is gone: unplugged"):
        list(frames)


def test_a_restart_in_the_middle_is_a_sentence(
    board: EmulatedBoard, client: AtClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kiln.device.sscma._QUIET_S", 0.2)
    frames = client.invoke(-1, with_images=False)
    next(frames)
    board.reset()
    with pytest.raises(BoardError, match="may have restarted"):
        list(frames)


def test_the_model_on_the_board_is_checked(board: EmulatedBoard, client: AtClient) -> None:
    found = check_on_device(client, PERSON, address=ADDRESS, estimated_ms=83.8)
    assert found.failures == []
    assert (found.frames, found.most_objects) == (FRAMES, 1)
    assert found.board_name == "Grove Vision AI V2"
    assert found.inference_ms > 0
    other = check_on_device(client, PERSON, address=0x500000, estimated_ms=None)
    assert other.failures == ["model that the board uses: at 0x400000, expected at 0x500000"]
    assert not board.invoking
