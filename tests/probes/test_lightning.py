"""Probes in a real Lightning training, and numbers in real TensorBoard files."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.tensorboard import SummaryWriter

from pullback import data
from pullback.errors import InputError
from pullback.probes import EffectiveRank, KernelSample, Loss, ParameterDistance, Probe, Recorder
from pullback.probes.lightning import RecorderCallback

AT = (0, 2, 5, 9)
IMAGES = data.load("digits", samples=60)
X, Y = IMAGES.inputs.flatten(1), IMAGES.labels
LOADER = DataLoader(TensorDataset(X, Y), batch_size=20)

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*smaller than the logging interval"),
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec"),
]


class Classifier(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.network = nn.Sequential(nn.Linear(64, 8), nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, 10))

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        return F.cross_entropy(self.network(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


def probes(module: Classifier) -> list[Probe]:
    return [
        Loss({"train": (X, Y)}),
        ParameterDistance(module.network),
        EffectiveRank(KernelSample(X[:10], Y[:10])),
    ]


def trainer(folder: Path, *callbacks: object, **settings: object) -> Trainer:
    given = {"max_steps": 9, "logger": False, "enable_checkpointing": False, **settings}
    return Trainer(
        default_root_dir=folder, callbacks=list(callbacks), accelerator="cpu",
        enable_progress_bar=False, enable_model_summary=False, **given,
    )  # fmt: skip


def without_times(records: list) -> list:
    return [{key: one for key, one in record.items() if key != "seconds"} for record in records]


def of_a_plain_loop() -> tuple[list, dict[str, Tensor]]:
    module = Classifier()
    recorder = Recorder(module.network, probes(module), AT)
    optimiser = module.configure_optimizers()
    torch.manual_seed(1)
    recorder(0)
    for step, (x, y) in enumerate((batch for _ in range(3) for batch in LOADER), start=1):
        optimiser.zero_grad()
        F.cross_entropy(module.network(x), y).backward()
        optimiser.step()
        recorder(step)
    return without_times(recorder.records), module.network.state_dict()


def in_lightning(folder: Path, **settings: object) -> tuple[list, dict[str, Tensor]]:
    module = Classifier()
    recorder = RecorderCallback(probes(module), AT, network=lambda module: module.network)
    fit = trainer(folder, recorder, **settings)
    torch.manual_seed(1)
    fit.fit(module, LOADER)
    return without_times(recorder.records), module.network.state_dict()


def test_it_measures_what_a_plain_loop_does(tmp_path: Path) -> None:
    found, _ = in_lightning(tmp_path)
    expected, _ = of_a_plain_loop()
    assert [record["step"] for record in found] == list(AT)
    assert found == expected


def test_the_training_does_not_notice_it(tmp_path: Path) -> None:
    _, watched = in_lightning(tmp_path)
    module = Classifier()
    torch.manual_seed(1)
    trainer(tmp_path).fit(module, LOADER)
    for name, value in module.network.state_dict().items():
        assert torch.equal(value, watched[name])


def test_a_checkpoint_keeps_the_records(tmp_path: Path) -> None:
    module = Classifier()
    recorder = RecorderCallback(probes(module), AT, network=lambda module: module.network)
    keep = ModelCheckpoint(tmp_path, filename="at-six", save_last=False, every_n_train_steps=6)
    torch.manual_seed(1)
    trainer(tmp_path, recorder, keep, max_steps=6, enable_checkpointing=True).fit(module, LOADER)
    first = copy.deepcopy(recorder.records)
    assert [record["step"] for record in first] == [0, 2, 5]

    again = Classifier()
    resumed = RecorderCallback(probes(again), AT, network=lambda module: module.network)
    trainer(tmp_path, resumed).fit(again, LOADER, ckpt_path=str(tmp_path / "at-six.ckpt"))
    assert resumed.records[:3] == first
    assert [record["step"] for record in resumed.records] == list(AT)


def test_numbers_go_to_all_loggers(tmp_path: Path) -> None:
    board = TensorBoardLogger(tmp_path, name="board")
    table = CSVLogger(tmp_path, name="table", flush_logs_every_n_steps=1)
    found, _ = in_lightning(tmp_path, logger=[board, table])
    assert scalars(Path(board.log_dir), "loss/train/loss") == pytest.approx(
        {record["step"]: record["loss"]["train"]["loss"] for record in found}, rel=1e-6
    )
    assert "distance/l2" in (Path(table.log_dir) / "metrics.csv").read_text().splitlines()[0]


def test_accumulated_gradients_count_updates(tmp_path: Path) -> None:
    found, _ = in_lightning(tmp_path, accumulate_grad_batches=3, max_steps=5)
    assert [record["step"] for record in found] == [0, 2, 5]


def test_two_probes_of_one_name_are_refused(tmp_path: Path) -> None:
    twice = RecorderCallback([Loss({"train": (X, Y)}), Loss({"train": (X, Y)})], AT)
    with pytest.raises(InputError, match="two have the same name"):
        trainer(tmp_path, twice).fit(Classifier(), LOADER)


def test_tensorboard_reads_what_a_recorder_wrote(tmp_path: Path) -> None:
    module = Classifier()
    with SummaryWriter(str(tmp_path)) as writer:
        recorder = Recorder(module.network, probes(module), AT, writer=writer)
        for step in AT:
            recorder(step)
    steps, ranks = recorder.series("effective_rank", "all")
    assert scalars(tmp_path, "effective_rank/all") == pytest.approx(
        dict(zip(steps, ranks, strict=True)), rel=1e-6
    )


def test_without_lightning_the_remedy_is_named() -> None:
    code = "import sys; sys.modules['lightning'] = None; import pullback.probes.lightning"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert 'pip install "pullback[lightning]"' in ended.stderr.splitlines()[-1]


def scalars(folder: Path, tag: str) -> dict[int, float]:
    events = EventAccumulator(str(folder)).Reload()
    return {event.step: event.value for event in events.Scalars(tag)}
