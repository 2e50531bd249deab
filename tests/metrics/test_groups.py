"""Blocks of the caller's choice: from data, and from blocks that there are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import pullback as pb
from tests.cases import CASES, Case, named
from tests.checks import REFUSED, assert_agree
from tests.entries import data_of, measured, network_of

MLP = named("mlp")  # 0.weight, 0.bias, 2.weight, 2.bias, 4.weight, 4.bias
JOINED = {"front": ["0.*", "2.weight"], "back": "4.*"}
SPREAD = [case for case in CASES if len(network_of(case).space.names) > 2][::6]


def room(metric: pb.Metric) -> Tensor:
    """Where the blocks have entries, (d, d)."""
    inside = torch.zeros(metric.space.size, metric.space.size, dtype=torch.bool)
    for members in metric.members.values():
        slices = [metric.space.slices[member] for member in members]
        places = torch.cat([torch.arange(s.start, s.stop) for s in slices])
        inside[places.unsqueeze(1), places] = True
    return inside


class TestFromData:
    @pytest.mark.parametrize("representation", ["block", "lowrank"])
    @pytest.mark.parametrize("case", SPREAD, ids=str)
    def test_a_block_over_layers_has_the_true_entries_between_them(
        self, case: Case, representation: str
    ) -> None:
        """Every second tensor in one block, which cuts layers and joins them."""
        names = network_of(case).space.names
        metric = measured(case, representation, groups={"odd": names[::2]})
        assert metric.members["odd"] == names[::2]
        expected = torch.where(room(metric), case.fisher(case.likelihood), 0.0)
        assert_agree(metric.to_dense(), expected)

    @pytest.mark.parametrize("case", SPREAD, ids=str)
    def test_a_block_for_each_tensor(self, case: Case) -> None:
        metric = measured(case, "block", groups=lambda name: name)
        assert tuple(metric.blocks) == metric.space.names
        expected = torch.where(room(metric), case.fisher(case.likelihood), 0.0)
        assert_agree(metric.to_dense(), expected)

    def test_parameters_in_no_group_stay_with_their_layer(self) -> None:
        metric = measured(MLP, "block", groups={"front": ["0.*", "2.weight"]})
        assert metric.members == {
            "front": ("0.weight", "0.bias", "2.weight"),
            "2": ("2.bias",),
            "4": ("4.weight", "4.bias"),
        }

    def test_a_function_may_leave_parameters_to_their_layer(self) -> None:
        found = measured(MLP, "block", groups=lambda name: "w" if "0.w" in name else None)
        assert list(found.blocks) == ["w", "0", "2", "4"]

    def test_all_in_one_block_is_the_dense_matrix(self) -> None:
        metric = measured(MLP, "block", groups={"everything": "*"})
        assert_agree(metric.to_dense(), measured(MLP, "dense").to_dense())

    def test_modules_of_a_type(self) -> None:
        case = named("conv2d with groups")
        metric = measured(case, "block", groups={"convolutions": nn.Conv2d})
        convolutions = pb.Network(case.module, parameters=nn.Conv2d).space.names
        assert metric.members["convolutions"] == convolutions

    def test_a_diagonal_is_the_same_in_any_groups(self) -> None:
        metric = measured(MLP, "diagonal", groups=JOINED)
        assert list(metric.blocks) == ["front", "2", "back"]
        assert_agree(metric.diagonal().flat, measured(MLP, "diagonal").diagonal().flat)

    @pytest.mark.parametrize("representation", ["kfac", "ekfac", "kfac-nearest", "quasidiagonal"])
    def test_a_group_that_is_a_layer_can_have_factors(self, representation: str) -> None:
        metric = measured(MLP, representation, groups={"head": "4.*"})
        assert list(metric.blocks) == ["0", "2", "head"]
        assert_agree(metric.to_dense(), measured(MLP, representation).to_dense())

    @pytest.mark.parametrize("representation", ["kfac", "ekfac-nearest", "quasidiagonal"])
    def test_a_kind_for_one_weight_is_refused_for_several(self, representation: str) -> None:
        with pytest.raises(pb.InputError, match=rf"groups.*'front'.*{representation}"):
            measured(MLP, representation, groups=JOINED)

    def test_layers_of_two_kinds_are_refused_in_one_group(self) -> None:
        def kind(name: str, module: nn.Module) -> str:
            return "diagonal" if name == "0" else "block"

        with pytest.raises(pb.InputError, match=r"groups.*'front'.*block and diagonal"):
            measured(MLP, kind, groups=JOINED)

    @pytest.mark.parametrize("representation", ["dense", "implicit"])
    def test_representations_of_all_parameters_are_refused(self, representation: str) -> None:
        with pytest.raises(pb.InputError, match=f"groups.*{representation}"):
            measured(MLP, representation, groups=JOINED)

    def test_the_cost_is_that_of_the_groups(self) -> None:
        network, data = network_of(MLP), data_of(MLP)
        found = pb.cost(network, data, MLP.likelihood, "block", groups=JOINED)
        blocks = measured(MLP, "block", groups=JOINED).blocks.values()
        assert found.stored_bytes == sum(8 * block.size**2 for block in blocks)


class TestWrongGroups:
    @pytest.mark.parametrize("how", ["tail.*", ["4.*", "tail.*"]])
    def test_unknown_names_are_named(self, how: object) -> None:
        with pytest.raises(pb.InputError, match=r"groups\['x'\].*tail"):
            measured(MLP, "block", groups={"x": how})
        with pytest.raises(pb.InputError, match=r"groups\['x'\].*tail"):
            measured(MLP, "block").regrouped({"x": how})  # type: ignore[attr-defined]

    def test_a_group_without_patterns_is_refused(self) -> None:
        with pytest.raises(pb.InputError, match=r"groups\['x'\]"):
            measured(MLP, "block", groups={"x": []})

    def test_what_is_neither_a_mapping_nor_a_function_is_refused(self) -> None:
        with pytest.raises(REFUSED, match="groups"):
            measured(MLP, "block").regrouped("0.*")  # type: ignore

    def test_types_that_the_module_lacks_are_named(self) -> None:
        with pytest.raises(pb.InputError, match=r"groups\['x'\].*Conv2d"):
            measured(MLP, "block", groups={"x": nn.Conv2d})

    def test_types_whose_parameters_are_not_selected_are_refused(self) -> None:
        model = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))
        network = pb.Network(model, parameters="0.*")
        with pytest.raises(pb.InputError, match=r"groups\['x'\].*selected"):
            pb.fisher(network, torch.eye(2), representation="block", groups={"x": nn.LayerNorm})

    def test_a_metric_knows_no_types(self) -> None:
        with pytest.raises(pb.InputError, match=r"groups\['x'\].*patterns"):
            measured(MLP, "block").regrouped({"x": nn.Linear})  # type: ignore[attr-defined]

    def test_a_parameter_in_two_groups_is_named(self) -> None:
        with pytest.raises(pb.InputError, match=r"groups.*'0.bias'.*'a'.*'b'"):
            measured(MLP, "block", groups={"a": "0.*", "b": "*.bias"})

    def test_a_name_that_is_taken_is_refused(self) -> None:
        with pytest.raises(pb.InputError, match=r"groups.*'4'"):
            measured(MLP, "block", groups={"4": "0.weight"})


class TestRegrouped:
    @pytest.mark.parametrize(
        "representation", ["block", "diagonal", "quasidiagonal", "kfac", "ekfac", "dense"]
    )
    @pytest.mark.parametrize("groups", [JOINED, lambda name: name], ids=["joined", "tensors"])
    def test_entries_within_a_group_and_a_block_are_kept(
        self, representation: str, groups: object
    ) -> None:
        metric = measured(MLP, representation)
        found = metric.regrouped(groups)  # type: ignore[attr-defined]
        expected = torch.where(room(found), metric.to_dense(), 0.0)
        assert_agree(found.to_dense(), expected)
        assert found.space == metric.space
        asked = measured(MLP, "block", groups=groups).members
        rest = {"2": "all"} if representation == "dense" else {}
        assert {rest.get(t, t): m for t, m in asked.items()} == found.members

    def test_joined_blocks_have_zeros_between_them(self) -> None:
        found = measured(MLP, "block").regrouped({"both": ["0.*", "2.*"]})  # type: ignore
        assert_agree(found.to_dense(), measured(MLP, "block").to_dense())
        assert list(found.blocks) == ["both", "4"]

    def test_blocks_that_no_group_touches_keep_their_kind(self) -> None:
        found = measured(MLP, "kfac").regrouped({"front": "[02].*"})  # type: ignore
        assert {title: block.kind for title, block in found.blocks.items()} == {
            "front": "dense",
            "4": "kfac",
        }
        assert found.representation == "dense and kfac"

    def test_a_group_that_is_a_block_is_renamed(self) -> None:
        metric = measured(MLP, "ekfac")
        found = metric.regrouped({"head": "4.*"})  # type: ignore[attr-defined]
        assert found.blocks["head"] is metric.blocks["4"]

    def test_diagonals_stay_diagonal(self) -> None:
        found = measured(MLP, "diagonal").regrouped(JOINED)  # type: ignore[attr-defined]
        assert found.representation == "diagonal"

    def test_groups_keep_their_names_when_converted(self) -> None:
        found = measured(MLP, "block", groups=JOINED)
        assert list(found.to("diagonal").blocks) == ["front", "2", "back"]  # type: ignore

    def test_a_file_keeps_the_groups(self, tmp_path: Path) -> None:
        metric = measured(MLP, "block", groups=JOINED)
        metric.save(tmp_path / "metric")  # type: ignore[attr-defined]
        again = pb.Metric.load(tmp_path / "metric")
        assert again.members == metric.members  # type: ignore[attr-defined]
        assert torch.equal(again.to_dense(), metric.to_dense())

    def test_a_group_by_its_name_is_a_metric(self) -> None:
        metric = measured(MLP, "block", groups=JOINED)
        part = metric["front"]  # type: ignore[index]
        assert part.space.names == ("0.weight", "0.bias", "2.weight")
        assert_agree(part.to("quasidiagonal").trace(), part.trace())

    def test_from_data_more_is_kept_than_from_blocks(self) -> None:
        groups = {"both": ["0.*", "2.*"]}
        true = measured(MLP, "block", groups=groups)
        joined = measured(MLP, "block").regrouped(groups)  # type: ignore[attr-defined]
        dense = measured(MLP, "dense").to_dense()
        assert (true.to_dense() - dense).norm() < (joined.to_dense() - dense).norm()
