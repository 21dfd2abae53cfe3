# SPDX-License-Identifier: GPL-2.0-or-later
"""Programs that are run: their environment, how they fail, and that none is left behind."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path

import pytest

from livegraft.errors import CommandMissing, RunFailed, RunTimedOut
from livegraft.run import GRACE_SECONDS, run


def test_what_it_prints() -> None:
    done = run(["sh", "-c", "echo out; echo err >&2"])
    assert (done.stdout, done.stderr) == ("out\n", "err\n")


def test_lines_are_told_as_they_come() -> None:
    lines: list[str] = []
    big = "head -c 300000 /dev/zero >&2; echo one; echo two"
    assert run(["sh", "-c", big], on_line=lines.append).stdout == "one\ntwo\n"
    assert lines == ["one", "two"]


def test_it_reads_nothing_and_inherits_little(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAKEFLAGS", "-j99")
    monkeypatch.setenv("LANG", "de_DE.UTF-8")
    monkeypatch.setenv("TMPDIR", "/var/tmp")
    done = run(["sh", "-c", "cat; echo $MAKEFLAGS $LANG $LC_ALL $TMPDIR $OWN"], env={"OWN": "own"})
    assert done.stdout == "C.UTF-8 /var/tmp own\n"


def test_failures_are_told_apart() -> None:
    with pytest.raises(RunFailed, match="status 3: why") as failed:
        run(["sh", "-c", "echo why >&2; exit 3"])
    assert failed.value.status == 3
    with pytest.raises(RunFailed, match="SIGUSR1") as failed:
        run(["sh", "-c", "kill -USR1 $$"])
    assert failed.value.status == -signal.SIGUSR1
    with pytest.raises(CommandMissing, match="no-such-program"):
        run(["no-such-program"])
    with pytest.raises(FileNotFoundError):
        run(["true"], cwd=Path("/no/such/folder"))


def gone(pid: int) -> bool:
    """Whether a process has ended; its parent may not have asked for its status yet."""
    end = time.monotonic() + 2
    while time.monotonic() < end:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":
            return True
        time.sleep(0.01)
    return False


@pytest.mark.parametrize("trap", ["", "trap '' TERM; "])
def test_out_of_time_it_ends_with_its_children(trap: str, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    began = time.monotonic()
    with pytest.raises(RunTimedOut, match=r"within 0\.3 s"):
        run(["sh", "-c", f"{trap}sleep 60 & echo $$ $! > {pids}; wait; sleep 60"], timeout=0.3)
    assert time.monotonic() - began < 0.3 + GRACE_SECONDS + 1
    assert all(gone(int(pid)) for pid in pids.read_text().split())


def test_it_may_tidy_up_when_the_caller_is_interrupted(tmp_path: Path) -> None:
    """As gcc does with its temporary files, while the shell that has started it is gone at once."""
    rubbish = tmp_path / "rubbish"
    script = (
        f"(trap 'sleep 0.2; rm {rubbish}; exit 1' TERM; touch {rubbish};"
        " while :; do sleep 0.05; done) & wait"
    )
    killer = threading.Thread(target=_interrupt_when, args=(rubbish,))
    killer.start()
    with pytest.raises(KeyboardInterrupt):
        run(["sh", "-c", script])
    killer.join()
    assert list(tmp_path.iterdir()) == []


def _interrupt_when(path: Path) -> None:
    while not path.exists():
        time.sleep(0.01)
    # To the main thread, as a terminal does.
    main = threading.main_thread().ident
    assert main is not None
    signal.pthread_kill(main, signal.SIGINT)
