# SPDX-License-Identifier: GPL-2.0-or-later
"""The exact compiler command of a translation unit, as kbuild would run it."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from livegraft.errors import BuildError
from livegraft.kbuild.descent import descend
from livegraft.kbuild.objects import Unit
from livegraft.kbuild.target import KernelTree, tree_digest
from livegraft.progress import SILENT, Progress

_DEPFILE = "-Wp,-MMD,"
_MODNAME = "-DKBUILD_MODNAME="
AT_A_TIME = 500
"""As many units are asked of kbuild in one run: their names have to fit into a command line."""

_SHELL_TOKENS = frozenset(("&&", "||", "|", "&", ">", "<", "(", ")"))


@dataclass(frozen=True, slots=True)
class Command:
    """How the distribution compiled a unit; to be run in the build tree.

    Args:
        argv: the compiler and all its arguments.
        source: the source file as in `argv`.
        output: the object file as in `argv`.
        depfile: the dependency file that it writes.
        modname: ``KBUILD_MODNAME``, the module's name (of a built-in unit: what it would be).
    """

    argv: tuple[str, ...]
    source: str
    output: str
    depfile: str
    modname: str


def learn(
    kernel: KernelTree, units: Iterable[Unit], progress: Progress = SILENT
) -> Mapping[Unit, Command]:
    """The commands of `units`, each asked from kbuild once and kept in the cache.

    What a unit needs to be there first (a generated header) is made in the build tree by kbuild.

    Raises:
        BuildError: kbuild does not compile that file, or its command is not a plain one.
    """
    wanted = tuple(dict.fromkeys(units))
    folder = f"kbuild/{tree_digest(kernel)}/commands"
    names = {unit: kernel.derived(f"{folder}/{unit.file_name}.json") for unit in wanted}
    unknown = [unit for unit in wanted if not (kernel.cache.root / names[unit]).is_file()]
    if unknown:
        with progress.step("learn compiler commands", len(unknown)) as step:
            for at in range(0, len(unknown), AT_A_TIME):
                some = unknown[at : at + AT_A_TIME]
                goals = sorted({unit.target for unit in some})
                told = descend(kernel, goals, progress).commands
                for unit in some:
                    _keep(kernel, names[unit], _told(unit, told))
                    step.advance()
    return {unit: parse(_kept(kernel, names[unit])) for unit in wanted}


def _told(unit: Unit, told: Mapping[str, str]) -> str:
    if unit.target not in told:
        raise BuildError(
            unit.path, "kbuild tells no command for it", "check that this kernel builds the file"
        )
    command = parse(told[unit.target])
    if os.path.normpath(command.output) != os.path.normpath(unit.target):
        raise BuildError(unit.path, f"kbuild makes {command.output} of it", "report this kernel")
    return told[unit.target]


def parse(text: str) -> Command:
    """Take a command apart; what kbuild does to the object after the compiler is cut off.

    Args:
        text: a shell command as kbuild would run it, or as a ``.cmd`` file holds it.

    Raises:
        BuildError: it is not a single compiler call, followed at most by others after ``;``.
    """
    words = shlex.split(text)
    if ";" in words:
        words = words[: words.index(";")]
    odd = _SHELL_TOKENS.intersection(words) or {word for word in words if "`" in word}
    if odd or any(word.endswith(";") for word in words):
        raise BuildError(text[:80], "is not a plain compiler command", "report this kernel")
    argv = tuple(words)
    try:
        output = argv[argv.index("-o") + 1]
        depfile = next(word for word in argv if word.startswith(_DEPFILE))
        # Assembly has none.
        names = [_MODNAME] if argv[-1].endswith(".S") else []
        modname = next(word for word in (*argv, *names) if word.startswith(_MODNAME))
    except (ValueError, IndexError, StopIteration) as error:
        raise BuildError(text[:80], "lacks an option that kbuild writes", "report this") from error
    return Command(
        argv,
        argv[-1],
        output,
        depfile.removeprefix(_DEPFILE),
        modname.removeprefix(_MODNAME).strip('"'),
    )


def _keep(kernel: KernelTree, name: str, text: str) -> None:
    def write(path: Path) -> None:
        path.write_text(json.dumps({"command": text}))

    kernel.cache.file(name, write)


def _kept(kernel: KernelTree, name: str) -> str:
    document: dict[str, str] = json.loads((kernel.cache.root / name).read_text())
    return document["command"]
