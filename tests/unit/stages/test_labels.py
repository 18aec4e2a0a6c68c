"""Label files in every form in which published data sets have them."""

from __future__ import annotations

from pathlib import Path

import pytest

from stages.results.dataset import Dataset, Task
from stages.train.dataset.labels import Form, LabelledObject, objects_in, read_labels

BOX = "0 0.5 0.5 0.4 0.6"


def _form(task: Task = "detect", kpt_shape: tuple[int, int] | None = None) -> Form:
    return Form(task=task, names=("cat", "dog"), kpt_shape=kpt_shape)


def _file(folder: Path, *lines: str) -> Path:
    path = folder / "label.txt"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_keypoints_keep_their_visibility(tmp_path: Path) -> None:
    path = _file(tmp_path, f"{BOX} 0.1 0.2 1 0 0 0")
    (found,) = objects_in(path, _form("pose", (2, 3)))
    assert found.box == (0.5, 0.5, 0.4, 0.6)
    assert found.keypoints == ((0.1, 0.2, 1), (0.0, 0.0, 0))


def test_a_keypoint_without_visibility_is_labelled_unless_it_is_0_0(tmp_path: Path) -> None:
    path = _file(tmp_path, f"{BOX} 0.1 0.2 0 0 0 0.3")
    form = _form("pose", (3, 2))
    assert read_labels(path, form).faults == ()
    (found,) = objects_in(path, form)
    assert found.keypoints == ((0.1, 0.2, 2), (0.0, 0.0, 0), (0.0, 0.3, 2))


@pytest.mark.parametrize("each", [2, 3])
def test_boxes_of_a_pose_data_set_are_detected_without_keypoints(tmp_path: Path, each: int) -> None:
    keypoints = " 0.5 0.5 2" if each == 3 else " 0.5 0.5"
    path = _file(tmp_path, BOX + 4 * keypoints)
    form = _form(kpt_shape=(4, each))
    assert read_labels(path, form).outlines == 0
    assert objects_in(path, form) == (LabelledObject(number=0, box=(0.5, 0.5, 0.4, 0.6)),)


def test_an_outline_becomes_the_box_around_it_beside_plain_boxes(tmp_path: Path) -> None:
    path = _file(tmp_path, "1 0.25 0.5 0.5 0.25 0.75 0.5 0.5 1", "", BOX)
    read = read_labels(path, _form())
    assert (read.objects, read.outlines, read.faults) == (2, 1, ())
    assert objects_in(path, _form()) == (
        LabelledObject(number=1, box=(0.5, 0.625, 0.5, 0.75)),
        LabelledObject(number=0, box=(0.5, 0.5, 0.4, 0.6)),
    )


def test_an_object_that_is_there_twice_is_given_once(tmp_path: Path) -> None:
    square = "0 0.25 0.25 0.75 0.25 0.75 0.75 0.25 0.75"
    path = _file(tmp_path, square, BOX, "0 0.5 0.5 0.5 0.5", BOX)
    assert read_labels(path, _form()).repeated == 2
    assert [each.box[2] for each in objects_in(path, _form())] == [0.5, 0.4]


def test_a_byte_order_mark_and_an_empty_file_are_no_faults(tmp_path: Path) -> None:
    path = tmp_path / "label.txt"
    path.write_text(BOX, encoding="utf-8-sig")
    assert len(objects_in(path, _form())) == 1
    path.write_text("")
    assert objects_in(path, _form()) == ()


@pytest.mark.parametrize(
    ("line", "form", "message"),
    [
        ("0 0.1 0.1 0.1 0.5 0.1 0.9", _form(), "the box has no width"),
        ("0 0.1 0.1 0.5 0.1 0.5 2", _form(), "point 2 of the outline: y 2 is not between 0 and 1"),
        ("2 0.1 0.1 0.5 0.1 0.5 0.9", _form(), "class 2, but data.yaml names classes 0 to 1"),
        ("0 0.1 0.1 0.5 0.1 0.5", _form(), "6 numbers; a line has 5"),
        (f"{BOX} 0.5 0.5 2 0.5 0.5 2", _form(kpt_shape=(4, 3)), "11 numbers: 2 keypoints"),
        (f"{BOX} 0.5 0.5 0.5 0.5", _form("pose", (2, 3)), "kpt_shape: [2, 2] takes them"),
        (f"{BOX} 0.5 0.5 2 0.5 0.5 2", _form("pose", (2, 2)), "write kpt_shape: [2, 3]"),
        (f"{BOX} 0.5 0.5 1.5 0.5", _form("pose", (2, 2)), "keypoint 1: x 1.5 is not between"),
        (BOX, _form("pose", (2, 2)), "a box without keypoints"),
    ],
)
def test_a_faulty_line_is_named(tmp_path: Path, line: str, form: Form, message: str) -> None:
    ((number, fault),) = read_labels(_file(tmp_path, "", line), form).faults
    assert number == 2
    assert message in fault


def test_the_form_of_a_checked_data_set_is_that_of_its_own_labels() -> None:
    dataset = Dataset(
        task="pose",
        nc=1,
        names=("tiger",),
        kpt_shape=(12, 3),
        flip_idx=None,
        images={},
        objects={},
        label_kpt_shape=(12, 2),
    )
    assert Form.of(dataset) == Form(task="pose", names=("tiger",), kpt_shape=(12, 2))
