"""Small user files, and some finished reports that the tests of this folder look at.

Like the conftest above, this file imports pullback only inside its fixtures.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

MODEL = """
from torch import nn

def make_model(shape, classes):
    return nn.Sequential(
        nn.Conv2d(shape[0], 3, 3, stride=2), nn.BatchNorm2d(3), nn.ReLU(), nn.Dropout(0.1),
        nn.Flatten(), nn.Linear(27, classes),
    )

def make_fixed():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

def make_nothing():
    return "a model"

def make_trouble():
    raise RuntimeError("out\\nof order")

def make_wide():
    return nn.Sequential(nn.Linear(5, 500), nn.Tanh(), nn.Linear(500, 3))
"""
DATA = """
import torch
from torch.utils.data import DataLoader, TensorDataset

generator = torch.Generator().manual_seed(0)
x = torch.randn(48, 5, generator=generator)
y = x[:, :3].argmax(1)

def make_points():
    return DataLoader(TensorDataset(x, y), batch_size=16, shuffle=True)

def make_pair():
    return make_points(), [(x[:20], y[:20])]

def make_empty():
    return []

def make_labels_too_large():
    return [(x, y + 100)]

def make_negative_labels():
    return [(x, y - 5)]

def make_real_labels():
    return [(x, x[:, 0])]

def make_iterator():
    return iter([(x, y)])

def make_nothing():
    return 7

def make_nan():
    return [(x / 0, y)]

def make_unpaired():
    return [x]
"""


@dataclass(frozen=True)
class Finished:
    """A report that was made."""

    folder: Path
    html: str
    numbers: dict[str, Any]


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with model.py, data.py and broken.py."""
    folder = tmp_path_factory.mktemp("user")
    (folder / "model.py").write_text(MODEL)
    (folder / "data.py").write_text(DATA)
    (folder / "broken.py").write_text("import no_such_module\n")
    return folder


@pytest.fixture(scope="session")
def finish(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Finished]:
    """Make a report with some settings in a new folder."""

    def make(**choices: Any) -> Finished:
        from pullback.report import Settings, make_report

        out = tmp_path_factory.mktemp("out") / "report"
        page = make_report(Settings(**choices), out)
        numbers = json.loads((out / "report.json").read_text(encoding="utf-8"))
        return Finished(out, page.read_text(encoding="utf-8"), numbers)

    return make


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports without figures, for tests of everything else: drawing takes most of the time."""
    from pullback.report import page

    monkeypatch.setattr(page, "render", lambda report: "<html></html>")


@pytest.fixture(scope="session")
def images(files: Path, finish: Callable[..., Finished]) -> Finished:
    """A network with batch norm and dropout that learned 8x8 digits for a few steps.

    Its page is drawn from report.json as it was read back, so nothing on it is from elsewhere.
    """
    from pullback.report import page

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page, "render", lambda report: "")
        found = finish(model=f"{files}/model.py:make_model", epochs=1, batch_size=200, samples=20)
    html = page.render(found.numbers)  # type: ignore[arg-type]
    (found.folder / "report.html").write_text(html, encoding="utf-8")
    return Finished(found.folder, html, found.numbers)


@pytest.fixture(scope="session")
def points(files: Path, finish: Callable[..., Finished]) -> Finished:
    """The user's own data, no images, no test samples, and a network too large for dense."""
    return finish(
        data=f"{files}/data.py:make_points",
        model=f"{files}/model.py:make_wide",
        epochs=2,
        samples=12,
    )


@pytest.fixture(scope="session")
def looked(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A look at the kernel of a network that learned 8x8 digits for a few steps.

    Its page is drawn again from kernel.json as it was read back.
    """
    from pullback.report import Settings
    from pullback.report.kernel import KernelSettings, make_kernel_report, render_kernel

    out = tmp_path_factory.mktemp("kernel")
    subject = Settings(train=True, epochs=1, batch_size=200, samples=40)
    make_kernel_report(KernelSettings(subject, functions=2, gram=True), out)
    numbers = json.loads((out / "kernel.json").read_text(encoding="utf-8"))
    html = (out / "kernel.html").read_text(encoding="utf-8")
    assert html == render_kernel(numbers)
    return Finished(out, html, numbers)


@pytest.fixture(scope="session")
def preferred(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """The directions that LeNet prefers, of small images.

    Its page is drawn again from nads.json as it was read back.
    """
    from pullback.report.anisotropy import (
        AnisotropySettings,
        make_anisotropy_report,
        render_anisotropy,
    )

    out = tmp_path_factory.mktemp("nads")
    make_anisotropy_report(AnisotropySettings(shape="1x16x16", networks=300, seed=3), out)
    numbers = json.loads((out / "nads.json").read_text(encoding="utf-8"))
    html = (out / "nads.html").read_text(encoding="utf-8")
    assert html == render_anisotropy(numbers)
    return Finished(out, html, numbers)
