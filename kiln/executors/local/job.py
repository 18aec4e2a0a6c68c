"""The folder that one step runs in: held against other drivers, and cleared at the end."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from kiln.errors import EnvironmentBroken, os_errors
from kiln.executors.events import LogLine, StepObserver
from kiln.executors.orphans import end_processes, is_dead, this_driver
from kiln.executors.protocol import StepRun, job_document
from kiln.store.tree import Tree, canonical_json
from kiln.store.verified_read import check_all
from kiln.system.files import hold, is_at, try_lock

#: A variable of all processes of a step.
STARTED_BY = "KILN_STARTED_BY"

_CLAIM = ".claim"
_SHORT_TMP = "short-tmp"


class JobFolder:
    """A job folder, laid out; ``finished`` is set by the executor. ``claim`` is a descriptor."""

    def __init__(self, path: Path, run: StepRun, claim: int) -> None:
        self.path = path
        self.claim = claim
        self.finished = False
        self._run = run

    @property
    def tmp(self) -> Path:
        """The folder for temporary files, by a short name."""
        return (self.path / _SHORT_TMP).readlink() / "tmp"

    @property
    def started_by(self) -> str:
        """The value of STARTED_BY for this job."""
        return _started_by(this_driver(), self.path)

    def move_outputs(self) -> None:
        """Fill the run's ``out``; raises EnvironmentBroken and DiskFull."""
        with _job_errors(self._run):
            _move(self.path / "out", self._run.out)

    def end_processes(self) -> None:
        """Kill what the step has left running, in its process group or out of it."""
        end_processes(STARTED_BY, self.started_by)


@contextlib.contextmanager
def job_folder(jobs: Path, run: StepRun, observe: StepObserver) -> Iterator[JobFolder]:
    """Lay out a job folder below ``jobs``, and take it away at the end.

    The unfinished work of a resumable step stays, unless it has finished. Ends what killed
    drivers left. Raises EnvironmentBroken, DiskFull, DataError and Changed.
    """
    folder = jobs / run.key
    _end_orphans(jobs)
    with _claimed(folder, run, observe) as claim:
        job = JobFolder(folder, run, claim)
        try:
            with _job_errors(run):
                _fill(folder, run)
            yield job
        finally:
            with _job_errors(run):
                _clear(folder, keep_state=run.resumable and not job.finished)


def _job_errors(run: StepRun) -> contextlib.AbstractContextManager[None]:
    return os_errors(f"step {run.step} cannot be run", EnvironmentBroken)


def _fill(folder: Path, run: StepRun) -> None:
    """Lay the job folder out; what an interrupted attempt left goes, except its state."""
    _clear(folder, keep_state=run.resumable)
    for name in ("in", "out", "tmp"):
        (folder / name).mkdir()
    (folder / "state").mkdir(exist_ok=True)
    _make_short_tmp(folder)
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
    """Empty a job folder, except the claim on it and what a later attempt may go on from."""
    for path in folder.iterdir():
        if path.name == _CLAIM or (keep_state and path.name == "state" and any(path.iterdir())):
            continue
        if path.name == _SHORT_TMP:
            _remove_short_tmp(path)
        elif path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _make_short_tmp(folder: Path) -> None:
    """Give a job's tmp a short name too, because a Unix socket's has at most 107 bytes.

    torch's loader processes hand their batches over by such sockets; if they cannot, a training
    waits for ever.
    """
    place = tempfile.mkdtemp(prefix="kiln-")
    (folder / _SHORT_TMP).symlink_to(place)
    Path(place, "tmp").symlink_to(folder / "tmp")


def _remove_short_tmp(link: Path) -> None:
    """Remove a link and an empty folder and nothing else, whatever may lie there by now."""
    place = link.readlink()
    with contextlib.suppress(OSError):
        if (place / "tmp").is_symlink():
            (place / "tmp").unlink()
        place.rmdir()
    link.unlink()


@contextlib.contextmanager
def _claimed(folder: Path, run: StepRun, observe: StepObserver) -> Iterator[int]:
    """Hold a job folder, made if need be, against other drivers; take it away if left empty."""
    with _job_errors(run):
        claim = _claim(folder, observe)
    try:
        yield claim
    finally:
        _remove_if_empty(folder)
        os.close(claim)


def _remove_if_empty(folder: Path) -> None:
    """Remove a job folder that holds nothing but the claim on it, by the holder of the claim."""
    if [path.name for path in folder.iterdir()] == [_CLAIM]:
        (folder / _CLAIM).unlink()
        # Another driver, or another step of this one, may have put its claim there meanwhile.
        with contextlib.suppress(OSError):
            folder.rmdir()


def _claim(folder: Path, observe: StepObserver) -> int:
    """Make a job folder unless it is there, and lock it; waits for another driver."""

    def waiting() -> None:
        observe(LogLine(text="another Kiln runs this very step: waiting for it"))

    while True:
        # The last holder of the folder may take it away between any two lines here, and inside
        # mkdir, which asks what is there only after it was refused.
        try:
            folder.mkdir(parents=True, exist_ok=True)
            claim = hold(folder / _CLAIM, waiting)
        except (FileExistsError, FileNotFoundError):
            continue
        os.truncate(claim, 0)
        os.write(claim, this_driver().encode())
        return claim


def _end_orphans(jobs: Path) -> None:
    """End what killed drivers left, whatever they were making; unfinished work stays."""
    for claim in jobs.glob(f"*/{_CLAIM}"):
        # It may be another driver's by now, or not be there any more.
        with contextlib.suppress(OSError), claim.open("r+", encoding="utf-8") as stream:
            driver = stream.read()
            if not is_dead(driver):
                continue
            end_processes(STARTED_BY, _started_by(driver, claim.parent))
            if try_lock(stream.fileno()) and is_at(claim, stream.fileno()):
                stream.truncate(0)
                _clear(claim.parent, keep_state=True)
                _remove_if_empty(claim.parent)


def _started_by(driver: str, folder: Path) -> str:
    """In all processes of a driver's step in a job folder, and in no other.

    The folder alone is not enough: while a dead driver's processes are ended it may become a
    living one's.
    """
    return f"{driver} {folder}"
