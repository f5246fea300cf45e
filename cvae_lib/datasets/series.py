"""The built-in series: a smooth swing whose future forks, up or down, with the predictive distribution known exactly.

A swing :math:`s_t` is a stationary Gaussian process with period :data:`PERIOD` that forgets at rate :data:`DAMPING` a
step (an autoregression of order two) and variance 1. A window is :data:`WINDOW` steps of it, y. Its future, x, is the
next :data:`HORIZON` steps plus or minus a known path, :func:`branch`; which of the two is a coin whose chance of
"up" is known from y, see :func:`chance`. So p(x|y) is a mixture of two Gaussians, :class:`Law`.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cvae_lib.environment import named_generator, plain_defaults

WINDOW, HORIZON = 24, 12
PERIOD, DAMPING = 12.0, 0.96
FORK, SETTLED, HEIGHT = 3, 8, 2.5  # steps after which the branches part and have parted, and how far from the middle
LOOK, TILT = 8, 1.5  # how many steps of the window the coin reads, and how strongly it heeds them
COUNTS = {"train": 20_000, "test": 5_000}


class Forks(NamedTuple):
    """N windows with what came after them.

    Attributes:
        windows: y, shape (N, 24).
        futures: x, shape (N, 12).
        up: which branch it was, shape (N,).
    """

    windows: Float[Tensor, "n w"]
    futures: Float[Tensor, "n t"]
    up: Bool[Tensor, "n"]


class Law(NamedTuple):
    r"""The predictive distribution of N windows, :math:`p(x|y) = \pi N(m + b, S) + (1 - \pi) N(m - b, S)`.

    Attributes:
        chance: :math:`\pi(y)`, of the branch that goes up.
        middle: :math:`m(y)`, the swing's own conditional mean, between the branches.
        branch: b, the same for all windows.
        covariance: S, the same for all windows.
    """

    chance: Float[Tensor, " n"]
    middle: Float[Tensor, "n t"]
    branch: Float[Tensor, " t"]
    covariance: Float[Tensor, "t t"]

    @property
    def mean(self) -> Float[Tensor, "n t"]:
        r"""The mean of the whole, :math:`m + (2\pi - 1) b`: what the best point forecast in squares predicts."""
        return self.middle + (2 * self.chance - 1)[:, None] * self.branch

    @property
    def scale(self) -> Float[Tensor, " t"]:
        """The standard deviation around either branch at each step."""
        return self.covariance.diagonal().sqrt()

    @property
    def means(self) -> Float[Tensor, "n 2 t"]:
        """The two branches, up first."""
        return torch.stack([self.middle + self.branch, self.middle - self.branch], dim=1)

    @property
    def weights(self) -> Float[Tensor, "n 2"]:
        """The chances of the two branches, up first."""
        return torch.stack([self.chance, 1 - self.chance], dim=1)

    @plain_defaults()
    def sample(self, count: int, generator: torch.Generator | None = None) -> Float[Tensor, "m n t"]:
        """Return so many futures for each window, shape (count, N, T); the generator, if given, is one of the CPU."""
        shape = (count, *self.middle.shape)
        noise = torch.randn(shape, generator=generator, dtype=torch.float64).to(self.middle)
        coins = torch.rand(shape[:2], generator=generator, dtype=torch.float64).to(self.middle)
        side = torch.where(coins < self.chance, 1.0, -1.0)[..., None]
        root = torch.linalg.cholesky(self.covariance.cpu().double()).to(self.middle)  # MPS has no float64
        draws: Tensor = self.middle + side * self.branch + noise @ root.T
        return draws

    def log_prob(self, futures: Float[Tensor, "*m n t"]) -> Float[Tensor, "*m n"]:
        """Return log p(x|y) of futures (..., N, T), nats per future, shape (..., N); summed over the T steps."""
        root = torch.linalg.cholesky(self.covariance.cpu().double())
        each = []
        for mean, weight in zip(self.means.unbind(1), self.weights.unbind(1), strict=True):
            rest = torch.linalg.solve_triangular(root, (futures - mean).cpu().double().unsqueeze(-1), upper=False)
            each.append(weight.cpu().double().log() - 0.5 * rest.squeeze(-1).square().sum(-1))
        size = root.diagonal().log().sum() + 0.5 * len(root) * math.log(2 * math.pi)
        value: Tensor = (torch.logaddexp(*each) - size).to(futures)
        return value


@plain_defaults()
def forks(split: str = "train", count: int | None = None, seed: int = 0, device: str | torch.device = "cpu") -> Forks:
    """Draw the data set: 20,000 windows with futures to train on, or 5,000 to test on, independent of each other.

    The first k are the same whatever the ``count``; train and test share no random numbers.

    Raises:
        ValueError: for an unknown split or a count below 1.
    """
    if split not in COUNTS:
        raise ValueError(f"There is no split {split!r} of the series; ask for 'train' or 'test'.")
    count = COUNTS[split] if count is None else count
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ValueError(f"The number of windows must be a whole number of at least 1, not {count!r}.")
    generator = named_generator(f"series {split}", seed)
    steps = WINDOW + HORIZON
    # A row of random numbers for each window, so that a longer set begins with a shorter one. torch draws normals by
    # sixteens and the rest of them in another way, so there must be no rest.
    noise = torch.randn(16 * math.ceil(count / 16), steps + 1, generator=generator, dtype=torch.float64)[:count]
    swing = noise[:, :steps] @ torch.linalg.cholesky(covariance(steps)).T
    windows, after = swing[:, :WINDOW], swing[:, WINDOW:]
    coins = 0.5 * torch.erfc(-noise[:, steps] / math.sqrt(2))  # uniform in (0, 1)
    up = coins < chance(windows)
    futures = after + torch.where(up, 1.0, -1.0)[:, None] * branch()
    return Forks(windows.float().to(device), futures.float().to(device), up.to(device))


@plain_defaults()
def law(windows: Float[Tensor, "n w"]) -> Law:
    r"""Return the predictive distribution of the future of each window, complete windows only.

    .. math:: m(y) = K_{xy} K_{yy}^{-1} y, \qquad S = K_{xx} - K_{xy} K_{yy}^{-1} K_{yx}

    with K the covariance of the swing; the conditional Gaussian of any textbook.

    Raises:
        ValueError: if the windows have another length than :data:`WINDOW`.
    """
    _check(windows)
    whole = covariance(WINDOW + HORIZON)
    past, cross, ahead = whole[:WINDOW, :WINDOW], whole[WINDOW:, :WINDOW], whole[WINDOW:, WINDOW:]
    gain = torch.linalg.solve(past, cross.T).T  # (T, W)
    middle, rest = windows.cpu().double() @ gain.T, ahead - gain @ cross.T
    pieces = (chance(windows.cpu().double()), middle, branch(), 0.5 * (rest + rest.T))
    return Law(*(piece.to(windows) for piece in pieces))


@plain_defaults()
def filled(
    windows: Float[Tensor, "n w"], mask: Bool[Tensor, "n w"], count: int, generator: torch.Generator | None = None
) -> Float[Tensor, "m n w"]:
    r"""Draw what is hidden in each window from its exact distribution given what is seen, so many times.

    .. math:: s' = s + K_{\cdot o} K_{oo}^{-1} (y_o - s_o), \qquad s \sim N(0, K)

    is a draw of the swing given its observed part o (Matheron's rule). A future for each completed window,
    ``law(...).sample(1)``, is then an exact draw from p(x | observed part).

    Args:
        mask: true where a value is known; what stands elsewhere is never read, NaN included.

    Raises:
        ValueError: if the windows have another length than :data:`WINDOW`.
    """
    _check(windows)
    K, seen = covariance(WINDOW), mask.cpu().double()  # (W, W), (N, W)
    # With a one on the diagonal where nothing was seen, all windows can be solved together.
    inner = seen[:, :, None] * K * seen[:, None, :] + torch.diag_embed(1 - seen)
    swing = torch.randn(count, *windows.shape, generator=generator, dtype=torch.float64) @ torch.linalg.cholesky(K).T
    known = torch.where(mask.cpu(), windows.cpu().double(), 0.0)
    off = (known - swing * seen).permute(1, 2, 0)  # (N, W, M)
    move = (K * seen[:, None, :]) @ torch.linalg.solve(inner, off)
    return torch.where(mask.cpu(), known, swing + move.permute(2, 0, 1)).to(windows)


@plain_defaults()
def branch() -> Float[Tensor, " t"]:
    """Return what "up" adds to the swing and "down" takes away: 0 at first, then a smooth rise to a level."""
    steps = torch.arange(1, HORIZON + 1, dtype=torch.float64)
    way = ((steps - FORK) / (SETTLED - FORK)).clamp(0, 1)
    return HEIGHT * way.square() * (3 - 2 * way)


@plain_defaults()
def chance(windows: Float[Tensor, "*n w"]) -> Float[Tensor, "*n"]:
    r"""Return the chance of "up", :math:`\pi(y) = \sigma(-1.5 f)`: what has been high is more likely to fall.

    f is the mean of the last 8 steps, divided by its own standard deviation.
    """
    own = covariance(LOOK).mean().sqrt()
    return torch.sigmoid(-TILT * windows[..., -LOOK:].mean(-1) / own.to(windows))


@plain_defaults()
def covariance(steps: int) -> Float[Tensor, "s s"]:
    r"""Return the covariance of so many steps of the swing, :math:`s_t = 2 r \cos\omega\, s_{t-1} - r^2 s_{t-2} + e_t`.

    Its autocovariances follow the same recursion, from 1 and :math:`2 r \cos\omega / (1 + r^2)` (Yule and Walker).
    """
    first, second = 2 * DAMPING * math.cos(2 * math.pi / PERIOD), -(DAMPING**2)
    gamma = [1.0, first / (1 - second)]
    for _ in range(steps):
        gamma.append(first * gamma[-1] + second * gamma[-2])
    lag = (torch.arange(steps)[:, None] - torch.arange(steps)).abs()
    return torch.tensor(gamma, dtype=torch.float64)[lag]


def _check(windows: Tensor) -> None:
    if windows.ndim != 2 or windows.shape[1] != WINDOW:
        raise ValueError(f"Windows of the series have shape (N, {WINDOW}), not {tuple(windows.shape)}.")
