# SPDX-License-Identifier: GPL-2.0-or-later
"""The four verbs of the running kernel, for argparse: the same ones for both front ends.

``livegraft load`` and ``python3 -m livegraft.runtime load`` differ in who prints. What they accept
and what they answer is here.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from livegraft.errors import Exit
from livegraft.progress import SILENT, Progress
from livegraft.runtime import interruption
from livegraft.runtime.loading import TIMEOUT, load
from livegraft.runtime.model import GUARANTEES, ModelName
from livegraft.runtime.state import status, wait
from livegraft.runtime.unloading import unload, unload_all

Document = dict[str, object]

HELP = {
    "load": "load a live patch into the running kernel",
    "unload": "undo a live patch and remove it",
    "status": "what is loaded, and who blocks a transition",
    "wait": "wait until a transition is complete",
}
"""The verbs, and a line of help for each."""

EXAMPLES = {
    "load": "livegraft load fix.ko",
    "unload": "livegraft unload livegraft_fix",
    "status": "livegraft status --json",
    "wait": "livegraft wait livegraft_fix --timeout 10",
}


def add_arguments(verb: str, parser: argparse.ArgumentParser) -> None:
    """Give a verb's parser its arguments, except for ``--json``, which every verb has.

    Args:
        verb: one of :data:`HELP`.
        parser: the verb's own parser.
    """
    ARGUMENTS[verb](parser)


def run(
    verb: str, arguments: argparse.Namespace, progress: Progress = SILENT
) -> tuple[Document, Exit]:
    """Run a verb. SIGTERM and SIGHUP interrupt it as Ctrl-C does, and it is undone then.

    Args:
        verb: one of :data:`HELP`.
        arguments: what its parser found.
        progress: told of the steps.

    Returns:
        The verb's document, and the exit status.

    Raises:
        LivegraftError: as the functions of :mod:`livegraft.runtime`.
        KeyboardInterrupt: after everything was undone.
    """
    with interruption.as_interrupts():
        document = RUNNERS[verb](arguments, progress)
    document["timings"] = {name: round(took, 6) for name, took in progress.timings.items()}
    return document, Exit.DONE


def text(verb: str, document: Mapping[str, Any]) -> str:
    """A verb's document for people.

    Args:
        verb: one of :data:`HELP`.
        document: what :func:`run` returned.
    """
    return "\n".join(TEXTS[verb](document))


def _add_load(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("patch", metavar="PATCH.ko", type=Path, help="the live patch")
    parser.add_argument(
        "--model",
        choices=[each.value for each in ModelName],
        default=ModelName.NATIVE.value,
        help="how the system stays consistent (default: %(default)s, the kernel's own core)",
    )
    parser.add_argument(
        "--foreign",
        action="store_true",
        help="accept a live patch that livegraft did not build; its identity cannot be checked",
    )
    _add_wait(parser, "undone")


def _add_unload(parser: argparse.ArgumentParser) -> None:
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("name", metavar="NAME", nargs="?", help="the live patch's module name")
    which.add_argument("--all", action="store_true", help="every live patch, the newest first")
    _add_wait(parser, "turned on again")


def _add_status(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", nargs="?", help="only this one")


def _add_wait_verb(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the live patch's module name")
    _add_timeout(parser, "the verb fails after that; the transition goes on")


def _add_wait(parser: argparse.ArgumentParser, otherwise: str) -> None:
    _add_timeout(parser, f"after that the patch is {otherwise}")
    parser.add_argument(
        "--keep-waiting",
        action="store_true",
        help="after the timeout, leave the transition to the kernel",
    )


def _add_timeout(parser: argparse.ArgumentParser, meaning: str) -> None:
    parser.add_argument(
        "--timeout",
        type=_seconds,
        default=TIMEOUT,
        metavar="SECONDS",
        help=f"for the transition (default: %(default)g); {meaning}",
    )
    parser.add_argument(
        "--no-kicks",
        action="store_true",
        help="do not hasten the kernel's core: it then looks once a second (for measuring)",
    )


def _seconds(argument: str) -> float:
    seconds = float(argument)
    if not 0 <= seconds < 1e6:
        raise argparse.ArgumentTypeError(f"{argument} is not a number of seconds")
    return seconds


def _run_load(arguments: argparse.Namespace, progress: Progress) -> Document:
    loaded = load(
        arguments.patch,
        model=arguments.model,
        foreign=arguments.foreign,
        timeout=arguments.timeout,
        kicks=not arguments.no_kicks,
        keep_waiting=arguments.keep_waiting,
        progress=progress,
    )
    return loaded.as_json()


def _run_unload(arguments: argparse.Namespace, progress: Progress) -> Document:
    options: dict[str, Any] = {
        "timeout": arguments.timeout,
        "kicks": not arguments.no_kicks,
        "keep_waiting": arguments.keep_waiting,
        "progress": progress,
    }
    done = unload_all(**options) if arguments.all else [unload(arguments.name, **options)]
    return {"unloaded": [each.as_json() for each in done]}


def _run_status(arguments: argparse.Namespace, progress: Progress) -> Document:
    return {"patches": [each.as_json() for each in status(arguments.name)]}


def _run_wait(arguments: argparse.Namespace, progress: Progress) -> Document:
    found = wait(arguments.name, arguments.timeout, kicks=not arguments.no_kicks, progress=progress)
    return found.as_json()


def _text_load(document: Mapping[str, Any]) -> list[str]:
    lines = [f"{document['name']}: {document['state']}{_took(document)}"]
    lines += _objects(document["objects"])
    lines += [f"  {name}: not loaded, patched when it comes" for name in document["absent"]]
    lines += [f"  blocked by {_blocker(each)}" for each in document["blockers"]]
    lines += [f"  caution: {warning}" for warning in document["warnings"]]
    return lines


def _text_unload(document: Mapping[str, Any]) -> list[str]:
    lines = [f"{each['name']}: {each['state']}{_took(each)}" for each in document["unloaded"]]
    return lines or ["no live patch is loaded"]


def _text_status(document: Mapping[str, Any]) -> list[str]:
    lines: list[str] = []
    for each in document["patches"]:
        lines += _text_wait(each)
        if each["model"] in GUARANTEES:
            lines.append(f"  {each['model']}: {GUARANTEES[each['model']]}")
    return lines or ["no live patch is loaded"]


def _text_wait(document: Mapping[str, Any]) -> list[str]:
    direction = f" ({document['direction']})" if document["direction"] else ""
    since = f" since {document['since']}" if document["since"] else ""
    origin = "foreign" if document["foreign"] else f"model {document['model']}"
    lines = [f"{document['name']}: {document['state']}{direction}{since}, {origin}"]
    lines += _objects(document["objects"])
    lines += [f"  blocked by {_blocker(each)}" for each in document["blockers"]]
    lines += [f"  caution: {warning}" for warning in document["warnings"]]
    return lines


def _took(document: Mapping[str, Any]) -> str:
    if document["transition_ms"] is None:
        return ""
    return f", every task changed sides within {document['transition_ms']:.1f} ms"


def _objects(objects: Sequence[Mapping[str, Any]]) -> list[str]:
    return [
        f"  {each['name']}: {'patched' if each['patched'] else 'not loaded'}: "
        + ", ".join(function["name"] for function in each["functions"])
        for each in objects
    ]


def _blocker(document: Mapping[str, Any]) -> str:
    where = f" inside {document['function']}" if document["function"] else ""
    return f"{document['comm']} (pid {document['pid']}, {document['state']}){where}"


ARGUMENTS: Mapping[str, Callable[[argparse.ArgumentParser], None]] = {
    "load": _add_load,
    "unload": _add_unload,
    "status": _add_status,
    "wait": _add_wait_verb,
}
RUNNERS: Mapping[str, Callable[[argparse.Namespace, Progress], Document]] = {
    "load": _run_load,
    "unload": _run_unload,
    "status": _run_status,
    "wait": _run_wait,
}
TEXTS: Mapping[str, Callable[[Mapping[str, Any]], list[str]]] = {
    "load": _text_load,
    "unload": _text_unload,
    "status": _text_status,
    "wait": _text_wait,
}
