# SPDX-License-Identifier: GPL-2.0-or-later
"""The one tree of errors.

An exception carries data and makes its text itself: "object: what failed; what to do".
Only :mod:`livegraft.cli` prints one and turns :attr:`LivegraftError.exit_code` into a status.

Records of modules that short commands import (here, in ``cli/``, ``elf/``, ``compare/``, and all of
the runtime's) are named tuples: docs/adr/0022-named-tuples.md.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import NamedTuple


class Exit(IntEnum):
    """Exit codes of every verb."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    UNCHANGED = 3
    REFUSED = 4
    LOST = 5


class Reason(NamedTuple):
    """Why a fix, an object or a module is refused.

    Args:
        rule: name of the rule, as in docs/reference/rules (``init-only``).
        object: what the rule speaks of: a function, variable, section or file.
        message: what is the matter with it.
        remedy: what the user can do.
    """

    rule: str
    object: str
    message: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.object}: {self.message} [{self.rule}]; {self.remedy}"

    def as_json(self) -> dict[str, str]:
        """The reason as it stands in every JSON document."""
        return {
            "rule": self.rule,
            "object": self.object,
            "message": self.message,
            "remedy": self.remedy,
        }

    @classmethod
    def from_json(cls, document: Mapping[str, str]) -> Reason:
        """Back from :meth:`as_json`."""
        return cls(**document)


class LivegraftError(Exception):
    """Base of all errors that a user may see.

    Args:
        subject: the object that it is about (a file, a release, a function).
        problem: what failed.
        remedy: what to do about it; empty if there is nothing to be done.
    """

    exit_code = Exit.FAILED

    def __init__(self, subject: str, problem: str, remedy: str = "") -> None:
        super().__init__(subject, problem, remedy)
        self.subject = subject
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        text = f"{self.subject}: {self.problem}"
        return f"{text}; {self.remedy}" if self.remedy else text

    def as_json(self) -> dict[str, object]:
        """The error as a JSON document's ``error`` member."""
        return {
            "kind": type(self).__name__,
            "object": self.subject,
            "message": self.problem,
            "remedy": self.remedy,
        }


class UsageError(LivegraftError):
    """The command line asks for something that does not exist or does not fit together."""

    exit_code = Exit.USAGE


class NotInstalled(LivegraftError):
    """What was asked for is not part of the runtime, and only that is installed.

    Args:
        subject: the verb, or its option.
    """

    def __init__(self, subject: str) -> None:
        problem = "is part of the package livegraft, and only livegraft-runtime is installed"
        super().__init__(subject, problem, "apt-get install livegraft")


class NothingChanged(LivegraftError):
    """There is nothing to patch: the fix changes no code."""

    exit_code = Exit.UNCHANGED


class Refused(LivegraftError):
    """What cannot be shown safe is refused.

    Args:
        subject: the object that is refused.
        reasons: every reason that was found, not only the first.
    """

    exit_code = Exit.REFUSED

    def __init__(self, subject: str, reasons: Sequence[Reason]) -> None:
        self.reasons = tuple(reasons)
        first = self.reasons[0]
        more = f" (and {len(self.reasons) - 1} more)" if len(self.reasons) > 1 else ""
        super().__init__(subject, f"refused: {first.object}: {first.message}{more}", first.remedy)

    def as_json(self) -> dict[str, object]:
        document = super().as_json()
        document["reasons"] = [reason.as_json() for reason in self.reasons]
        return document


class RunFailed(LivegraftError):
    """A subprocess ended with a status other than 0, by a signal, or too late.

    Args:
        argv: the command as it was run.
        status: its exit status; negative for the number of the signal that ended it.
        output: the end of what it printed.
    """

    def __init__(self, argv: Sequence[str], status: int, output: str, remedy: str = "") -> None:
        self.argv = tuple(argv)
        self.status = status
        self.output = output
        tail = output.strip().splitlines()[-1:] or ["it printed nothing"]
        super().__init__(argv[0], f"{_how_it_ended(status)}: {tail[0]}", remedy)


class RunTimedOut(RunFailed):
    """A subprocess did not end in its time and was killed."""

    def __init__(self, argv: Sequence[str], seconds: float, output: str) -> None:
        super().__init__(argv, -signal.SIGKILL, output)
        self.problem = f"did not end within {seconds:g} s"


class CommandMissing(LivegraftError):
    """A program that is needed is not installed."""


class CacheError(LivegraftError):
    """The cache cannot be read or written (full disk, permissions)."""


# -- kernel/ --------------------------------------------------------------------------------------


class KernelError(LivegraftError):
    """A kernel cannot be used as a target."""


class UnknownRelease(KernelError):
    """No such kernel release here."""


class PackageMissing(KernelError):
    """A package of that exact version is in none of the sources."""


class NoNetwork(KernelError):
    """A download failed for want of a network."""


class WrongCompiler(KernelError):
    """The compiler that built the kernel is not the one that is installed."""


class NotPrepared(KernelError):
    """The kernel has to be prepared first."""


class ImageError(KernelError):
    """A vmlinuz, its kallsyms or a module file is not what it should be."""


# -- fix/ -----------------------------------------------------------------------------------------


class FixError(LivegraftError):
    """A diff cannot be used."""


class DoesNotApply(FixError):
    """A hunk finds no place in the source."""


# -- kbuild/ --------------------------------------------------------------------------------------


class BuildError(LivegraftError):
    """The kernel's build system or the compiler failed."""


class CompileError(BuildError):
    """The fix does not compile; carries the compiler's cleaned up messages."""


class ProofFailed(LivegraftError):
    """The unit as compiled here is not the code that the distribution shipped.

    Args:
        subject: the translation unit.
        differing: mapping from function to how it differs.
    """

    exit_code = Exit.REFUSED

    def __init__(self, subject: str, differing: Mapping[str, str], remedy: str) -> None:
        self.differing = dict(differing)
        names = ", ".join(f"{name} ({how})" for name, how in list(self.differing.items())[:5])
        more = f" and {len(self.differing) - 5} more" if len(self.differing) > 5 else ""
        super().__init__(subject, f"differs from the shipped code: {names}{more}", remedy)

    def as_json(self) -> dict[str, object]:
        document = super().as_json()
        document["differing"] = self.differing
        return document


# -- elf/, module/ --------------------------------------------------------------------------------


class ElfError(LivegraftError):
    """A file is not a well-formed ELF object of the kind that is expected."""


class ModuleError(LivegraftError):
    """A live patch module cannot be built, or is not what it claims to be."""


class NotRebuilt(ModuleError):
    """A module cannot be built again from what is here."""

    exit_code = Exit.REFUSED


# -- runtime/, trust/ ----------------------------------------------------------------------------


class PatchError(LivegraftError):
    """A live patch cannot be loaded, unloaded or followed on the running kernel."""


class IdentityMismatch(PatchError):
    """The patch was built for another kernel or another build of a module."""

    exit_code = Exit.REFUSED


class Untrusted(PatchError):
    """Nobody whom the machine trusts stands for the patch, or it is unclear whom it trusts."""

    exit_code = Exit.REFUSED


class KernelRefused(PatchError):
    """A system call on a module failed.

    Args:
        errno_name: the error's symbolic name (``EBUSY``).
        log: what the kernel's log said at that moment.
    """

    def __init__(
        self, subject: str, problem: str, remedy: str, errno_name: str, log: Sequence[str]
    ) -> None:
        self.errno_name = errno_name
        self.log = tuple(log)
        said = f" (the kernel's log: {' | '.join(self.log[:3])})" if self.log else ""
        super().__init__(subject, problem + said, remedy)

    def as_json(self) -> dict[str, object]:
        document = super().as_json()
        document["errno"] = self.errno_name
        document["log"] = list(self.log)
        return document


class TransitionTimeout(PatchError):
    """The transition did not finish in the time given.

    Args:
        blockers: who blocked it: one mapping per task, as in the document of ``status``.
    """

    def __init__(
        self,
        subject: str,
        problem: str,
        remedy: str = "",
        blockers: Sequence[Mapping[str, object]] = (),
    ) -> None:
        self.blockers = tuple(blockers)
        super().__init__(subject, problem, remedy)

    def as_json(self) -> dict[str, object]:
        document = super().as_json()
        document["blockers"] = [dict(blocker) for blocker in self.blockers]
        return document


# -- lab/ -----------------------------------------------------------------------------------------


class LostGuest(LivegraftError):
    """A guest hung, panicked or never came up: nothing can be said about what was tested in it.

    Args:
        subject: the guest's kernel.
        reason: what became of it (``Kernel panic - not syncing: ...``).
        console: what the kernel wrote on its console, around its panic or at the end.
    """

    exit_code = Exit.LOST

    def __init__(self, subject: str, reason: str, console: str = "", remedy: str = "") -> None:
        super().__init__(subject, f"the guest was lost: {reason}", remedy)
        self.reason = reason
        self.console = console

    def as_json(self) -> dict[str, object]:
        document = super().as_json()
        document["console"] = self.console
        return document


def _how_it_ended(status: int) -> str:
    if status >= 0:
        return f"ended with status {status}"
    try:
        return f"was ended by {signal.Signals(-status).name}"
    except ValueError:
        return f"was ended by signal {-status}"
