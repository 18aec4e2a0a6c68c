"""Serial ports of this host, and which of them is a board, by USB ids."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from kiln.errors import BoardError
from kiln.plan.targets import Target


@dataclasses.dataclass(frozen=True, kw_only=True)
class Port:
    """A serial port. ``usb`` is `vendor:product` as in a target; it and the device's serial number
    are None if unknown.
    """

    path: str
    title: str = ""
    usb: str | None = None
    serial_number: str | None = None

    def __str__(self) -> str:
        facts = ", ".join(fact for fact in (self.title, self.usb) if fact)
        return f"{self.path} ({facts})" if facts else self.path


def attached_ports() -> list[Port]:
    """Every serial port of this host, sorted by path."""
    from serial.tools.list_ports import comports

    return sorted(
        (
            Port(
                path=each.device,
                title=each.product or "",
                usb=None if each.vid is None else f"{each.vid:04x}:{each.pid:04x}",
                serial_number=each.serial_number,
            )
            for each in comports()
        ),
        key=lambda port: port.path,
    )


def find_port(target: Target, wanted: str | None, attached: Sequence[Port]) -> Port:
    """The port at the path ``wanted``, or else the only one that can be the target's board.

    Raises BoardError, which lists what is attached, if there is none or more than one.
    """
    if wanted is not None:
        return next((port for port in attached if port.path == wanted), Port(path=wanted))
    fitting = [port for port in attached if port.usb in target.device.usb]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise BoardError(
            f"{len(fitting)} attached devices can be a {target.title}: {_listed(fitting)}",
            hint=f"say which one: PORT={fitting[0].path}",
        )
    others = [port for port in attached if port.usb]
    raise BoardError(
        f"no {target.title} is attached (USB {' or '.join(target.device.usb)}); "
        + (f"there are {_listed(others)}" if others else "there is no USB serial port at all"),
        hint="plug it in with a cable that carries data, or say where it is: PORT=/dev/ttyACM0",
    )


def _listed(ports: Sequence[Port]) -> str:
    return ", ".join(str(port) for port in ports)
