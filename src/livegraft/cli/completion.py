# SPDX-License-Identifier: GPL-2.0-or-later
"""``livegraft completion``: a shell's completion script, made from the argparse tree."""

from __future__ import annotations

import argparse

from livegraft.cli.verb import Answer, Context, Verb

SHELLS = ("bash", "zsh", "fish")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("shell", choices=SHELLS, help="the shell that the script is for")


def run(arguments: argparse.Namespace, context: Context) -> Answer:
    """Print the script."""
    del context
    from livegraft.cli import shells, tree

    script = getattr(shells, arguments.shell)(tree.commands(), tree.shared_options())
    return Answer({"shell": arguments.shell, "script": script}, script.rstrip("\n"))


VERB = Verb(
    name="completion",
    description="""\
Print a script that completes verbs, options, files, the releases of prepared kernels and the
names of loaded and of installed patches. The script is static: completing starts no program but
'ls'.""",
    examples=(
        "livegraft completion bash > ~/.local/share/bash-completion/completions/livegraft",
        "livegraft completion fish > ~/.config/fish/completions/livegraft.fish",
    ),
    configure=configure,
    run=run,
)
