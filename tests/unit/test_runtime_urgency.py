# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

import os
import threading

import pytest

from livegraft.runtime.urgency import FIRST, urgently


def nice() -> int:
    return os.getpriority(os.PRIO_PROCESS, 0)


@pytest.mark.skipif(os.geteuid() != 0, reason="nobody else may go first")
def test_it_goes_first_and_leaves_things_as_they_were() -> None:
    before, found = nice(), []
    with pytest.raises(RuntimeError), urgently():
        found.append(nice())
        thread = threading.Thread(target=lambda: found.append(nice()))
        thread.start()
        thread.join()
        raise RuntimeError
    assert (found, nice()) == ([FIRST, FIRST], before)


def test_where_nobody_may_ask_the_work_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """The boot unit's filter refuses the call both ways."""

    def refused(*_: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    before, done = nice(), []
    monkeypatch.setattr(os, "setpriority", refused)
    with urgently():
        done.append(nice())
    assert (done, nice()) == ([before], before)
