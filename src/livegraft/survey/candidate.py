# SPDX-License-Identifier: GPL-2.0-or-later
"""The fixes of a survey, as they stand before anything is built."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from livegraft.errors import Reason

_NAME_SIZE = 40
"""Module names may have 55 characters, and the number of a fix comes before."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A fix of the survey.

    Args:
        id: names it in all files of the survey: the first file's path, or the commit.
        files: the changed files, the one that it was made for first.
        body_only: it changes function bodies and nothing else, told from the texts alone.
        subject: the commit's subject; empty for one that is a difference of two versions.
        note: why its files do not compile together, if they do not.
        reasons: why it is refused, if that was found out before anything had to be compiled: then
            it is not asked again.
        unfinished: why the survey's time did not suffice to find out what belongs to it.
    """

    id: str
    files: tuple[str, ...]
    body_only: bool
    subject: str = ""
    note: str = ""
    reasons: tuple[Reason, ...] = ()
    unfinished: str = ""

    @property
    def name(self) -> str:
        """A file's and a module's name for it, unique in the survey."""
        plain = re.sub(r"[^A-Za-z0-9]+", "_", self.id.removesuffix(".c"))[-_NAME_SIZE:].strip("_")
        return f"s{hashlib.sha256(self.id.encode()).hexdigest()[:8]}_{plain}"

    def as_json(self) -> dict[str, Any]:
        """The members of its line in every journal."""
        return {
            "id": self.id,
            "files": list(self.files),
            "body_only": self.body_only,
            "subject": self.subject,
            "note": self.note,
            "reasons": [reason.as_json() for reason in self.reasons],
            "unfinished": self.unfinished,
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Candidate:
        """Back from :meth:`as_json`."""
        return cls(
            document["id"],
            tuple(document["files"]),
            document["body_only"],
            document["subject"],
            document["note"],
            tuple(map(Reason.from_json, document.get("reasons", ()))),
            document.get("unfinished", ""),
        )
