# SPDX-License-Identifier: GPL-2.0-or-later
"""What a section of a kernel object is to a live patch, by its name.

Names are those of include/asm-generic/vmlinux.lds.h, scripts/module.lds.S and the headers that
fill the sections.
"""

from __future__ import annotations

from livegraft.elf.header import SectionFlag

WITHOUT_MEANING = (
    *(".comment", ".note", ".debug", ".eh_frame", ".llvm_addrsig", ".gnu.", ".stab"),
    *(".discard.addressable", ".discard.sym_func_", ".export_symbol", ".modinfo"),
    # The marks of livegraft.h, which livegraft.compare.marks reads.
    ".livegraft.",
    # What objtool makes; it is made anew for the finished payload.
    *(".orc_unwind", ".orc_header", ".static_call_sites", ".retpoline_sites", ".return_sites"),
    *(".call_sites", ".cfi_sites", ".ibt_endbr_seal"),
)

_EXPORTS = ("___ksymtab", "___kcrctab", "__ksymtab", "__kcrctab")

_INITIAL = (".init.", ".exit.", ".initcall", ".con_initcall")

_COPYABLE = (".data", ".bss", ".rodata", ".ref.data", "__dyndbg", ".text", ".meminit.data")
"""Sections whose contents mean the same in a module of their own, or whose copies the module
loader finds there (``__dyndbg``, ``.data..percpu``, ``.data..ro_after_init``)."""

_COPYABLE_PARTS = tuple(f"{name}." for name in _COPYABLE)

PER_CPU = ".data..percpu"

_PROTECTED = {".data..read_mostly": "read-mostly", ".data..ro_after_init": "ro-after-init"}

DYNAMIC_DEBUG = "__dyndbg"

PRINTK_INDEX = ".printk_index"

_TRACEPOINTS = "__tracepoints"

_RUNTIME_CONSTANTS = ("runtime_ptr_", "runtime_shift_")
"""Places of built-in code where the boot writes a variable's value (asm/runtime-const.h)."""


def storage(name: str, flags: int) -> str:
    """How what lies in a section is kept: what a variable or function may be used for, and when.

    Args:
        name: the section's name.
        flags: its ``sh_flags``.
    """
    if is_initial(name):
        return "freed after boot or loading"
    if is_per_cpu(name):
        return "per CPU"
    if flags & SectionFlag.EXECINSTR:
        return "code"
    if name.startswith(".data..ro_after_init") or not flags & SectionFlag.WRITE:
        return "read-only"
    return "writable"


def is_without_meaning(name: str) -> bool:
    """Whether nothing that runs depends on it."""
    return name.startswith(WITHOUT_MEANING)


def is_export(name: str) -> bool:
    """Whether it lists exported symbols."""
    return name.startswith(_EXPORTS)


def is_tracepoint(name: str) -> bool:
    """Whether it is one of the lists of tracepoints."""
    return name.startswith(_TRACEPOINTS)


def is_initial(name: str) -> bool:
    """Whether it holds code or data of the boot, or of the loading or unloading of a module."""
    return name.startswith(_INITIAL) or name in (".init", ".exit")


def is_copyable(name: str) -> bool:
    """Whether a variable in it may be brought along by a payload."""
    return name in _COPYABLE or name.startswith(_COPYABLE_PARTS)


def protection(name: str) -> str:
    """What the kernel expects of variables there after boot, for a sentence."""
    for start, words in _PROTECTED.items():
        if name.startswith(start):
            return f" of {words} data"
    return ""


def is_per_cpu(name: str) -> bool:
    """Whether its variables exist once per CPU."""
    return name == PER_CPU or name.startswith(f"{PER_CPU}.")


def is_runtime_constant(name: str) -> bool:
    """Whether it lists places whose constants are written at boot."""
    return name.startswith(_RUNTIME_CONSTANTS)


def runtime_constant(name: str) -> str:
    """The variable whose value is written at the places of such a section."""
    return name.split("_", 2)[2]
