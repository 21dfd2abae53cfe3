# SPDX-License-Identifier: GPL-2.0-or-later
"""Who includes whom in a source tree: every ``#include`` line, whatever the configuration.

An over-approximation on purpose: conditions are not evaluated and comments not skipped, so that no
includer is missed; the compiler's own list of files decides afterwards. Whoever defines a macro as
the name of a header (``#define GENL_MAGIC_INCLUDE_FILE <linux/drbd_genl.h>``) counts as including
it; what ``#include TRACE_INCLUDE(...)`` makes are headers that their users also include by name.
What kbuild gives to every compilation (``-include``) is included by every unit.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Container, Iterable, Iterator
from functools import lru_cache
from pathlib import Path

from livegraft.kbuild.environment import environment_of
from livegraft.kbuild.target import KernelTree
from livegraft.progress import SILENT, Progress

_INCLUDE = re.compile(rb'#[ \t]*include(?:_next)?[ \t]*(["<])([^">\n]+)[">]')
_NAMED = re.compile(rb'#[ \t]*define[ \t]+\w+[ \t]+(["<])([^">\n]+\.h)[">]')
_HEADER_END = re.compile(rb'\.h[">]')
_GIVEN = re.compile(r"-include[ \t]+\$\(srctree\)/(\S+)")
_GIVERS = ("Makefile", "scripts/Makefile.lib")
_SUFFIXES = (".c", ".h", ".S", ".inc", ".def", ".lds.h")
_NOT_KERNEL = frozenset(("Documentation", "LICENSES", "samples", "tools"))
_CHUNK = 1 << 20


class IncludeIndex:
    """Reverse includes of a source tree, kept as one line per included file.

    Args:
        data: lines of ``included TAB includer TAB includer ...``, the included file being a path
            in the tree.
    """

    def __init__(self, data: str) -> None:
        self._lines = {line[: line.index("\t")]: line for line in data.splitlines()}

    def includers(self, path: str) -> tuple[str, ...]:
        """The files that may include `path` directly."""
        line = self._lines.get(path)
        return tuple(line.split("\t")[1:]) if line else ()

    def closure(self, paths: Iterable[str]) -> frozenset[str]:
        """All files that may include one of `paths`, directly or not."""
        found: set[str] = set()
        pending = list(paths)
        while pending:
            for includer in self.includers(pending.pop()):
                if includer not in found:
                    found.add(includer)
                    pending.append(includer)
        return frozenset(found)


def include_index(kernel: KernelTree, progress: Progress = SILENT) -> IncludeIndex:
    """The index of the kernel's source, made once per source tree and architecture.

    Takes two seconds when the tree was just unpacked; preparing a kernel is the time for it.
    """
    architecture = environment_of(kernel, progress)["SRCARCH"]
    name = f"includes/{kernel.source.name}-{architecture}-2"
    with progress.step("find out who includes whom"):
        path = kernel.cache.file(name, lambda path: _write(path, kernel, architecture), progress)
        return _read_index(path)


@lru_cache(maxsize=2)
def _read_index(path: Path) -> IncludeIndex:
    """Who looks at several fixes reads it once. The cache never changes a file that is there."""
    return IncludeIndex(path.read_text(errors="surrogateescape"))


def scan(source: Path, build: Path, architecture: str) -> dict[str, list[str]]:
    """Every included file of a source tree with its includers.

    Args:
        build: the tree prepared from it: arch/ARCH/include/generated holds headers that do nothing
            but include one of asm-generic/.
        architecture: the only folder below arch/ that is looked into.
    """
    generated = f"arch/{architecture}/include/generated"
    places = dict.fromkeys(_files(source, "", architecture), source)
    places |= dict.fromkeys(_files(build, generated, architecture), build)
    by_name: dict[str, list[str]] = defaultdict(list)
    for file in places:
        by_name[file[file.rfind("/") + 1 :]].append(file)
    roots = _roots(architecture)
    includers: dict[str, list[str]] = defaultdict(list)
    for file, place in sorted(places.items()):
        folder = file[: file.rfind("/") + 1]
        text = _read(f"{place}/{file}")
        for quote, spelled in {*_INCLUDE.findall(text), *_named(text)}:
            name = spelled.decode(errors="surrogateescape")
            for target in _resolve(quote, name, folder, roots, places, by_name):
                includers[target].append(file)
    units = sorted(file for file in places if file.endswith(".c"))
    for target in _given(source):
        includers[target] += units
    return includers


def _named(text: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The headers that macros name. Most files have thousands of macros and none that does: looking
    for what ends such a line takes a tenth of the time of looking for what begins it."""
    for end in _HEADER_END.finditer(text):
        start = text.rfind(b"\n", 0, end.start()) + 1
        yield from _NAMED.findall(text, start, end.end())


def _roots(architecture: str) -> tuple[str, ...]:
    """Where headers are looked for, in the order of LINUXINCLUDE in the top-level Makefile."""
    generated = f"arch/{architecture}/include/generated"
    own = (f"arch/{architecture}/include/", f"{generated}/", "include/")
    return (*own, f"arch/{architecture}/include/uapi/", f"{generated}/uapi/", "include/uapi/")


def hidden_by(path: str, source: Path, architecture: str) -> Iterator[str]:
    """The headers whose place in ``#include <...>`` a new one takes: ``include/linux/loop.h`` would
    that of ``include/uapi/linux/loop.h``, and ``asm/kmap_size.h`` that of a generated one that
    does nothing but include ``asm-generic/kmap_size.h``."""
    if (source / path).exists():
        return
    roots = _roots(architecture)
    for root in roots:
        if path.startswith(root):
            name = path.removeprefix(root)
            hidden = [each + name for each in roots]
            if name.startswith("asm/"):
                hidden.append(f"include/asm-generic/{name.removeprefix('asm/')}")
            yield from (each for each in hidden if (source / each).is_file())


def _given(source: Path) -> Iterator[str]:
    """The headers that every compilation includes."""
    for name in _GIVERS:
        file = source / name
        if file.is_file():
            yield from _GIVEN.findall(file.read_text(errors="surrogateescape"))


def _resolve(
    quote: bytes,
    name: str,
    folder: str,
    roots: tuple[str, ...],
    files: Container[str],
    by_name: dict[str, list[str]],
) -> Iterable[str]:
    """The files that an include can mean, as the compiler looks for them."""
    if quote == b'"':
        near = folder + name
        if "../" in name or "./" in name:
            near = os.path.normpath(near)
        if near in files:
            return (near,)
    standard = [root + name for root in roots if root + name in files]
    if standard:
        return standard
    # Found through an -I of some makefile, or generated: whatever ends like it.
    end = "/" + re.sub(r"^(?:\.{0,2}/)+", "", name)
    return [file for file in by_name.get(end[end.rfind("/") + 1 :], ()) if file.endswith(end)]


def _files(root: Path, below: str, architecture: str) -> Iterator[str]:
    cut = len(str(root)) + 1
    for folder, folders, names in os.walk(root / below):
        here = folder.rstrip("/")[cut:]
        if not here:
            folders[:] = [name for name in folders if name not in _NOT_KERNEL]
        elif here == "arch":
            folders[:] = [architecture]
        prefix = f"{here}/" if here else ""
        for name in names:
            if name.endswith(_SUFFIXES):
                yield prefix + name


def _read(path: str) -> bytes:
    # os.read in few calls: 44,000 files are opened, and Path.read_bytes costs half as much again.
    descriptor = os.open(path, os.O_RDONLY)
    try:
        parts = [os.read(descriptor, _CHUNK)]
        while len(parts[-1]) == _CHUNK:
            parts.append(os.read(descriptor, _CHUNK))
        return b"".join(parts)
    finally:
        os.close(descriptor)


def _write(path: Path, kernel: KernelTree, architecture: str) -> None:
    includers = scan(kernel.source, kernel.build, architecture)
    lines = ("\t".join((target, *files)) + "\n" for target, files in includers.items())
    with path.open("w", errors="surrogateescape") as handle:
        handle.writelines(lines)
