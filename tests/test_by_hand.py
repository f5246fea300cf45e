"""What the chapters build by hand agrees with the library."""

import importlib.util
import sys
from types import ModuleType

import pytest
import torch
from lifting import ROOT, lift

from cvae_lib import data
from cvae_lib.conditioning import conditioning
from cvae_lib.conditions import Tokens
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


CHAPTER_04 = {
    "concatenation": "Concatenate",
    "addition": "Add",
    "film": "Modulate",
    "batchnorm": "NormaliseAndModulate",
    "attention": "Attend",
}


def pair_of(how: str) -> tuple[torch.nn.Module, torch.nn.Module]:
    """Return chapter 04's layer and the library's, as they start, for 12 features and 5 numbers."""
    return lift("04_where_does_y_go", CHAPTER_04[how])[CHAPTER_04[how]](12, 5), conditioning(how, 12, 5)


def share_weights(mine: torch.nn.Module, theirs: torch.nn.Module) -> None:
    for parameter, other in zip(mine.parameters(), theirs.parameters(), strict=True):
        other.data.copy_(torch.nn.init.normal_(parameter.data, std=0.7))


@pytest.mark.parametrize("how", CHAPTER_04)
def test_chapter_04s_layers_are_the_librarys(how):
    mine, theirs = pair_of(how)
    share_weights(mine, theirs)
    for training in (True, True, False):  # batch norm keeps averages, which two steps move
        mine.train(training), theirs.train(training)
        h, c = 1 + 2 * torch.randn(9, 12), torch.randn(9, 5)
        torch.testing.assert_close(mine(h, c), theirs(h, c))
    if how == "concatenation":
        assert mine.out_features == theirs.out_features


def test_chapter_04s_attention_reads_a_list_as_the_librarys():
    mine, theirs = pair_of("attention")
    share_weights(mine, theirs)
    h, c = torch.randn(9, 12), torch.randn(9, 4, 5)
    torch.testing.assert_close(mine(h, c), theirs(h, Tokens(c, torch.ones(9, 4, dtype=torch.bool))))


@pytest.mark.parametrize("how", ["film", "attention"])
def test_chapter_04s_layers_start_where_the_librarys_do(how):
    h, c = torch.randn(9, 12), torch.randn(9, 5)
    for layer in pair_of(how):
        assert torch.equal(layer(h, c), h)


def test_chapter_04s_two_zero_layers_never_learn_and_one_does():
    film = lift("04_where_does_y_go", "Film")["Film"]
    h, c, wanted = torch.randn(30, 6), torch.eye(3).repeat(10, 1), torch.randn(30, 6)
    for zeros, learns in ((1, True), (2, False)):
        layer = film(6, 3, zeros=zeros)
        assert torch.equal(layer(h, c), h)
        optimiser = torch.optim.Adam(layer.parameters(), lr=0.01)
        for _ in range(20):
            optimiser.zero_grad()
            (layer(h, c) - wanted).square().mean().backward()
            optimiser.step()
        assert bool((layer.outer.weight != 0).any()) == learns


@pytest.fixture(scope="module")
def study() -> ModuleType:
    """Return the script behind chapter 04's record as a module."""
    spec = importlib.util.spec_from_file_location("where_y_goes", ROOT / "benchmarks" / "studies" / "where_y_goes.py")
    assert spec and spec.loader
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # its dataclasses look there
    spec.loader.exec_module(module)
    return module


def test_chapter_04s_pairs_are_those_of_its_study(study):
    mine = lift("04_where_does_y_go", "WORDS", "two_digits", "SideBySide")
    digits = data.strokes("test").subset(slice(50))
    (pairs, words), (theirs, their_words) = mine["two_digits"](digits, seed=3), study.two_digits(digits, 3)
    assert torch.equal(pairs.pixels(), theirs.pixels()) and torch.equal(words, their_words)
    assert torch.equal(pairs.labels, 10 * (words[:, 0] - 1) + words[:, 1] - 1)
    assert mine["WORDS"] == study.WORDS
    assert torch.equal(mine["SideBySide"]()(words), study.SideBySide()(words))
