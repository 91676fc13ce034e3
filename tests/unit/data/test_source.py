"""Data cards, and raw files -> atomic files and text."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import pyarrow.parquet
import pytest

from llmbole.data import cards, source
from llmbole.data.convert.report import DataError
from llmbole.data.text import ItemText
from llmbole.settings import SettingsError


def test_ml_100k_comes_out_with_its_counts(card, tmp_path):
    summary = source.prepare(card, None, tmp_path)
    assert (summary["users"], summary["items"], summary["interactions"]) == (943, 1682, 100_000)
    assert summary["expected"] == {"users": 943, "items": 1682, "interactions": 100_000}
    # Two rows of the published file have no number for a year; nothing else is odd.
    assert len(summary["warnings"]) == 1 and summary["warnings"][0].startswith("years that are no number: 2")
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "fingerprint.json", "items.parquet", "ml-100k.inter", "ml-100k.item", "ml-100k.user", "users.parquet",
    ]  # fmt: skip
    assert json.loads((tmp_path / "fingerprint.json").read_text())["fingerprint"] == summary["fingerprint"]


def test_atomic_files_hold_the_raw_rows(card, prepared):
    raw = source.locate_raw(card, None)
    for kind in ("inter", "item", "user"):
        ours = (prepared / f"ml-100k.{kind}").read_text(encoding="utf-8").splitlines()
        assert ours == (raw / f"ml-100k.{kind}").read_text(encoding="utf-8").splitlines()


def test_titles_are_intact(prepared, split):
    text = ItemText.load(prepared, split.item_tokens)
    by_token = {str(token): item for item, token in enumerate(split.item_tokens)}
    assert text.title[by_token["12"]] == "Usual Suspects, The"
    assert text.title[by_token["543"]] == "Misérables, Les"
    assert text.title[by_token["1104"]] == "C'est arrivé près de chez vous"
    assert text.title[by_token["267"]] == "unkonwn" and text.year[by_token["267"]] is None
    assert text.year[by_token["12"]] == 1995 and text.categories[by_token["12"]] == ("Crime", "Thriller")
    assert text.title[0] == "" and len(text) == split.n_items


def test_format_fills_a_template(prepared, split):
    text = ItemText.load(prepared, split.item_tokens)
    filled = text.format(
        "{title} ({year}); {categories}; {description}", {"year": "n.d.", "description": "none"}
    )
    place = text.title.index("Usual Suspects, The")
    assert filled[0] == "" and filled[place] == "Usual Suspects, The (1995); Crime, Thriller; none"
    assert filled[text.title.index("unkonwn")] == "unkonwn (n.d.); unknown; none"
    with pytest.raises(ValueError, match="items have no 'titel'; did you mean 'title'"):
        text.format("{titel}")


def test_broken_lines_are_left_out_counted_and_placed(small, caplog):
    broken = [
        "u1\ti1\t5",
        "u1\ti1\tfive\t10",
        "u1\ti1\t9\t10",
        "u1\ti1\t5\tinf",
        "NA\ti1\t5\t10",
        "u1\t\t5\t10",
    ]
    made = small(
        ["u1\ti1\t5\t10", *broken, "u1\ti2\t4\t20"], items=["i1\tA\t1990\tDrama", "i2\tB\t1991\tWar"]
    )
    summary = made.prepare()
    assert summary["interactions"] == 2
    (warning,) = [line for line in summary["warnings"] if line.startswith("broken lines")]
    assert warning.startswith("broken lines left out: 6 (tiny.inter:3: 3 columns, expected 4; ")
    assert "tiny.inter:4: rating 'five' is not a number" in warning
    assert "tiny.inter:5: rating 9 lies outside 1 to 5" in warning and "'inf' is not finite" in warning
    assert "tiny.inter:7: user id 'NA' reads as a missing value" in warning
    assert f"{made.raw / 'tiny.inter'}:3: broken lines left out" in caplog.text
    assert any(line.startswith("2 interactions, expected 8") for line in summary["warnings"])


def test_line_that_is_not_utf8_is_reported(small):
    made = small(["u1\ti1\t5\t10", "u1\ti2\t5\t20"])
    file = made.raw / "tiny.item"
    file.write_bytes(file.read_bytes().replace(b"Title i2", b"Caf\xe9"))
    warnings = made.prepare()["warnings"]
    assert any("tiny.item:3: not UTF-8 at byte 7" in line for line in warnings)
    assert any("item rows missing, left empty: 1" in line and "'i2'" in line for line in warnings)


def test_items_without_title_or_row_stay_in_the_data(small):
    inter = ["u1\ti1\t5\t10", "u1\ti2\t4\t20", "u1\ti3\t4\t30"]
    items = [
        "i2\t\t1991\tWar",
        "i9\tNever seen\t1992\tWar",
        'i1\tSay "hi", twice\t1990\tDrama',
        "i1\tAgain\t1\tX",
    ]
    made = small(inter, items=items)
    warnings = " | ".join(made.prepare()["warnings"])
    assert "items without a title: 2 (tiny.item:2: item 'i2';" in warnings
    assert "repeated item rows left out: 1 (tiny.item:5: item 'i1')" in warnings
    assert "item rows missing, left empty: 1" in warnings
    table = pyarrow.parquet.read_table(made.folder / "items.parquet").to_pydict()
    assert table["item_id"] == ["i2", "i1", "i3"]  # i9 has no interaction
    assert table["title"] == ["", 'Say "hi", twice', ""]


def test_repeated_interactions_keep_the_first_row(small):
    made = small(["u1\ti1\t5\t10", "u1\ti2\t4\t20", "u1\ti1\t1\t30"])
    summary = made.prepare()
    place = "repeated interactions left out: 1 (tiny.inter:4: user 'u1' and item 'i1'"
    assert any(place in warning for warning in summary["warnings"])
    assert (made.folder / "tiny.inter").read_text().splitlines()[1:] == ["u1\ti1\t5\t10", "u1\ti2\t4\t20"]


def test_repeated_interactions_can_be_kept(small):
    made = small(["u1\ti1\t5\t10", "u1\ti2\t4\t20", "u1\ti1\t1\t30"])
    made.card = dataclasses.replace(made.card, filter=source.Filter(duplicates="keep"))
    assert made.prepare()["interactions"] == 3


def test_a_head_without_a_column_is_an_error(small):
    made = small(["u1\ti1\t5\t10"])
    file = made.raw / "tiny.inter"
    file.write_text(file.read_text().replace("timestamp:float", "when:float"))
    with pytest.raises(
        DataError, match=r"tiny\.inter:1: the head lacks the columns timestamp:float; it has user_id"
    ):
        made.prepare()


def test_nothing_left_is_an_error(small):
    with pytest.raises(DataError, match="no interaction could be read"):
        small(["u1\ti1\t99\t10"], items=[], users=[]).prepare()


def test_prepare_wants_an_empty_folder(card, tmp_path):
    (tmp_path / "old").write_text("")
    with pytest.raises(DataError, match="must be an existing, empty folder"):
        source.prepare(card, None, tmp_path)


def test_fingerprint_follows_files_and_filter(small):
    made = small(["u1\ti1\t5\t10"])
    first = source.fingerprint(made.card, made.raw)
    assert source.fingerprint(made.card, made.raw) == first
    kept = dataclasses.replace(made.card, filter=source.Filter(duplicates="keep"))
    assert source.fingerprint(kept, made.raw) != first
    (made.raw / "tiny.user").write_bytes((made.raw / "tiny.user").read_bytes() + b"\n")
    assert source.fingerprint(made.card, made.raw) != first


def test_a_file_that_is_not_the_published_one_is_refused(card, tmp_path):
    for name in card.source.files:
        (tmp_path / name).write_text("other")
    with pytest.raises(
        DataError, match=r"ml-100k\.inter is not the published file, get it again: SHA-256 [0-9a-f]+"
    ):
        source.fingerprint(card, source.locate_raw(card, tmp_path))


def test_missing_raw_files_are_named(card, tmp_path):
    with pytest.raises(
        DataError, match=r"holds no ml-100k\.inter, .*their folder with --raw=FOLDER; they are published"
    ):
        source.locate_raw(card, tmp_path)


def test_unknown_names_get_the_close_one():
    with pytest.raises(SettingsError, match="unknown dataset 'ml100k'; did you mean 'ml-100k'"):
        source.card("ml100k")


def test_unknown_key_of_a_card_is_named_with_the_file(tmp_path, monkeypatch):
    (tmp_path / "dataset").mkdir()
    text = (cards.properties_folder() / "dataset" / "ml-100k.yaml").read_text()
    (tmp_path / "dataset" / "ml-100k.yaml").write_text(text.replace("licence:", "license:"))
    monkeypatch.setattr(cards, "properties_folder", lambda: tmp_path)
    with pytest.raises(SettingsError) as error:
        source.card("ml-100k")
    assert "dataset/ml-100k.yaml: unknown key 'license'; did you mean 'licence'?" in str(error.value)
    assert "missing key 'licence'" in str(error.value)


def test_names_need_nothing_heavy():
    code = (
        "import sys; from llmbole.data import protocol, source; source.names(); protocol.names();"
        "[source.card(n) for n in source.names()]; [protocol.protocol(n) for n in protocol.names()];"
        "c = source.card('ml-100k'); source.fingerprint(c, source.locate_raw(c, None));"
        "heavy = {'numpy', 'pandas', 'pyarrow', 'torch', 'recbole', 'transformers', 'ray'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
