# SPDX-License-Identifier: GPL-2.0-or-later
"""Sign a module as the kernel's scripts/sign-file does, with ``openssl cms -sign``.

The signature names its certificate by issuer and serial number and holds neither certificates nor
attributes (``CMS_NOCERTS``, ``CMS_NOATTR``), so it is always the same for the same key and module
(of an RSA key).
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from livegraft.errors import ModuleError, RunFailed
from livegraft.trust.openssl import openssl, private_folder
from livegraft.trust.store import NAME, Certificate, Store
from livegraft.trust.verification import Signer, verify

TOKEN = "pkcs11:"
"""How a key in a token begins (RFC 7512)."""

PASSPHRASE = "KBUILD_SIGN_PIN"
"""The variable with the key's passphrase or the token's PIN, as scripts/sign-file has it."""

_TRIAL = b"livegraft"
"""What a key is tried with."""

_MISMATCHES = ("key values mismatch", "different key types")
"""openssl's crypto/x509/x509_err.c and crypto/evp/evp_err.c."""

_ENGINE = ("-engine", "pkcs11", "-keyform", "engine")
_PROVIDER = ("-provider", "default", "-provider", "pkcs11")
"""How openssl gets at a token: by an engine (OpenSSL 3, libengine-pkcs11-openssl), or a provider
(pkcs11-provider), which is there for sure where there are no engines any more."""


class Key(NamedTuple):
    """A private key and its certificate, which were tried.

    Args:
        key: a file, or a token's URI (``pkcs11:...``).
        certificate: the file of its certificate, PEM or DER.
        signer: who signs with it.
        how: what openssl has to be told for it.
    """

    key: str
    certificate: Path
    signer: Signer
    how: tuple[str, ...]

    @classmethod
    def open(cls, key: str, certificate: Path, name: str = "") -> Key:
        """A key that signs.

        Args:
            key: a file, or a token's URI.
            certificate: the file of its certificate, PEM or DER.
            name: what the signer is called; the certificate's file name without its suffix by
                default.

        Raises:
            ModuleError: it cannot be used, is not the certificate's, or that is not valid today.
        """
        name = name or certificate.stem
        if re.fullmatch(NAME, name) is None:
            problem = "is no name for a signer"
            raise ModuleError(name, problem, "use letters, digits and . _ - (--name)")
        if not key.startswith(TOKEN) and not Path(key).is_file():
            raise ModuleError(key, "is no file, and no token's URI (pkcs11:...)", "check the path")
        der = _der(certificate)
        how, signature = _tried(key, certificate)
        store = Store(certificate.parent, (Certificate(name, certificate, der),))
        (checked,) = verify(_TRIAL, [(None, signature)], store)
        if checked.problem:
            raise ModuleError(str(certificate), f"cannot sign: {checked.problem}", checked.remedy)
        return cls(key, certificate, checked.signers[0], how)

    def sign(self, content: bytes) -> bytes:
        """A signature over a module: PKCS#7 in DER, detached.

        Raises:
            ModuleError: openssl does not make it.
        """
        try:
            return _signature(content, self.key, self.certificate, self.how)
        except RunFailed as error:
            raise _unusable(self.key, self.certificate, error) from error


def _tried(key: str, certificate: Path) -> tuple[tuple[str, ...], bytes]:
    """How openssl takes a key, and a signature over :data:`_TRIAL`."""
    ways: tuple[tuple[str, ...], ...] = (_ENGINE, _PROVIDER) if key.startswith(TOKEN) else ((),)
    failures = []
    for how in ways:
        try:
            return how, _signature(_TRIAL, key, certificate, how)
        except RunFailed as error:
            failures.append(error)
    raise _unusable(key, certificate, failures[0])


def _signature(content: bytes, key: str, certificate: Path, how: Sequence[str]) -> bytes:
    with private_folder() as folder:
        given, out = folder / "content", folder / "signature"
        given.write_bytes(content)
        openssl(
            *("cms", "-sign", "-binary", "-noattr", "-nocerts", "-md", "sha256"),
            *("-signer", str(certificate.absolute()), "-inkey", key, *how, *_passphrase()),
            *("-in", given, "-outform", "DER", "-out", out),
            variables=_variables(key),
        )
        return out.read_bytes()


def _passphrase() -> tuple[str, ...]:
    return ("-passin", f"env:{PASSPHRASE}") if PASSPHRASE in os.environ else ()


def _variables(key: str) -> Mapping[str, str]:
    """A token's driver may be told by variables of its own; a file needs none."""
    kept = {PASSPHRASE: os.environ[PASSPHRASE]} if PASSPHRASE in os.environ else {}
    return kept if not key.startswith(TOKEN) else dict(os.environ) | {"LC_ALL": "C.UTF-8"}


def _der(certificate: Path) -> bytes:
    with private_folder() as folder:
        out = folder / "der"
        try:
            openssl("x509", "-in", certificate.absolute(), "-outform", "DER", "-out", out)
        except RunFailed as error:
            problem = "is no certificate that openssl can read"
            raise ModuleError(str(certificate), problem, "name one, in PEM or DER") from error
        return out.read_bytes()


def _unusable(key: str, certificate: Path, error: RunFailed) -> ModuleError:
    if any(each in error.output for each in _MISMATCHES):
        problem = f"is not the key of {certificate}"
        return ModuleError(key, problem, "name the certificate that was made for it")
    lines = [line for line in error.output.splitlines() if not line.startswith("Engine")]
    said = lines[0] if lines else error.problem
    if ":error:" in said:  # thread:error:code:library:function:reason:file:line:more
        said = said.split(":")[5]
    remedy = (
        "install libengine-pkcs11-openssl and the token's driver, and check the URI and its PIN"
        if key.startswith(TOKEN)
        else "name a private key, in PEM"
    )
    problem = f"cannot be used to sign: {said}"
    return ModuleError(key, problem, f"{remedy}; a passphrase or PIN is taken from {PASSPHRASE}")
