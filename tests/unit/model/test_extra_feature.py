"""An extra feature reaches the score and its maker in every backbone, and leaves what the backbone had."""

from __future__ import annotations

import pytest
import torch

from llmbole.config import Config
from llmbole.data import protocol
from llmbole.model import extra_feature
from llmbole.model.extra_feature import EXTRA, LEARNERS, RETRIEVERS
from llmbole.model.session import open_split, recbole_settings
from llmbole.settings import SettingsError

SMALL = {"embedding_size": 4, "train_batch_size": 64}
OWN = {
    "AutoInt": {"attention_size": 4, "n_layers": 1, "mlp_hidden_size": [8]},
    "xDeepFM": {"cin_layer_size": [4, 4], "mlp_hidden_size": [8]},
    "DIN": {"MAX_ITEM_LIST_LENGTH": 6, "mlp_hidden_size": [8]},
    "FM": {},
}


@pytest.fixture
def session(prepared, splits_of):
    """A model's settings and data under loo_ctr."""

    def make(name, **changes):
        rules = protocol.protocol("loo_ctr")
        own = OWN.get(name, {"mlp_hidden_size": [8]})
        settings = {**recbole_settings(rules), **SMALL, **own, **changes}
        config = Config(name, "ml-100k", prepared, settings, device="cpu", seed=1)
        return open_split(config, splits_of("loo_ctr"), rules)

    return make


def made(opened, width, fields=1):
    torch.manual_seed(0)
    return extra_feature.make(opened, width, fields).eval()


@pytest.mark.parametrize("name", LEARNERS)
@pytest.mark.parametrize(("width", "fields"), [(4, 1), (6, 2)])
def test_the_feature_reaches_the_score_and_gradients_reach_the_feature(session, name, width, fields):
    opened = session(name)
    model = made(opened, width, fields)
    batch = next(iter(opened.train_loader()))
    feature = (0.1 * torch.randn(len(batch), fields, width)).requires_grad_()
    batch[EXTRA] = feature
    first = model.predict(batch)
    loss = model.calculate_loss(batch)
    loss.backward()
    assert feature.grad is not None
    assert (feature.grad.abs().sum((1, 2)) > 0).float().mean() > 0.9  # some rows may be certain already
    other = feature.detach().clone()
    other[0] += 0.5
    batch[EXTRA] = other
    changed = (model.predict(batch) - first).detach().abs()
    assert changed[0] > 1e-6 and changed[1:].max() < 1e-6  # a row sees its own feature alone


@pytest.mark.parametrize("name", ["DeepFM", "FM"])
def test_a_feature_of_zeros_is_a_field_that_adds_nothing_to_factors(session, name):
    """Without its row of the first layer the model is RecBole's own."""
    opened = session(name)
    wide, plain = made(opened, 4), opened.config.model_class(opened.config, opened.parts[0]).eval()
    state = wide.state_dict()
    for key, value in plain.state_dict().items():
        if state[key].shape != value.shape:
            assert (state[key].shape[1] - value.shape[1]) == 4
            state[key] = state[key][:, : value.shape[1]]
    plain.load_state_dict({key: state[key] for key in plain.state_dict()})
    batch = next(iter(opened.train_loader()))
    batch[EXTRA] = torch.zeros(len(batch), 1, 4)
    torch.testing.assert_close(wide.predict(batch), plain.predict(batch))


@pytest.fixture
def ranked(prepared, splits_of):
    """A model's settings and data under loo_full."""

    def make(name, **changes):
        rules = protocol.protocol("loo_full")
        own = {"hidden_size": 8, "inner_size": 8} if name == "SASRec" else {"embedding_size": 8}
        own |= {"mlp_hidden_size": [8]} if name == "YoutubeDNN" else {}
        small = {"train_batch_size": 16, "MAX_ITEM_LIST_LENGTH": 6, **own, **changes}
        config = Config(name, "ml-100k", prepared, {**recbole_settings(rules), **small}, device="cpu", seed=1)
        return open_split(config, splits_of("loo_full"), rules)

    return make


@pytest.mark.parametrize("name", RETRIEVERS)
@pytest.mark.parametrize(("width", "negatives"), [(8, 5), (6, 0)])
def test_a_ranking_adds_the_feature_to_the_vector_of_the_user(ranked, name, width, negatives):
    opened = ranked(name, sampled_negatives=negatives)
    torch.manual_seed(0)
    model = extra_feature.make(opened, width, weight=0.5).eval()
    plain = opened.config.model_class(opened.config, opened.parts[0]).eval()
    plain.load_state_dict({key: model.state_dict()[key] for key in plain.state_dict()})
    batch = next(iter(opened.train_loader()))
    feature = torch.randn(len(batch), 1, width, requires_grad=True)
    batch[EXTRA] = feature
    scores = model.full_sort_predict(batch).view(len(batch), -1)
    items = (plain.output_embedding if name == "YoutubeDNN" else plain.item_embedding).weight
    added = 0.5 * model.extra_mapping(feature[:, 0]) @ items.T
    torch.testing.assert_close(scores, plain.full_sort_predict(batch).view(len(batch), -1) + added)
    own = scores[torch.arange(len(batch)), batch["item_id"]]
    torch.testing.assert_close(model.predict(batch), own)
    torch.manual_seed(3)
    loss = model.calculate_loss(batch)
    if not negatives:
        torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(scores, batch["item_id"]))
    loss.backward()
    assert (feature.grad.abs().sum((1, 2)) > 0).all()
    assert all(parameter.grad is not None for parameter in model.extra_mapping.parameters())


def test_each_kind_of_task_has_its_own_models():
    with pytest.raises(SettingsError, match=r"DeepFM has no place for an extra feature in a ranking"):
        extra_feature.check_backbone("DeepFM", "ranking")
    with pytest.raises(SettingsError, match="SASRec has no place for an extra feature;"):
        extra_feature.check_backbone("SASRec", "pairs")


def test_a_model_without_a_place_is_refused_by_name(session):
    with pytest.raises(SettingsError, match=r"LR has no place for an extra feature.*DeepFM"):
        extra_feature.check_backbone("LR", "pairs")
    with pytest.raises(SettingsError, match="did you mean 'DeepFM'"):
        extra_feature.check_backbone("DeepFMs", "pairs")


@pytest.mark.parametrize("name", ["DCN", "DIN"])
def test_a_batch_without_the_feature_is_an_error(session, name):
    opened = session(name)
    model, batch = made(opened, 4), next(iter(opened.train_loader()))
    with pytest.raises(ValueError, match=r"\[B, 1, 4\], and it holds nothing"):
        model.predict(batch)
    batch[EXTRA] = torch.zeros(len(batch), 1, 3)
    with pytest.raises(ValueError, match="and it holds"):
        model.calculate_loss(batch)
