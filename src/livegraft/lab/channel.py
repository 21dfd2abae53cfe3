# SPDX-License-Identifier: GPL-2.0-or-later
"""The host's end of the channel to a guest's agent. The frames are described in agent/agent.h."""

from __future__ import annotations

import contextlib
import itertools
import socket
import struct
import threading
import time
from collections.abc import Callable, Sequence

_HEADER = struct.Struct("<IIc")
_STATUS = struct.Struct("<i")
_CHUNK = 32768
_SEND_SECONDS = 20
"""The agent always reads. If it does not for so long, the guest hangs."""


class Disconnected(Exception):
    """The guest's end is gone, or does not read any more."""


class Job:
    """A command in the guest: what it printed so far and, once it has ended, its status."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.stdout = bytearray()
        self.stderr = bytearray()
        self.status: int | None = None


class Channel:
    """Starts jobs and collects what they print. Any thread may use it.

    Args:
        connection: the socket; closed with the channel.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._socket.setsockopt(
            socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", _SEND_SECONDS, 0)
        )
        self._changed = threading.Condition()
        self._sending = threading.Lock()
        self._jobs: dict[int, Job] = {}
        self._numbers = itertools.count(1)
        self._ready: str | None = None
        self._answers = 0
        self._connected = True
        self._reader = threading.Thread(target=self._read, name="livegraft-channel", daemon=True)
        self._reader.start()

    @property
    def connected(self) -> bool:
        """Whether the guest's end is still there."""
        return self._connected

    def ready(self, seconds: float) -> str | None:
        """The agent's report when it is up (a line for each module that failed), None if not."""
        self._await(lambda: self._ready is not None, seconds)
        return self._ready

    def start(self, argv: Sequence[str]) -> Job:
        """Start a job.

        Raises:
            Disconnected: there is nobody to do it.
        """
        job = Job(next(self._numbers))
        with self._changed:
            self._jobs[job.number] = job
        self._send(job.number, b"S", b"".join(word.encode() + b"\0" for word in argv))
        return job

    def feed(self, job: Job, data: bytes) -> None:
        """Give a job input."""
        for at in range(0, len(data), _CHUNK):
            self._send(job.number, b"I", data[at : at + _CHUNK])

    def end_input(self, job: Job) -> None:
        """Let a job see the end of its input."""
        self._send(job.number, b"E")

    def kill(self, job: Job, number: int) -> None:
        """Send a signal to a job's process group."""
        self._send(job.number, b"K", bytes([number]))

    def wait(self, job: Job, seconds: float) -> bool:
        """Whether a job has ended, after waiting `seconds` for that or for the guest's loss."""
        self._await(lambda: job.status is not None, seconds)
        return job.status is not None

    def answers(self, seconds: float) -> bool:
        """Whether the agent is alive."""
        before = self._answers
        self._send(0, b"P")
        self._await(lambda: self._answers > before, seconds)
        return self._answers > before

    def close(self) -> None:
        """Hang up. A guest that still runs then ends."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._reader.join()
        self._socket.close()

    def _send(self, job: int, kind: bytes, data: bytes = b"") -> None:
        with self._sending:
            try:
                self._socket.sendall(_HEADER.pack(len(data), job, kind) + data)
            except OSError as error:
                self._lose()
                raise Disconnected from error

    def _await(self, condition: Callable[[], bool], seconds: float) -> None:
        end = time.monotonic() + seconds
        with self._changed:
            # Short waits: Ctrl-C does not interrupt a wait on a condition with a far end.
            while self._connected and not condition() and (left := end - time.monotonic()) > 0:
                self._changed.wait(min(left, 1.0))

    def _read(self) -> None:
        with contextlib.suppress(OSError), self._socket.makefile("rb") as stream:
            while len(head := stream.read(_HEADER.size)) == _HEADER.size:
                size, number, kind = _HEADER.unpack(head)
                data = stream.read(size)
                if len(data) < size:
                    break
                with self._changed:
                    self._take(number, kind, data)
                    self._changed.notify_all()
        self._lose()

    def _take(self, number: int, kind: bytes, data: bytes) -> None:
        if kind == b"R":
            self._ready = data.decode("utf-8", "replace")
        elif kind == b"P":
            self._answers += 1
        elif (job := self._jobs.get(number)) is not None:
            if kind == b"1":
                job.stdout += data
            elif kind == b"2":
                job.stderr += data
            elif kind == b"X":
                (job.status,) = _STATUS.unpack(data)
                del self._jobs[number]

    def _lose(self) -> None:
        with self._changed:
            self._connected = False
            self._changed.notify_all()
