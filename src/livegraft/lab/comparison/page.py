# SPDX-License-Identifier: GPL-2.0-or-later
"""The report as one page that needs nothing else: no script, no request to anywhere.

Its policy (Content-Security-Policy) lets a browser ask for nothing, so that a mistake here would
show as an error in its console.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from livegraft.lab.comparison import plots, report
from livegraft.lab.comparison.claims import Verdict, short
from livegraft.lab.comparison.plots import Drawn
from livegraft.module.delivery import write_whole

Document = Mapping[str, Any]

CLASSES = {
    Verdict.HOLDS.value: "holds",
    Verdict.FAILS.value: "fails",
    Verdict.OPEN.value: "open",
    Verdict.UNMEASURED.value: "",
}
FOLDER = "plots"


def page(found: Document, drawn: Sequence[Drawn]) -> str:
    """The page's text.

    Args:
        found: the report's document.
        drawn: its plots (:func:`livegraft.lab.comparison.plots.drawings`).
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    template = environment.from_string(
        resources.files(__package__).joinpath("page.html.in").read_text("utf-8")
    )
    return template.render(
        found=found,
        caveat=report.EMULATED if found["machine"]["emulated"] else report.NATIVELY,
        classes=CLASSES,
        how=report.how(found),
        intervals=report.INTERVALS,
        columns=report.COLUMNS,
        growth_head=report.GROWTH,
        growth_rows=report.growth_rows(found),
        kernels=[_kernel(found, name, drawn) for name in found["kernels"]],
    )


def write_plots(drawn: Sequence[Drawn], folder: Path) -> list[Path]:
    """Each plot as SVG and as PNG, in a folder below; their paths."""
    place = folder / FOLDER
    place.mkdir(exist_ok=True)
    written = []
    for each in drawn:
        pair = (("svg", plots.svg_file(each.wide)), ("png", plots.png_file(each.wide)))
        for ending, data in pair:
            path = place / f"{each.kernel}-{each.plot.name}.{ending}"
            write_whole(path, data)
            written.append(path)
    return written


def _kernel(found: Document, kernel: str, drawn: Sequence[Drawn]) -> dict[str, Any]:
    titles = {each["name"]: each["title"] for each in found["scenarios"]}
    cells = [each for each in found["cells"] if each["kernel"] == kernel]
    return {
        "name": kernel,
        "plots": [_plot(each) for each in drawn if each.kernel == kernel],
        "rows": list(_rows(cells, titles)),
        "remarks": [
            {**each, "scenario": titles[each["scenario"]]} for each in cells if each["reason"]
        ],
    }


def _plot(drawn: Drawn) -> dict[str, Any]:
    return {
        "title": drawn.plot.title,
        "about": drawn.plot.about,
        # Ours: matplotlib escapes what it writes.
        "wide": Markup(plots.svg(drawn.wide)),
        "narrow": Markup(plots.svg(drawn.narrow)),
    }


def _rows(cells: Sequence[Document], titles: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    before = ""
    for cell in cells:
        found = [_figure(cell["figures"].get(key)) for key, _ in report.COLUMNS]
        if cell["status"] != "done":
            found[-1] = (cell["status"], "")
        yield {
            "first": cell["scenario"] != before,
            "scenario": titles[cell["scenario"]],
            "model": cell["model"],
            "figures": found,
        }
        before = cell["scenario"]


def _figure(figure: Mapping[str, float] | None) -> tuple[str, str]:
    """A figure and its interval."""
    if figure is None:
        return "", ""
    value, low, high = (short(figure[key]) for key in ("value", "low", "high"))
    return value, "" if value == low == high else f"{low} to {high}"
