# %% [markdown]
# # 08 · Exercises
#
# *Keep two bills, read the exchange rate off them, and have a model made to order.*
#
# {{ badges }}
#
# **Time:** about 135 minutes, of which the machine needs one. **You need:**
# [chapter 08](../notebooks/08_rate_distortion.ipynb), and the model of
# [the exercises of chapter 04](../exercises/04_where_does_y_go.ipynb); it is given again below.
#
# {{ edition }}

# %% tags=["install"]
# {{ install }}

# %%
import math

import torch
import torch.nn.functional as F
from torch import nn

from cvae_lib import data
from cvae_lib.course import figures
from cvae_lib.course.checks import check, progress

torch.manual_seed(0)
images = data.digits("train").subset(slice(4000))

# %% [markdown]
# ## 8.1 · A beta by accident
#
# *By hand · ★☆☆ · 10 minutes*
#
# This stands in public code: `F.binary_cross_entropy(x_hat, x) + kl.mean()`. The images have {{ 8.1 side }} × {{ 8.1 side }} pixels, and `kl` has
# an entry for each image and each of {{ 8.1 latents }} latents. Both terms are means over *everything*. Which $\beta$ of (8.3) is that?
#
# And with `F.mse_loss(x_hat, x)` in the place of the first term: for which standard deviation $\sigma$ of a Gaussian decoder is this loss, up to
# factors and constants, exactly minus the ELBO?
#
# <details><summary>Hint 1</summary>
#
# Write each mean as a sum divided by a count, and multiply the whole loss so that the distortion stands alone.
#
# </details>
# <details><summary>Hint 2</summary>
#
# A Gaussian's distortion is $\sum (x - \hat x)^2 / (2 \sigma^2)$ and a constant. Multiply the second loss by the number of pixels and divide by
# $2\sigma^2$: what stands before the rate must be 1.
#
# </details>

# %% nbgrader={"grade": false, "grade_id": "exercise-8-1", "locked": false, "schema_version": 3, "solution": true, "task": false}
beta, sigma = ..., ...
### BEGIN SOLUTION
beta = GIVEN_8_1_side**2 / GIVEN_8_1_latents  # pixels for each latent
sigma = math.sqrt(beta / 2)
### END SOLUTION

# %% nbgrader={"grade": true, "grade_id": "check-8-1", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
check("8.1", beta, sigma)

# %% [markdown]
# For pixels between 0 and 1 that $\sigma$ is absurd, and so are the drawings. Nobody chose it; it came out of two means.

# %% [markdown]
# ## 8.2 · Two bills for every image
#
# *Implement · ★★☆ · 20 minutes*
#
# The two terms of (8.1) for each image, with everything a conditional model may bring: a posterior, a learned prior, and the logits of
# the decoder at $K$ draws of $z$.
#
# <details><summary>Hint 1</summary>
#
# The distortion is the *mean of* $-\log p(x \mid z, y)$ over the draws, not $-\log$ of a mean, and not that of a mean picture.
#
# </details>
# <details><summary>Hint 2</summary>
#
# `softplus(logits) - x * logits` is $-\log p$ of each pixel. The rate of two Gaussians you know from 7.6:
# $\frac12 \sum_d \big( e^{l_q - l_p} + (\mu_q - \mu_p)^2 e^{-l_p} - 1 + l_p - l_q \big)$.
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "exercise-8-2", "locked": false, "schema_version": 3, "solution": true, "task": false}
def two_bills(logits, x, mean, log_variance, prior_mean, prior_log_variance):
    """Distortion and rate of each image, in nats.

    logits: at K draws of z, shape (K, B, 1, H, W). x: zeros and ones, shape (B, 1, H, W).
    The others: of q(z|x,y) and of p(z|y), shape (B, D) each. Returns two tensors of shape (B,).
    """
    ### BEGIN SOLUTION
    distortion = (F.softplus(logits) - x * logits).flatten(2).sum(2).mean(0)
    wider = log_variance - prior_log_variance
    off = (mean - prior_mean).square() / prior_log_variance.exp()
    return distortion, 0.5 * (wider.exp() + off - 1 - wider).sum(1)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-8-2", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check("8.2", two_bills)

# %% [markdown]
# ## 8.3 · Beta, read off a curve
#
# *Implement · ★★☆ · 20 minutes*
#
# Somebody hands you rates and distortions of several models, in no order. Read the exchange rates off: sort by rate, and return
# minus the slope between neighbours, from the smallest rate to the largest.
#
# Then play the detective. Five models were trained with the betas below, and one of them badly. By (8.6) the slope between two
# models lies between their betas. Which is the culprit? Name its beta.
#
# <details><summary>Hint 1</summary>
#
# `argsort`, and then differences: `diff` of the sorted distortions over `diff` of the sorted rates.
#
# </details>
# <details><summary>Hint 2</summary>
#
# Two of the four slopes lie outside the two betas they belong to. A badly trained model spoils both pairs it stands in.
#
# </details>

# %%
betas = torch.tensor([2.0, 8.0, 0.5, 4.0, 1.0])
rates = torch.tensor([18.4, 7.3, 29.5, 13.6, 24.0])
distortions = torch.tensor([86.0, 134.0, 74.0, 110.0, 78.0])


# %% nbgrader={"grade": false, "grade_id": "exercise-8-3a", "locked": false, "schema_version": 3, "solution": true, "task": false}
def read_off(rates, distortions):
    """Minus the slope between neighbours on the curve, from the smallest rate to the largest.

    rates, distortions: of N models in any order, shape (N,). Returns shape (N - 1,).
    """
    ### BEGIN SOLUTION
    order = rates.argsort()
    return -distortions[order].diff() / rates[order].diff()
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "exercise-8-3b", "locked": false, "schema_version": 3, "solution": true, "task": false}
culprit = ...  # the beta of the model that was badly trained
### BEGIN SOLUTION
order = rates.argsort()
for pair, slope in zip(betas[order].unfold(0, 2, 1), read_off(rates, distortions), strict=True):
    within = pair.min() <= slope <= pair.max()
    print(f"betas {pair.tolist()}: slope {slope:.2f}, {'in order' if within else 'out of bounds'}")
culprit = 4.0
### END SOLUTION

# %% nbgrader={"grade": true, "grade_id": "check-8-3", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check("8.3", read_off, culprit)

# %% [markdown]
# ## 8.4 · What y buys at a given rate
#
# *Predict, then measure · ★★★ · 30 minutes*
#
# Back in the laboratory: $x$ is Gaussian with the variances below along its directions, and whoever knows $y$ has only `left` to learn. (8.5)
# asked what $y$ saves at a given *beta*. Now hold the **rate**: both may spend $R$ nats. The one who knows $y$ ends with a
# smaller squared error. Let $R$ grow from 0 to 8.
#
# **Predict.** As $R$ grows, does the error that $y$ saves become smaller all the way, become larger, or stay the same? Write
# `"falls"`, `"rises"` or `"stays"`.
#
# **Measure.** Write the least squared error at a rate. (8.4) gives rate and error from the water level $\theta$; you have to go the other
# way, and find the level whose price is $R$.
#
# <details><summary>Hint 1</summary>
#
# The lower the level, the higher the rate. Halve an interval of levels again and again, sixty times: always keep the half whose ends lie on
# both sides of $R$.
#
# </details>
# <details><summary>Hint 2</summary>
#
# Start with levels between 0 and the largest variance. The price of a level is
# `0.5 * (spread / level).log().clamp(min=0).sum()`, and at the end the error is `spread.clamp(max=level).sum()`.
#
# </details>

# %%
spread = torch.tensor([6.0, 4.0, 1.0, 0.5, 0.2])
left = torch.tensor([2.0, 1.0, 1.0, 0.5, 0.2])  # y explains a part of the first two

# %% nbgrader={"grade": false, "grade_id": "exercise-8-4a", "locked": false, "schema_version": 3, "solution": true, "task": false}
prediction = ...  # "falls", "rises" or "stays"
### BEGIN SOLUTION
prediction = "falls"
### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "exercise-8-4b", "locked": false, "schema_version": 3, "solution": true, "task": false}
def least_error(spread, rate):
    """The smallest E|x - x_hat|², summed over the directions, that a code of so many nats can reach.

    spread: variances in any order, shape (X,). rate: a number, at least 0. Returns one number.
    """
    ### BEGIN SOLUTION
    low, high = torch.zeros(()), spread.max()
    for _ in range(60):
        level = (low + high) / 2
        price = 0.5 * (spread / level).log().clamp(min=0).sum()
        low, high = (level, high) if price > rate else (low, level)
    return spread.clamp(max=high).sum()
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-8-4", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
check("8.4", prediction, least_error)

# %% nbgrader={"grade": false, "grade_id": "exercise-8-4c", "locked": false, "schema_version": 3, "solution": true, "task": false}
errors = ...  # two lists, without y and with it, for the rates 0, 0.25, ..., 8
### BEGIN SOLUTION
steps = [step / 4 for step in range(33)]
errors = [[least_error(each, rate).item() for rate in steps] for each in (spread, left)]
### END SOLUTION
alt = "Squared error against the rate: two falling convex curves, that with y below; far apart at rate 0, nearly one at rate 8."
curves = {} if errors is ... else dict(zip(("without y", "with y"), errors, strict=True))
axes = {"x": [step / 4 for step in range(33)], "x_label": "rate, nats", "y_label": "squared error"}
figures.curves(curves, alt, **axes) if curves else None

# %% [markdown]
# *Figure E8.1. What is left to learn, for somebody who knows $y$ and somebody who does not.*
#
# Read the picture sideways too. At an error of 8, how far apart are the curves? And at an error of 1? Horizontally they part, up to
# $I(x; y) = 1.24$ nats; vertically they close. "What does y buy" has an answer only once you say what is held.

# %% [markdown]
# ## 8.5 · A gap that counts
#
# *Implement · ★★★ · 25 minutes*
#
# The mutual information gap (8.9), from codes and factors that are already cut into bins. For each factor: how much more does the best
# latent know than the second best, as a share of all there is to know?
#
# <details><summary>Hint 1</summary>
#
# $I(a; b) = H(a) + H(b) - H(a, b)$, and each of them is a matter of counting. Two columns become one with
# `a * (b.max() + 1) + b`.
#
# </details>
# <details><summary>Hint 2</summary>
#
# `torch.bincount(column)` counts; leave out the zeros before you take a logarithm. Gather $I$ in a table of shape (D, K), then
# `topk(2, dim=0)`: the latents are compared, for each factor.
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "exercise-8-5", "locked": false, "schema_version": 3, "solution": true, "task": false}
def gap(codes, factors):
    """The mutual information gap, a number from 0 to 1.

    codes: bins of N images along D latents, shape (N, D). factors: bins along K factors, shape (N, K). Integers.
    """

    ### BEGIN SOLUTION
    def entropy(column):
        counts = torch.bincount(column)
        share = counts[counts > 0] / len(column)
        return -(share * share.log()).sum()

    def information(a, b):
        return entropy(a) + entropy(b) - entropy(a * (b.max() + 1) + b)

    told = [torch.stack([information(z, v) for v in factors.T]) for z in codes.T]
    told = torch.stack(told)  # (D, K)
    best, second = told.topk(2, dim=0).values
    return ((best - second) / torch.stack([entropy(v) for v in factors.T])).mean()
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-8-5", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
check("8.5", gap)

# %% [markdown]
# ## 8.6 · A rate made to order
#
# *Open stretch · ★★★ · 30 minutes*
#
# You want a code of **8 nats**, no more and no less, and you do not know which beta gives it. Then do not choose beta: let it look for itself. Train
# the conditional model of 4.6 on distortion plus $\beta$ times rate, and after every step raise $\beta$ if the rate is above 8 and lower it if it is below.
# The check measures the rate on images it has not seen, give or take 0.8, and whether it was worth its price.
#
# <details><summary>Hint 1</summary>
#
# Work with $\log \beta$: then $\beta$ stays positive, and a step up and a step down cancel.
#
# </details>
# <details><summary>Hint 2</summary>
#
# `log_beta += 0.005 * (rate.mean().item() - 8)` after every step, and Adam with a learning rate of 3e-3 for twenty epochs of
# `for x, y, _ in images.batches(100)`. Keep every value, to look at.
#
# </details>


# %%
class Film(nn.Module):  # that of 4.2
    def __init__(self, features, numbers):
        super().__init__()
        self.modulate = nn.Linear(numbers, 2 * features, bias=False)
        nn.init.zeros_(self.modulate.weight)

    def forward(self, h, c):  # (B, F), (B, C) -> (B, F)
        gamma, beta = self.modulate(c).chunk(2, dim=1)
        return (1 + gamma) * h + beta


class Told(nn.Module):  # that of 4.6
    def __init__(self, inputs, outputs, width=256, numbers=10):
        super().__init__()
        sizes = (inputs, width), (width, width), (width, outputs)
        self.layers = nn.ModuleList(nn.Linear(*size) for size in sizes)
        self.films = nn.ModuleList(Film(width, numbers) for _ in range(2))

    def forward(self, h, c):  # (B, inputs), (B, numbers) -> (B, outputs)
        for layer, film in zip(self.layers[:2], self.films, strict=True):
            h = F.silu(film(layer(h), c))
        return self.layers[2](h)


# %%
class FilmVAE(nn.Module):  # that of 4.6
    def __init__(self, latents=8):
        super().__init__()
        self.encoder, self.decoder = Told(784, 2 * latents), Told(latents, 784)

    def encode(self, x, y):  # (B, 1, 28, 28), (B,) -> mean and log-variance, (B, D) each
        return self.encoder(x.flatten(1), F.one_hot(y, 10).float()).chunk(2, 1)

    def decode(self, z, y):  # (B, D), (B,) -> logits, (B, 1, 28, 28)
        return self.decoder(z, F.one_hot(y, 10).float()).view(-1, 1, 28, 28)

    def terms(self, x, y):  # -> distortion and rate, (B,) each
        mean, log_variance = self.encode(x, y)
        z = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
        logits = self.decode(z, y)
        rate = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(1)
        return (F.softplus(logits) - x * logits).flatten(1).sum(1), rate


# %% nbgrader={"grade": false, "grade_id": "exercise-8-6", "locked": false, "schema_version": 3, "solution": true, "task": false}
ordered, log_beta = ..., []  # your model at 8 nats, and log beta after every step
### BEGIN SOLUTION
ordered, log_beta = FilmVAE(), [0.0]
optimiser = torch.optim.Adam(ordered.parameters(), lr=3e-3)
for _ in range(20):
    for x, y, _ in images.batches(100):
        distortion, rate = ordered.terms(x, y)
        loss = (distortion + math.exp(log_beta[-1]) * rate).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        log_beta.append(log_beta[-1] + 0.005 * (rate.mean().item() - 8))
### END SOLUTION

# %% nbgrader={"grade": true, "grade_id": "check-8-6", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
check("8.6", ordered)

# %%
alt = "Beta over the steps of training: from 1 it falls below a half, then rises past 2, ever more slowly."
axes = {"x": range(len(log_beta)), "x_label": "step", "y_label": "beta"}
figures.curves({"beta": [math.exp(value) for value in log_beta]}, alt, **axes) if log_beta else None

# %% [markdown]
# *Figure E8.2. The beta that looks for itself. While $z$ has yet to learn to say 8 nats, it is cheap; then its price rises. Once the curve
# is level, it is by (8.3) minus the slope of your own curve at 8 nats.*

# %%
progress(8)

# %% [markdown]
# *Figure E8.3. What you have done of this chapter; it is remembered when you come back.*
#
# **Back:** [08 · The rate–distortion dial](../notebooks/08_rate_distortion.ipynb)
