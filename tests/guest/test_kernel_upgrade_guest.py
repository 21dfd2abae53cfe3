# SPDX-License-Identifier: GPL-2.0-or-later
"""A machine with systemd gets a newer kernel by its package, and loses the older one."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests import system_guest
from tests.build.test_deb import make
from tests.on_machine import APT_SECONDS, come_up, document, is_live, is_well, said, typed
from tests.releases import RELEASES

from livegraft import pipeline
from livegraft.kernel.kernel import Kernel, prepare
from livegraft.lab.guest import Guest
from livegraft.run import run
from livegraft.runtime.checking import Health
from livegraft.runtime.release import is_older

pytestmark = [pytest.mark.guest, pytest.mark.build, pytest.mark.timeout(3600), pytest.mark.soak]

SAMPLE = Path(__file__).parents[2] / "demo/sample.patch"
CONFIGURATION = "/etc/livegraft/livegraft.conf"


def states(guest: Guest) -> dict[tuple[str, str], str]:
    """Of the installed patches, by kernel and name."""
    found = document(guest, "list")["patches"]
    return {(each["release"], each["name"]): each["state"] for each in found}


def booted_with(guest: Guest) -> str:
    """What the boot unit said."""
    return said(guest, "journalctl", "-b", "-u", "livegraft-boot.service", "-o", "cat")


def with_the_older(guest: Guest, runtime: Path, patch: Path, image: Path) -> bytes:
    """A patch is installed, and then the newer kernel. The newer one's initial file system."""
    come_up(guest)
    for path in (runtime, image):
        guest.put(f"/tmp/{path.name}", path)
    said(guest, "apt-get", "install", "-y", f"/tmp/{runtime.name}")
    guest.put("/root/old.ko", patch)
    said(guest, "livegraft", "install", "/root/old.ko")
    said(guest, "livegraft", "boot")
    assert is_live(guest)
    before = states(guest)
    assert list(before.values()) == ["loaded"]
    said(guest, "apt-get", "install", "-y", f"/tmp/{image.name}")
    assert is_live(guest) and states(guest) == before
    is_well(guest)
    return guest.get(f"/boot/initrd.img-{RELEASES[-1]}")


def with_the_newer(guest: Guest, patch: Path) -> None:
    """The patch of the older kernel is left alone and told of; one for this kernel is installed.
    All is switched off by the configuration then."""
    come_up(guest)
    older = (RELEASES[0], "livegraft_old")
    assert not is_live(guest)
    assert f"it is for the kernel {RELEASES[0]}, and this is {guest.name}" in booted_with(guest)
    assert states(guest) == {older: "obsolete"}
    assert "would be loaded if that were booted again" in said(guest, "livegraft", "list")
    assert "LIVEGRAFT OK" in said(guest, "livegraft", "status", "--check")
    guest.put("/root/new.ko", patch)
    said(guest, "livegraft", "install", "/root/new.ko")
    said(guest, "livegraft", "boot")
    assert is_live(guest)
    assert states(guest) == {older: "obsolete", (guest.name, "livegraft_new"): "loaded"}
    said(guest, "livegraft", "unload", "--all")
    assert not is_live(guest)
    typed(guest, f"echo 'enabled = no' >> {CONFIGURATION}")
    is_well(guest)


def switched_off(guest: Guest) -> None:
    """The older kernel once more: its patch stays out until the line is gone."""
    come_up(guest)
    assert not is_live(guest)
    unit = said(guest, "systemctl", "is-active", "livegraft-boot.service")
    assert unit == "active\n"  # that is no failure
    where = f"enabled = no in {CONFIGURATION}"
    assert f"switched off: {where}" in booted_with(guest)
    for words in (("status",), ("list",)):
        assert said(guest, "livegraft", *words).startswith(
            f"live patches are switched off: {where}"
        )
    checked = said(guest, "livegraft", "status", "--check", status=Health.MISSING)
    assert f"switched off: {where}" in checked
    metrics = said(guest, "livegraft", "metrics")
    assert 'livegraft_switched_off{switch="configuration"} 1' in metrics
    typed(guest, f"sed -i '/^enabled = no$/d' {CONFIGURATION}")
    said(guest, "systemctl", "restart", "livegraft-boot.service")
    assert is_live(guest)
    is_well(guest)


def without_the_older(guest: Guest) -> None:
    """The newer kernel's patch comes with the boot; the older kernel goes, and its patch stays."""
    come_up(guest)
    assert is_live(guest)
    assert "livegraft_new: loaded, model native" in booted_with(guest)
    said(guest, "apt-get", "purge", "-y", f"linux-image-{RELEASES[0]}")
    older, newer = (RELEASES[0], "livegraft_old"), (guest.name, "livegraft_new")
    assert states(guest) == {older: "obsolete", newer: "loaded"}
    assert "its kernel is installed no more" in said(guest, "livegraft", "list")
    assert "LIVEGRAFT OK" in said(guest, "livegraft", "status", "--check")
    said(guest, "livegraft", "uninstall", "livegraft_old", "-k", RELEASES[0])
    assert states(guest) == {newer: "loaded"}
    is_well(guest)


def test_a_kernel_upgrade(one_kernel: Kernel, tmp_path: Path) -> None:
    newer = prepare(RELEASES[-1])
    assert is_older(one_kernel.release, newer.release), "name the older release first"
    patches = [
        pipeline.build([SAMPLE], kernel, output=tmp_path / f"{name}.ko", name=f"livegraft_{name}")
        for kernel, name in ((one_kernel, "old"), (newer, "new"))
    ]
    old, new = (each.path for each in patches)
    runtime = make(tmp_path / "deb")["livegraft-runtime"]
    run(["apt-get", "download", f"linux-image-{newer.release}"], cwd=tmp_path, timeout=APT_SECONDS)
    (image,) = tmp_path.glob("linux-image-*.deb")
    disk, initrd = system_guest.image(one_kernel)
    own = system_guest.copied(disk, tmp_path / "disk")
    later = tmp_path / "initrd"
    with system_guest.booted(one_kernel, own, initrd) as guest:
        later.write_bytes(with_the_older(guest, runtime, old, image))
        system_guest.goes_down(guest)
    with system_guest.booted(newer, own, later) as guest:
        with_the_newer(guest, new)
        system_guest.goes_down(guest)
    with system_guest.booted(one_kernel, own, initrd) as guest:
        switched_off(guest)
        system_guest.goes_down(guest)
    with system_guest.booted(newer, own, later) as guest:
        without_the_older(guest)
    own.unlink()
