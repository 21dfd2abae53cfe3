# SPDX-License-Identifier: GPL-2.0-or-later
"""A kernel build tree beside a read-only source (``make O=``), as far as one unit needs it."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from livegraft.errors import BuildError, CacheError, ImageError, RunFailed
from livegraft.kernel.config import Config, check_unchanged
from livegraft.kernel.disk import full_disk
from livegraft.run import run

_MISSING_TOOLS = (
    (re.compile(r"(?:flex|bison|bc|make|gcc\S*|ld|perl|cpio|pahole): (?:command )?not found"), ""),
    (re.compile(r"openssl/\S+\.h"), "libssl-dev"),
    (re.compile(r"(?:libelf|gelf)\.h"), "libelf-dev"),
    (re.compile(r"\bNo such file or directory.*(?:stdio|stdlib|sys/types)\.h"), "libc6-dev"),
)
"""What make says when something is not installed, and Debian's package of it ("" = its name)."""


@dataclass(frozen=True, slots=True)
class BuildTree:
    """Where and with what a kernel is built.

    Args:
        release: the release that the image reports; becomes ``UTS_RELEASE`` and vermagic.
        source: the read-only source tree.
        path: the build tree.
        compiler: kbuild's ``CC``.
    """

    release: str
    source: Path
    path: Path
    compiler: str

    def make_argv(self, *args: str) -> list[str]:
        """The command that makes something in this tree.

        ``KERNELRELEASE`` goes with every call, else kbuild puts its own into the tree. Rust is kept
        out: a ``rustc`` that happens to be installed changes the configuration.
        """
        return [
            "make",
            f"--directory={self.source}",
            f"O={self.path}",
            "ARCH=x86",
            f"CC={self.compiler}",
            "RUSTC=false",
            f"KERNELRELEASE={self.release}",
            *args,
        ]

    def configure(self, shipped: Path) -> None:
        """Take over the image's configuration.

        Args:
            shipped: ``/boot/config-RELEASE`` of the image package.

        Raises:
            BuildError: kbuild failed.
            Refused: the tools of this machine changed the configuration.
        """
        text = shipped.read_text("utf-8")
        # With gcc's plugin headers installed this setting would appear and default to y.
        if "CONFIG_GCC_PLUGINS" not in text:
            text += "# CONFIG_GCC_PLUGINS is not set\n"
        (self.path / ".config").write_text(text, "utf-8")
        self._make("olddefconfig")
        made = Config.read(self.path / ".config")
        check_unchanged(self.release, Config.read(shipped), made)

    def make_ready(self, symvers: Path, on_line: Callable[[str], None]) -> None:
        """Make what compiling a unit needs, and no more of what kbuild calls ``prepare``.

        That adds objtool and resolve_btfids (four fifths of its time), which are for linking:
        modules are linked with the headers package, which has an objtool.

        Args:
            symvers: ``Module.symvers`` of the headers package.
            on_line: is told each line that kbuild prints.

        Raises:
            BuildError: kbuild failed.
            ImageError: the tree is not for this release.
        """
        jobs = len(os.sched_getaffinity(0))
        self._make(f"-j{jobs}", "prepare0", on_line=on_line)
        self._check_release()
        shutil.copyfile(symvers, self.path / "Module.symvers")

    def _check_release(self) -> None:
        made = (self.path / "include/generated/utsrelease.h").read_text("utf-8")
        if f'#define UTS_RELEASE "{self.release}"' not in made:
            raise ImageError(self.release, f"the tree was made for another release: {made.strip()}")

    def _make(self, *args: str, on_line: Callable[[str], None] | None = None) -> None:
        try:
            run(self.make_argv(*args), on_line=on_line)
        except RunFailed as error:
            raise make_error(self.release, args, error) from error


def make_error(release: str, targets: Sequence[str], error: RunFailed) -> BuildError | CacheError:
    """What a failed ``make`` means: a full disk, a package to install, or the first message."""
    text = error.output
    if (full := full_disk(release, text)) is not None:
        return full
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("make")]
    problem = f"make {' '.join(targets)} failed: {lines[0] if lines else error.problem}"
    for pattern, package in _MISSING_TOOLS:
        match = pattern.search(text)
        if match:
            return BuildError(release, problem, f"apt-get install {package or _tool(match[0])}")
    return BuildError(release, problem, "'make setup' installs what kbuild needs")


def _tool(message: str) -> str:
    return message.partition(":")[0]
