"""How data streams in: forms of batches, and results that do not depend on how samples are cut."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import pullback as pb
from pullback.batches import Batch, Batches, after, as_batch, joined
from tests.cases import CASES, Case, named
from tests.checks import assert_agree
from tests.entries import REPRESENTATIONS, batches_of, data_of, measured, network_of

CPU = torch.device("cpu")
CASE = named("mlp")  # 7 samples, 3 outputs
X, LABELS = CASE.inputs, CASE.targets("categorical")
EXPECTED = CASE.empirical_fisher("categorical")


class Streamed(IterableDataset[tuple[Tensor, Tensor]]):
    """Samples one after the other, without a length."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        yield from zip(X, LABELS, strict=True)


class Dictionaries(Dataset[dict[str, Tensor]]):
    """Samples as dictionaries, as tokenizers make them."""

    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"input": X[index], "labels": LABELS[index]}


def generated() -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of 3, 3 and 1 from a generator, which can be read once."""
    for start in range(0, 7, 3):
        yield X[start : start + 3], LABELS[start : start + 3]


FORMS: dict[str, Callable[[], Any]] = {
    "pair of tensors": lambda: (X, LABELS),
    "dict of tensors": lambda: {"input": X, "labels": LABELS},
    "dict with label": lambda: {"input": X, "label": LABELS},
    "dict with targets": lambda: {"input": X, "targets": LABELS},
    "dict with target": lambda: {"input": X, "target": LABELS},
    "dict with y": lambda: {"input": X, "y": LABELS},
    "list of one batch": lambda: [(X, LABELS)],
    "tuple of batches": lambda: ((X[:3], LABELS[:3]), (X[3:5], LABELS[3:5]), (X[5:], LABELS[5:])),
    "list of lists": lambda: [[X[:3], LABELS[:3]], [X[3:], LABELS[3:]]],
    "pairs of tuple and labels": lambda: [((X[:3],), LABELS[:3]), ((X[3:],), LABELS[3:])],
    "pairs of dict and labels": lambda: [({"input": X}, LABELS)],
    "loader": lambda: DataLoader(TensorDataset(X, LABELS), batch_size=3),
    "shuffled loader": lambda: DataLoader(TensorDataset(X, LABELS), batch_size=3, shuffle=True),
    "loader of an iterable data set": lambda: DataLoader(Streamed(), batch_size=2),
    "loader of dictionaries": lambda: DataLoader(Dictionaries(), batch_size=4),
    "generator": generated,
    "an empty batch in between": lambda: [
        (X[:3], LABELS[:3]),
        (X[:0], LABELS[:0]),
        (X[3:], LABELS[3:]),
    ],
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("representation", REPRESENTATIONS)
def test_every_form_of_data_gives_the_same_trace(form: str, representation: str) -> None:
    metric = pb.fisher(
        CASE.module, FORMS[form](), representation=representation, estimator="empirical"
    )
    expected = EXPECTED.trace()
    if representation == "kfac":
        metric_of = CASE.factored(_outer(CASE), corrected=False)
        expected = metric_of.trace()
    assert_agree(metric.trace(), expected)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_data_gives_the_same_product(form: str) -> None:
    metric = pb.fisher(CASE.module, FORMS[form](), representation="implicit", estimator="empirical")
    v = metric.space.randn(seed=1)
    assert_agree((metric @ v).flat, EXPECTED @ v.flat)


def _outer(case: Case) -> Tensor:
    score = case.score("categorical")
    return score[:, :, None] * score[:, None, :]


class TestDroppedRest:
    """A loader with drop_last shows fewer samples; the mean is over those it shows."""

    loader = DataLoader(TensorDataset(X, LABELS), batch_size=3, drop_last=True)

    @pytest.mark.parametrize("representation", REPRESENTATIONS)
    def test_the_mean_is_over_the_samples_seen(self, representation: str) -> None:
        one = pb.fisher(CASE.module, self.loader, representation=representation)
        other = pb.fisher(CASE.module, X[:6], representation=representation)
        assert_agree(one.trace(), other.trace())


class TestCutting:
    """The same samples in other batches."""

    @pytest.mark.parametrize("case", CASES, ids=str)
    @pytest.mark.parametrize("first", [1, 2, -1], ids=["1-first", "2-first", "1-last"])
    def test_dense_metrics_do_not_depend_on_it(self, case: Case, first: int) -> None:
        sizes = [size for size in (first % case.n, -first % case.n) if size]
        data = batches_of(case, sizes or [case.n])
        metric = pb.fisher(network_of(case), data, case.likelihood, representation="dense")
        assert_agree(metric.to_dense(), case.fisher(case.likelihood))

    @pytest.mark.parametrize("case", CASES, ids=str)
    def test_factored_metrics_do_not_depend_on_it(self, case: Case) -> None:
        sizes = [2] * (case.n // 2) + [1] * (case.n % 2)
        network = network_of(case)
        options = {"likelihood": case.likelihood, "representation": "kfac"}
        cut = pb.fisher(network, batches_of(case, sizes), **options)
        whole = pb.fisher(network, data_of(case), **options)
        assert_agree(cut.to_dense(), whole.to_dense())

    @pytest.mark.parametrize("representation", REPRESENTATIONS)
    @pytest.mark.parametrize("estimator", ["exact", "sampled", "empirical"])
    @given(data=st.data())
    @settings(max_examples=8, deadline=None)
    def test_no_metric_depends_on_it(
        self, representation: str, estimator: str, data: st.DataObject
    ) -> None:
        sizes = data.draw(partitions(CASE.n))
        options = {"representation": representation, "estimator": estimator, "samples": 2}
        cut = pb.fisher(CASE.module, batches_of(CASE, sizes, "categorical"), **options)
        whole = pb.fisher(CASE.module, (X, LABELS), **options)
        v = whole.space.randn(seed=2)
        assert_agree((cut @ v).flat, (whole @ v).flat)

    @given(sizes=st.deferred(lambda: partitions(CASE.n)))
    @settings(max_examples=8, deadline=None)
    def test_no_jacobian_depends_on_it(self, sizes: list[int]) -> None:
        assert_agree(pb.jacobian(CASE.module, batches_of(CASE, sizes)).rows(), CASE.rows)

    @given(sizes=st.deferred(lambda: partitions(CASE.n)))
    @settings(max_examples=8, deadline=None)
    def test_no_kernel_depends_on_it(self, sizes: list[int]) -> None:
        kernel = pb.tangent_kernel(CASE.module, batches_of(CASE, sizes))
        assert_agree(kernel.matrix, torch.einsum("icd,jed->icje", CASE.rows, CASE.rows))


@st.composite
def partitions(draw: st.DrawFn, total: int) -> list[int]:
    """Positive batch sizes that add up to the number of samples."""
    sizes = []
    while total:
        sizes.append(draw(st.integers(1, total)))
        total -= sizes[-1]
    return sizes


class TestMemory:
    @pytest.mark.parametrize("case", CASES, ids=str)
    def test_the_least_memory_gives_the_same_dense_metric(self, case: Case) -> None:
        metric = measured(case, "dense", memory=1)
        assert_agree(metric.to_dense(), case.fisher(case.likelihood))

    @pytest.mark.parametrize("representation", REPRESENTATIONS)
    @given(memory=st.integers(1, 10**5))
    @settings(max_examples=6, deadline=None)
    def test_memory_does_not_change_the_result(self, representation: str, memory: int) -> None:
        little = pb.fisher(CASE.module, X, representation=representation, memory=memory)
        whole = pb.fisher(CASE.module, X, representation=representation)
        assert_agree(little.diagonal().flat, whole.diagonal().flat)

    @pytest.mark.parametrize("memory", [0, -1])
    def test_no_memory_at_all_is_refused(self, memory: int) -> None:
        with pytest.raises(pb.InputError, match="memory"):
            pb.fisher(CASE.module, X, memory=memory)


class TestBadData:
    @pytest.mark.parametrize(
        "data", [[], iter(()), X[:0], [X[:0]]], ids=["list", "iterator", "tensor", "batch"]
    )
    def test_no_samples(self, data: object) -> None:
        with pytest.raises(pb.InputError, match="data"):
            pb.fisher(CASE.module, data)

    @pytest.mark.parametrize(
        "data", [3, None, nn.Linear(2, 2), "text"], ids=["number", "None", "module", "text"]
    )
    def test_no_data_at_all(self, data: object) -> None:
        with pytest.raises(pb.InputError, match="data"):
            pb.fisher(CASE.module, data)

    @pytest.mark.parametrize(
        "item",
        [3.0, "text", (1, 2, 3), (X, "labels"), (X, X, X)],
        ids=["number", "text", "numbers", "text labels", "three"],
    )
    def test_batches_of_unknown_form(self, item: object) -> None:
        with pytest.raises(pb.InputError, match="data"):
            pb.fisher(CASE.module, [item])

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_inputs_that_are_not_finite(self, value: float) -> None:
        bad = X.clone()
        bad[4, 2] = value
        with pytest.raises(pb.InputError, match=r"data.*batch 1"):
            pb.fisher(CASE.module, [X, bad])

    def test_inputs_and_targets_of_different_length(self) -> None:
        with pytest.raises(pb.InputError, match="targets"):
            pb.fisher(CASE.module, (X, LABELS[:5]), estimator="empirical")

    def test_inputs_of_different_length(self) -> None:
        case = named("several inputs")
        first, second = case.inputs
        with pytest.raises(pb.InputError, match="data"):
            pb.fisher(case.module, [((first, second[:3]),)])

    def test_empirical_without_targets(self) -> None:
        with pytest.raises(pb.InputError, match=r"data.*targets"):
            pb.fisher(CASE.module, X, estimator="empirical")

    def test_inputs_of_another_width_than_the_model_takes(self) -> None:
        with pytest.raises((pb.InputError, RuntimeError), match=r"data|inputs|shape"):
            pb.fisher(CASE.module, X[:, :3])

    def test_a_dict_without_the_models_argument_names(self) -> None:
        with pytest.raises((pb.InputError, TypeError), match="features"):
            pb.fisher(CASE.module, {"features": X})

    def test_a_module_that_counts_its_calls_still_reads_a_generator_twice(self) -> None:
        metric = pb.fisher(CASE.module, generated(), representation="ekfac")
        assert_agree(metric.trace(), CASE.fisher("categorical").trace())


class TestBatch:
    def test_a_tensor_is_the_first_argument(self) -> None:
        assert as_batch(X).args == (X,)

    def test_a_pair_has_targets(self) -> None:
        assert as_batch((X, LABELS)).targets is LABELS

    def test_a_dictionary_gives_keyword_arguments(self) -> None:
        assert as_batch({"input": X, "labels": LABELS}).kwargs == {"input": X}

    def test_splitting_and_joining_is_the_identity(self) -> None:
        pieces = [piece.args[0] for piece in as_batch((X, LABELS)).split(3)]
        assert torch.equal(torch.cat(pieces), X)

    def test_batches_can_be_read_again(self) -> None:
        batches = Batches(generated(), CPU)
        assert [len(b) for b in batches] == [len(b) for b in batches] == [3, 3, 1]

    def test_a_module_without_inputs_that_are_tensors_is_refused(self) -> None:
        with pytest.raises(pb.InputError, match="data"):
            pb.fisher(nn.Linear(2, 2), [{"text": ["a", "b"]}])


def joining(batches: list[Batch], samples: int) -> list[Batch]:
    return list(joined(iter(batches), samples))


class TestJoining:
    @given(sizes=st.lists(st.integers(1, 7), min_size=1, max_size=12), most=st.integers(1, 20))
    def test_the_samples_stay_in_order_and_the_batches_within_bounds(
        self, sizes: list[int], most: int
    ) -> None:
        values = torch.arange(sum(sizes))
        whole = [Batch((part,), {"y": 2 * part}, -part) for part in values.split(sizes)]
        found = joining(whole, most)
        assert torch.equal(torch.cat([batch.args[0] for batch in found]), values)
        assert torch.equal(torch.cat([batch.kwargs["y"] for batch in found]), 2 * values)
        assert all(torch.equal(b.targets, -b.args[0]) for b in found if b.targets is not None)
        assert all(len(batch) <= max(most, *sizes) for batch in found)

    def test_as_many_as_fit_are_joined(self) -> None:
        batches = [Batch((torch.zeros(2, 3),)) for _ in range(7)]
        assert [len(batch) for batch in joining(batches, 6)] == [6, 6, 2]

    @pytest.mark.parametrize(
        "other",
        [
            Batch((torch.zeros(2, 4),)),
            Batch((torch.zeros(2, 3, dtype=torch.float64),)),
            Batch((torch.zeros(2, 3),), {"scale": 2.0}),
            Batch((torch.zeros(2, 3), torch.zeros(2))),
            Batch((torch.zeros(2, 3),), {}, torch.zeros(2)),
            Batch((torch.zeros(2, 3), torch.zeros(5))),
        ],
        ids=["width", "precision", "argument", "inputs", "targets", "no samples in front"],
    )
    def test_batches_that_differ_stay_apart(self, other: Batch) -> None:
        assert [len(batch) for batch in joining([Batch((torch.zeros(2, 3),)), other], 9)] == [2, 2]

    def test_arguments_that_are_no_samples_have_to_be_equal(self) -> None:
        scaled = [Batch((torch.zeros(2, 3),), {"scale": scale}) for scale in (1.0, 1.0, 2.0)]
        assert [batch.kwargs["scale"] for batch in joining(scaled, 9)] == [1.0, 2.0]

    @pytest.mark.parametrize("representation", ["dense", "kfac", "ekfac"])
    def test_a_loader_may_write_every_batch_into_the_same_memory(self, representation: str) -> None:
        class Reusing:
            def __iter__(self) -> Iterator[Tensor]:
                place = torch.empty_like(X[:1])
                for row in X:
                    yield place.copy_(row.unsqueeze(0))

        network = network_of(CASE)
        found = pb.fisher(network, Reusing(), representation=representation)
        expected = pb.fisher(network, X, representation=representation)
        assert_agree(found.to_dense(), expected.to_dense())


def test_leaving_out_the_beginning() -> None:
    batches = [Batch((part,)) for part in torch.arange(7).split(3)]
    for count in range(9):
        rest = [int(x) for batch in after(iter(batches), count) for x in batch.args[0]]
        begun = [
            int(x) for batch in Batches(torch.arange(7), CPU).first(count) for x in batch.args[0]
        ]
        assert begun + rest == list(range(7))
