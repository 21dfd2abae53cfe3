# SPDX-License-Identifier: GPL-2.0-or-later
"""Where x86-64 instructions end; whole kernel units are checked against objdump elsewhere."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from livegraft.elf.arch import x86_64 as arch
from livegraft.elf.arch.architecture import Undecodable
from livegraft.elf.arch.s390x import S390X
from livegraft.elf.arch.x86_64_decode import decode

ONE = {
    "nop": "90",
    "ret": "c3",
    "endbr64": "f30f1efa",
    "call": "e800000000",
    "jmp short": "eb05",
    "je near": "0f8400000000",
    "push $imm8": "6a01",
    "push $imm32": "6800010000",
    "mov $imm32,%edx": "ba39050000",
    "mov $imm32,%r8d": "41b839050000",
    "movabs $imm64,%rax": "48b80123456789abcdef",
    "mov $imm16,%ax": "66b83412",
    "movl $imm32,(%rsp)": "c7042439050000",
    "movl $imm32,x(%rip)": "c7050000000001000000",
    "movw $imm16,x(%rip)": "66c705000000000100",
    "cmpl $imm8,x(%rip)": "833d0000000001",
    "testb $imm8,x(%rip)": "f6050000000001",
    "testl $imm32,x(%rip)": "f70500000000ffffff00",
    "notl x(%rip)": "f71500000000",
    "mov %gs:x,%rax": "65488b042500000000",
    "mov x(,%rax,8),%rax": "488b04c500000000",
    "lock xadd": "f00fc107",
    "movabs x,%al": "a00000000000000000",
    "imul $imm8": "6bc003",
    "enter": "c8100000",
    "mov %cr3,%rax": "0f20d8",
    "nopw": "66660f1f840000000000",
    "pshufd": "660f70c01b",
    "palignr": "660f3a0fc104",
    "vmovdqu": "c5fa6f06",
    "vpermq": "c4e3fd00c04e",
    "vpternlogd (evex)": "62f36d4825c196",
    "vzeroupper": "c5f877",
    "ud2": "0f0b",
    "bt $imm8": "0fbae007",
}


@pytest.mark.parametrize("name", ONE)
def test_length(name: str) -> None:
    code = bytes.fromhex(ONE[name])
    (instruction,) = decode(code)
    assert (instruction.offset, instruction.end) == (0, len(code))


@pytest.mark.parametrize("name", ONE)
def test_cut_off(name: str) -> None:
    code = bytes.fromhex(ONE[name])
    if len(code) > 1:
        with pytest.raises(Undecodable):
            list(decode(code[:-1]))


@pytest.mark.parametrize("code", ["06", "60", "9a00000000", "d6", "ea00", "8fc0" + "38" * 3])
def test_no_instruction_of_64_bit_mode(code: str) -> None:
    if code.startswith("8f"):
        assert next(decode(bytes.fromhex(code))).end == 2  # pop %rax in its long form
        return
    with pytest.raises(Undecodable):
        list(decode(bytes.fromhex(code)))


@given(st.binary(min_size=1, max_size=64))
def test_any_bytes_decode_in_full_or_not_at_all(code: bytes) -> None:
    try:
        listed = list(decode(code))
    except Undecodable:
        return
    assert listed[0].offset == 0 and listed[-1].end == len(code)
    for each, following in pairwise(listed):
        assert each.end == following.offset
    for each in listed:
        assert each.offset < each.immediate <= each.end
        assert each.displacement <= each.immediate


@pytest.mark.parametrize(
    ("name", "place"),
    [("call", 5), ("jmp short", 7), ("je near", 6), ("ret", None), ("nop", None)],
)
def test_destination(name: str, place: int | None) -> None:
    code = bytes.fromhex(ONE[name])
    (instruction,) = decode(code)
    assert arch.destination(instruction, code) == place


@pytest.mark.parametrize(
    ("name", "argument"),
    [
        ("mov $imm32,%edx", 3),
        ("mov $imm32,%r8d", 5),
        ("push $imm8", 0),
        ("push $imm32", 0),
        ("movl $imm32,(%rsp)", None),
        ("movl $imm32,x(%rip)", None),
        ("cmpl $imm8,x(%rip)", None),
        ("mov %cr3,%rax", None),
    ],
)
def test_loaded_argument(name: str, argument: int | None) -> None:
    code = bytes.fromhex(ONE[name])
    (instruction,) = decode(code)
    load = arch.loaded_argument(instruction, code)
    assert (load is None) == (argument is None)
    if load is not None and argument is not None:
        found = [place for place in range(1, 9) if arch.X86_64.is_argument(load, place)]
        assert found == [argument] * bool(argument)


@pytest.mark.parametrize(
    ("code", "argument"),
    [
        ("e54cf0a4007b", 6),  # mvhi 164(%r15),123: the lower half of eight bytes
        ("e548f0a8007b", 7),  # mvghi 168(%r15),123
        ("e54cf09c007b", None),  # mvhi 156(%r15),123: where callees save registers
        ("e54c20a4007b", None),  # mvhi 164(%r2),123
    ],
)
def test_an_argument_on_the_stack_of_s390x(code: str, argument: int | None) -> None:
    data = bytes.fromhex(code)
    (instruction,) = S390X.decode(data, 0, len(data))
    load = S390X.loaded_argument(instruction, data)
    assert (load.argument if load is not None else None) == argument


@pytest.mark.parametrize(
    ("code", "field", "expected"),
    [
        ("e800000000", 1, True),
        ("e900000000", 1, True),
        ("0f8500000000", 2, True),
        ("833d0000000001", 2, False),
        ("488d3d00000000", 3, False),
    ],
)
def test_is_branch(code: str, field: int, expected: bool) -> None:
    assert arch.is_branch(bytes.fromhex(code), field) is expected


@pytest.mark.parametrize(
    ("code", "is_sure"),
    [
        ("90 90 90 90 8b 05", True),  # mov 0(%rip),%eax
        ("90 90 90 48 39 1d", True),  # cmp %rbx,0(%rip)
        ("90 90 90 90 83 3d", False),  # cmpl $imm8,0(%rip)
        ("90 90 90 90 f6 05", False),  # testb $imm8,0(%rip)
        ("90 90 90 90 c7 05", False),  # movl $imm32,0(%rip)
        ("90 90 90 0f b6 05", False),  # movzbl 0(%rip),%eax: not a single byte
        ("90 c4 e3 79 39 05", False),  # vextracti128 $imm8: an opcode that is cmp elsewhere
        ("90 90 90 90 8b 45", False),  # mov 0(%rbp),%eax is not PC-relative
        ("8b 05", False),  # nothing in front to be sure of
    ],
)
def test_what_surely_ends_with_its_operand(code: str, is_sure: bool) -> None:
    data = bytes.fromhex(code)
    assert arch.is_last(data + bytes(4), len(data)) is is_sure
