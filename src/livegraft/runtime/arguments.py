# SPDX-License-Identifier: GPL-2.0-or-later
"""Arguments that several verbs have."""

from __future__ import annotations

import argparse

from livegraft.runtime.model import ModelName


def add_model(parser: argparse.ArgumentParser) -> None:
    """``--model``: the consistency model."""
    parser.add_argument(
        "--model",
        choices=[each.value for each in ModelName],
        default=ModelName.NATIVE.value,
        help="how the system stays consistent (default: %(default)s, the kernel's own core)",
    )


def add_replace(parser: argparse.ArgumentParser) -> None:
    """``--replace``: older patches go in the same change."""
    parser.add_argument(
        "--replace",
        action="store_true",
        help="undo every older patch of the same core in the same change: of the engine's, or of "
        "the kernel's own for native",
    )
