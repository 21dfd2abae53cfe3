# SPDX-License-Identifier: GPL-2.0-or-later
"""``verify --rebuild``: a second person builds a real patch again, and compares every byte."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.documents import validate
from tests.fixes import Edits
from tests.keys import person

from livegraft import pipeline
from livegraft.cli import main
from livegraft.elf import object as elf
from livegraft.elf import writer
from livegraft.kernel.kernel import Kernel
from livegraft.module.advisory import Advisory
from livegraft.module.inspect import inspect_bytes
from livegraft.trust import appended

pytestmark = pytest.mark.build

ADVISORY = Advisory(("CVE-2026-1234", "CVE-2026-12345"), ("ab" * 20,))
CMDLINE = "cmdline_proc_show"


@pytest.fixture(scope="module")
def fix(fix_of: Callable[[Edits], Path]) -> Path:
    mark = ("\tseq_putc(m, '\\n');\n", "\tseq_puts(m, \" again\");\n\tseq_putc(m, '\\n');\n")
    return fix_of({"fs/proc/cmdline.c": mark})


@pytest.fixture(scope="module")
def built(kernel: Kernel, fix: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Under a name that is not its file's, with what it is known by."""
    outcome = replace(pipeline.check([fix], kernel), advisory=ADVISORY)
    output = tmp_path_factory.mktemp("first") / "fix.ko"
    return pipeline.make(outcome, kernel, output=output, name="livegraft_first").path


@pytest.fixture
def verify(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, Any]]:
    def run(*words: str | Path) -> tuple[int, Any]:
        status = main.main(["verify", *map(str, words), "--json", "--quiet"])
        document = json.loads(capsys.readouterr().out)
        validate("verify", document)
        return status, document

    return run


Verify = Callable[..., tuple[int, Any]]


def test_the_same_to_the_byte_but_for_the_signature(
    built: Path, fix: Path, verify: Verify, tmp_path: Path
) -> None:
    assert inspect_bytes(built.read_bytes(), "fix.ko").manifest["fix"]["cves"] == [*ADVISORY.cves]
    copied = Path(shutil.copy(fix, tmp_path / "of-another-name.patch"))
    author = person(tmp_path, "author")
    (tmp_path / "trusted").mkdir()
    shutil.copy(author.cert, tmp_path / "trusted")
    signed = tmp_path / "signed.ko"
    signed.write_bytes(appended.append(built.read_bytes(), author.sign(built.read_bytes())))
    trusted = ("--trusted", tmp_path / "trusted")
    status, document = verify(signed, *trusted, "--rebuild", "--fix", copied)
    assert (status, document["verdict"]) == (0, "trusted"), document
    assert document["rebuilt"] == {"equal": True, "difference": None, "versions": []}


def test_a_changed_byte_and_another_compiler(
    built: Path, fix: Path, verify: Verify, tmp_path: Path
) -> None:
    """What inspect cannot see: the code itself, and what the manifest alone tells."""
    obj = elf.parse(built.read_bytes(), "fix.ko")
    code = next(each for each in obj.sections if each.name == f".text.{CMDLINE}")
    fields = {at + n for at in code.relocations["offset"].tolist() for n in range(8)}
    place = next(at for at in range(16, len(code.data)) if at not in fields)
    code.data = code.data[:place] + bytes([code.data[place] ^ 1]) + code.data[place + 1 :]
    says = next(each for each in obj.sections if each.name == ".livegraft")
    document = json.loads(says.data) | {"compiler": "gcc-99"}
    says.data = json.dumps(document, sort_keys=True, separators=(",", ":")).encode() + b"\n"
    says.size = len(says.data)
    changed = tmp_path / "changed.ko"
    changed.write_bytes(writer.write(obj))
    status, document = verify(changed, "--rebuild", "--fix", fix)
    assert (status, document["verdict"], document["compared"]) == (4, "unsigned", True), document
    found = document["rebuilt"]
    assert not found["equal"]
    assert (found["difference"]["section"], found["difference"]["offset"]) == (code.name, place)
    assert found["difference"]["others"] == [".livegraft"]
    (version,) = found["versions"]
    assert (version["tool"], version["then"]) == ("compiler", "gcc-99")


def test_what_is_not_signed_yet_passes_if_it_is_the_same(
    built: Path, fix: Path, verify: Verify
) -> None:
    assert verify(built)[0] == 4  # the control: without building it again nobody vouches for it
    status, document = verify(built, "--rebuild", "--fix", fix)
    assert (status, document["verdict"]) == (0, "unsigned")


def test_another_fix_is_refused(built: Path, fix: Path, verify: Verify, tmp_path: Path) -> None:
    other = tmp_path / "other.patch"
    other.write_bytes(b"\n" + fix.read_bytes())
    for given in ((other,), (fix, fix)):
        words = [word for each in given for word in ("--fix", each)]
        status, document = verify(built, "--rebuild", *words)
        assert (status, document["error"]["kind"]) == (4, "NotRebuilt")
        assert "was made of a fix of SHA-256" in document["error"]["message"]


def lying(built: Path, folder: Path, change: Callable[[Any], None]) -> Path:
    """The patch with another manifest."""
    obj = elf.parse(built.read_bytes(), "fix.ko")
    says = next(each for each in obj.sections if each.name == ".livegraft")
    document = json.loads(says.data)
    change(document)
    says.data = json.dumps(document).encode()
    says.size = len(says.data)
    path = folder / "lying.ko"
    path.write_bytes(writer.write(obj))
    return path


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda it: it["kernel"].update(source_version="1.2-3"), "from source 1.2-3"),
        (lambda it: it["edited"].append("fs/proc/cmdline.c"), "text that was edited"),
    ],
)
def test_what_cannot_be_built_here(
    built: Path,
    fix: Path,
    verify: Verify,
    tmp_path: Path,
    change: Callable[[Any], None],
    said: str,
) -> None:
    status, document = verify(lying(built, tmp_path, change), "--rebuild", "--fix", fix)
    assert (status, document["error"]["kind"]) == (4, "NotRebuilt")
    assert said in document["error"]["message"]


def test_another_build_of_the_kernel(
    built: Path, fix: Path, verify: Verify, tmp_path: Path
) -> None:
    def change(document: Any) -> None:
        document["kernel"]["build_id"] = "00" * 20
        for each in document["objects"]:
            each["build_id"] = "00" * 20

    status, document = verify(lying(built, tmp_path, change), "--rebuild", "--fix", fix)
    assert (status, document["error"]["kind"]) == (4, "NotRebuilt")
    assert "was built for the kernel 0000" in document["error"]["message"]


@pytest.mark.parametrize("words", [["--rebuild"], ["--fix", "fix.patch"]])
def test_one_without_the_other(built: Path, verify: Verify, words: list[str]) -> None:
    status, document = verify(built, *words)
    assert (status, document["error"]["kind"]) == (2, "UsageError")
