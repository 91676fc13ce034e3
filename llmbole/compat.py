"""The only file that patches foreign code: each patch with reason, version bound, and a test.

The test of a patch fails once upstream no longer needs it.

`apply()` may be called any number of times. It imports RecBole, patches what is broken or unwanted, and leaves numpy
itself as it is: RecBole's modules that read names numpy dropped see a view of numpy that still has them.

Not patched, on purpose: `torch.load` (the trainer of this project keeps its own checkpoints), and RecBole's quick start
(it imports Ray at the top; nothing here imports it).
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import Any

logger = logging.getLogger(__name__)

NUMPY_READERS = (
    "recbole.data.interaction",
    "recbole.data.dataset.dataset",
    "recbole.evaluator.metrics",
    "recbole.model.layers",
    "recbole.model.abstract_recommender",
    "recbole.model.context_aware_recommender.ffm",
)


@dataclass(frozen=True)
class Patch:
    """One change of foreign code.

    Attributes:
        name: Short name, the key of its test.
        reason: What happens without it.
        bound: From which version of which library on it is needed.
        change: Makes the change; harmless when repeated.
    """

    name: str
    reason: str
    bound: str
    change: Callable[[], None]


class _NumpyView(ModuleType):
    """numpy with a few names that it dropped; everything else is numpy's own."""

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - a module's attributes are of any type
        return getattr(importlib.import_module("numpy"), name)


class NoTensorboard:
    """Stands where RecBole's trainer keeps a TensorBoard writer, and writes nothing."""

    def add_scalar(self, *arguments: object, **named: object) -> None:
        """Ignore one logged number."""

    def add_hparams(self, *arguments: object, **named: object) -> None:
        """Ignore the logged hyperparameters."""


def _numpy_names() -> None:
    import numpy

    view = _NumpyView("numpy")
    vars(view).update(float=numpy.float64, bool=numpy.bool_, long=numpy.int_)
    for name in NUMPY_READERS:
        vars(importlib.import_module(name))["np"] = view


def _config_numpy_aliases() -> None:
    from recbole.config import Config

    Config.compatibility_settings = lambda self: None


def _dok_update() -> None:
    from scipy.sparse import dok_matrix

    if not hasattr(dok_matrix, "_update"):
        dok_matrix._update = lambda self, entries: self._dict.update(entries)


def _kmeans_stub() -> None:
    if importlib.util.find_spec("kmeans_pytorch") is not None:
        return

    def kmeans(*arguments: object, **named: object) -> None:
        raise ModuleNotFoundError(
            "RecBole's LDiffRec needs the package kmeans_pytorch; install it", name="kmeans_pytorch"
        )

    stub = ModuleType("kmeans_pytorch")
    vars(stub)["kmeans"] = kmeans
    sys.modules["kmeans_pytorch"] = stub
    try:
        importlib.import_module("recbole.model.general_recommender")
    finally:
        del sys.modules["kmeans_pytorch"]


def _anomaly_detection() -> None:
    import torch

    wanted = torch.is_anomaly_enabled()
    importlib.import_module("recbole.model.sequential_recommender")
    torch.autograd.set_detect_anomaly(wanted)


def _tensorboard() -> None:
    from recbole.trainer import trainer

    trainer.get_tensorboard = lambda _logger: NoTensorboard()


def _gradient_scaler() -> None:
    import torch

    from recbole.trainer import trainer

    def scaler(enabled: bool = True) -> torch.amp.GradScaler:
        return torch.amp.GradScaler("cuda", enabled=enabled)

    def autocast(enabled: bool = True) -> torch.autocast:
        return torch.autocast("cuda", enabled=enabled and torch.cuda.is_available())

    trainer.amp = SimpleNamespace(GradScaler=scaler, autocast=autocast)


def _chained_fillna() -> None:
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"recbole\.data\.dataset\.dataset")


def _sparse_tensor() -> None:
    warnings.filterwarnings("ignore", message=r"torch\.sparse\.SparseTensor", category=UserWarning)


PATCHES = (
    Patch(
        "numpy_names",
        "RecBole's metrics, datasets and embedding layers read np.float, np.bool and np.long: AttributeError",
        "numpy >= 1.24 with RecBole <= 1.2.1",
        _numpy_names,
    ),
    Patch(
        "config_numpy_aliases",
        "making a RecBole Config writes np.float_ and other removed names back into numpy: AttributeError",
        "numpy >= 2.0 with RecBole <= 1.2.1",
        _config_numpy_aliases,
    ),
    Patch(
        "dok_update",
        "LightGCN, NGCF, NCL, SpectralCF, GCMC, KGIN, MCCLK fill their graph with dok_matrix._update: AttributeError",
        "scipy >= 1.13 with RecBole <= 1.2.1",
        _dok_update,
    ),
    Patch(
        "kmeans_stub",
        "importing any RecBole model imports LDiffRec, which imports kmeans_pytorch at the top: ModuleNotFoundError",
        "RecBole 1.2.0 to 1.2.1 without kmeans_pytorch",
        _kmeans_stub,
    ),
    Patch(
        "anomaly_detection",
        "importing RecBole's sequential models turns on torch's anomaly detection, which slows training many times",
        "RecBole <= 1.2.1",
        _anomaly_detection,
    ),
    Patch(
        "tensorboard",
        "every RecBole trainer opens a TensorBoard file in log_tensorboard/ of the working directory",
        "RecBole <= 1.2.1",
        _tensorboard,
    ),
    Patch(
        "gradient_scaler",
        "RecBole's trainer makes a torch.cuda.amp.GradScaler each epoch: FutureWarning, later an error",
        "torch >= 2.4 with RecBole <= 1.2.1",
        _gradient_scaler,
    ),
    Patch(
        "chained_fillna",
        "RecBole's chained fillna(inplace=True) works below pandas 3, which is required, but warns once per column",
        "pandas >= 2.2 and < 3 with RecBole <= 1.2.1",
        _chained_fillna,
    ),
    Patch(
        "sparse_tensor",
        "RecBole's graph models make their graph with torch.sparse.FloatTensor, which works and warns",
        "torch >= 2.0 with RecBole <= 1.2.1",
        _sparse_tensor,
    ),
)


_applied: list[str] = []


def apply() -> None:
    """Apply every patch once; further calls do nothing."""
    for patch in PATCHES:
        if patch.name not in _applied:
            patch.change()
            _applied.append(patch.name)
            logger.debug("patched %s (%s): %s", patch.name, patch.bound, patch.reason)
