# SPDX-License-Identifier: GPL-2.0-or-later
"""Live patches on the running kernel: load, unload, status, wait.

Python's standard library only: production machines run this folder, together with
:mod:`livegraft.errors`, :mod:`livegraft.progress` and :mod:`livegraft.elf.header`, and nothing else
of the package.

What a payload has to bring, so that the runtime can drive it:

- ``MODULE_INFO(livepatch, "Y")`` and a ``name`` in ``.modinfo``;
- a section ``.livegraft``, not allocated, with the manifest (:mod:`livegraft.runtime.payload`);
- the module parameters ``model`` (0444), ``livegraft`` (0444, ``1:<SHA-256 of the fix>``) and
  ``kick`` (0200), as kmod/README.md describes them.

No state file is kept: the kernel says which patches are loaded, their parameters who built them.
"""

from livegraft.runtime.loading import Loaded, load
from livegraft.runtime.model import Model, ModelName, model_named
from livegraft.runtime.payload import Manifest, Payload
from livegraft.runtime.state import PatchState, Status, status, wait
from livegraft.runtime.unloading import Unloaded, unload, unload_all

__all__ = [
    "Loaded",
    "Manifest",
    "Model",
    "ModelName",
    "PatchState",
    "Payload",
    "Status",
    "Unloaded",
    "load",
    "model_named",
    "status",
    "unload",
    "unload_all",
    "wait",
]
