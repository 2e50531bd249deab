"""Loss and accuracy on fixed subsets."""

from __future__ import annotations

import pytest
from torch import nn

from pullback.probes import Loss, Moment
from tests.checks import assert_agree
from tests.probes.small import LABELS, inputs, network


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_loss_and_accuracy_do_not_depend_on_the_batch_size(batch_size: int) -> None:
    outputs = network()(inputs())
    answer = Loss({"train": (inputs(), LABELS)}, batch_size).measure(Moment(network(), step=0))
    assert_agree(answer["train"]["loss"], nn.functional.cross_entropy(outputs, LABELS).item())
    assert answer["train"]["accuracy"] == (outputs.argmax(1) == LABELS).double().mean()
