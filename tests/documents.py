# SPDX-License-Identifier: GPL-2.0-or-later
"""JSON documents of the verbs, held against docs/schema."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

FOLDER = Path(__file__).parents[1] / "docs" / "schema"


def schema(verb: str) -> Mapping[str, Any]:
    """The schema of a verb's document."""
    document: Mapping[str, Any] = json.loads((FOLDER / f"{verb}.json").read_text("utf-8"))
    return document


def validate(verb: str, document: object) -> None:
    """Hold a document against the schema of its verb.

    Raises:
        jsonschema.ValidationError: it is another one.
    """
    # As it is read by others: an enumeration's member has become a string by then.
    parsed = json.loads(json.dumps(document))
    Draft202012Validator(schema(verb), format_checker=Draft202012Validator.FORMAT_CHECKER).validate(
        parsed
    )
