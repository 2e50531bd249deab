"""How well an architecture learns each of many directions: one network, one direction at a time."""

from __future__ import annotations

import hashlib
import json
import math
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from scipy.stats import ConstantInputWarning, spearmanr, t
from torch import Tensor, nn

from pullback.anisotropy.bases import FourierBasis
from pullback.anisotropy.moments import PERIOD
from pullback.anisotropy.population import MakeModel
from pullback.anisotropy.training import Recipe, Task, fitted
from pullback.batches import check_fits, tracked
from pullback.errors import InputError
from pullback.unfinished import Unfinished

WINDOW = 10  # updates whose losses are averaged


@dataclass(frozen=True)
class Monotonicity:
    """How steadily accuracies fall with the place of their direction.

    Attributes:
        spearman: the rank correlation of place and accuracy, a mean over seeds; NaN where all
            accuracies of a seed are the same.
        low: end of the confidence interval of that mean, by Student's t over seeds; NaN for one.
        high: its other end.
        inversions: pairs of directions of which the later one is learnt better, on average over
            seeds.
        pairs: how many pairs there are.
    """

    spearman: float
    low: float
    high: float
    inversions: int
    pairs: int


@dataclass(frozen=True, eq=False)
class Sweep:
    """Networks of one architecture, each trained on a direction. Made by `sweep`.

    Attributes:
        places: of the directions among all that were given, shape (k,).
        test: accuracy on new samples, for each direction and seed, shape (k, s); NaN where the
            training went beyond all numbers.
        train: accuracy on the samples of the training, shape (k, s).
        losses: mean loss of the samples of each update before it, in nats, shape (k, s, u).
        settings: how they were made, plain values.
    """

    places: Int[Tensor, " k"]
    test: Float[Tensor, "k s"]
    train: Float[Tensor, "k s"]
    losses: Float[Tensor, "k s u"]
    settings: Mapping[str, Any]

    @property
    def accuracies(self) -> Float[Tensor, " k"]:
        """Test accuracy of each direction, a mean over seeds."""
        return self.test.mean(1)

    @property
    def recipe(self) -> Recipe:
        """With what samples and how the networks were trained."""
        return Recipe(**self.settings["recipe"])

    @property
    def curves(self) -> Float[Tensor, "k s e"]:
        """The mean loss of each epoch, in nats."""
        epochs = self.losses.split(self.recipe.per_epoch, -1)
        return torch.stack([one.mean(-1) for one in epochs], -1)

    def updates_to(self, loss: int | float) -> Float[Tensor, "k s"]:
        """After how many updates the mean loss of the last ten is as low; infinite for never."""
        window = min(WINDOW, self.losses.shape[-1])
        low = self.losses.unfold(-1, window, 1).mean(-1) <= loss
        first = low.int().argmax(-1).double() + window
        return torch.where(low.any(-1), first, math.inf)

    def is_along(self, directions: Float[Tensor, "m D"]) -> bool:
        """Whether these are all the directions that the sweep was given."""
        return bool(self.settings["digest"] == _digest(directions))

    def map(
        self,
        basis: FourierBasis,
        values: Float[Tensor, " k"] | None = None,
        imaginary: bool = False,
    ) -> Float[Tensor, "..."]:
        """Test accuracies as an image of frequencies, zero in the middle; NaN where there is none.

        Args:
            basis: whose vectors the directions are.
            values: other numbers of the directions, for instance `updates_to(0.1).mean(1)`.
            imaginary: which vectors are shown, those of imaginary or of real parts.

        Raises:
            InputError: the directions are not those of the basis.
        """
        if not self.is_along(basis.vectors):
            raise InputError("basis: its vectors are not the directions of this sweep")
        found = torch.full((len(basis.vectors),), math.nan, dtype=torch.float64)
        found[self.places] = (self.accuracies if values is None else values).double()
        return basis.map(found[basis.imaginary == imaginary], imaginary)

    def monotonicity(self, confidence: float = 0.95) -> Monotonicity:
        """How steadily accuracies fall with the place of their direction, over seeds.

        Raises:
            InputError: fewer than two directions, or a confidence that is not between 0 and 1.
        """
        if len(self.places) < 2 or not 0 < confidence < 1:
            raise InputError(
                f"confidence: {confidence}, for {len(self.places)} directions; give a number "
                "between 0 and 1, and sweep two directions at least"
            )
        order = self.places.argsort()
        places, found = self.places[order], self.test[order]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConstantInputWarning)
            each = [float(spearmanr(places, one, nan_policy="omit").statistic) for one in found.T]
        draws = torch.tensor(each, dtype=torch.float64)
        mean, seeds = float(draws.mean()), len(draws)
        reach = math.nan
        if seeds > 1:
            quantile = float(t.ppf((1 + confidence) / 2, seeds - 1))
            reach = quantile * float(draws.std()) / math.sqrt(seeds)
        means = found.mean(1)
        later, earlier = torch.tril_indices(len(means), len(means), -1)
        inversions = int((means[later] > means[earlier]).sum())
        low, high = max(-1.0, mean - reach), min(1.0, mean + reach)
        if math.isnan(reach):
            low = high = math.nan
        return Monotonicity(mean, low, high, inversions, len(later))

    def save(self, path: str | Path) -> None:
        """Write everything to a file (.safetensors)."""
        tensors = {name: getattr(self, name).contiguous() for name in _TENSORS}
        save_file(tensors, path, {"settings": json.dumps(dict(self.settings))})

    @classmethod
    def load(cls, path: str | Path) -> Sweep:
        """Read what `save` wrote.

        Raises:
            InputError: it is no such file.
        """
        try:
            with safe_open(path, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in _TENSORS}
                settings = json.loads(file.metadata()["settings"])
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as problem:
            raise InputError(f"path: {path} holds no sweep: {problem!r}") from None
        return cls(**tensors, settings=settings)


_TENSORS = ("places", "test", "train", "losses")


def sweep(
    make_model: MakeModel,
    directions: Float[Tensor, "m D"],
    shape: Sequence[int],
    places: Sequence[int] | None = None,
    seeds: int = 1,
    recipe: Recipe | None = None,
    seed: int = 0,
    at_once: int = 1,
    checkpoint: str | Path | None = None,
    progress: bool | None = None,
) -> Sweep:
    """Train a new network on each of some directions, and see how well and how fast it learns them.

    The samples of a direction are those of `separable`. Networks, samples and their order are drawn
    anew for each direction and seed; they depend on the place of the direction, `seed` and the
    number of the seed, and not on what else is in the sweep. The networks are trained on the device
    where the factory puts them.

    Args:
        make_model: returns a new network with one output, or two of which the second is for the
            label 1, with weights from torch's global generator.
        directions: all directions, one a row: of a basis, for instance.
        shape: of one input, D numbers.
        places: the rows that are taken; None takes all.
        seeds: networks for each direction.
        recipe: of samples and training; None for the published one, `Recipe()`.
        seed: of everything drawn.
        at_once: networks whose weights are stacked and trained together, with the same numbers but
            for rounding. On one core of a CPU that is no quicker (ten together take, of the time of
            ten alone: logistic regression 1.7, perceptron 0.9, LeNet 1.9), so that one is the
            default. Networks with dropout cannot be stacked.
        checkpoint: a file (.safetensors) with the finished stacks; the same call goes on with it
            after an interruption, to the same numbers.
        progress: whether to show a progress bar; None shows one on a terminal.

    Raises:
        InputError: a factory, directions, places or numbers that cannot be used; networks that
            cannot be stacked; a checkpoint of another sweep.

    Source:
        Ortiz-Jimenez et al. 2020, sections 2 and 4.1, appendices A and D.3.

    Example:
        >>> from pullback.anisotropy import Recipe, fourier_basis, models, sweep
        >>> shape, basis = (1, 4, 4), fourier_basis((4, 4))
        >>> make_model = lambda: models.logistic_regression(shape)
        >>> found = sweep(make_model, basis.vectors, shape, recipe=Recipe(samples=1000, tests=100))
        >>> found.accuracies.min(), found.map(basis).shape
        (tensor(1., dtype=torch.float64), torch.Size([4, 4]))
    """
    recipe = Recipe() if recipe is None else recipe
    rows = list(range(len(directions)) if places is None else places)
    _check_numbers(directions, shape, rows, seeds, at_once)
    module = _checked_model(make_model, shape)
    check_fits(
        f"at_once: samples of {at_once} directions",
        3 * at_once * directions.element_size() * directions.shape[1] * (
            recipe.samples + recipe.tests
        ), torch.device("cpu"), "take fewer at once, or fewer samples",
    )  # fmt: skip
    settings = {
        "shape": list(shape), "directions": len(directions), "digest": _digest(directions),
        "places": rows, "seeds": seeds, "seed": seed, "at_once": at_once,
        "recipe": asdict(recipe), "architecture": repr(module),
    }  # fmt: skip
    kept = Unfinished(checkpoint, settings)
    unknown = torch.full((len(rows), seeds), math.nan, dtype=torch.float64)
    state = kept.begin({
        "test": unknown, "train": unknown.clone(), "done": torch.tensor(0),
        "losses": torch.full((len(rows), seeds, recipe.updates), math.nan),
    })  # fmt: skip
    tasks = {
        (place, number): Task(directions[row].view(*shape), (seed, number, row))
        for place, row in enumerate(rows)
        for number in range(seeds)
    }
    _finish(state, kept, tasks, make_model, recipe, at_once, progress)
    arrays = {name: state[name] for name in ("test", "train", "losses")}
    return Sweep(torch.tensor(rows), **arrays, settings=settings)


def _finish(
    state: dict[str, Tensor],
    kept: Unfinished,
    tasks: Mapping[tuple[int, int], Task],
    make_model: MakeModel,
    recipe: Recipe,
    at_once: int,
    progress: bool | None,
) -> None:
    """Train what is not done yet, stack by stack, and fill in the results at their places."""
    pieces = list(tasks)
    # Where stacks begin has to be the same after an interruption, for the same numbers.
    stacks = [pieces[start : start + at_once] for start in range(0, len(pieces), at_once)]
    left, written = stacks[int(state["done"]) :], time.monotonic()
    try:
        for stack in tracked(left, "sweep", len(left), progress):
            fits = fitted(make_model, [tasks[piece] for piece in stack], recipe)
            for name in ("test", "train", "losses"):
                state[name][tuple(torch.tensor(stack).T)] = getattr(fits, name).to(state[name])
            state["done"] += 1
            if time.monotonic() - written > PERIOD:
                kept.write(state)
                written = time.monotonic()
    finally:
        kept.write(state)


@dataclass(frozen=True, eq=False)
class SampleComplexity:
    """Sweeps with more and more samples. Made by `sample_complexity`.

    Attributes:
        sizes: how many samples each was trained on, rising.
        sweeps: of each size.
    """

    sizes: tuple[int, ...]
    sweeps: tuple[Sweep, ...]

    @property
    def accuracies(self) -> Float[Tensor, "k z"]:
        """Test accuracy of each direction and size, a mean over seeds."""
        return torch.stack([one.accuracies for one in self.sweeps], 1)

    def needed(self, accuracy: float = 0.9) -> Float[Tensor, " k"]:
        """How many samples each direction takes for an accuracy; infinite if more than there were.

        Between two sizes the accuracy is taken to be linear in the logarithm of the size; a
        direction that is learnt with the smallest one gets that.
        """
        found = self.accuracies
        reached = found >= accuracy
        first = reached.int().argmax(1)
        rows = torch.arange(len(found))
        before = (first - 1).clamp(min=0)
        low, high = found[rows, before], found[rows, first]
        share = torch.where(first > 0, (accuracy - low) / (high - low), 1.0)
        logs = torch.tensor(self.sizes, dtype=torch.float64).log()
        between = (logs[before] + share * (logs[first] - logs[before])).exp()
        return torch.where(reached.any(1), between, math.inf)


def sample_complexity(
    make_model: MakeModel,
    directions: Float[Tensor, "m D"],
    shape: Sequence[int],
    sizes: Sequence[int],
    places: Sequence[int] | None = None,
    seeds: int = 1,
    recipe: Recipe | None = None,
    seed: int = 0,
    at_once: int = 1,
    checkpoint: str | Path | None = None,
    progress: bool | None = None,
) -> SampleComplexity:
    """How many samples an architecture needs for each of some directions: a `sweep` for each size.

    Args:
        make_model: see `sweep`, as for all that is not named here.
        directions: see there.
        shape: see there.
        sizes: numbers of samples to train on; the epochs stay as many.
        places: see there.
        seeds: see there.
        recipe: see there; its `samples` are of no account.
        seed: see there.
        at_once: see there.
        checkpoint: a folder, with a file for each size.
        progress: see there.

    Raises:
        InputError: no sizes, or as `sweep` does.

    Source:
        Ortiz-Jimenez et al. 2020, appendix D.3.2.

    Example:
        >>> from pullback.anisotropy import Recipe, fourier_basis, models, sample_complexity
        >>> shape, basis = (1, 4, 4), fourier_basis((4, 4))
        >>> make_model = lambda: models.logistic_regression(shape)
        >>> recipe = Recipe(tests=500, epochs=5)
        >>> found = sample_complexity(
        ...     make_model, basis.vectors, shape, sizes=(20, 2000), places=(0, 5), recipe=recipe
        ... )
        >>> found.accuracies.shape, bool((found.needed(0.9) <= 2000).all())
        (torch.Size([2, 2]), True)
    """
    if not sizes:
        raise InputError("sizes: none; give numbers of samples")
    recipe, rising = Recipe() if recipe is None else recipe, tuple(sorted(set(sizes)))
    folder = None if checkpoint is None else Path(checkpoint)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    found = [
        sweep(
            make_model, directions, shape, places, seeds, replace(recipe, samples=size), seed,
            at_once, None if folder is None else folder / f"{size}.safetensors", progress,
        )
        for size in rising
    ]  # fmt: skip
    return SampleComplexity(rising, tuple(found))


def _check_numbers(
    directions: Tensor, shape: Sequence[int], places: Sequence[int], seeds: int, at_once: int
) -> None:
    size = torch.Size(shape).numel()
    if directions.ndim != 2 or directions.shape[1] != size:
        raise InputError(
            f"directions: shape {tuple(directions.shape)}; give vectors of {size} numbers, one a "
            f"row, for inputs {tuple(shape)}"
        )
    if not places or len(set(places)) < len(places) or not set(places) <= {*range(len(directions))}:
        raise InputError(
            f"places: {list(places)}; give different numbers from 0 to {len(directions) - 1}"
        )
    lengths = directions[list(places)].norm(dim=1)
    if not bool(((lengths > 0) & lengths.isfinite()).all()):
        raise InputError("directions: some are zero or not finite; take them out of the places")
    if seeds < 1 or at_once < 1:
        raise InputError(f"seeds, at_once: {seeds}, {at_once}; give at least one")


def _checked_model(make_model: MakeModel, shape: Sequence[int]) -> nn.Module:
    with torch.random.fork_rng():
        module, other = make_model(), make_model()
    known = {id(one) for one in module.parameters()} if isinstance(module, nn.Module) else set()
    if not known or not any(one.requires_grad for one in module.parameters()):
        raise InputError(
            f"make_model: returned {type(module).__name__}; expected a torch.nn.Module with "
            "parameters to train"
        )
    if any(id(one) in known for one in other.parameters()):
        raise InputError("make_model: returns the same network each time; make a new one in it")
    x = next(module.parameters()).new_zeros(2, *shape)
    try:
        with torch.no_grad():
            outputs = module.eval()(x)
    except (RuntimeError, ValueError, TypeError) as problem:
        raise InputError(
            f"shape: the network does not take inputs of shape {tuple(shape)}: {problem}"
        ) from problem
    if not isinstance(outputs, Tensor) or outputs.shape not in {(2, 1), (2, 2)}:
        raise InputError("make_model: expected a network with one or two outputs, (n, 1) or (n, 2)")
    return module


def _digest(vectors: Tensor) -> str:
    return hashlib.sha256(vectors.float().cpu().contiguous().numpy().tobytes()).hexdigest()
