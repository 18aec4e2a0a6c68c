"""Plans what is written to a board's flash before a port is opened, and writes it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from kiln import __version__
from kiln.device.board_firmware import ModelNeeds
from kiln.device.link import Link
from kiln.errors import ModelError, NotAccepted, RequestError, os_errors
from kiln.plan.targets import Device, Target
from kiln.report.result import BuildResult, Verdict

#: What a flash chip erases at a time: no write may touch a sector that holds anything else.
SECTOR_BYTES = 0x1000
#: Where a FlatBuffer has its file identifier, and that of TensorFlow Lite's schema.
_IDENTIFIER_AT, _IDENTIFIER = 4, b"TFL3"
#: What XMODEM may add to the end of a file: the rest of a packet, and one more packet.
PADDING_BYTES = 255


@dataclasses.dataclass(frozen=True, kw_only=True)
class FlashPlan:
    """A model that may be written to a board, and where. ``sha256`` is that of ``model``.

    ``build`` is the result folder that it comes from, None for a bare file. ``needs`` is what it
    asks of the board's firmware, None if that was not looked at.
    """

    target: Target
    path: Path
    model: bytes
    sha256: str
    address: int
    build: Path | None = None
    needs: ModelNeeds | None = None

    @property
    def file(self) -> str:
        """The name of the file."""
        return self.path.name


def plan_flash(
    build: BuildResult, folder: Path, target: Target, address: int | None, *, force: bool
) -> FlashPlan:
    """Plan to write the deployed file of a build, which lies in ``folder``.

    Raises RequestError for a build of another target and for an address that must not be written,
    ModelError for a file that is not the one of the build or no model, or too large, and
    NotAccepted for one that the firmware would not take, unless ``force``.
    """
    if build.target != target.name:
        raise RequestError(
            f"{folder} was built for {build.target}, and the board is {target.name}",
            hint=f"build it for this board: make model TARGET={target.name}",
        )
    file = folder / build.deployed
    model = read_model(file)
    sha256 = hashlib.sha256(model).hexdigest()
    if sha256 != build.deployed_file.sha256:
        raise ModelError(
            f"{file} is not the file that its build.json describes",
            hint="it was changed or damaged since; the same build command writes it again",
        )
    if not force:
        check_verdict(build.verdict, build.board.firmware)
    return _plan(file, model, target, address, build=folder)


def plan_file(file: Path, target: Target, address: int | None) -> FlashPlan:
    """Plan to write a file that Kiln need not have made; the caller checks its verdict.

    Raises RequestError and ModelError as `plan_flash` does.
    """
    return _plan(file, read_model(file), target, address, build=None)


def read_model(file: Path) -> bytes:
    """Read a TFLite file; raises ModelError if it is none or cannot be read."""
    try:
        model = file.read_bytes()
    except OSError as error:
        raise ModelError(
            f"{file} cannot be read: {error.strerror}", hint="the build command writes it again"
        ) from error
    if model[_IDENTIFIER_AT : _IDENTIFIER_AT + len(_IDENTIFIER)] != _IDENTIFIER:
        raise ModelError(
            f"{file} is not a TFLite file", hint="pass a result folder of build/, or a .tflite file"
        )
    return model


def check_verdict(verdict: Verdict, firmware: str) -> None:
    """Raises NotAccepted for a model that the firmware would not take."""
    if not verdict.accepted:
        raise NotAccepted(
            firmware,
            verdict.refusals,
            hint="FORCE=1 writes it all the same; the board will most likely not run it",
        )


def _plan(
    file: Path, model: bytes, target: Target, address: int | None, *, build: Path | None
) -> FlashPlan:
    address = target.flash.model_address if address is None else address
    check_range(target, address, len(model))
    return FlashPlan(
        target=target,
        path=file,
        model=model,
        sha256=hashlib.sha256(model).hexdigest(),
        address=address,
        build=build,
    )


def check_range(target: Target, address: int, size: int) -> None:
    """Check a write of ``size`` bytes against the target's flash map.

    Raises RequestError for an address, and ModelError for a size, that does not fit.
    """
    first, area = target.flash.model_address, target.flash.model_bytes
    if address % SECTOR_BYTES:
        raise RequestError(
            f"ADDRESS={address:#x} is not a multiple of {SECTOR_BYTES:#x}, which the flash erases "
            "at a time",
            hint=f"use ADDRESS={address // SECTOR_BYTES * SECTOR_BYTES:#x}",
        )
    if not first <= address < first + area:
        raise RequestError(
            f"ADDRESS={address:#x} is outside the model area of {target.name}, which goes from "
            f"{first:#x} to {first + area:#x}",
            hint=f"leave ADDRESS out: the firmware looks at {first:#x}",
        )
    end = address + -(-(size + PADDING_BYTES) // SECTOR_BYTES) * SECTOR_BYTES
    if end > first + area:
        raise ModelError(
            f"the model has {size / 1024:.0f} KiB, and from {address:#x} on {target.name} has room "
            f"for {(first + area - address) / 1024:.0f} KiB",
            hint="take a smaller MODEL, or leave ADDRESS out",
        )
    _refuse_protected(target.device, target.name, address, end)


def _refuse_protected(device: Device, name: str, address: int, end: int) -> None:
    for kept in device.protected:
        if address < kept.address + kept.bytes and kept.address < end:
            raise RequestError(
                f"the model would reach from {address:#x} to {end:#x} and so overwrite "
                f"{kept.name} at {kept.address:#x} of {name}; Kiln never writes there",
                hint=device.address_help.strip() or "choose another ADDRESS",
            )


def write_we2(
    link: Link,
    plan: FlashPlan,
    progress: Callable[[int, int], None],
    say: Callable[[str], object] = lambda _text: None,
) -> None:
    """Write a plan through the WiseEye2's bootloader; ``progress`` gets bytes done and in all.

    Raises BoardError if the bootloader does not answer, FlashFailed once something was sent.
    """
    from kiln.device.we2 import BootloaderClient

    handshake = plan.target.device.handshake
    if handshake is None:
        raise RequestError(f"targets/{plan.target.name}.toml lacks the table [device.handshake]")
    BootloaderClient(link, handshake, say=say).write(plan.model, plan.address, progress)


def record_flash(home: Path, plan: FlashPlan, port: str, board: str | None) -> None:
    """Add a line to flashed.jsonl under ``home``. ``board`` is its USB serial number, if any."""
    line = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "target": plan.target.name,
        "port": port,
        "board": board,
        "file": plan.file,
        "sha256": plan.sha256,
        "address": plan.address,
        "kiln": __version__,
    }
    with os_errors("the flash cannot be recorded"):
        home.mkdir(parents=True, exist_ok=True)
        # One write to the end of the file: concurrent flashes do not mix their lines.
        handle = os.open(home / "flashed.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(handle, json.dumps(line).encode() + b"\n")
            os.fsync(handle)
        finally:
            os.close(handle)
