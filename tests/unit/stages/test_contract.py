"""Records that one step writes and another reads, and the facts that steps and driver share."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from stages import coco, yolo
from stages.contract import EXIT_TERMINATED, read_json, write_json
from stages.results.compile import Layer
from stages.results.dataset import Dataset
from stages.results.images import GroundTruth, LabelledImage
from stages.sampling import evenly
from tests.support.checkout import ROOT

DATASET = Dataset(
    task="detect",
    nc=2,
    names=("dog", "ü"),
    kpt_shape=None,
    flip_idx=None,
    images={"train": 3, "val": 1},
    objects={"train": 5, "val": 0},
)


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    image = LabelledImage(
        file="a.jpg",
        width=320,
        height=240,
        objects=({"class": 0, "box": [1.0, 2.0, 3.0, 4.0], "keypoints": [[1.0, 2.0, 2]]},),
    )
    truth = GroundTruth(
        task="pose",
        names=("person",),
        kpt_shape=(17, 3),
        skeleton=coco.SKELETON,
        images=(image, dataclasses.replace(image, objects=())),
    )
    write_json(tmp_path / "truth.json", truth)
    assert read_json(GroundTruth, tmp_path / "truth.json") == truth
    write_json(tmp_path / "dataset.json", DATASET)
    assert read_json(Dataset, tmp_path / "dataset.json") == DATASET


def test_a_list_of_records_is_a_list_of_tables(tmp_path: Path) -> None:
    layer = Layer(operator="ADD", name="a", place="cpu", cycles=None, sram_kib=None)
    write_json(tmp_path / "layers.json", [layer, layer])
    tables = json.loads((tmp_path / "layers.json").read_text(encoding="utf-8"))
    assert tables == [dataclasses.asdict(layer)] * 2


def test_cocos_person() -> None:
    swapped = [
        name.replace("left_", "right_") if "left_" in name else name.replace("right_", "left_")
        for name in coco.KEYPOINTS
    ]
    assert [coco.KEYPOINTS[number] for number in coco.FLIP_INDEX] == swapped
    assert len(coco.SIGMAS) == len(coco.KEYPOINTS) == 17
    assert coco.skeleton(17) == coco.SKELETON
    assert coco.skeleton(5) == ()


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("images/train/a.jpg", "labels/train/a.txt"),
        ("/data/images/old/images/val/b.c.png", "/data/images/old/labels/val/b.c.txt"),
        ("train/a.jpeg", "train/a.txt"),
    ],
)
def test_labels_lie_where_ultralytics_looks_for_them(image: str, label: str) -> None:
    assert yolo.label_path(image) == label


def test_a_name_in_a_split_has_no_folder_called_images() -> None:
    assert yolo.image_name("day/images/a.jpg") == "day/a.jpg"


def test_what_stands_for_all_is_spread_over_them() -> None:
    assert evenly(10, 4) == [0, 2, 5, 7]
    assert evenly(3, 8) == [0, 1, 2]
    assert evenly(0, 8) == []


#: C code in which SIGTERM arrives raises a SystemError from what the handler raised.
_TERMINATED_IN_C = """
import os, signal
from stages.contract import Terminated, main

def run(job, events):
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    except Terminated as error:
        raise SystemError("returned a result with an exception set") from error

main(run)
"""


def test_a_step_that_is_ended_inside_c_code_has_not_failed(tmp_path: Path) -> None:
    (tmp_path / "job.json").write_text('{"contract": 1, "step": "train", "params": {}}')
    done = subprocess.run(
        [sys.executable, "-c", _TERMINATED_IN_C, tmp_path],
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == EXIT_TERMINATED, done.stderr
    assert [json.loads(line)["event"] for line in done.stdout.splitlines()] == ["started"]
