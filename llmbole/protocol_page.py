"""The table of all protocols in markdown, from their yaml files."""

from __future__ import annotations

from llmbole.data.protocol import Labels, Protocol, names, protocol
from llmbole.markdown import table

SPLITS = {
    "leave_one_out": "last interaction of a user: test; the one before: validation",
    "windows": "time windows of the data set",
    "time_ratio": "all interactions in time order, cut {ratios}",
    "time_then_last": "all interactions in time order, cut {ratios}; last one of a user in each later part",
}
ORDERS = {"time": "exact times", "recbole_time": "RecBole's times, single precision"}
LABELS = {
    "interaction": "1; {negatives} random unknown item(s) each: 0",
    "threshold": "1 from the data set's threshold on",
    "rating": "the rating",
}


def protocol_page() -> str:
    """A table of what each protocol does, and a paragraph on each."""
    found = [protocol(name) for name in names()]
    header = ["protocol", "task", "split", "order", "target or label", "history", "metrics", "selected by"]
    rows = [
        [
            f"`{each.name}` v{each.version}",
            each.task,
            _split(each),
            ORDERS[each.order],
            _asked(each),
            {"all": "all earlier interactions", "positives": "earlier likes"}[each.history],
            _metrics(each),
            each.selection,
        ]
        for each in found
    ]
    paragraphs = [
        f"**{each.title}** (`{each.name}`). {each.description} Groups in the record: "
        f"{', '.join(f'`{group}`' for group in each.groups) or 'none'}."
        for each in found
    ]
    return "\n\n".join([table(header, rows, left=len(header)), *paragraphs])


def _split(rules: Protocol) -> str:
    ratios = ":".join(f"{share * 10:g}" for share in rules.ratios or ())
    return SPLITS[rules.split].format(ratios=ratios)


def _asked(rules: Protocol) -> str:
    if rules.frozen:
        return (
            f"target among {rules.frozen.negatives} random unknown items, frozen (seed {rules.frozen.seed})"
        )
    if isinstance(rules.labels, Labels):
        text = LABELS[rules.labels.kind].format(negatives=rules.labels.negatives)
        return text if rules.labels.seed is None else f"{text} (seed {rules.labels.seed})"
    assert rules.candidates is not None  # checked by Protocol
    known = {"recbole": "general models: without the history", "excluded": "without the history"}
    text = f"target among all items, {known[rules.candidates.known]}"
    retriever = rules.candidates.retriever
    return text if retriever is None else f"{text}; re-rankers: {retriever.number} items of {retriever.model}"


def _metrics(rules: Protocol) -> str:
    catalogue = ["coverage", "Gini", "average popularity"] if rules.catalogue else []
    return ", ".join([*(rules.report or rules.reported_names), *rules.over_backbone, *catalogue])
