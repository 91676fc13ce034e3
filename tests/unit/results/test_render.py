from __future__ import annotations

import re
import statistics
from collections.abc import Callable
from pathlib import Path

import pytest

from llmbole import results
from llmbole.markdown import MarkdownError
from llmbole.record import RecordError, content_hash
from llmbole.render import check, check_document, leaderboard, record_table, render, render_document
from llmbole.results import Commit, Dataset, ProtocolVersion, Record, Selection, StageCost

Append = Callable[..., Path]
PLAIN = {"backbone_metrics": None, "backbone_stage": None}


def page(folder: Path) -> str:
    (path,) = render(folder / "results", folder)
    assert path == folder / "loo_rank20" / "ml-100k.md"
    return path.read_text(encoding="utf-8")


def rows(text: str, table: int = 0) -> list[dict[str, str]]:
    """The n-th table of a page, as a mapping from column title to cell for each row."""
    tables = re.findall(r"(?:^\|.*\n)+", text + "\n", flags=re.M)
    lines = [[cell.strip() for cell in line[1:-1].split("|")] for line in tables[table].splitlines()]
    return [dict(zip(lines[0], line, strict=True)) for line in lines[2:]]


def seeds(append_record: Append, hits: list[float], **changes: object) -> list[Path]:
    return [append_record(hit=hit, seed=seed, **changes) for seed, hit in enumerate(hits)]


def test_mean_and_sample_standard_deviation_over_seeds(append_record: Append, tmp_path: Path) -> None:
    paths = seeds(append_record, [0.25, 0.3, 0.5], **PLAIN)
    (row,) = rows(page(tmp_path))
    # mean (0.25 + 0.3 + 0.5) / 3 = 0.35; variance (0.01 + 0.0025 + 0.0225) / 2 = 0.0175
    assert row["HIT@1"] == "0.3500 ± 0.1323"
    assert (row["rank"], row["seeds"], row["note"]) == ("1", "3", "")
    assert (row["method"], row["backbone"]) == ("ALLMRec", "SASRec")
    assert row["LLM"] == "tiny@3f2a91c0 (4.12 M)"
    assert row["settings"] == "default"
    for seed, path in enumerate(paths):
        assert f"seed {seed} `{path.stem}`" in page(tmp_path)


def test_cost_counts_cached_stages_in_full(append_record: Append, tmp_path: Path) -> None:
    seeds(append_record, [0.25, 0.3, 0.5], **PLAIN)
    (row,) = rows(page(tmp_path), 1)
    assert row["seconds"] == "160.5"
    assert row["peak memory"] == "1.00 GiB"
    assert row["LLM tokens"] == "12.3 K"
    assert row["trainable parameters"] == "1.50 K"
    assert row["commit"] == "01234567"


def test_fewer_than_three_seeds_and_uncommitted_code_are_listed_not_ranked(
    append_record: Append, tmp_path: Path
) -> None:
    seeds(append_record, [0.1, 0.1, 0.15], method="Ranked", **PLAIN)
    seeds(append_record, [0.9, 0.95], method="Few", **PLAIN)
    seeds(append_record, [0.9, 0.9, 0.9], method="Dirty", commit=Commit(hash="ab", dirty=True), **PLAIN)
    seeds(append_record, [0.8], method="Unknown", commit=Commit(hash="unknown", dirty=None), **PLAIN)
    found = [(row["row"], row["rank"], row["method"], row["note"]) for row in rows(page(tmp_path))]
    assert found == [
        ("1", "1", "Ranked", ""),
        ("2", "–", "Few", "not ranked: 2 of 3 seeds"),
        ("3", "–", "Dirty", "not ranked: uncommitted code"),
        ("4", "–", "Unknown", "not ranked: 1 of 3 seeds, uncommitted code"),
    ]
    assert [row["commit"] for row in rows(page(tmp_path), 1)][2] == "ab+"


def test_clean_and_dirty_runs_are_never_averaged_together(append_record: Append, tmp_path: Path) -> None:
    seeds(append_record, [0.5, 0.5], **PLAIN)
    append_record(hit=1.0, seed=2, commit=Commit(hash="ab", dirty=True), **PLAIN)
    assert [(row["HIT@1"], row["seeds"]) for row in rows(page(tmp_path))] == [
        ("1.0000", "1"),
        ("0.5000 ± 0.0000", "2"),
    ]


def test_rows_are_ordered_by_the_selection_metric_either_way(append_record: Append, tmp_path: Path) -> None:
    for method, hit in (("B", 0.5), ("A", 0.25), ("C", 0.75)):
        seeds(append_record, [hit] * 3, method=method, **PLAIN)
    assert [row["method"] for row in rows(page(tmp_path))] == ["C", "B", "A"]


def test_lower_is_better_for_errors(make_record: Callable[..., Record]) -> None:
    records = [
        make_record(
            method=method,
            metrics={"RMSE": value, "AUC": 0.5},
            selection=Selection(kind="fixed", metric="RMSE", value=None, trials=1),
            **PLAIN,
        )
        for method, value in (("Worse", 1.5), ("Better", 0.5))
    ]
    found = rows(leaderboard(records))
    assert [row["method"] for row in found] == ["Better", "Worse"]
    assert list(found[0])[-2:] == ["RMSE", "AUC"]


def test_the_backbone_alone_is_one_row_without_duplicates(append_record: Append, tmp_path: Path) -> None:
    for seed in range(3):
        for method in ("ALLMRec", "MLPLLM"):
            append_record(
                hit=0.5,
                seed=seed,
                method=method,
                backbone_metrics={"HIT@1": 0.1 * (seed + 1)},
                artifacts={"backbone": f"key{seed}", "projection": f"{method}{seed}"},
            )
    found = rows(page(tmp_path))
    assert [(row["method"], row["settings"], row["seeds"]) for row in found] == [
        ("ALLMRec", "default", "3"),
        ("MLPLLM", "default", "3"),
        ("SASRec", "backbone alone", "3"),
    ]
    assert found[2]["HIT@1"] == f"0.2000 ± {statistics.stdev([0.1, 0.2, 0.3]):.4f}"
    cost = rows(page(tmp_path), 1)[2]
    assert (cost["seconds"], cost["trainable parameters"], cost["LLM tokens"]) == ("60.5", "1.00 K", "–")


def test_backbones_of_different_settings_are_different_rows(append_record: Append, tmp_path: Path) -> None:
    for size in (32, 64):
        config = {"backbone": {"name": "SASRec", "hidden_size": size}}
        append_record(
            hit=0.5,
            seed=0,
            config=config,
            config_hash=results.content_hash(config),
            artifacts={"backbone": f"size{size}", "projection": "x"},
        )
    alone = [row["settings"] for row in rows(page(tmp_path)) if row["settings"].startswith("backbone alone")]
    assert len(set(alone)) == 2
    assert all(re.fullmatch(r"backbone alone \[[0-9a-f]{8}\]", name) for name in alone)


def test_equal_labels_with_different_settings_are_told_apart(append_record: Append, tmp_path: Path) -> None:
    for rate in (1e-3, 1e-4):
        config = {"learning_rate": rate}
        append_record(hit=0.5, config=config, config_hash=results.content_hash(config), **PLAIN)
    assert len({row["settings"] for row in rows(page(tmp_path))}) == 2


def test_the_newest_run_of_a_seed_counts_and_the_older_is_listed(
    append_record: Append, tmp_path: Path
) -> None:
    old = append_record(hit=0.25, created="2025-01-01T00:00:00Z", **PLAIN)
    append_record(hit=0.5, created="2025-01-02T00:00:00Z", **PLAIN)
    text = page(tmp_path)
    assert [(row["HIT@1"], row["seeds"]) for row in rows(text)] == [("0.5000", "1")]
    assert f"Older runs of a seed that has a newer run: `{old.stem}`" in text


def test_superseded_records_are_named_and_not_in_the_tables(append_record: Append, tmp_path: Path) -> None:
    old = append_record(hit=1.0, **PLAIN)
    new = append_record(
        hit=0.25,
        protocol=ProtocolVersion(name="loo_rank20", version=2, split="cc"),
        supersedes=old.stem,
        **PLAIN,
    )
    text = page(tmp_path)
    assert [row["HIT@1"] for row in rows(text)] == ["0.2500"]
    assert f"- `{old.stem}` by `{new.stem}`" in text
    assert "## Version 1" not in text


def test_versions_splits_and_data_are_never_mixed(append_record: Append, tmp_path: Path) -> None:
    append_record(hit=0.5, **PLAIN)
    append_record(hit=0.5, protocol=ProtocolVersion(name="loo_rank20", version=2, split="cc"), **PLAIN)
    data = Dataset(name="ml-100k", fingerprint="other", counts={}, expected_counts={}, warnings=[])
    append_record(hit=0.5, dataset=data, **PLAIN)
    assert re.findall(r"^## .*", page(tmp_path), flags=re.M) == [
        "## Version 2",
        "## Version 1",
        "## Version 1",
    ]


def test_counts_that_differ_stand_beside_the_expected_ones(append_record: Append, tmp_path: Path) -> None:
    record = results.load(append_record(hit=0.5, **PLAIN))
    assert "3 users (expected 943), 1,682 items." in page(tmp_path)
    assert "data: 3 users (expected 943);" in record_table(record)


def test_rendering_twice_and_in_any_order_gives_the_same_bytes(append_record: Append, tmp_path: Path) -> None:
    seeds(append_record, [0.25, 0.3, 0.5])
    seeds(append_record, [0.25, 0.3, 0.5], method="Tied")
    (path,) = render(tmp_path / "results", tmp_path / "out")
    first, stamp = path.read_bytes(), path.stat().st_mtime_ns
    assert render(tmp_path / "results", tmp_path / "out") == [path]
    assert (path.read_bytes(), path.stat().st_mtime_ns) == (first, stamp)
    records = results.load_all(tmp_path / "results")
    assert leaderboard(records[::-1]).encode() == first
    assert leaderboard(sorted(records, key=lambda record: record.seed)).encode() == first


def test_tables_are_aligned_on_a_terminal(append_record: Append, tmp_path: Path) -> None:
    seeds(append_record, [0.25, 0.3, 0.5])
    append_record(hit=0.5, method="AnotherWithALongName")
    for block in re.findall(r"(?:^\|.*\n)+", page(tmp_path), flags=re.M):
        assert len({len(line) for line in block.splitlines()}) == 1


def test_check_finds_edits_missing_and_stray_pages_and_writes_nothing(
    append_record: Append, tmp_path: Path
) -> None:
    append_record(hit=0.5, **PLAIN)
    results_folder, out = tmp_path / "results", tmp_path / "out"
    (problem,) = check(results_folder, out)
    assert "missing" in problem.message and not out.exists()
    (path,) = render(results_folder, out)
    assert check(results_folder, out) == []
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("0.5000", "0.6000"), encoding="utf-8")
    (problem,) = check(results_folder, out)
    assert (problem.file, problem.line) == (path, text[: text.index("0.5000")].count("\n") + 1)
    assert "0.5000" in problem.message
    path.write_text(text, encoding="utf-8")
    (path.parent / "beauty.md").write_text("x")
    (out / "sweeps").mkdir()
    (out / "sweeps" / "notes.md").write_text("x")
    (problem,) = check(results_folder, out)
    assert problem.file == path.parent / "beauty.md"


def test_a_tampered_record_is_not_rendered(append_record: Append, tmp_path: Path) -> None:
    path = append_record(hit=0.5, **PLAIN)
    path.write_text(path.read_text(encoding="utf-8").replace("0.5", "0.9"), encoding="utf-8")
    with pytest.raises(RecordError, match="does not match the id"):
        render(tmp_path / "results", tmp_path / "out")


def test_no_records_render_to_no_pages(tmp_path: Path) -> None:
    assert render(tmp_path / "results", tmp_path) == []
    assert check(tmp_path / "results", tmp_path) == []


def test_record_table_of_one_run(make_record: Callable[..., Record]) -> None:
    record = make_record(metrics={"MRR": 0.5, "HIT@5": 0.75, "HIT@1": 0.25})
    text = record_table(record)
    quality, cost = rows(text), rows(text, 1)
    assert list(quality[0]) == ["test metrics", "HIT@1", "HIT@5", "MRR"]
    assert list(quality[0].values()) == ["ALLMRec (SASRec, tiny)", "0.2500", "0.7500", "0.5000"]
    assert list(quality[1].values()) == ["SASRec alone", "0.2500", "–", "–"]
    assert [list(row.values()) for row in cost] == [
        ["backbone", "60.5", "3.00 MiB", "–", "1.00 K"],
        ["projection", "100.0", "1.00 GiB", "12.3 K", "500"],
        ["total", "160.5", "1.00 GiB", "12.3 K", "1.50 K"],
    ]
    assert text.endswith(
        "ml-100k, loo_rank20 v1; seed 2025; scored by candidate_log_likelihood; LLM tiny@3f2a91c0 (4.12 M); "
        f"data: 3 users (expected 943); commit 01234567; record {record.id[:12]}."
    )


def test_record_table_of_a_conventional_model(make_record: Callable[..., Record]) -> None:
    cost = {"evaluate": StageCost(seconds=1.0)}
    record = make_record(method="LightGCN", backbone=None, llm=None, text_encoder=None, cost=cost, **PLAIN)
    assert [row["test metrics"] for row in rows(record_table(record))] == ["LightGCN"]
    assert "LLM" not in record_table(record).splitlines()[-1]


def test_documents_are_refreshed_and_checked(append_record: Append, tmp_path: Path) -> None:
    path = append_record(hit=0.5)
    results_folder, document = tmp_path / "results", tmp_path / "README.md"
    head, tail = "# Title\n\nText.\n", "More text without line break"
    document.write_text(
        f"{head}<!-- generated:demo record={path.stem[:12]} -->\n<!-- /generated -->\n"
        f"<!-- generated:board leaderboard=loo_rank20/ml-100k -->\nold\n<!-- /generated -->\n{tail}",
        encoding="utf-8",
    )
    assert len(check_document(document, results_folder)) == 1
    assert render_document(document, results_folder) is True
    text = document.read_text(encoding="utf-8")
    assert text.startswith(head) and text.endswith(tail)
    assert record_table(results.load(path)) in text
    assert "## Version 1" in text and "# ml-100k, protocol" not in text
    assert check_document(document, results_folder) == []
    assert render_document(document, results_folder) is False
    document.write_text(text.replace("0.5000", "0.5001", 1), encoding="utf-8")
    (problem,) = check_document(document, results_folder)
    assert problem.line == text[: text.index("0.5000")].count("\n") + 1


def test_a_document_shows_the_ranked_rows_alone(append_record: Append, tmp_path: Path) -> None:
    for seed, hit in enumerate([0.5, 0.75, 1.0]):
        append_record(hit=hit, seed=seed, artifacts={"backbone": f"key{seed}", "projection": f"own{seed}"})
    document, results_folder = tmp_path / "README.md", tmp_path / "results"
    marker = "<!-- generated:board leaderboard=loo_rank20/ml-100k metrics={} -->\n<!-- /generated -->\n"
    document.write_text(marker.format("HIT@1"), encoding="utf-8")
    assert render_document(document, results_folder)
    own = {"method": "LightGCN", "backbone": None, "llm": None, **PLAIN}
    append_record(hit=0.9, **own)  # of one seed: not ranked
    assert not render_document(document, results_folder)
    method, backbone = rows(document.read_text(encoding="utf-8"))
    assert list(method.values()) == ["ALLMRec", "SASRec", "tiny", "default", "0.7500 ± 0.2500", "3"]
    assert (backbone["method"], backbone["settings"]) == ("SASRec", "backbone alone")
    seeds(append_record, [0.25, 0.25, 0.25], **{**own, "method": "SASRec"})
    assert render_document(document, results_folder)
    found = [(row["method"], row["settings"]) for row in rows(document.read_text(encoding="utf-8"))]
    assert found == [("ALLMRec", "default"), ("SASRec", "default")]  # its run stands for the backbone alone
    document.write_text(marker.format("HIT@1,AUC"), encoding="utf-8")
    with pytest.raises(MarkdownError, match=r"README\.md:1: no ranked row has the metric AUC"):
        render_document(document, results_folder)


def test_a_document_shows_the_newest_of_rows_that_differ_in_defaults_alone(
    append_record: Append, tmp_path: Path
) -> None:
    for year, hit in (("2025", 0.25), ("2026", 0.5), ("2024", 0.75)):
        for seed in range(3):
            config = {"seed": seed, "a_default": year}
            append_record(
                hit=hit,
                seed=seed,
                created=f"{year}-01-01T00:00:00Z",
                config=config,
                config_hash=content_hash(config),
                **PLAIN,
            )
    assert len(rows(page(tmp_path))) == 3
    document = tmp_path / "README.md"
    document.write_text(
        "<!-- generated:board leaderboard=loo_rank20/ml-100k metrics=HIT@1 -->\n<!-- /generated -->\n"
    )
    render_document(document, tmp_path / "results")
    (row,) = rows(document.read_text(encoding="utf-8"))
    assert (row["HIT@1"], row["settings"]) == ("0.5000 ± 0.0000", "default")


def test_a_document_needs_a_ranked_row(append_record: Append, tmp_path: Path) -> None:
    append_record(hit=0.5)
    document = tmp_path / "README.md"
    document.write_text(
        "<!-- generated:board leaderboard=loo_rank20/ml-100k metrics=HIT@1 -->\n<!-- /generated -->\n"
    )
    with pytest.raises(MarkdownError, match="no row of this leaderboard is ranked"):
        render_document(document, tmp_path / "results")


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        (" record=00000000", r"README\.md:1: 0 records in .* begin with 00000000"),
        (" record=ab", "at least 8 digits"),
        (" leaderboard=ctr/beauty", "no records of ctr/beauty"),
        ("", "region demo says nothing; give it record=<id>"),
        (" settings=CoLM", r"README\.md:1: settings=CoLM: no method of this package"),
        (
            " recrod=00000000",
            "give it record=<id>, leaderboard=<protocol>/<dataset>, with metrics=<name>,... for its ranked rows alone",
        ),
    ],
)
def test_regions_without_known_content_are_refused(tmp_path: Path, attributes: str, message: str) -> None:
    document = tmp_path / "README.md"
    document.write_text(f"<!-- generated:demo{attributes} -->\n<!-- /generated -->\n")
    with pytest.raises(MarkdownError, match=message):
        render_document(document, tmp_path / "results")
