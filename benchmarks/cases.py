"""The networks and the data that every library is measured on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

OUTPUTS = 10
KRONECKER = (nn.Linear, nn.Conv2d)
"""The modules that the Kronecker-factored operations cover, as in every peer."""


@dataclass(frozen=True)
class Case:
    """A model in eval mode, its data, and the batch size that every loader uses."""

    name: str
    model: nn.Module
    inputs: Tensor
    targets: Tensor
    batch_size: int
    kernel_samples: int

    @property
    def samples(self) -> int:
        return len(self.inputs)

    @property
    def kernel_inputs(self) -> Tensor:
        """The samples that the tangent kernel is computed on, in one batch."""
        return self.inputs[: self.kernel_samples]

    @property
    def kernel_halves(self) -> tuple[Tensor, Tensor]:
        """The two sets of the kernel between two sets."""
        first, second = self.kernel_inputs.chunk(2)
        return first, second

    def batches(self, size: int | None = None) -> list[tuple[Tensor, Tensor]]:
        size = size or self.batch_size
        return list(zip(self.inputs.split(size), self.targets.split(size), strict=True))

    def direction(self, kronecker: bool = False) -> Tensor:
        """A fixed parameter vector (d,); with `kronecker` only the entries KFAC covers, (d',)."""
        return self._directions[kronecker]

    @cached_property
    def _directions(self) -> tuple[Tensor, Tensor]:
        """Drawn once, before the clock starts or in the first repetition."""
        parameters = dict(self.model.named_parameters())
        sizes = [p.numel() for p in parameters.values()]
        generator = torch.Generator().manual_seed(2)
        vector = torch.randn(sum(sizes), generator=generator).to(self.inputs.dtype)
        pieces = dict(zip(parameters, vector.split(sizes), strict=True))
        return vector, torch.cat([pieces[name] for name in self.kronecker_parameters()])

    def kronecker_modules(self) -> dict[str, nn.Module]:
        return {n: m for n, m in self.model.named_modules() if isinstance(m, KRONECKER)}

    def kronecker_parameters(self) -> list[str]:
        """Names of the parameters of the linear and convolution modules."""
        modules = self.kronecker_modules()
        return [n for n, _ in self.model.named_parameters() if n.rpartition(".")[0] in modules]

    def double(self) -> Case:
        """The same case in float64, for reference values."""
        return Case(
            self.name,
            self.model.double(),
            self.inputs.double(),
            self.targets,
            self.batch_size,
            self.kernel_samples,
        )


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch norm, and a 1x1 shortcut where the shape changes."""

    def __init__(self, width_in: int, width_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width_out, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(width_out)
        self.conv2 = nn.Conv2d(width_out, width_out, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(width_out)
        # Two modules, not one used twice: some peers keep one record per module.
        self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()
        self.shortcut: nn.Module | None = None
        if stride != 1 or width_in != width_out:
            self.shortcut = nn.Conv2d(width_in, width_out, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.conv2(self.relu1(self.norm1(self.conv1(x)))))
        skip = x if self.shortcut is None else self.shortcut(x)
        return self.relu2(y + skip)


class ResidualNet(nn.Module):
    """A stem, three residual blocks of widths 16, 32, 64, global average pooling, a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.relu = nn.ReLU()
        self.block1 = ResidualBlock(16, 16, 1)
        self.block2 = ResidualBlock(16, 32, 2)
        self.block3 = ResidualBlock(32, 64, 2)
        self.pool, self.flatten = nn.AdaptiveAvgPool2d(1), nn.Flatten()
        self.head = nn.Linear(64, OUTPUTS)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.norm(self.stem(x)))
        x = self.block3(self.block2(self.block1(x)))
        return self.head(self.flatten(self.pool(x)))


class Positions(nn.Module):
    """Learned positions, added to tokens (n, t, w)."""

    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(tokens, width))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.weight


class EncoderBlock(nn.Module):
    """Attention and a feed-forward net, each after a layer norm and with a skip connection."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.project, self.merge = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.gelu = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        projected = self.project(self.norm1(x)).unflatten(2, (3, self.heads, -1))
        attended = F.scaled_dot_product_attention(*projected.permute(2, 0, 3, 1, 4).unbind())
        x = x + self.merge(attended.transpose(1, 2).flatten(2))
        return x + self.down(self.gelu(self.up(self.norm2(x))))


class Transformer(nn.Module):
    """A linear embedding of 16 tokens, two encoder blocks, the mean over tokens, a classifier."""

    def __init__(self, tokens: int = 16, width: int = 64) -> None:
        super().__init__()
        self.embed, self.positions = nn.Linear(width, width), Positions(tokens, width)
        self.block1, self.block2 = (EncoderBlock(width, 4, 2 * width) for _ in range(2))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, OUTPUTS)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block2(self.block1(self.positions(self.embed(x))))
        return self.head(self.norm(x).mean(1))


def _mlp() -> nn.Module:
    return nn.Sequential(
        nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, OUTPUTS)
    )


def _tiny() -> nn.Module:
    return nn.Sequential(nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, OUTPUTS))


def _small() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(4),
        nn.Flatten(), nn.Linear(16, OUTPUTS),
    )  # fmt: skip


def _conv() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(64, 128, 3, padding=1), nn.ReLU(), nn.MaxPool2d(8),
        nn.Flatten(), nn.Linear(128, OUTPUTS),
    )  # fmt: skip


@dataclass(frozen=True)
class _Recipe:
    model: Callable[[], nn.Module]
    shape: tuple[int, ...]
    samples: int
    batch_size: int
    kernel_samples: int
    seed: int = 1
    """Of the inputs. A preactivation of 1e-8 may change sign between float32 and float64, and one
    such sample shows in the MLP's Fisher-vector product; with its seed the smallest is 2e-6.
    """


_RECIPES = {
    "mlp": _Recipe(_mlp, (784,), 2000, 200, 200, seed=10),
    "conv": _Recipe(_conv, (3, 32, 32), 500, 100, 100),
    "resnet": _Recipe(ResidualNet, (3, 32, 32), 200, 50, 50),
    "transformer": _Recipe(Transformer, (16, 64), 100, 100, 100),
    "tiny": _Recipe(_tiny, (20,), 2000, 200, 200),
    "small": _Recipe(_small, (1, 8, 8), 500, 100, 100),
}
CASES = tuple(_RECIPES)
SMALL = ("tiny", "small")
"""The cases whose d x d matrices are formed."""
LARGE = ("mlp", "conv", "resnet")
KERNELS = (*LARGE, "transformer")
"""The cases of the tangent kernels."""


def load(name: str) -> Case:
    """Build a case; the same name gives the same numbers in every process."""
    recipe = _RECIPES[name]
    torch.manual_seed(0)
    model = recipe.model()
    generator = torch.Generator().manual_seed(recipe.seed)
    inputs = torch.randn(recipe.samples, *recipe.shape, generator=generator)
    targets = torch.randint(0, OUTPUTS, (recipe.samples,), generator=generator)
    if any(isinstance(m, nn.BatchNorm2d) for m in model.modules()):
        with torch.no_grad():  # running statistics that are not the initial ones
            for batch in inputs.split(recipe.batch_size):
                model.train()(batch)
    return Case(name, model.eval(), inputs, targets, recipe.batch_size, recipe.kernel_samples)
