# SPDX-License-Identifier: GPL-2.0-or-later
"""``livegraft lab``: the consistency models side by side, and a guest to work in."""

from __future__ import annotations

import argparse
import hashlib
import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from livegraft.cli import target
from livegraft.cli.paint import Paint, table
from livegraft.cli.parser import version
from livegraft.cli.verb import Answer, Context, Verb
from livegraft.errors import Exit, IdentityMismatch, UsageError

if TYPE_CHECKING:
    from livegraft.lab.comparison.cells import Subject
    from livegraft.lab.comparison.conduct import Options

ACTIONS = ("models", "explain", "shell")
COMPARED = ("hybrid", "stop", "task", "native")
REPEAT = 10
REPORT = "report.json"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument(
        "action",
        choices=ACTIONS,
        help="models: measure and report; explain: answer the article's claims from a report; "
        "shell: work in a guest",
    )
    parser.add_argument(
        "folder", metavar="DIR", nargs="?", type=Path, help="explain: the folder of a report"
    )
    parser.add_argument(
        "-k",
        "--kernel",
        metavar="RELEASE",
        action="append",
        default=[],
        help="the kernel; of models it may be given several times (default: the running one)",
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="DIR",
        type=Path,
        help="models: the folder for all results; a run that was interrupted goes on there",
    )
    parser.add_argument(
        "--patch",
        metavar="PATCH.ko",
        type=Path,
        help="models: measure with this patch, where a scenario does not need functions of its "
        "own; shell: have it at hand",
    )
    parser.add_argument(
        "--scenario",
        metavar="WORD",
        action="append",
        default=[],
        help="models: only this scenario; may be given several times (default: six of them)",
    )
    parser.add_argument(
        "--model",
        metavar="MODEL",
        choices=COMPARED,
        action="append",
        default=[],
        help="models: only this model: hybrid, stop, task or native; may be given several times "
        "(default: all four)",
    )
    parser.add_argument(
        "--repeat",
        metavar="N",
        type=int,
        default=REPEAT,
        help="models: repetitions of each cell (default: %(default)s)",
    )
    parser.add_argument("--all", action="store_true", help="models: every scenario there is")
    parser.add_argument(
        "--fixes",
        metavar="DIR",
        type=Path,
        help="models: also try which model takes which of the live patches in this folder, or in "
        "that of a survey",
    )
    parser.add_argument(
        "--share", metavar="DIR", type=Path, help="shell: a folder of this machine, as /mnt/shared"
    )
    parser.add_argument(
        "--package",
        metavar="PACKAGE",
        action="append",
        default=[],
        help="shell: a Debian package to have there too, without what it needs; may be given "
        "several times",
    )
    target.add_packages(parser)


def run(arguments: argparse.Namespace, context: Context) -> Answer:
    """Measure or explain."""
    return {"models": _models, "explain": _explain, "shell": _shell}[arguments.action](
        arguments, context
    )


def _models(arguments: argparse.Namespace, context: Context) -> Answer:
    output = _output(arguments)
    from livegraft.lab.comparison import report
    from livegraft.lab.comparison.conduct import Options, conduct, machine
    from livegraft.lab.comparison.scenarios import chosen, models
    from livegraft.survey.models import patches_in, take

    scenarios = chosen(arguments.scenario, arguments.all)
    names = models(arguments.model)
    releases = list(dict.fromkeys(arguments.kernel)) or [_running()]
    if arguments.patch is not None:
        target.files([arguments.patch], "a live patch (.ko)")
    subject = _subject(arguments.patch, releases) if arguments.patch is not None else None
    patches = patches_in(arguments.fixes) if arguments.fixes is not None else []
    theirs = dict.fromkeys(each.release for each in patches)
    opened = {
        release: target.kernel(arguments, context, release) for release in (*releases, *theirs)
    }
    kernels = [opened[release] for release in releases]
    options = Options(
        tuple(releases),
        names,
        tuple(each.name for each in scenarios),
        arguments.repeat,
        () if subject is None else (subject.name, subject.digest),
    )
    output.mkdir(exist_ok=True)
    cells = conduct(options, kernels, scenarios, subject, output, context.progress)
    fixes = []
    for release in theirs:
        own = [each for each in patches if each.release == release]
        fixes += take(opened[release], own, names, output, context.progress)
    command = _command(arguments, options)
    found = report.document(
        options.as_json(), cells, machine(kernels[0]), command, version(), fixes
    )
    _write(found, output, context)
    document = found | {"folder": str(output), "timings": context.timings()}
    failed = [each for each in found["cells"] if each["status"] in ("failed", "lost")]
    return Answer(
        document, _text(found, output, context.paint), Exit.FAILED if failed else Exit.DONE
    )


def _write(found: dict[str, Any], output: Path, context: Context) -> None:
    """All files of the report."""
    from livegraft.lab.comparison import page, plots, report
    from livegraft.module.delivery import write_whole

    with context.progress.step("report"):
        write_whole(output / REPORT, (json.dumps(found, indent=1) + "\n").encode())
        write_whole(output / "report.md", report.markdown(found).encode())
        drawn = list(plots.drawings(found))
        page.write_plots(drawn, output)
        write_whole(output / "report.html", page.page(found, drawn).encode())


def _output(arguments: argparse.Namespace) -> Path:
    """The folder for the results, checked before the work.

    Raises:
        UsageError: none is named, or it cannot be one; a number makes no sense.
    """
    if arguments.output is None or arguments.folder is not None:
        raise UsageError("lab models", "takes its folder as -o DIR", "say -o DIR")
    if arguments.repeat < 1:
        raise UsageError("--repeat", "has to be 1 or more", f"leave it out for {REPEAT}")
    if arguments.all and arguments.scenario:
        raise UsageError("--all", "means every scenario", "leave --scenario or --all out")
    path: Path = arguments.output
    if path.exists() and not path.is_dir():
        raise UsageError(str(path), "is no folder", "name a folder for the results")
    if not path.absolute().parent.is_dir():
        raise UsageError(str(path), "its folder does not exist", f"mkdir -p {path.parent}")
    return path.absolute()


def _running() -> str:
    import os

    return os.uname().release


def _subject(path: Path, releases: list[str]) -> Subject:
    """The user's patch.

    Raises:
        PatchError: it is no live patch that livegraft has built.
        IdentityMismatch: it is for another kernel.
    """
    from livegraft.lab.comparison.conduct import subject_of
    from livegraft.runtime.payload import Payload

    payload = Payload.read(path, foreign=False)
    manifest = payload.manifest
    assert manifest is not None
    for release in releases:
        if manifest.release != release:
            raise IdentityMismatch(
                str(path), f"is for {manifest.release}, not {release}", f"use -k {manifest.release}"
            )
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return subject_of(path, payload.functions, payload.name, digest)


def _command(arguments: argparse.Namespace, options: Options) -> str:
    """The command line that asks for this report."""
    words = ["livegraft", "lab", "models"]
    for release in options.kernels:
        words += ["-k", release]
    words += ["--patch", arguments.patch.name] if arguments.patch is not None else []
    for name in arguments.scenario:
        words += ["--scenario", name]
    for name in arguments.model:
        words += ["--model", name]
    words += ["--repeat", str(options.repeat)] if options.repeat != REPEAT else []
    words += ["--all"] if arguments.all else []
    words += ["--fixes", arguments.fixes.name] if arguments.fixes is not None else []
    return shlex.join([*words, "-o", "DIR"])


def _text(found: dict[str, Any], output: Path, paint: Paint) -> str:
    from livegraft.lab.comparison.conduct import CELLS
    from livegraft.lab.comparison.report import texts

    columns = ("apply", "gap-apply", "signalled", "applied")
    rows = [
        (
            each["kernel"],
            each["scenario"],
            each["model"],
            *(texts(each["figures"].get(key)) for key in columns[:-1]),
            texts(each["figures"].get("applied")) if each["status"] == "done" else each["status"],
        )
        for each in found["cells"]
    ]
    head = ("KERNEL", "SCENARIO", "MODEL", "ALL NEW, ms", "PAUSE, ms", "SIGNALS", "APPLIED")
    claims = _claims(found["claims"], paint, brief=True)
    lines = [table(head, rows, paint), "", *_with_caveat(claims, found)]
    lines.append(
        f"{output / 'report.html'} shows more, {output / REPORT} holds all figures, "
        f"{output / CELLS} each repetition"
    )
    return "\n".join(lines)


def _explain(arguments: argparse.Namespace, context: Context) -> Answer:
    if arguments.folder is None:
        raise UsageError("lab explain", "needs the folder of a report", "livegraft lab explain DIR")
    from livegraft.lab.comparison.claims import answers
    from livegraft.lab.comparison.conduct import read

    options, cells = read(arguments.folder)
    reported = _reported(arguments.folder)
    found = [each.as_json() for each in answers(options["kernels"], cells, reported["fixes"])]
    document = {"folder": str(arguments.folder), "claims": found}
    claims = _claims(found, context.paint, brief=False)
    return Answer(document, "\n".join(_with_caveat(claims, reported)))


def _reported(folder: Path) -> dict[str, Any]:
    """A report; one without fixes, of no machine, if it was not finished."""
    path = folder / REPORT
    nothing: dict[str, Any] = {"fixes": [], "machine": {"emulated": False}}
    return nothing | (json.loads(path.read_text("utf-8")) if path.is_file() else {})


def _with_caveat(text: str, found: dict[str, Any]) -> list[str]:
    """Figures, and what has to be said beside them."""
    from livegraft.lab.comparison.report import BRIEFLY

    return [text, BRIEFLY] if found["machine"]["emulated"] else [text]


def _shell(arguments: argparse.Namespace, context: Context) -> Answer:
    if len(arguments.kernel) > 1 or arguments.folder is not None:
        raise UsageError("lab shell", "takes one kernel and no folder", "livegraft lab shell -k")
    shared: Path | None = arguments.share and arguments.share.absolute()
    if shared is not None and not shared.is_dir():
        raise UsageError(str(shared), "is no folder", "name a folder to share")
    if arguments.patch is not None:
        target.files([arguments.patch], "a live patch (.ko)")
    from livegraft.lab import shell
    from livegraft.lab.boot import boot
    from livegraft.module.engine import build_engine

    (release,) = arguments.kernel or [_running()]
    subject = _subject(arguments.patch, [release]) if arguments.patch is not None else None
    kernel = target.kernel(arguments, context, release)
    files = {**shell.FILES, "/root/livegraft_engine.ko": build_engine(kernel, context.progress)}
    if subject is not None:
        files[f"/root/{arguments.patch.name}"] = subject.data
    with boot(
        kernel.vmlinuz,
        kernel.modules,
        load=(*(shell.SHARING if shared else ()), *(subject.targets if subject else ())),
        files=files,
        shared=shared,
        packages=arguments.package,
        cache=context.cache(),
        progress=context.progress,
    ) as guest:
        shell.prepare(guest, shared)
        context.progress.note(_welcome(arguments))
        target_stream = sys.stderr if arguments.json else sys.stdout
        status = shell.converse(guest, sys.stdin.buffer, target_stream.buffer)
        log = [each.text for each in guest.kernel_log()]
    document = {"kernel": release, "status": status, "log": log}
    return Answer(document, "", Exit.DONE if status == 0 else Exit.FAILED)


def _welcome(arguments: argparse.Namespace) -> str:
    """What a person finds there."""
    said = "exit ends the guest; modprobe NAME brings any module of this kernel; "
    said += "insmod livegraft_engine.ko brings the models beside native"
    if arguments.patch is not None:
        said += f"; livegraft load {arguments.patch.name}"
    return said + ("; /mnt/shared is the shared folder" if arguments.share else "")


def _claims(found: list[dict[str, Any]], paint: Paint, *, brief: bool) -> str:
    colours = {"holds": paint.good, "does not hold": paint.bad}
    lines = []
    for each in found:
        verdict = colours.get(each["verdict"], paint.warning)(each["verdict"])
        where = f" on {each['kernel']}" if each["kernel"] else ""
        lines.append(f"{paint.bold(each['claim'])} {verdict}{where}: {each['text']}")
        lines += [f"   {words}" for words in each["found"][: 1 if brief else None]]
    return "\n".join(lines)


VERB = Verb(
    name="lab",
    description="""\
'models' measures the consistency models side by side: each model under each load, in virtual
machines (QEMU) of its own, one at a time. Each load of the default set gets five of them, any other
two, as long as there are two repetitions for each; they take turns, so that what differs between
two machines, or between two times of the day, is in the intervals. It takes one to two minutes for
most models and loads. After half a minute for each repetition that a machine was asked for it
begins no other one (two are made in any case), and the report says so. DIR gets a page that opens
without a network (report.html), the same as Markdown (report.md) and JSON (report.json), and each
plot as SVG and PNG. The same command goes on where an interrupted one stopped. Scenarios: idle,
called, sleeping, kthread, tasks-1000, hogs; with --all also never, interrupts, tasks-5000, storm,
functions-1, -10, -100, -500, stacked-1, -10, -50, replace-50, reversed, and how times and pauses
grow.

'explain' answers each claim of the article that compares the models, from what was measured: holds
or does not hold, by how much, in which scenario, with intervals of 95 %.

'shell' boots the kernel in a virtual machine with a shell for you: to see a bug, and to see a patch
cure it. modprobe there brings any module of the kernel, 'livegraft' loads and unloads; what is no
terminal is read as a script.""",
    examples=(
        "livegraft lab models -k 6.1.0-55-amd64 -o report",
        "livegraft lab models -k 6.1.0-55-amd64 --patch fix.ko --scenario tasks-1000 -o report",
        "livegraft lab models -k 6.1.0-55-amd64 --fixes survey -o report",
        "livegraft lab explain report",
        "livegraft lab shell -k 6.1.0-55-amd64 --patch fix.ko --share . --package strace",
    ),
    configure=configure,
    run=run,
    exits={
        Exit.DONE: "measured (a model that a kernel does not have is told), or explained; the "
        "shell ended with status 0",
        Exit.FAILED: "a scenario could not run, or a guest was lost, and the others were measured; "
        "the shell ended with another status",
        Exit.LOST: "the guest of the shell hung, panicked or was switched off",
        Exit.REFUSED: "the patch was built for another kernel",
    },
)
