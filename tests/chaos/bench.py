"""A checkout whose steps are stand-ins, a user of it, and faults to meet him with.

The driver, the store and the executor are the real ones, run as ``python -m kiln build``. The
steps are stand-ins (standin.py): what they give is cheap and follows from what goes in, and they
wait at a named point until they are told to go on, so that a fault hits exactly there. So their
environments need next to no packages.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import random
import re
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from kiln.executors.environments import ENVIRONMENT_NAMES
from tests.chaos.standin import GIVES
from tests.support.checkout import ROOT
from tests.support.executor_bench import one_pin
from tests.support.user import User

STEPS = tuple(GIVES)
#: What the driver calls where it changes a disk; each is a boundary that a fault may hit.
CALLS = (
    *("rename", "mkdir", "rmdir", "unlink", "unlinkat", "symlink", "chmod", "fchmod", "fsync"),
    *("flock", "openat", "write", "ftruncate"),
)
_MODULE = "from stages.contract import main\nfrom stages.{}.standin import run\n\nmain(run)\n"
_MODULES = (
    *(f"train/{name}" for name in ("demo", "check", "frames", "train", "images", "onnx")),
    *("export/quantize", "export/evaluate", "vela/compile", "vela/check_firmware"),
    "vela/outputs",
)
_LIMIT_S = 120.0
#: What a time of day, a host or an attempt puts into build.json.
_PASSING = ("seconds", "peak_memory_mib")

#: `make chaos` sets it: every fault, rather than a sample of each kind.
ALL = bool(os.environ.get("KILN_CHAOS"))

injected: list[str] = []

T = TypeVar("T")


def make_checkout(root: Path) -> Path:
    """Lay out a checkout: everything real except the steps, and next to no packages."""
    for folder in ("kiln", "docker", "targets"):
        shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("*.pyc"))
    shutil.copy(ROOT / "compose.yaml", root)
    for name in _MODULES:
        path = root / "stages" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(_MODULE.format(path.parent.name), encoding="utf-8")
        shutil.copy(Path(__file__).with_name("standin.py"), path.parent)
    for path in (ROOT / "stages").glob("*.py"):  # what the driver imports too
        shutil.copy(path, root / "stages")
    shutil.copytree(ROOT / "stages" / "results", root / "stages" / "results")
    for name in ENVIRONMENT_NAMES:
        (root / "docker" / f"{name}.lock").write_text(one_pin("idna"), encoding="utf-8")
    (root / "envs").mkdir()
    return root


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ended:
    """How a build ended: exit code (negative for a signal) and what it said."""

    code: int
    said: str


class Victim:
    """A user in a folder of his own. ``whole`` is an undisturbed build of the same request."""

    def __init__(self, checkout: Path, folder: Path, whole: Whole | None = None) -> None:
        self.user = User(folder, checkout / "envs")
        self.user.variables["PYTHONPATH"] = str(checkout)
        self.home = self.user.home
        self.control = checkout / "control"
        self.whole = whole
        self.command: tuple[str, ...] = ("build", "--executor", "local")
        shutil.rmtree(self.control, ignore_errors=True)
        self.control.mkdir()
        for name in ("reached", "go"):
            os.mkfifo(self.control / name)

    # What is to go wrong.

    def order(self, at: str, what: str) -> None:
        """What a step does at one of its points, as in ``"train middle", "wait"``."""
        (self.control / "orders.json").write_text(json.dumps({at: what}), encoding="utf-8")

    def order_nothing(self) -> None:
        (self.control / "orders.json").unlink(missing_ok=True)

    @contextlib.contextmanager
    def waiting(
        self, at: str, *arguments: str, how: str = "wait"
    ) -> Iterator[tuple[subprocess.Popen[str], int]]:
        """A driver, one of whose steps waits at a point, and that step's process id."""
        self.order(at, how)
        with self.listening(), self.starts(*arguments) as driver:
            try:
                pid = int(self.hears())
                self.order_nothing()
                yield driver, pid
            finally:
                if driver.poll() is None:
                    driver.kill()

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Before a step can tell anything somebody must listen."""
        self._ear = os.open(self.control / "reached", os.O_RDWR)
        try:
            yield
        finally:
            os.close(self._ear)

    def hears(self) -> str:
        """What a step tells; fails if it says nothing for long."""
        ready, _, _ = select.select([self._ear], [], [], _LIMIT_S)
        assert ready, "no step has said a word"
        return os.read(self._ear, 100).decode().strip()

    def let_go(self) -> None:
        """Tell a waiting step to go on."""
        (self.control / "go").write_text("1", encoding="utf-8")

    # What he does.

    def starts(self, *arguments: str, under: Sequence[str] = ()) -> subprocess.Popen[str]:
        return self.user.starts(*self.command, *arguments, under=under)

    def builds(self, *arguments: str, under: Sequence[str] = ()) -> Ended:
        with self.starts(*arguments, under=under) as driver:
            return ended(driver)

    def builds_with(self, call: str, fault: str) -> Ended:
        """A build that meets a fault at a system call of its own or of a step's, such as
        ``signal=KILL:when=3``; see strace(1).
        """
        injection = ("-e", f"trace={call}", "-e", f"inject={call}:{fault}")
        done = self.builds(under=(*self._strace, *injection))
        trace = (self.control / "trace").read_text("utf-8", errors="replace")
        assert re.search(r"INJECTED|killed by SIGKILL|--- SIGINT", trace), "nothing was hit"
        return done

    def traces(self, *calls: str) -> str:
        """All of these system calls of an undisturbed build, a line each, process id first."""
        done = self.builds(under=(*self._strace, "-y", "-e", f"trace={','.join(calls)}"))
        assert done.code == 0, done.said
        return (self.control / "trace").read_text("utf-8", errors="replace")

    @property
    def _strace(self) -> tuple[str, ...]:
        # Not --seccomp-bpf: it is faster and injects no signals.
        return ("strace", "-f", "-q", "-o", str(self.control / "trace"))

    # What is left.

    @property
    def entries(self) -> Path:
        return self.home / "store" / "entries"

    def finished_steps(self) -> set[str]:
        """Steps of the undisturbed build whose entries are in the store, whole."""
        assert self.whole is not None
        found = {key: each for key, each in self.documents().items() if key in self.whole.files}
        return {step_of(document) for document in found.values()}

    def documents(self) -> dict[str, Any]:
        """Every entry by its key, held against its own list of files."""
        found = {}
        for folder in self.entries.glob("*"):
            document = json.loads((folder / "entry.json").read_text(encoding="utf-8"))
            for name, (sha256, _size) in document["files"].items():
                data = (folder / "out" / name).read_bytes()
                assert hashlib.sha256(data).hexdigest() == sha256, f"{folder.name}: {name}"
            found[folder.name] = document
        return found

    def notes(self) -> list[str]:
        path = self.control / "notes"
        return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []

    def result(self) -> dict[str, Any]:
        """Digests of all files of the result but the page, and build.json without times."""
        (folder,) = (self.user.folder / "build" / "grove-v2").iterdir()
        files = {path.name: path.read_bytes() for path in folder.iterdir()}
        document = json.loads(files.pop("build.json"))
        assert files.pop("report.html").rstrip().endswith(b"</html>")
        digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
        return {**digests, "build.json": _lasting(document)}

    def recovers(self) -> Ended:
        """The next build ends like an undisturbed one and does nothing again that was done."""
        assert self.whole is not None
        self.order_nothing()
        before = self.finished_steps()
        noted = len(self.notes())
        done = self.builds()
        assert done.code == 0, done.said
        started = [line.split()[0] for line in self.notes()[noted:] if line.endswith("started")]
        assert sorted([*before, *started]) == sorted(STEPS)
        self.is_whole()
        return done

    def is_whole(self) -> None:
        """All that an undisturbed build gives is there; nothing unfinished or running is left."""
        assert self.whole is not None
        assert self.result() == self.whole.result
        documents = self.documents()
        assert {key: documents[key]["files"] for key in self.whole.files} == self.whole.files
        assert [path.name for path in (self.home / "store" / "tmp").iterdir()] == []
        assert [path.name for path in (self.home / "jobs").glob("*")] == []
        index = self.home / "store" / "index"
        assert {path.suffix for path in index.iterdir()} <= {".json"}
        assert self.running() == []

    def running(self) -> list[str]:
        """Processes that run in this home."""
        found = []
        for each in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if str(self.home).encode() in (each / "environ").read_bytes():
                    found.append((each / "cmdline").read_text().replace("\0", " "))
        return found

    def clears_up(self) -> None:
        """End what a failed test left."""
        for each in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if str(self.home).encode() in (each / "environ").read_bytes():
                    os.kill(int(each.name), signal.SIGKILL)


def step_of(document: Mapping[str, Any]) -> str:
    """The step that an entry is of."""
    module: str = document["recipe"]["step"]
    return module.rpartition(".")[2].replace("_", "-")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Whole:
    """What an undisturbed build gives: its result, and the files of every entry by its key."""

    result: Mapping[str, Any]
    files: Mapping[str, Any]


def ended(driver: subprocess.Popen[str]) -> Ended:
    """Wait for a driver's end; it must come."""
    try:
        _out, err = driver.communicate(timeout=_LIMIT_S)
    except subprocess.TimeoutExpired:
        driver.kill()
        raise
    return Ended(code=driver.returncode, said=err)


def reads_up_to(driver: subprocess.Popen[str], text: str) -> None:
    """Read what a driver says until it says this."""
    assert driver.stderr is not None
    assert any(text in line for line in driver.stderr), f"the driver never said: {text}"


def gone(pid: int) -> bool:
    """Whether a process ends within a moment."""
    deadline = time.monotonic() + 5
    state = Path(f"/proc/{pid}/stat")
    while time.monotonic() < deadline:
        try:
            if state.read_text(encoding="ascii").rsplit(")", 1)[1].split()[0] in "ZX":
                return True
        except OSError:
            return True
        time.sleep(0.02)
    return False


def _lasting(value: Any) -> Any:
    """A document without what differs from one attempt to the next."""
    if isinstance(value, dict):
        return {key: _lasting(each) for key, each in value.items() if key not in _PASSING}
    return [_lasting(each) for each in value] if isinstance(value, list) else value


def sample(population: Sequence[T], size: int) -> list[T]:
    """Some of them, always the same; all of them where KILN_CHAOS is set."""
    if ALL:
        return list(population)
    return random.Random(len(population)).sample(population, size)


def faults(some: int, many: int) -> int:
    """How many to inject where there is no end of them."""
    return many if ALL else some
