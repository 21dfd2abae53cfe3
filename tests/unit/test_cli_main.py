# SPDX-License-Identifier: GPL-2.0-or-later
"""The command as a whole: what goes where, and with which exit code it ends."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from livegraft.cli import failure, main, parser
from livegraft.cli.main import Terminated
from livegraft.cli.verb import SUMMARIES, Answer, Context, Verb
from livegraft.cli.verb import load as load_verb
from livegraft.elf.object import ElfObject
from livegraft.elf.writer import write
from livegraft.errors import (
    Exit,
    LivegraftError,
    LostGuest,
    NothingChanged,
    Reason,
    Refused,
    RunFailed,
    UsageError,
)

COMMAND = [sys.executable, "-m", "livegraft.cli.main"]

REASONS = (
    Reason("init-only", "ext4_init_fs", "is gone after boot", "reboot into the fixed kernel"),
    Reason("assembly", "entry_64.S", "is assembly", "leave it out"),
)


def command(*words: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a user does, without a terminal."""
    return subprocess.run([*COMMAND, *words], capture_output=True, text=True, check=False)


def answering(
    monkeypatch: pytest.MonkeyPatch, what: Answer | BaseException, name: str = "kernels"
) -> None:
    """Let a verb answer, or raise, `what`."""

    def run(_arguments: object, context: Context) -> Answer:
        with context.progress.step("thinking"):
            pass
        if isinstance(what, BaseException):
            raise what
        return what

    def load(wanted: str) -> Verb:
        if wanted != name:
            return load_verb(wanted)
        return Verb(name, "For a test.", ("livegraft kernels",), lambda _parser: None, run)

    monkeypatch.setattr(parser, "load", load)


def test_the_answer_goes_to_standard_output_and_talk_to_standard_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answering(monkeypatch, Answer({"a": 1}, "one a"))
    assert main.main(["kernels"]) == 0
    out, err = capsys.readouterr()
    assert out == "one a\n"
    assert "thinking ..." in err


@pytest.mark.parametrize("words", [["--json", "kernels"], ["kernels", "--json"]])
def test_json_prints_one_document_and_nothing_else(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answering(monkeypatch, Answer({"a": 1}, "one a", Exit.UNCHANGED))
    assert main.main(words) == 3
    assert json.loads(capsys.readouterr().out) == {"a": 1}


def test_quiet_shows_no_progress(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answering(monkeypatch, Answer({}, "done"))
    assert main.main(["kernels", "--quiet"]) == 0
    assert capsys.readouterr().err == ""


def test_a_complaint_goes_to_standard_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answering(monkeypatch, Answer({}, "refused", Exit.REFUSED, complaint=True))
    assert main.main(["kernels", "--quiet"]) == 4
    assert capsys.readouterr() == ("", "refused\n")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (LivegraftError("ext4", "is broken", "mend it"), 1),
        (UsageError("ext4", "is no such thing"), 2),
        (NothingChanged("fix.patch", "changes a comment only"), 3),
        (Refused("fix.patch", REASONS), 4),
        (LostGuest("guest", "hung"), 5),
        (RunFailed(["make", "x"], 2, "no rule"), 1),
        (KeyboardInterrupt(), 1),
        (Terminated(), 1),
        (OSError(28, "No space left on device"), 1),
        (PermissionError(13, "Permission denied", "/proc/kcore"), 1),
        (ValueError("what?"), 1),
    ],
)
def test_each_error_has_its_exit_code_and_its_document(
    error: BaseException,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    answering(monkeypatch, error)
    assert main.main(["kernels", "--json", "--quiet"]) == code
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert document["exit_code"] == code
    assert {"kind", "object", "message", "remedy"} <= set(document["error"])
    assert err.startswith("livegraft: ")
    assert "Traceback" not in err


def test_an_error_names_its_object_and_its_remedy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answering(monkeypatch, LivegraftError("ext4", "is broken", "mend it"))
    assert main.main(["kernels", "--quiet"]) == 1
    assert capsys.readouterr() == ("", "livegraft: ext4: is broken\nremedy: mend it\n")


def test_a_refusal_prints_every_reason(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answering(monkeypatch, Refused("fix.patch", REASONS))
    main.main(["kernels", "--quiet"])
    err = capsys.readouterr().err
    for reason in REASONS:
        assert all(
            part in err for part in (reason.rule, reason.object, reason.message, reason.remedy)
        )


def test_an_unexpected_exception_says_how_to_report_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answering(monkeypatch, ValueError("what?"))
    assert main.main(["kernels", "--quiet"]) == 1
    err = capsys.readouterr().err
    assert "internal error" in err and "ValueError: what?" in err and failure.REPORT in err
    assert main.main(["kernels", "--quiet", "--verbose"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_no_colour_without_a_terminal() -> None:
    done = command("nonsense")
    assert "\033" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("word", "nearest"), [("chek", "check"), ("stat", "status"), ("lod", "load"), ("tyr", "try")]
)
def test_an_unknown_verb_suggests_the_nearest(word: str, nearest: str) -> None:
    done = command(word)
    assert done.returncode == Exit.USAGE
    assert f"there is no verb '{word}'" in done.stderr
    assert f"did you mean '{nearest}'?" in done.stderr


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["xyzzyplugh"],
        ["kernels", "--colour"],
        ["load"],
        ["load", "fix.ko", "--model", "magic"],
        ["unload"],
        ["build", "fix.patch"],
        ["prepare", "6.1.0-55-amd64", "--packages", "/nonexistent"],
        ["check", "/nonexistent.patch", "-k", "6.1.0-55-amd64"],
        ["compare", "/nonexistent.o", "/nonexistent.o"],
        ["inspect", "/"],
        ["completion", "csh"],
    ],
)
def test_a_wrong_command_line_ends_with_2(words: list[str]) -> None:
    done = command(*words, "--json")
    assert done.returncode == Exit.USAGE, done.stderr
    assert json.loads(done.stdout)["exit_code"] == Exit.USAGE
    assert done.stderr.startswith("livegraft: ")


@pytest.mark.parametrize("verb", SUMMARIES)
def test_help_has_an_example_and_the_exit_codes(verb: str) -> None:
    done = command(verb, "--help")
    assert done.returncode == 0
    assert f"usage: livegraft {verb}" in done.stdout
    assert f"\n  livegraft {verb}" in done.stdout
    assert "exit codes:\n  0  " in done.stdout
    assert "--json" in done.stdout


def test_help_lists_every_verb() -> None:
    done = command("--help")
    assert all(f"  {name} " in done.stdout for name in SUMMARIES)


def test_version() -> None:
    done = command("--version")
    assert (done.returncode, done.stdout.split()[0]) == (0, "livegraft")


def test_every_verb_goes_by_its_name() -> None:
    _, verbs = parser.build()
    assert list(verbs) == list(SUMMARIES)
    assert all(verb.name == name for name, verb in verbs.items())


def test_a_reader_that_goes_away_is_no_defect() -> None:
    """``livegraft ... | head -0``: no traceback, and an exit code that says so."""
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [*COMMAND, "completion", "bash"],
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (Exit.FAILED, "")


SLEEPER = """
import sys, time
from livegraft.cli import main, parser
from livegraft.cli.verb import Verb

def run(arguments, context):
    with context.progress.step("sleep"):
        try:
            print("asleep", file=sys.stderr, flush=True)
            time.sleep(60)
        finally:
            print("cleaned up", file=sys.stderr)

parser.load = lambda name: Verb(name, "", ("x",), lambda parser: None, run)
sys.exit(main.main(["kernels", "--json"]))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupt_cleans_up_and_says_so(number: signal.Signals, tmp_path: Path) -> None:
    talk = tmp_path / "stderr"
    with talk.open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-c", SLEEPER], stdout=subprocess.PIPE, stderr=stderr, text=True
        )
        deadline = time.monotonic() + 20
        while "asleep" not in talk.read_text() and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(number)
        out, _ = process.communicate(timeout=20)
    assert process.returncode == Exit.FAILED
    assert json.loads(out)["error"]["kind"] == "Interrupted"
    said = talk.read_text()
    assert "cleaned up" in said and "livegraft: interrupted" in said and "Traceback" not in said


def test_a_lost_terminal_changes_no_exit_code() -> None:
    """EIO as EPIPE: neither a traceback nor Python's own exit code for streams that fail."""
    full = os.open("/dev/full", os.O_WRONLY)
    done = subprocess.run(
        [*COMMAND, "nonsense", "--json"], stdout=subprocess.PIPE, stderr=full, check=False
    )
    os.close(full)
    assert done.returncode == Exit.USAGE
    assert json.loads(done.stdout)["exit_code"] == Exit.USAGE


def test_after_sigterm_ctrl_c_does_not_interrupt_the_clean_up() -> None:
    with main._terminable():
        try:
            signal.raise_signal(signal.SIGTERM)
            time.sleep(1)
        except Terminated:
            try:
                signal.raise_signal(signal.SIGINT)
                time.sleep(0.01)
            except KeyboardInterrupt:
                pytest.fail("it did")
    assert signal.getsignal(signal.SIGINT) is not signal.SIG_IGN


HEAVY = """
import sys
from livegraft.cli.main import main
main(["status", "--quiet"])
loaded = {"numpy", "rich", "jinja2", "debian", "unidiff", "zstandard", "logging", "subprocess"}
print(*sorted(loaded & set(sys.modules)))
"""


def test_status_imports_nothing_heavy() -> None:
    done = subprocess.run([sys.executable, "-c", HEAVY], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == ""


LAZY = """
import sys
from livegraft.cli.main import main
main(["compare", sys.argv[1], sys.argv[1]])
loaded = {"shutil", "logging", "subprocess", "livegraft.changeset", "livegraft.elf.dwarf"}
print(*sorted(loaded & set(sys.modules)))
"""


def test_compare_imports_what_objects_without_debug_information_need(tmp_path: Path) -> None:
    """Most of the time that two small objects take is that of importing."""
    path = tmp_path / "empty.o"
    path.write_bytes(write(ElfObject()))
    argv = [sys.executable, "-c", LAZY, str(path)]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    first, *_, last = done.stdout.splitlines()
    assert (first, last) == ("unchanged", "")


def test_status_starts_at_once(tmp_path: Path) -> None:
    """Within a few times what the standard library's own share of it costs.

    Processor time of the process and not the clock's: other work may run beside the tests. With
    bytecode, as an installation has it.
    """
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(tmp_path)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)

    def seconds(argv: list[str]) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(argv, capture_output=True, check=False, env=environment)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    commands = (
        [sys.executable, "-c", ""],
        [sys.executable, "-c", "import argparse, pathlib, typing"],
        [*COMMAND, "status"],
    )
    rounds = [[seconds(argv) for argv in commands] for _ in range(8)]
    bare, library, status = (min(each) for each in zip(*rounds, strict=True))
    assert status - bare < 4 * (library - bare)
