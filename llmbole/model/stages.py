"""Stages that several methods share: data, split, the conventional backbone and its vectors, item text.

Heavy imports stand inside the stages, so that a plan needs none of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmbole.pipeline.run import StageRun
from llmbole.pipeline.stage import SET, stage
from llmbole.pipeline.store import Artifact

if TYPE_CHECKING:
    from llmbole.data.split_dataset import ItemColumns
    from llmbole.model.cf import Backbone
    from llmbole.model.session import Session

POSITIONS_PER_BATCH = 2048


@stage(makes="data", uses=("dataset.name", "dataset.fingerprint"))
def prepare_data(run: StageRun) -> Mapping[str, Any]:
    """Raw files -> RecBole atomic files and text tables."""
    from llmbole.data import joined
    from llmbole.data.own import card_in

    raws = [Path(folder) for folder in run.resources["raw"]]  # the folders that the fingerprint was taken of
    cache = Path(run.resources["store"]) / "raw"
    names = joined.names(run["dataset.name"])
    cards = [card_in(name, raw) for name, raw in zip(names, raws, strict=True)]
    with run.progress(None, "line") as ticker:
        summary = joined.prepare(cards, raws, run.folder, ticker, cache)
    title = joined.join(cards).title
    did = f"{summary['users']} users, {summary['items']} items, {summary['interactions']} interactions of {title}"
    return {**summary, "did": did}


@stage(makes="split", needs=("data",), uses=("dataset.name", "dataset.label", "dataset.windows", "protocol"))
def freeze_split(run: StageRun, data: Artifact) -> Mapping[str, Any]:
    """Interactions -> training, validation and test parts with frozen candidates, checked for leaks."""
    from llmbole.data import joined, leak, splits
    from llmbole.data import protocol as protocols
    from llmbole.data.arrays import is_sealed
    from llmbole.data.convert.report import DataError

    if is_sealed():
        raise DataError(
            "the split is made before the trials of a sweep, which may not see its test part; run again"
        )
    protocol = protocols.protocol(run["protocol"]["name"])
    card = joined.prepared_card(run["dataset.name"], data.folder)
    summary = splits.freeze(protocol, card, data.folder, run.folder)
    problems = leak.check(splits.load(run.folder), protocol)
    if problems:
        raise ValueError("the split leaks:\n" + "\n".join(problems))
    return {
        **summary,
        "leaks": 0,
        "did": f"{protocol.name} v{protocol.version}, hash {summary['hash'][:12]}, no leak",
    }


@stage(makes="backbone", needs=("data", "split"), uses=("dataset.name", "protocol", "backbone", "seed"))
def train_backbone(run: StageRun, data: Artifact, split: Artifact) -> Mapping[str, Any]:
    """Train the conventional recommender, stopped early on validation data."""
    return fit_backbone(run, data, split)


def fit_backbone(
    run: StageRun,
    data: Artifact,
    split: Artifact,
    item_columns: ItemColumns | None = None,
    **more: Any,  # noqa: ANN401 - of several types
) -> Mapping[str, Any]:
    """Train the run's conventional recommender into the stage's folder.

    Args:
        run: The stage; it must declare `backbone`, `protocol`, `dataset.name` and `seed`.
        data: Prepared data.
        split: Frozen split.
        item_columns: More features of items than the data set's.
        **more: First weights or further training data, see `cf.train_backbone`.

    Returns:
        The summary of `cf.train_backbone`.
    """
    from llmbole.model import cf, training

    training.seed_everything(run.seed)
    session = backbone_session(run, data, split, item_columns)
    with run.progress(int(session.config["epochs"]), "epoch") as ticker:
        summary = cf.train_backbone(
            session, run["backbone.training"], run.folder, run.workspace, ticker, run.validated, **more
        )
    run.count(trainable_parameters=summary["parameters"])
    return summary


@stage(
    makes="backbone_scores",
    needs=("data", "split", "backbone"),
    uses=("dataset.name", "protocol", "backbone", "seed"),
    phased=True,
)
def score_backbone(run: StageRun, data: Artifact, split: Artifact, backbone: Artifact) -> Mapping[str, Any]:
    """Scores of the conventional recommender by itself."""
    from llmbole.model import evaluation

    opened = open_backbone(run, data, split, backbone)
    return evaluation.score_conventional(run, opened.model, opened.session)


@stage(
    makes="vectors",
    needs=("data", "split", "backbone"),
    uses=("dataset.name", "protocol", "backbone", "positions", "seed"),
)
def backbone_vectors(run: StageRun, data: Artifact, split: Artifact, backbone: Artifact) -> Mapping[str, Any]:
    """The backbone's item embeddings, and its user representation at every training position."""
    import torch

    from llmbole.data import leak
    from llmbole.data.positions import training_positions
    from llmbole.data.split import Split
    from llmbole.model import training
    from llmbole.model.session import no_leaks
    from recbole.data.interaction import Interaction

    opened = open_backbone(run, data, split, backbone)
    length = int(opened.session.config["MAX_ITEM_LIST_LENGTH"])
    frozen = Split.load(split.folder)
    positions = training_positions(frozen, run["positions"], length)
    no_leaks(leak.check_training(frozen, positions.users, positions.targets, positions.histories))
    columns = {
        "user": torch.from_numpy(positions.users),
        "item": torch.from_numpy(positions.targets),
        "history": torch.from_numpy(positions.histories),
        "length": torch.from_numpy(positions.lengths),
        "age": torch.from_numpy(positions.ages),
    }
    chunks = []
    with run.progress(len(positions.users), "position") as ticker:
        for rows in torch.arange(len(positions.users)).split(POSITIONS_PER_BATCH):
            batch = {
                "user_id": columns["user"],
                "item_id_list": columns["history"],
                "item_length": columns["length"],
            }
            chunks.append(
                opened.user_vectors(Interaction({name: column[rows] for name, column in batch.items()}))
            )
            ticker(len(rows))
    vectors = {"items": opened.item_vectors(), "user_vectors": torch.cat(chunks), **columns}
    training.save_tensors(run.folder / "vectors.safetensors", vectors)
    shape = vectors["items"].shape
    return {"did": f"{shape[0] - 1} items, {len(positions.users)} positions, width {shape[1]}"}


@stage(
    makes="retrieved",
    needs=("data", "split"),
    uses=("dataset.name", "protocol"),
    when=("protocol.candidates.retriever", SET),
    phased=True,
)
def retrieve_candidates(run: StageRun, data: Artifact, split: Artifact) -> Mapping[str, Any]:
    """The items that methods re-rank, where the protocol names a retriever."""
    from llmbole.model import retrieval

    return retrieval.retrieve(run, data, split)


@stage(
    makes="text",
    needs=("data", "split"),
    uses=("dataset.name", "text_encoder", "align.text"),
    when=("align.encoder", "frozen"),
)
def encode_text(run: StageRun, data: Artifact, split: Artifact) -> Mapping[str, Any]:
    """Item text -> vectors of the text encoder as it comes."""
    return encode_items(run, data, split, run["align.text"])


def encode_items(run: StageRun, data: Artifact, split: Artifact, template: str) -> Mapping[str, Any]:
    """Encode the text of all items into `text.safetensors` of the stage's folder.

    Args:
        run: The stage; it must declare `text_encoder`.
        data: Prepared data.
        split: Frozen split.
        template: Text of an item.

    Returns:
        What was done.
    """
    import torch

    from llmbole.model import training

    texts = item_texts(data, split, template)
    vectors = encode_texts(run, texts)  # [n_items, D]
    training.save_tensors(run.folder / "text.safetensors", {"text": torch.from_numpy(vectors)})
    return {"did": f"{len(texts) - 1} texts, width {vectors.shape[1]}"}


def encode_texts(run: StageRun, texts: Sequence[str]) -> Any:  # noqa: ANN401 - an array
    """Vectors of texts by the run's text encoder, in this process; the stage declares it. Shape `[n, D]`."""
    from llmbole.llm import encode

    with run.progress(len(texts), "text") as ticker:
        return encode.encode_texts(encoder_spec(run), texts, device(run), progress=ticker)


def unseen_items(split: Artifact) -> Any:  # noqa: ANN401 - a Tensor
    """Ids of the items without a training interaction, ascending. Shape `[n]`."""
    import torch

    from llmbole.data import splits

    _, counts = splits.load(split.folder).train_counts
    return torch.from_numpy((counts[1:] == 0).nonzero()[0] + 1)


def item_texts(data: Artifact, split: Artifact, template: str) -> list[str]:
    """A text per item by internal id, empty for the padding item."""
    from llmbole.data import splits
    from llmbole.data.text import ItemText

    return ItemText.load(data.folder, splits.load(split.folder).item_tokens).format(
        template, missing={"description": "no description"}
    )


def text_vectors(run: StageRun, data: Artifact, split: Artifact, text: Artifact | None, template: str) -> Any:  # noqa: ANN401
    """A module that gives text vectors of item ids: an encoder that learns, or a table of its vectors.

    Args:
        run: The stage.
        data: Prepared data.
        split: Frozen split.
        text: Vectors of the encoder as it comes; `None` if it is to learn.
        template: Text of an item.

    Returns:
        A module with `dimension`, `[n] -> [n, dimension]`.
    """
    from torch import nn

    from llmbole.llm import encode
    from llmbole.model import training

    if text is None:
        return encode.TrainableEncoder(encoder_spec(run), item_texts(data, split, template), device(run))
    table = nn.Embedding.from_pretrained(training.load_tensors(text, "text")["text"], freeze=True)
    table.dimension = table.embedding_dim
    return table


def title_choice(run: StageRun, data: Artifact, split: Artifact, *, user: bool, item: bool) -> Any:  # noqa: ANN401
    """The run's prompt over the run's frozen LLM.

    Args:
        run: The stage; it must declare `prompt`, `llm` and `dataset`.
        data: Prepared data.
        split: Frozen split.
        user: Whether a user vector stands in the prompt.
        item: Whether a vector stands behind each listed item.

    Returns:
        A `TitleChoice`.
    """
    from llmbole.llm import backbone
    from llmbole.llm.choice import TitleChoice

    lm = backbone.load(llm_spec(run), device(run)).freeze()
    prompt = run["prompt"]
    text = (prompt["user"] if user else "{bos}") + prompt["text"]
    listed = prompt["listed"] + ("{vector:soft}" if item else "")
    titles = item_texts(data, split, "{title}")
    return TitleChoice(
        lm, text, listed, prompt["answer"], titles, run["dataset"]["words"], prompt["title_tokens"]
    )


def open_backbone(
    run: StageRun,
    data: Artifact,
    split: Artifact,
    backbone: Artifact,
    item_columns: ItemColumns | None = None,
) -> Backbone:
    """The trained conventional recommender with its settings and data."""
    from llmbole.model import cf

    return cf.load_backbone(backbone_session(run, data, split, item_columns), backbone.folder)


def backbone_session(
    run: StageRun, data: Artifact, split: Artifact, item_columns: ItemColumns | None = None
) -> Session:
    """Settings and data of the conventional recommender under the run's protocol."""
    from llmbole.model.session import open_session

    name, own = backbone_settings(run)
    return open_session(run, data, split, name, own, item_columns=item_columns)


def llm_spec(run: StageRun, part: str = "llm") -> Any:  # noqa: ANN401 - an LLMSpec
    """The run's LLM, or the one of another part of its settings, pinned."""
    from llmbole.llm.identity import LLMSpec

    return LLMSpec(**_located(run, part))


def encoder_spec(run: StageRun) -> Any:  # noqa: ANN401 - an EncoderSpec
    """The run's text encoder, pinned."""
    from llmbole.llm.identity import EncoderSpec

    return EncoderSpec(**_located(run, "text_encoder"))


def _located(run: StageRun, part: str) -> dict[str, Any]:
    """Settings of a model whose name is where it lies, if the user gave it as a folder."""
    return {**run[part], "name": run.resources.get(f"{part}_folder") or run[part]["name"]}


def backbone_settings(run: StageRun) -> tuple[str, dict[str, Any]]:
    """The backbone's name, and RecBole's settings for it."""
    own = dict(run["backbone"])
    name = own.pop("name")
    own.pop("training")
    return name, own


def device(run: StageRun) -> Any:  # noqa: ANN401 - a torch device
    """The torch device of the run."""
    from llmbole.config import resolve_device

    return resolve_device(run.resources.get("device", "auto"))
