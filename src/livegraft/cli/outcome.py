# SPDX-License-Identifier: GPL-2.0-or-later
"""A verdict on a fix, as ``check`` and ``build`` answer it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from livegraft.cli import failure
from livegraft.cli.paint import Paint, table
from livegraft.cli.verb import Context
from livegraft.errors import Exit, LivegraftError, NothingChanged, ProofFailed, Reason, Refused

if TYPE_CHECKING:
    from livegraft.changeset import Function
    from livegraft.extract.extraction import Extracted
    from livegraft.extract.reasons import Why
    from livegraft.pipeline import Outcome

VERDICTS = {
    "patchable": Exit.DONE,
    "unchanged": Exit.UNCHANGED,
    "refused": Exit.REFUSED,
}
"""The exit code of each verdict."""

JUDGEMENTS = (Refused, NothingChanged, ProofFailed)
"""Errors that are a verdict on the fix, and no failure of the command."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict with what it rests on, whether it was returned or raised.

    Args:
        verdict: a key of :data:`VERDICTS`.
        functions: what the fix changes, brings and removes.
        warnings: what the user should know although it is no reason to refuse.
        reasons: why it is refused.
        extracted: what was cut out of the source.
        whys: by unit, why each function is in the set, if that was asked for.
    """

    verdict: str
    functions: Sequence[Function]
    warnings: Sequence[str]
    reasons: Sequence[Reason]
    extracted: Sequence[Extracted] = ()
    whys: Mapping[str, Sequence[Why]] = field(default_factory=dict)

    @classmethod
    def of(cls, outcome: Outcome) -> Judgement:
        """What the pipeline returned."""
        return cls(
            outcome.verdict,
            outcome.functions,
            outcome.warnings,
            outcome.reasons,
            outcome.extracted,
            outcome.whys,
        )

    @classmethod
    def of_error(cls, error: LivegraftError) -> Judgement:
        """One of :data:`JUDGEMENTS` that it raised."""
        verdict = next(name for name, code in VERDICTS.items() if code is error.exit_code)
        if isinstance(error, NothingChanged):
            # It is no refusal, so it has no reasons; why it changes nothing is worth knowing.
            return cls(verdict, (), (str(error),), ())
        return cls(verdict, (), (), _reasons(error))

    @property
    def exit_code(self) -> Exit:
        """The exit code of the verdict."""
        return VERDICTS[self.verdict]

    def document(self, context: Context) -> dict[str, object]:
        """The members that the documents of ``check`` and ``build`` share."""
        ways = [
            {"unit": each.unit, "functions": [one.as_json() for one in each.ways]}
            for each in self.extracted
            if each.ways
        ]
        why = [
            {"unit": unit, "functions": [each.as_json() for each in found]}
            for unit, found in self.whys.items()
            if found
        ]
        asked = {"ways": ways, "why": why}
        return {name: found for name, found in asked.items() if found} | {
            "verdict": self.verdict,
            "functions": [
                {
                    "object": function.target.object,
                    "name": function.target.name,
                    "sympos": function.target.sympos,
                    "state": function.state.value,
                }
                for function in self.functions
            ],
            "warnings": list(self.warnings),
            "reasons": [reason.as_json() for reason in self.reasons],
            "timings": context.timings(),
        }

    def text(self, paint: Paint) -> str:
        """The verdict for a person."""
        colour = {"patchable": paint.good, "refused": paint.bad}.get(self.verdict, paint.warning)
        parts = [colour(self.verdict)]
        if self.functions:
            rows = [
                (function.target.object, function.state.value, _name(function))
                for function in self.functions
            ]
            parts.append(table(("OBJECT", "STATE", "FUNCTION"), rows, paint))
        if self.reasons:
            parts.append(failure.reasons(tuple(self.reasons), paint))
        parts += [f"{paint.warning('warning:')} {warning}" for warning in self.warnings]
        whys = [
            (each.function, each.cause.value, str(each)) for w in self.whys.values() for each in w
        ]
        if whys:
            parts.append(table(("FUNCTION", "CAUSE", "WHY"), whys, paint))
        found = [one for each in self.extracted for one in each.ways]
        if found:
            texts = [one.text() for one in found if not one.is_equal]
            parts.append(
                f"both ways: {len(found) - len(texts)} of {len(found)} functions are equal"
            )
            parts += texts
        return "\n".join(parts)


def _name(function: Function) -> str:
    # Most names are unique: the position is worth showing for the others only.
    position = function.target.sympos
    return f"{function.target.name} (number {position})" if position > 1 else function.target.name


def _reasons(error: LivegraftError) -> tuple[Reason, ...]:
    if isinstance(error, Refused):
        return error.reasons
    assert isinstance(error, ProofFailed)
    named = tuple(
        Reason("proof", function, f"differs from the shipped code: {how}", error.remedy)
        for function, how in error.differing.items()
    )
    return named or (Reason("proof", error.subject, error.problem, error.remedy),)
