"""Every patch of foreign code, with a proof that it is still needed: it fails once upstream works without."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from llmbole import compat

ROOT = Path(__file__).parents[2]

# What breaks, or is unwanted, without the patch: code for a process of its own, and what its output then holds.
NEEDED = {
    "numpy_names": (
        """
import numpy
from recbole.evaluator.metrics import NDCG
NDCG({"metric_decimal_place": 4, "topk": [1]}).metric_info(numpy.ones((1, 1), dtype=bool), numpy.ones(1, dtype=int))
""",
        "AttributeError: module 'numpy' has no attribute 'float'",
    ),
    "config_numpy_aliases": (
        """
from recbole.config import Config
Config.compatibility_settings(None)
""",
        "AttributeError: `np.float_` was removed",
    ),
    "dok_update": (
        """
from scipy.sparse import dok_matrix
dok_matrix((2, 2))._update({(0, 1): 1})
""",
        "has no attribute '_update'",
    ),
    "kmeans_stub": (
        """
from recbole.utils import get_model
get_model("BPR")
""",
        "ModuleNotFoundError: No module named 'kmeans_pytorch'",
    ),
    "anomaly_detection": (
        """
import sys, types
sys.modules["kmeans_pytorch"] = types.SimpleNamespace(kmeans=None)
import torch
import recbole.model.sequential_recommender
raise SystemExit(f"anomaly detection is {torch.is_anomaly_enabled()}")
""",
        "anomaly detection is True",
    ),
    "tensorboard": (
        """
import logging, os
from recbole.trainer import trainer
trainer.get_tensorboard(logging.getLogger())
raise SystemExit("made " + os.listdir()[0])
""",
        "made log_tensorboard",
    ),
    "gradient_scaler": (
        """
import warnings
warnings.simplefilter("error", FutureWarning)
from recbole.trainer import trainer
trainer.amp.GradScaler(enabled=False)
""",
        "FutureWarning",
    ),
    "chained_fillna": (
        """
import warnings
warnings.simplefilter("error", FutureWarning)
import pandas
from recbole.data.dataset import Dataset
from types import SimpleNamespace
from recbole.utils import FeatureType
dataset = SimpleNamespace(
    feat_name_list=["inter_feat"], field2type={"item": FeatureType.TOKEN}, logger=SimpleNamespace(debug=str),
    inter_feat=pandas.DataFrame({"item": [1.0, None]}), config={}, uid_field="user", iid_field="item",
)
Dataset._fill_nan(dataset)
""",
        "FutureWarning",
    ),
    "sparse_tensor": (
        """
import warnings
warnings.simplefilter("error")
import torch
torch.sparse.FloatTensor(torch.zeros(2, 1, dtype=torch.long), torch.ones(1), torch.Size([1, 1]))
""",
        "UserWarning: torch.sparse.SparseTensor",
    ),
}


def test_every_patch_has_a_proof_a_reason_and_a_bound():
    assert {patch.name for patch in compat.PATCHES} == set(NEEDED)
    assert all(patch.reason and any(sign in patch.bound for sign in ("<=", "to")) for patch in compat.PATCHES)


RUN_ALL = """
import json, sys, traceback, warnings
symptoms = {}
for name, code in json.load(sys.stdin).items():
    with warnings.catch_warnings():
        try:
            exec(code, {})
        except BaseException:
            symptoms[name] = traceback.format_exc()
json.dump(symptoms, sys.stdout)
"""


@pytest.fixture(scope="module")
def symptoms(tmp_path_factory):
    """What each proof raises in a process where nothing is patched."""
    code = json.dumps({name: code for name, (code, _) in NEEDED.items()})
    folder = tmp_path_factory.mktemp("unpatched")
    done = subprocess.run(
        [sys.executable, "-c", RUN_ALL], input=code, cwd=folder, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", NEEDED)
def test_a_patch_is_still_needed(name, symptoms):
    assert name in symptoms, f"upstream no longer needs the patch {name}: remove it"
    assert NEEDED[name][1] in symptoms[name]


def test_applying_twice_changes_nothing():
    compat.apply()
    before = {name: vars(importlib.import_module(name))["np"] for name in compat.NUMPY_READERS}
    compat.apply()
    assert all(vars(importlib.import_module(name))["np"] is view for name, view in before.items())


def test_numpy_itself_is_left_alone():
    compat.apply()
    from recbole.evaluator import metrics

    assert not hasattr(np, "float") and not hasattr(np, "unicode_")
    assert metrics.np.float is np.float64 and metrics.np.long is np.int_
    assert metrics.np.log2 is np.log2


def test_lightgcn_graph_equals_a_hand_made_one():
    compat.apply()
    import scipy.sparse

    from recbole.model.general_recommender import LightGCN

    # User 1 has items 1 and 2, user 2 has item 2; row and column 0 are padding.
    matrix = scipy.sparse.coo_matrix((np.ones(3, np.float32), ([1, 1, 2], [1, 2, 2])), shape=(3, 3))
    graph = LightGCN.get_norm_adj_mat(
        SimpleNamespace(n_users=3, n_items=3, interaction_matrix=matrix)
    ).to_dense()
    expected = torch.zeros(6, 6)
    degree = {1: 2, 2: 1, 3 + 1: 1, 3 + 2: 2}
    for user, item in ((1, 4), (1, 5), (2, 5)):
        expected[user, item] = expected[item, user] = (degree[user] * degree[item]) ** -0.5
    torch.testing.assert_close(graph, expected, atol=1e-6, rtol=1e-6)


def test_the_stub_does_not_pretend_that_kmeans_is_installed():
    compat.apply()
    assert "kmeans_pytorch" not in sys.modules
    from recbole.model.general_recommender import ldiffrec

    with pytest.raises(ModuleNotFoundError, match="LDiffRec needs the package kmeans_pytorch"):
        ldiffrec.kmeans()


def test_importing_sequential_models_leaves_anomaly_detection_off():
    compat.apply()
    import recbole.model.sequential_recommender  # noqa: F401

    assert not torch.is_anomaly_enabled()


def test_training_writes_nothing_into_the_working_directory(built, tmp_path, monkeypatch):
    from llmbole.trainer.trainer import Trainer

    there = tmp_path / "cwd"
    there.mkdir()
    monkeypatch.chdir(there)
    parts = built("BPR", epochs=1, embedding_size=4)
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        Trainer(parts.config, parts.model, workspace=tmp_path / "work").fit(parts.train, parts.valid)
    assert list(there.iterdir()) == []


def test_importing_recbole_side_modules_does_not_import_ray():
    code = "import llmbole.trainer.trainer, llmbole.model.cf, sys; raise SystemExit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=120).returncode == 0
