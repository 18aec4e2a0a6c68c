"""What is told and logged of an image's build, by an engine that says what the test says."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import docker
import pytest

from kiln.errors import EnvironmentBroken
from kiln.executors.docker.build import BuildNetwork, ImageRecipe, build_image

SECRET = "hunter2hunter2"


class Engine:
    """Stands for a client and its ``api``; gives these answers to a build."""

    def __init__(self, *answers: dict[str, str]) -> None:
        self.api = self
        self._answers = answers

    def build(self, **_settings: Any) -> tuple[dict[str, str], ...]:
        return self._answers


def test_an_index_out_of_reach_is_told_without_its_password(tmp_path: Path) -> None:
    index = f"http://user:{SECRET}@mirror/simple"
    variables = {"PIP_INDEX_URL": index, "UV_INDEX_INNER_PASSWORD": SECRET, "HOME": str(tmp_path)}
    network = BuildNetwork.from_environment(variables)
    engine = Engine(
        {"stream": f"Looking in indexes: {index}\nconnection "},
        {"stream": f"timed out, with {SECRET}\n"},
        {"error": f"fetching {index} returned 1"},
    )
    recipe = ImageRecipe(title="the vela image", tag="kiln-vela:1", files={}, labels={})
    said: list[str] = []
    with pytest.raises(EnvironmentBroken, match=r"vela image cannot be built:\n") as caught:
        build_image(
            cast(docker.DockerClient, engine),
            recipe,
            network=network,
            log=tmp_path / "log",
            say=said.append,
        )
    told = caught.value.message + (tmp_path / "log").read_text(encoding="utf-8")
    assert "Looking in indexes: http://***@mirror/simple" in told
    assert SECRET not in told + repr(network)
    assert "check the network" in caught.value.hint
