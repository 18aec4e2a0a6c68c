"""Detections become a data set that is usable at every moment."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import yaml

from kiln.device.detections import Box
from kiln.device.labels import Description
from kiln.monitor import recording
from kiln.monitor.dataset import DataSetWriter, flip_index, label_lines
from kiln.monitor.hub import FrameEvent
from kiln.monitor.recording import Recorder, unused
from kiln.pipeline.dataset import load_dataset
from stages import coco
from tests.support.scripted_session import PEOPLE, SHAPES, detections, jpeg, person


def _description(folder: Path) -> dict[str, Any]:
    table: dict[str, Any] = yaml.safe_load((folder / "data.yaml").read_text("utf-8"))
    return table


def _names(folder: Path, kind: str, split: str) -> list[str]:
    return sorted(path.stem for path in (folder / kind / split).iterdir())


def _labels(folder: Path) -> list[str]:
    return [path.read_text("utf-8") for path in sorted(folder.glob("labels/*/*.txt"))]


def test_a_box_is_written_in_parts_of_the_image(tmp_path: Path) -> None:
    writer = DataSetWriter(tmp_path / "set", SHAPES)
    writer.add(detections(Box(60, 120, 24, 48, 70, 1), size=(240, 480)))
    assert _labels(tmp_path / "set") == ["1 0.250000 0.250000 0.100000 0.100000\n"]
    assert _description(tmp_path / "set") == {
        "path": ".",
        "train": "images/train",
        "val": "images/val",
        "names": {0: "disc", 1: "square"},
    }


def test_a_pose_has_its_keypoints_and_hidden_ones_are_zero(tmp_path: Path) -> None:
    writer = DataSetWriter(tmp_path / "set", PEOPLE)
    writer.add(detections(person(120, 60, hidden=(3,))))
    (line,) = _labels(tmp_path / "set")
    words = line.split()
    assert words[:5] == ["0", "0.500000", "0.250000", "0.083333", "0.166667"]
    assert words[5:8] == ["0.466667", "0.250000", "2"]
    assert words[5 + 3 * 3 : 8 + 3 * 3] == ["0", "0", "0"]
    assert len(words) == 5 + 3 * 17
    table = _description(tmp_path / "set")
    assert table["kpt_shape"] == [17, 3]
    assert table["flip_idx"] == list(coco.FLIP_INDEX)


def test_a_recording_keeps_the_skeleton_that_the_board_knows(tmp_path: Path) -> None:
    leaf = Description(name="leaf", keypoints=("point 0", "point 1"), skeleton=((0, 1),))
    DataSetWriter(tmp_path / "set", leaf)
    assert _description(tmp_path / "set")["skeleton"] == [[0, 1]]


def test_what_reaches_out_of_the_image_is_cut_and_what_is_outside_left_out() -> None:
    cut = detections(Box(0, 0, 40, 40, 90, 0), Box(400, 400, 10, 10, 90, 0))
    assert list(label_lines(cut, 0)) == ["0 0.041667 0.041667 0.083333 0.083333\n"]
    (line,) = label_lines(detections(person(4, 100)), 17)
    assert line.split()[5:8] == ["0", "0", "0"]


def test_names_that_do_not_tell_left_from_right_give_no_mirror() -> None:
    assert flip_index(coco.KEYPOINTS) == list(coco.FLIP_INDEX)
    assert flip_index(("point 0", "point 1")) == []
    assert flip_index(("left_ear", "nose")) == []


def test_a_board_without_description_teaches_the_form_as_it_goes(tmp_path: Path) -> None:
    nameless = Description(name="")
    writer = DataSetWriter(tmp_path / "shapes", nameless)
    writer.add(detections(Box(60, 60, 10, 10, 90, 2)))
    assert _description(tmp_path / "shapes")["names"] == {0: "class 0", 1: "class 1", 2: "class 2"}
    writer = DataSetWriter(tmp_path / "poses", nameless)
    writer.add(detections(image=jpeg(1)))
    writer.add(detections(person(60, 60), image=jpeg(2)))
    assert _description(tmp_path / "poses")["kpt_shape"] == [17, 3]


def test_the_same_image_again_is_kept_once_and_an_empty_one_is_background(
    tmp_path: Path,
) -> None:
    writer = DataSetWriter(tmp_path / "set", SHAPES)
    for image in (jpeg(1), jpeg(1), jpeg(2), jpeg(1)):
        writer.add(detections(image=image))
    assert writer.images == 2
    assert _labels(tmp_path / "set") == ["", ""]


def test_two_images_with_objects_give_both_splits_one(tmp_path: Path) -> None:
    writer = DataSetWriter(tmp_path / "set", SHAPES)
    for number in range(50):
        writer.add(detections(image=jpeg(number)))
    for number in (50, 51):
        writer.add(detections(Box(60, 60, 10, 10, 90, 0), image=jpeg(number)))
    for split in ("train", "val"):
        labels = (tmp_path / "set" / "labels" / split).iterdir()
        assert [each.stat().st_size > 0 for each in labels].count(True) == 1


@pytest.mark.parametrize(
    "damaged",
    [
        detections(image=b""),
        detections(image=jpeg()[:-1]),
        detections(image=b"x" + jpeg()),
        detections(Box(60, 60, 10, 10, 90, 10**9)),
        detections(Box(60, 60, 10, 10, 90, -1)),
        detections(size=(0, 0)),
    ],
    ids=["nothing", "torn", "shifted", "class", "negative", "size"],
)
def test_what_came_damaged_is_left_out_and_counted(tmp_path: Path, damaged: Any) -> None:
    writer = DataSetWriter(tmp_path / "set", SHAPES)
    writer.add(damaged)
    assert (writer.images, writer.rejected) == (0, 1)


def test_a_pose_that_lost_a_keypoint_on_the_line_is_left_out(tmp_path: Path) -> None:
    writer = DataSetWriter(tmp_path / "set", PEOPLE)
    whole = person(60, 60)
    writer.add(detections(type(whole)(whole.box, whole.points[1:])))
    assert (writer.images, writer.rejected) == (0, 1)


def test_the_same_image_is_always_in_the_same_split(tmp_path: Path) -> None:
    writer = DataSetWriter(tmp_path / "set", SHAPES)
    for number in [*range(200), *range(200)]:
        writer.add(detections(Box(60, 60, 10, 10, 90, 0), image=jpeg(number)))
    writer.finish()
    train, val = (
        {path.read_bytes() for path in (tmp_path / "set" / "images" / split).iterdir()}
        for split in ("train", "val")
    )
    assert not train & val
    assert 10 < len(val) < 40


@pytest.mark.parametrize("images", [2, 3, 5, 40])
def test_a_set_can_be_used_from_its_second_image_on_without_an_end(
    tmp_path: Path, images: int
) -> None:
    writer = DataSetWriter(tmp_path / "set", SHAPES)
    for number in range(images):
        writer.add(detections(Box(60, 60, 10, 10, 90, 0), image=jpeg(number)))
    # No finish(): the program was killed.
    found = load_dataset(tmp_path / "set", index=tmp_path / "index", scratch=tmp_path / "scratch")
    assert sum(found.images.values()) == images
    assert min(found.images.values()) >= 1
    assert _names(tmp_path / "set", "images", "val") == _names(tmp_path / "set", "labels", "val")


def _finished(folder: Path, labelled: list[bool]) -> None:
    writer = DataSetWriter(folder, SHAPES)
    for number, has_object in enumerate(labelled):
        boxes = [Box(60, 60, 10, 10, 90, 0)] if has_object else []
        writer.add(detections(*boxes, image=jpeg(number)))
    writer.finish()


@pytest.mark.parametrize("labelled", [[True], [False, True], [True, False], [False] * 30 + [True]])
def test_the_end_leaves_both_splits_with_images_and_train_with_objects(
    tmp_path: Path, labelled: list[bool]
) -> None:
    _finished(tmp_path / "set", labelled)
    assert _names(tmp_path / "set", "images", "val")
    assert any(path.read_text("utf-8") for path in tmp_path.glob("set/labels/train/*.txt"))


def test_a_recording_without_a_image_leaves_nothing(tmp_path: Path) -> None:
    _finished(tmp_path / "set", [])
    assert not (tmp_path / "set").exists()


def test_nothing_is_written_over_or_left_unfinished(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "mine").touch()
    with pytest.raises(FileExistsError):
        DataSetWriter(tmp_path / "set", SHAPES)
    assert unused(tmp_path / "set") == tmp_path / "set-2"
    assert unused(tmp_path / "new") == tmp_path / "new"
    _finished(tmp_path / "new", [True, True])
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"data.yaml", "images", "labels"}


def _offer(recorder: Recorder, count: int, labels: Description = SHAPES) -> None:
    for number in range(count):
        found = detections(Box(60, 60, 10, 10, 90, 0), image=jpeg(number))
        recorder.offer(FrameEvent(number=number, detections=found, labels=labels))


def test_a_recorder_keeps_all_that_it_is_offered_between_start_and_stop(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    recorder = Recorder(lambda: unused(folder))
    _offer(recorder, 3)
    recorder.start(SHAPES)
    _offer(recorder, 500)
    recorder.stop()
    _offer(recorder, 3)
    assert recorder.recording.images == 500
    assert len(list(folder.glob("images/*/*.jpg"))) == 500
    assert not recorder.recording.running
    recorder.start(SHAPES)
    _offer(recorder, 2)
    recorder.stop()
    assert recorder.recording.folder == str(tmp_path / "set-2")


def test_another_model_ends_the_recording_and_says_so(tmp_path: Path) -> None:
    recorder = Recorder(lambda: tmp_path / "set")
    recorder.start(SHAPES)
    _offer(recorder, 2)
    _offer(recorder, 1, PEOPLE)
    recorder.stop()
    assert recorder.recording.note == "the board now runs another model"
    assert recorder.recording.images == 2


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    recorder = Recorder(lambda: tmp_path / "file" / "set")
    recorder.start(SHAPES)
    recorder.stop()
    assert "Not a directory" in recorder.recording.note
    assert not recorder.recording.running


def test_a_disk_that_is_too_slow_ends_the_recording_and_never_holds_up_the_board(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "MAX_WAITING_BYTES", 20)
    writes, disk_is_free = threading.Event(), threading.Event()
    original = DataSetWriter.add

    def slow(self: DataSetWriter, detections: Any) -> None:
        writes.set()
        disk_is_free.wait()
        original(self, detections)

    monkeypatch.setattr(DataSetWriter, "add", slow)
    recorder = Recorder(lambda: tmp_path / "set")
    recorder.start(SHAPES)
    _offer(recorder, 1)
    writes.wait()
    _offer(recorder, 50)
    disk_is_free.set()
    recorder.stop()
    assert recorder.recording.note == "the disk is slower than the board"
    assert recorder.recording.images == 1
