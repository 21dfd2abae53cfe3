# SPDX-License-Identifier: GPL-2.0-or-later
"""The checksums of exported symbols' types, as the kernel's own ``genksyms`` makes them.

What a fix leaves alone has the checksum that the shipped ``Module.symvers`` tells. Another means
that the type of the symbol, or one that it needs, is written differently; or only that a structure
became known to the unit (a new ``#include``), which genksyms takes for a change and we do not.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from livegraft.errors import Reason
from livegraft.kbuild.command import Command
from livegraft.kbuild.compile import preprocess
from livegraft.kbuild.shadow import Shadow
from livegraft.kbuild.target import KernelTree
from livegraft.kernel.symvers import read_symvers
from livegraft.run import run

_EXPORT = re.compile(rb"\bEXPORT_(?:PER_CPU_)?SYMBOL|\bEXPORT_NS_|_EXPORT")
_SYMVER = re.compile(
    r"^#SYMVER (\S+) 0x([0-9a-f]{8})$|^__crc_(\S+) = 0x([0-9a-f]{8});", re.MULTILINE
)
_REFERENCE = re.compile(r"(?<!\S)[stueE]#\S+")
_UNKNOWN = "{ UNKNOWN }"
_KINDS = {"s": "struct", "u": "union", "e": "enum", "t": "typedef", "E": "value"}
_SECONDS = 120
_NAMED = 3


@dataclass(frozen=True, slots=True)
class Checksums:
    """What genksyms says of a unit.

    Args:
        values: the checksum of each exported symbol, ``u32``.
        types: the text of each symbol and type; others are named in it as ``s#inode``.
    """

    values: Mapping[str, int]
    types: Mapping[str, str]

    def definition(self, name: str) -> str:
        """The text of a symbol or type; of one that nothing is known of, that."""
        return self.types.get(name, _UNKNOWN)


def export_reasons(
    kernel: KernelTree, command: Command, folder: Path, shadow: Shadow
) -> list[Reason]:
    """Exported symbols of a unit whose types a fix changes.

    Args:
        folder: for temporary files.
        shadow: the source with the fix.

    Raises:
        RunFailed: genksyms does not understand the source.
    """
    source = (shadow.root / Path(command.source).relative_to(kernel.source)).read_bytes()
    if not _EXPORT.search(source):
        return []
    symvers = read_symvers(kernel.build / "Module.symvers")
    after = _checksums(kernel, command, folder / "after", shadow)
    shipped = {name: symvers.get(name) for name in after.values}
    differing = [
        name
        for name, value in after.values.items()
        if (export := shipped[name]) is not None and export.crc != value
    ]
    if not differing:
        return []
    before = _checksums(kernel, command, folder / "before", None)
    causes: dict[str, list[str]] = {}
    for name in differing:
        if name in before.values and (cause := _cause(name, before, after)):
            causes.setdefault(cause, []).append(name)
    return [_reason(names, cause, before, after) for cause, names in causes.items()]


def _reason(names: Sequence[str], cause: str, before: Checksums, after: Checksums) -> Reason:
    """One for all symbols that change for one cause: ``struct inode`` is in hundreds."""
    name, *others = names
    listed = ", ".join(others[:_NAMED]) + (" ..." if len(others) > _NAMED else "")
    return Reason(
        "export-crc-changed",
        name,
        f"is exported, and {cause} is another one: its checksum would be "
        f"{after.values[name]:#010x}, modules were built with {before.values[name]:#010x}"
        + (f"; so are {len(others)} more ({listed})" if others else ""),
        "leave the type as it is, and keep what is new in types of its own",
    )


def _checksums(
    kernel: KernelTree, command: Command, folder: Path, shadow: Shadow | None
) -> Checksums:
    folder.mkdir(parents=True, exist_ok=True)
    text, types = folder / "text.i", folder / "types"
    text.write_text(preprocess(kernel, command, shadow, "-D__GENKSYMS__"), "utf-8")
    program = kernel.build / "scripts/genksyms/genksyms"
    told = run([program, "-T", types], stdin=text, timeout=_SECONDS).stdout
    values = {new or old: int(crc or other, 16) for new, crc, old, other in _SYMVER.findall(told)}
    lines = (line.partition(" ") for line in types.read_text("utf-8").splitlines())
    return Checksums(values, {name: definition for name, _, definition in lines})


def _cause(symbol: str, before: Checksums, after: Checksums) -> str:
    """The first symbol or type below one that is written differently; empty if none is."""
    return next(_differences(symbol, before, after), "")


def _differences(symbol: str, before: Checksums, after: Checksums) -> Iterator[str]:
    seen: set[str] = set()
    pending = [symbol]
    while pending:
        name = pending.pop()
        if name in seen:
            continue
        seen.add(name)
        old, new = before.definition(name), after.definition(name)
        if _UNKNOWN in old or _UNKNOWN in new:
            continue
        if old != new:
            kind, _, plain = name.rpartition("#")
            yield f"{_KINDS[kind]} {plain}" if kind in _KINDS else "its own type"
        pending += _REFERENCE.findall(old)
