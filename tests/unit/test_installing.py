# SPDX-License-Identifier: GPL-2.0-or-later
"""What is kept for the next boot: whole or not at all, and nobody else's to change."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.keys import Person
from tests.machine import OLDER, OTHER, RUNNING, Machine, build_id_note, files, patch_bytes
from tests.unit.test_runtime_payload import MODINFO, payload
from tests.unit.test_trusting import decide

from livegraft.errors import IdentityMismatch, PatchError, Untrusted, UsageError
from livegraft.runtime import installed
from livegraft.runtime.installing import (
    Kept,
    enable_again,
    encoded_trial,
    install,
    uninstall,
)
from livegraft.runtime.release import is_older
from livegraft.trust import appended

# -- what is kept ---------------------------------------------------------------------------------


def test_install_and_uninstall(machine: Machine, put: Callable[..., Kept]) -> None:
    assert machine.states() == {}
    kept = put(model="hybrid", replacing=True)
    assert (kept.replaced, kept.patch.release) == (False, RUNNING)
    (found,) = installed.installed(machine.root)
    assert found == kept.patch
    assert found.path.read_bytes() == patch_bytes()
    assert found.record is not None
    assert (found.record.model, found.record.replace, found.record.order) == ("hybrid", True, 1)
    assert machine.states() == {"livegraft_fix": "waiting"}
    modes = {path.name: path.stat().st_mode & 0o777 for path in machine.store.rglob("*")}
    assert modes == {
        RUNNING: 0o755,
        "livegraft_fix": 0o755,
        "livegraft_fix.ko": 0o644,
        installed.RECORD: 0o644,
    }
    assert uninstall("livegraft_fix", root=machine.root).record == found.record
    assert list(machine.store.iterdir()) == []
    with pytest.raises(PatchError, match="no such patch is installed"):
        uninstall("livegraft_fix", root=machine.root)


def test_signatures_travel_with_it(
    machine: Machine, tmp_path: Path, author: Person, reviewer: Person, stranger: Person
) -> None:
    decide(machine.root, "required_signers = author, reviewer")
    path = tmp_path / "anything.ko"
    path.write_bytes(appended.append(patch_bytes(), author.sign(patch_bytes())))
    beside = tmp_path / "anything.ko.reviewer.p7s"
    with pytest.raises(Untrusted, match="no signature of 'reviewer'"):
        install(path, root=machine.root)
    beside.write_bytes(stranger.sign(patch_bytes()))
    with pytest.raises(Untrusted, match="nobody whom this machine trusts"):
        install(path, root=machine.root)
    assert machine.states() == {}
    beside.write_bytes(reviewer.sign(patch_bytes()))
    kept = install(path, root=machine.root)
    assert [each.name for each in kept.signers] == ["author", "reviewer"]
    place = kept.patch.folder / "livegraft_fix.ko.reviewer.p7s"
    assert place.read_bytes() == beside.read_bytes()


def test_the_next_version_takes_its_place(machine: Machine, put: Callable[..., Kept]) -> None:
    put()
    put(patch_bytes("livegraft_other"))
    kept = put(patch_bytes(fix="dd"), model="stop")
    assert kept.replaced
    found = installed.installed(machine.root)
    assert [each.name for each in found] == ["livegraft_fix", "livegraft_other"]
    assert found[0].record is not None
    assert (found[0].record.model, found[0].record.fix_sha256) == ("stop", "dd" * 32)
    assert found[0].path.read_bytes() == patch_bytes(fix="dd")
    assert sorted(path.name for path in machine.store.iterdir()) == [RUNNING]


def test_a_crash_counts_for_the_code_whoever_signs_it(
    machine: Machine, put: Callable[..., Kept], author: Person, reviewer: Person
) -> None:
    """Each signature makes another file."""
    code = patch_bytes()
    signed = [appended.append(code, each.sign(code)) for each in (author, reviewer)]
    for installs in (code, *signed):
        kept = put(installs)
        marker = kept.patch.folder / installed.MARKER
        # This boot's goes with it, and an earlier one's keeps it out.
        trial = installed.Trial(installed.boot_id(machine.root), "2026-11-29T20:14:05+00:00")
        marker.write_bytes(encoded_trial(trial))
        put(signed[0])
        assert installed.installed(machine.root)[0].trial == trial
        marker.write_bytes(encoded_trial(trial._replace(boot_id="an earlier one")))
        for data in (code, *signed):
            with pytest.raises(PatchError, match="the machine crashed"):
                put(data)
        assert machine.states() == {"livegraft_fix": "crashed"}
        # Other code is another matter, by the same signer too.
        other = patch_bytes(fix="dd")
        put(appended.append(other, author.sign(other)))
        assert machine.states() == {"livegraft_fix": "waiting"}


def test_order(machine: Machine, put: Callable[..., Kept]) -> None:
    for name, order in (("c", None), ("b", None), ("a", None), ("z", -1), ("y", 2)):
        put(patch_bytes(name), order=order)
    assert [each.name for each in installed.installed(machine.root)] == ["z", "c", "b", "y", "a"]


def test_states(machine: Machine, put: Callable[..., Kept]) -> None:
    for name, release in (("a", RUNNING), ("b", OTHER), ("c", "6.1.0-9-amd64"), ("d", RUNNING)):
        put(patch_bytes(name, release))
    machine.loads("a")
    machine.loads("d", "dd")  # another patch of this name
    assert machine.states() == {
        "a": "loaded",
        "b": "other-kernel",
        "c": "obsolete",
        "d": "waiting",
    }
    (machine.root / f"boot/vmlinuz-{OTHER}").unlink()
    assert machine.states()["b"] == "obsolete"
    (machine.root / f"boot/vmlinuz-{RUNNING}").unlink()  # removed, but it runs
    assert machine.states()["a"] == "loaded"


def test_after_a_kernel_upgrade(machine: Machine, put: Callable[..., Kept]) -> None:
    """What is for an older kernel is obsolete, while that one is installed too."""
    newer = "6.12.117+deb12-amd64"
    for name, release in (("a", OLDER), ("b", RUNNING), ("c", OTHER), ("d", newer)):
        (machine.root / f"boot/vmlinuz-{release}").touch()
        put(patch_bytes(name, release))
    found = installed.installed(machine.root)
    a, b, c, d = sorted(found, key=lambda each: each.name)

    def states(running: str) -> list[str]:
        return [each.state(running, machine.root).value for each in (a, b, c, d)]

    assert states(OLDER) == ["waiting", *["other-kernel"] * 3]
    assert states(RUNNING) == ["obsolete", "waiting", "other-kernel", "other-kernel"]
    assert states(OTHER) == ["obsolete", "obsolete", "waiting", "other-kernel"]
    assert states(newer) == [*["obsolete"] * 3, "waiting"]
    assert c.as_json(newer, machine.root)["message"] == (
        f"it is for the older kernel {OTHER}, and would be loaded if that were booted again"
    )
    # Another flavour of the same version is not older.
    assert b.state("6.1.0-55-cloud-amd64", machine.root).value == "other-kernel"
    (machine.root / f"boot/vmlinuz-{newer}").unlink()
    assert states(RUNNING)[3] == "obsolete"
    assert d.as_json(RUNNING, machine.root)["message"] == "its kernel is installed no more"
    # With one that crashed the machine the older kernel would do without.
    crashed = a._replace(trial=installed.Trial("another boot", "2026-11-29T20:14:05+00:00"))
    assert (crashed.state(RUNNING, machine.root).value, states(OLDER)[0]) == ("obsolete", "waiting")
    assert "would not be loaded" in str(crashed.as_json(RUNNING, machine.root)["message"])


def test_a_kernel_of_the_same_name(machine: Machine, put: Callable[..., Kept]) -> None:
    """It was upgraded under the name that it had: only the build IDs differ."""
    kept = put()
    assert machine.states() == {"livegraft_fix": "waiting"}
    notes = machine.root / "sys/kernel/notes"
    notes.write_bytes(build_id_note("cd" * 20))
    assert machine.states() == {"livegraft_fix": "obsolete"}
    (found,) = installed.installed(machine.root)
    message = found.as_json(RUNNING, machine.root)["message"]
    assert message == f"it is for another build of {RUNNING} than the one that runs"
    # What is in force is in force, and what cannot be compared is not called obsolete.
    machine.loads("livegraft_fix")
    assert machine.states() == {"livegraft_fix": "loaded"}
    shutil.rmtree(machine.root / "sys/module/livegraft_fix")
    notes.unlink()
    assert machine.states() == {"livegraft_fix": "waiting"}
    # As it was installed when the build ID was not noted yet.
    notes.write_bytes(build_id_note("cd" * 20))
    record = kept.patch.folder / installed.RECORD
    document = json.loads(record.read_text())
    assert document.pop("kernel_build_id") == "ab" * 20
    record.write_text(json.dumps(document))
    assert machine.states() == {"livegraft_fix": "waiting"}


RELEASES = (
    "5.10.0-9-amd64",
    "6.1.0-0.deb11.7-amd64",
    "6.1.0-9-amd64",
    "6.1.0-55-cloud-amd64",
    "6.1.0-56-amd64",
    "6.7-rc3-amd64",
    "6.7~rc4-amd64",
    "6.7-amd64",
    "6.7.1-rt-amd64",
    "6.12.9+deb12-amd64",
    "6.12.117+deb12-amd64",
    "6.12.117+deb13-cloud-amd64",
)
"""The oldest first."""


def test_which_kernel_is_older() -> None:
    for number, release in enumerate(RELEASES):
        found = [is_older(release, each) for each in RELEASES]
        assert found == [number < other for other in range(len(RELEASES))], release
    assert not is_older("6.1.0-55-amd64", "6.1.0-55-cloud-amd64")
    assert not is_older("6.1.0-55-cloud-amd64", "6.1.0-55-amd64")
    assert is_older("", "6") and not is_older("mine", "6.1.0-55-amd64")


def test_one_name_for_two_kernels(machine: Machine, put: Callable[..., Kept]) -> None:
    put()
    put(patch_bytes(release=OTHER))
    with pytest.raises(UsageError, match="-k RELEASE"):
        uninstall("livegraft_fix", root=machine.root)
    assert uninstall("livegraft_fix", OTHER, machine.root).release == OTHER
    assert [each.release for each in installed.installed(machine.root)] == [RUNNING]


@pytest.mark.parametrize("name", ["../livegraft_fix", "..", f"../{OTHER}/livegraft_fix", "/etc"])
def test_a_name_does_not_lead_elsewhere(
    name: str, machine: Machine, put: Callable[..., Kept]
) -> None:
    put()
    before = files(machine)
    for which, release in ((name, None), ("livegraft_fix", name), (name, RUNNING)):
        for change in (uninstall, enable_again):
            with pytest.raises(PatchError, match="no such patch"):
                change(which, release, machine.root)
    assert files(machine) == before


# -- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "release"),
    [
        ("../../etc", RUNNING),
        ("..", RUNNING),
        ("a b", RUNNING),
        ("fix\n", RUNNING),
        ("x" * 56, RUNNING),
        ("livegraft_fix", ".."),
        ("livegraft_fix", "../../../etc"),
        ("livegraft_fix", ".new"),
        ("livegraft_fix", ""),
        ("livegraft_fix", "6" * 65),
    ],
)
def test_names_that_escape(
    name: str, release: str, machine: Machine, put: Callable[..., Kept]
) -> None:
    with pytest.raises(PatchError, match="impossible"):
        put(patch_bytes(name, release))
    assert not machine.store.exists()


def test_not_by_livegraft(put: Callable[..., Kept]) -> None:
    from tests.unit.test_runtime_payload import module

    info = b"\0".join(f"{key}={value}".encode() for key, value in MODINFO.items()) + b"\0"
    with pytest.raises(PatchError, match="nothing says which kernel"):
        put(module({".modinfo": info}))


def test_damaged_files(put: Callable[..., Kept], machine: Machine) -> None:
    for data in (b"", b"text", patch_bytes()[:-1], patch_bytes() + b"\0"):
        with pytest.raises(PatchError):
            put(data)
    assert machine.states() == {}


def test_a_link_to_the_patch(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "real.ko").write_bytes(patch_bytes())
    (tmp_path / "link.ko").symlink_to("real.ko")
    with pytest.raises(PatchError, match="symbolic link"):
        install(tmp_path / "link.ko", root=machine.root)


def test_another_build_of_the_running_kernel(put: Callable[..., Kept]) -> None:
    with pytest.raises(IdentityMismatch, match="another build, also named"):
        put(patch_bytes(build_id="cd" * 20))


def test_another_build_of_another_kernel_s_module(
    machine: Machine, put: Callable[..., Kept]
) -> None:
    from tests.unit.test_runtime_payload import manifest, module

    document = manifest()
    document["kernel"]["release"] = OTHER
    data = payload(MODINFO | {"vermagic": f"{OTHER} SMP"}, document)
    folder = machine.root / "lib/modules" / OTHER
    folder.mkdir(parents=True)
    (folder / "ext4.ko").write_bytes(module({".note.gnu.build-id": build_id_note("12" * 20)}))
    with pytest.raises(IdentityMismatch, match="was built for module ext4"):
        put(data)
    (folder / "ext4.ko").write_bytes(module({".note.gnu.build-id": build_id_note("cd" * 20)}))
    assert "is seen at boot" in put(data).warnings[-1]
    # A module of one kernel, with the manifest of another.
    with pytest.raises(IdentityMismatch, match="its manifest names"):
        put(payload(MODINFO, document))


def test_what_native_cannot_do(put: Callable[..., Kept]) -> None:
    with pytest.raises(PatchError, match="under model native: it was built before it could be"):
        put(replacing=True)


def test_a_kernel_that_is_not_installed(put: Callable[..., Kept]) -> None:
    assert "is not installed here" in put(patch_bytes(release="6.1.0-1-amd64")).warnings[-1]


def test_switched_off_is_told(machine: Machine, put: Callable[..., Kept]) -> None:
    machine.command_line("livegraft=off")
    assert "livegraft=off" in put().warnings[-1]


# -- whose it is ----------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["", RUNNING, "..", "../.."])
def test_others_can_write_where_it_is_kept(
    place: str, machine: Machine, put: Callable[..., Kept]
) -> None:
    put()
    before = files(machine)
    (machine.store / place).chmod(0o777)
    with pytest.raises(Untrusted, match="can be written by others"):
        installed.installed(machine.root)
    with pytest.raises(Untrusted, match="can be written by others"):
        put(patch_bytes(fix="dd"))
    assert files(machine) == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away: run as root")
def test_somebody_else_owns_it(machine: Machine, put: Callable[..., Kept]) -> None:
    kept = put()
    os.chown(kept.patch.path, 1000, 1000)
    assert machine.states() == {"livegraft_fix": "damaged"}
    os.chown(machine.store, 1000, 1000)
    with pytest.raises(Untrusted, match="belongs to user 1000"):
        installed.installed(machine.root)


@pytest.mark.parametrize("place", ["", RUNNING])
def test_a_link_in_the_way(
    place: str, machine: Machine, put: Callable[..., Kept], tmp_path: Path
) -> None:
    put()
    elsewhere = tmp_path / "elsewhere"
    (machine.store / place).rename(elsewhere)
    machine.store.joinpath(place).symlink_to(elsewhere)
    before = sorted(elsewhere.rglob("*"))
    with pytest.raises(Untrusted, match="is a symbolic link"):
        installed.installed(machine.root)
    with pytest.raises(Untrusted, match="is a symbolic link"):
        put(patch_bytes(fix="dd"))
    assert sorted(elsewhere.rglob("*")) == before


def damage_by_link(folder: Path) -> None:
    patch = folder / "livegraft_fix.ko"
    patch.rename(folder / "real.ko")
    patch.symlink_to("real.ko")


def damage_whole(folder: Path) -> None:
    elsewhere = folder.parents[2] / "copy"
    shutil.copytree(folder, elsewhere, dirs_exist_ok=True)
    shutil.rmtree(folder)
    folder.symlink_to(elsewhere)


def damage_by_fifo(folder: Path) -> None:
    (folder / installed.RECORD).unlink()
    os.mkfifo(folder / installed.RECORD)


def damage_by_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.touch()


def text(name: str, content: str) -> Callable[[Path], object]:
    """Damage done by another content of one file."""
    return lambda folder: (folder / name).write_text(content)


def gone(name: str) -> Callable[[Path], None]:
    """Damage done by one file that is gone."""
    return lambda folder: (folder / name).unlink()


DAMAGES: dict[str, Callable[[Path], object]] = {
    "is a symbolic link": damage_by_link,
    "which may lead to": damage_whole,
    "is not what was installed": text("livegraft_fix.ko", "something else"),
    "installed.json: is not there": gone(installed.RECORD),
    "livegraft_fix.ko: is not there": gone("livegraft_fix.ko"),
    "is damaged": text(installed.RECORD, "{"),
    "is no document": text(installed.RECORD, "[]"),
    "its model is None": text(installed.RECORD, '{"format": 1}'),
    "is not a regular file": damage_by_fifo,
    "its boot_id is 1": text(installed.MARKER, '{"format": 1, "boot_id": 1}'),
    "Not a directory": damage_by_file,
}


@pytest.mark.parametrize("said", DAMAGES)
def test_a_damaged_one_is_told_and_keeps_no_other_out(
    said: str, machine: Machine, put: Callable[..., Kept]
) -> None:
    put(patch_bytes("livegraft_well"))
    kept = put()
    DAMAGES[said](kept.patch.folder)
    assert machine.states() == {"livegraft_fix": "damaged", "livegraft_well": "waiting"}
    (found,) = (each for each in installed.installed(machine.root) if each.problem)
    assert said in str(found.problem)
    assert found.as_json(RUNNING, machine.root)["model"] is None
    if said == "its boot_id is 1":
        with pytest.raises(PatchError, match="boot_id"):
            enable_again("livegraft_fix", root=machine.root)
    # It can be installed again, and uninstalled.
    assert put().replaced
    assert machine.states()["livegraft_fix"] == "waiting"
    DAMAGES[said](kept.patch.folder)
    uninstall("livegraft_fix", root=machine.root)
    assert machine.states() == {"livegraft_well": "waiting"}


def test_what_is_named_as_no_patch_can_be(machine: Machine, put: Callable[..., Kept]) -> None:
    put()
    (machine.store / RUNNING / "a b").mkdir()
    (machine.store / "lost+found").mkdir()
    assert machine.states() == {"'a b'": "damaged", "livegraft_fix": "waiting"}
    uninstall("a b", root=machine.root)
    assert machine.states() == {"livegraft_fix": "waiting"}


def test_the_record_is_plain(machine: Machine, put: Callable[..., Kept]) -> None:
    document = json.loads((put().patch.folder / installed.RECORD).read_text())
    assert (document["format"], document["model"], document["order"]) == (1, "native", 1)
