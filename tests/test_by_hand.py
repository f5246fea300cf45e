"""What the chapters build by hand agrees with the library."""

import math

import pytest
import torch
from lifting import ROOT, lift

from cvae_lib.conditioning import CrossAttention
from cvae_lib.conditions import AttributeCondition, CaptionCondition, Vocabulary
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


needs_05 = pytest.mark.skipif(not (ROOT / "notebooks/05_what_can_y_be.ipynb").exists(), reason="not built")
CHAPTER_05 = "05_what_can_y_be"


@needs_05
def test_chapter_05s_numbers_are_the_librarys():
    training = 3 + 2 * torch.randn(200, 3)
    mine = lift(CHAPTER_05, "Numbers")["Numbers"](training)
    theirs = AttributeCondition(("a", "b", "c")).standardise(training)
    asked = torch.randn(50, 3)
    asked[torch.rand(50, 3) < 0.3] = math.nan
    torch.testing.assert_close(mine(asked), theirs(asked))


@needs_05
def test_chapter_05s_words_and_their_weights_are_the_librarys():
    lifted = lift(CHAPTER_05, "Words", "attend")
    mine, theirs = lifted["Words"](7, 4, 6), CaptionCondition(Vocabulary("abcdefg", 4), 6)
    theirs.load_state_dict(mine.state_dict())
    ids = torch.tensor([[3, 1, 0, 0], [7, 2, 2, 5], [0, 0, 0, 0]])
    values, mask = mine(ids)
    torch.testing.assert_close(values, theirs(ids).values)
    assert torch.equal(mask, theirs(ids).mask)
    slot, h = CrossAttention(5, 6, heads=1, head_dim=8), torch.randn(3, 5)
    scores = torch.einsum("bd,bld->bl", slot.query(h), slot.key(values)) / 8**0.5
    torch.testing.assert_close(lifted["attend"](scores, mask), slot.attend(h, theirs(ids))[1][:, 0])


@needs_05
def test_chapter_05s_parts_are_a_condition_that_can_be_missing():
    parts = lift(CHAPTER_05, "Parts")["Parts"]()
    y = torch.randint(0, 4, (3, 32, 32))
    assert parts(y).shape == (3, parts.dim)
    c = parts(y).unflatten(1, (4, 32, 32))
    assert torch.equal(c.argmax(1), y) and (c.sum(1) == 1).all()
    hidden = parts(parts.drop(y, 1.0))
    assert (hidden == 0).all()
