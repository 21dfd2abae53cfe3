# SPDX-License-Identifier: GPL-2.0-or-later
"""The argparse tree: one parser per verb, of which only the one asked for is made."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from livegraft.cli.paint import terminal_columns
from livegraft.cli.verb import MAKING, OTHER, RUNNING, SUMMARIES, Verb, is_whole, load, present
from livegraft.errors import UsageError

PROGRAM = "livegraft"

DESCRIPTION = "Live patches for stock Debian kernels, made from source fixes."


class Parser(argparse.ArgumentParser):
    """A parser that raises where argparse would exit."""

    def error(self, message: str) -> NoReturn:
        """Raise what argparse found wrong.

        Raises:
            UsageError: always.
        """
        raise UsageError(self.prog, message, f"see '{self.prog} --help'")


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Examples keep their lines; the list of verbs is written by us."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=terminal_columns() - 2)


class _ShowVersion(argparse.Action):
    """``--version``: the package's metadata is read only when it is asked for."""

    def __call__(self, *_: object, **__: object) -> None:
        print(f"{PROGRAM} {version()}")
        sys.exit(0)


def version() -> str:
    """The installed package's version; ``unknown`` where only its files were copied."""
    from importlib import metadata

    try:
        return metadata.version("livegraft")
    except metadata.PackageNotFoundError:
        return "unknown"


def build(filled: Sequence[str] | None = None) -> tuple[Parser, dict[str, Verb]]:
    """The command line's parser.

    Args:
        filled: the verbs that may be asked for; all that are installed by default.

    Returns:
        The parser, and the verbs that were imported for it.
    """
    root = Parser(
        prog=PROGRAM,
        description=DESCRIPTION,
        epilog=_epilog(),
        formatter_class=_Formatter,
        allow_abbrev=False,
        usage="%(prog)s [options] VERB ...",
    )
    _add_global(root, top=True)
    choices = root.add_subparsers(dest="verb", metavar="VERB", help=argparse.SUPPRESS)
    verbs = {}
    for name in present() if filled is None else filled:
        verb = verbs[name] = load(name)
        parser = choices.add_parser(
            name,
            prog=f"{PROGRAM} {name}",
            help=SUMMARIES[name],
            description=verb.description,
            epilog=_verb_epilog(verb),
            formatter_class=_Formatter,
            allow_abbrev=False,
        )
        verb.configure(parser)
        # The usage line shows the verb's own arguments; the shared options are listed below it.
        parser.usage = parser.format_usage().removeprefix("usage: ").strip()
        _add_global(parser, top=False)
    return root, verbs


def parse(words: Sequence[str]) -> tuple[Verb, argparse.Namespace]:
    """Parse a command line, importing only the verb that it names.

    Args:
        words: the words after the program's name.

    Raises:
        UsageError: it is wrong; an unknown verb suggests the nearest one.
    """
    name = verb_of(words)
    if name is not None and name not in SUMMARIES:
        raise _unknown(name)
    root, verbs = build([name] if name else [])
    arguments = root.parse_args(words)
    if name is None:
        raise UsageError(PROGRAM, "which verb?", f"see '{PROGRAM} --help'")
    return verbs[name], arguments


def verb_of(words: Sequence[str]) -> str | None:
    """The first word that is no global option."""
    remaining = iter(words)
    for word in remaining:
        if word == "--cache":
            next(remaining, None)
        elif not word.startswith("-"):
            return word
    return None


def _unknown(name: str) -> UsageError:
    import difflib

    near = difflib.get_close_matches(name, SUMMARIES, n=1, cutoff=0.5)
    remedy = f"did you mean '{near[0]}'?" if near else f"see '{PROGRAM} --help' for all verbs"
    return UsageError(PROGRAM, f"there is no verb '{name}'", remedy)


def _add_global(parser: argparse.ArgumentParser, *, top: bool) -> None:
    """The options that may stand before or after the verb.

    Those after the verb have no default, or they would take back what was said before it.
    """
    group = parser.add_argument_group("options of every verb")

    def flag(name: str, text: str) -> None:
        default = False if top else argparse.SUPPRESS
        group.add_argument(name, action="store_true", default=default, help=text)

    flag("--json", "print one JSON document and nothing else on standard output")
    flag("--verbose", "show the commands that are run, and tracebacks")
    flag("--quiet", "show no progress")
    flag("--no-colour", "do not use colours (NO_COLOR does the same)")
    group.add_argument(
        "--cache",
        metavar="DIR",
        type=Path,
        default=None if top else argparse.SUPPRESS,
        help="keep downloads and kernel trees in DIR (default: $XDG_CACHE_HOME/livegraft)",
    )
    if top:
        group.add_argument(
            "--version", action=_ShowVersion, nargs=0, help="show the version and exit"
        )


def _epilog() -> str:
    width = max(len(name) for name in SUMMARIES) + 2

    def block(title: str, verbs: dict[str, str]) -> str:
        lines = [f"  {name.ljust(width)}{text}" for name, text in verbs.items()]
        return "\n".join([f"{title}:", *lines])

    making = "making live patches"
    if not is_whole():
        making += " (but for 'inspect', in the package livegraft, which is not installed)"
    return "\n\n".join(
        (
            block(making, MAKING),
            block("on the running kernel", RUNNING),
            block("other", OTHER),
            f"'{PROGRAM} VERB --help' shows a verb's arguments, an example and its exit codes.",
        )
    )


def _verb_epilog(verb: Verb) -> str:
    examples = "\n".join(f"  {example}" for example in verb.examples)
    exits = "\n".join(f"  {code.value}  {text}" for code, text in verb.exit_codes.items())
    title = "example" if len(verb.examples) == 1 else "examples"
    return f"{title}:\n{examples}\n\nexit codes:\n{exits}"
