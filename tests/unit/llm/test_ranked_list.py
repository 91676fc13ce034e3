"""Rankings are read from answers of every kind by the stated rules, and every fault is named."""

from __future__ import annotations

import pytest

from llmbole.llm.ranked_list import FAULTS, parse_ranking

TITLES = ["Heat (1995)", "Usual Suspects, The (1995)", "Seven (1995)", "Seven Years in Tibet (1997)"]
HEAT, SUSPECTS, SEVEN, TIBET = range(4)
FULL = '"Seven (1995)"; "Heat (1995)"; "Seven Years in Tibet (1997)"; "Usual Suspects, The (1995)"'


@pytest.mark.parametrize(
    ("answer", "order", "faults"),
    [
        (FULL, (SEVEN, HEAT, TIBET, SUSPECTS), set()),
        (FULL.upper().replace('"', "\u201c"), (SEVEN, HEAT, TIBET, SUSPECTS), set()),
        (FULL.replace('"', ""), (SEVEN, HEAT, TIBET, SUSPECTS), set()),
        (FULL.replace("; ", "\n").replace('"', ""), (SEVEN, HEAT, TIBET, SUSPECTS), set()),
        ('1. "Heat (1995)"\n2. "Seven (1995)"', (HEAT, SEVEN), {"missing"}),
        ('"Heat (1995)"; "Alien (1979)"; "Seven (1995)"', (HEAT, SEVEN), {"foreign", "missing"}),
        ('"Heat (1995)"; "Heat (1995)"; "Seven (1995)"', (HEAT, SEVEN), {"repeated", "missing"}),
        (
            '3. "Heat (1995)" 1. "Seven (1995)" 2. "Usual Suspects, The (1995)"',
            (SEVEN, SUSPECTS, HEAT),
            {"renumbered", "missing"},
        ),
        (
            "2) Heat (1995)\n1) Seven (1995)\n4) Seven Years in Tibet (1997)\n3) Usual Suspects, The (1995)",
            (SEVEN, HEAT, SUSPECTS, TIBET),
            {"renumbered"},
        ),
        ("1. Heat (1995)\n1. Seven (1995)", (HEAT, SEVEN), {"missing"}),
        ('Sure! Here it is: "Heat (1995)", "Seven (1995)"', (HEAT, SEVEN), {"rambling", "missing"}),
        ("Here is my list:\n- Heat (1995)\n* Seven (1995)\nEnjoy", (HEAT, SEVEN), {"rambling", "missing"}),
        ("Here it is:\nHeat (1995)\nSeven (1995)", (HEAT, SEVEN), {"rambling", "missing"}),
        (
            "I would say Seven (1995), then Heat (1995) and so on",
            (SEVEN, HEAT),
            {"rambling", "missing"},
        ),
        ('"Seven Years in Tibet (1997)', (TIBET,), {"missing"}),
        ('"Heat (1995)"; "Seven Yea', (HEAT,), {"foreign", "missing"}),
        ("1. Heat (1995) - a thriller", (HEAT,), {"rambling", "missing"}),
        ("no idea", (), {"foreign", "missing"}),
        ("", (), {"missing"}),
        ("\n;;\n", (), {"missing"}),
    ],
)
def test_an_answer_is_read_by_the_rules(answer, order, faults):
    parsed = parse_ranking(answer, TITLES, 4)
    assert parsed.order == order
    assert parsed.faults == faults
    assert faults <= set(FAULTS)


def test_what_is_not_named_shares_the_position_behind_the_last():
    parsed = parse_ranking('"Seven (1995)"; "Heat (1995)"', TITLES, 2)
    assert not parsed.faults
    assert parsed.positions(4).tolist() == [2, 5, 1, 5]
    assert parse_ranking("", TITLES, 4).positions(4).tolist() == [5, 5, 5, 5]


def test_candidates_of_one_title_are_named_one_after_the_other():
    twins = ["Heat (1995)", "Seven (1995)", "Heat (1995)"]
    assert parse_ranking('"Heat (1995)"; "Heat (1995)"; "Heat (1995)"', twins, 3).order == (0, 2)
    both = parse_ranking('"Heat (1995)"; "Seven (1995)"; "Heat (1995)"', twins, 3)
    assert both.order == (0, 1, 2) and not both.faults


def test_a_title_inside_a_longer_one_is_not_named_by_it():
    titles = ["Seven", "Seven Years in Tibet"]
    assert parse_ranking("I like Seven Years in Tibet most", titles, 1).order == (1,)
    assert parse_ranking('"Sevens"', titles, 1).faults == {"foreign", "missing"}
