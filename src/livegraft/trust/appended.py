# SPDX-License-Identifier: GPL-2.0-or-later
"""The signature that the kernel looks for at the end of a module.

Source of the format: include/linux/module_signature.h and scripts/sign-file.c. After the module
come the signature (PKCS#7, DER), ``struct module_signature`` {u8 algo, hash, id_type, signer_len,
key_id_len, __pad[3]; __be32 sig_len} and a line that marks it.
"""

from __future__ import annotations

import struct

from livegraft.errors import Untrusted

MARK = b"~Module signature appended~\n"
"""``MODULE_SIG_STRING``."""

_TRAILER = struct.Struct(">8sI")
_PKCS7 = bytes((0, 0, 2, 0, 0, 0, 0, 0))
"""``PKEY_ID_PKCS7`` and nothing else: what ``mod_check_sig()`` takes."""


def split(data: bytes, subject: str) -> tuple[bytes, bytes | None]:
    """What a signature covers, and the signature; None if there is none.

    Args:
        data: a module's whole file.
        subject: what to call it in an error.

    Raises:
        Untrusted: it is marked as signed, and what lies before the mark is no signature.
    """
    if not data.endswith(MARK):
        return data, None
    end = len(data) - len(MARK) - _TRAILER.size
    if end > 0:
        kind, size = _TRAILER.unpack_from(data, end)
        if kind == _PKCS7 and 0 < size < end:
            return data[: end - size], data[end - size : end]
    raise Untrusted(subject, "its signature is damaged: the end of the file is not whole", AGAIN)


def append(content: bytes, signature: bytes) -> bytes:
    """A signed module's file.

    Args:
        content: the module without a signature.
        signature: over exactly these bytes: PKCS#7, DER.
    """
    return content + signature + _TRAILER.pack(_PKCS7, len(signature)) + MARK


AGAIN = "copy the file again from where it was signed; if it is the same there, do not use it"
"""What to do about something that is damaged."""
