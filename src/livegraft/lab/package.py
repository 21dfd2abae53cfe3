# SPDX-License-Identifier: GPL-2.0-or-later
"""The package's part for production machines, put into guests: the same code runs there.

It is compiled here if the guest's Python is of the same release as ours: under emulation that
saves a second at the first use.
"""

from __future__ import annotations

import hashlib
import importlib.util
import marshal
import sys
from collections.abc import Iterator
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path, PurePosixPath

from livegraft.cache import Cache
from livegraft.lab.cpio import CpioWriter

PLACE = "usr/lib/livegraft/livegraft"
"""Where it is in a guest; the agent sets PYTHONPATH to the folder above."""

PARTS = (
    *("__init__.py", "errors.py", "progress.py", "run.py", "elf/__init__.py", "elf/header.py"),
    *("trust", "runtime"),
)
"""The runtime, and what it may import (its rule, which a test keeps)."""

_UNCHECKED_HASH = 1
"""Flags of a .pyc (PEP 552): found by its source's hash, which nobody compares at run time."""


def archive(cache: Cache, python: str) -> Path:
    """A cpio archive of the package's part, named after its content.

    Args:
        cache: where it is kept.
        python: name of the guest's interpreter, ``python3.11``.
    """
    sources = dict(_sources())
    compiled = python == f"python{sys.version_info.major}.{sys.version_info.minor}"
    tag = sys.implementation.cache_tag if compiled else None
    key = hashlib.sha256(repr((tag, sorted(sources.items()))).encode()).hexdigest()[:16]
    return cache.file(f"lab/package/{key}.cpio", lambda path: _write(path, sources, tag))


def _sources() -> Iterator[tuple[str, bytes]]:
    root = resources.files("livegraft")
    for part in PARTS:
        entry = root.joinpath(part)
        if entry.is_dir():
            yield from _below(part, entry)
        else:
            yield part, entry.read_bytes()


def _below(path: str, folder: Traversable) -> Iterator[tuple[str, bytes]]:
    for entry in folder.iterdir():
        if entry.is_file() and entry.name.endswith(".py"):
            yield f"{path}/{entry.name}", entry.read_bytes()
        elif entry.is_dir() and entry.name != "__pycache__":
            yield from _below(f"{path}/{entry.name}", entry)


def _write(path: Path, sources: dict[str, bytes], tag: str | None) -> None:
    with path.open("wb") as stream:
        cpio = CpioWriter(stream)
        for name, source in sources.items():
            place = PurePosixPath(PLACE, name)
            cpio.file(str(place), source)
            if tag is not None:
                compiled = place.parent / "__pycache__" / f"{place.stem}.{tag}.pyc"
                cpio.file(str(compiled), _compiled(source, f"/{place}"))
        cpio.finish()


def _compiled(source: bytes, place: str) -> bytes:
    code = compile(source, place, "exec", dont_inherit=True, optimize=0)
    return (
        importlib.util.MAGIC_NUMBER
        + _UNCHECKED_HASH.to_bytes(4, "little")
        + importlib.util.source_hash(source)
        + marshal.dumps(code)
    )
