# SPDX-License-Identifier: GPL-2.0-or-later
"""Prove before you patch: the unit as compiled here is the code that the distribution shipped.

The unpatched unit, compiled with the exact flags, is placed in the shipped image or module: each of
its sections lies there in one stretch. Then all bytes outside of relocations are compared, and each
relocation's value in the shipped code has to be what its symbol means. So the same walk tells
exactly which symbol of the running kernel each symbol of the unit is.
"""

from __future__ import annotations

import numpy as np

from livegraft.elf.header import SectionFlag
from livegraft.elf.object import ElfObject
from livegraft.errors import ElfError, ProofFailed
from livegraft.kbuild.difference import compare_bytes, compare_references, fitting, parts
from livegraft.kbuild.judgement import Judgement
from livegraft.kbuild.meaning import (
    REFERENCE,
    Meaning,
    References,
    SymbolArrays,
    follow,
    references_of,
    symbol_arrays,
)
from livegraft.kbuild.placement import Placement
from livegraft.kbuild.placing import Layout, place_by_names
from livegraft.kernel.kernel import Kernel
from livegraft.kernel.shipped import FIELD_SIZE, Shipped, open_shipped
from livegraft.progress import SILENT, Progress

_REMEDY = (
    "the compiler, the configuration or the source is not the one that the kernel was built with; "
    "compare them, or build with --no-proof at your own risk"
)

_TABLES = (
    *(".discard", ".note", ".modinfo", ".export_symbol", ".BTF_ids", ".initcall", ".init.setup"),
    *("___ksymtab", "___kcrctab", "__mcount_loc", "__patchable_function_entries", "__ex_table"),
    *("__bug_table", "__jump_table", ".smp_locks", ".parainstructions", ".altinstructions"),
    *(".static_call_sites", ".static_call_tramp_key", "__tracepoints_ptrs", "__param", "runtime_"),
)
"""Sections (by how their names start) of tables that the linker drops, sorts or collects, or that
are consumed at boot. No code refers to them by an address, so none has to be placed."""


def prove(
    kernel: Kernel,
    unit_path: str,
    object_name: str,
    plain: ElfObject,
    progress: Progress = SILENT,
) -> Placement:
    """Prove that a compiled unit is the shipped code, and tell where each symbol of it is.

    Args:
        kernel: the kernel.
        unit_path: the translation unit (``fs/ext4/mballoc.c``).
        object_name: ``vmlinux``, or the module that it is linked into.
        plain: the unpatched unit, compiled with the exact flags; objtool has not run on it.

    Raises:
        ProofFailed: it is not; with each function that differs, and how.
        KernelError, ImageError: the shipped code cannot be read.
        ElfError: the object has a relocation that is not known.
    """
    shipped = open_shipped(kernel, object_name, progress)
    with progress.step("prove"):
        return prove_against(shipped, unit_path, plain)


def prove_against(shipped: Shipped, unit_path: str, plain: ElfObject) -> Placement:
    """:func:`prove` with shipped code that is open."""
    sections = [
        n for n, s in enumerate(plain.sections) if s.is_alloc and s.size and _judged(plain, n)
    ]
    _check_relocations(plain, unit_path, sections)
    layout = place_by_names(plain, shipped, sections)
    symbols = symbol_arrays(plain)
    references, extra = _place_all(plain, shipped, layout, symbols, sections)
    meaning = Meaning(plain, symbols, shipped, layout)
    meaning.settle(references)
    placed = [number for number in sections if number in layout.stretches]
    differences = compare_bytes(plain, shipped, layout, placed)
    compare_references(meaning, references, differences)
    for number, offsets in extra.items():
        differences[number].references.update(dict.fromkeys(offsets, "nothing"))
    judgement = Judgement(meaning, differences)
    judgement.judge()
    if judgement.differing:
        raise ProofFailed(unit_path, judgement.differing, _REMEDY)
    return Placement(
        unit_path,
        shipped.symbols,
        judgement.places,
        meaning.externals,
        tuple(judgement.proven),
        tuple(sorted(meaning.overridden)),
        judgement.discarded,
    )


def _judged(unit: ElfObject, number: int) -> bool:
    section = unit.sections[number]
    if not section.is_alloc or not section.size:
        return False
    return not section.flags & SectionFlag.MERGE and not section.name.startswith(_TABLES)


def _check_relocations(unit: ElfObject, unit_path: str, sections: list[int]) -> None:
    for number in sections:
        section = unit.sections[number]
        for kind in np.unique(section.relocations["type"]).tolist():
            if kind not in FIELD_SIZE:
                raise ElfError(unit_path, f"{section.name}: relocation type {kind} is not known")


def _place_all(
    unit: ElfObject,
    shipped: Shipped,
    layout: Layout,
    symbols: SymbolArrays,
    sections: list[int],
) -> tuple[References, dict[int, list[int]]]:
    """Find the sections that names did not tell, by references and then by contents.

    Returns:
        all references from placed sections, and per section the offsets of relocations that only
        the shipped code has.
    """
    references = [np.empty(0, dtype=REFERENCE)]
    extra: dict[int, list[int]] = {}
    pending = [number for number in sections if number in layout.stretches]
    pending = pending or fitting(unit, shipped, layout)
    while pending:
        found = [_references(unit, shipped, layout, number, extra) for number in pending]
        references += found
        placed = follow(layout, symbols, np.concatenate(found)) or fitting(unit, shipped, layout)
        pending = [number for number in placed if number in sections]
    return np.concatenate(references), extra


def _references(
    unit: ElfObject, shipped: Shipped, layout: Layout, number: int, extra: dict[int, list[int]]
) -> References:
    """The references from a placed section, part by part."""
    relocations = unit.sections[number].relocations
    found = [np.empty(0, dtype=REFERENCE)]
    for start, end, place in parts(unit, layout, number):
        inside = (relocations["offset"] >= start) & (relocations["offset"] < end)
        moved = relocations[inside]
        moved["offset"] -= np.uint64(start)
        references, more = references_of(shipped, number, place, end - start, moved)
        references["offset"] += np.uint64(start)
        found.append(references)
        if len(more):
            extra.setdefault(number, []).extend((more + np.uint64(start)).tolist())
    return np.concatenate(found)
