# SPDX-License-Identifier: GPL-2.0-or-later
"""init_module(2) and delete_module(2), and what their errors mean for a live patch.

init_module takes the module from memory. What was checked is what is loaded: nobody can exchange a
file in between, as with finit_module(2) or kmod.
"""

from __future__ import annotations

import errno
import os
import re
import time
from collections.abc import Sequence
from pathlib import Path

from livegraft.errors import KernelRefused, PatchError
from livegraft.runtime import settings
from livegraft.runtime.kernellog import KernelLog
from livegraft.runtime.settings import Meaning

NUMBERS = {"x86_64": (175, 176), "aarch64": (105, 106)}
"""init_module and delete_module. Sources: arch/x86/entry/syscalls/syscall_64.tbl and
include/uapi/asm-generic/unistd.h."""

CAP_SYS_MODULE = 16
"""include/uapi/linux/capability.h."""

REFERENCE_SECONDS = 10.0
"""The kernel's core drops its reference on the module in a work item after the transition."""


LOAD_ERRORS = {
    errno.EPERM: Meaning(
        "the kernel does not allow loading modules",
        "run as root, outside of a container; see also kernel lockdown",
    ),
    errno.EKEYREJECTED: Meaning(
        "the kernel takes modules with a trusted signature only (Secure Boot or lockdown)",
        settings.ENROL,
    ),
    errno.ENOKEY: Meaning(
        "the patch is signed with a key that this machine's kernel does not have",
        settings.ENROL,
    ),
    errno.EBADMSG: Meaning(
        "the kernel does not understand the patch's signature",
        "sign it again: livegraft sign PATCH.ko --key KEY --cert CERT",
    ),
    errno.ENOPKG: Meaning(
        "the kernel cannot check a signature of this kind",
        "sign it with an RSA key: livegraft sign PATCH.ko --key KEY --cert CERT",
    ),
    errno.ENOEXEC: Meaning(
        "the kernel does not take it for a module of its own",
        "build the patch for this very kernel; the kernel's log says what does not fit",
    ),
    errno.EEXIST: Meaning("is loaded already", "unload it first: livegraft unload {name}"),
    errno.EBUSY: Meaning(
        "another user of ftrace redirects one of its functions, or another change is under way",
        "look at /sys/kernel/tracing/enabled_functions (flag I) for kprobes, agents, other patches",
    ),
    errno.ENODEV: Meaning(
        "the consistency model '{model}' needs the engine module, which is not loaded",
        "load it (insmod livegraft_engine.ko), or use --model native",
    ),
    errno.EOPNOTSUPP: Meaning(
        "the engine does not have the consistency model '{model}' on this kernel",
        "'livegraft models' says which ones there are, and why not the others",
    ),
    errno.EPROTO: Meaning(
        "the engine does not know this kind of payload",
        "build the patch and the engine with the same livegraft",
    ),
    errno.EINVAL: Meaning(
        "the kernel does not accept the patch",
        "the kernel's log says why; often a function or a parameter is not there",
    ),
    errno.ENOENT: Meaning(
        "a function or symbol that the patch names is not in this kernel",
        "build the patch for this very kernel",
    ),
    errno.ENOMEM: Meaning("the kernel has not enough memory", "free some and try again"),
    errno.EINTR: Meaning("loading was interrupted", "try again"),
}

SAID = (
    (
        r"livepatch: pre-patch callback failed for object '(?P<object>[^']+)'",
        Meaning(
            "its own pre_patch callback for {object} has refused it, and nothing was changed",
            "see what the patch says in the kernel's log, or ask its author",
        ),
    ),
    (
        r"is not compatible with the already installed livepatches",
        Meaning(
            "a patch that is loaded has changed the same system state in a later version, or, as "
            "this one is to replace it, a state that this one does not know",
            "unload that patch first, or load a later version of this one",
        ),
    ),
)
"""What the kernel's log explains better than an error number, which may be a callback's own.
Source: kernel/livepatch/core.c, ``__klp_enable_patch`` and ``klp_enable_patch``."""

UNLOAD_ERRORS = {
    errno.EPERM: Meaning("the kernel does not allow removing modules", "run as root"),
    errno.ENOENT: Meaning("is not loaded", "'livegraft status' lists what is"),
    errno.EBUSY: Meaning("is still being loaded or removed", "try again"),
    errno.EAGAIN: Meaning(
        "its code is still in use: its transition was forced, or another module needs it",
        "it is off, and can only be removed by a reboot",
    ),
}


def init_module(
    name: str, data: bytes, parameters: str = "", *, model: str = "", log: KernelLog | None = None
) -> None:
    """Load a module from memory.

    Args:
        name: the module's name, for errors.
        data: the whole module.
        parameters: as on modprobe's command line.
        model: the consistency model, for errors.
        log: a reader whose new records become evidence.

    Raises:
        KernelRefused: with what the error means, and the kernel's log of that moment.
    """
    import ctypes

    number = _number(0)
    libc = ctypes.CDLL(None, use_errno=True)
    result = libc.syscall(
        ctypes.c_long(number),
        ctypes.c_char_p(data),
        ctypes.c_ulong(len(data)),
        ctypes.c_char_p(parameters.encode()),
    )
    if result != 0:
        code = ctypes.get_errno()
        said = log.complaints() if log else []
        raise refusal(name, code, LOAD_ERRORS, said, model=model)


def delete_module(name: str, *, log: KernelLog | None = None) -> None:
    """Remove a module that is not in use, waiting for the last reference for a while.

    Raises:
        KernelRefused: with what the error means.
    """
    import ctypes

    number = _number(1)
    libc = ctypes.CDLL(None, use_errno=True)
    end = time.monotonic() + REFERENCE_SECONDS
    pause = 0.001
    while True:
        flags = ctypes.c_uint(os.O_NONBLOCK)
        if libc.syscall(ctypes.c_long(number), ctypes.c_char_p(name.encode()), flags) == 0:
            return
        code = ctypes.get_errno()
        if code not in (errno.EAGAIN, errno.EBUSY) or time.monotonic() > end:
            said = log.complaints() if log else []
            raise refusal(name, code, UNLOAD_ERRORS, said)
        time.sleep(pause)
        pause = min(pause * 2, 0.1)


def refusal(
    name: str,
    code: int,
    meanings: dict[int, Meaning],
    log: Sequence[str],
    *,
    model: str = "",
    root: Path = Path("/"),
) -> KernelRefused:
    """The error of a system call that failed.

    Args:
        name: the module.
        code: the error number.
        meanings: :data:`LOAD_ERRORS` or :data:`UNLOAD_ERRORS`.
        log: what the kernel's log said meanwhile.
        model: the consistency model that was asked for.
        root: where proc/ and sys/ are.
    """
    fallback = Meaning(os.strerror(code), "the kernel's log may say more (dmesg)")
    meaning = meanings.get(code, fallback)
    if code == errno.ENODEV and model in ("", "native"):
        meaning = fallback  # no engine is needed: the kernel's own core said it
    if meanings is LOAD_ERRORS:
        meaning = _said_in(log) or settings.behind(code, root) or meaning
    return KernelRefused(
        name,
        f"{meaning.problem.format(model=model, name=name)} [{errno.errorcode.get(code, code)}]",
        meaning.remedy.format(model=model, name=name),
        errno.errorcode.get(code, str(code)),
        log,
    )


def _said_in(log: Sequence[str]) -> Meaning | None:
    """What the kernel's log says of the reason."""
    for pattern, meaning in SAID:
        for line in log:
            if found := re.search(pattern, line):
                problem = meaning.problem.format(**found.groupdict())
                return Meaning(problem, meaning.remedy)
    return None


def require_module_capability(action: str, status: Path = Path("/proc/self/status")) -> None:
    """Refuse early without the right to load and remove modules.

    Args:
        action: what was to be done (``load a live patch``).
        status: the process's status file.

    Raises:
        PatchError: CAP_SYS_MODULE is not among the effective capabilities.
    """
    for line in status.read_text().splitlines():
        key, _, value = line.partition(":")
        if key == "CapEff" and int(value, 16) >> CAP_SYS_MODULE & 1:
            return
    who = "root lacks the capability CAP_SYS_MODULE here" if os.geteuid() == 0 else "not root"
    raise PatchError(action, who, "run as root on the machine itself, e.g. with sudo")


def _number(index: int) -> int:
    machine = os.uname().machine
    if machine not in NUMBERS:
        raise PatchError(machine, "livegraft has no live patches for this machine", "")
    return NUMBERS[machine][index]
