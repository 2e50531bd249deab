"""Alignment with labels by layer, class and group, and with functions, against the slow twin."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pullback import InputError
from pullback.probes import (
    ClassAlignment,
    GroupAlignment,
    KernelSample,
    LabelAlignment,
    TargetAlignment,
)
from tests import reference
from tests.checks import assert_agree
from tests.probes.small import (
    BINARY,
    BINARY_ROWS,
    BINARY_SAMPLE,
    LABELS,
    LAYERS,
    ROWS,
    SAMPLE,
    SIGNS,
    C,
    N,
    inputs,
    kernel_of,
    measured,
    network,
    one_hot,
    projection,
    real,
)

EASY, DIFFICULT = torch.tensor([5, 0, 3]), torch.tensor([1, 2, 4])
GROUPS = {"easy": EASY, "difficult": DIFFICULT}


@pytest.mark.parametrize("centring", ["entries", "samples"])
def test_alignment_with_the_labels_by_layer_003_3_6_8(centring: str) -> None:
    answer = measured(LabelAlignment(SAMPLE))[centring]
    labels = reference.label_kernel(LABELS, C)
    for layer, where in LAYERS.items():
        own = kernel_of(ROWS[..., where])
        assert_agree(answer[layer], reference.alignment(own, labels, projection(centring)))


@pytest.mark.parametrize("centring", ["entries", "samples"])
def test_of_one_output_the_labels_are_signs(centring: str) -> None:
    expected = reference.alignment(
        kernel_of(BINARY_ROWS), torch.outer(SIGNS, SIGNS), projection(centring, outputs=1)
    )
    assert_agree(measured(LabelAlignment(BINARY_SAMPLE), BINARY)[centring]["all"], expected)
    by_class = measured(ClassAlignment(BINARY_SAMPLE), BINARY)
    assert_agree(real([by_class["0"], by_class["1"]]), real([expected] * 2))
    whole = measured(GroupAlignment(BINARY_SAMPLE, {"whole": torch.arange(N)}), BINARY)
    assert_agree(whole[centring]["whole"], expected)


def test_each_class_against_the_rest_meets_its_own_output() -> None:
    answer = measured(ClassAlignment(SAMPLE))
    for label in range(C):
        y = torch.where(label == LABELS, 1.0, -1.0).double()
        own = ROWS[:, label] @ ROWS[:, label].T
        expected = reference.alignment(own, torch.outer(y, y), projection("all", outputs=1))
        assert_agree(answer[str(label)], expected)
    assert len(answer) == C


def test_a_class_without_samples_is_left_out() -> None:
    sample = KernelSample(inputs(), torch.tensor([0, 0, 2, 2, 2, 0]))
    assert list(measured(ClassAlignment(sample))) == ["0", "2"]


def of_group(members: Tensor, centring: str) -> float:
    """The alignment of a kernel that is made of the group's samples alone."""
    return reference.alignment(
        kernel_of(reference.jacobian(network(), inputs()[members])),
        reference.label_kernel(LABELS[members], C),
        projection(centring, samples=len(members)),
    )


@pytest.mark.parametrize("centring", ["entries", "samples"])
def test_groups_are_aligned_by_themselves_and_compared(centring: str) -> None:
    answer = measured(GroupAlignment(SAMPLE, GROUPS, ("easy", "difficult")))
    for name, members in GROUPS.items():
        assert_agree(answer[centring][name], of_group(members, centring))
    ratio = of_group(EASY, centring) / of_group(DIFFICULT, centring)
    assert_agree(answer["ratio"][centring], ratio)
    assert abs(ratio - 1) > 0.01


def test_a_group_may_be_a_mask_and_there_is_no_ratio_unless_wanted() -> None:
    mask = torch.zeros(N, dtype=torch.bool)
    mask[EASY] = True
    answer = measured(GroupAlignment(SAMPLE, {"mask": mask}))
    assert set(answer) == {"entries", "samples"}
    assert_agree(answer["entries"]["mask"], of_group(EASY, "entries"))


def test_where_difficult_samples_do_not_vary_there_is_no_ratio() -> None:
    x = inputs()
    x[DIFFICULT] = x[1].clone()
    probe = GroupAlignment(KernelSample(x, LABELS), GROUPS, ("easy", "difficult"))
    answer = measured(probe)
    assert answer["samples"]["difficult"] == 0 < answer["samples"]["easy"]
    assert answer["ratio"]["samples"] is None


@pytest.mark.parametrize(
    ("groups", "hierarchy", "said"),
    [
        ({"odd": torch.tensor([0, 6])}, None, r"groups\['odd'\].*0 to 5"),
        ({"odd": torch.zeros(N, dtype=torch.bool)}, None, r"groups\['odd'\].*no samples"),
        ({"odd": torch.tensor([0, 1])}, None, r"groups\['odd'\].*same"),
        (GROUPS, ("easy", "hard"), "hierarchy: 'hard'"),
        ({**GROUPS, "few": torch.tensor([0, 2])}, ("easy", "few"), "hierarchy: .* 3 and 2"),
    ],
    ids=["beyond", "empty", "one class", "unknown", "sizes"],
)
def test_groups_that_cannot_be_compared_are_refused_when_the_probe_is_made(
    groups: dict[str, Tensor], hierarchy: tuple[str, str] | None, said: str
) -> None:
    with pytest.raises(InputError, match=said):
        GroupAlignment(SAMPLE, groups, hierarchy)


class TestTargets:
    several = torch.randn(5, N, C, dtype=torch.float64, generator=torch.Generator().manual_seed(4))

    def expected(self, functions: Tensor, normalise: str | None) -> Tensor:
        """`f K f`, divided by what the normalisation takes."""
        flat = functions.flatten(1)
        forms = ((flat @ kernel_of(ROWS)) * flat).sum(1)
        if normalise is None:
            return forms / N**2
        quotients = forms / flat.square().sum(1)
        return quotients / kernel_of(ROWS).trace() if normalise == "trace" else quotients

    @pytest.mark.parametrize("normalise", [None, "rayleigh", "trace"], ids=str)
    def test_of_one_function_and_of_a_batch_004_lemma_1(self, normalise: str | None) -> None:
        probe = TargetAlignment(SAMPLE, {"y": one_hot(), "five": self.several}, normalise)
        answer = measured(probe)
        assert_agree(answer["y"], self.expected(one_hot().unsqueeze(0), normalise)[0])
        assert_agree(real(answer["five"]), self.expected(self.several, normalise))

    def test_of_eigenfunctions_it_is_their_eigenvalues_004_3_7(self) -> None:
        values, vectors = torch.linalg.eigh(kernel_of(ROWS))
        functions = (vectors.T * math.sqrt(N)).reshape(-1, N, C)
        answer = measured(TargetAlignment(SAMPLE, {"phi": functions}))
        assert_agree(real(answer["phi"]), values / N)

    @pytest.mark.parametrize(
        ("functions", "normalise", "said"),
        [
            ({}, None, "functions: none"),
            ({"f": torch.ones(5, 3)}, None, r"functions\['f'\]: shape \(5, 3\)"),
            ({"f": torch.ones(N)}, None, r"functions\['f'\]: shape \(6,\)"),
            ({"f": torch.ones(N, 3), "g": torch.ones(2, N, 2)}, None, r"functions\['g'\]: shape"),
            ({"f": torch.full((N, 3), math.nan)}, None, r"functions\['f'\]: .* NaN"),
            ({"f": torch.eye(3).repeat(2, 1) * 0}, "trace", r"functions\['f'\]: zero"),
            ({"f": torch.ones(N, 3)}, "cosine", "normalise: 'cosine'"),
        ],
        ids=["none", "samples", "vector", "outputs", "nan", "zero", "normalise"],
    )
    def test_what_cannot_be_aligned_is_refused_when_the_probe_is_made(
        self, functions: dict[str, Tensor], normalise: str | None, said: str
    ) -> None:
        with pytest.raises(InputError, match=said):
            TargetAlignment(SAMPLE, functions, normalise)
