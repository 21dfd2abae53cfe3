# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs inside a guest: loads a module, says what is in memory then, and unloads it.

Usage: ``python3 in_guest.py REQUEST`` with a JSON document in the file; another goes to standard
output. It imports the standard library and the runtime, which is what loads and unloads.
"""

from __future__ import annotations

import json
import os
import re
import struct
import sys
import time
from pathlib import Path
from typing import Any

from livegraft.errors import LivegraftError
from livegraft.runtime import load, unload

FAULT = re.compile(
    r"BUG:|WARNING:|Oops|general protection|kernel BUG at|Unable to handle|hung_task|"
    r"livepatch: failed|Invalid relocation"
)


class Memory:
    """The kernel's memory (``/proc/kcore``: an ELF core file, a segment per mapped range)."""

    def __init__(self) -> None:
        self._file = os.open("/proc/kcore", os.O_RDONLY)
        head = os.pread(self._file, 64, 0)
        (offset,) = struct.unpack_from("<Q", head, 32)
        size, count = struct.unpack_from("<HH", head, 54)
        table = os.pread(self._file, size * count, offset)
        self._segments = []
        for number in range(count):
            kind, _, place, address, _, length = struct.unpack_from("<IIQQQQ", table, number * size)
            if kind == 1:
                self._segments.append((address, length, place))

    def read(self, address: int, size: int) -> bytes:
        """Bytes at an address of the kernel; fewer where none are mapped."""
        for start, length, place in self._segments:
            if start <= address and address + size <= start + length:
                return os.pread(self._file, size, place + address - start)
        return b""


class Log:
    """The kernel's log, from now on."""

    def __init__(self) -> None:
        self._file = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
        os.lseek(self._file, 0, os.SEEK_END)

    def faults(self) -> list[str]:
        """The messages since the last time that speak of a fault."""
        found: list[str] = []
        while True:
            try:
                record = os.read(self._file, 8192).decode("utf-8", "replace")
            except BlockingIOError:
                return found
            except OSError:
                continue  # older messages were overwritten
            text = record.partition(";")[2].partition("\n")[0]
            if FAULT.search(text):
                found.append(text)


def sections(module: str) -> dict[str, int]:
    """Where a module's sections are."""
    folder = Path("/sys/module", module, "sections")
    return {each.name: int(each.read_text(), 16) for each in folder.iterdir()}


def try_module(request: dict[str, Any], memory: Memory, log: Log) -> dict[str, Any]:
    """Load one module, read what was asked for, unload it.

    Whatever fails, the answer tells of it, of faults in the kernel's log, and of what is left.
    """
    name = request["name"]
    began = time.monotonic()
    answer: dict[str, Any] = {"name": name}
    try:
        answer["load"] = load(Path(request["path"])).as_json()
        try:
            answer |= look(request, memory)
        finally:
            answer["unload"] = unload(name).as_json()
    except LivegraftError as error:
        answer["error"] = error.as_json()
    answer["seconds"] = round(time.monotonic() - began, 3)
    answer["faults"] = log.faults()
    answer["left"] = any(
        Path(folder, name).exists() for folder in ("/sys/module", "/sys/kernel/livepatch")
    )
    return answer


def look(request: dict[str, Any], memory: Memory) -> dict[str, Any]:
    """What is in memory while the module is loaded."""
    name = request["name"]
    places = sections(name)
    return {
        "sections": places,
        "values": [
            memory.read(places[section] + offset, size).hex() if section in places else ""
            for section, offset, size in request["read"]
        ],
        "targets": {
            target: sections(target)
            for target in request["targets"]
            if Path("/sys/module", target, "sections").is_dir()
        },
        "functions": functions(name),
    }


def functions(name: str) -> dict[str, list[str]]:
    """The functions of a live patch by object, as ``NAME,POSITION``."""
    folder = Path("/sys/kernel/livepatch", name)
    return {
        each.name: sorted(function.name for function in each.iterdir() if "," in function.name)
        for each in folder.iterdir()
        if each.is_dir()
    }


def main(path: str) -> None:
    """Try the module of a request file."""
    request = json.loads(Path(path).read_text())
    try:
        answer = try_module(request, Memory(), Log())
    finally:
        Path(request["path"]).unlink()
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
