"""A table's page by hand: means beside the print, marks only where they are earned, and what is missing or failed."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable

import numpy as np
import pytest

from llmbole import charts, results, table_run
from llmbole.experiment import Experiment, Figure, TableRow, under
from llmbole.experiment_page import pages
from llmbole.record import RecordError
from llmbole.table_run import CellRun, TableRun
from llmbole.table_values import TableValues, claims, gather, known_runs

ROWS = (
    TableRow("A", "BPR"),
    TableRow("B", "SASRec"),
    TableRow("C", "ALLMRec", backbone="SASRec"),
    TableRow("Lost & found", missing="not among the methods"),
)
USERS = [str(number) for number in range(200)]


def experiment(**changes) -> Experiment:
    """A table of four rows on one data set."""
    values = {
        "name": "paper/table1",
        "title": "a table",
        "source": "Paper, Table 1",
        "protocol": "loo_rank20",
        "metrics": ("HIT@1", "HIT@1 warm_items"),
        "datasets": {"Films": "ml-100k"},
        "rows": ROWS,
        "published": {"Films": {"A": {"HIT@1": 0.25}, "Lost & found": {"HIT@1": 0.125}}},
        "notes": ("Films, A: as printed",),
    }
    return Experiment(**{**values, **changes})


@pytest.fixture
def cell(tmp_path, make_record) -> Callable[..., CellRun]:
    """Appends a record whose users hit with a probability, and gives its cell: `cell("A", 1, 0.5)`."""

    def make(row: str, seed: int, chance: float, dataset: str = "Films", **changes) -> CellRun:
        model = {entry.name: entry for entry in ROWS}[row]
        luck = np.random.default_rng([seed, ord(row)]).uniform(size=len(USERS))
        per_user = {"HIT@1": (luck < chance).astype(float).tolist()}
        config = {"row": row, "seed": seed}
        record = make_record(
            method=model.model,
            backbone=model.backbone,
            llm=None,
            seed=seed,
            metrics={"HIT@1": results.average(per_user["HIT@1"])},
            group_metrics={"warm_items": {"HIT@1": chance}},
            backbone_metrics=None,
            backbone_stage=None,
            config=config,
            config_hash=results.content_hash(config),
            **changes,
        )
        path = results.append(record, tmp_path / "results", users=USERS, per_user=per_user)
        return CellRun(row=row, dataset=dataset, seed=seed, record=path.stem)

    return make


@pytest.fixture
def gathered(tmp_path) -> Callable[..., TableValues]:
    """The table of some cells."""

    def make(
        *cells: CellRun, stand_in: str | None = None, under_: str | None = None, **changes
    ) -> TableValues:
        run = TableRun(
            experiment="paper/table1", stand_in=stand_in, settings={}, cells=list(cells), protocol=under_
        )
        return gather(under(experiment(**changes), under_), run, known_runs(tmp_path / "results"))

    return make


def line(text: str, start: str) -> list[str]:
    """Cells of the first line of a markdown table that begins with a name."""
    return [
        part.strip()
        for part in next(x for x in text.splitlines() if x.startswith(f"| {start}")).split("|")[1:-1]
    ]


def test_means_stand_beside_the_print(cell, gathered):
    values = gathered(*(cell("A", seed, chance) for seed, chance in ((1, 0.2), (2, 0.4))))
    text = pages(values)["md"]
    found = [record.metrics["HIT@1"] for record, _ in values.runs["A", "Films"]]
    mean, deviation = sum(found) / 2, abs(found[0] - found[1]) / 2**0.5
    # Warm items: mean of 0.2 and 0.4, deviation 0.2 / sqrt 2 = 0.1414.
    wanted = ["A", "–", "2", f"{mean:.4f} ± {deviation:.4f}", "0.2500", "0.3000 ± 0.1414", "–"]
    assert line(text, "A ") == wanted
    assert line(text, "B ")[3:] == ["–", "–", "–", "–"]
    assert "Films, A: as printed" in text and "Paper, Table 1" in text


def test_a_figure_has_a_point_for_each_row_with_both_values(cell, gathered):
    figure = {"figure": Figure(x="HIT@1 warm_items", y="HIT@1")}
    found = pages(gathered(cell("A", 1, 0.2), cell("B", 1, 0.7), **figure))
    assert "![HIT@1 against HIT@1 warm_items](table1.Films.svg)" in found["md"]
    drawn = ElementTree.fromstring(found["Films.svg"])
    space = "{http://www.w3.org/2000/svg}"
    names = [each.text for each in drawn.findall(f".//{space}g/{space}text")]
    (low, high) = [float(each.get("cx")) for each in drawn.findall(f".//{space}circle")]
    assert names == ["A", "B"]
    # Ticks from 0.2 to 0.7 by 0.1: the points stand at both ends of the axis.
    assert (low, high) == (charts.LEFT, charts.WIDTH - charts.RIGHT)
    assert set(pages(gathered(**figure))) == {"md", "csv", "tex"}


def test_missing_and_failed_cells_are_shown_as_such(cell, gathered):
    failed = CellRun(row="B", dataset="Films", seed=1, error="RuntimeError: out of memory")
    text = pages(gathered(cell("A", 1, 0.5), failed))["md"]
    assert line(text, "Lost")[3:5] == ["missing", "0.1250"]
    assert "- Lost & found: missing: not among the methods" in text
    assert line(text, "B ")[3] == "failed"
    assert "- B, seed 1: failed: RuntimeError: out of memory" in text


def test_a_large_difference_is_marked_and_a_small_one_is_not(cell, gathered):
    cells = [
        cell(row, seed, chance) for row, chance in (("A", 0.2), ("B", 0.22), ("C", 0.9)) for seed in (1, 2)
    ]
    text = pages(gathered(*cells))["md"]
    assert line(text, "C ")[3].startswith("**0.")
    second = max(line(text, "A ")[3], line(text, "B ")[3])
    assert not second.startswith("_") and "**" not in second
    wide = [
        cell(row, seed, chance) for row, chance in (("A", 0.1), ("B", 0.5), ("C", 0.9)) for seed in (3, 4)
    ]
    text = pages(gathered(*wide))["md"]
    assert line(text, "C ")[3].startswith("**") and line(text, "B ")[3].startswith("_0.")
    assert not line(text, "A ")[3].startswith(("_", "*"))


def test_equal_methods_are_hardly_ever_marked(cell, gathered):
    tables = [gathered(*(cell(row, seed, 0.5) for row in "ABC")) for seed in range(10, 18)]
    assert sum(claim.sure for table in tables for claim in claims(table)) <= 1


def test_the_claim_is_against_the_row_where_it_is_weakest(cell, gathered):
    values = gathered(*(cell(row, 1, chance) for row, chance in (("A", 0.2), ("B", 0.5), ("C", 0.9))))
    first, second = [claim for claim in claims(values) if claim.metric == "HIT@1"]
    assert (first.row, first.rank, first.closest) == ("C", 1, "B")
    assert (second.row, second.rank, second.closest) == ("B", 2, "A")
    assert (first.comparison.unit, first.comparison.pairs) == ("users", 200)
    group = [claim for claim in claims(values) if claim.metric != "HIT@1"]
    assert all(
        not claim.sure and claim.comparison.unit == "seeds" for claim in group
    )  # one seed proves nothing


def test_rows_of_other_protocols_and_splits_are_not_compared(cell, gathered, make_record):
    rows = (ROWS[0], dataclasses.replace(ROWS[1], protocol="loo_rank20@few_shot-128"))
    scenario = dataclasses.replace(make_record().protocol, name="loo_rank20@few_shot-128")
    cells = [cell("A", 1, 0.2), cell("B", 1, 0.9, protocol=scenario)]
    assert claims(gathered(*cells, rows=rows, published={})) == []
    split = dataclasses.replace(make_record().protocol, split="cc" * 32)
    assert claims(gathered(cell("A", 1, 0.2), cell("B", 2, 0.9, protocol=split))) == []


def test_lower_errors_are_better(gathered, make_record, tmp_path):
    cells = []
    for row, value in (("A", 0.9), ("B", 0.8)):
        config = {"row": row}
        record = make_record(
            method={"A": "BPR", "B": "SASRec"}[row],
            llm=None,
            metrics={"HIT@1": 0.5, "RMSE": value},
            config=config,
            config_hash=results.content_hash(config),
        )
        per_user = {"HIT@1": [0.5] * len(USERS)}
        path = results.append(record, tmp_path / "results", users=USERS, per_user=per_user)
        cells.append(CellRun(row=row, dataset="Films", seed=record.seed, record=path.stem))
    values = gathered(*cells, metrics=("RMSE",), published={})
    assert [(claim.row, claim.closest) for claim in claims(values)] == [("B", "A")]


def test_a_stand_in_is_named_and_has_the_print_of_every_data_set(cell, gathered):
    datasets = {"Films": "ml-1m", "Books": "amazon-book"}
    published = {"Films": {"A": {"HIT@1": 0.25}}, "Books": {"A": {"HIT@1": 0.75}}}
    values = gathered(
        cell("A", 1, 0.5, "ml-100k"),
        stand_in="ml-100k",
        datasets=datasets,
        published=published,
        metrics=("HIT@1",),
    )
    text = pages(values)["md"]
    assert "## ml-100k, standing in for Films, Books" in text and "can't be compared" in text.replace(
        "\n", " "
    )
    assert "| published, Films | published, Books |" in text
    assert line(text, "A ")[4:] == ["0.2500", "0.7500"]


def test_a_protocol_that_stands_in_is_named(cell, gathered):
    made = cell("A", 1, 0.5)
    printed = {"protocol": "loo_full", "metrics": ("HIT@1",), "published": {}}
    values = gathered(made, under_="loo_rank20", **printed)
    text = pages(values)["md"]
    assert "Protocol loo_rank20." in text
    assert "**loo_rank20 stands in for the table's protocol. Published values can't be compared" in text
    assert values.run.stem == "paper/table1@loo_rank20"
    assert dataclasses.replace(values.run, stand_in="ml-1m").stem == "paper/table1@ml-1m,loo_rank20"
    with pytest.raises(RecordError, match=r"protocol 'loo_rank20', not 'loo_full'"):
        gathered(made, **printed)


def test_csv_and_latex_say_the_same(cell, gathered):
    values = gathered(cell("A", 1, 0.5))
    made = pages(values)
    rows = list(csv.DictReader(io.StringIO(made["csv"])))
    assert [row["state"] for row in rows if row["metric"] == "HIT@1"] == [
        "run",
        "not run",
        "not run",
        "missing",
    ]
    assert float(rows[0]["mean"]) == values.mean("A", "Films", "HIT@1") and rows[0]["published"] == "0.25"
    latex = made["tex"]
    assert r"Lost \& found & missing & 0.1250 & missing & -- \\" in latex
    assert latex.count(r"\toprule") == latex.count(r"\end{tabular}") == 1
    assert r"warm\_items" in latex


def test_a_superseded_record_gives_way(cell, gathered):
    old = cell("A", 1, 0.2)
    cell("A", 1, 0.8, created="2025-02-01T00:00:00Z", supersedes=old.record)
    assert gathered(old).values("A", "Films", "HIT@1 warm_items") == [0.8]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"row": "B"}, "is of another cell: method 'BPR', not 'SASRec'"),
        ({"seed": 7}, "seed 1, not 7"),
        ({"row": "D"}, "'D' on 'Films' is no cell"),
        ({"dataset": "Books"}, "is no cell"),
        ({"record": "0" * 64}, "holds no record 000"),
    ],
)
def test_a_cell_that_points_elsewhere_is_refused(cell, gathered, changes, message):
    with pytest.raises(RecordError, match=r"tables/paper/table1.json: cells.0") as error:
        gathered(dataclasses.replace(cell("A", 1, 0.5), **changes))
    assert message in str(error.value)


def test_a_run_is_read_as_it_was_written_and_edits_are_refused(tmp_path):
    cells = [
        CellRun(row="A", dataset="Films", seed=1, record="ab"),
        CellRun(row="A", dataset="Films", seed=2, error="x"),
    ]
    run = TableRun(experiment="paper/table1", stand_in="ml-100k", settings={"a.b": 1}, cells=cells)
    path = table_run.save(run, tmp_path)
    assert path == tmp_path / "paper" / "table1@ml-100k.json" and table_run.load(path, tmp_path) == run
    assert run.with_cells([dataclasses.replace(cells[1], record="cd", error=None)]).cells[1].record == "cd"
    for edit, message in (
        ({"extra": 1}, "extra: unknown key"),
        ({"schema": 2}, "reads version 1"),
        ({"stand_in": None}, "does not lie here"),
        ({"cells": [{**dataclasses.asdict(cells[0]), "error": "x"}]}, "either a record or an error"),
    ):
        path.write_text(json.dumps({**dataclasses.asdict(run), **edit}), encoding="utf-8")
        with pytest.raises(RecordError, match=message):
            table_run.load(path, tmp_path)


def test_a_figure_draws_the_columns_beside_the_table(cell, gathered):
    runs = [cell("A", 1, 0.5), cell("B", 1, 0.25)]
    assert set(pages(gathered(*runs))) == {"md", "csv", "tex"}
    made = pages(gathered(*runs, figure=Figure("bars")))
    root = ElementTree.fromstring(made["svg"])
    names = [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]
    assert [name for name in names if name.endswith(", Films")] == ["A, Films", "B, Films"]
    assert len(root.findall(".//{*}rect")) == 4 and "![a table](table1.svg)" in made["md"]
    assert set(pages(gathered(figure=Figure("bars")))) == {"md", "csv", "tex"}  # nothing was run
