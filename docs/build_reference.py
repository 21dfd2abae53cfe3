# SPDX-License-Identifier: GPL-2.0-or-later
"""Write docs/reference/verbs and its index, made from the argparse tree.

Usage: python docs/build_reference.py
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from livegraft.cli import tree
from livegraft.cli.tree import Argument, Command
from livegraft.cli.verb import MAKING, OTHER, RUNNING

FOLDER = Path(__file__).parent / "reference"

NOTICE = "<!-- made by docs/build_reference.py from the command itself: change it there -->"


def pages() -> dict[str, str]:
    """The pages by their path below docs/reference."""
    commands = {command.verb.name: command for command in tree.commands()}
    made = {f"verbs/{name}.md": _page(command) for name, command in commands.items()}
    return made | {"index.md": _index(commands)}


def _index(commands: dict[str, Command]) -> str:
    lines = [
        NOTICE,
        "",
        "# Reference of the command line",
        "",
        "`livegraft [options] VERB ...`; `livegraft VERB --help` shows the same as these pages.",
    ]
    groups = (("Making live patches", MAKING), ("On the running kernel", RUNNING), ("Other", OTHER))
    for title, verbs in groups:
        lines += ["", f"## {title}", "", "| verb | what it does |", "|---|---|"]
        lines += [f"| [{name}](verbs/{name}.md) | {commands[name].summary} |" for name in verbs]
    lines += ["", "## Options of every verb", "", "They may stand before or after the verb.", ""]
    lines += _table(tree.shared_options())
    lines += [
        "",
        "Results go to standard output, progress and errors to standard error. With `--json`",
        "exactly one document goes to standard output, on errors too; [docs/schema](../schema)",
        "holds a JSON Schema for each verb. What the number that a command ends with means is",
        "told in [exit codes](exit-codes.md).",
    ]
    return "\n".join(lines) + "\n"


def _page(command: Command) -> str:
    verb = command.verb
    own = [argument for argument in command.arguments if not argument.shared]
    lines = [NOTICE, "", f"# livegraft {verb.name}", "", verb.description, ""]
    lines += ["```", command.usage, "```", "", *_table(own), ""]
    lines += ["## Example", "", "```", *verb.examples, "```", ""]
    lines += ["## Exit codes", "", "| code | meaning |", "|---|---|"]
    lines += [f"| {code.value} | {meaning} |" for code, meaning in verb.exit_codes.items()]
    lines += [
        "",
        "## JSON",
        "",
        f"`--json` prints one document, described by [{verb.name}.json]"
        f"(../../schema/{verb.name}.json).",
        "",
        "[Options of every verb and all verbs](../index.md)",
    ]
    return "\n".join(lines) + "\n"


def _table(arguments: Sequence[Argument]) -> Iterator[str]:
    if not arguments:
        return
    yield "| argument | meaning |"
    yield "|---|---|"
    for argument in arguments:
        names = ", ".join(argument.flags)
        words = " ".join(part for part in (names, argument.metavar) if part)
        yield f"| `{words.replace('|', chr(92) + '|')}` | {argument.help} |"


def main() -> int:
    """Write the pages."""
    for name, text in pages().items():
        path = FOLDER / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
