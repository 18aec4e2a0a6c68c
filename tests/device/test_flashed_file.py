"""The emulated board gives what the bytes on its flash compute."""

from __future__ import annotations

from pathlib import Path

from kiln.emulator.postprocess import report
from tests.device.conftest import MakeBoard, OpenLine
from tests.support.compiled import limited
from tests.support.fixtures import RunStep
from tests.support.flashed import IMAGES, compiled_file, recorded_model


def test_the_board_finds_what_the_flashed_bytes_compute(
    run_step: RunStep,
    pose_int8: Path,
    pose_images: Path,
    emulated_board: MakeBoard,
    line: OpenLine,
    tmp_path: Path,
) -> None:
    file = compiled_file(run_step, pose_int8)
    changed = tmp_path / "changed.tflite"
    changed.write_bytes(limited(file.read_bytes()))
    said = []
    for each in (file, changed):
        recorded = recorded_model(run_step, each, pose_images)
        host = line(emulated_board(recorded, file=each.read_bytes()))
        host.ask("AT+INVOKE=-1,0,1")
        assert host.ask("AT+TSCORE=0")["data"] == 0
        host.ask("AT+STAT?")
        found = host.frame()["data"]["keypoints"]
        assert found
        wanted = [report(recorded.infer(n), score=0, iou=45, pose=True) for n in range(IMAGES)]
        assert {"keypoints": found} in wanted
        said.append(wanted)
    assert said[0] != said[1]


def test_another_file_than_the_recorded_one_is_not_run(
    run_step: RunStep,
    pose_int8: Path,
    pose_images: Path,
    emulated_board: MakeBoard,
    line: OpenLine,
) -> None:
    file = compiled_file(run_step, pose_int8)
    recorded = recorded_model(run_step, file, pose_images)
    host = line(emulated_board(recorded, file=limited(file.read_bytes())))
    assert host.ask("AT+INVOKE=1,0,1")["code"] == 9
