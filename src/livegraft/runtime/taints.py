# SPDX-License-Identifier: GPL-2.0-or-later
"""Why the kernel calls itself tainted: each flag with its cause, as far as that can be known.

A flag stays until the next boot, its cause may have gone. Source of the flags: kernel/panic.c,
``taint_flags``, and Documentation/admin-guide/tainted-kernels.rst.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from livegraft.runtime import proctext
from livegraft.runtime.livepatch import TAINT_LIVEPATCH

FLAGS = (
    ("P", "a proprietary module was loaded"),
    ("F", "a module was loaded by force"),
    ("S", "the processor or the system is out of specification"),
    ("R", "a module was unloaded by force"),
    ("M", "the processor reported a machine check"),
    ("B", "a bad page was found"),
    ("U", "user space asked for it"),
    ("D", "the kernel has died: an oops or a BUG"),
    ("A", "an ACPI table was overridden"),
    ("W", "the kernel has warned"),
    ("C", "a staging driver was loaded"),
    ("I", "a workaround for a bug in the firmware is in force"),
    ("O", "a module from outside of the kernel's tree was loaded"),
    ("E", "a module without a signature that the kernel trusts was loaded"),
    ("L", "a soft lockup has happened"),
    (TAINT_LIVEPATCH, "the kernel was patched live"),
    ("X", "auxiliary, of the distribution"),
    ("T", "structures were laid out at random"),
    ("N", "a test in the kernel has run"),
)
"""By bit: the letter and what it means."""

OF_MODULES = frozenset("PFCOEKN")
"""Letters that a module brings, and shows in /sys/module/NAME/taint."""


class Taint(NamedTuple):
    """A flag.

    Args:
        letter: as the kernel's messages have it.
        meaning: what it stands for.
        modules: loaded modules that have brought it.
    """

    letter: str
    meaning: str
    modules: tuple[str, ...]

    @property
    def cause(self) -> str:
        """What is known of where it comes from."""
        if self.modules:
            return ", ".join(self.modules)
        if self.letter in OF_MODULES:
            return "a module that was removed since"
        return "the kernel's log tells, as far back as it goes"

    def as_json(self) -> dict[str, object]:
        """The flag in documents."""
        return {
            "letter": self.letter,
            "meaning": self.meaning,
            "modules": list(self.modules),
            "cause": self.cause,
        }


def taints(root: Path = Path("/")) -> tuple[Taint, ...]:
    """The running kernel's flags; none where it does not tell.

    Args:
        root: where proc/ and sys/ are.
    """
    try:
        value = int(proctext.read(root / "proc/sys/kernel/tainted"))
    except (OSError, ValueError):
        return ()
    found = [FLAGS[bit] if bit < len(FLAGS) else ("?", f"flag {bit}") for bit in _bits(value)]
    modules = _modules(root) if any(letter in OF_MODULES for letter, _ in found) else {}
    return tuple(
        Taint(letter, meaning, tuple(name for name, has in modules.items() if letter in has))
        for letter, meaning in found
    )


def _bits(value: int) -> list[int]:
    return [bit for bit in range(value.bit_length()) if value >> bit & 1]


def _modules(root: Path) -> dict[str, str]:
    """The letters of each loaded module that has some."""
    found = {}
    try:
        names = sorted(path.name for path in (root / "sys/module").iterdir())
    except OSError:
        return {}
    for name in names:
        try:
            letters = proctext.read(root / "sys/module" / name / "taint")
        except OSError:
            continue  # built in, or gone meanwhile
        if letters:
            found[name] = letters
    return found
