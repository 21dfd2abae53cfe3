# SPDX-License-Identifier: GPL-2.0-or-later
"""What loads and unloads have left in the journal is read back, by systemd's own program too."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from tests.documents import validate

from livegraft.errors import PatchError
from livegraft.runtime import commandline, history
from livegraft.runtime.records import MESSAGE_IDS

RECORD = {
    "__REALTIME_TIMESTAMP": "1795986471123456",
    "_UID": "0",
    "MESSAGE": "livegraft_fix: load under native: enabled",
    "LIVEGRAFT_OPERATION": "load",
    "LIVEGRAFT_NAME": "livegraft_fix",
    "LIVEGRAFT_RESULT": "done",
    "LIVEGRAFT_STATE": "enabled",
    "LIVEGRAFT_MODEL": "native",
    "LIVEGRAFT_CVE": ["CVE-2026-1", "CVE-2026-2"],
    "LIVEGRAFT_SIGNER": "CN=author (author)",
    "LIVEGRAFT_DURATION_USEC": "12345",
    "LIVEGRAFT_UID": "0",
    "LIVEGRAFT_LOGINUID": "1000",
    "LIVEGRAFT_FILE": [47, 255, 27],
    "LIVEGRAFT_REASON": None,
}


def journalctl(folder: Path, text: str, said: str = "", status: int = 0) -> Path:
    """A program that notes its arguments, as journalctl answers."""
    program = folder / "journalctl"
    program.write_text(
        "#!/bin/sh\n"
        f'printf "%s\\n" "$@" > {folder}/arguments\n'
        f"cat <<'END'\n{text}\nEND\n"
        f"echo '{said}' >&2\nexit {status}\n"
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return program


def test_history(tmp_path: Path) -> None:
    program = journalctl(tmp_path, json.dumps(RECORD) + "\n" + json.dumps({}))
    first, second = history.history("livegraft_fix", program)
    assert (tmp_path / "arguments").read_text().split() == [
        "--output=json",
        "--no-pager",
        "--all",
        "_UID=0",
        *(f"MESSAGE_ID={each}" for each in MESSAGE_IDS.values()),
        "LIVEGRAFT_NAME=livegraft_fix",
    ]
    document = {"entries": [each.as_json() for each in (first, second)], "timings": {}}
    validate("history", document)
    assert first.as_json()["time"] == "2026-11-29T21:07:51.123+00:00"
    assert first.as_json()["file"] == "/\\xff\\x1b"
    lines = commandline.text("history", document).splitlines()
    assert lines[0].endswith(
        "load livegraft_fix: enabled in 12 ms, model native, by user 0 (login of 1000), on None"
    )
    assert lines[1:3] == ["  fixes CVE-2026-1, CVE-2026-2", "  signed by CN=author (author)"]


@pytest.mark.parametrize(("state", "does"), [("enabled", "replaced"), ("transition", "replaces")])
def test_history_says_what_was_replaced(tmp_path: Path, state: str, does: str) -> None:
    record = RECORD | {"LIVEGRAFT_STATE": state, "LIVEGRAFT_REPLACED": ["b", "a"]}
    (entry,) = history.history(None, journalctl(tmp_path, json.dumps(record)))
    document = {"entries": [entry.as_json()], "timings": {}}
    validate("history", document)
    assert entry.as_json()["replaced"] == ["b", "a"]
    assert commandline.text("history", document).splitlines()[3] == f"  {does} b, a"


@pytest.mark.parametrize(("word", "said"), [("force", "forced: tasks"), ("signal", "what was in")])
def test_history_says_what_a_stall_has_led_to(tmp_path: Path, word: str, said: str) -> None:
    (entry,) = history.history(
        None, journalctl(tmp_path, json.dumps(RECORD | {"LIVEGRAFT_AFTER_STALL": word}))
    )
    document = {"entries": [entry.as_json()], "timings": {}}
    validate("history", document)
    assert entry.as_json()["after_stall"] == [word]
    assert said in commandline.text("history", document)


@pytest.mark.parametrize(
    ("text", "said", "status", "problem"),
    [
        ("", "No journal files were found.", 0, "there is none"),
        ("-- No entries --", "Hint: You are currently not seeing messages from other users", 0, ""),
        ("", "Failed to open files: Bad message", 1, "cannot be read"),
    ],
)
def test_no_journal(tmp_path: Path, text: str, said: str, status: int, problem: str) -> None:
    with pytest.raises(PatchError, match=problem or "may not read it") as caught:
        history.history(None, journalctl(tmp_path, text, said, status))
    assert caught.value.remedy


def test_nothing_was_loaded(tmp_path: Path) -> None:
    assert history.history(None, journalctl(tmp_path, "-- No entries --")) == []
    assert commandline.text("history", {"entries": []}) == "the journal tells of no load or unload"


def test_no_journalctl(tmp_path: Path) -> None:
    with pytest.raises(PatchError, match="has no journal"):
        history.history(None, tmp_path / "journalctl")


# -- systemd's own journal ------------------------------------------------------------------------

JOURNALD = Path("/lib/systemd/systemd-journald")

IN_A_JOURNAL = """
set -e
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/journal /run/log/journal
"$1" >/run/said 2>&1 &
trap 'kill $!; wait $! || true' EXIT
n=0
until [ -S /run/systemd/journal/socket ]; do
    n=$((n + 1)); [ $n -lt 100 ] || { cat /run/said; exit 1; }
    sleep 0.1
done
shift
"$@"
"""

LEAVE = """
import json
from pathlib import Path
from livegraft.runtime import history, journal
from livegraft.runtime.livepatch import Mark
from livegraft.runtime.records import Operation, left
name = "livegraft_test_of_the_journal"
with left(Operation.UNLOAD, "native", Path("/")) as record:
    record.name, record.mark = name, Mark("ab" * 32, ("CVE-2026-1234", "CVE-2026-5678"))
    record.state = "unloaded"
try:
    with left(Operation.LOAD, "native", Path("/")) as record:
        record.name, record.path = name, Path("/root/fix.ko")
        raise ValueError("two\\nlines")
except ValueError:
    pass
import subprocess
subprocess.run(["journalctl", "--sync"], capture_output=True)
print(json.dumps([each.as_json() for each in history.history(name)]))
"""


def test_systemd_s_own_journal_takes_and_gives_it() -> None:
    """A journal of its own, in a mount namespace with another /run."""
    tools = (str(JOURNALD), "unshare", "journalctl")
    if missing := [each for each in tools if shutil.which(each) is None]:
        pytest.skip(f"{', '.join(missing)} is missing: apt-get install systemd util-linux")
    if os.geteuid() != 0:
        pytest.skip("needs root, for a mount namespace")
    words = ["unshare", "--mount", "--propagation", "private", "sh", "-c", IN_A_JOURNAL, "sh"]
    done = subprocess.run(
        [*words, JOURNALD, sys.executable, "-c", LEAVE],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    first, second = json.loads(done.stdout)
    validate("history", {"entries": [first, second], "timings": {}})
    assert (first["operation"], first["state"]) == ("unload", "unloaded")
    assert first["cves"] == ["CVE-2026-1234", "CVE-2026-5678"]
    assert (second["result"], second["reason"]) == ("failed", "two\\nlines")
