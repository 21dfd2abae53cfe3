# SPDX-License-Identifier: GPL-2.0-or-later
"""Preprocess and parse units while the compiler is still at work on them.

A fix of one unit keeps one core busy for a second or two, compiling it; libclang can read it on
another one meanwhile.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future

from clang.cindex import TranslationUnit

from livegraft.extract.preprocessed import Preprocessed
from livegraft.extract.syntax import parse
from livegraft.jobs import Jobs
from livegraft.kbuild.command import Command
from livegraft.kbuild.compile import preprocess
from livegraft.kbuild.objects import Unit
from livegraft.kbuild.shadow import Shadow
from livegraft.kbuild.target import KernelTree

FEW = 2
"""A parsed unit takes some 80 MB: of more, each is parsed when it is needed."""

Parsed = tuple[Preprocessed, TranslationUnit]


class Ahead:
    """Units that are parsed before it is known whether they have to be cut.

    Args:
        jobs: carries it out.
    """

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs
        self._begun: dict[tuple[str, ...], Future[Parsed]] = {}

    def begin(self, kernel: KernelTree, commands: Mapping[Unit, Command], shadow: Shadow) -> None:
        """Begin with the first units that a fix changes itself.

        Args:
            commands: how units are compiled.
            shadow: the source with the fix.
        """
        own = [(unit, each) for unit, each in commands.items() if unit.path in shadow.changes]
        for unit, command in own[:FEW]:
            begun = self._jobs.start(parsed, kernel, unit.path, command, shadow)
            self._begun[command.argv] = begun

    def take(self, command: Command) -> Parsed | None:
        """What was made of a unit, once; None if nothing was begun.

        Args:
            command: how it is compiled.

        Raises:
            CompileError: the unit cannot be preprocessed.
            Refused: libclang cannot parse it.
        """
        begun = self._begun.pop(command.argv, None)
        return None if begun is None else begun.result()


def preprocessed(kernel: KernelTree, path: str, command: Command, shadow: Shadow) -> Preprocessed:
    """A unit of a shadow, preprocessed.

    Raises:
        CompileError: it cannot be.
    """
    output = preprocess(kernel, command, shadow)
    return Preprocessed(output, shadow.translate(command.source), path)


def parsed(kernel: KernelTree, path: str, command: Command, shadow: Shadow) -> Parsed:
    """A unit of a shadow, preprocessed and parsed.

    Raises:
        CompileError: it cannot be preprocessed.
        Refused: libclang cannot parse it.
    """
    text = preprocessed(kernel, path, command, shadow)
    return text, parse(path, text)
