# SPDX-License-Identifier: GPL-2.0-or-later
"""What a survey has found, in numbers and as a table."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from livegraft.survey import ways_report
from livegraft.survey.building import Outcome
from livegraft.survey.conduct import Findings
from livegraft.survey.oracle import Check, ReadBack

TARGET = 0.9
"""The part of the fixes in function bodies alone that should be built and loaded."""

_ALONE = 1

_LOADED = {
    ReadBack.ALL: "loaded, all read back",
    ReadBack.PARTLY: "loaded, not all read back",
    ReadBack.NOTHING: "loaded, nothing read back",
}


def document(findings: Findings) -> dict[str, Any]:
    """The numbers, as ``livegraft survey --json`` gives them."""
    results = findings.results
    body = [each for each in results if each["body_only"]]
    return {
        "command": findings.options.command,
        "kernel": findings.options.release,
        "fixes": len(results),
        "body_only": len(body),
        "body_only_changed": sum(each["outcome"] != Outcome.UNCHANGED for each in body),
        "body_only_loaded": sum(each["outcome"] == Outcome.LOADED for each in body),
        "outcomes": _outcomes(results),
        "body_only_outcomes": _outcomes(body),
        "read_back": _read_back(results),
        "body_only_read_back": _read_back(body),
        "refusals": _refusals(results),
        "body_only_refusals": _refusals(body),
        "seconds": spread(each["seconds"] for each in results if "size" in each),
        "size": spread(each["size"] for each in results if "size" in each),
        "relocations": _relocations(results),
        "absent_objects": sorted({name for each in results for name in _absent(each)}),
        "inert_objects": sorted(
            {name for each in results for name in each.get("without_init", ())}
        ),
        "tried_again": [
            {"id": each["id"], "outcome": each["outcome"], "first": each["first"]}
            for each in results
            if "first" in each
        ],
        "groups": [
            {"id": each["id"], "files": each["files"]}
            for each in results
            if len(each["files"]) > _ALONE and not each["subject"]
        ],
        "both": ways_report.numbers(results),
        "controls": len(findings.controls),
        "false_changes": [
            each["id"] for each in findings.controls if any(each["changed"].values())
        ],
        "unfinished": [each["id"] for each in results if each["outcome"] == Outcome.UNFINISHED],
        "failed": [
            *(
                {"id": each["id"], "outcome": each["outcome"], "error": each.get("error", "")}
                for each in results
                if each["outcome"] in (Outcome.FAILED, Outcome.WRONG)
            ),
            *ways_report.troubles(results),
        ],
    }


def is_sound(numbers: Mapping[str, Any]) -> bool:
    """Whether the survey has found nothing that must not happen, and an answer for each fix."""
    return not (numbers["failed"] or numbers["false_changes"] or numbers["unfinished"])


def spread(numbers: Iterable[float]) -> dict[str, float] | None:
    """Median and 90th percentile; None of nothing."""
    found = sorted(numbers)
    if not found:
        return None
    return {
        "median": round(statistics.median(found), 1),
        "p90": round(found[(len(found) * 9 + 9) // 10 - 1], 1),
        "most": round(found[-1], 1),
    }


def _outcomes(results: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    found = Counter(each["outcome"] for each in results)
    return {str(outcome): found[outcome] for outcome in Outcome if found[outcome]}


def _refusals(results: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    found = Counter(rule for each in results for rule in each.get("rules", ()))
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def _read_back(results: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """How much of the loaded modules was read back."""
    found = Counter(each["read_back"] for each in results if each["outcome"] == Outcome.LOADED)
    return {str(part): found[part] for part in ReadBack}


def _relocations(results: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    found: Counter[str] = Counter()
    for each in results:
        found.update(each.get("relocations", {}))
    return {str(check): found[check] for check in Check}


def _absent(result: Mapping[str, Any]) -> list[str]:
    return [name for name, there in result.get("object_loaded", {}).items() if not there]


def markdown(numbers: Mapping[str, Any]) -> str:
    """The report as a page of its own."""
    lines = [
        f"# Survey: {numbers['kernel']}",
        "",
        f"    {numbers['command']}",
        "",
        *_counts(numbers),
        "",
        _ratio(numbers),
        "",
        *_rules(numbers),
        *_measures(numbers),
        *ways_report.markdown(numbers["both"]),
        *_troubles(numbers["failed"]),
        *_tried_again(numbers["tried_again"]),
        *_groups(numbers["groups"]),
    ]
    return "\n".join(lines) + "\n"


def _counts(numbers: Mapping[str, Any]) -> list[str]:
    lines = ["| outcome | fixes | in function bodies alone |", "|---|---:|---:|"]
    lines += [f"| {name} | {count} | {body} |" for name, count, body in outcome_rows(numbers)]
    return [*lines, f"| all | {numbers['fixes']} | {numbers['body_only']} |"]


def outcome_rows(numbers: Mapping[str, Any]) -> Iterator[tuple[str, int, int]]:
    """What became of the fixes: of all of them, and of those in function bodies alone.

    One that is loaded is told apart by how much of it was read back from memory.
    """
    for outcome, count in numbers["outcomes"].items():
        if outcome != Outcome.LOADED:
            yield outcome, count, numbers["body_only_outcomes"].get(outcome, 0)
            continue
        for part, name in _LOADED.items():
            if numbers["read_back"][part]:
                yield name, numbers["read_back"][part], numbers["body_only_read_back"][part]


def _ratio(numbers: Mapping[str, Any]) -> str:
    loaded, changed = numbers["body_only_loaded"], numbers["body_only_changed"]
    if not changed:
        return "No fix changes function bodies alone and any code."
    return (
        f"Of the {changed} fixes that change function bodies and nothing else, and any code of "
        f"this kernel, {loaded} were built and loaded: {loaded / changed:.1%} (target "
        f"{TARGET:.0%})."
    )


def _rules(numbers: Mapping[str, Any]) -> list[str]:
    if not numbers["refusals"]:
        return []
    lines = ["| refused by rule | fixes | in function bodies alone |", "|---|---:|---:|"]
    for rule, count in numbers["refusals"].items():
        lines.append(f"| {rule} | {count} | {numbers['body_only_refusals'].get(rule, 0)} |")
    return [*lines, "", "A fix that several rules refuse is counted for each.", ""]


def _measures(numbers: Mapping[str, Any]) -> list[str]:
    lines = ["| measured | median | 90 % within | most |", "|---|---:|---:|---:|"]
    for name, unit in (("seconds", "s to build"), ("size", "bytes of the module")):
        if (found := numbers[name]) is not None:
            lines.append(f"| {unit} | {found['median']:g} | {found['p90']:g} | {found['most']:g} |")
    lines += ["", "| livepatch relocations | |", "|---|---:|"]
    lines += [f"| {check} | {count} |" for check, count in numbers["relocations"].items()]
    lines.append("")
    if inert := numbers["inert_objects"]:
        lines += [
            "Patched modules that do not come up without their hardware and were inserted without "
            f"their init function: {', '.join(inert)}.",
            "",
        ]
    if absent := numbers["absent_objects"]:
        lines += [
            f"Patched modules that could not be inserted at all: {', '.join(absent)}; what refers "
            "to them is absent.",
            "",
        ]
    if numbers["controls"]:
        false = numbers["false_changes"]
        lines.append(
            f"Of {numbers['controls']} unchanged units, {len(false)} looked changed after blank "
            f"lines at the top or a build in another folder{': ' if false else ''}"
            f"{', '.join(false)}."
        )
    return [*lines, ""]


def _troubles(failed: Sequence[Mapping[str, Any]]) -> list[str]:
    if not failed:
        return []
    lines = ["| fix | outcome | why |", "|---|---|---|"]
    for each in failed:
        first = str(each["error"]).partition("\n")[0].replace("|", "\\|")
        lines.append(f"| {each['id']} | {each['outcome']} | {first} |")
    return [*lines, ""]


def _tried_again(again: Sequence[Mapping[str, Any]]) -> list[str]:
    if not again:
        return []
    lines = ["| tried again, alone in a guest | outcome | what happened first |", "|---|---|---|"]
    for each in again:
        first = str(each["first"]).partition("\n")[0].replace("|", "\\|")
        lines.append(f"| {each['id']} | {each['outcome']} | {first} |")
    return [*lines, ""]


def _groups(groups: Sequence[Mapping[str, Any]]) -> list[str]:
    if not groups:
        return ["Each changed file compiles alone."]
    lines = [f"{len(groups)} fixes need more than one changed file:", ""]
    return lines + [f"- {', '.join(each['files'])}" for each in groups]
