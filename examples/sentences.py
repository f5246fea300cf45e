"""Sentences as x: two kinds of them, asked for by kind, at a temperature of the words.

Run it as ``python examples/sentences.py [steps sentences]``.
"""

import random
import sys

import torch

from cvae_lib import CVAE, fit, log_likelihood
from cvae_lib.conditions import LabelCondition
from cvae_lib.likelihoods import TokenLikelihood
from cvae_lib.networks import GRUDecoder, GRUEncoder

WORDS = ["<pad>", "<end>", "a", "small", "red", "old", "bird", "fish", "boat", "car"]
WORDS += ["sings", "swims", "sinks", "stops"]
KINDS = {"animal": (["bird", "fish"], ["sings", "swims"]), "thing": (["boat", "car"], ["sinks", "stops"])}
LENGTH = 6  # words and the end token; shorter sentences are padded with 0


def sentence(kind: str) -> list[int]:
    """Make up a sentence of one kind, as numbers of words, with the end token and padding."""
    nouns, verbs = KINDS[kind]
    adjectives = random.sample(["small", "red", "old"], random.randint(0, 2))
    words = ["a", *adjectives, random.choice(nouns), random.choice(verbs)]
    numbers = [WORDS.index(word) for word in words] + [1]
    return numbers + [0] * (LENGTH - len(numbers))


def main(steps: int = 600, count: int = 4000) -> None:
    """Train, and write five sentences of each kind at two temperatures."""
    random.seed(0)
    torch.manual_seed(0)
    y = torch.arange(count) % 2  # the kind of each sentence
    x = torch.tensor([sentence(list(KINDS)[kind]) for kind in y.tolist()])  # (N, 6), int64
    model = CVAE(
        GRUEncoder(len(WORDS), 32, 4, embedding=16, condition_dim=2),
        GRUDecoder(4, 48, len(WORDS), embedding=16, condition_dim=2, z_at="every"),
        condition=LabelCondition(2),
        likelihood=TokenLikelihood(len(WORDS), LENGTH),
    )
    fit(model, (x, y), steps=steps, batch_size=64, learning_rate=4e-3, log_every=100)
    print("log p(x|y), nats a sentence:", log_likelihood(model, (x[:500], y[:500]), samples=20))
    for kind, name in enumerate(KINDS):
        for temperature in (0.5, 1.0):
            z = model.prior([kind] * 5).sample()  # (5, 4): five codes
            drawn = model.likelihood(z, [kind] * 5).sample(temperature=temperature)  # (5, 6)
            texts = [" ".join(WORDS[token] for token in row if token > 1) for row in drawn.tolist()]
            print(f"{name} at {temperature}: {'; '.join(texts)}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
