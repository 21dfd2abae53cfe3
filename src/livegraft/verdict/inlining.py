# SPDX-License-Identifier: GPL-2.0-or-later
"""A rule for units that are compared in another build than the one that was shipped."""

from __future__ import annotations

from livegraft.compare import sections
from livegraft.compare.comparison import Comparison
from livegraft.compare.inlining import called_otherwise
from livegraft.compare.unit import Unit
from livegraft.elf.object import ElfObject
from livegraft.errors import Reason


def inlining(shipped: ElfObject, comparison: Comparison) -> list[Reason]:
    """Runtime constants are compared as variables: that must not have moved any inlining.

    Args:
        shipped: the unpatched unit as it was shipped.
        comparison: the builds that are compared.
    """
    if not any(sections.is_runtime_constant(each.name) for each in shipped.sections):
        return []
    return [
        Reason(
            "inlining",
            name,
            "calls other functions in the build that is compared than in the one that was shipped",
            "boot a kernel with the fix",
        )
        for name in called_otherwise(Unit(shipped, "shipped object"), comparison.original)
    ]
