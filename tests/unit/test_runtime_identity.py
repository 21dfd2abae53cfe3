# SPDX-License-Identifier: GPL-2.0-or-later
"""Is this the kernel that the patch was built for? Compared by build ID, not by name."""

from __future__ import annotations

import lzma
import struct
from pathlib import Path

import pytest

from livegraft.errors import IdentityMismatch, PatchError
from livegraft.runtime import identity
from livegraft.runtime.payload import Manifest, PatchedObject, Payload

RELEASE = "6.1.0-55-amd64"
KERNEL = "ab" * 20
EXT4 = "cd" * 20


def note(owner: bytes, kind: int, descriptor: bytes) -> bytes:
    name = owner + b"\0"
    return (
        struct.pack("=III", len(name), len(descriptor), kind)
        + name
        + b"\0" * (-len(name) % 4)
        + descriptor
        + b"\0" * (-len(descriptor) % 4)
    )


def build_id_note(build_id: str) -> bytes:
    return note(b"GNU", 3, bytes.fromhex(build_id))


def module_file(note_section: bytes) -> bytes:
    """An ELF object with nothing but a build ID: null section, the note, section names."""
    names = b"\0.note.gnu.build-id\0.shstrtab\0"
    headers = [
        (0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
        (1, 7, 2, 0, 64, len(note_section), 0, 0, 4, 0),
        (20, 3, 0, 0, 64 + len(note_section), len(names), 0, 0, 1, 0),
    ]
    table = 64 + len(note_section) + len(names)
    head = b"\x7fELF\x02\x01\x01" + b"\0" * 9
    head += struct.pack("<HHIQQQIHHHHHH", 1, 62, 1, 0, 0, table, 0, 64, 0, 0, 64, 3, 2)
    return head + note_section + names + b"".join(struct.pack("<IIQQQQIIQQ", *h) for h in headers)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A machine whose kernel has :data:`KERNEL`; ext4 is not loaded and not installed."""
    notes = note(b"Linux", 257, b"\0") + note(b"Xen", 3, b"\1\2\3\4\5") + build_id_note(KERNEL)
    (tmp_path / "sys/kernel").mkdir(parents=True)
    (tmp_path / "sys/kernel/notes").write_bytes(notes)
    (tmp_path / "lib/modules" / RELEASE).mkdir(parents=True)
    return tmp_path


@pytest.fixture
def payload() -> Payload:
    objects = (PatchedObject("vmlinux", KERNEL, ()), PatchedObject("ext4", EXT4, ()))
    manifest = Manifest("fix", RELEASE, KERNEL, "6.1.192-1", objects, "0" * 64, True)
    return Payload(Path("fix.ko"), b"", "fix", f"{RELEASE} SMP preempt ", manifest)


def load_module(root: Path, name: str, build_id: str | None) -> None:
    folder = root / "sys/module" / name
    (folder / "notes").mkdir(parents=True)
    (folder / "initstate").write_text("live\n")
    if build_id is not None:
        (folder / "notes/.note.gnu.build-id").write_bytes(build_id_note(build_id))


def install_module(root: Path, name: str, build_id: str, suffix: str = "") -> None:
    data = module_file(build_id_note(build_id))
    if suffix == ".xz":
        data = lzma.compress(data)
    folder = root / "lib/modules" / RELEASE
    (folder / f"{name}.ko{suffix}").write_bytes(data)
    (folder / "modules.dep").write_text(f"{name}.ko{suffix}: other.ko\n")


def test_own_notes_agree_with_the_kernel() -> None:
    found = identity.kernel_build_id()
    assert len(found) >= 16
    assert bytes.fromhex(found) in Path("/sys/kernel/notes").read_bytes()


@pytest.mark.parametrize(
    "notes", [b"", b"\0" * 8, build_id_note(KERNEL)[:-4], note(b"Xen", 3, b"x")]
)
def test_no_build_id(notes: bytes) -> None:
    assert identity.build_id(notes) is None


def test_right_kernel(root: Path, payload: Payload) -> None:
    found = identity.check(payload, root, RELEASE)
    assert found.absent == ("ext4",)
    assert not found.warnings


def test_same_release_other_build(root: Path, payload: Payload) -> None:
    (root / "sys/kernel/notes").write_bytes(build_id_note("00" * 20))
    with pytest.raises(IdentityMismatch, match=f"another build, also named {RELEASE}"):
        identity.check(payload, root, RELEASE)


def test_other_release(root: Path, payload: Payload) -> None:
    with pytest.raises(IdentityMismatch, match=r"this machine runs 6\.1\.0-56-amd64"):
        identity.check(payload, root, "6.1.0-56-amd64")


def test_vermagic_of_another_release(root: Path, payload: Payload) -> None:
    with pytest.raises(IdentityMismatch):
        identity.check(payload._replace(vermagic="6.1.192 SMP "), root, RELEASE)


def test_kernel_that_does_not_tell(root: Path, payload: Payload) -> None:
    (root / "sys/kernel/notes").write_bytes(b"")
    with pytest.raises(PatchError, match="no build ID"):
        identity.check(payload, root, RELEASE)


def test_loaded_module(root: Path, payload: Payload) -> None:
    load_module(root, "ext4", EXT4)
    assert identity.check(payload, root, RELEASE).absent == ()


@pytest.mark.parametrize("other", ["00" * 20, None])
def test_loaded_module_of_another_build(root: Path, payload: Payload, other: str | None) -> None:
    load_module(root, "ext4", other)
    with pytest.raises(IdentityMismatch, match="module ext4"):
        identity.check(payload, root, RELEASE)


@pytest.mark.parametrize("suffix", ["", ".xz"])
def test_installed_module(root: Path, payload: Payload, suffix: str) -> None:
    install_module(root, "ext4", EXT4, suffix)
    assert not identity.check(payload, root, RELEASE).warnings
    install_module(root, "ext4", "00" * 20, suffix)
    with pytest.raises(IdentityMismatch, match="not loaded"):
        identity.check(payload, root, RELEASE)


def test_installed_module_that_cannot_be_read(root: Path, payload: Payload) -> None:
    install_module(root, "ext4", EXT4, ".zst")
    assert "unknown" in identity.check(payload, root, RELEASE).warnings[0]


def test_damaged_installed_module(root: Path, payload: Payload) -> None:
    install_module(root, "ext4", EXT4, ".xz")
    (root / "lib/modules" / RELEASE / "ext4.ko.xz").write_bytes(b"\xfd7zXZ\0 no more")
    with pytest.raises(PatchError, match="damaged"):
        identity.check(payload, root, RELEASE)


def test_dashes_in_file_names(root: Path) -> None:
    install_module(root, "snd-hda-intel", EXT4)
    folder = root / "lib/modules" / RELEASE
    assert identity.installed_module("snd_hda_intel", folder) == folder / "snd-hda-intel.ko"


def test_foreign_is_compared_by_release_only(root: Path, payload: Payload) -> None:
    foreign = payload._replace(manifest=None)
    assert identity.check(foreign, root, RELEASE).warnings
    with pytest.raises(IdentityMismatch):
        identity.check(foreign, root, "6.1.0-56-amd64")
