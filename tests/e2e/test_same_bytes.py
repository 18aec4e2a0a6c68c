"""The same request gives the same files: elsewhere, in another executor, at another time."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kiln.executors.docker.executor import engine_status
from kiln.executors.environments import EnvironmentName
from kiln.executors.protocol import STEP_VARIABLES
from kiln.store.tree import hash_file
from tests.support.checkout import ROOT
from tests.support.fixtures import TINY, tree
from tests.support.shared_results import IMGSZ
from tests.support.user import User

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("environments")]

MODELS = (".safetensors", ".onnx", ".tflite", ".npz")
SETTINGS = """
[quantize]
granularity = "finetuned"
[finetune]
updates = 12
batch = 4
flash_kib = 1500
"""
TARGETS = ("grove-v2", "xiao-esp32s3")
#: What a build needs of a checkout.
CHECKOUT = ("kiln", "stages", "docker", "scripts", "targets", "compose.yaml", "kiln.lock")

FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")
#: Root alone may give processes a host name and a clock of their own. Steps inherit no variables,
#: so the library that sets the clock off is loaded from an /etc that only they see.
OTHER_HOST = ["unshare", "--mount", "--uts", "sh", "-ec"]
OTHER_HOST_SCRIPT = """
hostname another-host
cp -a /etc "$1/etc"
echo "$2" > "$1/etc/ld.so.preload"
echo +8y > "$1/etc/faketimerc"
mount --bind "$1/etc" /etc
shift 2
exec "$@"
"""
TIGHT_UMASK = ["sh", "-c", 'umask 077; exec "$@"', "sh"]

#: A machine on which every look at the clock comes an hour after the one before.
SLOW_MACHINE = """
import itertools, runpy, time
time.time = itertools.count(0, 3600).__next__
runpy.run_module("stages.train.train", run_name="__main__", alter_sys=True)
"""


def test_place_executor_and_time_leave_no_trace_in_the_files(
    tmp_path: Path, pose_data: Path, pose_weights: Path
) -> None:
    """Here in a container, if an engine answers; there on a host that is different all over."""
    weights = pose_weights / "weights.safetensors"
    here = User(tmp_path / "here")
    executor = "docker" if engine_status().reachable else "local"
    made_here = _build(here, pose_data / "data", weights, "--executor", executor)

    there = User(tmp_path / "là bas")
    own = os.geteuid() == 0 and FAKETIME.exists()
    there.variables |= _other_variables(_checkout(there.folder / "Kiln à côté"))
    under = ["taskset", "--cpu-list", str(min(os.sched_getaffinity(0))), *TIGHT_UMASK]
    if own:
        under += [*OTHER_HOST, OTHER_HOST_SCRIPT, "sh", str(there.folder), str(FAKETIME)]
    data = _backwards(pose_data / "data", there.folder / "other data")
    made_there = _build(there, data, weights, "--executor", "local", under=under)

    assert len(made_here) == 6 + 5
    assert made_there == made_here
    if not own:
        pytest.skip("the files are the same; for another clock and host name: root and libfaketime")


@pytest.mark.usefixtures("one_cpu")
def test_a_training_depends_on_no_number_of_cores_and_on_no_clock(
    env_python: Callable[[EnvironmentName], Path],
    tmp_path: Path,
    pose_frames: Path,
    pose_weights: Path,
) -> None:
    """Trained once on all cores, and once on a single one of a machine that is slow."""
    job = tmp_path / "job"
    for name in ("in", "out", "state", "tmp"):
        (job / name).mkdir(parents=True)
    for name in ("data", "dataset.json"):
        (job / "in" / name).symlink_to(pose_frames / name)
    document = {"contract": 1, "step": "train", "params": {"task": "pose", **TINY}}
    (job / "job.json").write_text(json.dumps(document), encoding="utf-8")
    variables = {**STEP_VARIABLES, "PYTHONPATH": str(ROOT), "TMPDIR": str(job / "tmp")}
    done = subprocess.run(
        [env_python("train"), "-c", SLOW_MACHINE, job],
        env={**variables, "HOME": str(job / "tmp"), "PATH": os.defpath},
        cwd=job,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(done.stdout.splitlines()[-1])["result"]
    assert (result["reproducible"], result["why_not"]) == (True, None)
    assert "time limit" not in done.stderr
    assert tree(job / "out").digest == tree(pose_weights).digest


def _build(
    user: User, data: Path, weights: Path, *arguments: str, under: list[str] | None = None
) -> dict[str, str]:
    """The digest of every model file by board and name; trained for an epoch from ``weights``, and
    fine-tuned."""
    (user.folder / "kiln.toml").write_text(SETTINGS, encoding="utf-8")
    request = ["--data", str(data), "--weights", str(weights), "--name", "same"]
    request += ["--imgsz", str(IMGSZ), "--epochs", "1", "--batch", "4", "--reproducible"]
    for target in TARGETS:
        command = ("build", "--target", target, *request, *arguments)
        with user.starts(*command, under=under or ()) as process:
            _out, err = process.communicate(timeout=900)
        assert process.returncode == 0, err
    return {str(path.relative_to(user.folder / "build")): hash_file(path) for path in _models(user)}


def _models(user: User) -> Iterator[Path]:
    for path in (user.folder / "build").rglob("*"):
        if path.suffix in MODELS:
            yield path


def _checkout(folder: Path) -> Path:
    for name in CHECKOUT:
        if (ROOT / name).is_dir():
            shutil.copytree(
                ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__")
            )
        else:
            shutil.copy(ROOT / name, folder / name)
    return folder


def _backwards(source: Path, target: Path) -> Path:
    """A copy whose files were made in the other order, which is how some systems list them."""
    for path in sorted(source.rglob("*"), reverse=True):
        if path.is_file():
            place = target / path.relative_to(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place)
    return target


def _other_variables(checkout: Path) -> dict[str, str]:
    """Another user, time zone and language, and a checkout of his own."""
    home = checkout.parent / "another home"
    home.mkdir()
    return {
        "PYTHONPATH": str(checkout),
        "HOME": str(home),
        "USER": "another",
        "LOGNAME": "another",
        "TZ": "Asia/Kathmandu",
        "LC_ALL": "C",
        "PYTHONHASHSEED": "7",
    }
