# SPDX-License-Identifier: GPL-2.0-or-later
"""The folder of an extracted live patch: C files for a reviewer, and what builds a module of them.

``extract.json`` says what was written. A file that is not as it was written counts as edited.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from livegraft.errors import FixError
from livegraft.extract.emission import Text, header_name
from livegraft.extract.extraction import Extracted
from livegraft.extract.reasons import table

T = TypeVar("T")

INDEX = "extract.json"
FORMAT = 2
ANEW = "extract the patch anew: livegraft extract FIX... -k RELEASE -o DIR"
_ENCODING = "latin-1"


@dataclass(frozen=True, slots=True)
class Folder:
    """An extracted live patch, as it lies in its folder.

    Args:
        path: the folder.
        release: the kernel that it was made for.
        source_version: of that kernel's source package.
        fix_sha256: of the fix that it was made of.
        fixes: that fix's files.
        texts: the C file of each unit, and its header.
        edited: units whose file is not as it was written.
    """

    path: Path
    release: str
    source_version: str
    fix_sha256: str
    fixes: tuple[Path, ...]
    texts: dict[str, Text]
    edited: frozenset[str]

    def check_origin(self, fix_sha256: str, source_version: str) -> None:
        """Whether it was made of this fix and this source.

        Raises:
            FixError: it was not.
        """
        if self.fix_sha256 != fix_sha256:
            problem = f"was extracted from a fix of SHA-256 {self.fix_sha256}, not {fix_sha256}"
            raise FixError(str(self.path), problem, ANEW)
        if self.source_version != source_version:
            problem = f"was extracted from source {self.source_version}, not {source_version}"
            raise FixError(str(self.path), problem, ANEW)

    def check_units(self, brought: Collection[str]) -> None:
        """Whether it has a text for each unit that the fix brings something of, and no other.

        Raises:
            FixError: it has not.
        """
        missing = sorted(set(brought) - set(self.texts))
        more = sorted(set(self.texts) - set(brought))
        if missing:
            problem = f"has no file for {', '.join(missing)}, which the fix changes"
            raise FixError(str(self.path), problem, ANEW)
        if more:
            problem = f"has a file for {', '.join(more)}, which the fix does not change"
            raise FixError(str(self.path), problem, ANEW)


def is_folder(path: Path) -> bool:
    """Whether a folder holds an extracted live patch."""
    return (path / INDEX).is_file()


def read_folder(path: Path) -> Folder:
    """Read the folder.

    Raises:
        FixError: it is not complete, or of another format.
    """
    try:
        index = _typed(json.loads(_read(path, INDEX).decode("utf-8")), dict)
        found = _typed(index["format"], int)
        if found != FORMAT:
            problem = f"has format {found}, and {FORMAT} is known here"
            raise FixError(str(path / INDEX), problem, ANEW)
        texts: dict[str, Text] = {}
        edited = set()
        for each in _typed(index["files"], list):
            entry = _typed(each, dict)
            unit, header_file = _typed(entry["unit"], str), _typed(entry["header"], str)
            if unit in texts:
                raise ValueError(f"{unit} is there twice")
            data = _read(path, _typed(entry["file"], str))
            header = _read(path, header_file) if header_file else b""
            texts[unit] = Text(data.decode(_ENCODING), header.decode(_ENCODING))
            written = (_typed(entry["sha256"], str), _typed(entry["header_sha256"], str))
            if (_digest(data), _digest(header)) != written:
                edited.add(unit)
        fixes = tuple(path / _typed(name, str) for name in _typed(index["fixes"], list))
        for fix in fixes:
            _read(path, str(fix.relative_to(path)))
        release, source, digest = (
            _typed(index[key], str) for key in ("kernel", "source_version", "fix_sha256")
        )
        return Folder(path, release, source, digest, fixes, texts, frozenset(edited))
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise FixError(str(path), f"is damaged: {error!r}", ANEW) from error


def _typed(value: Any, kind: type[T]) -> T:
    """A value of the index; ``True`` is no number here."""
    if type(value) is not kind:
        raise TypeError(f"{value!r} is not of type {kind.__name__}")
    return value


def _read(folder: Path, name: str) -> bytes:
    """A regular file of the folder itself, by its plain name."""
    path = folder / name
    if Path(name).name != name or path.is_symlink() or not path.is_file():
        raise ValueError(f"{name!r} is not the name of a regular file in the folder")
    return path.read_bytes()


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def file_name(unit: str) -> str:
    """The C file of a unit: ``fs-ext4-mballoc.c``."""
    return unit.replace("/", "-")


def write_folder(
    path: Path,
    release: str,
    source_version: str,
    fixes: Sequence[Path],
    sha256: str,
    extracted: Iterable[Extracted],
) -> tuple[str, ...]:
    """Write the folder of an extracted live patch.

    Args:
        path: an empty folder, or one that does not exist.
        release: the kernel's release.
        source_version: of the kernel's source package.
        fixes: the fix's files, which are copied.
        sha256: of the fix.
        extracted: what was cut out, by units.

    Returns:
        The names of the C files.
    """
    path.mkdir(parents=True, exist_ok=True)
    listed = list(extracted)
    names = [f"{number}-{fix.name}" for number, fix in enumerate(fixes, 1)]
    for name, fix in zip(names, fixes, strict=True):
        shutil.copyfile(fix, path / name)
    files = []
    for each in listed:
        data = each.text.encode(_ENCODING)
        header = each.header.encode(_ENCODING)
        (path / file_name(each.unit)).write_bytes(data)
        if header:
            (path / header_name(each.unit)).write_bytes(header)
        files.append(
            {
                "file": file_name(each.unit),
                "header": header_name(each.unit) if header else "",
                "unit": each.unit,
                "object": each.object,
                "functions": list(each.patched),
                "sha256": _digest(data),
                "header_sha256": _digest(header),
            }
        )
    index = {
        "format": FORMAT,
        "kernel": release,
        "source_version": source_version,
        "fix_sha256": sha256,
        "fixes": names,
        "files": files,
    }
    (path / INDEX).write_text(json.dumps(index, indent=2) + "\n", "utf-8")
    (path / "README.md").write_text(_readme(release, names, sha256, listed), _ENCODING, "replace")
    (path / "Kbuild").write_text(_kbuild(listed), "utf-8")
    (path / "Makefile").write_text(_makefile(release), "utf-8")
    return tuple(str(each["file"]) for each in files)


_QUESTIONS = """\
## What is left to a reviewer

Checked by the tool: the unpatched code is the shipped code, what the files read to the compiler is
what the patched source reads, types and exported interfaces stay, each reference leads to one
object of the running kernel. Nobody but a reader can tell:

- whether the fix is right, for this kernel;
- whether old and new code may run at a time: between two functions of the set, and for what a task
  began in the old code (a lock, a reference, a counter, a state) and ends in the new code;
- whether objects that the old code made are sound for the new code;
- whether another part of the fix, left out here or refused, is needed too."""


def _makefile(release: str) -> str:
    return f"""\
# SPDX-License-Identifier: GPL-2.0-or-later
# Builds the live patch of this folder, edited or not, for {release}.
LIVEGRAFT ?= livegraft
OUTPUT ?= livepatch.ko

$(OUTPUT): FORCE
\t$(LIVEGRAFT) build . -k {release} -o $@

.PHONY: FORCE
FORCE:
"""


def _kbuild(extracted: Sequence[Extracted]) -> str:
    """For editors and checkers; the module also needs livegraft's relocations."""
    lines = [
        "# SPDX-License-Identifier: GPL-2.0-or-later",
        "# The files as kbuild compiles them; 'make' builds the module (livegraft build).",
    ]
    for each in extracted:
        name = file_name(each.unit).removesuffix(".c")
        folder = each.unit.rpartition("/")[0]
        lines.append(f"obj-m += {name}.o")
        lines.append(f"CFLAGS_{name}.o += -I$(srctree)/{folder}")
    return "\n".join(lines) + "\n"


def _readme(release: str, fixes: Sequence[str], sha256: str, extracted: Sequence[Extracted]) -> str:
    named = ", ".join(f"`{name}`" for name in fixes)
    parts = [
        f"# A live patch for {release}",
        f"Cut out of the patched source by livegraft. The fix is {named}, SHA-256 `{sha256}`.",
        "`make` builds the module, edited or not: `livegraft build . -k "
        f"{release} -o livepatch.ko`. An edited file is named in the module "
        "(`livegraft inspect`).",
    ]
    for each in extracted:
        parts.append(f"## {file_name(each.unit)}")
        lines = each.text.count("\n")
        parts.append(f"{lines} lines, of `{each.unit}`, which is linked into `{each.object}`.")
        if each.header:
            more = each.header.count("\n")
            name = header_name(each.unit)
            parts.append(f"`{name}` holds what the fix does not change: {more} lines.")
        patched = ", ".join(f"`{name}`" for name in each.patched)
        parts.append(f"Replaced in the running kernel: {patched}.")
        if each.carried:
            parts.append(
                "Taken along with their bodies, because the compiler inlines them or the kernel "
                f"has no such symbol: {', '.join(f'`{name}`' for name in each.carried)}."
            )
        if each.running:
            parts.append(
                "Declared only, and resolved in the running kernel: "
                f"{', '.join(f'`{name}`' for name in each.running)}."
            )
        if each.whys:
            parts.append("Why each function is in the set:")
            parts.append(table(each.whys).rstrip())
    parts.append(_QUESTIONS)
    return "\n\n".join(parts) + "\n"
