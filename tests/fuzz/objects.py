# SPDX-License-Identifier: GPL-2.0-or-later
"""What is fuzzed of objects: reading, writing and comparing them.

Whatever the bytes are, the answer is a verdict or a typed error: no other exception, no hang, no
memory without bound. What was read is written and read again; an object compared with itself has
no changed function; and it is compared with an intact one of its machine, in both directions.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Literal

from livegraft.compare.comparison import compare_objects
from livegraft.elf import object as elf
from livegraft.elf.object import ElfObject
from livegraft.elf.writer import write
from livegraft.errors import LivegraftError
from livegraft.verdict.judge import judge

CORPUS = Path(__file__).parent / "corpus"

MOST = 1 << 14
"""Bytes of an input."""


@cache
def intact() -> dict[int, ElfObject]:
    """An object of the corpus for each machine."""
    found: dict[int, ElfObject] = {}
    for path in sorted(CORPUS.iterdir()):
        if not path.name.startswith("found-"):
            obj = elf.read(path)
            found.setdefault(obj.machine, obj)
    return found


def check(data: bytes) -> None:
    """Read an object, write and read it again, and compare it.

    Raises:
        AssertionError: an object differs from itself.
    """
    try:
        obj = elf.parse(data)
    except LivegraftError:
        return
    with suppress(LivegraftError):
        elf.parse(write(obj))
    try:
        comparison = judge(compare_objects(obj, elf.parse(data)))
    except LivegraftError:
        return
    assert comparison.changed == comparison.new == comparison.removed == ()
    other = intact().get(obj.machine)
    for before, after in ((obj, other), (other, obj)) if other is not None else ():
        with suppress(LivegraftError):
            judge(compare_objects(before, after)).as_json()


INTERESTING: tuple[int, ...] = (
    *(0, 1, 2, 3, 4, 7, 8, 0x7F, 0xFF, 0x100, 0xFF00, 0xFFFF, 1 << 16, (1 << 31) - 1),
    *(1 << 31, (1 << 32) - 1, 1 << 40, (1 << 63) - 1, 1 << 63, (1 << 64) - 1),
)

_HEADER = ((16, 2), (18, 2), (40, 8), (48, 4), (52, 2), (58, 2), (60, 2), (62, 2))
_SECTION = ((0, 4), (4, 4), (8, 8), (24, 8), (32, 8), (40, 4), (44, 4), (48, 8), (56, 8))
_SYMBOL = ((0, 4), (4, 1), (5, 1), (6, 2), (8, 8), (16, 8))
_RELOCATION = ((0, 8), (8, 4), (12, 4), (16, 8))


def mutate(data: bytes, seed: int, otherwise: Callable[[bytes], bytes]) -> bytes:
    """Change a field of a header, a symbol or a relocation; or what lies in a section."""
    chance = random.Random(seed)
    place = _field(data, chance) if chance.random() < 0.8 else None
    if place is None:
        return otherwise(data)
    offset, size = place
    order: Literal["little", "big"] = "little" if data[5] == 1 else "big"
    old = int.from_bytes(data[offset : offset + size], order)
    near = old + chance.choice((-8, -4, -1, 1, 4, 8, 16))
    new = chance.choice((*INTERESTING, near, near, near, near, chance.getrandbits(8 * size)))
    field = (new & ((1 << 8 * size) - 1)).to_bytes(size, order)
    return data[:offset] + field + data[offset + size :]


def _field(data: bytes, chance: random.Random) -> tuple[int, int] | None:
    """The offset and the size of a field, or of some bytes of a section."""
    if len(data) < 64:
        return None
    order = "<" if data[5] == 1 else ">"
    (table,) = struct.unpack_from(order + "Q", data, 40)
    (count,) = struct.unpack_from(order + "H", data, 60)
    if chance.random() < 0.05 or not count or table + 64 * count > len(data):
        return chance.choice(_HEADER)
    header = table + 64 * chance.randrange(count)
    kind = struct.unpack_from(order + "I", data, header + 4)[0]
    start, size = struct.unpack_from(order + "QQ", data, header + 24)
    entries = {2: _SYMBOL, 4: _RELOCATION}.get(kind)
    if chance.random() < 0.3 or not size > 0 or start + size > len(data):
        offset, width = chance.choice(_SECTION)
        return header + offset, width
    if entries is not None and size >= 24:
        offset, width = chance.choice(entries)
        return start + 24 * chance.randrange(size // 24) + offset, width
    return start + chance.randrange(size), 1
