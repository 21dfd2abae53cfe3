# SPDX-License-Identifier: GPL-2.0-or-later
"""Statistics of a comparison, and how its claims are answered."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import pytest
from tests.comparison import KERNEL, cell, change, document, kept, measured
from tests.documents import validate

from livegraft.errors import UsageError
from livegraft.lab.comparison import claims, figures, report
from livegraft.lab.comparison.claims import Verdict, answers, source_facts
from livegraft.lab.comparison.conduct import read
from livegraft.lab.comparison.scenarios import MODELS, chosen, models, scenarios
from livegraft.lab.comparison.statistics import (
    Growth,
    difference,
    estimate,
    fit,
    mean_of_means,
    ratio,
    together,
)
from livegraft.lab.witness.measure import longest

RANDOM = numpy.random.default_rng(5)


def verdicts(cells: list[dict[str, Any]]) -> dict[str, Verdict]:
    return {each.claim.key: each.verdict for each in answers([KERNEL], cells)}


def test_an_interval_holds_the_true_median_as_often_as_it_says() -> None:
    """Of 200 samples of ten, 95 % should; the bootstrap of a median of ten is a little narrow."""
    held = 0
    for _ in range(200):
        found = estimate([list(RANDOM.normal(100, 10, size=10))])
        assert found is not None
        held += found.low <= 100 <= found.high
    assert 175 <= held <= 199


def test_what_differs_between_guests_is_in_the_interval() -> None:
    """Of five guests that differ more than two values of one do, 95 % again; not so if all ten
    values are taken for measured in one."""
    chance = numpy.random.default_rng(9)
    held = alone = 0
    for _ in range(200):
        sample = [list(chance.normal(mean, 2, size=2)) for mean in chance.normal(100, 10, size=5)]
        found, one = estimate(sample), estimate([together(sample)])
        assert found is not None and one is not None
        held += found.low <= 100 <= found.high
        alone += one.low <= 100 <= one.high
    assert 180 <= held <= 199 and alone < held


def test_a_guest_with_few_values_counts_for_few() -> None:
    """In the interval as in the value, which lies in it."""
    sample = [[10.0] * 9, [20.0]]
    for statistic, value in ((numpy.mean, 11.0), (numpy.median, 10.0)):
        found = estimate(sample, statistic)
        assert found is not None
        assert (found.value, found.low, found.high) == (value, 10, 20)
    mean = mean_of_means([[[0.0] * 90], [[1.0]], []])
    assert mean is not None and (mean.value, mean.low, mean.high, mean.count) == (0.5, 0.5, 0.5, 91)
    assert mean_of_means([[], [[]]]) is None


def test_the_same_values_give_the_same_interval() -> None:
    values = [1.0, 2.0, 4.0, 8.0]
    assert estimate([values]) == estimate([values])
    assert estimate([]) is None and estimate([[], []]) is None


def test_values_that_are_one_have_no_width() -> None:
    found = estimate([[3.0] * 10])
    assert found is not None
    assert (found.value, found.width, found.count) == (3.0, 0.0, 10)


def test_samples_of_one_thing_overlap_and_of_two_do_not() -> None:
    one, same, other = (estimate([list(RANDOM.normal(mean, 1, size=10))]) for mean in (10, 10, 20))
    assert one is not None and same is not None and other is not None
    assert one.overlaps(same)
    assert not one.overlaps(other)


def test_ratio_and_difference() -> None:
    double = ratio([[20.0, 22.0], [21.0]], [[10.0, 11.0, 10.5]])
    more = difference([[20.0, 22.0], [21.0]], [[10.0, 11.0, 10.5]])
    assert double is not None and more is not None
    assert double.value == pytest.approx(2)
    assert more.value == pytest.approx(10.5)
    assert double.low <= 2 <= double.high
    assert ratio([[1.0]], [[0.0]]) is None
    assert difference([], [[1.0]]) is None


@pytest.mark.parametrize(
    ("growth", "exponent"),
    [
        (Growth.CONSTANT, None),
        (Growth.LINEAR, 1.0),
        (Growth.WORSE, 2.0),
    ],
)
def test_growth(growth: Growth, exponent: float | None) -> None:
    sizes = [1, 10, 100, 500]
    noise = [RANDOM.normal(1, 0.02, size=10) for _ in sizes]
    samples = [
        [list((40 + (0 if exponent is None else 0.5 * (size - 1) ** exponent)) * own)]
        for size, own in zip(sizes, noise, strict=True)
    ]
    found = fit(sizes, samples)
    assert found is not None
    assert found.growth is growth
    assert found.at_smallest == pytest.approx(40, rel=0.05)


def test_growth_that_varies_too_much_cannot_be_told() -> None:
    sizes = [1, 10, 100, 500]
    noise = [RANDOM.lognormal(0, 0.9, size=10) for _ in sizes]
    samples = [[list(0.5 * size**1.2 * own)] for size, own in zip(sizes, noise, strict=True)]
    found = fit(sizes, samples)
    assert found is not None
    assert found.exponent.low <= 1.2 < found.exponent.high
    assert found.growth is Growth.OPEN


def test_a_pause_counts_in_its_own_span_of_time() -> None:
    """The one that begins with the load is none of the quiet time before."""
    cpu = min(os.sched_getaffinity(0))
    gaps = [(cpu, "u", 1.0, 1.002), (cpu, "s", 1.499, 1.6), (cpu, "u", 1.58, 1.7)]
    quiet, apply = longest(gaps, 0.9, 1.5), longest(gaps, 1.5, 1.65)
    assert quiet["user"] == pytest.approx(2) and quiet["syscall"] == pytest.approx(1)
    assert apply["syscall"] == pytest.approx(100) and apply["user"] == pytest.approx(70)
    assert longest(gaps, 2, 3) == {"user": 0, "syscall": 0, "every": 0}


def test_growth_of_too_few_sizes() -> None:
    assert fit([1, 2], [[[1.0]], [[2.0]]]) is None
    assert fit([1, 2, 3], [[[1.0]], [[]], [[3.0]]]) is None


def test_a_change_that_did_not_end_is_no_time() -> None:
    answer = measured(repeat=4)
    answer["repetitions"][0]["apply"] = change(10000, finished=False)
    del answer["repetitions"][0]["undo"]
    found = figures.values([answer, answer])
    assert [len(each) for each in found["apply"]] == [3, 3]
    assert [len(each) for each in found["undo"]] == [3, 3]
    assert found["applied"] == [[0, 1, 1, 1]] * 2


def test_what_all_guests_of_a_cell_have_counted() -> None:
    first, second = measured(), measured()
    second["counts"]["late"] = [4]
    assert figures.counts([first, second])["late"] == [7]
    assert figures.counts([first, second])["syscall"] == [200, 180, 0, 0]
    assert figures.counts([first, {**second, "counts": {}}]) == first["counts"]


def test_a_forecast_that_was_wrong() -> None:
    answer = measured(repeat=2)
    assert figures.forecast_errors([answer]) == [[0, 0, 0, 0]]
    answer["repetitions"][0]["apply"] = change(10000, finished=False)
    answer["forecasts"] = [{"chance": 0.5, "median_ms": None, "horizon_ms": 1000.0}]
    assert figures.forecast_errors([answer]) == [[0.25, 0.25]]


def test_the_kernels_own_core_tells_no_times() -> None:
    answer = measured()
    for each in answer["repetitions"]:
        for way in ("apply", "undo"):
            each[way] |= {"times": {}, "counts": {}}
    assert not {"moving", "tries", "signalled"} & figures.estimates([answer]).keys()


@pytest.mark.parametrize(
    ("stop", "verdict"), [(20, Verdict.HOLDS), (1, Verdict.FAILS), (2, Verdict.OPEN)]
)
def test_the_pause_of_stop(stop: float, verdict: Verdict) -> None:
    cells = [
        cell("tasks-1000", "stop", measured(every=stop)),
        cell("tasks-1000", "hybrid", measured(every=1)),
    ]
    assert verdicts(cells)["C1"] is verdict


def test_a_model_that_never_applies() -> None:
    never = measured()
    for each in never["repetitions"]:
        each["apply"] = change(10000, finished=False)
        del each["undo"]
    here, there = cell("sleeping", "hybrid", measured()), cell("sleeping", "stop", never)
    assert verdicts([here, there])["C2"] is Verdict.HOLDS
    here, there = cell("sleeping", "hybrid", never), cell("sleeping", "stop", measured())
    assert verdicts([here, there])["C2"] is Verdict.FAILS


def test_signals() -> None:
    cells = [
        cell("tasks-1000", "task", measured(signalled=900)),
        cell("tasks-1000", "hybrid", measured()),
    ]
    assert verdicts(cells)["C4"] is Verdict.HOLDS
    assert verdicts(cells[:1])["C4"] is Verdict.UNMEASURED


def test_a_scenario_that_does_not_decide() -> None:
    cells = [cell("idle", model, measured(signalled=900)) for model in ("task", "hybrid")]
    (answer,) = [each for each in answers([KERNEL], cells) if each.claim.key == "C4"]
    assert answer.verdict is Verdict.UNMEASURED
    assert answer.found[0].startswith("1,000 tasks, which decides, was not measured")
    assert answer.found[1].startswith("idle, sleepers that were signalled: task 900 [900, 900]")
    assert "idle, system calls that began again: task 0 [0, 0], hybrid 0 [0, 0]" in answer.found


def test_the_cost_of_a_call() -> None:
    cells = [cell("idle", model, measured()) for model in MODELS]
    assert verdicts(cells)["C7"] is Verdict.HOLDS
    cells[-1]["measured"][0]["calls"]["patched"] = [170.0, 171.0, 172.0]
    assert verdicts(cells)["C7"] is Verdict.FAILS


@pytest.mark.parametrize(
    ("model", "context"),
    [("hybrid", "syscall"), ("hybrid", "cold"), ("stop", "late"), ("task", "apart")],
)
def test_a_guarantee_that_is_broken(model: str, context: str) -> None:
    cells = [cell("called", each, kept(each)) for each in MODELS]
    assert verdicts(cells)["C8"] is Verdict.HOLDS
    cells[MODELS.index(model)]["measured"][0]["counts"][context][-1] = 1
    assert verdicts(cells)["C8"] is Verdict.FAILS


def test_what_a_model_does_not_guarantee() -> None:
    cells = [cell("called", each, kept(each)) for each in MODELS]
    cells[MODELS.index("native")]["measured"][0]["counts"]["cold"][-1] = 7
    assert verdicts(cells)["C8"] is Verdict.HOLDS


@pytest.mark.parametrize(
    ("key", "threshold", "held"),
    [
        ("C3", {"least": 0.2}, Verdict.HOLDS),
        ("C3", {"least": 0.3}, Verdict.FAILS),
        ("C8", {"most": 1}, Verdict.HOLDS),
        ("C8", {"most": 0}, Verdict.FAILS),
    ],
)
def test_the_threshold_decides(key: str, threshold: dict[str, Any], held: Verdict) -> None:
    """A forecast that is wrong by a quarter under one model, and one mixed version."""
    cells = {("called", model): cell("called", model, kept(model)) for model in MODELS}
    wrong = {"chance": 0.5, "median_ms": None, "horizon_ms": 1000.0}
    cells["called", "stop"]["measured"][0]["forecasts"] = [wrong]
    cells["called", "task"]["measured"][0]["counts"]["syscall"][-1] = 1
    claim = replace(claims.claims()[key], **threshold)
    assert claims.JUDGES[claim.kind](claim, cells)[0] is held


def test_lines_hooks_and_states_of_a_source() -> None:
    text = """\
/* A comment
 * of two lines. */
static bool side;
static int state = -1;
static const char *name(void)	// no variable
{
	return NULL;
}

const struct lg_way lg_some = {
	.name		= "some",
	.begin		= begin,
	.pass		= pass,
};
"""
    assert source_facts(text) == (11, 2, 2)


def test_the_real_sources() -> None:
    (answer,) = [each for each in answers([], []) if each.claim.key == "C5"]
    assert answer.verdict is Verdict.HOLDS
    assert answer.found[0].startswith("task.c: ")


def test_every_claim_can_be_judged() -> None:
    assert [*claims.claims()] == [f"C{number}" for number in range(1, 9)]
    known = scenarios()
    for claim in claims.claims().values():
        assert claim.kind in claims.JUDGES
        assert set(claim.models) <= set(MODELS)
        assert {*claim.scenarios, *filter(None, [claim.decisive])} <= known.keys()
        assert not claim.figure or claim.figure in {*figures.FIGURES, figures.CALL}


def test_which_scenarios() -> None:
    assert len(chosen([], False)) == 6
    assert [each.name for each in chosen(["hogs", "idle"], False)] == ["idle", "hogs"]
    assert chosen([], True) == list(scenarios().values())
    with pytest.raises(UsageError, match="use one of idle"):
        chosen(["asleep"], False)
    with pytest.raises(UsageError, match="use one of hybrid"):
        models(["kgraft"])


def test_a_folder_without_a_comparison(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no comparison"):
        read(tmp_path)


def test_what_a_cell_lacks_is_told() -> None:
    """One of few repetitions has its figures and a remark, a lost one the remark in their place."""
    found = document()
    few = found["cells"][0]
    few["reason"] = "3 of 10 repetitions in 300 s"
    lines = report.markdown(found).splitlines()
    assert f"- idle, {few['model']}: 3 of 10 repetitions in 300 s" in lines
    (row,) = (line for line in lines if line.startswith(f"| idle | {few['model']} |"))
    assert row.endswith("| 1 |")
    (lost,) = (line for line in lines if line.endswith("| lost |"))
    assert lost.startswith("| CPU hogs | native |")
    assert "- CPU hogs, native: the guest was lost: <hangs>" in lines


def test_the_document() -> None:
    found = document()
    validate("lab", found)
    assert json.loads(json.dumps(found)) == found
    assert found["cells"][-1]["log"] == ["BUG: <b> & more"]


def tried(model: str, taken: int, *refused: str) -> dict[str, Any]:
    """What became of live patches under a model."""
    reasons = [{"patch": each, "reason": "why"} for each in refused]
    return {"kernel": KERNEL, "model": model, "taken": taken, "refused": reasons}


@pytest.mark.parametrize(
    ("fixes", "verdict"),
    [
        ([tried("hybrid", 2, "one"), tried("task", 3)], Verdict.HOLDS),
        ([tried("hybrid", 2, "one"), tried("task", 2, "one")], Verdict.FAILS),
        ([tried("hybrid", 3), tried("task", 2, "one")], Verdict.FAILS),
        ([tried("hybrid", 3), tried("stop", 3)], Verdict.UNMEASURED),
        ([], Verdict.UNMEASURED),
    ],
)
def test_what_a_model_asks_of_a_patch(fixes: list[dict[str, Any]], verdict: Verdict) -> None:
    (answer,) = [each for each in answers([KERNEL], [], fixes) if each.claim.key == "C6"]
    assert answer.verdict is verdict
    if fixes:
        assert "hybrid takes" in answer.found[0]
