# SPDX-License-Identifier: GPL-2.0-or-later
"""What a survey finds out of real source: which files need one another, and false changes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from tests.documents import validate

from livegraft.cli.main import main
from livegraft.errors import Exit
from livegraft.fix.fix import Fix
from livegraft.kernel.kernel import Kernel
from livegraft.run import run
from livegraft.survey.commits import Commits
from livegraft.survey.controls import CONTROLS, _changed, control
from livegraft.survey.grouping import Setting, changed_units, grow
from livegraft.survey.sources import Trees

pytestmark = pytest.mark.build

USER, HEADER, DEFINING = "fs/proc/base.c", "fs/proc/fd.h", "fs/proc/fd.c"
CMDLINE = "fs/proc/cmdline.c"


def setting(kernel: Kernel, folder: Path, edits: Mapping[str, tuple[str, str]]) -> Setting:
    """Two trees: the kernel's source, and a folder that holds no more than what differs."""
    for path, (old, new) in edits.items():
        text = (kernel.source / path).read_text("utf-8")
        assert old in text
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text.replace(old, new, 1), "utf-8")
    trees = Trees(kernel.source, folder, tuple(sorted(edits)))
    return Setting(kernel.release, kernel.cache.root, trees, 1800)


def test_a_file_is_joined_with_what_it_needs(kernel: Kernel, tmp_path: Path) -> None:
    """The header that declares a new function, and the unit that defines it; not the other one."""
    declared = "int lg_survey(void);\n"
    found = setting(
        kernel,
        tmp_path,
        {
            USER: ("return generic_permission(", "lg_survey();\n\treturn generic_permission("),
            HEADER: ("#endif", f"{declared}#endif"),
            DEFINING: (
                "static int seq_show(",
                "int lg_survey(void)\n{\n\treturn 0;\n}\n\nstatic int seq_show(",
            ),
            CMDLINE: ("seq_puts", "seq_puts"),
        },
    )
    built = changed_units(kernel, found.trees)
    assert built == {USER, DEFINING, CMDLINE}
    candidate = grow(found, (USER,), built)
    assert candidate.files == (USER, HEADER, DEFINING)
    assert (candidate.body_only, candidate.note) == (False, "")
    assert grow(found, (CMDLINE,), built).files == (CMDLINE,)


def test_a_file_that_nothing_helps_says_so(kernel: Kernel, tmp_path: Path) -> None:
    found = setting(kernel, tmp_path, {CMDLINE: ("seq_puts(m, saved", "lg_nowhere(m, saved")})
    candidate = grow(found, (CMDLINE,), changed_units(kernel, found.trees))
    assert candidate.files == (CMDLINE,)
    assert "lg_nowhere" in candidate.note


@pytest.mark.parametrize(
    "unit",
    [
        "net/ipv4/tcp_cubic.c",
        "drivers/scsi/bfa/bfa_port.c",  # bfa_trc(): __bfa_trc(..., __LINE__, ...)
        "drivers/gpu/drm/radeon/radeon_kms.c",  # DRM_ERROR("... %s:%u", __func__, __LINE__)
    ],
)
def test_unchanged_units_are_unchanged(kernel: Kernel, unit: str) -> None:
    document = control(kernel.release, kernel.cache.root, unit)
    assert document["changed"] == {name: [] for name in CONTROLS}


def test_a_control_can_fail(kernel: Kernel) -> None:
    text = (kernel.source / CMDLINE).read_bytes()
    changed = text.replace(b"seq_putc(m, '\\n')", b"seq_putc(m, 'x')")
    assert changed != text
    assert _changed(kernel, CMDLINE, {CMDLINE: changed})


def test_commits_are_fixes(
    kernel: Kernel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    repository = tmp_path / "repository"
    (repository / "fs/proc").mkdir(parents=True)

    def git(*words: str) -> str:
        who = ("-c", "user.name=Test", "-c", "user.email=test@example.org")
        return run(["git", "-C", repository, *who, *words]).stdout.strip()

    def commit(text: str, subject: str) -> str:
        (repository / CMDLINE).write_text(text, "utf-8")
        git("add", "--all")
        git("commit", "--quiet", "--message", subject)
        return git("rev-parse", "HEAD")

    text = (kernel.source / CMDLINE).read_text("utf-8")
    git("init", "--quiet")
    old = commit(text, "as shipped")
    (repository / "README").write_text("nothing of the kernel\n")
    commit(text, "documentation")
    fixed = commit(text.replace("'\\n'", "'x'"), "proc: another character")
    commits = Commits(repository, old, "HEAD")
    (found,) = commits.candidates(kernel, None, 1)
    assert (found.id, found.subject) == (fixed, "proc: another character")
    assert (found.files, found.body_only) == ((CMDLINE,), True)
    fix = tmp_path / "fix.patch"
    fix.write_bytes(commits.fix(found))
    assert set(Fix.load([fix]).apply(kernel.source)) == {CMDLINE}
    # The command takes both commits as one word. This one needs the one before.
    commit(text.replace("'\\n'", "'y'"), "proc: yet another character")
    words = ["survey", f"{fixed}..HEAD", "--git", str(repository), "-k", kernel.release, "--json"]
    assert main([*words, "-o", str(tmp_path / "proc"), "--path", "fs/proc/*"]) == Exit.DONE
    document = json.loads(capsys.readouterr().out)
    validate("survey", document)
    assert document["outcomes"] == {"inapplicable": 1}
    assert main([*words, "-o", str(tmp_path / "ext4"), "--path", "fs/ext4/*"]) == Exit.FAILED
    assert "changes no unit" in json.loads(capsys.readouterr().out)["error"]["message"]


def test_what_is_compared_has_two_ends(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Without a repository OLD..NEW is no pair."""
    words = ["-k", "6.1.0-54-amd64", "-o", str(tmp_path / "out"), "--json"]
    for pair in (
        ["6.1.190-1..6.1.192-1"],
        *(
            [*each, "--git", str(tmp_path)]
            for each in (["a"], ["a..b", "c"], ["a...b"], ["a..b..c"])
        ),
    ):
        assert main(["survey", *pair, *words]) == Exit.USAGE
        error = json.loads(capsys.readouterr().out)["error"]
        assert "is missing" in error["message"] or "is no pair" in error["message"]
