# SPDX-License-Identifier: GPL-2.0-or-later
"""The way through: from a fix and a kernel to a live patch. A table of contents of the rooms."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from livegraft.changeset import ChangeSet, Function, Piece
from livegraft.compare.comparison import Comparison, compare_objects
from livegraft.compare.cut import cut
from livegraft.elf import object as elf
from livegraft.errors import ModuleError, NothingChanged, Reason, Refused, UsageError
from livegraft.fix.fix import Fix
from livegraft.fix.units import touched_units
from livegraft.kbuild.command import Command, learn
from livegraft.kbuild.compile import Variant, compile_original, compile_unit, side_by_side
from livegraft.kbuild.objects import Unit
from livegraft.kbuild.proof import Placement, prove
from livegraft.kbuild.shadow import Shadow, shadow_of
from livegraft.kernel.kernel import Kernel
from livegraft.kernel.references import Resolver
from livegraft.module.build import build_module
from livegraft.module.inspect import Inspection, inspect_module
from livegraft.progress import SILENT, Progress


class Verdict(StrEnum):
    """What a fix is to a running kernel."""

    PATCHABLE = "patchable"
    UNCHANGED = "unchanged"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a fix.

    Args:
        verdict: whether it can be applied live.
        functions: what the patch would bring.
        warnings: what the user should know although it is no reason to refuse.
        reasons: why it is refused, all of them.
        changes: what the module is made of; None unless patchable.
        fix: the fix.
    """

    verdict: Verdict
    functions: tuple[Function, ...]
    warnings: tuple[str, ...]
    reasons: tuple[Reason, ...]
    changes: ChangeSet | None
    fix: Fix


@dataclass(frozen=True, slots=True)
class Built:
    """A live patch that was built and read back.

    Args:
        outcome: what it was made from.
        path: the module.
        size: in bytes.
        inspection: what the module holds, read from the module itself.
    """

    outcome: Outcome
    path: Path
    size: int
    inspection: Inspection
