# SPDX-License-Identifier: GPL-2.0-or-later
"""Names, manifest, glue and the build system's complaints: what needs no compiler."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from typing import Any

import pytest
from tests.unit.test_runtime_payload import module

from livegraft.changeset import VMLINUX, ChangeSet, Function, Piece, Reference, State, Target
from livegraft.errors import ModuleError, UsageError
from livegraft.module import glue, manifest
from livegraft.module.advisory import MOST, Advisory
from livegraft.module.difference import HEADERS, first_difference
from livegraft.module.link import complaints
from livegraft.module.manifest import Identity, Provenance
from livegraft.module.name import check_name, module_name
from livegraft.runtime.payload import parse_manifest

IDENTITY = Identity("6.1.0-55-amd64", "6.1.192-1", {VMLINUX: "12" * 20, "ext4": "34" * 20})
PROVENANCE = Provenance("ab" * 32, ("fs/ext4/b.c", "fs/ext4/a.c"), True, "gcc-12", "0.1.0")


def piece(unit: str, object: str, *functions: tuple[str, State]) -> Piece:
    return Piece(
        unit,
        object,
        b"",
        tuple(
            Function(unit, Target(object, name, 1), state, f"lg_new_{name}" * (state == "changed"))
            for name, state in functions
        ),
        (),
    )


CHANGES = ChangeSet(
    "compare",
    (
        piece("fs/ext4/a.c", "ext4", ("one", State.CHANGED), ("two", State.NEW)),
        piece("fs/proc/cmdline.c", VMLINUX, ("three", State.CHANGED)),
        piece("fs/ext4/b.c", "ext4", ("four", State.REMOVED)),
    ),
    ("mind this",),
)
REFERENCES = {
    f"r{n}": Reference(f"r{n}", VMLINUX, Target(VMLINUX, f"symbol_{n}", n)) for n in range(1, 6)
}


def make(identity: Identity = IDENTITY, provenance: Provenance = PROVENANCE) -> dict[str, Any]:
    return manifest.make_manifest(
        CHANGES,
        name="livegraft_x",
        identity=identity,
        provenance=provenance,
        references=REFERENCES,
        counts=dict.fromkeys(REFERENCES, 3),
        cold={Target("ext4", "one", 1)},
    )


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("CVE-2026-1.ko", "livegraft_cve_2026_1"),
        ("livegraft_x.ko", "livegraft_x"),
        ("/some/where/Fix me, please!.ko", "livegraft_fix_me_please"),
        (".ko", "livegraft_ko"),
        ("---.ko", "livegraft_fix"),
        ("x" * 200 + ".ko", "livegraft_" + "x" * 45),
    ],
)
def test_names_are_made_from_file_names(file: str, name: str) -> None:
    assert module_name(file) == name
    check_name(name)


def test_the_runtime_reads_what_is_written() -> None:
    read = parse_manifest(manifest.encode(make()), "test")
    assert (read.name, read.release, read.fix_sha256) == (
        "livegraft_x",
        "6.1.0-55-amd64",
        "ab" * 32,
    )
    assert [(each.name, each.build_id) for each in read.objects] == [
        (VMLINUX, "12" * 20),
        ("ext4", "34" * 20),
    ]
    assert [(each.name, each.state, each.cold) for each in read.objects[1].functions] == [
        ("four", "removed", None),
        ("one", "changed", True),
        ("two", "new", None),
    ]
    assert [each.cold for each in read.objects[0].functions] == [False]
    assert read.proof is True
    unproved = make(provenance=replace(PROVENANCE, proof=False))
    assert parse_manifest(manifest.encode(unproved), "test").proof is False


def test_a_manifest_does_not_depend_on_the_order_of_what_went_in() -> None:
    first = manifest.encode(make())
    for seed in range(5):
        names = list(REFERENCES)
        random.Random(seed).shuffle(names)
        again = manifest.make_manifest(
            CHANGES,
            name="livegraft_x",
            identity=replace(IDENTITY, build_ids=dict(reversed([*IDENTITY.build_ids.items()]))),
            provenance=replace(PROVENANCE, files=PROVENANCE.files[::-1]),
            references={name: REFERENCES[name] for name in names},
            counts=dict.fromkeys(names, 3),
            cold={Target("ext4", "one", 1)},
        )
        assert manifest.encode(again) == first


@pytest.mark.parametrize("build_id", ["", "12", "xy" * 20, "12" * 20 + "3"])
def test_an_identity_that_is_none_is_refused(build_id: str) -> None:
    with pytest.raises(ModuleError, match="build ID"):
        make(identity=replace(IDENTITY, build_ids={VMLINUX: "12" * 20, "ext4": build_id}))
    with pytest.raises(ModuleError, match="build ID"):
        make(identity=replace(IDENTITY, build_ids={"ext4": "12" * 20}))


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"format": 2}', b"\xff\xfe", b'{"a": 1}'])
def test_a_damaged_manifest_is_refused(data: bytes) -> None:
    with pytest.raises(ModuleError):
        manifest.decode(data, "test.ko")


def test_a_manifest_comes_back() -> None:
    assert manifest.decode(manifest.encode(make()), "test.ko") == json.loads(json.dumps(make()))


def test_a_manifest_of_before_is_read_as_one_that_names_nothing() -> None:
    old = make()
    for name in ("cves", "upstream"):
        del old["fix"][name]
    data = manifest.encode(old)
    assert manifest.decode(data, "test.ko") == make()
    read = parse_manifest(data, "test")
    assert (read.cves, read.upstream) == ((), ())


def test_what_a_fix_is_known_by() -> None:
    """In a fixed order, each once, however it was given."""
    one = Advisory.parse(["CVE-2026-12345", "cve-2026-2345", "CVE-2025-99999"], ["AB" * 20] * 2)
    assert one.cves == ("CVE-2025-99999", "CVE-2026-2345", "CVE-2026-12345")
    assert one.upstream == ("ab" * 20,)
    document = make(provenance=replace(PROVENANCE, advisory=one))
    read = parse_manifest(manifest.encode(document), "test")
    assert (read.cves, read.upstream) == (one.cves, one.upstream)


@pytest.mark.parametrize(
    ("cves", "upstream"),
    [
        (["2026-1234"], []),
        (["CVE-2026-123"], []),
        (["CVE-2026-1234 "], []),
        (["CVE-2026-" + "1" * 20], []),
        ([f"CVE-2026-{1000 + each}" for each in range(MOST + 1)], []),
        ([], ["ab" * 5]),
        ([], ["HEAD"]),
        ([], ["ab" * 21]),
    ],
)
def test_what_no_fix_is_known_by(cves: list[str], upstream: list[str]) -> None:
    with pytest.raises(UsageError):
        Advisory.parse(cves, upstream)


SECTIONS = {".modinfo": b"one", ".text": b"some code", ".livegraft": b"{}"}


@pytest.mark.parametrize(
    ("change", "where", "said", "others"),
    [
        ({".text": b"some Code"}, (".text", 5), "436f6465, and 636f6465 was built", ()),
        ({".text": b"some code!"}, (".text", 9), "10 bytes, and 9 were built", ()),
        (
            {".modinfo": b"two", ".text": b"other"},
            (".modinfo", 0),
            "74776f, and 6f6e65 was built",
            (".text",),
        ),
        ({".data": b"new"}, (".shstrtab", 28), "", (".data",)),
        (
            {".livegraft": b'{"format":1,"a":1,"b":2}'},
            (".livegraft", 1),
            "24 bytes, and 2 were built",
            (),
        ),
    ],
)
def test_the_first_difference(
    change: dict[str, bytes], where: tuple[str, int], said: str, others: tuple[str, ...]
) -> None:
    found = first_difference(module(SECTIONS | change), module(SECTIONS))
    assert found is not None
    assert (found.section, found.offset) == where
    assert said in found.message
    assert found.others == others


def test_manifests_differ_by_their_members() -> None:
    given = manifest.encode(make(provenance=replace(PROVENANCE, version="0.2", compiler="gcc-13")))
    found = first_difference(
        module({".livegraft": given}), module({".livegraft": manifest.encode(make())})
    )
    assert found is not None
    assert found.message == "the manifests differ in compiler, tool"


def test_no_difference_and_one_in_no_section() -> None:
    data = module(SECTIONS)
    assert first_difference(data, data) is None
    flags = bytearray(data)
    flags[48] ^= 1  # e_flags
    found = first_difference(bytes(flags), data)
    assert found is not None
    assert (found.section, found.offset) == (HEADERS, 48)
    assert first_difference(data + b"x", data) is not None


def test_the_glue_redirects_changed_functions_only() -> None:
    text = glue.render(
        CHANGES,
        name="livegraft_x",
        description="Test",
        version="0.1.0",
        fix_sha256="ab" * 32,
        namespaces=("CRYPTO_INTERNAL",),
        cves=("CVE-2026-1234", "CVE-2026-12345"),
    )
    assert text.count(".old_name = ") == 2
    assert "two" not in text and "four" not in text
    assert text.index('.old_name = "three"') < text.index('.old_name = "one"')
    assert 'MODULE_INFO(import_ns, "CRYPTO_INTERNAL");' in text
    assert f'lg_mark[] = "1:{"ab" * 32}"' in text
    assert 'lg_fixes[] = "CVE-2026-1234 CVE-2026-12345";' in text
    assert "{{" not in text and "{%" not in text


@pytest.mark.parametrize("count", [0, 2])
def test_the_core_of_an_unknown_kind_is_refused(count: int) -> None:
    with pytest.raises(ModuleError, match="once is expected"):
        glue.references({"klp_transition_work": 1, "klp_transition_patch": count})


def test_complaints_are_told_from_what_is_expected() -> None:
    expected = """\
  CC [M]  lg_glue.o
WARNING: modpost: "lg_reference_0" [livegraft_x.ko] undefined!
WARNING: modpost: suppressed 3 unresolved symbol warnings because there were too many)
warning: the compiler differs from the one used to build the kernel
  The kernel was built by: x86_64-linux-gnu-gcc-12 (Debian 12.2.0-14+deb12u1) 12.2.0
livegraft_x.o: warning: objtool: lg_funcs_0+0x8: data relocation to !ENDBR: f+0x0
"""
    assert complaints(expected) == []
    for line in (
        "lg_piece_0.o: warning: objtool: f+0x1: unreachable instruction",
        "livegraft_x.o: warning: objtool: .data.x+0x8: data relocation to !ENDBR: f+0x0",
        "WARNING: modpost: livegraft_x: section mismatch in reference: f -> g (.init.text)",
        "lg_glue.c:9:1: warning: unused variable",
        "error: objtool: cannot decode",
    ):
        assert complaints(expected + line) == [line]
