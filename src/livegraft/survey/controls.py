# SPDX-License-Identifier: GPL-2.0-or-later
"""False changes: what must be "unchanged" of units that nobody has changed.

Two things are done to a unit: blank lines at its top, which move every ``__LINE__``; and a build of
the same text in another folder, which changes every path that the compiler is given.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from livegraft.compare.moved import compare_compiled
from livegraft.errors import LivegraftError
from livegraft.fix.compiled import Compiled
from livegraft.kbuild.command import learn
from livegraft.kbuild.compile import Variant, compile_original, compile_unit
from livegraft.kbuild.objects import units_among
from livegraft.kbuild.shadow import Changes, shadow_of
from livegraft.kernel.kernel import Kernel
from livegraft.survey.grouping import open_kernel
from livegraft.verdict.judge import judge

BLANK_LINES = 7
CONTROLS = ("blank lines", "another folder")


def control(release: str, cache_root: Path, path: str) -> dict[str, Any]:
    """Try both on a unit; runs in a worker.

    Returns:
        its line: for each of :data:`CONTROLS` what looks changed, which should be nothing.
    """
    kernel = open_kernel(release, cache_root)
    text = (kernel.source / path).read_bytes()
    texts = (b"\n" * BLANK_LINES + text, text)
    changed = {
        name: _changed(kernel, path, {path: text})
        for name, text in zip(CONTROLS, texts, strict=True)
    }
    return {"id": path, "changed": changed}


def _changed(kernel: Kernel, path: str, changes: Changes) -> list[str]:
    try:
        return _compared(kernel, path, changes)
    except LivegraftError as error:
        return [str(error)]


def _compared(kernel: Kernel, path: str, changes: Mapping[str, bytes | None]) -> list[str]:
    units = units_among(kernel, [path])
    (command,) = learn(kernel, units.values()).values()
    before = compile_original(kernel, command, Variant.SECTIONS)
    with (
        tempfile.TemporaryDirectory(prefix="livegraft-control-") as folder,
        shadow_of(kernel.source, changes) as shadow,
    ):
        after = Path(folder, "unit.o")
        flags = Variant.SECTIONS.flags
        compile_unit(kernel, command, output=after, shadow=shadow, extra_flags=flags)
        (unit,) = units.values()
        compiled = Compiled(unit, command, before, after)
        found = judge(compare_compiled(kernel, compiled, shadow))
    return [str(each) for each in (*found.changed, *found.new, *found.reasons)]
