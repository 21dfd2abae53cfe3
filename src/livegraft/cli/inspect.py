# SPDX-License-Identifier: GPL-2.0-or-later
"""``livegraft inspect``: what a live patch module holds."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from livegraft.cli import target
from livegraft.cli.paint import Paint, fields
from livegraft.cli.verb import Answer, Context, Verb


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("patch", metavar="PATCH.ko", type=Path, help="the live patch")


def run(arguments: argparse.Namespace, context: Context) -> Answer:
    """Read the module."""
    (patch,) = target.files([arguments.patch], "a live patch module")
    from livegraft.module.inspect import inspect_module

    document = inspect_module(patch).as_json()
    return Answer(document, _text(document, context.paint))


def _text(document: Mapping[str, Any], paint: Paint) -> str:
    return fields([(name, str(value)) for name, value in document.items()], paint)


VERB = Verb(
    name="inspect",
    description="""\
Show what a built live patch holds: the kernel it is for, the objects and functions it changes with
their positions among symbols of the same name, its livepatch relocations, the SHA-256 of the fix,
and the versions of livegraft and of the compiler. It is read from the manifest in the module and
checked against the module itself; a module in which the two disagree is an error.""",
    examples=("livegraft inspect fix.ko",),
    configure=configure,
    run=run,
)
