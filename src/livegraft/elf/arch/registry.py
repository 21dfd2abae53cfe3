# SPDX-License-Identifier: GPL-2.0-or-later
"""Which architecture an object is for."""

from __future__ import annotations

from livegraft.elf.arch.architecture import Architecture
from livegraft.elf.header import ByteOrder, Machine
from livegraft.errors import ElfError


def architecture(machine: int, byte_order: ByteOrder, subject: str = "object") -> Architecture:
    """The architecture of a relocatable object.

    Args:
        machine: ``e_machine``.
        byte_order: the object's.
        subject: what to call it in an error.

    Raises:
        ElfError: an architecture or a byte order that is not known.
    """
    found = _find(machine)
    if found is None:
        raise ElfError(subject, f"is for machine {_name(machine)}, which livegraft does not know")
    if found.byte_order != byte_order:
        order = "little" if byte_order == "<" else "big"
        raise ElfError(subject, f"is {order} endian, which kernels for {found.name} are not")
    return found


def _name(machine: int) -> str:
    return Machine(machine).name if machine in set(Machine) else str(machine)


def _find(machine: int) -> Architecture | None:
    if machine == Machine.X86_64:
        from livegraft.elf.arch.x86_64 import X86_64

        return X86_64
    if machine == Machine.AARCH64:
        from livegraft.elf.arch.aarch64 import AARCH64

        return AARCH64
    if machine == Machine.PPC64:
        from livegraft.elf.arch.ppc64le import PPC64LE

        return PPC64LE
    if machine == Machine.S390:
        from livegraft.elf.arch.s390x import S390X

        return S390X
    if machine == Machine.LOONGARCH:
        from livegraft.elf.arch.loongarch64 import LOONGARCH64

        return LOONGARCH64
    return None
