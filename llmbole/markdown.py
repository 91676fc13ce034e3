"""Markdown as text: aligned tables, numbers with units, generated regions, atomic writing.

A generated region is what stands between two lines of their own, outside code fences:

    <!-- generated:NAME key=value ... -->
    <!-- /generated -->
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ABSENT = "–"
_OPENING = re.compile(r"<!-- generated:(?P<name>[\w./-]+)(?P<attributes>(?: [\w-]+=[^\s]+)*) -->")
_CLOSING = "<!-- /generated -->"


class MarkdownError(ValueError):
    """A generated region that is missing, unclosed, or stands twice; the message says where."""


@dataclass(frozen=True)
class Region:
    """A generated region: its name and attributes, and the lines of its two markers, counted from 1."""

    name: str
    attributes: dict[str, str]
    first: int
    last: int


def table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """A markdown table whose columns are aligned in plain text too.

    Args:
        header: Column titles.
        rows: Cells, as many per row as there are titles.
        left: The number of first columns aligned left; the others hold numbers and are aligned right.

    Returns:
        The table's lines, without a line break at the end.
    """
    cells = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in [header, *rows]]
    widths = [max(3, *map(len, column)) for column in zip(*cells, strict=True)]

    def line(row: Sequence[str]) -> str:
        padded = [
            cell.ljust(width) if position < left else cell.rjust(width)
            for position, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        return f"| {' | '.join(padded)} |"

    rule = [
        "-" * width if position < left else "-" * (width - 1) + ":" for position, width in enumerate(widths)
    ]
    return "\n".join([line(cells[0]), line(rule), *map(line, cells[1:])])


def count(value: float | None) -> str:
    """A number of things in at most five characters and its magnitude: `950`, `12.3 K`, `4.10 M`."""
    if value is None:
        return ABSENT
    for factor, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")):
        if value >= factor:
            return f"{_digits(value / factor)} {unit}"
    return f"{value:.0f}"


def size(value: float | None) -> str:
    """Bytes with a binary unit: `1.50 GiB`."""
    if value is None:
        return ABSENT
    for factor, unit in ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if value >= factor:
            return f"{_digits(value / factor)} {unit}"
    return f"{value:.0f} B"


def seconds(value: float | None) -> str:
    """Seconds with one decimal."""
    return ABSENT if value is None else f"{value:,.1f}"


def _digits(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def regions(text: str, where: str = "text") -> list[Region]:
    """All generated regions of a document.

    Args:
        text: The document.
        where: Its name in messages.

    Returns:
        The regions in the document's order.

    Raises:
        MarkdownError: A marker without its other half, a region inside another, a name that stands twice.
    """
    found: list[Region] = []
    opened: tuple[int, re.Match[str]] | None = None
    fence = ""
    for number, line in enumerate(text.splitlines(), 1):
        ticks = re.match(r" {0,3}(`{3,}|~{3,})", line)
        if ticks and opened is None and (not fence or ticks[1].startswith(fence)):
            fence = "" if fence else ticks[1]
        if fence and opened is None:
            continue
        marker = _OPENING.fullmatch(line.rstrip())
        if marker and opened:
            raise MarkdownError(f"{where}:{number}: close the region of line {opened[0]} before this one")
        if marker:
            opened = number, marker
        elif line.startswith("<!-- generated:"):
            raise MarkdownError(f"{where}:{number}: write the marker as <!-- generated:NAME key=value -->")
        elif line.rstrip() == _CLOSING:
            if opened is None:
                raise MarkdownError(f"{where}:{number}: {_CLOSING} closes no region")
            found.append(_region(opened[1], opened[0], number))
            opened = None
    if opened:
        raise MarkdownError(f"{where}:{opened[0]}: the region {opened[1]['name']} has no line {_CLOSING}")
    names = [region.name for region in found]
    for region in found:
        if names.count(region.name) > 1:
            raise MarkdownError(f"{where}:{region.first}: the region {region.name} stands twice; rename one")
    return found


def _region(marker: re.Match[str], first: int, last: int) -> Region:
    attributes = dict(part.split("=", 1) for part in marker["attributes"].split())
    return Region(name=marker["name"], attributes=attributes, first=first, last=last)


def splice_markers(text: str, name: str, content: str, where: str = "text") -> str:
    """Put content between the markers of one generated region.

    Args:
        text: The document.
        name: The region's name.
        content: What shall stand there; blank lines separate it from the markers.
        where: The document's name in messages.

    Returns:
        The document with the region filled, everything else unchanged.

    Raises:
        MarkdownError: There is no such region, or the document's markers are broken.
    """
    region = {region.name: region for region in regions(text, where)}.get(name)
    if region is None:
        raise MarkdownError(f"{where}: no region {name}; add <!-- generated:{name} --> and {_CLOSING}")
    lines = text.splitlines(keepends=True)
    return "".join([*lines[: region.first], f"\n{content.strip()}\n\n", *lines[region.last - 1 :]])


def first_difference(found: str, wanted: str) -> tuple[int, str]:
    """Line where two texts begin to differ, and what the wanted text has there."""
    pairs = list(zip(found.split("\n"), wanted.split("\n"), strict=False))
    index = next((index for index, (one, other) in enumerate(pairs) if one != other), len(pairs))
    lines = wanted.split("\n")
    return index + 1, lines[index] if index < len(lines) else "the end of the file"


def write_files(files: Mapping[Path, str]) -> None:
    """Replace text files one by one, each whole or not at all; an error leaves the others as they were."""
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.urandom(6).hex()}.tmp")
        try:
            temporary.write_text(text, encoding="utf-8", newline="\n")
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
