"""Probes in a Lightning training. Needs Lightning: `pip install "pullback[lightning]"`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch import nn

from pullback.probes.recorder import Probe, Record, Recorder

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
    from lightning.pytorch.loggers import Logger
except ImportError as error:
    raise ImportError(
        'pullback.probes.lightning needs Lightning: pip install "pullback[lightning]"'
    ) from error


class RecorderCallback(Callback):
    """Ask probes at chosen steps of a Lightning training, and keep their answers.

    The training stays as it was, bit for bit. Numbers go to all loggers of the trainer, and the
    records into its checkpoints: a run that is resumed goes on with them. Where several processes
    train, the first one measures. Strategies that shard the parameters are not supported, for a
    probe needs all of them.

    Args:
        probes: what to ask.
        at: the steps, counted in updates (`trainer.global_step`); 0 is before the first.
        network: which part of the Lightning module is measured; by default all of it.

    Attributes:
        records: what was measured, a plain dictionary for each step, as `Recorder.records` has it.

    Raises:
        InputError: two probes have the same name; or a measured number is not finite.

    Example:
        >>> import torch
        >>> from lightning.pytorch import LightningModule, Trainer
        >>> from pullback.probes import Loss, series
        >>> from pullback.probes.lightning import RecorderCallback
        >>> class Classifier(LightningModule):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.network = torch.nn.Linear(4, 3)
        ...     def training_step(self, batch):
        ...         return torch.nn.functional.cross_entropy(self.network(batch[0]), batch[1])
        ...     def configure_optimizers(self):
        ...         return torch.optim.SGD(self.parameters(), lr=0.1)
        >>> x, y = torch.randn(8, 4), torch.zeros(8, dtype=torch.long)
        >>> recorder = RecorderCallback(
        ...     [Loss({"train": (x, y)})], at=(0, 5), network=lambda module: module.network
        ... )
        >>> trainer = Trainer(max_steps=5, callbacks=[recorder])  # doctest: +SKIP
        >>> trainer.fit(Classifier(), [(x, y)])                   # doctest: +SKIP
        >>> series(recorder.records, "loss", "train", "loss")     # doctest: +SKIP
        ([0, 5], [1.62, 1.13])
    """

    def __init__(
        self,
        probes: Sequence[Probe],
        at: Iterable[int],
        network: Callable[[Any], nn.Module] | None = None,
    ) -> None:
        self.records: list[Record] = []
        self._probes, self._at, self._network = tuple(probes), tuple(at), network
        self._recorder: Recorder | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure before the first update."""
        if not trainer.is_global_zero:
            return
        measured = pl_module if self._network is None else self._network(pl_module)
        writer = _Loggers(trainer.loggers)
        self._recorder = Recorder(measured, self._probes, self._at, self.records, writer)
        self.records = self._recorder.records
        self._recorder(trainer.global_step)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
    ) -> None:
        """Measure after an update at one of the chosen steps."""
        if self._recorder is not None:
            self._recorder(trainer.global_step)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"records": self.records}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the records of a checkpoint."""
        self.records = state_dict["records"]


class _Loggers:
    """All loggers of a trainer, as what a recorder writes to."""

    def __init__(self, loggers: Sequence[Logger]) -> None:
        self.loggers = loggers

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
        for logger in self.loggers:
            logger.log_metrics({tag: scalar_value}, step=global_step)
