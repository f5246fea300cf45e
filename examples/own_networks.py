"""Networks of your own: encoder, decoder and a learned prior, for colour pictures with attributes as y.

Run it as ``python examples/own_networks.py [epochs pictures]``, or in two processes that share the pictures as
``torchrun --nproc_per_node=2 examples/own_networks.py``.
"""

import sys

import torch
from torch import Tensor, distributed, nn
from torch.utils.data import DataLoader, DistributedSampler, RandomSampler, TensorDataset

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
        return tuple(self.head(torch.cat([self.read(x).flatten(1), c], 1)).chunk(2, 1))


class Decoder(nn.Module):  # z (B, D), c (B, C) -> what the likelihood reads: pixels before a sigmoid, (B, 3, 48, 48)
    def __init__(self, c: int, d: int) -> None:
        super().__init__()
        self.start = nn.Sequential(nn.Linear(d + c, 64 * 12 * 12), nn.SiLU(), nn.Unflatten(1, (64, 12, 12)))
        self.grow = nn.Sequential(nn.ConvTranspose2d(64, 32, 4, 2, 1), nn.SiLU(), nn.ConvTranspose2d(32, 3, 4, 2, 1))

    def forward(self, z: Tensor, c: Tensor) -> Tensor:
        pixels: Tensor = self.grow(self.start(torch.cat([z, c], 1)))
        return pixels


def build(y: AttributeCondition, d: int = 16) -> CVAE:
    networks, prior = (Encoder(y.dim, d), Decoder(y.dim, d)), ConditionalGaussian(d, y.dim)
    return CVAE(*networks, condition=y, prior=prior, likelihood=GaussianPixels())


epochs, count = map(int, sys.argv[1:] or (20, 5000))
drawn = faces(count=count)
names, y = tuple(drawn.attributes), torch.stack(list(drawn.attributes.values()), 1)  # (n, 5)
data = TensorDataset(nn.functional.interpolate(drawn.images / 255, size=48), y)  # x (n, 3, 48, 48), y
if several := distributed.is_torchelastic_launched():
    distributed.init_process_group("gloo")
loader = DataLoader(data, batch_size=64, sampler=(DistributedSampler if several else RandomSampler)(data))
model = build(AttributeCondition(names).standardise(y))
fit(model, loader, epochs=epochs)
if not several or distributed.get_rank() == 0:
    save_checkpoint("own_networks", model)
    model, history = load_checkpoint("own_networks", model=build(AttributeCondition(names)))
    new, nats = model.draw(y[:8]), log_likelihood(model, data, samples=20)
    print(f"drew pictures of shape {tuple(new.shape)}; log p(x|y) is {nats} nats")
