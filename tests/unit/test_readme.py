"""The README's generated regions are what the committed records render to, and its commands exist."""

from __future__ import annotations

import re
from pathlib import Path

from llmbole.cli import SUBCOMMANDS
from llmbole.render import check, check_document
from llmbole.verify import verify

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_table_is_what_its_record_renders_to():
    assert "<!-- generated:demo record=" in README
    assert check_document(ROOT / "README.md", ROOT / "leaderboard" / "results") == []


def test_the_page_of_protocols_is_what_their_yaml_files_say():
    assert check_document(ROOT / "docs" / "protocols.md", ROOT / "leaderboard" / "results") == []


def test_committed_records_are_sealed_and_rendered():
    assert verify(ROOT / "leaderboard" / "results") == []
    assert check(ROOT / "leaderboard" / "results", ROOT / "leaderboard") == []


def test_the_first_screen_names_both_commands():
    first_screen = README[: README.index("## Install")]
    targets = set(re.findall(r"^make (\w+)", first_screen, re.MULTILINE))
    assert targets == {"demo", "test"}
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)


def test_every_command_it_shows_exists():
    assert {name for name in re.findall(r"^llmbole (\w+)", README, re.MULTILINE)} <= set(SUBCOMMANDS)
