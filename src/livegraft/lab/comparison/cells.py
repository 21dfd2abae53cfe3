# SPDX-License-Identifier: GPL-2.0-or-later
"""One cell: a model under a load, in guests of its own."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from livegraft.errors import LivegraftError, LostGuest
from livegraft.kernel.kernel import Kernel
from livegraft.lab.boot import boot
from livegraft.lab.comparison.scenarios import Scenario
from livegraft.lab.guest import Guest
from livegraft.lab.trial import FAULT
from livegraft.lab.witness.measure import LEAST, Request
from livegraft.lab.witnesses import ENGINE

OWN = "lgc_one"
TARGET = "lgc_target"
FUNCTIONS = tuple((TARGET, f"lgc_{name}") for name in ("f1", "f2", "caller", "cold", "doze"))
"""What our own patch changes."""

LIMIT_SECONDS = 10.0
"""For one change; what has not ended by then is taken back and counts as not applied."""

REPEAT_SECONDS = 30.0
"""For each repetition in a guest on average; where one takes minutes, a few have to do."""

LOOKS, LOOK_SECONDS = 1, 1.5
BOOT_SECONDS = 300.0
ANSWER_SECONDS = 120.0
"""What the guest may take besides its repetitions."""

LOG_LINES = 40

Cell = dict[str, Any]
"""What one guest has answered (``measured`` is its document, or None), or all of them together
(``measured`` has the document of each that gave one)."""


class Status(StrEnum):
    """What became of a cell."""

    DONE = "done"
    """`reason` tells whether there are fewer repetitions than asked for."""
    FAILED = "failed"
    """The scenario could not run; `reason` and `log` say why."""
    LOST = "lost"
    """The guest hung or died; `log` is what its console tells of that."""
    UNAVAILABLE = "unavailable"
    """This kernel does not have the model."""


@dataclass(frozen=True, slots=True)
class Subject:
    """The patch that is loaded where the scenario does not need one of our own.

    Args:
        name: of its module.
        data: the module.
        functions: object and name of each function that it changes.
        targets: modules of the distribution that it changes.
        digest: SHA-256 of the module, hexadecimal.
    """

    name: str
    data: bytes
    functions: tuple[tuple[str, str], ...]
    targets: tuple[str, ...]
    digest: str


def request(scenario: Scenario, model: str, repeat: int, subject: Subject | None) -> Request:
    """What a guest is asked for; `subject` is the user's patch, if the scenario takes it."""
    return Request(
        model=model,
        patch=scenario.patch or (subject.name if subject else OWN),
        load=list(scenario.load),
        settings=list(scenario.settings),
        repeat=repeat,
        seconds=REPEAT_SECONDS * repeat,
        limit=LIMIT_SECONDS,
        functions=[list(each) for each in (subject.functions if subject else FUNCTIONS)],
        looks=LOOKS,
        look_seconds=LOOK_SECONDS,
        calls=scenario.calls,
        counted=subject is None and scenario.kind == "cycle" and not scenario.patch,
        kind=scenario.kind,
        target=scenario.target,
        stack=scenario.stack,
    )


def measure(
    kernel: Kernel,
    files: Mapping[str, bytes | Path],
    scenario: Scenario,
    asked: Request,
    subject: Subject | None,
) -> dict[str, Any]:
    """Boot a guest and measure a cell.

    Args:
        kernel: the prepared kernel.
        files: of the guest (:func:`livegraft.lab.witnesses.witnesses`).
        scenario: the load.
        asked: what to ask for.
        subject: the user's patch, if the scenario takes it.

    Returns:
        ``status``, ``reason``, ``log``, ``faults``, ``measured`` and ``seconds``. Whatever goes
        wrong in the guest is told there, and is no exception.
    """
    began = time.monotonic()
    found: dict[str, Any] = {"reason": "", "log": [], "faults": [], "measured": None}
    theirs = {f"/ko/{subject.name}.ko": subject.data} if subject else {}
    try:
        with boot(
            kernel.vmlinuz,
            kernel.modules,
            load=subject.targets if subject else (),
            files={**files, **theirs},
            memory_mib=scenario.memory,
            timeout=BOOT_SECONDS,
            cache=kernel.cache,
        ) as guest:
            found |= _measured(guest, asked)
    except LostGuest as error:
        found |= {
            "status": Status.LOST,
            "reason": f"the guest was lost: {error.reason}",
            "log": error.console.splitlines(),
        }
    except LivegraftError as error:
        found |= {"status": Status.FAILED, "reason": f"{error.subject}: {error.problem}"}
    return found | {"seconds": round(time.monotonic() - began, 1)}


def not_begun(error: LivegraftError) -> dict[str, Any]:
    """What :func:`measure` says of a cell for which there is not what a guest needs."""
    first, *more = error.problem.splitlines()
    return {
        "status": Status.FAILED,
        "reason": f"{error.subject}: {first}",
        "log": more[-LOG_LINES:],
        "faults": [],
        "measured": None,
        "seconds": 0.0,
    }


def _measured(guest: Guest, asked: Request) -> dict[str, Any]:
    if asked.model != "native":
        guest.check(["insmod", ENGINE], timeout=ANSWER_SECONDS)
    guest.check(["insmod", f"/ko/{TARGET}.ko"])
    guest.put("/root/request.json", json.dumps(asdict(asked)).encode())
    words = ["python3", "-m", "livegraft.lab.witness.measure", "/root/request.json"]
    # What is begun in any case, and one more: twice a load and an unload, each of which may have
    # to be taken back, and the stack below.
    seconds = ANSWER_SECONDS + asked.seconds + (LEAST + 1) * (6 + asked.stack) * asked.limit
    done = guest.run(words, timeout=seconds)
    messages = [each.text for each in guest.kernel_log()]
    faults = [text for text in messages if FAULT.search(text)]
    found: dict[str, Any] = {"faults": faults}
    if done.status != 0 or done.timed_out:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        late = f"no answer after {seconds:.0f} s"
        reason = late if done.timed_out else said[-1] if said else f"status {done.status}"
        log = [*said[-LOG_LINES // 2 :], *messages[-LOG_LINES // 2 :]]
        return found | {"status": Status.FAILED, "reason": reason, "log": log}
    if faults:
        why = f"the kernel's log tells of a fault: {faults[0]}"
        return found | {"status": Status.FAILED, "reason": why, "log": messages[-LOG_LINES:]}
    measured = json.loads(done.stdout)
    if why := measured.get("unavailable"):
        return found | {"status": Status.UNAVAILABLE, "reason": why}
    if measured["stalled"]:
        why = f"a change could not be taken back: {measured['stalled']}"
        return found | {"status": Status.FAILED, "reason": why, "measured": measured}
    if (made := len(measured["repetitions"])) < asked.repeat:
        found["reason"] = f"{made} of {asked.repeat} repetitions in {asked.seconds:.0f} s"
    return found | {"status": Status.DONE, "measured": measured}


def merged(answers: Sequence[Cell], repeat: int, guests: int) -> Cell:
    """A cell from what its guests have answered.

    Its status is that of the guest that did not come to its end, if there is one. What the others
    have measured stays.

    Args:
        answers: of the guests, in their order; one at least.
        repeat: repetitions that were wanted of all together.
        guests: how many there are to be.
    """
    last = next((each for each in answers if each["status"] != Status.DONE), answers[-1])
    documents = [each["measured"] for each in answers if each["measured"]]
    made = sum(len(each["repetitions"]) for each in documents)
    few = f"{made} of {repeat} repetitions" if made < repeat else ""
    if few and len(answers) < guests:
        few += f", in {len(answers)} of {guests} guests"
    return {
        **last,
        "reason": few if last["status"] == Status.DONE else last["reason"],
        "measured": documents,
        "seconds": round(sum(each["seconds"] for each in answers), 1),
    }
