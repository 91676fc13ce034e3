"""Raw formats with their traps, in small files that the tests write."""

from __future__ import annotations

import dataclasses
import gzip
import json
from pathlib import Path

import pyarrow.parquet
import pytest

from llmbole.data import cards, source
from llmbole.data.convert.report import DataError
from llmbole.data.text import ItemText

KEEP = source.Filter(duplicates="keep")


class Raw:
    """A folder of raw files, the card that reads them, and what came out."""

    def __init__(self, card, folder: Path, filter) -> None:
        origin = source.Source(kind="folder", files=card.source.files)
        self.card = dataclasses.replace(card, source=origin, filter=filter, expected=None)
        self.raw, self.folder = folder / "raw", folder / "out"
        self.raw.mkdir()

    def write(self, name: str, content: bytes) -> None:
        (self.raw / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)

    def prepare(self) -> dict:
        self.folder.mkdir()
        return source.prepare(self.card, self.raw, self.folder)

    def inter(self) -> list[str]:
        return (self.folder / f"{self.card.name}.inter").read_text(encoding="utf-8").splitlines()[1:]

    def atomic(self, kind: str) -> list[str]:
        return (self.folder / f"{self.card.name}.{kind}").read_text(encoding="utf-8").splitlines()

    def table(self, name: str = "items") -> list[dict]:
        return pyarrow.parquet.read_table(self.folder / f"{name}.parquet").to_pylist()


@pytest.fixture
def raw(tmp_path):
    def make(name: str, filter=KEEP) -> Raw:
        return Raw(source.card(name), tmp_path, filter)

    return make


def review(user="u1", item="i1", rating=5.0, time=100, **more):
    return {"reviewerID": user, "asin": item, "overall": rating, "unixReviewTime": time, **more}


def json_lines(*rows) -> bytes:
    return b"".join((row if isinstance(row, bytes) else json.dumps(row).encode()) + b"\n" for row in rows)


def warned(summary, start: str) -> str:
    (found,) = [line for line in summary["warnings"] if line.startswith(start)]
    return found


def amazon2018(raw, reviews: bytes, meta: bytes = b"", filter=KEEP) -> Raw:
    made = raw("amazon2018-Software", filter)
    made.write("Software.json.gz", reviews)
    made.write("meta_Software.json.gz", meta)
    return made


def test_amazon_2018_text(raw):
    meta = json_lines(
        {"asin": "i9", "title": "Never bought"},
        {
            "asin": "i1",
            "title": 'Bob &amp; Ann\'s  "Tools"\n&#39;18',
            "description": ["First &lt;b&gt;.", "", "Second."],
            "brand": "A &amp; B",
            "category": ["Software", "Home Office", "Software"],
        },
        {"asin": "i2", "title": "", "description": [], "category": []},
        {"asin": "i1", "title": "Again"},
        {"asin": "i3", "title": "var aPageStart = (new Date()).getTime();", "price": ""},
    )
    made = amazon2018(raw, json_lines(*(review(item=f"i{n}") for n in (3, 2, 1, 4))), meta)
    summary = made.prepare()
    assert [row["item_id"] for row in made.table()] == ["i1", "i2", "i3", "i4"]
    first = made.table()[0]
    assert first["title"] == "Bob & Ann's \"Tools\" '18"
    assert first["description"] == "First <b>. Second."
    assert first["brand"] == "A & B" and first["categories"] == ["Software", "Home Office"]
    assert made.table()[2]["title"] == "" and first["year"] is None
    assert made.atomic("item")[:3] == [
        "item_id:token\tbrand:token\tcategories:token_seq",
        "i1\tA & B\tSoftware Home_Office",
        "i2\t\t",
    ]
    assert "repeated item rows left out: 1 (meta_Software.json.gz:4" in str(summary["warnings"])
    assert warned(summary, "items without a title: 3") and warned(summary, "item rows missing, left empty: 1")
    assert made.table("users") == [{"user_id": "u1"}]


def test_brand_can_stand_in_a_template(raw):
    made = amazon2018(raw, json_lines(review()), json_lines({"asin": "i1", "title": "T", "brand": "B"}))
    made.prepare()
    text = ItemText.load(made.folder, ["[PAD]", "i1"])
    assert text.format("{title} by {brand}") == ["", "T by B"] and text.brand == ("", "B")


def test_broken_reviews_are_left_out_counted_and_placed(raw):
    rows = json_lines(
        review(),
        b'{"reviewerID": "u1", ',
        {"asin": "i1"},
        review(rating="5"),
        review(rating=6.0),
        review(user=""),
        review(user=7),
        review(time=None),
        b"[1, 2]",
        review(item="i2"),
    )
    made = amazon2018(raw, rows)
    summary = made.prepare()
    assert made.inter() == ["u1\ti1\t5\t100", "u1\ti2\t5\t100"]
    warning = warned(summary, "broken lines left out: 8 (Software.json.gz:2: JSONDecodeError")
    assert "Software.json.gz:3: no 'reviewerID'" in warning
    assert "Software.json.gz:5: rating 6 lies outside 1 to 5" in warning


def test_duplicate_reviews_and_equal_times_keep_the_order_of_the_file(raw):
    rows = json_lines(review(item="i2"), review(), review(rating=1.0), review(item="i3"), review(user="u0"))
    made = amazon2018(raw, rows, filter=source.Filter(duplicates="last"))
    summary = made.prepare()
    assert made.inter() == ["u1\ti2\t5\t100", "u1\ti1\t1\t100", "u1\ti3\t5\t100", "u0\ti1\t5\t100"]
    assert warned(summary, "repeated interactions left out") == (
        "repeated interactions left out: 1 (Software.json.gz:2)"
    )


def test_a_file_without_gz_is_taken_too(raw):
    made = raw("amazon2018-Software")
    made.write("Software.json", json_lines(review()))
    made.write("meta_Software.json", json_lines({"asin": "i1", "title": "T"})[:-1])  # no newline at the end
    assert made.prepare()["interactions"] == 1
    assert made.table()[0]["title"] == "T"


def test_a_gzip_file_that_is_cut_off_is_an_error(raw):
    made = amazon2018(raw, json_lines(*(review(item=f"i{n}") for n in range(500))))
    file = made.raw / "Software.json.gz"
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"Software\.json\.gz is cut off.*get it again"):
        made.prepare()


def test_a_file_that_is_no_gzip_is_an_error(raw):
    made = amazon2018(raw, b"")
    (made.raw / "Software.json.gz").write_bytes(b"<html>404</html>")
    with pytest.raises(DataError, match=r"Software\.json\.gz is no sound gzip file"):
        made.prepare()


def test_amazon_2014_items_are_python_literals(raw):
    made = raw("amazon2014-Beauty")
    made.write(
        "reviews_Beauty_5.json.gz", json_lines(review(item="B1"), review(item="B2"), review(item="B3"))
    )
    made.write(
        "meta_Beauty.json.gz",
        b"{'asin': 'B1', 'title': \"Women's &amp; Men's\", 'price': 9.5, 'brand': 'O\\'Neil', "
        b"'categories': [['Beauty', 'Skin Care'], ['Beauty', 'Hair']], 'description': 'Say \"hi\"'}\n"
        b"{'asin': 'B2', 'categories': [['Beauty']]}\n"
        b"{'asin': 'B3', 'title': __import__('os').getcwd()}\n"
        b"{'asin': 'B9', 'title': 'not wanted and broken\n",
    )
    summary = made.prepare()
    first, second, third = made.table()
    assert first["title"] == "Women's & Men's" and first["description"] == 'Say "hi"'
    assert first["brand"] == "O'Neil" and first["categories"] == ["Beauty", "Skin Care", "Hair"]
    assert (second["title"], second["brand"], third["title"]) == ("", "", "")
    assert warned(summary, "broken lines left out: 1 (meta_Beauty.json.gz:3: ValueError")


def test_amazon_2023_has_parents_and_milliseconds(raw):
    made = raw("amazon2023-Software")
    row = {"user_id": "u1", "asin": "child", "parent_asin": "p1", "rating": 4.0, "timestamp": 1588687728923}
    made.write("Software.jsonl.gz", json_lines(row, {**row, "parent_asin": "p2", "timestamp": 1588687729000}))
    meta = {
        "title": "T",
        "store": "Shop",
        "main_category": "Software",
        "description": ["a", "b"],
        "price": None,
    }
    made.write(
        "meta_Software.jsonl.gz",
        json_lines({**meta, "parent_asin": "p1", "categories": []}, {"parent_asin": "p2", "title": None}),
    )
    made.prepare()
    assert made.inter() == ["u1\tp1\t4\t1588687728.923", "u1\tp2\t4\t1588687729.0"]
    first, second = made.table()
    assert (first["brand"], first["categories"], first["description"]) == ("Shop", ["Software"], "a b")
    assert (second["title"], second["categories"]) == ("", [])


def test_movielens_dat(raw):
    made = raw("ml-1m")
    made.write(
        "ratings.dat", b"1::10::5::978300760\n1::11::3::978300761\n2::10::9::1\n2::10::x::1\n2::12::4::2\n"
    )
    made.write(
        "movies.dat",
        "10::Misérables, Les (1995)::Drama|Musical\n11::Me :: You (1999)::Children's\n13::Unseen (1990)::War\nbad\n"
        "12::No Year::Comedy\n".encode("latin-1"),
    )
    made.write("users.dat", b"1::F::1::10::48067\n2::M::56\n")
    summary = made.prepare()
    assert made.inter() == ["1\t10\t5\t978300760", "1\t11\t3\t978300761", "2\t12\t4\t2"]
    titles = [(row["title"], row["year"], row["categories"]) for row in made.table()]
    assert titles[0] == ("Misérables, Les (1995)", 1995, ["Drama", "Musical"])
    assert titles[1] == ("Me :: You (1999)", 1999, ["Children's"])
    assert titles[2] == ("No Year", None, ["Comedy"])
    assert made.atomic("item")[1] == "10\tMisérables, Les\t1995\tDrama Musical"
    assert made.atomic("user")[1:] == ["1\t1\tF\t10\t48067", "2\t\t\t\t"]
    assert made.table("users")[0]["zip_code"] == "48067"
    assert warned(
        summary, "broken lines left out: 4 (ratings.dat:3: rating 9 lies outside 1 to 5; ratings.dat:4"
    )


def test_ratings_may_be_gzipped_where_they_are_published_plain(raw):
    made = raw("ml-1m")
    made.write("ratings.dat.gz", b"1::10::5::978300760\r\n")
    made.write("movies.dat", b"10::A (1995)::Drama\r\n")
    made.write("users.dat", b"1::F::1::10::48067\r\n")
    assert made.prepare()["interactions"] == 1
    assert made.table()[0]["categories"] == ["Drama"]


def test_bookcrossing(raw):
    made = raw("bookcrossing", source.Filter(min_rating=1))
    head = b'"ISBN";"Book-Title";"Book-Author";"Year-Of-Publication";"Publisher";"Image-URL-S"\r\n'
    made.write(
        "BX-Books.csv",
        head
        + '"01";"Say \\"hi\\"; then go &amp; run";"Zoë";"2001";"P&amp;Q";"http://x"\r\n'.encode("latin-1")
        + b'"02";"T";"A";"0";"P";"http://x"\r\n"03";"broken";"A"\r\n',
    )
    ratings = b'"User-ID";"ISBN";"Book-Rating"\r\n"7";"01";"10"\r\n"7";"02";"0"\r\n"8";"02";"7"\r\n"8";"03";"12"\r\n'
    made.write("BX-Book-Ratings.csv", ratings + b'"9";"03"\r\n"9";"03";"5\r\n')
    made.write(
        "BX-Users.csv", b'"User-ID";"Location";"Age"\r\n"7";"z\xfcrich, n/a, ch";NULL\r\n"8";"x";"30"\r\n'
    )
    summary = made.prepare()
    assert made.inter() == ["7\t01\t10\t2", "8\t02\t7\t4"]  # the row's place is its time
    first, second = made.table()
    assert first["title"] == 'Say "hi"; then go & run' and first["brand"] == "Zoë" and first["year"] == 2001
    assert second["year"] is None
    assert made.atomic("item")[1] == "01\tZoë\t2001\tP&Q"
    assert made.atomic("user")[1:] == ["7\t\tzürich, n/a, ch", "8\t30\tx"]
    assert warned(summary, "ratings under 1 left out: 1 (BX-Book-Ratings.csv:3)")
    broken = warned(summary, "broken lines left out: 4")
    assert "BX-Book-Ratings.csv:5: rating 12 lies outside 0 to 10" in broken
    assert "BX-Book-Ratings.csv:6: 2 columns, expected 3" in broken


def test_a_head_without_a_column_is_an_error(raw):
    made = raw("bookcrossing")
    for name in ("BX-Books.csv", "BX-Users.csv"):
        made.write(name, b"")
    made.write("BX-Book-Ratings.csv", b'"User";"ISBN";"Book-Rating"\n')
    with pytest.raises(DataError, match=r"BX-Book-Ratings\.csv:1: the head lacks the columns User-ID"):
        made.prepare()


def test_ids_with_quotes_come_through(raw):
    made = amazon2018(raw, json_lines(review(user='a"b'), review(user="c d")))
    made.prepare()
    assert made.inter() == ['"a""b"\ti1\t5\t100', "c d\ti1\t5\t100"]


def test_what_stands_only_for_work_is_gone(raw):
    made = amazon2018(raw, json_lines(review()))
    made.prepare()
    name = made.card.name
    assert sorted(file.name for file in made.folder.iterdir()) == [
        "amazon2018-Software.inter", f"{name}.item", "fingerprint.json", "items.parquet", "users.parquet",
    ]  # fmt: skip


def test_blocks_and_chunks_do_not_show(raw, monkeypatch):
    from llmbole.data.convert import columns, lines

    monkeypatch.setattr(lines, "BLOCK", 64)
    monkeypatch.setattr(columns, "ROWS_PER_CHUNK", 7)
    made = amazon2018(raw, json_lines(*(review(user=f"u{n % 9}", item=f"i{n}", time=n) for n in range(100))))
    ticks: list[int] = []
    made.folder.mkdir()
    found = source.prepare(made.card, made.raw, made.folder, ticks.append)
    assert made.inter() == [f"u{n % 9}\ti{n}\t5\t{n}" for n in range(100)]
    assert (found["users"], found["items"], found["interactions"]) == (9, 100, 100)
    assert sum(ticks) == 100


def test_collm_windows_cover_what_its_filter_keeps():
    card = cards.card("collm-ml-1m")
    assert card.windows is not None and card.windows.valid and card.windows.test
    assert card.windows.train[0] == card.filter.since and card.windows.test[1] == card.filter.until
    assert card.windows.train[1] == card.windows.valid[0] and card.windows.valid[1] == card.windows.test[0]
