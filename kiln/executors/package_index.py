"""Whether packages could be fetched now, under the settings that an installation would use."""

from __future__ import annotations

import dataclasses
import os
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from kiln.executors.uv import CREDENTIALS, INDEX_NAME, installer_variables

_DEFAULT = "https://pypi.org/simple"
_TIMEOUT_S = 4.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class PackageIndex:
    """The index that uv asks first; ``certificates`` is a CA bundle if the user names one."""

    address: str
    certificates: str | None
    offline: bool

    @property
    def shown(self) -> str:
        """Its host, or the folder that it is."""
        parts = urlsplit(self.address)
        return parts.hostname or parts.path


def package_index(environ: Mapping[str, str], home: Path) -> PackageIndex:
    """Read uv's and pip's settings as an installation does."""
    variables = installer_variables(environ, home)
    named = variables.get("UV_DEFAULT_INDEX") or variables.get("UV_INDEX_URL") or _DEFAULT
    return PackageIndex(
        address=CREDENTIALS.sub("", INDEX_NAME.sub("", named)),
        certificates=variables.get("SSL_CERT_FILE"),
        offline=variables.get("UV_OFFLINE", "").lower() in ("1", "true", "yes"),
    )


def index_problem(index: PackageIndex) -> str:
    """Why the index can't be reached, or nothing; any answer of its host is one, a refusal too."""
    if index.offline:
        return "UV_OFFLINE is set"
    if not urlsplit(index.address).scheme.startswith("http"):
        folder = Path(urlsplit(index.address).path)
        return "" if folder.exists() else "there is no such folder"
    try:
        context = ssl.create_default_context(cafile=index.certificates)
        request = urllib.request.Request(f"{index.address.rstrip('/')}/", method="HEAD")
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S, context=context):
            return ""
    except urllib.error.HTTPError as error:
        error.close()
        return ""
    except urllib.error.URLError as error:
        return _said(error.reason)
    except (OSError, ValueError) as error:
        return _said(error)


def _said(reason: object) -> str:
    if isinstance(reason, TimeoutError):
        return f"no answer within {_TIMEOUT_S:g} s"
    return (getattr(reason, "strerror", None) or str(reason)) if reason else os.strerror(0)
