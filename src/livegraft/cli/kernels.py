# SPDX-License-Identifier: GPL-2.0-or-later
"""``livegraft kernels``: what can be targeted from this machine."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from livegraft.cli import target
from livegraft.cli.paint import table
from livegraft.cli.verb import Answer, Context, Verb

if TYPE_CHECKING:
    from livegraft.kernel.listing import ListedKernel


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    target.add_packages(parser)


def run(arguments: argparse.Namespace, context: Context) -> Answer:
    """List the kernels."""
    from livegraft.kernel.listing import list_kernels
    from livegraft.kernel.packages import default_source

    source = default_source(target.folder(arguments))
    with context.progress.step("look for kernels"):
        kernels = list_kernels(source, context.cache())
    rows = [(one.release, one.source_version, one.flavour, _state(one)) for one in kernels]
    text = table(("RELEASE", "SOURCE", "FLAVOUR", "STATE"), rows, context.paint)
    if not kernels:
        text = "no kernel is known here: run 'apt-get update', or give --packages DIR"
    return Answer({"kernels": [one.as_json() for one in kernels]}, text)


def _state(kernel: ListedKernel) -> str:
    if kernel.why_not:
        return f"not usable: {kernel.why_not}"
    return "prepared" if kernel.prepared else "can be prepared"


VERB = Verb(
    name="kernels",
    description="""\
List the kernels that live patches can be built for: what apt, the folder of packages and the
installed packages offer, and what is prepared; and why not, where one cannot be used.""",
    examples=("livegraft kernels", "livegraft kernels --packages ~/debs"),
    configure=configure,
    run=run,
)
