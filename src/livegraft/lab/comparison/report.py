# SPDX-License-Identifier: GPL-2.0-or-later
"""What a comparison has found, as a document and as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from livegraft.lab.comparison import claims, figures, growth
from livegraft.lab.comparison.scenarios import scenarios

Document = Mapping[str, Any]
Cell = Mapping[str, Any]

COLUMNS = (
    ("apply", "until all run the new code, ms"),
    ("moving", "of that, tasks changing sides, ms"),
    ("undo", "until all run the old code again, ms"),
    ("gap-quiet", "longest pause of a task, before, ms"),
    ("gap-apply", "loading, ms"),
    ("gap-undo", "unloading, ms"),
    ("tries", "looks at all stacks"),
    ("signalled", "sleepers signalled"),
    ("restarted", "system calls begun again"),
    ("seen", "EINTR seen by programs"),
    ("applied", "applied"),
)
"""The columns of the table: a figure, and what stands above it."""

EMULATED = """\
The guests ran in software emulation, which carries out a guest's processors in turn. The probe \
and what computes hand over at once (PAUSE); what does not keeps its turn for up to 100 ms. Times \
are longer than on hardware: compare models with each other and with the figure before the load, \
not with a clock. Counts (signals, retries, mixed versions) do not depend on it, nor does the \
order of models."""

INTERVALS = """\
their 95 % bootstrap intervals (guests are drawn first, then repetitions of each, so that what \
differs between guests is in them; of two guests that is a rough guess, of one it is not known)"""

BRIEFLY = "Emulated guests: compare models with each other, not with a clock; counts are exact."
"""Of the same, where there is no room."""

NATIVELY = "The guests ran on this machine's own processors (KVM)."


def document(
    options: Mapping[str, Any],
    cells: Sequence[Cell],
    machine: Mapping[str, Any],
    command: str,
    version: str,
    fixes: Sequence[Cell] = (),
) -> dict[str, Any]:
    """The report's document (docs/schema/lab.json).

    Args:
        options: of the comparison.
        cells: all that were measured.
        machine: what the guests ran on.
        command: that asks for the same report.
        version: of livegraft.
        fixes: which model takes which live patch.
    """
    known = scenarios()
    named = [known[name] for name in options["scenarios"] if name in known]
    return {
        "command": command,
        "version": version,
        "machine": dict(machine),
        "kernels": list(options["kernels"]),
        "models": list(options["models"]),
        "scenarios": [
            {"name": one.name, "title": one.title, "about": one.about, "own": one.own}
            for one in named
        ],
        "repeat": options["repeat"],
        "patch": options["patch"][0] if options["patch"] else None,
        "cells": [_cell(each) for each in cells],
        "growth": [
            each.as_json() for each in growth.growth(options["kernels"], options["models"], cells)
        ],
        "fixes": list(fixes),
        "claims": [each.as_json() for each in claims.answers(options["kernels"], cells, fixes)],
    }


def _cell(cell: Cell) -> dict[str, Any]:
    guests = cell["measured"]
    return {
        "kernel": cell["kernel"],
        "scenario": cell["scenario"],
        "model": cell["model"],
        "patch": cell["patch"],
        "status": cell["status"],
        "reason": cell["reason"],
        "log": list(cell["log"]),
        "faults": list(cell["faults"]),
        "seconds": cell["seconds"],
        "guests": len(guests),
        "tasks": growth.tasks(guests) if guests else None,
        "figures": {key: one.as_json() for key, one in figures.estimates(guests).items()},
        "timeline": figures.timeline(guests),
        "forecasts": [said for each in guests for said in each["forecasts"]],
        "counts": figures.counts(guests),
    }


def markdown(found: Document) -> str:
    """The report as Markdown."""
    lines = [
        "# Consistency models compared",
        "",
        f"Made by livegraft {found['version']}, {how(found)},"
        f" {sum(each['seconds'] for each in found['cells']) / 60:.0f} minutes in all:",
        "",
        f"    {found['command']}",
        "",
        EMULATED if found["machine"]["emulated"] else NATIVELY,
        "",
        f"Medians, in brackets {INTERVALS}; applied: the mean.",
    ]
    for kernel in found["kernels"]:
        lines += ["", f"## {kernel}", "", *_table(found, kernel)]
    if found["growth"]:
        lines += ["", "## Growth", "", *_growth(found)]
    lines += ["", "## Scenarios", ""]
    lines += [f"- **{each['title']}**: {each['about'].strip()}" for each in found["scenarios"]]
    lines += ["", "## The claims", "", *_claims(found)]
    return "\n".join(lines) + "\n"


def how(found: Document) -> str:
    """How often, and on what, it was measured."""
    machine = found["machine"]
    numbers = sorted({each["guests"] for each in found["cells"] if each["guests"]})
    guests = " or ".join(map(str, numbers)) or "none came to its end"
    return (
        f"up to {found['repeat']} repetitions of each cell in guests of its own ({guests}) with"
        f" {machine['guest_processors']} processors, on {machine['processors']} processors"
        f" ({machine['processor']})"
    )


def _table(found: Document, kernel: str) -> Iterator[str]:
    yield "| scenario | model | " + " | ".join(title for _, title in COLUMNS) + " |"
    yield "|---|---|" + "---|" * len(COLUMNS)
    titles = {each["name"]: each["title"] for each in found["scenarios"]}
    remarks = []
    for cell in found["cells"]:
        if cell["kernel"] != kernel:
            continue
        own = [texts(cell["figures"].get(key)) for key, _ in COLUMNS]
        if cell["status"] != "done":
            own[-1] = cell["status"]
        if cell["reason"]:
            remarks.append(f"- {titles[cell['scenario']]}, {cell['model']}: {cell['reason']}")
        yield f"| {titles[cell['scenario']]} | {cell['model']} | {' | '.join(own)} |"
    if remarks:
        yield from ("", *remarks)


def texts(figure: Mapping[str, float] | None) -> str:
    """A figure with its interval, as a cell of a table."""
    if figure is None:
        return ""
    value, low, high = (claims.short(figure[key]) for key in ("value", "low", "high"))
    return value if value == low == high else f"{value} [{low}, {high}]"


def growth_rows(found: Document) -> list[tuple[str, ...]]:
    """A row for each fit, as texts: kernel, what of, by what, model, kind, exponent, figures."""
    return [
        (
            each["kernel"],
            figures.FIGURES[each["figure"]].title,
            f"{each['family']} ({', '.join(map(str, each['sizes']))})",
            each["model"],
            each["growth"],
            texts(each["exponent"]),
            f"{claims.short(each['at_smallest'])} ms",
            f"{claims.short(1000 * each['each'])} µs",
        )
        for each in found["growth"]
    ]


GROWTH = ("kernel", "what", "by", "model", "growth", "exponent", "at the smallest", "each more")


def _growth(found: Document) -> Iterator[str]:
    yield f"| {' | '.join(GROWTH)} |"
    yield "|---" * len(GROWTH) + "|"
    yield from (f"| {' | '.join(row)} |" for row in growth_rows(found))


def _claims(found: Document) -> Iterator[str]:
    for each in found["claims"]:
        where = f" ({each['kernel']})" if each["kernel"] else ""
        yield f"- **{each['claim']}, {each['verdict']}**{where}: {each['text']}"
        yield from (f"  - {words}" for words in each["found"])
