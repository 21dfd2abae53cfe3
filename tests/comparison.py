# SPDX-License-Identifier: GPL-2.0-or-later
"""Cells of a comparison as guests answer them, with figures that a test chooses."""

from __future__ import annotations

import random
from typing import Any

from livegraft.lab.comparison import report
from livegraft.lab.comparison.scenarios import MODELS, scenarios

KERNEL = "6.1.0-55-amd64"
MACHINE = {
    "emulated": True,
    "processors": 2,
    "processor": "AMD EPYC <7>",
    "guest_processors": 2,
}


def change(
    ms: float, *, finished: bool = True, total: int = 60, pause: int = 0, signalled: int = 0
) -> dict[str, Any]:
    """A load or an unload."""
    times = {"resolve": 100, "redirect": 20000, "move": int(ms * 100), "pause": pause, "tries": 1}
    return {
        "finished": finished,
        "ms": ms,
        "mostly_ms": ms / 2 if finished else None,
        "total": total,
        "times": times,
        "counts": {"signalled": signalled, "interrupted": signalled // 3, "restarted": 0},
        "samples": [[ms / 4, total], [ms / 2, 1], [ms, 0]],
    }


def gap(ms: float) -> dict[str, float]:
    """What the probe saw in a span of time."""
    return {"user": ms, "syscall": ms / 3, "every": ms / 2}


def measured(
    ms: float = 40, *, every: float = 1, pause: int = 0, signalled: int = 0, repeat: int = 10
) -> dict[str, Any]:
    """What a guest answers."""
    chance = random.Random(3)
    repetitions = []
    for _ in range(repeat):
        factor = chance.uniform(0.9, 1.1)
        repetitions.append(
            {
                "apply": change(ms * factor, pause=pause, signalled=signalled),
                "undo": change(ms * factor / 2, pause=pause),
                "seen_eintr": signalled // 3,
                "pauses": {
                    "quiet": gap(12 * factor),
                    "apply": gap(50 * factor),
                    "undo": gap(2 * every * factor),
                },
            }
        )
    counts = {"syscall": [100, 90, 0, 0], "cold": [5, 5, 0, 0], "apart": [9, 9, 0, 4], "late": [3]}
    return {
        "repetitions": repetitions,
        "stalled": "",
        "tasks": 60,
        "forecasts": [{"chance": 1.0, "median_ms": 1.0, "horizon_ms": 1000.0}] * 2,
        "counts": counts,
        "calls": {"plain": [7.0, 7.1, 7.2], "patched": [50.0, 51.0, 52.0]},
    }


def cell(scenario: str, model: str, answer: dict[str, Any] | None) -> dict[str, Any]:
    """A cell of one guest; without an answer it was lost."""
    lost = {"status": "lost", "reason": "the guest was lost: <hangs>", "log": ["BUG: <b> & more"]}
    fine: dict[str, Any] = {"status": "done", "reason": "", "log": []}
    return {
        "kernel": KERNEL,
        "scenario": scenario,
        "model": model,
        "asked": {"repeat": 10},
        "patch": "lgc_one",
        "faults": [],
        "seconds": 30.0,
        "measured": [answer] if answer else [],
        **(fine if answer else lost),
    }


def kept(model: str) -> dict[str, Any]:
    """An answer in which a model keeps what it guarantees."""
    answer = measured()
    if model == "stop":
        answer["counts"]["late"] = [0]
    if model == "task":
        answer["counts"]["apart"][-1] = 0
    return answer


def document() -> dict[str, Any]:
    """A report of the default set; one guest was lost."""
    names = [each.name for each in scenarios().values() if each.default]
    cells = [cell(name, model, kept(model)) for name in names for model in MODELS]
    cells[-1] = cell(names[-1], MODELS[-1], None)
    options = {
        "kernels": [KERNEL],
        "models": list(MODELS),
        "scenarios": names,
        "repeat": 10,
        "patch": [],
    }
    return report.document(options, cells, MACHINE, "livegraft lab models -o DIR", "0.1.0")
