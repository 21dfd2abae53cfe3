# SPDX-License-Identifier: GPL-2.0-or-later
"""The documents of the runtime's verbs, for people."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from livegraft.runtime.model import GUARANTEES


def _text_load(document: Mapping[str, Any]) -> list[str]:
    lines = [f"{document['name']}: {document['state']}{_took(document)}"]
    lines += [f"  signed by {each['subject']} ({each['name']})" for each in document["signers"]]
    lines += _objects(document["objects"])
    lines += [f"  {name}: not loaded, patched when it comes" for name in document["absent"]]
    lines += [f"  replaces {name}" for name in document["replaced"]]
    lines += [f"  blocked by {_blocker(each)}" for each in document["blockers"]]
    lines += [f"  caution: {warning}" for warning in document["warnings"]]
    return lines


def _text_unload(document: Mapping[str, Any]) -> list[str]:
    lines = [
        f"{each['name']}: {each['state']}{_took(each)}{_unloadable(each)}"
        for each in document["unloaded"]
    ]
    return lines or ["no live patch is loaded"]


def _text_status(document: Mapping[str, Any]) -> list[str]:
    if document["check"] is not None:
        return [document["check"]["line"]]
    lines: list[str] = []
    for each in document["patches"]:
        lines += _text_wait(each)
        if each["model"] in GUARANTEES:
            lines.append(f"  {each['model']}: {GUARANTEES[each['model']]}")
    lines = lines or ["no live patch is loaded"]
    if document["off"] and document["patches"]:
        lines.append("  caution: what is loaded stays so until 'livegraft unload --all'")
    kernel = document["kernel"]
    lines.append(f"kernel {kernel['release']}, build ID {kernel['build_id'] or 'not known'}")
    lines += [
        f"  tainted {each['letter']}: {each['meaning']}: {each['cause']}"
        for each in document["taints"]
    ]
    return [*_off(document), *lines]


def _text_wait(document: Mapping[str, Any]) -> list[str]:
    direction = f" ({document['direction']})" if document["direction"] else ""
    since = f" since {document['since']}" if document["since"] else ""
    origin = "foreign" if document["foreign"] else f"model {document['model']}"
    forced = ", forced" if document["forced"] else ""
    lines = [f"{document['name']}: {document['state']}{direction}{since}, {origin}{forced}"]
    if document["fix_sha256"]:
        lines.append(f"  fix SHA-256 {document['fix_sha256']}")
    if document["cves"]:
        lines.append(f"  fixes {', '.join(document['cves'])}")
    lines += _objects(document["objects"])
    lines += _counts(document)
    lines += [f"  blocked by {_blocker(each)}" for each in document["blockers"]]
    lines += [f"  caution: {warning}" for warning in document["warnings"]]
    return lines


def _took(document: Mapping[str, Any]) -> str:
    if document["transition_ms"] is None:
        return ""
    return f", every task changed sides within {document['transition_ms']:.1f} ms"


def _unloadable(document: Mapping[str, Any]) -> str:
    if document["forced"]:
        return ", forced: the module stays until the next boot"
    if document["unloadable_ms"] is None:
        return ""
    return f", unloadable after {document['unloadable_ms']:.1f} ms"


def _counts(document: Mapping[str, Any]) -> list[str]:
    if document["state"] != "transition" or document["left"] is None:
        return []
    return [f"  {document['moved']} tasks have changed sides, {document['left']} have not"]


def _text_models(document: Mapping[str, Any]) -> list[str]:
    lines = []
    for each in document["models"]:
        lines += [
            f"{each['name']}: {'available' if each['available'] else 'not available'}",
            f"  a task changes when it has left {each['when']}",
            f"  what changes at once: {each['at_once']}",
            f"  mixed versions can be seen by {each['mixed']}",
        ]
        if each["reason"]:
            lines += [f"  {each['reason']}", f"  remedy: {each['remedy']}"]
    engine = document["engine"]
    return [*lines, f"engine: {'not loaded' if engine is None else 'version ' + engine}"]


def _text_blockers(document: Mapping[str, Any]) -> list[str]:
    direction = f" ({document['direction']})" if document["direction"] else ""
    head = f"{document['name']}: {document['state']}{direction}, model {document['model']}"
    lines = [head, *_counts(document)]
    for each in document["blockers"]:
        waiting = "" if each["waiting_ms"] is None else f", for {each['waiting_ms'] / 1000:.1f} s"
        lines += [f"{_blocker(each)}{waiting}", f"  what would move it: {each['moves']}"]
        lines += [f"    {frame}" for frame in each["stack"]]
    if document["state"] == "transition" and not document["blockers"]:
        lines.append("  nobody is seen in the way")
    return lines


def _text_forecast(document: Mapping[str, Any]) -> list[str]:
    lines = [
        f"{document['name']}: {document['tasks']} tasks, looked at {document['looks']} times in "
        f"{document['seconds']:.1f} s"
    ]
    for each in document["models"]:
        where = "" if each["available"] else " (not available here)"
        if each["median_ms"] is None:
            how = "not complete within what was seen"
        else:
            how = (
                f"complete in {each['chance']:.0%} of the cases, within {each['median_ms']:.0f} ms "
                f"(median), {each['longest_ms']:.0f} ms at most"
            )
        lines.append(f"{each['model']}{where}: {how}")
        if each["signals"]:
            lines.append(f"  {each['signals']} sleeping tasks would be signalled")
        lines += [
            f"  {one['comm']} (pid {one['pid']}) is in the way"
            + (f", inside {one['function']}" if one["function"] else ", it stays in the kernel")
            for one in each["blockers"]
        ]
    return lines


def _text_verify(document: Mapping[str, Any]) -> list[str]:
    lines = [f"{document['path']}: {document['verdict']}", *signatures(document["signatures"])]
    for each in document["reasons"]:
        lines.append(f"  refused: {each['object']}: {each['message']}")
        lines.append(f"    remedy: {each['remedy']}")
    lines += [f"  caution: {warning}" for warning in document["warnings"]]
    if document["compared"]:
        lines.append("  the manifest agrees with the module's code")
    if document["rebuilt"] is not None:
        lines += _rebuilt(document["rebuilt"])
    return lines


def _rebuilt(document: Mapping[str, Any]) -> list[str]:
    found = document["difference"]
    if found is None:
        lines = ["  built again, it is the same to the byte"]
    else:
        also = f"; also in {', '.join(found['others'])}" if found["others"] else ""
        where = f"{found['section']} at byte {found['offset']}"
        lines = [f"  built again, it differs: {where}: {found['message']}{also}"]
    return lines + [
        f"  {each['tool']} was {each['then']} then, and is {each['now']} now"
        for each in document["versions"]
    ]


AFTER_STALL = {
    "signal": "what was in the way was signalled",
    "force": "forced: tasks may have run old and new code at once, and its module can never go",
}


def _text_history(document: Mapping[str, Any]) -> list[str]:
    lines = []
    for each in document["entries"]:
        took = "" if each["duration_ms"] is None else f" in {each['duration_ms']:.0f} ms"
        became = each["state"] or each["result"]
        what = each["name"] or each["file"]
        lines.append(
            f"{each['time']} {each['operation']} {what}: {became}{took}, model {each['model']}, "
            f"by {_user(each)}, on {each['kernel_release']}"
        )
        if each["cves"]:
            lines.append(f"  fixes {', '.join(each['cves'])}")
        lines += [f"  signed by {signer}" for signer in each["signers"]]
        if each["replaced"]:
            does = "replaces" if each["state"] == "transition" else "replaced"
            lines.append(f"  {does} {', '.join(each['replaced'])}")
        lines += [f"  {AFTER_STALL.get(word, word)}" for word in each["after_stall"]]
        if each["reason"]:
            lines.append(f"  {each['result']}: {each['reason']}")
    return lines or ["the journal tells of no load or unload"]


def _user(document: Mapping[str, Any]) -> str:
    """Who it was, and as whom they had logged in."""
    login = document["loginuid"]
    return f"user {document['uid']}" + ("" if login is None else f" (login of {login})")


def _text_metrics(document: Mapping[str, Any]) -> list[str]:
    if document["path"] is not None:
        return [f"{document['path']}: {len(document['metrics'])} metrics"]
    from livegraft.runtime import metrics

    return metrics.text(document["metrics"]).splitlines()


def _text_install(document: Mapping[str, Any]) -> list[str]:
    patch = document["patch"]
    again = " again" if document["replaced"] or document["again"] else ""
    lines = [f"{patch['name']}: installed{again} for {patch['release']}, {_kept(patch)}"]
    lines += [f"  signed by {each['subject']} ({each['name']})" for each in document["signers"]]
    return lines + [f"  caution: {warning}" for warning in document["warnings"]]


def _text_uninstall(document: Mapping[str, Any]) -> list[str]:
    patch = document["patch"]
    lines = [f"{patch['name']}: not installed any more for {patch['release']}"]
    if document["loaded"]:
        lines.append(f"  it is still loaded: livegraft unload {patch['name']}")
    return lines


STATES = {
    "loaded": "loaded",
    "replaced": "replaced by a later one",
    "waiting": "waits for the next boot",
    "other-kernel": "waits for a boot of that kernel",
    "obsolete": "obsolete",
    "crashed": "not loaded any more: the machine crashed with it",
    "damaged": "damaged",
}
"""What an installed patch is, by :class:`livegraft.runtime.installed.State`."""


def _text_list(document: Mapping[str, Any]) -> list[str]:
    lines = _off(document)
    for each in document["patches"]:
        head = f"{each['name']} ({each['release']}): {STATES[each['state']]}"
        lines.append(f"{head}, {_kept(each)}" if each["model"] else head)
        if each["message"]:
            lines.append(f"  {each['message']}; {each['remedy']}")
        if each["state"] == "crashed":
            again = f"livegraft install --again {each['name']} -k {each['release']}"
            lines.append(f"  after it was loaded at {each['crashed']}; to try it again: {again}")
    return lines if document["patches"] else [*lines, "no live patch is installed"]


def _text_boot(document: Mapping[str, Any]) -> list[str]:
    lines = _off(document)
    for each in document["patches"]:
        lines += _booted(each)
    lines += [f"{name}: the machine is well with it" for name in document["settled"]]
    return lines or ["nothing to be done"]


def _booted(each: Mapping[str, Any]) -> list[str]:
    match each["outcome"]:
        case "loaded":
            head = f"{each['name']}: loaded, model {each['model']}{_took(each)}"
        case "present":
            head = f"{each['name']}: loaded already"
        case "replaced":
            head = f"{each['name']}: replaced by a later one"
        case "failed":
            head = f"{each['name']}: not loaded: {each['message']}"
        case _:
            head = f"{each['name']}: skipped: {each['message']}"
    lines = [f"{head}; {each['remedy']}" if each["remedy"] else head]
    lines += [f"  signed by {one['subject']} ({one['name']})" for one in each["signers"]]
    return lines + [f"  caution: {warning}" for warning in each["warnings"]]


def _kept(patch: Mapping[str, Any]) -> str:
    replaces = ", replaces older ones" if patch["replace"] else ""
    return f"model {patch['model']}, order {patch['order']}{replaces}"


def _off(document: Mapping[str, Any]) -> list[str]:
    """The switches that keep all patches out."""
    return [
        f"live patches are switched off: {each['message']}; {each['remedy']}"
        for each in document["off"]
    ]


def signatures(documents: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for each signature of a document's member ``signatures``."""
    lines = []
    for each in documents:
        where = each["file"] or "at its end"
        if each["trusted"]:
            who = ", ".join(f"{one['subject']} ({one['name']})" for one in each["signers"])
            lines.append(f"  {where}: signed by {who}")
        else:
            names = ", ".join(each["claims"]) or "nobody"
            lines.append(f"  {where}: not trusted, names {names}")
    return lines


def _objects(objects: Sequence[Mapping[str, Any]]) -> list[str]:
    return [
        f"  {each['name']}: {'patched' if each['patched'] else 'not loaded'}: "
        + ", ".join(function["name"] for function in each["functions"])
        for each in objects
    ]


def _blocker(document: Mapping[str, Any]) -> str:
    where = f" inside {document['function']}" if document["function"] else ""
    return f"{document['comm']} (pid {document['pid']}, {document['state']}){where}"


TEXTS: Mapping[str, Callable[[Mapping[str, Any]], list[str]]] = {
    "load": _text_load,
    "unload": _text_unload,
    "status": _text_status,
    "wait": _text_wait,
    "models": _text_models,
    "blockers": _text_blockers,
    "forecast": _text_forecast,
    "verify": _text_verify,
    "history": _text_history,
    "metrics": _text_metrics,
    "install": _text_install,
    "uninstall": _text_uninstall,
    "list": _text_list,
    "boot": _text_boot,
}
