# SPDX-License-Identifier: GPL-2.0-or-later
"""Where an entry of the kernel's tables holds what livegraft looks for: its own headers say so."""

from __future__ import annotations

from pathlib import Path

import pytest

from livegraft.compare.names import line_bits
from livegraft.elf import object as elf
from livegraft.elf.arch import x86_64
from livegraft.kbuild.command import learn
from livegraft.kbuild.compile import compile_unit
from livegraft.kbuild.objects import units_among
from livegraft.kbuild.shadow import shadow_of
from livegraft.kernel.kernel import Kernel

pytestmark = pytest.mark.build

UNIT = "fs/proc/cmdline.c"

PROBE = """
#include <linux/bug.h>
#include <linux/dynamic_debug.h>
#include <linux/jump_label.h>
#include <asm/alternative.h>
#include <linux/version.h>
struct bug_entry lg_bug_line = { .line = (unsigned short)~0 };
struct _ddebug lg_debug_line = { .lineno = ~0 };
struct alt_instr lg_replaced_length = { .instrlen = 0xff };
const int lg_key_at[] = { offsetof(struct jump_entry, key) };
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 8, 0)
#include <asm/paravirt_types.h>
struct paravirt_patch_site lg_paravirt_length = { .len = 0xff };
#endif
"""


def probed(kernel: Kernel, folder: Path) -> dict[str, bytes]:
    """What the kernel's headers make of :data:`PROBE`."""
    (command,) = learn(kernel, units_among(kernel, [UNIT]).values()).values()
    text = (kernel.source / UNIT).read_bytes() + PROBE.encode()
    with shadow_of(kernel.source, {UNIT: text}) as shadow:
        done = compile_unit(kernel, command, output=folder / "probe.o", shadow=shadow)
    obj = elf.read(done.path)
    return {
        symbol.name: obj.sections[symbol.section].data[symbol.value : symbol.value + symbol.size]
        for symbol in obj.symbols
        if symbol.name.startswith("lg_")
    }


def bits(data: bytes) -> dict[int, int]:
    """The bits that are set, by byte."""
    return {offset: byte for offset, byte in enumerate(data) if byte}


def test_the_layouts_are_this_kernels(any_kernel: Kernel, tmp_path: Path) -> None:
    found = probed(any_kernel, tmp_path)
    bug = x86_64.TABLES["__bug_table"]
    assert bits(found["lg_bug_line"]) == dict.fromkeys(bug.ignored, 0xFF)
    assert bits(found["lg_debug_line"]) == line_bits("descriptor", "<")
    replaced = found["lg_replaced_length"]
    assert bits(replaced) == {x86_64.REPLACED_LENGTH_AT[len(replaced)]: 0xFF}
    assert int.from_bytes(found["lg_key_at"], "little") == x86_64.KEY_AT
    paravirt = found.get("lg_paravirt_length")
    assert (paravirt is None) == any_kernel.release.startswith("6.12."), "6.12 has alternatives"
    if paravirt is not None:
        assert bits(paravirt) == {x86_64.PARAVIRT_LENGTH_AT: 0xFF}
        assert len(paravirt) - x86_64.TABLES[".parainstructions"].length in range(8)
