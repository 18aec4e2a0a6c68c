"""`kiln flash` as a user runs it: a process, a result folder, and the emulated board."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kiln.cli.flash import flash
from kiln.emulator.board import EmulatedBoard
from kiln.emulator.faults import Faults
from kiln.emulator.firmware import FACTORY_2023, MAIN_2024, RELEASE_1_0, Camera
from kiln.errors import KilnError
from tests.support import build_documents
from tests.support.checkout import ROOT
from tests.support.emulated_models import MODEL, FixedModel

ADDRESS = 0x400000


def _result(folder: Path, size: int = 20_000) -> tuple[Path, bytes]:
    """A result folder with a deployed file that the board can hold."""
    document = build_documents.pose()
    model = b"\x1c\0\0\0TFL3" + random.Random(0).randbytes(size - 8)
    name = document["deployed"]
    document["files"][name] = {"sha256": hashlib.sha256(model).hexdigest(), "bytes": size}
    document["steps"].append(build_documents.onnx_step(["person"], (17, 3)))
    result = folder / "build" / "grove-v2" / document["name"]
    result.mkdir(parents=True)
    (result / name).write_bytes(model)
    (result / "build.json").write_text(json.dumps(document), encoding="utf-8")
    return result, model


def _command(folder: Path, *arguments: str | Path, **variables: str) -> subprocess.Popen[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("KILN_")}
    home = {"KILN_HOME": str(folder / "home"), "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-m", "kiln", "flash", *arguments],
        cwd=folder,
        env=clean | home | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _run(folder: Path, *arguments: str | Path, **variables: str) -> tuple[int, str, str]:
    with _command(folder, *arguments, **variables) as process:
        out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def test_a_build_is_written_and_recorded(tmp_path: Path) -> None:
    result, model = _result(tmp_path)
    with EmulatedBoard(boot_s=0.1) as board:
        code, out, err = _run(tmp_path, result, "--no-check", KILN_PORT=board.port)
        assert code == 0, err
        assert bytes(board.flash[ADDRESS : ADDRESS + len(model)]) == model
    assert "wrote 19.5 KiB" in out
    assert "to 0x400000 of Grove Vision AI V2" in out
    (line,) = (tmp_path / "home" / "flashed.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(line)["sha256"] == hashlib.sha256(model).hexdigest()


def test_an_address_of_ones_own(tmp_path: Path) -> None:
    result, model = _result(tmp_path)
    with EmulatedBoard(boot_s=0.1) as board:
        variables = {"KILN_PORT": board.port, "KILN_ADDRESS": "0x800000"}
        assert _run(tmp_path, result, "--no-check", **variables)[0] == 0
        assert bytes(board.flash[0x800000 : 0x800000 + len(model)]) == model
        assert board.flash[ADDRESS] == 0xFF


def test_a_bare_file_is_written_by_force_without_being_inspected(tmp_path: Path) -> None:
    file = tmp_path / "mine.tflite"
    file.write_bytes(b"\x1c\0\0\0TFL3 and more")
    with EmulatedBoard(boot_s=0.1) as board:
        code, _out, err = _run(tmp_path, file, "--force", "--port", board.port)
        assert code == 0, err
        assert bytes(board.flash[ADDRESS : ADDRESS + 17]) == file.read_bytes()
    assert "not checked on the board" in err


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("--target", "xiao-esp32s3"), 2, "was built for grove-v2"),
        (("--address", "0x1000"), 2, "outside the model area"),
        (("--address", "here"), 2, "ADDRESS=here is no number"),
        (("--target", "all"), 2, "one board is flashed at a time"),
        (("--port", "/dev/ttyNONE"), 17, "there is no port /dev/ttyNONE"),
    ],
)
def test_what_is_refused_says_so(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    code: int,
    says: str,
) -> None:
    result, _model = _result(tmp_path)
    monkeypatch.setenv("KILN_HOME", str(tmp_path / "home"))
    with pytest.raises(KilnError, match=says) as caught:
        flash.main([str(result), *arguments], standalone_mode=False)
    assert caught.value.exit_code == code


def test_a_failure_has_an_exit_code_of_its_own(tmp_path: Path) -> None:
    result, _model = _result(tmp_path)
    with EmulatedBoard(boot_s=0.1, faults=Faults(flash_full=3000)) as board:
        code, _out, err = _run(tmp_path, result, "--no-check", "--port", board.port)
    assert code == 18
    assert "after 2 of 20 kB" in err
    assert "takes another attempt" in err
    assert not (tmp_path / "home" / "flashed.jsonl").exists()


def test_ctrl_c_in_the_middle_says_what_the_board_holds(tmp_path: Path) -> None:
    result, model = _result(tmp_path, 8000)
    with EmulatedBoard(boot_s=0.1, baud=57_600) as board:
        with _command(tmp_path, result, "--no-check", "--port", board.port) as process:
            board.wait_until(lambda board: any(each.bytes > 2000 for each in board.transfers))
            process.send_signal(signal.SIGINT)
            _out, err = process.communicate(timeout=60)
        assert process.returncode == 130
        assert "half a model" in err
        assert "takes another attempt" in err
        code, _out, err = _run(tmp_path, result, "--no-check", "--port", board.port)
        assert code == 0, err
        assert bytes(board.flash[ADDRESS : ADDRESS + len(model)]) == model


def test_the_board_is_then_checked(tmp_path: Path) -> None:
    result, model = _result(tmp_path)
    with EmulatedBoard(FixedModel(), boot_s=0.1, camera=Camera(fps=200)) as board:
        code, out, err = _run(tmp_path, result, KILN_PORT=board.port)
        assert code == 0, out + err
        assert "AT+RST" not in "".join(board.commands)
    assert "labels on the board: of the model" in out
    assert "measured on board, 83.8 estimated" in out
    record = json.loads((result / "board.json").read_text(encoding="utf-8"))
    assert record["sha256"] == hashlib.sha256(model).hexdigest()
    assert "measured on board" in (result / "report.html").read_text(encoding="utf-8")


def test_a_board_with_several_models_is_told_to_use_the_one_that_was_written(
    tmp_path: Path,
) -> None:
    result, _model = _result(tmp_path)
    with EmulatedBoard(FixedModel(), boot_s=0.1, camera=Camera(fps=200)) as board:
        board.load(MODEL, ADDRESS)
        variables = {"KILN_PORT": board.port, "KILN_ADDRESS": "0xA00000"}
        code, out, err = _run(tmp_path, result, **variables)
        assert code == 0, out + err
        commands = [each.partition("@")[2] for each in board.commands]
    assert "model that the board uses: at 0xa00000" in out
    labels = next(n for n, each in enumerate(commands) if each.startswith("INFO="))
    assert commands.index("MODEL=2") < labels, "labels are kept for each model"


class _Blind(FixedModel):
    def matches(self, memory: memoryview) -> bool:
        del memory
        return False


def test_a_board_that_cannot_run_the_model_is_no_success(tmp_path: Path) -> None:
    result, _model = _result(tmp_path)
    with EmulatedBoard(_Blind(), boot_s=0.1) as board:
        code, out, _err = _run(tmp_path, result, KILN_PORT=board.port)
    assert code == 17
    assert "wrote 19.5 KiB" in out
    assert (tmp_path / "home" / "flashed.jsonl").exists()


def test_a_factory_image_of_2023_is_not_given_a_model_that_it_cannot_run(tmp_path: Path) -> None:
    result, model = _result(tmp_path)
    with EmulatedBoard(boot_s=0.1, release=FACTORY_2023) as board:
        code, _out, err = _run(tmp_path, result, "--no-check", "--port", board.port)
        assert code == 17
        assert not board.transfers, "nothing was written"
        assert "built on 2023.12.19" in err
        assert "it has no YOLOv8 pose" in err
        assert "SSCMA-Micro 1.0.x (2024-03)" in err
        assert "FORCE=1" in err
        arguments = ("--no-check", "--force", "--port", board.port)
        code, _out, err = _run(tmp_path, result, *arguments)
        assert code == 0, err
        assert bytes(board.flash[ADDRESS : ADDRESS + len(model)]) == model
    assert "it has no YOLOv8 pose" in err


def test_a_build_of_1_0_x_is_asked_and_gets_its_model(tmp_path: Path) -> None:
    result, model = _result(tmp_path)
    with EmulatedBoard(boot_s=0.1, release=RELEASE_1_0) as board:
        code, _out, err = _run(tmp_path, result, "--no-check", "--port", board.port)
        assert code == 0, err
        assert bytes(board.flash[ADDRESS : ADDRESS + len(model)]) == model
    assert "its firmware is SSCMA-Micro 1.0.x (2024-10) or older, built on 2024.12.07" in err


def test_the_main_line_does_not_list_its_algorithms(tmp_path: Path) -> None:
    result, _model = _result(tmp_path)
    with EmulatedBoard(boot_s=0.1, release=MAIN_2024) as board:
        code, _out, err = _run(tmp_path, result, "--no-check", "--port", board.port)
    assert code == 0, err
    assert "its firmware is SSCMA-Micro main (main-2024-11)" in err


def test_a_board_whose_firmware_does_not_answer_is_written_all_the_same(tmp_path: Path) -> None:
    result, model = _result(tmp_path)
    with EmulatedBoard(boot_s=0.1, faults=Faults(silent_after=1)) as board:
        code, _out, err = _run(tmp_path, result, "--no-check", "--port", board.port)
        assert code == 0, err
        assert bytes(board.flash[ADDRESS : ADDRESS + len(model)]) == model
    assert "does not answer AT commands" in err


def test_a_file_that_goes_onto_a_card_is_said_where_to_copy(tmp_path: Path) -> None:
    result, _model = _result(tmp_path)
    document = json.loads((result / "build.json").read_text(encoding="utf-8"))
    document["target"] = "nuvoton-m55m1"
    (result / "build.json").write_text(json.dumps(document), encoding="utf-8")
    code, out, err = _run(tmp_path, result)
    assert code == 0, err
    shown = " ".join(out.split())
    assert f"{document['deployed']} to the root folder of the board's SD card" in shown
    assert "as YOLOv8n-pose.tflite; then put the card into the board" in shown
    code, _out, err = _run(tmp_path, result, "--port", "/dev/ttyACM0")
    assert code == 2
    assert "is copied by hand" in err
