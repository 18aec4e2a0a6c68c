"""A step's stdout becomes events, whatever arrives on it."""

from __future__ import annotations

import io
import json

import pytest

from kiln.executors import events
from kiln.executors.events import MAX_LINE_BYTES, EventReader, LogLine, StepEvent
from stages.contract import Events


def _read(*chunks: bytes) -> list[StepEvent]:
    heard: list[StepEvent] = []
    reader = EventReader(heard.append)
    for chunk in chunks:
        reader.feed(chunk)
    reader.close()
    return heard


def test_all_that_the_contract_writes_is_understood() -> None:
    stream = io.StringIO()
    step = Events(stream)
    step.emit("started", step="train")
    step.progress(0.5, 40, "epochs")
    step.metric("box/map50", 0.25, at=1)
    step.warning("three images are very dark")
    step.problem("labels/a.txt", "bad", line=7)
    step.emit("device", name="a CPU", kind="cpu")
    step.emit("failed", kind="data", message="1 fault", hint="mend it")
    step.emit("finished", seconds=1.5, peak_memory_mib=100, result={"nc": 1})
    assert _read(stream.getvalue().encode()) == [
        events.Started(step="train"),
        events.Progress(done=0.5, total=40, unit="epochs"),
        events.Metric(name="box/map50", value=0.25, at=1),
        events.Warning(message="three images are very dark", hint=""),
        events.Problem(path="labels/a.txt", line=7, message="bad"),
        events.Device(name="a CPU", kind="cpu"),
        events.Failed(kind="data", message="1 fault", hint="mend it"),
        events.Finished(seconds=1.5, peak_memory_mib=100, result={"nc": 1}),
    ]


def test_an_event_may_arrive_in_pieces() -> None:
    line = json.dumps({"event": "started", "step": "ü"}, ensure_ascii=False).encode() + b"\n"
    assert _read(*(line[at : at + 1] for at in range(len(line)))) == [events.Started(step="ü")]


@pytest.mark.parametrize(
    "line",
    [
        b"{not json",
        b"[]",
        b"[" * 100_000,
        b"\xff\xfe",
        b'{"event": 5}',
        b'{"event": "nobody knows it"}',
        b'{"event": "progress", "done": 1}',
        b'{"event": "progress", "done": "1", "total": 2, "unit": "x"}',
        b'{"event": "progress", "done": NaN, "total": 2, "unit": "x"}',
        b'{"event": "progress", "done": 1' + b"0" * 400 + b', "total": 2, "unit": "x"}',
        b'{"event": "finished", "seconds": 1, "peak_memory_mib": 1, "result": []}',
        b"x" * (MAX_LINE_BYTES + 1),
    ],
)
def test_what_is_no_event_is_left_out_and_counted(line: bytes) -> None:
    told = LogLine(text="1 lines on stdout were not events and are left out")
    whole = b'{"event": "started", "step": "train"}\n'
    assert _read(line, b"\n\n", whole) == [events.Started(step="train"), told]
    assert _read(whole, line) == [events.Started(step="train"), told]
