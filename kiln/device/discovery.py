"""Finds the board that is meant among those at this host, and again after it was unplugged."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from kiln.device.ports import Port, attached_ports, find_port
from kiln.errors import BoardError, RequestError
from kiln.plan.targets import Target, load_target, target_names


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttachedBoard:
    """A board that speaks the AT protocol, and the port where it was last seen."""

    port: Port
    target: Target

    def current_port(self) -> Port:
        """Its port now, by its USB serial number; the last port if it is not found."""
        attached = attached_ports()
        same = [
            port
            for port in attached
            if port.serial_number and port.serial_number == self.port.serial_number
        ]
        return next(iter(same), self.port)


def find_board(targets: Path, *, port: str | None, target: str | None) -> AttachedBoard:
    """The board at ``port``, the one of ``target``, or the only one attached.

    ``targets`` is the folder of all targets. Raises BoardError, which lists what is attached, and
    RequestError.
    """
    candidates = _candidates(targets, target)
    attached = attached_ports()
    if port is not None:
        # All of them use the same rate and protocol.
        return AttachedBoard(port=find_port(candidates[0], port, attached), target=candidates[0])
    present = [
        target for target in candidates if any(each.usb in target.device.usb for each in attached)
    ]
    known = {usb for target in present for usb in target.device.usb}
    ports = [each for each in attached if each.usb in known]
    if len(present) > 1 and len(ports) > 1:
        raise BoardError(
            f"several boards are attached: {', '.join(target.title for target in present)}",
            hint=f"say which one: --target {present[0].name}",
        )
    if len(candidates) > 1 and not present:
        raise BoardError(
            f"none of these is attached: {', '.join(target.title for target in candidates)}",
            hint="plug it in with a cable that carries data, or say where it is: "
            "--port /dev/ttyACM0",
        )
    chosen = (present or candidates)[0]
    return AttachedBoard(port=find_port(chosen, None, attached), target=chosen)


def _candidates(targets: Path, name: str | None) -> Sequence[Target]:
    """The named target, or all that speak the AT protocol; raises RequestError."""
    known = [load_target(targets, each) for each in ([name] if name else target_names(targets))]
    candidates = [target for target in known if target.device.protocol == "sscma"]
    if not candidates:
        raise RequestError(
            f"the firmware of {known[0].name} does not speak the AT protocol",
            hint="it can be flashed, but not queried or monitored",
        )
    return candidates
