"""The docker executor, in an engine of the test's own that can be killed."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shutil
import signal
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import docker
import pytest
from docker.types import Mount

from tests.chaos.bench import (
    ALL,
    Ended,
    Victim,
    Whole,
    ended,
    injected,
    make_checkout,
    reads_up_to,
)
from tests.chaos.damage import flip_unseen, forget, outputs_of
from tests.support.checkout import ROOT
from tests.support.docker_bench import PREFIX, engine_or_skip, remove_all
from tests.support.docker_engine import Engine, clear
from tests.support.user import User

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not ALL, reason="make chaos runs this: images take a minute"),
]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One whose images hold the stand-ins and next to no packages, under names of their own."""
    root = make_checkout(tmp_path_factory.mktemp("chaos") / "checkout")
    (root / "scripts").mkdir()
    for name in ("kiln.lock", "scripts/build_base.sh"):
        shutil.copy(ROOT / name, root / name)
    names = (root / "compose.yaml").read_text(encoding="utf-8")
    for kind in ("image: ", "name: "):
        names = names.replace(f"{kind}kiln-", f"{kind}{PREFIX}")
    (root / "compose.yaml").write_text(names, encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def engine(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """An engine that has the images, which the host's own engine makes."""
    client = engine_or_skip()
    maker = User(tmp_path_factory.mktemp("maker"))
    maker.variables["PYTHONPATH"] = str(checkout)
    with tempfile.TemporaryDirectory(dir="/var/lib", prefix="kiln-chaos-") as folder:
        engine = Engine(Path(folder))
        engine.start()
        try:
            maker.types("images")
            engine.take(client, (PREFIX, "kiln-base:"))
            yield engine
        finally:
            engine.stop()
            clear(Path(folder))
            remove_all(client)
            client.close()


class Guest(Victim):
    """A user whose steps run in an engine."""

    def __init__(self, *arguments: Any, engine: Engine) -> None:
        super().__init__(*arguments)
        self.command = ("--verbose", "build", "--executor", "docker", "--gpu", "none")
        self.engine = engine
        self._notes: list[str] = []
        self.user.variables["DOCKER_HOST"] = engine.address

    @contextlib.contextmanager
    def client(self) -> Iterator[docker.DockerClient]:
        with contextlib.closing(docker.DockerClient(self.engine.address)) as client:
            yield client

    def order(self, at: str, what: str) -> None:
        self._put({at: what})

    def order_nothing(self) -> None:
        self._put({})

    def builds(self, *arguments: str, under: Sequence[str] = ()) -> Ended:
        done = super().builds(*arguments, under=under)
        self._notes += re.findall(r"note: (.*)", done.said)
        return done

    def notes(self) -> list[str]:
        """Of builds that came to an end; no file of a container outlives it."""
        return self._notes

    @contextlib.contextmanager
    def waits(self, at: str) -> Iterator[subprocess.Popen[str]]:
        """A driver whose step waits at a point for its end."""
        self.order(at, "wait")
        with self.starts() as driver:
            try:
                reads_up_to(driver, "the step waits")
                self.order_nothing()
                yield driver
            finally:
                if driver.poll() is None:
                    driver.kill()

    def _put(self, orders: dict[str, str]) -> None:
        """The inputs' volume is all of an engine that a step can look into beside its job."""
        data = json.dumps(orders).encode()
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w") as archive:
            member = tarfile.TarInfo("orders.json")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        with self.client() as client:
            image = next(tag for each in client.images.list() for tag in each.tags if "vela" in tag)
            mount = Mount("/kiln", f"{PREFIX}inputs")
            upload = client.containers.create(image, mounts=[mount])
            upload.put_archive("/kiln", stream.getvalue())
            upload.remove()

    def left(self) -> list[str]:
        """Containers and volumes of jobs."""
        made: dict[str, Any] = {"label": "org.kiln.job"}
        with self.client() as client:
            containers = client.containers.list(all=True, filters=made)
            volumes = client.volumes.list(filters=made)
        return [*(str(each.name) for each in containers), *(each.name for each in volumes)]

    def clears_up(self) -> None:
        with self.client() as client:
            for container in client.containers.list(all=True):
                container.remove(force=True, v=True)
            for volume in client.volumes.list():
                volume.remove()


@pytest.fixture(scope="module")
def whole(checkout: Path, engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    guest = Guest(checkout, tmp_path_factory.mktemp("whole"), engine=engine)
    done = guest.builds()
    assert done.code == 0, done.said
    files = {key: document["files"] for key, document in guest.documents().items()}
    guest.clears_up()
    return Whole(result=guest.result(), files=files)


@pytest.fixture
def guest(checkout: Path, tmp_path: Path, engine: Engine, whole: Whole) -> Iterator[Guest]:
    guest = Guest(checkout, tmp_path, whole, engine=engine)
    yield guest
    guest.clears_up()


_AT = ("demo start", "train epoch 2", "quantize middle")


@pytest.mark.parametrize("at", _AT)
def test_the_driver_is_killed(guest: Guest, at: str) -> None:
    injected.append("kill -9 of the driver")
    with guest.waits(at) as driver:
        driver.kill()
        driver.wait()
    assert guest.left()
    guest.recovers()
    assert guest.left() == []


def test_an_orphan_ends_though_nobody_asks_for_it_again(guest: Guest) -> None:
    injected.append("kill -9 of the driver")
    with guest.waits("train epoch 2") as driver:
        driver.kill()
        driver.wait()
    assert guest.builds("--imgsz", "224", "--name", "other").code == 0
    (kept,) = guest.left()
    assert kept.startswith("kiln-state-")
    shutil.rmtree(guest.user.folder / "build" / "grove-v2" / "other")
    done = guest.recovers()
    assert "note: train epoch 2" not in done.said
    assert "note: train epoch 3" in done.said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_driver_is_asked_to_end(guest: Guest, number: signal.Signals) -> None:
    injected.append(f"{number.name} to the driver")
    with guest.waits("train epoch 2") as driver:
        driver.send_signal(number)
        assert ended(driver).code == 130
    assert all(name.startswith("kiln-state-") for name in guest.left())
    guest.recovers()
    assert guest.left() == []


@pytest.mark.parametrize("at", _AT)
def test_a_container_is_killed(guest: Guest, at: str) -> None:
    injected.append("kill -9 of a container")
    with guest.waits(at) as driver:
        with guest.client() as client:
            (running,) = client.containers.list()
            running.kill()
        done = ended(driver)
    assert done.code in (7, 8)
    guest.recovers()
    assert guest.left() == []


@pytest.mark.parametrize("at", _AT)
def test_the_engine_is_killed(guest: Guest, at: str) -> None:
    injected.append("kill -9 of the engine")
    with guest.waits(at) as driver:
        guest.engine.kill()
        done = ended(driver)
    assert done.code == 6
    assert "the container engine went away" in done.said
    assert "finished steps are kept" in done.said
    guest.engine.start()
    guest.recovers()
    assert guest.left() == []


def test_all_volumes_are_pruned(guest: Guest) -> None:
    injected.append("pruned volumes")
    with guest.waits("quantize middle") as driver:
        driver.kill()
        driver.wait()
    with guest.client() as client:
        for container in client.containers.list(all=True):
            container.remove(force=True, v=True)
        for volume in client.volumes.list():
            volume.remove()
    guest.recovers()
    assert guest.left() == []


def test_a_bit_rots_in_what_a_step_is_to_take(guest: Guest) -> None:
    injected.append("bit rot")
    guest.recovers()
    forget(guest, "compile")
    taken = outputs_of(guest, "quantize")[1]
    flip_unseen(guest, taken)
    with guest.client() as client:
        client.volumes.get(f"{PREFIX}inputs").remove()
    done = guest.builds()
    assert done.code == 3, done.said
    assert f"{taken} is not what was hashed" in done.said
    guest.builds()
    guest.is_whole()
