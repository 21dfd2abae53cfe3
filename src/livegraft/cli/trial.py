# SPDX-License-Identifier: GPL-2.0-or-later
"""``livegraft try``: a live patch in a virtual machine."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from livegraft.changeset import VMLINUX
from livegraft.cli import target
from livegraft.cli.paint import Paint, fields
from livegraft.cli.verb import Answer, Context, Verb
from livegraft.errors import Exit, IdentityMismatch
from livegraft.runtime.model import ModelName

if TYPE_CHECKING:
    from livegraft.lab.trial import Trial


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("patch", metavar="PATCH.ko", type=Path, help="the live patch")
    target.add_release(parser)
    parser.add_argument(
        "--run", metavar="SCRIPT", type=Path, help="run this as root in the machine, patch loaded"
    )
    parser.add_argument(
        "--model",
        choices=[each.value for each in ModelName],
        default=ModelName.NATIVE.value,
        help="how the system stays consistent (default: %(default)s)",
    )
    parser.add_argument(
        "--module",
        metavar="NAME",
        action="append",
        default=[],
        help="load this module of the kernel as well, before the patch; may be given several times",
    )
    parser.add_argument(
        "--foreign", action="store_true", help="accept a live patch that livegraft did not build"
    )
    parser.add_argument(
        "--append",
        metavar="WORDS",
        default="",
        help="add this to the kernel's command line ('preempt=full')",
    )
    parser.add_argument(
        "--cpu",
        metavar="MODEL",
        default="max",
        help="the machine's processor, as QEMU names it (default: %(default)s)",
    )
    parser.add_argument(
        "--script-timeout",
        metavar="SECONDS",
        type=float,
        default=300.0,
        help="the script is killed after that (default: %(default)g)",
    )
    target.add_packages(parser)


def run(arguments: argparse.Namespace, context: Context) -> Answer:
    """Boot, load, run, unload."""
    (patch,) = target.files([arguments.patch], "a live patch module")
    script = target.files([arguments.run], "a script")[0].read_bytes() if arguments.run else None
    from livegraft.lab.trial import try_patch
    from livegraft.module.engine import build_engine

    modules = [*_modules(patch, arguments.foreign, arguments.kernel), *arguments.module]
    kernel = target.kernel(arguments, context, arguments.kernel)
    native = arguments.model == ModelName.NATIVE
    engine = None if native else build_engine(kernel, context.progress)
    trial = try_patch(
        kernel.vmlinuz,
        kernel.modules,
        patch,
        targets=modules,
        script=script,
        model=arguments.model,
        engine=engine,
        foreign=arguments.foreign,
        cmdline=arguments.append,
        cpu=arguments.cpu,
        script_timeout=arguments.script_timeout,
        cache=context.cache(),
        progress=context.progress,
    )
    document = trial.as_json() | {"kernel": arguments.kernel}
    return Answer(document, _text(trial, context.paint), _exit_code(trial))


def _modules(patch: Path, foreign: bool, release: str) -> Sequence[str]:
    """The modules that the patch changes: they are loaded first, or nothing would be tried.

    Raises:
        IdentityMismatch: the patch says itself that it is for another release.
    """
    from livegraft.runtime.payload import Payload

    manifest = Payload.read(patch, foreign=foreign).manifest
    if manifest is None:
        return []
    if manifest.release != release:
        raise IdentityMismatch(
            str(patch), f"is for {manifest.release}, not {release}", f"use -k {manifest.release}"
        )
    return [one.name for one in manifest.objects if one.name != VMLINUX]


def _exit_code(trial: Trial) -> Exit:
    script_failed = trial.script is not None and trial.script.status != 0
    return Exit.FAILED if script_failed or trial.faults else Exit.DONE


def _text(trial: Trial, paint: Paint) -> str:
    pairs = [
        ("patch", f"{trial.name}: {paint.good(trial.state)}, model {trial.model}"),
        ("loading", _milliseconds(trial.transition_ms)),
        ("unloading", _milliseconds(trial.unload_transition_ms)),
    ]
    if trial.script is not None:
        status = f"ended with status {trial.script.status} after {trial.script.seconds:.1f} s"
        if trial.script.timed_out:
            status = f"was killed after {trial.script.seconds:.1f} s"
        pairs.append(("script", status if trial.script.status == 0 else paint.bad(status)))
    pairs.append(("kernel", f"tainted {trial.tainted}; {_faults(trial, paint)}"))
    lines = [fields(pairs, paint), *(f"  {paint.bad(fault)}" for fault in trial.faults)]
    if trial.script is not None:
        printed = trial.script.stdout + trial.script.stderr
        lines += [paint.bold("the script printed:"), printed.decode("utf-8", "replace").rstrip()]
    return "\n".join(lines)


def _milliseconds(number: float | None) -> str:
    return "its time is unknown" if number is None else f"transition of {number:.1f} ms"


def _faults(trial: Trial, paint: Paint) -> str:
    if not trial.faults:
        return "no fault in its log"
    return paint.bad(f"{len(trial.faults)} messages of a fault in its log")


VERB = Verb(
    name="try",
    description="""\
Boot the kernel in a virtual machine (QEMU, with KVM where that works), load the modules that the
patch changes and then the patch, wait for the transition, run SCRIPT there as root, and unload the
patch. The script is a program, or lines of shell without '#!'. For a model beside 'native' the
engine is built for this kernel, once, and loaded before the patch.""",
    examples=(
        "livegraft try fix.ko -k 6.1.0-55-amd64",
        "livegraft try fix.ko -k 6.1.0-55-amd64 --module loop --run check.sh",
        "livegraft try fix.ko -k 6.1.0-55-amd64 --model hybrid",
        "livegraft try fix.ko -k 6.12.117+deb12-amd64 --cpu Skylake-Client --append retbleed=stuff",
    ),
    configure=configure,
    run=run,
    exits={
        Exit.DONE: "loaded, run and unloaded; the script ended with status 0",
        Exit.FAILED: "the script ended with another status, the kernel's log tells of a fault, or "
        "the patch did not load",
        Exit.REFUSED: "the patch was built for another kernel",
        Exit.LOST: "the machine hung or panicked, so that nothing can be said",
    },
)
