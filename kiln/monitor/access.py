"""Access to the page: on loopback for every program of this host, elsewhere with a token.

Loopback does not keep web pages out: any page in a browser of this host can send requests to it. So
requests with a foreign Host header are refused (DNS rebinding), and a WebSocket, which browsers let
connect anywhere, must have the page's own Origin.
"""

from __future__ import annotations

import hmac
import ipaddress
import secrets
import socket
from collections.abc import Mapping
from urllib.parse import urlsplit

from kiln.errors import RequestError

LOOPBACK = "127.0.0.1"
#: The token in the address that is printed.
PARAMETER = "token"


class Access:
    """The rules for one address; ``token`` is None on loopback, where none is needed."""

    def __init__(self, address: str, port: int, *, token: str | None = None) -> None:
        self._shown = _shown_host(address)
        self._port = port
        self.token = token
        if token is None and not ipaddress.ip_address(address).is_loopback:
            self.token = secrets.token_urlsafe(32)
        #: Cookies are the same for all ports of a host.
        self.cookie = f"kiln-monitor-{port}"

    @property
    def url(self) -> str:
        """What to open in a browser."""
        query = f"?{PARAMETER}={self.token}" if self.token else ""
        return f"http://{self._shown}:{self._port}/{query}"

    def knows_host(self, host: str) -> bool:
        """Whether a Host header is one of this host's; only checked where there is no token."""
        if self.token is not None:
            return True
        names = (self._shown, LOOPBACK, "localhost", "[::1]")
        return host.lower() in {f"{name}:{self._port}" for name in names}

    def is_token(self, given: str | None) -> bool:
        """Whether this is the token, compared in constant time."""
        if self.token is None:
            return True
        return hmac.compare_digest((given or "").encode(), self.token.encode())

    def is_own_page(self, headers: Mapping[str, str]) -> bool:
        """Whether a WebSocket was opened by a page of this server."""
        origin = urlsplit(headers.get("origin", ""))
        return origin.scheme == "http" and origin.netloc.lower() == headers.get("host", "").lower()


def bind(address: str, port: int) -> socket.socket:
    """A listening socket; ``port`` 0 takes a free one. Raises RequestError."""
    try:
        family = socket.AF_INET6 if ipaddress.ip_address(address).version == 6 else socket.AF_INET
    except ValueError:
        raise RequestError(
            f"--listen takes an address of this host, not {address!r}", hint="--listen 0.0.0.0"
        ) from None
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        # The port of a monitor that has just ended would otherwise be refused for a minute.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((address, port))
        listening.listen()
    except OSError as error:
        listening.close()
        raise RequestError(
            f"cannot listen on {address}, port {port}: {error.strerror}",
            hint="another program may have the port: leave --http-port out to take a free one",
        ) from error
    return listening


def _shown_host(address: str) -> str:
    """The address for a browser; this host's name for the unspecified address."""
    known = ipaddress.ip_address(address)
    if known.is_unspecified:
        return socket.gethostname()
    return f"[{address}]" if known.version == 6 else address
