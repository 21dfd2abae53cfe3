# SPDX-License-Identifier: GPL-2.0-or-later
"""Signatures by real keys, checked by the real openssl: whose word it is, and whether it holds."""

from __future__ import annotations

import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.keys import Authority, Person, person

from livegraft.errors import Untrusted
from livegraft.run import run
from livegraft.trust import appended
from livegraft.trust.store import Store
from livegraft.trust.verification import Signature, verify

CONTENT = bytes(range(256)) * 40
OTHER = CONTENT[:-1] + b"?"

Folder = Callable[..., Path]


@pytest.fixture(scope="module")
def authority(keys: Path) -> Authority:
    return Authority(keys / "authority")


def one(content: bytes, signature: bytes, store: Store) -> Signature:
    (found,) = verify(content, [(None, signature)], store)
    # Never both: a signer is named only if the signature holds.
    assert bool(found.signers) != bool(found.problem)
    assert bool(found.problem) == bool(found.remedy)
    return found


# -- the signature at a module's end --------------------------------------------------------------


def test_appended_and_split() -> None:
    data = appended.append(CONTENT, b"signature")
    assert appended.split(data, "fix.ko") == (CONTENT, b"signature")
    assert appended.split(CONTENT, "fix.ko") == (CONTENT, None)


def test_it_is_what_the_kernel_reads() -> None:
    """struct module_signature of include/linux/module_signature.h, field by field."""
    data = appended.append(CONTENT, b"s" * 300).removesuffix(b"~Module signature appended~\n")
    fields = struct.unpack(">BBBBB3sI", data[-12:])
    assert fields == (0, 0, 2, 0, 0, b"\0\0\0", 300)


@pytest.mark.parametrize(
    "trailer",
    [
        b"",
        struct.pack(">BBBBB3xI", 0, 0, 2, 0, 0, 0),
        struct.pack(">BBBBB3xI", 0, 0, 2, 0, 0, len(CONTENT)),
        struct.pack(">BBBBB3xI", 0, 0, 2, 0, 0, 0xFFFFFFFF),
        struct.pack(">BBBBB3xI", 0, 0, 1, 0, 0, 300),
        struct.pack(">BBBBB3xI", 1, 0, 2, 0, 0, 300),
        struct.pack(">BBBBBBBBI", 0, 0, 2, 0, 0, 0, 0, 1, 300),
    ],
)
def test_a_trailer_that_is_none(trailer: bytes) -> None:
    content = CONTENT if trailer else b""
    with pytest.raises(Untrusted, match="signature is damaged"):
        appended.split(content + trailer + appended.MARK, "fix.ko")


# -- whose it is ----------------------------------------------------------------------------------


@pytest.mark.parametrize("who", ["author", "reviewer"])
def test_a_good_one(
    who: str, trusting: Callable[..., Store], request: pytest.FixtureRequest
) -> None:
    signer: Person = request.getfixturevalue(who)
    store = trusting(*(request.getfixturevalue(each) for each in ("author", "reviewer")))
    found = one(CONTENT, signer.sign(CONTENT), store)
    assert [each.name for each in found.signers] == [who]
    assert found.signers[0].subject == f"O=Größe,CN={who}"
    printed = run(["openssl", "x509", "-in", signer.cert, "-noout", "-fingerprint", "-sha256"])
    assert printed.stdout.strip().partition("=")[2].replace(":", "").lower() == (
        found.signers[0].sha256
    )


def test_the_content_was_changed(trusting: Callable[..., Store], author: Person) -> None:
    store, signature = trusting(author), author.sign(CONTENT)
    for at in (0, 1, len(CONTENT) // 2, len(CONTENT) - 1):
        changed = bytearray(CONTENT)
        changed[at] ^= 1
        assert "damaged or exchanged" in one(bytes(changed), signature, store).problem
    for other in (CONTENT[:-1], CONTENT + b"\0", b"", OTHER):
        assert "damaged or exchanged" in one(other, signature, store).problem


def test_the_signature_was_changed(trusting: Callable[..., Store], author: Person) -> None:
    store, signature = trusting(author), author.sign(CONTENT)
    value = len(signature) - 40  # within the signature's value, which is at the end
    for at in (0, 1, 5, value, value + 20, len(signature) - 1):
        changed = bytearray(signature)
        changed[at] ^= 1
        assert one(CONTENT, bytes(changed), store).problem, at
    for kept in (0, 1, 20, len(signature) // 2, len(signature) - 1):
        assert one(CONTENT, signature[:kept], store).problem, kept


def test_a_stranger(trusting: Callable[..., Store], author: Person, stranger: Person) -> None:
    found = one(CONTENT, stranger.sign(CONTENT), trusting(author))
    assert "nobody whom this machine trusts" in found.problem
    assert "CN=stranger" in found.problem
    assert "trusted.d" in found.remedy
    assert len(found.claims) == 1


def test_a_stranger_who_brings_the_certificate(
    trusting: Callable[..., Store], author: Person, stranger: Person
) -> None:
    """openssl would take it from the signature, unless told not to."""
    alone, brought = stranger.sign(CONTENT), stranger.sign(CONTENT, bring=True)
    assert len(brought) > len(alone) + 200
    assert "nobody whom" in one(CONTENT, brought, trusting(author)).problem


def test_one_who_has_the_signer_s_name(
    trusting: Callable[..., Store], author: Person, tmp_path: Path
) -> None:
    (tmp_path / "forged").mkdir()
    forger = person(tmp_path / "forged", "author")
    assert "nobody whom" in one(CONTENT, forger.sign(CONTENT), trusting(author)).problem


def test_a_signature_without_signers(trusting: Callable[..., Store], author: Person) -> None:
    """PKCS#7 that holds certificates only: there is nothing in it that could fail to hold."""
    out = author.key.with_suffix(".degenerate")
    run(
        [
            *("openssl", "crl2pkcs7", "-nocrl", "-certfile", author.cert),
            *("-outform", "DER", "-out", out),
        ]
    )
    assert one(CONTENT, out.read_bytes(), trusting(author)).problem


def test_content_inside_of_the_signature(trusting: Callable[..., Store], author: Person) -> None:
    """A signature that brings what it covers does not cover anything else."""
    store, opaque = trusting(author), author.sign(OTHER, "-nodetach")
    assert OTHER in opaque
    assert one(CONTENT, opaque, store).problem


def test_two_signers_in_one_signature(
    trusting: Callable[..., Store], author: Person, reviewer: Person
) -> None:
    both = author.sign(CONTENT, "-signer", str(reviewer.cert), "-inkey", str(reviewer.key))
    store = trusting(author, reviewer)
    assert {each.name for each in one(CONTENT, both, store).signers} == {"author", "reviewer"}
    half = Store(store.folder, store.certificates[:1])
    assert "nobody whom" in one(CONTENT, both, half).problem


def test_a_signer_named_by_the_key(trusting: Callable[..., Store], author: Person) -> None:
    """As scripts/sign-file names it where the kernel's configuration asks for that."""
    signature = author.sign(CONTENT, "-keyid")
    assert one(CONTENT, signature, trusting(author)).signers[0].name == "author"
    (claim,) = one(CONTENT, signature, Store(Path("nowhere"))).claims
    assert len(claim.removeprefix("key ")) == 40


def test_several_are_judged_apart(
    trusting: Callable[..., Store], author: Person, stranger: Person
) -> None:
    given = [("a", author.sign(CONTENT)), ("b", stranger.sign(CONTENT)), ("c", b"nothing")]
    found = verify(CONTENT, given, trusting(author))
    assert [bool(each.problem) for each in found] == [False, True, True]
    assert [each.file for each in found] == ["a", "b", "c"]


# -- whether the certificate may be used today ----------------------------------------------------


@pytest.mark.parametrize(
    ("name", "begin", "end", "said"),
    [
        ("expired", "20200101000000Z", "20210101000000Z", "has expired: it is valid from"),
        ("early", "20390101000000Z", "20400101000000Z", "is not yet valid: it is valid from"),
    ],
)
def test_not_the_time(
    name: str,
    begin: str,
    end: str,
    said: str,
    authority: Authority,
    trusting: Callable[..., Store],
) -> None:
    who = authority.issue(name, begin, end)
    for people in ((who,), (who, authority)):
        store = trusting(*people)
        found = one(CONTENT, who.sign(CONTENT), store)
        assert said in found.problem
        assert "this machine's clock says" in found.problem
        assert "timedatectl" in found.remedy
        shutil.rmtree(store.folder.parent)


def test_revoked(authority: Authority, trusting: Callable[..., Store], author: Person) -> None:
    good, bad = authority.issue("good"), authority.issue("bad")
    store = trusting(good, bad, authority, author)
    signatures = [(None, each.sign(CONTENT)) for each in (good, bad, author)]
    assert not any(each.problem for each in verify(CONTENT, signatures, store))

    authority.revoke(bad)
    listed = store.folder / "authority.crl"
    listed.write_bytes(authority.revoked())
    first, second, third = verify(CONTENT, signatures, Store.read(store.folder))
    assert not first.problem
    assert "revoked by its issuer" in second.problem
    # Somebody whose issuer has no list has been revoked by nobody.
    assert not third.problem

    run(["openssl", "crl", "-in", listed, "-outform", "DER", "-out", listed])
    (again,) = verify(CONTENT, [signatures[1]], Store.read(store.folder))
    assert "revoked" in again.problem


def test_a_list_out_of_date(authority: Authority, trusting: Callable[..., Store]) -> None:
    who = authority.issue("careless")
    store = trusting(who, authority)
    times = ("-crl_lastupdate", "20200101000000Z", "-crl_nextupdate", "20210101000000Z")
    (store.folder / "authority.crl").write_bytes(authority.revoked(*times))
    found = one(CONTENT, who.sign(CONTENT), Store.read(store.folder))
    assert "out of date" in found.problem


def test_a_list_whose_issuer_is_not_there(
    authority: Authority, trusting: Callable[..., Store]
) -> None:
    """Whether the list is the issuer's cannot be told, so it is refused."""
    who = authority.issue("alone")
    store = trusting(who)
    (store.folder / "authority.crl").write_bytes(authority.revoked())
    found = one(CONTENT, who.sign(CONTENT), Store.read(store.folder))
    assert "cannot be used" in found.problem
    assert "its issuer's certificate" in found.remedy


def test_a_weak_key(trusting: Callable[..., Store], tmp_path: Path) -> None:
    weak = person(tmp_path, "weak", "rsa:1024")
    assert "too weak" in one(CONTENT, weak.sign(CONTENT), trusting(weak)).problem
