"""A release says how it was made, is whole or refused, and is made again from itself alone."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from kiln.plan.plan import make_plan
from kiln.plan.request import Flags, load_request
from kiln.plan.targets import load_target
from kiln.release.archive import SIGNATURE, SUMS
from kiln.store.tree import hash_file, sums_of
from tests.support.checkout import ROOT
from tests.support.docker_bench import engine_or_skip
from tests.support.user import User

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("environments")]

_MODELS = (
    "spotter.safetensors",
    "spotter.onnx",
    "spotter_float32.tflite",
    "spotter_full_integer_quant.tflite",
    "spotter_full_integer_quant_vela.tflite",
)
_CONFIG = """
name = "spotter"
task = "detect"
imgsz = 64
[calibration]
images = 4
[evaluation]
images = 4
"""


@pytest.fixture(scope="module")
def maker(
    tmp_path_factory: pytest.TempPathFactory,
    detect_data: Path,
    detect_weights: Path,
) -> User:
    """Somebody with a data set, weights and keys of his own; ``kiln.toml`` lies in his folder."""
    user = User(tmp_path_factory.mktemp("maker"))
    shutil.copytree(detect_data / "data", user.folder / "data")
    shutil.copy(detect_weights / "weights.safetensors", user.folder / "own.safetensors")
    (user.folder / "kiln.toml").write_text(_CONFIG, encoding="utf-8")
    for name in ("key", "other"):
        key = Ed25519PrivateKey.generate()
        openssh = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
        (user.folder / name).write_bytes(openssh)
        public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
        (user.folder / f"{name}.pub").write_bytes(public)
    return user


BRINGS = ("--data", "data/data.yaml", "--weights", "own.safetensors", "--executor", "local")


@pytest.fixture(scope="module")
def bundle(maker: User) -> Path:
    """A signed release."""
    maker.types("release", *BRINGS, "--key", "key")
    return maker.folder / "build/grove-v2/spotter.release.tar"


@pytest.fixture
def unpacked(bundle: Path, tmp_path: Path) -> Path:
    with tarfile.open(bundle) as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    return tmp_path / "unpacked" / "spotter"


def test_the_archive_is_the_same_again_wherever_it_is_made(maker: User, bundle: Path) -> None:
    first = hash_file(bundle)
    elsewhere = User(maker.folder / "elsewhere")
    elsewhere.variables = {"TZ": "Asia/Tokyo", "LC_ALL": "C", "HOME": "/nowhere"}
    for name in ("data", "own.safetensors", "kiln.toml", "key"):
        (elsewhere.folder / name).symlink_to(maker.folder / name)
    out, _err = elsewhere.types("release", *BRINGS, "--key", "key")
    assert first in out
    assert hash_file(elsewhere.folder / "build/grove-v2/spotter.release.tar") == first


def test_it_holds_what_it_should_and_nothing_of_the_host(
    maker: User, bundle: Path, unpacked: Path
) -> None:
    checked = subprocess.run(["sha256sum", "--quiet", "-c", SUMS], cwd=unpacked, check=False)
    assert checked.returncode == 0
    names = {path.relative_to(unpacked).as_posix() for path in unpacked.rglob("*")}
    assert names >= {*_MODELS, "build.json", "report.html", "kiln.toml", "provenance.json"}
    assert names >= {f"source/docker/{name}.lock" for name in ("train", "export", "vela")}
    assert names >= {"source/targets/grove-v2.toml", "source/docker/vela.Dockerfile"}
    content = bundle.read_bytes()
    private = (maker.folder / "key").read_bytes().splitlines()[2]
    for secret in (private, str(maker.folder).encode(), str(ROOT).encode(), os.uname()[2].encode()):
        assert secret not in content
    for name in ("train", "export", "vela"):
        sbom = json.loads((unpacked / f"sbom/{name}.cdx.json").read_text("utf-8"))
        assert (sbom["bomFormat"], sbom["specVersion"]) == ("CycloneDX", "1.6")
        packages = {each["name"] for each in sbom["components"]}
        assert packages >= {"train": {"torch"}, "export": {"onnx2tf"}}.get(name, {"numpy"})


def test_its_request_asks_for_the_same_build_again(maker: User, unpacked: Path) -> None:
    flags = Flags(data=str(maker.folder / "data"), weights=str(maker.folder / "own.safetensors"))
    target = load_target(ROOT / "targets", "grove-v2")
    wanted = make_plan(load_request(flags, maker.folder / "kiln.toml", maker.folder), target)
    again = make_plan(load_request(flags, unpacked / "kiln.toml", maker.folder), target)
    assert again.steps == wanted.steps
    assert again.files == wanted.files


def test_others_can_check_the_signature_and_read_the_provenance(unpacked: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    command = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", "signer.pub", "-rawin"]
    command += ["-in", SUMS, "-sigfile", SIGNATURE]
    said = subprocess.run(command, cwd=unpacked, capture_output=True, text=True, check=True)
    assert "Signature Verified Successfully" in said.stdout
    statement = json.loads((unpacked / "provenance.json").read_text("utf-8"))
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicateType"] == "https://slsa.dev/provenance/v1"
    subjects = {each["name"]: each["digest"]["sha256"] for each in statement["subject"]}
    assert subjects == {name: hash_file(unpacked / name) for name in _MODELS}
    definition = statement["predicate"]["buildDefinition"]
    dependencies = {each.get("name") for each in definition["resolvedDependencies"]}
    assert dependencies >= {"input:data", "input:weights", "source/docker/export.lock", "source"}
    assert [step["name"] for step in definition["internalParameters"]["steps"]][-1] == "evaluate"


@pytest.mark.parametrize("where", ["local", "docker"])
def test_it_is_made_again_from_itself_alone(maker: User, bundle: Path, where: str) -> None:
    if where == "docker":
        engine_or_skip()
    other = User(maker.folder / f"verifier-{where}")
    brings = _from(maker, *BRINGS[:-1], where)
    found = json.loads(other.types("verify", str(bundle), "--json", *brings)[0])
    assert [each["name"] for each in found["files"]] == list(_MODELS)
    assert all(each["same"] and not each["taken"] for each in found["files"])
    assert found["figures"] == []
    assert not list((other.home / "verify").iterdir())


def test_it_names_the_step_since_which_a_file_differs_and_the_tensor(
    maker: User, unpacked: Path
) -> None:
    """The maker says that four images were calibrated on, and it was three."""
    path = unpacked / "provenance.json"
    statement = json.loads(path.read_text("utf-8"))
    steps = statement["predicate"]["buildDefinition"]["internalParameters"]["steps"]
    (images,) = (step for step in steps if step["name"] == "images")
    images["params"]["calibration"] = 3
    path.write_text(json.dumps(statement), encoding="utf-8")
    bundle = _packed(unpacked)
    # Without his weights: those of the release are taken.
    brings = _from(maker, *BRINGS)
    out, err = maker.types("verify", str(bundle), *brings[:2], *brings[4:], code=16)
    lines = out.splitlines()
    assert "taken as it is (WEIGHTS=own.safetensors was not given)" in lines[0]
    assert lines[1] == "✓ spotter.onnx: identical"
    assert lines[2] == "✓ spotter_float32.tflite: identical"
    assert lines[3] == "✕ spotter_full_integer_quant.tflite: differs since the step images"
    assert "from byte" in lines[4]
    assert "tensors differ" in lines[4]
    assert "2 of 5 files are not the same again" in err
    rebuilt = err.rpartition("what was made instead is in ")[2].strip()
    assert (Path(rebuilt) / _MODELS[-1]).is_file()


def _from(maker: User, *arguments: str) -> list[str]:
    """The maker's files, for somebody in another folder."""
    return [str(maker.folder / each) if "." in each else each for each in arguments]


def _packed(folder: Path, *, summed: bool = True) -> Path:
    """The folder as an unsigned release, with sums that are right."""
    (folder / SIGNATURE).unlink(missing_ok=True)
    if summed:
        paths = [path for path in folder.rglob("*") if path.is_file() and path.name != SUMS]
        sums = {path.relative_to(folder).as_posix(): hash_file(path) for path in paths}
        (folder / SUMS).write_text(sums_of(sums), encoding="utf-8")
    bundle = folder.with_suffix(".tar")
    with tarfile.open(bundle, "w") as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.add(path, f"spotter/{path.relative_to(folder)}")
    return bundle


def _flip(folder: Path) -> Path:
    path = folder / _MODELS[1]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    return _packed(folder, summed=False)


def _remove(folder: Path) -> Path:
    (folder / "report.html").unlink()
    return _packed(folder, summed=False)


def _add(folder: Path) -> Path:
    (folder / "source/stages/more.py").write_text("", encoding="utf-8")
    return _packed(folder, summed=False)


def _member(name: str, **fields: Any) -> Callable[[Path], Path]:
    def pack(folder: Path) -> Path:
        bundle = _packed(folder)
        with tarfile.open(bundle, "a") as archive:
            member = tarfile.TarInfo(name)
            for key, value in fields.items():
                setattr(member, key, value)
            archive.addfile(member, io.BytesIO(b"x" * member.size))
        return bundle

    return pack


def _cut(folder: Path) -> Path:
    bundle = _packed(folder)
    bundle.write_bytes(bundle.read_bytes()[: 1 << 20])
    return bundle


def _not_json(folder: Path) -> Path:
    (folder / "provenance.json").write_text("{", encoding="utf-8")
    return _packed(folder)


def _step(**changes: Any) -> Callable[[Path], Path]:
    def pack(folder: Path) -> Path:
        path = folder / "provenance.json"
        statement = json.loads(path.read_text("utf-8"))
        statement["predicate"]["buildDefinition"]["internalParameters"]["steps"][0] |= changes
        path.write_text(json.dumps(statement), encoding="utf-8")
        return _packed(folder)

    return pack


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (_flip, "spotter.onnx is not what SHA256SUMS says"),
        (_remove, "report.html is missing from the release"),
        (_add, "source/stages/more.py is in the release, and SHA256SUMS does not list it"),
        (_cut, "spotter.tar is no whole archive"),
        (_not_json, "the release's provenance cannot be used"),
        (_member("spotter/../../evil", size=1), "holds 'spotter/../../evil'"),
        (_member("/tmp/evil", size=1), "holds '/tmp/evil'"),
        (_member("spotter/link", type=tarfile.SYMTYPE, linkname="/etc"), "holds 'spotter/link'"),
        (_member("spotter/kiln.toml", size=1), "holds 'spotter/kiln.toml'"),
        (_step(module="http.server"), "'check' is no step of Kiln"),
        (_step(name="../../check"), "'../../check' is no step of Kiln"),
        (_step(inputs={"../data": {"source": "data"}}), "'check' is no step of Kiln"),
        (_step(surprise=1), "the release's provenance cannot be used"),
    ],
)
def test_a_damaged_or_hostile_release_is_refused(
    user: User, unpacked: Path, damage: Callable[[Path], Path], says: str
) -> None:
    _out, err = user.types("verify", str(damage(unpacked)), "--executor", "local", code=15)
    assert says in err.splitlines()[0]


def test_a_signature_is_by_whom_the_user_names_or_it_is_none(
    maker: User, bundle: Path, unpacked: Path
) -> None:
    def verify(bundle: Path, key: str, code: int) -> str:
        return maker.types("verify", str(bundle), "--public-key", key, code=code)[1]

    assert "is signed by SHA256:" in verify(bundle, "other.pub", 15)
    assert "cannot be read as a public key" in verify(bundle, "kiln.toml", 2)
    # The right key's: what is missing now is the data set.
    assert "pass DATA=" in verify(bundle, "key.pub", 2)
    assert "the release is not signed" in verify(_packed(unpacked), "key.pub", 15)


def test_a_key_that_cannot_sign_says_so_and_shows_nothing_of_itself(maker: User) -> None:
    for name, says in (
        ("kiln.toml", "cannot be read as a private key"),
        ("nowhere", "the key nowhere cannot be read"),
        ("key.pub", "cannot be read as a private key"),
    ):
        _out, err = maker.types("release", *BRINGS, "--key", name, code=2)
        assert says in err.splitlines()[0]


def test_code_of_others_runs_only_if_somebody_vouches_for_it(maker: User, unpacked: Path) -> None:
    canary = unpacked.parent / "canary"
    check = unpacked / "source/stages/train/check.py"
    harm = f"import sys\nopen({str(canary)!r}, 'w').close()\nsys.exit(9)\n"
    sound = "from __future__ import annotations\n"
    assert sound in check.read_text("utf-8")
    check.write_text(check.read_text("utf-8").replace(sound, sound + harm, 1), "utf-8")
    bundle = _packed(unpacked)
    brings = _from(maker, *BRINGS)
    _out, err = maker.types("verify", str(bundle), *brings, code=2)
    assert "runs its own code, which is not that of this Kiln" in err
    assert not canary.exists()
    maker.types("verify", str(bundle), *brings, "--trust-bundle", code=7)
    assert canary.exists()


def test_the_data_set_must_be_the_one_that_it_was_made_from(maker: User, bundle: Path) -> None:
    _out, err = maker.types("verify", str(bundle), "--executor", "local", code=2)
    assert "made from a data set that is not in it, data.yaml" in err
    other = maker.folder / "other-data"
    if not other.exists():
        shutil.copytree(maker.folder / "data", other)
        next((other / "labels").rglob("*.txt")).write_text("0 0.5 0.5 0.1 0.1\n", "utf-8")
    _out, err = maker.types("verify", str(bundle), "--data", "other-data", code=2)
    assert "DATA is not what this release was made from" in err
