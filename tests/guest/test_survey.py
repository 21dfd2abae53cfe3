# SPDX-License-Identifier: GPL-2.0-or-later
"""A survey of real fixes: each loaded or refused, none failed, none wrong; and a wrong one is seen.

``LIVEGRAFT_TEST_SURVEY`` names other versions: OLD, NEW and the release of OLD's image.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.documents import validate

from livegraft.cache import Cache
from livegraft.errors import Exit
from livegraft.survey.building import Outcome, Workplace
from livegraft.survey.candidate import Candidate
from livegraft.survey.loading import Load, load_one
from livegraft.survey.objectfile import Elf

OLD, NEW, KERNEL = os.environ.get(
    "LIVEGRAFT_TEST_SURVEY", "6.1.190-1 6.1.192-1 6.1.0-54-amd64"
).split()
COMMAND = (
    *("survey", OLD, NEW, "-k", KERNEL, "--sample", "12", "--seed", "1"),
    *("--units", "16"),
    *("--controls", "4", "--method", "both"),
)

pytestmark = [pytest.mark.guest, pytest.mark.build, pytest.mark.timeout(3600)]


@dataclass(frozen=True, slots=True)
class Surveyed:
    """What the command answered, and its folder."""

    status: int
    document: Any
    folder: Path

    @property
    def results(self) -> list[Any]:
        return [json.loads(line) for line in (self.folder / "results.jsonl").open()]


def survey(folder: Path, *more: str) -> Surveyed:
    done = subprocess.run(
        [sys.executable, "-m", "livegraft.cli.main", *COMMAND, "-o", folder, "--json", *more],
        capture_output=True,
        text=True,
        check=False,
    )
    document = json.loads(done.stdout)
    validate("survey", document)
    return Surveyed(done.returncode, document, folder)


@pytest.fixture(scope="module")
def surveyed(tmp_path_factory: pytest.TempPathFactory) -> Surveyed:
    found = survey(tmp_path_factory.mktemp("survey") / "results")
    if found.document.get("error", {}).get("kind") == "PackageMissing":
        pytest.skip(f"the archive has dropped {OLD} or {NEW}: name others, LIVEGRAFT_TEST_SURVEY")
    return found


def test_none_fails_and_none_is_wrong(surveyed: Surveyed) -> None:
    document = surveyed.document
    assert surveyed.status == Exit.DONE, document
    assert document["fixes"] == 12
    assert set(document["outcomes"]) <= {"loaded", "refused", "unchanged"}
    assert document["outcomes"]["loaded"] >= 3
    assert document["body_only_loaded"] >= 0.9 * document["body_only_changed"] >= 3
    assert document["relocations"]["right"] >= 20
    assert (document["controls"], document["false_changes"]) == (4, [])
    for result in surveyed.results:
        assert bool(result.get("rules")) == (result["outcome"] == "refused")


def test_both_ways_agree(surveyed: Surveyed) -> None:
    """What compare has built is cut out of the source too, loaded, and held against the other."""
    both = surveyed.document["both"]
    assert both["tried"] == surveyed.document["outcomes"]["loaded"]
    assert set(both["outcomes"]) <= {"loaded", "refused"}
    assert both["outcomes"]["loaded"] >= 0.9 * both["tried"]
    assert both["equal"] >= 0.7 * both["functions"]
    assert both["classes"]["unknown"] == 0
    for result in surveyed.results:
        second = result.get("extract", {})
        if second.get("outcome") == Outcome.LOADED:
            assert second["relocations"]["right"] > 0


def test_the_report_has_the_command(surveyed: Surveyed) -> None:
    page = (surveyed.folder / "report.md").read_text("utf-8")
    assert f"livegraft survey {OLD} {NEW} -k {KERNEL}" in page


def is_built_and_refused(result: Any) -> bool:
    """Some are refused for what is known before anything is compiled."""
    return bool(result["outcome"] == Outcome.REFUSED and result["timings"])


def seconds(line: bytes) -> float:
    return float(json.loads(line)["seconds"])


def test_it_goes_on_where_it_stopped(surveyed: Surveyed, tmp_path: Path) -> None:
    """The last line half written, as a crash leaves it: that fix alone is done again."""
    folder = tmp_path / "again"
    shutil.copytree(surveyed.folder, folder)
    journal = folder / "results.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    last = min((each for each in lines if is_built_and_refused(json.loads(each))), key=seconds)
    lines.remove(last)
    journal.write_bytes(b"".join(lines) + last[:20])
    again = survey(folder)
    timeless = ("seconds", "timings")
    for old, new in zip(surveyed.results, again.results, strict=True):
        assert {k: v for k, v in old.items() if k not in timeless} == {
            k: v for k, v in new.items() if k not in timeless
        }


def test_other_options_need_another_folder(surveyed: Surveyed) -> None:
    found = survey(surveyed.folder, "--seed", "2")
    assert found.status == Exit.USAGE
    assert "seed" in found.document["error"]["message"]


def damaged(module: bytes) -> bytes:
    """The module with one relocation that leads to another symbol than it should."""
    elf = Elf.read(module)
    vmlinux = [
        (number, each)
        for number, each in enumerate(elf.livepatch)
        if elf.owners[number] == "vmlinux" and elf.names[each.section].startswith(".text.")
    ]
    _, one = vmlinux[0]
    other = next(each.symbol for _, each in vmlinux if each.symbol != one.symbol)
    entry = struct.Struct("<QQq")
    old = entry.pack(one.offset, one.symbol << 32 | one.kind, one.addend)
    new = entry.pack(one.offset, other << 32 | one.kind, one.addend)
    assert module.count(old) == 1
    return module.replace(old, new)


def test_a_relocation_to_another_symbol_is_seen(surveyed: Surveyed, tmp_path: Path) -> None:
    """The negative control of the oracle."""
    cache = Cache()
    loaded = [each for each in surveyed.results if each["outcome"] == Outcome.LOADED]
    chosen = max(loaded, key=lambda each: each["relocations"]["right"])
    candidate = Candidate.from_json(chosen)
    place = Workplace(KERNEL, cache.root, surveyed.folder)
    module = tmp_path / "damaged.ko"
    module.write_bytes(damaged(place.module(candidate).read_bytes()))
    load = Load(
        candidate.id,
        candidate.name,
        module,
        place.objects(candidate),
        tuple(chosen["objects"]),
    )
    found = load_one(KERNEL, cache.root, load)
    assert found["outcome"] == Outcome.WRONG
    assert found["relocations"]["wrong"] == 1
