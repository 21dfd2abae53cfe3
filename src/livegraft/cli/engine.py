# SPDX-License-Identifier: GPL-2.0-or-later
"""``livegraft engine``: the module that the models beside ``native`` need in the kernel."""

from __future__ import annotations

import argparse
from pathlib import Path

from livegraft.cli import target
from livegraft.cli.paint import size
from livegraft.cli.verb import Answer, Context, Verb
from livegraft.errors import Exit

ACTIONS = ("build",)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("action", choices=ACTIONS, help="what to do: build the module")
    target.add_release(parser)
    parser.add_argument(
        "-o", "--output", metavar="OUT.ko", type=Path, required=True, help="the module to write"
    )
    target.add_packages(parser)


def run(arguments: argparse.Namespace, context: Context) -> Answer:
    """Build the engine."""
    output = target.writable(arguments.output)
    from livegraft.module.delivery import write_whole
    from livegraft.module.engine import build_engine

    kernel = target.kernel(arguments, context, arguments.kernel)
    data = build_engine(kernel, context.progress).read_bytes()
    write_whole(output, data)
    document = {
        "kernel": arguments.kernel,
        "path": str(output),
        "size": len(data),
        "timings": context.timings(),
    }
    made = f"{output}: {size(len(data))}, for {arguments.kernel}, made in {context.seconds:.1f} s"
    return Answer(document, made)


VERB = Verb(
    name="engine",
    description="""\
Build the engine, the kernel module that holds the models 'hybrid', 'stop' and 'task'; 'native' does
without it. It loads on exactly this kernel, with insmod, and has to be there before a live patch is
loaded under one of these models. The same sources make the same bytes; the folder kmod/ holds what
DKMS needs to build it by itself. It is not signed: where the kernel demands signatures, sign it
with 'livegraft sign'.""",
    examples=("livegraft engine build -k 6.1.0-55-amd64 -o livegraft_engine.ko",),
    configure=configure,
    run=run,
    exits={
        Exit.DONE: "the module is built",
        Exit.REFUSED: "the kernel cannot be patched live, or its configuration not be reproduced",
    },
)
