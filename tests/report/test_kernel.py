"""A look at a kernel from end to end: its numbers against numpy, its page, its files."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import pullback as pb
from pullback import InputError
from pullback.report import Settings
from pullback.report.kernel import KernelSettings, make, make_kernel_report
from tests.report.conftest import Finished
from tests.report.test_report import numbers_in, pictures

CODE = """
import torch
from torch import nn

generator = torch.Generator().manual_seed(3)
x = torch.randn(40, 4, generator=generator, dtype=torch.float64)
y = torch.where(x[:, 0] > 0.4, 2, torch.where(x[:, 0] < -0.4, 0, 1))

def data():
    return [(x[:25], y[:25])], [(x[25:], y[25:])]

def two_classes():
    return [(x[:25], (y[:25] > 0).long())]

def one_class():
    return [(x[:25], torch.ones(25, dtype=torch.long))]

def linear():
    torch.manual_seed(0)
    return nn.Linear(4, 3).double()

def single():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 1)).double()

def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()
"""


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's file with data in double precision and three models."""
    path = tmp_path_factory.mktemp("code") / "code.py"
    path.write_text(CODE)
    return path


@pytest.fixture(scope="module")
def own(code: Path) -> dict[str, Any]:
    """What the user's file defines."""
    namespace: dict[str, Any] = {}
    exec(CODE, namespace)
    return namespace


def settings(
    code: Path, model: str, data: str = "data", train: bool = False, **choices: Any
) -> KernelSettings:
    subject = Settings(
        data=f"{code}:{data}", model=f"{code}:{model}", train=train, epochs=3, samples=75
    )
    return KernelSettings(subject, **choices)


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """No figures, for tests of everything else: drawing takes most of the time."""
    monkeypatch.setattr(make, "draw", lambda report: {})
    monkeypatch.setattr(make, "render_kernel", lambda report, figures: "")


def numbers(chosen: KernelSettings, out: Path) -> dict[str, Any]:
    make_kernel_report(chosen, out)
    found: dict[str, Any] = json.loads((out / "kernel.json").read_text(encoding="utf-8"))
    return found


@pytest.fixture(scope="module")
def linear(code: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The numbers of the linear model's only state."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(make, "draw", lambda report: {})
        patch.setattr(make, "render_kernel", lambda report, figures: "")
        (state,) = numbers(settings(code, "linear"), tmp_path_factory.mktemp("linear"))["states"]
    return dict(state)


def in_order(own: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """The training samples class after class, as the kernel takes them."""
    x, y = own["x"][:25], own["y"][:25]
    order = y.argsort(stable=True)
    return x[order].numpy(), y[order].numpy()


class TestNumbersOfALinearModel:
    """Its kernel is known: `c (x x' + 1)` for the sum over outputs."""

    @pytest.fixture
    def state(self, linear: dict[str, Any]) -> dict[str, Any]:
        return linear

    @pytest.fixture
    def kernel(self, own: dict[str, Any]) -> np.ndarray:
        x, _ = in_order(own)
        return 3 * (x @ x.T + 1)

    @pytest.fixture
    def centred(self, kernel: np.ndarray) -> np.ndarray:
        h = np.eye(25) - 1 / 25
        return np.asarray(h @ kernel @ h)

    def one_hot(self, own: dict[str, Any]) -> np.ndarray:
        return np.eye(3)[in_order(own)[1]]

    def test_spectrum(self, state: dict[str, Any], centred: np.ndarray) -> None:
        found, values = state["spectrum"], np.linalg.eigvalsh(centred)[::-1]
        assert found["rows"] == 25
        assert found["trace"] == pytest.approx(np.trace(centred), rel=1e-10)
        assert found["norm"] == pytest.approx(np.linalg.norm(centred), rel=1e-10)
        assert found["numerical_rank"] == 4
        assert found["eigenvalues"]["values"][:4] == pytest.approx(values[:4], rel=1e-5)
        shares = values[:4] / values[:4].sum()
        assert found["effective_rank"] == pytest.approx(
            np.exp(-(shares * np.log(shares)).sum()), rel=1e-8
        )
        assert found["trace_ratios"]["1"] == pytest.approx(shares[0], rel=1e-8)

    def test_alignment(
        self, state: dict[str, Any], kernel: np.ndarray, centred: np.ndarray, own: dict[str, Any]
    ) -> None:
        rows = self.one_hot(own)
        h = np.eye(25) - 1 / 25
        for name, left, right in (
            ("uncentred", kernel, rows @ rows.T),
            ("centred", centred, h @ rows @ rows.T @ h),
        ):
            expected = (left * right).sum() / np.linalg.norm(left) / np.linalg.norm(right)
            assert state["alignment"][name] == pytest.approx(expected, rel=1e-10)
        by_layer = list(state["alignment"]["parts"]["by layer"].values())
        assert by_layer == pytest.approx([state["alignment"]["centred"]])
        sign = 2 * rows[:, 1] - 1
        other = h @ np.outer(sign, sign) @ h
        assert state["alignment"]["parts"]["by class"]["1"] == pytest.approx(
            (centred * other).sum() / np.linalg.norm(centred) / np.linalg.norm(other), rel=1e-10
        )
        assert list(state["alignment"]["layer_shares"].values()) == pytest.approx([1])

    def test_labels(self, state: dict[str, Any], centred: np.ndarray, own: dict[str, Any]) -> None:
        targets = self.one_hot(own) - self.one_hot(own).mean(0)
        values, vectors = np.linalg.eigh(centred)
        values, vectors = values[::-1], vectors[:, ::-1]
        energy = (vectors.T @ targets) ** 2
        total = (targets**2).sum()
        assert state["labels"]["ks"][:4] == [1, 2, 3, 4]
        assert state["labels"]["energy"][:4] == pytest.approx(
            energy[:4].sum(1).cumsum() / total, rel=1e-4
        )
        assert state["labels"]["captured"] == pytest.approx(energy[:4].sum() / total, rel=1e-8)
        norm = (energy[:4].sum(1) / values[:4]).sum()
        assert state["labels"]["squared_norm"] == pytest.approx(norm, rel=1e-8)
        alpha = np.trace(targets.T @ centred @ targets) / 25**2
        assert state["labels"]["lower_bound"] == pytest.approx((total / 25) ** 2 / alpha, rel=1e-8)

    def test_ridge_regression_and_leaving_out(
        self, state: dict[str, Any], kernel: np.ndarray, own: dict[str, Any]
    ) -> None:
        found, targets = state["ridge"], self.one_hot(own) - 1 / 3
        mean = np.trace(kernel) / 25
        (x, y), new = in_order(own), own["x"][25:].numpy()
        place = found["shares"].index(0.1)
        ridge = 0.1 * mean
        errors, right = [], []
        for i in range(25):
            rest = np.delete(np.arange(25), i)
            fit = np.linalg.solve(kernel[np.ix_(rest, rest)] + ridge * np.eye(24), targets[rest])
            predicted = kernel[i, rest] @ fit
            errors.append(((targets[i] - predicted) ** 2).sum())
            right.append(predicted.argmax() == y[i])
        assert found["leave_one_out"][place] == pytest.approx(np.mean(errors), rel=1e-8)
        assert found["leave_one_out_accuracy"][place] == pytest.approx(np.mean(right))
        fit = np.linalg.solve(kernel + ridge * np.eye(25), targets)
        predicted = 3 * (new @ x.T + 1) @ fit
        test = own["y"][25:].numpy()
        assert found["test_accuracy"][place] == pytest.approx((predicted.argmax(1) == test).mean())
        expected = ((np.eye(3)[test] - 1 / 3 - predicted) ** 2).sum(1).mean()
        assert found["test"][place] == pytest.approx(expected, rel=1e-8)
        assert found["chosen"] == int(np.argmin(found["leave_one_out"]))

    def test_gradient_flow(
        self, state: dict[str, Any], kernel: np.ndarray, own: dict[str, Any]
    ) -> None:
        found = state["flow"]
        x, y = in_order(own)
        start = own["linear"]()(torch.as_tensor(x)).detach().numpy()
        targets = self.one_hot(own) - 1 / 3
        values, vectors = np.linalg.eigh(kernel)
        decays = np.exp(-values / values[-1] * 10.0)
        now = targets + vectors @ (decays[:, None] * (vectors.T @ (start - targets)))
        place = found["times"].index(10.0)
        assert found["loss"][place] == pytest.approx(((now - targets) ** 2).sum() / 50, rel=1e-8)
        assert found["accuracy"][place] == pytest.approx((now.argmax(1) == y).mean())
        assert found["accuracy"][0] == pytest.approx((start.argmax(1) == y).mean())
        assert found["network_accuracy"]["train"] == found["accuracy"][0]
        assert found["network_accuracy"]["test"] == found["test_accuracy"][0]

    def test_cosines_of_classes(
        self, state: dict[str, Any], centred: np.ndarray, own: dict[str, Any]
    ) -> None:
        scale = np.sqrt(np.diag(centred))
        cosines = centred / scale / scale[:, None]
        _, y = in_order(own)
        expected = cosines[np.ix_(y == 0, y == 2)].mean()
        assert state["class_cosines"][0][2] == pytest.approx(expected, rel=1e-4)
        inner = cosines[np.ix_(y == 1, y == 1)]
        count = len(inner)
        expected = (inner.sum() - np.trace(inner)) / (count * (count - 1))
        assert state["class_cosines"][1][1] == pytest.approx(expected, rel=1e-4)


@pytest.mark.usefixtures("undrawn")
class TestReadOuts:
    """Each option of outputs is the kernel that the library has for it."""

    def spectrum(self, found: dict[str, Any]) -> list[float]:
        values: list[float] = found["states"][0]["spectrum"]["eigenvalues"]["values"]
        return values[:5]

    def expected(self, model: torch.nn.Module, x: Tensor, outputs: Any) -> list[float]:
        kernel = pb.tangent_kernel(model, x, outputs=outputs).centred("samples")
        return [float(value) for value in kernel.eigvalsh()[:5]]

    @pytest.mark.parametrize(("text", "outputs"), [("sum", "sum"), ("all", "all"), ("2", 2)])
    def test_of_three_outputs(
        self, code: Path, own: dict[str, Any], tmp_path: Path, text: str, outputs: Any
    ) -> None:
        found = numbers(settings(code, "network", outputs=text), tmp_path)
        x = torch.as_tensor(in_order(own)[0])
        expected = self.expected(own["network"](), x, outputs)
        assert self.spectrum(found) == pytest.approx(expected, rel=1e-5)
        (state,) = found["states"]
        assert (state["functions"] is None) == (state["class_functions"] is not None)
        assert (state["functions"] is None) == (text == "all")
        assert set(state["alignment"]["parts"]) == (
            {"by layer"} if text == "2" else {"by layer", "by class"}
        )
        assert state["flow"]["accuracy"][-1] >= 0.75

    def test_a_difference_is_that_of_two_classes(
        self, code: Path, own: dict[str, Any], tmp_path: Path
    ) -> None:
        found = numbers(settings(code, "network", outputs="2,0"), tmp_path)
        x, y = in_order(own)
        kept = torch.as_tensor(np.concatenate([x[y == 2], x[y == 0]]))
        assert found["data"]["probe_labels"] == [2] * sum(y == 2) + [0] * sum(y == 0)
        expected = self.expected(own["network"](), kept, (2, 0))
        assert self.spectrum(found) == pytest.approx(expected, rel=1e-5)
        assert found["states"][0]["flow"]["accuracy"][-1] == 1.0
        assert found["test_samples"] == int((own["y"][25:] != 1).sum())

    def test_a_single_logit_for_two_classes(
        self, code: Path, own: dict[str, Any], tmp_path: Path
    ) -> None:
        chosen = settings(code, "single", "two_classes", train=True)
        found = numbers(chosen, tmp_path)
        before, after = found["states"]
        assert (before["step"], after["step"]) == (0, 3)
        assert before["spectrum"]["trace"] != after["spectrum"]["trace"]
        assert before["flow"]["test_accuracy"] == before["ridge"]["test"] == []
        assert found["network"]["outputs"] == 1
        assert found["data"]["classes"] == ["0", "1"]
        y = np.sort((own["y"][:25] > 0).numpy())
        order = (own["y"][:25] > 0).long().argsort(stable=True)
        signs = own["single"]()(own["x"][:25][order]).detach().numpy()[:, 0] > 0
        assert before["flow"]["network_accuracy"]["train"] == pytest.approx((signs == y).mean())

    def test_not_centred(self, code: Path, own: dict[str, Any], tmp_path: Path) -> None:
        found = numbers(settings(code, "network", centred=False), tmp_path)
        x = torch.as_tensor(in_order(own)[0])
        values = pb.tangent_kernel(own["network"](), x, outputs="sum").eigvalsh()[:5]
        assert self.spectrum(found) == pytest.approx(values.tolist(), rel=1e-5)


class TestPage:
    """What is left for a person."""

    def test_files(self, looked: Finished) -> None:
        assert sorted(path.name for path in looked.folder.iterdir()) == [
            "figures", "gram-after-training", "gram-before-training", "kernel.html", "kernel.json",
        ]  # fmt: skip
        drawn = [path.read_text() for path in sorted((looked.folder / "figures").iterdir())]
        assert sorted(drawn) == sorted(pictures(looked.html))
        assert len(drawn) == 2 + 2 + 4 + 4 + 2

    def test_every_number_is_finite(self, looked: Finished) -> None:
        assert all(abs(value) < float("inf") for value in numbers_in(looked.numbers))
        text = re.sub(r'base64,[^"]+', "", looked.html)
        assert not re.search(r"\bnan\b", text, re.IGNORECASE)

    def test_it_loads_nothing_from_elsewhere(self, looked: Finished) -> None:
        loaded = re.findall(r'(?:src|href)\s*=\s*"([^"]*)"', looked.html)
        assert [one for one in loaded if not one.startswith(("data:", "#"))] == []
        assert "http" not in re.sub(r'base64,[^"]+', "", looked.html)

    def test_every_figure_has_words(self, looked: Finished) -> None:
        texts = re.findall(r'alt="([^"]*)"', looked.html)
        assert len(texts) == looked.html.count("<img")
        assert all(len(text) > 20 for text in texts)
        captions = re.findall(r"<figcaption><h3>(.+?)</h3><p>(.+?)</p>", looked.html)
        assert len(captions) == looked.html.count("<figure") == 7

    def test_the_stored_kernel_is_the_kernel(self, looked: Finished) -> None:
        store = pb.kernels.StoredKernel(looked.folder / "gram-after-training").load()
        state = looked.numbers["states"][1]
        centred = store.centred("samples")
        assert centred.trace() == pytest.approx(state["spectrum"]["trace"], rel=1e-5)
        assert store.matrix.shape == (40, 40)
        assert "gram-after-training" in looked.html

    def test_images_are_those_of_the_panels(self, looked: Finished) -> None:
        images = looked.numbers["data"]["images"]
        shown = {k for k, image in enumerate(images) if image}
        wanted = {
            sample
            for state in looked.numbers["states"]
            for one in state["functions"]["eigenfunctions"]
            for sample in (*one["lowest"], *one["highest"])
        }
        assert shown == wanted
        assert len(images) == 40

    def test_all_outputs_are_drawn_as_maps(self, code: Path, tmp_path: Path) -> None:
        make_kernel_report(settings(code, "network", outputs="all", functions=3), tmp_path)
        html = (tmp_path / "kernel.html").read_text(encoding="utf-8")
        assert html.count("Heat map of 3 by 3") == 3 + 1


@pytest.mark.usefixtures("undrawn")
class TestInterruption:
    """Nothing is half-written, and nothing that is finished is computed again."""

    def test_a_run_goes_on_where_it_was(
        self, code: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        chosen = settings(code, "network", train=True, gram=True)
        expected = numbers(chosen, tmp_path / "whole")
        calls: list[str] = []
        look: Callable[..., Any] = make.look

        def counted(*arguments: Any) -> Any:
            calls.append(arguments[4].name)
            if len(calls) == 2:
                raise KeyboardInterrupt
            return look(*arguments)

        monkeypatch.setattr(make, "look", counted)
        with pytest.raises(KeyboardInterrupt):
            make_kernel_report(chosen, tmp_path / "cut")
        assert not (tmp_path / "cut" / "kernel.json").exists()
        make_kernel_report(chosen, tmp_path / "cut", resume=True)
        assert calls == ["gram-before-training", *["gram-after-training"] * 2]
        found = json.loads((tmp_path / "cut" / "kernel.json").read_text())
        assert found["states"] == expected["states"]
        assert sorted(path.name for path in (tmp_path / "cut").iterdir()) == [
            "figures", "gram-after-training", "gram-before-training", "kernel.html", "kernel.json",
        ]  # fmt: skip

    def test_other_choices_do_not_go_on(
        self, code: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def cut(*_: Any) -> Any:
            raise KeyboardInterrupt

        monkeypatch.setattr(make, "look", cut)
        with pytest.raises(KeyboardInterrupt):
            make_kernel_report(settings(code, "network"), tmp_path)
        with pytest.raises(InputError, match="outputs 'sum', now 'all'"):
            make_kernel_report(settings(code, "network", outputs="all"), tmp_path, resume=True)


class TestBadInput:
    """One clear error, and nothing written."""

    @pytest.mark.parametrize("outputs", ["each", "1,2,3", "-1", "a", ""])
    def test_unknown_outputs(self, outputs: str) -> None:
        with pytest.raises(InputError, match="outputs"):
            KernelSettings(outputs=outputs)

    def test_no_functions(self) -> None:
        with pytest.raises(InputError, match="functions"):
            KernelSettings(functions=0)

    @pytest.mark.parametrize("outputs", ["3", "0,3", "1,1"])
    def test_outputs_that_there_are_not(self, code: Path, tmp_path: Path, outputs: str) -> None:
        with pytest.raises(InputError, match="outputs 0 to 2"):
            make_kernel_report(settings(code, "network", outputs=outputs), tmp_path / "k")
        assert list(tmp_path.iterdir()) == []

    def test_a_single_class(self, code: Path, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="all of class 1"):
            make_kernel_report(settings(code, "network", "one_class"), tmp_path / "k")
        assert list(tmp_path.iterdir()) == []

    def test_a_kernel_that_does_not_fit(
        self, code: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def too_much(what: str, *_: Any) -> None:
            raise InputError(f"{what} needs too much")

        monkeypatch.setattr("pullback.report.kernel.measure.check_fits", too_much)
        with pytest.raises(InputError, match="samples: the kernel and its eigenvectors, of 25"):
            make_kernel_report(settings(code, "network"), tmp_path / "k")
        assert list(tmp_path.iterdir()) == []
