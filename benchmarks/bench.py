# SPDX-License-Identifier: GPL-2.0-or-later
"""Measure what the README claims, and print it as a table.

``make bench`` runs everything, ``--only build,transitions`` a part. The exit status is 1 if a
figure misses its target. Nothing else should run on the machine meanwhile; guests run one at a
time. Software emulation makes absolute times in guests longer than hardware's; ratios hold.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.booting import added, status
from benchmarks.calls import calls
from benchmarks.comparing import comparing
from benchmarks.engine import KERNELS, engine
from benchmarks.measure import Cost, Figure, livegraft
from benchmarks.sampled import sampled
from livegraft import pipeline
from livegraft.cache import Cache
from livegraft.kernel.kernel import Kernel
from livegraft.lab.boot import boot
from livegraft.lab.image import Image

HERE = Path(__file__).resolve().parent
RELEASE = "6.1.0-55-amd64"
FIX = HERE.parent / "tests/data/ext4-mballoc.patch"
HEADER_FIX = HERE / "btrfs-ctree-header.patch"
SAMPLE = HERE.parent / "demo/sample.patch"
PLOT = HERE.parent / "build/compare.svg"


ROUNDS = 5
MORE_ROUNDS = {"engine": 20}
"""How often each part is measured."""


def build(_: Kernel, rounds: int) -> Iterator[Figure]:
    """From fix to module, kernel prepared: in all, the project's own Python, its memory; and what
    a second person takes to vouch for it."""
    costs, again = [], []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(rounds):
            output = Path(folder, f"{number}.ko")
            costs.append(livegraft("build", FIX, "-k", RELEASE, "-o", output))
            again.append(livegraft("verify", output, "--rebuild", "--fix", FIX))
    seconds = statistics.median(cost.seconds for cost in costs)
    own = statistics.median(cost.own_seconds for cost in costs)
    memory = max(cost.own_mib for cost in costs)
    yield Figure("fix to .ko, prepared, one unit", f"{seconds:.1f} s", "<= 8 s", seconds <= 8)
    yield Figure("  of which own Python", f"{own:.2f} s", "<= 1.5 s", own <= 1.5)
    yield Figure(
        "  resident memory beside the compiler", f"{memory:.0f} MB", "<= 300 MB", memory <= 300
    )
    for name, value in _median_timings(costs).items():
        yield Figure(f"  step: {name}", f"{value:.2f} s")
    times = statistics.median(
        second.seconds / first.seconds for first, second in zip(costs, again, strict=True)
    )
    yield Figure("verify --rebuild, over build", f"{times:.2f} times", "<= 1.5", times <= 1.5)


def cold(_: Kernel, __: int) -> Iterator[Figure]:
    """From fix to module with an empty cache, packages downloading."""
    with tempfile.TemporaryDirectory() as folder:
        cost = livegraft(
            "build", FIX, "-k", RELEASE, "-o", Path(folder, "cold.ko"), cache=Path(folder, "cache")
        )
    yield Figure(
        "fix to .ko, empty cache", f"{cost.seconds:.0f} s", "<= 120 s", cost.seconds <= 120
    )
    for name, value in cost.document["timings"].items():
        if value >= 1:
            yield Figure(f"  step: {name}", f"{value:.1f} s")


def header(_: Kernel, __: int) -> Iterator[Figure]:
    """An inline function of a header that 56 units read and two use."""
    with tempfile.TemporaryDirectory() as folder:
        cost = livegraft("build", HEADER_FIX, "-k", RELEASE, "-o", Path(folder, "header.ko"))
    seconds = cost.seconds
    what = "fix to .ko, a function in a header of 56 units"
    yield Figure(what, f"{seconds:.0f} s", "<= 120 s", seconds <= 120)
    for name, value in cost.document["timings"].items():
        if value >= 1:
            yield Figure(f"  step: {name}", f"{value:.1f} s")


def guests(kernel: Kernel, rounds: int) -> Iterator[Figure]:
    """From the start of QEMU to the first command's answer."""
    for image, limit in ((Image.BARE, 5.0), (Image.PYTHON, 8.0)):
        seconds = []
        for _ in range(max(rounds // 2, 1)):
            with boot(kernel.vmlinuz, kernel.modules, image=image) as guest:
                seconds.append(guest.boot_seconds)
        median = statistics.median(seconds)
        target = f"<= {limit:g} s"
        yield Figure(f"guest to first command, {image}", f"{median:.1f} s", target, median <= limit)


def transitions(kernel: Kernel, rounds: int) -> Iterator[Figure]:
    """Transitions with early kicks and without, alternating, in one guest."""
    measured = _measured(kernel, max(2 * rounds, 2))
    samples = measured["samples"]
    limits = {"idle": (10, 80), "300 sleepers": (10, 80), "300 sleepers, 4 busy": (60, 0)}
    for load, (limit, ratio) in limits.items():
        for key, word in (("apply", "loading"), ("undo", "unloading")):
            kicked, slow, moved = (
                statistics.median(_of(samples, load, f"{key}_{part}", kicks=kicks))
                for part, kicks in (("ms", True), ("ms", False), ("tasks_ms", True))
            )
            wins = slow / kicked
            yield Figure(
                f"transition, {load}, {word}",
                f"{kicked:.1f} ms; without kicks {slow:.0f} ms ({wins:.0f} x);"
                f" all tasks moved after {moved:.1f} ms",
                f"<= {limit} ms" + (f", >= {ratio} x" if ratio else ""),
                kicked <= limit and wins >= ratio,
            )
        calls = statistics.median(_of(samples, load, "call_ms", kicks=True))
        yield Figure(f"the call that loads the module, {load}", f"{calls:.0f} ms")
    walk = statistics.median(measured["walks"])
    yield Figure("of unloading, ftrace changes the code back", f"{walk:.1f} ms")


def _measured(kernel: Kernel, rounds: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        patch = Path(folder, "sample.ko")
        livegraft("build", SAMPLE, "-k", RELEASE, "-o", patch)
        files: dict[str, bytes | Path] = {
            "/root/sample.ko": patch,
            **{f"/root/benchmarks/{name}": HERE / name for name in ("transitions.py", "others.py")},
        }
        with boot(kernel.vmlinuz, kernel.modules, files=files) as guest:
            words = ["python3", "-m", "benchmarks.transitions", "/root/sample.ko", str(rounds)]
            result = guest.check(words, timeout=1800)
    measured: dict[str, Any] = json.loads(result.stdout)
    return measured


def _of(samples: list[dict[str, Any]], load: str, key: str, *, kicks: bool) -> list[float]:
    return [s[key] for s in samples if s["load"] == load and s["kicks"] is kicks]


def _median_timings(costs: list[Cost]) -> dict[str, float]:
    names = costs[0].document["timings"]
    return {n: statistics.median(c.document["timings"].get(n, 0.0) for c in costs) for n in names}


def parts(
    plot: Path, releases: Sequence[str] = KERNELS, surveys: Sequence[Path] = ()
) -> dict[str, Callable[[Kernel, int], Iterator[Figure]]]:
    """What there is to measure, in order.

    Args:
        plot: where the plot of the comparison goes.
        releases: the kernels of those parts that measure several.
        surveys: folders of surveys whose fixes are built.
    """
    return {
        "build": build,
        "header": header,
        "compare": partial(comparing, fix=SAMPLE, plot=plot),
        "guests": guests,
        "transitions": transitions,
        "calls": calls,
        "boot": partial(added, releases=releases),
        "status": partial(status, releases=releases),
        "engine": partial(engine, releases=releases),
        "cold": cold,
        **{f"survey-{each.name}": partial(sampled, survey=each) for each in surveys},
    }


def main() -> int:
    """Measure; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    listed = ", ".join(parts(PLOT))
    parser.add_argument("--only", help=f"parts, separated by commas: {listed}")
    parser.add_argument(
        "--rounds", type=int, help=f"(default: {ROUNDS}, of engine {MORE_ROUNDS['engine']})"
    )
    parser.add_argument(
        "--kernel", choices=KERNELS, nargs="*", default=KERNELS, help="for boot, status and engine"
    )
    parser.add_argument("-o", "--output", type=Path, default=Path("build/bench.json"))
    parser.add_argument(
        "--plot", type=Path, default=PLOT, help="the plot of the comparison (default: %(default)s)"
    )
    parser.add_argument(
        "--survey",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="build the fixes of this survey too (part survey-DIR's-name); may be given again",
    )
    arguments = parser.parse_args()
    available = parts(arguments.plot, arguments.kernel, arguments.survey)
    chosen = arguments.only.split(",") if arguments.only else list(available)
    kernel = pipeline.prepare(RELEASE, cache=Cache())
    figures = []
    print(f"| {'what':44} | measured | target | |\n|---|---|---|---|", flush=True)
    for name in chosen:
        rounds = arguments.rounds or MORE_ROUNDS.get(name, ROUNDS)
        for figure in available[name](kernel, rounds):
            figures.append(figure)
            mark = "" if not figure.target else "holds" if figure.holds else "MISSED"
            print(f"| {figure.what} | {figure.measured} | {figure.target} | {mark} |", flush=True)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False, cwd=HERE
    ).stdout.strip()
    document = {"commit": commit, "release": RELEASE, "figures": [asdict(f) for f in figures]}
    arguments.output.write_text(json.dumps(document, indent=2))
    return 0 if all(figure.holds for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
