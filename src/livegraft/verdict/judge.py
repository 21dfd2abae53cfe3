# SPDX-License-Identifier: GPL-2.0-or-later
"""May this be applied live? All rules, joined."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from livegraft.compare.comparison import Comparison
from livegraft.compare.marks import Marks
from livegraft.errors import Reason
from livegraft.verdict import data, functions, marks, objects, references
from livegraft.verdict.remarks import remarks_on

if TYPE_CHECKING:
    from livegraft.verdict.types import TypesOfUnits

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
    judge = Judge()
    judged = judge.each(comparisons)
    shared, remarks = judge.together(is_all=True)
    for unit, each in judged.items():
        judged[unit] = each.judged([*each.reasons, *shared], [*each.warnings, *remarks])
        shared, remarks = [], []
    return judged


class Judge:
    """Judges the units of a fix, some at a time; of each only what the others need is kept."""

    def __init__(self) -> None:
        self._types: TypesOfUnits | None = None
        self._states: dict[str, Marks] = {}

    def each(self, comparisons: Mapping[str, Comparison]) -> dict[str, Comparison]:
        """Comparisons with the reasons that each gives by itself.

        Args:
            comparisons: by the units' names.
        """
        self._note_types(comparisons)
        self._states.update({u: each.marks for u, each in comparisons.items() if each.marks.states})
        return {
            unit: each.judged([reason for rule in RULES for reason in rule(each)], remarks_on(each))
            for unit, each in comparisons.items()
        }

    def together(self, *, is_all: bool) -> tuple[list[Reason], list[str]]:
        """The reasons and warnings that the units give together, as far as they were judged.

        Args:
            is_all: whether they all were: what was found nowhere is told then.
        """
        reasons, remarks = self._types.reasons(is_all=is_all) if self._types else ([], [])
        return [*reasons, *marks.state_conflict(self._states)], remarks

    def _note_types(self, comparisons: Mapping[str, Comparison]) -> None:
        """What types give; who has no debug information does not wait for its readers (20 ms)."""
        units = [unit for each in comparisons.values() for unit in (each.original, each.patched)]
        if not any(unit.obj.has_debug_information for unit in units):
            return
        if self._types is None:
            from livegraft.verdict.types import TypesOfUnits

            self._types = TypesOfUnits()
        self._types.add(comparisons)
