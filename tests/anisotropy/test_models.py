"""Architectures: their sizes, with and without pooling, for images of many sizes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pullback import InputError
from pullback.anisotropy.models import (
    ARCHITECTURES,
    densenet121,
    lenet,
    logistic_regression,
    perceptron,
    resnet18,
    vgg11,
)
from pullback.anisotropy.population import Population

POOLS = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)
CONVOLUTIONAL = ("lenet", "vgg11", "resnet18", "densenet121")


def size(module: nn.Module) -> int:
    return sum(one.numel() for one in module.parameters())


class TestCounts:
    """Of parameters, for images in colour as published for ten classes."""

    colour = (3, 32, 32)

    def test_lenet(self) -> None:
        assert size(lenet(outputs=2)) == 61_026

    def test_perceptron_and_logistic_regression(self) -> None:
        assert size(logistic_regression()) == 1025
        assert size(perceptron()) == 1024 * 500 + 500 + 2 * (500 * 500 + 500) + 501

    def test_resnet18(self) -> None:
        assert size(resnet18(self.colour, 10)) == 11_173_962

    def test_densenet121(self) -> None:
        assert size(densenet121(self.colour, 10)) == 6_956_298

    def test_vgg11(self) -> None:
        channels = [3, 64, 128, 256, 256, 512, 512, 512, 512]
        pairs = list(zip(channels, channels[1:], strict=False))
        convolutions = sum(9 * before * after + after for before, after in pairs)
        norms = 2 * sum(channels[1:])
        hidden = 2 * (512 * 512 + 512) + 512 * 10 + 10
        assert size(vgg11(self.colour, 10)) == convolutions + norms + hidden == 9_756_426

    def test_without_pooling_the_linear_layer_behind_grows(self) -> None:
        assert size(lenet(pooling=False)) - size(lenet()) == 16 * 120 * (24**2 - 5**2)
        assert size(resnet18(pooling=False)) - size(resnet18()) == 512 * (4**2 - 1)
        assert size(densenet121(pooling=False)) - size(densenet121()) == 1024 * (32**2 - 1)
        narrow = [size(vgg11(pooling=one, width=1 / 16)) for one in (False, True)]
        assert narrow[0] - narrow[1] == 32 * 32 * (32**2 - 1)


@pytest.mark.parametrize("pooling", [True, False])
@pytest.mark.parametrize("name", CONVOLUTIONAL)
class TestConvolutional:
    @pytest.mark.parametrize("shape", [(1, 32, 32), (3, 40, 33)])
    def test_shapes_and_pooling(self, name: str, pooling: bool, shape: tuple[int, ...]) -> None:
        module = ARCHITECTURES[name](shape, 3, pooling=pooling, width=1 / 16, activation="gelu")
        assert module(torch.randn(2, *shape)).shape == (2, 3)
        kinds = [type(one) for one in module.modules()]
        assert any(kind in POOLS for kind in kinds) == pooling
        assert nn.GELU in kinds and nn.ReLU not in kinds

    def test_each_place_of_the_feature_maps_has_its_own_weights_without_pooling(
        self, name: str, pooling: bool
    ) -> None:
        """A mean over places hidden in a forward would give fewer inputs to the linear layer."""
        module = ARCHITECTURES[name](pooling=pooling, width=1 / 16)
        seen: list[tuple[torch.Size, torch.Size]] = []
        flatten = next(one for one in module.modules() if isinstance(one, nn.Flatten))
        flatten.register_forward_hook(
            lambda _, before, after: seen.append((before[0].shape, after.shape))
        )
        module.eval()(torch.randn(1, 1, 32, 32))
        places = seen[0][0][2:].numel()
        expected = {"lenet": 24**2, "vgg11": 32**2, "resnet18": 4**2, "densenet121": 32**2}
        pooled = {"lenet": 5**2}.get(name, 1)
        assert places == (pooled if pooling else expected[name])


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_random_networks_of_it_can_be_drawn(name: str) -> None:
    population = Population(lambda: ARCHITECTURES[name](width=1 / 16), (1, 32, 32), at_most=2)
    one, other = (population.functions(population.one(i), torch.ones(1, 1, 32, 32)) for i in (0, 1))
    assert one.shape == (1,) and not torch.equal(one, other)


@pytest.mark.parametrize(
    ("name", "options", "named"),
    [("lenet", {"shape": (1, 15, 32)}, "at least 16"), ("lenet", {"shape": (32, 32)}, "shape"),
     ("lenet", {"shape": (1, 8, 8), "pooling": False}, "at least 9"),
     ("vgg11", {"shape": (1, 28, 28)}, "at least 32"),
     ("densenet121", {"shape": (1, 7, 7)}, "at least 8"),
     ("perceptron", {"activation": "tanh"}, "relu, gelu"), ("resnet18", {"width": 0}, "width"),
     ("logistic-regression", {"outputs": 0}, "outputs"),
     ("logistic-regression", {"shape": ()}, "shape")],
)  # fmt: skip
def test_what_makes_no_network_is_refused(name: str, options: dict, named: str) -> None:
    with pytest.raises(InputError, match=named):
        ARCHITECTURES[name](**options)


def test_smallest_images() -> None:
    for name, side, pooling in (("lenet", 16, True), ("lenet", 9, False), ("vgg11", 1, False),
                                ("resnet18", 1, True), ("densenet121", 8, True)):  # fmt: skip
        module = ARCHITECTURES[name]((2, side, side), 1, pooling=pooling, width=1 / 16).eval()
        assert module(torch.randn(1, 2, side, side)).shape == (1, 1)
