"""The page of HTML: whole, without other files, sortable by its own script; charts by hand."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from llmbole.charts import Line, Point, bars, lines, nice_ticks, scatter, standalone
from llmbole.cli import main
from llmbole.report import SCRIPT, mean_curve, page
from llmbole.results import load_all

VOID = {"meta", "br"}
# What the script asks of a browser, and nothing more.
DOM = """
class Cell {
  constructor(value, kind) { this.dataset = {value, kind}; this.attributes = {}; }
  querySelector() { return {addEventListener: (event, act) => { this.click = act; }}; }
  getAttribute(name) { return this.attributes[name] ?? null; }
  setAttribute(name, value) { this.attributes[name] = value; }
  removeAttribute(name) { delete this.attributes[name]; }
}
const given = JSON.parse(process.argv[1]);
const heads = given.kinds.map((kind) => new Cell("", kind));
const body = {rows: given.rows.map((row) => ({cells: row.map((value) => new Cell(value))})),
  appendChild(row) { this.rows = this.rows.filter((other) => other !== row).concat([row]); }};
const table = {tHead: {rows: [{cells: heads}]}, tBodies: [body]};
const document = {querySelectorAll: () => [table]};
"""


class Page(HTMLParser):
    """Checks nesting, and collects tables, links and the attributes that would load something."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.rows: list[list[str]] = []
        self.loads: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.loads += [f"{tag} {key}" for key in ("src", "srcset", "data") if key in values]
        self.loads += ["link"] if tag == "link" else []
        self.links += [values["href"]] if tag == "a" else []
        self.ids += [values["id"]] if "id" in values else []
        if tag == "tr":
            self.rows.append([])
        if tag == "td":
            self.rows[-1].append(values["data-value"])
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture
def records(append_record: Callable[..., Path], tmp_path: Path):
    """Three methods of three seeds, one with a name that is HTML."""
    groups = {"warm_items": {"HIT@1": 0.5}, "cold_items": {"HIT@1": 0.125}}
    for method, hit in (("ALLMRec", 0.5), ("<b>&", 0.25), ("Third", 0.75)):
        for seed in range(3):
            plain = {"backbone_metrics": None, "backbone_stage": None}
            append_record(hit=hit, seed=seed, method=method, group_metrics=groups, **plain)
    return load_all(tmp_path / "results")


def test_the_page_is_whole_and_needs_no_other_file(records):
    text = page(records)
    found = Page(text)
    assert found.open == [] and found.loads == []
    assert found.links == [f"#{name}" for name in found.ids]
    assert not re.search(r"https?://|@import|url\(", text)
    assert "<b>&" not in text and "&lt;b&gt;&amp;" in text
    assert 'name="viewport" content="width=device-width' in text and "overflow-x:auto" in text


def test_cells_hold_the_numbers_of_the_records(records):
    rows = [row for row in Page(page(records)).rows if row]
    assert [(row[1], row[7]) for row in rows] == [("Third", "0.75"), ("ALLMRec", "0.5"), ("<b>&", "0.25")]
    assert all(row[-1] == "160.5" for row in rows)  # seconds of both stages as if none was cached


def test_charts_show_every_row(records):
    drawings = re.findall(r"<svg.*?</svg>", page(records), re.DOTALL)
    assert len(drawings) == 2
    points, groups = (ElementTree.fromstring(drawing) for drawing in drawings)
    assert len(points.findall(".//circle")) == 3
    widths = [float(box.get("width")) for box in groups.findall(".//rect")]
    assert len(widths) == 6 and widths[0] == pytest.approx(4 * widths[1], rel=0.01)  # 0.5 and 0.125


def test_the_same_records_give_the_same_page_in_any_order(records):
    assert page(records) == page(records[::-1])


def test_no_records_give_a_page_without_tables():
    assert Page(page([])).rows == []


def test_the_command_writes_it(records, tmp_path, capsys):
    output = tmp_path / "out" / "page.html"
    assert main(["report", f"--leaderboard={tmp_path}", f"--output={output}"]) == 0
    assert output.read_text(encoding="utf-8") == page(records) and str(output) in capsys.readouterr().out


@pytest.mark.skipif(shutil.which("node") is None, reason="the page's script is run with node")
@pytest.mark.parametrize(
    ("column", "clicks", "order", "sort"),
    [
        (0, 1, ["10", "9", "a", "B", ""], "ascending"),
        (1, 1, ["9", "10", "a", "", "B"], "ascending"),
        (1, 2, ["a", "10", "9", "", "B"], "descending"),
    ],
)
def test_a_click_sorts_numbers_by_value_words_by_letters_and_absent_ones_last(column, clicks, order, sort):
    # Numbers of the second column: 10 -> 2.5, 9 -> -1, a -> 10; "" and B have none.
    given = {
        "kinds": ["word", "number"],
        "rows": [["10", "2.5"], ["", ""], ["a", "10"], ["B", ""], ["9", "-1"]],
    }
    after = f"for (let n = 0; n < {clicks}; n++) heads[{column}].click();"
    names = "body.rows.map((row) => row.cells[0].dataset.value)"
    after += f"console.log(JSON.stringify([{names}, heads[{column}].attributes]));"
    code = f"{DOM}\n{SCRIPT}\n{after}"
    done = subprocess.run(["node", "-e", code, json.dumps(given)], capture_output=True, text=True, check=True)
    found, attributes = json.loads(done.stdout)
    assert found == order and attributes == {"aria-sort": sort}


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.0, 1.0, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (0.21, 0.43, [0.2, 0.25, 0.3, 0.35, 0.4, 0.45]),
        (3.0, 97.0, [0.0, 20.0, 40.0, 60.0, 80.0, 100.0]),
    ],
)
def test_ticks_are_round_and_hold_the_values(low, high, ticks):
    assert nice_ticks(low, high) == pytest.approx(ticks)


@pytest.mark.parametrize("value", [0.0, 0.5, -3.0, 1e6])
def test_equal_values_get_room(value):
    ticks = nice_ticks(value, value)
    assert ticks[0] < value < ticks[-1]


def test_points_stand_where_their_numbers_say():
    drawn = ElementTree.fromstring(
        scatter([Point(1, "a", 1.0, 0.0), Point(2, "b", 10.0, 0.5), Point(3, "c", 100.0, 1.0)], "s", "q")
    )
    places = [(float(circle.get("cx")), float(circle.get("cy"))) for circle in drawn.findall(".//circle")]
    assert places[1] == pytest.approx(
        [sum(axis) / 2 for axis in zip(places[0], places[2], strict=True)], abs=0.1
    )
    assert places[0][0] < places[2][0] and places[0][1] > places[2][1]


def test_numbers_of_points_at_one_place_stand_apart():
    drawn = ElementTree.fromstring(
        scatter(
            [Point(number, "a", 10.0, 0.5) for number in range(1, 5)] + [Point(5, "b", 99.0, 0.9)], "s", "q"
        )
    )
    numbers = [
        text
        for group in drawn.findall("g")
        for text in group.findall("text")
        if group.find("circle") is not None
    ]
    places = [(text.get("x"), text.get("y"), text.get("text-anchor")) for text in numbers]
    assert [text.text for text in numbers] == ["1", "2", "3", "4", "5"]
    assert len(set(places)) == 5
    assert places[0][2] == places[4][2] == "start"  # the best place, where it is free


def test_numbers_at_the_ends_of_lines_stand_a_line_apart():
    def ends(*values):
        series = [
            Line(number, "a", [(0.0, 0.0, ""), (1.0, value, "")]) for number, value in enumerate(values)
        ]
        drawn = ElementTree.fromstring(lines(series, "share", "q"))
        return [
            float(group.find("text").get("y"))
            for group in drawn.findall("g")
            if group.find("polyline") is not None
        ]

    assert ends(1.0, 0.5)[1] - ends(1.0, 0.5)[0] > 14  # far from one another: each at its line
    first, second, third = ends(1.0, 1.0, 0.99)
    assert (second - first, third - second) == (14, 14)
    lowest, above, _ = ends(0.0, 0.001, 1.0)  # no room below
    assert lowest - above == 14 and lowest <= 300 - 52 + 6


def test_many_points_at_one_place_have_numbers_on_no_other():
    points = [Point(number, "a", 10.0, 0.5) for number in range(1, 13)] + [Point(13, "b", 99.0, 0.9)]
    drawn = ElementTree.fromstring(scatter(points, "s", "q"))
    numbers = [group.find("text") for group in drawn.findall("g") if group.find("circle") is not None]
    boxes = []
    for text in numbers:
        left = float(text.get("x")) - {"start": 0, "middle": 4, "end": 8}[text.get("text-anchor")] * len(
            text.text
        )
        boxes.append((left, left + 8 * len(text.text), float(text.get("y"))))
    for place, one in enumerate(boxes):
        for other in boxes[:place]:
            apart = one[0] >= other[1] or other[0] >= one[1] or abs(one[2] - other[2]) >= 14
            assert apart, (one, other)


def test_long_names_of_bars_are_cut_and_told_in_full():
    drawn = ElementTree.fromstring(bars([("a" * 60, [("warm", 0.5)])], "q"))
    assert drawn.find("text").text == "a" * 49 + "…"
    assert drawn.find(".//title").text.startswith("a" * 60 + ", warm")


CURVE = [
    {"share": share, "rows": 0, "llm_tokens": 100, "HIT@1": hit}
    for share, hit in ((0, 0.5), (0.2, 0.7), (1, 0.6))
]


def test_a_curve_is_the_mean_over_runs_at_the_shares_that_all_have():
    other = [
        {"share": 0.0, "llm_tokens": 0, "HIT@1": 0.3},
        {"share": 0.2004, "llm_tokens": 300, "HIT@1": 0.5},
    ]
    found = mean_curve(
        [
            CURVE,
            other,
        ],
        "HIT@1",
    )
    assert found == [
        (0, pytest.approx(0.4), ", 50 LLM tokens"),
        (0.2, pytest.approx(0.6), ", 200 LLM tokens"),
    ]
    assert mean_curve([CURVE], "AUC") == mean_curve([], "HIT@1") == []


def test_runs_that_route_rows_show_their_curve_and_both_models(append_record, tmp_path):
    thirds = {
        f"confidence_{part}": {"count": 3, "HIT@1": value}
        for part, value in (("high", 0.9), ("middle", 0.6), ("low", 0.3))
    }
    on_valid = {"crm": thirds, "llm": {name: {"HIT@1": 0.5} for name in thirds}}
    plain = {"backbone_metrics": None, "backbone_stage": None, "group_metrics": {}}
    for seed, extra in enumerate(
        ({"valid_curve": CURVE, "confidence": {"crm": thirds}, "valid_confidence": on_valid},) * 2
    ):
        append_record(hit=0.5, seed=seed, method="CoReLLa", extra=extra, **plain)
    text = page(load_all(tmp_path / "results"))
    assert Page(text).open == []
    _, curve, confidence = (
        ElementTree.fromstring(drawing) for drawing in re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    )
    told = [title.text for title in curve.iter("title")]
    assert len(curve.findall(".//polyline")) == 1 and len(told) == 3
    assert "validation rows: HIT@1 0.7000, share routed to the LLM 0.2, 100 LLM tokens" in told[1]
    widths = [float(box.get("width")) for box in confidence.findall(".//rect")]
    assert [round(width / widths[0], 2) for width in widths] == [1, 0.56, 0.67, 0.56, 0.33, 0.56]


def test_the_tests_curve_is_drawn_before_that_of_validation(append_record, tmp_path):
    extra = {"valid_curve": CURVE, "curve": [{**point, "HIT@1": 0.25} for point in CURVE]}
    append_record(extra=extra, backbone_metrics=None, backbone_stage=None)
    text = page(load_all(tmp_path / "results"))
    assert "test rows: HIT@1 0.2500" in text and "validation rows: HIT@1" not in text


def test_lines_go_through_their_points():
    drawn = ElementTree.fromstring(
        lines([Line(3, "a", [(0.0, 0.0, ""), (0.5, 0.5, ""), (1.0, 1.0, "")])], "s", "q")
    )
    places = [tuple(map(float, pair.split(","))) for pair in drawn.find(".//polyline").get("points").split()]
    assert places[1] == pytest.approx(
        [sum(axis) / 2 for axis in zip(places[0], places[2], strict=True)], abs=0.1
    )
    circles = [(float(each.get("cx")), float(each.get("cy"))) for each in drawn.findall(".//circle")]
    assert circles == places and places[0][1] > places[2][1]
    with pytest.raises(ValueError, match="every line a point"):
        lines([Line(1, "a", [])], "s", "q")


def test_a_chart_alone_is_a_file_with_its_colours():
    drawn = standalone(bars([("a", [("warm items of a long name", 1.0)])], "q"))
    root = ElementTree.fromstring(drawn)
    assert root.tag == "{http://www.w3.org/2000/svg}svg" and ".c0{fill:" in drawn
    box = root.find(".//{*}rect")
    assert float(box.get("x")) > 150 and float(box.get("x")) + float(box.get("width")) < 640


def test_charts_without_numbers_are_refused():
    with pytest.raises(ValueError, match="above 0"):
        scatter([Point(1, "a", 0.0, 1.0)], "s", "q")
    with pytest.raises(ValueError, match="none below 0"):
        bars([("a", [("warm", -1.0)])], "q")
