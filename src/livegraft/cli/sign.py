# SPDX-License-Identifier: GPL-2.0-or-later
"""``livegraft sign``: vouch for a module."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from livegraft.cli import target
from livegraft.cli.verb import Answer, Context, Verb
from livegraft.errors import Exit

if TYPE_CHECKING:
    from livegraft.trust.signing import Key


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("patch", metavar="PATCH.ko", type=Path, help="the module")
    parser.add_argument(
        "--key",
        metavar="KEY",
        required=True,
        help="the private key: a file in PEM, or a token's URI (pkcs11:...); a passphrase or PIN "
        "is taken from the variable KBUILD_SIGN_PIN",
    )
    parser.add_argument(
        "--cert", metavar="CERT", type=Path, required=True, help="its certificate, in PEM or DER"
    )
    parser.add_argument(
        "--detached",
        action="store_true",
        help="leave PATCH.ko as it is, and write PATCH.ko.SIGNER.p7s beside it",
    )
    parser.add_argument(
        "--name",
        metavar="SIGNER",
        default="",
        help="what the signer is called (default: CERT without its suffix)",
    )


def run(arguments: argparse.Namespace, context: Context) -> Answer:
    """Sign the module."""
    (patch,) = target.files([arguments.patch], "a kernel module")
    target.files([arguments.cert], "a certificate")
    from livegraft.trust.signing import Key

    key = Key.open(arguments.key, arguments.cert, arguments.name)
    path, replaced = sign(patch, key, detached=arguments.detached)
    document = {
        "path": str(path),
        "signer": key.signer.as_json(),
        "replaced": replaced,
        "timings": context.timings(),
    }
    text = f"{path}: signed by {key.signer}"
    return Answer(document, f"{text}; the signature that it had is gone" if replaced else text)


def sign(patch: Path, key: Key, *, detached: bool = False) -> tuple[Path, bool]:
    """Sign a module's file.

    Args:
        patch: the module; a signature at its end is no part of what is signed.
        key: the key, which was tried.
        detached: write a file beside the module.

    Returns:
        The file that was written, and whether a signature in it was replaced.

    Raises:
        ModuleError: it is no module, or it cannot be signed.
        Untrusted: what is at its end is no whole signature.
    """
    from livegraft.elf import header
    from livegraft.errors import ElfError, ModuleError
    from livegraft.module.delivery import write_whole
    from livegraft.trust import appended
    from livegraft.trust import detached as beside

    data = patch.read_bytes()
    content, before = appended.split(data, str(patch))
    try:
        file = header.parse(content, str(patch))
    except ElfError as error:
        raise ModuleError(str(patch), error.problem, "name a module") from error
    if file.section(".modinfo") is None or file.end != len(content):
        raise ModuleError(str(patch), "is not a whole kernel module", "name a module")
    signature = key.sign(content)
    if not detached:
        write_whole(patch, appended.append(content, signature))
        return patch, before is not None
    path = beside.place(patch, key.signer.name)
    replaced = path.exists()
    write_whole(path, signature)
    return path, replaced


VERB = Verb(
    name="sign",
    description="""\
Sign a live patch, or the engine: put a signature at its end, which 'livegraft load' and the kernel
look for there. It is the same as that of the kernel's own scripts/sign-file; one that is there
already is replaced.

With --detached the signature goes to a file of its own, PATCH.ko.SIGNER.p7s, for a reviewer beside
the author: any number of these may lie there, in any order, and all are over the same bytes as the
one at the end. A machine's trusted.d has to hold the certificate of each.""",
    examples=(
        "livegraft sign fix.ko --key author.key --cert author.pem",
        "livegraft sign fix.ko --key reviewer.key --cert reviewer.pem --detached",
        "livegraft sign fix.ko --key pkcs11:token=keys;object=author --cert author.pem",
    ),
    configure=configure,
    run=run,
    exits={
        Exit.DONE: "the module is signed",
        Exit.REFUSED: "what is at its end is no whole signature",
    },
)
