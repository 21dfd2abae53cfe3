# SPDX-License-Identifier: GPL-2.0-or-later
"""``python3 -m livegraft.runtime``: the runtime alone, on a machine with nothing but Python."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress

from livegraft.errors import LivegraftError
from livegraft.progress import Progress
from livegraft.runtime import commandline


class Terminal(Progress):
    """Tells the notes on standard error."""

    def note(self, text: str) -> None:
        _say(text)


class _Formatter(argparse.HelpFormatter):
    """80 columns wide: to find out the terminal's width, argparse imports three compressors."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=78)


def parser(asked: Iterable[str] = commandline.HELP) -> argparse.ArgumentParser:
    """The command line.

    Args:
        asked: the verbs that may be asked for; all by default.
    """
    top = argparse.ArgumentParser(
        prog="livegraft-runtime", description=__doc__, formatter_class=_Formatter
    )
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")
    for verb in asked:
        line = commandline.HELP[verb]
        one = verbs.add_parser(
            verb,
            help=line,
            description=line,
            epilog=f"example: {commandline.EXAMPLES[verb]}",
            formatter_class=_Formatter,
        )
        commandline.add_arguments(verb, one)
        one.add_argument("--json", action="store_true", help="one JSON document on standard output")
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb: results to standard output, everything else to standard error."""
    words = sys.argv[1:] if argv is None else argv
    # No message lists the verbs once one is named; each takes milliseconds to make.
    known = words[:1] if words and words[0] in commandline.HELP else commandline.HELP
    arguments = parser(known).parse_args(words)
    try:
        document, status = commandline.run(arguments.verb, arguments, Terminal())
    except LivegraftError as error:
        return _failed(error, arguments.json)
    except KeyboardInterrupt:
        # What became of the patch was told by a note; there may have been nothing to undo.
        stopped = LivegraftError(arguments.verb, "interrupted", "'status' tells what is loaded")
        return _failed(stopped, arguments.json)
    if arguments.json:
        _answer(document)
    else:
        sys.stdout.write(commandline.text(arguments.verb, document) + "\n")
    return int(status)


def _failed(error: LivegraftError, as_json: bool) -> int:
    _say(f"livegraft: {error}")
    if as_json:
        _answer({"error": error.as_json(), "exit_code": int(error.exit_code)})
    return int(error.exit_code)


def _answer(document: Mapping[str, object]) -> None:
    import json  # seldom needed, and start-up time counts

    sys.stdout.write(json.dumps(document, indent=1) + "\n")


def _say(text: str) -> None:
    with suppress(OSError, ValueError):  # a lost terminal must not stop an undo
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
