"""Every card, the variants and templates, and the names that methods give to data sets."""

from __future__ import annotations

import gzip
import json

import pytest

from llmbole.data import cards, source
from llmbole.resolve import resolve
from llmbole.settings import SettingsError

NAMES = [
    "allmrec-beauty", "allmrec-games", "allmrec-movies", "allmrec-toys", "amazon-book", "amazon-book-2017", "beauty",
    "bookcrossing", "cds", "collm-ml-1m", "games", "ml-100k", "ml-1m", "sports", "toys",
]  # fmt: skip
CATEGORIES = {"amazon2014": 24, "amazon2018": 29, "amazon2023": 34}


def test_all_data_sets_are_listed():
    assert source.names() == NAMES
    assert cards.template_names() == [f"{name}-<Category>" for name in CATEGORIES]


@pytest.mark.parametrize("name", NAMES)
def test_every_card_is_sound(name):
    found = source.card(name)
    assert source.converter(found).VERSION >= 1
    assert found.label and found.rating.low <= found.label.positive_from <= found.rating.high
    for download in found.source.downloads:
        assert download.address.startswith("http") and download.name
    for variant in cards.load_yaml(cards.properties_folder() / "dataset" / f"{name}.yaml").get(
        "variants", {}
    ):
        assert source.card(f"{name}@{variant}").name == f"{name}@{variant}"


@pytest.mark.parametrize(("template", "count"), CATEGORIES.items())
def test_every_category_is_sound(template, count):
    file = cards.properties_folder() / "dataset" / "template" / f"{template}.yaml"
    categories = cards.load_yaml(file)["categories"]
    assert len(set(categories)) == len(categories) == count
    for category in categories:
        found = source.card(f"{template}-{category}")
        assert found.expected is None and found.converter == template
        assert len(found.source.files) == 2 and all(category in file for file in found.source.files)
        assert not any(
            "{" in text for text in (found.title, *(each.address for each in found.source.downloads))
        )


def test_published_counts():
    assert source.card("ml-1m").expected == source.Counts(6040, 3706, 1_000_209)
    assert source.card("bookcrossing").expected == source.Counts(6851, 9085, 115_219)
    assert source.card("collm-ml-1m").expected == source.Counts(838, 3255, 51_623)
    assert source.card("allmrec-movies").expected == source.Counts(297_498, 59_944, 3_409_147)
    assert source.card("sports").expected == source.Counts(35_598, 18_357, 296_337)


def test_a_variant_lies_over_its_card():
    paper, code = source.card("allmrec-toys"), source.card("allmrec-toys@official_code")
    assert paper.filter.min_rating == 4 and paper.filter.core == cards.Core(4, 4, "once")
    assert code.filter.min_rating is None and code.filter.core == cards.Core(4, 4, "once", 3.0)
    assert code.source == paper.source and code.filter.duplicates == "keep"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("allmrec-beuty", "unknown dataset 'allmrec-beuty'; did you mean 'allmrec-beauty'"),
        ("allmrec-beauty@oficial_code", "unknown variant 'oficial_code'; did you mean 'official_code'"),
        ("ml-1m@x", "unknown variant 'x'; 'ml-1m' has none"),
        ("amazon2018-Vido_Games", "unknown category 'Vido_Games'; did you mean 'Video_Games'"),
        (
            "amazon2018",
            "'amazon2018' goes with a category: amazon2018-AMAZON_FASHION, amazon2018-All_Beauty, ",
        ),
    ],
)
def test_unknown_names_get_the_close_one(name, message):
    with pytest.raises(SettingsError, match=message):
        source.card(name)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "folder", "files": {}}, "files is empty"),
        ({"kind": "download", "files": {"a": None}, "folder": "../x"}, "name one folder"),
        (
            {
                "kind": "download",
                "files": {"a": None},
                "folder": "x",
                "downloads": (cards.Download("http://h/b"),),
            },
            r"downloads give \['b'\], but files are \['a'\]",
        ),
    ],
)
def test_sources_that_can_not_work_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        cards.Source(**values)


@pytest.mark.parametrize("member", ["/etc/passwd", "../up", "a/../../b"])
def test_members_that_lead_out_are_refused(member):
    with pytest.raises(ValueError, match="leads out of the folder"):
        cards.Download("http://h/a.zip", members={"file": member})


@pytest.fixture
def reviews(tmp_path):
    """Raw files of A-LLMRec's and of LLM-CF's Beauty."""
    row = {"reviewerID": "u", "asin": "i", "overall": 5.0, "unixReviewTime": 1}
    for name in ("Luxury_Beauty.json.gz", "reviews_Beauty_5.json.gz"):
        (tmp_path / name).write_bytes(gzip.compress(json.dumps(row).encode()))
    for name in ("meta_Luxury_Beauty.json.gz", "meta_Beauty.json.gz"):
        (tmp_path / name).write_bytes(gzip.compress(b""))
    return str(tmp_path)


@pytest.mark.parametrize(
    ("model", "name", "meant"),
    [
        ("ALLMRec", "beauty", "allmrec-beauty"),
        ("MLPLLM", "beauty", "allmrec-beauty"),
        ("LLMOnly", "beauty", "allmrec-beauty"),
        ("ALLMRec", "allmrec-beauty@official_code", "allmrec-beauty@official_code"),
        ("ALLMRec", "amazon2014-Beauty", "amazon2014-Beauty"),
        ("SASRec", "beauty", "beauty"),
    ],
)
def test_a_method_means_its_own_preparation_by_a_short_name(model, name, meant, reviews):
    assert resolve(model, name, {"raw": reviews}).settings["dataset"]["name"] == meant


def test_short_names_of_methods_are_names_of_cards():
    for model in ("ALLMRec", "MLPLLM", "LLMOnly"):
        short = cards.load_yaml(cards.properties_folder() / "model" / f"{model}.yaml")["datasets"]
        assert set(short) == {"movies", "games", "beauty", "toys"}
        assert set(short.values()) <= set(NAMES)


def test_the_fingerprint_tells_variants_apart(reviews, tmp_path):
    paper, code = source.card("allmrec-beauty"), source.card("allmrec-beauty@official_code")
    assert source.fingerprint(paper, tmp_path) != source.fingerprint(code, tmp_path)


def test_the_page_of_data_sets_lists_them_all_with_their_counts():
    page = (cards.properties_folder().parent / "docs" / "datasets.md").read_text(encoding="utf-8")
    rows = {line.split("`")[1]: line for line in page.splitlines() if line.startswith("| `")}
    assert list(rows) == [*NAMES, *cards.template_names()]
    for name in NAMES:
        expected = source.card(name).expected
        counts = " | ".join(f"{count:,}" for count in vars(expected).values()) if expected else "- | - | -"
        assert f"| {counts} |" in rows[name]
