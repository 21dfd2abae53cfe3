# SPDX-License-Identifier: GPL-2.0-or-later
"""Inside a guest: have a BPF program on a function of vmlinux for as long as this runs.

``python3 -m tests.guest.bpf_program TYPE KIND``, TYPE from :func:`function_type`, KIND ``fentry``
or ``fexit``. The program does nothing, but the kernel counts how often it runs: once it is attached
the file that tells (``run_cnt``) is printed. If the kernel refuses, the status is 1, and stderr
says the errno's name.

By bpf(2) alone: the guest has no library for it. Sources: include/uapi/linux/bpf.h and btf.h.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import struct
import sys
from pathlib import Path

TYPES = "/sys/kernel/btf/vmlinux"
COUNTED = Path("/proc/sys/kernel/bpf_stats_enabled")

SYS_BPF = 321
PROG_LOAD, RAW_TRACEPOINT_OPEN = 5, 17
PROG_TYPE_TRACING = 26
ATTACH_TYPES = {"fentry": 24, "fexit": 25}

INSTRUCTION = struct.Struct("<BBhi")
PROGRAM = INSTRUCTION.pack(0xB7, 0, 0, 0) + INSTRUCTION.pack(0x95, 0, 0, 0)
"""``r0 = 0; exit``"""

HEADER = struct.Struct("<HBBIIIII")
TYPE = struct.Struct("<III")
FUNC = 12
ONCE = {1: 4, 3: 12, 14: 4, 17: 4}
EACH = {4: 12, 5: 12, 6: 8, 13: 8, 15: 12, 19: 12}
"""How many bytes follow a type of a kind, and how many for each of its members."""

_libc = ctypes.CDLL(None, use_errno=True)


class Load(ctypes.Structure):
    """What PROG_LOAD takes, up to the last that is needed here."""

    _fields_ = (
        ("prog_type", ctypes.c_uint32),
        ("insn_cnt", ctypes.c_uint32),
        ("insns", ctypes.c_char_p),
        ("license", ctypes.c_char_p),
        ("log_level", ctypes.c_uint32),
        ("log_size", ctypes.c_uint32),
        ("log_buf", ctypes.c_void_p),
        ("kern_version", ctypes.c_uint32),
        ("prog_flags", ctypes.c_uint32),
        ("prog_name", ctypes.c_char * 16),
        ("prog_ifindex", ctypes.c_uint32),
        ("expected_attach_type", ctypes.c_uint32),
        ("prog_btf_fd", ctypes.c_uint32),
        ("func_info_rec_size", ctypes.c_uint32),
        ("func_info", ctypes.c_uint64),
        ("func_info_cnt", ctypes.c_uint32),
        ("line_info_rec_size", ctypes.c_uint32),
        ("line_info", ctypes.c_uint64),
        ("line_info_cnt", ctypes.c_uint32),
        ("attach_btf_id", ctypes.c_uint32),
    )


class Open(ctypes.Structure):
    """What RAW_TRACEPOINT_OPEN takes; programs of this type say by themselves where to."""

    _fields_ = (("name", ctypes.c_uint64), ("prog_fd", ctypes.c_uint32))


def function_type(types: bytes, name: str) -> int:
    """The number of a function's type, by which the kernel finds the function.

    Args:
        types: the content of :data:`TYPES`. Read it outside of an emulated guest.
        name: the function's.

    Raises:
        LookupError: it has none.
    """
    _, _, _, header, begin, size, names, names_size = HEADER.unpack_from(types)
    names += header
    wanted = types.find(b"\0" + name.encode() + b"\0", names, names + names_size) + 1 - names
    at, end, number = header + begin, header + begin + size, 0
    while at < end:
        number += 1
        named, info, _ = TYPE.unpack_from(types, at)
        kind = info >> 24 & 0x1F
        if kind == FUNC and named == wanted:
            return number
        at += TYPE.size + ONCE.get(kind, 0) + EACH.get(kind, 0) * (info & 0xFFFF)
    raise LookupError(f"no type of {name}")


def bpf(command: int, attributes: ctypes.Structure) -> int:
    """The system call; for both commands it returns a file descriptor.

    Raises:
        OSError: the kernel refuses.
    """
    size = ctypes.sizeof(attributes)
    found: int = _libc.syscall(SYS_BPF, command, ctypes.byref(attributes), size)
    if found < 0:
        raise OSError(ctypes.get_errno(), "bpf")
    return found


def attach(kind: str, function: int) -> int:
    """Attach a program to a function; it goes with this process.

    Returns:
        Its file descriptor.

    Raises:
        OSError: the kernel refuses.
    """
    program = bpf(
        PROG_LOAD,
        Load(
            prog_type=PROG_TYPE_TRACING,
            insn_cnt=len(PROGRAM) // INSTRUCTION.size,
            insns=PROGRAM,
            license=b"GPL",
            expected_attach_type=ATTACH_TYPES[kind],
            attach_btf_id=function,
        ),
    )
    bpf(RAW_TRACEPOINT_OPEN, Open(prog_fd=program))
    return program


def main(function: int, kind: str) -> None:
    """Attach it, and wait for the signal that ends this process."""
    COUNTED.write_text("1")
    try:
        program = attach(kind, function)
    except OSError as error:
        sys.exit(errno.errorcode[error.errno or 0])
    print(f"/proc/{os.getpid()}/fdinfo/{program}", flush=True)
    signal.pause()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
