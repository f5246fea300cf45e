"""What the benchmark counts and compares: operations by torch's own counter, a floor that does the same products."""

import pytest
import shares
import torch
from torch.utils.flop_counter import FlopCounterMode

from cvae_lib.model import CVAE
from cvae_lib.objective import elbo_terms


@pytest.mark.parametrize("which", [0, 1])
def test_operations_are_what_torch_counts(which):
    _, config, settings = shares.MODELS[which]
    batch = settings["batch_size"]
    model = CVAE(config)
    x, y = torch.rand(batch, *config.image_shape), torch.arange(batch) % 10
    with FlopCounterMode(display=False) as counter:
        elbo_terms(model, x, y if model.is_conditional else None).loss().backward()
    assert shares.operations_per_image(model) * batch == counter.get_total_flops()


@pytest.mark.parametrize("which", [0, 1])
def test_the_floor_does_a_steps_products_and_never_runs_away(which):
    _, config, _ = shares.MODELS[which]
    model = CVAE(config)
    floor = shares.Floor(model, 8, torch.device("cpu"), torch.float32)
    multiplied = sum(2 * w.numel() * 8 * 3 for w in floor.weights) - 2 * floor.weights[0].numel() * 8
    assert multiplied == shares.operations_per_image(model) * 8
    for _ in range(3):
        floor.step()
    seen = [tensor.clone() for tensor in (*floor.gradients, *floor.downstream[1:])]
    floor.step()
    # The same inputs give the same numbers each time: nothing grows, and nothing dies away into slow tiny numbers.
    for tensor, before in zip((*floor.gradients, *floor.downstream[1:]), seen, strict=True):
        assert torch.equal(tensor, before) and tensor.abs().max() > 1e-20
    x, w = floor.inputs[0], floor.weights[0]
    torch.testing.assert_close(floor.outputs[0], x @ w.t())
    torch.testing.assert_close(floor.gradients[0], floor.upstream[0].t() @ x)
