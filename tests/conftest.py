# SPDX-License-Identifier: GPL-2.0-or-later
"""Lets tests of any kind import what they share, as ``tests.module_pieces``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

# A thread of numpy's would take the signals that the runtime's tests hold back from their own.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

LONGEST_FIRST = ("test_survey.py", "test_engine.py", "test_demo.py", "test_module_live.py")
"""Files that take minutes: begun at last, one would keep one processor, and the other idle."""

THEN = ("guest", "build", "golden", "unit")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where processes share the tests (``--no-loadscope-reorder``), long files come first."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return

    def rank(item: pytest.Item) -> tuple[int, int]:
        name, folder = item.path.name, item.path.parent.name
        first = LONGEST_FIRST.index(name) if name in LONGEST_FIRST else len(LONGEST_FIRST)
        return first, THEN.index(folder) if folder in THEN else len(THEN)

    items.sort(key=rank)
