# SPDX-License-Identifier: GPL-2.0-or-later
"""The Debian packages on a machine with systemd: from a signed repository to a stock kernel again.

docs/administration.md goes the same way, and what it shows is compared with what is printed here.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests import repository, system_guest
from tests.build.test_deb import make
from tests.keys import Person, person
from tests.machine_files import differences, files
from tests.on_machine import (
    APT_SECONDS,
    TRANSCRIPT,
    come_up,
    document,
    is_live,
    is_well,
    record,
    said,
    typed,
)
from tests.releases import RELEASES
from tests.repository import KEYRING, PLACE, SOURCES, publish

from livegraft.errors import Exit, LostGuest
from livegraft.kernel.kernel import Kernel, prepare
from livegraft.lab.guest import Guest
from livegraft.runtime.checking import Health
from livegraft.runtime.installed import MARKER
from livegraft.runtime.installed import PLACE as PLACE_OF_PATCHES

pytestmark = [pytest.mark.guest, pytest.mark.build, pytest.mark.timeout(3600)]

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs/administration.md"

PATCH = "livegraft-patch-sample"
"""How the name of its package begins."""

NEXT = "0.1.1"
"""A later version of the runtime."""

PROMETHEUS = "/var/lib/prometheus/node-exporter"


@dataclass(frozen=True, slots=True)
class Site:
    """What a site has: a patch, who vouches for it, and its repository, now and later; and what
    of Debian the whole of livegraft needs."""

    author: Person
    repository: dict[str, bytes]
    later: dict[str, bytes]
    forged: dict[str, bytes]
    key: bytes
    patch: Path
    needed: tuple[str, ...]


def command(folder: Path, *words: str | Path) -> None:
    """Run the command here, in a folder."""
    done = subprocess.run(
        [sys.executable, "-m", "livegraft.cli.main", *words],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    line = shlex.join(map(str, ("livegraft", *words)))
    print(f"\n$ {line}\n{done.stdout}", end="")
    assert done.returncode == 0, done.stdout
    record(line, done.stdout)


@pytest.fixture(scope="module")
def site(one_kernel: Kernel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    TRANSCRIPT.entries.clear()  # of other tests that print by the same functions
    fixes = (ROOT / "demo/sample.patch", ROOT / "tests/data/endbr.patch")
    author, made = person(folder, "author"), list[Path]()
    for number, fix in enumerate(fixes, 1):
        place = folder / str(number)
        place.mkdir()
        for path, name in ((fix, "sample.patch"), (author.key, ""), (author.cert, "")):
            shutil.copy(path, place / name)
        words = ("build", "sample.patch", "-k", one_kernel.release, "-o", "livegraft_sample.ko")
        options = ("--fixes", "CVE-2026-12345", "--sign", "author.key", "author.pem")
        command(place, *words, *options)
        version = () if number == 1 else ("--package-version", str(number))
        command(place, "package", "livegraft_sample.ko", *version)
        made += place.glob("*.deb")
    first = make(folder / "first")
    later = [repository.raised(each, folder / "later" / name, NEXT) for name, each in first.items()]
    with repository.signer() as signer, repository.signer() as stranger:
        yield Site(
            author,
            publish(folder / "r1", [*first.values(), made[0]], signer),
            publish(folder / "r2", [*first.values(), *later, *made], signer),
            publish(folder / "r3", [*first.values(), made[0]], stranger),
            signer.public(),
            folder / "1/livegraft_sample.ko",
            repository.needed(first["livegraft"]),
        )


def offer(guest: Guest, files: dict[str, bytes]) -> None:
    """Put a repository where the machine finds it."""
    guest.check(["rm", "-rf", PLACE])
    for name, data in files.items():
        guest.put(f"{PLACE}/{name}", data)


def test_what_is_left_is_seen() -> None:
    """The check of what a purge leaves can fail."""
    before: dict[str, Sequence[object]] = {"/etc/passwd": ["0o100644"], "/var/log/x": [1]}
    assert differences(before, before | {"/var/log/x": [2], "/var/lib/apt/y": [1]}) == set()
    left = ("/etc/livegraft", "/usr/bin/x", "/var/lib/dpkg/info/livegraft-runtime.list")
    for path in left:
        assert differences(before, before | {path: [1]}) == {path}
    assert differences(before, {}) == {"/etc/passwd"}


def trusts(guest: Guest, site: Site) -> None:
    """The machine takes packages from the site's repository."""
    guest.put(KEYRING, site.key)
    guest.put("/etc/apt/sources.list.d/site.sources", SOURCES.encode())


def first_boot(guest: Guest, site: Site) -> dict[str, Sequence[object]]:
    """Install the runtime, trust the author, install the patch: it is live. The files of before."""
    come_up(guest)
    trusts(guest, site)
    # Somebody else's signature on the repository: apt has nothing of it.
    offer(guest, site.forged)
    assert "NO_PUBKEY" in said(guest, "apt-get", "update", status=100)
    offer(guest, site.repository)
    said(guest, "apt-get", "update")
    # As the exporter's package makes it.
    guest.check(["mkdir", "-p", PROMETHEUS])
    before = files(guest)

    installed = said(guest, "apt-get", "install", "-y", "livegraft-runtime")
    # needrestart was run, and there is nothing to be told.
    assert "Running kernel seems to be up-to-date" in installed and " live patch" not in installed
    enabled = said(guest, "systemctl", "is-enabled", "livegraft-boot.service")
    assert enabled == "enabled\n"
    assert "apt-get install livegraft" in said(guest, "livegraft", "build", "x", status=1)

    package = next(name for name in site.repository if name.startswith("livegraft-patch-"))
    name = package.partition("_")[0]
    typed(guest, "echo 'require_signature = yes' >> /etc/livegraft/livegraft.conf")
    # Not yet trusted: apt says so, and nothing is loaded.
    assert "by nobody whom this machine trusts" in said(
        guest, "apt-get", "install", "-y", name, status=100
    )
    assert not is_live(guest)
    guest.put("/root/author.pem", site.author.cert)
    typed(guest, "install -m 644 author.pem /etc/livegraft/trusted.d")
    said(guest, "apt-get", "install", "-y", name)
    assert is_live(guest)
    # Of this load, too, nobody knows yet how it ends.
    guest.check(["test", "-e", marker(guest)])
    (patch,) = document(guest, "list")["patches"]
    assert (patch["name"], patch["state"]) == ("livegraft_sample", "loaded")
    is_well(guest)
    return before


def marker(guest: Guest) -> str:
    """Where it is told that the patch is loaded and nobody knows yet how that ends."""
    return f"/{PLACE_OF_PATCHES}/{guest.name}/livegraft_sample/{MARKER}"


def crash(guest: Guest) -> None:
    """The machine goes down soon after the patch was loaded."""
    come_up(guest)
    assert is_live(guest)
    with pytest.raises(LostGuest):
        guest.run(["sh", "-c", "echo c > /proc/sysrq-trigger"])


def after_the_crash(guest: Guest) -> None:
    """The patch is not tried again until somebody wants that."""
    come_up(guest, "degraded")
    assert not is_live(guest)
    journal = said(guest, "journalctl", "-b", "-u", "livegraft-boot.service", "-o", "cat")
    assert "livegraft_sample: skipped: the machine crashed" in journal
    (patch,) = document(guest, "list")["patches"]
    assert patch["state"] == "crashed"
    said(guest, "livegraft", "status", "--check", status=Health.MISSING)
    said(guest, "livegraft", "install", "--again", "livegraft_sample")
    # The unit has failed; that this boot ends in good order is seen all the same.
    said(guest, "livegraft", "boot", "--unsettled")
    assert is_live(guest)
    guest.check(["test", "-e", marker(guest)])


def switched_off(guest: Guest) -> None:
    """With livegraft=off the patch stays out for this boot, and that is told."""
    come_up(guest)
    assert "livegraft=off" in guest.get("/proc/cmdline").decode()
    assert not is_live(guest)
    unit = said(guest, "systemctl", "is-active", "livegraft-boot.service", status=3)
    assert unit == "inactive\n"
    journal = said(guest, "journalctl", "-b", "-u", "livegraft-boot.service", "-o", "cat")
    assert "ConditionKernelCommandLine=!livegraft=off" in journal
    for verb in ("status", "list"):
        text = said(guest, "livegraft", verb)
        assert text.startswith(
            "live patches are switched off: livegraft=off on the kernel's command line; "
        )
    found = document(guest, "status")
    assert ([each["switch"] for each in found["off"]], found["patches"]) == (
        ["kernel-parameter"],
        [],
    )
    (patch,) = document(guest, "list")["patches"]
    assert (patch["name"], patch["state"]) == ("livegraft_sample", "waiting")
    checked = said(guest, "livegraft", "status", "--check", status=Health.MISSING)
    assert "switched off: livegraft=off on the kernel's command line" in checked
    assert 'livegraft_switched_off{switch="kernel-parameter"} 1' in said(
        guest, "livegraft", "metrics"
    )
    # By hand neither.
    said(guest, "livegraft", "boot")
    assert "switched off" in said(guest, "livegraft", "load", patch["path"], status=Exit.FAILED)
    assert not is_live(guest)
    is_well(guest)


def needs_restart(guest: Guest) -> None:
    """needrestart tells of the fixes that are live, and of the newer kernel all the same."""
    live = f"Kernel {guest.name} runs with 1 live patch, OK: livegraft_sample (CVE-2026-12345)\n"
    text = said(guest, "needrestart", "-k", "-b")
    assert live in text
    assert "NEEDRESTART-KSTA: 1\n" in text  # nothing newer is installed
    newer = prepare(RELEASES[-1])
    assert newer.release != guest.name, "name a newer release, too"
    place = f"/boot/vmlinuz-{newer.release}"
    guest.put(place, newer.vmlinuz)
    text = said(guest, "needrestart", "-k", "-b")
    assert live in text
    assert f"NEEDRESTART-KEXP: {newer.release}\nNEEDRESTART-KSTA: 3\n" in text
    text = said(guest, "needrestart", "-k", "-r", "l")
    assert live in text and "Pending kernel upgrade" in text
    guest.check(["rm", place])


def by_hand(guest: Guest, site: Site) -> None:
    """The guide's way without a package."""
    guest.put("/root/livegraft_sample.ko", site.patch)
    for verb in ("verify", "load", "install"):
        said(guest, "livegraft", verb, "livegraft_sample.ko")
    assert is_live(guest)
    assert "loaded" in said(guest, "livegraft", "list")
    said(guest, "livegraft", "uninstall", "livegraft_sample")
    said(guest, "livegraft", "unload", "livegraft_sample")
    guest.check(["rm", "/root/livegraft_sample.ko"])
    assert not is_live(guest)


def timers(guest: Guest) -> None:
    """What takes the marker away, and what tells Prometheus."""
    for name in ("settle", "metrics"):
        assert said(guest, "systemctl", "is-active", f"livegraft-{name}.timer") == "active\n"
    guest.check(["test", "-e", marker(guest)])
    # What the timers start, at once.
    said(guest, "systemctl", "start", "livegraft-metrics.service", "livegraft-settle.service")
    assert guest.run(["test", "-e", marker(guest)]).status == 1
    assert 'cve="CVE-2026-12345"' in guest.get(f"{PROMETHEUS}/livegraft.prom").decode()
    # Going down in good order.
    said(guest, "livegraft", "unload", "livegraft_sample")
    said(guest, "systemctl", "restart", "livegraft-boot.service")
    assert is_live(guest)
    guest.check(["test", "-e", marker(guest)])
    said(guest, "systemctl", "stop", "livegraft-shutdown.service")
    assert guest.run(["test", "-e", marker(guest)]).status == 1
    assert is_live(guest)
    said(guest, "systemctl", "start", "livegraft-shutdown.service")


def second_boot(guest: Guest, before: dict[str, Sequence[object]], site: Site) -> None:
    """The fix is live; it is looked at, the runtime is upgraded, and all of it is removed."""
    come_up(guest)
    assert is_live(guest)
    assert said(guest, "systemctl", "is-active", "livegraft-boot.service") == "active\n"
    journal = said(guest, "journalctl", "-b", "-u", "livegraft-boot.service", "-o", "cat")
    assert "livegraft_sample: loaded, model native" in journal
    (patch,) = document(guest, "status")["patches"]
    assert (patch["name"], patch["state"], patch["cves"]) == (
        "livegraft_sample",
        "enabled",
        ["CVE-2026-12345"],
    )
    said(guest, "livegraft", "status")
    assert "LIVEGRAFT OK" in said(guest, "livegraft", "status", "--check")
    assert 'cve="CVE-2026-12345"' in said(guest, "livegraft", "metrics")
    assert "livegraft_sample" in said(guest, "livegraft", "history")
    timers(guest)

    offer(guest, site.later)
    said(guest, "apt-get", "update")
    done = document(guest, "history")["entries"]
    needs_restart(guest)
    upgraded = said(guest, "apt-get", "install", "-y", "livegraft-runtime")
    # apt runs needrestart, too.
    assert " runs with 1 live patch, OK: livegraft_sample (CVE-2026-12345)" in upgraded
    assert said(guest, "livegraft", "--version") == f"livegraft {NEXT}\n"
    # Its configuration was changed, and stays; the patch, too, and the unit was left alone.
    assert b"require_signature = yes" in guest.get("/etc/livegraft/livegraft.conf")
    assert is_live(guest)
    assert document(guest, "history")["entries"] == done
    assert said(guest, "systemctl", "is-active", "livegraft-boot.service") == "active\n"

    package = f"{PATCH}-{guest.name}"
    upgraded = said(guest, "apt-get", "install", "-y", package)
    assert "another version of it is loaded, and stays so until the next boot" in upgraded
    assert " runs with 1 live patch, CRITICAL: livegraft_sample is installed and" in upgraded
    assert is_live(guest)
    assert document(guest, "list")["patches"][0]["state"] == "waiting"
    checked = said(guest, "livegraft", "status", "--check", status=Health.MISSING)
    assert "another version of it is loaded" in checked

    said(guest, "apt-get", "remove", "-y", package)
    assert not is_live(guest)
    assert document(guest, "status")["patches"] == []
    assert document(guest, "list")["patches"] == []
    assert guest.run(["dpkg", "-s", package]).status == 1
    by_hand(guest, site)
    is_well(guest)
    said(guest, "apt-get", "purge", "-y", "livegraft-runtime")
    assert differences(before, files(guest)) == set()
    is_well(guest)


@pytest.mark.soak
def test_from_a_repository_to_a_stock_kernel_again(
    one_kernel: Kernel, site: Site, tmp_path: Path
) -> None:
    disk, initrd = system_guest.image(one_kernel, ("needrestart",))
    own = system_guest.copied(disk, tmp_path / "disk")
    with system_guest.booted(one_kernel, own, initrd) as guest:
        before = first_boot(guest, site)
        system_guest.goes_down(guest)
    with system_guest.booted(one_kernel, own, initrd) as guest:
        crash(guest)
    with system_guest.booted(one_kernel, own, initrd) as guest:
        after_the_crash(guest)
        system_guest.goes_down(guest)
    with system_guest.booted(one_kernel, own, initrd, "livegraft=off") as guest:
        switched_off(guest)
        system_guest.goes_down(guest)
    with system_guest.booted(one_kernel, own, initrd) as guest:
        second_boot(guest, before, site)
    own.unlink()
    # All that the guide shows was printed here.
    problems = TRANSCRIPT.problems(GUIDE.read_text("utf-8"))
    assert problems == [], "\n\n".join(problems)


EVERY_MODULE = """
import sys
sys.dont_write_bytecode = True  # python3-clang-19 has none, and would keep what root makes
import importlib, pkgutil, livegraft
names = [each.name for each in pkgutil.walk_packages(livegraft.__path__, "livegraft.")]
for name in names:
    if not name.endswith("__main__"):
        importlib.import_module(name)
print(len(names))
"""


@pytest.mark.soak
def test_the_whole_is_installed_used_upgraded_and_purged(
    one_kernel: Kernel, site: Site, tmp_path: Path
) -> None:
    """livegraft itself, on a machine that has what it depends on and nothing of it."""
    disk, initrd = system_guest.image(one_kernel, site.needed)
    own = system_guest.copied(disk, tmp_path / "disk")
    with system_guest.booted(one_kernel, own, initrd) as guest:
        come_up(guest)
        trusts(guest, site)
        offer(guest, site.repository)
        said(guest, "apt-get", "update")
        before = files(guest)
        said(guest, "apt-get", "install", "-y", "--no-install-recommends", "livegraft")
        assert int(guest.python(EVERY_MODULE, timeout=APT_SECONDS).text) > 200

        # In a folder that is not looked at in the end.
        for name, value in (("before", 1), ("after", 2)):
            guest.put(f"/tmp/{name}.c", b"int f(void) { return %d; }" % value)
            flags = ["-O2", "-ffunction-sections", "-fdata-sections", "-fno-pic", "-c"]
            flags += ["-pg", "-mfentry", "-mrecord-mcount"]  # as the kernel: it has a ftrace entry
            guest.check(
                ["gcc-12", *flags, f"/tmp/{name}.c", "-o", f"/tmp/{name}.o"], timeout=APT_SECONDS
            )
        assert document(guest, "compare", "/tmp/before.o", "/tmp/after.o")["changed"] == ["f"]
        guest.put("/tmp/livegraft_sample.ko", site.patch)
        assert (
            document(guest, "inspect", "/tmp/livegraft_sample.ko")["kernel"]["release"]
            == guest.name
        )
        words = ("/tmp/livegraft_sample.ko", "-o", "/tmp", "--load", "demand")
        made = document(guest, "package", *words)["path"]
        said(guest, "apt-get", "install", "-y", made)
        assert not is_live(guest)
        assert document(guest, "list")["patches"] == []
        (place,) = said(
            guest, "sh", "-c", f"dpkg -L {PATCH}-{guest.name} | grep [.]ko$"
        ).splitlines()
        guest.put("/etc/livegraft/trusted.d/author.pem", site.author.cert)
        said(guest, "livegraft", "load", place)
        assert is_live(guest)

        offer(guest, site.later)
        said(guest, "apt-get", "update")
        said(guest, "apt-get", "install", "-y", "livegraft")
        assert said(guest, "livegraft", "--version") == f"livegraft {NEXT}\n"
        said(guest, "livegraft", "compare", "/tmp/before.o", "/tmp/before.o", status=Exit.UNCHANGED)
        assert is_live(guest)
        package = f"{PATCH}-{guest.name}"
        said(guest, "apt-get", "purge", "-y", package, "livegraft", "livegraft-runtime")
        assert not is_live(guest)
        assert differences(before, files(guest)) == set()
        is_well(guest)
    own.unlink()
