# SPDX-License-Identifier: GPL-2.0-or-later
"""The main job on a real bug: from a source fix to a running kernel, in guests, with a report.

``make demo`` runs it; ``make demo KERNEL=RELEASE`` takes the project's sample fix and that kernel;
``make demo MODEL=hybrid`` (stop, task) loads the engine first, and the patch under that model.
Ends with status 0 if every claim of the report holds, with 1 if one does not.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

from livegraft import pipeline
from livegraft.cache import Cache
from livegraft.changeset import VMLINUX
from livegraft.cli.progress import shown
from livegraft.errors import CacheError, LivegraftError, NoNetwork
from livegraft.fix.between import between
from livegraft.kernel.kernel import Kernel, source_of
from livegraft.kernel.listing import ListedKernel, list_kernels
from livegraft.kernel.packages import default_source
from livegraft.lab.boot import boot
from livegraft.lab.guest import Guest
from livegraft.lab.trial import FAULT
from livegraft.module.engine import NAME as ENGINE
from livegraft.module.engine import build_engine
from livegraft.progress import Progress
from livegraft.runtime.model import ModelName

HERE = Path(__file__).resolve().parent
BUG = ("6.1.0-55-amd64", "6.1.192-1", "6.1.192-2")
"""A release with a bug in ext4, the version of its source, and the one with the fix."""

MOST_PAIRS = 3
"""How many other pairs are tried: each may unpack two sources."""

SAMPLE = HERE / "sample.patch"
SAMPLE_MARK = "livegraft.sample=1"
MOST_FILES = 20
"""An adjacent pair of sources with a larger difference is no fix but an update."""


@dataclass(slots=True)
class Report:
    """What was built, seen and measured.

    Args:
        subject: which fix and which kernel.
        notes: what the reader has to know.
        steps: seconds by step.
        claims: sentence -> whether it holds, and what was seen.
    """

    subject: str = ""
    notes: list[str] = field(default_factory=list)
    steps: dict[str, float] = field(default_factory=dict)
    claims: list[tuple[str, bool, str]] = field(default_factory=list)

    def claim(self, sentence: str, holds: bool, seen: object = "") -> None:
        """Write a claim down."""
        self.claims.append((sentence, holds, str(seen)))

    @property
    def holds(self) -> bool:
        """Whether there are claims, and each holds."""
        return bool(self.claims) and all(holds for _, holds, _ in self.claims)

    def text(self) -> str:
        """The report for a person."""
        lines = ["", f"livegraft demo: {self.subject}", ""]
        lines += [f"note: {note}" for note in self.notes]
        lines += [f"  {seconds:8.1f} s  {name}" for name, seconds in self.steps.items()]
        lines.append("")
        for sentence, holds, seen in self.claims:
            lines.append(
                f"  {'ok  ' if holds else 'FAIL'} {sentence}" + (f": {seen}" if seen else "")
            )
        lines += ["", "every claim holds" if self.holds else "NOT every claim holds", ""]
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Case:
    """A fix, the kernel that needs it, and how one sees the difference."""

    kernel: Kernel
    fix: Path
    built: pipeline.Built
    show: Callable[[Demo], None]


class Demo:
    """One run.

    Args:
        folder: where fix, module and report are written.
        progress: shows the steps and records their times.
        method: how the live patch is prepared.
        model: how the system stays consistent while it is loaded and unloaded.
    """

    def __init__(
        self, folder: Path, progress: Progress, method: pipeline.Method, model: ModelName
    ) -> None:
        self.folder = folder
        self.progress = progress
        self.method = method
        self.model = model
        self.cache = Cache()
        self.report = Report()
        self.case: Case | None = None
        self.engine: Path | None = None

    def run(self, release: str | None, pair: tuple[str, str, str]) -> None:
        """Find a case, build it, show it."""
        cases = self._sample_on(release) if release else self._cases(pair)
        self.case = next(cases)
        functions = self.case.built.outcome.functions
        self.report.subject = f"{self.case.fix.name} on {self.case.kernel.release}"
        self.report.claim(
            "the unpatched code was proved to be the shipped code, and a live patch was built",
            bool(functions) and self.case.built.inspection.manifest["proof"] is True,
            f"{self.case.built.size} bytes, "
            + ", ".join(f"{f.target.object}:{f.target.name} {f.state}" for f in functions),
        )
        if self.model is not ModelName.NATIVE:
            self.engine = build_engine(self.case.kernel, self.progress)
        self.case.show(self)

    # -- which case ------------------------------------------------------------------------------

    def _cases(self, pair: tuple[str, str, str]) -> Iterator[Case]:
        """The real bug; else the newest adjacent pair that yields a patch; else the sample."""
        if (
            case := self._pair(*pair, show=show_bug if pair == BUG else show_redirection)
        ) is not None:
            yield case
        self.report.notes.append(f"{pair[1]} -> {pair[2]} is not to be had; another fix is shown")
        for other in islice(self._adjacent(), MOST_PAIRS):
            if (case := self._pair(*other, show=show_redirection)) is not None:
                yield case
        self.report.notes.append(
            f"none of the {MOST_PAIRS} newest adjacent pairs yields a patch; the sample is shown"
        )
        yield from self._sample_on(None)

    def _pair(self, release: str, old: str, new: str, show: Callable[[Demo], None]) -> Case | None:
        try:
            before = source_of(old, cache=self.cache, progress=self.progress)
            after = source_of(new, cache=self.cache, progress=self.progress)
            difference = between(before, after, ["*.c", "*.h"], self.progress)
            if not 0 < len(difference.files) <= MOST_FILES:
                return None
            fix = self.folder / f"{old}_{new}.patch"
            fix.write_bytes(difference.diff)
            kernel = pipeline.prepare(release, cache=self.cache, progress=self.progress)
            return self._built(kernel, fix, show)
        except (NoNetwork, CacheError):
            raise  # no other pair would fare better
        except LivegraftError as error:
            self.report.notes.append(str(error))
            return None

    def _adjacent(self) -> Iterator[tuple[str, str, str]]:
        """(release, its source version, the next source version), the newest first."""
        for line in self._lines():
            for newer, older in pairwise(line):
                yield older.release, older.source_version, newer.source_version

    def _lines(self) -> Iterator[list[ListedKernel]]:
        """The kernels of each series that can be targeted, the newest first."""
        kernels = [k for k in list_kernels(default_source(None), self.cache) if k.usable]
        plain = [k for k in kernels if str(k.flavour) == "amd64"]
        for series in ("6.1.", "6.12."):
            line = [k for k in plain if k.source_version.startswith(series)]
            yield sorted(line, key=lambda k: _numbers(k.source_version), reverse=True)

    def _sample_on(self, release: str | None) -> Iterator[Case]:
        release = release or next(line[0].release for line in self._lines() if line)
        kernel = pipeline.prepare(release, cache=self.cache, progress=self.progress)
        yield self._built(kernel, SAMPLE, show_sample)

    def _built(self, kernel: Kernel, fix: Path, show: Callable[[Demo], None]) -> Case:
        output = self.folder / f"livegraft_{re.sub('[^a-z0-9]+', '_', fix.stem.lower())}.ko"
        built = pipeline.build(
            [fix], kernel, output=output, method=self.method, progress=self.progress
        )
        return Case(kernel, fix, built, show)

    # -- what happens in guests ------------------------------------------------------------------

    @property
    def chosen(self) -> Case:
        """The case that is shown."""
        assert self.case is not None
        return self.case

    @property
    def targets(self) -> list[str]:
        """The modules that the patch changes."""
        return [t for t in _objects(self.chosen) if t != VMLINUX]

    def guest(self, **files: Path) -> Any:
        """A guest of the case's kernel, with the live patch and more files in /root."""
        kernel = self.chosen.kernel
        placed: dict[str, bytes | Path] = {"/root/patch.ko": self.chosen.built.path.read_bytes()}
        placed |= {f"/root/{name}": path for name, path in files.items()}
        return boot(
            kernel.vmlinuz,
            kernel.modules,
            load=[*self.targets, "loop", "ext4"],
            files=placed,
            cache=self.cache,
            progress=self.progress,
        )

    def load(self, guest: Guest) -> str:
        """Load the patch in the guest through the runtime; returns its name."""
        if self.engine is not None:
            guest.insert(ENGINE, self.engine.read_bytes())
        loaded = _runtime(guest, "load", "/root/patch.ko", "--model", self.model)
        self.report.claim(
            "the live patch was loaded and every task changed to the new code",
            loaded["state"] == "enabled" and loaded["model"] == self.model,
            f"model {loaded['model']}, transition {_milliseconds(loaded['transition_ms'])}",
        )
        return str(loaded["name"])

    def unload(self, guest: Guest, name: str) -> None:
        """Unload it; the log has to be clean and the redirection gone."""
        unloaded = _runtime(guest, "unload", name)["unloaded"][0]
        log = [message.text for message in guest.kernel_log()]
        faults = [text for text in log if FAULT.search(text)]
        self.report.claim(
            "the live patch was unloaded",
            guest.run(["test", "-e", f"/sys/module/{name}"]).status != 0,
            f"transition {_milliseconds(unloaded['transition_ms'])}",
        )
        self.report.claim("the kernel's log is clean", not faults, "; ".join(faults[:2]))

    def redirected(self, guest: Guest) -> set[str]:
        """The functions of the patch that ftrace redirects right now: by a handler that changes the
        address (I), as the kernel's core does it, or by a direct call (D), as the engine does.
        """
        guest.shell(
            "mountpoint -q /sys/kernel/tracing || mount -t tracefs none /sys/kernel/tracing"
        )
        text = guest.shell("cat /sys/kernel/tracing/enabled_functions").text
        names = {f.target.name for f in self.chosen.built.outcome.functions if f.symbol}
        lines = [
            line.split() for line in text.splitlines() if line[:1].isalnum() or line[:1] == "_"
        ]
        return {words[0] for words in lines if words[0] in names and {"I", "D"} & set(words)}


def show_bug(demo: Demo) -> None:
    """The ext4 bug: there, gone while the patch is loaded, there again."""
    script = HERE / "reproduce-mballoc.sh"
    with demo.progress.step("guest without the patch"), demo.guest(reproduce=script) as guest:
        guest.check(["/root/reproduce", "setup"])
        result = guest.run(["/root/reproduce", "trigger"], timeout=60)
        faults = _null_dereferences(guest)
        demo.report.claim(
            "control: without the patch the kernel dereferences NULL",
            bool(faults) and result.status != 0,
            faults[:1],
        )
    with demo.progress.step("guest with the patch"), demo.guest(reproduce=script) as guest:
        guest.check(["/root/reproduce", "setup"])
        writer = guest.start(["/root/reproduce", "load"])
        time.sleep(1)
        busy = writer.running
        name = demo.load(guest)
        demo.report.claim("a writer was busy on a mounted ext4 meanwhile", busy and writer.running)
        guest.check(["/root/reproduce", "stop"])
        writer.wait(timeout=60)
        result = guest.run(["/root/reproduce", "trigger"], timeout=60)
        demo.report.claim(
            "with the patch the same commands work", result.status == 0, result.text.strip()
        )
        result = guest.run(["/root/reproduce", "check"], timeout=60)
        demo.report.claim("all data is read back intact", result.status == 0)
        demo.unload(guest, name)
        demo.report.claim("the redirection is gone", not demo.redirected(guest))
        guest.check(["sh", "-c", "umount /tmp/mballoc/mount && rm -r /tmp/mballoc"])
        guest.check(["/root/reproduce", "setup"])
        guest.run(["/root/reproduce", "trigger"], timeout=60)
        faults = _null_dereferences(guest)
        demo.report.claim("the old code is back: the bug shows again", bool(faults), faults[:1])


def show_sample(demo: Demo) -> None:
    """The sample fix: /proc/cmdline before, while loaded, and after."""

    def marked(guest: Guest) -> bool:
        return SAMPLE_MARK in guest.get("/proc/cmdline").decode()

    with demo.progress.step("guest"), demo.guest() as guest:
        demo.report.claim("control: before, /proc/cmdline has no mark", not marked(guest))
        name = demo.load(guest)
        demo.report.claim(f"with the patch /proc/cmdline says {SAMPLE_MARK}", marked(guest))
        demo.unload(guest, name)
        demo.report.claim("the old code is back: the mark is gone", not marked(guest))


def show_redirection(demo: Demo) -> None:
    """Any fix: its functions are redirected while it is loaded, and not afterwards."""
    wanted = {f.target.name for f in demo.chosen.built.outcome.functions if f.symbol}
    with demo.progress.step("guest"), demo.guest() as guest:
        demo.report.claim("control: before, no function is redirected", not demo.redirected(guest))
        name = demo.load(guest)
        demo.report.claim(
            "with the patch its functions are redirected", demo.redirected(guest) == wanted
        )
        demo.unload(guest, name)
        demo.report.claim("the redirection is gone", not demo.redirected(guest))


def _null_dereferences(guest: Guest) -> list[str]:
    return [m.text for m in guest.kernel_log() if "NULL pointer dereference" in m.text]


def _objects(case: Case) -> list[str]:
    changes = case.built.outcome.changes
    return list(changes.objects) if changes is not None else []


def _runtime(guest: Guest, *arguments: str) -> dict[str, Any]:
    """A verb of the runtime inside the guest: the same code as on a production machine."""
    result = guest.check(["python3", "-m", "livegraft.runtime", *arguments, "--json"], timeout=120)
    document: dict[str, Any] = json.loads(result.stdout)
    return document


def _milliseconds(number: float | None) -> str:
    return "of unknown length" if number is None else f"{number:.1f} ms"


def _numbers(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version)]


def main() -> int:
    """Run the demo; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kernel", metavar="RELEASE", help="show the sample fix on this kernel")
    parser.add_argument(
        "--pair",
        nargs=3,
        metavar=("RELEASE", "OLD", "NEW"),
        default=BUG,
        help="another pair of source versions (default: %(default)s)",
    )
    parser.add_argument(
        "--method",
        choices=[each.value for each in pipeline.Method],
        default=pipeline.Method.COMPARE.value,
        help="how the live patch is prepared (default: %(default)s)",
    )
    parser.add_argument(
        "--model",
        choices=[each.value for each in ModelName],
        default=ModelName.NATIVE.value,
        help="how the system stays consistent (default: %(default)s)",
    )
    parser.add_argument("-o", "--output", type=Path, default=Path("build/demo"))
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    progress = shown(quiet=False, verbose=False, may_draw=True)
    method, model = pipeline.Method(arguments.method), ModelName(arguments.model)
    demo = Demo(arguments.output, progress, method, model)
    try:
        demo.run(arguments.kernel, tuple(arguments.pair))
    except LivegraftError as error:
        demo.report.claim("the demo ran to its end", False, error)
    except KeyboardInterrupt:
        print("demo: interrupted", file=sys.stderr)
        return 1
    finally:
        progress.close()
    demo.report.steps = dict(progress.timings)
    text = demo.report.text()
    (arguments.output / "report.txt").write_text(text)
    print(text)
    return 0 if demo.report.holds else 1


if __name__ == "__main__":
    sys.exit(main())
