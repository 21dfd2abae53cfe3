# SPDX-License-Identifier: GPL-2.0-or-later
"""The certificates that a machine trusts: the files of /etc/livegraft/trusted.d.

``NAME.pem`` (or ``.crt``, ``.cer``, ``.der``) holds the certificate of the signer NAME; as PEM it
may hold several, an old one and its successor. ``ANYTHING.crl`` holds a list of certificates that
their issuer has revoked. Whatever has another suffix is not looked at.
"""

from __future__ import annotations

import binascii
import re
from pathlib import Path
from typing import NamedTuple

from livegraft.errors import Untrusted
from livegraft.trust import owned

FOLDER = "etc/livegraft/trusted.d"
"""Below the root."""

SUFFIXES = (".pem", ".crt", ".cer", ".der")
REVOKED = ".crl"

NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]*"
"""What a signer can be called."""

_CERTIFICATE, _LIST = b"CERTIFICATE", b"X509 CRL"
_BLOCK = rb"(?s)-----BEGIN ([A-Z0-9 ]+)-----\r?\n(.*?)-----END \1-----"
_ASN1_SEQUENCE = b"\x30"
"""How everything in DER begins that can be here."""

_EXAMPLE = "put a certificate in its place: openssl x509 -in CERT -out NAME.pem"


class Certificate(NamedTuple):
    """A certificate, and whose it is.

    Args:
        name: of the signer: the file's name without its suffix.
        path: the file.
        der: the certificate.
    """

    name: str
    path: Path
    der: bytes

    @property
    def sha256(self) -> str:
        """The fingerprint, hexadecimal."""
        import hashlib  # seldom needed, and start-up time counts

        return hashlib.sha256(self.der).hexdigest()


class Store(NamedTuple):
    """What a machine trusts.

    Args:
        folder: where that was read.
        certificates: of signers, and of those who issued theirs.
        revoked: lists of revoked certificates, DER, by their files.
    """

    folder: Path
    certificates: tuple[Certificate, ...] = ()
    revoked: tuple[tuple[Path, bytes], ...] = ()

    @classmethod
    def read(cls, folder: Path) -> Store:
        """Read a folder; one that does not exist is empty.

        Raises:
            Untrusted: others than its owner can write something of it, or a file is not what its
                suffix says.
        """
        certificates: list[Certificate] = []
        revoked: list[tuple[Path, bytes]] = []
        with owned.folder(folder) as descriptor:
            for name in [] if descriptor is None else owned.names(descriptor):
                path = folder / name
                if path.suffix not in (*SUFFIXES, REVOKED) or descriptor is None:
                    continue
                data = owned.read(path, descriptor)
                if data is None:
                    continue  # removed meanwhile
                if path.suffix == REVOKED:
                    revoked += [(path, each) for each in _blocks(path, data, _LIST)]
                else:
                    blocks = _blocks(path, data, _CERTIFICATE)
                    certificates += [Certificate(path.stem, path, each) for each in blocks]
        _require_distinct(certificates)
        return cls(folder, tuple(certificates), tuple(revoked))

    def certificate_of(self, der: bytes) -> Certificate | None:
        """The trusted certificate of these bytes."""
        return next((each for each in self.certificates if each.der == der), None)

    def pem(self) -> bytes:
        """All of it as one file for openssl."""
        made = [pem(_CERTIFICATE, each.der) for each in self.certificates]
        return b"".join([*made, *(pem(_LIST, each) for _, each in self.revoked)])


def pem(kind: bytes, der: bytes) -> bytes:
    """The text form of something in DER (RFC 7468)."""
    return b"-----BEGIN %s-----\n%s-----END %s-----\n" % (kind, _base64(der), kind)


def _base64(data: bytes) -> bytes:
    """In lines of 64 characters."""
    return b"".join(binascii.b2a_base64(data[at : at + 48]) for at in range(0, len(data), 48))


def certificates_in(data: bytes) -> list[bytes]:
    """The certificates in a text that openssl wrote, in DER."""
    return [
        binascii.a2b_base64(body) for kind, body in re.findall(_BLOCK, data) if kind == _CERTIFICATE
    ]


def _blocks(path: Path, data: bytes, wanted: bytes) -> list[bytes]:
    """What a file holds, in DER, all of one kind."""
    what = wanted.decode().lower().replace("crl", "CRL")
    if data.startswith(_ASN1_SEQUENCE):
        return [data]
    found = re.findall(_BLOCK, data)
    if not found:
        raise Untrusted(str(path), f"holds no {what}, in PEM or DER", f"remove it, or {_EXAMPLE}")
    for kind, _ in found:
        if kind != wanted:
            problem = f"holds a {kind.decode()}, and only a {what} belongs there"
            raise Untrusted(str(path), problem, f"remove it, or {_EXAMPLE}")
    try:
        return [binascii.a2b_base64(b"".join(body.split()), strict_mode=True) for _, body in found]
    except binascii.Error as error:
        raise Untrusted(str(path), f"is damaged: {error}", _EXAMPLE) from error


def _require_distinct(certificates: list[Certificate]) -> None:
    """A name stands for one file, and a certificate for one name.

    Otherwise one signature would count as that of two people.
    """
    files: dict[str, Path] = {}
    names: dict[bytes, Certificate] = {}
    for each in certificates:
        if re.fullmatch(NAME, each.name) is None:
            problem = "its name is none for a signer"
            raise Untrusted(str(each.path), problem, "use letters, digits and . _ -")
        other = files.setdefault(each.name, each.path)
        if other != each.path:
            raise Untrusted(str(each.path), f"has the name of {other.name}", "rename one of them")
        same = names.setdefault(each.der, each)
        if same is not each:
            problem = f"holds the certificate that {same.path.name} holds"
            raise Untrusted(str(each.path), problem, "remove one of them")
