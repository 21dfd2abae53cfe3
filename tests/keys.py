# SPDX-License-Identifier: GPL-2.0-or-later
"""Keys and certificates for tests, made by openssl on the spot."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from livegraft.run import run

PAST, FUTURE = "20200101000000Z", "20400101000000Z"

CONFIGURATION = """
[ca]
default_ca = ours
[ours]
database = {folder}/index
serial = {folder}/serial
crlnumber = {folder}/crlnumber
new_certs_dir = {folder}
policy = any
default_md = sha256
default_crl_days = 30
[any]
commonName = supplied
[req]
distinguished_name = nothing
[nothing]
[authority]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
"""


@dataclass(frozen=True, slots=True)
class Person:
    """A private key and its certificate."""

    name: str
    key: Path
    cert: Path

    def sign(self, content: bytes, *more: str, bring: bool = False) -> bytes:
        """A signature, made by openssl alone and not by what is tested.

        Args:
            content: what it covers.
            more: for openssl.
            bring: put the certificate into it.
        """
        given, out = self.key.with_suffix(".content"), self.key.with_suffix(".signature")
        given.write_bytes(content)
        run(
            [
                *("openssl", "cms", "-sign", "-binary", "-noattr", "-md", "sha256"),
                *(() if bring else ("-nocerts",)),
                *("-signer", str(self.cert), "-inkey", str(self.key), *more),
                *("-in", given, "-outform", "DER", "-out", out),
            ]
        )
        return out.read_bytes()


def person(folder: Path, name: str, kind: str = "ec") -> Person:
    """Somebody who vouches for themselves.

    Args:
        folder: for the files.
        name: of the person, and the stem of their files.
        kind: ``ec``, or ``rsa:BITS``.
    """
    made = Person(name, folder / f"{name}.key", folder / f"{name}.pem")
    run(
        [
            *("openssl", "req", "-x509", "-nodes", "-subj", f"/CN={name}/O=Größe", "-utf8"),
            *("-newkey", kind, *_CURVE[kind != "ec"], "-days", "30"),
            *("-keyout", made.key, "-out", made.cert),
        ]
    )
    return made


_CURVE = (("-pkeyopt", "ec_paramgen_curve:prime256v1"), ())


class Authority:
    """Issues certificates, and revokes them.

    Args:
        folder: for its files; a new one.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        (folder / "index").touch()
        (folder / "serial").write_text("01\n")
        (folder / "crlnumber").write_text("01\n")
        self.configuration = folder / "configuration"
        self.configuration.write_text(CONFIGURATION.format(folder=folder))
        self.key, self.cert = folder / "authority.key", folder / "authority.pem"
        run(
            [
                *("openssl", "req", "-x509", "-config", self.configuration, "-nodes"),
                *("-extensions", "authority", "-subj", "/CN=Authority", "-days", "30"),
                *("-newkey", "ec", *_CURVE[0], "-keyout", self.key, "-out", self.cert),
            ]
        )

    def issue(self, name: str, begin: str = PAST, end: str = FUTURE) -> Person:
        """A person with a certificate of this authority, valid from and to these times."""
        made = Person(name, self.folder / f"{name}.key", self.folder / f"{name}.pem")
        request = self.folder / f"{name}.csr"
        run(
            [
                *("openssl", "req", "-config", self.configuration, "-nodes", "-subj"),
                *(f"/CN={name}", "-newkey", "ec", *_CURVE[0]),
                *("-keyout", made.key, "-out", request),
            ]
        )
        self._ca("-in", request, "-out", made.cert, "-startdate", begin, "-enddate", end)
        return made

    def revoke(self, who: Person) -> None:
        """Take a certificate back; :meth:`revoked` tells of it."""
        self._ca("-revoke", who.cert)

    def revoked(self, *more: str) -> bytes:
        """The list of revoked certificates, in PEM."""
        out = self.folder / "list"
        self._ca("-gencrl", "-out", out, *more)
        return out.read_bytes()

    def _ca(self, *arguments: str | os.PathLike[str]) -> None:
        run(
            [
                *("openssl", "ca", "-config", self.configuration, "-batch", "-notext"),
                *("-cert", self.cert, "-keyfile", self.key, *arguments),
            ]
        )
