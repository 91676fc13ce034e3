"""Attributes of items that an LLM fills in, as features of a conventional model that predicts ratings.

Luo et al., Integrating Large Language Models into Recommendation via Mutual Augmentation and Adaptive Aggregation,
2024, data augmentation for rating prediction: in-context learning gives what the data set lacks, such as a movie's
director and star.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmbole.data import splits
from llmbole.llm.attribute import Attribute, Pair, check_texts, question, read_value
from llmbole.model import generation, stages, written
from llmbole.model.instruction_tuning import open_tuned
from llmbole.pipeline.run import StageRun
from llmbole.pipeline.stage import stage
from llmbole.pipeline.store import Artifact
from llmbole.settings import build

COLUMNS = "columns.json"


@dataclass(frozen=True)
class AttributeSettings(written.WritingSettings):
    """Data augmentation (DA) of ratings.

    Attributes:
        fill: Whether attributes are filled in, and join the conventional model's features.
        text: The question, see `llm.attribute.question`.
        shown: One example in it.
        title: How items are named: text with fields of items, such as `{title}` or `{year}`.
        examples: How many examples a question shows.
        words: Longest name, in words.
        of: The attributes, each of the items of some data sets. Those with a source are known: they check the LLM, and
            are not filled in.
    """

    fill: bool
    text: str
    shown: str
    title: str
    examples: int
    words: int
    of: tuple[Attribute, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        problems = check_texts(self.text, self.shown)
        problems += [
            f"{name} = {getattr(self, name)}: must be at least 1"
            for name in ("examples", "words")
            if getattr(self, name) < 1
        ]
        named = [(each.item, each.column) for each in self.of]
        twice = sorted({each for each in named if named.count(each) > 1})
        problems += [f"of: {name!r} of a {item} stands twice" for item, name in twice]
        if problems:
            raise ValueError("\n".join(problems))

    def chosen(self, item: str, *, known: bool) -> list[Attribute]:
        """The attributes of what a data set calls an item: those that its text has, or those that it lacks."""
        return [each for each in self.of if each.item == item and (each.source is not None) == known]

    def prompts(self, attribute: Attribute, examples: Sequence[Pair], titles: Sequence[str]) -> list[str]:
        """A question for each title, with the same examples in each."""
        return [question(self.text, self.shown, attribute, examples, title) for title in titles]


def problems(settings: Mapping[str, Any]) -> list[str]:
    """Why a run's attributes can't be filled in, though its settings say so."""
    own, protocol = settings["attributes"], settings["protocol"]
    if not own["fill"]:
        return []
    found = []
    if protocol["task"] != "rating":
        found.append(
            f"attributes.fill = true: they are features of models of ratings, and {protocol['name']} has none; leave "
            "it out, and set data.augment: true to augment rankings"
        )
    word = settings["dataset"]["words"]["item"]
    known = sorted({each["item"] for each in own["of"] if each.get("source") is None})
    if word not in known:
        found.append(
            f"attributes.fill = true: attributes.of lacks one of a {word}, as {settings['dataset']['name']} calls its "
            f"items, without a source; it has those of a {' and of a '.join(known) or 'nothing'}"
        )
    return found


def item_titles(data: Artifact, split: Artifact, settings: AttributeSettings) -> list[str]:
    """Items as questions name them, by internal id, in one line each."""
    return [" ".join(text.split()) for text in stages.item_texts(data, split, settings.title)]


def tuned_identity(run: StageRun, tuned: Artifact) -> dict[str, Any]:
    """What the tuned LLM is, for the keys of its answers."""
    return {"name": run["llm"]["name"], "revision": run["llm"]["revision"], "tuned": tuned.key}


@stage(
    makes="attributes",
    needs=("data", "split", "tuned"),
    uses=("attributes", "tune", "lora", "llm", "dataset"),
    when=("attributes.fill", True),
)
def fill_attributes(run: StageRun, data: Artifact, split: Artifact, tuned: Artifact) -> Mapping[str, Any]:
    """Ask the LLM for the attributes that the data set lacks, and read its answers."""
    settings = build(AttributeSettings, run["attributes"], "attributes")
    titles = item_titles(data, split, settings)[1:]
    tokens = [str(token) for token in splits.load(split.folder).item_tokens[1:]]
    asked = settings.chosen(run["dataset"]["words"]["item"], known=False)
    prompts = []
    for attribute in asked:
        examples = list(attribute.examples.items())[: settings.examples]
        prompts += settings.prompts(attribute, examples, titles)
    lm = open_tuned(run, tuned)
    answers = generation.write_texts_here(run, lm, tuned_identity(run, tuned), settings, prompts).texts
    rows = [(attribute, *item) for attribute in asked for item in zip(tokens, titles, strict=True)]
    entries = [
        {
            "item": token,
            "attribute": attribute.name,
            "text": text,
            "value": read_value(text, attribute, title, settings.words),
        }
        for (attribute, token, title), text in zip(rows, answers, strict=True)
    ]
    written.save_texts(run.folder / written.TEXTS, entries)
    table = {
        attribute.column: {
            each["item"]: each["value"] for each in entries if each["attribute"] == attribute.name
        }
        for attribute in asked
    }
    (run.folder / COLUMNS).write_text(json.dumps(table, sort_keys=True) + "\n", encoding="utf-8")
    lacking = {name: sum(value is None for value in found.values()) for name, found in table.items()}
    invalid = {each.name: lacking[each.column] / len(tokens) for each in asked}
    told = ", ".join(f"{name} {share:.1%}" for name, share in invalid.items())
    return {
        "invalid": invalid,
        "distinct": {name: len(set(found.values()) - {None}) for name, found in table.items()},
        "llm_parameters": lm.parameters_total,
        "did": f"{len(entries)} answers; without a valid value: {told}",
    }


def columns(split: Artifact, attributes: Artifact) -> dict[str, list[str | None]]:
    """Features of items that the LLM filled in.

    Args:
        split: Frozen split.
        attributes: What `fill_attributes` made.

    Returns:
        Name of a feature to its values by internal id, None where there is none; none of the padding item.
    """
    tokens = splits.load(split.folder).item_tokens
    stored = json.loads((attributes.folder / COLUMNS).read_text(encoding="utf-8"))
    return {name: [None, *(values[str(token)] for token in tokens[1:])] for name, values in stored.items()}


@stage(
    makes="attributed_backbone",
    needs=("data", "split", "attributes"),
    uses=("dataset.name", "protocol", "backbone", "seed"),
    when=("attributes.fill", True),
)
def train_with_attributes(
    run: StageRun, data: Artifact, split: Artifact, attributes: Artifact
) -> Mapping[str, Any]:
    """Train the conventional recommender with the attributes among its features."""
    return stages.fit_backbone(run, data, split, columns(split, attributes))
