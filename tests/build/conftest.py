# SPDX-License-Identifier: GPL-2.0-or-later
"""Prepared kernels for the tests that run the real compiler on real kernel source."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.fixes import Edits, write_fix
from tests.releases import RELEASES, preferring

from livegraft.kernel.kernel import Kernel, prepare


@pytest.fixture(scope="session")
def kernel() -> Kernel:
    """A kernel of the first series, prepared in the cache (at once when it is there)."""
    return prepare(RELEASES[0])


@pytest.fixture(scope="session", params=RELEASES)
def any_kernel(request: pytest.FixtureRequest) -> Kernel:
    """Each of the kernels in turn."""
    return prepare(str(request.param))


@pytest.fixture(scope="session", params=preferring(RELEASES[-1]))
def newest_kernel(request: pytest.FixtureRequest) -> Kernel:
    """The newest of the kernels; in ``make soak`` the others too."""
    return prepare(str(request.param))


@pytest.fixture(scope="session")
def fix_of(kernel: Kernel, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Edits], Path]:
    """Makes a fix: edits of files of the kernel's source become a unified diff."""

    def make(edits: Edits) -> Path:
        return write_fix(kernel, edits, tmp_path_factory.mktemp("fix"))

    return make
