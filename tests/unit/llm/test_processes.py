"""Several processes: rows in exactly one of them, gradients of the whole batch, a training that ends as one's does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from llmbole.llm import processes
from llmbole.llm.processes import Processes

# Run by two processes; each writes what it found.
WORKER = """
import dataclasses, json, sys
from pathlib import Path
import torch
from torch import nn
from llmbole.llm import processes, tune

folder = Path(sys.argv[1])
group = processes.opened(torch.device("cpu"))
found = {"rank": group.rank, "size": group.size, "same": group.same({"from": group.rank}),
         "sums": group.sums(group.rank, 0.5)}
rows = torch.arange(5)
found["part"] = group.part(rows).tolist()
found["gathered"] = group.gather(group.part(rows * 0.5), 5).tolist()
found["none"] = group.gather(group.part(torch.ones(1)), 1).tolist()
try:
    group.gather(torch.ones(4), 5)
except ValueError as error:
    found["error"] = str(error)
both, one, never = (nn.Parameter(torch.zeros(2)) for _ in range(3))
(both.sum() * (group.rank + 1)).backward()
if group.rank == 1:
    (one * torch.tensor([3.0, 4.0])).sum().backward()
group.add_gradients([both, one, never])
found["gradients"] = [None if each.grad is None else each.grad.tolist() for each in (both, one, never)]
layer = nn.BatchNorm1d(1)
layer.running_mean.fill_(group.rank + 7)
group.share_statistics(layer)
found["statistics"] = layer.running_mean.item()


class Small(nn.Module):
    def __init__(self, dropout):
        super().__init__()
        torch.manual_seed(3)
        self.inputs, self.layer, self.dropout = torch.randn(11, 3), nn.Linear(3, 1), nn.Dropout(dropout)

    def loss(self, rows):
        value = self.layer(self.dropout(self.inputs[rows])) - self.inputs[rows].sum(1, keepdim=True).sign()
        return value.square().mean(), len(rows)


SETTINGS = tune.TuneSettings(0.1, 0.01, 2, 0.02, 0.5, batch_size=5, accumulation=1, steps=6, check_every=2, patience=9)


def train(module, workspace, group, dies=False, progress=None):
    workspace.mkdir(exist_ok=True)
    scores = []

    def validate():
        scores.append(-float(module.layer.weight.detach().square().sum()))
        if dies and len(scores) == 2:
            raise KeyboardInterrupt
        return scores[-1], 1

    tuned = tune.tune(module, module.loss, 11, SETTINGS, seed=7, workspace=workspace, validate=validate,
                      progress=progress, snapshot_seconds=0, processes=group)
    return {"tuned": dataclasses.asdict(tuned), "weight": module.layer.weight.flatten().tolist()}


found["together"] = train(Small(0.0), folder / "together", group)
found["alone"] = train(Small(0.0), folder / f"alone{group.rank}", processes.ALONE)
found["whole"] = train(Small(0.5), folder / "whole", group)
try:
    train(Small(0.5), folder / "killed", group, dies=True)
except KeyboardInterrupt:
    pass
group.same(None)
ticks = []
found["resumed"] = train(Small(0.5), folder / "killed", group, progress=ticks.append)
found["ticks"] = ticks
(folder / f"found{group.rank}.json").write_text(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> list[dict]:
    """What two processes found."""
    folder = tmp_path_factory.mktemp("processes")
    (folder / "worker.py").write_text(WORKER, encoding="utf-8")
    root = Path(processes.__file__).parents[2]
    path = os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [sys.executable, *command, str(folder / "worker.py"), str(folder)],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads((folder / f"found{rank}.json").read_text(encoding="utf-8")) for rank in range(2)]


def test_every_row_is_in_one_process_and_comes_back_in_order(found):
    assert [each["part"] for each in found] == [[0, 1, 2], [3, 4]]
    for each in found:
        assert each["gathered"] == [0.0, 0.5, 1.0, 1.5, 2.0]
        assert each["none"] == [1.0]
        assert "has 4 of 5 rows, not" in each["error"]


def test_values_numbers_and_statistics_are_shared(found):
    assert [(each["rank"], each["size"]) for each in found] == [(0, 2), (1, 2)]
    for each in found:
        assert each["same"] == {"from": 0}
        assert each["sums"] == [1.0, 1.0]
        assert each["statistics"] == 7.0


def test_gradients_are_sums_and_what_nothing_reaches_has_none(found):
    for each in found:
        assert each["gradients"] == [[3.0, 3.0], [3.0, 4.0], None]


def test_two_processes_train_as_one_does(found):
    one = found[0]["alone"]
    for each in found:
        together = each["together"]
        assert together["weight"] == pytest.approx(one["weight"], abs=1e-6)
        assert together["tuned"]["scores"] == pytest.approx(one["tuned"]["scores"], abs=1e-6)
        assert together["tuned"]["loss"] == pytest.approx(one["tuned"]["loss"], abs=1e-6)
        assert together["tuned"]["tokens"] == one["tuned"]["tokens"]


def test_a_killed_training_of_two_ends_as_one_that_was_not(found):
    for each in found:
        assert each["resumed"] == each["whole"]
        assert each["ticks"][0] == 2
    assert found[0]["whole"]["weight"] == found[1]["whole"]["weight"]
    assert found[0]["whole"]["weight"] != found[0]["together"]["weight"]  # dropout drew


def test_one_process_changes_nothing():
    values, alone = torch.arange(3.0), Processes()
    assert (alone.rank, alone.size, alone.same("a"), alone.sums(1, 2.5)) == (0, 1, "a", [1, 2.5])
    assert torch.equal(alone.part(values), values) and torch.equal(alone.gather(values, 3), values)


def test_a_launcher_is_seen_in_the_environment(monkeypatch):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert (processes.started(), processes.is_first()) == (1, True)
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert processes.started() == 1  # a cluster's variable alone is no launcher
    monkeypatch.setenv("RANK", "1")
    assert (processes.started(), processes.is_first()) == (4, False)
