"""Several processes that work on one run, as torchrun and accelerate start them: each takes its rows of every batch.

Light until it is used: a run of one process imports nothing here.
"""

from __future__ import annotations

import atexit
import datetime
import os
from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

# The others wait while the first trains a backbone or makes a split, which may take days.
PATIENCE = datetime.timedelta(days=30)


class Processes:
    """All processes of a run; this class is the usual case, that there is one.

    Attributes:
        rank: Number of this process, from 0; the first one writes what is kept.
        size: How many there are.
    """

    rank: int = 0
    size: int = 1

    def same(self, value: object) -> Any:  # noqa: ANN401 - any small value
        """What the first process has, in all of them; each waits until all are here."""
        return value

    def part(self, rows: Tensor) -> Tensor:
        """This process's rows, in order: `[R]` to `[r]`; each row is in exactly one process, and some may have none."""
        return rows.tensor_split(self.size)[self.rank]

    def gather(self, values: Tensor, rows: int) -> Tensor:
        """Values of all rows, `[rows]`, from those of each process's `part`, `[r]`."""
        return values

    def sums(self, *values: float) -> list[float]:
        """Each number, summed over the processes."""
        return list(values)

    def add_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Give every process the sum of all gradients; a parameter that got none anywhere keeps none."""

    def share_statistics(self, module: nn.Module) -> None:
        """Give every process the first one's running statistics of batch normalisation."""

    def seed_step(self, seed: int, step: int) -> None:
        """Let dropout draw for this process and step alone, so that rows of two processes do not share a draw."""


ALONE = Processes()


class Several(Processes):
    """Processes that talk through torch.distributed: NCCL between GPUs, gloo between CPUs.

    Args:
        device: Where this process computes.
    """

    def __init__(self, device: torch.device) -> None:
        from accelerate import PartialState

        state = PartialState(cpu=device.type == "cpu", timeout=PATIENCE)
        self.rank, self.size, self._device = state.process_index, state.num_processes, state.device
        atexit.register(state.destroy_process_group)

    def same(self, value: object) -> Any:  # noqa: ANN401 - any small value
        """What the first process has, in all of them; each waits until all are here."""
        from accelerate.utils import broadcast_object_list

        return broadcast_object_list([value])[0]

    def gather(self, values: Tensor, rows: int) -> Tensor:
        """Values of all rows, `[rows]`, from those of each process's `part`, `[r]`."""
        import torch
        from accelerate.utils import gather

        counts = [len(part) for part in torch.arange(rows).tensor_split(self.size)]
        if len(values) != counts[self.rank]:
            raise ValueError(f"process {self.rank} has {len(values)} of {rows} rows, not {counts[self.rank]}")
        padded = values.new_zeros(max(counts))
        padded[: len(values)] = values
        together = gather(padded.to(self._device)).view(self.size, -1).to(values.device)  # [P, r]
        return torch.cat([line[:count] for line, count in zip(together, counts, strict=True)])

    def sums(self, *values: float) -> list[float]:
        """Each number, summed over the processes."""
        import torch

        total: list[float] = self._sum(torch.tensor(values, dtype=torch.float64)).tolist()
        return total

    def add_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Give every process the sum of all gradients; a parameter that got none anywhere keeps none."""
        import torch

        wanted = [parameter for parameter in parameters if parameter.requires_grad]
        reached = self.sums(*[float(parameter.grad is not None) for parameter in wanted])
        learning = [parameter for parameter, count in zip(wanted, reached, strict=True) if count]
        if not learning:
            return
        own = [torch.zeros_like(each) if each.grad is None else each.grad for each in learning]
        total = self._sum(torch.cat([gradient.float().flatten() for gradient in own]))  # one message
        for parameter, gradient in zip(
            learning, total.split([each.numel() for each in learning]), strict=True
        ):
            parameter.grad = gradient.view_as(parameter).to(parameter)

    def share_statistics(self, module: nn.Module) -> None:
        """Give every process the first one's running statistics of batch normalisation."""
        from accelerate.utils import broadcast
        from torch import nn

        for layer in module.modules():
            if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
                for buffer in layer.buffers():
                    buffer.copy_(broadcast(buffer.to(self._device)))

    def seed_step(self, seed: int, step: int) -> None:
        """Let dropout draw for this process and step alone, so that rows of two processes do not share a draw."""
        import torch

        torch.manual_seed((seed * 1_000_003 + step) * self.size + self.rank)

    def _sum(self, values: Tensor) -> Tensor:
        from accelerate.utils import reduce

        total: Tensor = reduce(values.to(self._device), "sum")
        return total.to(values.device)


def started() -> int:
    """How many processes a launcher started for this run; 1 if none did."""
    return int(os.environ.get("WORLD_SIZE", 1)) if "RANK" in os.environ else 1


def is_first() -> bool:
    """Whether this process is the only one or the first, told without importing torch."""
    return started() == 1 or os.environ["RANK"] == "0"


@cache
def opened(device: torch.device) -> Processes:
    """The processes of this run, connected when several were started.

    Args:
        device: The run's; with several GPUs each process then has one of its own.

    Returns:
        One or several processes.
    """
    return ALONE if started() == 1 else Several(device)
