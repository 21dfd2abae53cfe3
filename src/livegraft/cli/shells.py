# SPDX-License-Identifier: GPL-2.0-or-later
"""Completion scripts for bash, zsh and fish."""

from __future__ import annotations

from collections.abc import Sequence

from livegraft.cli.tree import Argument, Command, Kind, own_options, positionals
from livegraft.runtime.installed import PLACE

RELEASES = r'$(cd "${XDG_CACHE_HOME:-$HOME/.cache}/livegraft/kernel" 2>/dev/null && ls)'
"""The prepared kernels: one folder each in the cache."""

ENGINE_FILES = "-I models -I options -I version"
"""What is no folder of a patch in the engine's directory (kmod/README.md)."""

PATCHES = (
    "$(cd /sys/kernel/livepatch 2>/dev/null && ls; "
    f"cd /sys/kernel/livegraft 2>/dev/null && ls {ENGINE_FILES})"
)
"""The loaded patches (Documentation/ABI/testing/sysfs-kernel-livepatch): one folder each."""

INSTALLED = f"$(cd /{PLACE} 2>/dev/null && ls | while read -r one; do ls $one; done)"
"""The installed patches: a folder for each kernel, with one for each patch."""

HEADER = "# completion of livegraft for {shell}, made by 'livegraft completion {shell}'\n"


def bash(commands: Sequence[Command], shared: Sequence[Argument]) -> str:
    """A script for bash (the manual's chapter "Programmable Completion")."""
    verbs = " ".join(command.verb.name for command in commands)
    options = _flags(shared)
    values = _bash_values(shared, "    ")
    cases = "\n".join(_bash_verb(command) for command in commands)
    return f"""{HEADER.format(shell="bash")}_livegraft()
{{
    local cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD-1]}} verb= i
    COMPREPLY=()
    for ((i = 1; i < COMP_CWORD; i++)); do
        case ${{COMP_WORDS[i]}} in
            --cache) ((i++)) ;;
            -*) ;;
            *) verb=${{COMP_WORDS[i]}}; break ;;
        esac
    done
    case $prev in
{values}
    esac
    case $verb in
        '') COMPREPLY=($(compgen -W '{verbs} {options}' -- "$cur")) ;;
{cases}
    esac
}}
complete -o filenames -F _livegraft livegraft
"""


def _bash_verb(command: Command) -> str:
    flags = _flags(command.arguments)
    values = _bash_values(own_options(command), "            ")
    positional = _bash_positional(command)
    inner = f"            case $prev in\n{values}\n            esac\n" if values else ""
    return (
        f"        {command.verb.name})\n{inner}"
        f"            case $cur in\n"
        f"                -*) COMPREPLY=($(compgen -W '{flags}' -- \"$cur\")) ;;\n"
        f"                *) {positional} ;;\n"
        f"            esac ;;"
    )


def _bash_positional(command: Command) -> str:
    """What to offer where no option stands: a word for what to do comes right after the verb."""
    every = positionals(command)
    if not every:
        return ":"
    last = _bash_complete(every[-1])
    if len(every) == 1 or every[0].kind is not Kind.CHOICE:
        return last
    first = _bash_complete(every[0])
    return f"if [ $prev = {command.verb.name} ]; then {first}; else {last}; fi"


def _bash_values(arguments: Sequence[Argument], indent: str) -> str:
    return "\n".join(
        f"{indent}    {'|'.join(argument.flags)}) {_bash_complete(argument)}; return ;;"
        for argument in arguments
        if argument.kind is not Kind.NONE
    )


def _bash_complete(argument: Argument) -> str:
    words = {
        Kind.RELEASE: f'-W "{RELEASES}"',
        Kind.PATCH: f'-W "{PATCHES}"',
        Kind.INSTALLED: f'-W "{INSTALLED}"',
        Kind.FILE: "-f",
        Kind.FOLDER: "-d",
        Kind.CHOICE: f"-W '{' '.join(argument.choices)}'",
    }
    if argument.kind not in words:
        return ":"
    return f'COMPREPLY=($(compgen {words[argument.kind]} -- "$cur"))'


def zsh(commands: Sequence[Command], shared: Sequence[Argument]) -> str:
    """A script for zsh (zshcompsys(1), the function ``_arguments``)."""
    verbs = "\n".join(
        f"        {_quote(f'{command.verb.name}:{command.summary}')}" for command in commands
    )
    cases = "\n".join(
        f"        {command.verb.name}) _arguments {_zsh_words(command.arguments)} ;;"
        for command in commands
    )
    return f"""#compdef livegraft
{HEADER.format(shell="zsh")}_livegraft() {{
    local state line
    local -a verbs
    verbs=(
{verbs}
    )
    _arguments -C {_zsh_words(shared)} '1: :->verb' '*:: :->rest'
    case $state in
        verb) _describe -t verbs verb verbs ;;
        rest) _livegraft_verb $line[1] ;;
    esac
}}

_livegraft_verb() {{
    case $1 in
{cases}
    esac
}}

compdef _livegraft livegraft
"""


def _zsh_words(arguments: Sequence[Argument]) -> str:
    return " ".join(spec for argument in arguments for spec in _zsh_specs(argument))


def _zsh_specs(argument: Argument) -> list[str]:
    action = {
        Kind.NONE: "",
        Kind.TEXT: "",
        Kind.CHOICE: f"({' '.join(argument.choices)})",
        Kind.FILE: "_files",
        Kind.FOLDER: "_files -/",
        Kind.RELEASE: f"{{compadd -- {RELEASES}}}",
        Kind.PATCH: f"{{compadd -- {PATCHES}}}",
        Kind.INSTALLED: f"{{compadd -- {INSTALLED}}}",
    }[argument.kind]
    # A colon would end the action.
    action = action.replace(":", "\\:")
    name = argument.metavar.replace(":", " ")
    if not argument.flags:
        position = "*" if argument.repeated else ("" if argument.required else ":")
        return [_quote(f"{position}:{name}:{action}")]
    explained = argument.help.replace("[", "(").replace("]", ")").replace(":", " ")
    value = f":{name}:{action}" if argument.kind is not Kind.NONE else ""
    star = "*" if argument.repeated else ""
    return [_quote(f"{star}{flag}[{explained}]{value}") for flag in argument.flags]


def fish(commands: Sequence[Command], shared: Sequence[Argument]) -> str:
    """A script for fish (its manual's page "complete")."""
    verbs = " ".join(command.verb.name for command in commands)
    lines = [HEADER.format(shell="fish").rstrip("\n"), "complete -c livegraft -f"]
    lines.append(f"set -l verbs {verbs}")
    none = '-n "not __fish_seen_subcommand_from $verbs"'
    lines += [
        f"complete -c livegraft {none} -a {command.verb.name} -d {_quote(command.summary)}"
        for command in commands
    ]
    lines += [_fish_option("", argument) for argument in shared]
    for command in commands:
        seen = f"-n '__fish_seen_subcommand_from {command.verb.name}'"
        lines += [_fish_option(seen, argument) for argument in own_options(command)]
        lines += [f"complete -c livegraft {seen} {_fish_value(a)}" for a in positionals(command)]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _fish_option(seen: str, argument: Argument) -> str:
    flags = " ".join(
        f"-l {flag[2:]}" if flag.startswith("--") else f"-s {flag[1:]}" for flag in argument.flags
    )
    value = "" if argument.kind is Kind.NONE else f" -r {_fish_value(argument)}"
    condition = f"{seen} " if seen else ""
    return f"complete -c livegraft {condition}{flags}{value} -d {_quote(argument.help)}"


def _fish_value(argument: Argument) -> str:
    places = {
        Kind.RELEASE: '(ls (test -n "$XDG_CACHE_HOME"; and echo $XDG_CACHE_HOME; or echo ~/.cache)'
        "/livegraft/kernel 2>/dev/null)",
        Kind.PATCH: "(ls /sys/kernel/livepatch 2>/dev/null; "
        f"ls {ENGINE_FILES} /sys/kernel/livegraft 2>/dev/null)",
        Kind.INSTALLED: f"(ls /{PLACE} 2>/dev/null | while read -l one; ls /{PLACE}/$one; end)",
        Kind.CHOICE: " ".join(argument.choices),
    }
    if argument.kind in places:
        return f"-f -a {_quote(places[argument.kind])}"
    return "-F" if argument.kind in (Kind.FILE, Kind.FOLDER) else "-f"


def _flags(arguments: Sequence[Argument]) -> str:
    return " ".join(flag for argument in arguments for flag in argument.flags)


def _quote(text: str) -> str:
    """A word in single quotes, as each of the three shells reads it."""
    return "'" + text.replace("'", "'\\''") + "'"
