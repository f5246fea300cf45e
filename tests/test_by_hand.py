"""What the chapters build by hand agrees with the library."""

import pytest
import torch
from lifting import ROOT, lift

from cvae_lib.model import CVAE, CVAEConfig
from cvae_lib.objective import elbo_terms

needs_03 = pytest.mark.skipif(not (ROOT / "notebooks/03_class_conditional_mnist.ipynb").exists(), reason="not built")


@needs_03
@pytest.mark.parametrize("name, classes", [("VAE", 0), ("ConditionalVAE", 10)])
def test_chapter_03s_loss_is_the_librarys(name, classes):
    by_hand = lift("03_class_conditional_mnist", "W", "D", "Skip", name)[name]()
    model = CVAE(CVAEConfig(num_classes=classes))
    mine = [*by_hand.encode.parameters(), *by_hand.decode.parameters()]
    for parameter, other in zip(mine, model.parameters(), strict=True):
        parameter.data.copy_(other.data)
    x, y = (torch.rand(20, 1, 28, 28) < 0.2).float(), torch.arange(20) % 10
    torch.manual_seed(3)
    theirs = elbo_terms(model, x, y if classes else None).loss()
    torch.manual_seed(3)
    ours = by_hand.loss(x.flatten(1), y) if classes else by_hand.loss(x.flatten(1))
    # The library bounds log-variances at 10, which changes small ones in the fifth digit.
    torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-6)
