# %% [markdown]
# # 06 · Exercises
#
# *Build a prior that moves and can be trusted, and a model of your own around it.*
#
# {{ badges }}
#
# **Time:** about 115 minutes, of which the machine needs one. **You need:**
# [chapter 06](../notebooks/06_learnable_priors.ipynb), and `Film` from
# [the exercises of chapter 04](../exercises/04_where_does_y_go.ipynb); it is given again below.
#
# {{ edition }}
#
# 6.1 is what a prior is for, in one latent. 6.2 goes into the last exercise. 6.3 is the density you need whenever a prior has many
# humps. In 6.4 you give a prior to a model that is already trained, and in 6.5 you build one that learns its own.

# %% tags=["install"]
# {{ install }}

# %%
import math

import torch
import torch.nn.functional as F
from torch import nn

from cvae_lib import data, pretrained
from cvae_lib.course import figures
from cvae_lib.course.checks import check, progress

torch.manual_seed(0)
images = data.digits("train").subset(slice(4000))

# %% [markdown]
# ## 6.1 · One prior for two images
#
# *By hand · ★☆☆ · 15 minutes*
#
# Two images share their $y$. One latent; the encoder puts the first at {{ 6.1 first }} and the second at {{ 6.1 second }}, both with
# standard deviation {{ 6.1 std }}. What is the **standard deviation** of the best Gaussian $p(z \mid y)$, by (6.3)? What is the mean rate of
# the two with it, in nats? And what is it with $\mathcal N(0, 1)$?
#
# <details><summary>Hint 1</summary>
#
# The best mean is in the middle, {{ 6.1 centre }}. The best *variance* is that of a cloud, plus the mean squared distance of the
# centres from the middle.
#
# </details>
# <details><summary>Hint 2</summary>
#
# Put it into (6.1). With the best prior the fraction is 1 on average, and only the two log-variances are left. With the standard normal,
# $\mu = w = 0$, and the two images cost different amounts: average them.
#
# </details>

# %% nbgrader={"grade": false, "grade_id": "exercise-6-1", "locked": false, "schema_version": 3, "solution": true, "task": false}
sigma, best, standard = ..., ..., ...
### BEGIN SOLUTION
centres, std = (GIVEN_6_1_first, GIVEN_6_1_second), GIVEN_6_1_std
half = (centres[1] - centres[0]) / 2
sigma = math.sqrt(std**2 + half**2)
best = math.log(sigma / std)
square = (centres[0] ** 2 + centres[1] ** 2) / 2
standard = 0.5 * (-2 * math.log(std) + std**2 + square - 1)
### END SOLUTION

# %% nbgrader={"grade": true, "grade_id": "check-6-1", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
check("6.1", sigma, best, standard)

# %% [markdown]
# The best prior is wider than either posterior, and still costs something: which of the two it was is information. No prior that knows
# only $y$ can save that.

# %% [markdown]
# ## 6.2 · A prior that can be trusted
#
# *Implement · ★★☆ · 20 minutes*
#
# Write $p(z \mid y)$ as a network from $c$, the numbers made of $y$, to a mean and a log-variance. It must keep four promises:
#
# - before any training it is the standard normal, for every $c$;
# - it can learn, mean and width both, and listens to $c$;
# - its log-variance stays within −10 and 10, however odd $c$ is and however large its weights have grown;
# - a prior that has run to its bound can come back: there is a gradient left.
#
# The check trains a copy for a few steps, and then lets its weights grow.
#
# <details><summary>Hint 1</summary>
#
# One hidden layer is enough. The first promise is about the *last* layer, its bias included. If you start both layers at zero, the second
# promise is broken.
#
# </details>
# <details><summary>Hint 2</summary>
#
# `clamp` keeps the third promise and breaks the fourth. $10 \tanh(r / 10)$ is nearly $r$ where $r$ is small, and never beyond 10.
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "exercise-6-2", "locked": false, "schema_version": 3, "solution": true, "task": false}
class MovingPrior(nn.Module):
    """A Gaussian that moves with the condition."""

    def __init__(self, latents, numbers):  # D and C
        super().__init__()
        ### BEGIN SOLUTION
        self.read = nn.Linear(numbers, 64)
        self.out = nn.Linear(64, 2 * latents)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)
        ### END SOLUTION

    def forward(self, c):  # (B, C) -> mean and log-variance, (B, D) each
        ### BEGIN SOLUTION
        mean, raw = self.out(F.silu(self.read(c))).chunk(2, dim=1)
        return mean, 10 * torch.tanh(raw / 10)
        ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-6-2", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
check("6.2", MovingPrior)

# %% [markdown]
# ## 6.3 · The density of many clouds
#
# *Implement · ★★☆ · 15 minutes*
#
# The aggregate posterior, a mixture, a VampPrior: all are averages of $N$ Gaussians. Write the logarithm of such an average,
#
# $$\log \frac1N \sum_{n=1}^{N} \mathcal N\big(z;\, m_n, e^{v_n}\big),$$
#
# for each of $B$ points $z$. Your function must hold in 300 dimensions, where every single density is smaller than any number that a
# computer can store.
#
# <details><summary>Hint 1</summary>
#
# `z[:, None] - mean` has shape (B, N, D). Write the log-density of each cloud at each point first, and sum it over the latents.
#
# </details>
# <details><summary>Hint 2</summary>
#
# Never `exp` and then `log`: `logsumexp(1)` takes the largest out first. And what becomes of the $1/N$ under a logarithm?
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "exercise-6-3", "locked": false, "schema_version": 3, "solution": true, "task": false}
def aggregate_log_prob(z, mean, log_variance):
    """Log-density of an average of N diagonal Gaussians.

    z: shape (B, D). mean, log_variance: shape (N, D). Returns shape (B,).
    """
    ### BEGIN SOLUTION
    square = (z[:, None] - mean) ** 2 / log_variance.exp()
    each = -0.5 * (square + log_variance + math.log(2 * math.pi)).sum(2)  # (B, N)
    return each.logsumexp(1) - math.log(len(mean))
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-6-3", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check("6.3", aggregate_log_prob)

# %% [markdown]
# ## 6.4 · A prior made afterwards
#
# *Predict, then measure · ★★★ · 25 minutes*
#
# The model of chapter 00 was trained with the fixed prior $\mathcal N(0, I)$. Leave its networks alone, and give it another prior now: to each label the Gaussian
# that suits the posteriors of that label best, by (6.3). Every nat that this takes off the rate is a nat of ELBO, for nothing.
#
# **Predict.** What share of the rate does it save? One number between 0 and 1.
#
# **Measure** three mean rates, in nats per image: with the fixed prior; with the best single Gaussian for all images; with the best
# one for each label.
#
# <details><summary>Hint 1</summary>
#
# Everything is in `m`, `v` and `y` below. For one label: `rows = y == 7`, then means over `m[rows]` and `v[rows]`, per latent. The variance has
# two parts.
#
# </details>
# <details><summary>Hint 2</summary>
#
# With priors in tensors `mu` and `w` of shape (10, D), `mu[y]` gives every image the prior of its label. Sum (6.1) over the latents, then
# average over the images.
#
# </details>

# %%
some = data.digits("test").subset(slice(2000))
y = some.labels
with torch.no_grad():
    q = pretrained.load_cvae().posterior(some.pixels(mode="threshold"), y)
m, v = q.mean, q.variance.log()  # (2000, 32) each

# %% nbgrader={"grade": false, "grade_id": "exercise-6-4a", "locked": false, "schema_version": 3, "solution": true, "task": false}
prediction = ...  # the share of the rate that a prior for each label saves
### BEGIN SOLUTION
prediction = 0.1
### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "exercise-6-4b", "locked": false, "schema_version": 3, "solution": true, "task": false}
def best_prior(m, v):
    """Mean and log-variance of the Gaussian that suits N posteriors best.

    m, v: shape (N, D). Returns shapes (D,) and (D,).
    """
    ### BEGIN SOLUTION
    mu = m.mean(0)
    return mu, (v.exp() + (m - mu) ** 2).mean(0).log()
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "exercise-6-4c", "locked": false, "schema_version": 3, "solution": true, "task": false}
rates = ...  # fixed, one Gaussian for all, one for each label
### BEGIN SOLUTION


def mean_rate(mu, w):
    return 0.5 * (w - v + (v.exp() + (m - mu) ** 2) / w.exp() - 1).sum(1).mean()


labels = [best_prior(m[y == label], v[y == label]) for label in range(10)]
mu, w = (torch.stack(part) for part in zip(*labels, strict=True))  # (10, D) each
nothing = torch.zeros(m.shape[1])
rates = mean_rate(nothing, nothing), mean_rate(*best_prior(m, v)), mean_rate(mu[y], w[y])
### END SOLUTION

# %% nbgrader={"grade": true, "grade_id": "check-6-4", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
check("6.4", prediction, rates)

# %% [markdown]
# Were you surprised? Training towards a fixed prior does not only price the posteriors. It also pulls them into place, label by
# label. A prior that comes afterwards finds little left to do. In 6.5 it is there from the start.

# %% [markdown]
# ## 6.5 · A CVAE with FiLM and a prior that learns
#
# *Open stretch · ★★★ · 40 minutes*
#
# A model of your own: `Film` in every hidden block of both networks, four latents, and your `MovingPrior`, trained together on the 4,000
# `images`. Beside `encode`, `decode` and `terms` it has a method `prior(y)`, which returns mean and log-variance of $p(z \mid y)$. The rate in
# `terms` is (6.1) in closed form. The check draws $z$ from your own prior.
#
# <details><summary>Hint 1</summary>
#
# Only two things differ from 4.6: `prior`, which is one line, and the rate, which is that of 1.3. If the optimiser gets
# `model.parameters()`, is your prior among them?
#
# </details>
# <details><summary>Hint 2</summary>
#
# In `__init__`: `self.prior_module = MovingPrior(latents, 10)`. In `terms`: `gaussian_kl(*self.encode(x, y), *self.prior(y))`; nothing
# is detached.
#
# </details>


# %%
def one_hot(y, classes=10):  # (B,) -> (B, classes)
    return F.one_hot(y, classes).float()


def reparameterise(mean, log_variance):  # (B, D), (B, D) -> (B, D)
    return mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)


def gaussian_kl(m, v, mu, w):  # KL(N(m, e^v) || N(mu, e^w)), (B, D) four times -> (B,)
    return 0.5 * (w - v + (v - w).exp() + (m - mu) ** 2 / w.exp() - 1).sum(1)


def distortion_of(logits, x):  # (B, 1, 28, 28) twice -> (B,)
    return (F.softplus(logits) - x * logits).flatten(1).sum(1)


# %%
class Film(nn.Module):  # that of 4.2
    def __init__(self, features, numbers):
        super().__init__()
        self.modulate = nn.Linear(numbers, 2 * features, bias=False)
        nn.init.zeros_(self.modulate.weight)

    def forward(self, h, c):
        gamma, beta = self.modulate(c).chunk(2, dim=1)
        return (1 + gamma) * h + beta


class Told(nn.Module):  # that of 4.6: three layers, told the condition between them
    def __init__(self, inputs, outputs, width=256, numbers=10):
        super().__init__()
        sizes = (inputs, width), (width, width), (width, outputs)
        self.layers = nn.ModuleList(nn.Linear(*size) for size in sizes)
        self.films = nn.ModuleList(Film(width, numbers) for _ in range(2))

    def forward(self, h, c):
        for layer, film in zip(self.layers[:2], self.films, strict=True):
            h = F.silu(film(layer(h), c))
        return self.layers[2](h)


# %%
def train(model, images, epochs=15):
    optimiser = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(epochs):
        for x, y, _ in images.batches(100):
            distortion, rate = model.terms(x, y)
            loss = (distortion + rate).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return model


# %% nbgrader={"grade": false, "grade_id": "exercise-6-5a", "locked": false, "schema_version": 3, "solution": true, "task": false}
class MovingVAE(nn.Module):
    def __init__(self, latents=4):
        super().__init__()
        ### BEGIN SOLUTION
        self.encoder, self.decoder = Told(784, 2 * latents), Told(latents, 784)
        self.prior_module = MovingPrior(latents, 10)
        ### END SOLUTION

    def prior(self, y):  # (B,) -> mean and log-variance, (B, D) each
        ### BEGIN SOLUTION
        return self.prior_module(one_hot(y))
        ### END SOLUTION

    def encode(self, x, y):  # (B, 1, 28, 28), (B,) -> mean and log-variance, (B, D) each
        ### BEGIN SOLUTION
        return self.encoder(x.flatten(1), one_hot(y)).chunk(2, 1)
        ### END SOLUTION

    def decode(self, z, y):  # (B, D), (B,) -> logits, (B, 1, 28, 28)
        ### BEGIN SOLUTION
        return self.decoder(z, one_hot(y)).view(-1, 1, 28, 28)
        ### END SOLUTION

    def terms(self, x, y):  # -> distortion and rate, (B,) each
        ### BEGIN SOLUTION
        mean, log_variance = self.encode(x, y)
        logits = self.decode(reparameterise(mean, log_variance), y)
        return distortion_of(logits, x), gaussian_kl(mean, log_variance, *self.prior(y))
        ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "exercise-6-5b", "locked": false, "schema_version": 3, "solution": true, "task": false}
moving = ...  # your model, trained
### BEGIN SOLUTION
moving = train(MovingVAE(), images)
### END SOLUTION

# %% nbgrader={"grade": true, "grade_id": "check-6-5", "locked": true, "points": 4, "schema_version": 3, "solution": false, "task": false}
check("6.5", moving)

# %% nbgrader={"grade": false, "grade_id": "exercise-6-free", "locked": false, "schema_version": 3, "solution": true, "task": false}
sheet = ...  # (30, 1, 28, 28): three draws from your prior for each of the labels 0 to 9
### BEGIN SOLUTION
torch.manual_seed(1)
with torch.no_grad():
    y = torch.arange(10).repeat(3)
    sheet = moving.decode(reparameterise(*moving.prior(y)), y).sigmoid()
### END SOLUTION
alt = "Three rows of the digits 0 to 9, drawn from the model's own prior; nearly all are what was asked."
None if sheet is ... else figures.digit_grid(sheet, alt, columns=10, column_labels=range(10))

# %% [markdown]
# *Figure E6.1. Three draws for each label, each from the prior that the model has learned for it.*

# %%
progress(6)

# %% [markdown]
# *Figure E6.2. What you have done of this chapter; it is remembered when you come back.*
#
# **Back:** [06 · Learnable priors](../notebooks/06_learnable_priors.ipynb)
