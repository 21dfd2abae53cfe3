# SPDX-License-Identifier: GPL-2.0-or-later
"""Settings of a machine that keep every live patch out, told before the kernel is asked."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from livegraft.errors import PatchError
from livegraft.runtime import proctext, stacks, switches
from livegraft.trust import appended


class Meaning(NamedTuple):
    """What stands behind a refusal, and what can be done about it."""

    problem: str
    remedy: str


class Setting(NamedTuple):
    """A setting that keeps live patches out.

    Args:
        place: its file, below the root.
        holds: whether a value of it does so.
        code: the error number with which the kernel answers then.
        unsigned: it keeps out modules without a signature only.
        meaning: what is told.
    """

    place: str
    holds: Callable[[str], bool]
    code: int
    unsigned: bool
    meaning: Meaning


ENROL = (
    "sign the patch (livegraft sign) and let the machine's kernel know the certificate: "
    "openssl x509 -in CERT -outform DER -out CERT.der; mokutil --import CERT.der; then reboot, and "
    "choose 'Enroll MOK' on the console"
)
"""How a kernel comes to trust a key (mokutil(1)); docs/trust.md tells the whole way."""

FTRACE = "proc/sys/kernel/ftrace_enabled"

FAILED = Meaning(
    "the kernel has given ftrace up after a fault, which its log tells of: nothing can be "
    "redirected any more, and patched functions may run the old code",
    "reboot",
)

SETTINGS = (
    Setting(
        "proc/sys/kernel/modules_disabled",
        lambda value: value == "1",
        errno.EPERM,
        False,
        Meaning(
            "loading modules was switched off until the next boot (kernel.modules_disabled=1)",
            "reboot without that setting",
        ),
    ),
    Setting(
        "sys/kernel/security/lockdown",
        lambda value: "[integrity]" in value or "[confidentiality]" in value,
        errno.EPERM,
        True,
        Meaning("the kernel is locked down and takes modules with a trusted signature only", ENROL),
    ),
    Setting(
        "sys/module/module/parameters/sig_enforce",
        lambda value: value == "Y",
        errno.EKEYREJECTED,
        True,
        Meaning("the kernel takes modules with a trusted signature only (sig_enforce)", ENROL),
    ),
    Setting(
        FTRACE,
        lambda value: value == "0",
        errno.EBUSY,
        False,
        Meaning(
            "ftrace is switched off, and every redirection with it",
            "run 'sysctl kernel.ftrace_enabled=1'",
        ),
    ),
)


def ftrace_is_off(root: Path = Path("/")) -> bool:
    """Whether no redirection is in force."""
    return stacks.read(root / FTRACE) == "0"


def ftrace_has_failed(root: Path = Path("/")) -> bool:
    """Whether the kernel has given ftrace up until the next boot (``ftrace_kill``)."""
    try:
        proctext.read(root / FTRACE)
    except OSError as error:
        return error.errno == errno.ENODEV
    return False


def behind(code: int, root: Path = Path("/")) -> Meaning | None:
    """A setting that explains an error number of the kernel better than the number does."""
    for each in SETTINGS:
        if each.code == code and each.holds(stacks.read(root / each.place)):
            return each.meaning
    return None


def check(name: str, data: bytes, root: Path = Path("/")) -> None:
    """Refuse what the kernel would refuse.

    Args:
        name: the patch.
        data: the whole module; whether its signature is one that is trusted, the kernel decides.
        root: where proc/ and sys/ are.

    Raises:
        PatchError: a setting of this machine keeps the patch out.
    """
    switches.require_on(name, root)
    if ftrace_has_failed(root):
        raise PatchError(name, f"{FAILED.problem}; nothing was changed", FAILED.remedy)
    for each in SETTINGS:
        if each.unsigned and data.endswith(appended.MARK):
            continue
        if each.holds(stacks.read(root / each.place)):
            raise PatchError(
                name, f"{each.meaning.problem}; nothing was changed", each.meaning.remedy
            )
