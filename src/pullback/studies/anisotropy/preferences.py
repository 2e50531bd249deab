"""What the members share: an architecture, its own directions, and learning along directions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from jaxtyping import Float
from torch import Tensor, nn

from pullback.anisotropy import Directions, Recipe, Sweep, directions, models, sweep


@dataclass(frozen=True)
class Preferences:
    """Which architecture, and how its own directions are found.

    Attributes:
        seeds: of everything drawn.
        network: one of `models.ARCHITECTURES`.
        width: a factor of its numbers of channels.
        networks: random ones, for the directions.
        step: of their finite differences.
    """

    seeds: int = 3
    network: str = "lenet"
    width: int | float = 1.0
    networks: int = 200
    step: int | float | None = 100


@dataclass(frozen=True)
class Sweeping(Preferences):
    """As `Preferences`, and how a direction is learned.

    Attributes:
        side: of the images, of one channel.
        recipe: of samples and training, the same for all directions.
    """

    width: int | float = 0.5
    side: int = 32
    recipe: Recipe = Recipe(samples=4000, tests=1000, sigma=1.0, epochs=8, clip=0.5)


def factory(
    settings: Preferences,
    shape: Sequence[int],
    outputs: int = 1,
    network: str | None = None,
    pooling: bool = True,
) -> Callable[[], nn.Module]:
    """Makes networks of an architecture, by default that of the settings."""
    make = models.ARCHITECTURES[settings.network if network is None else network]
    return partial(make, shape, outputs, pooling=pooling, width=settings.width)


def found_directions(
    settings: Preferences, side: int, seed: int, network: str | None = None
) -> Directions:
    """The directions of an architecture for images of one channel, the most preferred first."""
    shape = (1, side, side)
    return directions(
        factory(settings, shape, network=network), shape, networks=settings.networks,
        step=settings.step, seed=seed, progress=False,
    )  # fmt: skip


def swept(
    settings: Sweeping,
    vectors: Float[Tensor, "m D"],
    places: Sequence[int],
    seed: int,
    network: str | None = None,
    pooling: bool = True,
    recipe: Recipe | None = None,
) -> Sweep:
    """A new network of an architecture for each of some directions, trained on it."""
    shape = (1, settings.side, settings.side)
    return sweep(
        factory(settings, shape, network=network, pooling=pooling), vectors.float(), shape,
        list(places), recipe=settings.recipe if recipe is None else recipe, seed=seed,
        progress=False,
    )  # fmt: skip
