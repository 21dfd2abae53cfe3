# SPDX-License-Identifier: GPL-2.0-or-later
"""The services' hardening, as systemd-analyze sees it: what is left open is named, with its reason.

That they do their work with it is shown where they run: tests/guest/test_packages_guest.py.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from livegraft.runtime import installed, switches

UNITS = Path(__file__).parents[2] / "systemd"

EXPOSURE = {"boot": 30, "settle": 7, "shutdown": 7, "metrics": 21}
"""In tenths, from 0 to 100; a service without a line of hardening has 96."""

OPEN_TO_ALL = {
    "UserOrDynamicUser": "root's files are written, or the kernel is changed",
    "PrivateUsers": "a user of another namespace is not the kernel's root",
    "ProcSubset": "which kernel this is, and which boot of it, stands in /proc/sys",
    "RootDirectoryOrRootImage": "Python and the machine's files are where they are",
    "UMask": "anybody may read which patches there are",
}

WATCHES = {
    "CapabilityBoundingSet_CAP_DAC_FOWNER_IPC_OWNER": "stacks and folders of others",
    "CapabilityBoundingSet_CAP_SYSLOG": "the kernel's log and its symbols",
    "CapabilityBoundingSet_CAP_SYS_ADMIN": "the stacks of tasks",
    "CapabilityBoundingSet_CAP_SYS_PTRACE": "the stacks of tasks",
    "DeviceAllow char-rtc:r /dev/kmsg:r": "the kernel's log; ProtectClock= leaves the other",
    "PrivateDevices": "/dev/kmsg",
    "ProtectKernelLogs": "/dev/kmsg",
    "ProtectProc": "the tasks of all users",
}

LOADS = {
    "CapabilityBoundingSet_CAP_SYS_MODULE": "it loads them",
    "PrivateTmp": "/tmp is set up after it, and is not writable for it",
    "ProtectKernelModules": "it loads them",
    "ProtectKernelTunables": "a patch is switched in /sys",
    "RestrictAddressFamilies_AF_UNIX": "the journal's socket",
    "SystemCallFilter_module": "it loads them",
    "SystemCallFilter_privileged": "to load a module is privileged",
}

SETTLES = {"DeviceAllow char-rtc:r": "ProtectClock= leaves it, to be read"}

OPEN: dict[str, Mapping[str, str]] = {
    "boot": OPEN_TO_ALL | WATCHES | LOADS,
    "settle": OPEN_TO_ALL | SETTLES,
    "shutdown": OPEN_TO_ALL | SETTLES | {"PrivateTmp": "it would wait for /tmp; none is writable"},
    "metrics": OPEN_TO_ALL | WATCHES,
}
"""What systemd-analyze finds fault with, and why that has to be."""

OTHERWISE = {
    "ExecStart",
    "ExecStop",
    "MemoryMax",
    "Nice",
    "ReadWritePaths",
    "RemainAfterExit",
    "Restart",
    "RestartSec",
    "SystemCallErrorNumber",
    "TasksMax",
    "TimeoutStartSec",
    "TimeoutStopSec",
    "Type",
    "UMask",
}
"""Settings of [Service] that the analysis knows nothing of, and the mask of those before it."""


DEVICES = re.compile(r"(?:char-\w+|/dev/\w+):\w+")
"""As the analysis names those that are allowed."""


def analysed(unit: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """What systemd-analyze says of a service, without asking this machine's systemd."""
    return subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", *options, str(unit)],
        capture_output=True,
        text=True,
        check=False,
    )


def open_settings(unit: Path) -> set[str]:
    """What it finds fault with; of devices, with which."""
    done = analysed(unit, "--json=short")
    assert done.returncode == 0, done.stderr
    found = [each for each in json.loads(done.stdout) if each["set"] is False]
    return {" ".join((each["json_field"], *DEVICES.findall(each["description"]))) for each in found}


def written(folder: Path, which: str, lines: Sequence[str]) -> Path:
    """A unit, as one of those that start when all is set up: of others the analysis leaves out what
    it holds for impossible so early, ProtectSystem= for one."""
    place = folder / f"livegraft-{which}.service"
    place.write_text("".join(each for each in lines if each != "DefaultDependencies=no\n"))
    return place


def lines_of(which: str) -> list[str]:
    """A service's lines, with their ends."""
    return (UNITS / f"livegraft-{which}.service").read_text().splitlines(keepends=True)


def test_no_service_is_forgotten() -> None:
    assert {f"livegraft-{each}.service" for each in OPEN} == {
        each.name for each in UNITS.glob("*.service")
    }


@pytest.mark.parametrize("which", OPEN)
def test_the_exposure_is_as_low_as_it_was(which: str) -> None:
    unit = UNITS / f"livegraft-{which}.service"
    done = analysed(unit, f"--threshold={EXPOSURE[which]}")
    assert done.returncode == 0, done.stdout
    # And the number is that of today.
    assert analysed(unit, f"--threshold={EXPOSURE[which] - 1}").returncode != 0


@pytest.mark.parametrize("which", OPEN)
def test_what_is_open_has_its_reason(which: str, tmp_path: Path) -> None:
    assert open_settings(written(tmp_path, which, lines_of(which))) == set(OPEN[which])


@pytest.mark.parametrize("which", OPEN)
def test_each_line_counts(which: str, tmp_path: Path) -> None:
    """Without any one of them something else is open: the test above fails. Only without that of
    the kernel's log less is open, and the unit would not see it."""
    lines = lines_of(which)
    start = lines.index("[Service]\n") + 1
    settings = [
        number
        for number, line in enumerate(lines)
        if number >= start and "=" in line and line[0] not in "#[W"
    ]
    checked = [each for each in settings if lines[each].partition("=")[0] not in OTHERWISE]
    assert len(checked) >= 18
    for number in checked:
        less = written(tmp_path, which, lines[:number] + lines[number + 1 :])
        found = open_settings(less)
        if lines[number] == "DeviceAllow=/dev/kmsg r\n":
            assert found != set(OPEN[which])
        else:
            assert found - set(OPEN[which]), lines[number]


@pytest.mark.parametrize("which", OPEN)
def test_what_is_filtered_fails_and_kills_nothing(which: str) -> None:
    """A service that is killed leaves its marker behind, or half of what it writes."""
    assert "SystemCallErrorNumber=EPERM\n" in lines_of(which)


def test_the_units_are_well_formed(tmp_path: Path) -> None:
    if subprocess.run(["which", "systemd-analyze"], check=False, capture_output=True).returncode:
        pytest.skip("systemd-analyze is missing: apt-get install systemd")
    for unit in UNITS.iterdir():
        text = unit.read_text().replace("/usr/bin/livegraft", "/bin/true")
        (tmp_path / unit.name).write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *sorted(tmp_path.glob("livegraft-*"))],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_units_agree_with_the_code() -> None:
    unit = (UNITS / "livegraft-boot.service").read_text()
    assert f"ConditionDirectoryNotEmpty=/{installed.PLACE}" in unit
    # Who leaves markers has somebody who takes them away, however the unit's start ends: ExecStop=
    # is for a start that has succeeded (systemd.service(5)).
    assert "ExecStop" not in unit
    assert "Wants=livegraft-settle.timer livegraft-shutdown.service\n" in unit
    assert "Wants=livegraft-shutdown.service\n" in (UNITS / "livegraft-settle.timer").read_text()
    shutdown = (UNITS / "livegraft-shutdown.service").read_text()
    # Where nothing was ever installed there is no such folder, and the unit would fail.
    assert f"ConditionDirectoryNotEmpty=/{installed.PLACE}" in shutdown
    assert "Before=sysinit.target shutdown.target\n" in shutdown
    assert "ExecStop=/usr/bin/livegraft boot --settle\n" in shutdown
    assert f"ConditionKernelCommandLine=!{switches.PARAMETER}=off" in unit
    assert "ExecStart=/usr/bin/livegraft boot --unsettled --quiet\n" in unit
    assert "ReadWritePaths=/var/lib/livegraft /run\n" in unit
    assert "OnActiveSec=5min\n" in (UNITS / "livegraft-settle.timer").read_text()
    assert (
        "ExecStart=/usr/bin/livegraft boot --settle\n"
        in (UNITS / "livegraft-settle.service").read_text()
    )
