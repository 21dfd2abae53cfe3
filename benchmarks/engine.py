# SPDX-License-Identifier: GPL-2.0-or-later
"""The engine's models in guests of both kernels, with the kernel's own core beside them."""

from __future__ import annotations

import difflib
import json
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.measure import Figure, livegraft
from livegraft import pipeline
from livegraft.cache import Cache
from livegraft.kernel.image import open_image
from livegraft.kernel.kallsyms import open_kallsyms
from livegraft.kernel.kernel import Kernel
from livegraft.kernel.symvers import read_symvers
from livegraft.lab.boot import boot
from livegraft.lab.witnesses import ENGINE, witnesses
from livegraft.module.inspect import inspect_module

HERE = Path(__file__).resolve().parent
SAMPLE = HERE.parent / "demo/sample.patch"
KERNELS = ("6.1.0-55-amd64", "6.12.117+deb12-amd64")
MODELS = ("hybrid", "stop", "task")
SLEEPERS = 1000
LOADS = ("idle", f"{SLEEPERS} sleepers", f"{SLEEPERS} sleepers, 8 busy")

MOVED = {"hybrid": (2, 8, 40), "task": (10, 40, 80)}
"""Milliseconds until all tasks have moved, for each of :data:`LOADS`."""

CALLED = {KERNELS[0]: (60, 60, 180), KERNELS[1]: (20, 25, 120)}
"""Milliseconds from the call until all run the new code, hybrid."""

SLOWER = {KERNELS[0]: 15, KERNELS[1]: 40}
"""How many times slower the kernel's core has to be, idle."""

RELOCATIONS = 200
UNIT = "fs/proc/cmdline.c"
GUEST = ("engine_guest.py", "others.py")


def engine(_: Kernel, rounds: int, releases: Sequence[str] = KERNELS) -> Iterator[Figure]:
    """Every model, load and kernel, in one guest run each."""
    for release in releases:
        kernel = pipeline.prepare(release, cache=Cache())
        document = _measure(kernel, rounds)
        line = release.partition("-")[0].rpartition(".")[0]
        for number, load in enumerate(LOADS):
            yield from _load(document["loads"][load], release, line, load, number)
            yield from _gaps(document["gaps"][load], line, load)
        yield from _counts(document["counts"], line)
        yield from _calls(document["calls"], line)
        yield from _relocations(document["many"], line)


def _load(
    samples: list[dict[str, Any]], release: str, line: str, load: str, number: int
) -> Iterator[Figure]:
    native = [each["call_ms"] for each in samples if each["model"] == "native"]
    for model in MODELS:
        own = [each for each in samples if each["model"] == model]
        moves = {way: _ms(own, way, "move") for way in ("apply", "undo")}
        limit = MOVED.get(model, (0, 0, 0))[number]
        yield Figure(
            f"{line} {model}, {load}: tasks moved",
            f"{moves['apply']:.1f} ms loading, {moves['undo']:.1f} ms unloading",
            f"<= {limit} ms" if limit else "",
            not limit or max(moves.values()) <= limit,
        )
        call = statistics.median(each["call_ms"] for each in own)
        gone = statistics.median(each["unloadable_ms"] for each in own)
        said = f"{call:.0f} ms (ftrace {_ms(own, 'apply', 'redirect'):.0f} ms);"
        wanted, holds = "", True
        if model == "hybrid":
            slower = statistics.median(native) / call
            said += f" native {statistics.median(native):.0f} ms ({slower:.0f} x);"
            wanted = f"<= {CALLED[release][number]} ms"
            holds = call <= CALLED[release][number]
            if number == 0:
                wanted += f", native >= {SLOWER[release]} x"
                holds = holds and slower >= SLOWER[release]
        said += f" unloadable {gone:.0f} ms after the order"
        yield Figure(f"{line} {model}, {load}: call until all run new code", said, wanted, holds)
    stop = [each[way] for each in samples if each["model"] == "stop" for way in ("apply", "undo")]
    pauses = [each["pause"] / 1000 for each in stop]
    quarters = statistics.quantiles(pauses, n=4)
    said = f"{quarters[1]:.2f} ms (quartiles {quarters[0]:.2f} and {quarters[2]:.2f})"
    ratio = statistics.median(each["pause"] / max(each["stacks"], 1) for each in stop)
    said += f", {ratio:.1f} x the bare look at the stacks"
    yield Figure(f"{line} stop, {load}: pause", said, "<= 2 x", ratio <= 2)


def _gaps(gaps: dict[str, list[float]], line: str, load: str) -> Iterator[Figure]:
    medians = {way: statistics.median(values) for way, values in gaps.items()}
    said = ", ".join(f"{way} {value:.0f} ms" for way, value in medians.items())
    holds = medians["task"] <= 2 * medians["nothing"]
    what = f"{line}, {load}: longest gap of a busy task, loading and unloading"
    yield Figure(what, said, "task <= 2 x nothing", holds)


def _counts(counts: dict[str, list[dict[str, Any]]], line: str) -> Iterator[Figure]:
    for model in MODELS:
        calls = {
            int(count): statistics.median(e["call_ms"] for e in samples if e["model"] == model)
            for count, samples in counts.items()
        }
        said = ", ".join(f"{count}: {value:.0f} ms" for count, value in calls.items())
        ratio = calls[500] / calls[1]
        what = f"{line} {model}: functions, call until all run new code"
        yield Figure(what, f"{said} ({ratio:.1f} x)", "<= 5 x", ratio <= 5)


def _calls(costs: dict[str, float], line: str) -> Iterator[Figure]:
    native = costs["native"] - costs["plain"]
    for model in MODELS:
        extra = costs[model] - costs["plain"]
        said = f"{extra:.1f} ns more than {costs['plain']:.1f} ns; native {native:.1f} ns more"
        holds = extra <= native / 8
        yield Figure(f"{line} {model}: a call", said, "<= 1/8 of native's", holds)


def _relocations(samples: list[dict[str, Any]], line: str) -> Iterator[Figure]:
    for model in ("native", *MODELS):
        call = statistics.median(each["call_ms"] for each in samples if each["model"] == model)
        what = f"{line} {model}: {RELOCATIONS} relocations to vmlinux, until all run new code"
        # The kernel's core takes its time for the transition, which is measured above.
        limit = 0 if model == "native" else 500
        yield Figure(
            what,
            f"{call:.0f} ms",
            f"<= {limit} ms" if limit else "",
            not limit or call <= limit,
        )


def _ms(samples: list[dict[str, Any]], way: str, key: str) -> float:
    return float(statistics.median(each[way][key] for each in samples)) / 1000


def _measure(kernel: Kernel, rounds: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        patch = folder / "sample.ko"
        livegraft("build", SAMPLE, "-k", kernel.release, "-o", patch)
        many = folder / "many.ko"
        fix = _many(kernel, folder / "many.patch")
        livegraft("build", fix, "-k", kernel.release, "-o", many)
        named = inspect_module(patch).name
        files: dict[str, bytes | Path] = {
            **witnesses(kernel),
            f"/ko/{named}.ko": patch,
            "/ko/livegraft_many.ko": many,
            **{f"/root/benchmarks/{name}": HERE / name for name in GUEST},
        }
        with boot(kernel.vmlinuz, kernel.modules, files=files, memory_mib=2048) as guest:
            for module in (ENGINE, "/ko/lgb_target.ko"):
                guest.check(["insmod", module])
            words = ["-m", "benchmarks.engine_guest", str(rounds), str(SLEEPERS), named]
            result = guest.check(["python3", *words], timeout=3000)
    document: dict[str, Any] = json.loads(result.stdout)
    return document


def _many(kernel: Kernel, path: Path) -> Path:
    """A fix with so many references to variables that no module can refer to otherwise."""
    names = _unexported(kernel, RELOCATIONS)
    declared = "".join(
        f'extern char lgb_{number}[] asm("{name}");\n' for number, name in enumerate(names)
    )
    used = " ^ ".join(f"(long)lgb_{number}" for number in range(len(names)))
    before = (kernel.source / UNIT).read_text("utf-8")
    shown = "static int cmdline_proc_show("
    ended = "seq_putc(m, '\\n');"
    if before.count(shown) != 1 or before.count(ended) != 1:
        raise RuntimeError(f"{UNIT} is not as expected")
    after = before.replace(shown, declared + shown)
    after = after.replace(ended, f"seq_putc(m, ({used}) ? '\\n' : ' ');")
    old, new = (text.splitlines(keepends=True) for text in (before, after))
    path.write_text("".join(difflib.unified_diff(old, new, f"a/{UNIT}", f"b/{UNIT}")), "utf-8")
    return path


def _unexported(kernel: Kernel, count: int) -> list[str]:
    """Names of global variables that stay, that there is one of, and that are not exported."""
    kallsyms = open_kallsyms(kernel, open_image(kernel))
    exported = read_symvers(kernel.headers / "Module.symvers")
    (init,) = (address for address, _, name in kallsyms.all() if name == "__init_begin")
    found = [
        name
        for address, letter, name in kallsyms.all()
        if letter == "D"
        and address < init
        and name.isidentifier()
        and exported.get(name) is None
        and len(kallsyms.numbers(name)) == 1
    ]
    return found[:: len(found) // count][:count]
