# SPDX-License-Identifier: GPL-2.0-or-later
"""Put a module where it is wanted: whole, and what it says it is, or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from livegraft.errors import ModuleError
from livegraft.module.build import Module
from livegraft.module.inspect import Inspection, inspect_module


def write_module(module: Module, output: Path) -> Inspection:
    """Write beside the place, read it back, and put it there only if it is what it says.

    Raises:
        ModuleError: the module cannot be read back, or has another name.
    """
    descriptor, partial = tempfile.mkstemp(prefix=f".{output.name}.", dir=output.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(module.data)
            file.flush()
            os.fsync(file.fileno())
        inspection = inspect_module(Path(partial))
        if inspection.name != module.name:
            raise ModuleError(module.name, f"says of itself that it is {inspection.name}")
        Path(partial).chmod(0o644)
        Path(partial).replace(output)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise
    return inspection
