"""Tables of a method's page in markdown: its settings as its yaml says them, and its published values."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

import yaml

from llmbole import experiment, registry
from llmbole.markdown import ABSENT, MarkdownError, table
from llmbole.settings import SettingsError, flatten, load_yaml, properties_folder

NOT_DEFAULTS = ("by_llm", "by_task", "datasets", "sweep")
EMBEDDED = "tiny"
LONGEST = 60


def settings_table(model: str) -> str:
    """A method's settings: defaults, what differs with the embedded LLM, what sweeps search, and the yaml's comments.

    Args:
        model: A method of this package, or a form of one under protocols of a task, such as `CTRL.ranking`.

    Returns:
        A table; columns that would be empty are left out.

    Raises:
        MarkdownError: No method of this package has the name.
    """
    path = properties_folder() / "model" / f"{model}.yaml"
    if model not in registry.forms(model.partition(".")[0]) or not path.is_file():
        raise MarkdownError(f"settings={model}: no method of this package; `llmbole list models` shows them")
    content = load_yaml(path)
    text = path.read_text(encoding="utf-8")
    comments = dict(_comments(yaml.compose(text), text.splitlines()))
    defaults = flatten({key: value for key, value in content.items() if key not in NOT_DEFAULTS})
    embedded = flatten(content.get("by_llm", {}).get(EMBEDDED, {}))
    searched = content.get("sweep", {})
    columns = {
        "setting": [f"`{key}`" for key in defaults],
        "default": [_value(value) for value in defaults.values()],
        "embedded LLM": [_value(embedded[key]) if key in embedded else "" for key in defaults],
        "searched": [_value(searched[key]) if key in searched else "" for key in defaults],
        "": [comments.get(key, "") for key in defaults],
    }
    kept = {title: cells for title, cells in columns.items() if any(cells)}
    return table(list(kept), list(zip(*kept.values(), strict=True)), left=len(kept))


def _comments(node: yaml.Node | None, lines: Sequence[str], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Dotted keys with the comments that stand behind their values, on the same line."""
    assert isinstance(node, yaml.MappingNode)  # as `load_yaml` found
    for key, value in node.value:
        name = f"{prefix}{key.value}"
        if isinstance(value, yaml.MappingNode):
            yield from _comments(value, lines, f"{name}.")
            continue
        comment = re.fullmatch(r"\s+#\s*(.+)", lines[value.end_mark.line][value.end_mark.column :])
        if comment:
            yield name, comment[1]


def _value(value: Any) -> str:  # noqa: ANN401 - a YAML value
    """A value as the command line takes it; of a long text the beginning."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = text.replace("\n", "\\n")
    shown = text if len(text) <= LONGEST else f"{text[:LONGEST].rstrip()} …"
    return f"``{shown} ``" if "`" in shown else f"`{shown}`"


def published_table(model: str, tables: Sequence[str]) -> str:
    """A method's published values, as the experiments of this package hold them.

    Args:
        model: A method.
        tables: Names of experiments, `<paper>/<table>`.

    Returns:
        For each experiment a sentence on its source, and a table.

    Raises:
        MarkdownError: There is no such experiment, or it has no published value of the method.
    """
    parts = []
    for name in tables:
        try:
            found = experiment.load(name)
        except SettingsError as error:
            raise MarkdownError(f"published={model}: {error}") from None
        rows = list(_published(found, model))
        if not rows:
            raise MarkdownError(f"published={model}: {name} has no published value of it")
        source = found.source or found.title
        llm = f"; with {found.llm}" if found.llm else ""
        header = ["data set", "row", *found.metrics]
        parts.append(
            f"{source}: {found.title}{llm} (`llmbole table {name}`).\n\n{table(header, rows, left=2)}"
        )
    return "\n\n".join(parts)


def _published(found: experiment.Experiment, model: str) -> Iterator[list[str]]:
    """Data set, row and values of each row of a model that has one."""
    for dataset in found.datasets:
        for row in found.rows:
            values = [found.value(dataset, row.name, metric) for metric in found.metrics]
            if row.model == model and any(value is not None for value in values):
                yield [dataset, row.name, *(ABSENT if value is None else f"{value:.4f}" for value in values)]
