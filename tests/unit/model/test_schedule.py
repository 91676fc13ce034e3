"""The learning rate of a short training may fall to 0, also across a resume."""

from __future__ import annotations

import copy

import pytest
import torch

from llmbole.model.ranking import check_training
from llmbole.model.training import decay_linearly


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


def test_an_unknown_schedule_is_refused():
    with pytest.raises(ValueError, match="schedule = 'cosine': must be constant or linear"):
        check_training({"schedule": "cosine"})
