# SPDX-License-Identifier: GPL-2.0-or-later
"""May this be applied live? All rules, joined."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from livegraft.compare.comparison import Comparison
from livegraft.errors import Reason
from livegraft.verdict import data, functions, marks, objects, references
from livegraft.verdict.remarks import remarks_on

Rule = Callable[[Comparison], Iterator[Reason]]

RULES: tuple[Rule, ...] = (
    functions.init_code,
    functions.no_ftrace_entry,
    functions.alias_changed,
    functions.ifunc,
    functions.section_group,
    data.init_data,
    data.data_size_changed,
    data.data_changed,
    data.storage_changed,
    data.static_local_ambiguous,
    data.registration,
    references.init_reference,
    references.section_layout,
    objects.oddities,
    objects.unknown_section,
    objects.runtime_constant,
    objects.section_groups,
    objects.btf_ids,
    marks.mark_target,
)

DELIVERED: tuple[Rule, ...] = (
    functions.init_code,
    functions.no_ftrace_entry,
    functions.ifunc,
    functions.section_group,
    data.static_local_ambiguous,
    references.init_reference,
    references.section_layout,
    objects.oddities,
    objects.unknown_section,
    objects.runtime_constant,
    marks.mark_target_delivered,
)
"""What has to hold of an object that was cut out of the source, beside what its unit was judged
for: it holds a part of the unit only, so nothing is said of what is not in it."""


def judge_delivered(comparison: Comparison, warnings: Iterable[str]) -> Comparison:
    """A comparison with what was cut out of the source, judged.

    Args:
        warnings: those of the whole unit.
    """
    return comparison.judged([each for rule in DELIVERED for each in rule(comparison)], warnings)


def judge(comparison: Comparison) -> Comparison:
    """The comparison with every reason to refuse it, and what the user should know else."""
    return judge_all({"": comparison})[""]


def judge_all(comparisons: Mapping[str, Comparison]) -> dict[str, Comparison]:
    """Judge comparisons that belong together.

    What several units see, each in the same header, is a reason of the first one.

    Args:
        comparisons: by the units' names.
    """
    shared, remarks = _type_reasons(comparisons)
    shared = [*shared, *marks.state_conflict(comparisons)]
    judged = {}
    for unit, each in comparisons.items():
        reasons = [reason for rule in RULES for reason in rule(each)]
        judged[unit] = each.judged([*reasons, *shared], [*remarks_on(each), *remarks])
        shared, remarks = [], []
    return judged


def _type_reasons(comparisons: Mapping[str, Comparison]) -> tuple[list[Reason], list[str]]:
    """What types give; who has no debug information does not wait for its readers (20 ms)."""
    units = [unit for each in comparisons.values() for unit in (each.original, each.patched)]
    if not any(unit.obj.has_debug_information for unit in units):
        return [], []
    from livegraft.verdict.types import type_reasons

    return type_reasons(comparisons)
