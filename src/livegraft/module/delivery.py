# SPDX-License-Identifier: GPL-2.0-or-later
"""Put a module where it is wanted: whole, and what it says it is, or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from livegraft.errors import ModuleError
from livegraft.module.build import Module
from livegraft.module.inspect import Inspection, inspect_module


def write_module(module: Module, output: Path) -> Inspection:
    """Write beside the place, read it back, and put it there only if it is what it says.

    Raises:
        ModuleError: the module cannot be read back, or has another name.
    """
    with _put(output, module.data) as partial:
        inspection = inspect_module(partial)
        if inspection.name != module.name:
            raise ModuleError(module.name, f"says of itself that it is {inspection.name}")
    return inspection


def write_whole(path: Path, data: bytes) -> None:
    """Put a file in its place, whole or not at all."""
    with _put(path, data):
        pass


@contextmanager
def _put(path: Path, data: bytes) -> Iterator[Path]:
    """A file beside `path`, which takes its place if nothing is raised inside."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    partial = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield partial
        partial.chmod(0o644)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
