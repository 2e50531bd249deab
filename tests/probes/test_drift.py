"""How far the kernel has moved, and which way, against the slow twin."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pullback import InputError
from pullback.probes import KernelDrift, KernelRotation, KernelSample, SubspaceOverlap
from tests import reference
from tests.checks import assert_agree
from tests.probes.small import (
    LABELS,
    LAYERS,
    ROWS,
    SAMPLE,
    C,
    N,
    Shift,
    centred_labels,
    inputs,
    kernel_of,
    measured,
    network,
    projection,
    real,
)

LATER = network(seed=1)
LATER_ROWS = reference.jacobian(LATER, inputs())


def test_drift_is_one_at_the_start_and_the_twins_elsewhere() -> None:
    probe = KernelDrift(SAMPLE, network())
    assert measured(probe)["all"] == pytest.approx(1)
    for layer, where in LAYERS.items():
        expected = reference.alignment(
            kernel_of(LATER_ROWS[..., where]), kernel_of(ROWS[..., where]), projection("samples")
        )
        assert_agree(measured(probe, LATER)[layer], expected)


def test_overlap_is_the_share_of_the_subspace_then_that_is_in_the_subspace_now() -> None:
    then, now = (torch.linalg.eigh(kernel_of(rows))[1].flip(1) for rows in (ROWS, LATER_ROWS))
    answer = measured(SubspaceOverlap(SAMPLE, network(), ks=(2, 7)), LATER)
    for k in (2, 7):
        singular = torch.linalg.svdvals(now[:, :k].T @ then[:, :k])
        assert_agree(answer[str(k)]["overlap"], singular.square().mean())
        assert_agree(answer[str(k)]["random"], k / (N * C))
    assert answer["7"]["overlap"] < 0.99


def test_a_subspace_that_has_not_moved_overlaps_with_itself_whatever_its_size() -> None:
    probe = SubspaceOverlap(SAMPLE, network(), ks=(1, 6, N * C))
    for one in measured(probe).values():
        assert_agree(one["overlap"], 1.0)
    assert_agree(measured(probe, LATER)[str(N * C)]["overlap"], 1.0)


def test_rotation_compares_the_growth_of_alignments() -> None:
    leading = torch.linalg.eigh(kernel_of(ROWS)).eigenvectors.flip(1)[:, :4].T
    functions = torch.cat([centred_labels().flatten().unsqueeze(0), leading])
    now, then = LATER_ROWS.flatten(0, 1), ROWS.flatten(0, 1)
    growth = (functions @ now).square().sum(1) / (functions @ then).square().sum(1)
    answer = measured(KernelRotation(SAMPLE, network(), k=4), LATER)
    assert_agree(answer["labels"], growth[0])
    assert_agree(real(answer["functions"]), growth[1:])
    assert_agree(answer["ratio"], growth[0] / growth[1:].quantile(0.5))


def test_a_network_that_has_not_moved_has_not_turned() -> None:
    answer = measured(KernelRotation(SAMPLE, network(), k=4))
    assert_agree(answer["ratio"], 1.0)
    assert_agree(answer["labels"], 1.0)


def test_eigenfunctions_that_are_only_rounding_are_refused_when_a_probe_is_made() -> None:
    """The kernel of a bias has as many eigenvalues as there are outputs."""
    model = nn.Sequential(nn.Flatten(), Shift())
    sample = KernelSample(inputs()[:, :3], LABELS)
    with pytest.raises(InputError, match="ks: 4 eigenfunctions, .* 3 eigenvalues"):
        SubspaceOverlap(sample, model, ks=(1, 4))
    with pytest.raises(InputError, match="k: 4 eigenfunctions, .* 3 eigenvalues"):
        KernelRotation(sample, model, k=4)


@pytest.mark.parametrize("ks", [(), (0,), (3, -1)])
def test_no_eigenfunctions_have_no_overlap(ks: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="ks: "):
        SubspaceOverlap(SAMPLE, network(), ks)
