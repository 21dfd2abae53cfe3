# SPDX-License-Identifier: GPL-2.0-or-later
"""A plot with two logarithmic axes, as SVG text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil, floor, log10
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 720, 460
LEFT, RIGHT, TOP, BOTTOM = 70, 20, 40, 60


@dataclass(frozen=True, slots=True)
class Points:
    """What is drawn in one colour.

    Args:
        name: what the legend says.
        values: pairs of positive numbers.
        colour: as SVG knows it.
        is_line: draw a line and no dots.
    """

    name: str
    values: Sequence[tuple[float, float]]
    colour: str
    is_line: bool = False


@dataclass(frozen=True, slots=True)
class _Axis:
    """Whole decades from the first to the last, on so many pixels."""

    first: int
    last: int
    start: float
    end: float

    @classmethod
    def of(cls, values: Sequence[float], start: float, end: float) -> _Axis:
        return cls(floor(log10(min(values))), ceil(log10(max(values))), start, end)

    def at(self, value: float) -> float:
        share = (log10(value) - self.first) / (self.last - self.first)
        return self.start + share * (self.end - self.start)

    def decades(self) -> Iterator[float]:
        return (10.0**power for power in range(self.first, self.last + 1))


def draw(title: str, labels: tuple[str, str], series: Sequence[Points]) -> str:
    """The plot.

    Args:
        title: what stands above it.
        labels: what the two axes show; the horizontal one is in bytes.
        series: what to draw.
    """
    x = _Axis.of([a for each in series for a, _ in each.values], LEFT, WIDTH - RIGHT)
    y = _Axis.of([b for each in series for _, b in each.values], HEIGHT - BOTTOM, TOP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}"'
        ' font-family="sans-serif" font-size="13">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        _text(WIDTH / 2, 22, title, "middle"),
        _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 14, labels[0], "middle"),
        f'<g transform="rotate(-90)">{_text(-(TOP + HEIGHT - BOTTOM) / 2, 18, labels[1], "middle")}'
        "</g>",
        *_grid(x, y),
    ]
    for number, each in enumerate(series):
        parts += _drawn(each, x, y)
        parts += _legend(each, LEFT + 16, TOP + 20 + 20 * number)
    return "\n".join([*parts, "</svg>", ""])


def _grid(x: _Axis, y: _Axis) -> Iterator[str]:
    for value in x.decades():
        at = x.at(value)
        yield _line(at, y.start, at, y.end, "#ddd")
        yield _text(at, y.start + 18, _bytes(value), "middle")
    for value in y.decades():
        at = y.at(value)
        yield _line(x.start, at, x.end, at, "#ddd")
        yield _text(x.start - 8, at + 4, f"{value:g}", "end")


def _drawn(points: Points, x: _Axis, y: _Axis) -> Iterator[str]:
    places = [(x.at(a), y.at(b)) for a, b in points.values]
    if points.is_line:
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in places)
        yield f'<polyline points="{path}" fill="none" stroke="{points.colour}"/>'
        return
    for (a, b), (_, value) in zip(places, points.values, strict=True):
        yield f'<circle cx="{a:.1f}" cy="{b:.1f}" r="4" fill="{points.colour}"/>'
        yield _text(a, b - 9, f"{value:.2g}", "middle")


def _legend(points: Points, x: float, y: float) -> Iterator[str]:
    if points.is_line:
        yield _line(x - 8, y - 4, x + 8, y - 4, points.colour)
    else:
        yield f'<circle cx="{x}" cy="{y - 4}" r="4" fill="{points.colour}"/>'
    yield _text(x + 16, y, points.name, "start")


def _line(x1: float, y1: float, x2: float, y2: float, colour: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"/>'


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _bytes(value: float) -> str:
    for unit, size in (("MB", 1e6), ("kB", 1e3)):
        if value >= size:
            return f"{value / size:g} {unit}"
    return f"{value:g} B"
