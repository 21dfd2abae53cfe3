# SPDX-License-Identifier: GPL-2.0-or-later
"""What root types on a Debian with systemd, and what is printed then."""

from __future__ import annotations

import json
import re
import shlex
from typing import Any

from tests.documents import validate
from tests.releases import RELEASES
from tests.shown import Transcript

from livegraft.lab.guest import Guest
from livegraft.lab.trial import FAULT

GUIDE_S_RELEASE = "6.1.0-55-amd64"
"""The kernel of docs/administration.md."""

TRANSCRIPT = Transcript()
"""What the commands of this run have printed, as the guide would show it."""

SAMPLE = "livegraft.sample=1"
"""What demo/sample.patch adds to /proc/cmdline."""

APT_SECONDS = 900.0
"""An emulated machine takes its time over maintainers' scripts: a minute, if nothing else runs."""


def record(line: str, printed: str) -> None:
    """Keep what a command has printed, for the comparison with the guide."""
    release = RELEASES[0]
    steady = (text.replace(release, GUIDE_S_RELEASE) for text in (line, printed))
    TRANSCRIPT.add(*(re.sub(r"(apt-get \w+) -y", r"\1", text) for text in steady))


def typed(guest: Guest, line: str, status: int = 0) -> str:
    """What a line prints that root types; it is shown when the test is run with -s."""
    result = guest.run(["sh", "-c", f"exec 2>&1; {line}"], timeout=APT_SECONDS)
    text = result.stdout.decode()
    print(f"\n# {line}   [{result.seconds:.1f} s]\n{text}", end="")
    assert result.status == status, text
    record(line, text)
    return text


def said(guest: Guest, *words: str, status: int = 0) -> str:
    """What a command prints."""
    return typed(guest, shlex.join(words), status)


def document(guest: Guest, *words: str) -> Any:
    """The document of a verb of the machine's own command."""
    result = guest.check(["livegraft", *words, "--json"], timeout=APT_SECONDS)
    print(f"\n# livegraft {' '.join(words)} --json   [{result.seconds:.1f} s]\n{result.text}")
    found = json.loads(result.stdout)
    validate(words[0], found)
    return found


def is_live(guest: Guest) -> bool:
    """Whether the new code runs."""
    return SAMPLE in guest.get("/proc/cmdline").decode()


def come_up(guest: Guest, state: str = "running") -> None:
    """Wait until systemd has started all that it starts by itself."""
    assert guest.run(["systemctl", "is-system-running", "--wait"], timeout=300).text == state
    print(f"\nup; the agent was there after {guest.boot_seconds:.1f} s")


def is_well(guest: Guest) -> None:
    """Nothing is wrong with the kernel, nor with a unit."""
    assert not [each for each in guest.kernel_log() if FAULT.search(each.text)]
    assert said(guest, "systemctl", "list-units", "--failed", "--no-legend") == ""
