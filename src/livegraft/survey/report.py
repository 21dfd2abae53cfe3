# SPDX-License-Identifier: GPL-2.0-or-later
"""What a survey has found, in numbers and as a table."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from livegraft.survey.building import Outcome
from livegraft.survey.conduct import Findings

TARGET = 0.9
"""The part of the fixes in function bodies alone that should be built and loaded."""

_ALONE = 1


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
        "refusals": _refusals(results),
        "body_only_refusals": _refusals(body),
        "seconds": spread(each["seconds"] for each in results if "size" in each),
        "size": spread(each["size"] for each in results if "size" in each),
        "relocations": _relocations(results),
        "absent_objects": sorted(
            {name for each in results for name in _absent(each)},
        ),
        "groups": [
            {"id": each["id"], "files": each["files"]}
            for each in results
            if len(each["files"]) > _ALONE and not each["subject"]
        ],
        "controls": len(findings.controls),
        "false_changes": [
            each["id"] for each in findings.controls if any(each["changed"].values())
        ],
        "failed": [
            {"id": each["id"], "outcome": each["outcome"], "error": each.get("error", "")}
            for each in results
            if each["outcome"] in (Outcome.FAILED, Outcome.WRONG)
        ],
    }


def spread(numbers: Iterable[float]) -> dict[str, float] | None:
    """Median and 90th percentile; None of nothing."""
    found = sorted(numbers)
    if not found:
        return None
    return {
        "median": round(statistics.median(found), 1),
        "p90": round(found[min(len(found) - 1, int(len(found) * 0.9))], 1),
        "most": round(found[-1], 1),
    }


def _outcomes(results: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    found = Counter(each["outcome"] for each in results)
    return {str(outcome): found[outcome] for outcome in Outcome if found[outcome]}


def _refusals(results: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    found = Counter(rule for each in results for rule in each.get("rules", ()))
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def _relocations(results: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    found: Counter[str] = Counter()
    for each in results:
        found.update(each.get("relocations", {}))
    return dict(found)


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
        *_troubles(numbers["failed"]),
        *_groups(numbers["groups"]),
    ]
    return "\n".join(lines) + "\n"


def _counts(numbers: Mapping[str, Any]) -> list[str]:
    lines = ["| outcome | fixes | in function bodies alone |", "|---|---:|---:|"]
    for outcome, count in numbers["outcomes"].items():
        lines.append(f"| {outcome} | {count} | {numbers['body_only_outcomes'].get(outcome, 0)} |")
    return [*lines, f"| all | {numbers['fixes']} | {numbers['body_only']} |"]


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
    relocations = numbers["relocations"]
    judged = ", ".join(f"{count} {check}" for check, count in relocations.items() if count)
    absent = numbers["absent_objects"]
    lines += ["", f"Livepatch relocations read back from memory: {judged or 'none'}."]
    if absent:
        lines.append(
            f"Loaded without the module that they patch, which does not come up without its "
            f"hardware: {', '.join(absent)}."
        )
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


def _groups(groups: Sequence[Mapping[str, Any]]) -> list[str]:
    if not groups:
        return ["Each changed file compiles alone."]
    lines = [f"{len(groups)} fixes need more than one changed file:", ""]
    return lines + [f"- {', '.join(each['files'])}" for each in groups]
