# SPDX-License-Identifier: GPL-2.0-or-later
"""Where a kernel's parts lie in the cache.

Each stage is an entry by itself, so that an interrupt costs one stage at most:

- ``source/VERSION``: the source tree of a Debian version, shared by the flavours;
- ``source/VERSION-FEATURESET``: the same with a featureset's patches; what they leave alone is
  linked, not copied;
- ``kernel/RELEASE/image``: code, configuration and modules as shipped;
- ``kernel/RELEASE/headers``: what external modules are built with;
- ``kernel/RELEASE/build``: the prepared ``O=`` tree;
- ``kernel/RELEASE/kernel.json``: what belongs together, written last.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

from livegraft.errors import ImageError

FORMAT = 1
"""The version of this layout and of the record; a kernel in another one is prepared anew."""

RECORD = "kernel.json"


class Stage(StrEnum):
    """The trees of a release."""

    IMAGE = "image"
    HEADERS = "headers"
    BUILD = "build"


def entry(release: str, name: str) -> str:
    """The cache's name of something that belongs to a release."""
    return f"kernel/{release}/{name}"


def source_entry(version: str, featureset: str = "") -> str:
    """The cache's name of a source tree."""
    return f"source/{version}-{featureset}" if featureset else f"source/{version}"


def modules_below(image: Path, release: str) -> Path:
    """The folder of the modules of an unpacked image package.

    Debian 12 has it in ``/lib``, Debian 13 in ``/usr/lib``.

    Raises:
        ImageError: there is none.
    """
    for folder in ("lib/modules", "usr/lib/modules"):
        if (image / folder / release).is_dir():
            return image / folder / release
    raise ImageError(str(image), f"holds no modules of {release}")
