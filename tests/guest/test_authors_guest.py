# SPDX-License-Identifier: GPL-2.0-or-later
"""What patch authors need, live: the examples of docs/authors.md, each with its effect and without.

Examples that touch different files are built together; all of a kernel's run in one guest.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.documents import validate
from tests.live import verb
from tests.releases import RELEASES, preferring

from livegraft import pipeline
from livegraft.errors import Exit
from livegraft.kernel.kernel import Kernel, prepare
from livegraft.lab.boot import boot
from livegraft.lab.guest import Guest, GuestCommandFailed
from livegraft.lab.trial import FAULT
from livegraft.pipeline import Built

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"

TOGETHER = ("callbacks", "data", "marks", "shadow", "static-key")
FIXES = {
    "together": [EXAMPLES / f"{name}.patch" for name in TOGETHER],
    "state": [EXAMPLES / "state.patch"],
    "state_2": [EXAMPLES / "state-2.patch"],
    "objects": [ROOT / "tests/data/authors/objects.patch"],
}

CUBIC = "/sys/module/tcp_cubic/parameters"

pytestmark = [pytest.mark.guest, pytest.mark.build]


@pytest.fixture(scope="module", params=preferring(RELEASES[-1]))
def kernel(request: pytest.FixtureRequest) -> Kernel:
    return prepare(str(request.param))


@pytest.fixture(scope="module")
def built(kernel: Kernel, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Built]:
    folder = tmp_path_factory.mktemp("authors")
    return {
        name: pipeline.build(fixes, kernel, output=folder / f"{name}.ko")
        for name, fixes in FIXES.items()
    }


@pytest.fixture(scope="module")
def guest(kernel: Kernel, built: dict[str, Built]) -> Iterator[Guest]:
    files: dict[str, bytes | Path] = {f"/ko/{name}.ko": one.path for name, one in built.items()}
    with boot(kernel.vmlinuz, kernel.modules, load=["loop"], files=files) as guest:
        yield guest
        found = [each for each in log(guest) if FAULT.search(each)]
        assert not found, found


@pytest.fixture(scope="module")
def returns(kernel: Kernel) -> bool:
    """Whether a module with livepatch relocations may come again: 6.1 cannot do that."""
    return not kernel.release.startswith("6.1.")


def load(guest: Guest, name: str) -> Any:
    status, document = verb(guest, "load", f"/ko/{name}.ko")
    assert status == 0, document
    return document


def unload(guest: Guest, name: str) -> None:
    status, document = verb(guest, "unload", f"livegraft_{name}")
    assert status == 0, document


def log(guest: Guest) -> list[str]:
    return [each.text for each in guest.kernel_log()]


def said(guest: Guest, word: str, after: int = 0) -> list[str]:
    """The messages with a word, each from the word on, without the first ones."""
    return [text[text.index(word) :] for text in log(guest) if word in text][after:]


def text(guest: Guest, path: str) -> str:
    return guest.get(path).decode()


def number(guest: Guest, parameter: str) -> int:
    return int(text(guest, f"{CUBIC}/{parameter}"))


def redirected(guest: Guest) -> set[str]:
    """The functions that somebody redirects (flag I of ftrace)."""
    lines = text(guest, "/sys/kernel/tracing/enabled_functions").splitlines()
    return {words[0] for words in map(str.split, lines) if "I" in words}


def call_it(guest: Guest, name: str) -> None:
    guest.check(["sh", "-c", f"echo {name} > /proc/sys/kernel/hostname"])


# -- the examples ---------------------------------------------------------------------------------

EVENTS = """
import os
older, newer = os.eventfd(0), os.eventfd(0)
def writes(fd):
    lines = open(f"/proc/self/fdinfo/{fd}").read().splitlines()
    return [line.split()[1] for line in lines if line.startswith("eventfd-writes")]
for _ in range(3):
    os.eventfd_write(newer, 1)
print(writes(newer), writes(older))
os.close(newer)
"""

PACKETS = r"""
import fcntl, socket, struct
def attribute(kind, data):
    return struct.pack("HH", 4 + len(data), kind) + data + bytes(-len(data) % 4)
def nested(kind, *parts):
    return attribute(kind | 0x8000, b"".join(parts))
def message(kind, flags, family=2, data=b"", resource=0):
    body = struct.pack("BBH", family, 0, socket.htons(resource)) + data
    return struct.pack("IHHII", 16 + len(body), kind, flags, 1, 0) + body
def batch(*messages):
    begin, end = message(0x10, 1, 0, b"", 10), message(0x11, 1, 0, b"", 10)
    netlink.send(begin + b"".join(messages) + end)
    reply = netlink.recv(65536)
    code, = struct.unpack_from("i", reply, 16)
    assert code == 0, code
netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)
netlink.bind((0, 0))
netlink.settimeout(20)
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
request = struct.pack("16sh14x", b"lo", 0)
flags, = struct.unpack_from("h", fcntl.ioctl(udp, 0x8913, request), 16)
fcntl.ioctl(udp, 0x8914, struct.pack("16sh14x", b"lo", flags | 1))
table, chain = attribute(1, b"lg\0"), attribute(3, b"lg\0")
hook = nested(4, attribute(1, struct.pack(">I", 3)), attribute(2, struct.pack(">i", 0)))
counters = nested(8, attribute(1, bytes(8)), attribute(2, bytes(8)))
# enum nf_tables_msg_types and nft_chain_attributes of linux/netfilter/nf_tables.h
batch(message(0xa00, 0x401, data=table),
      message(0xa03, 0x405, data=table + chain + hook + attribute(7, b"filter\0") + counters))
receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
receiver.bind(("127.0.0.1", 999))
for _ in range(5):
    udp.sendto(b"x", receiver.getsockname())
netlink.send(message(0xa04, 1, data=table + chain))
reply = netlink.recv(65536)[20:]
while reply:
    length, kind = struct.unpack_from("HH", reply)
    if kind & 0x3fff == 8:
        print(struct.unpack_from(">Q", reply, 4 + 4 + 8 + 4)[0])
    reply = reply[length + -length % 4:]
batch(message(0xa02, 5, data=table))
"""
"""A chain of nftables with counters, and five packets of 29 bytes through it; prints the bytes that
were counted."""


class Effects:
    """What the examples that are built together do, as one can see it."""

    def __init__(self, guest: Guest) -> None:
        self.reads = re.findall(r"reads=\d+", text(guest, "/proc/loadavg"))
        self.softirq = text(guest, "/proc/softirqs").split("\n")[1].split(":")[0].strip()
        self.window = number(guest, "hystart_low_window")
        self.console = text(guest, "/proc/consoles").split()[0]
        self.events = guest.python(EVENTS).text
        self.functions = redirected(guest)
        done = guest.python(PACKETS)
        self.counted = int(done.text) if done.status == 0 else done.stderr.decode()


def test_the_examples_have_their_effects(guest: Guest) -> None:
    guest.modprobe("nf_tables")
    plain = Effects(guest)
    assert (plain.reads, plain.softirq, plain.window, plain.counted) == ([], "HI", 16, 5 * 29)
    assert (plain.events, plain.functions) == ("[] []", set())
    load(guest, "together")
    patched = Effects(guest)
    assert patched.reads == ["reads=1"]
    # Constant and plain data that callbacks set.
    assert (patched.softirq, patched.window) == ("HIGH", 32)
    # One function is taken although it is the same, and one is left although it differs.
    assert patched.console == plain.console.replace("ttyS", "ttyS-")
    assert {"show_console_dev", "c_stop"} < patched.functions
    assert "c_next" not in patched.functions and not said(guest, "consoles: somebody")
    # A shadow variable, one that is not there, and none that an object before had left.
    assert patched.events == "['3'] ['0']"
    assert guest.python(EVENTS).text == patched.events
    # The new code sees a key that was turned on after the patch was loaded.
    assert "nft_do_chain" in patched.functions
    assert patched.counted == 5 * 29
    unload(guest, "together")
    after = Effects(guest)
    assert vars(after) == vars(plain)
    assert said(guest, "loadavg:") == [
        "loadavg: every task counts its reads now",
        "loadavg: 1 reads were counted",
        "loadavg: the counter is gone",
    ]


def test_a_state_leads_a_patch_to_its_predecessor(guest: Guest) -> None:
    seen = [number(guest, "hystart_ack_delta_us")]
    for step, name in ((load, "state"), (load, "state_2"), (unload, "state_2"), (unload, "state")):
        step(guest, name)
        seen.append(number(guest, "hystart_ack_delta_us"))
    assert seen == [2000, 3000, 4000, 3000, 2000]


def test_an_earlier_version_of_a_state_is_refused(guest: Guest) -> None:
    load(guest, "state_2")
    status, document = verb(guest, "load", "/ko/state.ko")
    assert (status, document["error"]["kind"]) == (Exit.FAILED, "KernelRefused")
    assert "same system state in a later version" in document["error"]["message"]
    assert number(guest, "hystart_ack_delta_us") == 4000
    unload(guest, "state_2")
    assert number(guest, "hystart_ack_delta_us") == 2000


def test_a_patch_replaces_its_predecessor(guest: Guest) -> None:
    """Under native, in one change: it has to know all states of what it replaces."""
    load(guest, "state")
    status, document = verb(guest, "load", "/ko/objects.ko", "--replace")
    assert (status, document["error"]["kind"]) == (Exit.FAILED, "KernelRefused")
    assert "a state that this one does not know" in document["error"]["message"]
    assert number(guest, "hystart_ack_delta_us") == 3000
    status, document = verb(guest, "load", "/ko/state_2.ko", "--replace")
    assert (status, document["state"]) == (0, "enabled"), document
    assert document["replaced"] == ["livegraft_state"]
    states = {each["name"]: each["state"] for each in verb(guest, "status")[1]["patches"]}
    assert states == {"livegraft_state": "disabled", "livegraft_state_2": "enabled"}
    assert number(guest, "hystart_ack_delta_us") == 4000
    unload(guest, "state")
    assert number(guest, "hystart_ack_delta_us") == 4000
    unload(guest, "state_2")
    assert number(guest, "hystart_ack_delta_us") == 2000


def test_what_was_built_says_what_it_does(built: dict[str, Built]) -> None:
    documents: dict[str, Any] = {name: one.inspection.as_json() for name, one in built.items()}
    for document in documents.values():
        validate("inspect", document | {"signatures": [], "compared": True})  # the verb adds them
    kinds = ["pre_patch", "post_patch", "pre_unpatch", "post_unpatch"]
    (vmlinux, _) = documents["together"]["objects"]
    callbacks = [(each["kind"], each["name"]) for each in vmlinux["callbacks"]]
    assert [(kind, f"loadavg_{kind}") for kind in kinds] == [
        each for each in callbacks if each[1].startswith("loadavg")
    ]
    assert documents["state_2"]["states"] == [{"id": 0x4C470002, "version": 2}]
    assert documents["together"]["states"] == []
    assert documents["together"]["decisions"] == {
        "forced": ["c_stop"],
        "ignored_functions": ["c_next"],
        "ignored_sections": [".data..read_mostly", ".rodata.softirq_to_name"],
        "accepted_layouts": [],
    }
    assert any("c_next" in warning for warning in documents["together"]["warnings"])


# -- several objects, and callbacks that refuse ---------------------------------------------------


def test_a_callback_that_refuses_leaves_nothing(guest: Guest) -> None:
    call_it(guest, "refuse")
    status, document = verb(guest, "load", "/ko/objects.ko")
    assert (status, document["error"]["errno"]) == (Exit.FAILED, "EPERM")
    assert "its own pre_patch callback for vmlinux has refused it" in document["error"]["message"]
    assert document["error"]["remedy"]
    # The first file's callback had run, and was undone; the second one's had not.
    assert said(guest, "objects:") == ["objects: first begun", "objects: first undone"]
    assert redirected(guest) == set()
    assert "shared" not in text(guest, "/proc/loadavg")
    assert b"livegraft" not in guest.get("/proc/modules")


CARRIER = """
import fcntl, socket, struct
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
fcntl.ioctl(udp, 0x8914, struct.pack("16sh14x", b"dummy0", 1))
with open("/sys/class/net/dummy0/carrier", "w") as file:
    file.write("0")
"""


def insert(guest: Guest, name: str, *, first: bool = False) -> None:
    """Load a module that may have been there before."""
    if first:
        guest.modprobe(name)
    else:
        release = guest.run(["uname", "-r"]).text
        path = f"/lib/modules/{release}/kernel/{name}.ko"  # where modprobe has put it
        guest.check(["/init", "insert", path, ""])


def mount(guest: Guest) -> str:
    """Mount an ext4, and what its statistics say."""
    done = guest.shell(
        "[ -e /tmp/image ] || { dd if=/dev/zero of=/tmp/image bs=1M count=8 2>/dev/null;"
        "mke2fs -qF -t ext4 /tmp/image; };"
        "mkdir -p /mnt && mount -o loop -t ext4 /tmp/image /mnt || exit 1;"
        "cat /proc/fs/ext4/loop*/mb_stats; umount /mnt"
    )
    assert done.status == 0, done.stderr
    return done.text


def test_modules_come_and_go_under_a_patch(guest: Guest, returns: bool) -> None:
    call_it(guest, "willing")
    load(guest, "state")
    document = load(guest, "objects")
    load(guest, "state_2")
    before = len(said(guest, "objects:"))
    assert document["absent"] == ["dummy", "ext4"]
    expected = [] if returns else ["ext4"]
    assert [
        name for text in document["warnings"] for name in ("dummy", "ext4") if name in text
    ] == (expected)
    # What one unit of the kernel counts, others and both modules count on with.
    assert text(guest, "/proc/version").startswith("shared=1 ")
    assert "shared=2 " in text(guest, "/proc/loadavg")
    insert(guest, "dummy", first=True)
    guest.check(["python3", "-c", CARRIER])
    insert(guest, "ext4", first=True)
    assert mount(guest).startswith("shared=4 journal=0\nmballoc:")
    for name in ("dummy", "ext4"):
        guest.check(["rmmod", name])
    unload(guest, "state_2")
    insert(guest, "dummy")
    guest.check(["rmmod", "dummy"])
    # Long after the transition: the state of the patch before, not that of the one behind.
    assert said(guest, "objects:", before) == [
        "objects: pre_patch dummy, state 1",
        "objects: carrier shared=3",
        "objects: post_unpatch dummy",
        "objects: pre_patch dummy, state 1",
        "objects: post_unpatch dummy",
    ]
    _, document = verb(guest, "status", "livegraft_objects")
    cautions = document["patches"][0]["warnings"]
    if returns:
        insert(guest, "ext4")
        assert mount(guest).startswith("shared=5 ")
        assert cautions == []
    else:
        with pytest.raises(GuestCommandFailed):
            insert(guest, "ext4")
        assert any("refusing to load module 'ext4'" in line for line in log(guest))
        assert [
            "module ext4 can be unloaded but not loaded again" in text for text in cautions
        ] == [True]
    call_it(guest, "refuse-dummy")
    with pytest.raises(GuestCommandFailed):
        insert(guest, "dummy")
    assert "dummy " not in text(guest, "/proc/modules")
    unload(guest, "objects")
    unload(guest, "state")
    insert(guest, "dummy")
    if not returns:
        insert(guest, "ext4")
    assert mount(guest).startswith("mballoc:")
    assert said(guest, "objects:")[-2:] == ["objects: second undone", "objects: first undone"]
