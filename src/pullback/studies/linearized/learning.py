"""What the members share: eigenfunctions as tasks, and how tasks are learned along training."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, vmap

from pullback.kernels.mercer import Eigenfunctions, eigenfunctions
from pullback.kernels.tangent import tangent_kernel
from pullback.report.figures import style
from pullback.studies.parts import (
    NETWORKS,
    Curve,
    Descent,
    drawn,
    fan_in_start,
    logistic,
    right,
    started,
    trained,
    trained_together,
)
from pullback.studies.study import Result

LOOKS = {"network": (style.AFTER, "o-"), "linearized": (style.TEST, "s--")}
AT_ONCE = 1000  # images, where outputs are wanted without gradients


def begun(network: str, shape: Sequence[int], seed: int) -> nn.Module:
    """A network with one output, at the start that the documents' code gives it.

    The residual network keeps its own.

    Args:
        network: "mlp", "lenet" or "resnet".
        shape: of an input.
        seed: of the weights.
    """

    def make() -> nn.Module:
        module = NETWORKS[network](shape)
        return module if network == "resnet" else fan_in_start(module)

    return started(make, seed)


@dataclass(frozen=True, eq=False)
class Posed:
    """A network at its start, and the eigenfunctions of its tangent kernel. Made by `posed`.

    Attributes:
        model: the network.
        images: those to train on, then those to test on.
        leading: eigenfunctions on all images, in double precision.
    """

    model: nn.Module
    images: Float[Tensor, "n c h w"]
    leading: Eigenfunctions

    def labels(self, indices: Iterable[int]) -> Float[Tensor, "t n"]:
        """The signs of eigenfunctions, counted from 0."""
        return torch.stack([self.leading.labels(index) for index in indices]).float()


def posed(network: str, data: str, train: int, test: int, count: int, seed: int) -> Posed:
    """A network, images, and so many leading eigenfunctions of its kernel on all of them.

    Args:
        network: "mlp", "lenet" or "resnet".
        data: the name of an image set.
        train: training images.
        test: test images.
        count: of eigenfunctions.
        seed: of the images and the network.
    """
    splits = (drawn(data, "train", train, seed), drawn(data, "test", test, seed))
    images = torch.cat([split.inputs for split in splits])
    model = begun(network, images.shape[1:], seed)
    # A late eigenvalue may be a millionth of the first, the rounding of single precision.
    exact = copy.deepcopy(model).double()
    kernel = tangent_kernel(exact, images.double(), outputs=0, progress=False)
    return Posed(model, images, eigenfunctions(kernel, count))


@dataclass(frozen=True, eq=False)
class Learning:
    """How t tasks were learned, at the start and after each epoch.

    Attributes:
        updates: finished by then, e + 1 of them.
        loss: on the training images, in nats.
        train: accuracy on these.
        test: accuracy on the test images.
        distance: Euclidean, of the parameters from their start.
        cosine: cosine distance of the same.
    """

    updates: list[int]
    loss: Float[Tensor, "t e"]
    train: Float[Tensor, "t e"]
    test: Float[Tensor, "t e"]
    distance: Float[Tensor, "t e"]
    cosine: Float[Tensor, "t e"]

    def reached(self, loss: int | float) -> list[int | None]:
        """The updates of each task after which the training loss is so low first; None if never."""
        return [
            next((n for n, one in zip(self.updates, row, strict=True) if one <= loss), None)
            for row in self.loss.tolist()
        ]


@dataclass(frozen=True, eq=False)
class _Task:
    """Images with the labels of t tasks, of which the first `train` are learned."""

    images: Float[Tensor, "n ..."]
    labels: Float[Tensor, "t n"]
    train: int


def learned(
    module: nn.Module,
    images: Float[Tensor, "n ..."],
    labels: Float[Tensor, " n"],
    train: int,
    descent: Descent,
    seed: int,
    advance: Callable[[int], None],
) -> Learning:
    """Learn one task with a copy of a module.

    Args:
        module: the network, or its linearisation; it stays as it is.
        images: those to train on, then those to test on.
        labels: 1 and -1, of all of them.
        train: how many images are for training.
        descent: how it is trained.
        seed: of the order of the samples.
        advance: called with 1 after each epoch.
    """
    own, task = copy.deepcopy(module), _Task(images, labels.unsqueeze(0), train)
    counts = trained(own, images[:train], labels[:train], logistic, descent, seed)

    def outputs(some: Tensor) -> Tensor:
        return own(some).unsqueeze(0)

    def parameters() -> dict[str, Tensor]:
        return {name: one.detach().unsqueeze(0) for name, one in own.named_parameters()}

    return _followed(counts, task, outputs, parameters, descent.per_epoch(train), advance)


def learned_together(
    module: nn.Module,
    images: Float[Tensor, "n ..."],
    labels: Float[Tensor, "t n"],
    train: int,
    descent: Descent,
    seed: int,
    advance: Callable[[int], None],
) -> Learning:
    """Learn t tasks at once, each from the parameters of the module; arguments as for `learned`."""
    state = {
        name: one.detach().expand(len(labels), *one.shape).clone()
        for name, one in module.named_parameters()
    }
    counts = trained_together(
        module, state, images[:train], labels[:, :train], logistic, descent, seed
    )
    buffers = dict(module.named_buffers())

    def outputs(some: Tensor) -> Tensor:
        return vmap(lambda own: functional_call(module, {**buffers, **own}, (some,)))(state)

    task = _Task(images, labels, train)
    return _followed(counts, task, outputs, lambda: state, descent.per_epoch(train), advance)


def _followed(
    counts: Iterable[int],
    task: _Task,
    outputs: Callable[[Tensor], Float[Tensor, "t n 1"]],
    parameters: Callable[[], Mapping[str, Float[Tensor, "t ..."]]],
    per_epoch: int,
    advance: Callable[[int], None],
) -> Learning:
    """What a training comes to, looked at before it and after each epoch."""
    start, updates, rows = _flat(parameters()), [], []
    for count in counts:
        if count % per_epoch == 0:
            updates.append(count)
            rows.append(_measured(task, outputs, start, _flat(parameters())))
            if count:
                advance(1)
    return Learning(updates, *(torch.stack(column, 1) for column in zip(*rows, strict=True)))


def _flat(parameters: Mapping[str, Float[Tensor, "t ..."]]) -> Float[Tensor, "t d"]:
    return torch.cat([one.flatten(1) for one in parameters.values()], 1)


def _measured(
    task: _Task,
    outputs: Callable[[Tensor], Float[Tensor, "t n 1"]],
    start: Float[Tensor, "t d"],
    now: Float[Tensor, "t d"],
) -> tuple[Tensor, ...]:
    """Training loss, accuracies, and both distances, of each task."""
    with torch.no_grad():
        found = torch.cat([outputs(some) for some in task.images.split(AT_ONCE)], 1)
    losses = vmap(logistic)(found[:, : task.train], task.labels[:, : task.train])
    hits = right(found, task.labels).float()
    distance = torch.linalg.vector_norm(now - start, dim=1)
    cosine = 1 - torch.cosine_similarity(start.double(), now.double(), dim=1)
    return losses, hits[:, : task.train].mean(1), hits[:, task.train :].mean(1), distance, cosine


def both(results: Sequence[Result], quantity: str) -> list[Curve]:
    """A quantity of the network and of its linearisation, with one row for each seed."""
    return [
        Curve(regime, [result[regime][quantity] for result in results], *look)
        for regime, look in LOOKS.items()
    ]
