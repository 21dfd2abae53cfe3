# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether a patch's signatures are enough for this machine, before the kernel sees the file.

A kernel without Secure Boot loads a module that somebody has changed, or that was signed by anyone,
and only notes that it is tainted.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from livegraft.errors import Untrusted
from livegraft.runtime import configuration
from livegraft.runtime.configuration import Configuration
from livegraft.trust import appended, detached
from livegraft.trust.store import FOLDER, Store
from livegraft.trust.verification import Signature, Signer, verify

UNSIGNED = "it is not signed: nothing shows who built it, nor that it was not changed since"

SIGN = "sign it: livegraft sign PATCH.ko --key KEY --cert CERT"


class Trust(NamedTuple):
    """What a patch's signatures amount to.

    Args:
        signatures: all that there are: the one at its end, then the detached ones.
        required: signers who all have to have signed it.
        reasons: why it may not be loaded.
    """

    signatures: tuple[Signature, ...]
    required: tuple[str, ...]
    reasons: tuple[Untrusted, ...]

    @property
    def signers(self) -> tuple[Signer, ...]:
        """Everybody whose signature holds, each once."""
        return tuple(dict.fromkeys(one for each in self.signatures for one in each.signers))

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the user should know."""
        return () if self.signatures else (UNSIGNED,)


def examine(
    path: Path, data: bytes, root: Path = configuration.ROOT, trusted: Path | None = None
) -> Trust:
    """Look at all signatures of a patch.

    Args:
        path: its file, for the detached signatures beside it; not read again.
        data: its bytes.
        root: where etc/ is.
        trusted: the folder of trusted certificates, if it is not the machine's.

    Raises:
        Untrusted: what says whom to trust cannot be relied on, or a signature's file not be read.
        PatchError: the configuration is not understood.
    """
    decided = configuration.read(root)
    content, signature = appended.split(data, str(path))
    found: list[tuple[str | None, bytes]] = [] if signature is None else [(None, signature)]
    found += detached.find(path)
    store = Store.read(trusted or root / FOLDER) if found else Store(trusted or root / FOLDER)
    signatures = verify(content, found, store)
    reasons = [
        Untrusted(each.file or str(path), each.problem, each.remedy)
        for each in signatures
        if each.problem
    ]
    reasons += _misnamed(path, signatures, store)
    reasons += _missing(path, signatures, decided, store)
    return Trust(signatures, decided.required_signers, tuple(reasons))


def check(path: Path, data: bytes, root: Path = configuration.ROOT) -> Trust:
    """Refuse what the machine does not trust.

    Args:
        path: the patch's file, for the detached signatures beside it; not read again.
        data: its bytes.
        root: where etc/ is.

    Raises:
        Untrusted: a signature does not hold, or one that is required is missing.
        PatchError: the configuration is not understood.
    """
    trust = examine(path, data, root)
    if trust.reasons:
        first, more = trust.reasons[0], len(trust.reasons) - 1
        also = f" (and {more} more: livegraft verify)" if more else ""
        raise Untrusted(first.subject, f"{first.problem}{also}; nothing was changed", first.remedy)
    return trust


def _misnamed(path: Path, signatures: Sequence[Signature], store: Store) -> list[Untrusted]:
    """A file with one trusted signer's name and another one's signature deceives its reader."""
    names = {each.name for each in store.certificates}
    reasons = []
    for each in signatures:
        name = "" if each.file is None else detached.name_in(each.file, path)
        made = [one.name for one in each.signers]
        if each.file is not None and made and name in names and name not in made:
            problem = f"is the signature of {', '.join(map(str, each.signers))}, not of '{name}'"
            reasons.append(Untrusted(each.file, problem, f"name it {path.name}.{made[0]}.p7s"))
    return reasons


def _missing(
    path: Path, signatures: Sequence[Signature], decided: Configuration, store: Store
) -> list[Untrusted]:
    """Whose signature is asked for and not there."""
    made = {one.name for each in signatures for one in each.signers}
    known = {each.name for each in store.certificates}
    reasons = []
    for name in decided.required_signers:
        if name in made:
            continue
        remedy = f"have {name} sign it: livegraft sign --detached --name {name}"
        if signatures and name not in known:
            remedy = f"put the certificate into {store.folder} as {name}.pem"
        problem = f"has no signature of '{name}' that holds, which is required here"
        reasons.append(Untrusted(str(path), problem, remedy))
    if decided.require_signature and not signatures:
        reasons.append(Untrusted(str(path), "is not signed, which is required here", SIGN))
    return reasons
