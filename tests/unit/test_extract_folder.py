# SPDX-License-Identifier: GPL-2.0-or-later
"""The folder of an extracted live patch: what is edited, damaged, or for another kernel is told."""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from livegraft.cli import parser, target
from livegraft.errors import FixError, UsageError
from livegraft.extract.folder import INDEX, file_name, is_folder, read_folder
from livegraft.pipeline import Method

RELEASE = "6.1.0-55-amd64"
TEXT = b"int a; /* \xe9 */\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    index: dict[str, Any] = {
        "format": 2,
        "kernel": RELEASE,
        "source_version": "6.1.1-1",
        "fix_sha256": "0" * 64,
        "fixes": ["1-fix.patch"],
        "files": [
            {
                "file": "fs-stat.c",
                "header": "",
                "unit": "fs/stat.c",
                "object": "vmlinux",
                "functions": ["a"],
                "sha256": hashlib.sha256(TEXT).hexdigest(),
                "header_sha256": hashlib.sha256(b"").hexdigest(),
            }
        ],
    }
    (tmp_path / INDEX).write_text(json.dumps(index))
    (tmp_path / "fs-stat.c").write_bytes(TEXT)
    (tmp_path / "1-fix.patch").write_bytes(b"")
    return tmp_path


def test_what_was_written_is_read_back_byte_for_byte(folder: Path) -> None:
    found = read_folder(folder)
    assert found.texts["fs/stat.c"].main.encode("latin-1") == TEXT
    assert found.fixes == (folder / "1-fix.patch",)
    assert not found.edited


def test_an_edited_file_is_told(folder: Path) -> None:
    (folder / "fs-stat.c").write_bytes(TEXT + b"\n")
    assert read_folder(folder).edited == {"fs/stat.c"}


def test_a_damaged_folder_is_an_error(folder: Path) -> None:
    (folder / "fs-stat.c").unlink()
    with pytest.raises(FixError, match="is damaged"):
        read_folder(folder)


def test_another_format_is_an_error(folder: Path) -> None:
    index = json.loads((folder / INDEX).read_text())
    (folder / INDEX).write_text(json.dumps(index | {"format": 1}))
    with pytest.raises(FixError, match=r"has format 1.*anew"):
        read_folder(folder)


def test_a_folder_for_another_kernel_or_beside_a_fix_is_not_built(folder: Path) -> None:
    assert is_folder(folder)
    assert target.extracted([folder / "fs-stat.c"], RELEASE) is None
    assert target.extracted([folder], RELEASE) is not None
    with pytest.raises(UsageError, match=r"was extracted for 6\.1\.0-55-amd64"):
        target.extracted([folder], "6.1.0-56-amd64")
    with pytest.raises(UsageError, match="built alone"):
        target.extracted([folder, folder / "fs-stat.c"], RELEASE)


@pytest.mark.parametrize(
    ("method", "of_fix", "of_folder"),
    [
        (None, Method.COMPARE, Method.EXTRACT),
        ("extract", Method.EXTRACT, Method.EXTRACT),
        ("both", Method.BOTH, Method.BOTH),
    ],
)
def test_a_folder_is_built_as_it_was_cut_out(
    method: str | None, of_fix: Method, of_folder: Method, folder: Path
) -> None:
    arguments = argparse.Namespace(method=method)
    assert target.method(arguments, None) is of_fix
    assert target.method(arguments, read_folder(folder)) is of_folder


def test_a_folder_is_not_compared(folder: Path) -> None:
    _, arguments = parser.parse(
        ["build", str(folder), "-k", RELEASE, "-o", "x.ko", "--method", "compare"]
    )
    assert target.method(arguments, None) is Method.COMPARE
    with pytest.raises(UsageError, match=r"a folder holds what was cut out.*leave --method out"):
        target.method(arguments, read_folder(folder))


def test_the_name_of_a_file_is_that_of_the_unit() -> None:
    assert file_name("fs/ext4/mballoc.c") == "fs-ext4-mballoc.c"


def change(folder: Path, key: str, value: object) -> None:
    """Set a member of the index, or with ``files.`` one of its only file."""
    index = json.loads((folder / INDEX).read_text())
    place, _, member = key.rpartition(".")
    (index["files"][0] if place else index)[member] = value
    (folder / INDEX).write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("kernel", 5),
        ("format", True),
        ("source_version", None),
        ("fix_sha256", []),
        ("fixes", "1-fix.patch"),
        ("fixes", ["../1-fix.patch"]),
        ("fixes", ["/etc/passwd"]),
        ("fixes", [7]),
        ("files", {}),
        ("files", ["fs-stat.c"]),
        ("files.file", "./fs-stat.c"),
        ("files.file", ".."),
        ("files.file", "/etc/passwd"),
        ("files.file", "link.c"),
        ("files.file", "below"),
        ("files.header", "../x.h"),
        ("files.header", None),
        ("files.unit", 1),
        ("files.sha256", 1),
    ],
)
def test_an_index_that_says_something_else_is_damaged(
    folder: Path, key: str, value: object
) -> None:
    (folder / "link.c").symlink_to(folder / "fs-stat.c")
    (folder / "below").mkdir()
    (folder.parent / "1-fix.patch").write_bytes(b"")
    (folder.parent / "x.h").write_bytes(b"")
    change(folder, key, value)
    with pytest.raises(FixError, match=r"is damaged.*anew"):
        read_folder(folder)


@pytest.mark.parametrize("text", ["[" * 100_000, "[]", "\xff", ""])
def test_an_index_that_is_none_is_damaged(folder: Path, text: str) -> None:
    (folder / INDEX).write_text(text, "latin-1")
    with pytest.raises(FixError, match="is damaged"):
        read_folder(folder)


def test_a_unit_that_is_there_twice_is_damage(folder: Path) -> None:
    (entry,) = json.loads((folder / INDEX).read_text())["files"]
    change(folder, "files", [entry, entry])
    with pytest.raises(FixError, match="twice"):
        read_folder(folder)


def test_text_that_moved_to_the_header_is_an_edit(folder: Path) -> None:
    (folder / "fs-stat.c").write_bytes(TEXT[:5])
    (folder / "fs-stat.h").write_bytes(TEXT[5:])
    change(folder, "files.header", "fs-stat.h")
    assert read_folder(folder).edited == {"fs/stat.c"}


def test_a_folder_is_of_one_fix_and_one_source(folder: Path) -> None:
    found = read_folder(folder)
    found.check_origin("0" * 64, "6.1.1-1")
    with pytest.raises(FixError, match=r"SHA-256 0+, not 1+.*anew"):
        found.check_origin("1" * 64, "6.1.1-1")
    with pytest.raises(FixError, match=r"source 6\.1\.1-1, not 6\.1\.1-2.*anew"):
        found.check_origin("0" * 64, "6.1.1-2")


def test_a_folder_has_each_unit_of_the_fix_and_no_other(folder: Path) -> None:
    found = read_folder(folder)
    found.check_units(["fs/stat.c"])
    with pytest.raises(FixError, match=r"no file for fs/open\.c"):
        found.check_units(["fs/stat.c", "fs/open.c"])
    with pytest.raises(FixError, match=r"a file for fs/stat\.c"):
        found.check_units([])
