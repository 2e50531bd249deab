"""A look at directions from end to end: its numbers against numpy, its page, its files."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pullback import InputError
from pullback.anisotropy import Directions, directions, fourier_basis
from pullback.anisotropy.models import ARCHITECTURES
from pullback.anisotropy.population import Population, State
from pullback.report.anisotropy import (
    AnisotropySettings,
    anisotropy_figures,
    make,
    make_anisotropy_report,
    render_anisotropy,
)
from pullback.report.anisotropy.figures import draw
from pullback.report.anisotropy.measure import direction_numbers
from pullback.report.anisotropy.networks import factory
from pullback.report.anisotropy.page import with_error
from tests.report.conftest import Finished
from tests.report.test_report import numbers_in, pictures

CODE = """
from torch import nn

def small(shape):
    return nn.Sequential(
        nn.Conv2d(shape[0], 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 1)
    )

def smooth():
    return nn.Sequential(nn.Flatten(), nn.Linear(6, 4), nn.GELU(), nn.Linear(4, 2)).double()

def nothing():
    return "a network"

def trouble():
    raise RuntimeError("out\\nof order")
"""


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's file."""
    path = tmp_path_factory.mktemp("code") / "code.py"
    path.write_text(CODE)
    return path


def small(code: Path, **choices: Any) -> AnisotropySettings:
    return AnisotropySettings(f"{code}:small", "1x8x8", **{"networks": 200, **choices})


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """No figures, for tests of everything else: drawing takes most of the time."""
    monkeypatch.setattr(make, "draw", lambda numbers: {})
    monkeypatch.setattr(make, "render_anisotropy", lambda report, figures: "")


def report(settings: AnisotropySettings, out: Path) -> dict[str, Any]:
    make_anisotropy_report(settings, out)
    found: dict[str, Any] = json.loads((out / "nads.json").read_text(encoding="utf-8"))
    return found


class TestNumbers:
    """Of nads.json, from the arrays in nads.safetensors."""

    @pytest.fixture
    def found(self, preferred: Finished) -> Directions:
        return Directions.load(preferred.folder / "nads.safetensors")

    @pytest.fixture
    def numbers(self, preferred: Finished) -> dict[str, Any]:
        return dict(preferred.numbers["directions"])

    def test_the_directions_are_the_librarys(self, preferred: Finished, found: Directions) -> None:
        settings = AnisotropySettings(shape="1x16x16", networks=300, seed=3)
        expected = directions(factory(settings), (1, 16, 16), networks=300, seed=3)
        assert torch.equal(found.vectors, expected.vectors)
        assert torch.equal(found.spectrum, expected.spectrum)
        assert preferred.numbers["settings"]["networks"] == 300

    def test_spectrum(self, numbers: dict[str, Any], found: Directions) -> None:
        values = found.spectrum.numpy()
        assert numbers["spectrum"] == pytest.approx(values, rel=1e-7)
        assert numbers["stderr"] == pytest.approx(found.stderr.numpy(), rel=1e-7)
        assert numbers["overlap"] == pytest.approx(found.overlap.numpy(), rel=1e-7)
        shares = values / values.sum()
        assert numbers["cumulative"] == pytest.approx(shares.cumsum(), rel=1e-7)
        positive = shares[shares > 0]
        rank = np.exp(-(positive * np.log(positive)).sum())
        assert numbers["effective_rank"]["value"] == pytest.approx(rank, rel=1e-6)
        assert numbers["participation"]["value"] == pytest.approx(1 / (shares**2).sum())
        assert numbers["leading_share"]["value"] == pytest.approx(shares[:10].sum())
        assert numbers["most"] == 1 + np.searchsorted(shares.cumsum(), 0.9)
        assert numbers["rank"] == found.rank and numbers["count"] == 256

    def test_errors_are_those_of_leaving_out_a_group(
        self, numbers: dict[str, Any], found: Directions
    ) -> None:
        assert found.groups is not None
        groups = found.groups.numpy()
        count = len(groups)
        without = found.spectrum.numpy() + (groups.mean(0) - groups) / (count - 1)
        shares = without[:, :10].sum(1) / without.sum(1)
        expected = shares.std() * (count - 1) ** 0.5
        assert numbers["leading_share"]["stderr"] == pytest.approx(expected, rel=1e-6)

    def test_pictures(self, numbers: dict[str, Any], found: Directions) -> None:
        assert len(numbers["pictures"]) == 12
        for place in (0, 7):
            picture, image = numbers["pictures"][place], found.image(place).numpy()[0]
            np.testing.assert_allclose(picture["pixels"][0], image, rtol=1e-4)
            energy = np.abs(np.fft.fftshift(np.fft.fft2(image))) ** 2 / image.size
            np.testing.assert_allclose(picture["energy"], energy, rtol=1e-4)
            assert np.sum(picture["energy"]) == pytest.approx(1, abs=1e-3)

    @pytest.mark.parametrize("shape", [(4, 6), (5, 5), (7,), (8,)])
    def test_each_fourier_vector_has_its_peak_at_its_frequency(self, shape: tuple) -> None:
        basis = fourier_basis(shape)
        size = len(basis.vectors)
        known = torch.linspace(2, 1, size, dtype=torch.float64)
        found = Directions(
            basis.vectors.double(), known, known, known,
            {"meaning": "a test", "method": "kernel", "networks": 1}, shape,
        )  # fmt: skip
        pictures = direction_numbers(found, size)["pictures"]
        assert pictures is not None
        for picture, frequency in zip(pictures, basis.frequencies.tolist(), strict=True):
            assert picture["peak_energy"] == pytest.approx(1, abs=1e-6)
            named = picture["peak"][-len(shape) :]
            mirror = [-one for one in frequency]
            assert any(
                all((a - b) % n == 0 for a, b, n in zip(named, one, shape, strict=True))
                for one in (frequency, mirror)
            )


@pytest.mark.usefixtures("undrawn")
class TestChoices:
    """Each choice is the library's."""

    @pytest.mark.parametrize(
        ("choices", "options"),
        [
            ({"step": 2.0, "at": "zero"}, {"step": 2.0, "at": torch.zeros(6)}),
            ({"method": "mixed", "networks": 4}, {"method": "mixed", "networks": 4}),
            ({"method": "mean mixed", "networks": 4}, {"method": "mean mixed", "networks": 4}),
            ({"method": "kernel", "samples": 64}, {"method": "kernel", "samples": 64}),
        ],
    )
    def test_they_arrive(self, code: Path, tmp_path: Path, choices: dict, options: dict) -> None:
        settings = AnisotropySettings(
            f"{code}:smooth", "6", outputs="0,1", **{"networks": 24, "seed": 1, **choices}
        )
        if choices.get("method") == "kernel":
            settings = AnisotropySettings(f"{code}:smooth", "6", outputs="0,1", seed=1, **choices)
        report(settings, tmp_path)
        found = Directions.load(tmp_path / "nads.safetensors")
        default = {} if "method" in options else {"networks": 24}
        expected = directions(
            factory(settings), (6,), outputs=(0, 1), seed=1, **{**default, **options}
        )
        assert torch.equal(found.spectrum, expected.spectrum)

    @pytest.mark.parametrize("model", list(ARCHITECTURES))
    def test_named_architectures_can_be_narrow(self, model: str) -> None:
        for width in (1 / 32, 1.0):
            made = factory(AnisotropySettings(model, "1x32x32", width=width))()
            expected = ARCHITECTURES[model]((1, 32, 32), 1, width=width)
            shapes, others = ([one.shape for one in net.parameters()] for net in (made, expected))
            assert shapes == others

    def test_one_network_has_no_errors(self, code: Path, tmp_path: Path) -> None:
        found = report(small(code, networks=1), tmp_path)["directions"]
        assert found["stderr"] is None and found["overlap"] is None
        assert found["effective_rank"] == {"value": pytest.approx(1, rel=1e-4), "stderr": None}
        assert found["rank"] == 1


class TestPage:
    """What is left for a person."""

    def test_files(self, preferred: Finished) -> None:
        assert sorted(path.name for path in preferred.folder.iterdir()) == [
            "figures", "nads.html", "nads.json", "nads.safetensors",
        ]  # fmt: skip
        drawn = [path.read_text() for path in sorted((preferred.folder / "figures").iterdir())]
        assert sorted(drawn) == sorted(pictures(preferred.html))
        assert len(drawn) == 4 + 2 + 1

    def test_sections_and_headline(self, preferred: Finished) -> None:
        for key in ("gallery", "spectrum", "overlap", "measured", "cost"):
            assert f'id="{key}-section"' in preferred.html
            assert f'href="#{key}-section"' in preferred.html
        found = preferred.numbers["directions"]
        lead = re.findall(r'class="lead">(.*?)</p>', preferred.html)[0].replace("\u00a0", " ")
        assert lead.startswith("300 random networks, gradients by the input")
        assert with_error(found["effective_rank"]) in lead and "±" in lead
        assert with_error(found["leading_share"], 100) in lead
        assert f"overlap by {found['overlap'][9]:.2f}" in lead

    def test_every_number_is_finite(self, preferred: Finished) -> None:
        assert all(abs(value) < float("inf") for value in numbers_in(preferred.numbers))
        text = re.sub(r'base64,[^"]+', "", preferred.html)
        assert not re.search(r"\bnan\b", text, re.IGNORECASE)

    def test_it_loads_nothing_from_elsewhere(self, preferred: Finished) -> None:
        loaded = re.findall(r'(?:src|href)\s*=\s*"([^"]*)"', preferred.html)
        assert [one for one in loaded if not one.startswith(("data:", "#"))] == []
        assert "http" not in re.sub(r'base64,[^"]+', "", preferred.html)

    def test_every_figure_has_words(self, preferred: Finished) -> None:
        texts = re.findall(r'alt="([^"]*)"', preferred.html)
        assert len(texts) == preferred.html.count("<img") == 7
        assert all(len(text) > 20 for text in texts)

    def test_what_there_is_not_is_left_out(self, code: Path, tmp_path: Path) -> None:
        """One network of signals: no errors, no overlap."""
        settings = AnisotropySettings(f"{code}:smooth", "6", networks=1, step=2, outputs="1")
        make_anisotropy_report(settings, tmp_path)
        html = (tmp_path / "nads.html").read_text(encoding="utf-8")
        assert "overlap-section" not in html and "±" not in html
        assert "gallery-section" in html
        assert "1 random network, gradients by the input (finite differences, step 2)" in html
        assert "Only the first 1 of 6 directions" in html


@pytest.fixture(scope="module")
def colours() -> Directions:
    """Directions of logistic regression on small images of three channels."""
    settings = AnisotropySettings("logistic-regression", "3x4x5")
    return directions(factory(settings), (3, 4, 5), networks=160)


class TestFigures:
    """For any caller."""

    def test_the_gallery_is_symmetric_about_zero_and_has_zero_frequency_in_the_middle(
        self, colours: Directions
    ) -> None:
        above = anisotropy_figures(colours, pictures=4)["gallery"].axes
        images = [ax.images[0] for ax in above if ax.images]
        assert len(images) == 8
        # Two rows of three directions: directions 0 to 2, their energies, and direction 3.
        for place, image in enumerate([*images[:3], images[6]]):
            low, high = image.get_clim()
            pixels = colours.image(place).numpy()
            assert -low == high == pytest.approx(np.abs(pixels).max(), rel=1e-4)
            shown = np.asarray(image.get_array())
            np.testing.assert_allclose(shown, np.concatenate(list(pixels), 1), rtol=1e-4)
        energy = np.asarray(images[3].get_array())
        sums = colours.image(0).numpy().sum((1, 2))
        assert energy[2, 2] == pytest.approx((sums**2).sum() / 20, rel=1e-3)

    def test_lines_are_the_numbers(self, colours: Directions) -> None:
        drawn = anisotropy_figures(colours)
        lines = {name: drawn[name].axes[0].lines for name in ("spectrum", "share", "overlap")}
        relative = (colours.spectrum / colours.spectrum[0]).numpy()
        np.testing.assert_allclose(lines["spectrum"][0].get_ydata(), relative, rtol=1e-6)
        np.testing.assert_allclose(lines["overlap"][0].get_ydata(), colours.overlap, rtol=1e-6)
        np.testing.assert_allclose(lines["share"][1].get_ydata(), np.arange(1, 61) / 60)
        bars = drawn["spectrum"].axes[0].containers[0].lines[2][0].get_segments()
        heights = [float(bar[1, 1] - bar[0, 1]) / 2 for bar in bars]
        relative = (colours.stderr / colours.spectrum[0]).numpy()
        assert heights[0] == pytest.approx(relative[0], rel=1e-6)

    def test_directions_that_were_given_have_all_but_errors_and_halves(
        self, colours: Directions
    ) -> None:
        given = Directions.from_arrays(colours.vectors[:59], colours.spectrum[:59], (3, 4, 5))
        assert list(anisotropy_figures(given)) == ["gallery", "spectrum", "share"]
        numbers = direction_numbers(given)
        assert numbers["stderr"] is None and numbers["overlap"] is None and numbers["rank"] == 59
        assert numbers["effective_rank"]["stderr"] is None
        drawn = draw(numbers)
        assert list(drawn) == ["gallery", "spectrum"]
        assert "value of each direction, as given. Second" in drawn["spectrum"][0].reading
        drawn = draw(direction_numbers(colours))
        assert ", with one standard error. Second" in drawn["spectrum"][0].reading

    def test_a_page_of_directions_that_were_given(
        self, preferred: Finished, colours: Directions
    ) -> None:
        given = Directions.from_arrays(colours.vectors[:59], colours.spectrum[:59], (3, 4, 5))
        html = render_anisotropy({**preferred.numbers, "directions": direction_numbers(given)})
        assert "as given" in html and "overlap-section" not in html and "59" in html

    def test_inputs_of_more_dimensions_have_no_gallery(self, colours: Directions) -> None:
        other = Directions(
            colours.vectors, colours.spectrum, colours.stderr, colours.overlap, colours.settings,
            (3, 2, 2, 5),
        )  # fmt: skip
        assert list(anisotropy_figures(other)) == ["spectrum", "share", "overlap"]
        with pytest.raises(InputError, match="pictures: 0"):
            anisotropy_figures(colours, pictures=0)


@pytest.mark.usefixtures("undrawn")
class TestInterruption:
    """Nothing is half-written, and no network is drawn twice."""

    def cut(self, monkeypatch: pytest.MonkeyPatch, at: int) -> list[int]:
        plain, drawn = Population.stack, []

        def stack(self: Population, place: int) -> State:
            drawn.append(place)
            if len(drawn) == at:
                raise KeyboardInterrupt
            return plain(self, place)

        monkeypatch.setattr(Population, "stack", stack)
        return drawn

    def test_a_run_goes_on_where_it_was(
        self, code: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        expected = report(small(code), tmp_path / "whole")
        drawn = self.cut(monkeypatch, 4)
        with pytest.raises(KeyboardInterrupt):
            make_anisotropy_report(small(code), tmp_path / "cut")
        assert [path.name for path in (tmp_path / "cut").iterdir()] == [".work"]
        make_anisotropy_report(small(code), tmp_path / "cut", resume=True)
        assert drawn == [0, 1, 2, 3, 3, 4, 5, 6, 7]
        found = json.loads((tmp_path / "cut" / "nads.json").read_text())
        assert found["directions"] == expected["directions"]
        assert "interrupted" in found["notes"][0]
        assert not (tmp_path / "cut" / ".work").exists()

    def test_other_choices_do_not_go_on(
        self, code: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.cut(monkeypatch, 3)
        with pytest.raises(KeyboardInterrupt):
            make_anisotropy_report(small(code), tmp_path)
        with pytest.raises(InputError, match="seed 0, now 1"):
            make_anisotropy_report(small(code, seed=1), tmp_path, resume=True)


class TestBadInput:
    """One clear error, and nothing written."""

    @pytest.mark.parametrize(
        ("choices", "named"),
        [
            ({"shape": "1x0x3"}, "shape: '1x0x3'"),
            ({"shape": "big"}, "shape: 'big'"),
            ({"method": "gradients"}, "method: 'gradients'"),
            ({"at": "there"}, "at: 'there'"),
            ({"outputs": "a"}, "outputs: 'a'"),
            ({"outputs": "1,2,3"}, "outputs: '1,2,3'"),
            ({"model": "alexnet"}, "model: 'alexnet' is unknown"),
            ({"model": "no.py:f"}, "model: there is no file"),
            ({"model": "{code}:small", "width": 0.5}, "width: 0.5, for"),
            ({"width": 0.0}, "width: 1, 0.0"),
            ({"model": "{code}:nothing"}, "returned str"),
            ({"model": "{code}:trouble"}, "trouble failed: RuntimeError: out of order"),
            ({"model": "{code}:smooth", "shape": "5"}, "does not take inputs of shape"),
            ({"model": "{code}:smooth", "shape": "6"}, "outputs: the network has 2"),
            ({"shape": "1x9x9"}, "shape"),
            ({"networks": 0}, "networks: 0"),
            ({"step": -1.0}, "step: -1.0"),
        ],
    )
    def test_it_is_named(self, code: Path, tmp_path: Path, choices: dict, named: str) -> None:
        filled = {
            key: one.format(code=code) if isinstance(one, str) else one
            for key, one in choices.items()
        }
        with pytest.raises(InputError, match=re.escape(named)):
            make_anisotropy_report(AnisotropySettings(**filled), tmp_path / "n")
        assert list(tmp_path.iterdir()) == []


def test_numbers_with_errors() -> None:
    assert with_error({"value": 0.0478, "stderr": 0.00065}, 100) == "4.780 ± 0.065"
    assert with_error({"value": 1023.9, "stderr": 12.0}) == "1,024 ± 12"
    assert with_error({"value": 1023.9, "stderr": None}) == "1,024"
    assert with_error({"value": 0.04781, "stderr": 0.0}) == "0.0478"
