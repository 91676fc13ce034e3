"""What an LLM says of attributes that are known: compared with what is known, and judged by another LLM.

Luo et al., Integrating Large Language Models into Recommendation via Mutual Augmentation and Adaptive Aggregation,
2024, Figure 8.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from llmbole.data import splits
from llmbole.data.text import ItemText
from llmbole.llm.attribute import Attribute, read_value
from llmbole.llm.score import mentioned, plain_title
from llmbole.model import generation, judge, written
from llmbole.model.attributes import AttributeSettings, item_titles, tuned_identity
from llmbole.model.instruction_tuning import open_tuned
from llmbole.model.judge import CheckSettings
from llmbole.pipeline.run import StageRun
from llmbole.pipeline.stage import SET, stage
from llmbole.pipeline.store import Artifact
from llmbole.settings import build

_VERDICT_TOKENS = 8


@stage(
    makes="judged_attributes",
    needs=("data", "split", "tuned"),
    uses=(*judge.USES, "attributes", "tune", "lora", "llm", "dataset", "seed"),
    when=("check.attributes", SET),
)
def judge_attributes(run: StageRun, data: Artifact, split: Artifact, tuned: Artifact) -> Mapping[str, Any]:
    """The LLM says attributes that are known; a judge says whether they agree with what is known. Figure 8."""
    settings = build(AttributeSettings, run["attributes"], "attributes")
    check = build(CheckSettings, run["check"], "check")
    lm = open_tuned(run, tuned)
    entries: list[dict[str, Any]] = []
    prompts: list[str] = []
    items = ItemText.load(data.folder, splits.load(split.folder).item_tokens)
    titles = item_titles(data, split, settings)
    generator = np.random.default_rng(run.seed)
    for attribute in settings.chosen(run["dataset"]["words"]["item"], known=True):
        drawn, asked = _drawn(generator, attribute, items, titles, settings, int(check.attributes or 0))
        entries += drawn
        prompts += asked
    answers = generation.write_texts_here(run, lm, tuned_identity(run, tuned), settings, prompts).texts
    by_name = {each.name: each for each in settings.of if each.item == run["dataset"]["words"]["item"]}
    for entry, text in zip(entries, answers, strict=True):
        attribute = by_name[entry["attribute"]]
        entry |= {"text": text, "value": read_value(text, attribute, entry["title"], settings.words)}
        entry["right"] = entry["value"] in readable(entry["known"], attribute, settings.words)
    said = [entry for entry in entries if entry["value"] is not None]
    questions = [_verdict_question(check.verdict, by_name[entry["attribute"]], entry) for entry in said]
    verdicts = judge.ask_judge(run, replace(check, max_new_tokens=_VERDICT_TOKENS), questions).answers
    for entry, answer in zip(said, verdicts, strict=True):
        entry |= {
            "verdict_text": answer.text,
            "verdict": read_verdict(answer.text),
            "refused": answer.refused,
        }
    written.save_texts(run.folder / written.TEXTS, entries)
    shares = attribute_shares(entries)
    told = ", ".join(f"{name} {share:.1%}" for name, share in shares.items())
    return {"shares": shares, "did": f"{len(entries)} attributes: {told}"}


def _drawn(
    generator: np.random.Generator,
    attribute: Attribute,
    items: ItemText,
    titles: Sequence[str],
    settings: AttributeSettings,
    count: int,
) -> tuple[list[dict[str, Any]], list[str]]:
    """Items whose attribute is known, and questions that show others' as examples."""
    known = {item: values_of(items, attribute, item) for item in range(1, len(items))}
    given = [item for item, values in known.items() if values]
    if len(given) <= settings.examples:
        raise ValueError(
            f"{len(given)} items have a known {attribute.name}, and questions show {settings.examples} of them as "
            "examples: lower attributes.examples, or leave check.attributes out"
        )
    drawn = generator.permutation(given)[: settings.examples + count].tolist()
    examples = [(titles[item], known[item][0]) for item in drawn[: settings.examples]]
    asked = drawn[settings.examples :]
    entries = [
        {"attribute": attribute.name, "title": titles[item], "known": list(known[item])} for item in asked
    ]
    return entries, settings.prompts(attribute, examples, [titles[item] for item in asked])


def values_of(items: ItemText, attribute: Attribute, item: int) -> tuple[str, ...]:
    """What the items' text says of an attribute; several values where an item has several, none where it has none."""
    assert attribute.source is not None  # of attributes that are known
    found = getattr(items, attribute.source)[item]
    listed = found if isinstance(found, tuple) else () if found is None else (str(found),)
    return tuple(value for value in listed if value.strip())


def readable(known: Sequence[str], attribute: Attribute, words: int) -> set[str | None]:
    """Known values as answers are read, so that both can be compared."""
    return {read_value(value, attribute, "", words) for value in known} - {None}


def _verdict_question(text: str, attribute: Attribute, entry: Mapping[str, Any]) -> str:
    known = ", ".join(entry["known"])
    words = {"item": attribute.item, "attribute": attribute.name}
    return text.format(**words, title=entry["title"], value=entry["value"], known=known)


def read_verdict(text: str) -> bool | None:
    """Yes or no, whichever of the words an answer has; None if it has neither or both."""
    found = mentioned(plain_title(text), {"yes", "no"})
    return found[0] == "yes" if len(found) == 1 else None


def attribute_shares(entries: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Shares by attribute, for a record.

    Args:
        entries: `attribute`, `value`, `right`, and of those with a value `verdict` and `refused`.

    Returns:
        Of all items: `accuracy_`, a known value was said; `judged_`, the judge says so; `invalid_`, no valid value. Of
        the values: `verdicts_lacking_`, the judge said neither yes nor no; `verdicts_refused_`, it would not answer,
        which lacks a verdict too; `verdicts_right_`, it said what comparing the values says, of those it judged.
    """
    shares: dict[str, float] = {}
    for name in dict.fromkeys(entry["attribute"] for entry in entries):
        mine = [entry for entry in entries if entry["attribute"] == name]
        said = [entry for entry in mine if entry["value"] is not None]
        judged = [entry for entry in said if entry["verdict"] is not None]
        column = name.replace(" ", "_")
        shares[f"accuracy_{column}"] = sum(entry["right"] for entry in mine) / len(mine)
        shares[f"judged_{column}"] = sum(entry["verdict"] for entry in judged) / len(mine)
        shares[f"invalid_{column}"] = 1 - len(said) / len(mine)
        if said:
            shares[f"verdicts_lacking_{column}"] = 1 - len(judged) / len(said)
            shares[f"verdicts_refused_{column}"] = sum(entry["refused"] for entry in said) / len(said)
        if judged:
            right = sum(entry["verdict"] == entry["right"] for entry in judged)
            shares[f"verdicts_right_{column}"] = right / len(judged)
    return shares
