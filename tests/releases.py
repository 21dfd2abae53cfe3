# SPDX-License-Identifier: GPL-2.0-or-later
"""Which kernels the tests take: ``LIVEGRAFT_TEST_RELEASES``, one of each series."""

from __future__ import annotations

import os

import pytest

RELEASES = os.environ.get("LIVEGRAFT_TEST_RELEASES", "6.1.0-55-amd64 6.12.117+deb12-amd64").split()
"""The first is the one that most tests take."""

RELEASE = RELEASES[0]


def preferring(release: str) -> list[object]:
    """Parameters of tests that take each series, but would find hardly anything on a second one:
    ``make test`` takes one, ``make soak`` the others."""
    soak = [pytest.mark.soak]
    return [pytest.param(each, marks=soak if each != release else []) for each in RELEASES]


FLAVOURS = os.environ.get(
    "LIVEGRAFT_TEST_FLAVOURS", "6.1.0-55-cloud-amd64 6.1.0-53-rt-amd64"
).split()
"""Kernels of other flavours, which one test builds for and boots. Those with real-time patches have
to be old enough for mirrors to have their source package."""

REAL_TIME = "-rt-"


def flavours() -> list[object]:
    """Parameters of a test: ``FLAVOURS``, those with real-time patches for ``make soak`` alone.

    Their source is another one, which takes a minute to be fetched and patched.
    """
    return [
        pytest.param(each, marks=[pytest.mark.soak] if REAL_TIME in each else [])
        for each in FLAVOURS
    ]
