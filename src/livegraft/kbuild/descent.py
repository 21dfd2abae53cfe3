# SPDX-License-Identifier: GPL-2.0-or-later
"""Descend through the kernel's directories as a build would, and hear what each would do.

The questions are asked in kbuild's own language (``descent.mk`` includes scripts/Makefile.build),
so per-file flags, flags handed down by parents and configuration are kbuild's answers, not ours.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import PurePosixPath

from livegraft.errors import BuildError, RunFailed
from livegraft.kbuild.environment import environment_of
from livegraft.kbuild.target import KernelTree
from livegraft.progress import SILENT, Progress
from livegraft.run import run


@dataclass(frozen=True, slots=True)
class Directory:
    """What one directory's makefile builds.

    Args:
        path: the directory, relative to the source tree.
        in_vmlinux: its built-in objects are linked into vmlinux.
        with_modules: its modules are built.
        builtin: built-in objects.
        library: objects of its lib.a.
        modules: mapping from each module (``fs/ext4/ext4.o``) to its objects.
    """

    path: str
    in_vmlinux: bool
    with_modules: bool
    builtin: frozenset[str]
    library: frozenset[str]
    modules: Mapping[str, frozenset[str]]


@dataclass(frozen=True, slots=True)
class Descent:
    """What was heard on the way down.

    Args:
        directories: every directory that was entered.
        commands: mapping from each goal to the shell command that would make it.
        libraries: directories whose lib.a is linked into vmlinux.
    """

    directories: tuple[Directory, ...]
    commands: Mapping[str, str]
    libraries: frozenset[str]


def descend(kernel: KernelTree, goals: Sequence[str], progress: Progress = SILENT) -> Descent:
    """Ask kbuild about `goals`.

    Args:
        goals: objects (``fs/ext4/mballoc.o``), whose commands are told, or ``DIRECTORY/.livegraft``
            to hear a directory's lists only. What an object needs first is made in the build tree.

    Raises:
        BuildError: kbuild cannot make a goal.
    """
    environment = environment_of(kernel, progress)
    makefile = resources.files("livegraft.kbuild") / "descent.mk"
    argv = ["make", "-f", str(makefile), "obj=.", "need-builtin=1", "need-modorder=1", *goals]
    variables = dict(environment) | {"LIVEGRAFT_DESCENT": str(makefile)}
    # Two runs must not generate the same header at once.
    with kernel.cache.lock(kernel.derived("kbuild"), progress):
        try:
            done = run(argv, cwd=kernel.build, env=variables, timeout=600)
        except RunFailed as error:
            raise BuildError(
                ", ".join(goals[:3]),
                f"kbuild cannot make it: {_last_complaint(error.output)}",
                "check that the kernel was prepared completely ('livegraft prepare')",
            ) from error
    return _heard(done.stdout.splitlines(), environment.get("ARCH_LIB", ""))


def directory_goal(path: str) -> str:
    """The goal that asks for the lists of the directory of the file `path`."""
    return f"{PurePosixPath(path).parent}/.livegraft"


@dataclass(slots=True)
class _Draft:
    path: str
    in_vmlinux: bool
    with_modules: bool
    builtin: set[str] = field(default_factory=set)
    library: set[str] = field(default_factory=set)
    modules: dict[str, frozenset[str]] = field(default_factory=dict)

    def frozen(self) -> Directory:
        return Directory(
            self.path,
            self.in_vmlinux,
            self.with_modules,
            frozenset(self.builtin),
            frozenset(self.library),
            self.modules,
        )


def _heard(lines: Iterable[str], libraries: str) -> Descent:
    drafts: list[_Draft] = []
    commands: dict[str, str] = {}
    for line in lines:
        mark, _, rest = line.partition(" ")
        if mark != "livegraft":
            continue  # what a prerequisite's own rule prints
        word, _, rest = rest.partition(" ")
        if word == "command":
            goal, _, command = rest.partition(" ")
            commands[goal] = command
        elif word == "directory":
            path, *marks = rest.split()
            drafts.append(_Draft(path, "builtin" in marks, "modules" in marks))
        elif word == "builtin":
            drafts[-1].builtin.update(rest.split())
        elif word == "library":
            drafts[-1].library.update(rest.split())
        elif word == "modules":
            drafts[-1].modules.update((name, frozenset((name,))) for name in rest.split())
        elif word == "composite":
            name, *members = rest.split()
            drafts[-1].modules[name] = frozenset(members)
        else:
            raise BuildError("descent.mk", f"tells an unknown '{word}'", "report this")
    return Descent(
        tuple(draft.frozen() for draft in drafts),
        commands,
        frozenset(name.rstrip("/") for name in libraries.split()),
    )


def _last_complaint(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    stops = [line for line in lines if "***" in line or "error" in line.lower()]
    return (stops or lines or ["make printed nothing"])[0]
