"""Runs steps as processes of this host, in environments made from the same locks.

A step gets a job folder of links to its inputs, a bare set of variables and a process group of
its own. That is all there is to keep it in: the network is not closed to it, and memory is not
limited; the docker executor does both.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Literal

from kiln.errors import EnvironmentBroken, StepTimeout, os_errors
from kiln.executors.environments import Environment
from kiln.executors.events import EventReader
from kiln.executors.orphans import end_processes, is_dead, this_driver
from kiln.executors.protocol import STEP_VARIABLES, Listener, Say, StepExit, StepRun, job_document
from kiln.executors.uv import proxies
from kiln.executors.virtualenvs import Interpreter, VirtualEnvironments
from kiln.store.tree import Tree, canonical_json
from kiln.store.verified_read import check_all
from kiln.system import process
from kiln.system.workers import do_all, wait_for_lock
from stages.contract import EXIT_FAILED, EXIT_OK

_CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE")
_GPU_VARIABLES = ("CUDA_VISIBLE_DEVICES", "LD_LIBRARY_PATH")
_CLAIM = ".claim"
_WAY = "way"
_STARTED_BY = "KILN_STARTED_BY"
_OOM_COUNTER = Path("/proc/vmstat")
_SIGNAL_BASE = 128


class LocalExecutor:
    """``root`` is the checkout that holds ``stages``; environments and jobs lie in ``home``."""

    name: Literal["docker", "local"] = "local"

    def __init__(self, *, root: Path, home: Path, logs: Path) -> None:
        self._root = root.resolve()
        # Whatever way a driver came here, processes of its steps are known by the one true path.
        self._jobs = home.resolve() / "jobs"
        self._environments = VirtualEnvironments(home=home, logs=logs)

    def prepare(self, environments: Sequence[Environment], say: Say) -> None:
        """Make what is missing of these; raises EnvironmentBroken, DiskFull."""
        do_all(lambda each: self._environments.make(each, say), environments)

    def python(self, environment: Environment) -> Path:
        """The interpreter of an environment; raises EnvironmentBroken if it is not whole."""
        return self._interpreter(environment).path

    def run(self, run: StepRun, listener: Listener) -> StepExit:
        """Run one step; see ``Executor.run``."""
        interpreter = self._interpreter(run.environment)
        folder = self._jobs / run.key
        finished = False
        failing = f"step {run.step} cannot be run"
        _end_orphans(self._jobs)
        with os_errors(failing, EnvironmentBroken), _claimed(folder, listener) as claim:
            try:
                _fill(folder, run)
                code, oom_killed = self._start(run, interpreter, folder, listener, claim)
                ended = StepExit(code=code, oom_killed=oom_killed, facts=interpreter.facts)
                if code == EXIT_OK:
                    _move(folder / "out", run.out)
                    run.keep(ended)
                    finished = True
            finally:
                _clear(folder, keep_state=run.resumable and not finished)
        return ended

    def _interpreter(self, environment: Environment) -> Interpreter:
        found = self._environments.find(environment)
        if found is None:
            raise EnvironmentBroken(
                f"the {environment.name} environment is not there or was changed by hand",
                hint="run the same command again: it is made anew",
            )
        return found

    def _start(
        self,
        run: StepRun,
        interpreter: Interpreter,
        folder: Path,
        listener: Listener,
        claim: IO[str],
    ) -> tuple[int, bool]:
        """The step's exit status, as a shell would say it, and whether memory ran out."""
        reader = EventReader()

        def hear(chunk: bytes) -> None:
            for event in reader.feed(chunk):
                listener.event(event)

        killed_before = _oom_kills()
        try:
            code = process.run(
                [interpreter.path, "-m", run.module, folder],
                env=self._variables(run, interpreter.path, folder, os.environ),
                cwd=folder,
                on_stdout=hear,
                on_stderr=listener.log,
                timeout_s=run.limits.timeout_s,
                # Where a killed driver's step cannot be ended from, its end is waited for.
                inherit=[claim.fileno()],
            )
        except process.TimedOut as error:
            raise StepTimeout(
                f"step {run.step} ran past its limit of {run.limits.timeout_s:g} s",
                hint="it was stopped; run the same command again to try once more",
            ) from error
        finally:
            # What has left the step's group: it could still write into what the step gives.
            end_processes(_STARTED_BY, _started_by(this_driver(), folder))
        # The kernel may have taken a worker of the step and left the step to fail over it.
        oom_killed = code not in (EXIT_OK, EXIT_FAILED) and _oom_kills() > killed_before
        return (code if code >= 0 else _SIGNAL_BASE - code), oom_killed

    def _variables(
        self, run: StepRun, python: Path, folder: Path, environ: Mapping[str, str]
    ) -> dict[str, str]:
        """All that the step sees; of the user's own only what it cannot do without."""
        kept: dict[str, str] = {}
        if run.network:
            kept |= proxies(environ)
            kept |= {name: environ[name] for name in _CERTIFICATES if name in environ}
        if run.gpu == "none":
            kept["CUDA_VISIBLE_DEVICES"] = ""
        else:
            kept |= {name: environ[name] for name in _GPU_VARIABLES if name in environ}
        return {
            **STEP_VARIABLES,
            **kept,
            "PATH": os.pathsep.join([str(python.parent), os.defpath]),
            "HOME": str(_short_tmp(folder)),
            "TMPDIR": str(_short_tmp(folder)),
            _STARTED_BY: _started_by(this_driver(), folder),
            "PYTHONPATH": str(self._root),
            "PYTHONSAFEPATH": "1",
            # Beside the packages, for a step leaves nothing in the user's checkout.
            "PYTHONPYCACHEPREFIX": str(python.parent.parent / "pycache"),
        }


def _fill(folder: Path, run: StepRun) -> None:
    """Lay the job folder out; what an interrupted attempt left goes, but for its state."""
    _clear(folder, keep_state=run.resumable)
    for name in ("in", "out", "tmp"):
        (folder / name).mkdir()
    (folder / "state").mkdir(exist_ok=True)
    _make_way(folder)
    (folder / "job.json").write_bytes(canonical_json(job_document(run)))
    for name, tree in run.inputs.items():
        check_all(tree.files.values())
        _link(tree, folder / "in" / name)


def _link(tree: Tree, target: Path) -> None:
    """Show a tree at ``target``: real folders of links to its files.

    Libraries write beside what they read (label caches); this way it stays in the job folder.
    """
    if not tree.is_file:
        target.mkdir()
    # Each folder once: to find that one is there already takes longer than a link.
    for folder in {os.path.dirname(name) for name in tree.files} - {""}:  # noqa: PTH120 - 10,000
        (target / folder).mkdir(parents=True, exist_ok=True)
    for name, file in tree.files.items():
        (target / name).symlink_to(file.path.absolute())


def _move(source: Path, target: Path) -> None:
    """One by one: of a whole folder shutil tells every fault that it met, but not which kind."""
    for path in sorted(source.rglob("*")):
        place = target / path.relative_to(source)
        if path.is_dir() and not path.is_symlink():
            place.mkdir()
        else:
            shutil.move(path, place)


def _clear(folder: Path, *, keep_state: bool) -> None:
    """Empty a job folder, but for the claim on it and what a later attempt may go on from."""
    for path in folder.iterdir():
        if path.name == _CLAIM or (keep_state and path.name == "state" and any(path.iterdir())):
            continue
        if path.name == _WAY:
            _remove_way(path)
        elif path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _make_way(folder: Path) -> None:
    """Give a job's tmp a short name too, for a Unix socket's has at most 107 bytes.

    torch's loader processes hand their batches over by such sockets; where they cannot, a training
    waits for ever.
    """
    place = tempfile.mkdtemp(prefix="kiln-")
    (folder / _WAY).symlink_to(place)
    Path(place, "tmp").symlink_to(folder / "tmp")


def _short_tmp(folder: Path) -> Path:
    return (folder / _WAY).readlink() / "tmp"


def _remove_way(way: Path) -> None:
    """Nothing but a link and an empty folder goes, whatever may lie there by now."""
    place = way.readlink()
    with contextlib.suppress(OSError):
        if (place / "tmp").is_symlink():
            (place / "tmp").unlink()
        place.rmdir()
    way.unlink()


@contextlib.contextmanager
def _claimed(folder: Path, listener: Listener) -> Iterator[IO[str]]:
    """Hold a job folder, made if need be, against other drivers; take it away if left empty."""
    with _claim(folder, listener) as claim:
        try:
            yield claim
        finally:
            _remove_if_empty(folder)


def _remove_if_empty(folder: Path) -> None:
    if [path.name for path in folder.iterdir()] == [_CLAIM]:
        (folder / _CLAIM).unlink()
        # Another driver, or another step of this one, may have put its claim there meanwhile.
        with contextlib.suppress(OSError):
            folder.rmdir()


def _claim(folder: Path, listener: Listener) -> IO[str]:
    claim = folder / _CLAIM
    while True:
        # Who held the folder last may take it away between any two lines here, and inside mkdir,
        # which asks what is there only after it was refused.
        try:
            folder.mkdir(parents=True, exist_ok=True)
            stream = claim.open("a")
        except (FileExistsError, FileNotFoundError):
            continue
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            listener.log("another Kiln runs this very step: waiting for it")
            wait_for_lock(stream)
        if _is_at(claim, stream):
            stream.truncate(0)
            stream.write(this_driver())
            stream.flush()
            return stream
        stream.close()


def _is_at(path: Path, stream: IO[str]) -> bool:
    """Whether an open file still is the one of this name."""
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(path.stat(), os.fstat(stream.fileno()))
    return False


def _end_orphans(jobs: Path) -> None:
    """End what killed drivers left, whatever they were making; unfinished work stays."""
    for claim in jobs.glob(f"*/{_CLAIM}"):
        # It may be another driver's by now, or gone.
        with contextlib.suppress(OSError), claim.open("r+", encoding="utf-8") as stream:
            driver = stream.read()
            if not is_dead(driver):
                continue
            end_processes(_STARTED_BY, _started_by(driver, claim.parent))
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(claim, stream):
                stream.truncate(0)
                _clear(claim.parent, keep_state=True)
                _remove_if_empty(claim.parent)


def _started_by(driver: str, folder: Path) -> str:
    """In all processes of a driver's step in a job folder, and in no other.

    The folder alone does not do: while a dead driver's processes are ended it may become a living
    one's.
    """
    return f"{driver} {folder}"


def _oom_kills() -> int:
    """How many processes the kernel has killed for memory since it started; 0 if it won't say."""
    with contextlib.suppress(OSError):
        for line in _OOM_COUNTER.read_text(encoding="ascii").splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0
