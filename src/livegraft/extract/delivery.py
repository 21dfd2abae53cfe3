# SPDX-License-Identifier: GPL-2.0-or-later
"""What was cut out of a unit, compiled: compared with the running kernel's object, to be judged and
made a payload as the patched object is.

Which function and variable is which is asked twice: the extracted object and the patched one come
from the same text, so their static locals have the same users; and the patched object was paired
with the original already.
"""

from __future__ import annotations

from collections.abc import Callable

from livegraft.compare import names
from livegraft.compare.comparison import Comparison
from livegraft.compare.entity import NAMED, Entity, Kind
from livegraft.compare.inclusion import Inclusion, include
from livegraft.compare.marks import marks_of, patches_of
from livegraft.compare.pairing import Pairs, pair
from livegraft.compare.unit import Unit
from livegraft.elf.object import ElfObject
from livegraft.errors import Reason, Refused
from livegraft.extract.functions import is_clone, shared


def _nothing_known(_name: str) -> bool:
    return False


def deliver(
    comparison: Comparison,
    extracted: ElfObject,
    unit: str,
    is_static_once: Callable[[str], bool] = _nothing_known,
) -> Comparison:
    """The comparison of the original object with what was cut out and compiled.

    Its payload has the functions that the text says it replaces, and all that they need and the
    running kernel does not have. It has to be judged.

    Args:
        comparison: of the original and the patched object.
        extracted: the object of the extracted text, with a section per function and variable.
        unit: the translation unit.
        is_static_once: whether the patched unit, which the text was cut out of, declares one static
            variable of a name.

    Raises:
        Refused: the text replaces a function that the running kernel does not have (rule
            ``not-extracted``).
    """
    after = Unit(extracted, "extracted object", comparison.patched.decoded)
    pairs = _pairs(comparison, after, is_static_once)
    patched = _patched(comparison, after, pairs, unit)
    for each in patched:
        original = _original(comparison, each)
        assert original is not None
        pairs.add(original, each)
    callbacks = [each for _, each in marks_of(after).callbacks if isinstance(each, Entity)]
    inclusion, new = _include(after, patched, [*callbacks, *shared(comparison, after)], pairs)
    return comparison._replace(
        patched=after,
        pairs=pairs,
        changed_entities=patched,
        new_entities=new,
        changed_data=(),
        new_data=tuple(inclusion.new_variables),
        changed_sections=(),
        oddities=tuple(comparison.original.oddities + after.oddities),
        inclusion=inclusion,
        marks=marks_of(after),
        judgement=None,
    )


def _pairs(comparison: Comparison, after: Unit, is_static_once: Callable[[str], bool]) -> Pairs:
    """What of the extracted object is the running kernel's.

    A function is if it did not change and is no clone; a variable in any case.
    """
    changed = {*comparison.changed_entities, *comparison.new_entities}
    between = pair(comparison.patched, after)
    pairs = Pairs(ambiguous=list(between.ambiguous))
    for here, patched in between.of_patched.items():
        original = comparison.pairs.of_patched.get(patched)
        if patched in comparison.pairs.ambiguous:
            pairs.ambiguous.append(here)
        if original is None or original in pairs.of_original:
            continue
        if here.kind is Kind.FUNCTION and (patched.top in changed or is_clone(here.name)):
            continue
        if here.kind is Kind.FUNCTION and is_clone(original.name):
            continue
        pairs.add(original, here)
    _pair_variables(comparison, between, after, pairs, is_static_once)
    return pairs


def _pair_variables(
    comparison: Comparison,
    between: Pairs,
    after: Unit,
    pairs: Pairs,
    is_static_once: Callable[[str], bool],
) -> None:
    """Variables that are not to be found in the patched object.

    By name. One of a name that the compiler has numbered cannot be told from those that are left of
    that name, unless the source has only one: a helper is called here, perhaps, that was inlined
    there.
    """
    left = [each for each in comparison.original.variables() if each not in pairs.of_original]
    plain = {each.name: each for each in left if not names.is_numbered(each.name)}
    families = {names.family(each.name) for each in left if names.is_numbered(each.name)}
    for each in after.variables():
        if each in pairs.of_patched or each in between.of_patched or each.is_always_new:
            continue
        original = plain.get(each.name)
        if original is None and names.family(each.name) in families:
            original = _only_one(comparison, after, each, is_static_once)
            if original is None or original in pairs.of_original:
                pairs.ambiguous.append(each)
                continue
        if original is not None:
            pairs.add(original, each)


def _only_one(
    comparison: Comparison, after: Unit, variable: Entity, is_static_once: Callable[[str], bool]
) -> Entity | None:
    """The running kernel's variable that a numbered one is, if it can be no other."""
    family = names.family(variable.name)
    alike = [
        [each for each in unit.variables() if names.family(each.name) == family]
        for unit in (comparison.patched, after)
    ]
    if any(len(each) != 1 for each in alike) or not is_static_once(names.base(variable.name)):
        return None
    ((patched,), _) = alike
    is_known = patched not in comparison.pairs.ambiguous
    return comparison.pairs.of_patched.get(patched) if is_known else None


def _patched(comparison: Comparison, after: Unit, pairs: Pairs, unit: str) -> tuple[Entity, ...]:
    reasons = []
    found = []
    for each in patches_of(after):
        if isinstance(each, str) or _original(comparison, each) is None:
            name = each if isinstance(each, str) else each.name
            reasons.append(
                Reason(
                    "not-extracted",
                    name,
                    f"is no function of {unit} in the running kernel that could be replaced",
                    "prepare the patch with --method compare",
                )
            )
        elif each in found:
            reasons.append(_folded(each))
        else:
            found.append(each)
    if reasons:
        raise Refused(unit, reasons)
    return tuple(sorted(found, key=lambda each: each.number))


def _folded(function: Entity) -> Reason:
    return Reason(
        "not-extracted",
        function.name,
        "was folded with another function that is replaced, for they are the same",
        "prepare the patch with --method compare",
    )


def _original(comparison: Comparison, function: Entity) -> Entity | None:
    """The function of the running kernel that has its name."""
    for each in comparison.original.functions():
        if each.name == function.name:
            return each
    return None


def _include(
    after: Unit, patched: tuple[Entity, ...], more: list[Entity], pairs: Pairs
) -> tuple[Inclusion, tuple[Entity, ...]]:
    """What the payload holds, with the functions that the running kernel has not, as they come."""
    new = set(more) - set(patched)
    while True:
        inclusion = include(after, patched, new, pairs)
        missing = {
            each.top
            for each in inclusion.referred
            if each.kind is Kind.FUNCTION and each not in pairs.of_patched
        }
        if not missing - new:
            break
        new |= missing
    return inclusion, tuple(sorted(new, key=lambda each: each.number))


def own_names(comparison: Comparison) -> frozenset[str]:
    """What the original unit defines: of the running kernel's object, not of another unit.

    What the fix has the unit take from another one is not among it.
    """
    symbols = comparison.original.obj.symbols
    elsewhere = {each.name for each in comparison.patched.obj.symbols if each.is_undefined}
    own = {
        symbols[number].name
        for each in comparison.original.entities
        if each.kind in NAMED
        for number in (each.symbol, *each.aliases)
    }
    return frozenset(own - elsewhere)
