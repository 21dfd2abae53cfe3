# SPDX-License-Identifier: GPL-2.0-or-later
"""Which bytes of its code the kernel rewrites: as many as an entry or its instruction says."""

from __future__ import annotations

import pytest

from livegraft.errors import LivegraftError
from livegraft.survey.objectfile import Elf, Relocation, Symbol
from livegraft.survey.rewritten import rewritten

SITE = 0x10
"""Where the instruction is in the code."""


def module(table: str, entry: bytes, relocations: int, code: bytes) -> tuple[Elf, bytes]:
    """A module's file with one table of two entries: the second is for `SITE`."""
    text = b"\x90" * SITE + code.ljust(16, b"\x90")
    elf = Elf(
        names=["", ".text", table],
        flags=[0, 6, 2],
        places=[0, 0, len(text)],
        sizes=[0, len(text), 2 * len(entry)],
        symbols=[Symbol("", 3, False, 1, 0, 0)],
    )
    for start, place in ((0, 0), (len(entry), SITE)):
        for number in range(relocations):
            elf.relocations.append(Relocation(2, start + 4 * number, 2, 0, place))
    return elf, text + 2 * entry


def at_site(found: set[tuple[int, int]]) -> list[int]:
    """The bytes from `SITE` on that are rewritten."""
    assert {section for section, _ in found} == {1}
    return sorted(at - SITE for _, at in found if at >= SITE)


CALL, JUMP = b"\xe8\0\0\0\0", b"\xe9\0\0\0\0"


@pytest.mark.parametrize(
    ("table", "entry", "relocations", "code", "length"),
    [
        (".static_call_sites", bytes(8), 2, CALL, 5),
        (".static_call_sites", bytes(8), 2, b"\x0f\x84\0\0\0\0", 6),
        (".return_sites", bytes(4), 1, JUMP, 5),
        (".call_sites", bytes(4), 1, CALL, 5),
        (".retpoline_sites", bytes(4), 1, b"\x2e" + CALL, 6),
        ("__mcount_loc", bytes(8), 1, CALL, 5),
        ("__jump_table", bytes(16), 3, b"\xeb\x05", 2),
        ("__jump_table", bytes(16), 3, b"\x66\x90", 2),
        ("__jump_table", bytes(16), 3, JUMP, 5),
        ("__jump_table", bytes(16), 3, b"\x0f\x1f\x44\0\0", 5),
        (".parainstructions", bytes(8) + b"\x05\x07" + bytes(6), 1, CALL, 7),
        (".altinstructions", bytes(8) + b"\xff\xff\x09\x03", 2, CALL, 9),  # 6.1
        (".altinstructions", bytes(8) + b"\xff\xff\x01\0\x03\x09", 2, CALL, 3),  # 6.12
    ],
)
def test_as_many_bytes_as_are_rewritten(
    table: str, entry: bytes, relocations: int, code: bytes, length: int
) -> None:
    found = rewritten(*module(table, entry, relocations, code))
    assert at_site(found) == list(range(length))


def test_other_tables_rewrite_nothing() -> None:
    assert rewritten(*module("__bug_table", bytes(12), 3, CALL)) == set()


def test_a_table_that_does_not_come_out_even_is_not_read() -> None:
    elf, data = module(".static_call_sites", bytes(8), 2, CALL)
    elf.relocations.pop()
    with pytest.raises(LivegraftError, match="different sizes"):
        rewritten(elf, data)
