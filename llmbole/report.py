"""The leaderboard as one static page of HTML: sortable tables, quality against cost, warm and cold. No other file.

Nothing but the records is read (no clock, no machine), so the same records give the same page.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from llmbole.charts import COLOURS, Line, Point, bars, lines, scatter
from llmbole.markdown import ABSENT, write_files
from llmbole.record import Record
from llmbole.results import load_all
from llmbole.tables import ALONE, DEFAULT, Entry, Row, rows_of, sections

WARMTH = (("warm_items", "cold_items"), ("warm", "cold"))
LONGEST_LINE = 22  # characters; longer words of a cell are wrapped
STYLE = """
:root{color-scheme:light dark;--line:#8884;--soft:#8881;--accent:#2563eb}
*{box-sizing:border-box}
body{font:16px/1.5 system-ui,sans-serif;margin:0 auto;padding:1rem;max-width:1400px}
h1{font-size:1.5rem}h2{font-size:1.2rem;margin-top:2.5rem;border-top:1px solid var(--line);padding-top:1rem}
nav a{margin-right:1rem;white-space:nowrap;display:inline-block}
.scroll{overflow-x:auto;background:
linear-gradient(90deg,Canvas 30%,transparent) left/40px 100% no-repeat local,
linear-gradient(270deg,Canvas 30%,transparent) right/40px 100% no-repeat local,
linear-gradient(90deg,var(--line),transparent) left/12px 100% no-repeat scroll,
linear-gradient(270deg,var(--line),transparent) right/12px 100% no-repeat scroll}
table{border-collapse:collapse;font-size:.875rem;font-variant-numeric:tabular-nums}
th,td{padding:.35rem .5rem;border-bottom:1px solid var(--line);text-align:right;white-space:nowrap}
th.word,td.word{text-align:left}td.long{white-space:normal;min-width:8rem;max-width:24rem}
@media(max-width:900px){td.long{min-width:14rem}}
tbody tr:nth-child(even){background:var(--soft)}
tr>:nth-child(2){position:sticky;left:0;background:Canvas}
tbody tr:nth-child(even)>:nth-child(2){background:linear-gradient(var(--soft),var(--soft)),Canvas}
th button{font:inherit;font-weight:600;background:none;border:0;padding:0;color:inherit;cursor:pointer}
th[aria-sort=ascending] button::after{content:" \\2191"}th[aria-sort=descending] button::after{content:" \\2193"}
.charts{display:grid;gap:1.5rem;grid-template-columns:minmax(0,1fr);margin-top:1.5rem}
@media(min-width:900px){.charts{grid-template-columns:minmax(0,1fr) minmax(0,1fr)}}
figure{margin:0}figcaption{font-size:.875rem}
svg{display:block;width:100%;height:auto;max-width:600px}svg text{font-size:12px;fill:currentColor}
@media(max-width:500px){svg text{font-size:15.7px}}
.grid{stroke:var(--line)}
"""
SCRIPT = """
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = Array.from(table.tHead.rows[0].cells);
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "ascending";
    const body = table.tBodies[0];
    const value = (row) => row.cells[column].dataset.value;
    const compare = (one, other) => {
      const a = value(one), b = value(other);
      if (a === "" || b === "") return (a === "") - (b === "");
      const numeric = head.dataset.kind === "number";
      const order = numeric ? Number(a) - Number(b) : a.localeCompare(b);
      return down ? -order : order;
    };
    for (const row of Array.from(body.rows).sort(compare)) body.appendChild(row);
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
  }));
}
"""


def write_report(results: Path, output: Path) -> Path:
    """Write the page.

    Args:
        results: The folder of all records.
        output: The file.

    Returns:
        The file.
    """
    write_files({output: page(load_all(results))})
    return output


def page(records: Sequence[Record]) -> str:
    """The page of some records.

    Args:
        records: Records of any protocols and data sets.

    Returns:
        HTML.
    """
    boards: dict[tuple[str, str], list[Record]] = defaultdict(list)
    for record in records:
        boards[record.protocol.name, record.dataset.name].append(record)
    parts = [
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>llmbole: leaderboard</title>\n<style>{STYLE}{COLOURS}\n</style>\n</head>\n<body>",
        "<h1>llmbole: leaderboard</h1>",
        f"<p>{len(records)} records. A click on a column's title sorts by it. Values are means over seeds.</p>",
    ]
    names = sorted(boards)
    if names:
        links = (f'<a href="#{_anchor(name)}">{escape(name[1])}, {escape(name[0])}</a>' for name in names)
        parts.append(f"<nav>{''.join(links)}</nav>")
    for name in names:
        parts += _board(name, boards[name])
    parts += [f"<script>{SCRIPT}</script>", "</body>\n</html>\n"]
    return "\n".join(parts)


def _anchor(name: tuple[str, str]) -> str:
    return escape(f"{name[0]}--{name[1]}")


def _board(name: tuple[str, str], records: Sequence[Record]) -> Iterator[str]:
    yield f'<section id="{_anchor(name)}">'
    for (version, split, _), entries in sections(records).items():
        metric = min(entry.record.selection.metric for entry in entries)
        rows, _ = rows_of(entries, metric)
        yield f"<h2>{escape(name[1])}, protocol {escape(name[0])} version {-version}</h2>"
        yield f"<p>Split <code>{escape(split[:8])}</code>. Ordered by test {escape(metric)}.</p>"
        yield _table(rows, metric)
        charts = (
            _scatter(rows, metric),
            _warmth(rows, metric),
            _routed(rows, metric),
            _confidence(rows, metric),
        )
        yield f'<div class="charts">{"".join(charts)}</div>'
    yield "</section>"


def _table(rows: Sequence[Row], metric: str) -> str:
    others = sorted({name for row in rows for entry in row.entries for name in entry.metrics} - {metric})
    words, numbers = ("method", "backbone", "LLM", "settings", "note"), ("seeds", metric, *others, "seconds")
    kinds = [("row", "number"), *((name, "word") for name in words), *((name, "number") for name in numbers)]
    heads = [_head(name, kind) for name, kind in kinds]
    lines = []
    for number, row in enumerate(rows, 1):
        method, backbone, llm, _, settings = row.names
        cells = [_cell(str(number), number)]
        cells += [_word(text) for text in (method, backbone, llm, settings, row.unranked)]
        cells.append(_cell(str(len(row.entries)), len(row.entries)))
        cells += [_cell(row.cell(name), row.mean(name)) for name in (metric, *others)]
        cells.append(_cell(ABSENT if row.seconds is None else f"{row.seconds:,.1f}", row.seconds))
        lines.append(f"<tr>{''.join(cells)}</tr>")
    body = "\n".join(lines)
    return (
        f'<div class="scroll"><table class="sortable"><thead><tr>{"".join(heads)}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody></table></div>"
    )


def _head(name: str, kind: str) -> str:
    return f'<th class="{kind}" data-kind="{kind}" scope="col"><button type="button">{escape(name)}</button></th>'


def _cell(text: str, value: float | None) -> str:
    return f'<td data-value="{"" if value is None else repr(value)}">{escape(text)}</td>'


def _word(text: str) -> str:
    long = " long" if len(text) > LONGEST_LINE else ""
    return f'<td class="word{long}" data-value="{"" if text == ABSENT else escape(text)}">{escape(text)}</td>'


def _title(row: Row) -> str:
    method, backbone, llm, _, settings = row.names
    more = [text.partition("@")[0] for text in (backbone, llm) if text != ABSENT]
    told = [] if settings == DEFAULT else [settings]
    return ", ".join([f"{method} ({', '.join(more)})" if more else method, *told])


def _scatter(rows: Sequence[Row], metric: str) -> str:
    """Quality against cost; rows without either are left out."""
    points = [
        Point(number, _title(row), row.seconds, mean)
        for number, row in enumerate(rows, 1)
        if (mean := row.mean(metric)) is not None and row.seconds
    ]
    if not points:
        return ""
    drawn = scatter(points, "seconds of all stages", metric)
    return f"<figure>{drawn}<figcaption>Quality against cost; numbers are rows of the table.</figcaption></figure>"


def _warmth(rows: Sequence[Row], metric: str) -> str:
    """Warm and cold items or rows, of runs that have them; a backbone alone has no groups of its own."""
    drawn = []
    for row in rows:
        for names in WARMTH if ALONE not in row.names[-1] else ():
            means = [(name, _group_mean(row.entries, name, metric)) for name in names]
            parts = [(name, mean) for name, mean in means if mean is not None]
            if len(parts) == len(names):
                drawn.append((_title(row), parts))
    if not drawn or min(value for _, parts in drawn for _, value in parts) < 0:
        return ""
    caption = f"<figcaption>{escape(metric)} of warm and cold items or rows.</figcaption>"
    return f"<figure>{bars(drawn, metric)}{caption}</figure>"


def _routed(rows: Sequence[Row], metric: str) -> str:
    """Quality against the share of rows that an LLM answers, of runs with such a curve, on test or validation rows."""
    drawn = []
    for number, row in enumerate(rows, 1):
        runs = row.entries if ALONE not in row.names[-1] else ()
        test = [entry.record.extra["curve"] for entry in runs if entry.record.extra.get("curve")]
        valid = [entry.record.extra["valid_curve"] for entry in runs if entry.record.extra.get("valid_curve")]
        points = mean_curve(test or valid, metric)
        if len(points) > 1:
            drawn.append(Line(number, f"{_title(row)}, {'test' if test else 'validation'} rows", points))
    if not drawn:
        return ""
    caption = (
        f"{escape(metric)} against the share of rows that the LLM answers, and the tokens that it reads for them (at a "
        "point); means over seeds, on test rows where the run drew that curve, else on validation rows. "
        "Numbers are rows of the table."
    )
    chart = lines(drawn, "share routed to the LLM", metric)
    return f"<figure>{chart}<figcaption>{caption}</figcaption></figure>"


def mean_curve(curves: Sequence[Sequence[Mapping[str, Any]]], metric: str) -> list[tuple[float, float, str]]:
    """The mean over runs of a curve of `share`, `llm_tokens` and metrics.

    Args:
        curves: Of each run; shares are compared to three decimals.
        metric: What is drawn.

    Returns:
        Share, metric and a note of the tokens at the shares that all runs have, ascending.
    """
    by_share: dict[float, list[Mapping[str, Any]]] = defaultdict(list)
    for curve in curves:
        for share, point in {round(point["share"], 3): point for point in curve if metric in point}.items():
            by_share[share].append(point)
    return [
        (
            share,
            statistics.fmean(point[metric] for point in points),
            f", {statistics.fmean(point['llm_tokens'] for point in points):,.0f} LLM tokens",
        )
        for share, points in sorted(by_share.items())
        if len(points) == len(curves)
    ]


def _confidence(rows: Sequence[Row], metric: str) -> str:
    """Both models of runs that route rows, in thirds of the rows by the conventional model's confidence."""
    drawn = []
    for row in rows:
        for part in ("high", "middle", "low") if ALONE not in row.names[-1] else ():
            found = [(model, _third(row.entries, model, part, metric)) for model in ("crm", "llm")]
            bars_of = [(model, value) for model, value in found if value is not None]
            if bars_of:
                drawn.append((f"{_title(row)}: {part} confidence", bars_of))
    if not drawn or min(value for _, parts in drawn for _, value in parts) < 0:
        return ""
    caption = (
        f"{escape(metric)} in thirds of the rows by the conventional model's (crm) confidence; the LLM's where it "
        "answered all rows, of the test or else of validation."
    )
    return f"<figure>{bars(drawn, metric)}<figcaption>{caption}</figcaption></figure>"


def _third(entries: Sequence[Entry], model: str, part: str, metric: str) -> float | None:
    """Mean over seeds of a model's metric in a third, of the kind of rows on which both models answered all."""
    values = []
    for entry in entries:
        extra = entry.record.extra
        kinds = [extra[kind] for kind in ("confidence", "valid_confidence") if kind in extra]
        whole = next((kind for kind in kinds if "llm" in kind), kinds[0] if kinds else {})
        values.append(whole.get(model, {}).get(f"confidence_{part}", {}).get(metric))
    present = [value for value in values if value is not None]
    return statistics.fmean(present) if present and len(present) == len(values) else None


def _group_mean(entries: Sequence[Entry], group: str, metric: str) -> float | None:
    values = [entry.record.group_metrics.get(group, {}).get(metric) for entry in entries]
    present = [value for value in values if value is not None]
    return statistics.fmean(present) if present and len(present) == len(values) else None
