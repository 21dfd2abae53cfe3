# SPDX-License-Identifier: GPL-2.0-or-later
"""Configurations: what is read, what is needed, and what may not change."""

from __future__ import annotations

from pathlib import Path

import pytest

from livegraft.errors import Exit, ImageError, Refused, WrongCompiler
from livegraft.kernel.compiler import find_compiler, version_text
from livegraft.kernel.config import NEEDED, Config, check_unchanged, check_usable

TEXT = r"""#
# Automatically generated file; DO NOT EDIT.
#
CONFIG_SMP=y
CONFIG_EXT4_FS=m
# CONFIG_MODULE_SIG_FORCE is not set
CONFIG_NR_CPUS=8192
CONFIG_DEFAULT_HOSTNAME="(none)"
CONFIG_BUILD_SALT=""
CONFIG_CMDLINE="a=\"b\" c=\\d"
"""


def test_parse() -> None:
    config = Config.parse(TEXT)
    assert dict(config) == {
        "CONFIG_SMP": "y",
        "CONFIG_EXT4_FS": "m",
        "CONFIG_NR_CPUS": "8192",
        "CONFIG_DEFAULT_HOSTNAME": "(none)",
        "CONFIG_BUILD_SALT": "",
        "CONFIG_CMDLINE": 'a="b" c=\\d',
    }
    assert config.enabled("CONFIG_SMP") and config.enabled("CONFIG_EXT4_FS")
    assert not config.enabled("CONFIG_MODULE_SIG_FORCE")


@pytest.mark.parametrize("text", ["CONFIG_SMP\n", "hello\n", "\x7fELF\n"])
def test_no_configuration(text: str) -> None:
    with pytest.raises(ImageError, match="no kernel configuration"):
        Config.parse(text)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="is missing"):
        Config.read(tmp_path / ".config")


@pytest.mark.parametrize("name", sorted(NEEDED))
def test_each_needed_setting_is_refused_by_name(name: str) -> None:
    settings = dict.fromkeys(NEEDED, "y")
    check_usable("6.1.0-55-amd64", Config(settings))
    del settings[name]
    with pytest.raises(Refused) as raised:
        check_usable("6.1.0-55-amd64", Config(settings))
    assert [(each.rule, each.object) for each in raised.value.reasons] == [("kernel-config", name)]
    assert raised.value.exit_code is Exit.REFUSED


def test_keys_and_salt_may_change() -> None:
    made = Config.parse(
        TEXT.replace("CONFIG_BUILD_SALT", "CONFIG_SYSTEM_TRUSTED_KEYS")
        + 'CONFIG_MODULE_SIG_ALL=y\nCONFIG_MODULE_SIG_KEY="certs/signing_key.pem"\n'
    )
    check_unchanged("6.1.0-55-amd64", Config.parse(TEXT), made)


@pytest.mark.parametrize(
    ("line", "package"),
    [
        ("CONFIG_PAHOLE_VERSION=124\n", "pahole"),
        ("CONFIG_DEBUG_INFO_BTF=y\n", "pahole"),
        ("CONFIG_AS_VERSION=24000\n", "binutils"),
        ("CONFIG_CC_CAN_LINK=y\n", "libc6-dev"),
        ("CONFIG_CC_HAS_ASM_GOTO_OUTPUT=y\n", "gcc"),
        ("CONFIG_PREEMPT_DYNAMIC=y\n", "make setup"),
    ],
)
def test_a_changed_setting_names_its_tool(line: str, package: str) -> None:
    shipped = Config.parse(TEXT + line)
    with pytest.raises(Refused) as raised:
        check_unchanged("6.1.0-55-amd64", shipped, Config.parse(TEXT))
    (reason,) = raised.value.reasons
    assert (reason.rule, reason.object) == ("config-changed", line.partition("=")[0])
    assert package in reason.remedy


def test_the_compiler_may_be_called_by_another_name_only() -> None:
    named = 'CONFIG_CC_VERSION_TEXT="{} (Debian 12.2.0-14) {}"\n'.format
    shipped = Config.parse(named("x86_64-linux-gnu-gcc-12", "12.2.0"))
    check_unchanged("r", shipped, Config.parse(named("gcc-12", "12.2.0")))
    with pytest.raises(Refused, match="CC_VERSION_TEXT"):
        check_unchanged("r", shipped, Config.parse(named("gcc-12", "12.2.1")))


def _fake_compiler(folder: Path, name: str, version: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\necho '{name} {version}'\necho Copyright\n")
    path.chmod(0o755)


def _built_by(text: str) -> Config:
    return Config({"CONFIG_CC_VERSION_TEXT": text})


def test_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    version = "(Debian 98.2.0-14+deb12u1) 98.2.0"
    text = f"x86_64-linux-gnu-gcc-98 {version}"
    with pytest.raises(WrongCompiler) as raised:
        find_compiler("6.12.117+deb12-amd64", _built_by(text))
    assert "no gcc-98" in raised.value.problem
    assert "gcc-98=98.2.0-14+deb12u1" in raised.value.remedy
    assert version_text("gcc-98") is None

    _fake_compiler(tmp_path, "gcc-98", version)
    assert find_compiler("6.12.117+deb12-amd64", _built_by(text)) == "gcc-98"
    _fake_compiler(tmp_path, "x86_64-linux-gnu-gcc-98", version)
    assert find_compiler("6.12.117+deb12-amd64", _built_by(text)) == "x86_64-linux-gnu-gcc-98"
    assert find_compiler("6.1.0-55-amd64", _built_by(f"gcc-98 {version}")) == "gcc-98"


def test_another_version_of_the_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    _fake_compiler(tmp_path, "gcc-99", "(Debian 99.2.0-14) 99.2.0")
    with pytest.raises(WrongCompiler) as raised:
        find_compiler("6.1.0-55-amd64", _built_by("gcc-99 (Debian 99.2.0-14+deb12u1) 99.2.0"))
    assert "here is gcc-99 (Debian 99.2.0-14) 99.2.0" in raised.value.problem


def test_no_compiler_in_the_configuration() -> None:
    with pytest.raises(WrongCompiler, match="names no compiler"):
        find_compiler("6.1.0-55-amd64", Config({}))
