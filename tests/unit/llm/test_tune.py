"""The training loop: its rates, its row order, validation, going on after a kill, and a loss that is no number."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from llmbole.llm import tune
from llmbole.llm.tune import TuneSettings, TuningError

SETTINGS = TuneSettings(
    learning_rate=0.1,
    warmup_rate=0.01,
    warmup_steps=4,
    least_rate=0.02,
    weight_decay=0.5,
    batch_size=4,
    accumulation=1,
    steps=12,
    check_every=3,
    patience=3,
)
ROWS = 10


class Small(nn.Module):
    """A linear model with dropout, on fixed rows."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.inputs = torch.randn(ROWS, 3, generator=generator)
        self.layer = nn.Linear(3, 1)
        self.frozen = nn.Linear(1, 1).requires_grad_(False)
        self.dropout = nn.Dropout(0.3)
        self.seen = []
        with torch.no_grad():
            self.layer.weight.fill_(1.0)
            self.layer.bias.fill_(0.5)

    def loss(self, rows):
        self.seen.append(rows.tolist())
        value = self.layer(self.dropout(self.inputs[rows])) - self.inputs[rows].sum(1, keepdim=True).sign()
        return value.square().mean(), len(rows)


def run(module, workspace, settings=SETTINGS, **more):
    return tune.tune(module, module.loss, ROWS, settings, seed=7, workspace=workspace, **more)


def test_rates_rise_in_a_line_and_fall_in_a_half_cosine():
    rates = [SETTINGS.rate(step) for step in range(13)]
    assert rates[:5] == pytest.approx([0.01, 0.0325, 0.055, 0.0775, 0.1])
    assert rates[8] == pytest.approx((0.1 + 0.02) / 2)
    assert rates[12] == pytest.approx(0.02)
    assert dataclasses.replace(SETTINGS, warmup_steps=0).rate(0) == pytest.approx(0.1)


def test_every_epoch_has_each_row_once_in_an_order_of_its_own(tmp_path):
    module = Small()
    run(module, tmp_path)
    epochs = [sum(module.seen[start : start + 3], []) for start in (0, 3, 6)]
    assert all(sorted(epoch) == list(range(ROWS)) for epoch in epochs)
    assert epochs[0] != epochs[1]


def test_biases_do_not_decay():
    decayed, plain = tune.groups(Small(), 0.5)
    assert (decayed["weight_decay"], [each.dim() for each in decayed["params"]]) == (0.5, [2])
    assert (plain["weight_decay"], [each.dim() for each in plain["params"]]) == (0.0, [1])


def test_accumulated_batches_are_one_large_batch(tmp_path):
    one, several = Small(), Small()
    one.dropout.p = several.dropout.p = 0.0
    for folder in "ab":
        (tmp_path / folder).mkdir()
    run(one, tmp_path / "a", dataclasses.replace(SETTINGS, batch_size=10, steps=3))
    # 5 + 5 rows of the same epoch are the 10 rows of the large batch.
    run(several, tmp_path / "b", dataclasses.replace(SETTINGS, batch_size=5, accumulation=2, steps=3))
    torch.testing.assert_close(one.layer.weight, several.layer.weight)


def test_the_best_validated_state_is_kept_and_training_stops_in_time(tmp_path):
    module, scores, states = Small(), iter([0.5, 0.7, 0.6, 0.7, 0.1, 0.9]), []

    def validate():
        assert not module.training
        states.append(module.layer.weight.clone())
        return next(scores), 5

    longer = dataclasses.replace(SETTINGS, steps=100)
    tuned = run(module, tmp_path, longer, validate=validate)
    assert tuned.scores == [0.5, 0.7, 0.6, 0.7, 0.1]
    assert (tuned.score, tuned.best_step, tuned.step) == (0.7, 6, 15)
    assert torch.equal(module.layer.weight, states[1])
    assert tuned.tokens == 5 * 10 + 5 * 5  # 15 steps are 5 epochs of 10 rows


def test_a_killed_training_ends_as_one_that_was_not(tmp_path):
    def validate_of(module, dies_at=None):
        calls = []

        def validate():
            calls.append(1)
            if len(calls) == dies_at:
                raise KeyboardInterrupt
            return -float(module.layer.weight.detach().square().sum()), 1

        return validate

    torch.manual_seed(5)
    whole = Small()
    (tmp_path / "whole").mkdir()
    expected = run(whole, tmp_path / "whole", validate=validate_of(whole), snapshot_seconds=0)
    torch.manual_seed(5)
    killed = Small()
    with pytest.raises(KeyboardInterrupt):
        run(killed, tmp_path, validate=validate_of(killed, dies_at=3), snapshot_seconds=0)
    torch.manual_seed(99)
    resumed, ticks = Small(), []
    found = run(resumed, tmp_path, validate=validate_of(resumed), progress=ticks.append, snapshot_seconds=0)
    assert found == expected
    assert torch.equal(resumed.layer.weight, whole.layer.weight)
    assert (ticks[0], sum(ticks)) == (6, 12)


def test_a_snapshot_of_another_module_or_a_damaged_one_is_refused(tmp_path):
    run(Small(), tmp_path, snapshot_seconds=0)
    other = nn.Linear(2, 2)
    with pytest.raises(TuningError, match="another module than this Linear: delete it"):
        tune.tune(other, lambda rows: None, ROWS, SETTINGS, seed=7, workspace=tmp_path)
    (tmp_path / tune.SNAPSHOT).write_bytes(b"half")
    with pytest.raises(TuningError, match="damaged"):
        run(Small(), tmp_path)


def test_a_loss_that_is_no_number_names_epoch_and_batch(tmp_path):
    module = Small()

    def loss(rows):
        value, tokens = Small.loss(module, rows)
        return (value * math.nan if len(module.seen) == 5 else value), tokens

    with pytest.raises(TuningError, match=r"loss of Small is nan in epoch 2, batch 2 of 3 \(step 5\): lower"):
        tune.tune(module, loss, ROWS, SETTINGS, seed=7, workspace=tmp_path)


def test_nothing_to_train_is_an_error(tmp_path):
    with pytest.raises(TuningError, match="nothing to train"):
        run(Small().requires_grad_(False), tmp_path)


def test_wrong_numbers_are_refused_together():
    with pytest.raises(ValueError, match=r"(?s)batch_size = 0.*steps = -1.*learning_rate = nan"):
        dataclasses.replace(SETTINGS, batch_size=0, steps=-1, learning_rate=math.nan)


def test_gradients_are_clipped_to_a_norm_before_each_step(tmp_path):
    norms = {}
    for clip in (None, 0.5):
        module, found = Small(), norms.setdefault(clip, [])
        hook = register_optimizer_step_pre_hook(
            lambda *_, module=module, found=found: found.append(
                float(torch.cat([each.grad.flatten() for each in module.layer.parameters()]).norm())
            )
        )
        (tmp_path / str(clip)).mkdir()
        run(module, tmp_path / str(clip), dataclasses.replace(SETTINGS, clip=clip))
        hook.remove()
    assert norms[None][0] > 0.5
    assert norms[0.5][0] == pytest.approx(0.5, abs=1e-4) and max(norms[0.5]) <= 0.5 + 1e-4
    with pytest.raises(ValueError, match=r"clip = 0\.0: must be above 0"):
        dataclasses.replace(SETTINGS, clip=0.0)
