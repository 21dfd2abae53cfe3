# SPDX-License-Identifier: GPL-2.0-or-later
"""What monitoring is told of a machine: one number, one line, metrics, and why it is tainted."""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from tests.documents import DOCS, validate
from tests.unit.test_runtime_sysfs import add_module, add_patch, write

from livegraft.cli import status as status_verb
from livegraft.errors import PatchError
from livegraft.runtime import commandline, metrics, state
from livegraft.runtime.checking import CRITICAL, MEANINGS, Checked, Health, check
from livegraft.runtime.installed import PLACE, RECORD, Record
from livegraft.runtime.livepatch import ENGINE, KERNEL_CORE, Livepatches
from livegraft.runtime.state import PatchState, Status
from livegraft.runtime.switches import Place, Switch
from livegraft.runtime.taints import Taint, taints

ROOT = Path(__file__).parents[2]
RELEASE = os.uname().release
KERNEL = {"release": "6.1.0-55-amd64", "build_id": "ab" * 20}

PATCH = Status(
    name="livegraft_fix",
    state=PatchState.ENABLED,
    direction=None,
    objects=(),
    model="native",
    foreign=False,
    fix_sha256="ef" * 32,
    since=1795986471.125,
    stack_order=None,
    blockers=(),
    cves=("CVE-2026-1234",),
)
CHANGING = PATCH._replace(state=PatchState.TRANSITION, direction=state.Direction.PATCHING)
FOREIGN = PATCH._replace(name="kpatch_x", foreign=True, fix_sha256="", cves=())


def keep(root: Path, *names: str, release: str = RELEASE, order: int = 0, **more: Any) -> None:
    """Patches in the store."""
    sha256 = hashlib.sha256(b"module").hexdigest()
    record = Record("native", False, order, sha256, PATCH.fix_sha256, "2026-01-01")._replace(**more)
    (root / PLACE / release).mkdir(parents=True, exist_ok=True)
    for name in names:
        folder = root / PLACE / release / name
        write(folder / f"{name}.ko", "module")
        write(folder / RECORD, json.dumps({"format": 1, **record.as_json()}))


def codes(checked: Checked) -> list[Health]:
    return [each.health for each in checked.problems]


def test_all_well(tmp_path: Path) -> None:
    checked = check([], root=tmp_path)  # nothing was ever installed
    assert (checked.health, checked.installed) == (Health.WELL, ())
    assert checked.line.startswith("LIVEGRAFT OK - no live patch is loaded | patches=0 ")
    keep(tmp_path, "livegraft_fix")
    for found, text in (([PATCH], "livegraft_fix (CVE-2026-1234)"),):
        checked = check(found, root=tmp_path)
        assert (checked.health, checked.installed) == (Health.WELL, ("livegraft_fix",))
        assert checked.line.startswith(f"LIVEGRAFT OK - {text}")
        assert f"| patches={len(found)} off=0 stalled=0 missing=0 unkept=0 f" in checked.line


@pytest.mark.parametrize(
    ("since", "stalled"), [(0.0, False), (59.0, False), (61.0, True), (None, True)]
)
def test_a_transition(tmp_path: Path, since: float | None, stalled: bool) -> None:
    keep(tmp_path, "livegraft_fix")
    began = None if since is None else time.time() - since
    checked = check([CHANGING._replace(since=began)], root=tmp_path)
    assert checked.health is (Health.STALLED if stalled else Health.WELL)
    assert ("stalled in transition (patching)" in checked.line) == stalled
    old = PATCH._replace(since=time.time() - 9999)
    assert check([old], root=tmp_path).health is Health.WELL


def test_stalled_is_what_one_says_it_is(tmp_path: Path) -> None:
    keep(tmp_path, "livegraft_fix")
    late = CHANGING._replace(since=time.time() - 61)
    assert check([late], stalled_after=90, root=tmp_path).health is Health.WELL
    assert check([late], stalled_after=30, root=tmp_path).health is Health.STALLED


def test_what_is_kept_and_what_is_loaded(tmp_path: Path) -> None:
    for _ in range(2):
        checked = check([PATCH], root=tmp_path)
        assert (checked.health, checked.installed) == (Health.UNKEPT, ())
        assert "WARNING - livegraft_fix is loaded and not installed" in checked.line
        keep(tmp_path, "livegraft_fix", release="6.1.0-1-amd64")
    keep(tmp_path, "livegraft_fix")
    checked = check([PATCH], root=tmp_path)
    assert (checked.health, checked.installed) == (Health.WELL, ("livegraft_fix",))
    for gone in ([], [PATCH._replace(state=PatchState.DISABLED)]):
        checked = check(gone, root=tmp_path)
        assert checked.health is Health.MISSING
        assert "CRITICAL - livegraft_fix is installed and not loaded" in checked.line


def test_switched_off(tmp_path: Path) -> None:
    """Why nothing is loaded is told, also where nothing would be."""
    write(tmp_path / "proc/cmdline", "quiet livegraft=off")
    said = "; live patches are switched off: livegraft=off on the kernel's command line | "
    checked = check([], root=tmp_path)
    assert checked.health is Health.WELL
    assert said in checked.line and checked.line.endswith(" switched_off=1")
    keep(tmp_path, "livegraft_fix")
    checked = check([], root=tmp_path)
    assert checked.health is Health.MISSING
    assert f"livegraft_fix is installed and not loaded{said}" in checked.line
    found = parsed(
        metrics.text(each.as_json() for each in metrics.metrics([], checked, [], KERNEL))
    )
    assert found["livegraft_switched_off"] == {'switch="kernel-parameter"': 1}
    write(tmp_path / "proc/cmdline", "quiet")
    assert check([], root=tmp_path).line.endswith(" switched_off=0")


def test_another_version_is_loaded(tmp_path: Path) -> None:
    """After an upgrade, until the next boot."""
    keep(tmp_path, "livegraft_fix", fix_sha256="aa" * 32)
    checked = check([PATCH], root=tmp_path)
    assert codes(checked) == [Health.MISSING]
    assert "livegraft_fix is installed and another version of it is loaded" in checked.line


def test_damaged_ones_are_not_well(tmp_path: Path) -> None:
    keep(tmp_path, "livegraft_fix")
    write(tmp_path / PLACE / RELEASE / "livegraft_fix/livegraft_fix.ko", "damaged")
    checked = check([PATCH], root=tmp_path)
    assert codes(checked) == [Health.MISSING]
    assert "livegraft_fix is installed and damaged: is not what was installed" in checked.line
    (tmp_path / PLACE).chmod(0o777)
    checked = check([PATCH], root=tmp_path)
    assert codes(checked) == [Health.MISSING]  # and what is installed is not known
    assert "the installed patches cannot be loaded" in checked.line


@pytest.mark.parametrize(
    ("model", "other", "well"),
    [
        ("hybrid", "hybrid", True),
        ("hybrid", "stop", True),
        ("native", "native", True),
        ("native", "hybrid", False),
        ("hybrid", "native", False),
    ],
)
def test_one_that_a_later_one_replaces_is_not_missed(
    tmp_path: Path, model: str, other: str, well: bool
) -> None:
    """Its core has undone the older one for good; what the other core has put in stays."""
    keep(tmp_path, "livegraft_fix", model=model)
    keep(tmp_path, "newer", order=1, model=other, replace=True)
    newer = PATCH._replace(name="newer", model=other)
    assert codes(check([newer], root=tmp_path)) == [Health.MISSING]  # as nothing is in force
    core = tmp_path / (KERNEL_CORE if other == "native" else ENGINE)
    for attribute, value in (("enabled", "1\n"), ("transition", "0\n")):
        write(core / "newer" / attribute, value)
    checked = check([newer, PATCH._replace(state=PatchState.DISABLED)], root=tmp_path)
    assert (checked.health is Health.WELL) == well
    assert checked.installed == (("newer",) if well else ("livegraft_fix", "newer"))
    # Not replaced yet; or loaded once more, on top of the newer one.
    for transition, own in ((1, False), (0, True)):
        write(core / "newer/transition", f"{transition}\n")
        if own:
            for attribute, value in (("enabled", "1\n"), ("transition", "0\n")):
                write(tmp_path / ENGINE / "livegraft_fix" / attribute, value)
        checked = check([newer, PATCH], root=tmp_path)
        assert (checked.health, len(checked.installed)) == (Health.WELL, 2)


def test_foreign(tmp_path: Path) -> None:
    checked = check([FOREIGN], root=tmp_path)
    assert codes(checked) == [Health.FOREIGN]
    assert "WARNING - kpatch_x was not built by livegraft" in checked.line


def test_the_worst_comes_first_and_all_is_told(tmp_path: Path) -> None:
    keep(tmp_path, "other")
    write(tmp_path / "proc/sys/kernel/ftrace_enabled", "0\n")
    checked = check([FOREIGN, CHANGING._replace(since=None)], root=tmp_path)
    off = [Health.OFF] * 2
    assert codes(checked) == [
        *off,
        Health.STALLED,
        Health.MISSING,
        Health.UNKEPT,
        Health.FOREIGN,
    ]
    assert checked.health is Health.OFF
    assert "off=2 stalled=1 missing=1 unkept=1 foreign=1" in checked.line
    assert "\n" not in checked.line


def test_the_codes_are_told_everywhere() -> None:
    assert set(MEANINGS) == set(Health)
    table = re.findall(
        r"^\| `(\d+)` \| (\w+) \| `(\w+)` \|",
        (DOCS / "reference/exit-codes.md").read_text("utf-8"),
        re.M,
    )
    words = {each: "CRITICAL" if each in CRITICAL else "WARNING" for each in Health}
    words[Health.WELL] = "OK"
    assert table == [(str(each.value), each.name.lower(), words[each]) for each in Health]
    codes = {code for code in status_verb.VERB.exit_codes if code >= 10}
    assert codes == {each for each in Health if each}


# -- status ---------------------------------------------------------------------------------------


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "sys/kernel/livepatch").mkdir(parents=True)
    add_patch(tmp_path, "one")
    add_module(tmp_path, "one", "OEK", mark=f"1:{'ab' * 32}")
    write(tmp_path / "sys/module/one/parameters/fixes", "CVE-2026-1234 CVE-2026-5678\n")
    return tmp_path


def test_a_loaded_patch_tells_what_it_fixes(root: Path) -> None:
    (one,) = state.status("one", patches=Livepatches(root))
    assert (one.fix_sha256, one.cves) == ("ab" * 32, ("CVE-2026-1234", "CVE-2026-5678"))
    text = commandline.text("wait", one.as_json())
    assert "fixes CVE-2026-1234, CVE-2026-5678" in text and "ab" * 32 in text


@pytest.mark.parametrize("text", ["2:" + "ab" * 32, "", "nonsense"])
def test_a_mark_of_another_layout(root: Path, text: str) -> None:
    write(root / "sys/module/one/parameters/livegraft", text)
    (one,) = state.status("one", patches=Livepatches(root))
    assert (one.foreign, one.fix_sha256) == (False, "")


def document(checked: Checked | None) -> dict[str, Any]:
    return {
        "kernel": KERNEL,
        "patches": [PATCH.as_json()],
        "taints": [Taint("K", "the kernel was patched live", ()).as_json()],
        "check": checked and checked.as_json(),
        "off": [],
        "timings": {},
    }


def test_the_document_of_status(tmp_path: Path) -> None:
    whole = document(None)
    validate("status", whole)
    assert commandline.exit_code("status", whole) == 0
    lines = commandline.text("status", whole).splitlines()
    assert lines[-2:] == [
        f"kernel 6.1.0-55-amd64, build ID {'ab' * 20}",
        "  tainted K: the kernel was patched live: a module that was removed since",
    ]
    switch = Switch(
        Place.PARAMETER, "livegraft=off on the kernel's command line", "boot without it"
    )
    whole["off"] = [switch.as_json()]
    validate("status", whole)
    lines = commandline.text("status", whole).splitlines()
    assert lines[0].startswith("live patches are switched off: livegraft=off")
    assert any("until 'livegraft unload --all'" in line for line in lines)
    checked = check([PATCH], root=tmp_path)
    whole = document(checked)
    validate("status", whole)
    assert commandline.exit_code("status", whole) is Health.UNKEPT
    assert commandline.text("status", whole) == checked.line


# -- taints ---------------------------------------------------------------------------------------


def test_taints_and_their_causes(root: Path) -> None:
    add_module(root, "proprietary", "PO")
    add_module(root, "ext4", "")
    write(root / "proc/sys/kernel/tainted", str(1 << 0 | 1 << 9 | 1 << 10 | 1 << 15 | 1 << 30))
    found = {each.letter: each.cause for each in taints(root)}
    assert found == {
        "P": "proprietary",
        "W": "the kernel's log tells, as far back as it goes",
        "C": "a module that was removed since",
        "K": "one",
        "?": "the kernel's log tells, as far back as it goes",
    }


@pytest.mark.parametrize("text", ["0\n", "", None])
def test_no_taint(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        write(tmp_path / "proc/sys/kernel/tainted", text)
    assert taints(tmp_path) == ()


# -- metrics --------------------------------------------------------------------------------------

SAMPLE = re.compile(r'([a-z_0-9]+)(?:\{((?:[a-z_0-9]+="(?:[^"\\]|\\.)*",?)+)\})? (-?[0-9.e+]+)')


def parsed(text: str) -> dict[str, dict[str, float]]:
    """An exposition as its specification reads: each metric's HELP, TYPE, then its samples."""
    found: dict[str, dict[str, float]] = {}
    name = ""
    assert text.endswith("\n")
    for line in text.splitlines():
        if line.startswith("# HELP "):
            name = line.split()[2]
            assert name not in found
            found[name] = {}
        elif line.startswith("# "):
            assert line == f"# TYPE {name} gauge"
        else:
            sample = SAMPLE.fullmatch(line)
            assert sample is not None, line
            assert sample[1] == name
            assert (sample[2] or "") not in found[name]
            found[name][sample[2] or ""] = float(sample[3])
    return found


def test_metrics(tmp_path: Path) -> None:
    keep(tmp_path, "livegraft_fix", "absent")
    patches = [PATCH, FOREIGN._replace(name='odd"\\\nname')]
    made = metrics.metrics(
        patches, check(patches, root=tmp_path), [Taint("K", "patched", ())], KERNEL
    )
    documents = [each.as_json() for each in made]
    validate("metrics", {"path": None, "metrics": documents, "timings": {}})
    found = parsed(metrics.text(documents))
    mine = 'patch="livegraft_fix"'
    assert found["livegraft_patches"] == {"": 2}
    assert found["livegraft_patch_state"][f'{mine},state="enabled"'] == 1
    assert found["livegraft_patch_state"][f'{mine},state="transition"'] == 0
    assert found["livegraft_patch_state_since_timestamp_seconds"][mine] == 1795986471.125
    assert found["livegraft_patch_fixes_info"] == {f'{mine},cve="CVE-2026-1234"': 1}
    assert found["livegraft_patch_installed"] == {mine: 1, 'patch="absent"': 0}
    assert found["livegraft_problems"]['kind="missing"'] == 1
    assert found["livegraft_problems"]['kind="stalled"'] == 0
    assert found["livegraft_kernel_taint"] == {'flag="K"': 1}
    assert any('patch="odd\\"\\\\\\nname"' in labels for labels in found["livegraft_patch_info"])


def test_a_machine_without_a_patch_has_metrics_too(tmp_path: Path) -> None:
    made = metrics.metrics([], check([], root=tmp_path), [], KERNEL)
    found = parsed(metrics.text([each.as_json() for each in made]))
    assert found["livegraft_patches"] == {"": 0}
    assert "livegraft_patch_info" not in found


def test_the_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "livegraft.prom"
    path.write_text("old\n")
    with path.open() as reader:
        metrics.write(path, "new\n")
        assert reader.read() == "old\n"
    assert path.read_text() == "new\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert [each.name for each in tmp_path.iterdir()] == ["livegraft.prom"]


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "folder.prom").mkdir()
    for path in (tmp_path / "missing/x.prom", tmp_path / "folder.prom"):
        with pytest.raises(PatchError, match="cannot be written"):
            metrics.write(path, "new\n")
    assert [each.name for each in tmp_path.iterdir()] == ["folder.prom"]


# -- needrestart ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("LIVEGRAFT OK - fix (CVE-2026-1) | patches=1 off=0", "1 live patch, OK: fix (CVE-2"),
        ("LIVEGRAFT WARNING - fix is loaded | patches=12 off=0", "12 live patches, WARNING: fix"),
        ("LIVEGRAFT OK - no live patch is loaded | patches=0 off=0", ""),
        ("nonsense", ""),
        ("", ""),
    ],
)
def test_needrestart_says_which_fixes_are_live(tmp_path: Path, line: str, said: str) -> None:
    """The file as needrestart reads it, with a program of the same answer."""
    program = tmp_path / "livegraft"
    program.write_text(f"#!/bin/sh\ntest \"$*\" = 'status --check --quiet' && echo '{line}'\n")
    program.chmod(0o755)
    text = (ROOT / "needrestart/livegraft.conf").read_text().replace("/usr/bin", str(tmp_path))
    # needrestart 3.6: eval do { local(@ARGV, $/) = $fn; <>}; die "Error parsing $fn: $@" if($@);
    code = "use strict; use warnings; local $/; my $text = <STDIN>; eval $text; die $@ if $@;"
    done = subprocess.run(
        ["perl", "-e", code], input=text, capture_output=True, text=True, check=True
    )
    assert done.stdout == ""
    assert (said in done.stderr) if said else (done.stderr == "")
