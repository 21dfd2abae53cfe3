# SPDX-License-Identifier: GPL-2.0-or-later
"""The verbs of the running kernel, for argparse: the same ones for both front ends.

``livegraft load`` and ``python3 -m livegraft.runtime load`` differ in who prints. What they accept
and what they answer is here.

What a verb alone needs is imported by its own function: start-up time counts, the more so when many
machines, or slow ones, load a patch.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from livegraft.errors import Exit, UsageError
from livegraft.progress import SILENT, Progress
from livegraft.runtime import installedverbs, interruption, wording
from livegraft.runtime.arguments import add_model, add_replace
from livegraft.runtime.checking import STALLED_AFTER, Health
from livegraft.runtime.stall import FORCE_FLAG, TIMEOUT, OnStall

Document = dict[str, object]

HELP = {
    "load": "load a live patch into the running kernel",
    "unload": "undo a live patch and remove it",
    "status": "what is loaded, and who blocks a transition",
    "wait": "wait until a transition is complete",
    "models": "which consistency models this machine has",
    "blockers": "who keeps a transition from completing",
    "forecast": "how a live patch's transition would go",
    "verify": "who has signed a live patch, and whether this machine trusts them",
    "history": "what was loaded and unloaded here, by whom, and what became of it",
    "metrics": "the live patches as metrics for Prometheus",
    **installedverbs.HELP,
}
"""The verbs, and a line of help for each."""

EXAMPLES = {
    "load": "livegraft load fix.ko",
    "unload": "livegraft unload livegraft_fix",
    "status": "livegraft status --json",
    "wait": "livegraft wait livegraft_fix --timeout 10",
    "models": "livegraft models",
    "blockers": "livegraft blockers livegraft_fix",
    "forecast": "livegraft forecast fix.ko",
    "verify": "livegraft verify fix.ko",
    "history": "livegraft history livegraft_fix",
    "metrics": "livegraft metrics -o /var/lib/prometheus/node-exporter/livegraft.prom",
    **installedverbs.EXAMPLES,
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
) -> tuple[Document, Exit | Health]:
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
    return document, exit_code(verb, document)


def exit_code(verb: str, document: Mapping[str, Any]) -> Exit | Health:
    """The exit status of a verb that has answered: what ``verify``, ``boot`` and
    ``status --check`` say can be bad."""
    if verb == "verify":
        from livegraft.runtime.verifying import Verdict

        rebuilt = document["rebuilt"]
        # Who builds it again may do so before anybody has signed it.
        good = {Verdict.TRUSTED} if rebuilt is None else {Verdict.TRUSTED, Verdict.UNSIGNED}
        equal = rebuilt is None or rebuilt["equal"]
        return Exit.DONE if equal and document["verdict"] in good else Exit.REFUSED
    if verb == "status" and document["check"] is not None:
        return Health(document["check"]["code"])
    if verb == "boot" and installedverbs.has_failed(document):
        return Exit.FAILED
    return Exit.DONE


def text(verb: str, document: Mapping[str, Any]) -> str:
    """A verb's document for people.

    Args:
        verb: one of :data:`HELP`.
        document: what :func:`run` returned.
    """
    return "\n".join(wording.TEXTS[verb](document))


def _add_load(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("patch", metavar="PATCH.ko", type=Path, help="the live patch")
    add_model(parser)
    parser.add_argument(
        "--foreign",
        action="store_true",
        help="accept a live patch that livegraft did not build; its identity cannot be checked",
    )
    add_replace(parser)
    parser.add_argument(
        "--no-direct",
        action="store_true",
        help="let the engine use ordinary ftrace handlers: slower, and beside BPF programs",
    )
    _add_wait(parser, "undo the patch")


def _add_unload(parser: argparse.ArgumentParser) -> None:
    which = parser.add_mutually_exclusive_group(required=True)
    name = "the live patch's module name, or livegraft_engine"
    which.add_argument("name", metavar="NAME", nargs="?", help=name)
    which.add_argument("--all", action="store_true", help="every live patch, the newest first")
    _add_wait(parser, "turn the patch on again")


def _add_status(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", nargs="?", help="only this one")
    parser.add_argument(
        "--check",
        action="store_true",
        help="for monitoring: one line that says whether all is well, and an exit code of its own "
        "for what is not",
    )
    _add_stalled(parser)


def _add_wait_verb(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the live patch's module name")
    _add_timeout(parser, "the verb fails after that; the transition goes on")


def _add_models(parser: argparse.ArgumentParser) -> None:
    """It has none."""


def _add_blockers(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the live patch's module name")


def _add_forecast(parser: argparse.ArgumentParser) -> None:
    from livegraft.runtime.forecasting import SECONDS

    parser.add_argument("patch", metavar="PATCH.ko", type=Path, help="the live patch; not loaded")
    parser.add_argument(
        "--seconds",
        type=_seconds,
        default=SECONDS,
        metavar="SECONDS",
        help="for how long to look at all stacks (default: %(default)g)",
    )


def _add_verify(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("patch", metavar="PATCH.ko", type=Path, help="the live patch; not loaded")
    parser.add_argument(
        "--trusted",
        metavar="DIR",
        type=Path,
        help="a folder of trusted certificates (default: /etc/livegraft/trusted.d)",
    )


def _add_stalled(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--stalled-after",
        type=_seconds,
        default=STALLED_AFTER,
        metavar="SECONDS",
        help="when a transition counts as stalled (default: %(default)g)",
    )


def _add_history(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", nargs="?", help="only this live patch")


def _add_metrics(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        type=Path,
        help="write them to FILE, which is replaced as a whole; its name has to end in .prom for "
        "the node exporter (default: standard output)",
    )
    _add_stalled(parser)


def _add_wait(parser: argparse.ArgumentParser, otherwise: str) -> None:
    _add_timeout(parser, "see --on-stall for what comes then")
    parser.add_argument(
        "--on-stall",
        choices=[each.value for each in OnStall],
        default=OnStall.UNDO.value,
        help=f"after the timeout, {otherwise} (undo, the default); leave the transition to the "
        f"kernel (wait); signal what sleeps in the way, wait as long again and then undo (signal); "
        f"let what is in the way change sides, consistent or not (force)",
    )
    parser.add_argument(
        FORCE_FLAG,
        dest="force_anyway",
        action="store_true",
        help="has to be said with --on-stall force; the module can never be removed after that",
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
    from livegraft.runtime.loading import load

    loaded = load(
        arguments.patch,
        model=arguments.model,
        foreign=arguments.foreign,
        timeout=arguments.timeout,
        on_stall=arguments.on_stall,
        force_anyway=arguments.force_anyway,
        replace=arguments.replace,
        direct=not arguments.no_direct,
        kicks=not arguments.no_kicks,
        progress=progress,
    )
    return loaded.as_json()


def _run_unload(arguments: argparse.Namespace, progress: Progress) -> Document:
    from livegraft.runtime.unloading import unload, unload_all

    options: dict[str, Any] = {
        "timeout": arguments.timeout,
        "kicks": not arguments.no_kicks,
        "on_stall": arguments.on_stall,
        "force_anyway": arguments.force_anyway,
        "progress": progress,
    }
    done = unload_all(**options) if arguments.all else [unload(arguments.name, **options)]
    return {"unloaded": [each.as_json() for each in done]}


def _run_status(arguments: argparse.Namespace, progress: Progress) -> Document:
    from livegraft.runtime import checking, identity, switches
    from livegraft.runtime.state import status
    from livegraft.runtime.taints import taints

    if arguments.check and arguments.name is not None:
        raise UsageError("status --check", "looks at all live patches", "leave out the name")
    found = status(arguments.name)
    document: Document = {
        "kernel": identity.running(),
        "patches": [each.as_json() for each in found],
        "taints": [each.as_json() for each in taints()],
        "check": None,
        "off": [each.as_json() for each in switches.off()],
    }
    if arguments.check:
        checked = checking.check(found, stalled_after=arguments.stalled_after)
        document["check"] = checked.as_json()
    return document


def _run_wait(arguments: argparse.Namespace, progress: Progress) -> Document:
    from livegraft.runtime.state import wait

    found = wait(arguments.name, arguments.timeout, kicks=not arguments.no_kicks, progress=progress)
    return found.as_json()


def _run_models(arguments: argparse.Namespace, progress: Progress) -> Document:
    from livegraft.runtime.offers import engine_version, models

    return {"models": [each.as_json() for each in models()], "engine": engine_version()}


def _run_blockers(arguments: argparse.Namespace, progress: Progress) -> Document:
    from livegraft.runtime.state import status

    document = status(arguments.name)[0].as_json()
    wanted = ("name", "model", "state", "direction", "phase", "since", "moved", "left", "blockers")
    return {each: document[each] for each in wanted}


def _run_forecast(arguments: argparse.Namespace, progress: Progress) -> Document:
    from livegraft.runtime.forecasting import forecast

    with progress.step("look"):
        return forecast(arguments.patch, seconds=arguments.seconds).as_json()


def _run_verify(arguments: argparse.Namespace, progress: Progress) -> Document:
    from livegraft.runtime.verifying import verify

    with progress.step("signatures"):
        return verify(arguments.patch, trusted=arguments.trusted).as_json()


def _run_history(arguments: argparse.Namespace, progress: Progress) -> Document:
    from livegraft.runtime.history import history

    return {"entries": [each.as_json() for each in history(arguments.name)]}


def _run_metrics(arguments: argparse.Namespace, progress: Progress) -> Document:
    from livegraft.runtime import checking, identity, metrics
    from livegraft.runtime.state import status
    from livegraft.runtime.taints import taints

    patches = status()
    checked = checking.check(patches, stalled_after=arguments.stalled_after)
    found = metrics.metrics(patches, checked, taints(), identity.running())
    documents = [each.as_json() for each in found]
    if arguments.output is not None:
        metrics.write(arguments.output, metrics.text(documents))
    return {"path": arguments.output and str(arguments.output), "metrics": documents}


ARGUMENTS: Mapping[str, Callable[[argparse.ArgumentParser], None]] = {
    "load": _add_load,
    "unload": _add_unload,
    "status": _add_status,
    "wait": _add_wait_verb,
    "models": _add_models,
    "blockers": _add_blockers,
    "forecast": _add_forecast,
    "verify": _add_verify,
    "history": _add_history,
    "metrics": _add_metrics,
    **installedverbs.ARGUMENTS,
}
RUNNERS: Mapping[str, Callable[[argparse.Namespace, Progress], Document]] = {
    "load": _run_load,
    "unload": _run_unload,
    "status": _run_status,
    "wait": _run_wait,
    "models": _run_models,
    "blockers": _run_blockers,
    "forecast": _run_forecast,
    "verify": _run_verify,
    "history": _run_history,
    "metrics": _run_metrics,
    **installedverbs.RUNNERS,
}
