"""A sweep: the whole data set on the tape, cut into pieces that fit the working memory.

    for step in sweep.steps("diagonal"):
        for part in step.parts():
            ... part.diagonal ...

Every structured quantity is such a loop. A `Part` is the contribution of parameters that belong
together because they are used together; where a parameter is used more than once, its gradient is
the sum over its uses, which only the per-sample form can express.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from pullback.batches import Batch, Batches, after, joined, tracked, working_memory
from pullback.cotangents import CotangentSource
from pullback.network import Network, undisturbed
from pullback.tape import use as contractions
from pullback.tape.record import Plan, Tape, inspect
from pullback.tape.use import Gradients, Unforeseen, Use, connected

T = TypeVar("T")


@dataclass(frozen=True)
class Part:
    """All uses, in one piece of the data, of parameters that are used together.

    Attributes:
        samples: how many samples n the piece has.
    """

    uses: tuple[Use, ...]
    gradients: tuple[Gradients, ...]
    samples: int

    @property
    def shape(self) -> tuple[int, int]:
        """The number of cotangents k and of samples n."""
        return len(self.gradients[0]), self.samples

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The parameters concerned."""
        return tuple(dict.fromkeys(name for use in self.uses for name in use.names))

    @cached_property
    def per_sample(self) -> dict[str, Float[Tensor, "k n *shape"]]:
        """The gradient of each sample and cotangent, summed over uses."""
        total: dict[str, Tensor] = {}
        for use, g in zip(self.uses, self.gradients, strict=True):
            for name, value in use.per_sample(g).items():
                total[name] = total[name] + value if name in total else value
        return total

    def write_rows(self, out: Float[Tensor, "k n d"], places: Mapping[str, slice]) -> None:
        """Write the gradients into rows, at the places of parameters that have one."""
        if len(self.uses) == 1:
            self.uses[0].write_rows(self.gradients[0], out, places)
        else:
            contractions.write_rows(self.per_sample, out, places)

    @cached_property
    def diagonal(self) -> dict[str, Tensor]:
        """Squared gradients, summed over samples and cotangents, by parameter."""
        if len(self.uses) == 1:
            return self.uses[0].diagonal(self.gradients[0])
        return contractions.diagonal(self.per_sample)

    def total(self) -> dict[str, Tensor]:
        """The gradients summed over samples and cotangents, by parameter."""
        total: dict[str, Tensor] = {}
        for use, g in zip(self.uses, self.gradients, strict=True):
            for name, value in use.total(g).items():
                total[name] = total[name] + value if name in total else value
        return total

    def squared_norm(self) -> Float[Tensor, " n"]:
        """The squared norm of each sample's gradient, summed over cotangents."""
        if len(self.uses) == 1:
            return self.uses[0].squared_norm(self.gradients[0])
        return contractions.squared_norm(self.per_sample)

    def squared_norms(self) -> Float[Tensor, "k n"]:
        """The squared norm of each sample's gradient, for each cotangent."""
        apart = [tuple(g[k : k + 1] for g in self.gradients) for k in range(self.shape[0])]
        return torch.stack([replace(self, gradients=one).squared_norm() for one in apart])


@dataclass(frozen=True)
class Step:
    """A piece of the data with some of its cotangents.

    Attributes:
        groups: the places of uses of parameters that belong together.
        start: the position of the piece's first sample in the data.
        piece: the samples.
        cotangents: which of the cotangents.
        last: whether there are no more of them for this piece.
    """

    uses: list[Use]
    gradients: list[Gradients]
    groups: list[list[int]]
    start: int
    piece: Batch
    cotangents: slice
    last: bool

    @property
    def samples(self) -> int:
        """How many samples n the piece has."""
        return len(self.piece)

    @property
    def fresh(self) -> bool:
        """Whether these are the piece's first cotangents, so that its inputs are new."""
        return self.cotangents.start == 0

    def parts(self) -> Iterator[Part]:
        """The contributions of parameters that belong together."""
        for members in self.groups:
            uses = tuple(self.uses[m] for m in members)
            yield Part(uses, tuple(self.gradients[m] for m in members), self.samples)


@dataclass
class Sweep:
    """Passes of a source of cotangents over a data set.

    Args:
        network: the function.
        batches: the data.
        source: which cotangents.
        memory: bytes for intermediate results, None for a default.
        progress: whether to show a bar; None shows one on a terminal.

    Attributes:
        samples: how many samples the last pass has seen.
    """

    network: Network
    batches: Batches
    source: CotangentSource
    memory: int | None = None
    progress: bool | None = None
    samples: int = field(default=0, init=False)

    @cached_property
    def plan(self) -> Plan:
        """How each parameter's gradients are computed, from a look at the first batch."""
        with undisturbed():
            return inspect(self.network, next(iter(self.batches)))

    @property
    def expected(self) -> int:
        """How many gradients a pass makes if all batches are as large as the first."""
        plan = self.plan
        return (self.batches.count or 1) * plan.samples * self.source.count(plan.outputs)

    def settled(self, build: Callable[[], T]) -> T:
        """The result of `build`, which is started anew when a batch shows the plan to be wrong.

        A module may use a parameter in one batch as it did not in the first.
        """
        while True:
            try:
                return build()
            except Unforeseen as found:
                batch = next(iter(self.batches)) if found.batch is None else found.batch
                known = {**self.plan.reasons, **found.reasons}
                with undisturbed():
                    vmapped = self.plan.vmapped and found.vmapped
                    self.plan = inspect(self.network, batch, known, vmapped)

    def steps(
        self,
        description: str,
        rows: int = 0,
        squares: Collection[str] = (),
        once: Collection[str] = (),
        first: int = 0,
        touched: int = 0,
        unasked: Collection[str] = (),
    ) -> Iterator[Step]:
        """One pass over the data.

        Args:
            description: the name of the stage, for the progress bar.
            rows: numbers that the caller keeps for each sample and cotangent of a step.
            squares: parameters of which squared norms and diagonals are all that is asked.
            once: parameters of which the inputs are asked for with the first cotangents alone.
            first: how many samples to leave out at the beginning.
            touched: bytes that the caller reads and writes for each step, whatever its size.
            unasked: parameters of which the inputs are not asked for.
        """
        plan, source = self.plan, self.source
        network = self.network.arranged()
        memory = working_memory(self.memory, network.device, touched)
        draws = source.open(first)
        self.samples = first
        itemsize, cotangents = network.space.dtype.itemsize, source.count(plan.outputs)
        most, at_once = plan.capacity(cotangents, memory, itemsize, rows, once, unasked)
        with undisturbed():
            # Half of what fits stays nearer to the caches.
            for batch in joined(after(self.tracked(description), first), most // 2):
                pieces = -(-len(batch) // most)
                for piece in batch.split(-(-len(batch) // pieces)):  # equal: a small one is slow
                    tape = Tape(network, piece, plan)
                    drawn = draws.next(tape.outputs, piece.targets)
                    for use in tape.uses:
                        use.cotangents = len(drawn)
                    self.samples += len(piece)
                    start = self.samples - len(piece)
                    groups = connected(tape.uses)
                    squared = _squarable(tape.uses, groups, squares)
                    for some in range(0, len(drawn), at_once):
                        chosen = slice(some, min(some + at_once, len(drawn)))
                        gradients = tape.gradients(drawn.part(chosen.start, chosen.stop), squared)
                        last = chosen.stop == len(drawn)
                        yield Step(tape.uses, gradients, groups, start, piece, chosen, last)

    def squared_norms(self, description: str) -> Float[Tensor, "k n"]:
        """The squared norm of each sample's gradient for each cotangent, in double precision."""
        pieces: list[Tensor] = []
        own: list[Tensor] = []
        for step in self.steps(description):
            shape = step.cotangents.stop - step.cotangents.start, step.samples
            norms = torch.zeros(shape, dtype=torch.float64, device=self.network.device)
            for part in step.parts():
                norms += part.squared_norms()
            own.append(norms)
            if step.last:
                pieces.append(torch.cat(own))
                own = []
        return torch.cat(pieces, 1)

    def tracked(self, description: str) -> Iterator[Batch]:
        """The batches, with a progress bar."""
        return tracked(self.batches, description, self.batches.count, self.progress)

    def whole_batches(self, description: str) -> Iterator[Batch]:
        """The batches with small ones joined, for one forward and one backward pass each."""
        memory = working_memory(self.memory, self.network.device)
        most, _ = self.plan.capacity(1, memory, self.network.space.dtype.itemsize)
        return joined(self.tracked(description), most // 2)


def _squarable(
    uses: Sequence[Use], groups: Sequence[Sequence[int]], names: Collection[str]
) -> set[int]:
    """The places of uses, of parameters among those named, that need no more than squares."""
    if not names:
        return set()
    alone = {members[0] for members in groups if len(members) == 1}
    return {
        place for place in alone if uses[place].factorises and set(uses[place].names) <= set(names)
    }
