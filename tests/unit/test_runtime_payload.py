# SPDX-License-Identifier: GPL-2.0-or-later
"""What may be loaded at all: reading a live patch file."""

from __future__ import annotations

import json
import os
import struct
import time
import tracemalloc
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from livegraft.errors import LivegraftError, PatchError, UsageError
from livegraft.runtime.payload import Payload, parse_manifest

MACHINE = "x86_64"
MODINFO = {
    "name": "livegraft_fix",
    "livepatch": "Y",
    "vermagic": "6.1.0-55-amd64 SMP preempt mod_unload modversions ",
}


def manifest() -> dict[str, Any]:
    return {
        "format": 1,
        "name": "livegraft_fix",
        "kernel": {
            "release": "6.1.0-55-amd64",
            "build_id": "ab" * 20,
            "source_version": "6.1.192-1",
        },
        "objects": [
            {
                "name": "ext4",
                "build_id": "cd" * 20,
                "functions": [
                    {"name": "f", "sympos": 1, "state": "changed", "unit": "fs/ext4/mballoc.c"}
                ],
            }
        ],
        "fix": {"sha256": "ef" * 32},
        "proof": True,
    }


Headed = tuple[bytes, int, int, int]
"""A section's contents, type, ``sh_link`` and ``sh_info``."""

PROGBITS, SYMTAB, STRTAB, RELA = 1, 2, 3, 4


def module(sections: Mapping[str, bytes | Headed], machine: int = 62, kind: int = 1) -> bytes:
    """A small but whole ELF file with these sections, its header table at the end as ld puts it."""
    heads = {
        name: each if isinstance(each, tuple) else (each, PROGBITS, 0, 0)
        for name, each in sections.items()
    }
    names = ["", *sections, ".shstrtab"]
    strings = b"\0".join(name.encode() for name in names) + b"\0"
    contents = [b"", *(each[0] for each in heads.values()), strings]
    offsets, body = [], b""
    for content in contents:
        offsets.append(64 + len(body))
        body += content + b"\0" * (-len(content) % 8)
    table = b""
    for index, content in enumerate(contents):
        at = len(b"".join(name.encode() + b"\0" for name in names[:index]))
        _, kind_of, link, info = heads.get(names[index], (b"", STRTAB if index else 0, 0, 0))
        table += struct.pack(
            "<IIQQQQIIQQ", at, kind_of, 0, 0, offsets[index], len(content), link, info, 1, 0
        )
    head = b"\x7fELF\x02\x01\x01" + b"\0" * 9
    head += struct.pack(
        "<HHIQQQIHHHHHH",
        *(kind, machine, 1, 0, 0, 64 + len(body), 0, 64, 0, 0, 64, len(names), len(names) - 1),
    )
    return head + body + table


OBJECT_SIZE, FUNCTION_SIZE = 96, 112


def tables(document: dict[str, Any], first: int) -> dict[str, bytes | Headed]:
    """The tables that the kernel reads, as a manifest tells them.

    Args:
        document: the manifest.
        first: the number of the first section.
    """
    strings, names, symbols = bytearray(b"\0"), bytearray(b"\0"), [bytes(24)]
    data, relocations = bytearray(), bytearray()
    data_at, strings_at, names_at = first, first + 2, first + 4

    def symbol(name: str, section: int, value: int, size: int) -> int:
        symbols.append(struct.pack("<IBBHQQ", len(names), 1, 0, section, value, size))
        names.extend(name.encode() + b"\0")
        return len(symbols) - 1

    def pointer(at: int, to: int, addend: int = 0) -> None:
        relocations.extend(struct.pack("<QQq", at, to << 32 | 1, addend))

    text, code = symbol("strings", strings_at, 0, 0), symbol("code", data_at, 0, 0)

    def string(at: int, value: str) -> None:
        pointer(at, text, len(strings))
        strings.extend(value.encode() + b"\0")

    objects = document["objects"]
    symbol("lg_objects", data_at, 0, OBJECT_SIZE * (len(objects) + 1))
    data.extend(bytes(OBJECT_SIZE * (len(objects) + 1)))
    for number, each in enumerate(objects):
        changed = [one for one in each["functions"] if one["state"] == "changed"]
        size = FUNCTION_SIZE * (len(changed) + 1)
        if each["name"] != "vmlinux":
            string(OBJECT_SIZE * number, each["name"])
        pointer(OBJECT_SIZE * number + 8, symbol(f"lg_funcs_{number}", data_at, len(data), size))
        for one in changed:
            string(len(data), one["name"])
            pointer(len(data) + 8, code)
            data.extend(struct.pack("<QQQ", 0, 0, one["sympos"]) + bytes(FUNCTION_SIZE - 24))
        data.extend(bytes(FUNCTION_SIZE))
    return {
        ".data": bytes(data),
        ".rela.data": (bytes(relocations), RELA, first + 3, data_at),
        ".rodata.str1.1": bytes(strings),
        ".symtab": (b"".join(symbols), SYMTAB, names_at, 1),
        ".strtab": (bytes(names), STRTAB, 0, 0),
    }


def payload(
    info: dict[str, str] | None = None,
    document: Any = None,
    extra: Mapping[str, bytes | Headed] | None = None,
    real: Any = None,
) -> bytes:
    """A live patch's file.

    Args:
        info: its ``.modinfo``.
        document: its manifest.
        extra: more sections.
        real: a manifest that tells what it does, where `document` lies.
    """
    told = manifest() if document is None else document
    sections: dict[str, bytes | Headed] = {
        ".modinfo": b"\0".join(
            f"{key}={value}".encode() for key, value in (info or MODINFO).items()
        )
        + b"\0",
        ".livegraft": json.dumps(told).encode(),
        **tables(real or (told if "objects" in told else manifest()), 3),
        **(extra or {}),
    }
    return module(sections)


def read(tmp_path: Path, data: bytes, *, foreign: bool = False) -> Payload:
    path = tmp_path / "fix.ko"
    path.write_bytes(data)
    return Payload.read(path, foreign=foreign, machine=MACHINE)


def test_whole_payload(tmp_path: Path) -> None:
    found = read(tmp_path, payload())
    assert found.name == "livegraft_fix"
    assert found.release == "6.1.0-55-amd64"
    assert found.manifest is not None
    assert found.manifest.kernel_build_id == "ab" * 20
    assert found.manifest.objects[0].functions[0].name == "f"
    assert found.data == (tmp_path / "fix.ko").read_bytes()


LIES: dict[str, Callable[[dict[str, Any]], object]] = {
    "another function": lambda told: told["objects"][0]["functions"][0].update(name="g"),
    "another position": lambda told: told["objects"][0]["functions"][0].update(sympos=2),
    "another object": lambda told: told["objects"][0].update(name="xfs"),
    "one less": lambda told: told["objects"][0]["functions"].clear(),
    "one more": lambda told: told["objects"][0]["functions"].append(
        {"name": "g", "sympos": 1, "state": "changed", "unit": "x.c"}
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_manifest_that_lies_about_its_module(tmp_path: Path, lie: str) -> None:
    """What is looked for before a load (tasks in cold parts, other users) is what it names."""
    told = manifest()
    LIES[lie](told)
    read(tmp_path, payload(document=told))
    with pytest.raises(PatchError, match=r"its manifest and its tables differ in \w+:[fg]"):
        read(tmp_path, payload(document=told, real=manifest()))


def test_a_module_without_tables_is_none_of_ours(tmp_path: Path) -> None:
    with pytest.raises(PatchError, match="has no table lg_objects"):
        read(tmp_path, payload(extra={".symtab": b""}))
    for pointers in (struct.pack("<QQq", 8, 9999 << 32 | 1, 0), bytes(range(25)), bytes(23)):
        with pytest.raises(PatchError, match="tables"):
            read(tmp_path, payload(extra={".rela.data": (pointers, RELA, 6, 3)}))
    damaged = (bytes(range(24)) * 3, RELA, 6, 3)
    with pytest.raises(PatchError, match="tables"):
        read(tmp_path, payload(extra={".rela.data": damaged}))


def test_a_large_file_of_nobody_costs_no_more_than_its_size(tmp_path: Path) -> None:
    """It is read before anybody has looked who has signed it."""
    many = 20_000
    names = b"lg_objects\0" + b"lg_funcs_" * many
    symbols = [bytes(24), struct.pack("<IBBHQQ", 0, 1, 0, 3, 0, 16 * many)]
    symbols += [struct.pack("<IBBHQQ", 11 + 9 * n, 1, 0, 3, 0, 16 * many) for n in range(many)]
    pointers = b"".join(struct.pack("<QQq", 8 * n, 2 << 32 | 1, 0) for n in range(2 * many))
    data = payload(
        extra={
            ".data": bytes(16 * many),
            ".rela.data": (pointers, RELA, 6, 3),
            ".rodata.str1.1": b"x" * many + b"\0",
            ".symtab": (b"".join(symbols), SYMTAB, 7, 1),
            ".strtab": (names, STRTAB, 0, 0),
        }
    )
    tracemalloc.start()
    began = time.process_time()
    with pytest.raises(PatchError):
        read(tmp_path, data)
    assert time.process_time() - began < 10
    assert tracemalloc.get_traced_memory()[1] < 40 * len(data)
    tracemalloc.stop()


def test_data_stays_what_was_checked(tmp_path: Path) -> None:
    found = read(tmp_path, payload())
    before = found.sha256
    (tmp_path / "fix.ko").write_bytes(b"something else")
    assert found.sha256 == before


@pytest.mark.parametrize("kept", [0, 3, 40, 100, -1, -200])
def test_truncated(tmp_path: Path, kept: int) -> None:
    with pytest.raises(PatchError, match=r"truncated|too short|not an ELF"):
        read(tmp_path, payload()[:kept])


def test_not_elf(tmp_path: Path) -> None:
    with pytest.raises(PatchError, match="not an ELF file"):
        read(tmp_path, b"#!/bin/sh\n" * 20)


def test_other_machine(tmp_path: Path) -> None:
    data = module({".modinfo": b"name=x\0livepatch=Y\0"}, machine=183)
    with pytest.raises(PatchError, match="another machine"):
        read(tmp_path, data)


@pytest.mark.parametrize("kind", [2, 3])
def test_elf_but_no_module(tmp_path: Path, kind: int) -> None:
    with pytest.raises(PatchError, match="not a kernel module"):
        read(tmp_path, module({".modinfo": b"name=x\0"}, kind=kind))


def test_module_but_no_live_patch(tmp_path: Path) -> None:
    with pytest.raises(PatchError, match="not a live patch"):
        read(tmp_path, payload({"name": "ext4"}), foreign=True)


def test_foreign_only_when_asked(tmp_path: Path) -> None:
    info = b"".join(f"{key}={value}\0".encode() for key, value in MODINFO.items())
    with pytest.raises(PatchError, match="--foreign"):
        read(tmp_path, module({".modinfo": info}))
    assert read(tmp_path, module({".modinfo": info}), foreign=True).manifest is None


def test_damaged_manifest_is_not_foreign(tmp_path: Path) -> None:
    document = manifest()
    del document["kernel"]
    with pytest.raises(PatchError, match="manifest"):
        read(tmp_path, payload(document=document), foreign=True)


def test_manifest_of_another_module(tmp_path: Path) -> None:
    with pytest.raises(PatchError, match="manifest is that of 'livegraft_fix'"):
        read(tmp_path, payload(MODINFO | {"name": "livegraft_other"}))


@pytest.mark.parametrize("name", ["", "../x", ".", "x" * 56])
def test_impossible_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(PatchError, match="impossible module name"):
        read(tmp_path, payload(MODINFO | {"name": name}))


def test_relocated_modules(tmp_path: Path) -> None:
    extra = {
        ".klp.rela.vmlinux..text": b"",
        ".klp.rela.ext4..text": b"",
        ".klp.rela.ext4..data": b"",
    }
    assert read(tmp_path, payload(extra=extra)).relocated_modules == ("ext4",)


def test_symbolic_link(tmp_path: Path) -> None:
    read(tmp_path, payload())
    link = tmp_path / "link.ko"
    link.symlink_to("fix.ko")
    with pytest.raises(PatchError, match="symbolic link"):
        Payload.read(link, machine=MACHINE)


def test_fifo_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.ko")
    with pytest.raises(PatchError, match="not a regular file"):
        Payload.read(tmp_path / "fifo.ko", machine=MACHINE)


@pytest.mark.parametrize(("name", "kind"), [("", PatchError), ("missing.ko", UsageError)])
def test_no_file(tmp_path: Path, name: str, kind: type[LivegraftError]) -> None:
    with pytest.raises(kind):
        Payload.read(tmp_path / name, machine=MACHINE)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("format",), 2),
        (("format",), None),
        (("kernel", "build_id"), ""),
        (("kernel", "build_id"), "xyz"),
        (("objects",), []),
        (("objects", 0, "build_id"), None),
        (("objects", 0, "functions", 0, "sympos"), "1"),
        (("fix",), "abc"),
        (("name",), 5),
    ],
)
def test_bad_manifest(path: tuple[str | int, ...], value: Any) -> None:
    document = manifest()
    place: Any = document
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    with pytest.raises(PatchError, match="manifest"):
        parse_manifest(json.dumps(document).encode(), "fix.ko")


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"\xff\xfe", b"null"])
def test_manifest_that_is_none(raw: bytes) -> None:
    with pytest.raises(PatchError, match="manifest"):
        parse_manifest(raw, "fix.ko")
