# SPDX-License-Identifier: GPL-2.0-or-later
"""What several tests in guests need: a kernel, and a live patch that was written by hand."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.releases import RELEASE

from livegraft.kernel.kernel import Kernel, prepare
from livegraft.module.engine import build_engine
from livegraft.run import run

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def one_kernel() -> Kernel:
    return prepare(RELEASE)


@pytest.fixture(scope="session")
def engine() -> Callable[[Kernel], Path]:
    """The engine's module for a kernel, made once: ``guest.insert(NAME, ...)`` loads it."""
    return build_engine


@pytest.fixture(scope="session")
def foreign_patch(one_kernel: Kernel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A live patch that no builder of ours made."""
    folder = tmp_path_factory.mktemp("modules") / "lgt"
    shutil.copytree(Path(__file__).parent / "runtime_modules", folder)
    run(
        [
            *("make", "-C", one_kernel.headers, f"M={folder}", f"CC={one_kernel.compiler}"),
            *(f"LGT_INCLUDE={ROOT / 'kmod/include'}", f"LGT_FIX={'a5' * 32}", "modules"),
        ]
    )
    return folder / "lgt_foreign.ko"
