# SPDX-License-Identifier: GPL-2.0-or-later
"""The live patches of this machine as metrics, for Prometheus' text files.

Source of the format: https://prometheus.io/docs/instrumenting/exposition_formats (version 0.0.4);
of the names, in base units: https://prometheus.io/docs/practices/naming.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from livegraft.errors import PatchError
from livegraft.runtime.checking import Checked, Health
from livegraft.runtime.state import PatchState, Status
from livegraft.runtime.taints import Taint

MODE = 0o644
"""Of the file: the exporter that reads it runs as a user of its own."""


class Sample(NamedTuple):
    """One value of a metric, and its labels."""

    labels: Mapping[str, str]
    value: float


class Metric(NamedTuple):
    """A metric; all of them are gauges.

    Args:
        name: without the prefix ``livegraft_``.
        help: what it says.
        samples: its values; it is left out if there are none.
    """

    name: str
    help: str
    samples: tuple[Sample, ...]

    def as_json(self) -> dict[str, object]:
        """The metric in the document of ``metrics``."""
        samples = [{"labels": dict(one.labels), "value": one.value} for one in self.samples]
        return {"name": f"livegraft_{self.name}", "help": self.help, "samples": samples}


def metrics(
    patches: Sequence[Status],
    checked: Checked,
    taints: Sequence[Taint],
    kernel: Mapping[str, str],
) -> list[Metric]:
    """All metrics of a machine.

    Args:
        patches: its live patches.
        checked: what a check of them has found.
        taints: the kernel's flags.
        kernel: labels that name the kernel.
    """
    loaded = {each.name for each in checked.live}
    found = [
        _metric("kernel_info", "The running kernel.", [(kernel, 1)]),
        _metric("patches", "Live patches that are on or on their way to be.", [({}, len(loaded))]),
        *_of_patches(patches),
        _metric(
            "patch_installed",
            "Whether a patch that is installed for this kernel is loaded (1) or not (0).",
            [({"patch": each}, each in loaded) for each in checked.installed],
        ),
        _metric(
            "problems",
            "Problems that 'livegraft status --check' finds, by kind.",
            [
                ({"kind": each.name.lower()}, checked.count(each))
                for each in Health
                if each is not Health.WELL
            ],
        ),
        _metric(
            "switched_off",
            "A switch that keeps live patches out: the kernel parameter, or the configuration.",
            [({"switch": each.place.value}, 1) for each in checked.off],
        ),
        _metric(
            "kernel_taint",
            "The kernel's taint flags.",
            [({"flag": each.letter}, 1) for each in taints],
        ),
    ]
    return [each for each in found if each.samples]


def text(documents: Iterable[Mapping[str, Any]]) -> str:
    """The file's contents.

    Args:
        documents: each metric as :meth:`Metric.as_json` gives it.
    """
    lines = []
    for each in documents:
        name = each["name"]
        lines += [f"# HELP {name} {_escaped(each['help'])}", f"# TYPE {name} gauge"]
        lines += [f"{name}{_labels(one['labels'])} {one['value']:.17g}" for one in each["samples"]]
    return "".join(f"{line}\n" for line in lines)


def write(path: Path, contents: str) -> None:
    """Write the file: whoever reads it finds the old contents or the new ones, whole.

    Raises:
        PatchError: it cannot be written.
    """
    import tempfile  # seldom needed, and start-up time counts

    try:
        # A new file, whoever may write to the folder: no link of theirs is followed. Its name does
        # not end as the exporter looks for.
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", prefix=f".{path.name}-", dir=path.parent, delete=False
        ) as file:
            beside = Path(file.name)
            try:
                file.write(contents)
                file.flush()
                os.fchmod(file.fileno(), MODE)
                beside.replace(path)
            except OSError:
                beside.unlink(missing_ok=True)
                raise
    except OSError as error:
        problem = f"cannot be written: {error.strerror}"
        raise PatchError(str(path), problem, "name a file that this user may write") from error


def _of_patches(patches: Sequence[Status]) -> list[Metric]:
    info = [
        (
            {
                "patch": each.name,
                "model": each.model,
                "fix_sha256": each.fix_sha256,
                "foreign": str(each.foreign).lower(),
            },
            1,
        )
        for each in patches
    ]
    states = [
        ({"patch": each.name, "state": state.value}, each.state is state)
        for each in patches
        for state in PatchState
        if state is not PatchState.UNLOADED
    ]
    tasks = [
        ({"patch": each.name, "side": side}, count)
        for each in patches
        if each.state is PatchState.TRANSITION and each.detail is not None
        for side, count in (("moved", each.detail.moved), ("left", each.detail.left))
        if count is not None
    ]
    return [
        _metric("patch_info", "A loaded live patch.", info),
        _metric(
            "patch_fixes_info",
            "A vulnerability that a loaded live patch ends.",
            [({"patch": each.name, "cve": cve}, 1) for each in patches for cve in each.cves],
        ),
        _metric("patch_state", "The state of a loaded live patch: 1 for the one it is in.", states),
        _metric(
            "patch_state_since_timestamp_seconds",
            "When a live patch came into its state, in seconds since the epoch.",
            [({"patch": each.name}, each.since) for each in patches if each.since is not None],
        ),
        _metric("patch_tasks", "Tasks that have changed sides in a transition, or not.", tasks),
    ]


def _metric(
    name: str, help_text: str, samples: Sequence[tuple[Mapping[str, str], float]]
) -> Metric:
    return Metric(name, help_text, tuple(Sample(labels, float(value)) for labels, value in samples))


def _labels(labels: Mapping[str, str]) -> str:
    if not labels:
        return ""
    words = (f'{name}="{_quoted(value)}"' for name, value in labels.items())
    return "{" + ",".join(words) + "}"


def _escaped(words: str) -> str:
    return words.replace("\\", "\\\\").replace("\n", "\\n")


def _quoted(words: str) -> str:
    return _escaped(words).replace('"', '\\"')
