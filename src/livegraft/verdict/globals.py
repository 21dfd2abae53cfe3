# SPDX-License-Identifier: GPL-2.0-or-later
"""New global names that something else in the running object has already."""

from __future__ import annotations

from livegraft.compare.comparison import Comparison
from livegraft.errors import Reason
from livegraft.kbuild.placement import Placement


def defined_twice(places: Placement, comparison: Comparison) -> list[Reason]:
    """New globals that the running object has from another unit, which would stay in use."""
    return [
        Reason(
            "symbol-exists",
            name,
            f"is defined in the running {places.object} by another unit, and that one stays in use",
            "change it where it is defined",
        )
        for name in sorted(comparison.new_globals)
        if any(entry.is_global is not False for entry in places.symbols.entries(name))
    ]
