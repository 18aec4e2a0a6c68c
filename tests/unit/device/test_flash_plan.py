"""What is refused before a port is opened, and what is remembered after a flash."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kiln.device.flash import FlashPlan, check_range, plan_file, plan_flash, record_flash
from kiln.device.ports import Port, find_port
from kiln.errors import BoardError, KilnError, ModelError, NotAccepted, RequestError
from kiln.plan.targets import Target, load_target, target_names
from tests.support import build_documents
from tests.support.build_documents import built
from tests.support.checkout import ROOT

MODEL = b"\x1c\0\0\0TFL3" + bytes(range(256)) * 20
KIB = 1024

Build = dict[str, Any]


def _target(name: str = "grove-v2") -> Target:
    return load_target(ROOT / "targets", name)


@pytest.fixture
def build(tmp_path: Path) -> Build:
    """A build.json, and its deployed file beside it."""
    document = build_documents.pose()
    return _deploy(document, tmp_path, MODEL)


def _deploy(document: Build, folder: Path, model: bytes) -> Build:
    name = document["deployed"]
    (folder / name).write_bytes(model)
    document["files"][name] = {"sha256": hashlib.sha256(model).hexdigest(), "bytes": len(model)}
    return document


def test_the_deployed_file_goes_to_the_targets_address(build: Build, tmp_path: Path) -> None:
    plan = plan_flash(built(build), tmp_path, _target(), None, force=False)
    assert (plan.model, plan.address) == (MODEL, 0x400000)
    assert plan.sha256 == hashlib.sha256(MODEL).hexdigest()
    assert plan.file == build["deployed"]


def test_a_model_that_the_firmware_refuses_is_written_by_force_alone(
    build: Build, tmp_path: Path
) -> None:
    build["verdict"] = build_documents.forced()["verdict"]
    with pytest.raises(NotAccepted, match="tensor arena") as caught:
        plan_flash(built(build), tmp_path, _target(), None, force=False)
    assert "FORCE=1" in caught.value.hint
    assert plan_flash(built(build), tmp_path, _target(), None, force=True).model == MODEL


def _of_another_target(document: Build, folder: Path) -> None:
    del folder
    document["target"] = "xiao-esp32s3"


def _gone(document: Build, folder: Path) -> None:
    (folder / document["deployed"]).unlink()


def _changed(document: Build, folder: Path) -> None:
    (folder / document["deployed"]).write_bytes(MODEL[:-1] + b"\0")


def _no_tflite(document: Build, folder: Path) -> None:
    _deploy(document, folder, b"\0" * 100)


def _too_large(document: Build, folder: Path) -> None:
    _deploy(document, folder, MODEL.ljust(10 * KIB * KIB + 1))


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize(
    ("spoil", "kind", "sentence"),
    [
        (_of_another_target, RequestError, "was built for xiao-esp32s3, and the board is grove-v2"),
        (_gone, ModelError, "cannot be read: No such file"),
        (_changed, ModelError, "is not the file that its build.json describes"),
        (_no_tflite, ModelError, "is not a TFLite file"),
        (_too_large, ModelError, "has room for 10240 KiB"),
    ],
)
def test_what_is_no_model_of_this_board_is_refused_even_by_force(
    build: Build,
    tmp_path: Path,
    spoil: Callable[[Build, Path], None],
    kind: type[KilnError],
    sentence: str,
    force: bool,
) -> None:
    spoil(build, tmp_path)
    with pytest.raises(kind, match=sentence) as caught:
        plan_flash(built(build), tmp_path, _target(), None, force=force)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("target", "address", "size", "sentence"),
    [
        ("grove-v2", 0x400800, 1, "not a multiple of 0x1000"),
        ("grove-v2", 0x3FF000, 1, "outside the model area of grove-v2"),
        ("grove-v2", 0xE00000, 1, "outside the model area"),
        ("grove-v2", 0x0, 1, "outside the model area"),
        ("grove-v2", -0x1000, 1, "outside the model area"),
        ("grove-v2", 0xDFF000, 4 * KIB, "has room for 4 KiB"),
        ("grove-v2-himax", 0x3BB000, 144 * KIB, "the board's serial number at 0x3df000"),
        ("grove-v2-himax", 0x3DF000, 1, "the board's serial number"),
        ("xiao-esp32s3", 0x3FF000, 1, "outside the model area"),
        ("xiao-esp32s3", 0x400000, 4 * KIB * KIB, "has room for 4096 KiB"),
    ],
)
def test_no_address_is_written_that_is_not_free_for_a_model(
    target: str, address: int, size: int, sentence: str
) -> None:
    with pytest.raises((RequestError, ModelError), match=sentence) as caught:
        check_range(_target(target), address, size)
    assert caught.value.hint


def test_a_model_may_lie_anywhere_in_its_area() -> None:
    check_range(_target(), 0x400000, 10 * KIB * KIB - 4 * KIB)
    check_range(_target(), 0xDFF000, 3 * KIB)
    check_range(_target("grove-v2-himax"), 0x3BB000, 143 * KIB)
    check_range(_target("grove-v2-himax"), 0x400000, 3 * KIB * KIB)


def test_himaxs_own_address_says_how_the_firmware_is_to_be_built() -> None:
    with pytest.raises(RequestError, match="never writes there") as caught:
        check_range(_target("grove-v2-himax"), 0x3BB000, 3 * KIB * KIB)
    assert "YOLOV8_POSE_FLASH_ADDR at 0x400000" in caught.value.hint
    assert "ADDRESS=0x400000" in caught.value.hint


@pytest.mark.parametrize("name", target_names(ROOT / "targets"))
def test_every_target_says_how_it_is_reached_and_what_is_never_written(name: str) -> None:
    target = _target(name)
    device = target.device
    assert all(usb == usb.lower() and len(usb) == 9 for usb in device.usb)
    assert (device.handshake is not None) == (device.loader == "we2")
    assert (device.chip is not None) == (device.loader == "esp")
    for kept in device.protected:
        with pytest.raises((RequestError, ModelError)):
            check_range(target, kept.address, 1)


def test_a_file_is_planned_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "mine.tflite"
    file.write_bytes(MODEL)
    plan = plan_file(file, _target(), 0x800000)
    assert (plan.model, plan.address, plan.build) == (MODEL, 0x800000, None)


def test_every_flash_is_a_line_of_its_own(build: Build, tmp_path: Path) -> None:
    plan = plan_flash(built(build), tmp_path, _target(), None, force=False)
    home = tmp_path / "home"
    record_flash(home, plan, "/dev/ttyACM0", "ABC123")
    record_flash(home, dataclasses.replace(plan, address=0x800000), "/dev/ttyACM1", None)
    first, second = map(json.loads, (home / "flashed.jsonl").read_text("utf-8").splitlines())
    assert first["board"] == "ABC123"
    assert first["sha256"] == plan.sha256
    assert first["time"].endswith("+00:00")
    assert (second["board"], second["address"]) == (None, 0x800000)


GROVE = Port(path="/dev/ttyACM0", title="USB Single Serial", usb="1a86:55d3", serial_number="A1")
OTHER = Port(path="/dev/ttyUSB0", usb="0403:6001")
BUILT_IN = Port(path="/dev/ttyS0")


def test_the_only_device_that_fits_is_taken() -> None:
    assert find_port(_target(), None, [BUILT_IN, OTHER, GROVE]) is GROVE


def test_a_port_that_is_named_wins() -> None:
    assert find_port(_target(), "/dev/ttyUSB0", [GROVE, OTHER]) is OTHER
    assert find_port(_target(), "/dev/pts/7", [GROVE]) == Port(path="/dev/pts/7")


@pytest.mark.parametrize(
    ("attached", "says"),
    [
        ([BUILT_IN], "no USB serial port at all"),
        ([BUILT_IN, OTHER], "there are /dev/ttyUSB0"),
        ([GROVE, dataclasses.replace(GROVE, path="/dev/ttyACM1")], "2 attached devices"),
    ],
)
def test_no_port_is_guessed_and_what_is_there_is_listed(attached: list[Port], says: str) -> None:
    with pytest.raises(BoardError, match=says) as caught:
        find_port(_target(), None, attached)
    assert "PORT=" in caught.value.hint


def test_a_plan_is_a_record(build: Build, tmp_path: Path) -> None:
    one, two = (plan_flash(built(build), tmp_path, _target(), None, force=False) for _ in range(2))
    assert isinstance(one, FlashPlan)
    assert one == two
