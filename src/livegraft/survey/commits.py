# SPDX-License-Identifier: GPL-2.0-or-later
"""The commits of a git repository as fixes: one each, as they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from livegraft.errors import RunFailed, UsageError
from livegraft.fix.between import wanted
from livegraft.fix.bodies import body_only
from livegraft.kbuild.objects import units_among
from livegraft.kernel.kernel import Kernel
from livegraft.progress import SILENT, Progress
from livegraft.run import run
from livegraft.survey.candidate import Candidate
from livegraft.survey.plan import shuffled

_GIT_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class Commits:
    """The commits between two.

    Args:
        repository: where they are.
        old: the commit before.
        new: the last one.
        patterns: as :func:`livegraft.fix.between.between` takes them.
    """

    repository: Path
    old: str
    new: str
    patterns: tuple[str, ...] = ()

    def candidates(
        self, kernel: Kernel, sample: int | None, seed: int, progress: Progress = SILENT
    ) -> list[Candidate]:
        """The commits that change a unit which the kernel is built from, oldest first.

        Raises:
            UsageError: there is no such repository or commit.
        """
        with progress.step("read the commits"):
            files = dict(self._changed())
        sources = {path for changed in files.values() for path in changed if path.endswith(".c")}
        built = units_among(kernel, sources, progress)
        kept = [commit for commit, changed in files.items() if any(p in built for p in changed)]
        if sample is not None:
            kept = shuffled(kept, seed)[:sample]
        with progress.step("look at the commits", len(kept)) as step:
            found = []
            for commit in kept:
                found.append(self._candidate(commit, files[commit]))
                step.advance()
        return found

    def fix(self, candidate: Candidate) -> bytes:
        """A commit as a unified diff."""
        text = self._git("format-patch", "-1", "--stdout", "--no-signature", candidate.id)
        return text.encode("utf-8", "surrogateescape")

    def _changed(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        span = f"{self.old}..{self.new}"
        listed = self._git("rev-list", "--reverse", "--no-merges", span, "--").split()
        for commit in listed:
            text = self._git("diff-tree", "--no-commit-id", "--name-only", "-r", "--root", commit)
            files = text.splitlines()
            if any(wanted(path, self.patterns) for path in files):
                yield commit, tuple(files)

    def _candidate(self, commit: str, files: Sequence[str]) -> Candidate:
        before, after = (
            {p: t for p in files if (t := self._text(f"{c}:{p}")) is not None}
            for c in (f"{commit}^", commit)
        )
        subject = self._git("show", "--no-patch", "--format=%s", commit).strip()
        return Candidate(commit, tuple(files), body_only(before, after), subject)

    def _text(self, name: str) -> str | None:
        try:
            return self._git("cat-file", "blob", name)
        except UsageError:
            return None

    def _git(self, *words: str) -> str:
        try:
            return run(
                ["git", "-C", self.repository, "-c", "core.quotePath=false", *words],
                timeout=_GIT_SECONDS,
            ).stdout
        except RunFailed as error:
            said = error.output.strip().splitlines()
            raise UsageError(
                str(self.repository),
                said[0] if said else "git failed",
                "name a git repository and two of its commits",
            ) from error
