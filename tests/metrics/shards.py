"""Run by torchrun: each process gives a shard of the data; the first writes what all of them got.

shards.py FOLDER
"""

from __future__ import annotations

import sys

import torch
import torch.distributed as distributed

import pullback as pb
from tests.metrics.test_distributed import JOINED, MEASURED, data, model


def main(folder: str) -> None:
    distributed.init_process_group("gloo")
    rank, group = distributed.get_rank(), distributed.group.WORLD
    x, y = data()
    cuts = [0, 4, len(x)]  # unequal shards
    mine = slice(cuts[rank], cuts[rank + 1])
    found = {}
    for representation, estimator in MEASURED:
        metric = pb.fisher(
            model(), (x[mine], y[mine]), "categorical", representation, estimator, group=group
        )
        found[f"{representation} {estimator}"] = (metric.to_dense(), metric.origin.samples)
    joined = pb.fisher(
        model(), (x[mine], y[mine]), representation="block", group=group, groups=JOINED
    )
    found["joined"] = (joined.to_dense(), joined.origin.samples)
    everyone = [None] * distributed.get_world_size()
    distributed.all_gather_object(everyone, found)
    if rank == 0:
        torch.save(everyone, f"{folder}/found.pt")
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
