# SPDX-License-Identifier: GPL-2.0-or-later
"""Which kernels the tests take: ``LIVEGRAFT_TEST_RELEASES``, one of each series."""

from __future__ import annotations

import os

RELEASES = os.environ.get("LIVEGRAFT_TEST_RELEASES", "6.1.0-55-amd64 6.12.117+deb12-amd64").split()
"""The first is the one that most tests take."""

RELEASE = RELEASES[0]
