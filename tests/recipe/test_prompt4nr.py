"""Short real runs of Prompt4NR on ml-100k rows: every family and kind, what is trained, and what the tokens do."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from llmbole import registry
from llmbole.llm.backbone import load as load_llm
from llmbole.llm.identity import LLMSpec
from llmbole.llm.lora import Adapter, LoraSettings
from llmbole.llm.pair_prompt import Answer, PairPrompt, Wording
from llmbole.model import training
from llmbole.results import load
from llmbole.settings import SettingsError, load_yaml, properties_folder
from llmbole.verify import verify
from recbole.data.interaction import Interaction

METHOD = registry.method("Prompt4NR")
MODULE = __import__("sys").modules[METHOD.__module__]
DEFAULTS = load_yaml(properties_folder() / "model" / "Prompt4NR.yaml")
FAMILIES = ("relevance", "emotion", "action", "utility")
WORDS = {"item": "movie", "items": "movies", "verb": "watch", "past": "watched"}
LORA = 4 * 2 * 8 * (128 + 256)  # layers, projections, rank
FEW = {"steps": 2, "check_every": 1, "rows": 40, "valid_rows": 40, "batch_size": 8}


@pytest.fixture
def ask(run):
    def short(settings=None):
        own = {"prompt.history": 2, **{f"tune.{name}": value for name, value in FEW.items()}}
        return run("Prompt4NR", {**own, **(settings or {})}, protocol="unified_ctr")

    return short


@pytest.fixture(scope="module")
def rows():
    columns = {"item_id": [1, 2], "shown": [[0, 2], [1, 0]], "label": [1.0, 0.0]}
    return Interaction({name: torch.tensor(column) for name, column in columns.items()})


def model_of(family, kind, tokens=3):
    torch.manual_seed(1)
    settings = MODULE.TemplateSettings(family, kind, tokens, DEFAULTS["template"]["families"])
    lm = load_llm(LLMSpec()).freeze()
    answer = Answer(settings.words or ("Yes", "No"), True, "difference")
    wording = Wording('"{title}"', ", ", "none yet", "untitled", 8)
    text = settings.text(DEFAULTS["prompt"]["text"])
    prompt = PairPrompt(lm, text, wording, answer, ["", "Heat", "Toy Story"], WORDS)
    return METHOD(prompt, Adapter(lm, LoraSettings(8, 16, 0.0)), tokens)


@pytest.mark.parametrize(
    ("family", "kind"),
    [
        (None, "hybrid"),
        *(("relevance", kind) for kind in MODULE.KINDS),
        *((name, "hybrid") for name in FAMILIES[1:]),
    ],
)
def test_every_template_learns_its_virtual_tokens(rows, family, kind):
    model = model_of(family, kind).train()
    fields = 2 if family is None else {"discrete": 0, "hybrid": 2, "continuous": 3}[kind]
    assert sum(each.numel() for each in model.virtual.parameters()) == fields * 3 * 128
    encoded = model.prompt.encode([[1], []], [2, 1])
    assert all(len(places) == 3 for prompt in encoded for places in prompt.soft.values())
    assert len(encoded[0].soft) == fields
    model.calculate_loss(rows).backward()
    assert all(vectors.grad.abs().sum() > 0 for vectors in model.virtual.parameters())


def test_rows_share_the_tokens_and_are_scored_as_alone(rows):
    model = model_of(None, "hybrid").eval()
    together = model.predict(rows)
    alone = torch.cat([model.predict(rows[[place]]) for place in range(2)])
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=1e-5)
    repeated = model.virtual(2)["user"]
    assert repeated.shape == (6, 128) and torch.equal(repeated[:3], repeated[3:])
    with torch.no_grad():
        model.virtual.vectors["user"].add_(1.0)
    assert (model.predict(rows) != together).all()


def test_a_run_from_raw_files_to_a_sealed_record(ask):
    result = ask()
    record = load(result.path)
    assert set(record.metrics) == {"AUC", "UAUC", "LogLoss", "ACC", "ECE"}
    assert record.cost["tuned"].trainable_parameters == LORA + 2 * 3 * 128
    learned = training.load_tensors(result.artifacts["tuned"], training.WEIGHTS)
    assert {name.split(".")[0] for name in learned} == {"adapter", "virtual"}
    scores = np.load(result.artifacts["scores"].folder / "rows.npz")["scores"]
    assert len(scores) == record.extra["rows"] and scores.min() > 0 and scores.max() < 1
    assert not verify(result.path.parents[2])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"template.family": "relevanse"}, "'relevanse' is unknown; did you mean 'relevance'"),
        ({"template.kind": "soft"}, "none of 'discrete', 'continuous', 'hybrid'"),
        ({"template.tokens": 0}, "tokens = 0: must be at least 1"),
    ],
)
def test_wrong_settings_are_refused_before_any_work(ask, settings, message):
    with pytest.raises(SettingsError, match=message):
        ask(settings)
