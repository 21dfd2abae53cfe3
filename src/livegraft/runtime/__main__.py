# SPDX-License-Identifier: GPL-2.0-or-later
"""``python3 -m livegraft.runtime``: the runtime alone, on a machine with nothing but Python."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import suppress

from livegraft.errors import LivegraftError
from livegraft.progress import Progress
from livegraft.runtime import commandline


class Terminal(Progress):
    """Tells the notes on standard error."""

    def note(self, text: str) -> None:
        _say(text)


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = argparse.ArgumentParser(prog="livegraft-runtime", description=__doc__)
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")
    for verb, line in commandline.HELP.items():
        one = verbs.add_parser(
            verb, help=line, description=line, epilog=f"example: {commandline.EXAMPLES[verb]}"
        )
        commandline.add_arguments(verb, one)
        one.add_argument("--json", action="store_true", help="one JSON document on standard output")
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb: results to standard output, everything else to standard error."""
    arguments = parser().parse_args(argv)
    try:
        document, status = commandline.run(arguments.verb, arguments, Terminal())
    except LivegraftError as error:
        return _failed(error, arguments.json)
    except KeyboardInterrupt:
        # What became of the patch was told by a note; there may have been nothing to undo.
        stopped = LivegraftError(arguments.verb, "interrupted", "'status' tells what is loaded")
        return _failed(stopped, arguments.json)
    if arguments.json:
        sys.stdout.write(json.dumps(document, indent=1) + "\n")
    else:
        sys.stdout.write(commandline.text(arguments.verb, document) + "\n")
    return int(status)


def _failed(error: LivegraftError, as_json: bool) -> int:
    _say(f"livegraft: {error}")
    if as_json:
        document = {"error": error.as_json(), "exit_code": int(error.exit_code)}
        sys.stdout.write(json.dumps(document, indent=1) + "\n")
    return int(error.exit_code)


def _say(text: str) -> None:
    with suppress(OSError, ValueError):  # a lost terminal must not stop an undo
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
