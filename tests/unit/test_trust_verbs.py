# SPDX-License-Identifier: GPL-2.0-or-later
"""``sign`` and ``verify``: keys of all kinds, and what is said of a patch's signatures."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.documents import validate
from tests.keys import Authority, Person, person
from tests.unit.test_runtime_payload import module
from tests.unit.test_trusting import PATCH, check, decide, names, review, sign

from livegraft.cli import main, verify
from livegraft.errors import ModuleError
from livegraft.runtime import trusting
from livegraft.trust.signing import Key


@pytest.fixture
def patch(tmp_path: Path) -> Path:
    path = tmp_path / "fix.ko"
    path.write_bytes(PATCH)
    return path


def run(*words: str | Path) -> tuple[int, dict[str, Any]]:
    """The command, with ``--json``."""
    done = subprocess.run(
        [sys.executable, "-m", "livegraft.cli.main", *words, "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    document: dict[str, Any] = json.loads(done.stdout)
    validate(str(words[0]), document)
    return done.returncode, document


def test_sign(patch: Path, root: Path, author: Person, reviewer: Person) -> None:
    keys = ("--key", author.key, "--cert", author.cert)
    for again in (False, True):
        status, document = run("sign", patch, *keys)
        assert (status, document["replaced"]) == (0, again)
        assert document["signer"]["name"] == "author"
        assert names(check(patch, root)) == ["author"]
    status, document = run(
        "sign", patch, "--key", reviewer.key, "--cert", reviewer.cert, "--detached"
    )
    assert (status, document["path"]) == (0, f"{patch}.reviewer.p7s")
    assert names(check(patch, root)) == ["author", "reviewer"]
    assert patch.read_bytes().startswith(PATCH)


def test_it_is_the_kernel_s_own_format(patch: Path, keys: Path) -> None:
    """Byte for byte what ``openssl cms`` makes with the options of scripts/sign-file.c."""
    who = person(keys, "rsa", "rsa:2048")
    key = Key.open(str(who.key), who.cert)
    assert key.sign(PATCH) == who.sign(PATCH)


@pytest.mark.parametrize(
    ("text", "said"),
    [(b"text", "not an ELF file"), (module({".text": b""}), "not a whole kernel module")],
)
def test_sign_what_is_no_module(text: bytes, said: str, patch: Path, author: Person) -> None:
    patch.write_bytes(text)
    status, document = run("sign", patch, "--key", author.key, "--cert", author.cert)
    assert (status, said in document["error"]["message"]) == (1, True)
    assert patch.read_bytes() == text


def test_keys_that_do_not_fit(
    author: Person, reviewer: Person, stranger: Person, keys: Path
) -> None:
    for other in (reviewer, stranger):  # of another kind, and of the same
        with pytest.raises(ModuleError, match="is not the key of"):
            Key.open(str(author.key), other.cert)
    with pytest.raises(ModuleError, match="no certificate that openssl"):
        Key.open(str(author.key), author.key)
    with pytest.raises(ModuleError, match="cannot be used to sign"):
        Key.open(str(author.cert), author.cert)
    with pytest.raises(ModuleError, match="is no file"):
        Key.open(str(keys / "missing.key"), author.cert)
    with pytest.raises(ModuleError, match="no name for a signer"):
        Key.open(str(author.key), author.cert, "../author")


def test_a_certificate_that_has_expired(tmp_path: Path) -> None:
    old = Authority(tmp_path / "authority").issue("old", "20200101000000Z", "20210101000000Z")
    with pytest.raises(ModuleError, match=r"cannot sign: the certificate .* has expired"):
        Key.open(str(old.key), old.cert)


def test_a_passphrase(author: Person, keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    locked = keys / "locked.key"
    words: list[str | Path] = [
        "-in",
        author.key,
        "-topk8",
        "-passout",
        "pass:open sesame",
        "-out",
        locked,
    ]
    subprocess.run(["openssl", "pkcs8", *words], check=True)
    for given in (None, "wrong"):
        if given:
            monkeypatch.setenv("KBUILD_SIGN_PIN", given)
        with pytest.raises(ModuleError) as caught:
            Key.open(str(locked), author.cert)
        assert "KBUILD_SIGN_PIN" in caught.value.remedy
    monkeypatch.setenv("KBUILD_SIGN_PIN", "open sesame")
    assert Key.open(str(locked), author.cert).sign(b"x")


TOKENS = Path("/usr/lib/softhsm/libsofthsm2.so")


@pytest.mark.skipif(
    not TOKENS.exists(), reason="no token: apt-get install softhsm2 libengine-pkcs11-openssl"
)
def test_a_token(keys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    who = person(keys, "token", "rsa:2048")
    (tmp_path / "tokens").mkdir()
    (tmp_path / "softhsm.conf").write_text(f"directories.tokendir = {tmp_path}/tokens\n")
    monkeypatch.setenv("SOFTHSM2_CONF", str(tmp_path / "softhsm.conf"))
    place = ["--token", "livegraft", "--pin", "1234"]
    for words in (
        ["--init-token", "--free", "--label", "livegraft", "--so-pin", "5678", "--pin", "1234"],
        ["--import", str(who.key), "--label", "author", "--id", "01", *place],
    ):
        subprocess.run(["softhsm2-util", *words], check=True, capture_output=True)
    uri = "pkcs11:token=livegraft;object=author;type=private"
    with pytest.raises(ModuleError, match="cannot be used to sign"):
        Key.open(f"{uri};pin-value=4321", who.cert)
    assert Key.open(f"{uri};pin-value=1234", who.cert).sign(PATCH) == who.sign(PATCH)
    monkeypatch.setenv("KBUILD_SIGN_PIN", "1234")
    assert Key.open(uri, who.cert).sign(PATCH) == who.sign(PATCH)


# -- verify ---------------------------------------------------------------------------------------


@pytest.fixture
def verified(root: Path, patch: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """``livegraft verify``; what a whole module's manifest says is tested where one is built."""
    from livegraft.module import inspect

    real = trusting.examine
    monkeypatch.setattr(inspect, "inspect_bytes", lambda *_: SimpleNamespace(name="livegraft_fix"))
    monkeypatch.setattr(
        trusting,
        "examine",
        lambda path, data, _, trusted: real(path, data, root, trusted),
    )

    def run(*words: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any], str]:
        status = main.main(["verify", str(patch), *words, "--json"])
        document = json.loads(capsys.readouterr().out)
        validate("verify", document)
        assert main.main(["verify", str(patch), *words, "--no-colour"]) == status
        return status, document, capsys.readouterr().out

    return run


def test_verify(
    verified: Callable[..., Any],
    patch: Path,
    root: Path,
    author: Person,
    reviewer: Person,
    stranger: Person,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    status, document, text = verified(capsys=capsys)
    assert (status, document["verdict"]) == (4, "unsigned")
    assert trusting.UNSIGNED in text

    sign(patch, author)
    status, document, text = verified(capsys=capsys)
    assert (status, document["verdict"]) == (0, "trusted")
    assert "at its end: signed by O=Größe,CN=author (author)" in text

    decide(root, "required_signers = author, reviewer")
    status, document, text = verified(capsys=capsys)
    assert (status, document["verdict"], document["required"]) == (
        4,
        "refused",
        ["author", "reviewer"],
    )
    assert "no signature of 'reviewer'" in text

    review(patch, reviewer)
    status, document, _ = verified(capsys=capsys)
    assert (status, [each["file"] for each in document["signatures"]]) == (
        0,
        [None, "fix.ko.reviewer.p7s"],
    )

    review(patch, stranger)
    status, document, text = verified(capsys=capsys)
    assert (status, document["verdict"]) == (4, "refused")
    assert "not trusted, names certificate" in text
    (reason,) = document["reasons"]
    assert "nobody whom" in reason["message"] and "trusted.d" in reason["remedy"]

    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(stranger.cert, other)
    status, document, _ = verified("--trusted", str(other), capsys=capsys)
    assert [each["trusted"] for each in document["signatures"]] == [False, False, True]
    assert status == 4


def test_verify_by_the_runtime_alone(patch: Path, author: Person, root: Path) -> None:
    """Without site-packages: what a production machine has."""
    sign(patch, author)
    source = Path(__file__).parents[2] / "src"
    code = (
        f"import sys; sys.path.insert(0, {str(source)!r}); "
        "from livegraft.runtime.__main__ import main; sys.exit(main())"
    )
    words: list[str | Path] = [
        "verify",
        patch,
        "--trusted",
        root / "etc/livegraft/trusted.d",
        "--json",
    ]
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, *words],
        capture_output=True,
        text=True,
        check=False,
    )
    document = json.loads(done.stdout)
    validate("verify", document)
    assert (done.returncode, document["verdict"], document["compared"]) == (0, "trusted", False)


def test_the_runtime_alone_builds_nothing(
    patch: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(verify, "is_whole", lambda: False)
    assert main.main(["verify", str(patch), "--rebuild", "--fix", "x.patch", "--json"]) == 1
    error = json.loads(capsys.readouterr().out)["error"]
    assert (error["kind"], error["remedy"]) == ("NotInstalled", "apt-get install livegraft")
