# SPDX-License-Identifier: GPL-2.0-or-later
"""What a machine asks of a patch's signatures, and that the kernel gets what was signed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from tests.keys import Person
from tests.unit.test_runtime_payload import MODINFO, payload

from livegraft.errors import PatchError, Untrusted
from livegraft.lab import trial
from livegraft.runtime import configuration, identity, loading, settings, syscalls, trusting
from livegraft.runtime.model import Model
from livegraft.runtime.payload import Payload
from livegraft.trust import appended

PATCH = payload()


@pytest.fixture
def patch(tmp_path: Path) -> Path:
    path = tmp_path / "fix.ko"
    path.write_bytes(PATCH)
    return path


def decide(root: Path, text: str) -> None:
    (root / configuration.PLACE).write_text(f"[livegraft]\n{text}\n")


def sign(patch: Path, who: Person, content: bytes = PATCH) -> None:
    patch.write_bytes(appended.append(PATCH, who.sign(content)))


def review(patch: Path, who: Person, content: bytes = PATCH, name: str = "") -> None:
    (patch.parent / f"{patch.name}.{name or who.name}.p7s").write_bytes(who.sign(content))


def check(patch: Path, root: Path) -> trusting.Trust:
    return trusting.check(patch, patch.read_bytes(), root)


def names(trust: trusting.Trust) -> list[str]:
    return [each.name for each in trust.signers]


# -- what is asked for ----------------------------------------------------------------------------


def test_unsigned(patch: Path, root: Path) -> None:
    assert check(patch, root).warnings == (trusting.UNSIGNED,)
    decide(root, "require_signature = yes")
    with pytest.raises(Untrusted, match=r"is not signed, which is required.*nothing was changed"):
        check(patch, root)


def test_signed(patch: Path, root: Path, author: Person) -> None:
    sign(patch, author)
    decide(root, "require_signature = yes")
    trust = check(patch, root)
    assert (names(trust), trust.warnings) == (["author"], ())


def test_detached_alone_is_signed(patch: Path, root: Path, reviewer: Person) -> None:
    review(patch, reviewer)
    decide(root, "require_signature = yes")
    assert names(check(patch, root)) == ["reviewer"]


def test_both_over_the_same_bytes(
    patch: Path, root: Path, author: Person, reviewer: Person
) -> None:
    """The reviewer may sign before the author or after."""
    review(patch, reviewer)
    sign(patch, author)
    review(patch, author, name="again")
    assert names(check(patch, root)) == ["author", "reviewer"]


@pytest.mark.parametrize("required", ["no", "yes"])
def test_what_does_not_hold_is_always_refused(
    required: str, patch: Path, root: Path, author: Person, stranger: Person
) -> None:
    decide(root, f"require_signature = {required}")
    sign(patch, stranger)
    with pytest.raises(Untrusted, match="nobody whom this machine trusts"):
        check(patch, root)
    sign(patch, author, payload(document={"format": 1}))
    with pytest.raises(Untrusted, match="damaged or exchanged"):
        check(patch, root)
    # A good one does not make up for a bad one beside it.
    sign(patch, author)
    review(patch, stranger)
    with pytest.raises(Untrusted, match="nobody whom this machine trusts") as caught:
        check(patch, root)
    assert caught.value.subject == "fix.ko.stranger.p7s"


def test_one_of_two_is_missing(patch: Path, root: Path, author: Person, reviewer: Person) -> None:
    decide(root, "required_signers = author, reviewer")
    for signed in (False, True):
        if signed:
            sign(patch, author)
        with pytest.raises(Untrusted, match=r"no signature of 'author'|no signature of 'reviewer'"):
            check(patch, root)
    # The same person twice is not two people.
    review(patch, author, name="second")
    with pytest.raises(Untrusted, match="no signature of 'reviewer'") as caught:
        check(patch, root)
    assert "livegraft sign --detached" in caught.value.remedy
    review(patch, reviewer)
    assert names(check(patch, root)) == ["author", "reviewer"]


def test_one_who_is_required_and_not_known(patch: Path, root: Path, author: Person) -> None:
    decide(root, "required_signers = auditor")
    sign(patch, author)
    with pytest.raises(Untrusted, match="no signature of 'auditor'") as caught:
        check(patch, root)
    assert "auditor.pem" in caught.value.remedy


def test_detached_files_that_were_swapped(
    patch: Path, root: Path, author: Person, reviewer: Person
) -> None:
    review(patch, author, name="reviewer")
    review(patch, reviewer, name="author")
    with pytest.raises(Untrusted, match=r"of O=Größe,CN=reviewer .*not of 'author' \(and 1 more"):
        check(patch, root)


def test_detached_of_another_patch(patch: Path, root: Path, reviewer: Person) -> None:
    review(patch, reviewer, content=PATCH[::-1])
    with pytest.raises(Untrusted, match="damaged or exchanged"):
        check(patch, root)


def test_folder_that_others_can_write(patch: Path, root: Path, author: Person) -> None:
    sign(patch, author)
    (root / "etc/livegraft/trusted.d").chmod(0o777)
    with pytest.raises(Untrusted, match="written by others"):
        check(patch, root)


# -- the configuration ----------------------------------------------------------------------------


def test_without_a_file(tmp_path: Path) -> None:
    assert configuration.read(tmp_path) == configuration.Configuration()


def test_all_settings(root: Path) -> None:
    decide(
        root,
        "; a comment\nenabled = No # another\nrequire_signature = yes\nrequired_signers = a, b ,a",
    )
    assert configuration.read(root) == configuration.Configuration(False, True, ("a", "b"))
    decide(root, "required_signers =")
    assert configuration.read(root).required_signers == ()


@pytest.mark.parametrize(
    "text",
    [
        "[livegraft]\nrequire_signatures = yes\n",
        "[livegraft]\nrequire_signature = perhaps\n",
        "[livegraft]\nrequire_signature =\n",
        "[livegraft]\nrequire_signature\n",
        "[livegraft]\nrequire_signature: yes\n",
        "[livegraft]\nrequired_signers = a b\n",
        "[livegraft]\nrequired_signers = ../a\n",
        "[livegraft]\nrequired_signers = a,,b\n",
        "[livegraft]\nenabled = no\nenabled = yes\n",
        "[livegraft]\n[livegraft]\n",
        "[DEFAULT]\nenabled = no\n",
        "[other]\nenabled = no\n",
        "enabled = no\n",
        "\0\xff",
    ],
)
def test_what_is_not_understood_is_not_ignored(text: str) -> None:
    with pytest.raises(PatchError) as caught:
        configuration.parse(text.encode("latin-1"), "livegraft.conf")
    assert caught.value.remedy


def test_a_configuration_that_others_can_write(root: Path) -> None:
    decide(root, "require_signature = no")
    (root / configuration.PLACE).chmod(0o666)
    with pytest.raises(Untrusted, match="written by others"):
        configuration.read(root)


def test_switched_off(root: Path) -> None:
    settings.check("fix", b"", root)
    decide(root, "enabled = no")
    with pytest.raises(PatchError, match="switched off on this machine"):
        settings.check("fix", b"", root)


# -- the file, and what the kernel gets -----------------------------------------------------------


@pytest.mark.parametrize(
    "behind", [b"\0", b"x" * 400, appended.append(b"", b"s" * 99)[:-1] + b"!"], ids=len
)
def test_something_that_is_no_signature(patch: Path, behind: bytes) -> None:
    """A signature whose mark was damaged must not pass for none."""
    patch.write_bytes(PATCH + behind)
    with pytest.raises(Untrusted, match="they are no signature"):
        Payload.read(patch, machine="x86_64")


def test_damaged_anywhere(load: Callable[[Path], bytes], patch: Path, author: Person) -> None:
    """In the module, in the signature's value, and behind it: never does the kernel see it.

    (The wrapping around that value is left out: its version numbers, for instance, mean nothing,
    and what is signed is whole.)
    """
    sign(patch, author)
    whole = patch.read_bytes()
    assert load(patch) == whole
    trailer = len(appended.MARK) + 12
    places = [*range(0, len(PATCH), 61), *range(len(whole) - trailer - 60, len(whole), 5)]
    for at in places:
        patch.write_bytes(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :])
        with pytest.raises(PatchError):
            loading.load(patch)
    for kept in range(1, len(whole), 83):
        patch.write_bytes(whole[:kept])
        with pytest.raises(PatchError):
            loading.load(patch)


def test_signed_twice(patch: Path, author: Person) -> None:
    once = appended.append(PATCH, author.sign(PATCH))
    patch.write_bytes(appended.append(once, author.sign(once)))
    with pytest.raises(Untrusted, match="they are no signature"):
        Payload.read(patch, machine="x86_64")


class Kernel:
    """A model that keeps what it is given."""

    name = "native"

    def __init__(self, root: Path) -> None:
        self.patches = SimpleNamespace(
            root=root, both=[SimpleNamespace(require_core=lambda: None)], get=lambda name: None
        )
        self.got: list[bytes] = []

    def accept(self, *_: object) -> None:
        pass

    def require(self) -> None:
        pass


class Inserted(Exception):
    """The kernel would have it now."""


@pytest.fixture
def load(root: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], bytes]:
    """Load a patch up to the system call: what the kernel would get."""
    kernel = Kernel(root)

    def insert(attempt: Any, *_: object) -> None:
        raise Inserted(attempt.payload.data)

    monkeypatch.setattr(syscalls, "require_module_capability", lambda *_: None)
    monkeypatch.setattr(loading, "model_named", lambda *_, **__: cast(Model, kernel))
    monkeypatch.setattr(loading._Attempt, "run", insert)
    monkeypatch.setattr(identity, "check", lambda *_: identity.Identity((), ()))

    def loaded(path: Path) -> bytes:
        with pytest.raises(Inserted) as caught:
            loading.load(path)
        data: bytes = caught.value.args[0]
        return data

    return loaded


def test_the_kernel_gets_what_was_verified(
    load: Callable[[Path], bytes],
    patch: Path,
    author: Person,
    stranger: Person,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The file is exchanged in the moment after it was read."""
    sign(patch, author)
    signed = patch.read_bytes()
    real = Payload.read

    def read_and_exchange(path: Path, **options: Any) -> Payload:
        found = real(path, **options)
        sign(patch, stranger)
        return found

    monkeypatch.setattr(Payload, "read", read_and_exchange)
    assert load(patch) == signed
    assert patch.read_bytes() != signed


def test_the_kernel_never_sees_what_does_not_hold(
    load: Callable[[Path], bytes], patch: Path, author: Person, stranger: Person
) -> None:
    sign(patch, stranger)
    with pytest.raises(Untrusted):
        loading.load(patch)
    sign(patch, author, PATCH[::-1])
    with pytest.raises(Untrusted):
        loading.load(patch)
    sign(patch, author)
    assert load(patch) == patch.read_bytes()


def test_a_guest_tries_what_the_signature_covers(
    patch: Path, author: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, bytes] = {}

    def boot(*_: object, files: dict[str, bytes], **__: object) -> None:
        given.update(files)
        raise Inserted

    monkeypatch.setattr(trial, "boot", boot)
    sign(patch, author)
    with pytest.raises(Inserted):
        trial.try_patch(patch, patch, patch)
    assert given == {"/root/fix.ko": PATCH}


@pytest.mark.parametrize(
    ("code", "said"),
    [("EKEYREJECTED", "signature only"), ("ENOKEY", "does not have"), ("EBADMSG", "understand")],
)
def test_what_the_kernel_says_of_signatures(code: str, said: str) -> None:
    import errno

    error = syscalls.refusal("fix", getattr(errno, code), syscalls.LOAD_ERRORS, ())
    assert said in error.problem
    assert ("mokutil --import" in error.remedy) == (code != "EBADMSG")


def test_the_payload_of_these_tests_is_one(patch: Path) -> None:
    assert Payload.read(patch, machine="x86_64").name == MODINFO["name"]
