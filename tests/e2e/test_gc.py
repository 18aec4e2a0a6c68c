"""Images that a real engine holds of other checkouts, and what gc can take of them."""

from __future__ import annotations

import io
import tarfile
import uuid
from collections.abc import Iterator

import docker
import docker.errors
import pytest

from kiln.executors.docker.clean import EngineImage, remove_image, stale_images
from kiln.executors.docker.engine import LABEL
from tests.support.checkout import ROOT
from tests.support.docker_bench import engine_or_skip


@pytest.fixture
def client() -> Iterator[docker.DockerClient]:
    engine_or_skip()
    client = docker.from_env()
    yield client
    client.close()


@pytest.fixture
def old_image(client: docker.DockerClient) -> Iterator[EngineImage]:
    """An image as a checkout that is gone has left it, found as gc finds it."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        archive.addfile(tarfile.TarInfo(uuid.uuid4().hex))
    name = f"kiln-test-{uuid.uuid4().hex[:8]}"
    client.api.import_image_from_data(
        stream.getvalue(), repository=name, tag="old", changes=[f"LABEL {LABEL}=image", "CMD /x"]
    )
    id = str(client.images.get(f"{name}:old").id)
    yield next(image for image in stale_images(ROOT) if image.id == id)
    for left in client.images.list(name):
        client.images.remove(str(left.id), force=True)


def test_an_image_of_another_checkout_is_found_and_removed(
    client: docker.DockerClient, old_image: EngineImage
) -> None:
    assert remove_image(old_image)
    with pytest.raises(docker.errors.ImageNotFound):
        client.images.get(old_image.id)
    assert remove_image(old_image)


def test_an_image_that_a_container_stands_on_stays(
    client: docker.DockerClient, old_image: EngineImage
) -> None:
    """As that of a build from another checkout, which runs now."""
    container = client.containers.create(old_image.id, labels=["kiln-test"])
    try:
        assert not remove_image(old_image)
    finally:
        container.remove()
