"""Data of one's own: folders in every format, from DataFrames, and the command that prepares any data set."""

from __future__ import annotations

import json

import numpy as np
import pandas
import pyarrow.parquet
import pytest

import llmbole
from llmbole.cli import main
from llmbole.data import own, source
from llmbole.data.convert.report import DataError
from llmbole.resolve import resolve
from llmbole.settings import SettingsError

INTERACTIONS = "user_id,item_id,rating,timestamp\nu1,i1,5,100\nu1,i2,4,2001-01-01\nu2,i1,3.5,300\n"
ITEMS = """item_id,title,description,brand,categories,year
i1,"Say ""hi"", you",,Acme,Big Things|Small,1999
i2,B,d,,,x
"""


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "somewhere" / "mine"
    made.mkdir(parents=True)
    (made / "interactions.csv").write_text(INTERACTIONS)
    (made / "items.csv").write_text(ITEMS)
    return made


def prepare(folder, out):
    out.mkdir()
    card = own.own_card(folder)
    return card, source.prepare(card, folder, out)


def test_a_folder_of_csv(folder, tmp_path):
    (folder / "users.csv").write_text("user_id,age\nu1,30\nu3,40\n")
    card, found = prepare(folder, tmp_path / "out")
    assert (card.name, card.title) == ("own-mine", "./mine")
    assert (found["users"], found["items"], found["interactions"], found["expected"]) == (2, 2, 3, None)
    assert (tmp_path / "out" / "own-mine.inter").read_text().splitlines()[1:] == [
        "u1\ti1\t5\t100", "u1\ti2\t4\t978307200", "u2\ti1\t3.5\t300",
    ]  # fmt: skip
    items = pyarrow.parquet.read_table(tmp_path / "out" / "items.parquet").to_pylist()
    assert items[0] == {
        "item_id": "i1", "title": 'Say "hi", you', "description": "", "brand": "Acme",
        "categories": ["Big Things", "Small"], "year": 1999,
    }  # fmt: skip
    assert (tmp_path / "out" / "own-mine.item").read_text().splitlines()[
        1
    ] == "i1\tAcme\tBig_Things Small\t1999"
    assert (tmp_path / "out" / "own-mine.user").read_text().splitlines() == [
        "user_id:token\tage:token",
        "u1\t30",
        "u2\t",
    ]
    assert any(line.startswith("years that are no number: 1 (items.csv:3") for line in found["warnings"])


def test_tsv_without_ratings_and_times(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "interactions.tsv").write_text("item_id\tuser_id\nb\tu\na\tu\n\tu\nx\n")
    (folder / "items.tsv").write_text("item_id\ttitle\na\tA\nb\tB\n")
    _, found = prepare(folder, tmp_path / "out")
    assert (tmp_path / "out" / "own-mine.inter").read_text().splitlines()[1:] == ["u\tb\t1\t2", "u\ta\t1\t3"]
    assert any(line.startswith("broken lines left out: 2 (interactions.tsv:4") for line in found["warnings"])


def test_frames(tmp_path):
    interactions = pandas.DataFrame(
        {"user_id": [1, 1], "item_id": [7, 8], "timestamp": pandas.to_datetime(["2001-01-01", "2001-01-02"])}
    )
    items = pandas.DataFrame({"item_id": [7, 8], "title": ["A", None], "categories": [["x", "y z"], None]})
    folder = llmbole.dataset_from_frames(
        interactions, items, folder=tmp_path / "f", name="my shop", label={"positive_from": 1}
    )
    card, found = prepare(folder, tmp_path / "out")
    assert card.name == "own-my-shop" and card.label == source.Label(1.0)
    assert (tmp_path / "out" / "own-my-shop.inter").read_text().splitlines()[1:] == [
        "1\t7\t1\t978307200", "1\t8\t1\t978393600",
    ]  # fmt: skip
    assert any(line.startswith("items without a title: 1") for line in found["warnings"])
    with pytest.raises(DataError, match="items lacks the columns title"):
        llmbole.dataset_from_frames(interactions, interactions, folder=tmp_path / "g")


def test_dataset_yaml_says_what_prompts_and_labels_need(folder, tmp_path):
    (folder / "dataset.yaml").write_text(
        "words: {item: song, items: songs, verb: hear, past: heard}\n"
        "rating: {low: 1, high: 4}\nlabel: {positive_from: 4}\n"
    )
    card, found = prepare(folder, tmp_path / "out")
    assert card.words.past == "heard" and found["interactions"] == 2
    later = own.card_in("own-mine", tmp_path / "out")
    assert (later.name, later.words, later.label) == (card.name, card.words, card.label)


def test_what_is_wrong_in_a_folder_is_said(folder, tmp_path):
    with pytest.raises(DataError, match="there is no such folder"):
        resolve("SASRec", str(tmp_path / "nowhere"))
    (folder / "dataset.yaml").write_text("lable: {positive_from: 4}\n")
    with pytest.raises(SettingsError, match="unknown key 'lable'; did you mean 'label'"):
        resolve("SASRec", str(folder))
    (folder / "dataset.yaml").unlink()
    (folder / "items.csv").write_text("id,title\n")
    with pytest.raises(DataError, match=r"items\.csv lacks the columns item_id"):
        prepare(folder, tmp_path / "out")
    (folder / "items.csv").unlink()
    with pytest.raises(
        DataError, match=r"must hold one of items\.parquet, items\.csv, items\.tsv; it holds none"
    ):
        resolve("SASRec", str(folder))
    (folder / "interactions.tsv").write_text("")
    with pytest.raises(DataError, match=r"it holds interactions\.csv and interactions\.tsv"):
        resolve("SASRec", str(folder))


def test_only_the_last_part_of_the_path_stands_in_a_run(folder, tmp_path):
    resolved = resolve("SASRec", f"{folder}/")
    assert resolved.settings["dataset"]["name"] == "own-mine"
    assert str(tmp_path) not in json.dumps(resolved.settings)
    before = resolved.settings["dataset"]["fingerprint"]
    (folder / "items.csv").write_text(ITEMS.replace("Acme", "Other"))
    assert resolve("SASRec", str(folder)).settings["dataset"]["fingerprint"] != before
    with pytest.raises(SettingsError, match="is the data set itself; leave raw out"):
        resolve("SASRec", str(folder), {"raw": str(tmp_path)})


def test_a_run_finds_what_the_command_prepared(folder, tmp_path, capsys):
    store = str(tmp_path / "store")
    assert main(["data", "prepare", str(folder), f"--store={store}", "--quiet"]) == 0
    printed = capsys.readouterr().out
    assert "interactions             3\n" in printed and "fingerprint  " in printed
    where = printed.rsplit("where        ")[-1].strip()
    steps = llmbole.api.plan("SASRec", folder, store=store)
    assert [(step.stage.makes, step.cached) for step in steps][0] == ("data", True)
    assert where.endswith(steps[0].key)


def test_the_leak_check_is_a_command(tmp_path, capsys):
    store = f"--store={tmp_path / 'store'}"
    assert main(["check", "--dataset=ml-100k", "--protocol=unified_ctr", store, "--quiet"]) == 0
    printed = capsys.readouterr().out
    assert "test_rows     10000\n" in printed and printed.endswith("0 leaks\n")
    labels = next((tmp_path / "store" / "artifacts").glob("*/test_labels.npy"))
    array = np.load(labels)
    array[0] = 1 - array[0]
    np.save(labels, array)
    assert main(["check", "--dataset=ml-100k", "--protocol=unified_ctr", store, "--quiet"]) == 0  # made again
    assert main(["check", "--dataset=ml-100k", "--protocol=unified_crt", store]) == 2
    assert "did you mean 'unified_ctr'" in capsys.readouterr().err


def test_the_command_shows_expected_counts_and_mistakes(tmp_path, capsys):
    store = f"--store={tmp_path / 'store'}"
    assert main(["data", "prepare", "ml-100k", store, "--quiet"]) == 0
    assert "users                  943, expected 943\n" in capsys.readouterr().out
    assert main(["data", "prepare", "ml-100", store]) == 2
    assert "did you mean 'ml-100k'" in capsys.readouterr().err
    assert main(["data", "prepare", "ml-100k", store, f"--raw={tmp_path}"]) == 2
    assert "holds no ml-100k.inter" in capsys.readouterr().err
