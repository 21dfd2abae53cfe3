# SPDX-License-Identifier: GPL-2.0-or-later
"""Pairs of objects for the tests of compare: small sources, compiled as the kernel's units are."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from livegraft.changeset import VMLINUX, Target
from livegraft.compare.comparison import Comparison, compare_objects
from livegraft.compare.cut import Cut, cut
from livegraft.elf import object as elf
from livegraft.elf.object import Binding, ElfObject, SymbolType
from livegraft.elf.writer import write
from livegraft.errors import Reason, Refused
from livegraft.verdict.judge import judge

COMPILER = shutil.which("gcc-12") or shutil.which("gcc") or "gcc-12"

SECTIONS = ("-ffunction-sections", "-fdata-sections")

FLAGS = (
    *("-c", "-O2", "-std=gnu11", "-w", "-fno-pic", "-mcmodel=kernel", "-mno-red-zone", "-mno-sse"),
    *("-pg", "-mfentry", "-mrecord-mcount", "-fno-asynchronous-unwind-tables", "-fno-common"),
    *("-fno-strict-aliasing", "-fno-stack-protector", "-fno-jump-tables", "-fcf-protection=none"),
)

KERNEL = r"""
#define __init __attribute__((section(".init.text")))
#define noinline __attribute__((noinline))
#define notrace __attribute__((no_instrument_function))
#define unlikely(x) __builtin_expect(!!(x), 0)
#define STR2(x) #x
#define STR(x) STR2(x)
extern int printk(const char *text, ...) __attribute__((cold));
extern int outside(int x);
/* arch/x86/include/asm/bug.h */
#define WARN_ON(x) do { if (unlikely(x)) \
    asm volatile("1: .byte 0x0f, 0x0b\n.pushsection __bug_table,\"aw\"\n" \
        "2: .long 1b - .\n.long %c0 - .\n.word %c1\n.word %c2\n.org 2b+12\n.popsection\n" \
        : : "i"(__FILE__), "i"(__LINE__), "i"(1)); } while (0)
/* arch/x86/include/asm/jump_label.h, with CONFIG_HAVE_JUMP_LABEL_HACK */
struct static_key { int enabled; void *entries; };
static inline __attribute__((always_inline)) int static_branch(struct static_key *key)
{
    asm goto("1: jmp %l[yes]\n.pushsection __jump_table, \"aw\"\n.balign 8\n"
        ".long 1b - .\n.long %l[yes] - .\n.quad %c0 + %c1 - .\n.popsection"
        : : "i"(key), "i"(2) : : yes);
    return 0;
yes:
    return 1;
}
"""
"""What the kernel's headers make of some of their macros, in short."""


def compiled(source: str, folder: Path, name: str, flags: Iterable[str] = SECTIONS) -> ElfObject:
    """An object of a unit called ``unit.c``, wherever it lies."""
    file = folder / "unit.c"
    file.write_text(f'{KERNEL}\n#line 1 "fs/unit.c"\n{source}')
    output = folder / name
    subprocess.run([COMPILER, *FLAGS, *flags, "-o", output, file], check=True)
    return elf.read(output)


def compared(before: str, after: str, folder: Path, flags: Iterable[str] = SECTIONS) -> Comparison:
    """Two sources, compiled, compared and judged."""
    original = compiled(before, folder, "original.o", flags)
    patched = compiled(after, folder, "patched.o", flags)
    return judge(compare_objects(original, patched))


def rules(comparison: Comparison) -> set[str]:
    """The rules that refuse it."""
    return {reason.rule for reason in comparison.reasons}


def names_of(obj: ElfObject) -> set[str]:
    """The names of an object's symbols."""
    return {symbol.name for symbol in obj.symbols}


@dataclass(slots=True)
class Running:
    """A pretended running kernel: it has every symbol once.

    Args:
        object: the object that the unit belongs to.
        exported: what vmlinux exports.
        modules: symbols that lie in a module, and which one.
        missing: symbols that it does not have.
    """

    object: str = VMLINUX
    exported: tuple[str, ...] = ("__fentry__", "printk")
    modules: dict[str, str] = field(default_factory=dict)
    missing: tuple[str, ...] = ()

    def local(self, name: str) -> Target:
        """A symbol of the unit."""
        if name in self.missing:
            raise Refused(name, [Reason("unresolved-reference", name, "is missing", "none")])
        return Target(self.object, name, 1)

    referenced = local

    def external(self, name: str) -> Target | None:
        """A symbol that the unit does not define."""
        if name in self.exported:
            return None
        return Target(self.modules.get(name, VMLINUX), name, 1)


def payload(comparison: Comparison, running: Running | None = None) -> Cut:
    """The payload of a comparison."""
    running = running or Running()
    return cut(comparison, "fs/unit.c", running.object, running)


HARNESS = r"""
#include <stdarg.h>
#include <stdio.h>
int printk(const char *text, ...)
{
    va_list list;
    va_start(list, text);
    int n = vprintf(text, list);
    va_end(list);
    return n;
}
int outside(int x) { return 1000 + x; }
asm(".globl __fentry__\n__fentry__: ret\n");
"""


def run(original: ElfObject, made: Cut, main: str, folder: Path) -> str:
    """Link the original unit, the payload and a `main`, and run that.

    The payload's references are bound to the original's symbols, as the kernel does it.

    Args:
        main: C code with a function ``main``; new code is at ``lg_fs_unit_<name>``.
    """
    for symbol in original.symbols:
        if symbol.name and symbol.type in (SymbolType.FUNC, SymbolType.OBJECT):
            symbol.binding = Binding.GLOBAL
    elf.sort_symbols(original)
    piece = elf.parse(made.piece.data)
    meant = {reference.symbol: reference.target.name for reference in made.piece.references}
    for symbol in piece.symbols:
        symbol.name = meant.get(symbol.name, symbol.name)
    (folder / "running.o").write_bytes(write(original))
    (folder / "payload.o").write_bytes(write(piece))
    (folder / "main.c").write_text(HARNESS + main)
    objects = ["running.o", "payload.o"]
    link = [COMPILER, "-w", "-no-pie", "-z", "noexecstack", "-o", "program", "main.c", *objects]
    subprocess.run(link, cwd=folder, check=True)
    done = subprocess.run([folder / "program"], capture_output=True, text=True, check=True)
    return done.stdout
