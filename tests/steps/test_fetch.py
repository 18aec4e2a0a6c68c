"""The fetch step against a server on this host; the real addresses are only seen to fail."""

from __future__ import annotations

import hashlib
import io
import shutil
import stat
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.fixtures import RunStep, Trial

#: Nothing listens there.
NOWHERE = "http://127.0.0.1:9"


class Server(ThreadingHTTPServer):
    """Serves ``pages``; what is not among them is 404."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.pages: dict[str, bytes] = {}

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    """Answers from ``Server.pages``; says of /short that it is longer than it is."""

    server: Server

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        body = self.server.pages.get(path)
        if body is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(body) + 1000 * (path == "/short.zip")))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def _zip(*members: tuple[str | zipfile.ZipInfo, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return stream.getvalue()


def _zip_folder(folder: Path, prefix: str = "") -> bytes:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return _zip(
        *((prefix + path.relative_to(folder).as_posix(), path.read_bytes()) for path in paths)
    )


def _files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def _fetch(run_step: RunStep, kind: str, name: str) -> Trial:
    return run_step(f"fetch-{kind}", {"kind": kind, "name": name}, {})


def test_a_data_set_comes_in_the_normal_layout(
    run_step: RunStep, server: Server, pose_data: Path
) -> None:
    body = _zip_folder(pose_data / "data", "some/folder/")
    server.pages["/people.zip"] = body
    trial = _fetch(run_step, "data", f"{server.address}/people.zip?key=secret").expect_success()
    expected, found = _files(pose_data / "data"), _files(trial.out / "data")
    description = yaml.safe_load(expected.pop("data.yaml"))
    assert yaml.safe_load(found.pop("data.yaml")) == description
    assert found == expected
    assert trial.result.url == f"{server.address}/people.zip"
    assert trial.result.sha256 == hashlib.sha256(body).hexdigest()
    assert trial.result.bytes == len(body)
    assert [each["unit"] for each in trial.events if each["event"] == "progress"][-1] == "bytes"
    checked = run_step("check", {"task": "pose"}, {"data": trial.out / "data"})
    checked.expect_success()


def test_other_layouts_are_brought_into_the_normal_one(
    run_step: RunStep, server: Server, pose_data: Path, tmp_path: Path
) -> None:
    """As Roboflow lays sets out, with one image in both splits and the leavings of a Mac."""
    source, data = pose_data / "data", tmp_path / "set"
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            shutil.copytree(source / kind / split, data / split / kind)
    description = {
        "train": "../train/images",
        "val": ["../val/images", "../train/images"],
        "names": ["person"],
        "nc": 1,
        "kpt_shape": [17, 3],
    }
    (data / "data.yaml").write_text(yaml.safe_dump(description))
    (data / "train/images/._00000.jpg").write_bytes(b"resource fork")
    server.pages["/set.zip"] = _zip_folder(data)
    trial = _fetch(run_step, "data", f"{server.address}/set.zip").expect_success()
    found = _files(trial.out / "data")
    assert yaml.safe_load(found["data.yaml"])["names"] == {0: "person"}
    for split, prefix, origin in (
        ("train", "", "train"),
        ("val", "0/", "val"),
        ("val", "1/", "train"),
    ):
        for kind in ("images", "labels"):
            for name, content in _files(source / kind / origin).items():
                assert found.pop(f"{kind}/{split}/{prefix}{name}") == content
    assert list(found) == ["data.yaml"]


def test_a_folder_for_each_class_is_taken_without_a_description(
    run_step: RunStep, server: Server
) -> None:
    """As Roboflow exports classes: `valid` for val, and a README."""
    names = ("train/ripe/1.jpg", "train/raw/2.jpg", "valid/ripe/3.jpg", "test/raw/4.jpg")
    files = [(f"fruit/{name}", name.encode()) for name in (*names, "README.txt")]
    server.pages["/fruit.zip"] = _zip(*files)
    trial = _fetch(run_step, "data", f"{server.address}/fruit.zip").expect_success()
    found = _files(trial.out / "data")
    assert yaml.safe_load(found.pop("data.yaml"))["names"] == {0: "raw", 1: "ripe"}
    assert found == {
        "images/train/ripe/1.jpg": b"train/ripe/1.jpg",
        "images/train/raw/2.jpg": b"train/raw/2.jpg",
        "images/val/ripe/3.jpg": b"valid/ripe/3.jpg",
    }


def test_an_archive_of_classes_without_val_is_refused(run_step: RunStep, server: Server) -> None:
    server.pages["/fruit.zip"] = _zip(("train/ripe/1.jpg", b"1"))
    trial = _fetch(run_step, "data", f"{server.address}/fruit.zip")
    assert trial.failure is not None
    assert "no val/ or test/ beside it" in trial.failure["message"]


def test_weights_come_as_they_are(run_step: RunStep, server: Server) -> None:
    server.pages["/my.pt"] = b"weights"
    trial = _fetch(run_step, "weights", f"{server.address}/my.pt").expect_success()
    assert _files(trial.out) == {"weights.pt": b"weights"}


def _link() -> zipfile.ZipInfo:
    member = zipfile.ZipInfo("images/link.jpg")
    member.external_attr = (stat.S_IFLNK | 0o777) << 16
    return member


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"garbage", "is no zip archive"),
        (_zip(("../../outside.txt", b"")), "would write outside its folder"),
        (_zip(("/outside.txt", b"")), "would write outside its folder"),
        (_zip(("..\\outside.txt", b"")), "would write outside its folder"),
        (_zip((_link(), b"/etc/passwd")), "holds a link"),
        (_zip(("readme.txt", b"")), "holds no data.yaml"),
        (_zip(("data.yaml", b"names: [a]\ntrain: x")), "has no 'val'"),
        (_zip(("data.yaml", b"names: [a]\ntrain: x\nval: ../..")), "has no x"),
    ],
)
def test_a_bad_archive_is_refused(
    run_step: RunStep, server: Server, body: bytes, message: str
) -> None:
    server.pages["/bad.zip"] = body
    trial = _fetch(run_step, "data", f"{server.address}/bad.zip")
    assert trial.failure is not None
    assert trial.failure["kind"] == "data"
    assert message in trial.failure["message"]
    assert not list(trial.out.iterdir())


def test_an_archive_that_unpacks_without_end_is_refused(run_step: RunStep, server: Server) -> None:
    stream = io.BytesIO()
    with (
        zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("a.jpg", "w") as member,
    ):
        for _ in range(1100):
            member.write(bytes(1 << 20))
    server.pages["/bomb.zip"] = stream.getvalue()
    trial = _fetch(run_step, "data", f"{server.address}/bomb.zip")
    assert trial.failure is not None
    assert trial.failure["kind"] == "data"
    assert "too much" in trial.failure["message"]


@pytest.mark.parametrize(
    ("path", "message"), [("/none.zip", "404"), ("/short.zip", "ended after 4 of 1004 bytes")]
)
def test_a_failed_download_says_why(
    run_step: RunStep, server: Server, path: str, message: str
) -> None:
    server.pages["/short.zip"] = b"PK\x03\x04"
    trial = _fetch(run_step, "data", server.address + path)
    assert trial.failure is not None
    assert trial.failure["kind"] == "network"
    assert message in trial.failure["message"]


@pytest.mark.parametrize(
    ("kind", "name", "address", "instead"),
    [
        ("weights", "yolov8n-pose.pt", "/yolov8n-pose.pt", "WEIGHTS=path/to/yolov8n-pose.pt"),
        ("data", "coco8-pose.yaml", "/coco8-pose.zip", "DATA=path/to/data.yaml"),
    ],
)
def test_without_a_network_it_says_what_to_pass_instead(
    run_step: RunStep,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    name: str,
    address: str,
    instead: str,
) -> None:
    monkeypatch.setenv("https_proxy", NOWHERE)
    trial = _fetch(run_step, kind, name)
    assert trial.failure is not None
    assert trial.failure["kind"] == "network"
    assert address in trial.failure["message"]
    assert instead in trial.failure["hint"]


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        ("weights", "yolov8n-poes.pt", "did you mean yolov8n-pose.pt?"),
        ("weights", "yolo11n.pt", "publishes no YOLOv8 weights"),
        ("weights", "ftp://host/best.pt", "only http and https"),
        ("data", "coco8-posse.yaml", "did you mean coco8-pose.yaml?"),
        ("data", "VOC.yaml", "running a script"),
    ],
)
def test_what_cannot_be_fetched_is_refused_before_the_network(
    run_step: RunStep, kind: str, name: str, message: str
) -> None:
    trial = _fetch(run_step, kind, name)
    assert trial.failure is not None
    assert trial.failure["kind"] == "request"
    assert message in trial.failure["message"]
