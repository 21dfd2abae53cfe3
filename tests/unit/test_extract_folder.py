# SPDX-License-Identifier: GPL-2.0-or-later
"""The folder of an extracted live patch: what is edited, damaged, or for another kernel is told."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from livegraft.cli import target
from livegraft.errors import FixError, UsageError
from livegraft.extract.folder import INDEX, file_name, is_folder, read_folder

RELEASE = "6.1.0-55-amd64"
TEXT = b"int a; /* \xe9 */\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    index: dict[str, Any] = {
        "format": 1,
        "kernel": RELEASE,
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
            }
        ],
    }
    (tmp_path / INDEX).write_text(json.dumps(index))
    (tmp_path / "fs-stat.c").write_bytes(TEXT)
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
    (folder / INDEX).write_text(json.dumps(index | {"format": 2}))
    with pytest.raises(FixError, match="has format 2"):
        read_folder(folder)


def test_a_folder_for_another_kernel_or_beside_a_fix_is_not_built(folder: Path) -> None:
    assert is_folder(folder)
    assert target.extracted([folder / "fs-stat.c"], RELEASE) is None
    assert target.extracted([folder], RELEASE) is not None
    with pytest.raises(UsageError, match=r"was extracted for 6\.1\.0-55-amd64"):
        target.extracted([folder], "6.1.0-56-amd64")
    with pytest.raises(UsageError, match="built alone"):
        target.extracted([folder, folder / "fs-stat.c"], RELEASE)


def test_the_name_of_a_file_is_that_of_the_unit() -> None:
    assert file_name("fs/ext4/mballoc.c") == "fs-ext4-mballoc.c"
