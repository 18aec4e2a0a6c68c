"""Download published weights or a data set: the only step that has a network.

``params``: kind (weights, data), name (one that ultralytics publishes, or a URL). ``in/``: perhaps
ca.pem, further certificates. ``out/``: weights.pt, or data/ in the layout that all steps take.

The pinned ultralytics gives the addresses; its code for downloading, which runs scripts of data
sets and guesses mirrors, is not used.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import http.client
import importlib.util
import inspect
import re
import shutil
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import Any, Literal
from urllib.parse import urlsplit, urlunsplit

from stages.contract import Events, Job, StepFailed, main
from stages.results.fetch import FetchResult
from stages.train.dataset.archive import unpack
from stages.train.dataset.class_layout import find_class_folders, normalise_classes
from stages.train.dataset.description import read_yaml
from stages.train.dataset.layout import normalise

Kind = Literal["weights", "data"]
_TIMEOUT_S = 30
_CHUNK_BYTES = 1 << 20
_USABLE_WEIGHTS = re.compile(r"yolov8[nsmlx](-pose|-cls|-oiv7)?\.pt")
_ASSETS = "https://github.com/ultralytics/assets/releases/download"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """What to download; ``description`` is the data.yaml of a data set of ultralytics."""

    kind: Kind
    name: str
    url: str
    description: Mapping[str, Any] | None = None

    @property
    def public_url(self) -> str:
        """The address without user, password and query, which may be secret."""
        parts = urlsplit(self.url)
        host = parts.netloc.rpartition("@")[2]
        return urlunsplit((parts.scheme, host, parts.path, "", ""))

    @property
    def by_hand(self) -> str:
        """A hint for a machine without a network."""
        fetch = f"on a machine with a network, download {self.public_url}"
        if self.kind == "weights":
            file = PurePosixPath(urlsplit(self.url).path).name
            return f"{fetch} and pass WEIGHTS=path/to/{file}; or WEIGHTS=scratch to do without"
        return f"{fetch}, unpack it and pass DATA=path/to/data.yaml; or leave DATA out for the demo"


def run(job: Job, events: Events) -> FetchResult:
    """Write weights.pt or data/; raises StepFailed("network"), ("data") or ("request")."""
    source = resolve(job.params["kind"], job.params["name"])
    certificates = job.inputs / "ca.pem"
    context = ssl.create_default_context()
    if certificates.exists():
        context.load_verify_locations(certificates)
    download = job.state / "download"
    try:
        sha256 = _download(source, download, context, events)
        size = download.stat().st_size
        if source.kind == "weights":
            shutil.move(download, job.out / "weights.pt")
        else:
            unpacked = job.state / "unpacked"
            unpack(download, unpacked, source.public_url)
            classes = find_class_folders(unpacked) if source.description is None else None
            if classes is not None:
                normalise_classes(classes, job.out / "data")
            else:
                normalise(unpacked, job.out / "data", source.description)
    finally:
        download.unlink(missing_ok=True)
        shutil.rmtree(job.state / "unpacked", ignore_errors=True)
    return FetchResult(
        url=source.public_url,
        sha256=sha256,
        bytes=size,
        versions={"ultralytics": version("ultralytics")},
    )


def resolve(kind: Kind, name: str) -> Source:
    """The address of a name that ultralytics publishes, or of an http(s) URL."""
    scheme = urlsplit(name).scheme
    if scheme in ("http", "https"):
        return Source(kind=kind, name=name, url=name)
    if "://" in name:
        raise StepFailed("request", f"cannot fetch {name}: only http and https addresses")
    return _published_weights(name) if kind == "weights" else _published_data(name)


def _published_weights(name: str) -> Source:
    # isort: split - here, because it takes seconds to import and a URL does not need it
    from ultralytics.utils.downloads import GITHUB_ASSETS_NAMES, attempt_download_asset

    import stages.train.ultralytics_env  # noqa: F401 - before anything of ultralytics

    known = sorted(each for each in GITHUB_ASSETS_NAMES if _USABLE_WEIGHTS.fullmatch(each))
    if name not in known:
        raise StepFailed(
            "request",
            f"ultralytics publishes no YOLOv8 weights {name}{_nearest(name, known)}",
            hint=f"known: {', '.join(known)}; or WEIGHTS=path/to/best.pt, or WEIGHTS=scratch",
        )
    release = inspect.signature(attempt_download_asset).parameters["release"].default
    return Source(kind="weights", name=name, url=f"{_ASSETS}/{release}/{name}")


def _published_data(name: str) -> Source:
    package = importlib.util.find_spec("ultralytics")
    assert package is not None
    assert package.origin is not None
    folder = Path(package.origin).parent / "cfg" / "datasets"
    known = sorted(path.name for path in folder.glob("*.yaml"))
    file = name if name.endswith(".yaml") else f"{name}.yaml"
    if file not in known:
        raise StepFailed(
            "request",
            f"ultralytics knows no data set {name}{_nearest(file, known)}",
            hint="pass DATA=path/to/data.yaml for your own",
        )
    description = read_yaml(folder / file)
    address = str(description.get("download") or "").strip()
    if not re.fullmatch(r"https?://\S+\.zip", address):
        raise StepFailed(
            "request",
            f"{file} is not one archive: ultralytics fetches it by running a script, "
            "which Kiln does not do",
            hint="fetch it by hand and pass DATA=path/to/data.yaml",
        )
    return Source(kind="data", name=name, url=address, description=description)


def _nearest(name: str, known: list[str]) -> str:
    nearest = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {nearest[0]}?" if nearest else ""


def _download(source: Source, target: Path, context: ssl.SSLContext, events: Events) -> str:
    """Download into a file; its sha256 (hex)."""
    request = urllib.request.Request(source.url, headers={"User-Agent": "kiln"})
    digest = hashlib.sha256()
    try:
        with (
            urllib.request.urlopen(request, timeout=_TIMEOUT_S, context=context) as response,
            target.open("wb") as stream,
        ):
            length = response.headers.get("Content-Length") or ""
            expected = int(length) if length.isdecimal() else 0
            done = 0
            while chunk := response.read(_CHUNK_BYTES):
                stream.write(chunk)
                digest.update(chunk)
                done += len(chunk)
                events.progress(done, max(done, expected), "bytes")
    except urllib.error.HTTPError as error:
        raise _unreachable(source, f"the server answered {error.code} {error.reason}") from error
    except urllib.error.URLError as error:
        raise _unreachable(source, str(error.reason)) from error
    except (http.client.HTTPException, TimeoutError, ConnectionError, ssl.SSLError) as error:
        raise _unreachable(source, str(error) or type(error).__name__) from error
    if done < expected:
        raise _unreachable(source, f"the connection ended after {done} of {expected} bytes")
    return digest.hexdigest()


def _unreachable(source: Source, reason: str) -> StepFailed:
    hint = source.by_hand
    if "CERTIFICATE_VERIFY_FAILED" in reason:
        hint = f"set SSL_CERT_FILE to your network's CA bundle; or {hint}"
    return StepFailed("network", f"cannot fetch {source.public_url}: {reason}", hint=hint)


if __name__ == "__main__":
    main(run)
