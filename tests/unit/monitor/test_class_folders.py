"""What a classifier sees becomes a folder for each class, usable at every moment."""

from __future__ import annotations

from pathlib import Path

import pytest

from kiln.device.detections import ClassScore
from kiln.device.labels import Description
from kiln.monitor.class_folders import ClassFolderWriter
from kiln.monitor.hub import FrameEvent
from kiln.monitor.recording import Recorder
from kiln.pipeline.class_folders import load_class_folders
from tests.support.scripted_session import FRUIT, detections, jpeg


def _files(folder: Path) -> list[str]:
    """By split and class how many images there are."""
    places = [path.relative_to(folder).parent.as_posix() for path in folder.rglob("*.jpg")]
    return [f"{place} {places.count(place)}" for place in sorted(set(places))]


def test_an_image_goes_to_the_folder_of_its_best_class(tmp_path: Path) -> None:
    writer = ClassFolderWriter(tmp_path / "set", FRUIT)
    for number in range(4):
        classes = ClassScore(90, number % 2), ClassScore(60, 2)
        writer.add(detections(*classes, image=jpeg(number)))
    writer.add(detections(ClassScore(90, 0), image=jpeg(0)))  # the same image again
    writer.finish()
    folders = ("train/ripe", "train/unripe", "val/ripe", "val/unripe")
    assert _files(tmp_path / "set") == [f"{each} 1" for each in folders]
    assert (writer.images, writer.objects, writer.task) == (4, 4, "classify")


def test_what_it_writes_can_be_built_from_after_a_single_image_of_each_class(
    tmp_path: Path,
) -> None:
    writer = ClassFolderWriter(tmp_path / "set", FRUIT)
    for number in range(2):
        writer.add(detections(ClassScore(70, number), image=jpeg(number)))
    writer.finish()
    read = load_class_folders(tmp_path / "set", index=tmp_path / "i", scratch=tmp_path / "s")
    assert read.images == {"train": 2, "val": 2}


def test_a_frame_without_a_class_is_left_for_the_user_to_sort(tmp_path: Path) -> None:
    writer = ClassFolderWriter(tmp_path / "set", FRUIT)
    writer.add(detections(image=jpeg(1)))
    writer.add(detections(ClassScore(80, 2), image=jpeg(2)))
    writer.finish()
    assert _files(tmp_path / "set") == ["train/class 2 1", "unsorted 1", "val/class 2 1"]
    assert (writer.images, writer.objects) == (2, 1)


def test_damaged_images_and_impossible_classes_are_rejected(tmp_path: Path) -> None:
    writer = ClassFolderWriter(tmp_path / "set", FRUIT)
    writer.add(detections(ClassScore(80, 0), image=b"\xff\xd8 cut"))
    writer.add(detections(ClassScore(80, 60_000), image=jpeg(1)))
    writer.finish()
    assert writer.rejected == 2
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize("name", ["..", ".hidden", "a\0b", "x" * 300, "\ud800"])
def test_no_class_name_leads_out_of_the_folder_or_fails(name: str, tmp_path: Path) -> None:
    writer = ClassFolderWriter(tmp_path / "set", Description(name="", classes=(name,)))
    writer.add(detections(ClassScore(80, 0)))
    (file,) = (tmp_path / "set").rglob("*.jpg")
    assert file.parents[2] == tmp_path / "set"
    assert not file.parent.name.startswith(".")


def test_a_recording_of_a_classifier_says_what_it_can_train(tmp_path: Path) -> None:
    recorder = Recorder(lambda: tmp_path / "set")
    recorder.start(FRUIT)
    seen = detections(ClassScore(80, 1))
    recorder.offer(FrameEvent(number=1, detections=seen, labels=FRUIT))
    recorder.stop()
    done = recorder.recording
    assert (done.task, done.images, done.objects, done.note) == ("classify", 1, 1, "")
