# SPDX-License-Identifier: GPL-2.0-or-later
"""Compile one translation unit with its learnt command, as raw compiler output.

Nothing is written into the kernel's trees: object and dependency file go where the caller says.
objtool does not run; what it would make is made of the finished payload.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

from livegraft.errors import BuildError, CacheError, CompileError, Reason, Refused, RunFailed
from livegraft.jobs import in_order
from livegraft.kbuild.command import Command
from livegraft.kbuild.dependencies import Dependencies, parse_dependencies, read_dependencies
from livegraft.kbuild.diagnostics import clean, first_error
from livegraft.kbuild.shadow import Shadow
from livegraft.kbuild.target import KernelTree
from livegraft.progress import SILENT, Progress
from livegraft.run import run

T = TypeVar("T")

_COMPILE_SECONDS = 600
_DEPFILE = "-Wp,-MMD,"

AUTHORS_HEADERS = Path(__file__).parent / "include"
"""Where ``livegraft.h`` is, which a fix may include; the kernel's own source cannot see it."""


class Variant(StrEnum):
    """What is added to the distribution's flags."""

    PLAIN = "plain"
    """Nothing: for the proof."""
    SECTIONS = "sections"
    """A section per function and variable, and no debug information: for the comparison."""
    TYPES = "types"
    """The same with debug information, as far as types need it: for the comparison of a fix that
    touches more than function bodies."""
    UNLINED = "unlined"
    """As SECTIONS, with the same number for each ``__LINE__``: to tell what lines alone change."""

    @property
    def flags(self) -> tuple[str, ...]:
        """The compiler options that the variant adds at the end."""
        return _FLAGS[self]


_VARIABLES = (
    "-D_ASM_RUNTIME_CONST_H",
    "-Druntime_const_ptr(sym)=(sym)",
    "-Druntime_const_shift_right_32(val,sym)=((u32)(val)>>(sym))",
    "-Druntime_const_init(type,sym)=do{}while(0)",
)
"""Runtime constants (arch/x86/include/asm/runtime-const.h, since 6.11) as the variables that they
stand for, as in asm-generic/runtime-const.h: only vmlinux's own code is fixed up at boot, and a
payload is a module. ``access_ok()`` has one, so that much of 6.12 does."""

SAME_LINES = ("-U__LINE__", "-D__LINE__=1", "-Wno-builtin-macro-redefined")
"""The same number for each ``__LINE__``: a fix that adds a line moves those behind it."""

_SECTIONS = ("-ffunction-sections", "-fdata-sections", *_VARIABLES)

# None of -g changes code (tests/build/test_kbuild_compile.py). -g0 saves a third of the time, and
# where variables are at which instruction is most of the rest.
_FLAGS = {
    Variant.PLAIN: (),
    Variant.SECTIONS: (*_SECTIONS, "-g0"),
    Variant.UNLINED: (*_SECTIONS, "-g0", *SAME_LINES),
    Variant.TYPES: (*_SECTIONS, "-g", "-fno-var-tracking", "-fno-var-tracking-assignments"),
}


@dataclass(frozen=True, slots=True)
class Object:
    """A compiled unit.

    Args:
        path: the object file.
        dependencies: source files that were read, relative to the source tree.
        generated: files that were read from the build tree, relative to it.
    """

    path: Path
    dependencies: frozenset[str]
    generated: frozenset[str]


def compile_unit(
    kernel: KernelTree,
    command: Command,
    *,
    output: Path,
    shadow: Shadow | None = None,
    extra_flags: Sequence[str] = (),
) -> Object:
    """Compile a unit from the kernel's source, or from a shadow of it.

    Args:
        output: the object file to write; its dependency file goes beside it.
        shadow: the source with a fix; None for the kernel's own.
        extra_flags: added at the end of the options.

    Raises:
        CompileError: the unit does not compile; carries the compiler's messages.
        BuildError: an original of a changed file was read, and no shadow prevents it.
        Refused: the kernel's structures are laid out at random.
    """
    check_layout(command)
    output.parent.mkdir(parents=True, exist_ok=True)

    def attempt() -> tuple[None, Dependencies]:
        return None, _compile(kernel, command, output, shadow, extra_flags)

    _, dependencies = _through(shadow, command, attempt)
    return _object(kernel, output, dependencies, shadow)


def _through(
    shadow: Shadow | None, command: Command, attempt: Callable[[], tuple[T, Dependencies]]
) -> tuple[T, Dependencies]:
    """Run the compiler again and again until no original of a changed file was read.

    What was read is looked up before another thread may change the shadow: afterwards the same path
    may lead to another file.

    Args:
        attempt: runs it once; returns what it made, and what it has read.

    Raises:
        BuildError: an original was read, and no linked directory is to blame.
    """
    if shadow is None:
        return attempt()
    shadow.prepare(command.argv)
    escaped: Collection[str] = ()
    # Each round makes real the linked directories that were passed; there are only so many.
    for _ in range(8):
        with shadow.read():
            done = attempt()
            escaped = shadow.escapes(done[1])
            passed = shadow.linked_directories(done[1]) if escaped else frozenset()
        if not escaped:
            return done
        if not passed:
            break
        for directory in sorted(passed):
            shadow.make_real(directory)
    read = ", ".join(sorted(escaped))
    raise BuildError(command.output, f"was compiled with the unchanged {read}", "report this fix")


def compile_original(
    kernel: KernelTree, command: Command, variant: Variant, progress: Progress = SILENT
) -> Object:
    """The unchanged unit, compiled once and kept in the cache with all that it was made from.

    Raises:
        CompileError: the unit does not compile.
    """
    key = hashlib.sha256("\0".join((*command.argv, *variant.flags)).encode()).hexdigest()[:16]
    name = kernel.derived(f"units/{os.path.normpath(command.output)}/{variant}-{key}")
    folder = kernel.cache.root / name
    if kernel.cache.has(name) and (folder / "read.json").is_file():
        known = json.loads((folder / "read.json").read_text())
        if known["sha256"] != _content(kernel, known["files"]):
            kernel.cache.forget(name)

    def build(folder: Path) -> None:
        unit = compile_unit(kernel, command, output=folder / "unit.o", extra_flags=variant.flags)
        files = sorted({str(kernel.source / path) for path in unit.dependencies} | unit.generated)
        known = {"files": files, "sha256": _content(kernel, files)}
        (folder / "read.json").write_text(json.dumps(known))

    folder = kernel.cache.tree(name, build, progress)
    return _object(kernel, folder / "unit.o", read_dependencies(folder / "unit.d"), None)


def files_read(kernel: KernelTree, command: Command, shadow: Shadow | None = None) -> Dependencies:
    """What the unit would read, by preprocessing alone (70 ms).

    Raises:
        CompileError: a file that it includes does not exist.
    """
    return _preprocessed(kernel, command, shadow, "-M")[1]


def preprocess(
    kernel: KernelTree, command: Command, shadow: Shadow | None = None, *options: str
) -> str:
    """The unit's text after preprocessing, with line markers.

    Args:
        options: more of the compiler's options.

    Raises:
        CompileError: a file that it includes does not exist.
    """
    return _preprocessed(kernel, command, shadow, "-E", *options)[0]


def _preprocessed(
    kernel: KernelTree, command: Command, shadow: Shadow | None, how: str, *options: str
) -> tuple[str, Dependencies]:
    """What ``-E`` or ``-M`` writes, and the files that were read."""
    left_out = ("-c", "-S", f"{_DEPFILE}{command.depfile}")
    argv = [word for word in _translated(command, shadow) if word not in left_out]
    at = argv.index("-o")

    def attempt() -> tuple[str, Dependencies]:
        with tempfile.NamedTemporaryFile(prefix="livegraft-read-", suffix=".d") as file:
            listed = ("-MMD", "-MF", file.name) if how == "-E" else ()
            argv_here = [*argv[:at], how, *listed, *options, *argv[at + 2 :]]
            try:
                output = run(argv_here, cwd=kernel.build, timeout=_COMPILE_SECONDS).stdout
            except RunFailed as error:
                raise _compile_error(kernel, command, shadow, error) from error
            if how == "-E":
                return output, read_dependencies(Path(file.name))
            return output, parse_dependencies(output, command.source)

    return _through(shadow, command, attempt)


def side_by_side(
    tasks: Iterable[Callable[[], T]],
    workers: int | None = None,
    advance: Callable[[], object] | None = None,
) -> list[T]:
    """Run compiles on all cores, as many at a time; the results in the tasks' order.

    The first error ends those that are running, and is raised; so does an interrupt.

    Args:
        workers, advance: as :func:`livegraft.jobs.in_order` takes them.
    """
    return list(in_order(tasks, workers, advance))


def check_layout(command: Command) -> None:
    """Refuse a kernel whose structures are laid out at random.

    Raises:
        Refused: CONFIG_RANDSTRUCT or a compiler plugin that does it is in the command.
    """
    for word in command.argv:
        if "randomize_layout" in word or word.startswith("-frandomize-layout"):
            reason = Reason(
                "randomized-layout",
                command.output,
                "structures of this kernel are laid out at random (CONFIG_RANDSTRUCT)",
                "no live patch can be built without the seed",
            )
            raise Refused(command.output, [reason])


def _compile(
    kernel: KernelTree,
    command: Command,
    output: Path,
    shadow: Shadow | None,
    extra_flags: Sequence[str],
) -> Dependencies:
    depfile = output.with_suffix(".d")
    argv = _translated(command, shadow)
    at = argv.index(f"{_DEPFILE}{command.depfile}")
    # Not -Wp,: a path with a comma would be taken apart.
    argv[at : at + 1] = ["-MMD", "-MF", str(depfile)]
    at = argv.index("-o")
    argv[at + 1] = str(output)
    argv[-1:-1] = extra_flags
    try:
        run(argv, cwd=kernel.build, timeout=_COMPILE_SECONDS)
    except RunFailed as error:
        raise _compile_error(kernel, command, shadow, error) from error
    return read_dependencies(depfile)


def _translated(command: Command, shadow: Shadow | None) -> list[str]:
    if shadow is None:
        return list(command.argv)
    words = [shadow.translate(word) for word in command.argv]
    return [*words[:-1], f"-I{AUTHORS_HEADERS}", words[-1]]


def _object(
    kernel: KernelTree, output: Path, dependencies: Dependencies, shadow: Shadow | None
) -> Object:
    # In a shadow a changed file is itself; every other one is a link into the source tree.
    read = dependencies.within(kernel.source)
    if shadow is not None:
        read |= dependencies.within(shadow.root)
    spelled = (name for name in dependencies.spelled if not name.startswith("/"))
    return Object(output, read, frozenset(os.path.normpath(name) for name in spelled))


def _content(kernel: KernelTree, files: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for name in files:
        path = kernel.build / name
        digest.update(path.read_bytes() if path.is_file() else b"\0missing")
    return digest.hexdigest()


def _compile_error(
    kernel: KernelTree, command: Command, shadow: Shadow | None, error: RunFailed
) -> CompileError | CacheError:
    if os.strerror(errno.ENOSPC) in error.output:
        return CacheError(command.output, "the disk is full", "free some space, or set TMPDIR")
    roots = [str(kernel.source), str(AUTHORS_HEADERS), *([str(shadow.root)] if shadow else [])]
    messages = clean(error.output, roots)
    place, text = first_error(messages)
    unit = os.path.normpath(command.output).removesuffix(".o") + ".c"
    if not text:
        return CompileError(unit, f"the compiler failed\n{messages}", "see its message")
    problem = f"does not compile: {text}" if place.startswith(unit) else f"{place}: {text}"
    return CompileError(place or unit, f"{problem}\n{messages}", "correct the fix")
