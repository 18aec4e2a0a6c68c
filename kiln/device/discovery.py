"""Which of the boards at this host is meant, and where it is after it was unplugged."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from kiln.device.ports import Port, attached_ports, find_port
from kiln.errors import BoardError, RequestError
from kiln.plan.targets import Target, load_target, target_names


@dataclasses.dataclass(frozen=True, kw_only=True)
class Attached:
    """A board whose firmware Kiln can talk to, and the port that it was last seen at."""

    port: Port
    target: Target

    def now(self) -> Port:
        """Where it is now: by its USB serial number, else at the same path, there or not."""
        attached = attached_ports()
        same = [
            port
            for port in attached
            if port.serial_number and port.serial_number == self.port.serial_number
        ]
        return next(iter(same), self.port)


def find_board(targets: Path, *, port: str | None, target: str | None) -> Attached:
    """The board at ``port``, the one of ``target``, or the only one; ``targets`` holds all kinds.

    Raises BoardError, which lists what is attached, and RequestError.
    """
    able = _able(targets, target)
    attached = attached_ports()
    if port is not None:
        # They differ in nothing that matters on this line.
        return Attached(port=find_port(able[0], port, attached), target=able[0])
    there = [each for each in able if any(found.usb in each.device.usb for found in attached)]
    if len(there) > 1:
        raise BoardError(
            f"several boards are attached: {', '.join(each.title for each in there)}",
            hint=f"say which one: --target {there[0].name}",
        )
    if len(able) > 1 and not there:
        raise BoardError(
            f"none of these is attached: {', '.join(each.title for each in able)}",
            hint="plug it in with a cable that carries data, or say where it is: "
            "--port /dev/ttyACM0",
        )
    chosen = (there or able)[0]
    return Attached(port=find_port(chosen, None, attached), target=chosen)


def _able(targets: Path, name: str | None) -> Sequence[Target]:
    """The target that is named, or all whose firmware Kiln can talk to."""
    known = [load_target(targets, each) for each in ([name] if name else target_names(targets))]
    able = [target for target in known if target.device.protocol == "sscma"]
    if not able:
        raise RequestError(
            f"the firmware of {known[0].name} does not speak the AT protocol",
            hint="it can be flashed, but neither asked nor watched",
        )
    return able
