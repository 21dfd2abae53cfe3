# SPDX-License-Identifier: GPL-2.0-or-later
"""The command ``livegraft``: the only place that prints and that turns an error into a status.

Results go to standard output, talk to standard error. With ``--json`` exactly one document goes to
standard output, whatever happens.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TextIO

from livegraft.cli.paint import Paint, wants_colour
from livegraft.cli.progress import shown
from livegraft.cli.verb import RUNTIME, Answer, Context, Verb
from livegraft.errors import Exit

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals that end the command: Ctrl-C, a service manager's, and a lost terminal's."""


class Terminated(KeyboardInterrupt):
    """One of :data:`ENDING`, whichever: what holds for Ctrl-C holds for all."""


def main(words: Sequence[str] | None = None) -> int:
    """Run one command line.

    Args:
        words: the words after the program's name; by default those of this process.

    Returns:
        The exit code, one of :class:`livegraft.errors.Exit`.
    """
    from livegraft.cli import failure, parser

    # numpy is here to read tables; the threads of its linear algebra would only cost time.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    words = sys.argv[1:] if words is None else words
    asked = words[: words.index("--")] if "--" in words else words
    as_json, verbose = "--json" in asked, "--verbose" in asked
    colour_refused = "--no-colour" in asked
    _take_any_character()
    try:
        with _terminable():
            verb, arguments = parser.parse(words)
            answer = _run(verb, arguments, Paint(wants_colour(sys.stdout, colour_refused)))
        return _print(answer, as_json)
    except BrokenPipeError:
        return _nobody_listens()
    except (Exception, KeyboardInterrupt) as error:
        with suppress(OSError):  # a lost terminal: the document and the exit code tell it as well
            paint = Paint(wants_colour(sys.stderr, colour_refused))
            failure.show(error, paint, verbose=verbose)
        try:
            if as_json:
                return _print(failure.answer(error), as_json)
        except OSError:
            return _nobody_listens()
        _let_go(sys.stdout)
        return failure.exit_code(error)
    finally:
        _let_go(sys.stderr)


def _run(verb: Verb, arguments: argparse.Namespace, paint: Paint) -> Answer:
    if arguments.verbose:
        _log_commands()
    progress = shown(
        quiet=arguments.quiet,
        verbose=arguments.verbose,
        may_draw=verb.name not in RUNTIME,
        colour=not arguments.no_colour,
    )
    try:
        return verb.run(arguments, Context(progress, paint, arguments.cache))
    finally:
        progress.close()


def _print(answer: Answer, as_json: bool) -> int:
    if as_json:
        import json

        print(json.dumps(answer.document, indent=2))
    elif answer.text:
        print(answer.text, file=sys.stderr if answer.complaint else sys.stdout)
    sys.stdout.flush()
    return int(answer.exit_code)


@contextmanager
def _terminable() -> Iterator[None]:
    """While inside, all of :data:`ENDING` unwind: everything is cleaned up."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in ENDING}
    for number, handler in before.items():
        # nohup(1) has its reason: what is ignored stays ignored.
        if handler is not signal.SIG_IGN:
            signal.signal(number, _terminate)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _terminate(_signal: int, _frame: FrameType | None) -> None:
    # A second one must not interrupt the clean-up that the first one started.
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)
    raise Terminated


def _take_any_character() -> None:
    """A file name or a compiler's quotation mark must not fail on a terminal without UTF-8."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def _log_commands() -> None:
    import logging

    logging.basicConfig(stream=sys.stderr, format="%(message)s", level=logging.WARNING, force=True)
    logging.getLogger("livegraft").setLevel(logging.DEBUG)


def _nobody_listens() -> int:
    _let_go(sys.stdout)
    return int(Exit.FAILED)


def _let_go(stream: TextIO) -> None:
    """Python flushes its streams once more on its way out: one that is lost would complain there,
    and change the exit code."""
    try:
        stream.flush()
    except (OSError, ValueError):
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


if __name__ == "__main__":
    sys.exit(main())
