"""What is true of steps in containers alone: the sandbox, uploads, and an engine's answers."""

from __future__ import annotations

import io
import tarfile
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import docker
import docker.errors
import pytest
from docker.models.containers import Container

from kiln.errors import DeviceError, DiskFull, EngineError, StepCrashed
from kiln.executors.docker.engine import engine_errors
from kiln.executors.docker.files import download_folder
from kiln.executors.docker.orphans import remove_orphans
from kiln.executors.orphans import this_driver
from kiln.executors.protocol import STEP_VARIABLES, Limits
from tests.support.docker_bench import PREFIX, DockerBench
from tests.support.fixtures import tree

#: Says all about the container that it runs in.
LOOK_AROUND = """
import errno, os, pathlib, socket, threading

def refusal(write):
    try:
        write()
    except OSError as error:
        return errno.errorcode[error.errno]

def threads():
    count = 0
    try:
        for count in range(40):
            threading.Thread(target=threading.Event().wait, daemon=True).start()
    except RuntimeError:
        pass
    return count

lines = pathlib.Path("/proc/self/status").read_text().splitlines()
status = dict(line.split(":", 1) for line in lines)
places = ["/", "/etc", "/opt/kiln", "/opt/kiln-stages/stages", "/kiln", "/var/tmp", "/home"]
groups = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"]
bundle = job.inputs / "ca.pem"
result = {
    "uids": os.getresuid() + os.getresgid(),
    "groups": os.getgroups(),
    "capabilities": {name: status[name].strip() for name in status if name[:3] == "Cap"},
    "no_new_privileges": status["NoNewPrivs"].strip(),
    "places": {p: refusal(pathlib.Path(p, "x").touch) for p in places},
    "into_input": refusal(lambda: (job.inputs / "data" / "file").write_text("theirs")),
    "beside_input": refusal((job.inputs / "more").touch),
    "interfaces": [name for _number, name in socket.if_nameindex()],
    "routes": pathlib.Path("/proc/net/route").read_text().splitlines()[1:],
    "mounts": pathlib.Path("/proc/mounts").read_text(),
    "devices": sorted(os.listdir("/dev")),
    "variables": dict(os.environ),
    "certificates": bundle.read_text() if bundle.exists() else None,
    "inputs": [f for _, _, files in os.walk("/kiln") for f in files],
    "memory": next(pathlib.Path(g).read_text().strip() for g in groups if os.path.exists(g)),
    "threads": threads(),
}
for folder in (job.out, job.state, pathlib.Path("/tmp"), pathlib.Path.home()):
    (folder / "x").touch()
"""


@pytest.fixture(scope="module")
def seen(
    docker_bench: DockerBench, tmp_path_factory: pytest.TempPathFactory
) -> Mapping[str, Mapping[str, Any]]:
    """What two steps see around them: one with a network, and then one with none and limits."""
    folder = tmp_path_factory.mktemp("seen")
    bundle = folder / "company.pem"
    bundle.write_text("certificates", encoding="utf-8")
    for name in ("theirs", "mine"):
        (folder / name).mkdir()
        (folder / name / "file").write_text(name, encoding="utf-8")
    with pytest.MonkeyPatch.context() as user:
        user.setenv("SSL_CERT_FILE", str(bundle))
        user.setenv("HTTPS_PROXY", "http://proxy:3128")
        inputs = {name: {"data": tree(folder / name)} for name in ("theirs", "mine")}
        limits = Limits(memory_mib=300, pids=20)
        return {
            "network": docker_bench.result(LOOK_AROUND, inputs=inputs["theirs"], network=True),
            "sandbox": docker_bench.result(LOOK_AROUND, inputs=inputs["mine"], limits=limits),
        }


def test_a_step_has_no_network_no_root_and_no_writable_root(
    seen: Mapping[str, Mapping[str, Any]],
) -> None:
    sandbox = seen["sandbox"]
    assert 0 not in [*sandbox["uids"], *sandbox["groups"]]
    assert {value.strip("0") for value in sandbox["capabilities"].values()} == {""}
    assert sandbox["no_new_privileges"] == "1"
    assert set(sandbox["places"].values()) == {"EROFS"}
    assert (sandbox["into_input"], sandbox["beside_input"]) == ("EROFS", "EACCES")
    assert sandbox["interfaces"] == ["lo"]
    assert sandbox["routes"] == []
    assert "docker.sock" not in sandbox["mounts"]
    assert "kmsg" not in sandbox["devices"]


def test_a_step_sees_these_variables_and_no_others(
    seen: Mapping[str, Mapping[str, Any]],
) -> None:
    # The package of this step's environment sets the last one itself.
    own = {*STEP_VARIABLES, "OPENBLAS_NUM_THREADS"}
    assert set(seen["sandbox"]["variables"]) - own == {
        *("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "HOME", "TMPDIR", "HOSTNAME"),
        *("KILN_SANDBOXED", "PATH", "PYTHONPATH"),
    }


def test_only_a_step_that_is_given_a_network_has_one_and_the_certificates_for_it(
    seen: Mapping[str, Mapping[str, Any]],
) -> None:
    assert set(seen["network"]["interfaces"]) > {"lo"}
    assert [seen[step]["certificates"] for step in ("network", "sandbox")] == ["certificates", None]


def test_limits_reach_the_kernel(seen: Mapping[str, Mapping[str, Any]]) -> None:
    assert int(seen["sandbox"]["memory"]) == 300 << 20
    assert 5 < seen["sandbox"]["threads"] < 20


def test_a_step_can_find_no_inputs_of_others(seen: Mapping[str, Mapping[str, Any]]) -> None:
    assert seen["sandbox"]["inputs"] == []


HUNGRY = "bytearray(400 << 20)"


@pytest.mark.parametrize(
    "body",
    [
        HUNGRY,
        f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {HUNGRY!r}], check=1)",
    ],
    ids=["itself", "its child"],
)
def test_a_step_killed_for_memory_is_told_from_others(docker_bench: DockerBench, body: str) -> None:
    ended = docker_bench.run(docker_bench.step(body, limits=Limits(memory_mib=100)))
    assert ended.code != 0
    assert ended.oom_killed


@pytest.mark.parametrize(
    "body",
    ["(job.out / 'x').symlink_to('/etc/passwd')", "import os\nos.mkfifo(job.out / 'x')"],
    ids=["link", "pipe"],
)
def test_an_output_that_is_no_file_is_refused(docker_bench: DockerBench, body: str) -> None:
    step = docker_bench.step(body)
    with pytest.raises(StepCrashed, match="gave out/x, which is no plain file"):
        docker_bench.run(step)
    assert docker_bench.left(step.key) == []


class Hostile:
    """What stands where a container does, and gives an archive that no engine would make."""

    def __init__(self, *names: str, cut: int | None = None) -> None:
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w") as archive:
            for name in names:
                member = tarfile.TarInfo(name)
                member.size = 2000
                archive.addfile(member, io.BytesIO(bytes(member.size)))
        self.data = stream.getvalue()[:cut]

    def get_archive(self, _path: str, *, chunk_size: int) -> tuple[Iterator[bytes], None]:
        starts = range(0, len(self.data), chunk_size)
        return (self.data[start : start + chunk_size] for start in starts), None


def test_an_archive_cannot_reach_out_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    hostile = cast(Container, Hostile("out/ok", "out/../../escaped"))
    with pytest.raises(StepCrashed, match="no plain file"):
        download_folder(hostile, "/job/out", tmp_path / "out", step="probe")
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "ok"]


def test_an_archive_that_breaks_off_is_no_success(tmp_path: Path) -> None:
    cut = cast(Container, Hostile("out/file", cut=1000))
    with pytest.raises(EngineError, match="broke off"):
        download_folder(cut, "/job/out", tmp_path, step="probe")


def test_an_input_is_uploaded_once(docker_bench: DockerBench, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("once", encoding="utf-8")
    data = tree(tmp_path)
    names = "import os\nresult = {'at': os.readlink(job.inputs / 'data')}"
    first = docker_bench.result(names, inputs={"data": data})
    (tmp_path / "file").unlink()
    assert docker_bench.result(names, inputs={"data": data}) == first


def test_steps_that_begin_at_once_clear_away_what_one_killed_driver_left(
    docker_bench: DockerBench,
) -> None:
    place, _, process = this_driver().rpartition(" at ")
    labels = {"org.kiln.driver": f"{place} at {process}9", "org.kiln.job": "orphan"}
    for _ in range(4):
        docker_bench.client.volumes.create(f"kiln-job-{uuid.uuid4().hex}", labels=labels)
        docker_bench.client.containers.run(
            f"{PREFIX}vela",
            ["-c", "input()"],
            entrypoint="python3",
            detach=True,
            stdin_open=True,
            labels=labels,
        )
    with ThreadPoolExecutor(4) as steps:
        list(steps.map(lambda _step: remove_orphans(docker_bench.client), range(4)))
    assert docker_bench.left("orphan") == []


def test_a_gpu_that_the_engine_lacks(docker_bench: DockerBench) -> None:
    if "nvidia" in docker_bench.client.info()["Runtimes"]:
        pytest.skip("this engine has a GPU")
    step = docker_bench.step("", gpu="required")
    with pytest.raises(DeviceError, match=r"probe must have a GPU: .*device driver"):
        docker_bench.run(step)
    assert docker_bench.left(step.key) == []
    ended = docker_bench.run(docker_bench.step("", gpu="auto"))
    assert (ended.code, ended.facts["gpu_requested"]) == (0, False)


def test_a_full_disk_of_the_engine_is_named() -> None:
    said = "write /var/lib/docker/tmp/x: no space left on device"
    with pytest.raises(DiskFull, match="could not take the inputs: its disk is full"):  # noqa: SIM117
        with engine_errors("take the inputs"):
            raise docker.errors.APIError("500 Server Error", explanation=said)
