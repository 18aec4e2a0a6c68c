"""The description beside a model: as SenseCraft's page reads it, and never more than fits."""

from __future__ import annotations

import base64
import json
import uuid
from typing import Any

import pytest

from kiln.device.labels import (
    MAX_INFO_CHARACTERS,
    Description,
    DescriptionTooLong,
    describe,
    from_info,
    to_info,
)
from kiln.device.sscma import MAX_REQUEST_BYTES
from kiln.report.result import BuildResult
from stages import coco
from tests.support import build_documents

SHA = "fc593c100c853d1d0841ae8ee7d692a88d55368e822e6c85752425f590deea26"
PERSON = Description(
    name="yolov8n-pose-demo-192",
    sha256=SHA,
    size=1_942_000,
    task="pose",
    classes=("person",),
    keypoints=coco.KEYPOINTS,
    skeleton=coco.SKELETON,
)


def _document(info: str) -> dict[str, Any]:
    document = json.loads(base64.b64decode(info, validate=True))
    assert isinstance(document, dict)
    return document


def _info(document: object) -> str:
    return base64.b64encode(json.dumps(document).encode()).decode()


def _detector(*classes: str) -> Description:
    return Description(name="shapes", sha256=SHA, size=1000, task="detect", classes=classes)


def test_it_has_the_fields_that_sensecrafts_page_reads() -> None:
    document = _document(to_info(PERSON))
    for name in ("name", "version", "category", "size"):  # those that its interface asks for
        assert isinstance(document[name], str)
        assert document[name]
    assert document["classes"] == ["person"]
    assert document["size"] == "1942000"
    assert document["isCustom"] is True
    assert document["kiln"]["sha256"] == SHA
    uuid.UUID(document["uuid"])


def test_it_is_read_back_as_it_was_written() -> None:
    assert from_info(to_info(PERSON)) == PERSON
    foreign = _detector("Stöpsel", "人", "a|b\"c'd\\")
    assert from_info(to_info(foreign)) == foreign


def test_the_same_model_has_the_same_text_and_another_one_another_uuid() -> None:
    assert to_info(PERSON) == to_info(PERSON)
    other = _document(to_info(Description(name="x", sha256="0" * 64)))
    assert _document(to_info(PERSON))["uuid"] != other["uuid"]


def test_a_text_always_fits_into_a_request() -> None:
    assert MAX_INFO_CHARACTERS + len('AT+ABCD9999@INFO=""\r') <= MAX_REQUEST_BYTES


def test_what_is_optional_goes_first_and_no_name_is_ever_cut() -> None:
    sizes = []
    for length in range(1, 40):
        description = _detector(*(f"{n:02}{'x' * length}" for n in range(80)))
        try:
            info = to_info(description)
        except DescriptionTooLong:
            sizes.append(0)
            continue
        assert len(info) <= MAX_INFO_CHARACTERS
        document = _document(info)
        assert tuple(document["classes"]) == description.classes
        assert {"uuid", "name", "version", "category", "size", "kiln"} <= document.keys()
        assert document["kiln"]["sha256"] == SHA
        sizes.append(len(document))
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) > 3
    assert sizes[-1] == 0


def test_keypoints_are_given_up_after_what_the_page_can_do_without() -> None:
    crowded = Description(
        name="hand",
        sha256=SHA,
        task="pose",
        classes=("x" * 2450,),
        keypoints=coco.KEYPOINTS,
        skeleton=coco.SKELETON,
    )
    document = _document(to_info(crowded))
    assert "author" not in document
    assert "skeleton" not in document["kiln"]
    assert len(document["kiln"]["keypoints"]) == 17


@pytest.mark.parametrize(
    "text",
    ["", "Hello World!", "AAAA", "%%%", "é", _info([1]), _info(7), _info("x"), "W1tb" * 900],
)
def test_a_text_that_is_no_description_is_none(text: str) -> None:
    assert from_info(text) is None


def test_a_foreign_description_gives_what_it_has() -> None:
    seeed = {
        "uuid": "1",
        "name": "Person",
        "version": "1.0.0",
        "classes": ["person", 3],
        "size": "264.6KB",
        "kiln": "no",
    }
    found = from_info(_info(seeed))
    assert found == Description(name="Person", classes=("person", ""), size=264)
    assert found.label(0) == "person"
    assert found.label(7) == "7"
    assert found.label(-1) == "-1"


@pytest.mark.parametrize("odd", [None, 3, [], {}, "x", [[]], [[1, 2, 3]], [["a", 0]], [[0, 99]]])
def test_odd_values_are_left_out(odd: object) -> None:
    kiln = {"sha256": odd, "keypoints": ["a", "b"], "skeleton": odd, "task": odd}
    found = from_info(_info({"name": odd, "size": odd, "classes": odd, "kiln": kiln}))
    assert found is not None
    assert found.skeleton == ()
    to_info(found)


def test_half_a_character_is_replaced_for_it_could_not_be_shown() -> None:
    found = from_info(base64.b64encode(b'{"name": "\\ud83d", "classes": ["\\udc00"]}').decode())
    assert found == Description(name="?", classes=("?",))


def _build(shape: tuple[int, int] | None, names: list[str]) -> BuildResult:
    document = build_documents.pose()
    step = build_documents.onnx_step(names, shape)
    return build_documents.built({**document, "steps": [*document["steps"], step]})


def test_a_build_says_what_its_model_is() -> None:
    found = describe(_build((17, 3), ["person"]))
    assert found.sha256 == "b" * 64
    assert (found.size, found.task, found.classes) == (3137360, "pose", ("person",))
    assert found.keypoints == coco.KEYPOINTS


def test_keypoints_that_are_not_cocos_have_numbers_and_the_skeleton_of_the_build() -> None:
    found = describe(_build((3, 3), ["leaf"]))
    assert found.keypoints == ("point 0", "point 1", "point 2")
    assert found.skeleton == ((0, 1), (0, 2), (1, 2))
    assert describe(_build(None, ["a", "b"])).keypoints == ()
