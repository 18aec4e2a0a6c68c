"""compose.yaml under a real Compose: valid, like what the driver does, and of use by hand."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kiln.errors import EnvironmentBroken
from kiln.executors.docker.compose import load_names
from kiln.executors.environments import ENVIRONMENT_NAMES
from kiln.executors.protocol import STEP_VARIABLES
from tests.support.checkout import ROOT
from tests.support.docker_bench import DockerBench

COMPOSE = Path(sys.executable).with_name("docker-compose")


def compose(root: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [COMPOSE, *arguments],
        cwd=root,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def config(*arguments: str, **variables: str) -> Any:
    done = compose(ROOT, *arguments, "config", "--format", "json", **variables)
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


def test_it_declares_the_three_environments_behind_walls() -> None:
    services = config()["services"]
    assert set(services) == set(ENVIRONMENT_NAMES)
    for service in services.values():
        assert service["platform"] == "linux/amd64"
        assert service["network_mode"] == "none"
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["environment"].items() >= STEP_VARIABLES.items()
        assert [volume["source"] for volume in service["volumes"]] == ["inputs"]
    assert config(KILN_NETWORK="bridge")["services"]["train"]["network_mode"] == "bridge"


def test_only_training_reserves_a_gpu_and_that_can_be_left_out() -> None:
    services = config()["services"]
    (reserved,) = services["train"]["deploy"]["resources"]["reservations"]["devices"]
    assert (reserved["driver"], reserved["capabilities"]) == ("nvidia", ["gpu"])
    assert [name for name in services if "deploy" in services[name]] == ["train"]
    files = ("--file", "compose.yaml", "--file", "docker/without-gpu.yaml")
    assert "deploy" not in config(*files)["services"]["train"]


def test_the_driver_reads_the_names_that_compose_uses() -> None:
    names, read = load_names(ROOT), config()
    for environment in ENVIRONMENT_NAMES:
        image = read["services"][environment]["image"]
        assert image == f"{names.images[environment]}:latest"
    assert read["volumes"]["inputs"]["name"] == names.inputs_volume
    assert read["x-kiln"]["base"] == names.base


@pytest.mark.parametrize("text", ["services: {}", "services: [", ""])
def test_a_file_without_names_is_a_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / "compose.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(EnvironmentBroken, match="does not name the images"):
        load_names(tmp_path)


def test_a_person_runs_a_step_by_hand(docker_bench: DockerBench, tmp_path: Path) -> None:
    job = tmp_path / "job"
    job.mkdir()
    body = "import os\n(job.out / 'file').write_text('made')\nresult = {'uid': os.getuid()}"
    document = {"contract": 1, "step": "probe", "params": {"body": body}}
    (job / "job.json").write_text(json.dumps(document), encoding="utf-8")
    user = f"{os.getuid()}:{os.getgid()}"
    command = ("run", "--rm", "-T", "--user", user, "--volume", f"{job}:/job")
    done = compose(docker_bench.root, *command, "vela", "stages.vela.probe")
    assert done.returncode == 0, done.stderr
    last = json.loads(done.stdout.splitlines()[-1])
    assert (last["event"], last["result"]) == ("finished", {"uid": os.getuid()})
    assert (job / "out" / "file").read_text(encoding="utf-8") == "made"
