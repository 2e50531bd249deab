"""How the features of a layer are cut into slabs, and that every cut forms the same kernel."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import pullback as pb
from pullback.batches import Batch
from pullback.kernels.arrangement import AllPairs, Arrangement, Separate, Summed
from pullback.kernels.features import Cut, Room, WrittenOut, add_kernel_, factored
from pullback.tape.record import Plan, inspect
from tests.checks import assert_agree

K, N, OUTPUTS, WIDTH = 3, 5, 4, 6
ARRANGEMENTS = {"all": AllPairs(), "sum": Summed(), "each": Separate()}
OF_ONE = 8 * N * WIDTH  # bytes of one output of the layer, for one cotangent


def features(samples: int = N, seed: int = 0, derived: int = 0) -> WrittenOut:
    seeded = torch.Generator().manual_seed(seed)
    shape = K, samples, 1, OUTPUTS, WIDTH
    found = WrittenOut(torch.randn(shape, generator=seeded, dtype=torch.float64))
    found.derived = derived
    return found


def rows_of(piece: WrittenOut) -> torch.Tensor:
    out = torch.empty(K, piece.samples, OUTPUTS * WIDTH, dtype=torch.float64)
    piece.fill(out, slice(None), 0, OUTPUTS)
    return out


def expected(arrangement: Arrangement, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    every = torch.einsum("knf,lmf->nkml", left, right)
    if isinstance(arrangement, AllPairs):
        return every
    own = every.diagonal(dim1=1, dim2=3)
    return own.sum(2) if isinstance(arrangement, Summed) else own.permute(2, 0, 1)


@pytest.mark.parametrize("derived", [0, 10**6], ids=["kept", "made again"])
@pytest.mark.parametrize("memory", [1, 3 * OF_ONE, 8 * OF_ONE, 10**9])
@pytest.mark.parametrize("name", ARRANGEMENTS)
class TestEveryCutFormsTheSameKernel:
    def test_of_one_set_in_pieces(self, name: str, memory: int, derived: int) -> None:
        arrangement = ARRANGEMENTS[name]
        pieces = [features(2, 1, derived), features(3, 2, derived)]
        total = torch.zeros(arrangement.shape(K, N, N), dtype=torch.float64)
        add_kernel_(total, arrangement, pieces, None, (Room(memory), Room(memory)))
        rows = torch.cat([rows_of(piece) for piece in pieces], 1)
        found = arrangement.finished(total, symmetric=True)
        assert_agree(found, expected(arrangement, rows, rows))

    def test_of_two_sets(self, name: str, memory: int, derived: int) -> None:
        arrangement = ARRANGEMENTS[name]
        left, right = features(3, 1, derived), features(2, 2, derived)
        total = torch.zeros(arrangement.shape(K, 3, 2), dtype=torch.float64)
        add_kernel_(total, arrangement, [left], [right], (Room(memory), Room(memory)))
        found = arrangement.finished(total, symmetric=False)
        assert_agree(found, expected(arrangement, rows_of(left), rows_of(right)))


class TestCut:
    @pytest.mark.parametrize("name", ARRANGEMENTS)
    @pytest.mark.parametrize("memory", [12 * OF_ONE, 10**9])
    def test_a_slab_keeps_to_the_memory(self, name: str, memory: int) -> None:
        cut = Cut.of([features()], ARRANGEMENTS[name], memory)
        assert min(cut.width, OUTPUTS) * cut.cotangents * OF_ONE <= memory

    def test_outputs_that_never_meet_take_turns(self) -> None:
        assert Cut.of([features()], Summed(), 10**9).cotangents == 1
        assert Cut.of([features()], AllPairs(), 10**9).cotangents == K

    def test_what_would_be_made_again_for_each_of_them_is_made_once_for_all(self) -> None:
        cut = Cut.of([features(derived=10**6)], Summed(), 10**6)
        assert (cut.cotangents, cut.kept) == (K, False)

    def test_what_all_pieces_are_made_from_counts(self) -> None:
        piece = features(derived=100)
        memory = 8 * N * 100
        assert Cut.of([piece], Summed(), memory).kept
        assert not Cut.of([piece, piece], Summed(), memory).kept


class TestWhatIsNotWrittenOut:
    """Two convolutions: one of more positions than inputs, one of fewer."""

    @staticmethod
    def plan() -> Plan:
        parts = [nn.Conv2d(1, 2, 3), nn.Tanh(), nn.AvgPool2d(3), nn.Conv2d(2, 50, 2), nn.Flatten()]
        module = nn.Sequential(*parts, nn.Linear(50, 3)).double()
        network = pb.Network(module)
        return inspect(network, Batch((torch.randn(3, 1, 8, 8, dtype=torch.float64),)))

    def test_it_is_what_has_fewer_positions_than_inputs(self) -> None:
        found = factored(self.plan(), pairs=9, method="gradients")
        assert found == {"3.weight", "3.bias", "5.weight", "5.bias"}

    def test_a_structured_kernel_writes_nothing_out(self) -> None:
        plan = self.plan()
        assert factored(plan, pairs=9, method="structured") == set(plan.ways)

    def test_more_samples_fit_without_it(self) -> None:
        plan = self.plan()
        most, _ = plan.capacity(3, 10**6, 8)
        more, _ = plan.capacity(3, 10**6, 8, unasked=factored(plan, 9, "gradients"))
        numbers = next(use.inputs for use in plan.floats if "3.weight" in use.names)
        numbers += next(use.inputs for use in plan.floats if "5.weight" in use.names)
        assert 10**6 / more == pytest.approx(10**6 / most - 8 * numbers, rel=0.02)


class TestRoom:
    def test_slabs_are_formed_in_the_same_memory(self) -> None:
        room = Room(1)
        first, second = room.slab(features(), 2, 3, 4), room.slab(features(), 1, 3, 4)
        assert first.data_ptr() == second.data_ptr()

    def test_a_larger_slab_has_room(self) -> None:
        room = Room(1)
        room.slab(features(), 1, 2, 3)
        assert room.slab(features(), 2, 3, 4).shape == (2, 3, 4)
