# SPDX-License-Identifier: GPL-2.0-or-later
"""What kind a file is."""

from __future__ import annotations

import pytest

from livegraft.fix.kind import Kind, is_harmless, kind_of, reason_for

KINDS = {
    "fs/ext4/mballoc.c": Kind.CODE,
    "arch/x86/kernel/ftrace.c": Kind.CODE,
    "include/linux/fs.h": Kind.HEADER,
    "Documentation/process/howto.rst": Kind.DOCUMENTATION,
    "Documentation/Makefile": Kind.DOCUMENTATION,
    "drivers/net/README": Kind.DOCUMENTATION,
    "MAINTAINERS": Kind.DOCUMENTATION,
    "tools/testing/selftests/net/x.c": Kind.NOT_KERNEL,
    "tools/lib/bpf/relo_core.c": Kind.NOT_KERNEL,
    "samples/bpf/Makefile": Kind.NOT_KERNEL,
    "scripts/mod/modpost.c": Kind.NOT_KERNEL,
    "arch/x86/platform/ce4100/falconfalls.dts": Kind.NOT_KERNEL,
    "arch/arm64/kernel/entry.S": Kind.FOREIGN,
    "arch/s390/Kconfig": Kind.FOREIGN,
    "arch/x86/entry/entry_64.S": Kind.ASSEMBLY,
    "arch/x86/entry/vdso/vclock_gettime.c": Kind.VDSO,
    "arch/x86/entry/vdso/vdso.lds.S": Kind.BUILD_SYSTEM,
    "lib/vdso/gettimeofday.c": Kind.VDSO,
    "fs/ext4/Kconfig": Kind.BUILD_SYSTEM,
    "fs/ext4/Makefile": Kind.BUILD_SYSTEM,
    "virt/kvm/Makefile.kvm": Kind.BUILD_SYSTEM,
    "Kbuild": Kind.BUILD_SYSTEM,
    "arch/x86/entry/syscalls/syscall_64.tbl": Kind.GENERATOR_INPUT,
    "fs/smb/client/cifs_spnego_negtokeninit.asn1": Kind.GENERATOR_INPUT,
}


@pytest.mark.parametrize("path", KINDS)
def test_kinds(path: str) -> None:
    assert kind_of(path, "x86") is KINDS[path]


@pytest.mark.parametrize("kind", [each for each in Kind if each not in (Kind.CODE, Kind.HEADER)])
def test_every_other_kind_has_its_reason(kind: Kind) -> None:
    reason = reason_for("x", kind)
    assert (reason.rule, reason.object) == (str(kind), "x")
    assert reason.message and reason.remedy


def test_what_may_stand_beside_code() -> None:
    harmless = {path for path, kind in KINDS.items() if is_harmless(path, kind)}
    assert "tools/testing/selftests/net/x.c" in harmless
    assert "arch/s390/Kconfig" in harmless
    # scripts/ is in no kernel, but decides how it is built
    assert not harmless & {"scripts/mod/modpost.c", "fs/ext4/Makefile", "lib/vdso/gettimeofday.c"}
    # kernel/bpf/Makefile builds it into the kernel
    assert "tools/lib/bpf/relo_core.c" not in harmless
    assert "kernel/bpf/" in reason_for("tools/lib/bpf/relo_core.c", Kind.NOT_KERNEL).message
