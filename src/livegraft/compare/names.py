# SPDX-License-Identifier: GPL-2.0-or-later
"""What the compiler and the kernel's macros do to the names of functions and variables."""

from __future__ import annotations

import re

from livegraft.elf.header import ByteOrder

_CLONE = re.compile(r"(?:\.(?:constprop|isra|part|cold|localalias|lto_priv)(?:\.\d++)?+|\.\d++)++$")
"""GCC's clones (``ext4_mb_free_metadata.isra.0``, ``foo.cold``) and numbered static locals."""

_NUMBER = re.compile(r"\.\d+(?=\.|$)")
_UNIQUE = re.compile(r"^(__UNIQUE_ID_\w*?)\d+((?:\.\d+)*)$")
_INITCALL = re.compile(r"^(__initcall__\w*?__)\d+_\d+(_\w+)$")
"""``__initcall__kmod_ext4__1614_11671_net_dev_init4``: a counter and a line (linux/init.h)."""

_ALWAYS_NEW = re.compile(
    r"^(?:__func__|__FUNCTION__|__PRETTY_FUNCTION__|__warned|__already_done|__print_once"
    r"|__key|_rs|CSWTCH|_entry|_entry_ptr|descriptor|__ddebug|__UNIQUE_ID_ddebug\d+)(?:\.\d+)*$"
)
"""Variables that stand for a place in the source, not for a state that has to live on.

``___done`` and ``___once_key`` of ``DO_ONCE()`` are not among them: a fresh copy would make
``net_get_random_once()`` renew a secret that is in use.
"""

_ALWAYS_NEW_STARTS = ("__", "_rs", "_entry", "CSWTCH", "descriptor")
"""Most names are told from these without the expression above."""

_DYNAMIC_DEBUG = re.compile(r"^(?:descriptor|__ddebug|__UNIQUE_ID_ddebug\d+)(?:\.\d+)*$")
_PRINTK_INDEX = re.compile(r"^_entry(?:\.\d+)*$")
_WITH_LINE = ("descriptor", "__ddebug", "__UNIQUE_ID_ddebug", "_entry")

COLD = ".cold"


def base(name: str) -> str:
    """The name as it stands in the source: ``ext4_mb_free_metadata``."""
    return _CLONE.sub("", name)


def family(name: str) -> str:
    """The name without numbers but with the kind of clone: ``foo.isra.#`` is not ``foo.part.#``."""
    if name.startswith("__UNIQUE_ID_"):
        name = _UNIQUE.sub(r"\1#\2", name)
    elif name.startswith("__initcall__"):
        name = _INITCALL.sub(r"\1#\2", name)
    return _NUMBER.sub(".#", name) if "." in name else name


def number(name: str) -> tuple[int, ...]:
    """The numbers that the compiler appended, to order the members of a family."""
    return tuple(int(part) for part in name.split(".")[1:] if part.isdecimal())


def is_numbered(name: str) -> bool:
    """Whether the compiler chose a part of the name, so that it may change from build to build."""
    return ("." in name or name.startswith("__")) and family(name) != name


def is_always_new(name: str) -> bool:
    """Whether new code brings its own copy of the variable (``__func__.3``)."""
    return name.startswith(_ALWAYS_NEW_STARTS) and bool(_ALWAYS_NEW.match(name))


def parent(name: str) -> str:
    """The function that a cold part belongs to, or the empty string: ``foo`` for ``foo.cold``."""
    head, found, tail = name.rpartition(COLD)
    is_part = found and (not tail or tail[1:].isdecimal())
    return head if is_part else ""


def has_line(name: str) -> bool:
    """Whether it is the name of a descriptor that holds a line number."""
    return bool(line_bits(name, "<"))


def line_bits(name: str, byte_order: ByteOrder) -> dict[int, int]:
    """Where a descriptor holds its line number: offset of a byte -> bits that are the line's.

    ``struct _ddebug``: ``lineno`` is the first 18 bits behind four pointers; ``struct pi_entry``:
    ``line`` is the word behind three pointers.
    """
    if not name.startswith(_WITH_LINE):
        return {}
    if _DYNAMIC_DEBUG.match(name):
        return {32: 0xFF, 33: 0xFF, 34: 0x03 if byte_order == "<" else 0xC0}
    if _PRINTK_INDEX.match(name):
        return dict.fromkeys(range(24, 28), 0xFF)
    return {}
