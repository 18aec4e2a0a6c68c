"""The report says what build.json says, of every kind of build, and nothing else gets into it."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from importlib import resources
from itertools import pairwise
from typing import Any

import pytest

from kiln.report.beside import Beside, Way
from kiln.report.render import POLICY, render
from kiln.report.words import change, count, duration, frames, kib, milliseconds, points, settings
from stages.results.evaluate import METRICS
from tests.support import build_documents
from tests.support.build_documents import built
from tests.support.checkout import ROOT

HOSTILE = "</style></script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&"


class Page(HTMLParser):
    """What a browser would see: tags, their attributes, and the text outside of the style."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str]] = []
        self.headings: list[int] = []
        self.title = ""
        self._inside = ""
        self._words: list[str] = []
        self.feed(html)
        self.text = " ".join(" ".join(self._words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self._inside = tag
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))

    def handle_data(self, data: str) -> None:
        if self._inside == "title" and not self.title:
            self.title = data
        if self._inside != "style":
            self._words.append(data)

    def of(self, name: str) -> list[str]:
        """The values of an attribute, in order."""
        return [value for _, each, value in self.attributes if each == name]


def test_the_first_screen_has_verdict_accuracy_memory_and_speed() -> None:
    text = Page(render(built(build_documents.pose()))).text
    start = text[: text.index("Checks")]
    for words in (
        "yolov8n-pose-demo-192 for Grove Vision AI V2 , pose at 192\N{MULTIPLICATION SIGN}192",
        "Accepted by this firmware",
        "SSCMA-Micro 1.0.x",
        "Accuracy Poses, mAP50 96.0 → 95.1 \N{MINUS SIGN}0.9 points",
        "on 48 labelled images as the camera at 240x240 gives them. The compiled file, executed as "
        "Vela's encodings define it, gives the same bytes as the reference kernels",
        "Boxes, mAP50 97.5 → 97.6 +0.1",
        "SRAM 296.0 of 1,110 KiB 27 % of the limit",
        "Flash 3,064 of 10,240 KiB",
        "84 ms 12 frames a second By Vela 4.5.0, not measured.",
        "say twice what Arm\N{RIGHT SINGLE QUOTATION MARK}s own simulator of the NPU counts",
        "1 warning",
    ):
        assert words in start


def test_an_estimate_of_vela_5_comes_with_its_own_error() -> None:
    build = build_documents.pose()
    build["numbers"] |= {"estimator": "Vela 5.2.0", "performance_model": "Vela 5"}
    text = Page(render(built(build))).text
    assert "By Vela 5.2.0, not measured. Version 5 tends to say a third more" in text
    assert "twice" not in text


def test_the_rest_of_the_page_has_what_the_build_left() -> None:
    text = Page(render(built(build_documents.pose()))).text
    for words in (
        "Tensor arena 292.9 KiB + 3.1 KiB 1110 KiB",
        "SRAM: Vela's plan in the file. Flash: file size.",
        "00000.jpg largest difference",
        "14 epochs; the weights are those of epoch 13",
        "33.5 million cycles on the ethos-u55-64",
        "CONV_2D model/layer_40/Add NPU 40,880 0.1 %",
        "Counted in the commands of the compiled file, not timed. An inference is 412.9 million",
        "33.5 million estimated cycles the ethos-u55-64 would take 8.2 at its full rate",
        "It reads 2,918 KiB from the flash, which alone take 23.9 million cycles at the 50.0 MB/s",
        "The flash takes longer than the NPU for 40 of 192 operators, which have 0.8 million",
        "Vela's estimate 33.5 flash alone 23.9 NPU at its full rate 8.2",
        "CONV_2D model/layer_39/Add waits 4.9 39,880 19,941 39,883",
        "192 run on the NPU, none on the CPU",
        "Poses, 50-95 41.8 41.9 41.9 40.1",
        "person 97 41.9 40.1",
        "keypoints 25.2 dB",
        "3,064 KiB goes onto the board " + "b" * 64,
        "Train 3 min 27 s model yolov8n epochs 14 overrides optimizer AdamW",
        "ini.System_Config.My_Sys_Cfg core_clock 400e6",
        "made with ethos-u-vela 4.5.0",
        "demo no data set was given pass DATA=my/data.yaml",
    ):
        assert words in text


def test_a_flash_that_is_fast_enough_is_no_wait() -> None:
    build = build_documents.pose()
    build["numbers"]["traffic"]["flash_bytes_per_cycle"] = 1
    text = Page(render(built(build))).text
    assert "The flash takes longer than the NPU for no operator." in text
    assert "waits" not in text


def test_a_build_without_these_figures_is_still_shown() -> None:
    build = build_documents.pose()
    del build["numbers"]["traffic"]
    for each in build["evidence"]["operators"]:
        del each["counted"]
    text = Page(render(built(build))).text
    assert "Flash against arithmetic Not counted: this build has no such figures." in text
    assert "33.5 million cycles on the ethos-u55-64" in text


def test_a_classifier_is_shown_by_its_classes() -> None:
    page = Page(render(built(build_documents.classification())))
    for words in (
        "fruit for Grove Vision AI V2 , classification at 192\N{MULTIPLICATION SIGN}192",
        "Accuracy Top-1 accuracy 90.0 → 80.0 \N{MINUS SIGN}10.0 points",
        "on 10 labelled images",
        "Top-5 accuracy 100.0 → 100.0",
        "ripe largest difference float32: ripe 60.0 % int8: unripe 55.0 % wrong ripe/0.jpg",
        "ripe float32: ripe 60.0 % int8: ripe 55.0 % ripe/1.jpg",
        "Accuracy on val top-5 0.9 top-1 0.9",
        "By class, top-1 accuracy Class Images float32 int8 ripe 6 83.3 66.7 rotten 0",
        "True class ripe rotten unripe ripe 4 \N{EN DASH} 2",
        "The most frequent mistakes, int8 Class Taken for Images ripe unripe 2 of 6",
        "probabilities 28.1 dB",
    ):
        assert words in page.text
    assert "mAP" not in page.text
    assert page.tags["img"] == 3


def test_many_classes_are_listed_by_their_mistakes_alone() -> None:
    build = build_documents.classification()
    names = [f"kind {number}" for number in range(20)]
    build["evidence"] |= {
        "names": names,
        "mistakes": {"int8": [{"truth": 7, "taken": 9, "count": 2}]},
        "classes": [
            {"name": name, "objects": 5, "float32": 1.0, "int8": 0.6 if name == "kind 7" else 1.0}
            for name in names
        ],
    }
    text = Page(render(built(build))).text
    assert "Taken for Images kind 7 kind 9 2 of 5" in text
    assert "True class" not in text


def test_a_forced_build_is_marked_all_over() -> None:
    page = Page(render(built(build_documents.forced())))
    assert page.title == "yolov8n-pose-demo-192, not accepted by this firmware"
    assert ("body", "class", "refused") in page.attributes
    for words in (
        "Not accepted by this firmware. Built by force: do not flash it.",
        "because FORCE=1 was given",
        "1 of 7 checks failed",
        "Tensor arena : 1288.3 KiB + 3.1 KiB; the board: 1110 KiB. What helps: a smaller IMGSZ.",
        "1,291 of 1,110 KiB, too much",
        "192 run on the NPU, 3 on the CPU",
        "3,064 KiB not accepted",
    ):
        assert words in page.text
    assert "Accepted by" not in page.text
    assert "goes onto the board" not in page.text


def test_a_build_that_finds_nothing_says_so_at_the_top() -> None:
    build = build_documents.pose()
    build["numbers"]["accuracy"]["finds_nothing"] = True
    said = {"step": "evaluate", "message": "the network finds next to nothing", "hint": "train"}
    build["warnings"] = [*build["warnings"], said]
    page = Page(render(built(build)))
    words = "accepted by this firmware, but it finds next to nothing"
    assert page.title == f"yolov8n-pose-demo-192, {words}"
    assert ("body", "class", "accepted useless") in page.attributes
    start = page.text[: page.text.index("Checks")]
    assert words.capitalize() in start
    assert "The network finds next to nothing. What helps: train." in start


def test_a_note_on_a_check_that_was_passed() -> None:
    build = build_documents.pose()
    check = build["verdict"]["checks"][0]
    check["note"] = "the board's pixels are brighter"
    text = Page(render(built(build))).text
    assert f"{check['title'].capitalize()}: {check['figure']}: the board's" in text
    assert "passed with a note:" in text
    assert "The board's pixels are brighter." in text


def test_a_board_without_an_npu_and_weights_without_a_training_leave_no_hole() -> None:
    text = Page(render(built(build_documents.without_npu()))).text
    for words in (
        "no estimate This board has no NPU",
        "Training None: nothing was trained here.",
        "Where the cycles go Not known: this board has no NPU",
        "Flash against arithmetic None: this board has no NPU",
        "All 151 run on the CPU",
        "By layer, signal over noise in dB",
    ):
        assert words in text


def test_a_class_that_no_picture_has_shows_a_dash() -> None:
    text = Page(render(built(build_documents.detection()))).text
    assert "square 40 61.0 60.0 star 0 \N{EN DASH} \N{EN DASH}" in text
    assert "Accuracy Boxes, mAP50 97.5 → 97.6" in text


def test_boxes_have_names_only_if_there_are_several_classes() -> None:
    assert "circle 0.87" in Page(render(built(build_documents.detection()))).text
    assert "person 0.87" not in Page(render(built(build_documents.pose()))).text


def test_of_a_single_file_only_its_own_findings_are_shown() -> None:
    build = build_documents.pose()
    accuracy = build["numbers"]["accuracy"]
    accuracy |= {"artifacts": {"int8": accuracy["artifacts"]["int8"]}, "drop": {}}
    for image in build["evidence"]["images"]:
        image["float32"] = None
    for kind in build["evidence"]["precision_recall"].values():
        del kind["float32"]
    page = Page(render(built(build)))
    assert "Accuracy Poses, mAP50 95.1 int8, on 48 labelled images" in page.text
    assert "Boxes, mAP50 97.6" in page.text
    labels = [label for label in page.of("aria-label") if label.startswith("0000")]
    assert labels == [f"0000{number}.jpg: 1 labelled, int8 finds 1" for number in range(3)]


def test_a_compiled_file_that_differs_has_its_own_figures() -> None:
    build = build_documents.pose()
    accuracy = build["numbers"]["accuracy"]
    accuracy["equal_to_int8"] = False
    accuracy["artifacts"]["compiled"] = {**accuracy["artifacts"]["int8"], "pose/map50": 0.5}
    text = Page(render(built(build))).text
    assert "same bytes as the reference" not in text
    assert "96.0 → 95.1 → 50.0" in text
    assert "float32 int8 compiled" in text
    del accuracy["equal_to_int8"], accuracy["artifacts"]["compiled"]
    assert "same bytes as the reference" not in Page(render(built(build))).text, (
        "a build from before"
    )


def test_a_fine_tuning_shows_where_it_came_from_and_its_way() -> None:
    page = Page(render(built(build_documents.finetuned())))
    for words in (
        "float32 → fine-tuned, on 48 labelled images",
        "Training Fine-tuning Cycles",
        "600 updates of the int8 network in the board\N{RIGHT SINGLE QUOTATION MARK}s own "
        "arithmetic, on 1000 images of train, on a processor; the float network was its teacher. "
        "Asked for: 90 % of the cycles of plain int8. The mean entropy of a weight went from 6.80 "
        "to 5.80 bits.",
        "float32 plain int8 fine-tuned Change",
        "Poses, mAP50-95 41.9 39.9 40.1 +0.2",
        "Boxes, mAP50-95 53.3 52.9 53.2 +0.3",
        "Cycles, M \N{EN DASH} 37.2 33.5 \N{MINUS SIGN}10.0 %",
        "Time, ms \N{EN DASH} 93 84 \N{MINUS SIGN}10.0 %",
        "Flash, KiB \N{EN DASH} 3,830 3,064 \N{MINUS SIGN}20.0 %",
        "A point is a mean over 10 updates.",
        "Distance of scores, nats an image int8 0.00677",
        "Entropy of a weight, bits int8 5.8",
        "Keypoints 0.0200 0.0030",
        "ONNX float32 plain int8 fine-tuned",
    ):
        assert words in page.text
    assert "Accuracy against cycles" not in page.text, "no other build lies beside it"
    assert "Fine-tuning" not in Page(render(built(build_documents.pose()))).text


def test_a_fine_tuning_that_is_not_reproducible_says_why() -> None:
    build = build_documents.finetuned()
    (tuned,) = (step for step in build["steps"] if step["name"] == "finetune")
    tuned["result"] |= {"reproducible": False, "why_not": "device cuda", "device": None}
    text = Page(render(built(build))).text
    assert "on 1000 images of train; the float network" in text
    assert "The same fine-tuning gives other weights elsewhere: device cuda." in text


def test_a_fine_tuning_for_a_board_without_an_npu_has_no_cycles() -> None:
    build = build_documents.finetuned()
    build["numbers"]["plain"] |= {"cycles": None, "estimated_ms": None}
    build["numbers"] |= {"cycles": None, "estimated_ms": None, "estimator": None}
    text = Page(render(built(build))).text
    assert "Cycles, M" not in text
    assert "Flash, KiB \N{EN DASH} 3,830 3,064" in text


def _way(name: str, kind: str, cycles: int | None, accuracy: float) -> Way:
    figures = {"pose/map50_95": accuracy, "box/map50_95": 0.5}
    return Way(name=name, quant=name, kind=kind, cycles=cycles, flash_kib=2000.0, accuracy=figures)


def test_builds_that_lie_beside_a_fine_tuned_one_are_points_of_a_curve() -> None:
    ways = (_way("coarser", "tuned", 30_000_000, 0.39), _way("mixed", "other", 31_000_000, 0.38))
    page = Page(render(built(build_documents.finetuned()), beside=Beside(state="5", ways=ways)))
    assert ("meta", "content", "5") in page.attributes
    table = page.text[page.text.index("Other builds that lay beside this one") :]
    for words in (
        "1. plain int8 per-tensor 37.2 3,830 39.9 52.9",
        "2. yolov8n-pose-demo-192 this build finetuned 33.5 3,064 40.1 53.2",
        "3. mixed mixed 31.0 2,000 38.0 50.0",
        "4. coarser coarser 30.0 2,000 39.0 50.0",
    ):
        assert words in table
    marks = [value for tag, name, value in page.attributes if (tag, name) == ("circle", "class")]
    assert marks[-4:] == ["mark other", "mark own", "mark other", "mark tuned"]


def test_points_of_one_place_share_a_label() -> None:
    build = built(build_documents.finetuned())
    own = Way.of(build)
    text = Page(render(build, beside=Beside(state="5", ways=(own, own)))).text
    assert "2, 3, 4" in text


def test_a_curve_needs_cycles() -> None:
    build = build_documents.finetuned()
    build["numbers"]["plain"]["cycles"] = build["numbers"]["cycles"] = None
    beside = Beside(state="5", ways=(_way("coarser", "tuned", None, 0.39),))
    page = Page(render(built(build), beside=beside))
    assert "3. yolov8n-pose-demo-192 this build finetuned \N{EN DASH} 3,064" in page.text
    assert not [value for value in page.of("class") if value.startswith("mark ")]


def test_gaps_in_the_curves_are_gaps_in_the_lines() -> None:
    build = build_documents.pose()
    build["evidence"]["curves"]["val/box_loss"][3:6] = [None] * 3
    build["evidence"]["curves"]["val/cls_loss"] = [None] * 14
    html = render(built(build))
    chart = html[html.index('aria-label="Loss of boxes"') :]
    chart = chart[: chart.index("</svg>")]
    assert re.findall(r' d="(M[^"]*)"', chart)[-1].count("M") == 2
    assert "None" not in chart


def test_one_epoch_makes_no_curve() -> None:
    build = build_documents.pose()
    curves = build["evidence"]["curves"]
    build["evidence"]["curves"] = {name: values[:1] for name, values in curves.items()}
    assert "One epoch makes no curve." in Page(render(built(build))).text


def _hostile(value: Any, field: str = "") -> Any:
    """Every name and every text made hostile, but for words that decide what is shown."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [each.name for each in dataclasses.fields(value)]
        changed = {name: _hostile(getattr(value, name), name) for name in fields}
        return dataclasses.replace(value, **changed)
    if isinstance(value, dict):
        return {
            key if key in KEYS else key + HOSTILE: _hostile(each, key)
            for key, each in value.items()
        }
    if isinstance(value, list | tuple):
        return type(value)(_hostile(each, field) for each in value)
    kept = ("image", "task", "place", "performance_model", "deployed")
    return value + HOSTILE if isinstance(value, str) and field not in kept else value


#: Keys of mappings by which the page looks things up.
KEYS = frozenset(
    [
        *("onnx", "float32", "int8", "trained", "box", "pose", "npu", "cpu", "epoch"),
        *("class", "score", "keypoints"),
        *METRICS,
        *build_documents.pose()["evidence"]["curves"],
        *build_documents.finetuned()["evidence"]["finetuning"],
        *("plain", "cycles", "flash_kib"),
    ]
)


@pytest.mark.parametrize(
    "build",
    [
        build_documents.pose(),
        build_documents.forced(),
        build_documents.detection(),
        build_documents.finetuned(),
    ],
    ids=["pose", "forced", "detection", "finetuned"],
)
def test_hostile_names_stay_text(build: dict[str, Any]) -> None:
    sound = built(build)
    page, plain = Page(render(_hostile(sound))), Page(render(sound))
    assert page.text.count("onerror=alert(2)") > 40
    assert page.tags["script"] == page.tags["img"] == 0
    assert page.tags["style"] == 1
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert page.headings == plain.headings


def test_the_page_asks_for_nothing() -> None:
    html = render(built(build_documents.pose()))
    page = Page(html)
    assert POLICY in page.of("content")
    assert POLICY.startswith("default-src 'none';")
    addresses = page.of("href") + page.of("src") + page.of("xlink:href")
    assert all(address.startswith(("#", "data:")) for address in addresses)
    assert not re.search(r"url\(|@import|<\?xml", html)
    assert {address[1:] for address in addresses if address.startswith("#")} <= set(page.of("id"))


def test_every_image_and_chart_says_what_it_is() -> None:
    page = Page(render(built(build_documents.pose())))
    labels = page.of("aria-label")
    assert "00000.jpg: 1 labelled, float32 finds 2" in labels
    assert "Poses: precision over recall" in labels
    drawings = [role for role in page.of("role") if role == "img"]
    icons = [value for value in page.of("aria-hidden") if value == "true"]
    assert page.tags["svg"] == len(drawings) + len(icons)
    assert page.of("lang") == ["en"]
    ids = page.of("id")
    assert len(ids) == len(set(ids))


def test_headings_go_down_one_level_at_a_time() -> None:
    headings = Page(render(built(build_documents.pose()))).headings
    assert headings[0] == 1
    assert headings.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(headings))


def test_the_same_build_gives_the_same_page_in_every_process() -> None:
    code = (
        "import sys, json; from kiln.report.render import render; "
        "from kiln.report.result import BuildResult; "
        "build = BuildResult.read(json.load(sys.stdin), 'build.json'); "
        "sys.stdout.buffer.write(render(build).encode())"
    )
    text = json.dumps(build_documents.pose())
    pages = {
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env={"PYTHONHASHSEED": seed},
            input=text.encode(),
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert pages == {render(built(build_documents.pose())).encode()}


def test_a_file_name_that_is_no_utf8_does_not_stop_the_report() -> None:
    build = build_documents.pose()
    build["evidence"]["images"][0]["file"] = "caf\udce9.jpg"
    assert b"caf?.jpg" in render(built(build)).encode("utf-8")


def _colours(css: str) -> dict[str, str]:
    return dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", css))


def _luminance(colour: str) -> float:
    """Relative luminance of #rrggbb, as WCAG 2 defines it."""
    parts = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    ]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def _contrast(one: str, other: str) -> float:
    light, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_in_both_schemes(scheme: str) -> None:
    css = resources.files("kiln.report").joinpath("templates/style.css").read_text("utf-8")
    light, dark = css.split("@media screen and (prefers-color-scheme: dark)")[:2]
    colours = _colours(light) if scheme == "light" else _colours(light) | _colours(dark)
    pairs = [(ink, "paper") for ink in ("ink", "soft", "good", "bad")]
    pairs += [("ink", "bad-wash"), ("good", "good-wash"), ("bad", "bad-wash"), ("soft", "wash")]
    ratios = {(text, ground): _contrast(colours[text], colours[ground]) for text, ground in pairs}
    assert {pair: ratio for pair, ratio in ratios.items() if ratio < 4.5} == {}
    assert _contrast(colours["alarm"], "#ffffff") >= 4.5
    assert _contrast(colours["quiet"], colours["paper"]) >= 3  # lines of charts, no text


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (points(0.94), "\N{MINUS SIGN}0.9"),
        (points(-0.21), "+0.2"),
        (points(0.04), "\N{PLUS-MINUS SIGN}0.0"),
        (change(200, 176), "\N{MINUS SIGN}12.0 %"),
        (change(176, 200), "+13.6 %"),
        (change(2000, 2000.5), "\N{PLUS-MINUS SIGN}0.0 %"),
        (kib(296.02), "296.0"),
        (kib(3063.83), "3,064"),
        (milliseconds(83.78), "84"),
        (milliseconds(7.25), "7.2"),
        (frames(83.78), "12"),
        (frames(250.0), "4.0"),
        (duration(0.4), "0.4 s"),
        (duration(206.984), "3 min 27 s"),
        (duration(3900), "1 h 5 min"),
        (count(0, "warning"), "no warnings"),
        (count(1, "warning"), "1 warning"),
    ],
)
def test_figures_are_written_for_people(said: str, expected: str) -> None:
    assert said == expected


def test_settings_that_are_not_set_are_left_out() -> None:
    given: dict[str, Any] = {
        "a": None,
        "b": False,
        "c": [],
        "d": {"e": 1, "f": {"g": "x"}},
        "h": {"i": None},
    }
    assert settings(given) == [
        ("", {"b": "no", "c": "none"}),
        ("d", {"e": "1"}),
        ("d.f", {"g": "x"}),
    ]
