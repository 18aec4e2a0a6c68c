"""The guard over the unit tests itself."""

from __future__ import annotations

import os
import socket
import subprocess

import pytest


@pytest.mark.parametrize(
    ("family", "address"),
    [(socket.AF_UNIX, "/var/run/docker.sock"), (socket.AF_INET, ("127.0.0.1", 1))],
)
def test_no_socket_is_connected(family: int, address: object) -> None:
    with socket.socket(family) as plug, pytest.raises(AssertionError, match="network or an engine"):
        plug.connect(address)  # type: ignore[arg-type]


def test_no_serial_port_is_opened() -> None:
    with pytest.raises(AssertionError, match="serial port"):
        os.open("/dev/ttyACM0", os.O_RDWR)


def test_no_engine_client_is_started() -> None:
    with pytest.raises(AssertionError, match="may not start docker"):
        subprocess.run(["docker", "version"], check=False)
