"""Looking at a learner's random draws: their noise, and the gradients that pass through them."""

from typing import Any

import torch
from torch import Tensor

from cvae_lib.course.checks._probe import Trial


def slopes(z: Any, mean: Tensor, log_variance: Tensor) -> tuple[Tensor, ...] | None:
    """Return the gradients of the sample with respect to what it was made from, or None where there is none."""
    if not isinstance(z, Tensor) or not z.requires_grad:
        return None
    found = torch.autograd.grad(z.sum(), (mean, log_variance), allow_unused=True)
    return None if any(slope is None for slope in found) else found


def check_noise(trial: Trial, reparameterise: Any) -> None:
    """Take the noise back out of many draws, and see that it is standard normal and independent."""
    mean, log_variance = trial.normal(4096, 3), trial.normal(4096, 3)
    z = trial.tensor(trial.ask(reparameterise, mean=mean, log_variance=log_variance))
    if z.shape != mean.shape:
        trial.compare(z, mean)
    noise = (z - mean.cpu()).double()
    log_variance = log_variance.cpu().double()
    scales = {
        "": (0.5 * log_variance).exp(),
        "variance": log_variance.exp(),
        "log variance": log_variance,
        "unscaled": torch.ones_like(log_variance),
    }
    for mistake, scale in scales.items():
        eps = noise / scale
        if torch.allclose(eps[0], eps[1], rtol=1e-2) and torch.allclose(eps[0], eps[2], rtol=1e-2):
            trial.fail("shared")
        if torch.allclose(eps[:, 0], eps[:, 1], rtol=1e-2, atol=1e-3):
            trial.fail("shared latents")
        if eps.min() >= 0 and eps.max() <= 1:
            trial.fail("uniform")
        # The spread of 12,288 normal draws is within 0.04 of 1 for all practical purposes (six standard errors).
        if abs(eps.std() - 1) < 0.05 and abs(eps.mean()) < 0.06:
            if mistake:
                trial.fail(mistake, expected="noise of width 1 once it is divided by σ", got=noise[0])
            if abs(eps.pow(4).mean() - 3) > 0.5:
                trial.fail("uniform")
            return
    trial.fail("unknown", expected="noise of mean 0 and width 1 once it is divided by σ", got=noise[0])
