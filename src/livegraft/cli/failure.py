# SPDX-License-Identifier: GPL-2.0-or-later
"""What is said when a verb does not get to its end."""

from __future__ import annotations

import errno
import sys

from livegraft.cli.paint import Paint, table
from livegraft.cli.verb import Answer
from livegraft.errors import Exit, LivegraftError, Reason, Refused, RunFailed

REPORT = (
    "this is a defect of livegraft: please report it with the output of the same command "
    "and --verbose"
)

FULL = (errno.ENOSPC, errno.EDQUOT)
"""What the system says when there is no more room; a failed write(2) names no file."""


def exit_code(error: BaseException) -> Exit:
    """The exit code that an exception ends the command with."""
    return error.exit_code if isinstance(error, LivegraftError) else Exit.FAILED


def answer(error: BaseException) -> Answer:
    """The JSON document of an error (``error`` and ``exit_code``)."""
    code = exit_code(error)
    return Answer({"error": _known(error).as_json(), "exit_code": int(code)}, "", code)


def show(error: BaseException, paint: Paint, *, verbose: bool) -> None:
    """Write an error to standard error: what failed, and the remedy."""
    known = _known(error)
    if verbose and isinstance(known, InternalError):
        import traceback

        traceback.print_exception(error, file=sys.stderr)
    if verbose and isinstance(error, RunFailed):
        _say(error.output)
    if isinstance(known, Refused):
        _say(f"{paint.bad('livegraft:')} {known.subject}: refused")
        _say(reasons(known.reasons, paint))
        return
    # What is wrong with the command line as a whole has the command itself as its object.
    subject = "" if known.subject == "livegraft" else f" {known.subject}:"
    _say(f"{paint.bad('livegraft:')}{subject} {known.problem}")
    if known.remedy:
        _say(f"{paint.warning('remedy:')} {known.remedy}")


def reasons(found: tuple[Reason, ...], paint: Paint) -> str:
    """A table of reasons, each with its remedy below."""
    rows = [
        (reason.rule, reason.object, f"{reason.message}\nremedy: {reason.remedy}")
        for reason in found
    ]
    return table(("RULE", "OBJECT", "REASON"), rows, paint)


class Interrupted(LivegraftError):
    """Ctrl-C or SIGTERM."""


class InternalError(LivegraftError):
    """An exception that nobody expected."""


def _known(error: BaseException) -> LivegraftError:
    """Any exception as one of the tree, with a text for a user."""
    if isinstance(error, LivegraftError):
        return error
    if isinstance(error, KeyboardInterrupt):
        return Interrupted("interrupted", "stopped before the end")
    if isinstance(error, OSError) and (error.filename is not None or error.errno in FULL):
        return _of_system(error)
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return InternalError("internal error", text, REPORT)


def _of_system(error: OSError) -> LivegraftError:
    if error.errno in FULL:
        remedy = "free some space, or put the cache elsewhere with --cache"
        return LivegraftError(str(error.filename or "disk"), "the disk is full", remedy)
    remedies = {
        errno.EACCES: "run as a user who may do that",
        errno.EPERM: "run as a user who may do that",
    }
    reason = (error.strerror or "failed").lower()
    return LivegraftError(str(error.filename), reason, remedies.get(error.errno or 0, ""))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
