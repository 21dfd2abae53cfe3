# SPDX-License-Identifier: GPL-2.0-or-later
"""Inside a guest: a loader that is killed at its first step, its second, and so on to its last.

``python3 -m tests.guest.killed_loader PATCH MODEL STRIDE`` prints what each has left: the patch's
state, or nothing. A step is a file that is opened, a lock that is taken, a pause: whatever the
loader does to the machine is between two of them. Each time what was left is unloaded.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

from livegraft import runtime
from livegraft.runtime.state import PatchState

ANSWER = Path("/sys/module/lgt_target/parameters/answer")
"""1, and 2 with the patch."""

STEPS = frozenset({"open", "fcntl.flock", "time.sleep", "os.listdir", "os.scandir"})


def killed(patch: Path, model: str, step: int) -> bool:
    """Load in a child that is killed at a step; whether it came to that step."""
    pid = os.fork()
    if pid == 0:
        left = step

        def hook(event: str, _: object) -> None:
            nonlocal left
            if event in STEPS:
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        runtime.load(patch, model=model)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status in (0, -signal.SIGKILL), status
    return status != 0


def states() -> list[PatchState]:
    """Of the patches that are there, once no transition is under way."""
    end = time.monotonic() + 60
    while True:
        found = [each.state for each in runtime.status()]
        if PatchState.TRANSITION not in found:
            return found
        assert time.monotonic() < end, found
        time.sleep(0.1)


def main(words: list[str]) -> None:
    """Kill it at every STRIDE-th step, until it comes to its end."""
    patch, model, stride = Path(words[0]), words[1], int(words[2])
    runtime.load(patch, model=model)  # imports all there is to import
    runtime.unload_all()
    left: list[list[str]] = []
    step = 1
    while killed(patch, model, step):
        found = states()
        left.append([each.value for each in found])
        assert ANSWER.read_text().strip() == ("2" if found == [PatchState.ENABLED] else "1"), found
        runtime.unload_all()
        assert states() == []
        step += stride
    assert states() == [PatchState.ENABLED]
    runtime.unload_all()
    json.dump(left, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1:])
