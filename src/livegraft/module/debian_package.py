# SPDX-License-Identifier: GPL-2.0-or-later
"""A live patch as a Debian package: for one kernel's package, with its signatures.

Its scripts leave all to the runtime: ``livegraft install`` and ``load`` when it is configured,
``unload`` and ``uninstall`` when it is removed. The same input makes the same bytes; times are
SOURCE_DATE_EPOCH's, or those of a fixed day.

Source: Debian Policy 4.6.2, chapters 3, 5 and 6; deb-control(5).
"""

from __future__ import annotations

import gzip
import hashlib
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from email.utils import formatdate
from enum import StrEnum
from pathlib import Path

from livegraft.errors import ModuleError, UsageError
from livegraft.module.delivery import write_whole
from livegraft.module.glue import mark
from livegraft.module.inspect import Inspection
from livegraft.module.template import rendered
from livegraft.run import run

RUNTIME = "livegraft-runtime"
PREFIX = "livegraft-patch-"

VERSION = re.compile(r"[0-9][A-Za-z0-9.+~-]{0,63}")
"""Policy 5.6.12, without an epoch, which a file's name has no room for."""

MAINTAINER = re.compile(r"[^<>\n]+ <[^<>@\s]+@[^<>@\s]+>")

NOBODY = "unknown <unknown@unknown.invalid>"

_EPOCH = 1577836800
"""Seconds: the first day of 2020. What is older than its packager's tools is taken for an error."""

_RELEASE = re.compile(r"[a-z0-9][a-z0-9.+-]*")
"""Of the kernels that are in packages: the release is part of the package's name."""


_MODULE = re.compile(r"[A-Za-z0-9_]+")
_WORD = re.compile(r"[A-Za-z0-9.+~_/,:-]+")


class Load(StrEnum):
    """When the package's patch is loaded."""

    NOW = "now"
    """When the package is configured, and at each boot."""
    BOOT = "boot"
    """At each boot from the next one on."""
    DEMAND = "demand"
    """When somebody asks for it."""


@dataclass(frozen=True, slots=True)
class Choices:
    """What is up to whoever makes the package.

    Args:
        load: when the patch is loaded.
        options: those of ``livegraft install`` and ``load``.
        version: the package's.
        maintainer: ``NAME <MAIL>``.

    Raises:
        UsageError: the version or the maintainer is none.
    """

    load: Load = Load.NOW
    options: Sequence[str] = ()
    version: str = "1"
    maintainer: str = NOBODY

    def __post_init__(self) -> None:
        if VERSION.fullmatch(self.version) is None:
            problem = "is no version of a package"
            raise UsageError(self.version, problem, "digits first: --package-version 1.2")
        if MAINTAINER.fullmatch(self.maintainer) is None:
            problem = "names no maintainer"
            raise UsageError(self.maintainer, problem, "--maintainer 'NAME <MAIL>'")


@dataclass(frozen=True, slots=True)
class Package:
    """A package that was made: its file, its name, and the packages that it depends on."""

    path: Path
    name: str
    depends: tuple[str, ...]


def make(
    patch: Inspection,
    data: bytes,
    signatures: Sequence[tuple[str, bytes]],
    folder: Path,
    choices: Choices,
) -> Package:
    """Make the package of a live patch.

    Args:
        patch: what the patch holds.
        data: its file.
        signatures: its detached signatures: file names and contents.
        folder: where the package goes, ``NAME_VERSION_amd64.deb``.
        choices: the rest.

    Raises:
        ModuleError: its kernel is none of Debian's, or something in it is named as nothing can be.
        RunFailed: dpkg-deb failed.
    """
    release = patch.manifest["kernel"]["release"]
    _require_plain(patch)
    if _RELEASE.fullmatch(release) is None:
        problem = f"is for the kernel {release}, which no package can be named after"
        raise ModuleError(patch.name, problem, "build it for a kernel of Debian's")
    place = f"usr/lib/livegraft/{release}/{patch.name}.ko"
    content = {place: data}
    for name, signature in signatures:
        content[f"usr/lib/livegraft/{release}/{name}"] = signature
    name, depends = _name(patch.name, release), _depends(patch.manifest)
    values = _values(patch, choices, f"/{place}") | {
        "package": name,
        "depends": ", ".join(depends),
    }
    document = f"usr/share/doc/{name}"
    content[f"{document}/copyright"] = _render("copyright", values)
    changelog = "changelog.Debian.gz" if "-" in choices.version else "changelog.gz"
    content[f"{document}/{changelog}"] = gzip.compress(_render("changelog", values), 9, mtime=0)
    values["kib"] = sum(-(-len(each) // 1024) for each in content.values())
    sums = [f"{hashlib.md5(each).hexdigest()}  {path}\n" for path, each in sorted(content.items())]
    control = {
        "control": _render("control", values),
        "md5sums": "".join(sums).encode(),
        "postinst": _render("postinst", values),
        "prerm": _render("prerm", values),
    }
    path = folder / f"{name}_{choices.version}_amd64.deb"
    write_whole(path, _packed(content, control))
    return Package(path, name, depends)


def _require_plain(patch: Inspection) -> None:
    """What goes into the scripts and into the control file must be nothing but names."""
    says = patch.manifest
    words = [says["kernel"]["source_version"], *says["fix"]["cves"], *says["fix"]["upstream"]]
    for text in (patch.name, *words, *says["fix"]["files"], says["fix"]["sha256"]):
        pattern = _MODULE if text == patch.name else _WORD
        if not isinstance(text, str) or pattern.fullmatch(text) is None:
            raise ModuleError(patch.name, f"holds the impossible name {text!r}", "build it again")


def _name(module: str, release: str) -> str:
    """Policy 5.6.1: small letters, digits, plus, minus and full stops."""
    short = module.lower().removeprefix("livegraft_").replace("_", "-").strip("-")
    return f"{PREFIX}{short or 'fix'}-{release}"


def _depends(manifest: Mapping[str, object]) -> tuple[str, ...]:
    kernel, tool = manifest["kernel"], manifest["tool"]
    assert isinstance(kernel, dict) and isinstance(tool, dict)
    # The unsigned image has the same code; Debian signs a copy of it.
    images = [f"linux-image-{kernel['release']}{suffix}" for suffix in ("", "-unsigned")]
    image = " | ".join(f"{each} (= {kernel['source_version']})" for each in images)
    # What built the patch knows its format; a clone that was never installed has no version.
    known = VERSION.fullmatch(str(tool["version"])) is not None
    return image, f"{RUNTIME} (>= {tool['version']})" if known else RUNTIME


def _values(patch: Inspection, choices: Choices, path: str) -> dict[str, object]:
    """What the templates take from the patch and from the choices."""
    says = patch.manifest
    options = "".join(f"{each} " for each in choices.options)
    when = {
        Load.NOW: "It is loaded when the package is installed, and at each boot.",
        Load.BOOT: "It is loaded at each boot of its kernel, from the next one on.",
        Load.DEMAND: f"It is loaded when somebody asks for it: livegraft load {options}{path}",
    }[choices.load]
    return {
        "name": patch.name,
        "mark": mark(says["fix"]["sha256"]),
        "release": says["kernel"]["release"],
        "source_version": says["kernel"]["source_version"],
        "fix_sha256": says["fix"]["sha256"],
        "files": says["fix"]["files"],
        "cves": says["fix"]["cves"],
        "upstream": says["fix"]["upstream"],
        "load": choices.load.value,
        "when": when,
        "options": options,
        "path": path,
        "version": choices.version,
        "maintainer": choices.maintainer,
        "date": formatdate(_epoch()),
    }


def _epoch() -> int:
    """Seconds since 1970, for all times in the package.

    Source: https://reproducible-builds.org/specs/source-date-epoch.
    """
    return int(os.environ.get("SOURCE_DATE_EPOCH") or _EPOCH)


def _render(template: str, values: Mapping[str, object]) -> bytes:
    return rendered(f"debian/{template}.in", values).encode()


def _packed(content: Mapping[str, bytes], control: Mapping[str, bytes]) -> bytes:
    """The package of these files and these control files (whose scripts may be run)."""
    with tempfile.TemporaryDirectory(prefix="livegraft-package-") as place:
        root, made = Path(place, "root"), Path(place, "made.deb")
        root.mkdir(mode=0o755)
        for name, data in content.items():
            _write(root, name, data, 0o644)
        for name, data in control.items():
            _write(root, f"DEBIAN/{name}", data, 0o755 if data.startswith(b"#!") else 0o644)
        for path in [root, *root.rglob("*")]:
            if path.is_dir():
                path.chmod(0o755)
            os.utime(path, (_epoch(), _epoch()))
        run(
            ["dpkg-deb", "--root-owner-group", "-Zxz", "--threads-max=1", "--build", root, made],
            env={"SOURCE_DATE_EPOCH": str(_epoch())},
        )
        return made.read_bytes()


def _write(root: Path, name: str, data: bytes, mode: int) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    path.chmod(mode)
