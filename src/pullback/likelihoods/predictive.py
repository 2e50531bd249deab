"""Any function from outputs to a distribution of labels, as a likelihood.

Gradients of -log p come by autograd, draws from the distribution's own methods, and M from the
closed form of the distribution's Fisher information where one is registered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution, Independent

from pullback.errors import InputError
from pullback.likelihoods.base import Likelihood, Uniform
from pullback.likelihoods.information import Factor, information_of, whitened

DistributionOf = Callable[[Tensor], Distribution]


class Predictive(Likelihood):
    """The likelihood whose distribution a function makes of the outputs.

    Args:
        function: from outputs (n, c) to a distribution with one label for each sample, of batch
            shape (n,), for any n. It is called with parts of a batch, down to single samples.

    Raises:
        InputError: it is no such function.

    Example:
        >>> import torch, pullback as pb
        >>> from torch.distributions import Normal
        >>> model, x = torch.nn.Linear(3, 2), torch.eye(3)
        >>> pb.fisher(model, x, lambda out: Normal(out[:, 0], out[:, 1].exp()), estimator="sampled")
        ekfac metric on 8 parameters (sampled distribution, mean over 3 samples)
    """

    def __init__(self, function: DistributionOf) -> None:
        given: object = function
        name = getattr(function, "__name__", type(function).__name__)
        if isinstance(given, type) and issubclass(given, Likelihood):
            raise InputError(f"likelihood: a class; give an object, {name}()")
        self.function = function
        self.name = "distribution" if name == "<lambda>" else name

    def rank(self, outputs: int) -> int:
        return outputs

    def columns(self, outputs: Tensor) -> int:
        return self._pullback(outputs).columns

    def mix(self, outputs: Tensor, vectors: Tensor) -> Tensor:
        pullback = self._pullback(outputs)
        return torch.stack([pullback.pull(z) for z in vectors.unbind(1)])

    def apply(self, outputs: Tensor, vectors: Tensor) -> Tensor:
        pullback = self._pullback(outputs)
        return pullback.pull(pullback.push(vectors))

    def scores(self, outputs: Tensor, uniform: Uniform) -> Tensor:
        labels = self._labels(outputs, uniform)  # (t, n, *event)
        times = outputs.expand(len(labels), -1, -1)
        gradients = self._gradient(times.flatten(0, 1), labels.flatten(0, 1))
        return gradients.unflatten(0, times.shape[:2])

    def residual(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self._gradient(outputs, targets)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return -self._log_prob(outputs, targets).mean()

    def _distribution(self, outputs: Tensor) -> Distribution:
        try:
            made = self.function(outputs)
        except ValueError as error:
            raise InputError(
                f"likelihood: the outputs are no parameters of its distribution: {error}"
            ) from error
        if not isinstance(made, Distribution):
            raise InputError(
                f"likelihood: the function returned {type(made).__name__} instead of a "
                "torch.distributions.Distribution"
            )
        n, shape = len(outputs), tuple(made.batch_shape)
        if shape == (n,):
            return made
        raise InputError(
            f"likelihood: {_title(made)} has the batch shape {shape} for outputs of shape "
            f"{tuple(outputs.shape)}, expected ({n},), one label for each sample; "
            + (
                f"make it torch.distributions.Independent(..., {len(shape) - 1})"
                if shape[:1] == (n,)
                else "keep dimension 0 of the outputs as it is"
            )
        )

    def _log_prob(self, outputs: Tensor, labels: Tensor) -> Float[Tensor, " n"]:
        """The log-probability of one label for each sample.

        Raises:
            InputError: the labels have another shape, or the distribution refuses them.
        """
        made = self._distribution(outputs)
        if made.event_shape == (1,) and labels.ndim == 1:
            labels = labels.unsqueeze(1)
        expected = (len(outputs), *made.event_shape)
        if labels.shape != expected:
            raise InputError(
                f"targets: shape {tuple(labels.shape)}, but labels of {_title(made)} have the "
                f"shape {tuple(expected)}"
            )
        labels = labels.to(outputs.dtype)
        if not bool(labels.isfinite().all()):
            raise InputError("targets: NaN or infinity among them; clean them first")
        try:
            log_p: Tensor = made.log_prob(labels)
        except NotImplementedError as error:
            raise InputError(f"likelihood: {_title(made)} has no log_prob") from error
        except ValueError as error:
            raise InputError(f"targets: {_title(made)} refuses them: {error}") from error
        return log_p

    def _gradient(self, outputs: Tensor, labels: Tensor) -> Float[Tensor, "n c"]:
        """The gradient of -log p by the outputs."""
        with torch.enable_grad():
            leaf = outputs.detach().requires_grad_()
            log_p = self._log_prob(leaf, labels)
            _check_differentiable(log_p)
            (gradient,) = torch.autograd.grad(-log_p.sum(), leaf)
        return gradient

    @torch.no_grad()
    def _labels(self, outputs: Tensor, uniform: Uniform) -> Tensor:
        """Labels drawn from the model, (t, n, *event), the same however samples are batched.

        Quantiles where the distribution has them. `sample` takes its numbers from the global random
        state, in an order that depends on the batch: so every sample has its labels drawn alone,
        after a seed of its own, and the state is put back.

        Raises:
            InputError: the distribution cannot be sampled.
        """
        made = self._distribution(outputs)
        inner = _inner(made)
        if _has_quantiles(inner, outputs):
            numbers = uniform(inner.batch_shape[1:].numel()).transpose(0, 1).to(outputs.dtype)
            small = torch.finfo(outputs.dtype).eps / 2  # quantiles of a rounded 0 or 1 are infinite
            numbers = numbers.clamp(min=small, max=1 - small)
            return inner.icdf(numbers.reshape(len(numbers), *inner.batch_shape))
        numbers = uniform(1)
        seeds = (numbers[:, 0, 0] * 2**53).long().tolist()
        drawn = []
        with _random_state(outputs.device) as generators:
            for row, seed in zip(outputs.split(1), seeds, strict=True):
                for generator in generators:
                    generator.manual_seed(seed)
                try:
                    labels = self._distribution(row).sample((numbers.shape[1],))
                except NotImplementedError as error:
                    raise InputError(
                        f"estimator: {_title(made)} does not implement `sample`, as 'sampled' "
                        "needs it; implement it, or use estimator='exact' or 'empirical'"
                    ) from error
                drawn.append(labels)
        return torch.cat(drawn, 1)

    def _pullback(self, outputs: Tensor) -> _Pullback:
        with torch.enable_grad():
            leaf = outputs.detach().requires_grad_()
            pairs = information_of(self._distribution(leaf))
            dependent = [pair for pair in pairs if pair[0].requires_grad]
            _check_differentiable(*(parameter for parameter, _ in dependent))
            for parameter, _ in dependent:
                if parameter.shape[:1] != leaf.shape[:1]:
                    raise InputError(
                        f"register_information: a parameter of shape {tuple(parameter.shape)} for "
                        f"{len(leaf)} samples; these have to be its dimension 0"
                    )
            return _Pullback(leaf, *zip(*dependent, strict=True))


class _Pullback:
    """The Fisher information in a distribution's parameters, pulled back to the outputs.

    `M = K^T I K` with K the derivative of the parameters and `I = R R^T` their information, so the
    columns of `K^T R` are a square root of M.

    Args:
        outputs: of shape (n, c), what can be differentiated by.
        parameters: made of them.
        factors: the information in each.

    Attributes:
        columns: how many columns R has.
    """

    def __init__(
        self, outputs: Tensor, parameters: Sequence[Tensor], factors: Sequence[Factor]
    ) -> None:
        self.outputs, self.parameters, self.factors = outputs, parameters, factors
        # R^T is linear in these, so its derivative transposes it.
        self._changes = [p.detach().requires_grad_() for p in parameters]
        self._coordinates = self._whitened(self._changes)
        self.columns = self._coordinates.shape[1]

    def _whitened(self, changes: Sequence[Tensor]) -> Float[Tensor, "n r"]:
        parts = map(whitened, changes, self.factors)
        return torch.cat([part.reshape(len(part), -1) for part in parts], 1)

    def pull(self, vectors: Float[Tensor, "n r"]) -> Float[Tensor, "n c"]:
        """The products `K^T R z`."""
        changes = torch.autograd.grad(
            self._coordinates, self._changes, vectors, retain_graph=True, materialize_grads=True
        )
        (pulled,) = torch.autograd.grad(
            self.parameters, self.outputs, changes, retain_graph=True, materialize_grads=True
        )
        return pulled

    def push(self, vectors: Float[Tensor, "n c"]) -> Float[Tensor, "n r"]:
        """The products `R^T K v`; K as the derivative of `w -> K^T w`, which is linear in w."""
        with torch.enable_grad():
            weights = [torch.zeros_like(p).requires_grad_() for p in self.parameters]
            (pulled,) = torch.autograd.grad(
                self.parameters, self.outputs, weights, create_graph=True, materialize_grads=True
            )
            changes = torch.autograd.grad(pulled, weights, vectors, materialize_grads=True)
        with torch.no_grad():
            return self._whitened(changes)


def _check_differentiable(*values: Tensor) -> None:
    if not any(value.requires_grad for value in values):
        raise InputError(
            "likelihood: autograd sees no influence of the outputs on the distribution; has the "
            "function detached them?"
        )


def _inner(made: Distribution) -> Distribution:
    while isinstance(made, Independent):
        made = made.base_dist
    return made


def _title(made: Distribution) -> str:
    return type(_inner(made)).__name__


def _has_quantiles(made: Distribution, like: Tensor) -> bool:
    """Whether labels are single numbers, of which the distribution knows the quantiles."""
    if made.event_shape:
        return False
    try:
        made.icdf(like.new_full(made.batch_shape, 0.5))
    except NotImplementedError:
        return False
    return True


@contextmanager
def _random_state(device: torch.device) -> Iterator[list[torch.Generator]]:
    """The global generators that draws on a device may take from, put back as they were."""
    generators = [torch.default_generator]
    if device.type == "cuda":
        generators.append(torch.cuda.default_generators[device.index or 0])
    states = [generator.get_state() for generator in generators]
    try:
        yield generators
    finally:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)
