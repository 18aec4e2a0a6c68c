"""Images: found by content, pulled, built, and free of what only their building needed."""

from __future__ import annotations

import gzip
import io
import os
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from kiln.errors import EnvironmentBroken
from kiln.executors.docker.executor import BuildNetwork
from kiln.executors.docker.images import CONTENT_LABEL, Images
from tests.support.docker_bench import PREFIX, DockerBench
from tests.support.executor_bench import PROBE
from tests.support.fixtures import Recorder
from tests.support.registry import registry

SECRET = "hunter2hunter2"
NAME = f"{PREFIX}vela"


@pytest.fixture
def bench(tmp_path: Path, client: docker.DockerClient) -> DockerBench:
    return DockerBench(tmp_path / "checkout", client)


@pytest.fixture
def built(bench: DockerBench) -> DockerBench:
    bench.executor().prepare([bench.environment], print)
    return bench


def tags(bench: DockerBench) -> set[str]:
    return {tag for image in bench.client.images.list(NAME) for tag in image.tags}


def find(bench: DockerBench) -> str:
    network = BuildNetwork(settings={}, certificates=None)
    images = Images(root=bench.root, logs=bench.root, network=network, registry=None)
    found = images.find(bench.client, bench.environment)
    assert found is not None
    return found.tag


def everything_in(client: docker.DockerClient, name: str) -> Iterator[bytes]:
    """All files of an image as the engine exports it: its layers, its config and its history."""
    saved = io.BytesIO(b"".join(client.images.get(name).save()))
    with tarfile.open(fileobj=saved) as archive:
        for member in archive:
            source = archive.extractfile(member) if member.isfile() else None
            if source is not None:
                data = source.read()
                yield gzip.decompress(data) if data.startswith(b"\x1f\x8b") else data


def test_network_settings_reach_the_builder_and_go_no_further(
    bench: DockerBench, tmp_path: Path, client: docker.DockerClient
) -> None:
    usual = BuildNetwork.from_environment(os.environ)
    bundle = tmp_path / "ca.pem"
    authorities = usual.certificates.read_bytes() if usual.certificates else b""
    bundle.write_bytes(authorities + f"\n# {SECRET}\n".encode())
    settings = {**usual.settings, "UV_INDEX_PRIVATE_PASSWORD": SECRET, "no_proxy": SECRET}
    network = BuildNetwork(settings=settings, certificates=bundle)
    assert SECRET not in repr(network)
    # The build fails unless the builder sees both.
    recipe = bench.root / "docker" / "vela.Dockerfile"
    seen = f'test "$UV_INDEX_PRIVATE_PASSWORD" = {SECRET} && grep -q {SECRET} "$SSL_CERT_FILE"'
    text = recipe.read_text(encoding="utf-8")
    recipe.write_text(text.replace("python3 -m venv", f"{seen} && python3 -m venv"))
    said: list[str] = []
    # A build that was killed, on the same engine, may have left its own.
    builders = _builders(client)
    bench.executor(network=network).prepare([bench.environment], said.append)
    marks = [SECRET.encode(), b"UV_INDEX_PRIVATE", b"settings.sh"]
    # The recipe itself has the secret now, and the engine keeps it in no layer.
    assert not [m for data in everything_in(client, find(bench)) for m in marks if m in data]
    assert SECRET not in str(client.images.get(find(bench)).history())
    assert SECRET not in "".join(said)
    assert _builders(client) <= builders


def _builders(client: docker.DockerClient) -> set[str]:
    """Images of the stages that install packages, which see a user's secrets."""
    found = client.images.list(all=True, filters={"label": "org.kiln.build"})
    return {str(image.id) for image in found}


def test_new_code_makes_a_new_image_and_installs_nothing(built: DockerBench) -> None:
    before, tag = tags(built), find(built)
    code = built.root / "stages" / "vela" / "probe.py"
    code.write_text(code.read_text(encoding="utf-8") + "\n# more\n", encoding="utf-8")
    with pytest.raises(
        EnvironmentBroken, match="vela image is not there, or not of this"
    ) as caught:
        built.run(built.step(""))
    assert caught.value.hint == "make images"
    said: list[str] = []
    built.executor().prepare([built.environment], said.append)
    assert not [line for line in said if "building" in line]
    assert tags(built) - before == {find(built)}
    assert find(built) != tag
    latest = built.client.images.get(f"{NAME}:latest")
    assert latest.id == built.client.images.get(find(built)).id


def test_an_image_is_made_once(built: DockerBench) -> None:
    said: list[str] = []
    built.executor().prepare([built.environment], said.append)
    assert said == []


def test_a_tag_that_somebody_else_put_there_is_not_trusted(built: DockerBench) -> None:
    tag = find(built)
    packages = next(tag for tag in tags(built) if ":environment-" in tag)
    built.client.images.get(packages).tag(tag)
    said: list[str] = []
    built.executor().prepare([built.environment], said.append)
    assert said[-1].startswith("made the vela image in")
    assert built.result("result = {'n': 1}") == {"n": 1}


def test_a_package_that_differs_from_the_lock_is_refused(bench: DockerBench) -> None:
    lock = bench.root / "docker" / "vela.lock"
    first, before = lock.read_text(encoding="utf-8").splitlines()[0], tags(bench)
    lock.write_text(f"{first}\n    --hash=sha256:{'0' * 64}\n", encoding="utf-8")
    with pytest.raises(EnvironmentBroken, match="vela image cannot be built") as caught:
        bench.executor().prepare([bench.environment], print)
    assert tags(bench) == before
    assert "differs from the lock" in caught.value.hint
    assert caught.value.log is not None
    assert "Hash mismatch" in caught.value.log.read_text(encoding="utf-8")
    assert not bench.client.containers.list(all=True, filters={"label": "org.kiln.build"})


def test_a_ca_bundle_that_is_not_there_is_named(bench: DockerBench) -> None:
    with (bench.root / "docker" / "vela.lock").open("a") as lock:
        lock.write(f"# {bench.root}\n")
    network = BuildNetwork.from_environment({"SSL_CERT_FILE": "/nowhere/ca.pem"})
    with pytest.raises(EnvironmentBroken, match=r"CA bundle /nowhere/ca\.pem cannot be read"):
        bench.executor(network=network).prepare([bench.environment], print)


def test_without_any_base_the_sentence_says_what_to_install(
    bench: DockerBench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = bench.root / "docker" / "vela.Dockerfile"
    pin = bench.environment.base
    nowhere = f"127.0.0.1:9/base@sha256:{'0' * 64}"
    recipe.write_text(recipe.read_text(encoding="utf-8").replace(pin, nowhere), encoding="utf-8")
    names = bench.root / "compose.yaml"
    text = names.read_text(encoding="utf-8")
    names.write_text(text.replace("kiln-base:", f"{PREFIX}base:"), encoding="utf-8")
    for tool in ("uname", "id", "sh"):
        (tmp_path / tool).symlink_to(str(shutil.which(tool)))
    monkeypatch.setenv("PATH", str(tmp_path))
    said: list[str] = []
    with pytest.raises(EnvironmentBroken, match=r"debootstrap|root|x86-64"):
        bench.executor().prepare([bench.environment], said.append)
    assert "building a base from Debian's packages (once)" in said[-1]


def publish(bench: DockerBench, address: str, *, content: str, tag: str) -> None:
    """Push what the maintainers would: the same image, on the pinned base; and lose it here."""
    image = bench.client.images.get(find(bench))
    recipe = io.BytesIO(f"FROM {find(bench)}\nLABEL {CONTENT_LABEL}={content}\n".encode())
    remote = f"{address}/{NAME}"
    bench.client.images.build(fileobj=recipe, tag=f"{remote}:{tag}", rm=True)
    answers = bench.client.images.push(remote, tag, stream=True, decode=True)
    assert not [answer for answer in answers if "error" in answer]
    bench.client.images.remove(f"{remote}:{tag}")
    # By its id, for all of its names.
    bench.client.images.remove(str(image.id), force=True)


@pytest.mark.parametrize("genuine", [True, False])
def test_images_come_from_the_registry_if_they_are_the_right_ones(
    built: DockerBench, genuine: bool
) -> None:
    code = built.root / "stages" / "vela" / "probe.py"
    code.write_text(f"{PROBE}\n# of {built.root}\n", encoding="utf-8")
    environment = built.environment
    built.executor().prepare([environment], print)
    network = BuildNetwork.from_environment(os.environ)
    images = Images(root=built.root, logs=built.root, network=network, registry=None)
    content = images._content(environment, environment.base)
    said: list[str] = []
    with registry() as address:
        published = content if genuine else "0" * 64
        publish(built, address, content=published, tag=content[:16])
        executor = built.executor(registry=address)
        executor.prepare([environment], said.append)
        assert said[0] == f"pulling {address}/{NAME}:{content[:16]}"
        built.client.images.remove(f"{address}/{NAME}:{content[:16]}", force=True)
    with executor.run(built.step(""), Recorder()) as ended:
        assert ended.code == 0
    if genuine:
        assert (len(said), ended.facts["base"]) == (1, environment.base)
    else:
        assert "what is there was not built from this checkout" in said[1]


def test_a_registry_that_lacks_the_image_is_no_obstacle(built: DockerBench) -> None:
    (built.root / "stages" / "vela" / "new.py").touch()
    said: list[str] = []
    with registry() as address:
        built.executor(registry=address).prepare([built.environment], said.append)
    assert "cannot be used" in said[1]
    assert find(built)
