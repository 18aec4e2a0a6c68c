"""The environment of esptool, made from its locks; and that esptool is still as Kiln calls it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from kiln.device.esp import Esptool
from kiln.paths import Paths
from tests.support.checkout import ROOT

WORKER = ROOT / "kiln" / "device" / "esp_worker.py"
#: The same calls with the same arguments as in the worker, without a chip.
_BINDINGS = """
import esptool, inspect
for call, given in {
    esptool.detect_chip: ("/dev/ttyACM0",),
    esptool.run_stub: (None,),
    esptool.attach_flash: (None,),
    esptool.flash_id: (None,),
    esptool.write_flash: (None, [(0, b"")]),
    esptool.read_flash: (None, 0, 1),
    esptool.reset_chip: (None, "hard-reset"),
}.items():
    inspect.signature(call).bind(*given)
"""


@pytest.fixture(scope="module")
def tool(tmp_path_factory: pytest.TempPathFactory) -> Esptool:
    home = tmp_path_factory.mktemp("home")
    said: list[str] = []
    paths = Paths(root=ROOT, home=home, results=home / "build")
    made = Esptool.prepare(paths, said.append)
    assert "making an environment for esptool" in said[0]
    said.clear()
    assert Esptool.prepare(paths, said.append) == made
    assert said == []
    return made


def test_esptool_takes_what_the_worker_gives_it(tool: Esptool) -> None:
    subprocess.run([tool.python, "-c", _BINDINGS], check=True)


def test_the_worker_runs_there_and_tells_a_failure(tool: Esptool, tmp_path: Path) -> None:
    model = tmp_path / "model.tflite"
    model.write_bytes(b"\x1c\0\0\0TFL3")
    where = ("--port", tmp_path / "nothing", "--chip", "ESP32-S3", "--address", "0x400000")
    ended = subprocess.run(
        [tool.python, "-P", WORKER, *where, model], capture_output=True, text=True, check=False
    )
    (event,) = map(json.loads, ended.stdout.splitlines())
    assert event["event"] == "failed"
    assert "Could not open" in event["why"]
    assert ended.returncode == 1
