# SPDX-License-Identifier: GPL-2.0-or-later
"""What reaches the kernel: a stock one loads what somebody has changed, livegraft does not.

The patch is built, signed and reviewed by the command. In the second guest UEFI's Secure Boot is
on: the kernel itself demands signatures, and takes ours.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.documents import validate
from tests.keys import Person, person
from tests.live import verb
from tests.releases import RELEASE

from livegraft.kernel.kernel import Kernel, prepare
from livegraft.lab.boot import boot
from livegraft.lab.guest import Guest
from livegraft.lab.image import Image
from livegraft.lab.qemu import Firmware
from livegraft.module.engine import build_engine
from livegraft.run import run
from livegraft.runtime.trusting import UNSIGNED
from livegraft.trust import appended

pytestmark = [pytest.mark.build, pytest.mark.guest]

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "demo/sample.patch"
MODULE = "livegraft_sample"
CERTIFICATES, CONFIGURATION = "/etc/livegraft/trusted.d", "/etc/livegraft/livegraft.conf"

FIRMWARE = Firmware(
    Path("/usr/share/OVMF/OVMF_CODE_4M.fd"), Path("/usr/share/OVMF/OVMF_VARS_4M.snakeoil.fd")
)
OWNER = Path("/usr/share/ovmf/PkKek-1-snakeoil.key")
"""The key of this firmware's owner (its passphrase is snakeoil), whose certificate is in ``db``."""

JOURNAL = """
import pathlib, socket
place = pathlib.Path("/run/systemd/journal/socket")
place.parent.mkdir(parents=True)
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
    server.bind(str(place))
    while True:
        print(server.recv(65536).decode(), "END", flush=True)
"""
"""Prints the records that the machine's journal would get."""

TOLD = {"FILE_SHA256", "MANIFEST_SHA256", "FIX_SHA256", "SIGNER"}
"""Fields of a record that say what was loaded, and whose word that was."""


def livegraft(*words: str | Path, **variables: str) -> dict[str, Any]:
    """Run a verb that has to succeed: its document."""
    argv = [sys.executable, "-m", "livegraft.cli.main", *map(str, words), "--json"]
    done = subprocess.run(
        argv, capture_output=True, text=True, check=False, env=os.environ | variables
    )
    document: dict[str, Any] = json.loads(done.stdout)
    validate(str(words[0]), document)
    assert done.returncode == 0, document
    return document


@pytest.fixture(scope="module")
def kernel() -> Kernel:
    return prepare(RELEASE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("trust")


@pytest.fixture(scope="module")
def author(folder: Path) -> Person:
    return person(folder, "author", "rsa:2048")


@pytest.fixture(scope="module")
def reviewer(folder: Path) -> Person:
    return person(folder, "reviewer")


@pytest.fixture(scope="module")
def patch(folder: Path, author: Person) -> Path:
    """A patch with its author's signature."""
    module = folder / "sample.ko"
    words = ("build", SAMPLE, "-k", RELEASE, "-o", module, "--sign", author.key, author.cert)
    assert livegraft(*words)["signer"]["name"] == "author"
    return module


def damaged(patch: Path) -> bytes:
    """Another digit in the manifest: nothing that the kernel would stumble over."""
    data = patch.read_bytes()
    at = data.index(b'"sha256":"') + len(b'"sha256":"')
    return data[:at] + (b"0" if data[at] != ord("0") else b"1") + data[at + 1 :]


def trust(guest: Guest, *people: Person) -> None:
    guest.check(["mkdir", "-p", CERTIFICATES])
    for each in people:
        guest.put(f"{CERTIFICATES}/{each.cert.name}", each.cert)


def is_on(guest: Guest) -> bool:
    return "livegraft.sample=1" in guest.get("/proc/cmdline").decode()


def refused(guest: Guest, name: str, said: str) -> dict[str, Any]:
    """Before the kernel has seen anything of it."""
    before = len(guest.kernel_log())
    status, document = verb(guest, "load", f"/root/{name}")
    assert (status, document["error"]["kind"]) == (4, "Untrusted"), document
    assert said in document["error"]["message"]
    assert document["error"]["remedy"]
    assert [each.text for each in guest.kernel_log()[before:] if "sample" in each.text] == []
    assert not is_on(guest)
    error: dict[str, Any] = document["error"]
    return error


def test_a_build_is_signed(patch: Path, author: Person, reviewer: Person, folder: Path) -> None:
    certificates = folder / "certificates"
    certificates.mkdir()
    (certificates / "author.pem").write_bytes(author.cert.read_bytes())
    document = livegraft("verify", patch, "--trusted", certificates)
    assert document["verdict"] == "trusted"
    # This machine trusts nobody, and tells who it would have to be.
    (signature,) = livegraft("inspect", patch)["signatures"]
    assert (signature["trusted"], "CN=author" in signature["claims"][0]) == (False, True)
    # A guest tries what was signed.
    assert livegraft("try", patch, "-k", RELEASE)["faults"] == []


def test_what_somebody_has_changed(
    kernel: Kernel, patch: Path, author: Person, reviewer: Person
) -> None:
    content, signature = appended.split(patch.read_bytes(), str(patch))
    assert signature is not None
    files: dict[str, bytes | Path] = {
        "/root/sample.ko": patch,
        "/root/damaged.ko": damaged(patch),
        "/root/unsigned.ko": content,
        "/root/stranger.ko": appended.append(content, reviewer.sign(content)),
    }
    with boot(kernel.vmlinuz, kernel.modules, image=Image.OPENSSL, files=files) as guest:
        # The control: the kernel itself takes it, with a taint and a line in its log.
        guest.check(["insmod", "/root/damaged.ko"])
        assert is_on(guest)
        said = [each.text for each in guest.kernel_log()]
        assert any("module verification failed" in each for each in said)
        with recorded(guest) as records:
            assert verb(guest, "unload", MODULE)[0] == 0
        # Nobody has looked at that file.
        assert [each.partition("=")[0] for each in records[0]] == ["FIX_SHA256"]

        refused(guest, "sample.ko", "nobody whom this machine trusts")
        trust(guest, author)
        refused(guest, "damaged.ko", "damaged or exchanged")
        assert "trusted.d" in refused(guest, "stranger.ko", "nobody whom")["remedy"]
        status, document = verb(guest, "load", "/root/sample.ko")
        assert status == 0, document
        assert [each["subject"] for each in document["signers"]] == ["O=Größe,CN=author"]
        assert (document["warnings"], is_on(guest)) == ([], True)
        assert verb(guest, "unload", MODULE)[0] == 0

        _at_boot(guest, author)
        _unsigned(guest)
        _two_signers(guest, reviewer, content)
        _clock(guest)
        _enforced(guest)
        assert not is_on(guest)


def _at_boot(guest: Guest, author: Person) -> None:
    """An installed patch whose signer is trusted no longer is left alone."""
    guest.check(["mkdir", "-p", "/var/lib"])
    status, document = verb(guest, "install", "/root/sample.ko")
    assert status == 0, document
    guest.check(["rm", f"{CERTIFICATES}/{author.cert.name}"])
    status, document = verb(guest, "boot")
    (tried,) = document["patches"]
    assert (status, tried["outcome"], is_on(guest)) == (1, "failed", False), document
    assert "nobody whom this machine trusts" in tried["message"]
    trust(guest, author)
    status, document = verb(guest, "boot")
    assert (status, is_on(guest)) == (0, True), document
    assert verb(guest, "unload", MODULE)[0] == 0
    assert verb(guest, "uninstall", MODULE)[0] == 0


def _unsigned(guest: Guest) -> None:
    status, document = verb(guest, "load", "/root/unsigned.ko")
    assert (status, document["warnings"]) == (0, [UNSIGNED])
    assert verb(guest, "unload", MODULE)[0] == 0
    guest.put(CONFIGURATION, b"[livegraft]\nrequire_signature = yes\n")
    refused(guest, "unsigned.ko", "is not signed, which is required here")


@contextmanager
def recorded(guest: Guest) -> Iterator[list[set[str]]]:
    """The records that the block has left: their fields that say what was loaded."""
    found: list[set[str]] = []
    journal = guest.start(["python3", "-c", JOURNAL])
    guest.check(["sh", "-c", "until [ -S /run/systemd/journal/socket ]; do sleep 0.1; done"])
    yield found
    for text in journal.output().decode().split(" END\n")[:-1]:
        lines = {each.removeprefix("LIVEGRAFT_") for each in text.splitlines()}
        found.append({each for each in lines if each.partition("=")[0] in TOLD})
    journal.kill()
    journal.wait()
    guest.check(["rm", "-r", "/run/systemd"])


def _two_signers(guest: Guest, reviewer: Person, content: bytes) -> None:
    guest.put(CONFIGURATION, b"[livegraft]\nrequired_signers = author, reviewer\n")
    refused(guest, "sample.ko", "no signature of 'reviewer'")
    guest.put("/root/sample.ko.reviewer.p7s", reviewer.sign(content))
    refused(guest, "sample.ko", "nobody whom")
    trust(guest, reviewer)
    with recorded(guest) as records:
        status, document = verb(guest, "load", "/root/sample.ko")
        assert verb(guest, "unload", MODULE)[0] == 0
    assert (status, [each["name"] for each in document["signers"]]) == (0, ["author", "reviewer"])
    loaded, unloaded = records
    assert unloaded == loaded
    assert {each.partition("=")[0] for each in loaded} == TOLD
    assert len(loaded) == len(TOLD) + 1  # two signers


def _clock(guest: Guest) -> None:
    """A machine whose battery is empty."""
    now = guest.check(["date", "+%s"]).text
    guest.check(["date", "-s", "1999-01-01 00:00:00"])
    error = refused(guest, "sample.ko", "is not yet valid")
    assert "clock says Jan 01 00:00:" in error["message"]
    assert "timedatectl" in error["remedy"]
    guest.check(["date", "-s", f"@{now}"])


def _enforced(guest: Guest) -> None:
    """A kernel that demands signatures and does not know this one."""
    guest.check(["sh", "-c", "echo 1 > /sys/module/module/parameters/sig_enforce"])
    guest.check(["rm", CONFIGURATION])
    for name in ("unsigned.ko", "sample.ko"):
        status, document = verb(guest, "load", f"/root/{name}")
        assert status == 1
        assert "trusted signature only (sig_enforce)" in document["error"]["message"]
        assert "mokutil --import" in document["error"]["remedy"]


@contextmanager
def secure(kernel: Kernel, folder: Path, files: dict[str, bytes | Path]) -> Iterator[Guest]:
    """A guest under Secure Boot; its firmware's owner has signed the kernel, too."""
    signed = folder / "vmlinuz"
    key, certificate = folder / "owner.key", OWNER.with_suffix(".pem")
    run(["openssl", "pkey", "-in", OWNER, "-passin", "pass:snakeoil", "-out", key])
    run(["sbsign", "--key", key, "--cert", certificate, "--output", signed, kernel.vmlinuz])
    options: dict[str, Any] = {"image": Image.OPENSSL, "firmware": FIRMWARE, "timeout": 240}
    with boot(signed, kernel.modules, files=files, **options) as guest:
        yield guest


@pytest.mark.skipif(
    not FIRMWARE.code.exists(), reason="no firmware: apt-get install ovmf sbsigntool"
)
def test_secure_boot(kernel: Kernel, patch: Path, folder: Path) -> None:
    """The kernel is locked down, and takes a patch and an engine by a key that it knows."""
    content, _ = appended.split(patch.read_bytes(), str(patch))
    ours, engine = folder / "ours.ko", folder / "livegraft_engine.ko"
    ours.write_bytes(content)
    engine.write_bytes(build_engine(kernel).read_bytes())
    certificate = OWNER.with_suffix(".pem")
    for each in (ours, engine):
        words = ("sign", each, "--key", OWNER, "--cert", certificate, "--name", "owner")
        livegraft(*words, KBUILD_SIGN_PIN="snakeoil")
    files: dict[str, bytes | Path] = {
        "/root/unsigned.ko": content,
        "/root/ours.ko": ours,
        "/root/engine.ko": engine,
        "/root/bare_engine.ko": build_engine(kernel),
    }
    with secure(kernel, folder, files) as guest:
        guest.check(["mount", "-t", "securityfs", "none", "/sys/kernel/security"])
        assert b"[integrity]" in guest.get("/sys/kernel/security/lockdown")
        guest.check(["mkdir", "-p", CERTIFICATES])
        guest.put(f"{CERTIFICATES}/owner.pem", certificate)
        assert guest.run(["insmod", "/root/unsigned.ko"]).status != 0
        status, document = verb(guest, "load", "/root/unsigned.ko")
        assert (status, "locked down" in document["error"]["message"]) == (1, True)
        assert "mokutil --import" in document["error"]["remedy"]

        status, document = verb(guest, "load", "/root/ours.ko")
        assert (status, document.get("warnings")) == (0, []), document
        assert (is_on(guest), [each["name"] for each in document["signers"]]) == (True, ["owner"])
        assert verb(guest, "unload", MODULE)[0] == 0

        assert guest.run(["insmod", "/root/bare_engine.ko"]).status != 0
        guest.check(["insmod", "/root/engine.ko"])
        status, document = verb(guest, "load", "/root/ours.ko", "--model", "hybrid")
        assert (status, is_on(guest)) == (0, True), document
        assert verb(guest, "unload", MODULE)[0] == 0
        # The kernel knew the signer of all of these: nothing but the live patch taints it.
        assert int(guest.get("/proc/sys/kernel/tainted")) & 8192 == 0
