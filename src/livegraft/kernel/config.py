# SPDX-License-Identifier: GPL-2.0-or-later
"""A kernel's configuration: the ``.config`` format, and what this program needs of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from livegraft.errors import ImageError, Reason, Refused

NEEDED: Mapping[str, str] = {
    "CONFIG_X86_64": "only 64-bit x86 kernels can be patched",
    "CONFIG_MODULES": "a live patch is a module",
    "CONFIG_LIVEPATCH": "the kernel has no livepatch core",
    "CONFIG_DYNAMIC_FTRACE": "functions cannot be redirected",
    "CONFIG_KALLSYMS_ALL": "the kernel does not know where its variables are",
    "CONFIG_HAVE_RELIABLE_STACKTRACE": "the kernel cannot tell whether a task is in a function",
}
"""Settings without which a kernel is no target, and what is wrong without each."""

OF_THE_KEYS = frozenset(
    (
        *("CONFIG_BUILD_SALT", "CONFIG_MODULE_SIG_ALL", "CONFIG_MODULE_SIG_KEY"),
        *("CONFIG_SYSTEM_TRUSTED_KEYS", "CONFIG_SYSTEM_REVOCATION_KEYS"),
    )
)
"""What Debian takes out of the shipped file (its keys and salt): no code depends on it."""

_MADE_BY = (
    (("CONFIG_PAHOLE", "CONFIG_DEBUG_INFO_BTF"), "pahole", "dwarves or pahole"),
    (("CONFIG_AS_", "CONFIG_LD_", "CONFIG_TOOLS_SUPPORT_RELR"), "as and ld", "binutils"),
    (("CONFIG_CC_CAN_LINK",), "the C library's development files", "libc6-dev"),
    (("CONFIG_CC_", "CONFIG_GCC_", "CONFIG_CLANG_"), "the compiler", "gcc"),
    (("CONFIG_RUST", "CONFIG_BINDGEN"), "rustc", "rustc"),
)
"""Prefixes of settings that Kconfig fills in from tools: the tool, and Debian's package of it."""


@dataclass(frozen=True, slots=True)
class Config(Mapping[str, str]):
    """The settings of a kernel by their full names (``CONFIG_SMP``).

    A value is ``y``, ``m``, a number, or a string without its quotes. What is not set is not in it.
    """

    settings: Mapping[str, str]

    @classmethod
    def read(cls, path: Path) -> Config:
        """Read a ``.config`` file.

        Raises:
            ImageError: the file is not there or holds something else.
        """
        try:
            text = path.read_text("utf-8")
        except FileNotFoundError as error:
            raise ImageError(str(path), "is missing", "prepare the kernel again") from error
        return cls.parse(text, str(path))

    @classmethod
    def parse(cls, text: str, subject: str = ".config") -> Config:
        """Read the text of a ``.config`` file (Documentation/kbuild/kconfig.rst).

        Raises:
            ImageError: a line is neither a setting nor a comment.
        """
        settings: dict[str, str] = {}
        for line in text.splitlines():
            if line.startswith("CONFIG_"):
                name, equals, value = line.partition("=")
                if not equals:
                    raise ImageError(subject, f"is no kernel configuration: {line!r}")
                settings[name] = _unquoted(value)
            elif line and not line.startswith("#"):
                raise ImageError(subject, f"is no kernel configuration: {line!r}")
        return cls(settings)

    def __getitem__(self, name: str) -> str:
        return self.settings[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.settings)

    def __len__(self) -> int:
        return len(self.settings)

    def enabled(self, name: str) -> bool:
        """Whether the setting is ``y`` or ``m``."""
        return self.settings.get(name) in ("y", "m")

    def missing(self) -> dict[str, str]:
        """The :data:`NEEDED` settings that are off, with what is wrong without each."""
        return {name: why for name, why in NEEDED.items() if self.settings.get(name) != "y"}

    def differences(self, other: Config) -> dict[str, tuple[str | None, str | None]]:
        """The settings that differ: the value here and the value in `other`."""
        names = sorted(set(self.settings) | set(other.settings))
        pairs = {name: (self.settings.get(name), other.settings.get(name)) for name in names}
        return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def check_usable(release: str, config: Config) -> None:
    """Refuse a kernel that cannot be patched live.

    Raises:
        Refused: with one reason for each setting that is off.
    """
    reasons = [
        Reason("kernel-config", name, f"is off: {why}", "take a kernel that has it on")
        for name, why in config.missing().items()
    ]
    if reasons:
        raise Refused(release, reasons)


def check_unchanged(release: str, shipped: Config, made: Config) -> None:
    """Refuse a build tree whose configuration is not the shipped one.

    Kconfig fills in what the tools of this machine can do. A missing or other tool therefore
    changes the configuration, and with it perhaps the code.

    Raises:
        Refused: with one reason for each setting that differs.
    """
    reasons = []
    for name, (before, after) in shipped.differences(made).items():
        if name in OF_THE_KEYS or _same_compiler(name, before, after):
            continue
        reasons.append(
            Reason(
                "config-changed",
                name,
                f"was {_shown(before)} in the shipped kernel and is {_shown(after)} here",
                _remedy(name),
            )
        )
    if reasons:
        raise Refused(release, reasons)


def _same_compiler(name: str, before: str | None, after: str | None) -> bool:
    """Whether it is the compiler's version text, which differs at most in the name called by."""
    if name != "CONFIG_CC_VERSION_TEXT" or not before or not after:
        return False
    return before.partition(" ")[2] == after.partition(" ")[2]


def _remedy(name: str) -> str:
    for prefixes, tool, package in _MADE_BY:
        if name.startswith(prefixes):
            return (
                f"{tool} decides it: install the version of {package} that the kernel's suite has"
            )
    return "a tool that the kernel was built with is missing or another version: run 'make setup'"


def _shown(value: str | None) -> str:
    return "not set" if value is None else f'"{value}"'


def _unquoted(value: str) -> str:
    if len(value) >= 2 and value[0] == value[-1] == '"':
        return value[1:-1].replace('\\"', '"').replace("\\\\", "\\")
    return value
