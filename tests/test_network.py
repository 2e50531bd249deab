"""Which function: selection, read-outs, purity, and modules without a function of one sample."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import pullback as pb
from pullback.batches import as_batch
from tests import reference
from tests.cases import CASES, Case, named
from tests.checks import REFUSED, SINGLE, assert_agree, unchanged
from tests.entries import batch_of, network_of


class TestFunction:
    @pytest.mark.parametrize("case", CASES, ids=str)
    def test_it_computes_what_the_module_computes(self, case: Case) -> None:
        batch = as_batch(batch_of(case.inputs))
        assert_agree(network_of(case)(batch), case.outputs)

    @pytest.mark.parametrize("case", CASES, ids=str)
    def test_it_leaves_the_module_alone(self, case: Case) -> None:
        batch = as_batch(batch_of(case.inputs))
        with unchanged(case.module):
            network_of(case)(batch)

    @pytest.mark.parametrize("case", CASES, ids=str)
    def test_at_another_point_it_computes_what_a_changed_module_would(self, case: Case) -> None:
        module, inputs = case.fresh()
        w = pb.ParameterVector.from_model(module)
        moved = w + 0.01 * w.space.randn(seed=4)
        actual = network_of(case)(as_batch(batch_of(case.inputs)), moved)
        moved.copy_to(module)
        assert_agree(actual, reference.one_by_one(module, inputs, case.readout))

    def test_the_result_carries_no_graph(self) -> None:
        case = named("mlp")
        assert not pb.Network(case.module)(case.inputs).requires_grad

    def test_a_tensor_of_inputs_is_enough(self) -> None:
        case = named("mlp")
        assert_agree(pb.Network(case.module)(case.inputs), case.outputs)

    def test_of_a_network_is_the_network_itself(self) -> None:
        network = pb.Network(named("mlp").module)
        assert pb.Network.of(network) is network

    def test_of_something_else_is_refused(self) -> None:
        with pytest.raises(REFUSED, match="model"):
            pb.Network.of("a model")  # type: ignore[arg-type]

    def test_half_precision_outputs_come_in_single_precision(self) -> None:
        module, inputs = named("mlp").fresh(torch.bfloat16)
        assert pb.Network(module)(inputs).dtype == torch.float32

    def test_single_precision_agrees(self) -> None:
        case = named("mlp")
        module, inputs = case.fresh(torch.float32)
        assert_agree(pb.Network(module)(inputs).double(), case.outputs, SINGLE)

    def test_it_follows_the_module_when_the_module_is_trained_on(self) -> None:
        """A network is of a module, not a copy of it: a step in place is seen."""
        module, inputs = named("mlp").fresh()
        network = pb.Network(module)
        with torch.no_grad():
            module[4].bias += 1.0
        assert_agree(network(inputs), module(inputs).detach())


class TestSelection:
    module = named("mlp").module

    @pytest.mark.parametrize(
        ("parameters", "expected"),
        [
            ("4.*", ("4.weight", "4.bias")),
            ("*.bias", ("0.bias", "2.bias", "4.bias")),
            (["0.bias", "4.*"], ("0.bias", "4.weight", "4.bias")),
            (["4.*", "0.bias"], ("0.bias", "4.weight", "4.bias")),
            (lambda name, tensor: tensor.ndim == 2, ("0.weight", "2.weight", "4.weight")),
        ],
    )
    def test_by_pattern_list_and_predicate(
        self, parameters: object, expected: tuple[str, ...]
    ) -> None:
        network = pb.Network(self.module, parameters=parameters)  # type: ignore[arg-type]
        assert network.space.names == expected

    def test_by_name_frozen_parameters_can_be_selected(self) -> None:
        network = pb.Network(named("frozen layers").module, parameters="0.*")
        assert network.space.names == ("0.weight", "0.bias")

    @pytest.mark.parametrize(
        ("kinds", "expected"),
        [
            (nn.Linear, {"0.weight", "0.bias", "3.weight", "3.bias"}),
            (nn.Conv2d, {"1.weight"}),
            ((nn.Conv2d, nn.LayerNorm), {"1.weight", "2.0.weight", "2.0.bias"}),
            (nn.modules.conv._ConvNd, {"1.weight"}),
        ],
        ids=["one", "another", "several", "a base class"],
    )
    def test_by_the_types_of_modules(self, kinds: object, expected: set[str]) -> None:
        model = nn.Sequential(
            nn.Linear(3, 4),
            nn.Conv2d(1, 2, 1, bias=False),
            nn.Sequential(nn.LayerNorm(4)),
            nn.Linear(4, 2),
        )
        assert set(pb.Network(model, parameters=kinds).space.names) == expected  # type: ignore

    def test_by_type_a_container_does_not_own_what_its_parts_own(self) -> None:
        with pytest.raises(pb.InputError, match=r"parameters.*Sequential.*Linear"):
            pb.Network(nn.Sequential(nn.Linear(2, 2)), parameters=nn.Sequential)

    def test_by_type_a_tied_parameter_is_selected_once_under_its_one_name(self) -> None:
        model = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 5, bias=False))
        model[1].weight = model[0].weight
        for kinds in (nn.Linear, nn.Embedding, (nn.Linear, nn.Embedding)):
            assert pb.Network(model, parameters=kinds).space.names == ("0.weight",)

    def test_types_that_select_nothing_are_named(self) -> None:
        with pytest.raises(pb.InputError, match=r"parameters.*Conv2d, Embedding.*Linear"):
            pb.Network(nn.Linear(2, 2), parameters=(nn.Conv2d, nn.Embedding))

    def test_nothing_selected_names_the_pattern(self) -> None:
        with pytest.raises(pb.InputError, match=r"parameters.*tail"):
            pb.Network(self.module, parameters="tail.*")

    def test_one_pattern_of_a_list_that_selects_nothing_is_refused(self) -> None:
        with pytest.raises(pb.InputError, match=r"parameters.*tail"):
            pb.Network(self.module, parameters=["4.*", "tail.*"])

    def test_a_module_without_trainable_parameters_is_refused(self) -> None:
        module, _ = named("mlp").fresh()
        with pytest.raises(pb.InputError, match="parameters"):
            pb.Network(module.requires_grad_(False))


class TestOutputs:
    @pytest.mark.parametrize("shape", [(), (3, 2, 2)])
    def test_outputs_that_are_not_a_matrix_are_refused(self, shape: tuple[int, ...]) -> None:
        module = nn.Sequential(nn.Linear(2, 4), nn.Unflatten(1, (2, 2)))
        network = pb.Network(module, outputs=lambda y: y if shape else y.sum())  # type: ignore
        with pytest.raises(pb.InputError, match=r"outputs.*\(n, c\)"):
            network(torch.zeros(3, 2))

    def test_outputs_with_another_number_of_rows_are_refused(self) -> None:
        module = nn.Sequential(nn.Linear(2, 4))
        network = pb.Network(module, outputs=lambda y: y[:2])  # type: ignore[index]
        with pytest.raises(pb.InputError, match="outputs"):
            network(torch.zeros(3, 2))

    def test_outputs_that_are_no_tensor_are_refused(self) -> None:
        with pytest.raises(pb.InputError, match=r"outputs.*dict"):
            pb.Network(named("outputs inside a dictionary").module)(torch.zeros(3, 4).double())

    def test_a_read_out_that_is_no_function_is_refused(self) -> None:
        with pytest.raises(REFUSED, match="outputs"):
            pb.Network(named("mlp").module, outputs="logits")  # type: ignore[arg-type]


class TestTrainingMode:
    @pytest.mark.parametrize(
        "norm", [nn.BatchNorm1d(4), nn.BatchNorm1d(4, affine=False, track_running_stats=False)]
    )
    def test_batch_norm_in_training_mode_is_refused_with_the_remedy(self, norm: nn.Module) -> None:
        module = nn.Sequential(nn.Linear(3, 4), norm).train()
        with pytest.raises(pb.InputError, match=r"model.*batch norm.*eval\(\)"):
            pb.fisher(module, torch.randn(5, 3))

    def test_batch_norm_without_statistics_is_refused_in_evaluation_mode_too(self) -> None:
        norm = nn.BatchNorm1d(4, track_running_stats=False)
        module = nn.Sequential(nn.Linear(3, 4), norm).eval()
        with pytest.raises(pb.InputError, match=r"model.*batch"):
            pb.fisher(module, torch.randn(5, 3))

    @pytest.mark.parametrize(
        "part",
        [
            nn.Dropout(0.5),
            nn.AlphaDropout(0.5),
            nn.LSTM(4, 4, num_layers=2, dropout=0.5),
            nn.MultiheadAttention(4, 2, dropout=0.5),
            nn.TransformerEncoderLayer(4, 2, 4),
            nn.RReLU(),
        ],
        ids=lambda part: type(part).__name__,
    )
    def test_randomness_in_training_mode_is_refused_with_the_remedy(self, part: nn.Module) -> None:
        class Model(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.first, self.part = nn.Linear(3, 4), part

            def forward(self, x: Tensor) -> Tensor:
                hidden = self.first(x)
                if isinstance(self.part, nn.MultiheadAttention):
                    return self.part(hidden[None], hidden[None], hidden[None])[0][0]
                if isinstance(self.part, nn.LSTM | nn.TransformerEncoderLayer):
                    hidden = self.part(hidden[None])
                    return (hidden[0] if isinstance(hidden, tuple) else hidden)[0]
                return self.part(hidden)

        with pytest.raises(pb.InputError, match=r"model.*eval\(\)"):
            pb.fisher(Model().train(), torch.randn(5, 3))

    def test_functional_dropout_is_refused(self) -> None:
        class Model(nn.Linear):
            def forward(self, x: Tensor) -> Tensor:
                return nn.functional.dropout(super().forward(x), 0.5)

        with pytest.raises(pb.InputError, match="model"):
            pb.fisher(Model(3, 4).eval(), torch.randn(5, 3))

    def test_outputs_that_depend_on_other_samples_are_refused(self) -> None:
        class Model(nn.Linear):
            def forward(self, x: Tensor) -> Tensor:
                return super().forward(x) - super().forward(x).mean(0)

        with pytest.raises(pb.InputError, match="model"):
            pb.fisher(Model(3, 4), torch.randn(5, 3))

    def test_dropout_of_rate_zero_is_accepted_in_training_mode(self) -> None:
        module = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.0)).train()
        assert pb.fisher(module, torch.randn(5, 3), representation="diagonal").space.size == 16

    def test_layer_norm_is_accepted_in_training_mode(self) -> None:
        module = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4)).train()
        assert pb.fisher(module, torch.randn(5, 3), representation="diagonal").space.size == 24


class Watched(nn.Module):
    """A convolution that remembers how its input lay in memory."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.convolution = nn.Conv2d(3, 4, 3)
        self.seen: list[bool] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x.is_contiguous())
        return self.flat(self.convolution(x))

    def flat(self, y: Tensor) -> Tensor:
        return y.flatten(1)


class Viewed(Watched):
    def flat(self, y: Tensor) -> Tensor:
        return y.view(len(y), -1)


class Strided(Watched):
    def flat(self, y: Tensor) -> Tensor:
        return y.as_strided((len(y), y[0].numel()), (y[0].numel(), 1))


class TestOrderInMemory:
    """Images go in with channels last, unless the module needs the usual order."""

    @pytest.mark.parametrize(("make", "usual"), [(Watched, False), (Viewed, True), (Strided, True)])
    def test_the_order_changes_nothing(self, make: type[Watched], usual: bool) -> None:
        module, images = make(), torch.randn(3, 3, 6, 6, generator=torch.manual_seed(1))
        expected = module(images).detach()
        found = pb.fisher(module, images, "euclidean", "diagonal")
        assert module.seen[-1] == usual
        exact = pb.fisher(module.double(), images.double(), "euclidean", "dense")
        assert_agree(found.diagonal().flat.double(), exact.diagonal().flat, SINGLE)
        assert_agree(pb.Network(module.float())(images), expected, SINGLE)

    def test_double_precision_keeps_the_usual_order(self) -> None:
        module = Watched().double()
        pb.Network(module)(torch.zeros(2, 3, 6, 6, dtype=torch.float64))
        assert module.seen == [True]
