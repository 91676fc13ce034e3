"""Records to files: leaderboards, generated regions of documents, and the check that both are up to date.

A record that breaks the schema or its seal is a RecordError; broken markers, and a region that names no known
content, are a MarkdownError.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from llmbole import experiment, table_run
from llmbole.excerpt import excerpt
from llmbole.markdown import MarkdownError, Region, first_difference, regions, splice_markers, write_files
from llmbole.method_page import published_table, settings_table
from llmbole.protocol_page import protocol_page
from llmbole.record import Record
from llmbole.results import load, load_all
from llmbole.tables import leaderboard, record_table
from llmbole.verify import Problem

__all__ = [
    "check",
    "check_document",
    "leaderboard",
    "record_table",
    "render",
    "render_document",
    "splice_markers",
]

_SHORTEST_ID = 8
_NOT_RENDERED = ("results", "sweeps", "tables")
TABLES = "tables"


def render(folder_results: Path, folder_out: Path) -> list[Path]:
    """Write the leaderboard of every protocol and data set that has records, and every published table that was run.

    Args:
        folder_results: The folder of all records.
        folder_out: The folder for `<protocol>/<dataset>.md` and `tables/<paper>/<table>.md` (and `.csv`, `.tex`).

    Returns:
        The files, those that were up to date already included.
    """
    pages = _pages(folder_results, folder_out)
    write_files({path: text for path, text in pages.items() if _read(path) != text})
    return list(pages)


def check(folder_results: Path, folder_out: Path) -> list[Problem]:
    """Compare the leaderboard files with what the records render to; nothing is written.

    Args:
        folder_results: The folder of all records.
        folder_out: The folder of `<protocol>/<dataset>.md`.

    Returns:
        Files that are missing, differ, or belong to no record.
    """
    pages = _pages(folder_results, folder_out)
    problems = [problem for path, text in pages.items() for problem in _compare(path, text)]
    found = [
        path for path in sorted(Path(folder_out).glob("*/*.md")) if path.parent.name not in _NOT_RENDERED
    ]
    found += [path for path in sorted(Path(folder_out, TABLES).glob("*/*.*")) if path.suffix != ".json"]
    strays = [path for path in found if path not in pages]
    return problems + [Problem(path, None, "no record renders to this file: delete it") for path in strays]


def render_document(path: Path, results_folder: Path) -> bool:
    """Refresh every generated region of a document.

    A region's marker says what stands there: `record=<id>` the table of one run (the id's first digits do),
    `leaderboard=<protocol>/<dataset>` the page of a leaderboard without its title, with `metrics=<name>,...` its ranked
    rows alone, `properties=protocols` the table of all protocols, `settings=<method>` the table of a method's
    settings, `published=<method>` with `tables=<paper>/<table>,...` its published values.

    Args:
        path: The document.
        results_folder: The folder of all records.

    Returns:
        Whether the document changed.
    """
    text = _refreshed(path, results_folder)
    if _read(path) == text:
        return False
    write_files({path: text})
    return True


def check_document(path: Path, results_folder: Path) -> list[Problem]:
    """Compare a document's generated regions with what the records render to; nothing is written.

    Args:
        path: The document.
        results_folder: The folder of all records.

    Returns:
        The first difference, or nothing.
    """
    return _compare(path, _refreshed(path, results_folder), f"llmbole render --document={path}")


def _refreshed(path: Path, results_folder: Path) -> str:
    text = path.read_bytes().decode()
    for region in regions(text, str(path)):
        text = splice_markers(text, region.name, _content(region, results_folder, path), str(path))
    return text


def _content(region: Region, results_folder: Path, path: Path) -> str:
    where = f"{path}:{region.first}"
    attributes = region.attributes
    if list(attributes) == ["record"]:
        return record_table(load(_find(attributes["record"], results_folder, where)))
    if list(attributes) == ["leaderboard"]:
        return leaderboard(_records(attributes["leaderboard"], results_folder, where)).partition("\n\n")[2]
    if attributes == {"properties": "protocols"}:
        return protocol_page()
    try:
        if set(attributes) == {"leaderboard", "metrics"}:
            records = _records(attributes["leaderboard"], results_folder, where)
            return excerpt(records, attributes["metrics"].split(","))
        if list(attributes) == ["settings"]:
            return settings_table(attributes["settings"])
        if set(attributes) == {"published", "tables"}:
            return published_table(attributes["published"], attributes["tables"].split(","))
    except MarkdownError as error:
        raise MarkdownError(f"{where}: {error}") from None
    known = (
        "record=<id>, leaderboard=<protocol>/<dataset>, with metrics=<name>,... for its ranked rows alone, "
        "properties=protocols, settings=<method>, or published=<method> tables=<paper>/<table>,..."
    )
    raise MarkdownError(f"{where}: region {region.name} says {attributes or 'nothing'}; give it {known}")


def _records(board: str, results_folder: Path, where: str) -> list[Record]:
    protocol, _, dataset = board.partition("/")
    records = _board(results_folder).get((protocol, dataset))
    if not records:
        raise MarkdownError(f"{where}: no records of {board} in {results_folder}")
    return records


def _find(identity: str, results_folder: Path, where: str) -> Path:
    paths = sorted(Path(results_folder).glob("*/*/*.json"))
    found = [path for path in paths if path.stem.startswith(identity)]
    if len(identity) < _SHORTEST_ID or len(found) != 1:
        reason = f"{len(found)} records in {results_folder} begin with {identity}"
        raise MarkdownError(f"{where}: {reason}; give at least {_SHORTEST_ID} digits of one record's id")
    return found[0]


def _board(folder_results: Path) -> dict[tuple[str, str], list[Record]]:
    boards: dict[tuple[str, str], list[Record]] = defaultdict(list)
    for record in load_all(folder_results):
        boards[record.protocol.name, record.dataset.name].append(record)
    return dict(sorted(boards.items()))


def _pages(folder_results: Path, folder_out: Path) -> dict[Path, str]:
    boards = _board(folder_results)
    return {
        **{
            Path(folder_out, name[0], f"{name[1]}.md"): leaderboard(records)
            for name, records in boards.items()
        },
        **_table_pages(Path(folder_results), Path(folder_out, TABLES)),
    }


def _table_pages(folder_results: Path, tables: Path) -> dict[Path, str]:
    """The files of every published table that was run."""
    made: dict[Path, str] = {}
    runs = table_run.load_all(tables)
    if not runs:
        return made
    from llmbole.experiment_page import pages as experiment_pages  # with scipy, which leaderboards do without
    from llmbole.table_values import gather, known_runs

    known = known_runs(folder_results)
    for run in runs:
        values = gather(experiment.under(experiment.load(run.experiment), run.protocol), run, known)
        made |= {tables / f"{run.stem}.{ending}": text for ending, text in experiment_pages(values).items()}
    return made


def _read(path: Path) -> str | None:
    return path.read_bytes().decode() if path.is_file() else None


def _compare(path: Path, text: str, command: str = "llmbole render") -> list[Problem]:
    found = _read(path)
    if found is None:
        return [Problem(path, None, f"missing: run `{command}`")]
    if found == text:
        return []
    line, wanted = first_difference(found, text)
    return [Problem(path, line, f"not what the records say; run `{command}`. Expected: {wanted.strip()}")]
