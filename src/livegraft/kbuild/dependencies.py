# SPDX-License-Identifier: GPL-2.0-or-later
"""The files that a compiler run read, as its dependency file lists them.

Format: make rules as gcc's -MMD writes them (gcc manual, "Preprocessor Options"): backslash before
newline, space and '#', a dollar sign doubled.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from livegraft.errors import BuildError

_TOKEN = re.compile(r"(?:\\[ #\\]|\$\$|[^\s\\]|\\(?!\n))+")
_ESCAPED = re.compile(r"\\([ #\\])|\$(\$)")


@dataclass(frozen=True, slots=True)
class Dependencies:
    """What was read, as spelled by the compiler.

    Args:
        spelled: the files in the order of reading; relative ones are relative to the build tree.
    """

    spelled: tuple[str, ...]

    def within(self, root: Path) -> frozenset[str]:
        """The real files that lie under `root`, relative to it, symbolic links resolved."""
        real = os.path.realpath(root) + "/"
        paths = _resolved(name for name in self.spelled if name.startswith("/"))
        return frozenset(path[len(real) :] for path in paths if path.startswith(real))


def _resolved(names: Iterable[str]) -> Iterable[str]:
    """The real paths of files. A unit reads hundreds out of few directories: each is asked once."""
    directories: dict[str, str] = {}
    for name in names:
        directory, base = os.path.split(name)
        if directory not in directories:
            directories[directory] = os.path.realpath(directory)
        path = f"{directories[directory]}/{base}"
        yield os.path.realpath(path) if os.path.islink(path) else path  # noqa: PTH114 (speed)


def read_dependencies(path: Path) -> Dependencies:
    """Read a dependency file.

    Raises:
        BuildError: it is not one.
    """
    return parse_dependencies(path.read_text(errors="surrogateescape"), str(path))


def parse_dependencies(text: str, subject: str) -> Dependencies:
    """Take a dependency rule apart; `subject` is named in errors.

    Raises:
        BuildError: it is not a rule.
    """
    target, colon, rest = text.partition(": ")
    if not colon or not target:
        raise BuildError(subject, "is not a dependency file", "report this")
    return Dependencies(tuple(_plain(_TOKEN.findall(rest))))


def _plain(tokens: Iterable[str]) -> Iterable[str]:
    for token in tokens:
        yield _ESCAPED.sub(lambda match: match.group(1) or match.group(2), token)
