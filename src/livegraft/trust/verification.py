# SPDX-License-Identifier: GPL-2.0-or-later
"""Is a signature one of these bytes, and by whom? openssl says so.

``openssl cms -verify`` tells whether a signature is one over the very bytes, made with the key of
one of the trusted certificates: certificates that a signature brings along are not looked at. Then
``openssl verify`` tells whether that certificate may be used today: its time, its key's strength,
its issuer if that one is there too, and its issuer's list of revoked ones if that is there.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

from livegraft.errors import RunFailed, Untrusted
from livegraft.trust.appended import AGAIN
from livegraft.trust.openssl import openssl, private_folder
from livegraft.trust.store import Certificate, Store, certificates_in

_CHAIN = (
    *("-partial_chain", "-purpose", "any", "-auth_level", "2"),
    *("-no-CApath", "-no-CAstore", "-nameopt", "RFC2253,-esc_msb"),
)
"""Each trusted certificate is trusted as it is, without those above it. The purposes of X.509 know
none for kernel modules. Level 2: keys as strong as RSA of 2,048 bits, no SHA-1 in between."""

_NO_SIGNER = "signer certificate not found"
"""``CMS_R_SIGNER_CERTIFICATE_NOT_FOUND``: openssl's crypto/cms/cms_err.c."""

_ERROR = r"(?m)(?:^(?P<subject>[^\n]*)\n)?error (?P<code>\d+) at (?P<depth>\d+) "
_ISSUER = r"(?m)^ *issuer: (.*)\n *serialNumber: (.*)$"
_KEY = r"(?m)^ *d\.subjectKeyIdentifier: *\n((?: *[0-9a-f]{4} - .*\n)+)"


class _Error(IntEnum):
    """``X509_V_ERR_*``: openssl's include/openssl/x509_vfy.h."""

    CERT_NOT_YET_VALID = 9
    CERT_HAS_EXPIRED = 10
    CRL_HAS_EXPIRED = 12
    CERT_REVOKED = 23


class Signer(NamedTuple):
    """Someone whose signature holds.

    Args:
        name: as the machine calls them: that of their file in trusted.d.
        subject: of their certificate (RFC 2253).
        sha256: the certificate's fingerprint, hexadecimal.
    """

    name: str
    subject: str
    sha256: str

    def __str__(self) -> str:
        return f"{self.subject} ({self.name})"

    def as_json(self) -> dict[str, str]:
        """The signer in documents."""
        return {"name": self.name, "subject": self.subject, "sha256": self.sha256}


class Signature(NamedTuple):
    """What became of one signature.

    Args:
        file: the detached signature's file name; None for the one at the module's end.
        signers: who has made it; empty unless it holds.
        claims: which certificates it says that it was made with, if it does not hold.
        problem: why it does not hold; "" if it does.
        remedy: what to do then.
    """

    file: str | None
    signers: tuple[Signer, ...] = ()
    claims: tuple[str, ...] = ()
    problem: str = ""
    remedy: str = ""

    def as_json(self) -> dict[str, object]:
        """The signature in documents."""
        return {
            "file": self.file,
            "trusted": not self.problem,
            "signers": [each.as_json() for each in self.signers],
            "claims": list(self.claims),
            "message": self.problem,
            "remedy": self.remedy,
        }


class _Refused(Exception):
    """Why a signature does not hold, and what to do."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(problem, remedy)
        self.problem = problem
        self.remedy = remedy


def verify(
    content: bytes, signatures: Sequence[tuple[str | None, bytes]], store: Store
) -> tuple[Signature, ...]:
    """Check signatures over the same bytes.

    Args:
        content: what they have to cover.
        signatures: each one's file name (None: it is at the module's end), and PKCS#7 in DER.
        store: whom to trust.

    Returns:
        One answer for each, in their order.

    Raises:
        Untrusted: openssl is not there, a file of the store is damaged, or the disk is full.
    """
    if not signatures:
        return ()
    with private_folder() as folder:
        (folder / "content").write_bytes(content)
        (folder / "trusted").write_bytes(store.pem())
        return tuple(_one(file, data, store, folder) for file, data in signatures)


def _one(file: str | None, data: bytes, store: Store, folder: Path) -> Signature:
    (folder / "signature").write_bytes(data)
    try:
        made = _makers(store, folder)
        signers = tuple(_signer(each, store, folder) for each in made)
    except _Refused as refused:
        claims = _claims(folder)
        return Signature(file, (), claims, refused.problem, refused.remedy)
    return Signature(file, signers)


def _makers(store: Store, folder: Path) -> list[Certificate]:
    """The trusted certificates with whose keys the signature was made; at least one."""
    if not store.certificates:
        raise _unknown(store, folder)
    out = folder / "makers"
    out.unlink(missing_ok=True)
    try:
        openssl(
            *("cms", "-verify", "-binary", "-inform", "DER", "-in", folder / "signature"),
            *("-content", folder / "content", "-out", "/dev/null"),
            *("-nointern", "-certfile", folder / "trusted", "-noverify", "-signer", out),
        )
    except RunFailed as error:
        _require_whole(store, folder)
        if _NO_SIGNER in error.output:
            raise _unknown(store, folder) from error
        problem = "the signature is not over these bytes: one of both is damaged or exchanged"
        raise _Refused(problem, AGAIN) from error
    made = [store.certificate_of(each) for each in certificates_in(out.read_bytes())]
    known = [each for each in made if each is not None]
    if not known or len(known) != len(made):
        raise _unknown(store, folder)
    return known


def _unknown(store: Store, folder: Path) -> _Refused:
    claimed = " and ".join(_claims(folder)) or "nobody that could be named"
    return _Refused(
        f"the signature is by nobody whom this machine trusts: it names {claimed}",
        f"if you trust that signer, put the certificate into {store.folder} as NAME.pem",
    )


def _signer(made: Certificate, store: Store, folder: Path) -> Signer:
    """Whether a certificate may be used today."""
    path = folder / "certificate"
    path.write_bytes(made.der)
    lists = ["-crl_check"] if _has_list(store, folder) else []
    try:
        said, _ = openssl(
            "verify", *_CHAIN, "-show_chain", *lists, "-CAfile", folder / "trusted", path
        )
    except RunFailed as error:
        raise _unusable(made, error, store, folder) from error
    subject = re.search(r"^depth=0: (.*?)(?: \(untrusted\))?$", said, re.M)
    return Signer(made.name, subject[1] if subject else "", made.sha256)


def _has_list(store: Store, folder: Path) -> bool:
    """Whether the certificate's issuer has a list of revoked ones in the store.

    An issuer without one has revoked nothing; openssl would take that for an error.
    """
    if not store.revoked:
        return False
    issuer, _ = openssl("x509", "-in", folder / "certificate", "-noout", "-issuer_hash")
    for _, data in store.revoked:
        (folder / "list").write_bytes(data)
        if openssl("crl", "-inform", "DER", "-in", folder / "list", "-noout", "-hash")[0] == issuer:
            return True
    return False


def _unusable(made: Certificate, error: RunFailed, store: Store, folder: Path) -> _Refused:
    found = re.search(_ERROR, error.output)
    if found is None:
        _require_whole(store, folder)
        return _Refused(f"the signer's certificate cannot be used: {error.problem}", "renew it")
    subject, code = found["subject"] or made.name, int(found["code"])
    text = error.output[found.end() :].splitlines()[0].removeprefix("depth lookup: ")
    whose = f"{subject} ({made.path.name})" if found["depth"] == "0" else f"the issuer {subject}"
    clock = time.strftime("%b %d %H:%M:%S %Y GMT", time.gmtime())
    span = _span(folder) if found["depth"] == "0" else ""
    again = "renew the certificate and sign again"
    match code:
        case _Error.CERT_NOT_YET_VALID:
            return _Refused(
                f"the certificate of {whose} is not yet valid: {span}this machine's clock says "
                f"{clock}",
                "set the clock, if that is not the time: timedatectl set-time",
            )
        case _Error.CERT_HAS_EXPIRED:
            return _Refused(
                f"the certificate of {whose} has expired: {span}this machine's clock says {clock}",
                f"{again}; set the clock, if that is not the time: timedatectl set-time",
            )
        case _Error.CERT_REVOKED:
            return _Refused(
                f"the certificate of {whose} was revoked by its issuer",
                "do not use the patch; have it signed by somebody else after a review",
            )
        case _Error.CRL_HAS_EXPIRED:
            return _Refused(
                f"the list of revoked certificates of {whose}'s issuer is out of date; this "
                f"machine's clock says {clock}",
                f"get the issuer's new list, and put it into {store.folder}",
            )
    remedy = f"{again}, or put what is missing (its issuer's certificate or list) into trusted.d"
    return _Refused(f"the certificate of {whose} cannot be used: {text}", remedy)


def _span(folder: Path) -> str:
    """When a certificate is valid."""
    said, _ = openssl("x509", "-in", folder / "certificate", "-noout", "-dates")
    dates = dict(line.partition("=")[::2] for line in said.splitlines())
    return f"it is valid from {dates.get('notBefore')} to {dates.get('notAfter')}, and "


def _claims(folder: Path) -> tuple[str, ...]:
    """The certificates that a signature names; what it says is not to be believed."""
    try:
        said, _ = openssl(
            *("cms", "-cmsout", "-print", "-noout", "-inform", "DER", "-in", folder / "signature")
        )
    except RunFailed:
        return ()
    infos = said.partition("signerInfos:")[2]
    by_issuer = [
        f"certificate {serial} of {issuer}" for issuer, serial in re.findall(_ISSUER, infos)
    ]
    return (*by_issuer, *(f"key {_hexadecimal(dump)}" for dump in re.findall(_KEY, infos)))


def _hexadecimal(dump: str) -> str:
    """The bytes of openssl's dump: an offset, sixteen bytes, and the same as characters."""
    return "".join(
        digits
        for line in dump.splitlines()
        for digits in re.findall(r"\b[0-9a-f]{2}\b", line.partition(" - ")[2][:48])
    )


def _require_whole(store: Store, folder: Path) -> None:
    """Name the file of the store that openssl cannot read, if that is the reason.

    Raises:
        Untrusted: one is damaged.
    """
    path = folder / "one"
    parts = [(each.path, each.der, "x509") for each in store.certificates]
    parts += [(place, data, "crl") for place, data in store.revoked]
    for place, data, kind in parts:
        path.write_bytes(data)
        try:
            openssl(kind, "-inform", "DER", "-in", path, "-noout")
        except RunFailed as error:
            problem = "is damaged, so that nothing can be checked"
            raise Untrusted(str(place), problem, "replace or remove it") from error
