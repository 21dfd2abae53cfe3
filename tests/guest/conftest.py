# SPDX-License-Identifier: GPL-2.0-or-later
"""What several tests in guests need: a kernel, and modules that were written by hand."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.releases import RELEASE

from livegraft.kernel.kernel import Kernel, prepare
from livegraft.module import probes
from livegraft.module.engine import build_engine
from livegraft.module.link import OPTIONS
from livegraft.run import run

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


@pytest.fixture(scope="session")
def one_kernel() -> Kernel:
    return prepare(RELEASE)


@pytest.fixture(scope="session")
def engine() -> Callable[[Kernel], Path]:
    """The engine's module for a kernel, made once: ``guest.insert(NAME, ...)`` loads it."""
    return build_engine


def build_modules(sources: Path, folder: Path, kernel: Kernel) -> None:
    """Build modules that were written by hand for a kernel."""
    shutil.copytree(sources, folder)
    run(
        [
            *("make", "-C", kernel.headers, f"M={folder}", f"CC={kernel.compiler}"),
            *(f"LGT_INCLUDE={ROOT / 'kmod/include'}", f"LGT_FIX={'a5' * 32}", *OPTIONS, "modules"),
        ],
        env=probes.environment(kernel, *OPTIONS),
    )


@pytest.fixture(scope="session")
def foreign_patch(one_kernel: Kernel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A live patch that no builder of ours made."""
    folder = tmp_path_factory.mktemp("modules") / "lgt"
    build_modules(HERE / "runtime_modules", folder, one_kernel)
    return folder / "lgt_foreign.ko"
