# SPDX-License-Identifier: GPL-2.0-or-later
"""The JSON documents of the verbs are what docs/schema says, real ones wherever seconds suffice."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator, ValidationError
from tests.documents import FOLDER, schema, validate

from livegraft.changeset import Function, State, Target
from livegraft.cli import failure
from livegraft.cli.outcome import Judgement
from livegraft.cli.paint import Paint
from livegraft.cli.verb import SUMMARIES, Context
from livegraft.errors import (
    IdentityMismatch,
    LivegraftError,
    LostGuest,
    NothingChanged,
    ProofFailed,
    Reason,
    Refused,
    RunFailed,
    TransitionTimeout,
)
from livegraft.progress import Progress

REASON = Reason("init-only", "ext4_init_fs", "is gone after boot", "reboot")


def answer(*words: str) -> tuple[int, Any]:
    """Run the command with ``--json``: its exit code and its document."""
    done = subprocess.run(
        [sys.executable, "-m", "livegraft.cli.main", *words, "--json", "--quiet"],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, json.loads(done.stdout)


def context() -> Context:
    return Context(Progress(), Paint(colour=False))


def test_each_verb_has_its_schema() -> None:
    assert {path.stem for path in FOLDER.glob("*.json")} == set(SUMMARIES)


@pytest.mark.parametrize("verb", SUMMARIES)
def test_the_schema_is_one(verb: str) -> None:
    document = schema(verb)
    assert document["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert document["title"] == f"livegraft {verb} --json"
    Draft202012Validator.check_schema(document)


def test_what_several_schemas_define_is_the_same() -> None:
    seen: dict[str, Any] = {}
    for verb in SUMMARIES:
        for name, definition in schema(verb)["$defs"].items():
            assert seen.setdefault(name, definition) == definition, f"{verb}: {name}"


@pytest.mark.parametrize("verb", SUMMARIES)
@pytest.mark.parametrize("wrong", [{}, [], {"verdict": "perhaps"}, {"error": "text"}])
def test_a_schema_can_be_violated(verb: str, wrong: object) -> None:
    with pytest.raises(ValidationError):
        validate(verb, wrong)


@pytest.mark.parametrize("verb", SUMMARIES)
@pytest.mark.parametrize(
    "error",
    [
        LivegraftError("ext4", "is broken"),
        Refused("fix.patch", [REASON]),
        ProofFailed("fs/ext4/mballoc.c", {"ext4_mb_init": "37 bytes"}, "install gcc-12"),
        RunFailed(["make"], 2, "no rule"),
        LostGuest("guest", "hung"),
        IdentityMismatch("fix.ko", "was built for another kernel"),
        TransitionTimeout("fix", "not complete", "", [{"pid": 1}]),
        ValueError("what?"),
        KeyboardInterrupt(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_every_error_fits_every_verb(verb: str, error: BaseException) -> None:
    validate(verb, failure.answer(error).document)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (2, ["build", "fix.patch"]),
        (2, ["inspect", "/nonexistent.ko"]),
        (2, ["load", "/nonexistent.ko"]),
        (1, ["prepare", "6.1.0-0-sparc", "--cache", "/nonexistent"]),
        (1, ["try", __file__, "-k", "6.1.0-55-amd64"]),
    ],
)
def test_real_errors(code: int, words: list[str]) -> None:
    status, document = answer(*words)
    validate(words[0], document)
    assert (status, document["exit_code"]) == (code, code)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str) -> None:
    status, document = answer("completion", shell)
    validate("completion", document)
    assert status == 0


def test_kernels(tmp_path: Path) -> None:
    """Whatever this machine has; the folder of packages is empty."""
    status, document = answer("kernels", "--packages", str(tmp_path), "--cache", str(tmp_path))
    validate("kernels", document)
    assert status == 0


def test_status() -> None:
    """A real one: patches of this machine, or the error of a kernel without a livepatch core."""
    _, document = answer("status")
    validate("status", document)


JUDGED = (Function("fs/ext4/mballoc.c", Target("ext4", "ext4_mb_init", 1), State.CHANGED, "f"),)


@pytest.mark.parametrize(
    ("judgement", "verdict", "code"),
    [
        (Judgement("patchable", JUDGED, ("a warning",), ()), "patchable", 0),
        (Judgement.of_error(NothingChanged("a.patch", "changes a comment only")), "unchanged", 3),
        (Judgement.of_error(Refused("a.patch", [REASON])), "refused", 4),
        (Judgement.of_error(ProofFailed("a.c", {"f": "1 byte"}, "install gcc-12")), "refused", 4),
        (Judgement.of_error(ProofFailed("a.c", {}, "install gcc-12")), "refused", 4),
    ],
)
def test_verdicts(judgement: Judgement, verdict: str, code: int) -> None:
    document = judgement.document(context())
    for verb in ("check", "build"):
        validate(verb, document)
    assert (document["verdict"], judgement.exit_code) == (verdict, code)
    assert bool(document["reasons"]) == (verdict == "refused")
    text = judgement.text(Paint(colour=False))
    assert all(reason.remedy in text for reason in judgement.reasons)
    assert all(warning in text for warning in judgement.warnings)
