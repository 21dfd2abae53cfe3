# SPDX-License-Identifier: GPL-2.0-or-later
"""The article's claims (claims.toml), each answered from what was measured."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib import resources
from typing import Any

import numpy

from livegraft.lab.comparison import figures
from livegraft.lab.comparison.scenarios import scenarios
from livegraft.lab.comparison.statistics import (
    Estimate,
    difference,
    estimate,
    mean_of_means,
    median,
    ratio,
    together,
)
from livegraft.module import engine

Cell = Mapping[str, Any]
PATCHED = ("syscall", "exit", "worker", "kthread", "softirq", "hardirq", "nmi")
APART = ("apart", "apart-exit", "apart-bh")
COLD = ("cold",)
LATE = ("late",)
FIXES = "fixes"
"""Stands for a scenario where live patches were tried (:mod:`livegraft.survey.models`)."""

GUARANTEES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "hybrid": {"a patched caller": PATCHED, "a cold part": COLD},
    "stop": {"a patched caller": PATCHED, "a cold part": COLD, "another thread": LATE},
    "task": {"a patched caller": PATCHED, "a cold part": COLD, "an unpatched caller": APART},
    "native": {"a patched caller": PATCHED},
}
"""Who never sees two versions under each model (docs/models.md), by what was counted."""

SEERS = {
    "a patched caller": PATCHED,
    "a cold part": COLD,
    "an unpatched caller": APART,
    "another thread": LATE,
}


class Verdict(StrEnum):
    """Whether a claim holds."""

    HOLDS = "holds"
    FAILS = "does not hold"
    OPEN = "cannot be told"
    """The interval holds the threshold: more repetitions may tell."""
    UNMEASURED = "not measured"


@dataclass(frozen=True, slots=True)
class Claim:
    """An entry of claims.toml, which says what each member is.

    Args:
        key: its name.
    """

    key: str
    text: str
    kind: str
    models: tuple[str, ...]
    scenarios: tuple[str, ...] = ()
    decisive: str = ""
    figure: str = ""
    also: tuple[str, ...] = ()
    least: float | None = None
    most: float | None = None

    @property
    def unit(self) -> str:
        """Of its figure."""
        if self.figure == figures.CALL:
            return "ns"
        return figures.FIGURES[self.figure].unit if self.figure else ""


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a claim on one kernel.

    Args:
        claim: the claim.
        kernel: the release; empty if it has nothing to do with one.
        verdict: whether it holds.
        found: by how much, in words, the decisive one first.
    """

    claim: Claim
    kernel: str
    verdict: Verdict
    found: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """As it stands in the report."""
        return {
            "claim": self.claim.key,
            "text": self.claim.text,
            "kernel": self.kernel,
            "verdict": self.verdict.value,
            "found": list(self.found),
        }


@cache
def claims() -> dict[str, Claim]:
    """All claims, by key."""
    text = resources.files(__package__).joinpath("claims.toml").read_text("utf-8")
    found = {}
    for key, table in tomllib.loads(text).items():
        members: dict[str, Any] = {
            name: tuple(each) if isinstance(each, list) else each for name, each in table.items()
        }
        found[key] = Claim(key=key, **members)
    return found


def answers(
    kernels: Sequence[str], cells: Sequence[Cell], fixes: Sequence[Cell] = ()
) -> list[Answer]:
    """Every claim on every kernel.

    Args:
        kernels: those that were measured.
        cells: what was measured.
        fixes: which model takes which live patch (:mod:`livegraft.survey.models`).
    """
    measured = [each for each in cells if each["measured"]]
    tried = [{**each, "scenario": FIXES} for each in fixes]
    of_fixes = list(dict.fromkeys(each["kernel"] for each in fixes))
    found: list[Answer] = []
    for claim in claims().values():
        data = tried if claim.kind == "refused" else measured
        places = {"source": [""], "refused": of_fixes or [""]}
        for kernel in places.get(claim.kind, kernels):
            here = {
                (each["scenario"], each["model"]): each for each in data if each["kernel"] == kernel
            }
            verdict, words = JUDGES[claim.kind](claim, here)
            found.append(Answer(claim, kernel, verdict, tuple(words)))
    return found


Here = Mapping[tuple[str, str], Cell]
Judged = tuple[Verdict, list[str]]


def _against(claim: Claim, found: Estimate) -> Verdict:
    """Whether all of an interval is on the right side of the threshold, or all on the wrong one."""
    if claim.least is not None:
        if found.low >= claim.least:
            return Verdict.HOLDS
        return Verdict.FAILS if found.high < claim.least else Verdict.OPEN
    assert claim.most is not None
    if found.high <= claim.most:
        return Verdict.HOLDS
    return Verdict.FAILS if found.low > claim.most else Verdict.OPEN


def _values(here: Here, scenario: str, model: str, key: str) -> list[list[float]]:
    cell = here.get((scenario, model))
    return figures.values(cell["measured"]).get(key, []) if cell else []


def _compared(claim: Claim, here: Here) -> Judged:
    """Two models by one figure: their difference, or their ratio."""
    make = difference if claim.kind == "difference" else ratio
    verdict, words = Verdict.UNMEASURED, []
    for name in claim.scenarios:
        own = [_values(here, name, model, claim.figure) for model in claim.models]
        found = make(*own)
        if found is None:
            if name == claim.decisive and all((name, model) in here for model in claim.models):
                verdict, said = _one_sided(claim, name, own)
                words.append(said)
            continue
        if name == claim.decisive:
            verdict = _against(claim, found)
        words.append(f"{_pair(claim, here, name, claim.figure)}; {_by_how_much(claim, found)}")
        words += [_pair(claim, here, name, each) for each in claim.also]
    if not all((claim.decisive, model) in here for model in claim.models):
        words.insert(
            0, f"{title(claim.decisive)}, which decides, was not measured with both models"
        )
    return verdict, words


def _pair(claim: Claim, here: Here, name: str, key: str) -> str:
    """A figure of both models in one scenario, in words."""
    figure = figures.FIGURES[key]
    of = {model: estimate(_values(here, name, model, key)) for model in claim.models}
    pair = ", ".join(f"{model} {number(one, figure.unit)}" for model, one in of.items() if one)
    return f"{title(name)}, {figure.title}: {pair}"


def _by_how_much(claim: Claim, found: Estimate) -> str:
    first, second = claim.models
    if claim.kind == "difference":
        return f"{first} {number(found, claim.unit)} more than {second}"
    return f"{first} {number(found)} times that of {second}"


def _one_sided(claim: Claim, name: str, own: list[list[list[float]]]) -> tuple[Verdict, str]:
    """One of the models never came to an end there."""
    first, second = claim.models
    ended = [model for model, each in zip(claim.models, own, strict=True) if each]
    if ended == [first]:
        return Verdict.HOLDS, f"{title(name)}: {second} never applied, {first} did"
    if ended == [second]:
        return Verdict.FAILS, f"{title(name)}: {first} never applied, {second} did"
    return Verdict.OPEN, f"{title(name)}: neither applied"


def _same(claim: Claim, here: Here) -> Judged:
    """All models by one figure: none above the least by more than the threshold."""
    name = claim.decisive
    own = {model: _values(here, name, model, claim.figure) for model in claim.models}
    own = {model: each for model, each in own.items() if each}
    if len(own) < 2:
        return Verdict.UNMEASURED, [f"{title(name)}: fewer than two models were measured"]
    least = min(own, key=lambda model: median(own[model]))
    verdicts, words = [], []
    for model, each in own.items():
        one, times = estimate(each), ratio(each, own[least])
        assert one is not None
        said = f"{title(name)}: {model} {number(one, claim.unit)}"
        if times is not None and model != least:
            verdicts.append(_against(claim, times))
            said += f", {number(times)} times that of {least}"
        words.append(said)
    order = (Verdict.FAILS, Verdict.OPEN, Verdict.HOLDS)
    return next((each for each in order if each in verdicts), Verdict.OPEN), words


def _forecast(claim: Claim, here: Here) -> Judged:
    """What the forecast of each model was wrong by, over all scenarios."""
    errors: dict[str, list[list[list[float]]]] = {}
    words = []
    for model in claim.models:
        every = []
        for name in scenarios():
            if cell := here.get((name, model)):
                mistakes = figures.forecast_errors(cell["measured"])
                every.append(mistakes)
                mean = float(numpy.mean(together(mistakes) or [0]))
                if mean >= 0.01:
                    words.append(f"{title(name)}: {model} {mean:.2f}")
        errors[model] = every
    one, other = (mean_of_means(errors[model]) for model in claim.models)
    if one is None or other is None:
        return Verdict.UNMEASURED, ["not both models were measured"]
    first, second = claim.models
    summary = (
        "mean square of the error (0 always right, 1 always wrong), each scenario with the same"
        f" weight: {first} {number(one)},"
        f" {second} {number(other)}"
    )
    if one.overlaps(other):
        verdict = Verdict.OPEN
    else:
        assert claim.least is not None
        verdict = Verdict.HOLDS if one.value - other.value >= claim.least else Verdict.FAILS
    return verdict, [summary, *words]


def _source(claim: Claim, here: Here) -> Judged:
    """Lines of code, hooks and states of each model's own file."""
    del here
    found = engine.sources()
    facts = {model: source_facts(found[f"{model}.c"].decode()) for model in claim.models}
    first, second = (facts[model] for model in claim.models)
    words = [
        f"{model}.c: {lines} lines of code, {hooks} hooks, {states} variables of state"
        for model, (lines, hooks, states) in facts.items()
    ]
    words.append(
        "what the models share (redirection, stacks, the walk over all tasks) is not in it"
    )
    assert claim.least is not None
    holds = first[0] >= claim.least * second[0] and first[1] >= second[1]
    return (Verdict.HOLDS if holds else Verdict.FAILS), words


def source_facts(text: str) -> tuple[int, int, int]:
    """Lines without comments and empty ones, hooks into the engine (members of its ``lg_way`` that
    are functions), and variables that are there beyond a call."""
    code = re.sub(r"/\*.*?\*/|//[^\n]*", "", text, flags=re.DOTALL)
    lines = [line for line in code.splitlines() if line.strip()]
    hooks = re.findall(r"^\t\.(?:missing|begin|pass|end)\s*=", code, re.MULTILINE)
    states = re.findall(r"^static (?!const\b)[\w ]+\w(?: = [^;()]+)?;", code, re.MULTILINE)
    return len(lines), len(hooks), len(states)


def _refused(claim: Claim, here: Here) -> Judged:
    """Live patches that the first model refuses and the second one takes."""
    of = {model: each for (_, model), each in here.items()}
    words = [
        f"{model} takes {each['taken']} of {each['taken'] + len(each['refused'])} live patches"
        for model, each in of.items()
    ]
    words += [
        f"{one['patch']}: {model}: {one['reason']}"
        for model, each in of.items()
        for one in each["refused"]
    ]
    if not set(claim.models) <= of.keys():
        return Verdict.UNMEASURED, words or ["no live patches were tried (--fixes DIR)"]
    first, second = ({one["patch"] for one in of[model]["refused"]} for model in claim.models)
    assert claim.least is not None
    return (Verdict.HOLDS if len(first - second) >= claim.least else Verdict.FAILS), words


def _mixed(claim: Claim, here: Here) -> Judged:
    """Mixed versions that were seen by those who never should."""
    words = []
    broken = False
    assert claim.most is not None
    for model in claim.models:
        cells = [cell for (_, one), cell in here.items() if one == model]
        counted = [each for cell in cells if (each := figures.counts(cell["measured"]))]
        if not counted:
            continue
        seen = {who: _seen(counted, contexts) for who, contexts in SEERS.items()}
        kept = GUARANTEES[model]
        broken = broken or any(seen[who] > claim.most for who in kept)
        never = ", ".join(f"{who} {seen[who]}" for who in kept)
        may = ", ".join(f"{who} {count}" for who, count in seen.items() if who not in kept)
        calls = sum(sum(row[:-1]) for each in counted for row in each.values())
        words.append(f"{model}: who never may: {never}; who may: {may or 'nobody'} ({calls} calls)")
    if not words:
        return Verdict.UNMEASURED, ["no scenario with functions that count was measured"]
    return (Verdict.FAILS if broken else Verdict.HOLDS), words


def _seen(counted: Sequence[Mapping[str, Sequence[int]]], contexts: Sequence[str]) -> int:
    return sum(each[context][-1] for each in counted for context in contexts if context in each)


JUDGES: Mapping[str, Callable[[Claim, Here], Judged]] = {
    "difference": _compared,
    "ratio": _compared,
    "same": _same,
    "forecast": _forecast,
    "source": _source,
    "refused": _refused,
    "mixed": _mixed,
}


def title(name: str) -> str:
    """A scenario as people read it."""
    known = scenarios().get(name)
    return known.title if known else name


def number(found: Estimate, unit: str = "") -> str:
    """A figure with its interval: ``4.2 ms [3.9, 4.6]``."""
    value, low, high = (short(each) for each in (found.value, found.low, found.high))
    return f"{value}{f' {unit}' if unit else ''} [{low}, {high}]"


def short(value: float) -> str:
    """A number with three digits that mean something."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"
