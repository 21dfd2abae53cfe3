# SPDX-License-Identifier: GPL-2.0-or-later
"""Lets tests of any kind import what they share, as ``tests.module_pieces``."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
