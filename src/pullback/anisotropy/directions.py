"""Neural anisotropy directions: an order of the input space that an architecture prefers."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pullback.anisotropy.bases import check_basis
from pullback.anisotropy.gradients import GradientCovariance
from pullback.anisotropy.kernels import SETS, KernelAlignment
from pullback.anisotropy.mixed import MixedDerivative
from pullback.anisotropy.moments import FOLDS, Moments, along, errors, summed
from pullback.anisotropy.population import MakeModel, Outputs, Population
from pullback.batches import all_finite, check_fits
from pullback.errors import InputError
from pullback.estimates import Estimate
from pullback.unfinished import Unfinished

METHODS = {"gradient": 10_000, "mixed": 100, "mean mixed": 100, "kernel": 1}  # networks of each


@dataclass(frozen=True, eq=False)
class Directions:
    """Orthonormal directions of the input space, the most preferred first.

    Made by `directions`, or from published ones by `from_arrays`.

    Attributes:
        vectors: the directions, one a row, shape (D, D); their signs are arbitrary, and where
            eigenvalues nearly coincide only the space they span means something.
        spectrum: how much is found along each, shape (D,), falling; see `meaning`.
        stderr: the standard error of each, over groups of networks, shape (D,); NaN for fewer than
            two groups, and for the mean mixed derivative.
        overlap: of the k leading directions of two halves of the networks, for k = 1 to D: the
            mean squared cosine of the two spaces, `|U_k^T V_k|^2 / k`; k/D for chance.
        settings: how they were made, plain values.
        shape: of one input.
        groups: the mean along each direction in each of up to eight groups of the networks, or of
            the samples with the kernel, shape (g, D); None for the mean mixed derivative.
    """

    vectors: Float[Tensor, "D D"]
    spectrum: Float[Tensor, " D"]
    stderr: Float[Tensor, " D"]
    overlap: Float[Tensor, " D"]
    settings: Mapping[str, Any]
    shape: tuple[int, ...]
    groups: Float[Tensor, "g D"] | None = None

    @property
    def meaning(self) -> str:
        """What the numbers of the spectrum are."""
        return str(self.settings["meaning"])

    @property
    def rank(self) -> int:
        """How many directions have something along them; the rest fill up the space at random."""
        rounding = len(self.spectrum) * torch.finfo(torch.float32).eps * self.spectrum[0]
        seen = int((self.spectrum > rounding).sum())
        return (
            min(seen, self.settings["networks"]) if self.settings["method"] == "gradient" else seen
        )

    def estimate(self, quantity: Callable[[Tensor], float]) -> Estimate:
        """A number that depends on the spectrum, with its standard error.

        The error is that of leaving out each group of networks in turn, along the directions of all
        of them. What few networks do to a spectrum on average, which is to spread it, is not in it.

        Args:
            quantity: of a spectrum, shape (D,); for instance `pullback.effective_rank`.

        Returns:
            The number of the whole spectrum; its error is NaN for fewer than two groups.

        Example:
            >>> import torch
            >>> from pullback.anisotropy import directions
            >>> found = directions(lambda: torch.nn.Linear(4, 1), shape=(4,), networks=800)
            >>> share = found.estimate(lambda spectrum: float(spectrum[0] / spectrum.sum()))
            >>> 0.25 < share.value < 0.4 and share.stderr < 0.05
            True
        """
        count = 0 if self.groups is None else len(self.groups)
        value = float(quantity(self.spectrum))
        if self.groups is None or count < 2:
            return Estimate(value, math.nan, count)
        others = self.spectrum + (self.groups.mean(0) - self.groups) / (count - 1)
        found = torch.tensor([float(quantity(one)) for one in others], dtype=torch.float64)
        return Estimate(value, float(found.std(correction=0)) * (count - 1) ** 0.5, count)

    def image(self, place: int) -> Tensor:
        """One direction in the shape of an input."""
        return self.vectors[place].view(self.shape)

    def save(self, path: str | Path) -> None:
        """Write everything to a file (.safetensors)."""
        names = _TENSORS if self.groups is None else (*_TENSORS, "groups")
        # Copies, because the file takes no two tensors in the same memory.
        own = torch.contiguous_format
        tensors = {name: getattr(self, name).clone(memory_format=own) for name in names}
        known = {"settings": json.dumps(dict(self.settings)), "shape": json.dumps(self.shape)}
        save_file(tensors, path, known)

    @classmethod
    def load(cls, path: str | Path) -> Directions:
        """Read what `save` wrote.

        Raises:
            InputError: it is no such file.
        """
        try:
            with safe_open(path, framework="pt") as file:
                known = file.metadata()
                also = [name for name in file.keys() if name not in _TENSORS]  # noqa: SIM118
                tensors = {name: file.get_tensor(name) for name in (*_TENSORS, *also)}
                settings, shape = json.loads(known["settings"]), json.loads(known["shape"])
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as problem:
            raise InputError(f"path: {path} holds no directions: {problem!r}") from None
        return cls(**tensors, settings=settings, shape=tuple(shape))

    @classmethod
    def from_arrays(
        cls,
        vectors: ArrayLike,
        spectrum: ArrayLike,
        shape: Sequence[int],
        singular: bool = False,
        networks: int | None = None,
    ) -> Directions:
        """Directions that somebody else found, as `numpy.load` reads them.

        Where the last ones are missing, orthonormal vectors with 0 in the spectrum take their
        places: a single one is known but for its sign, of several only the space. Errors, halves
        and groups are unknown.

        Args:
            vectors: orthonormal, one a row, the most preferred first, shape (k, D).
            spectrum: how much is found along each, shape (k,), falling.
            shape: of one input, of D numbers.
            singular: whether the spectrum is of singular values of the gradients of many networks,
                one gradient a row, as principal component analysis gives them: these are squared.
                Published files named "eigenvals" hold such.
            networks: of how many gradients, by which the squares are then divided; 10,000 in the
                published files. None leaves that factor out.

        Raises:
            InputError: vectors that are not orthonormal; a spectrum of another length, that rises,
                or has nothing positive; a shape of another size.

        Source:
            Ortiz-Jimenez et al. 2020, appendix D.1, and the files published with it.

        Example:
            >>> import numpy as np
            >>> from pullback.anisotropy import Directions
            >>> found = Directions.from_arrays(np.eye(4)[:3], [4, 2, 1], (1, 2, 2), singular=True)
            >>> found.spectrum.tolist(), found.vectors[-1].abs().tolist(), found.rank
            ([16.0, 4.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0], 3)
        """
        rows = torch.tensor(np.asarray(vectors, dtype=np.float64))
        size = math.prod(shape)
        check_basis(rows, size, "vectors")
        values = _given(spectrum, len(rows), singular, networks)
        missing = size - len(rows)
        # The last columns of a whole QR decomposition are orthogonal to all that came in.
        rest = torch.linalg.qr(rows.T, mode="complete")[0].T[len(rows) :]
        kind = "squared singular value" if singular else "value"
        over = "" if networks is None else f", over {networks:,} networks"
        settings = {
            "method": "given", "networks": networks, "singular": singular, "missing": missing,
            "meaning": f"{kind} of each direction, as given{over}",
        }  # fmt: skip
        unknown = torch.full((size,), math.nan, dtype=torch.float64)
        whole, full = torch.cat([rows, rest]), torch.cat([values, values.new_zeros(missing)])
        return cls(whole, full, unknown, unknown, settings, tuple(shape))


_TENSORS = ("vectors", "spectrum", "stderr", "overlap")


def _given(
    spectrum: ArrayLike, count: int, singular: bool, networks: int | None
) -> Float[Tensor, " k"]:
    """The spectrum of directions that somebody else found.

    Raises:
        InputError: it cannot be one.
    """
    values = torch.tensor(np.asarray(spectrum, dtype=np.float64))
    if values.shape != (count,):
        raise InputError(
            f"spectrum: shape {tuple(values.shape)} for {count} vectors; give one number for each"
        )
    if not (all_finite(values) and values[0] > 0 and bool((values.diff() <= 0).all())):
        raise InputError("spectrum: give finite numbers that fall, the first of them positive")
    if not singular:
        if networks is not None:
            raise InputError(f"networks: {networks}; they are those of singular values alone")
        return values
    if values[-1] < 0 or not (networks is None or networks > 0):
        raise InputError(
            f"spectrum, networks: {float(values[-1]):g} at the end, {networks}; singular values "
            "are not negative, and of at least one network"
        )
    return values.square() / (1 if networks is None else networks)


def overlap(one: Float[Tensor, "D D"], other: Float[Tensor, "D D"]) -> Float[Tensor, " D"]:
    """How alike the spaces of the k leading rows are, for k = 1 to D.

    The mean squared cosine of their principal angles, `|U_k V_k^T|^2 / k`: 1 for the same space,
    k/D on average for random ones.

    Raises:
        InputError: not the same number of directions of the same space.

    Example:
        >>> import torch
        >>> from pullback.anisotropy import overlap
        >>> overlap(torch.eye(3), torch.eye(3)[[1, 0, 2]])
        tensor([0., 1., 1.])
    """
    if one.shape != other.shape:
        raise InputError(f"one, other: shapes {tuple(one.shape)} and {tuple(other.shape)}")
    squares = (one @ other.T).square().cumsum(0).cumsum(1).diagonal()
    return squares / torch.arange(1, len(one) + 1).to(squares)


def directions(
    make_model: MakeModel,
    shape: Sequence[int],
    method: str = "gradient",
    networks: int | None = None,
    outputs: Outputs = None,
    at: Tensor | None = None,
    step: int | float | None = None,
    samples: int | None = None,
    seed: int = 0,
    progress: bool | None = None,
    checkpoint: str | Path | None = None,
) -> Directions:
    """The directions of the input space in the order in which an architecture prefers them.

    `"gradient"`: eigenvectors of the mean of `grad f(x) grad f(x)^T` over random networks.
    `"mixed"`: of the mean of `M^T M`, with `M = d2f/dwdx`; smooth networks are meant (GELU).
    `"mean mixed"`: of `N^T N`, with N the mean of M over networks. As printed; where the weights of
    the last layer have no sign of their own, N is nothing but what is left of M by chance.
    `"kernel"`: of the alignment of linear functions with the tangent kernel, at normal inputs.

    Args:
        make_model: returns a new network, with weights from torch's global generator.
        shape: of one input.
        method: see above.
        networks: how many are drawn; None for 10,000, for 100 where M is taken, and for one with
            the kernel. With fewer than D the last directions are arbitrary; see `Directions.rank`.
        outputs: which output is f: None for the only one, a number, or a pair (a, b) for output b
            minus output a.
        at: x, the same for all networks, or for M several inputs (m, *shape), over which it is
            averaged; None draws one from the standard normal distribution.
        step: h, for derivatives by x as finite differences, `(f(x + h e_i) - f(x - h e_i)) / 2h`;
            None for exact ones. The published directions are those of gradients with a step of
            100, and for networks with ReLU and max pooling they are far from exact ones.
        samples: normal inputs for each network, with the kernel; None for 32 D, a whole set of
            orthogonal ones in each of the sets that are compared. With fewer there is far more
            noise.
        seed: of the weights and the inputs.
        progress: whether to show a progress bar; None shows one on a terminal.
        checkpoint: a file (.safetensors) with the sums so far; the same call goes on with it. The
            mean mixed derivative has no such sums, and starts anew.

    Returns:
        Directions with their spectrum, errors, and the overlap of two halves.

    Raises:
        InputError: a factory, shape, read-out or number that cannot be used; derivatives that are
            not finite, or all zero; a checkpoint of another computation.

    Source:
        Ortiz-Jimenez et al. 2020, sections 3 and 3.1, appendix D; Ortiz-Jimenez et al. 2021,
        theorem 1 and appendix C.2.

    Example:
        >>> import torch
        >>> from pullback.anisotropy import directions
        >>> def make_model():
        ...     return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 1))
        >>> found = directions(make_model, shape=(1, 4, 4), networks=2000)
        >>> found.vectors.shape, found.rank
        (torch.Size([16, 16]), 16)
    """
    networks = _checked(method, networks, step)
    if method == "kernel" and at is not None:
        raise InputError("at: the kernel is averaged over normal inputs; leave it out")
    if method != "kernel" and samples is not None:
        raise InputError(f"samples: {samples}, for method {method!r}; they are those of the kernel")
    population = Population(make_model, shape, outputs, seed, max(1, networks // FOLDS))
    size = population.inputs
    check_fits(
        f"shape: the sums over {size} by {size} directions", 16 * (FOLDS + 1) * size**2,
        torch.device("cpu"), "take a smaller shape",
    )  # fmt: skip
    if method == "kernel":
        samples = SETS * size if samples is None else samples
        if samples < SETS:
            raise InputError(f"samples: {samples}; give at least {SETS}")
    x = _points(at, population, seed, several="mixed" in method)
    moments = _moments(method, population, networks, x, step, samples, seed)
    settings = {
        "method": method, "networks": networks, "step": step, "seed": seed, "samples": samples,
        "outputs": outputs, "at": "drawn" if at is None else "given",
        "architecture": repr(population.module), "meaning": moments.meaning,
    }  # fmt: skip
    if isinstance(moments, MixedDerivative) and method == "mean mixed":
        parts = (range(networks), range(0, networks, 2), range(1, networks, 2))
        whole, *halves = (moments.mean_square(part) for part in parts if len(part))
        return _directions(whole.double(), [one.double() for one in halves], settings, shape)
    kept = Unfinished(checkpoint, {**settings, "shape": list(shape), "x": x.flatten().tolist()})
    sums, counts = summed(moments, size, population.dtype, kept, progress)
    halves = [sums[start::2].sum(0) for start in (0, 1)]
    found = _directions(sums.sum(0) / counts.sum(), halves, settings, shape)
    means, shares = along(sums, counts, found.vectors)
    return replace(found, stderr=errors(means, shares), groups=means)


def _moments(
    method: str,
    population: Population,
    networks: int,
    x: Float[Tensor, "m ..."],
    step: int | float | None,
    samples: int | None,
    seed: int,
) -> Moments:
    if method == "gradient":
        return GradientCovariance(population, networks, x[0], step)
    if samples is not None:
        return KernelAlignment(population, networks, samples, seed)
    return MixedDerivative(population, networks, x, step)


def _checked(method: str, networks: int | None, step: int | float | None) -> int:
    """How many networks."""
    if method not in METHODS:
        raise InputError(f"method: {method!r}; choose one of {tuple(METHODS)}")
    if networks is not None and networks < 1:
        raise InputError(f"networks: {networks}; give at least one")
    if step is not None and (not 0 < step < math.inf or method == "kernel"):
        raise InputError(
            f"step: {step}, for method {method!r}; give a positive number for gradients or mixed "
            "derivatives, or None for exact ones"
        )
    return METHODS[method] if networks is None else networks


def _points(
    at: Tensor | None, population: Population, seed: int, several: bool
) -> Float[Tensor, "m ..."]:
    if at is None:
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(1, *population.shape, generator=generator, dtype=population.dtype)
    if not all_finite(at):
        raise InputError("at: some numbers are NaN or infinite")
    if tuple(at.shape) == population.shape:
        return at.unsqueeze(0).to(population.dtype)
    if several and tuple(at.shape[1:]) == population.shape and len(at):
        return at.to(population.dtype)
    raise InputError(f"at: shape {tuple(at.shape)}; give one input, {population.shape}")


def _directions(
    whole: Float[Tensor, "D D"],
    halves: Sequence[Float[Tensor, "D D"]],
    settings: Mapping[str, Any],
    shape: Sequence[int],
) -> Directions:
    if not bool((whole.diagonal() > 0).any()):
        raise InputError("make_model: all derivatives by the input are zero there")
    values, vectors = torch.linalg.eigh(whole)
    unknown = torch.full((len(values),), math.nan, dtype=values.dtype)
    alike = unknown
    if len(halves) == 2 and all(bool(half.any()) for half in halves):
        alike = overlap(*(torch.linalg.eigh(half)[1].T.flip(0) for half in halves))
    return Directions(vectors.T.flip(0), values.flip(0), unknown, alike, settings, tuple(shape))
