# SPDX-License-Identifier: GPL-2.0-or-later
"""One record for the machine's journal, with fields; for syslog where there is no journal.

The journal's own protocol: one datagram to its socket, with a line ``NAME=value`` for each field; a
value of several lines comes after a line with the name alone and its length (u64, little-endian).
A field may be there several times. Source: https://systemd.io/JOURNAL_NATIVE_PROTOCOL.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Sequence
from pathlib import Path

JOURNAL = "run/systemd/journal/socket"
SYSLOG = "dev/log"
"""The sockets, below the root."""

IDENTIFIER = "livegraft"

DAEMON = 3
"""``LOG_DAEMON``: the facility, as syslog(3) numbers them."""

SECONDS = 1.0
"""For how long a journal that does not listen may hold up who has something to say."""

Fields = Sequence[tuple[str, str]]
"""Names, in capital letters, and values."""


def send(message: str, priority: int, fields: Fields, root: Path = Path("/")) -> bool:
    """Leave a record in the journal, or with syslog. It never fails: who loads a patch has to go on
    where nobody listens.

    Args:
        message: for people.
        priority: as syslog(3) numbers them.
        fields: what is to be found by; without those that every record has.
        root: where run/ and dev/ are.

    Returns:
        Whether anybody was there to take it.
    """
    every = (
        ("MESSAGE", message),
        ("PRIORITY", str(priority)),
        ("SYSLOG_IDENTIFIER", IDENTIFIER),
        ("SYSLOG_FACILITY", str(DAEMON)),
    )
    return _datagram(root / JOURNAL, encoded((*every, *fields))) or _datagram(
        root / SYSLOG, line(message, priority, fields)
    )


def encoded(fields: Fields) -> bytes:
    """A record as the journal takes it."""
    data = bytearray()
    for name, value in fields:
        # A path need not be UTF-8, and the journal takes any bytes.
        raw = value.encode("utf-8", "surrogateescape")
        if b"\n" in raw:
            data += name.encode() + b"\n" + struct.pack("<Q", len(raw)) + raw + b"\n"
        else:
            data += name.encode() + b"=" + raw + b"\n"
    return bytes(data)


def line(message: str, priority: int, fields: Fields) -> bytes:
    """A record as syslog takes it: one line, with the fields behind the message (RFC 3164)."""
    stamp = time.strftime("%b %e %H:%M:%S")
    words = " ".join(f"{name}={value!r}" for name, value in fields)
    text = f"<{DAEMON * 8 + priority}>{stamp} {IDENTIFIER}[{os.getpid()}]: {message} [{words}]"
    return " ".join(text.split()).encode("utf-8", "surrogateescape")


def _datagram(place: Path, data: bytes) -> bool:
    import socket  # seldom needed, and start-up time counts

    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as connection:
            connection.settimeout(SECONDS)
            connection.connect(str(place))
            connection.sendall(data)
    except OSError:
        return False
    return True
