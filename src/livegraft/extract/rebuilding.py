# SPDX-License-Identifier: GPL-2.0-or-later
"""Build the source of either way once more, with less that the compiler may know of it."""

from __future__ import annotations

import tempfile
from pathlib import Path

from livegraft.compare.comparison import Comparison
from livegraft.elf import object as elf
from livegraft.extract.clones import FLAG, parse_clones
from livegraft.extract.delivery import deliver
from livegraft.extract.emission import PATCHES
from livegraft.extract.extraction import Extracted
from livegraft.extract.twoways import Apart, Build, Rebuild, Way
from livegraft.fix.bodies import text_of
from livegraft.fix.compiled import Compiled
from livegraft.kbuild.compile import Variant, compile_unit
from livegraft.kbuild.shadow import Shadow, shadow_of
from livegraft.kbuild.target import KernelTree


def rebuilder(
    kernel: KernelTree,
    each: Compiled,
    comparison: Comparison,
    shadow: Shadow,
    extracted: Extracted,
) -> Rebuild:
    """What builds a unit again, for :func:`livegraft.extract.twoways.compare_ways`.

    Args:
        each: the unit.
        comparison: of the original and the patched object.
        shadow: the source with the fix.
        extracted: what was cut out of it.
    """
    patched = [function.name for function in extracted.comparison.changed_entities]
    marks = "".join(f"{PATCHES}({name});\n" for name in patched)
    texts = {
        Way.COMPARE: f"{_patched_text(shadow, each)}\n#include <livegraft.h>\n{marks}",
        Way.EXTRACT: extracted.text,
    }

    def rebuild(way: Way, apart: Apart) -> Build:
        text = texts[way] + apart.suffix()
        with tempfile.TemporaryDirectory(prefix="livegraft-again-") as folder:
            output, dump = Path(folder, "unit.o"), Path(folder, "clones")
            changes = {
                **shadow.changes,
                **extracted.beside,
                each.unit.path: text.encode("latin-1"),
            }
            with shadow_of(kernel.source, changes) as place:
                compile_unit(
                    kernel,
                    each.command,
                    output=output,
                    shadow=place,
                    extra_flags=(*Variant.SECTIONS.flags, f"{FLAG}{dump}"),
                )
            delivered = deliver(comparison, elf.read(output), each.unit.path)
            return Build(delivered, parse_clones(dump.read_text("utf-8", "replace")))

    return rebuild


def _patched_text(shadow: Shadow, each: Compiled) -> str:
    return text_of((shadow.root / each.unit.path).read_bytes())
