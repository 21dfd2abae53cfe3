# SPDX-License-Identifier: GPL-2.0-or-later
"""Whom a machine trusts, where signatures lie, and which openssl is asked."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.keys import Person
from tests.unit.test_trust import CONTENT, OTHER, one

from livegraft.errors import CommandMissing, Untrusted
from livegraft.run import run
from livegraft.trust import detached, openssl
from livegraft.trust.store import Store
from livegraft.trust.verification import verify


def test_no_folder(tmp_path: Path, author: Person) -> None:
    store = Store.read(tmp_path / "livegraft/trusted.d")
    assert store.certificates == ()
    assert "CN=author" in one(CONTENT, author.sign(CONTENT), store).problem


def test_der_and_several_in_one_file(
    trusting: Callable[..., Store], author: Person, reviewer: Person, stranger: Person
) -> None:
    store = trusting(author)
    der = store.folder / "reviewer.der"
    run(["openssl", "x509", "-in", reviewer.cert, "-outform", "DER", "-out", der])
    with (store.folder / "author.pem").open("ab") as file:
        file.write(stranger.cert.read_bytes())  # the author's next certificate
    (store.folder / "README").write_text("not looked at\n")
    store = Store.read(store.folder)
    assert [each.name for each in store.certificates] == ["author", "author", "reviewer"]
    for who, name in ((author, "author"), (reviewer, "reviewer"), (stranger, "author")):
        assert one(CONTENT, who.sign(CONTENT), store).signers[0].name == name


def break_name(folder: Path) -> None:
    (folder / "author.pem").rename(folder / "-author.pem")


def break_twice(folder: Path) -> None:
    shutil.copy(folder / "author.pem", folder / "reviewer.pem")


def break_same_name(folder: Path) -> None:
    (folder / "author.crt").write_bytes((folder / "author.pem").read_bytes())


def break_text(folder: Path) -> None:
    (folder / "author.pem").write_text("no certificate\n")


def break_base64(folder: Path) -> None:
    text = (folder / "author.pem").read_text()
    (folder / "author.pem").write_text(text.replace("MII", "M*I", 1))


def break_key(folder: Path) -> None:
    (folder / "author.pem").write_text(
        "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"
    )


def break_length(folder: Path) -> None:
    (folder / "author.pem").write_bytes(b"\x30" * (2 << 20))


def break_mode(folder: Path) -> None:
    (folder / "author.pem").chmod(0o664)


def break_folder(folder: Path) -> None:
    folder.chmod(0o757)


def break_above(folder: Path) -> None:
    folder.parent.chmod(0o775)


def break_link(folder: Path) -> None:
    moved = (folder / "author.pem").rename(folder.parent / "elsewhere.pem")
    (folder / "author.pem").symlink_to(moved)


def break_folder_link(folder: Path) -> None:
    folder.rename(folder.parent / "elsewhere")
    folder.symlink_to("elsewhere")


def break_fifo(folder: Path) -> None:
    os.mkfifo(folder / "other.pem")


def break_directory(folder: Path) -> None:
    (folder / "other.pem").mkdir()


def break_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.touch()


@pytest.mark.parametrize(
    ("breaks", "said"),
    [
        (break_name, "is none for a signer"),
        (break_twice, "holds the certificate that author.pem holds"),
        (break_same_name, "has the name of author.crt"),
        (break_text, "holds no certificate"),
        (break_base64, "is damaged"),
        (break_key, "holds a PRIVATE KEY"),
        (break_length, "is longer than"),
        (break_mode, r"can be written by others \(mode 0664\)"),
        (break_folder, r"can be written by others \(mode 0757\)"),
        (break_above, r"can be written by others \(mode 0775\)"),
        (break_link, "is a symbolic link"),
        (break_folder_link, "is a symbolic link"),
        (break_fifo, "is not a regular file"),
        (break_directory, "is not a regular file"),
        (break_file, "cannot be opened"),
    ],
)
def test_what_cannot_be_relied_on(
    breaks: Callable[[Path], None], said: str, trusting: Callable[..., Store], author: Person
) -> None:
    folder = trusting(author).folder
    breaks(folder)
    with pytest.raises(Untrusted, match=said) as caught:
        Store.read(folder)
    assert caught.value.remedy
    assert caught.value.exit_code == 4


@pytest.mark.parametrize("place", ["author.pem", "."])
def test_another_user_s(
    place: str, trusting: Callable[..., Store], author: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = trusting(author).folder
    if os.geteuid() == 0:
        os.chown(folder / place, 4711, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 4711)
    with pytest.raises(Untrusted, match="belongs to user"):
        Store.read(folder)


@pytest.mark.parametrize("name", ["author.der", "authority.crl"])
def test_a_damaged_file_is_named(
    name: str, trusting: Callable[..., Store], author: Person, reviewer: Person
) -> None:
    """It looks like DER, and only openssl can tell that it is not."""
    folder = trusting(reviewer).folder
    (folder / name).write_bytes(b"\x30\x03abc")
    with pytest.raises(Untrusted, match="is damaged") as caught:
        verify(CONTENT, [(None, author.sign(CONTENT))], Store.read(folder))
    assert caught.value.subject == str(folder / name)


# -- detached signatures --------------------------------------------------------------------------


def test_detached_are_found(tmp_path: Path) -> None:
    patch = tmp_path / "fix.ko"
    for name in ("fix.ko.b.p7s", "fix.ko.a.p7s", "fix.ko.p7s", "other.ko.c.p7s", "fix.ko.d.sig"):
        (tmp_path / name).write_text(name)
    found = detached.find(patch)
    names = ("fix.ko.a.p7s", "fix.ko.b.p7s", "fix.ko.p7s")
    assert found == [(name, name.encode()) for name in names]
    assert detached.place(patch, "a") == tmp_path / "fix.ko.a.p7s"
    assert [detached.name_in(name, patch) for name, _ in found] == ["a", "b", ""]


def test_detached_by_strange_files(tmp_path: Path) -> None:
    patch, place = tmp_path / "fix.ko", tmp_path / "fix.ko.a.p7s"
    place.symlink_to("elsewhere")
    with pytest.raises(Untrusted, match="symbolic link"):
        detached.find(patch)
    place.unlink()
    os.mkfifo(place)
    with pytest.raises(Untrusted, match="not a regular file"):
        detached.find(patch)
    place.unlink()
    place.write_bytes(b"0" * (1 << 17))
    with pytest.raises(Untrusted, match="longer than"):
        detached.find(patch)
    place.rename(tmp_path / "fix.ko.a b.p7s")
    with pytest.raises(Untrusted, match="named as no signature"):
        detached.find(patch)


# -- openssl --------------------------------------------------------------------------------------


def test_openssl_is_not_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trusting: Callable[..., Store], author: Person
) -> None:
    """Neither PATH nor a configuration of the caller's decides who checks a signature."""
    fake = tmp_path / "openssl"
    fake.write_text("#!/bin/sh\nexit 0\n")
    fake.chmod(0o755)
    (tmp_path / "configuration").write_text("openssl_conf = broken\n[broken]\nproviders = x\n")
    signature = author.sign(CONTENT)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("OPENSSL_CONF", str(tmp_path / "configuration"))
    monkeypatch.setenv("SSL_CERT_FILE", str(author.cert))
    store = trusting(author)
    assert one(CONTENT, signature, store).signers
    assert one(OTHER, signature, store).problem


def test_openssl_is_missing(monkeypatch: pytest.MonkeyPatch, author: Person) -> None:
    monkeypatch.setattr(openssl, "PROGRAM", "/nonexistent/openssl")
    with pytest.raises(Untrusted, match="is not installed") as caught:
        verify(CONTENT, [(None, b"signature")], Store(Path("nowhere")))
    assert caught.value.remedy == "apt-get install openssl"
    assert isinstance(caught.value.__cause__, CommandMissing)


def test_no_room(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    monkeypatch.setattr(openssl, "ROOTS_PLACE", str(tmp_path / "nowhere"))
    with pytest.raises(Untrusted, match="cannot be written"):
        verify(CONTENT, [(None, b"signature")], Store(Path("nowhere")))


def test_the_folder_is_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with openssl.private_folder() as folder:
        assert folder.stat().st_mode & 0o777 == 0o700
        # A variable of the caller's environment does not decide where root's files are.
        assert (folder.parent == tmp_path) == (os.geteuid() != 0)
    assert not folder.exists()
