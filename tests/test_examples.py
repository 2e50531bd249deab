"""Each example runs from the command line, draws its figure, and shows what it says it shows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "examples"

Numbers = dict[str, float]


@pytest.fixture
def numbers_of(tmp_path: Path) -> Callable[[str], Numbers]:
    """Run an example by its name, and return the numbers that it wrote beside its figure."""

    def run(name: str) -> Numbers:
        command = [sys.executable, str(FOLDER / f"{name}.py"), "--out", str(tmp_path)]
        one_core = {**os.environ, "OMP_NUM_THREADS": "1"}
        ran = subprocess.run(command, capture_output=True, text=True, timeout=300, env=one_core)
        assert ran.returncode == 0, ran.stderr
        assert len(ran.stdout.splitlines()) > 3
        assert (tmp_path / f"{name}.png").stat().st_size > 5000
        found: Numbers = json.loads((tmp_path / f"{name}.json").read_text())
        return found

    return run


def test_a_fisher_penalty_keeps_the_first_task_while_the_second_is_learned(
    numbers_of: Callable[[str], Numbers],
) -> None:
    accuracy = numbers_of("elastic_weight_consolidation")
    assert accuracy["before A"] > 94
    assert accuracy["plain B"] > 92
    for representation in ("diagonal", "ekfac"):
        assert accuracy[f"{representation} best A"] > accuracy["plain A"] + 20
    assert accuracy["ekfac best B"] > accuracy["plain B"] - 3
    # At any strength, Kronecker factors keep more of both than the diagonal does.
    for strength in (1, 10, 100, 1000):
        kept, by_diagonal = (
            sum(accuracy[f"{representation} {strength} {task}"] for task in "AB")
            for representation in ("ekfac", "diagonal")
        )
        assert kept > by_diagonal + 2


def test_pruning_in_the_kronecker_eigenbasis_loses_least(
    numbers_of: Callable[[str], Numbers],
) -> None:
    found = numbers_of("pruning")
    assert found["ekfac 0 accuracy"] > 95
    for share in (0.7, 0.8, 0.9):
        for other in ("magnitude", "diagonal"):
            by_ekfac = found[f"ekfac {share} accuracy"]
            assert by_ekfac > found[f"{other} {share} accuracy"] + 4
            assert found[f"ekfac {share} loss"] < found[f"{other} {share} loss"] / 2
    assert found["ekfac 0.9 accuracy"] > found["ekfac 0 accuracy"] - 2


def test_a_laplace_approximation_makes_an_overconfident_network_less_sure(
    numbers_of: Callable[[str], Numbers],
) -> None:
    found = numbers_of("laplace")
    assert found["ekfac nll"] < found["point nll"] - 0.05
    assert found["prior alone nll"] > found["point nll"] + 0.1  # so it is the Fisher that helps
    assert found["ekfac, chosen nll"] < found["point nll"] - 0.1
    assert found["ekfac, chosen ece"] < found["point ece"] - 3
    assert found["ekfac, chosen accuracy"] > found["point accuracy"] - 2


def test_influence_functions_predict_what_retraining_finds(
    numbers_of: Callable[[str], Numbers],
) -> None:
    found = numbers_of("influence")
    assert found["dense correlation"] > 0.95
    assert found["ekfac correlation"] > 0.7
    assert found["diagonal correlation"] < found["ekfac correlation"] - 0.2


def test_merging_by_kronecker_factors_beats_the_plain_average(
    numbers_of: Callable[[str], Numbers],
) -> None:
    accuracy = numbers_of("merging")
    for parent in ("digits 0-4", "digits 5-9"):
        assert accuracy["average"] > accuracy[parent] + 10
    for representation in ("ekfac", "implicit"):
        assert accuracy[f"{representation} chosen"] > accuracy["average"] + 1
    # The diagonal tells the parents apart too little to gain: no claim beyond doing no harm.
    assert abs(accuracy["diagonal chosen"] - accuracy["average"]) < 1


def test_the_tangent_kernel_turns_towards_the_task_and_predicts_better(
    numbers_of: Callable[[str], Numbers],
) -> None:
    found = numbers_of("feature_learning")
    assert found["concentration 0"] > 0.2236  # of a random direction, the root of 50 / 1000
    assert found["concentration 40"] > found["concentration 0"] + 0.05
    assert found["alignment 40"] > found["alignment 0"] + 0.3
    assert found["kernel accuracy 40"] > found["kernel accuracy 0"] + 0.03
    assert found["effective rank 20"] < found["effective rank 2"] - 5
    assert found["network accuracy 40"] > 0.95


def test_eigenvalues_concentrate_while_a_disk_is_learned_003_e6_1(
    numbers_of: Callable[[str], Numbers],
) -> None:
    found = numbers_of("disk")
    assert 0.011 < found["ratio before"] < 0.017
    assert found["ratio before"] > 2.5 * found["ratio after"]
    assert found["labels after"] > found["labels before"]


def test_a_network_does_not_learn_its_late_directions(
    numbers_of: Callable[[str], Numbers],
) -> None:
    found = numbers_of("blind_directions")
    assert min(value for name, value in found.items() if name.startswith("logistic")) > 0.99
    assert found["network 0"] > 0.99
    assert found["network 200"] < 0.6
    assert found["variance 200"] < 0.05
