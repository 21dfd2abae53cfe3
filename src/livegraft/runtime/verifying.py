# SPDX-License-Identifier: GPL-2.0-or-later
"""Say whose word a live patch has, without loading it."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from livegraft.runtime import configuration, trusting
from livegraft.runtime.payload import Payload
from livegraft.runtime.trusting import Trust


class Verdict(StrEnum):
    """What the signatures amount to."""

    TRUSTED = "trusted"
    UNSIGNED = "unsigned"
    """It would be loaded, with a warning."""
    REFUSED = "refused"


class Verified(NamedTuple):
    """A live patch and its signatures.

    Args:
        payload: the patch.
        trust: what its signatures amount to.
        compared: whether the manifest was compared with the module's code, which takes more than
            the runtime.
        rebuilt: what building it again has shown, if that was asked for; more than the runtime,
            too.
    """

    payload: Payload
    trust: Trust
    compared: bool = False
    rebuilt: Mapping[str, object] | None = None

    @property
    def verdict(self) -> Verdict:
        """What the signatures amount to."""
        if self.trust.reasons:
            return Verdict.REFUSED
        return Verdict.TRUSTED if self.trust.signers else Verdict.UNSIGNED

    def as_json(self) -> dict[str, object]:
        """The document of ``verify``."""
        return {
            "name": self.payload.name,
            "path": str(self.payload.path),
            "sha256": self.payload.sha256,
            "verdict": self.verdict.value,
            "signatures": [each.as_json() for each in self.trust.signatures],
            "required": list(self.trust.required),
            "reasons": [each.as_json() for each in self.trust.reasons],
            "compared": self.compared,
            "rebuilt": self.rebuilt,
            "warnings": list(self.trust.warnings),
        }


def verify(path: Path, root: Path = configuration.ROOT, *, trusted: Path | None = None) -> Verified:
    """Look at a live patch and all its signatures.

    Args:
        path: the module's file.
        root: where etc/ is.
        trusted: the folder of trusted certificates, if it is not the machine's.

    Raises:
        PatchError: it is no live patch, or the configuration is not understood.
        Untrusted: what says whom to trust cannot be relied on, or a signature's file not be read.
    """
    payload = Payload.read(path)
    return Verified(payload, trusting.examine(path, payload.data, root, trusted))
