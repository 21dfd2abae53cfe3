# SPDX-License-Identifier: GPL-2.0-or-later
"""What a load or unload leaves in the journal."""

from __future__ import annotations

import os
import shutil
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from tests.keys import Person
from tests.unit.test_runtime_payload import manifest, payload

from livegraft.errors import PatchError, TransitionTimeout, Untrusted, UsageError
from livegraft.progress import SILENT
from livegraft.runtime import (
    identity,
    journal,
    known,
    loading,
    redirections,
    settings,
    state,
    syscalls,
    unloading,
)
from livegraft.runtime.livepatch import ENGINE, KERNEL_CORE, Livepatches, Mark
from livegraft.runtime.model import Model, ModelName
from livegraft.runtime.payload import Payload
from livegraft.runtime.records import MESSAGE_IDS, Operation, left
from livegraft.runtime.stall import OnStall
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


def core_has(root: Path, core: str, name: str, enabled: int, transition: int = 0) -> None:
    """A patch as one of the cores shows it."""
    for attribute, value in (("enabled", enabled), ("transition", transition)):
        file = root / core / name / attribute
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{value}\n")


@pytest.mark.parametrize(
    ("replace", "became", "end", "replaced"),
    [
        (True, PatchState.ENABLED, None, ["newer", "older"]),
        (True, PatchState.TRANSITION, None, ["newer", "older"]),
        # It was complete when it was undone: what it had replaced does not come back.
        (True, PatchState.DISABLED, TransitionTimeout("fix", "not complete"), ["newer", "older"]),
        (True, PatchState.UNLOADED, TransitionTimeout("fix", "not complete"), None),
        (False, PatchState.TRANSITION, None, None),
    ],
)
def test_a_load_names_what_it_has_replaced(
    replace: bool,
    became: PatchState,
    end: Exception | None,
    replaced: list[str] | None,
    load: Callable[..., None],
    journal_socket: Callable[[], Fields],
    patch: Path,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The patches of the engine that were in force, and no others."""
    names = ("off", "native", "newer", "older")
    (root / "proc/modules").write_text("".join(f"{each} 1 1 - Live 0x0\n" for each in names))
    core_has(root, KERNEL_CORE, "native", 1)
    for name in ("newer", "older"):
        core_has(root, ENGINE, name, 1)
    core_has(root, ENGINE, "off", 0)
    monkeypatch.setattr(settings, "check", lambda *_: None)
    monkeypatch.setattr(redirections, "check", lambda *_: ())

    def run(attempt: loading._Attempt, *_: object) -> Any:
        attempt.patches = attempt.patches.both[1]
        attempt._look_around(1.0, OnStall.UNDO, SILENT)
        own, others = {
            PatchState.ENABLED: ((1, 0), 0),
            PatchState.TRANSITION: ((1, 1), 1),
            PatchState.DISABLED: ((0, 0), 0),
            PatchState.UNLOADED: ((0, 0), 1),
        }[became]
        core_has(root, ENGINE, "livegraft_fix", *own)
        for name in ("newer", "older"):
            core_has(root, ENGINE, name, others)
        if end is not None:
            raise end
        return SimpleNamespace(state=became)

    monkeypatch.setattr(loading._Attempt, "run", run)
    with suppress(TransitionTimeout):
        loading.load(patch, model="hybrid", replace=replace)
    assert journal_socket().get("LIVEGRAFT_REPLACED") == replaced


@pytest.mark.parametrize("ends", [True, False])
def test_a_load_that_was_forced_says_so(
    ends: bool,
    load: Callable[..., None],
    journal_socket: Callable[[], Fields],
    patch: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also where that was of no use."""

    def run(attempt: loading._Attempt, *_: object) -> Any:
        attempt.after_stall.append(OnStall.FORCE)
        if not ends:
            raise TransitionTimeout("fix", "not complete")
        return SimpleNamespace(state=PatchState.ENABLED)

    monkeypatch.setattr(loading._Attempt, "run", run)
    with suppress(TransitionTimeout):
        loading.load(patch, on_stall="force", force_anyway=True)
    assert journal_socket()["LIVEGRAFT_AFTER_STALL"] == ["force"]


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
