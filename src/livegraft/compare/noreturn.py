# SPDX-License-Identifier: GPL-2.0-or-later
"""Calls that do not return.

objtool knows such functions by name, or by their code if it sees it. A call to one that is renamed
(as every livepatch symbol is) or that stays behind in the running kernel has to be marked as a dead
end, or objtool follows the code behind it into nothing.
"""

from __future__ import annotations

from livegraft.compare.entity import Entity
from livegraft.compare.unit import Unit
from livegraft.elf.arch import x86_64 as arch

MARK_SECTION = ".discard.unreachable"
"""include/linux/objtool.h, annotate_unreachable(): 32-bit distances to what follows a dead end."""

_NAMES = """
    __fortify_panic __invalid_creds __kunit_abort __module_put_and_kthread_exit __reiserfs_panic
    __stack_chk_fail __tdx_hypercall_failed __ubsan_handle_builtin_unreachable __x64_sys_exit
    __x64_sys_exit_group arch_cpu_idle_dead bch2_trans_in_restart_error bch2_trans_restart_error
    cpu_bringup_and_idle cpu_startup_entry do_exit do_group_exit do_task_dead ex_handler_msr_mce
    fortify_panic hlt_play_dead hv_ghcb_terminate kthread_complete_and_exit kthread_exit
    kunit_try_catch_throw lbug_with_loc machine_real_restart make_task_dead mpt_halt_firmware
    nmi_panic_self_stop panic panic_smp_self_stop rest_init rewind_stack_and_make_dead
    sev_es_terminate snp_abort start_kernel stop_this_cpu usercopy_abort x86_64_start_kernel
    x86_64_start_reservations xen_cpu_bringup_again xen_start_kernel
"""
_KNOWN = frozenset(_NAMES.split())
"""tools/objtool/check.c (6.1) and tools/objtool/noreturns.h (6.12) together."""


def never_returns(unit: Unit, target: Entity | str) -> bool:
    """Whether a function is known never to return, as objtool would see it."""
    if isinstance(target, str):
        return target in _KNOWN
    parts = [target, *target.parts]
    return target.name in _KNOWN or not any(_may_leave(unit, part, parts) for part in parts)


def _may_leave(unit: Unit, part: Entity, own: list[Entity]) -> bool:
    """Whether code returns, or jumps away to code that may."""
    listed = unit.instructions(part)
    if not listed or any(
        arch.is_return(each) or arch.is_indirect_jump(each, unit.section(part).data)
        for each in listed
    ):
        return True
    calls = {each.immediate for each in listed if arch.is_call(each)}
    for use in unit.uses(part):
        if not unit.is_branch(use, part.section) or use.offset in calls:
            continue
        if use.target not in own:  # a tail call, or the return thunk
            return True
    return False
