# SPDX-License-Identifier: GPL-2.0-or-later
"""The words of a unit's preprocessed text, by the file that they come from: found once per kernel.

With ``-dU`` the preprocessor also tells the macros that are expanded or tested, at the first place
where one is (gcc manual, "Preprocessor Options"). Most units see the same text of a header, and it
is kept once: the words of all units of a kernel take less room than a few of their texts.
"""

from __future__ import annotations

import hashlib
import os
import re
import sqlite3
import zlib
from array import array
from collections import defaultdict
from collections.abc import Collection, Mapping
from contextlib import closing

from livegraft.errors import CacheError
from livegraft.kbuild.command import Command
from livegraft.kbuild.compile import preprocess
from livegraft.kbuild.target import KernelTree, tree_digest

_MARKER = re.compile(r'^# \d+ "((?:[^"\\]|\\.)*)".*\n', re.MULTILINE)
_MACRO = re.compile(r"^#(?:define|undef) (\w+).*\n", re.MULTILINE)
_WORD = re.compile(r"[A-Za-z_$][\w$]*")
_TABLES = """
create table if not exists texts
    (id integer primary key, digest blob unique, path text, words text);
create table if not exists units
    (name text primary key, texts blob, macros blob) without rowid;
"""
"""Of a unit the texts that it consists of, and the macros that it uses wherever it does: what these
stand for is in the texts, or not used."""

_LOCK_SECONDS = 600


class Mentions:
    """Tells of unchanged units whether they have one of some names in other files than some.

    A macro counts wherever a unit uses it.

    Args:
        kernel: the kernel, whose cache keeps the words.
        names: the names.
        left_out: files whose text does not count, relative to the source tree.
    """

    def __init__(
        self, kernel: KernelTree, names: Collection[str], left_out: Collection[str]
    ) -> None:
        self._kernel = kernel
        name = kernel.derived(f"kbuild/{tree_digest(kernel)}/words.sqlite")
        self._path = kernel.cache.root / name
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._root = f"{os.path.realpath(kernel.source)}/"
        self._names = [f"\n{name}\n" for name in names]
        self._left_out = left_out
        self._answers: dict[int, bool] = {}

    def found(self, command: Command) -> bool:
        """Whether a unit has one of the names.

        Raises:
            CompileError: the unit cannot be preprocessed.
            CacheError: what is kept cannot be read, or not be written.
        """
        if not self._names:
            return False
        try:
            with closing(sqlite3.connect(self._path, timeout=_LOCK_SECONDS)) as database:
                database.executescript(_TABLES)
                texts, macros = _known(database, command) or self._learn(database, command)
                return self._is_in(macros) or any(self._has(database, each) for each in texts)
        except sqlite3.Error as error:
            remedy = "free some space if the disk is full, else remove it: it is made again"
            raise CacheError(str(self._path), f"cannot be used ({error})", remedy) from error

    def _is_in(self, words: str) -> bool:
        return any(name in words for name in self._names)

    def _has(self, database: sqlite3.Connection, text: int) -> bool:
        """Whether a text counts, and has one of the names; each is looked at once."""
        if text not in self._answers:
            path, words = database.execute(
                "select path, words from texts where id = ?", (text,)
            ).fetchone()
            self._answers[text] = path not in self._left_out and self._is_in(words)
        return self._answers[text]

    def _learn(self, database: sqlite3.Connection, command: Command) -> tuple[array[int], str]:
        """Preprocess a unit, and keep its words."""
        preprocessed = preprocess(self._kernel, command, None, "-dU")
        macros = _listed(_MACRO.findall(preprocessed))
        texts = self._by_file(preprocessed)
        digests = {
            hashlib.sha256(f"{path}\0{text}".encode()).digest(): path
            for path, text in texts.items()
        }
        known = _ids(database, digests)
        new = [
            (digest, path, _listed(_WORD.findall(texts[path])))
            for digest, path in digests.items()
            if digest not in known
        ]
        with database:
            database.executemany(
                "insert or ignore into texts (digest, path, words) values (?, ?, ?)", new
            )
            ids = array("I", _ids(database, digests).values())
            row = (_name(command), ids.tobytes(), zlib.compress(macros.encode()))
            database.execute("insert or ignore into units values (?, ?, ?)", row)
        return ids, macros

    def _by_file(self, preprocessed: str) -> Mapping[str, str]:
        """What comes from each file, directives left out."""
        parts = defaultdict[str, list[str]](list)
        names: dict[str, str] = {}
        into: list[str] = []
        at = 0
        for match in _MARKER.finditer(preprocessed):
            into.append(preprocessed[at : match.start()])
            if match[1] not in names:
                names[match[1]] = os.path.normpath(match[1]).removeprefix(self._root)
            into = parts[names[match[1]]]
            at = match.end()
        into.append(preprocessed[at:])
        # Where a macro is used first differs from unit to unit.
        plain = {path: _MACRO.sub("", "".join(part)) for path, part in parts.items()}
        return {path: "\n".join(filter(None, text.split("\n"))) for path, text in plain.items()}


def _known(database: sqlite3.Connection, command: Command) -> tuple[array[int], str] | None:
    query = "select texts, macros from units where name = ?"
    row = database.execute(query, (_name(command),)).fetchone()
    return (array("I", row[0]), zlib.decompress(row[1]).decode()) if row is not None else None


def _ids(database: sqlite3.Connection, digests: Collection[bytes]) -> dict[bytes, int]:
    rows = (
        (digest, database.execute("select id from texts where digest = ?", (digest,)))
        for digest in digests
    )
    return {digest: row[0] for digest, found in rows if (row := found.fetchone()) is not None}


def _name(command: Command) -> str:
    """A unit in several objects is compiled for each."""
    digest = hashlib.sha256("\0".join(command.argv).encode()).hexdigest()
    return f"{os.path.normpath(command.output)} {digest}"


def _listed(words: Collection[str]) -> str:
    """Words, each between ends of lines."""
    return "\n".join(("", *sorted(set(words)), ""))
