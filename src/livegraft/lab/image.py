# SPDX-License-Identifier: GPL-2.0-or-later
"""The file systems that guests run in, made from Debian packages, without root.

An image is a cpio archive, not compressed: the kernel unpacks that fastest. It is made once and
named after its recipe: images.toml, the agent's source, and what this file does. New versions of
its packages do not make it anew: a guest is no place for security updates, and what is cached has
to be enough when there is no network.
"""

from __future__ import annotations

import fnmatch
import hashlib
import os
import shutil
import tempfile
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from importlib import resources
from pathlib import Path

from livegraft.cache import Cache
from livegraft.errors import CommandMissing
from livegraft.lab.cpio import CpioWriter
from livegraft.progress import SILENT, Progress
from livegraft.run import run

_LAYOUT = 3
"""Another number when this file makes something else out of the same recipe."""

_MERGED = ("bin", "lib", "lib32", "lib64", "libx32", "sbin")
"""Debian 12 has these as links into /usr, and packages with files in either place."""

_FOLDERS = ("root", "dev", "proc", "sys", "tmp", "run", "mnt", "etc", "var/tmp", "lib/livegraft")
_FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    "etc/group": "root:x:0:\nnogroup:x:65534:\n",
}
_LINKS = {"etc/mtab": "../proc/self/mounts"}

_SHELLS = ("dash", "busybox")
"""What sh is: the first that is there. As sh, busybox prefers its own mke2fs to e2fsprogs'."""


class Image(StrEnum):
    """The images there are."""

    BARE = "bare"
    """busybox."""
    PYTHON = "python"
    """busybox, e2fsprogs, Python 3 with most of its standard library."""
    OPENSSL = "openssl"
    """The same, and openssl."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """An entry of images.toml.

    Args:
        packages: Debian packages.
        leave_out: patterns of paths that are not taken.
        python: folder of the standard library to compile beforehand, or None.
    """

    packages: tuple[str, ...]
    leave_out: tuple[str, ...]
    python: str | None

    def takes(self, path: str) -> bool:
        """Whether a file is part of the image; `path` is relative to its root."""
        return not any(fnmatch.fnmatchcase(path, pattern) for pattern in self.leave_out)


def recipe(image: Image) -> Recipe:
    """The recipe of an image."""
    tables = tomllib.loads(_resource("images.toml").decode())
    table = tables[image]
    base = recipe(Image(table["extends"])) if "extends" in table else Recipe((), (), None)
    return Recipe(
        (*base.packages, *table["packages"]),
        (*base.leave_out, *table["leave_out"]),
        table.get("python", base.python),
    )


def archive(image: Image, cache: Cache, progress: Progress = SILENT) -> Path:
    """An image's cpio archive, made if it is not in the cache.

    Args:
        image: which one.
        cache: where it is kept, and the packages.
        progress: told of downloading and making.

    Raises:
        KernelError: a package cannot be had (PackageMissing, NoNetwork).
        RunFailed: the agent does not compile.
    """
    found = recipe(image)
    key = hashlib.sha256(repr((_LAYOUT, found, agent_sources())).encode()).hexdigest()[:16]

    def make(path: Path) -> None:
        with progress.step(f"guest image {image}"), tempfile.TemporaryDirectory() as folder:
            root = Path(folder, "root")
            _unpack(found, root, cache, progress)
            if found.python:
                _compile_library(root, found)
            agent = Path(folder, "agent")
            compile_agent(agent)
            with path.open("wb") as stream:
                _write(CpioWriter(stream), root, found, agent)

    return cache.file(f"lab/image/{image}-{key}.cpio", make, progress)


def package_archive(names: Sequence[str], cache: Cache, progress: Progress = SILENT) -> Path:
    """An archive of the files of some packages, for a guest with an image.

    Raises:
        KernelError: a package cannot be had (PackageMissing, NoNetwork).
    """
    found = Recipe(tuple(names), ("usr/share/doc/*", "usr/share/man/*", "usr/share/locale/*"), None)
    key = hashlib.sha256(repr((_LAYOUT, found)).encode()).hexdigest()[:16]

    def make(path: Path) -> None:
        with tempfile.TemporaryDirectory() as folder, path.open("wb") as stream:
            root = Path(folder, "root")
            _unpack(found, root, cache, progress)
            cpio = CpioWriter(stream)
            for file in sorted(_files_below(root)):
                name = str(file.relative_to(root))
                if name not in _MERGED and found.takes(name):
                    cpio.copy(name, file)
            cpio.finish()

    return cache.file(f"lab/packages/{key}.cpio", make, progress)


def _resource(name: str) -> bytes:
    return resources.files(__package__).joinpath(name).read_bytes()


def agent_sources() -> list[tuple[str, bytes]]:
    """The agent's files, by name."""
    folder = resources.files(__package__).joinpath("agent")
    return sorted((each.name, each.read_bytes()) for each in folder.iterdir())


def _unpack(found: Recipe, root: Path, cache: Cache, progress: Progress) -> None:
    from livegraft.kernel.apt import Apt
    from livegraft.kernel.packages import find

    apt = Apt()
    apt.lookup(found.packages)  # all at once: each call of apt-cache takes a while
    chosen = [find(apt, name) for name in found.packages]
    total = sum(package.size for package in chosen)
    with progress.step("download guest packages", total) as step:
        apt.fetch(chosen, cache, step.advance)
    for name in _MERGED:
        (root / "usr" / name).mkdir(parents=True)
        (root / name).symlink_to(f"usr/{name}")
    for package in chosen:
        _unpack_merged(partial(apt.unpack, package, cache), root)


def _unpack_merged(unpack: Callable[[Path], None], root: Path) -> None:
    """Unpack a package and move its files into the root, those of /lib to /usr/lib."""
    with tempfile.TemporaryDirectory(dir=root.parent) as folder:
        unpack(Path(folder))
        for path in _files_below(Path(folder)):
            relative = path.relative_to(folder)
            if relative.parts[0] in _MERGED:
                relative = Path("usr", relative)
            target = root / relative
            target.parent.mkdir(parents=True, exist_ok=True)
            path.rename(target)


def _compile_library(root: Path, found: Recipe) -> None:
    """Compile Python's library with the image's own interpreter, and leave its source out.

    Installing a package compiles; unpacking does not, and a guest should not either, every time.
    The hash-based kind does not depend on file times, of which the archive has none. Each file
    costs time at each start: that of the source, which nobody reads in a guest, was a tenth of it.
    """
    assert found.python is not None
    for path in [*_files_below(root)]:
        # A link would lead to a file of this machine (sitecustomize.py).
        is_foreign = path.is_symlink() and path.is_relative_to(root / found.python)
        if is_foreign or not found.takes(str(path.relative_to(root))):
            path.unlink()
    library = root / found.python
    libraries = root / "usr/lib/x86_64-linux-gnu"
    interpreter = root / "usr/bin" / Path(found.python).name
    run(
        [
            *(libraries / "ld-linux-x86-64.so.2", "--library-path", libraries, interpreter),
            # -B: what it imports itself is not compiled beside its source, which goes.
            *("-S", "-B", "-m", "compileall", "-q", "-b", "--invalidation-mode", "unchecked-hash"),
            *("-s", root, "-p", "/", library),
        ],
        env={"PYTHONHOME": str(root / "usr")},
    )
    for compiled in library.rglob("*.pyc"):
        compiled.with_suffix(".py").unlink(missing_ok=True)


def compile_agent(target: Path) -> None:
    """Compile the agent.

    Raises:
        CommandMissing: there is no compiler.
        RunFailed: it does not compile.
    """
    compiler = next(filter(shutil.which, ("cc", "gcc", "gcc-12", "gcc-14")), None)
    if compiler is None:
        raise CommandMissing("cc", "is not installed", "apt-get install gcc libc6-dev")
    folder = target.with_suffix(".src")
    folder.mkdir()
    for name, source in agent_sources():
        (folder / name).write_bytes(source)
    run([compiler, "-O2", "-static", "-s", "-o", target, *sorted(folder.glob("*.c"))])


def _write(cpio: CpioWriter, root: Path, found: Recipe, agent: Path) -> None:
    for name in _MERGED:
        cpio.folder(f"usr/{name}")
        cpio.link(name, f"usr/{name}")
    for name in _FOLDERS:
        cpio.folder(_real(name))
    for name, text in _FILES.items():
        cpio.file(name, text.encode())
    for name, target in _LINKS.items():
        cpio.link(name, target)
    cpio.character_device("dev/console", 5, 1)
    cpio.file("init", agent.read_bytes(), 0o755)
    commands = {"busybox"}
    for path in sorted(_files_below(root)):
        name = str(path.relative_to(root))
        if name not in _MERGED and found.takes(name):
            cpio.copy(name, path)
            commands.add(path.name)
    cpio.link("usr/bin/sh", next(name for name in _SHELLS if name in commands))
    commands.add("sh")
    for applet in run([root / "usr/bin/busybox", "--list"]).stdout.split():
        if applet not in commands:
            cpio.link(f"usr/bin/{applet}", "busybox")
    cpio.finish()


def _real(path: str) -> str:
    return f"usr/{path}" if path.partition("/")[0] in _MERGED else path


def _files_below(folder: Path) -> Iterator[Path]:
    for above, folders, names in os.walk(folder):
        for name in (*names, *(each for each in folders if Path(above, each).is_symlink())):
            yield Path(above, name)
