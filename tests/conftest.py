# SPDX-License-Identifier: GPL-2.0-or-later
"""Lets tests of any kind import what they share, as ``tests.module_pieces``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

# A thread of numpy's would take the signals that the runtime's tests hold back from their own.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
