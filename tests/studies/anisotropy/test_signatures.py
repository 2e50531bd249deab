"""Directions of small architectures side by side, against plain loops and closed forms."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from scipy.linalg import subspace_angles
from torch import Tensor

from pullback.anisotropy import directions, fourier_basis, models
from pullback.anisotropy.population import Population
from pullback.studies.anisotropy.signatures import STRIDED, Settings, Signatures
from pullback.studies.anisotropy.spaces import (
    AT_ONCE,
    Architecture,
    alike,
    comb_share,
    components,
    elsewhere,
    gradients,
    looked_at,
    mean_frequency,
    with_images,
)

SMALL = Settings(
    seeds=2,
    side=16,
    architectures=(
        Architecture("lenet", 0.25, 24),
        Architecture("resnet18", 1 / 64, 20),
        Architecture("perceptron", 0.02, 20),
    ),
    places=(1, 2, 5, 22, 300),
    leading=(2, 10),
    mixed=1,
)


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    done: list[int] = []
    (result,) = Signatures().measure(SMALL, 1, done.append)
    assert sum(done) == Signatures().steps(SMALL)
    return result


@pytest.fixture(scope="module")
def plain() -> dict[str, Tensor]:
    at = torch.randn(1, 16, 16, generator=torch.Generator().manual_seed(1))
    return {one.name: gradients(one, at, 100, 1) for one in SMALL.architectures}


@pytest.fixture(scope="module")
def rows(plain: dict[str, Tensor]) -> dict[str, Tensor]:
    """With all images, those of each network one after the other."""
    found = {}
    for name, gradient in plain.items():
        all_of_them = []
        for one in gradient.view(-1, 16, 16):
            images = [one, 0.999 * one.T]
            if name != "resnet18":
                images += [image.flip(0) for image in images]
                images += [image.flip(1) for image in images]
            all_of_them += images
        found[name] = torch.stack(all_of_them).flatten(1)
    return found


@pytest.mark.parametrize("name", ["lenet", "vgg11", "resnet18", "densenet121"])
def test_mirrored_networks_have_mirrored_gradients(name: str) -> None:
    """All but those with strides; and transposed ones have transposed gradients."""
    width = {"lenet": 0.5, "vgg11": 1 / 16}.get(name, 1 / 32)
    module = models.ARCHITECTURES[name](width=width).double().eval()
    x = torch.randn(3, 1, 32, 32).double()
    before = module(x)
    for image, exact in (
        (lambda one: one.transpose(-1, -2), True),
        (lambda one: one.flip(-1), name not in STRIDED),
        (lambda one: one.flip(-2), name not in STRIDED),
    ):
        other = copy.deepcopy(module)
        for weight in other.parameters():
            if weight.ndim == 4:
                weight.data = image(weight.data)
            elif name == "lenet" and weight.shape[-1] == 8 * 25:
                weight.data = image(weight.data.view(-1, 8, 5, 5)).reshape(len(weight), -1)
        off = float((other(image(x)) - before).abs().max() / before.std())
        assert off < 1e-8 if exact else off > 1e-3


def test_images_of_each_network_stand_together(
    plain: dict[str, Tensor], rows: dict[str, Tensor]
) -> None:
    for name, count in (("lenet", 8), ("resnet18", 2)):
        found = with_images(plain[name], (1, 16, 16), mirrored=count == 8)
        assert len(found) == count * len(plain[name])
        for network in (0, 7):
            some = slice(count * network, count * (network + 1))
            sets = [{tuple(row.tolist()) for row in one[some]} for one in (found, rows[name])]
            assert sets[0] == sets[1] and len(sets[0]) == count


def test_a_direction_and_its_transposed_image_are_not_mixed() -> None:
    columns = torch.tensor([1.0, -1.0]).double().repeat(1, 8).expand(16, 16)
    found = with_images(columns.reshape(1, -1), (1, 16, 16), mirrored=True)
    values, vectors = components(found)
    torch.testing.assert_close(vectors[0].view(16, 16).abs(), torch.full((16, 16), 1 / 16).double())
    assert alike(vectors[:1], columns.reshape(1, -1) / 16, 1) == pytest.approx(1)
    assert float(values[1] / values[0]) == pytest.approx(0.998, abs=1e-5)


def test_gradients_are_differences_of_single_networks(plain: dict[str, Tensor]) -> None:
    at = torch.randn(1, 16, 16, generator=torch.Generator().manual_seed(1))

    def make() -> torch.nn.Module:
        return models.lenet((1, 16, 16), width=0.25)

    population = Population(make, (1, 16, 16), seed=1, at_most=AT_ONCE)
    assert plain["lenet"].shape == (24, 256)
    for number in (0, 9, 10, 23):
        module = make().eval()
        module.load_state_dict(population.one(number))
        for place in (0, 100, 137):
            step = torch.zeros(256)
            step[place] = 100
            ahead, behind = (module(at + sign * step.view(1, 1, 16, 16)) for sign in (1, -1))
            slope = float(ahead - behind) / 200
            assert float(plain["lenet"][number, place]) == pytest.approx(slope, abs=1e-6)


def test_what_is_kept_is_that_of_the_gradients(
    found: dict[str, Any], rows: dict[str, Tensor]
) -> None:
    g = rows["lenet"].numpy()
    values, vectors = np.linalg.eigh(g.T @ g / (8 * 24))
    values, vectors = values[::-1], vectors.T[::-1]
    assert found["networks"]["lenet"] == 24 and found["size"] == 256
    relative = values[[0, 1, 4, 21]] / values[0]
    assert found["spectrum"]["lenet"][:4] == pytest.approx(relative, rel=1e-4)
    assert found["spectrum"]["lenet"][4:] == [None]
    assert found["shares"]["lenet"] == pytest.approx(values[:3] / values.sum(), rel=1e-4)
    shares = values[values > 1e-12 * values[0]] / values.sum()
    rank = np.exp(-(shares * np.log(shares)).sum())
    assert found["rank"]["lenet"] == pytest.approx(rank, rel=1e-5)
    for place in (0, 2):
        image = vectors[place].reshape(16, 16)
        pixels = np.array(found["pixels"]["lenet"][place])
        assert abs((pixels * image).sum()) == pytest.approx(1, abs=1e-3)
        energy = np.abs(np.fft.fft2(image)) ** 2 / 256
        assert found["spread"]["lenet"][place] == pytest.approx(1 / (energy**2).sum(), rel=1e-3)


def test_shares_are_measured_on_the_other_half(
    found: dict[str, Any], rows: dict[str, Tensor]
) -> None:
    g = rows["resnet18"].numpy()
    halves = (g[:20], g[20:])
    expected = []
    for count in (1, 2, 5):
        total = 0.0
        for one, other in (halves, halves[::-1]):
            vectors = np.linalg.eigh(one.T @ one)[1][:, ::-1][:, :count]
            along = sum(float(np.linalg.norm(vectors.T @ row) ** 2) for row in other)
            total += along / float((other**2).sum()) / 2
        expected.append(total)
    assert found["elsewhere"]["resnet18"][:3] == pytest.approx(expected, rel=1e-4)
    assert found["elsewhere"]["resnet18"][3:] == [None, None]
    same = torch.diag(torch.tensor([3.0, 2.0, 1.0]).double())
    torch.testing.assert_close(elsewhere(same, same), torch.tensor([9, 13, 14]).double() / 14)


def test_overlaps_of_halves(found: dict[str, Any], rows: dict[str, Tensor]) -> None:
    def sides(name: str) -> list[np.ndarray]:
        g = rows[name].numpy()
        return [np.linalg.eigh(one.T @ one)[1][:, :-11:-1] for one in np.split(g, 2)]

    def cosines(one: np.ndarray, other: np.ndarray) -> float:
        return float(np.mean(np.cos(subspace_angles(one, other)) ** 2))

    matrix = found["overlaps"][1]
    lenet, resnet = sides("lenet"), sides("resnet18")
    assert matrix[0][0] == pytest.approx(cosines(*lenet), rel=1e-5)
    across = np.mean([cosines(one, other) for one in lenet for other in resnet])
    assert [matrix[0][1], matrix[1][0]] == pytest.approx([across] * 2, rel=1e-5)
    first, second = (torch.tensor(one.T.copy()) for one in lenet)
    assert alike(first, first, 10) == pytest.approx(1)
    assert alike(first, second, 1) == pytest.approx(float(first[0] @ second[0]) ** 2)


def test_mixed_derivatives_are_the_librarys(found: dict[str, Any], rows: dict[str, Tensor]) -> None:
    at = torch.randn(1, 16, 16, generator=torch.Generator().manual_seed(1))
    mixed = directions(
        lambda: models.lenet((1, 16, 16), width=0.25), (1, 16, 16), method="mixed", networks=1,
        step=100, at=at, seed=3,
    ).vectors  # fmt: skip
    own = components(rows["lenet"])[1]
    expected = [float(np.mean((own[:k] @ mixed[:k].T).square().sum().item() / k)) for k in (2, 10)]
    assert found["mixed"] == pytest.approx(expected, rel=1e-5)


def test_combs_and_frequencies_that_are_known() -> None:
    """Impulses, waves on them, a single wave, noise."""
    impulses = torch.zeros(32, 32, dtype=torch.float64)
    impulses[3::8, 5::8] = 1
    wave = torch.cos(2 * torch.pi * (3 * torch.arange(32.0) / 32 + 0.1)).double()
    basis = fourier_basis((32, 32))
    place = basis.place((3, 4))
    noise = torch.randn(32, 32, generator=torch.Generator().manual_seed(0)).double()
    images = torch.stack([impulses, impulses * wave, basis.vectors[place].view(32, 32), noise])
    energy = torch.fft.fft2(images).abs().square()
    combs = comb_share(energy, 4)
    # A wave on the impulses moves the comb to both sides: half of it is on each.
    torch.testing.assert_close(combs[:3], torch.tensor([1, 0.5, 0.5]).double())
    assert 1 / 16 < float(combs[3]) < 0.15
    assert float(mean_frequency(energy)[2]) == pytest.approx(5)
    axis = np.fft.fftfreq(32, 1 / 32)
    radius = np.hypot(axis[:, None], axis)
    expected = (energy[3].numpy() * radius).sum() / energy[3].sum()
    assert float(mean_frequency(energy)[3]) == pytest.approx(float(expected))
    unit = images[:1].view(1, -1) / images[0].norm()
    looked = looked_at(torch.ones(1).double(), unit, (1, 32, 32))
    assert looked["comb"] == [1] and looked["spread"] == pytest.approx([64])


def test_the_same_seed_gives_the_same_numbers(found: dict[str, Any]) -> None:
    assert Signatures().measure(SMALL, 1, lambda _: None)[0] == found


def made() -> dict[str, Any]:
    """Ten directions of each, with numbers that are easy to follow."""
    names = ["lenet", "vgg11", "resnet18", "densenet121", "perceptron"]
    rising = [float(one) for one in range(10)]
    return {
        "size": 1000,
        "architectures": names,
        "places": [1, 10],
        "leading": [5, 10],
        "spread": {
            "lenet": [1, 2, 3, 99], "vgg11": [4, 5, 6, 0], "resnet18": [9, 9, 9, 0],
            "densenet121": [1], "perceptron": [500],
        },
        "comb": {"resnet18": [0.9, 0.8, 0.7, 0.0]},
        "frequency": {
            "lenet": rising, "vgg11": rising, "resnet18": rising, "perceptron": rising,
            "densenet121": [0.0, 16.0, *[8.0 - one for one in range(8)]],
        },
        "elsewhere": {
            "lenet": [0, 0.1], "vgg11": [0, 0.3], "resnet18": [0, 0.5], "densenet121": [0, 0.6],
            "perceptron": [0, 0.02],
        },
        "overlaps": [
            [],
            [
                [0.5, 0.3, 0.1, 0.2, 0.9],
                [0.3, 0.4, 0.1, 0.35, 0.9],
                [0.1, 0.1, 0.8, 0.1, 0.9],
                [0.2, 0.35, 0.1, 0.7, 0.9],
                [0.9, 0.9, 0.9, 0.9, 0.0],
            ],
        ],
        "mixed": [0.0, 0.25],
    }  # fmt: skip


def test_statistics_of_known_directions() -> None:
    found = Signatures().statistics(made())
    assert found == {
        "signature": pytest.approx(0.05),
        "resnet-spikes": pytest.approx(4),
        "resnet-comb": pytest.approx(0.8),
        "dense-order": pytest.approx(-5 / 11 - 1),
        "dense-second": pytest.approx(16 - 4.5),
        "decay-order": pytest.approx(0.2),
        "perceptron-flat": pytest.approx(0.2),
        "mixed-aligned": pytest.approx(0.24),
    }
    assert list(found) == [claim.name for claim in Signatures().claims]


def test_figures_and_table_come_from_the_results(found: dict[str, Any]) -> None:
    study = Signatures()
    gallery, spectra, overlaps = study.figures([found, found])
    assert [panel.title for panel in gallery.panels] == ["LeNet", "ResNet-18"]
    assert gallery.panels[0].alt.startswith("LeNet. Directions: number 1, energy")
    last = found["spectrum"]["lenet"][3]
    assert f"LeNet {last:.3g} at 22" in spectra.panels[0].alt
    assert "perceptron from" in spectra.panels[1].alt
    assert overlaps.panels[1].title == "First 10 directions (chance 0.039)"
    assert f"LeNet {found['overlaps'][1][0][0]:.2f}" in overlaps.panels[1].alt
    rows = {row.quantity: row for row in study.table([found, found])}
    assert len(rows) == 2 + 3 * 3 + 1 + 2
    matrix = found["overlaps"][1]
    corrected = matrix[0][1] / (matrix[0][0] * matrix[1][1]) ** 0.5
    (row,) = [
        one for name, one in rows.items() if name.startswith("overlap of the first 10, LeNet")
    ]
    assert row.here == f"{matrix[0][1]:.3f} ({corrected:.2f})"
    assert row.document == "0.058 (published directions)"
    assert rows["effective rank, 24 networks, LeNet"].here == f"{found['rank']['lenet']:.3g}"
