"""An image registry in a thread, as much of one as an engine needs to push and pull."""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit


class _Handler(BaseHTTPRequestHandler):
    """Blobs by digest, manifests by digest and tag, uploads by path; all in memory."""

    protocol_version = "HTTP/1.1"
    contents: dict[str, tuple[str, bytes]]
    uploads: dict[str, bytes]

    def do_GET(self) -> None:
        if self.path == "/v2/":
            self._answer(200, "application/json", b"{}")
        elif self.path in self.contents:
            self._answer(200, *self.contents[self.path])
        else:
            self._answer(404)

    do_HEAD = do_GET

    def do_POST(self) -> None:
        self._body()
        self.uploads[f"{self.path}{len(self.uploads)}"] = b""
        self._answer(202, location=f"{self.path}{len(self.uploads) - 1}")

    def do_PATCH(self) -> None:
        self.uploads[self.path] += self._body()
        self._answer(202, location=self.path)

    def do_PUT(self) -> None:
        url = urlsplit(self.path)
        data = self.uploads.get(url.path, b"") + self._body()
        kind = self.headers.get("Content-Type") or "application/octet-stream"
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        folder, _slash, reference = url.path.rpartition("/")
        if "digest" in parse_qs(url.query):
            folder, reference = folder.removesuffix("/uploads"), digest
        for name in (reference, digest):
            self.contents[f"{folder}/{name}"] = (kind, data)
        self._answer(201, location=f"{folder}/{reference}")

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
        self, status: int, kind: str = "", data: bytes = b"", *, location: str = ""
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        if kind:
            self.send_header("Content-Type", kind)
            self.send_header("Docker-Content-Digest", f"sha256:{hashlib.sha256(data).hexdigest()}")
        if location:
            self.send_header("Location", location)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


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
