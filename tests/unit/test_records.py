# SPDX-License-Identifier: GPL-2.0-or-later
"""What a load or unload leaves in the journal, and how it is read back."""

from __future__ import annotations

import json
import os
import shutil
import socket
import stat
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from tests.documents import validate
from tests.keys import Person
from tests.unit.test_runtime_payload import manifest, payload

from livegraft.errors import PatchError, TransitionTimeout, Untrusted, UsageError
from livegraft.runtime import (
    commandline,
    history,
    identity,
    journal,
    known,
    loading,
    state,
    syscalls,
    unloading,
)
from livegraft.runtime.livepatch import Livepatches, Mark
from livegraft.runtime.model import Model, ModelName
from livegraft.runtime.payload import Payload
from livegraft.runtime.records import MESSAGE_IDS, Operation, left
from livegraft.runtime.state import PatchState
from livegraft.trust import appended

Fields = dict[str, list[str]]


@contextmanager
def listening(place: Path) -> Iterator[Callable[[], bytes]]:
    """A datagram socket, as the journal's: what it has got."""
    place.parent.mkdir(parents=True, exist_ok=True)
    # A socket's name has room for 107 bytes, and folders of tests may be longer than that.
    here = os.open(place.parent, os.O_PATH)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(f"/proc/self/fd/{here}/{place.name}")
        server.settimeout(5)
        try:
            yield lambda: server.recv(65536)
        finally:
            os.close(here)


@pytest.fixture
def short(tmp_path: Path) -> Iterator[Path]:
    """The machine's root, under a name that is short enough for its sockets."""
    here = os.open(tmp_path, os.O_PATH)
    yield Path(f"/proc/self/fd/{here}")
    os.close(here)


def fields(data: bytes) -> Fields:
    """A record of the journal's protocol, decoded independently of what encodes it."""
    found: Fields = {}
    while data:
        head, _, data = data.partition(b"\n")
        name, equals, value = head.partition(b"=")
        if not equals:
            (size,) = struct.unpack_from("<Q", data)
            value, data = data[8 : 8 + size], data[8 + size + 1 :]
        found.setdefault(name.decode(), []).append(value.decode())
    return found


def content() -> bytes:
    document = manifest()
    document["fix"] |= {"cves": ["CVE-2026-1234", "CVE-2026-12345"], "upstream": ["ab" * 20]}
    return payload(document=document)


@pytest.fixture
def patch(tmp_path: Path) -> Path:
    path = tmp_path / "fix.ko"
    path.write_bytes(content())
    return path


@pytest.fixture
def journal_socket(root: Path, short: Path) -> Iterator[Callable[[], Fields]]:
    with listening(root / journal.JOURNAL) as take:
        yield lambda: fields(take())


@pytest.fixture
def load(root: Path, short: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Load a patch up to the system call, whose end is given."""
    seen = short / "root"
    (root / "sys/kernel/livepatch").mkdir(parents=True)
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/loginuid").write_text("1000")
    notes = struct.pack("=III", 4, 20, 3) + b"GNU\0" + b"\xab" * 20
    (root / "sys/kernel/notes").write_bytes(notes)
    model = SimpleNamespace(
        name=ModelName.HYBRID,
        patches=Livepatches(seen),
        accept=lambda *_: None,
        require=lambda: None,
    )
    monkeypatch.setattr(syscalls, "require_module_capability", lambda *_: None)
    monkeypatch.setattr(loading, "model_named", lambda *_, **__: cast(Model, model))
    monkeypatch.setattr(identity, "check", lambda *_: identity.Identity((), ()))

    def run(path: Path, end: BaseException | None = None) -> None:
        def ended(*_: object) -> Any:
            if end is not None:
                raise end
            return SimpleNamespace(state="enabled")

        monkeypatch.setattr(loading._Attempt, "run", ended)
        loading.load(path)

    return run


@pytest.fixture
def unload(root: Path, short: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], object]:
    """Unload the patch that was loaded, up to the kernel's part."""
    parameters = root / "sys/module/livegraft_fix/parameters"
    parameters.mkdir(parents=True)
    (parameters / "livegraft").write_text(f"1:{'ef' * 32}")
    (parameters / "fixes").write_text("CVE-2026-1234 CVE-2026-12345")
    patches = Livepatches(short / "root")
    model = SimpleNamespace(name=ModelName.NATIVE, patches=patches)
    monkeypatch.setattr(unloading, "Livepatches", lambda: patches)
    monkeypatch.setattr(unloading, "model_of", lambda *_, **__: cast(Model, model))
    monkeypatch.setattr(state, "require_livepatch", lambda *_: None)
    ended = SimpleNamespace(state=PatchState.UNLOADED)
    monkeypatch.setattr(unloading._Attempt, "run", lambda *_: ended)
    return lambda: unloading.unload("livegraft_fix")


def test_a_load(
    load: Callable[..., None],
    journal_socket: Callable[[], Fields],
    patch: Path,
    author: Person,
) -> None:
    sign(patch, author)
    load(patch)
    found = journal_socket()
    read = Payload.read(patch, machine="x86_64")
    assert read.manifest is not None
    assert float(found.pop("LIVEGRAFT_DURATION_USEC")[0]) > 0
    assert found == {
        "MESSAGE": ["livegraft_fix: load under hybrid: enabled"],
        "MESSAGE_ID": [MESSAGE_IDS[Operation.LOAD]],
        "PRIORITY": ["5"],
        "SYSLOG_IDENTIFIER": ["livegraft"],
        "SYSLOG_FACILITY": ["3"],
        "LIVEGRAFT_RESULT": ["done"],
        "LIVEGRAFT_OPERATION": ["load"],
        "LIVEGRAFT_NAME": ["livegraft_fix"],
        "LIVEGRAFT_MODEL": ["hybrid"],
        "LIVEGRAFT_STATE": ["enabled"],
        "LIVEGRAFT_FILE": [str(patch)],
        "LIVEGRAFT_FILE_SHA256": [read.sha256],
        "LIVEGRAFT_MANIFEST_SHA256": [read.manifest.sha256],
        "LIVEGRAFT_FIX_SHA256": ["ef" * 32],
        "LIVEGRAFT_CVE": ["CVE-2026-1234", "CVE-2026-12345"],
        "LIVEGRAFT_UPSTREAM": ["ab" * 20],
        "LIVEGRAFT_SIGNER": ["O=Größe,CN=author (author)"],
        "LIVEGRAFT_UID": [str(os.getuid())],
        "LIVEGRAFT_LOGINUID": ["1000"],
        "LIVEGRAFT_KERNEL_RELEASE": [os.uname().release],
        "LIVEGRAFT_KERNEL_BUILD_ID": ["ab" * 20],
    }


def sign(patch: Path, who: Person) -> None:
    content = patch.read_bytes()
    patch.write_bytes(appended.append(content, who.sign(content)))


@pytest.mark.parametrize(
    ("end", "result"),
    [
        (TransitionTimeout("fix", "not complete", "try again"), "undone"),
        (KeyboardInterrupt(), "undone"),
        (PatchError("fix", "is loaded already"), "failed"),
        (ValueError("what?\nindeed"), "failed"),
    ],
)
def test_a_load_that_did_not_come_off(
    end: BaseException,
    result: str,
    load: Callable[..., None],
    journal_socket: Callable[[], Fields],
    patch: Path,
) -> None:
    with pytest.raises(type(end)):
        load(patch, end)
    found = journal_socket()
    assert found["LIVEGRAFT_RESULT"] == [result]
    assert found["LIVEGRAFT_ERROR"] == [type(end).__name__]
    assert found["LIVEGRAFT_REASON"] == [str(end)]
    assert found["PRIORITY"] == ["4"]
    assert "LIVEGRAFT_STATE" not in found


def test_what_the_kernel_never_saw(
    load: Callable[..., None],
    journal_socket: Callable[[], Fields],
    patch: Path,
    stranger: Person,
    tmp_path: Path,
) -> None:
    sign(patch, stranger)
    with pytest.raises(Untrusted):
        load(patch)
    found = journal_socket()
    assert found["LIVEGRAFT_RESULT"] == ["refused"]
    assert "LIVEGRAFT_SIGNER" not in found
    with pytest.raises(UsageError):
        load(tmp_path / "missing.ko")
    found = journal_socket()
    assert (found["LIVEGRAFT_RESULT"], "LIVEGRAFT_NAME" in found) == (["failed"], False)
    assert found["LIVEGRAFT_FILE"] == [str(tmp_path / "missing.ko")]


def test_an_unload_tells_what_the_module_said(root: Path, short: Path) -> None:
    with listening(root / journal.JOURNAL) as take:
        with left(Operation.UNLOAD, "native", short / "root") as record:
            record.name, record.mark = "fix", Mark("ab" * 32, ("CVE-2026-1234",))
            record.state = "unloaded"
        found = fields(take())
    assert found["MESSAGE_ID"] == [MESSAGE_IDS[Operation.UNLOAD]]
    assert found["MESSAGE"] == ["fix: unload under native: unloaded"]
    assert found["LIVEGRAFT_FIX_SHA256"] == ["ab" * 32]
    assert found["LIVEGRAFT_CVE"] == ["CVE-2026-1234"]
    assert "LIVEGRAFT_MANIFEST_SHA256" not in found


TOLD = ("FILE_SHA256", "MANIFEST_SHA256", "FIX_SHA256", "CVE", "UPSTREAM", "SIGNER")


def test_an_unload_tells_what_its_load_did(
    load: Callable[..., None],
    unload: Callable[[], object],
    journal_socket: Callable[[], Fields],
    patch: Path,
    author: Person,
    root: Path,
) -> None:
    """The manifest and the signers too, which no loaded module tells."""
    sign(patch, author)
    load(patch)
    loaded = journal_socket()
    unload()
    unloaded = journal_socket()
    assert unloaded["LIVEGRAFT_OPERATION"] == ["unload"]
    for name in TOLD:
        assert unloaded[f"LIVEGRAFT_{name}"] == loaded[f"LIVEGRAFT_{name}"]
    assert not list((root / known.PLACE).iterdir())


def test_an_unload_knows_nothing_of_what_others_loaded(
    load: Callable[..., None],
    unload: Callable[[], object],
    journal_socket: Callable[[], Fields],
    patch: Path,
    root: Path,
) -> None:
    """A module of the same name that came after the one that was loaded."""
    load(patch)
    journal_socket()
    module = root / "sys/module/livegraft_fix"
    module.rename(module.with_name("gone"))
    shutil.copytree(module.with_name("gone"), module)
    unload()
    found = journal_socket()
    assert found["LIVEGRAFT_FIX_SHA256"] == ["ef" * 32]
    assert "LIVEGRAFT_MANIFEST_SHA256" not in found


@pytest.mark.parametrize("how", ["no run", "others write", "a link"])
def test_what_cannot_be_kept_is_not_known(how: str, root: Path) -> None:
    """And is no reason for a load to fail."""
    (root / "sys/module/fix").mkdir(parents=True)
    place = root / known.PLACE
    if how == "others write":
        place.mkdir(parents=True)
        place.chmod(0o777)
    elif how == "a link":
        place.parent.mkdir()
        (root / "elsewhere").mkdir()
        place.symlink_to(root / "elsewhere")
    known.keep("fix", known.Known("ab" * 32), root)
    assert known.of("fix", root) is None
    known.forget("fix", root)


def test_without_a_journal_syslog_is_told(root: Path, short: Path) -> None:
    with listening(root / journal.SYSLOG) as take:
        assert journal.send("fix:\nloaded", 5, [("LIVEGRAFT_NAME", "fix")], short / "root")
        said = take().decode()
    assert said.startswith("<29>")
    assert said.endswith(f"livegraft[{os.getpid()}]: fix: loaded [LIVEGRAFT_NAME='fix']")


def test_with_neither_nothing_is_said(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert not journal.send("fix", 5, [], root)
    (root / "run/systemd/journal").mkdir(parents=True)
    (root / journal.JOURNAL).touch()  # no socket at all
    assert not journal.send("fix", 5, [], root)
    assert not journal.send("fix", 5, [], root / ("x" * 200))
    assert capsys.readouterr() == ("", "")


def test_any_value_comes_through() -> None:
    odd = "a\nb=c\n"
    not_utf8 = os.fsdecode(b"/tmp/\xff.ko")
    data = journal.encoded([("MESSAGE", odd), ("X", "1"), ("FILE", not_utf8)])
    assert b"FILE=/tmp/\xff.ko\n" in data
    assert fields(data.replace(b"\xff", b"y"))["MESSAGE"] == [odd]


# -- history --------------------------------------------------------------------------------------

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
