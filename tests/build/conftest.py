# SPDX-License-Identifier: GPL-2.0-or-later
"""Prepared kernels for the tests that run the real compiler on real kernel source."""

from __future__ import annotations

import os

import pytest

from livegraft.kernel.kernel import Kernel, prepare

RELEASES = os.environ.get("LIVEGRAFT_TEST_RELEASES", "6.1.0-55-amd64 6.12.117+deb12-amd64").split()
"""One release of each series; the first is the one that most tests take."""


@pytest.fixture(scope="session")
def kernel() -> Kernel:
    """A kernel of the first series, prepared in the cache (at once when it is there)."""
    return prepare(RELEASES[0])


@pytest.fixture(scope="session", params=RELEASES)
def any_kernel(request: pytest.FixtureRequest) -> Kernel:
    """Each of the kernels in turn."""
    return prepare(str(request.param))
