# SPDX-License-Identifier: GPL-2.0-or-later
"""The page of a comparison in a browser: wide and narrow, light and dark, and all by itself."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from PIL import Image
from tests.comparison import document
from tests.documents import validate

from livegraft.lab.comparison import page, plots, report
from livegraft.lab.comparison.plots import Drawn

BROWSER = "chromium-headless-shell"
DARK, LIGHT = 0, 1
"""Values of the browser's preferredColorScheme."""

needs_browser = pytest.mark.skipif(
    shutil.which(BROWSER) is None, reason=f"{BROWSER} is not installed: apt-get install {BROWSER}"
)


@pytest.fixture(scope="module")
def drawn() -> list[Drawn]:
    return list(plots.drawings(document()))


@pytest.fixture(scope="module")
def written(drawn: list[Drawn], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(page.page(document(), drawn), "utf-8")
    return path


def browse(url: str, target: Path, *words: str) -> str:
    """Take a picture of a page; what the browser logs of it."""
    done = subprocess.run(
        [
            *(BROWSER, "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
            *("--enable-logging=stderr", f"--screenshot={target}", *words, url),
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)


def picture(written: Path, width: int, scheme: int) -> Image.Image:
    target = written.with_name(f"{width}-{scheme}.png")
    words = (f"--window-size={width},6000", f"--blink-settings=preferredColorScheme={scheme}")
    assert browse(written.as_uri(), target, *words) == ""
    return Image.open(target).convert("RGB")


@needs_browser
@pytest.mark.parametrize("width", [400, 1400])
def test_light_and_dark(width: int, written: Path) -> None:
    light, dark = (picture(written, width, scheme) for scheme in (LIGHT, DARK))
    assert light.getpixel((2, 2)) == (255, 255, 255)
    assert dark.getpixel((2, 2)) == (0x15, 0x19, 0x1D)
    for shown in (light, dark):
        assert shown.size[0] == width
        colours = {colour for _, colour in shown.getcolors(1 << 24) or ()}
        wanted = {tuple(bytes.fromhex(each[1:])) for each in plots.COLOURS.values()}
        assert wanted <= colours


OVERFLOW = """<script>addEventListener("load", () => {
const wide = document.documentElement.scrollWidth, room = document.documentElement.clientWidth;
const small = [...document.querySelectorAll("figure svg text")].filter(
  (each) => each.getBoundingClientRect().height && each.getBoundingClientRect().height < 9);
console.log(`WIDE ${wide - room} SMALL ${small.length}`); });</script></body>"""


@needs_browser
@pytest.mark.parametrize("width", [400, 1400])
def test_it_fits_and_can_be_read(width: int, written: Path) -> None:
    """Nothing is wider than the window, and no letters of a plot are tiny."""
    text = written.read_text("utf-8").replace("</body>", OVERFLOW)
    asking = written.with_name(f"asking-{width}.html")
    asking.write_text(re.sub(r'<meta http-equiv="Content-Security.*?>', "", text), "utf-8")
    said = browse(asking.as_uri(), asking.with_suffix(".png"), f"--window-size={width},2000")
    assert "WIDE 0 SMALL 0" in said


@needs_browser
def test_a_request_would_be_seen(written: Path) -> None:
    """The negative control of the empty console."""
    text = written.read_text("utf-8").replace("<body>", '<body><img src="https://example.org/a">')
    asking = written.with_name("asking.html")
    asking.write_text(text, "utf-8")
    assert "Content Security Policy" in browse(asking.as_uri(), asking.with_suffix(".png"))


class References(HTMLParser):
    """Whatever a browser might fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [f"{tag}" for _ in attrs if tag in ("script", "iframe", "object", "img")]
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "srcset"):
                self.found.append(value or "")


def test_nothing_is_fetched(written: Path) -> None:
    reading = References()
    reading.feed(written.read_text("utf-8"))
    assert {each[:1] for each in reading.found if each != "data:,"} <= {"#"}


def test_it_is_small_and_says_what_it_shows(written: Path) -> None:
    text = written.read_text("utf-8")
    assert len(text) < 2_000_000
    assert "&lt;hangs&gt;" in text and "BUG: &lt;b&gt; &amp; more" in text
    assert report.EMULATED.split(".", maxsplit=1)[0] in html.unescape(text)
    assert text.count("<figure>") == len(plots.PLOTS)


def test_plots_are_files(drawn: list[Drawn], tmp_path: Path) -> None:
    for path in page.write_plots(drawn[:2], tmp_path):
        if path.suffix == ".svg":
            ElementTree.parse(path)
            assert "#222222" in path.read_text("utf-8")
        else:
            assert Image.open(path).size[0] == plots.WIDE * 160


def test_the_same_report_makes_the_same_plots(drawn: list[Drawn]) -> None:
    again = next(plots.drawings(document()))
    assert plots.svg_file(again.wide) == plots.svg_file(drawn[0].wide)


def test_markdown() -> None:
    text = report.markdown(document())
    assert "| CPU hogs | native |" in text
    assert "- CPU hogs, native: the guest was lost: <hangs>" in text
    assert "**C4, " in text


REFERENCE = re.compile(r'href="#([^"]+)"|url\(#([^)]+)\)')
DOCUMENTS = sorted(Path(__file__).parents[2].joinpath("docs/comparison").iterdir())


@pytest.mark.parametrize("folder", DOCUMENTS, ids=lambda each: str(each.name))
def test_the_reports_of_the_documents(folder: Path) -> None:
    """They are what the tool makes today of the figures beside them."""
    found = json.loads((folder / "report.json").read_text("utf-8"))
    validate("lab", {**found, "folder": "", "timings": {}})
    assert (folder / "report.md").read_text("utf-8") == report.markdown(found)
    whole = (folder / "report.html").read_text("utf-8")
    assert len(whole.encode()) < 2_000_000
    assert whole.count("<figure>") == len(plots.PLOTS)
    assert sorted(each.name for each in (folder / page.FOLDER).iterdir()) == sorted(
        f"{folder.name}-{each.name}.svg" for each in plots.PLOTS
    )
    reading = References()
    reading.feed(whole)
    assert {each[:1] for each in reading.found if each != "data:,"} <= {"#"}


def test_what_plots_refer_to_is_there(drawn: list[Drawn]) -> None:
    """A shape that is drawn once and used often is found by its name, which no other one has."""
    whole = page.page(document(), drawn)
    pieces = re.findall(r"<svg.*?</svg>", whole, re.DOTALL)
    assert len(pieces) == 2 * len(drawn)
    shapes: dict[str, set[bytes]] = {}
    for text in (*pieces, plots.svg_file(drawn[0].wide).decode("utf-8")):
        here = {
            name: ElementTree.tostring(each)
            for each in ElementTree.fromstring(text).iter()
            if (name := each.get("id")) is not None
        }
        used = {one or other for one, other in REFERENCE.findall(text)}
        assert used and used <= here.keys()
        for name in used:
            shapes.setdefault(name, set()).add(here[name])
    # In a page the first of a name is used by all.
    assert all(len(each) == 1 for each in shapes.values())
