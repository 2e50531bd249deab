"""Recording: run the module once, keep each use of a parameter, then pull cotangents back.

The module is called with detached parameters under a `TorchFunctionMode`, which sees every
operation that takes one, whatever module it came from. Its input is kept and its output enters the
autograd graph; the weights never require a gradient, so a backward pass computes input gradients
and nothing else, and the user's module is not touched. Tied weights and modules called twice are
simply two uses of one parameter.

The structured rules trust that dimension 0 of what they see is the sample. `inspect` finds out
where that holds, by running a few samples in two batch sizes; parameters used elsewhere take the
generic way, and a module whose samples depend on each other is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeGuard

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils import _pytree as pytree

from pullback.batches import Batch
from pullback.errors import InputError
from pullback.network import Network, agree_but_for_rounding, check_finite_outputs
from pullback.tape.affine import AffineLayout, AffineUse
from pullback.tape.generic import GenericUse, can_vmap
from pullback.tape.placement import Placement, in_front, placements
from pullback.tape.rules import COMPOSED, RULES, interference
from pullback.tape.use import Gradients, Squares, Unforeseen, Use, connected

# So many samples show which dimension they are, and whether they stay in order.
ENOUGH_SAMPLES = 3
# A step takes fewer cotangents at a time rather than fewer samples than this.
FEWEST_SAMPLES = 64


class _Root(torch.autograd.Function):
    """Put a tensor into the graph without making it a leaf, which in-place operations refuse."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, anchor: Tensor) -> Tensor:
        ctx.mark_dirty(tensor)
        return tensor

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return None, None


class _Recorder(TorchFunctionMode):
    """Collects the uses of parameters while a module runs."""

    def __init__(
        self,
        tensors: dict[str, Tensor],
        samples: int,
        generic: Collection[str],
        placements: Mapping[str, Placement],
    ) -> None:
        super().__init__()
        self.placements = placements
        self.seen: list[tuple[str, torch.Size]] = []  # inputs whose samples may be anywhere
        self.names = {id(tensor): name for name, tensor in tensors.items()}
        self.samples = samples
        self.generic = set(generic)
        self.uses: list[Use] = []
        self.inputs: list[Tensor] = []  # of each use, with the samples in front
        self.edges: list[GradientEdge] = []  # where the gradient by each use's output passes
        self.shapes: list[torch.Size] = []  # of each use's output
        self.unruled: dict[str, str] = {}  # parameter: the operation that has no rule for it
        self._anchor = torch.zeros((), requires_grad=True)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        reason = interference(func, args, kwargs)
        if reason is not None:
            raise InputError(f"model: {reason}; call model.eval() first")
        if func in COMPOSED:
            with self:
                return COMPOSED[func](*args, **kwargs)
        result = func(*args, **kwargs)
        taken = self._taken((args, kwargs))
        if not taken or not torch.is_grad_enabled():
            return result
        covered = self._use(func, args, kwargs, result)
        if pytree.tree_any(lambda leaf: isinstance(leaf, Tensor), result):
            for name in taken - covered:
                self.unruled.setdefault(name, resolve_name(func) or str(func))
        return result

    def _taken(self, arguments: Any) -> set[str]:
        return {self.names[id(leaf)] for leaf in _leaves(arguments) if id(leaf) in self.names}

    def _use(
        self, func: Callable[..., Any], args: Any, kwargs: dict[str, Any], result: Any
    ) -> set[str]:
        """Record the call as a use if a rule covers it; the names it covers."""
        if func not in RULES:
            return set()
        site = RULES[func](*args, **kwargs)
        if site is None or id(site.samples) in self.names:
            return set()
        weight, bias = (self.names.get(id(part)) for part in (site.weight, site.bias))
        weight, bias = (None if name in self.generic else name for name in (weight, bias))
        named = weight or bias
        if named is None:
            return set()
        if site.moved is not None:
            self.seen.append((named, site.samples.shape))
            placement = self.placements.get(named, 0)
            if in_front(site.samples, placement, self.samples) is None:
                return set()
            if placement != 0:
                site = site.moved(partial(_moved, placement=placement, samples=self.samples))
        if len(site.samples) != self.samples:
            return set()
        if not result.requires_grad:
            _Root.apply(result, self._anchor)  # type: ignore[no-untyped-call]
        use = site.make(weight, bias)
        self.uses.append(use)
        self.inputs.append(site.samples)
        self.edges.append(get_gradient_edge(result))
        self.shapes.append(result.shape)
        return set(use.names)


def _moved(tensor: Tensor, placement: Placement, samples: int) -> Tensor:
    moved = in_front(tensor, placement, samples)
    assert moved is not None  # as for the input, so for the output
    return moved


def _leaves(arguments: Any) -> Iterator[Any]:
    """What the arguments of an operation consist of; several times quicker than pytree."""
    if isinstance(arguments, dict):
        arguments = arguments.values()
    elif not isinstance(arguments, list | tuple):
        yield arguments
        return
    for argument in arguments:
        yield from _leaves(argument)


@dataclass(frozen=True)
class Floats:
    """How many numbers a use of parameters keeps for one sample.

    Attributes:
        names: the parameters.
        inputs: numbers of what went in.
        gradients: numbers of what comes back, for each cotangent.
    """

    names: tuple[str, ...]
    inputs: int
    gradients: int


@dataclass(frozen=True)
class Plan:
    """What `inspect` found: how each parameter's gradients are computed.

    Attributes:
        samples: how many samples were looked at.
        ways: the way of each parameter; "unused" where no output depends on it.
        uses: how many uses with a rule each parameter has.
        generic: the parameters that take the generic way.
        reasons: for these, the operation that has no rule.
        placements: parameters of linear layers whose samples are not the first dimension, and where
            they are.
        vmapped: whether the generic way can take all samples at once.
        outputs: number of outputs c.
        affine: the weights, with their biases, that only affine operations use, and their layout.
        floats: what is kept for one sample, of each use.
    """

    samples: int
    ways: dict[str, str]
    uses: dict[str, int]
    generic: tuple[str, ...]
    reasons: dict[str, str]
    placements: dict[str, Placement]
    vmapped: bool
    outputs: int
    affine: dict[tuple[str, ...], AffineLayout]
    floats: tuple[Floats, ...]

    def capacity(
        self,
        cotangents: int,
        memory: int,
        itemsize: int,
        rows: int = 0,
        once: Collection[str] = (),
        unasked: Collection[str] = (),
    ) -> tuple[int, int]:
        """How many samples, with how many cotangents, the memory holds at a time.

        Args:
            cotangents: how many cotangents there are.
            memory: bytes.
            itemsize: bytes of a number.
            rows: further numbers that the caller keeps for each sample and cotangent.
            once: parameters of which the inputs are not kept for further cotangents.
            unasked: parameters of which the inputs are not written out at all.
        """
        written = [use for use in self.floats if not set(use.names) <= set(unasked)]
        kept = sum(use.inputs for use in written if not set(use.names) <= set(once))
        passing = max((use.inputs for use in written if set(use.names) <= set(once)), default=0)
        inputs = max(1, kept + passing) * itemsize
        gradients = (sum(use.gradients for use in self.floats) + rows) * itemsize
        # Rather than fewer samples than some, take fewer cotangents.
        affordable = (memory // FEWEST_SAMPLES - inputs) // max(1, gradients)
        at_once = max(1, min(cotangents, affordable))
        return max(1, memory // (inputs + gradients * at_once)), at_once


def inspect(
    network: Network, batch: Batch, known: Mapping[str, str] | None = None, vmapped: bool = True
) -> Plan:
    """Find out how each parameter is used, on a few samples of a batch.

    Args:
        network: the function.
        batch: where the samples come from.
        known: parameters that are known to need the generic way, and why.
        vmapped: whether the generic way may take all samples at once.

    Raises:
        InputError: samples depend on each other, or the outputs are random, not finite or not of
            shape (n, c).
    """
    few = batch.take(0, min(ENOUGH_SAMPLES, len(batch)))
    recorder, outputs = _run(network, few)
    placed: dict[str, Placement] = {}
    reasons = dict(known or {})
    # Another number of samples and, where that makes a difference, another order.
    other = {1: [0, 0], 2: [0]}.get(len(few), [1, 0])
    chosen = few.map(lambda t: _chosen(t, other, len(few)))
    again, shuffled = _run(network, chosen)
    if not agree_but_for_rounding(outputs[other], shuffled):
        raise InputError(
            "model: its outputs are random, or the output for one sample depends on the others "
            "in the batch, so no sample has a function of its own; put it in evaluation mode"
        )
    options = _options(recorder, again)
    while options:  # until what is tried is right, or there is nothing more to try
        placed = {name: places[0] for name, places in options.items()}
        recorder, _ = _run(network, few, (), placed)
        again, _ = _run(network, chosen, (), placed)
        wrong = [n for n in _misplaced(recorder, again, other) if len(options.get(n, ())) > 1]
        if not wrong:
            break
        for name in wrong:
            options[name].pop(0)
    reasons.update(again.unruled)
    reasons.update(_misplaced(recorder, again, other))
    reasons = {**recorder.unruled, **reasons}
    generic = tuple(name for name in network.space.names if name in reasons)
    if reasons:
        recorder, outputs = _run(network, few, generic, placed)
    uses = list(recorder.uses)
    if generic:
        vmapped = vmapped and can_vmap(network, generic, few, outputs.shape[1])
        uses.append(GenericUse(network, generic, few, vmapped))
    found = {name: use.way for use in uses for name in use.names}
    together = [[uses[member] for member in group] for group in connected(uses)]
    kept = [Floats(use.names, *use.floats) for use in uses]
    # A parameter with several uses is summed over them in its per-sample form.
    summed = [group[0].names for group in together if len(group) > 1]
    kept += [Floats(names, 0, network.space.floats(names)) for names in summed]
    return Plan(
        samples=len(few),
        ways={name: found.get(name, "unused") for name in network.space.names},
        uses=_counts(recorder.uses, network.space.names),
        generic=generic,
        reasons=reasons,
        placements=placed,
        vmapped=vmapped,
        outputs=outputs.shape[1],
        affine={group[0].names: group[0].layout for group in together if only_affine(group)},
        floats=tuple(kept),
    )


def _run(
    network: Network,
    batch: Batch,
    generic: Collection[str] = (),
    placed: Mapping[str, Placement] | None = None,
) -> tuple[_Recorder, Tensor]:
    recorder = _Recorder(network.tensors, len(batch), generic, placed or {})
    with torch.enable_grad(), recorder:
        outputs = network.forward(network.tensors, batch)
    check_finite_outputs(outputs)
    return recorder, outputs


def _chosen(tensor: Tensor, samples: Sequence[int], size: int) -> Tensor:
    return tensor[samples] if tensor.ndim > 0 and len(tensor) == size else tensor


def _options(run: _Recorder, again: _Recorder) -> dict[str, list[Placement]]:
    """Where the samples of linear layers can be, if not in front."""
    if [name for name, _ in run.seen] != [name for name, _ in again.seen]:
        return {}
    found: dict[str, list[Placement]] = {}
    for (name, one), (_, other) in zip(run.seen, again.seen, strict=True):
        places = placements(one, other, (run.samples, again.samples))
        found[name] = [place for place in found.get(name, places) if place in places]
    return {name: places for name, places in found.items() if places not in ([], [0])}


def _misplaced(run: _Recorder, again: _Recorder, samples: Sequence[int]) -> dict[str, str]:
    """Parameters for which dimension 0 is not the sample.

    The second run saw some of the samples in another order; so, then, must each use have.
    """
    inputs, others = _inputs_by_name(run), _inputs_by_name(again)
    reasons = {}
    for name in {*inputs, *others}:
        mine, theirs = inputs.get(name, []), others.get(name, [])
        if len(mine) != len(theirs) or not all(
            agree_but_for_rounding(x[samples], y) for x, y in zip(mine, theirs, strict=True)
        ):
            reasons[name] = "an operation whose first dimension is not the sample"
    return reasons


def _counts(uses: Sequence[Use], names: Sequence[str]) -> dict[str, int]:
    """How many of the uses each parameter has."""
    return {name: sum(name in use.names for use in uses) for name in names}


def _inputs_by_name(run: _Recorder) -> dict[str, list[Tensor]]:
    out: dict[str, list[Tensor]] = {}
    for use, x in zip(run.uses, run.inputs, strict=True):
        for name in use.names:
            out.setdefault(name, []).append(x)
    return out


def only_affine(uses: Sequence[Use]) -> TypeGuard[Sequence[AffineUse]]:
    """Whether all these uses are affine, of the same weight and the same bias."""
    first = uses[0]
    return (
        isinstance(first, AffineUse)
        and first.weight is not None
        and all(isinstance(use, AffineUse) and use.names == first.names for use in uses)
    )


class Tape:
    """A recorded forward pass of one batch.

    Attributes:
        uses: every use of a parameter.
        outputs: the outputs (n, c), detached.
    """

    def __init__(self, network: Network, batch: Batch, plan: Plan) -> None:
        if plan.samples < min(len(batch), ENOUGH_SAMPLES):
            raise Unforeseen({}, batch=batch)
        recorder, outputs = _run(network, batch, plan.generic, plan.placements)
        changed = {
            name: recorder.unruled.get(name, "operations that differ between batches")
            for name, count in _counts(recorder.uses, network.space.names).items()
            if count != plan.uses[name] or name in recorder.unruled
        }
        changed = {name: reason for name, reason in changed.items() if name not in plan.generic}
        if changed:
            raise Unforeseen(changed)
        self._edges, self._shapes, self._outputs = recorder.edges, recorder.shapes, outputs
        self.uses: list[Use] = list(recorder.uses)
        if plan.generic:
            self.uses.append(GenericUse(network, plan.generic, batch, plan.vmapped))
        self.outputs: Float[Tensor, "n c"] = outputs.detach()

    def gradients(
        self, cotangents: Float[Tensor, "k n c"], squared: Collection[int] = ()
    ) -> list[Gradients]:
        """For each use, the gradients that come back for the cotangents, in its own layout.

        Of the uses at the places `squared` only the sum of their squares: a gradient that is used
        up at once stays in cache, which makes the backward passes of small layers a third quicker.
        """
        columns: list[Gradients] = [[] for _ in self.uses]
        totals: dict[int, Tensor] = {}
        for u in cotangents if self._edges else ():
            gradients: Sequence[Tensor | None] = [None] * len(self._edges)
            if self._outputs.requires_grad:
                gradients = torch.autograd.grad(
                    self._outputs, self._edges, u, retain_graph=True, allow_unused=True
                )
            for place, (g, shape) in enumerate(zip(gradients, self._shapes, strict=True)):
                raw = u.new_zeros(shape) if g is None else g.to(u.dtype)
                if place not in squared:
                    columns[place].append(self.uses[place].lay_out(raw))
                elif place in totals:
                    totals[place].addcmul_(raw, raw)
                else:
                    totals[place] = raw.square()
        for place, total in totals.items():
            columns[place] = Squares([self.uses[place].lay_out(total)])
        if len(self.uses) > len(self._edges):  # the generic use takes the cotangents themselves
            columns[-1] = list(cotangents)
        return columns
