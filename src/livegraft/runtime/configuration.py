# SPDX-License-Identifier: GPL-2.0-or-later
"""What the administrator has decided: /etc/livegraft/livegraft.conf.

::

    [livegraft]
    enabled = yes               # no: no live patch is loaded
    require_signature = no      # yes: nothing is loaded that nobody trusted has signed
    required_signers =          # author, reviewer: each of these has to have signed

A signer's name is that of the certificate's file in trusted.d, without its suffix. A file that
cannot be understood is an error: what was meant by it would not be in force.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from livegraft.errors import PatchError
from livegraft.trust import owned
from livegraft.trust.store import NAME

PLACE = "etc/livegraft/livegraft.conf"
"""Below the root."""

SECTION = "livegraft"

ROOT = Path("/")


class Configuration(NamedTuple):
    """The file's settings, and what holds without it.

    Args:
        enabled: whether live patches may be loaded at all.
        require_signature: whether a patch has to be signed by somebody whom the machine trusts.
        required_signers: names of those who all have to have signed it.
    """

    enabled: bool = True
    require_signature: bool = False
    required_signers: tuple[str, ...] = ()


def read(root: Path = ROOT) -> Configuration:
    """The configuration of a machine.

    Args:
        root: where etc/ is.

    Raises:
        PatchError: it is not understood.
        Untrusted: others than root can write it.
    """
    path = root / PLACE
    with owned.folder(path.parent) as folder:
        data = None if folder is None else owned.read(path, folder)
    return Configuration() if data is None else parse(data, str(path))


def parse(data: bytes, subject: str) -> Configuration:
    """The settings in a file's contents.

    Args:
        data: the contents.
        subject: what to call the file in an error.

    Raises:
        PatchError: a line is none, a setting is not known, or its value is none.
    """
    import configparser  # seldom needed, and start-up time counts

    parser = configparser.ConfigParser(
        interpolation=None, delimiters=("=",), inline_comment_prefixes=("#", ";")
    )
    try:
        parser.read_string(data.decode(), subject)
        sections = dict(parser)
        defaults = dict(sections.pop(parser.default_section))
        found = dict(sections.pop(SECTION, {}))
    except (UnicodeDecodeError, configparser.Error) as error:
        problem = f"is not understood: {' '.join(str(error).split())}"
        remedy = f"begin with [{SECTION}], then lines NAME = VALUE"
        raise PatchError(subject, problem, remedy) from error
    unknown = [*sections, *defaults, *(name for name in found if name not in _SETTINGS)]
    if unknown:
        problem = f"there is no setting or section '{unknown[0]}'"
        raise PatchError(subject, problem, f"there are: {', '.join(_SETTINGS)}")
    values: dict[str, object] = {}
    for name, value in found.items():
        try:
            values[name] = _SETTINGS[name](value)
        except ValueError as error:
            raise PatchError(subject, f"{name} = {value}: {error}", "correct the line") from error
    return Configuration(**values)  # type: ignore[arg-type]  # by _SETTINGS, each of its own type


def _truth(value: str) -> bool:
    if value.lower() not in ("yes", "no"):
        raise ValueError("is neither yes nor no")
    return value.lower() == "yes"


def _names(value: str) -> tuple[str, ...]:
    names = [each.strip() for each in value.split(",")] if value else []
    for each in names:
        if re.fullmatch(NAME, each) is None:
            raise ValueError(f"'{each}' is no name of a signer")
    return tuple(dict.fromkeys(names))


_SETTINGS: Mapping[str, Callable[[str], object]] = {
    "enabled": _truth,
    "require_signature": _truth,
    "required_signers": _names,
}
