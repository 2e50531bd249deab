"""Kernel alignment of layers, classes and groups, against NumPy, and the golden values."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import pullback as pb
from pullback.kernels.alignment import (
    class_alignment,
    group_alignment,
    hierarchy_ratio,
    layer_alignment,
)
from pullback.kernels.dense import TangentKernel
from pullback.kernels.mercer import eigenfunctions
from tests import reference
from tests.cases import named
from tests.checks import assert_agree

MLP = named("mlp")  # 7 samples, 3 outputs
LABELS = MLP.targets("categorical")


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


class TestLayers:
    kernel = pb.tangent_kernel(MLP.module, MLP.inputs, by_layer=True)

    @pytest.mark.parametrize("centring", ["all", "samples", None], ids=str)
    def test_each_is_aligned_by_itself(self, centring: str | None) -> None:
        found = layer_alignment(self.kernel, LABELS, centring)
        projection = reference.centring(7, 3, centring)
        labels = reference.label_kernel(LABELS, 3)
        for name, where in {"0": slice(0, 30), "2": slice(30, 65), "4": slice(65, 83)}.items():
            own = reference.tangent_kernel(MLP.rows[..., where]).reshape(21, 21)
            assert_agree(found[name], reference.alignment(own, labels, projection))
        assert len(found) == 3

    def test_a_layer_that_does_not_vary_has_none(self) -> None:
        network = pb.Network(MLP.module, parameters=["2.*", "4.bias"])
        kernel = pb.tangent_kernel(network, MLP.inputs, by_layer=True)
        found = layer_alignment(kernel, LABELS, "samples")
        assert found["4"] == 0.0
        assert found["2"] > 0.01

    def test_with_another_kernel(self) -> None:
        found = layer_alignment(self.kernel, self.kernel.layers["2"])
        assert_agree(found["2"], 1.0)
        assert 0 < found["0"] < 1


class TestGoldens:
    """003, 3.6.8."""

    y = torch.tensor([1.0, 1.0, -1.0, -1.0], dtype=torch.float64)
    classes = torch.tensor([0, 0, 1, 1])
    identity = TangentKernel(torch.eye(4, dtype=torch.float64), 1, True)
    whole = {"whole": torch.arange(4)}

    def test_centred_alignment_of_the_identity(self) -> None:
        found = group_alignment(self.identity, self.y, self.whole)
        assert found["whole"] == pytest.approx(0.5773502692, abs=1e-10)
        by_class = class_alignment(self.identity, self.classes)
        assert list(by_class.values()) == pytest.approx([0.5773502692] * 2, abs=1e-10)

    def test_uncentred_alignment_of_the_identity(self) -> None:
        found = group_alignment(self.identity, self.y, self.whole, centring=None)
        assert found["whole"] == pytest.approx(0.5, abs=1e-12)
        by_class = class_alignment(self.identity, self.classes, centring=None)
        assert list(by_class.values()) == pytest.approx([0.5, 0.5], abs=1e-12)

    def test_alignment_of_the_labels_with_themselves(self) -> None:
        kernel = TangentKernel(torch.outer(self.y, self.y), 1, True)
        assert group_alignment(kernel, self.y, self.whole)["whole"] == pytest.approx(1)
        assert class_alignment(kernel, self.classes) == pytest.approx({0: 1, 1: 1})

    def test_of_two_outputs(self) -> None:
        matrix = torch.eye(4, dtype=torch.float64).reshape(2, 2, 2, 2)
        kernel = TangentKernel(matrix, 2, True)
        found = group_alignment(kernel, torch.tensor([0, 1]), {"both": torch.arange(2)})
        assert found["both"] == pytest.approx(0.5773502692, abs=1e-10)


class TestClasses:
    def signs(self, label: int) -> Tensor:
        return torch.tensor([1.0 if int(found) == label else -1.0 for found in LABELS]).double()

    def expected(self, kernel: Tensor, label: int, centring: str | None) -> float:
        y = self.signs(label)
        return reference.alignment(kernel, torch.outer(y, y), reference.centring(7, 1, centring))

    @pytest.mark.parametrize("centring", ["all", "samples", None], ids=str)
    def test_of_one_function_each_class_is_against_the_rest(self, centring: str | None) -> None:
        kernel = pb.tangent_kernel(MLP.module, MLP.inputs, outputs="sum")
        twin = reference.tangent_kernel(MLP.rows, outputs="sum")
        found = class_alignment(kernel, LABELS, centring)
        assert sorted(found) == sorted(set(LABELS.tolist()))
        for label, value in found.items():
            assert_agree(value, self.expected(twin, label, centring))

    @pytest.mark.parametrize("outputs", ["each", "all"])
    def test_of_several_outputs_each_class_meets_its_own(self, outputs: str) -> None:
        kernel = pb.tangent_kernel(MLP.module, MLP.inputs, outputs=outputs)
        for label, value in class_alignment(kernel, LABELS).items():
            twin = reference.tangent_kernel(MLP.rows, outputs=label)
            assert_agree(value, self.expected(twin, label, "all"))

    @pytest.mark.parametrize("outputs", ["each", "all"])
    def test_of_one_output_all_classes_meet_its_kernel(self, outputs: str) -> None:
        network = pb.Network(MLP.module, outputs=lambda f: f[:, 1:2])
        kernel = pb.tangent_kernel(network, MLP.inputs, outputs=outputs)
        twin = reference.tangent_kernel(MLP.rows, outputs=1)
        for label, value in class_alignment(kernel, LABELS).items():
            assert_agree(value, self.expected(twin, label, "all"))

    def test_a_class_without_samples_is_left_out(self) -> None:
        kernel = pb.tangent_kernel(MLP.module, MLP.inputs, outputs="each")
        assert list(class_alignment(kernel, torch.tensor([0, 2, 2, 0, 0, 2, 2]))) == [0, 2]

    def test_by_the_eigenfunctions_002_3c6(self) -> None:
        """CKA(K, y y^T) = sum_j lambda_j (u_j y)^2 / |lambda|, y centred and of length 1."""
        kernel = pb.tangent_kernel(MLP.module, MLP.inputs, outputs=1)
        pairs = eigenfunctions(kernel, centring="all")
        for label, value in class_alignment(kernel, LABELS).items():
            y = self.signs(label) - self.signs(label).mean()
            inner = pairs.functions @ (y / y.norm())
            assert_agree(value, (pairs.values * inner.square()).sum() / pairs.values.norm())


class TestGroups:
    groups = {"easy": torch.tensor([5, 0, 3]), "difficult": torch.tensor([1, 2, 6])}

    @pytest.mark.parametrize("outputs", ["all", "sum", 1], ids=str)
    @pytest.mark.parametrize("centring", ["all", "samples", None], ids=str)
    def test_each_is_the_alignment_on_its_samples(
        self, outputs: object, centring: str | None
    ) -> None:
        kernel = pb.tangent_kernel(MLP.module, MLP.inputs, outputs=outputs)
        found = group_alignment(kernel, LABELS, self.groups, centring)
        for name, members in self.groups.items():
            own = pb.tangent_kernel(MLP.module, MLP.inputs[members], outputs=outputs)
            assert_agree(found[name], own.alignment(LABELS[members], centring))

    def test_a_mask_is_the_same_as_numbers(self) -> None:
        kernel = pb.tangent_kernel(MLP.module, MLP.inputs)
        mask = torch.zeros(7, dtype=torch.bool)
        mask[self.groups["easy"]] = True
        found = group_alignment(kernel, LABELS, {"mask": mask, **self.groups})
        assert_agree(found["mask"], found["easy"])

    def test_real_targets_will_do(self) -> None:
        kernel = pb.tangent_kernel(MLP.module, MLP.inputs)
        targets = normal(7, 3)
        own = pb.tangent_kernel(MLP.module, MLP.inputs[self.groups["easy"]])
        expected = own.alignment(targets[self.groups["easy"]])
        assert_agree(group_alignment(kernel, targets, self.groups)["easy"], expected)

    def test_layers_of_a_group(self) -> None:
        kernel = pb.tangent_kernel(MLP.module, MLP.inputs, by_layer=True)
        found = group_alignment(kernel.layers["2"], LABELS, self.groups)
        few = MLP.inputs[self.groups["easy"]]
        own = pb.tangent_kernel(MLP.module, few, by_layer=True)
        expected = layer_alignment(own, LABELS[self.groups["easy"]])["2"]
        assert_agree(found["easy"], expected)

    def test_the_hierarchy_ratio_is_easy_over_difficult(self) -> None:
        kernel = pb.tangent_kernel(MLP.module, MLP.inputs)
        found = group_alignment(kernel, LABELS, self.groups)
        ratio = hierarchy_ratio(kernel, LABELS, **self.groups)
        assert ratio == pytest.approx(found["easy"] / found["difficult"], rel=1e-12)

    def test_a_kernel_without_difficult_samples_has_no_bound_on_it(self) -> None:
        y = torch.tensor([1.0, -1.0, 1.0, -1.0])
        kernel = TangentKernel(torch.diag(torch.tensor([1.0, 1.0, 0.0, 0.0])), 1, True)
        assert hierarchy_ratio(kernel, y, torch.arange(2), torch.arange(2, 4)) == math.inf


class TestBadInput:
    kernel = pb.tangent_kernel(MLP.module, MLP.inputs, outputs="sum")
    each = pb.tangent_kernel(MLP.module, MLP.inputs, outputs="each")

    def test_layers_that_were_not_kept(self) -> None:
        with pytest.raises(pb.InputError, match="by_layer"):
            layer_alignment(self.kernel, LABELS)

    @pytest.mark.parametrize("function", [class_alignment, "groups"])
    def test_labels_of_another_number(self, function: object) -> None:
        with pytest.raises(pb.InputError, match=r"labels: 6 .* 7 samples"):
            if function == "groups":
                group_alignment(self.kernel, LABELS[:6], TestGroups.groups)
            else:
                class_alignment(self.kernel, LABELS[:6])

    def test_labels_of_one_class(self) -> None:
        with pytest.raises(pb.InputError, match="labels: all are 2"):
            class_alignment(self.kernel, torch.full((7,), 2))

    @pytest.mark.parametrize("label", [-1, 3])
    def test_labels_beyond_the_outputs(self, label: int) -> None:
        with pytest.raises(pb.InputError, match="labels: .* 3 outputs"):
            class_alignment(self.each, torch.tensor([label, 1, 1, 1, 1, 1, 1]))

    def test_labels_of_a_kernel_of_two_sets(self) -> None:
        kernel = pb.tangent_kernel(MLP.module, MLP.inputs, MLP.inputs, outputs="sum")
        with pytest.raises(pb.InputError, match="kernel: of two"):
            class_alignment(kernel, LABELS)

    @pytest.mark.parametrize(
        ("members", "said"),
        [
            (torch.tensor([], dtype=torch.long), "no samples"),
            (torch.zeros(7, dtype=torch.bool), "no samples"),
            (torch.ones(6, dtype=torch.bool), "mask"),
            (torch.tensor([0, 7]), "0 to 6"),
            (torch.tensor([-1, 2]), "0 to 6"),
            (torch.tensor([1, 2, 1]), "more than once"),
            (torch.tensor([[1, 2]]), "numbers"),
            (torch.tensor([1.0, 2.0]), "numbers"),
        ],
        ids=["empty", "empty mask", "short mask", "beyond", "negative", "twice", "shape", "real"],
    )
    def test_groups_that_cannot_be_taken(self, members: Tensor, said: str) -> None:
        with pytest.raises(pb.InputError, match=rf"groups\['odd'\].*{said}"):
            group_alignment(self.kernel, LABELS, {**TestGroups.groups, "odd": members})

    @pytest.mark.parametrize("value", [2, 0.1])
    def test_a_group_of_one_label(self, value: float) -> None:
        labels = torch.full((7,), value)
        with pytest.raises(pb.InputError, match=r"groups\['easy'\].*same"):
            group_alignment(self.kernel, labels, TestGroups.groups)

    def test_labels_that_are_not_finite(self) -> None:
        labels = torch.tensor([0.0, 1, 0, 1, math.nan, 1, 0])
        with pytest.raises(pb.InputError, match=r"groups\['odd'\].*NaN"):
            group_alignment(self.kernel, labels, {"odd": torch.tensor([3, 4, 5])})

    def test_an_unknown_centring(self) -> None:
        with pytest.raises(pb.InputError, match=r"centring.*rows"):
            group_alignment(self.kernel, LABELS, TestGroups.groups, "rows")

    def test_a_hierarchy_of_groups_of_other_sizes(self) -> None:
        with pytest.raises(pb.InputError, match="easy, difficult: 2 and 3"):
            hierarchy_ratio(self.kernel, LABELS, torch.tensor([0, 1]), torch.tensor([2, 3, 4]))

    def test_a_hierarchy_with_an_empty_group(self) -> None:
        with pytest.raises(pb.InputError, match="difficult: has no samples"):
            empty = torch.zeros(7, dtype=torch.bool)
            hierarchy_ratio(self.kernel, LABELS, torch.tensor([0, 1]), empty)
