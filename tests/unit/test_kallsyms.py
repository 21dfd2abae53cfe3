# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel's symbol table: both orders of its tables, and every inconsistency refused."""

from __future__ import annotations

import random
import struct
from dataclasses import dataclass, field

import pytest

from livegraft.elf.header import File, SectionHeader
from livegraft.errors import ImageError
from livegraft.kernel.image import KernelImage
from livegraft.kernel.kallsyms import decode

TEXT = 0xFFFFFFFF81000000
RODATA = TEXT + 0x1000000

Symbol = tuple[int, str, str]

OFFSETS_FIRST = [
    "offsets",
    "relative_base",
    "num_syms",
    "names",
    "markers",
    "sequences",
    "token_table",
    "token_index",
]
"""Linux 6.2 and Debian's 6.1."""
NAMES_FIRST = [
    "num_syms",
    "names",
    "markers",
    "token_table",
    "token_index",
    "offsets",
    "relative_base",
    "sequences",
]
"""Linux 6.6 and later."""
WITHOUT_SEQUENCES = [name for name in OFFSETS_FIRST if name != "sequences"]
"""Linux 6.1 as released."""
ORDERS = {"6.1": OFFSETS_FIRST, "6.12": NAMES_FIRST, "plain 6.1": WITHOUT_SEQUENCES}

LONG = "a_name_so_long_that_its_length_needs_two_bytes_" + "x" * 200


def symbols(count: int = 700) -> list[Symbol]:
    """Symbols with twins, per-CPU variables at low addresses and a very long name."""
    chance = random.Random(count)
    table: list[Symbol] = [(0, "A", "fixed_percpu_data"), (0x1000, "A", "a_percpu")]
    table.append((TEXT, "T", "_text"))
    for number in range(count):
        name = chance.choice(["init", "cleanup", f"fn_{number}", f"do_{number % 40}.isra.0"])
        table.append((TEXT + 16 * number, chance.choice("tTdDbBrRW"), name))
    return [*table, (TEXT + 16 * count, "t", LONG)]


def image_of(parts: list[tuple[str, int, bytes]]) -> KernelImage:
    """An image with those sections: name, address and contents of each."""
    data, sections = b"", []
    for number, (name, address, contents) in enumerate(parts):
        size = len(contents)
        sections.append(SectionHeader(number, name, 1, 2, address, len(data), size, 0, 0, 8, 0))
        data += contents
    file = File(memoryview(data), "<", 62, 2, 0, tuple(sections))
    return KernelImage(file, file.sections, "", "vmlinux")


@dataclass
class Tables:
    """What scripts/kallsyms.c writes, written anew."""

    symbols: list[Symbol]
    parts: dict[str, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        tokens = [chr(code) if 32 < code < 127 else "" for code in range(256)]
        tokens[200], tokens[201], tokens[0] = "init", "do_", "fn_"
        names, markers, encoded = b"", [], []
        for number, (_, letter, name) in enumerate(self.symbols):
            if number % 256 == 0:
                markers.append(len(names))
            codes = self._compressed(letter + name, tokens)
            length = bytes([len(codes)]) if len(codes) < 128 else self._two_bytes(len(codes))
            names += length + codes
            encoded.append(codes)
        index, table = [], b""
        for token in tokens:
            index.append(len(table))
            table += token.encode() + b"\0"
        by_name = sorted(range(len(self.symbols)), key=lambda n: self.symbols[n][2].encode())
        offsets = [a if a < TEXT else TEXT - a - 1 for a, _, _ in self.symbols]
        self.parts = {
            "offsets": struct.pack(f"<{len(offsets)}i", *offsets),
            "relative_base": struct.pack("<Q", TEXT),
            "num_syms": struct.pack("<I", len(self.symbols)),
            "names": names,
            "markers": struct.pack(f"<{len(markers)}I", *markers),
            "sequences": b"".join(number.to_bytes(3, "big") for number in by_name),
            "token_table": table,
            "token_index": struct.pack("<256H", *index),
        }

    @staticmethod
    def _two_bytes(length: int) -> bytes:
        return bytes([length & 0x7F | 0x80, length >> 7])

    @staticmethod
    def _compressed(text: str, tokens: list[str]) -> bytes:
        for code in (200, 201, 0):
            text = text.replace(tokens[code], chr(0x100 + code))
        return bytes(ord(character) & 0xFF for character in text)

    def image(self, order: list[str], damage: str = "", at: int = 0) -> KernelImage:
        """The image with the tables in that order, and one byte of a table changed."""
        data = bytearray(b"something else before it".ljust(64, b"\0"))
        for name in order:
            part = bytearray(self.parts[name])
            if name == damage:
                part[at] ^= 0x55
            data += bytes(-len(data) % 8) + part
        data += bytes(-len(data) % 8) + struct.pack("<Q", TEXT) + b"something else behind it"
        text = bytes(16 * len(self.symbols) + 64)
        return image_of([(".text", TEXT, text), (".rodata", RODATA, bytes(data))])


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
@pytest.mark.parametrize("count", [700, 701, 765])
def test_every_symbol_comes_back(order: list[str], count: int) -> None:
    table = symbols(count)
    assert list(decode(Tables(table).image(order)).all()) == table


def test_names_are_found_in_table_order() -> None:
    table = symbols()
    result = decode(Tables(table).image(NAMES_FIRST))
    for name in ("init", "cleanup", "_text", LONG, "do_7.isra.0"):
        numbers = [number for number, symbol in enumerate(table) if symbol[2] == name]
        assert numbers
        assert result.numbers(name) == numbers
        assert {result.name(number) for number in numbers} == {name}
    assert result.numbers("no_such_function") == []
    assert result.numbers("") == []


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
@pytest.mark.parametrize(
    ("damage", "at"),
    [
        ("offsets", 403),
        ("relative_base", 5),
        ("num_syms", 0),
        ("names", 0),
        ("markers", 4),
        ("token_index", 400),
        ("sequences", 301),
    ],
)
def test_a_damaged_table_is_refused(order: list[str], damage: str, at: int) -> None:
    if damage not in order:
        return
    with pytest.raises(ImageError):
        decode(Tables(symbols()).image(order, damage, at))


def test_an_image_without_a_table_is_refused() -> None:
    image = image_of([(".text", TEXT, bytes(64)), (".rodata", RODATA, bytes(8192))])
    with pytest.raises(ImageError, match="no symbol table"):
        decode(image)


def test_a_table_of_another_image_is_refused() -> None:
    moved = [(address, letter, name) for address, letter, name in symbols() if name != "_text"]
    with pytest.raises(ImageError, match="_text"):
        decode(Tables(moved).image(NAMES_FIRST))
