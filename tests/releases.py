# SPDX-License-Identifier: GPL-2.0-or-later
"""Which kernels the tests take: ``LIVEGRAFT_TEST_RELEASES``, one of each series."""

from __future__ import annotations

import os

RELEASES = os.environ.get("LIVEGRAFT_TEST_RELEASES", "6.1.0-55-amd64 6.12.117+deb12-amd64").split()
"""The first is the one that most tests take."""

RELEASE = RELEASES[0]

FLAVOURS = os.environ.get(
    "LIVEGRAFT_TEST_FLAVOURS", "6.1.0-55-cloud-amd64 6.1.0-53-rt-amd64"
).split()
"""Kernels of other flavours, which one test builds for and boots. Those with real-time patches have
to be old enough for mirrors to have their source package."""
