from __future__ import annotations

from pathlib import Path

import pytest

from llmbole import markdown
from llmbole.markdown import MarkdownError, Region, regions, splice_markers

TEXT = """# Title
<!-- generated:demo record=abc seed=1 -->
old
<!-- /generated -->
after
"""


def test_table_is_aligned_and_escapes_bars() -> None:
    assert markdown.table(["name", "value"], [["a|b", "1"], ["é ± long", "12.5"]]) == (
        "| name     | value |\n| -------- | ----: |\n| a\\|b     |     1 |\n| é ± long |  12.5 |"
    )


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (0, "0"),
        (950, "950"),
        (12_345, "12.3 K"),
        (4_100_000, "4.10 M"),
        (7e9, "7.00 B"),
        (2e12, "2.00 T"),
    ],
)
def test_count(value: float | None, text: str) -> None:
    assert markdown.count(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (12, "12 B"), (2048, "2.00 KiB"), (3 * 2**29, "1.50 GiB"), (300 * 2**20, "300 MiB")],
)
def test_size(value: int | None, text: str) -> None:
    assert markdown.size(value) == text


def test_seconds() -> None:
    assert [markdown.seconds(value) for value in (None, 0.04, 12345.67)] == ["–", "0.0", "12,345.7"]


def test_regions_and_splicing_round_trip() -> None:
    assert regions(TEXT) == [Region("demo", {"record": "abc", "seed": "1"}, 2, 4)]
    filled = splice_markers(TEXT, "demo", "| new |\n")
    assert filled == TEXT.replace("old\n", "\n| new |\n\n")
    assert splice_markers(filled, "demo", "| new |") == filled
    assert splice_markers(filled, "demo", "other").replace("\nother\n\n", "old\n") == TEXT


def test_only_the_named_region_changes() -> None:
    text = TEXT + "<!-- generated:second -->\n<!-- /generated -->\n"
    assert splice_markers(text, "second", "x").startswith(TEXT)


def test_markers_in_code_fences_and_inside_sentences_are_text() -> None:
    text = "```\n<!-- generated:a -->\n```\nWrite `<!-- generated:b -->` so.\n"
    assert regions(text) == []


def test_content_with_an_open_fence_does_not_hide_the_closing_marker() -> None:
    assert len(regions(TEXT.replace("old", "```"))) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<!-- generated:a -->\n", r"page\.md:1: the region a has no line"),
        ("\n<!-- /generated -->\n", r"page\.md:2: .* closes no region"),
        ("<!-- generated:a -->\n<!-- generated:b -->\n", r"page\.md:2: close the region of line 1"),
        ("<!-- generated:a -->\n<!-- /generated -->\n" * 2, r"page\.md:1: the region a stands twice"),
        ("<!-- generated:a record -->\n", r"page\.md:1: write the marker as"),
    ],
)
def test_broken_markers_are_refused_with_their_line(text: str, message: str) -> None:
    with pytest.raises(MarkdownError, match=message):
        regions(text, "page.md")


def test_splicing_a_region_that_is_not_there_says_what_to_add() -> None:
    with pytest.raises(MarkdownError, match="no region other; add <!-- generated:other -->"):
        splice_markers(TEXT, "other", "x")


def test_a_failing_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a" / "b.md"
    markdown.write_files({path: "old"})

    def failing(*arguments: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("os.replace", failing)
    with pytest.raises(OSError, match="No space"):
        markdown.write_files({path: "new"})
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ("found", "wanted", "expected"),
    [("a\nb\n", "a\nc\n", (2, "c")), ("a\n", "a\nb\n", (2, "b")), ("a\nb", "a", (2, "the end of the file"))],
)
def test_first_difference(found: str, wanted: str, expected: tuple[int, str]) -> None:
    assert markdown.first_difference(found, wanted) == expected
