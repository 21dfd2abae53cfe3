# SPDX-License-Identifier: GPL-2.0-or-later
"""The verbs of installed patches, for :mod:`livegraft.runtime.commandline`."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from livegraft.errors import UsageError
from livegraft.progress import Progress
from livegraft.runtime.arguments import add_model, add_replace

HELP = {
    "install": "keep a live patch, to be loaded at each boot of its kernel",
    "uninstall": "keep a live patch no more",
    "list": "the installed live patches, and what each waits for",
    "boot": "load the installed live patches, as the machine does when it boots",
}

EXAMPLES = {
    "install": "livegraft install fix.ko",
    "uninstall": "livegraft uninstall livegraft_fix",
    "list": "livegraft list --json",
    "boot": "livegraft boot",
}


def has_failed(document: Mapping[str, Any]) -> bool:
    """Whether the document of ``boot`` tells of a patch that should be loaded and is not."""
    from livegraft.runtime.booting import BAD

    return any(each["outcome"] in BAD for each in document["patches"])


def _add_install(parser: argparse.ArgumentParser) -> None:
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("patch", metavar="PATCH.ko", type=Path, nargs="?", help="the live patch")
    which.add_argument(
        "--again",
        metavar="NAME",
        help="try an installed one again, though the machine crashed soon after it was loaded",
    )
    add_model(parser)
    add_replace(parser)
    parser.add_argument(
        "--order",
        type=int,
        metavar="NUMBER",
        help="patches with lower numbers are loaded before it (default: after all others)",
    )
    _add_release(parser, "with --again: the kernel that it is for, if there are several")


def _add_uninstall(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the live patch's module name")
    _add_release(parser, "the kernel that it is for, if it is installed for several")


def _add_list(parser: argparse.ArgumentParser) -> None:
    """It has none."""


def _add_boot(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", nargs="?", default="", help="only this one")
    how = parser.add_mutually_exclusive_group()
    how.add_argument(
        "--settle",
        action="store_true",
        help="load nothing; say that the machine is well with what was loaded at this boot",
    )
    how.add_argument(
        "--unsettled",
        action="store_true",
        help="leave the markers beside what is loaded, for a 'boot --settle' that comes later",
    )


def _add_release(parser: argparse.ArgumentParser, text: str) -> None:
    parser.add_argument("-k", "--kernel", metavar="RELEASE", help=text)


def _run_install(arguments: argparse.Namespace, progress: Progress) -> dict[str, object]:
    from livegraft.runtime.installed import running_release
    from livegraft.runtime.installing import Kept, enable_again, install

    again = arguments.again is not None
    if again:
        kept = Kept(enable_again(arguments.again, arguments.kernel), False, (), ())
    elif arguments.kernel:
        problem = "a patch is for the kernel that it was built for"
        raise UsageError("-k", problem, "leave it out, or see --again")
    else:
        with progress.step("install"):
            kept = install(
                arguments.patch,
                model=arguments.model,
                replacing=arguments.replace,
                order=arguments.order,
            )
    return {
        "patch": kept.patch.as_json(running_release()),
        "replaced": kept.replaced,
        "again": again,
        "signers": [each.as_json() for each in kept.signers],
        "warnings": list(kept.warnings),
    }


def _run_uninstall(arguments: argparse.Namespace, progress: Progress) -> dict[str, object]:
    from livegraft.runtime.installed import running_release
    from livegraft.runtime.installing import uninstall

    patch = uninstall(arguments.name, arguments.kernel)
    running = running_release()
    loaded = patch.release == running and patch.is_loaded()
    return {"patch": patch.as_json(running), "loaded": loaded}


def _run_list(arguments: argparse.Namespace, progress: Progress) -> dict[str, object]:
    from livegraft.runtime import switches
    from livegraft.runtime.installed import installed, running_release

    running = running_release()
    return {
        "release": running,
        "off": [each.as_json() for each in switches.off()],
        "patches": [each.as_json(running) for each in installed()],
    }


def _run_boot(arguments: argparse.Namespace, progress: Progress) -> dict[str, object]:
    from livegraft.runtime import booting

    if arguments.settle:
        if arguments.name:
            raise UsageError("--settle", "is for all that was loaded", "leave the name out")
        return booting.settle().as_json()
    settled = not arguments.unsettled
    return booting.boot(arguments.name, settled=settled, progress=progress).as_json()


ARGUMENTS: Mapping[str, Callable[[argparse.ArgumentParser], None]] = {
    "install": _add_install,
    "uninstall": _add_uninstall,
    "list": _add_list,
    "boot": _add_boot,
}
RUNNERS: Mapping[str, Callable[[argparse.Namespace, Progress], dict[str, object]]] = {
    "install": _run_install,
    "uninstall": _run_uninstall,
    "list": _run_list,
    "boot": _run_boot,
}
