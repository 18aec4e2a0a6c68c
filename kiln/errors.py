"""The error tree: each class builds its own sentence and has its own exit code."""

from __future__ import annotations

import contextlib
import difflib
import errno
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import ClassVar


class KilnError(Exception):
    """What failed and why; ``hint`` says what to do; ``log`` is where the whole story is."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "", log: Path | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.log = log


class RequestError(KilnError):
    """A flag, a make variable or a line of kiln.toml cannot be taken as it stands."""

    exit_code = 2


class UnknownName(RequestError):
    """A name that is none of the known ones; names the nearest."""

    def __init__(self, kind: str, name: str, known: Iterable[str], *, where: str = "") -> None:
        names = sorted(known)
        nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
        guess = f"did you mean {nearest[0]!r}? " if nearest else ""
        place = f" in {where}" if where else ""
        super().__init__(
            f"unknown {kind} {name!r}{place}", hint=f"{guess}known: {', '.join(names)}"
        )


class DataError(KilnError):
    """The data set is missing or broken."""

    exit_code = 3


class Changed(DataError):
    """A file is not what it was when it was hashed."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            f"{path} is not what was hashed: it changed during the build, or its disk is failing",
            hint="leave it alone during a build, and run the same command again: all files are "
            "read again, and what Kiln itself had made is made again if it is damaged",
        )


class WeightsError(KilnError):
    """The weights cannot be read or are of another task."""

    exit_code = 4


class EnvironmentBroken(KilnError):
    """A stage environment or image cannot be made."""

    exit_code = 5


class EngineError(KilnError):
    """The container engine cannot be reached, went away or refused."""

    exit_code = 6


class StepCrashed(KilnError):
    """A step ended in a way that it did not foresee."""

    exit_code = 7


class OutOfMemory(KilnError):
    """A step was killed for memory."""

    exit_code = 8


class DiskFull(KilnError):
    """No room was left."""

    exit_code = 9


class NetworkError(KilnError):
    """Something named must be fetched and cannot be."""

    exit_code = 10


class StepTimeout(KilnError):
    """A step ran past its limit."""

    exit_code = 11


class StoreError(KilnError):
    """The store cannot be read or written."""

    exit_code = 12


class ModelError(KilnError):
    """The model cannot be converted or compiled, or the firmware would not take it."""

    exit_code = 13


class NotAccepted(ModelError):
    """The firmware would not take this model; names each check that failed."""

    def __init__(
        self,
        firmware: str,
        refusals: Iterable[str],
        *,
        hint: str = "FORCE=1 keeps the model anyway, marked as not accepted",
    ) -> None:
        super().__init__(
            "\n".join([f"{firmware} would not take this model:", *(f"  ✕ {r}" for r in refusals)]),
            hint=hint,
        )


class DeviceError(KilnError):
    """A GPU was asked for and is not there."""

    exit_code = 14


class BundleError(KilnError):
    """A release is damaged, or is not by whom it should be."""

    exit_code = 15


class NotReproduced(KilnError):
    """A release was built again, and something came out differently."""

    exit_code = 16


class BoardError(KilnError):
    """The board cannot be reached, or does not say what it should."""

    exit_code = 17


class PortMissing(BoardError):
    """There is no such port."""

    def __init__(self, port: str) -> None:
        super().__init__(
            f"there is no port {port}",
            hint="plug the board in with a cable that carries data; without PORT= Kiln looks for "
            "the board itself and lists what is attached",
        )


class PortForbidden(BoardError):
    """The user has no permission for the port."""

    def __init__(self, port: str) -> None:
        super().__init__(
            f"you have no permission for {port}",
            hint="sudo usermod -aG dialout $USER, then log in again (on Arch the group is uucp)",
        )


class PortBusy(BoardError):
    """Another program has the port; ``holders`` are those that could be found out."""

    def __init__(self, port: str, holders: Iterable[str]) -> None:
        names = ", ".join(holders) or "another program"
        super().__init__(
            f"{port} is in use by {names}",
            hint="end it, or disconnect the board there: a line to a board has one user at a time",
        )


class BoardGone(BoardError):
    """The port vanished while it was in use."""

    def __init__(self, port: str) -> None:
        super().__init__(
            f"the board at {port} is gone: unplugged, or its USB port was reset",
            hint="plug it in again and run the same command; try another cable if this repeats",
        )


class FlashFailed(KilnError):
    """Writing to the board's flash failed; ``done`` of ``total`` bytes had been taken by then."""

    exit_code = 18

    def __init__(self, why: str, *, done: int, total: int) -> None:
        super().__init__(
            f"the model was not written: {why} (after {done // 1000} of {total // 1000} kB)",
            hint="the board takes another attempt: run the same command again"
            + ("; until one succeeds its model area holds half a model" if done else ""),
        )


class Interrupted(KilnError):
    """Ctrl-C or SIGTERM."""

    exit_code = 130


@contextlib.contextmanager
def os_errors(what: str, otherwise: type[KilnError] = StoreError) -> Iterator[None]:
    """Translate OSError into DiskFull, or ``otherwise``; ``what`` begins the message."""
    try:
        yield
    except OSError as error:
        place = f" ({error.filename})" if error.filename else ""
        message = f"{what}: {error.strerror or error}{place}"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(
                message,
                hint="make room (kiln clean, docker system prune), or set KILN_HOME to a folder "
                "on a larger disk; finished steps are kept",
            ) from error
        raise otherwise(message) from error
