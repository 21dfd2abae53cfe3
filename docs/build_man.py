# SPDX-License-Identifier: GPL-2.0-or-later
"""Write the man page livegraft(1), made from the argparse tree.

Usage: python docs/build_man.py [OUTPUT]   (default: standard output)

Source of the format: groff_man(7).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from livegraft.cli import parser, tree
from livegraft.cli.tree import Argument, Command
from livegraft.cli.verb import MAKING, OTHER, RUNNING
from livegraft.errors import Exit
from livegraft.runtime.checking import MEANINGS

EXITS = {
    Exit.DONE: "Done.",
    Exit.FAILED: "Failed.",
    Exit.USAGE: "The command line is wrong.",
    Exit.UNCHANGED: "There is nothing to patch.",
    Exit.REFUSED: "Refused: it cannot be shown safe to do it on a running kernel.",
    Exit.LOST: "A virtual machine was lost, so that nothing can be said.",
}


def page() -> str:
    """The man page's source."""
    commands = {command.verb.name: command for command in tree.commands()}
    lines = [
        '.\\" SPDX-License-Identifier: GPL-2.0-or-later',
        f'.TH LIVEGRAFT 1 "" "livegraft {parser.version()}" "User Commands"',
        ".SH NAME",
        f"livegraft \\- {_text(parser.DESCRIPTION.rstrip('.'))}",
        ".SH SYNOPSIS",
        ".B livegraft",
        "[options] VERB ...",
        ".SH OPTIONS",
        "These may stand before or after the verb.",
        *_arguments(tree.shared_options()),
    ]
    groups = (("MAKING LIVE PATCHES", MAKING), ("ON THE RUNNING KERNEL", RUNNING), ("OTHER", OTHER))
    for title, verbs in groups:
        lines.append(f'.SH "{title}"')
        for name in verbs:
            lines += _verb(commands[name])
    lines += [".SH EXIT STATUS"]
    for code, meaning in EXITS.items():
        lines += [".TP", f".B {code.value}", meaning]
    lines += [".PP", "Of \\fBstatus \\-\\-check\\fR, the worst of what is not well:"]
    for health, meaning in MEANINGS.items():
        lines += [".TP", f".B {health.value}", f"{meaning[0].upper()}{meaning[1:]}."]
    lines += [
        ".SH FILES",
        *(".TP", ".I $XDG_CACHE_HOME/livegraft", "Downloads, kernel sources and build trees."),
        *(".TP", ".I /etc/livegraft/trusted.d", "Certificates of those whose patches are loaded."),
        *(".TP", ".I /etc/livegraft/livegraft.conf", "What has to be signed, and by whom."),
        *(
            ".TP",
            ".I /var/lib/livegraft/patches",
            "Patches that are loaded when the machine boots.",
        ),
        ".SH SEE ALSO",
        ".BR apt (8), modprobe (8), mokutil (1), openssl\\-cms (1), uname (1)",
    ]
    return "\n".join(lines) + "\n"


def _verb(command: Command) -> Iterator[str]:
    yield f'.SS "{_text(command.usage)}"'
    for number, paragraph in enumerate(command.verb.description.split("\n\n")):
        if number:
            yield ".PP"
        yield _text(" ".join(paragraph.split()))
    yield from _arguments([one for one in command.arguments if not one.shared])
    yield ".PP"
    yield "Example:"
    yield ".PP"
    yield ".nf"
    yield from (f"    {_text(example)}" for example in command.verb.examples)
    yield ".fi"


def _arguments(arguments: Sequence[Argument]) -> Iterator[str]:
    for argument in arguments:
        names = ", ".join(f"\\fB{_text(flag)}\\fR" for flag in argument.flags)
        value = f"\\fI{_text(argument.metavar)}\\fR" if argument.metavar else ""
        yield ".TP"
        yield " ".join(part for part in (names, value) if part)
        yield _text(argument.help[0].upper() + argument.help[1:] + ".")


def _text(text: str) -> str:
    """Text without anything that groff would take for its own."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq")
    return f"\\&{escaped}" if escaped.startswith((".", "\\(aq")) else escaped


def main(arguments: Sequence[str]) -> int:
    """Write the page to the file named, or to standard output."""
    if arguments:
        Path(arguments[0]).write_text(page(), "utf-8")
    else:
        sys.stdout.write(page())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
