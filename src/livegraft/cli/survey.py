# SPDX-License-Identifier: GPL-2.0-or-later
"""``livegraft survey``: how much of the next kernel one could have without a reboot."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from livegraft.cli import target
from livegraft.cli.paint import Paint, table
from livegraft.cli.verb import Answer, Context, Verb
from livegraft.errors import Exit, UsageError

if TYPE_CHECKING:
    from livegraft.survey.commits import Commits
    from livegraft.survey.sources import Trees


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    which = "a package version (6.1.190-1) or a release; with --git a commit"
    parser.add_argument("old", metavar="OLD", help=f"the source before: {which}")
    parser.add_argument(
        "new",
        metavar="NEW",
        nargs="?",
        help="the source after, named likewise, and right behind OLD; with --git OLD..NEW may be "
        "one word",
    )
    target.add_release(parser)
    parser.add_argument(
        "-o",
        "--output",
        metavar="DIR",
        type=Path,
        required=True,
        help="the folder for all results; a survey that was interrupted goes on there",
    )
    parser.add_argument(
        "--sample", metavar="N", type=target.count, help="take N fixes only, chosen by --seed"
    )
    parser.add_argument(
        "--seed", metavar="S", type=int, default=1, help="another sample (default: %(default)s)"
    )
    target.add_path(parser)
    parser.add_argument(
        "--git",
        metavar="REPO",
        type=Path,
        help="OLD and NEW are commits in this git repository; each commit is one fix",
    )
    parser.add_argument(
        "--controls",
        metavar="N",
        type=target.count,
        default=0,
        help="look for false changes in N units that nobody has changed",
    )
    parser.add_argument(
        "--method",
        choices=("compare", "both"),
        default="compare",
        help="'both' cuts each patch out of the source as well, loads that too, and compares each "
        "function (default: %(default)s)",
    )
    parser.add_argument(
        "--limit",
        metavar="SECONDS",
        type=target.count,
        default=1800,
        help="for each fix, and once more for what belongs to it; one that takes longer, a header "
        "that a thousand units read, is 'unfinished' (default: %(default)s)",
    )
    target.add_units(parser)
    target.add_packages(parser)


def run(arguments: argparse.Namespace, context: Context) -> Answer:
    """Survey."""
    output = _folder(arguments.output)
    old, new = _between(arguments)
    from livegraft.module.delivery import write_whole
    from livegraft.survey import report
    from livegraft.survey.conduct import Options, conduct

    kernel = target.kernel(arguments, context, arguments.kernel)
    options = Options(
        old,
        new,
        arguments.kernel,
        arguments.sample,
        arguments.seed,
        tuple(arguments.path),
        "" if arguments.git is None else str(arguments.git),
        arguments.controls,
        arguments.method == "both",
        arguments.limit,
        arguments.units,
    )
    findings = conduct(
        options,
        kernel,
        partial(_sources, arguments, old, new, context),
        output,
        progress=context.progress,
    )
    numbers = report.document(findings)
    write_whole(output / "report.md", report.markdown(numbers).encode())
    document = numbers | {"folder": str(output), "timings": context.timings()}
    status = Exit.DONE if report.is_sound(numbers) else Exit.FAILED
    return Answer(document, _text(numbers, output, context.paint), status)


def _folder(path: Path) -> Path:
    if path.exists() and not path.is_dir():
        raise UsageError(str(path), "is no folder", "name a folder for the results")
    if not path.absolute().parent.is_dir():
        raise UsageError(str(path), "its folder does not exist", f"mkdir -p {path.parent}")
    return path.absolute()


def _between(arguments: argparse.Namespace) -> tuple[str, str]:
    """OLD and NEW."""
    words = [arguments.old] if arguments.new is None else [arguments.old, arguments.new]
    if arguments.git is not None and len(words) == 1:
        words = words[0].split("..")
    if len(words) != 2 or not all(words):
        raise UsageError("NEW", "is missing", "name the source before and the one after")
    if arguments.git is not None and any(".." in each or each[0] == "." for each in words):
        problem = "is no pair of commits"
        raise UsageError(" ".join(words), problem, "name one commit before and one after: OLD..NEW")
    return words[0], words[1]


def _sources(
    arguments: argparse.Namespace, old: str, new: str, context: Context
) -> Trees | Commits:
    if arguments.git is not None:
        from livegraft.survey.commits import Commits

        patterns = tuple(arguments.path)
        return Commits(arguments.git, old, new, patterns)
    from livegraft.kernel.kernel import source_of
    from livegraft.kernel.packages import default_source
    from livegraft.survey.sources import Trees

    packages = default_source(target.folder(arguments))
    before, after = (
        source_of(name, source=packages, cache=context.cache(), progress=context.progress)
        for name in (old, new)
    )
    return Trees.compare(before, after, context.cache(), arguments.path, context.progress)


def _text(numbers: dict[str, Any], output: Path, paint: Paint) -> str:
    from livegraft.survey.report import outcome_rows

    rows = [(name, str(count), str(body)) for name, count, body in outcome_rows(numbers)]
    rows.append(("all", str(numbers["fixes"]), str(numbers["body_only"])))
    lines = [table(("OUTCOME", "FIXES", "BODIES ALONE"), rows, paint)]
    if numbers["refusals"]:
        refusals = [(rule, str(count)) for rule, count in numbers["refusals"].items()]
        lines.append(table(("REFUSED BY", "FIXES"), refusals, paint))
    lines += [
        f"{paint.bad(each['outcome'])} {each['id']}: {each['error']}" for each in numbers["failed"]
    ]
    lines += [f"{paint.bad('false change')} {each}" for each in numbers["false_changes"]]
    lines += [f"{paint.bad('unfinished')} {each}" for each in numbers["unfinished"]]
    lines.append(f"{output / 'report.md'} tells more, {output / 'results.jsonl'} all of it")
    return "\n".join(lines)


VERB = Verb(
    name="survey",
    description="""\
Say how much of the next kernel could be had without a reboot. What differs between two kernel
sources becomes fixes: one per changed file that the kernel is built from, joined with the changed
headers and files that it does not compile without; with --git one per commit. Each is checked and
built, and each module is loaded into the kernel in virtual machines (QEMU), where its relocations
are read back from memory and compared with what the patched object files say. DIR gets a line per
fix (results.jsonl), a report (report.md), the fixes and the modules. The same command goes on where
an interrupted one stopped.""",
    examples=(
        "livegraft survey 6.1.190-1 6.1.192-1 -k 6.1.0-54-amd64 -o survey --sample 12",
        "livegraft survey 6.1.190-1 6.1.192-1 -k 6.1.0-54-amd64 -o ext4 --path 'fs/ext4/*'",
        "livegraft survey v6.1.190..v6.1.192 -k 6.1.0-54-amd64 -o commits --git linux",
    ),
    configure=configure,
    run=run,
    exits={
        Exit.DONE: "each fix was loaded, found to change no code, refused by a rule, or (a commit) "
        "does not apply",
        Exit.FAILED: "a fix failed, was not finished in time, or its module is wrong; a unit that "
        "nobody has changed looks changed; or the survey could not be made",
    },
)
