"""What a user is given by others, or by chance: each file is refused in one sentence.

Nothing that it names is read, written or run, and it takes neither the memory nor the time that
it would like to.
"""

from __future__ import annotations

import contextlib
import json
import re
import resource
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.hostile.crafted import SOUND, data_set, rings, write
from tests.hostile.files import ARCHIVES, FAULTS, IMAGES, LABELS, TFLITE, WEIGHTS
from tests.hostile.rows import OF_STEPS, OF_THE_DRIVER, Row
from tests.support.checkout import ROOT
from tests.support.fixtures import RunStep
from tests.support.user import User

#: Of its own memory; what is mapped from files does not count.
MEMORY_BYTES = 1 << 30
SECONDS = 40

Python = Callable[[str], Path]


@contextlib.contextmanager
def bounded(memory_bytes: int = MEMORY_BYTES) -> Iterator[None]:
    """What is started here has little memory and little time: a bomb ends the test alone.

    Both are counted from what this process has taken by now, for the limits are its own too.
    """
    used = int(time.process_time())
    wanted = {
        resource.RLIMIT_DATA: _data_bytes() + memory_bytes,
        resource.RLIMIT_CPU: used + SECONDS,
    }
    before = {kind: resource.getrlimit(kind) for kind in wanted}
    try:
        for kind, most in wanted.items():
            resource.setrlimit(kind, (most, before[kind][1]))
        yield
    finally:
        for kind, limits in before.items():
            resource.setrlimit(kind, limits)


def _data_bytes() -> int:
    """What RLIMIT_DATA counts of this process."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    found = re.search(r"^VmData:\s+(\d+) kB$", status, re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


@pytest.mark.parametrize("row", OF_THE_DRIVER, ids=lambda row: row.name)
def test_a_bad_input_is_one_sentence(user: User, row: Row) -> None:
    _is_refused(user, row)


@pytest.mark.slow
@pytest.mark.parametrize("row", OF_STEPS, ids=lambda row: row.name)
def test_a_bad_input_of_a_step_is_one_sentence(builder: User, row: Row) -> None:
    _is_refused(builder, row)


def _is_refused(user: User, row: Row) -> None:
    row.make(user.folder)
    with bounded():
        _out, err = user.types(*row.types, code=row.code)
    line = next(line for line in err.splitlines() if line.startswith("✕ ") and "  " not in line)
    assert re.fullmatch(row.says, line.removeprefix("✕ ")), err
    assert not list(user.folder.parent.rglob("canary"))


def test_links_that_go_round_in_circles_are_walked_once(user: User) -> None:
    rings(user.folder)
    with bounded():
        user.types("explain", "--data", ".")


def test_every_hostile_file_of_a_data_set_is_named(run_step: RunStep, tmp_path: Path) -> None:
    labels = {f"labels/train/{name}.txt": content for name, content in LABELS.items()}
    beside = {f"images/train/{name}.png": SOUND for name in LABELS}
    data_set("path: .\nnames: {0: person}")(tmp_path)
    write(tmp_path, {**IMAGES, **labels, **beside})
    with bounded():
        trial = run_step("check", {"task": "detect"}, {"data": tmp_path})
    assert trial.failure is not None
    assert trial.failure["kind"] == "data"
    assert {each["path"] for each in trial.problems} == FAULTS.keys()
    for each in trial.problems:
        assert re.fullmatch(FAULTS[each["path"]], each["message"]), each


def test_no_archive_reaches_out_of_its_folder(env_python: Python, tmp_path: Path) -> None:
    for name, (content, _says) in ARCHIVES.items():
        (tmp_path / f"{name}.zip").write_bytes(content)
    said = _script(env_python("train"), "unpacking", tmp_path)
    assert said.keys() == ARCHIVES.keys()
    for name, (_content, says) in ARCHIVES.items():
        taken = says == said[name]
        assert taken or (isinstance(says, str) and re.fullmatch(says, said[name])), said[name]
    assert not list(tmp_path.rglob("canary"))


def test_no_weights_run_code_or_take_the_memory(env_python: Python, tmp_path: Path) -> None:
    said = _script(env_python("train"), "attacks", tmp_path, memory_bytes=4 << 30)
    assert said.keys() == WEIGHTS.keys()
    for name, (kind, message, events) in said.items():
        assert re.fullmatch(WEIGHTS[name], message), (name, message)
        assert kind == "model" if "keypoints" in message else kind in ("weights", "taken")
        assert "ran code" not in events
    assert not list(tmp_path.rglob("canary"))


def test_no_model_takes_the_memory(env_python: Python) -> None:
    said = _script(env_python("vela"), "reading")
    assert said.keys() == TFLITE.keys()
    for name, message in said.items():
        assert re.fullmatch(TFLITE[name], message or ""), (name, message)


def _script(python: Path, name: str, *arguments: Path, memory_bytes: int = MEMORY_BYTES) -> Any:
    """What a script of this folder says, run in a stage's environment."""
    with bounded(memory_bytes):
        ended = subprocess.run(
            [python, "-W", "ignore", "-m", f"tests.hostile.{name}", *arguments],
            check=False,
            capture_output=True,
            text=True,
            cwd=ROOT,
            env={
                "PATH": "/usr/bin:/bin",
                "CUDA_VISIBLE_DEVICES": "",
                "PYTHONDONTWRITEBYTECODE": "1",
            },
            timeout=300,
        )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)
