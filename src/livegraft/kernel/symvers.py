# SPDX-License-Identifier: GPL-2.0-or-later
"""What the kernel and its modules export: ``Module.symvers`` of the headers package."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from livegraft.changeset import VMLINUX
from livegraft.errors import ImageError

_FIELDS = 5
_LINES = re.compile(r"(?:0x[0-9a-f]{8}\t[^\t\n]+\t[^\t\n]+\tEXPORT_SYMBOL(?:_GPL)?\t[^\t\n]*+\n)*+")
_REMEDY = "fetch the headers package again"


@dataclass(frozen=True, slots=True)
class Export:
    """An exported symbol.

    Args:
        crc: ``u32``, the checksum of its type (``CONFIG_MODVERSIONS``).
        owner: ``vmlinux``, or the name of the module that exports it.
        namespace: its symbol namespace; empty for most.
    """

    crc: int
    owner: str
    namespace: str


class Symvers:
    """All exports by name.

    Args:
        fields: the fields of all lines, one after another.
        lines: the number of the line of each name.
    """

    def __init__(self, fields: Sequence[str], lines: Mapping[str, int]) -> None:
        self._fields = fields
        self._lines = lines

    def __len__(self) -> int:
        return len(self._lines)

    def get(self, name: str) -> Export | None:
        """The export of that name, or None."""
        line = self._lines.get(name)
        if line is None:
            return None
        crc, _, owner, _, namespace = self._fields[line * _FIELDS : (line + 1) * _FIELDS]
        return Export(int(crc, 16), _owner(owner), namespace)


def read_symvers(path: Path) -> Symvers:
    """Read a ``Module.symvers``.

    Each line is CRC, symbol, module, kind and namespace, separated by tabs
    (Documentation/kbuild/modules.rst, section 6.1; scripts/mod/modpost.c:read_dump()).

    Raises:
        ImageError: a line is not of that form, or a symbol is exported twice.
    """
    return parse_symvers(path.read_text("utf-8"), str(path))


def parse_symvers(text: str, subject: str) -> Symvers:
    """:func:`read_symvers` for text that was read; `subject` is what to call it in an error."""
    whole = _LINES.match(text)
    if whole is None or whole.end() != len(text):
        number = text.count("\n", 0, whole.end() if whole else 0) + 1
        raise ImageError(f"{subject}:{number}", "is no line of a Module.symvers", _REMEDY)
    fields = text.replace("\n", "\t").split("\t")
    names = fields[1::_FIELDS]
    lines = dict(zip(names, range(len(names)), strict=True))
    if len(lines) != len(names):
        raise ImageError(subject, "exports a symbol a second time", _REMEDY)
    return Symvers(fields, lines)


def _owner(field: str) -> str:
    """``fs/jbd2/jbd2`` is the module jbd2."""
    return VMLINUX if field == VMLINUX else field.rpartition("/")[2].replace("-", "_")
