"""What doctor learns from a real engine and from servers that answer, refuse or keep silent."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from kiln.executors import package_index as asking
from kiln.executors.docker.facts import engine_facts
from kiln.executors.package_index import index_problem, package_index
from tests.support.checkout import ROOT
from tests.support.docker_bench import engine_or_skip


class _Refusing(BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        self.send_error(403)

    def log_message(self, format: str, *args: object) -> None: ...


@pytest.fixture
def mirror() -> Iterator[str]:
    """The address of a package index that wants a password."""
    with HTTPServer(("127.0.0.1", 0), _Refusing) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/simple"
        server.shutdown()
        thread.join()


def _problem(address: str, home: Path, **variables: str) -> str:
    environ = {"HOME": str(home), "UV_DEFAULT_INDEX": address, **variables}
    return index_problem(package_index(environ, home))


def test_an_index_that_answers_is_reached_even_if_it_refuses(mirror: str, tmp_path: Path) -> None:
    assert _problem(mirror, tmp_path) == ""


def test_an_index_that_is_not_there_or_keeps_silent_is_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "_TIMEOUT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/simple"
        assert _problem(address, tmp_path) == "no answer within 0.2 s"
    assert _problem(address, tmp_path) == "Connection refused"


def test_certificates_that_are_not_there_are_told(tmp_path: Path) -> None:
    missing = str(tmp_path / "ca.pem")
    problem = _problem("https://localhost:1/simple", tmp_path, SSL_CERT_FILE=missing)
    assert problem == "No such file or directory"


def test_an_engine_says_where_its_data_is_and_what_its_images_take() -> None:
    with_engine = engine_or_skip()
    with_engine.close()
    facts = engine_facts(ROOT)
    assert facts.image_bytes >= 0
    assert facts.registry == "docker.io"
    assert set(facts.missing) <= {"train", "export", "vela"}
    assert facts.data is None or facts.data.is_dir()
