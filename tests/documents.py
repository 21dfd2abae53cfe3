# SPDX-License-Identifier: GPL-2.0-or-later
"""What stands in docs/: the schemas of the verbs' JSON documents, and programs that write pages."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from jsonschema import Draft202012Validator

DOCS = Path(__file__).parents[1] / "docs"
FOLDER = DOCS / "schema"


def script(name: str) -> ModuleType:
    """A program of docs/, which is no package."""
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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
