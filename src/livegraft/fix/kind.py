# SPDX-License-Identifier: GPL-2.0-or-later
"""What kind of file a fix changes, and what that means for a live patch."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from pathlib import PurePosixPath

from livegraft.errors import Reason


class Kind(StrEnum):
    """The kinds of files in the kernel's source tree."""

    CODE = "code"
    HEADER = "header"
    DOCUMENTATION = "documentation-only"
    NOT_KERNEL = "not-kernel-code"
    FOREIGN = "not-built"
    ASSEMBLY = "assembly"
    VDSO = "vdso"
    BUILD_SYSTEM = "build-system"
    GENERATOR_INPUT = "generator-input"


_DOCUMENTS = frozenset(
    [
        ".clang-format",
        ".cocciconfig",
        ".get_maintainer.ignore",
        ".gitattributes",
        ".gitignore",
        ".mailmap",
        ".rustfmt.toml",
        "COPYING",
        "CREDITS",
        "MAINTAINERS",
        "README",
    ]
)
_DOCUMENT_SUFFIXES = (".rst", ".txt", ".md", ".yaml", ".svg", ".json")
_BUILD_PREFIXES = ("Kconfig", "Makefile", "Kbuild", "Platform")
_VDSO_FOLDERS = ("entry/vdso/", "um/vdso/", "kernel/vdso/", "kernel/vdso32/")


_BUILT_IN = "tools/lib/bpf/"
"""kernel/bpf/Makefile builds some files of it into the kernel (relo_core.c; btf_iter.c and
btf_relocate.c since 6.11), and a header of it is included there."""


def _is_documentation(path: str, _: str) -> bool:
    return (
        path.startswith(("Documentation/", "LICENSES/"))
        or PurePosixPath(path).name in _DOCUMENTS
        or path.endswith(_DOCUMENT_SUFFIXES)
    )


def _is_not_kernel(path: str, _: str) -> bool:
    # dts: this architecture's own are not linked into the kernel
    return path.startswith(("tools/", "samples/", "scripts/", "usr/")) or path.endswith(
        (".dts", ".dtsi", ".dtso")
    )


def _is_foreign(path: str, architecture: str) -> bool:
    parts = path.split("/")
    return parts[0] == "arch" and len(parts) > 2 and parts[1] != architecture


def _is_build_system(path: str, _: str) -> bool:
    return PurePosixPath(path).name.startswith(_BUILD_PREFIXES) or path.endswith(
        (".lds", ".lds.S", ".lds.h", ".config")
    )


def _is_vdso(path: str, architecture: str) -> bool:
    folders = tuple(f"arch/{architecture}/{folder}" for folder in _VDSO_FOLDERS)
    return path.startswith((*folders, "lib/vdso/"))


_TESTS: tuple[tuple[Kind, Callable[[str, str], bool]], ...] = (
    # In this order: a Makefile below tools/ or of another architecture matters to nobody here.
    (Kind.DOCUMENTATION, _is_documentation),
    (Kind.NOT_KERNEL, _is_not_kernel),
    (Kind.FOREIGN, _is_foreign),
    (Kind.BUILD_SYSTEM, _is_build_system),
    (Kind.VDSO, _is_vdso),
    (Kind.ASSEMBLY, lambda path, _: path.endswith((".S", ".s"))),
    (Kind.CODE, lambda path, _: path.endswith(".c")),
    (Kind.HEADER, lambda path, _: path.endswith((".h", ".inc", ".def"))),
)


def kind_of(path: str, architecture: str) -> Kind:
    """The kind of the file `path`, relative to the source tree.

    Args:
        architecture: ``SRCARCH``, the folder below arch/ (``x86``).
    """
    return next((kind for kind, test in _TESTS if test(path, architecture)), Kind.GENERATOR_INPUT)


def is_harmless(path: str, kind: Kind) -> bool:
    """Whether a fix may change the file beside code: the kernel does not contain it.

    scripts/ is not in the kernel either, but decides how it is built.
    """
    return kind in (Kind.DOCUMENTATION, Kind.NOT_KERNEL, Kind.FOREIGN) and not path.startswith(
        ("scripts/", _BUILT_IN)
    )


_MESSAGES = {
    Kind.DOCUMENTATION: ("is documentation", "there is nothing to patch in the running kernel"),
    Kind.NOT_KERNEL: ("is no part of the kernel image", "update the package that holds it"),
    Kind.FOREIGN: ("belongs to another architecture", "nothing is to be patched on this one"),
    Kind.ASSEMBLY: ("is assembly", "boot a kernel with the fix: only C functions are replaced"),
    Kind.VDSO: (
        "is part of the vDSO, which runs in user space",
        "boot a kernel with the fix: processes have mapped the old code",
    ),
    Kind.BUILD_SYSTEM: (
        "changes how the kernel is configured, built or linked",
        "leave it out of the fix if the code does not need it, else boot a kernel with the fix",
    ),
    Kind.GENERATOR_INPUT: (
        "is neither C nor a header that one includes",
        "leave it out of the fix if the code does not need it, else boot a kernel with the fix",
    ),
}


def reason_for(path: str, kind: Kind) -> Reason:
    """Why a changed file of that kind cannot be live patched."""
    if path.startswith(_BUILT_IN):
        message = "may be built into the kernel (kernel/bpf/Makefile), which is not looked into"
        _, remedy = _MESSAGES[Kind.BUILD_SYSTEM]
        return Reason(str(kind), path, message, remedy)
    message, remedy = _MESSAGES[kind]
    return Reason(str(kind), path, message, remedy)
