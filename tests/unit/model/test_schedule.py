"""Learning rates: one that falls to 0, also across a resume, and one of a part of a model."""

from __future__ import annotations

import copy

import pytest
import torch

from llmbole.model.ranking import check_training
from llmbole.model.training import decay_linearly, parameter_groups


def steps(optimizer: torch.optim.Optimizer, parameter: torch.Tensor, number: int) -> list[float]:
    """Learning rates of so many updates."""
    rates = []
    for _ in range(number):
        parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        rates.append(optimizer.param_groups[0]["lr"])
    return rates


def test_the_rate_falls_from_the_first_to_none_in_equal_steps():
    parameter = torch.nn.Parameter(torch.zeros(3))
    optimizer = torch.optim.Adam([parameter], lr=0.4)
    decay_linearly(optimizer, 4)
    assert steps(optimizer, parameter, 5) == pytest.approx([0.4, 0.3, 0.2, 0.1, 0.0])


def test_a_resumed_training_goes_on_with_the_rate_it_had():
    parameter = torch.nn.Parameter(torch.zeros(3))
    optimizer = torch.optim.Adam([parameter], lr=0.4)
    decay_linearly(optimizer, 4)
    steps(optimizer, parameter, 2)
    saved, values = copy.deepcopy(optimizer.state_dict()), parameter.detach().clone()
    undisturbed = steps(optimizer, parameter, 2)
    resumed = torch.nn.Parameter(values)
    other = torch.optim.Adam([resumed], lr=0.4)
    decay_linearly(other, 4)
    other.load_state_dict(saved)
    assert steps(other, resumed, 2) == pytest.approx(undisturbed)
    assert torch.equal(resumed, parameter)


@pytest.mark.parametrize(("rate", "expected"), [(None, [0.4, 0.4]), (0.1, [0.4, 0.1])])
def test_a_part_of_a_model_may_learn_at_a_rate_of_its_own(rate, expected):
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    groups = parameter_groups(model, model[1], rate)
    assert torch.optim.Adam(groups, lr=0.4).param_groups[-1]["params"] == list(model[1].parameters())
    assert [group["lr"] for group in torch.optim.Adam(groups, lr=0.4).param_groups] == expected
    model[1].requires_grad_(False)
    (only,) = parameter_groups(model, model[1], rate)
    assert only["params"] == list(model[0].parameters())


def test_an_unknown_schedule_is_refused():
    with pytest.raises(ValueError, match="schedule = 'cosine': must be constant or linear"):
        check_training({"schedule": "cosine"})
