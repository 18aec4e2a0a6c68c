"""An image registry in a thread, as much of one as an engine needs to push and pull."""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit


class _Handler(BaseHTTPRequestHandler):
    """Blobs by digest, manifests by digest and tag, uploads by path; all in memory."""

    protocol_version = "HTTP/1.1"
    contents: dict[str, tuple[str, bytes]]
    uploads: dict[str, bytes]

    def do_GET(self) -> None:
        kind, data = self.contents.get(self.path, ("", b""))
        if self.path == "/v2/":
            self._answer(200, b"{}")
        elif kind:
            self._answer(200, data, {"Content-Type": kind, "Docker-Content-Digest": _digest(data)})
        else:
            self._answer(404)

    do_HEAD = do_GET

    def do_POST(self) -> None:
        self._body()
        place = f"{self.path}{len(self.uploads)}"
        self.uploads[place] = b""
        self._answer(202, headers={"Location": place})

    def do_PATCH(self) -> None:
        self.uploads[self.path] += self._body()
        extent = f"0-{len(self.uploads[self.path]) - 1}"
        self._answer(202, headers={"Location": self.path, "Range": extent})

    def do_PUT(self) -> None:
        url = urlsplit(self.path)
        data = self.uploads.get(url.path, b"") + self._body()
        kind = self.headers.get("Content-Type") or "application/octet-stream"
        digest = _digest(data)
        folder, _slash, reference = url.path.rpartition("/")
        if "digest" in parse_qs(url.query):
            folder, reference = folder.removesuffix("/uploads"), digest
        for name in (reference, digest):
            self.contents[f"{folder}/{name}"] = (kind, data)
        place = f"{folder}/{reference}"
        self._answer(201, headers={"Location": place, "Docker-Content-Digest": digest})

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _answer(
        self, status: int, data: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@contextlib.contextmanager
def registry() -> Iterator[str]:
    """Serve at an address that engines take without TLS."""
    handler = type("Handler", (_Handler,), {"contents": {}, "uploads": {}})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()
