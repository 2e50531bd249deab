"""How difficult a sample is: how often networks that never saw it get it right."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pullback.batches import tracked
from pullback.errors import InputError
from pullback.unfinished import Unfinished

Predictor = Callable[[Tensor], Int[Tensor, " m"]]
Fit = Callable[[Tensor, Tensor, int], Predictor]
"""From inputs, labels and a seed to a function that names the classes of other inputs."""


@dataclass(frozen=True, eq=False)
class ConsistencyScores:
    """C-scores of samples, estimated from subsets. Made by `consistency_scores`.

    Attributes:
        right: of each sample, how often it was named right, for each subset size, shape (s, n).
        held_out: how often it was held out, shape (s, n).
        sizes: of the subsets, shape (s,).
    """

    right: Int[Tensor, "s n"]
    held_out: Int[Tensor, "s n"]
    sizes: tuple[int, ...]

    @property
    def profile(self) -> Float[Tensor, "s n"]:
        """The probability of being named right, by subset size; NaN for never held out."""
        return self.right / self.held_out

    @property
    def scores(self) -> Float[Tensor, " n"]:
        """The mean of the profile over sizes, in [0, 1]: high for easy samples.

        Sizes at which a sample was never held out are left out; NaN where that is all.
        """
        return self.profile.nanmean(0)

    @property
    def stderr(self) -> Float[Tensor, " n"]:
        """The standard error of each score, by the binomial variance with one more of each kind."""
        share = (self.right + 1) / (self.held_out + 2)
        variance = torch.where(self.held_out > 0, share * (1 - share) / self.held_out, torch.nan)
        known = (self.held_out > 0).sum(0)
        return variance.nansum(0).sqrt() / known

    def groups(self, count: int = 10) -> list[Int[Tensor, " m"]]:
        """The samples in so many groups of equal size, from the most difficult to the easiest.

        Raises:
            InputError: there are fewer samples with a score.
        """
        known = (~self.scores.isnan()).nonzero().squeeze(1)
        if not 1 <= count <= len(known):
            raise InputError(f"count: {count} groups of {len(known)} samples with a score")
        order = known[self.scores[known].argsort(stable=True)]
        return [group.sort()[0] for group in order.tensor_split(count)]


def consistency_scores(
    inputs: Float[Tensor, "n ..."],
    labels: Int[Tensor, " n"],
    fit: Fit,
    sizes: Sequence[int],
    repeats: int = 10,
    seed: int = 0,
    progress: bool | None = None,
    checkpoint: str | Path | None = None,
) -> ConsistencyScores:
    """Train on random subsets, and count how often each sample that was held out is named right.

    Args:
        inputs: all samples.
        labels: their classes.
        fit: trains on a subset: `fit(inputs, labels, seed)` returns a function that names classes.
        sizes: how many samples a subset has, each size in turn.
        repeats: subsets of each size.
        seed: of the subsets; the fits get seeds of their own that follow from it.
        progress: whether to show a progress bar; None shows one on a terminal.
        checkpoint: a file (.safetensors) that keeps the counts after every fit; the same call goes
            on with it after an interruption, and returns what it holds when it is complete.

    Raises:
        InputError: lengths that differ, a size that leaves nothing out, fewer than one repeat, or a
            checkpoint that cannot be used or is of another call.

    Source:
        Jiang et al. 2021; George 2023, eq. 5.3.2.

    Example:
        >>> import torch
        >>> from pullback.linear import consistency_scores
        >>> x = torch.cat([torch.zeros(10, 1), torch.ones(10, 1)])
        >>> y = (x[:, 0] > 0.5).long()
        >>> y[0] = 1  # a wrong label
        >>> def fit(inputs, labels, seed):
        ...     means = torch.stack([inputs[labels == k].mean(0) for k in (0, 1)])
        ...     return lambda new: torch.cdist(new, means).argmin(1)
        >>> found = consistency_scores(x, y, fit, sizes=[14], repeats=20)
        >>> found.scores[0], found.scores[1:].min()
        (tensor(0.), tensor(1.))
    """
    total = len(inputs)
    if labels.shape != (total,):
        raise InputError(f"labels: {len(labels)} for {total} inputs")
    if repeats < 1 or not sizes or not all(1 <= size < total for size in sizes):
        raise InputError(
            f"sizes, repeats: {tuple(sizes)}, {repeats}; give sizes from 1 to {total - 1}, which "
            "leave something out, and at least one repeat"
        )
    kept = Unfinished(
        checkpoint,
        {"sizes": list(sizes), "repeats": repeats, "seed": seed, "data": _digest(inputs, labels)},
    )
    nothing = torch.zeros(len(sizes), total, dtype=torch.long)
    counts = kept.begin({"right": nothing, "held_out": nothing.clone(), "fits": torch.tensor(0)})
    work = [(place, repeat) for place in range(len(sizes)) for repeat in range(repeats)]
    left = work[int(counts["fits"]) :]
    for place, repeat in tracked(left, "C-scores", len(left), progress):
        number = seed * len(work) + place * repeats + repeat
        away = _left_out(total, sizes[place], number)
        named = fit(inputs[~away], labels[~away], number)(inputs[away])
        counts["held_out"][place, away] += 1
        counts["right"][place, away] += (named == labels[away]).long().cpu()
        counts["fits"] += 1
        kept.write(counts)
    return ConsistencyScores(counts["right"], counts["held_out"], tuple(sizes))


def _digest(*data: Tensor) -> str:
    """What tells these data from all others."""
    found = hashlib.sha256()
    for tensor in data:
        found.update(
            tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        )
    return found.hexdigest()


def _left_out(total: int, size: int, seed: int) -> Bool[Tensor, " n"]:
    chosen = torch.randperm(total, generator=torch.Generator().manual_seed(seed))[:size]
    away = torch.ones(total, dtype=torch.bool)
    away[chosen] = False
    return away
