"""From what somebody names to an open recommender: a record's id, a result, or the settings of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llmbole import reproduce
from llmbole.inference import finished
from llmbole.inference.finished import Finished
from llmbole.inference.recommender import Recommendation, Recommender
from llmbole.record import Record
from llmbole.recording import Result
from llmbole.resolve import OPTIONS, resolve
from llmbole.results import load
from llmbole.settings import SettingsError, load_yaml, properties_folder


def open_recommender(
    record: str | Path | Record | Result | None = None,
    *,
    model: str | None = None,
    dataset: str | Path | None = None,
    items: Path | str | None = None,
    shortlist: int | None = None,
    train: bool = False,
    config_files: Sequence[Path | str] = (),
    settings: Mapping[str, Any] | None = None,
    **more: Any,  # noqa: ANN401
) -> Recommender:
    """Open a finished run to recommend with it.

    Args:
        record: A record's id or its first digits (at least eight), its file, or what `llmbole.run` gave.
        model: In place of a record: the method or RecBole model of a run.
        dataset: Its data set; beside a record the folder of the data, if they were a user's own.
        items: CSV of the items to recommend among, those that training never saw included.
        shortlist: Items that the backbone chooses for the method to rank.
        train: Whether to make artifacts that are missing.
        config_files: Yaml files of settings, with `model`.
        settings: With `model` settings of the run; with a record `store`, `leaderboard`, `device`, `raw`, `threads`,
            `progress`, and the folders `llm` and `text_encoder` if the record's were given as folders.
        **more: The same as keywords.

    Returns:
        The recommender.

    Raises:
        SettingsError: Nothing or too much is named, an artifact is missing, or the method can't recommend.
    """
    given = {**(settings or {}), **more}
    if (record is None) == (model is None):
        raise SettingsError("name either a record, or the model and dataset of a run")
    if record is None:
        if dataset is None:
            raise SettingsError("name the dataset of the run as well")
        found = _of_settings(str(model), dataset, given, config_files, train)
    else:
        if config_files:
            raise SettingsError("a record has its settings; leave config_files out")
        found = _of_record(record, dataset, given, train)
    _use_threads(found.options.get("threads"))
    return Recommender(found, items, shortlist)


def recommend(
    record: str | Path | Record | Result,
    users: Sequence[str] | str,
    k: int = 10,
    *,
    with_seen: bool = False,
    **more: Any,  # noqa: ANN401
) -> dict[str, list[Recommendation]]:
    """Recommend to some users; to ask more than once, open the run once with `open_recommender`.

    Args:
        record: As `open_recommender` takes it.
        users: Raw user ids, or one.
        k: Items for each.
        with_seen: Whether items that a user has interacted with may be recommended.
        **more: As `open_recommender` takes it.

    Returns:
        Best first, by user.
    """
    return open_recommender(record, **more)(users, k, with_seen=with_seen)


def _of_settings(
    model: str, dataset: str | Path, given: Mapping[str, Any], config_files: Sequence[Path | str], train: bool
) -> Finished:
    named = dataset if isinstance(dataset, str) else str(dataset.expanduser().resolve())
    words = [f"--model={model}", f"--dataset={named}"]
    words += [f"--config_files={','.join(map(str, config_files))}"] if config_files else []
    words += [f"--{key}={value}" for key, value in given.items()]
    resolved = resolve(model, named, given, config_files)
    return finished.of_settings(resolved, train=train, command=" ".join(["llmbole run", *words]))


def _of_record(
    record: str | Path | Record | Result, dataset: str | Path | None, given: Mapping[str, Any], train: bool
) -> Finished:
    unknown = [key for key in given if key not in (*OPTIONS, *finished.SPECIFICATIONS)]
    if unknown:
        raise SettingsError(
            f"a record has its settings, {unknown[0]!r} can't be another; leave it out, or name model and dataset"
        )
    defaults = load_yaml(properties_folder() / "overall.yaml")
    options: dict[str, Any] = {name: given.get(name, defaults[name]) for name in OPTIONS}
    if isinstance(record, Result):
        made = next(iter(record.artifacts.values())).folder.parents[1]
        options["store"] = given.get("store", str(made))
    folders = {part: str(given[part]) for part in finished.SPECIFICATIONS if given.get(part)}
    return finished.of_record(
        _record(record, Path(options["leaderboard"])),
        options,
        dataset=str(dataset) if dataset is not None else None,
        folders=folders,
        train=train,
    )


def _record(named: str | Path | Record | Result, leaderboard: Path) -> Record:
    if isinstance(named, Result):
        return named.record
    if isinstance(named, Record):
        return named
    if isinstance(named, Path) or named.endswith(".json"):
        return load(Path(named))
    return reproduce.find(named, leaderboard / "results")


def _use_threads(threads: int | None) -> None:
    if threads is not None:
        import torch

        torch.set_num_threads(int(threads))
