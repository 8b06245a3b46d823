"""Reports as pages: addresses are links, numbers at colour bars differ, and a telephone's width is enough."""

import re
import shutil

import numpy as np
import pandas as pd
import pytest

from kdexp.results import figures
from kdexp.results.report import BulletList, Facts, FigureBlock, Paragraph, Preformatted, TableBlock, html_page
from kdexp.results.statistics import Interval

LINK = "http://127.0.0.1:5000/#/compare-runs?runs=" + "%22abcdef0123456789%22%2C" * 40 + "&x=1"


@pytest.mark.parametrize(
    ("text", "links"),
    [
        (
            "view: http://host:5000/#/experiments/1/runs?a=b&c=d.",
            ["http://host:5000/#/experiments/1/runs?a=b&amp;c=d"],
        ),
        ("(see https://a.example/x), or https://b.example!", ["https://a.example/x", "https://b.example"]),
        ("no link: ftp://x, javascript:alert(1), httpx://y", []),
        ('"><script>alert(1)</script> http://a.example/"onmouseover="x', ["http://a.example/"]),
        ("http://a.example/<b>", ["http://a.example/"]),
    ],
)
@pytest.mark.parametrize("block", [Paragraph, lambda text: BulletList([text]), lambda text: Facts([("", text)])])
def test_addresses_are_links_and_all_else_is_text(text, links, block):
    page = html_page("t", [block(text)]).partition("<body>")[2]
    assert re.findall('<a href="([^"]*)">', page) == links
    assert "<script" not in page
    assert "<b>" not in page


def test_cells_that_hold_addresses_link_to_them():
    page = html_page("t", [TableBlock(pd.DataFrame({"run": ["http://host/1"]}))])
    assert '<a href="http://host/1">http://host/1</a>' in page


def matrix(values, largest=None):
    frame = pd.DataFrame(values, pd.Index(["a", "b"], name="x"), pd.Index(["c", "d"], name="y"))
    figure = figures.matrix_figure([figures.Matrix("t", frame, [["1"] * 2] * 2, (0, 1))], "%", largest=largest)
    figure.draw_without_rendering()
    return figure


@pytest.mark.parametrize(
    "values",
    [
        [[83.2, 83.2], [83.2, 83.2]],
        [[83.2, 83.2000001], [83.2, np.nan]],
        [[83.20, 83.21], [83.22, 83.23]],
        [[0, 1e-9], [0, 0]],
        [[1000.1, 1000.2], [1000.15, 1000.12]],
        [[np.nan, np.nan], [np.nan, np.nan]],
    ],
)
def test_ticks_of_a_colour_bar_differ(values):
    figure = matrix(values)
    bar = figure.axes[1]
    ticks = [label.get_text() for label in bar.get_yticklabels()]
    assert len(set(ticks)) == len(ticks) >= 2
    assert bar.yaxis.get_offset_text().get_text() == ""


def test_text_in_cells_stands_out():
    from matplotlib.colors import to_rgb

    figure = matrix([[0, 30], [60, 100]])
    axes = figure.axes[0]
    image = axes.images[0]
    for text, value in zip(axes.texts, [0, 30, 60, 100], strict=True):
        pair = sorted(_luminance(colour) for colour in (to_rgb(text.get_color()), image.cmap(image.norm(value))[:3]))
        assert (pair[1] + 0.05) / (pair[0] + 0.05) > 4.5


def _luminance(colour):
    parts = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in colour]
    return float(np.dot([0.2126, 0.7152, 0.0722], parts))


def test_no_label_of_an_interval_plot_leaves_the_figure():
    label = "gain over the baseline on test, points of a metric with a long name (95 % interval)"
    figure = figures.interval_figure([figures.IntervalRow("s" * 90, 1.0, Interval(0.0, 2.0))], label)
    figure.draw_without_rendering()
    for text in (figure._supxlabel, *figure.axes[0].get_yticklabels()):
        box = text.get_window_extent()
        assert box.x0 >= 0
        assert box.x1 <= figure.bbox.width
        assert box.y0 >= 0


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.parametrize("width", [375, 1280])
def test_a_page_is_as_wide_as_the_window(tmp_path, width):
    sync_api = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium on this machine")
    wide = pd.DataFrame({f"column {number} of many": ["a value that is not short"] * 2 for number in range(12)})
    blocks = [
        *(Paragraph(LINK), BulletList([f"view: {LINK}"]), Facts([("link", LINK), ("path", "/x" * 200)])),
        *(Preformatted("python -m kdexp " + "loss.alpha=0.5 " * 30), TableBlock(wide, "x" * 300)),
        FigureBlock(matrix([[0, 1], [2, 3]]), "caption"),
    ]
    (tmp_path / "report.html").write_text(html_page("a_title_without_blanks_" * 10, blocks), encoding="utf-8")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": width, "height": 900})
        page.goto((tmp_path / "report.html").as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") == width
        browser.close()


def test_the_legend_of_an_interval_plot_hides_nothing():
    rows = [figures.IntervalRow(f"pair {number}", 1.0, Interval(0.0, 2.0)) for number in range(4)]
    figure = figures.interval_figure(rows, "points", margin=1.0, legend={"better": "#1a7f37", "worse": "#b3261e"})
    figure.draw_without_rendering()
    legend = figure.legends[0].get_window_extent()
    assert not legend.overlaps(figure._supxlabel.get_window_extent())
    assert not legend.overlaps(figure.axes[0].get_tightbbox())
