"""A report from end to end: its numbers, its figures, its page."""

from __future__ import annotations

import base64
import html as entities
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.report.conftest import Finished


@pytest.fixture(params=["images", "points"])
def finished(request: pytest.FixtureRequest) -> Finished:
    found: Finished = request.getfixturevalue(request.param)
    return found


def numbers_in(value: Any) -> Iterator[float]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from numbers_in(item)
    elif isinstance(value, int | float):
        yield value


def pictures(html: str) -> list[str]:
    """The SVG text of every figure."""
    sources = re.findall(r'<img src="data:image/svg\+xml;base64,([^"]+)"', html)
    return [base64.b64decode(source).decode() for source in sources]


def test_only_the_page_and_its_numbers_are_left(finished: Finished) -> None:
    assert sorted(path.name for path in finished.folder.iterdir()) == ["report.html", "report.json"]


def test_every_number_is_finite(finished: Finished) -> None:
    values = list(numbers_in(finished.numbers))
    assert len(values) > 1000
    assert all(abs(value) < float("inf") for value in values)
    assert not re.search(r"\bnan\b", re.sub(r'base64,[^"]+', "", finished.html), re.IGNORECASE)


def test_the_numbers_have_every_part(images: Finished) -> None:
    found = images.numbers
    steps = [record["step"] for record in found["series"]]
    assert (steps[0], steps[-1]) == (0, found["training"]["steps"]) == (0, 8)
    assert {record_key for record in found["series"] for record_key in record} == {
        "step", "seconds", "loss", "distance", "spectrum", "effective_rank", "trace_ratios",
        "alignment", "drift",
    }  # fmt: skip
    assert [kernel["state"] for kernel in found["kernels"]] == ["before training", "after training"]
    assert [fisher["state"] for fisher in found["fishers"]] == ["before training", "after training"]
    assert len(found["approximations"]["states"]) == 2
    assert [part["part"] for part in found["cost"]] == [
        "reading the data",
        "training, with probes",
        "tangent kernel",
        "Fisher matrix by layer",
        "approximations of the Fisher",
    ]
    assert all(part["seconds"] > 0 and part["peak_bytes"] > 10**7 for part in found["cost"])


def test_sizes_agree_with_each_other(images: Finished) -> None:
    found = images.numbers
    probe, layers = found["data"]["probe_labels"], found["network"]["layers"]
    assert probe == sorted(probe)
    assert len(probe) == 20
    assert sum(layer["parameters"] for layer in layers) == found["network"]["parameters"] == 316
    for record in found["series"]:
        assert len(record["spectrum"]["eigenvalues"]) == 20 * 10
        layers_traces = dict(record["spectrum"]["trace"])
        assert layers_traces.pop("all") == pytest.approx(sum(layers_traces.values()), rel=1e-4)
    for kernel in found["kernels"]:
        assert (len(kernel["cosines"]), len(kernel["cosines"][0])) == (20, 20)
        assert [kernel["cosines"][i][i] for i in range(20)] == pytest.approx([1] * 20, abs=1e-3)
    for fisher in found["fishers"]:
        assert fisher["trace"] == pytest.approx(sum(layer["trace"] for layer in fisher["layers"]))


def test_ekfac_keeps_the_trace_and_is_no_further_than_kfac(images: Finished) -> None:
    for state in images.numbers["approximations"]["states"]:
        form = {one["representation"]: one for one in state["representations"]}
        assert form["ekfac"]["trace"] == pytest.approx(0, abs=1e-5)
        assert form["diagonal"]["trace"] == pytest.approx(0, abs=1e-5)
        assert state["between_layers"] <= form["ekfac"]["frobenius"] + 1e-6
        assert form["ekfac"]["frobenius"] <= form["kfac"]["frobenius"] + 1e-6
        assert form["ekfac"]["solve"][-1]["cosine"]["value"] > 0.99


def test_a_large_network_gets_a_companion_and_the_page_says_so(points: Finished) -> None:
    compared = points.numbers["approximations"]
    assert compared["companion"]
    assert compared["network"]["parameters"] < 3000 < points.numbers["network"]["parameters"]
    assert "small companion network" in points.html
    assert f"{compared['network']['parameters']} parameters" in points.html


def test_no_companion_where_the_network_is_small(images: Finished) -> None:
    assert not images.numbers["approximations"]["companion"]
    assert "companion" not in images.html


def test_the_page_loads_nothing_from_elsewhere(finished: Finished) -> None:
    loaded = re.findall(r'(?:src|href)\s*=\s*"([^"]*)"', finished.html)
    assert [one for one in loaded if not one.startswith(("data:", "#"))] == []
    assert not re.search(r"url\(|@import|<script", finished.html)
    outside_figures = re.sub(r'base64,[^"]+', "", finished.html)
    assert "http:" not in outside_figures
    assert "https:" not in outside_figures
    for svg in pictures(finished.html):
        references = re.findall(r'href="([^"]*)"', svg)
        assert all(one.startswith(("#", "data:")) for one in references)
        assert "@import" not in svg


@pytest.mark.parametrize(("name", "panels"), [("images", 31), ("points", 31)])
def test_every_figure_is_there_with_a_text_in_its_place(
    name: str, panels: int, request: pytest.FixtureRequest
) -> None:
    found: Finished = request.getfixturevalue(name)
    assert len(pictures(found.html)) == panels
    texts = [entities.unescape(alt) for alt in re.findall(r'alt="([^"]*)"', found.html)]
    assert len(texts) == panels
    assert all(len(text) > 20 for text in texts)


def test_every_figure_says_how_to_read_it(finished: Finished) -> None:
    captions = re.findall(r"<figcaption><h3>(.+?)</h3><p>(.+?)</p></figcaption>", finished.html)
    assert len(captions) == finished.html.count("<figure") == 13
    assert all(len(reading) > 60 for _, reading in captions)


def test_every_link_of_the_contents_leads_somewhere(finished: Finished) -> None:
    targets = re.findall(r'href="#([^"]+)"', finished.html)
    assert len(targets) == 9
    assert all(f'id="{target}"' in finished.html for target in targets)


def test_the_numbers_on_the_page_are_those_in_the_file(images: Finished) -> None:
    plain = entities.unescape(re.sub(r"<[^>]+>", "", images.html))
    last = images.numbers["series"][-1]
    assert images.numbers["summary"]["headline"] in plain
    assert f"{last['loss']['test']['accuracy']:.1%}" in plain
    assert f"{last['effective_rank']['all']:.1f}" in plain
    for tile in images.numbers["summary"]["tiles"]:
        assert tile["value"] in plain


def timeless(numbers: dict[str, Any]) -> str:
    """The numbers without those that a clock or a meter gave."""
    kept = {key: value for key, value in numbers.items() if key != "cost"}
    kept["series"] = [{k: v for k, v in r.items() if k != "seconds"} for r in numbers["series"]]
    return json.dumps(kept, sort_keys=True)


@pytest.mark.usefixtures("points", "undrawn")
def test_the_same_seed_gives_the_same_numbers(
    points: Finished, files: Path, finish: Callable[..., Finished]
) -> None:
    again = finish(
        data=f"{files}/data.py:make_points",
        model=f"{files}/model.py:make_wide",
        epochs=2,
        samples=12,
    )
    assert timeless(again.numbers) == timeless(points.numbers)


def test_without_training_the_network_is_measured_as_given(
    files: Path, finish: Callable[..., Finished]
) -> None:
    found = finish(model=f"{files}/model.py:make_fixed", train=False, samples=20)
    assert found.numbers["training"] is None
    assert len(found.numbers["series"]) == 1
    assert [kernel["state"] for kernel in found.numbers["kernels"]] == ["as given"]
    assert "without training" in found.html
    assert "learning-section" not in found.html
    assert found.html.count("<img") > 8
