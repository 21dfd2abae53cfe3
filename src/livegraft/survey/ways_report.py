# SPDX-License-Identifier: GPL-2.0-or-later
"""What a survey has found of the two ways to prepare a patch."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from livegraft.extract.twoways import Class
from livegraft.survey.bothways import SECOND
from livegraft.survey.building import Outcome

LARGE = 3000
"""Lines of a unit, above which it is asked which part of it was cut out."""


def numbers(results: Iterable[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The numbers of the second way; None if it was not tried."""
    tried = [each[SECOND] for each in results if SECOND in each]
    if not tried:
        return None
    functions = [one for each in tried for one in each.get("functions", ())]
    files = [file for each in tried for file in each.get("files", ())]
    alone = [file["lines"] for file in files if file["patched"] == 1]
    parts = [file["lines"] / file["of"] for file in files if file["of"] > LARGE]
    outcomes = Counter(each["outcome"] for each in tried)
    classes = Counter(one["class"] for one in functions if not one["equal"])
    return {
        "tried": len(tried),
        "outcomes": {str(each): outcomes[each] for each in Outcome if outcomes[each]},
        "refusals": dict(
            Counter(rule for each in tried for rule in each.get("rules", ())).most_common()
        ),
        "functions": len(functions),
        "equal": sum(one["equal"] for one in functions),
        "classes": {each.value: classes[each.value] for each in Class},
        "lines_of_one_function": _median(alone),
        "part_of_large_units": _median(parts),
        "seconds": _median([each["seconds"] for each in tried if "size" in each]),
    }


def troubles(results: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Fixes whose second way ended in something that is no answer."""
    return [
        {
            "id": f"{each['id']} ({SECOND})",
            "outcome": each[SECOND]["outcome"],
            "error": each[SECOND].get("error", ""),
        }
        for each in results
        if SECOND in each and each[SECOND]["outcome"] in (Outcome.FAILED, Outcome.WRONG)
    ]


def _median(found: Sequence[float]) -> float | None:
    return round(statistics.median(found), 3) if found else None


def markdown(found: Mapping[str, Any] | None) -> list[str]:
    """The numbers as lines of the report."""
    if found is None:
        return []
    tried, functions = found["tried"], found["functions"]
    loaded = found["outcomes"].get(Outcome.LOADED, 0)
    rows: list[tuple[str, str]] = [
        ("fixes that compare has built", str(tried)),
        ("built and loaded by extract", _part(loaded, tried)),
        *((f"extract: {name}", str(count)) for name, count in found["outcomes"].items()),
        *((f"refused by {rule}", str(count)) for rule, count in found["refusals"].items()),
        ("patched functions", str(functions)),
        ("equal both ways", _part(found["equal"], functions)),
        *((f"differ: {name}", _part(n, functions)) for name, n in found["classes"].items()),
        (
            "lines of a file with one patched function, median",
            _plain(found, "lines_of_one_function"),
        ),
        (f"part of units over {LARGE} lines, median", _plain(found, "part_of_large_units")),
        ("seconds to build by extract, median", _plain(found, "seconds")),
    ]
    return [
        "| both ways | |",
        "|---|---:|",
        *(f"| {name} | {value} |" for name, value in rows),
        "",
    ]


def _part(count: int, of: int) -> str:
    return f"{count} ({count / of:.1%})" if of else str(count)


def _plain(found: Mapping[str, Any], name: str) -> str:
    value = found[name]
    return "-" if value is None else f"{value:g}"
