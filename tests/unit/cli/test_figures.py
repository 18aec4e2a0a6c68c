"""What a verdict says on a terminal."""

from __future__ import annotations

import pytest

from kiln.cli.build import _figures
from kiln.cli.console import Terminal
from kiln.cli.figures import show_verdict
from kiln.report.result import Verdict
from stages.results.check_firmware import Check
from tests.support import build_documents


def test_a_note_on_a_check_that_was_passed_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    noted = Check(
        name="outputs",
        title="outputs",
        figure="eight",
        limit="seven",
        help="",
        ok=True,
        note="the firmware ignores the last",
    )
    show_verdict(Verdict(accepted=True, forced=False, checks=(noted,)), "SSCMA", Terminal())
    accepted, note = capsys.readouterr().out.splitlines()
    assert accepted == "\N{CHECK MARK} accepted by SSCMA (1 checks)"
    assert note == "! outputs: eight: the firmware ignores the last"


def test_accuracy_next_to_nothing_is_said_with_the_figure() -> None:
    build = build_documents.pose()
    lines = list(_figures(build_documents.built(build)))
    assert not any("next to nothing" in line for line in lines)
    build["numbers"]["accuracy"]["finds_nothing"] = True
    (line,) = [each for each in _figures(build_documents.built(build)) if "accuracy" in each]
    assert "[bold red]" in line
    assert "next to nothing" in line


def test_what_the_execution_of_the_compiled_file_has_shown_is_one_line() -> None:
    build = build_documents.pose()
    (line,) = [each for each in _figures(build_documents.built(build)) if "executed" in each]
    assert line.strip() == (
        "the compiled file, executed as Vela's encodings define it, gives the same bytes as the "
        "reference kernels"
    )
    accuracy = build["numbers"]["accuracy"]
    accuracy["equal_to_int8"] = False
    accuracy["artifacts"]["compiled"] = {"pose/map50": 0.5}
    lines = list(_figures(build_documents.built(build)))
    assert not any("same bytes" in line for line in lines)
    assert [line.strip() for line in lines if "compiled" in line] == ["pose mAP50 0.500 (compiled)"]


def test_a_fine_tuned_build_says_what_it_is_measured_by() -> None:
    build = build_documents.finetuned()
    lines = [line.strip() for line in _figures(build_documents.built(build))]
    assert "plain int8: 3,829.8 KiB of flash, 93.1 ms (37,236,586 cycles)" in lines
    assert any("(fine-tuned, 48 images)" in line for line in lines)
    assert lines[-1].endswith("pose mAP50-95 0.399 (plain int8)")
    build["numbers"]["plain"] |= {"cycles": None, "estimated_ms": None}
    lines = [line.strip() for line in _figures(build_documents.built(build))]
    assert "plain int8: 3,829.8 KiB of flash" in lines
    assert not any(
        "plain" in line for line in _figures(build_documents.built(build_documents.pose()))
    )
