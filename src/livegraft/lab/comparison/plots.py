# SPDX-License-Identifier: GPL-2.0-or-later
"""The report's plots, drawn by matplotlib: as files, and for the page in two widths.

What is written and ruled has no colour of its own in the page's plots: it takes the text's, so that
one drawing serves a light page and a dark one.
"""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

COLOURS = {"hybrid": "#1a7fc4", "stop": "#d1495b", "task": "#2f9e6e", "native": "#b07d2b"}
MARKERS = {"hybrid": "o", "stop": "s", "task": "^", "native": "D"}
"""Colours that stand out from white and from black, and shapes for who does not see them."""

INK = "#010203"
"""Stands for the text's colour."""

WIDE, NARROW = 9.0, 4.1
"""Inches, of 72 points each."""

ROW, HEAD = 0.78, 0.95
"""Inches: of each scenario, and of what stands around them."""

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "livegraft",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}

Document = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Series:
    """One kind of points.

    Args:
        key: the figure.
        filled: whether its markers are.
        suffix: what the legend adds to the model; empty for the main one.
        mark: its shape, if it is not the model's.
    """

    key: str
    filled: bool = True
    suffix: str = ""
    mark: str = ""


@dataclass(frozen=True, slots=True)
class Plot:
    """A plot of the report.

    Args:
        name: of its files.
        title: what it shows.
        label: of the axis.
        series: what is drawn; none: tasks over time.
        scale: ``log``, ``symlog`` (logarithmic, with 0) or ``linear``.
        about: how it has to be read.
    """

    name: str
    title: str
    label: str
    series: tuple[Series, ...] = ()
    scale: str = "log"
    about: str = ""


PLOTS = (
    Plot(
        "consistency",
        "Time to consistency",
        "ms from the order until all tasks run the new code",
        (Series("apply"),),
        about="Loading of the module and ftrace's registering are in it: 20 to 40 ms for each.",
    ),
    Plot(
        "mostly",
        "Time until almost all tasks run the new code",
        "ms until all but one, or a hundredth, have changed",
        (Series("mostly"),),
        about="Under stop nobody runs the new code before all do; the others do not wait for the "
        "last.",
    ),
    Plot(
        "pauses",
        "Longest pause of any task",
        "ms that a task which wants to run did not, at most",
        (Series("gap-quiet", False, "before the load"), Series("gap-apply", True, "loading")),
        about="By a probe on each processor, in user mode and in system calls, with the lowest "
        "priority (nice 19). Hollow: in the half second before; a longer time has longer pauses.",
    ),
    Plot(
        "pauses-undo",
        "Longest pause while unloading",
        "ms that a task which wants to run did not, at most",
        (Series("gap-quiet", False, "before the load"), Series("gap-undo", True, "unloading")),
        about="The change of sides alone: no module is loaded meanwhile.",
    ),
    Plot(
        "tasks",
        "Tasks over time",
        "ms from the order",
        about="Share of all tasks that run the new code, in the repetition of median length.",
    ),
    Plot(
        "retries",
        "Looks at all stacks",
        "looks until the change could be made",
        (Series("tries"),),
        "symlog",
        "A look that finds a task inside is made again later. Models by task look at each task.",
    ),
    Plot(
        "signals",
        "What user space sees",
        "sleepers signalled; system calls begun again; EINTR that programs saw",
        (
            Series("signalled"),
            Series("restarted", False, "begun again"),
            Series("seen", True, "EINTR seen", "x"),
        ),
        "symlog",
        "For each load. The signals are none that a program could handle.",
    ),
    Plot(
        "success",
        "Applied",
        "share of attempts that came to their end within 10 s",
        (Series("applied"),),
        "linear",
    ),
)


def draw(plot: Plot, found: Document, kernel: str, width: float = WIDE) -> Drawing | None:
    """Draw a plot; None if there is nothing to show.

    Args:
        plot: which.
        found: the report's document.
        kernel: of which kernel.
        width: inches.
    """
    cells = [each for each in found["cells"] if each["kernel"] == kernel]
    with matplotlib.rc_context(STYLE):
        make = _points if plot.series else _over_time
        drawing = make(plot, found, cells, width)
        if drawing is not None:
            # Laid out once: each further time moves things by a hair, and takes as long.
            drawing.draw_without_rendering()
            drawing.set_layout_engine("none")
        return drawing


def svg(drawing: Drawing) -> str:
    """As SVG text for a page: without a prologue, and in the text's colour."""
    text = _svg(drawing, transparent=True)
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    return re.sub(r' (?:width|height)="[\d.]+pt"', "", text, count=2)


def svg_file(drawing: Drawing) -> bytes:
    """As an SVG file of its own, dark on white."""
    return _svg(drawing, transparent=False).replace(INK, "#222222").encode()


def png_file(drawing: Drawing) -> bytes:
    """As a PNG file, dark on white."""
    stream = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        drawing.savefig(stream, format="png", dpi=160, facecolor="white", metadata={"Software": ""})
    return stream.getvalue()


def _svg(drawing: Drawing, transparent: bool) -> str:
    stream = io.StringIO()
    nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
    with matplotlib.rc_context(STYLE):
        drawing.savefig(stream, format="svg", transparent=transparent, metadata=nothing)
    return _compacted(stream.getvalue())


_TAG = re.compile(r"<[^>]*>")
_DECIMALS = re.compile(r"(\.\d\d)\d+")
"""Of points (1/72 inch): what comes after two of them nobody sees."""
_STYLED = re.compile(r' style="([^"]*)"')
_UNUSED = re.compile(r' id="[a-zA-Z]\w*_\d+"')
"""Names of groups, which nothing refers to."""


def _compacted(text: str) -> str:
    """The same picture in half the bytes: a page may hold those of many scenarios and kernels."""
    styles: dict[str, str] = {}

    def named(found: re.Match[str]) -> str:
        # By its text: pictures of one page share their classes, or have different ones.
        name = f"s{zlib.crc32(found[1].encode()):08x}"
        styles[name] = found[1].replace("; ", ";").replace(": ", ":")
        return f' class="{name}"'

    def tag(found: re.Match[str]) -> str:
        return _DECIMALS.sub(r"\1", _UNUSED.sub("", _STYLED.sub(named, found[0])))

    text = re.sub(r">\s+<", "><", _TAG.sub(tag, text))
    rules = "".join(f".{name}{{{rule}}}" for name, rule in styles.items())
    return text.replace("</defs>", f"<style>{rules}</style></defs>", 1)


def _points(plot: Plot, found: Document, cells: Sequence[Document], width: float) -> Drawing | None:
    names = [each["name"] for each in found["scenarios"]]
    titles = {each["name"]: each["title"] for each in found["scenarios"]}
    keys = {each.key for each in plot.series}
    shown = [name for name in names if any(_has(each, name, keys) for each in cells)]
    if not shown:
        return None
    drawing = Drawing(figsize=(width, HEAD + ROW * len(shown)), layout="constrained")
    axes = drawing.add_subplot()
    models = [each for each in found["models"] if _used(each, cells, keys)]
    for place, name in enumerate(shown):
        if place % 2:
            axes.axhspan(place - 0.5, place + 0.5, color="#808080", alpha=0.12, linewidth=0)
        for number, model in enumerate(models):
            at = place + (number + 1) / (len(models) + 1) - 0.5
            for series in plot.series:
                figure = _figure(cells, name, model, series.key)
                if figure is not None:
                    _point(axes, at, model, series, figure)
    axes.set_yticks(range(len(shown)), [_folded(titles[name], width) for name in shown])
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(shown) - 0.5, -0.5)
    _finish(axes, plot, width)
    _legend(drawing, models, plot.series)
    return drawing


def _point(axes: Axes, at: float, model: str, series: Series, figure: Mapping[str, float]) -> None:
    value, low, high = figure["value"], figure["low"], figure["high"]
    colour = COLOURS.get(model, "#808080")
    axes.errorbar(
        [value],
        [at],
        xerr=None if low == high else [[max(value - low, 0)], [max(high - value, 0)]],
        fmt=series.mark or MARKERS.get(model, "o"),
        color=colour,
        markerfacecolor=colour if series.filled else "none",
        markersize=6,
        capsize=3,
        linewidth=1.4,
    )


def _over_time(
    plot: Plot, found: Document, cells: Sequence[Document], width: float
) -> Drawing | None:
    names = [each for each in found["scenarios"] if any(_timed(one, each) for one in cells)]
    if not names:
        return None
    columns = 3 if width == WIDE else 1
    rows = -(-len(names) // columns)
    drawing = Drawing(figsize=(width, 0.6 + 1.9 * rows), layout="constrained")
    models = []
    for number, scenario in enumerate(names):
        axes = drawing.add_subplot(rows, columns, number + 1)
        for cell in cells:
            if not _timed(cell, scenario):
                continue
            model = cell["model"]
            models.append(model)
            times = [max(ms, 1.0) for ms, _ in cell["timeline"]]
            shares = [100 * share for _, share in cell["timeline"]]
            # Under stop all tasks change at once: the last step is one.
            how = "steps-post" if model == "stop" else "default"
            axes.plot(
                times,
                shares,
                color=COLOURS[model],
                drawstyle=how,
                marker=MARKERS[model],
                markersize=3,
                linewidth=1.5,
                markevery=[-1],
            )
        axes.set_title(scenario["title"], fontsize=10, loc="left")
        axes.set_ylim(-4, 104)
        axes.set_xscale("log")
        _ruled(axes, logarithmic=True)
        if number % columns == 0:
            axes.set_ylabel("% of tasks")
        if number >= len(names) - columns:
            axes.set_xlabel(plot.label)
    _legend(drawing, [each for each in found["models"] if each in models], ())
    return drawing


def _legend(drawing: Drawing, models: Sequence[str], series: Sequence[Series]) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D(
            [], [], color=COLOURS.get(each, "#808080"), marker=MARKERS.get(each, "o"), label=each
        )
        for each in models
    ]
    handles += [
        Line2D(
            [],
            [],
            color="#808080",
            marker=each.mark or "o",
            linestyle="none",
            label=each.suffix,
            markerfacecolor="#808080" if each.filled else "none",
        )
        for each in series
        if each.suffix
    ]
    wide = drawing.get_figwidth() >= WIDE
    columns = len(handles) if wide else 3
    rows = -(-len(handles) // columns)
    drawing.legend(handles=handles, loc="upper left", ncols=columns, columnspacing=1.2)
    engine = drawing.get_layout_engine()
    assert isinstance(engine, ConstrainedLayoutEngine)
    # Room for the legend: the layout knows nothing of it.
    engine.set(rect=(0, 0, 1, 1 - (0.15 + 0.2 * rows) / drawing.get_figheight()))


def _finish(axes: Axes, plot: Plot, width: float) -> None:
    if plot.scale == "symlog":
        axes.set_xscale("symlog", linthresh=1)
        axes.set_xlim(left=-0.2)
    else:
        axes.set_xscale(plot.scale)
    if plot.scale == "linear":
        axes.set_xlim(-0.05, 1.05)
    _ruled(axes, logarithmic=plot.scale == "log")
    axes.set_axisbelow(True)
    label = plot.label
    if width < WIDE and len(label) > 40:
        middle = label.rindex(" ", 0, 42)
        label = f"{label[:middle]}\n{label[middle + 1 :]}"
    axes.set_xlabel(label)


def _ruled(axes: Axes, *, logarithmic: bool) -> None:
    """Lines and numbers along the axis; within few decades also at 2 and 5."""
    if logarithmic:
        low, high = axes.get_xlim()
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 300 * low else (1,)))
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(FuncFormatter(_plain))
    axes.grid(axis="x", color="#808080", alpha=0.3, linewidth=0.6)


def _plain(value: float, _: object) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:g}"


def _folded(text: str, width: float) -> str:
    """On a narrow drawing a title has a line for each two words."""
    if width == WIDE or len(text) <= 12:
        return text
    words = text.split()
    half = (len(words) + 1) // 2
    return " ".join(words[:half]) + "\n" + " ".join(words[half:])


def _figure(
    cells: Sequence[Document], scenario: str, model: str, key: str
) -> Mapping[str, float] | None:
    for each in cells:
        if (each["scenario"], each["model"]) == (scenario, model):
            found: Mapping[str, float] | None = each["figures"].get(key)
            return found
    return None


def _has(cell: Document, scenario: str, keys: set[str]) -> bool:
    return bool(cell["scenario"] == scenario and keys & cell["figures"].keys())


def _used(model: str, cells: Sequence[Document], keys: set[str]) -> bool:
    return any(each["model"] == model and keys & each["figures"].keys() for each in cells)


def _timed(cell: Document, scenario: Document) -> bool:
    return bool(cell["scenario"] == scenario["name"] and cell["timeline"])


@dataclass(frozen=True, slots=True)
class Drawn:
    """A plot of a kernel, in both widths."""

    kernel: str
    plot: Plot
    wide: Drawing
    narrow: Drawing


def drawings(found: Document) -> Iterator[Drawn]:
    """Every plot of every kernel that shows anything."""
    for kernel in found["kernels"]:
        for plot in PLOTS:
            wide, narrow = (draw(plot, found, kernel, width) for width in (WIDE, NARROW))
            if wide is not None and narrow is not None:
                yield Drawn(kernel, plot, wide, narrow)
