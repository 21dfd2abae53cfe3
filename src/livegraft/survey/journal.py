# SPDX-License-Identifier: GPL-2.0-or-later
"""What a survey has found so far, one JSON document per line, safe against an end at any moment.

A line counts once it ends with a newline; what a crash left half written is cut off before the next
line is added. A later line of the same key takes an earlier one's place.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from livegraft.module.delivery import write_whole

Document = dict[str, Any]


class Journal:
    """A file of documents by key.

    Args:
        path: the file; made with the first document.
        key: the member that says which document a line is.
    """

    def __init__(self, path: Path, key: str = "id") -> None:
        self.path = path
        self._key = key
        self._documents: dict[str, Document] = {}
        if path.is_file():
            self._read()

    def __contains__(self, key: str) -> bool:
        return key in self._documents

    def __getitem__(self, key: str) -> Document:
        return self._documents[key]

    def __iter__(self) -> Iterator[Document]:
        return iter(self._documents.values())

    def __len__(self) -> int:
        return len(self._documents)

    def add(self, document: Document) -> None:
        """Write a document down; when this returns it is on the disk."""
        self._documents[str(document[self._key])] = document
        line = _line(document)
        with self.path.open("ab") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())

    def keep_order(self, keys: Iterable[str]) -> None:
        """Leave one line per document, in this order."""
        self._documents = {key: self._documents[key] for key in keys}
        write_whole(self.path, b"".join(_line(document) for document in self))

    def _read(self) -> None:
        data = self.path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):
            with self.path.open("r+b") as file:
                file.truncate(len(whole))
        for line in whole.splitlines():
            document: Document = json.loads(line)
            self._documents[str(document[self._key])] = document


def _line(document: Document) -> bytes:
    return json.dumps(document, ensure_ascii=False).encode("utf-8", "surrogateescape") + b"\n"
