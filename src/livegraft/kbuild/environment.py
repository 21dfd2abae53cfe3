# SPDX-License-Identifier: GPL-2.0-or-later
"""The variables that the top-level make exports to the makefiles of the directories.

The top-level make takes a second, a directory's makefile 20 ms: so the first is asked once per
kernel and the others are called directly with what it exports.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

from livegraft.errors import BuildError
from livegraft.kbuild.target import KernelTree, tree_digest
from livegraft.progress import SILENT, Progress
from livegraft.run import KEPT_VARIABLES, run

_TARGET = "livegraft-environment"
_OWN = frozenset(
    (
        *KEPT_VARIABLES,
        *["PWD", "OLDPWD", "SHLVL", "_", "LC_ALL", "DEBIAN_FRONTEND", "O", "LIVEGRAFT_OUT"],
        *["MAKELEVEL", "MFLAGS", "MAKEOVERRIDES", "MAKE_TERMOUT", "MAKE_TERMERR"],
    )
)
"""Variables that belong to the one run, not to the kernel."""

_EVAL_OPTION = re.compile(r" --eval=(?:\\.|[^\\\s])*")


def environment_of(kernel: KernelTree, progress: Progress = SILENT) -> Mapping[str, str]:
    """The exported variables, asked from the kernel's top-level make once and kept in the cache.

    Raises:
        BuildError: make failed or told nothing.
        RunFailed: make failed.
    """
    name = kernel.derived(f"kbuild/{tree_digest(kernel)}/environment.json")

    def ask(path: Path) -> None:
        path.write_text(json.dumps(_ask(kernel, path.with_suffix(".raw"))))

    path = kernel.cache.root / name
    if not path.is_file():
        with progress.step("ask kbuild for its environment"):
            kernel.cache.file(name, ask, progress)
    loaded: dict[str, str] = json.loads(path.read_text())
    return loaded


def _ask(kernel: KernelTree, output: Path) -> dict[str, str]:
    # --eval reaches the make that runs in the build tree through MAKEFLAGS; there the target has
    # no prerequisites, so nothing is built.
    rule = f'{_TARGET}: ; @env -0 > "$$LIVEGRAFT_OUT"'
    argv = kernel.make_argv(f"--eval={rule}", _TARGET)
    run(argv, env={"LIVEGRAFT_OUT": str(output)}, timeout=120)
    raw = output.read_bytes().decode(errors="surrogateescape")
    output.unlink()
    pairs = (entry.split("=", 1) for entry in raw.split("\0") if "=" in entry)
    found = {key: value for key, value in pairs if key not in _OWN}
    if "srctree" not in found or "KBUILD_CFLAGS" not in found:
        raise BuildError(
            str(kernel.source), "the kernel's make does not export its flags", "report this kernel"
        )
    flags = _EVAL_OPTION.sub("", found.get("MAKEFLAGS", ""))
    first, _, rest = flags.partition(" ")
    # The letters of the first word: 'w' would print directories.
    found["MAKEFLAGS"] = f"{first.replace('w', '')} {rest}".rstrip()
    return found | {"KBUILD_MODULES": "1", "KBUILD_BUILTIN": "1", "quiet": "silent_"}
