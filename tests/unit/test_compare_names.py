# SPDX-License-Identifier: GPL-2.0-or-later
"""Names that compiler and macros make, with examples from real kernel units."""

from __future__ import annotations

import pytest

from livegraft.compare import names, sections
from livegraft.compare.lines import _line_conversions, takers
from livegraft.compare.references import identifier, plain_identifier


@pytest.mark.parametrize(
    ("name", "base", "family"),
    [
        ("ext4_mb_init_group", "ext4_mb_init_group", "ext4_mb_init_group"),
        ("count.12", "count", "count.#"),
        ("ext4_mb_free_metadata.isra.0", "ext4_mb_free_metadata", "ext4_mb_free_metadata.isra.#"),
        ("f.constprop.0.isra.0.cold", "f", "f.constprop.#.isra.#.cold"),
        ("f.part.3", "f", "f.part.#"),
        ("__UNIQUE_ID_ddebug1234.5", "__UNIQUE_ID_ddebug1234", "__UNIQUE_ID_ddebug#.#"),
        (
            "__initcall__kmod_ext4__1614_11671_net_dev_init4",
            "__initcall__kmod_ext4__1614_11671_net_dev_init4",
            "__initcall__kmod_ext4__#_net_dev_init4",
        ),
    ],
)
def test_base_and_family(name: str, base: str, family: str) -> None:
    assert (names.base(name), names.family(name)) == (base, family)
    assert names.is_numbered(name) == (family != name)


@pytest.mark.parametrize(
    "name",
    [
        *(
            "__func__.3",
            "__FUNCTION__.0",
            "__PRETTY_FUNCTION__.1",
            "__already_done.7",
            "__warned.2",
        ),
        *("__print_once", "_rs.14", "__key.22", "CSWTCH.9", "__UNIQUE_ID_ddebug12.3"),
        *("__ddebug.4", "descriptor.8", "_entry.5", "_entry_ptr.5"),
    ],
)
def test_always_new(name: str) -> None:
    assert names.is_always_new(name)


@pytest.mark.parametrize("name", ["count.3", "___done.1", "___once_key.2", "_rs_lock", "my__key"])
def test_state_that_lives_on(name: str) -> None:
    assert not names.is_always_new(name)


@pytest.mark.parametrize(
    ("name", "parent"),
    [
        ("f.cold", "f"),
        ("f.isra.0.cold", "f.isra.0"),
        ("f.cold.5", "f"),
        ("f.part.0", ""),
        ("f.colder", ""),
        ("f", ""),
    ],
)
def test_parent(name: str, parent: str) -> None:
    assert names.parent(name) == parent


def test_the_line_of_a_debug_descriptor_is_18_bits() -> None:
    bits = names.line_bits("__UNIQUE_ID_ddebug12.3", "<")
    assert sum(mask.bit_count() for mask in bits.values()) == 18
    assert not names.line_bits("count.3", "<")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (b"%s:%d: %d\n", [(1, True)]),
        (b"RTNL: assertion failed at %s (%d)\n", [(1, True)]),
        (b"Assertion failure in %s() at %s:%d: '%s'\n", [(2, True)]),
        (b"in file %s, line %u", [(1, True)]),
        (b"line %d", [(0, True)]),
        (b"%s: %d: event = %d\n", [(1, False)]),
        (b"%s %d scheduled\n", [(1, False)]),
        (b"%s has %d\n", []),
        (b"%d blocks", []),
        (b"%pS: %d%%", []),
    ],
)
def test_conversions_that_print_a_line(text: bytes, found: list[tuple[int, bool]]) -> None:
    assert list(_line_conversions(text)) == found


def test_the_table_of_line_takers_is_sound() -> None:
    assert takers()["__ext4_error"] == [3]
    assert all(places and all(place > 0 for place in places) for places in takers().values())


def test_identifiers_are_valid_and_different() -> None:
    listed = ["f.isra.0", "f.isra_0", "f_isra_0", "f"]
    made = [identifier(name) for name in listed]
    assert len(set(made)) == len(made)
    assert all(each.isidentifier() for each in made)
    assert plain_identifier("fs/ext4/mballoc") == "fs_ext4_mballoc"


@pytest.mark.parametrize(
    ("name", "initial", "copyable", "without_meaning"),
    [
        (".init.text", True, False, False),
        (".initcall4.init", True, False, False),
        (".exit.text", True, False, False),
        (".data..read_mostly", False, True, False),
        (".data", False, True, False),
        (".database", False, False, False),
        ("__dyndbg", False, True, False),
        ("__param", False, False, False),
        (".discard.addressable", False, False, True),
        (".discard.reachable", False, False, False),
        (".orc_unwind_ip", False, False, True),
    ],
)
def test_sections(name: str, initial: bool, copyable: bool, without_meaning: bool) -> None:
    assert sections.is_initial(name) == initial
    assert sections.is_copyable(name) == copyable
    assert sections.is_without_meaning(name) == without_meaning
