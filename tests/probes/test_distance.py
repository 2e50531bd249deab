"""The distance that the parameters have gone."""

from __future__ import annotations

import pytest
import torch

from pullback.probes import ParameterDistance
from tests.probes.small import measured, network


def test_distance_is_that_to_the_start_which_is_copied() -> None:
    model = network()
    probe = ParameterDistance(model)
    length = sum(float(p.detach().square().sum()) for p in model.parameters()) ** 0.5
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    answer = measured(probe, model)
    assert answer["l2"] == pytest.approx(2 * length)
    assert answer["relative"] == pytest.approx(2)
