# SPDX-License-Identifier: GPL-2.0-or-later
"""The symbol table that the kernel carries in itself, decoded from its image.

The tables are those that ``write_src()`` of scripts/kallsyms.c writes into ``.rodata``, each
aligned to eight bytes. Names are compressed: each is a length (one byte, or two in ULEB128 for 128
and more) and as many numbers of tokens; the first character of the expansion is the type letter.
Nothing names the tables in a stripped image and their order changed over the years, so they are
found by what they must look like, and then everything that can be checked is checked.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from livegraft.errors import ImageError
from livegraft.kernel.image import KernelImage
from livegraft.kernel.kernel import Kernel
from livegraft.progress import SILENT, Progress

_REMEDY = "report this kernel: its symbol table has a layout that is not known"
_FORMAT = 1
_LETTERS = frozenset(b"AaBbCcDdGgNnRrSsTtUuVvWw?")
"""Type letters of nm(1) that reach kallsyms."""
_MOST_SYMBOLS = 1 << 24
"""``kallsyms_seqs_of_names`` has three bytes per symbol."""
_DIGITS = b"".join(b"%d\0" % digit for digit in range(10))
_FIRST_DIGIT = ord("0")


@dataclass(frozen=True, slots=True)
class Kallsyms:
    """All symbols in the order of the kernel's own table.

    Args:
        text: all names, each ended by NUL.
        starts: ``u32`` per symbol, where its name starts in the text.
        types: the type letters, one byte per symbol.
        addresses: ``u64`` per symbol as linked (without KASLR); per-CPU variables by their offset
            in the per-CPU area.
        by_name: ``u32`` per symbol: numbers of symbols in the order of their names (``strcmp``),
            equal names by number.
    """

    text: bytes
    starts: npt.NDArray[np.uint32]
    types: bytes
    addresses: npt.NDArray[np.uint64]
    by_name: npt.NDArray[np.uint32]

    def __len__(self) -> int:
        return len(self.types)

    def name(self, number: int) -> str:
        """The name of a symbol."""
        return self._raw(number).decode("utf-8", "surrogateescape")

    def numbers(self, name: str) -> list[int]:
        """The symbols of that name, in the table's order; empty if there is none."""
        wanted = name.encode("utf-8", "surrogateescape")
        first = bisect_left(self.by_name, wanted, key=self._raw)
        found = []
        for number in self.by_name[first:]:
            if self._raw(number) != wanted:
                break
            found.append(int(number))
        return found

    def all(self) -> Iterator[tuple[int, str, str]]:
        """Address, type letter and name of each symbol, as /proc/kallsyms lists them."""
        names = self.text.decode("utf-8", "surrogateescape").split("\0")
        letters = self.types.decode("ascii")
        yield from zip(self.addresses.tolist(), letters, names[:-1], strict=True)

    def _raw(self, number: int) -> bytes:
        start = int(self.starts[number])
        return self.text[start : self.text.index(b"\0", start)]


def open_kallsyms(kernel: Kernel, image: KernelImage, progress: Progress = SILENT) -> Kallsyms:
    """The image's symbols, decoded the first time (about a second) and kept in the cache.

    Raises:
        ImageError: the table is not found, or is not consistent in itself.
    """
    name = kernel.derived(f"code/kallsyms-{image.build_id}-{_FORMAT}.npz")

    def build(path: Path) -> None:
        with path.open("wb") as handle:
            _save(decode(image), handle.fileno())

    if not (kernel.cache.root / name).is_file():
        with progress.step("read the symbol table"):
            kernel.cache.file(name, build, progress)
    return _load(kernel.cache.root / name)


def _save(table: Kallsyms, handle: int) -> None:
    with open(handle, "wb", closefd=False) as file:
        np.savez(
            file,
            text=np.frombuffer(table.text, dtype=np.uint8),
            starts=table.starts,
            types=np.frombuffer(table.types, dtype=np.uint8),
            addresses=table.addresses,
            by_name=table.by_name,
        )


def _load(path: Path) -> Kallsyms:
    with np.load(path, allow_pickle=False) as stored:
        return Kallsyms(
            stored["text"].tobytes(),
            stored["starts"],
            stored["types"].tobytes(),
            stored["addresses"],
            stored["by_name"],
        )


@dataclass(frozen=True, slots=True)
class _Tokens:
    """The 256 tokens; ``start`` and ``end`` are offsets in the section."""

    tokens: tuple[bytes, ...]
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class _Tables:
    """Offsets of the tables in the section. ``sequences`` is None before Linux 6.2."""

    count: int
    offsets: int
    names: int
    markers: int
    sequences: int | None


def decode(image: KernelImage) -> Kallsyms:
    """Find and decode the table in the image's ``.rodata``.

    Raises:
        ImageError: it is not there, or something in it does not fit.
    """
    section = image.file.section(".rodata")
    if section is None:
        raise _error(image, "the image has no .rodata")
    data = bytes(image.file.bytes_of(section))
    problems = []
    for tokens in _token_tables(data):
        for tables in _candidates(data, tokens, image.lowest):
            try:
                return _decode(image, data, tokens, tables)
            except ImageError as error:
                problems.append(error.problem)
    raise _error(image, problems[0] if problems else "no symbol table was found")


def _token_tables(data: bytes) -> Iterator[_Tokens]:
    """Places that look like ``kallsyms_token_table`` with ``kallsyms_token_index`` behind it.

    Digits occur in so many names that each stands for itself: ten tokens from number 0x30 on.
    """
    at = data.find(_DIGITS)
    while at >= 0:
        end = at
        for _ in range(256 - _FIRST_DIGIT):
            end = data.find(b"\0", end) + 1
            if end == 0:
                return
        index = np.frombuffer(data, dtype="<u2", count=256, offset=_aligned(end)).tolist()
        start = at - index[_FIRST_DIGIT]
        tokens = data[start:end].split(b"\0")
        offsets = [0]
        for token in tokens[:-2]:
            offsets.append(offsets[-1] + len(token) + 1)
        if start >= 0 and start % 8 == 0 and len(tokens) == 257 and offsets == index:
            yield _Tokens(tuple(tokens[:256]), start, _aligned(end) + 512)
        at = data.find(_DIGITS, at + 1)


def _candidates(data: bytes, tokens: _Tokens, lowest: int) -> Iterator[_Tables]:
    """Where the other tables may lie.

    Both orders hold ``kallsyms_relative_base``, the lowest address of a symbol that is not per-CPU:
    ``record_relative_base()`` of scripts/kallsyms.c.
    """
    words = np.frombuffer(data, dtype="<u8", count=len(data) // 8)
    for position in np.flatnonzero(words == lowest).tolist():
        base = position * 8
        if base < tokens.start:
            yield from _offsets_first(words, tokens, base)
        elif base > tokens.end:
            yield from _names_first(data, words, tokens, base)


def _offsets_first(words: npt.NDArray[np.uint64], tokens: _Tokens, base: int) -> Iterator[_Tables]:
    """offsets, relative_base, num_syms, names, markers, seqs_of_names, token_table, token_index."""
    count = int(words[base // 8 + 1])
    if not 0 < count < _MOST_SYMBOLS or base < _aligned(4 * count):
        return
    offsets = base - _aligned(4 * count)
    size = _aligned(4 * ((count + 255) // 256))
    for sequences in (tokens.start - _aligned(3 * count), None):
        markers = (tokens.start if sequences is None else sequences) - size
        if markers > base + 16:
            yield _Tables(count, offsets, base + 16, markers, sequences)


def _names_first(
    data: bytes, words: npt.NDArray[np.uint64], tokens: _Tokens, base: int
) -> Iterator[_Tables]:
    """num_syms, names, markers, token_table, token_index, offsets, relative_base, seqs_of_names."""
    most = (base - tokens.end) // 4
    # An odd number of 32-bit offsets is padded to eight bytes.
    for count in (most, most - 1):
        if not 0 < count < _MOST_SYMBOLS:
            continue
        markers = tokens.start - _aligned(4 * ((count + 255) // 256))
        last = int.from_bytes(data[markers : markers + 4 * ((count + 255) // 256)][-4:], "little")
        lowest = max(markers - last - 256 * 1024, 0) // 8
        for position in np.flatnonzero(words[lowest : markers // 8] == count).tolist():
            names = (lowest + position + 1) * 8
            yield _Tables(count, tokens.end, names, markers, base + 8)


def _decode(image: KernelImage, data: bytes, tokens: _Tokens, tables: _Tables) -> Kallsyms:
    names = _names(image, data, tokens, tables)
    types = bytes(name[0] for name in names)
    if not _LETTERS.issuperset(types):
        raise _error(image, "kallsyms_names: a symbol has no type letter")
    plain = [name[1:] for name in names]
    text = b"\0".join(plain) + b"\0"
    lengths = np.fromiter(map(len, plain), dtype=np.uint32, count=len(plain))
    starts = np.zeros(len(plain), dtype=np.uint32)
    np.cumsum(lengths[:-1] + 1, out=starts[1:])
    addresses = _addresses(image, data, tables)
    by_name = _by_name(image, data, tables, plain)
    table = Kallsyms(text, starts, types, addresses, by_name)
    if [int(addresses[number]) for number in table.numbers("_text")] != [image.lowest]:
        raise _error(image, "kallsyms_offsets: _text is not where the image starts")
    return table


def _names(image: KernelImage, data: bytes, tokens: _Tokens, tables: _Tables) -> list[bytes]:
    """The expanded names, type letter first; the walk has to meet every marker and the end."""
    expansion = tokens.tokens
    names = []
    markers = []
    at = tables.names
    for number in range(tables.count):
        if at >= tables.markers:
            raise _error(image, "kallsyms_names: ends too early")
        if number % 256 == 0:
            markers.append(at - tables.names)
        length = data[at]
        at += 1
        if length & 0x80:
            length = length & 0x7F | data[at] << 7
            at += 1
        name = b"".join([expansion[token] for token in data[at : at + length]])
        if len(name) < 2:
            raise _error(image, f"kallsyms_names: symbol {number} has no name")
        names.append(name)
        at += length
    if _aligned(at) != tables.markers or any(data[at : tables.markers]):
        raise _error(image, "kallsyms_names: does not end where kallsyms_markers starts")
    stored = np.frombuffer(data, dtype="<u4", count=len(markers), offset=tables.markers)
    if stored.tolist() != markers:
        raise _error(image, "kallsyms_markers: does not fit kallsyms_names")
    return names


def _addresses(image: KernelImage, data: bytes, tables: _Tables) -> npt.NDArray[np.uint64]:
    """``kallsyms_sym_address()`` of kernel/kallsyms.c for each symbol.

    With CONFIG_KALLSYMS_ABSOLUTE_PERCPU offsets from 0 on are absolute and negative ones count down
    from the base; without it all are unsigned and count up.
    """
    offsets = np.frombuffer(data, dtype="<i4", count=tables.count, offset=tables.offsets)
    base = np.uint64(image.lowest)
    if bool((offsets < 0).any()):
        wide = offsets.astype(np.int64)
        relative = base + (-1 - wide).astype(np.uint64)
        addresses = np.where(wide >= 0, wide.astype(np.uint64), relative)
    else:
        addresses = base + offsets.astype(np.uint64)
    if bool((addresses[1:] < addresses[:-1]).any()):
        raise _error(image, "kallsyms_offsets: addresses are not in order")
    # Symbols such as _end and __brk_limit stand behind the last section, rounded up to a huge page.
    if int(addresses[-1]) > (image.end + (1 << 21) - 1 & ~((1 << 21) - 1)):
        raise _error(image, "kallsyms_offsets: a symbol lies behind the image's end")
    return addresses


def _by_name(
    image: KernelImage, data: bytes, tables: _Tables, names: list[bytes]
) -> npt.NDArray[np.uint32]:
    """The order of the names, by ``kallsyms_seqs_of_names`` where it exists.

    A livepatch position counts equal names in table order (``kallsyms_on_each_symbol``) on kernels
    up to 6.1 and in this order (``kallsyms_on_each_match_symbol``) on later ones. Here both have to
    be the same, so that a position means one thing.
    """
    count = tables.count
    order = sorted(range(count), key=names.__getitem__)  # stable: equal names stay in table order
    result = np.array(order, dtype=np.uint32)
    if tables.sequences is not None:
        raw = data[tables.sequences : tables.sequences + 3 * count]
        bytes_of = np.frombuffer(raw, dtype=np.uint8).reshape(-1, 3).astype(np.uint32)
        stored = bytes_of[:, 0] << 16 | bytes_of[:, 1] << 8 | bytes_of[:, 2]
        if len(stored) != count or not np.array_equal(stored, result):
            raise _error(image, "kallsyms_seqs_of_names: is not the order of the names")
    return result


def _aligned(offset: int) -> int:
    return offset + 7 & ~7


def _error(image: KernelImage, problem: str) -> ImageError:
    return ImageError(image.subject, problem, _REMEDY)
