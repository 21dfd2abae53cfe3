# SPDX-License-Identifier: GPL-2.0-or-later
"""Texts that are made of templates beside this file."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files


def rendered(template: str, values: Mapping[str, object]) -> str:
    """A template with its values in place, nothing escaped.

    Args:
        template: its path below livegraft.module.
        values: by name; one that the template asks for and that is not there raises.
    """
    import jinja2

    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    text = (files("livegraft.module") / template).read_text("utf-8")
    return environment.from_string(text).render(values)
