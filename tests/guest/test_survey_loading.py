# SPDX-License-Identifier: GPL-2.0-or-later
"""Modules of a survey that misbehave in a guest: each is blamed for itself, none for another."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.fixes import Edits, write_fix

from livegraft.kernel.kernel import Kernel
from livegraft.progress import SILENT
from livegraft.survey.building import Outcome, Workplace, build
from livegraft.survey.candidate import Candidate
from livegraft.survey.conduct import _load, _loads
from livegraft.survey.journal import Journal
from livegraft.survey.loading import Load, kept_guest, load_one
from livegraft.survey.workers import Workers

pytestmark = [pytest.mark.guest, pytest.mark.build]

UNIT = "fs/proc/cmdline.c"
RDS = "net/rds/send.c"
CARD = "drivers/media/pci/ivtv/ivtvfb.c"
INCLUDE = "#include <linux/seq_file.h>\n"
BODY = ("seq_putc(m, '\\n')", 'seq_puts(m, "\\n")')

CALLBACK = """
#include <linux/module.h>
#include <livegraft.h>
static {kind}(struct klp_object *obj)
{{
	{statement};
}}
{macro}(lg_callback);
"""

KEEPS = CALLBACK.format(
    kind="void lg_callback",
    statement="__module_get(__module_address((unsigned long)lg_callback))",
    macro="LIVEGRAFT_POST_PATCH",
)
"""Takes a reference on its own module, which the kernel therefore keeps."""

PANICS = CALLBACK.format(
    kind="void lg_callback",
    statement='panic("of mine")',
    macro="LIVEGRAFT_POST_PATCH",
)

FIXES = {"good": "", "keeps": KEEPS, "panics": PANICS, "well": ""}


@pytest.fixture(scope="module")
def place(one_kernel: Kernel, tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    folder = tmp_path_factory.mktemp("survey")
    for name in ("fixes", "modules", "objects"):
        (folder / name).mkdir()
    return Workplace(one_kernel.release, one_kernel.cache.root, folder)


@pytest.fixture(scope="module")
def built(
    one_kernel: Kernel, place: Workplace, tmp_path_factory: pytest.TempPathFactory
) -> Mapping[str, dict[str, Any]]:
    """A line per fix, as it stands before its module is loaded."""
    lines = {}
    for name, more in FIXES.items():
        candidate = Candidate(name, (UNIT,), not more)
        edits: Edits = {UNIT: [BODY, (INCLUDE, f"{INCLUDE}{more}")]}
        fix = write_fix(one_kernel, edits, tmp_path_factory.mktemp(name))
        fix.rename(place.fix(candidate))
        lines[name] = candidate.as_json() | build(place, candidate)
        assert lines[name]["outcome"] == Outcome.BUILT, lines[name]
    return lines


def test_each_is_blamed_for_itself_alone(
    place: Workplace, built: Mapping[str, dict[str, Any]]
) -> None:
    results = Journal(place.folder / "results.jsonl")
    for line in built.values():
        results.add(line)
    candidates = [Candidate.from_json(line) for line in built.values()]
    with Workers(1) as pool:
        _load(place, _loads(place, candidates, results), results, pool, SILENT)
    found = {each["id"]: each for each in Journal(results.path)}
    assert {name: line["outcome"] for name, line in found.items()} == {
        "good": Outcome.LOADED,
        "keeps": Outcome.FAILED,
        "panics": Outcome.FAILED,
        "well": Outcome.LOADED,
    }
    assert "not unloaded" in found["keeps"]["error"]
    assert "of mine" in found["panics"]["error"]
    assert "first" not in found["good"] and "first" not in found["well"]


def test_a_module_without_its_hardware_is_read_back_all_the_same(
    one_kernel: Kernel, place: Workplace, tmp_path: Path
) -> None:
    """ivtvfb needs a card; its code and its data are what a live patch refers to."""
    candidate = Candidate("card", (CARD,), True)
    edit = ("if (!info->screen_base)", "if (!info->screen_base || !info->screen_size)")
    write_fix(one_kernel, {CARD: edit}, tmp_path).rename(place.fix(candidate))
    line = build(place, candidate)
    assert line["objects"] == ["ivtvfb"], line
    found = load_one(place.release, place.cache_root, load_of(place, candidate, ("ivtvfb",)))
    kept_guest(place.release, place.cache_root).give_up()
    assert found["outcome"] == Outcome.LOADED, found
    assert (found["object_loaded"], found["without_init"]) == ({"ivtvfb": True}, ["ivtvfb"])
    assert found["read_back"] == "all", found
    assert found["relocations"]["right"] >= 5 and not found["relocations"]["absent"]


def test_a_modules_variable_of_each_processor_is_found(
    one_kernel: Kernel, place: Workplace, tmp_path: Path
) -> None:
    """sysfs does not tell where rds_stats is."""
    candidate = Candidate("each-processor", (RDS,), True)
    edit = (
        "		rds_stats_inc(s_send_lock_contention);\n",
        "		rds_stats_inc(s_send_lock_contention);\n		cond_resched();\n",
    )
    write_fix(one_kernel, {RDS: edit}, tmp_path).rename(place.fix(candidate))
    assert build(place, candidate)["objects"] == ["rds"]
    found = load_one(place.release, place.cache_root, load_of(place, candidate, ("rds",)))
    kept_guest(place.release, place.cache_root).give_up()
    assert b".klp.sym.rds.rds_stats," in place.module(candidate).read_bytes()
    assert (found["outcome"], found["read_back"]) == (Outcome.LOADED, "all"), found


def load_of(place: Workplace, candidate: Candidate, targets: tuple[str, ...]) -> Load:
    return Load(
        candidate.id, candidate.name, place.module(candidate), place.objects(candidate), targets
    )
