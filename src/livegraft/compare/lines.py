# SPDX-License-Identifier: GPL-2.0-or-later
"""Changes that are none: a line number that moved.

WARN and BUG keep theirs in ``__bug_table``, where it is ignored. Some functions are called with
``__LINE__`` as an argument: GCC loads it as a 32-bit immediate right before the call. A function
whose only differences are such immediates, each handed to a function that is known to take a line
number, has not changed.
"""

from __future__ import annotations

from livegraft.compare.unit import Entity
from livegraft.elf.arch import x86_64 as arch

SECOND, THIRD = "esi", "edx"
"""Registers of the first integer parameters (System V ABI, AMD64 supplement, 3.2.3)."""

LINE_TAKERS = {
    "__might_sleep": SECOND,
    "__might_resched": SECOND,
    "__might_fault": SECOND,
    "__cant_sleep": SECOND,
    "__cant_migrate": SECOND,
    "lockdep_rcu_suspicious": SECOND,
    "warn_slowpath_fmt": SECOND,
    "__ext4_error": THIRD,
    "__ext4_error_inode": THIRD,
    "__ext4_error_file": THIRD,
    "__ext4_warning": THIRD,
    "__ext4_warning_inode": THIRD,
    "__ext4_std_error": THIRD,
    "__ext4_grp_locked_error": SECOND,
    "__ext4_journal_start_sb": THIRD,
    "__ext4_journal_stop": SECOND,
    "__ext4_journal_get_write_access": SECOND,
    "__ext4_journal_get_create_access": SECOND,
    "__ext4_forget": SECOND,
    "__ext4_handle_dirty_metadata": SECOND,
}
"""Functions with a parameter for ``__LINE__`` and the register it comes in: include/linux/kernel.h,
include/linux/lockdep.h, arch/x86/include/asm/bug.h, fs/ext4/ext4.h and ext4_jbd2.h. A function that
is missing here costs a needless replacement, never a lost change."""

WINDOW = 12
"""Instructions between loading an argument and the call."""

LARGEST_LINE = 1 << 17


def is_line_change(before: bytes, after: bytes, function: Entity) -> bool:
    """Whether two functions' code differs in line numbers only.

    Args:
        before: the original's code, relocations blanked.
        after: the patched code, of the same length and with the same relocations.
        function: the patched function, for what it calls.
    """
    if len(before) != len(after):
        return False
    differing = {at for at, (a, b) in enumerate(zip(before, after, strict=True)) if a != b}
    lead = function.value - function.start
    calls = {
        use.offset - lead: use.target if isinstance(use.target, str) else use.target.base
        for use in function.uses
        if use.type == arch.BRANCH
    }
    listed = list(arch.instructions(after))
    for number, instruction in enumerate(listed):
        span = range(instruction.offset, instruction.offset + instruction.size)
        here = differing.intersection(span)
        if not here:
            continue
        immediate = arch.immediate_range(instruction, after)
        if not here.issubset(immediate) or not _is_line(before, after, immediate):
            return False
        register = instruction.operands.split(",")[0]
        if not _handed_to_taker(register, listed[number + 1 : number + 1 + WINDOW], calls):
            return False
        differing -= here
    return not differing


def _is_line(before: bytes, after: bytes, span: range) -> bool:
    values = (int.from_bytes(each[span.start : span.stop], "little") for each in (before, after))
    return all(0 < value < LARGEST_LINE for value in values)


def _handed_to_taker(
    register: str, following: list[arch.Instruction], calls: dict[int, str]
) -> bool:
    for each in following:
        if each.mnemonic == "call" or (each.mnemonic == "jmp" and each.offset + 1 in calls):
            return LINE_TAKERS.get(calls.get(each.offset + 1, "")) == register
    return False
