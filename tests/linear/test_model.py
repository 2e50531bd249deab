"""A linearised network is the tangent plane of the network, and a module like any other."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import pullback as pb
from pullback import InputError
from tests import reference
from tests.cases import CASES, Case, named
from tests.checks import REFUSED, assert_agree, unchanged

WITHOUT_TWO_DERIVATIVES = {"embedding bag": "_embedding_bag"}
"""Neither forward mode nor a second derivative exists for these operations."""
EXPANDED = [case for case in CASES if case.name not in WITHOUT_TWO_DERIVATIVES]


def moved(tangent: pb.LinearizedModel, scale: float = 0.1, seed: int = 0) -> Tensor:
    """Move the parameters somewhere, and say by how much as one vector."""
    generator = torch.Generator().manual_seed(seed)
    parameters = [p for p in tangent.parameters() if p.requires_grad]
    steps = [
        scale * torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in parameters
    ]
    with torch.no_grad():
        for parameter, step in zip(parameters, steps, strict=True):
            parameter += step
    return torch.cat([step.flatten() for step in steps])


def outputs(module: nn.Module, case: Case) -> Tensor:
    return reference.evaluate(module, case.inputs, case.readout)


def smooth() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(3, 7), nn.Tanh(), nn.Linear(7, 2)).double()


def samples(n: int = 6) -> Tensor:
    return torch.randn(n, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("case", EXPANDED, ids=str)
class TestEveryModule:
    """Against the Jacobian of the slow twin, on the grid."""

    def test_at_the_start_it_is_the_network_t13(self, case: Case) -> None:
        with unchanged(case.module):
            tangent = pb.linearize(case.module)
            assert_agree(outputs(tangent, case), outputs(case.module, case))

    def test_it_moves_along_the_jacobian_t13(self, case: Case) -> None:
        tangent = pb.linearize(case.module)
        step = moved(tangent)
        jacobian = reference.jacobian(case.module, case.inputs, readout=case.readout)
        expected = outputs(case.module, case) + jacobian @ step
        assert_agree(outputs(tangent, case), expected)
        with torch.no_grad():
            assert_agree(outputs(tangent, case), expected)
        assert_agree(tangent.displacement().flat, step)

    def test_its_gradient_is_the_jacobian_wherever_it_is_t13(self, case: Case) -> None:
        tangent = pb.linearize(case.module)
        moved(tangent)
        found = outputs(tangent, case)
        u = torch.randn(found.shape, dtype=torch.float64)
        (found * u).sum().backward()
        gradient = torch.cat(
            [
                (torch.zeros_like(p) if p.grad is None else p.grad).flatten()
                for p in tangent.parameters()
                if p.requires_grad
            ]
        )
        jacobian = reference.jacobian(case.module, case.inputs, readout=case.readout)
        assert_agree(gradient, torch.einsum("nc,ncd->d", u, jacobian))


@pytest.mark.parametrize("case", [named(name) for name in WITHOUT_TWO_DERIVATIVES], ids=str)
def test_what_has_no_such_derivative_is_refused_by_name(case: Case) -> None:
    tangent = pb.linearize(case.module)
    with pytest.raises(InputError, match=WITHOUT_TWO_DERIVATIVES[case.name]):
        outputs(tangent, case)


def test_too_little_memory_is_no_missing_derivative() -> None:
    class Large(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(2))

        def forward(self, x: Tensor) -> Tensor:
            raise torch.OutOfMemoryError("no room")

    with pytest.raises(torch.OutOfMemoryError, match="no room"):
        pb.linearize(Large())(torch.ones(2))


class TestExpansion:
    """What follows from Taylor's theorem."""

    @pytest.mark.parametrize(("order", "slope"), [(1, 2), (2, 3)])
    def test_the_error_falls_with_the_next_power_of_the_step_t14(
        self, order: int, slope: int
    ) -> None:
        model, x, errors = smooth(), samples(), []
        for scale in (2e-2, 1e-2):
            tangent = pb.linearize(model, order=order)
            moved(tangent, scale)
            errors.append(float((tangent(x) - tangent.network(x)).norm()))
        assert 2 ** (slope - 0.25) < errors[0] / errors[1] < 2 ** (slope + 0.25)

    def test_order_2_has_the_hessian(self) -> None:
        model, x = smooth(), samples(2)
        tangent = pb.linearize(model, order=2)
        step = moved(tangent)
        flat = nn.utils.parameters_to_vector(model.parameters()).detach()

        def function(w: Tensor) -> Tensor:
            pieces = w.split([p.numel() for p in model.parameters()])
            named = {
                name: piece.view(p.shape)
                for (name, p), piece in zip(model.named_parameters(), pieces, strict=True)
            }
            return torch.func.functional_call(model, named, (x,))

        hessian = torch.func.hessian(function)(flat)
        first = torch.func.jacrev(function)(flat)
        expected = function(flat) + first @ step + (hessian @ step) @ step / 2
        assert_agree(tangent(x), expected)
        found = torch.autograd.grad(tangent(x).sum(), [*tangent.network.parameters()])
        gradient = (first + hessian @ step).sum((0, 1))
        assert_agree(torch.cat([one.flatten() for one in found]), gradient)

    def test_a_model_linear_in_its_parameters_is_its_expansion_t15(self) -> None:
        model = nn.Linear(3, 2).double()
        for order in (1, 2):
            tangent = pb.linearize(model, order=order)
            moved(tangent)
            assert_agree(tangent(samples()), tangent.network(samples()))

    def test_it_is_affine_in_its_parameters_004_eq_1(self) -> None:
        tangent, x = pb.linearize(smooth()), samples()
        one, other, between = (copy.deepcopy(tangent) for _ in range(3))
        moved(one, seed=1)
        moved(other, seed=2)
        with torch.no_grad():
            for a, b, c in zip(
                one.parameters(), other.parameters(), between.parameters(), strict=True
            ):
                c.copy_(0.3 * a + 0.7 * b)
        assert_agree(between(x), 0.3 * one(x) + 0.7 * other(x))

    def test_inputs_can_be_differentiated_too(self) -> None:
        model, x = smooth(), samples().requires_grad_()
        tangent = pb.linearize(model)
        step = moved(tangent)
        found = torch.autograd.grad(tangent(x).sum(), x)[0]

        def plane(one: Tensor) -> Tensor:
            named = dict(model.named_parameters())
            change = dict(zip(named, step.split([p.numel() for p in named.values()]), strict=True))
            tangents = {name: change[name].view(p.shape) for name, p in named.items()}
            value, moves = torch.func.jvp(
                lambda t: torch.func.functional_call(model, t, (one,)), (named,), (tangents,)
            )
            return (value + moves).sum()

        assert_agree(found, torch.func.grad(plane)(x.detach()))


class TestPoint:
    """Where it is expanded, and where it starts."""

    def test_a_tuned_network_seen_from_where_it_began_000_property_6_2(self) -> None:
        pretrained, x = smooth(), samples()
        tuned = copy.deepcopy(pretrained)
        with torch.no_grad():
            for parameter in tuned.parameters():
                parameter += 0.1 * torch.randn_like(parameter)
        after = pb.linearize(tuned, at=pretrained)
        same = pb.linearize(pretrained)
        with torch.no_grad():
            for mine, theirs in zip(same.parameters(), tuned.parameters(), strict=True):
                mine.copy_(theirs)
        assert_agree(after(x), same(x))
        assert_agree(after.network(x), tuned(x))
        assert_agree(after.point(x), pretrained(x))
        vector = pb.ParameterVector.from_model(pretrained)
        assert_agree(pb.linearize(tuned, at=vector)(x), after(x))

    def test_without_bias_it_starts_from_zero_with_the_kernel_of_the_point_t27(self) -> None:
        start, trained, x = smooth(), smooth(), samples()
        with torch.no_grad():
            for parameter in trained.parameters():
                parameter += 0.3
        tangent = pb.linearize(start, at=trained, bias=False)
        assert tangent(x).abs().max() == 0
        step = moved(tangent)
        jacobian = reference.jacobian(trained, x)
        assert_agree(tangent(x), jacobian @ step)
        assert_agree(pb.tangent_kernel(tangent, x).matrix, pb.tangent_kernel(trained, x).matrix)

    def test_both_ways_to_leave_out_the_bias_train_alike_004_3_3(self) -> None:
        start, trained, x = smooth(), smooth(), samples()
        with torch.no_grad():
            for parameter in trained.parameters():
                parameter += 0.3
        y, losses = torch.arange(6) % 2, []
        for tangent in (
            pb.linearize(start, at=trained, bias=False),
            pb.linearize(trained, bias=False),
        ):
            optimiser = torch.optim.SGD(tangent.parameters(), lr=0.1, momentum=0.9)
            seen = []
            for _ in range(20):
                loss = F.cross_entropy(tangent(x), y)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                seen.append(loss.detach())
            losses.append(torch.stack(seen))
        assert_agree(*losses)
        assert losses[0][-1] < 0.6 * losses[0][0]

    def test_the_statistics_of_batch_norm_are_those_of_the_point(self) -> None:
        def norm() -> nn.Module:
            torch.manual_seed(0)
            return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).double()

        start, trained, x = norm(), norm(), samples()
        trained.train()(3 * x + 1)
        tangent = pb.linearize(trained, at=start)
        assert_agree(tangent.point(x), start.eval()(x))
        trained.eval()
        assert (tangent.network(x) - tangent.point(x)).abs().max() > 0.1


class TestModule:
    """It is used as any other module is."""

    def test_only_the_parameters_that_train_are_parameters(self) -> None:
        model = smooth()
        model[0].bias.requires_grad_(False)
        tangent = pb.linearize(model)
        trained = [p.shape for p in tangent.parameters() if p.requires_grad]
        assert trained == [p.shape for p in model.parameters() if p.requires_grad]
        assert len(list(tangent.parameters())) == len(list(model.parameters()))

    @pytest.mark.parametrize("optimiser", [torch.optim.SGD, torch.optim.Adam, torch.optim.LBFGS])
    def test_optimisers_train_it(self, optimiser: Any) -> None:
        model, x = smooth(), samples()
        tangent, y = pb.linearize(model), torch.arange(6) % 2
        chosen = optimiser(tangent.parameters(), lr=0.1)

        def closure() -> Tensor:
            chosen.zero_grad()
            loss = F.cross_entropy(tangent(x), y)
            loss.backward()
            return loss

        first = float(closure())
        for _ in range(100):
            chosen.step(closure)
        assert float(closure()) < 0.7 * first
        assert_agree(tangent.point(x), model(x))

    def test_it_is_saved_and_loaded(self, tmp_path: Any) -> None:
        model, x = smooth(), samples()
        tangent = pb.linearize(model)
        moved(tangent)
        save_file(tangent.state_dict(), tmp_path / "tangent.safetensors")
        torch.manual_seed(9)
        other = pb.linearize(nn.Sequential(nn.Linear(3, 7), nn.Tanh(), nn.Linear(7, 2)).double())
        other.load_state_dict(load_file(tmp_path / "tangent.safetensors"))
        assert torch.equal(other(x), tangent(x))
        buffer = io.BytesIO()
        torch.save(tangent, buffer)
        buffer.seek(0)
        assert torch.equal(torch.load(buffer, weights_only=False)(x), tangent(x))

    def test_tied_weights_stay_tied_in_files_too(self) -> None:
        case = named("tied weights")
        tangent = pb.linearize(case.module)
        moved(tangent)
        other = pb.linearize(case.module)
        other.load_state_dict(tangent.state_dict())
        assert_agree(outputs(other, case), outputs(tangent, case))

    def test_precision_follows_to(self) -> None:
        tangent = pb.linearize(smooth()).float()
        assert tangent(samples().float()).dtype == torch.float32
        assert all(tensor.dtype == torch.float32 for tensor in tangent.state_dict().values())

    def test_batch_norm_and_dropout_stay_in_evaluation_mode(self) -> None:
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2)
        ).double()
        tangent, x = pb.linearize(model).train(), samples()
        before = copy.deepcopy(tangent.state_dict())
        assert tangent.training
        assert_agree(tangent(x)[:3], tangent(x[:3]))
        assert all(torch.equal(before[name], now) for name, now in tangent.state_dict().items())
        assert model.training

    def test_a_dictionary_comes_back_as_one(self) -> None:
        class Both(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.inner = smooth()

            def forward(self, x: Tensor, *, scale: float) -> dict[str, Any]:
                return {"logits": scale * self.inner(x), "count": torch.tensor(3), "word": "a"}

        tangent = pb.linearize(Both())
        moved(tangent)
        found = tangent(samples(), scale=2.0)
        assert set(found) == {"logits", "count", "word"}
        assert found["count"] == 3
        assert found["word"] == "a"
        assert (found["logits"] - tangent.network(samples(), scale=2.0)["logits"]).abs().max() < 1

    def test_it_works_inside_transforms(self) -> None:
        model, x = smooth(), samples()
        tangent = pb.linearize(model)
        step = moved(tangent)
        own = dict(tangent.named_parameters())
        rows = torch.func.jacrev(lambda t: torch.func.functional_call(tangent, t, (x,)))(own)
        flat = torch.cat([row.flatten(2) for row in rows.values()], 2)
        assert_agree(flat, reference.jacobian(model, x))
        each = torch.func.vmap(lambda one: tangent(one.unsqueeze(0))[0])(x)
        assert_agree(each, tangent(x))
        jacobian = pb.jacobian(tangent, x)
        pushed = jacobian.push(jacobian.space.vector(dict_like(own, step)))
        assert_agree(pushed, reference.jacobian(model, x) @ step)

    def test_an_error_of_the_network_is_its_own(self) -> None:
        for order in (1, 2):
            with pytest.raises(RuntimeError, match="mat1 and mat2"):
                pb.linearize(smooth(), order=order)(torch.zeros(2, 5, dtype=torch.float64))

    def test_without_gradients_there_is_no_graph(self) -> None:
        tangent, x = pb.linearize(smooth()), samples().requires_grad_()
        with torch.no_grad():
            assert not tangent(x).requires_grad
        with torch.inference_mode():
            assert_agree(tangent(samples()).clone(), tangent.network(samples()).clone())

    def test_inputs_can_be_differentiated_where_forward_mode_ends(self) -> None:
        class Backwards(torch.autograd.Function):
            """A square that knows no forward mode."""

            @staticmethod
            def forward(ctx: Any, x: Tensor) -> Tensor:
                ctx.save_for_backward(x)
                return x**2

            @staticmethod
            def backward(ctx: Any, *gradients: Tensor) -> Tensor:
                return 2 * ctx.saved_tensors[0] * gradients[0]

        class Squared(nn.Module):
            def __init__(self, known: bool) -> None:
                super().__init__()
                self.inner, self.known = smooth(), known

            def forward(self, x: Tensor) -> Tensor:
                hidden = self.inner(x)
                return hidden**2 if self.known else Backwards.apply(hidden)

        gradients = []
        for known in (True, False):
            tangent, x = pb.linearize(Squared(known)), samples().requires_grad_()
            moved(tangent)
            found = tangent(x)
            gradients.append(
                [found, *torch.autograd.grad(found.sum(), [x, *tangent.network.parameters()])]
            )
        for one, other in zip(*gradients, strict=True):
            assert_agree(one.detach(), other.detach())

    def test_it_does_not_see_later_changes_of_the_model(self) -> None:
        model, x = smooth(), samples()
        tangent = pb.linearize(model)
        before = tangent(x)
        with torch.no_grad():
            model[0].weight.zero_()
        assert torch.equal(tangent(x), before)


def dict_like(parameters: dict[str, Tensor], flat: Tensor) -> dict[str, Tensor]:
    pieces = flat.split([p.numel() for p in parameters.values()])
    return {
        name: piece.view(parameters[name].shape)
        for name, piece in zip(parameters, pieces, strict=True)
    }


class TestBadInput:
    """What cannot be expanded is refused when it is asked for."""

    def test_no_such_order(self) -> None:
        with pytest.raises(InputError, match="order: 3"):
            pb.linearize(smooth(), order=3)

    def test_nothing_to_train(self) -> None:
        with pytest.raises(InputError, match="requires a gradient"):
            pb.linearize(smooth().requires_grad_(False))

    def test_batch_norm_that_always_takes_statistics_of_the_batch(self) -> None:
        model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, track_running_stats=False))
        with pytest.raises(InputError, match="1: batch norm without running statistics"):
            pb.linearize(model)

    def test_a_point_of_another_kind(self) -> None:
        with pytest.raises(REFUSED, match="at"):
            pb.linearize(smooth(), at={})  # type: ignore[arg-type]

    def test_a_point_of_another_network(self) -> None:
        with pytest.raises(InputError, match="lacks"):
            pb.linearize(smooth(), at=nn.Linear(3, 2).double())
        other = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)).double()
        with pytest.raises(InputError, match=r"0\.weight.*\(5, 3\).*\(7, 3\)"):
            pb.linearize(smooth(), at=other)

    def test_a_point_that_differs_where_nothing_moves(self) -> None:
        model, other = smooth(), smooth()
        model[0].bias.requires_grad_(False)
        with torch.no_grad():
            other[0].bias += 1
        with pytest.raises(InputError, match=r"0\.bias.*differs"):
            pb.linearize(model, at=other)

    def test_a_quadratic_expansion_where_forward_mode_ends(self) -> None:
        tangent = pb.linearize(named("embedding bag").module, order=2)
        with pytest.raises(InputError, match="order 2"):
            outputs(tangent, named("embedding bag"))
