# SPDX-License-Identifier: GPL-2.0-or-later
"""``livegraft package``: a live patch as a Debian package."""

from __future__ import annotations

import argparse
import hashlib
import os
from pathlib import Path

from livegraft.cli import target
from livegraft.cli.verb import Answer, Context, Verb
from livegraft.errors import Exit, UsageError
from livegraft.runtime.arguments import add_model, add_replace
from livegraft.runtime.model import ModelName


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("patch", metavar="PATCH.ko", type=Path, help="the live patch")
    parser.add_argument(
        "-o",
        "--output",
        metavar="DIR",
        type=Path,
        default=Path(),
        help="the folder for NAME_VERSION_amd64.deb (default: the current one)",
    )
    parser.add_argument(
        "--load",
        choices=("now", "boot", "demand"),
        default="now",
        help="when a machine that installs the package loads the patch: at once and at each boot "
        "(now, the default), at each boot from the next one on (boot), or when somebody runs "
        "'livegraft load' (demand)",
    )
    add_model(parser)
    add_replace(parser)
    parser.add_argument(
        "--package-version",
        metavar="VERSION",
        default="1",
        help="the package's version, higher for each one that takes the place of another "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--maintainer",
        metavar="MAINTAINER",
        help="NAME <MAIL> (default: that of the variables DEBFULLNAME and DEBEMAIL)",
    )


def run(arguments: argparse.Namespace, context: Context) -> Answer:
    """Make the package."""
    (patch,) = target.files([arguments.patch], "a live patch module")
    if not arguments.output.is_dir():
        problem = "its folder does not exist"
        raise UsageError(str(arguments.output), problem, f"mkdir -p {arguments.output}")
    from livegraft.module import debian_package
    from livegraft.module.debian_package import Choices, Load
    from livegraft.module.inspect import inspect_bytes
    from livegraft.runtime.model import Options, model_named
    from livegraft.runtime.payload import Payload
    from livegraft.trust import detached

    choices = Choices(
        Load(arguments.load),
        _options(arguments),
        arguments.package_version,
        arguments.maintainer or _maintainer(),
    )
    payload = Payload.read(patch)
    inspection = inspect_bytes(payload.data, str(patch))
    model_named(arguments.model).accept(payload, Options(arguments.replace))
    # They are found by the module's name where the package puts them.
    signatures = [
        (f"{payload.name}.ko{name.removeprefix(patch.name)}", data)
        for name, data in detached.find(patch)
    ]
    made = debian_package.make(inspection, payload.data, signatures, arguments.output, choices)
    data = made.path.read_bytes()
    document = {
        "path": str(made.path),
        "package": made.name,
        "version": choices.version,
        "depends": list(made.depends),
        "size": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "load": choices.load.value,
        "model": arguments.model,
        "replace": arguments.replace,
        "patch": payload.name,
        "release": payload.release,
        "signatures": [name for name, _ in signatures],
        "timings": context.timings(),
    }
    return Answer(document, f"{made.path}: for {payload.release}, loaded {_WHEN[choices.load]}")


_WHEN = {
    "now": "when it is installed, and at each boot",
    "boot": "at each boot, from the next one",
    "demand": "when somebody asks for it",
}


def _options(arguments: argparse.Namespace) -> list[str]:
    """What ``install`` and ``load`` are to be told."""
    options = []
    if arguments.model != ModelName.NATIVE:
        options += ["--model", str(arguments.model)]
    return [*options, "--replace"] if arguments.replace else options


def _maintainer() -> str:
    """As Debian's own tools find it (debchange(1)); the same for all who have said nothing."""
    from livegraft.module.debian_package import NOBODY

    name, mail = os.environ.get("DEBFULLNAME"), os.environ.get("DEBEMAIL")
    return f"{name} <{mail}>" if name and mail else NOBODY


VERB = Verb(
    name="package",
    description="""\
Put a live patch into a Debian package, so that machines get it as they get everything else: by apt,
from a signed repository. The package depends on the very version of the very kernel's package that
the patch was built for, and on livegraft-runtime. Detached signatures beside the patch go along.

When it is installed the patch is kept for each boot, as by 'livegraft install', and, if its kernel
runs, loaded at once, as by 'livegraft load'; --load boot leaves the loading to the next boot, and
--load demand to the administrator: the file is there, and nothing looks at it until then. What
'livegraft install' refuses is else not installed by apt either; a patch that cannot be loaded at
once is loaded at the next boot, and the installation says so. When the package is removed the patch
is unloaded and kept no more; if it cannot be unloaded the package stays.

The same patch and the same options make the same bytes.""",
    examples=(
        "livegraft package fix.ko -o packages",
        "livegraft package fix.ko -o packages --load boot --package-version 1.1",
    ),
    configure=configure,
    run=run,
    exits={
        Exit.FAILED: "it is no live patch of livegraft, or not what its manifest says",
        Exit.REFUSED: "something follows the module, or lies beside it, that is no signature",
    },
)
