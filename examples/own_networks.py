"""Networks of your own: encoder, decoder and a learned prior, for colour pictures with attributes as y.

    python examples/own_networks.py [epochs pictures]
    torchrun --nproc_per_node=2 examples/own_networks.py        # two processes, half of the pictures for each
"""

import sys

import torch
from torch import Tensor, distributed, nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from cvae_lib import CVAE, fit, load_checkpoint, log_likelihood, save_checkpoint
from cvae_lib.conditions import AttributeCondition
from cvae_lib.data import faces
from cvae_lib.likelihoods import GaussianPixels
from cvae_lib.priors import ConditionalGaussian


class Encoder(nn.Module):  # x (B, 3, 48, 48), c (B, C) -> mean and log-variance of q(z|x,y), (B, D) each
    def __init__(self, c: int, d: int) -> None:
        super().__init__()
        self.read = nn.Sequential(nn.Conv2d(3, 32, 4, 2, 1), nn.SiLU(), nn.Conv2d(32, 64, 4, 2, 1), nn.SiLU())
        self.head = nn.Linear(64 * 12 * 12 + c, 2 * d)

    def forward(self, x: Tensor, c: Tensor) -> tuple[Tensor, ...]:
        return self.head(torch.cat([self.read(x).flatten(1), c], 1)).chunk(2, 1)


class Decoder(nn.Module):  # z (B, D), c (B, C) -> what the likelihood reads: pixels before a sigmoid, (B, 3, 48, 48)
    def __init__(self, c: int, d: int) -> None:
        super().__init__()
        self.head = nn.Sequential(nn.Linear(d + c, 64 * 12 * 12), nn.SiLU(), nn.Unflatten(1, (64, 12, 12)))
        self.draw = nn.Sequential(nn.ConvTranspose2d(64, 32, 4, 2, 1), nn.SiLU(), nn.ConvTranspose2d(32, 3, 4, 2, 1))

    def forward(self, z: Tensor, c: Tensor) -> Tensor:
        return self.draw(self.head(torch.cat([z, c], 1)))


def build(d: int = 16) -> CVAE:
    y = AttributeCondition(("hair", "skin", "smile", "glasses", "age"))
    prior, likelihood = ConditionalGaussian(d, y.dim), GaussianPixels()
    return CVAE(Encoder(y.dim, d), Decoder(y.dim, d), condition=y, prior=prior, likelihood=likelihood)


epochs, count = map(int, sys.argv[1:] or (20, 5000))
drawn, model = faces(count=count), build()
x, y = nn.functional.interpolate(drawn.images / 255, size=48), model.condition.stack(drawn.attributes)
if distributed.is_torchelastic_launched():
    distributed.init_process_group("gloo")
sampler = DistributedSampler(TensorDataset(x, y)) if distributed.is_initialized() else None
fit(model, DataLoader(TensorDataset(x, y), 64, sampler=sampler, shuffle=sampler is None), epochs=epochs)
if sampler is None or sampler.rank == 0:
    save_checkpoint("own_networks", model)
    model, history = load_checkpoint("own_networks", model=build())
    print("new pictures of the first eight attributes:", tuple(model.draw(y[:8], sample=True).shape))
    print("log p(x|y), nats:", log_likelihood(model, (x[:256], y[:256]), samples=20))
