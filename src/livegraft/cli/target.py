# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel that a verb is told to work for, prepared if need be."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from livegraft.cli.verb import Context
from livegraft.errors import UsageError

if TYPE_CHECKING:
    from livegraft.extract.folder import Folder
    from livegraft.kernel.kernel import Kernel
    from livegraft.pipeline import Method


def add_path(parser: argparse.ArgumentParser) -> None:
    """Add ``--path GLOB``, which limits a difference of two sources."""
    parser.add_argument(
        "--path",
        metavar="GLOB",
        action="append",
        default=[],
        help="only files that match, or all below a matching folder; may be given several times",
    )


def add_packages(parser: argparse.ArgumentParser) -> None:
    """Add ``--packages``."""
    parser.add_argument(
        "--packages",
        metavar="DIR",
        type=Path,
        help="take packages from the .deb files in DIR before asking apt",
    )


def add_release(parser: argparse.ArgumentParser) -> None:
    """Add ``-k``."""
    parser.add_argument(
        "-k",
        "--kernel",
        metavar="RELEASE",
        required=True,
        help="the kernel release, as 'uname -r' prints it",
    )


def add_fixes(parser: argparse.ArgumentParser) -> None:
    """Add the fixes, and whether to prove the unpatched code."""
    parser.add_argument(
        "fixes", metavar="FIX", nargs="+", type=Path, help="a unified diff, as git or diff make it"
    )
    add_release(parser)
    add_packages(parser)
    parser.add_argument(
        "--no-proof",
        action="store_true",
        help="do not prove that the code compiled here is the code that was shipped",
    )
    add_units(parser)


def add_units(parser: argparse.ArgumentParser) -> None:
    """Add ``--units``."""
    parser.add_argument(
        "--units",
        metavar="N",
        type=count,
        help="refuse a fix of headers that more than N units read: hundreds of them take minutes, "
        "thousands take hours (default: no limit)",
    )


def count(word: str) -> int:
    """The type of an argument that is a number of things: 1 or more."""
    number = int(word)
    if number < 1:
        raise argparse.ArgumentTypeError("has to be 1 or more")
    return number


def add_method(parser: argparse.ArgumentParser) -> None:
    """Add ``--method``."""
    parser.add_argument(
        "--method",
        choices=("compare", "extract", "both"),
        help="how the patch is prepared: 'compare' takes what differs out of the compiled object, "
        "'extract' cuts it out of the source and compiles that, 'both' does both and compares each "
        "function; extract's module is OUT.extract.ko then (default: compare; of a folder that "
        "'livegraft extract' has written, extract)",
    )


def method(arguments: argparse.Namespace, given: Folder | None) -> Method:
    """How the patch is to be prepared.

    Args:
        arguments: with ``method``.
        given: the folder of an extracted live patch, if that is to be built.

    Raises:
        UsageError: a folder's patch is cut out of the source already.
    """
    from livegraft.pipeline import Method

    if given is not None and arguments.method == "compare":
        problem = "builds what is compiled of the whole units, and a folder holds what was cut out"
        raise UsageError("--method compare", problem, "name the fix, or leave --method out")
    default = Method.EXTRACT if given is not None else Method.COMPARE
    return Method(arguments.method or default)


def kernel(arguments: argparse.Namespace, context: Context, name: str) -> Kernel:
    """Prepare a kernel; one that is prepared already is only opened.

    Args:
        arguments: with ``packages``.
        context: the cache and the progress.
        name: the release.
    """
    from livegraft.kernel.packages import default_source
    from livegraft.kernel.release import Release
    from livegraft.pipeline import prepare

    release = Release.parse(name)
    source = default_source(folder(arguments))
    return prepare(release, source=source, cache=context.cache(), progress=context.progress)


def folder(arguments: argparse.Namespace) -> Path | None:
    """The folder of packages, if one is given.

    Raises:
        UsageError: it is no folder.
    """
    given: Path | None = arguments.packages
    if given is not None and not given.is_dir():
        raise UsageError(str(given), "is no folder", "name the folder that holds the .deb files")
    return given


def files(paths: Sequence[Path], what: str) -> list[Path]:
    """Files given on the command line.

    Args:
        paths: as they were given.
        what: what they should be, for the error.

    Raises:
        UsageError: one does not exist or is a folder.
    """
    for path in paths:
        if path.is_dir():
            raise UsageError(str(path), f"is a folder, not {what}")
        if not path.exists():
            raise UsageError(str(path), "does not exist", f"name {what}")
    return list(paths)


def extracted(paths: Sequence[Path], release: str) -> Folder | None:
    """The folder of an extracted live patch, if that is what was given.

    Raises:
        UsageError: it was made for another kernel, or is not alone.
    """
    if not any(path.is_dir() for path in paths):
        return None
    from livegraft.extract.folder import is_folder, read_folder

    if not any(is_folder(path) for path in paths):
        return None
    if len(paths) > 1:
        names = ", ".join(map(str, paths))
        raise UsageError(names, "an extracted live patch is built alone", "name the folder only")
    found = read_folder(paths[0])
    if found.release != release:
        problem = f"was extracted for {found.release}"
        raise UsageError(str(paths[0]), problem, f"say -k {found.release}, or extract it again")
    return found


def writable(path: Path) -> Path:
    """An output file, checked before the work that it is to hold.

    Raises:
        UsageError: its folder does not exist, or it is a folder itself.
    """
    if path.is_dir():
        raise UsageError(str(path), "is a folder", "name a file")
    if not path.absolute().parent.is_dir():
        raise UsageError(str(path), "its folder does not exist", f"mkdir -p {path.parent}")
    return path
