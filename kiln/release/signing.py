"""Ed25519 signatures of a release (RFC 8032), over the bytes of its SHA256SUMS.

The signature is the bare 64 bytes, so that others can check it too::

    openssl pkeyutl -verify -pubin -inkey signer.pub -rawin -in SHA256SUMS -sigfile SHA256SUMS.sig
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
    load_ssh_private_key,
    load_ssh_public_key,
)

from kiln.errors import BundleError, RequestError

_MAKE_ONE = "openssl genpkey -algorithm ed25519 -out release.pem, or ssh-keygen -t ed25519"


def read_private_key(path: Path, ask: Callable[[str], str]) -> Ed25519PrivateKey:
    """Read a PEM (PKCS #8) or OpenSSH key; ``ask`` gives the passphrase if it has one.

    Raises RequestError, with nothing of the key in it.
    """
    data = _read(path)
    load = load_ssh_private_key if b"OPENSSH PRIVATE KEY" in data else load_pem_private_key
    try:
        try:
            key = load(data, None)
        except TypeError:
            key = load(data, ask(f"passphrase of {path.name}").encode())
    # The library's own words may tell of the key's content.
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise RequestError(
            f"{path} cannot be read as a private key, or the passphrase is wrong", hint=_MAKE_ONE
        ) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise RequestError(f"{path} is a key of another kind than Ed25519", hint=_MAKE_ONE)
    return key


def read_public_key(path: Path) -> Ed25519PublicKey:
    """Read a PEM or OpenSSH public key; raises RequestError."""
    data = _read(path)
    load = load_ssh_public_key if data.startswith(b"ssh-") else load_pem_public_key
    try:
        key = load(data)
    except (ValueError, UnsupportedAlgorithm):
        raise RequestError(f"{path} cannot be read as a public key") from None
    if not isinstance(key, Ed25519PublicKey):
        raise RequestError(f"{path} is a key of another kind than Ed25519")
    return key


def public_pem(key: Ed25519PublicKey) -> bytes:
    """The text that a release carries."""
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def fingerprint(key: Ed25519PublicKey) -> str:
    """As ``ssh-keygen -lf`` names it."""
    wire = key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).split()[1]
    digest = hashlib.sha256(base64.b64decode(wire)).digest()
    return f"SHA256:{base64.b64encode(digest).decode().rstrip('=')}"


def check_signature(key: Ed25519PublicKey, signature: bytes, data: bytes) -> None:
    """Raises BundleError unless ``key`` made ``signature`` over ``data``."""
    try:
        key.verify(signature, data)
    except InvalidSignature as error:
        raise BundleError(
            f"the signature is not that of {fingerprint(key)} over this release",
            hint="it was changed, or it was signed with another key",
        ) from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise RequestError(f"the key {path} cannot be read: {error.strerror}") from error
