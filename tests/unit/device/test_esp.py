"""Flashing an ESP32-S3: up to the call of esptool, and whether what is on the flash is believed."""

from __future__ import annotations

import hashlib
import shlex
import sys
from pathlib import Path

import pytest

from kiln.device.esp import Esptool
from kiln.device.flash import FlashPlan
from kiln.errors import FlashFailed, PortMissing
from kiln.plan.targets import load_target
from tests.support.checkout import ROOT

FAKES = ROOT / "tests" / "fakes"
ADDRESS = 0x400000
MODEL = b"\x1c\0\0\0TFL3" + bytes(range(256)) * 40


class Bench:
    """An esptool that writes into a file, and what it said on the way."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self.flash = folder / "flash"
        self.flash.write_bytes(b"\xff" * (5 << 20))
        self.port = folder / "port"
        self.port.touch()
        self.phases: list[str] = []
        self.progress: list[tuple[int, int]] = []
        python = folder / "python"
        variables = {"PYTHONPATH": str(FAKES), "FAKE_FLASH": str(self.flash), **settings}
        words = [f"{name}={shlex.quote(value)}" for name, value in variables.items()]
        python.write_text(f'#!/bin/sh\nexec env {" ".join(words)} {sys.executable} "$@"\n', "utf-8")
        python.chmod(0o755)
        self.tool = Esptool(python=python, log=folder / "logs" / "esptool.log")

    def write(self) -> None:
        plan = FlashPlan(
            target=load_target(ROOT / "targets", "xiao-esp32s3"),
            path=Path("model.tflite"),
            model=MODEL,
            sha256=hashlib.sha256(MODEL).hexdigest(),
            address=ADDRESS,
        )
        self.tool.write(
            plan,
            str(self.port),
            self.phases.append,
            lambda done, total: self.progress.append((done, total)),
        )


def test_a_model_is_written_to_its_partition_and_read_back(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.write()
    flash = bench.flash.read_bytes()
    assert flash[ADDRESS : ADDRESS + len(MODEL)] == MODEL
    assert set(flash[:ADDRESS] + flash[ADDRESS + len(MODEL) :]) == {0xFF}
    assert bench.phases == ["writing the model", "reading it back"]
    assert bench.progress[-1] == (len(MODEL), len(MODEL))
    assert "Hard resetting" in bench.tool.log.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("settings", "why", "done_kb"),
    [
        ({"FAKE_FAULT": "flip"}, f"1 of {len(MODEL)} bytes differ", len(MODEL) // 1000),
        ({"FAKE_FAULT": "fatal"}, "Serial data stream stopped", 6),
        ({"FAKE_FAULT": "silent"}, "Failed to connect", 0),
        ({"FAKE_CHIP": "ESP32-C3"}, "there is an ESP32-C3, and the board has an ESP32-S3", 0),
    ],
)
def test_a_failure_is_clear(
    tmp_path: Path, settings: dict[str, str], why: str, done_kb: int
) -> None:
    bench = Bench(tmp_path, **settings)
    with pytest.raises(FlashFailed, match=why) as caught:
        bench.write()
    assert f"after {done_kb} of {len(MODEL) // 1000} kB" in caught.value.message
    assert "another attempt" in caught.value.hint


def test_another_chip_is_not_touched(tmp_path: Path) -> None:
    bench = Bench(tmp_path, FAKE_CHIP="ESP32")
    with pytest.raises(FlashFailed):
        bench.write()
    assert set(bench.flash.read_bytes()) == {0xFF}


def test_an_esptool_that_dies_without_a_word_is_a_failure(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.tool.python.write_text("#!/bin/sh\nexit 0\n", encoding="utf-8")
    with pytest.raises(FlashFailed, match="ended without a result"):
        bench.write()


def test_a_port_that_is_not_there_is_told_before_esptool_is_run(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.port.unlink()
    with pytest.raises(PortMissing):
        bench.write()
    assert not bench.tool.log.exists()
