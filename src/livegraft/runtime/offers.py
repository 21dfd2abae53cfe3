# SPDX-License-Identifier: GPL-2.0-or-later
"""Which models this machine has, and what each guarantees."""

from __future__ import annotations

from typing import NamedTuple

from livegraft.errors import PatchError
from livegraft.runtime.livepatch import Livepatches
from livegraft.runtime.model import GUARANTEES, Guarantee, ModelName, model_named


class Offer(NamedTuple):
    """A model, as this machine has it.

    Args:
        name: the model.
        reason: why it is not to be had, "" if it is.
        remedy: what to do about that.
        guarantee: what it promises.
    """

    name: ModelName
    reason: str
    remedy: str
    guarantee: Guarantee

    @property
    def available(self) -> bool:
        """Whether a patch can be loaded under it."""
        return not self.reason

    def as_json(self) -> dict[str, object]:
        """As it stands in the document of ``models``."""
        return {
            "name": self.name.value,
            "available": self.available,
            "reason": self.reason or None,
            "remedy": self.remedy or None,
            "when": self.guarantee.when,
            "at_once": self.guarantee.at_once,
            "mixed": self.guarantee.mixed,
        }


def models(*, patches: Livepatches | None = None) -> list[Offer]:
    """All models, the default first.

    Args:
        patches: the sysfs view.
    """
    found = []
    for name in ModelName:
        reason = remedy = ""
        try:
            model_named(name, patches=patches).require()
        except PatchError as error:
            reason, remedy = f"{error.subject} {error.problem}", error.remedy
        found.append(Offer(name, reason, remedy, GUARANTEES[name]))
    return found


def engine_version(*, patches: Livepatches | None = None) -> str | None:
    """The version of the engine that is loaded, or None."""
    return (patches or Livepatches()).both[1].attribute("", "version")
