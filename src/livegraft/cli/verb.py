# SPDX-License-Identifier: GPL-2.0-or-later
"""What a verb is: how it is asked for, what it does, and what it answers."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from enum import IntEnum
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from livegraft.cli.paint import Paint
from livegraft.errors import Exit, NotInstalled
from livegraft.progress import Progress

if TYPE_CHECKING:
    from livegraft.cache import Cache

MAKING = {
    "kernels": "list the kernels that can be patched",
    "prepare": "get a kernel's packages, source and build tree ready",
    "diff": "write the difference between two kernel sources as a fix",
    "check": "say whether a fix can be applied live",
    "build": "build a live patch module from a fix",
    "extract": "cut a live patch out of the source, for a reviewer",
    "compare": "compare two object files function by function",
    "inspect": "show what a live patch module holds",
    "sign": "vouch for a live patch with a key",
    "package": "put a live patch into a Debian package",
    "engine": "build the kernel module that the models beside native need",
    "try": "load a live patch in a virtual machine and run a script there",
    "lab": "measure the consistency models side by side, or work in a virtual machine",
    "survey": "build and try live patches for all that differs between two kernel sources",
}
"""Verbs that make something; they may import all of the package."""

RUNNING = {
    "load": "load a live patch into the running kernel",
    "unload": "take a live patch out of the running kernel",
    "status": "show the live patches of the running kernel",
    "wait": "wait for a transition to end",
    "models": "show which consistency models this machine has, and what each guarantees",
    "blockers": "show which tasks keep a transition from ending, and what would move them",
    "forecast": "say how a live patch's transition would go, before it is loaded",
    "verify": "say who has signed a live patch, and whether this machine trusts them",
    "history": "show what was loaded and unloaded here, by whom, and what became of it",
    "metrics": "write the live patches of the running kernel as metrics for Prometheus",
    "install": "keep a live patch, to be loaded at each boot of its kernel",
    "uninstall": "keep a live patch no more",
    "list": "show the installed live patches, and what each waits for",
    "boot": "load the installed live patches, as the machine does when it boots",
}
"""Verbs that act on the running kernel, with nothing but Python's standard library."""

OTHER = {"completion": "print a shell's completion script"}

RUNTIME = frozenset((*RUNNING, *OTHER, "inspect"))
"""Verbs of the runtime alone: Debian's package livegraft-runtime holds these and no others."""

SUMMARIES: Mapping[str, str] = MAKING | RUNNING | OTHER
"""Every verb with its line in ``livegraft --help``, so that help imports none of them."""

MODULES = {"try": "trial"}
"""Verbs whose file cannot carry their name."""


class Context:
    """What a verb finds around it.

    Args:
        progress: where it tells what it is doing.
        paint: how its text is coloured.
        cache_root: the folder given with ``--cache``; ``None`` for the default one.

    Attributes:
        began: when the verb began, on the monotonic clock.
    """

    def __init__(self, progress: Progress, paint: Paint, cache_root: Path | None = None) -> None:
        self.progress = progress
        self.paint = paint
        self.cache_root = cache_root
        self.began = time.monotonic()

    def cache(self) -> Cache:
        """The cache folder."""
        from livegraft.cache import Cache

        return Cache(self.cache_root)

    def timings(self) -> dict[str, float]:
        """The document's ``timings``: seconds by step, to the millisecond, and ``total``.

        Steps may hold other steps or run side by side, so the total is not their sum.
        """
        timings = self.progress.timings | {"total": self.seconds}
        return {name: round(seconds, 3) for name, seconds in timings.items()}

    @property
    def seconds(self) -> float:
        """The seconds since the verb began."""
        return time.monotonic() - self.began


class Answer(NamedTuple):
    """What a verb answers.

    Args:
        document: the JSON document, as docs/schema describes it.
        text: the same for a person; no newline at the end.
        exit_code: the command's exit code: an :class:`Exit`, or the one of a check.
        complaint: the text says why there is no result, and goes to standard error.
    """

    document: Mapping[str, object]
    text: str
    exit_code: IntEnum = Exit.DONE
    complaint: bool = False


class Verb(NamedTuple):
    """One verb of the command line.

    Args:
        name: the word.
        description: what it does, in paragraphs.
        examples: command lines that work, for help and the reference.
        exits: what its exit codes mean; 0, 1 and 2 have a meaning for each verb.
        configure: adds its arguments to a parser.
        run: does it.
    """

    name: str
    description: str
    examples: Sequence[str]
    configure: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace, Context], Answer]
    exits: Mapping[IntEnum, str] = MappingProxyType({})

    @property
    def exit_codes(self) -> dict[IntEnum, str]:
        """All exit codes of this verb and their meaning."""
        return dict(sorted({**COMMON_EXITS, **self.exits}.items()))


COMMON_EXITS: Mapping[IntEnum, str] = {
    Exit.DONE: "done",
    Exit.FAILED: "failed",
    Exit.USAGE: "the command line is wrong",
}


def is_whole() -> bool:
    """Whether more of the package is installed than its runtime."""
    return Path(__file__).parents[1].joinpath("pipeline.py").exists()


def present() -> tuple[str, ...]:
    """The verbs that are installed."""
    whole = is_whole()
    return tuple(name for name in SUMMARIES if whole or name in RUNTIME)


def load(name: str) -> Verb:
    """Import one verb.

    Args:
        name: a key of :data:`SUMMARIES`.

    Raises:
        NotInstalled: only the runtime is installed, and the verb is none of it.
    """
    if name not in RUNTIME and not is_whole():
        raise NotInstalled(f"livegraft {name}")
    verb = import_module(f"livegraft.cli.{MODULES.get(name, name)}").VERB
    assert isinstance(verb, Verb)
    return verb
