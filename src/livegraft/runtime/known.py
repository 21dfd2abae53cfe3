# SPDX-License-Identifier: GPL-2.0-or-later
"""What was known of a patch when it was loaded and no module tells: for its unload's record, and
since when it is there when the kernel's log has lost that.

Kept below /run, which no boot outlives, and believed of the very module that was loaded then.
"""

from __future__ import annotations

import json
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from livegraft.errors import LivegraftError
from livegraft.runtime import durable
from livegraft.runtime.payload import Payload
from livegraft.trust import owned

PLACE = "run/livegraft-loaded"
"""Below the root: a file for each patch that was loaded, by its name."""

FORMAT = 1


class Known(NamedTuple):
    """What a patch's file told.

    Args:
        file_sha256: of the whole file, hexadecimal.
        manifest_sha256: of its manifest; "" of a foreign patch, which has none.
        upstream: the commits that the fix was taken from.
        signers: whose signatures held, as records name them.
        since: microseconds since boot at which it was loaded, None as long as it is not: the clock
            of the day may not be right yet when patches are loaded early.
    """

    file_sha256: str
    manifest_sha256: str = ""
    upstream: tuple[str, ...] = ()
    signers: tuple[str, ...] = ()
    since: int | None = None

    def fields(self) -> list[tuple[str, str]]:
        """The same in a record, without prefix."""
        return [
            ("FILE_SHA256", self.file_sha256),
            ("MANIFEST_SHA256", self.manifest_sha256),
            *(("UPSTREAM", each) for each in self.upstream),
            *(("SIGNER", each) for each in self.signers),
        ]


def told_by(payload: Payload) -> Known:
    """What a patch's file tells; nobody has looked yet whose signatures hold."""
    manifest = payload.manifest
    return Known(
        payload.sha256, manifest.sha256 if manifest else "", manifest.upstream if manifest else ()
    )


def keep(name: str, known: Known, root: Path = Path("/")) -> None:
    """Keep it until the patch is unloaded. Where there is no room it is not known any more.

    Args:
        name: the patch, which is loaded.
        known: what its file told.
        root: where run/ and sys/ are.
    """
    with suppress(OSError, LivegraftError), owned.folder(root / "run") as run:
        if run is not None:
            durable.make_folder(run, (root / PLACE).name)
    with suppress(OSError, LivegraftError), owned.folder(root / PLACE) as folder:
        if folder is not None:
            known = known._replace(since=time.monotonic_ns() // 1000)
            document = {"format": FORMAT, "module": _insertion(name, root), **known._asdict()}
            durable.write(folder, name, json.dumps(document).encode())


def of(name: str, root: Path = Path("/")) -> Known | None:
    """What is known of a loaded patch, or None: livegraft has not loaded it.

    Args:
        name: the patch.
        root: where run/ and sys/ are.
    """
    with suppress(OSError, LivegraftError), owned.folder(root / PLACE) as folder:
        data = None if folder is None else owned.read(root / PLACE / name, folder)
        if data is None:
            return None
        document = json.loads(data)  # whole, or not there: durable.write()
        if document["format"] == FORMAT and document["module"] == _insertion(name, root):
            return Known(
                document["file_sha256"],
                document["manifest_sha256"],
                tuple(document["upstream"]),
                tuple(document["signers"]),
                document.get("since"),
            )
    return None


def forget(name: str, root: Path = Path("/")) -> None:
    """The patch is unloaded."""
    with suppress(OSError, LivegraftError), owned.folder(root / PLACE) as folder:
        if folder is not None:
            durable.remove(folder, name)


def _insertion(name: str, root: Path) -> int:
    """A number that no other module has had since boot, the same one inserted again neither.

    Source: fs/kernfs/dir.c, ``__kernfs_new_node()``: they count up, with a generation above.
    """
    return (root / "sys/module" / name).stat().st_ino
