"""What an answer says of an attribute, by the rules, and what a question shows."""

from __future__ import annotations

import pytest

from llmbole.llm.attribute import Attribute, check_texts, question, read_value
from llmbole.settings import SettingsError, build

DIRECTOR = Attribute("movie", "director", "name", examples={"Jaws": "Steven Spielberg"})
PAGES = Attribute("book", "page length", "number", examples={"Dune": "412"}, width=100)
YEAR = Attribute("movie", "year", "number", source="year")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (" Michael Mann\nTitle: Psycho", "michael mann"),
        ("\n\n  Director: Michael Mann.", "michael mann"),
        ('"Michael  MANN"', "michael mann"),
        ("Joel Coen, Ethan Coen", "joel coen"),
        ("Joel Coen and Ethan Coen", "joel coen"),
        ("Anderson", "anderson"),  # no "and" as a word
        ("Unknown.", None),
        ("N/A", None),
        ("heat (1995)", None),  # the title itself
        ("1995", None),  # no letter
        ("I think that it was made by Michael Mann", None),  # nine words
        ("", None),
        (" \n\t", None),
        ("...", None),
    ],
)
def test_names_are_read_by_the_rules(text, value):
    assert read_value(text, DIRECTOR, "Heat (1995)", 6) == value


@pytest.mark.parametrize(
    ("attribute", "text", "value"),
    [
        (PAGES, "about 412 pages", "400-499"),
        (PAGES, "99", "0-99"),
        (PAGES, "page length: 100", "100-199"),
        (PAGES, "many", None),
        (YEAR, "1995.", "1995"),
    ],
)
def test_numbers_count_by_their_range(attribute, text, value):
    assert read_value(text, attribute, "Dune", 6) == value


def test_a_question_shows_examples_in_front_of_the_title():
    text = "{attribute} of a {item}?\n{examples}{title}:"
    asked = question(text, "{title}: {value}\n", DIRECTOR, [("Jaws {1975}", "Steven Spielberg")], "Heat")
    assert asked == "director of a movie?\nJaws {1975}: Steven Spielberg\nHeat:"


def test_wrong_attributes_and_templates_are_refused():
    assert check_texts("{attribute} {examples} {title}", "{attribute} {title} {value}") == []
    problems = check_texts("{attribute} {title}", "{attribute} {title} {price}")
    assert len(problems) == 2 and "must hold {attribute}, {examples}, {title}" in problems[0]
    with pytest.raises(SettingsError, match="neither a source nor examples"):
        build(Attribute, {"item": "movie", "name": "star", "kind": "name"}, "of")
    with pytest.raises(SettingsError, match="'Dune' is no text"):
        build(Attribute, {"item": "book", "name": "pages", "kind": "number", "examples": {"Dune": 412}}, "of")
    with pytest.raises(SettingsError, match="none of 'name', 'number'"):
        build(Attribute, {"item": "book", "name": "pages", "kind": "list", "source": "year"}, "of")
