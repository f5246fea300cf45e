# %% [markdown]
# # 01 · Exercises
#
# *Build a VAE out of your own pieces, then make it fail on purpose.*
#
# {{ badges }}
#
# **Time:** about 110 minutes, of which the machine needs one. **You need:**
# [chapter 01](../notebooks/01_the_vae.ipynb).
#
# {{ edition }}
#
# 1.2, 1.3 and 1.4 are the pieces, 1.6 puts them together, and 1.7 trains the result. The other three ask what the
# numbers mean.

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
images = data.digits("train").subset(slice(2000))

# %% [markdown]
# ## 1.1 · The price of a cloud
#
# *By hand · ★☆☆ · 5 minutes*
#
# An encoder looks at an image and answers with two latents: means $({{ 1.1 mean }}, 0)$, standard deviations $(1, {{ 1.1 std }})$. What is the
# rate, in nats? Use (1.3), paper and a calculator. Then say which of the two latents costs more: the one that is off
# centre, or the one that is too wide.
#
# <details><summary>Hint 1</summary>
#
# Each latent has a share $\frac12(\mu^2 + \sigma^2 - 1 - \log \sigma^2)$. Work out both, then add.
#
# </details>
# <details><summary>Hint 2</summary>
#
# The first share is $\frac12({{ 1.1 mean }}^2 + 1 - 1 - 0)$. In the second, $\sigma^2 = {{ 1.1 variance }}$ and
# $\log {{ 1.1 variance }} \approx {{ 1.1 log_variance }}$.
#
# </details>

# %% nbgrader={"grade": false, "grade_id": "exercise-1-1", "locked": false, "schema_version": 3, "solution": true, "task": false}
nats = ...
### BEGIN SOLUTION
nats = 0.5 * GIVEN_1_1_mean**2 + 0.5 * (GIVEN_1_1_variance - 1 - math.log(GIVEN_1_1_variance))
### END SOLUTION

# %% nbgrader={"grade": true, "grade_id": "check-1-1", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
check("1.1", nats)

# %% [markdown]
# ## 1.2 · A sample that gradients can pass
#
# *Implement · ★☆☆ · 10 minutes*
#
# Draw $z \sim \mathcal N(\mu, \sigma^2)$ so that a gradient can travel from $z$ back to $\mu$ and to $\log \sigma^2$.
# Networks give the *logarithm* of the variance, because any number may stand there.
#
# <details><summary>Hint 1</summary>
#
# Keep the randomness in a place of its own: $z = \mu + \sigma\epsilon$ with $\epsilon \sim \mathcal N(0, 1)$.
#
# </details>
# <details><summary>Hint 2</summary>
#
# If $v = \log \sigma^2$, then $\sigma = e^{v/2}$. And `torch.randn_like` draws one number for each entry of a tensor.
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "exercise-1-2", "locked": false, "schema_version": 3, "solution": true, "task": false}
def reparameterise(mean, log_variance):
    """Draw from N(mean, exp(log_variance)), with a gradient.

    mean, log_variance: shape (B, D). Returns z, shape (B, D).
    """
    ### BEGIN SOLUTION
    return mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-1-2", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check("1.2", reparameterise)

# %% [markdown]
# ## 1.3 · The KL between any two Gaussians
#
# *Implement · ★★☆ · 15 minutes*
#
# The chapter's KL goes to $\mathcal N(0, I)$. Later the prior will move: chapter 02 lets it depend on $y$. Write the KL
# from any diagonal Gaussian to any other. Per latent it is
#
# $$\mathrm{KL}\big(\mathcal N(\mu, \sigma^2)\,\|\,\mathcal N(m, s^2)\big) =
# \log\frac{s}{\sigma} + \frac{\sigma^2 + (\mu - m)^2}{2 s^2} - \frac12 .$$
#
# Before you run the check, try it on something you know: with $m = 0$ and $s = 1$ it must give 1.1's answer.
#
# <details><summary>Hint 1</summary>
#
# Write everything with log-variances: $\log(s/\sigma)$ is half the difference of two of them, and $\sigma^2/s^2$ is the
# exponential of a difference.
#
# </details>
# <details><summary>Hint 2</summary>
#
# `0.5 * (w - v + (v - w).exp() + (mean - prior_mean) ** 2 / w.exp() - 1)` with `v` and `w` the two log-variances. Which
# axis is summed?
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "exercise-1-3", "locked": false, "schema_version": 3, "solution": true, "task": false}
def gaussian_kl(mean, log_variance, prior_mean, prior_log_variance):
    """KL(N(mean, exp(log_variance)) || N(prior_mean, exp(prior_log_variance))), in nats.

    All four: shape (B, D). Returns one number for each image, shape (B,).
    """
    ### BEGIN SOLUTION
    ratio = log_variance - prior_log_variance  # log of sigma² / s²
    distance = (mean - prior_mean) ** 2 / prior_log_variance.exp()
    return 0.5 * (ratio.exp() + distance - 1 - ratio).sum(1)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-1-3", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check("1.3", gaussian_kl)

# %% [markdown]
# ## 1.4 · The distortion of binary pixels
#
# *Implement · ★★☆ · 10 minutes*
#
# The decoder gives a logit $\ell$ for each pixel, and the pixel is 1 with probability $1/(1 + e^{-\ell})$. Return the
# nats it takes to fix all pixels of an image. A confident network reaches logits of ±60: your function must still be
# right there.
#
# <details><summary>Hint 1</summary>
#
# First write down $-\log p$ for $x = 1$ and for $x = 0$. With a probability that rounds to exactly 1, one of them is
# $-\log 0$. So do not go through the probability.
#
# </details>
# <details><summary>Hint 2</summary>
#
# $-\log p = \log(1 + e^{\ell}) - x\ell$, and `F.softplus` is $\log(1 + e^{\ell})$ without the overflow.
# `F.binary_cross_entropy_with_logits` does the same; mind its `reduction`.
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "exercise-1-4", "locked": false, "schema_version": 3, "solution": true, "task": false}
def distortion_of(logits, x):
    """-log p(x|z) for pixels that are 0 or 1, in nats.

    logits, x: shape (B, 1, H, W). Returns one number for each image, shape (B,).
    """
    ### BEGIN SOLUTION
    return (F.softplus(logits) - x * logits).flatten(1).sum(1)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-1-4", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check("1.4", distortion_of)

# %% [markdown]
# ## 1.5 · Which β is this?
#
# *By hand · ★★☆ · 10 minutes*
#
# You find this in a repository that trains on colour images of {{ 1.5 side }} by {{ 1.5 side }} pixels:
#
# ```
# loss = F.mse_loss(rebuilt, x) + {{ 1.5 weight }} * kl      # kl: summed over latents, averaged over images
# ```
#
# `mse_loss` averages over everything. In the course's bookkeeping the distortion is the **sum** of squared errors over
# one image. Which $\beta$ does the repository train with?
#
# <details><summary>Hint 1</summary>
#
# Multiply the whole loss by whatever turns the mean into a sum over one image. The minimum stays where it is.
#
# </details>
# <details><summary>Hint 2</summary>
#
# A colour image of {{ 1.5 side }} by {{ 1.5 side }} pixels is
# $3 \cdot {{ 1.5 side }} \cdot {{ 1.5 side }} = {{ 1.5 values }}$ numbers.
#
# </details>

# %% nbgrader={"grade": false, "grade_id": "exercise-1-5", "locked": false, "schema_version": 3, "solution": true, "task": false}
beta = ...
### BEGIN SOLUTION
beta = 3 * GIVEN_1_5_side * GIVEN_1_5_side * GIVEN_1_5_weight
### END SOLUTION

# %% nbgrader={"grade": true, "grade_id": "check-1-5", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
check("1.5", beta)

# %% [markdown]
# ## 1.6 · A VAE of your own pieces
#
# *Implement · ★★☆ · 20 minutes*
#
# Put the pieces together. The two networks are given; the three methods are yours. `terms` returns the two terms of
# (1.2) as prices, the distortion $-\log p(x \mid z)$ and the rate, not yet averaged: two numbers for each image.
#
# <details><summary>Hint 1</summary>
#
# `encode` flattens the image, runs the network, and cuts its output in half: `chunk(2, dim=1)`. `decode` runs the other
# network and gives its output the shape of images.
#
# </details>
# <details><summary>Hint 2</summary>
#
# `terms` is four lines: encode, reparameterise, decode, return. Your `gaussian_kl` wants a prior too: zeros for its mean
# and zeros for its log-variance, since $\log 1 = 0$.
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "exercise-1-6", "locked": false, "schema_version": 3, "solution": true, "task": false}
class VAE(nn.Module):
    def __init__(self, latents=8):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(784, 256), nn.SiLU(), nn.Linear(256, 2 * latents))
        self.decoder = nn.Sequential(nn.Linear(latents, 256), nn.SiLU(), nn.Linear(256, 784))

    def encode(self, x):  # (B, 1, 28, 28) -> mean and log-variance, (B, D) each
        ### BEGIN SOLUTION
        return self.encoder(x.flatten(1)).chunk(2, dim=1)
        ### END SOLUTION

    def decode(self, z):  # (B, D) -> logits, (B, 1, 28, 28)
        ### BEGIN SOLUTION
        return self.decoder(z).view(-1, 1, 28, 28)
        ### END SOLUTION

    def terms(self, x):  # (B, 1, 28, 28) -> distortion and rate, (B,) each
        ### BEGIN SOLUTION
        mean, log_variance = self.encode(x)
        z = reparameterise(mean, log_variance)
        zero = torch.zeros_like(mean)
        return distortion_of(self.decode(z), x), gaussian_kl(mean, log_variance, zero, zero)
        ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-1-6", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
check("1.6", VAE)

# %% [markdown]
# ## 1.7 · What is left when z falls silent?
#
# *Predict, then measure · ★★★ · 25 minutes*
#
# The chapter showed that $\beta = 784$ drives the rate to zero. Then every image is drawn from the same picture, and the
# best the decoder can do is to find the best *single* picture. What distortion is left? You can know that number before
# you train anything.
#
# **Predict.** If pixel $i$ is on in a share $p_i$ of all images, the best fixed picture gives it the probability $p_i$,
# and it costs $-p_i \log p_i - (1 - p_i)\log(1 - p_i)$ nats on average. The grey level of a pixel is its probability of
# being on, so $p_i$ is the average grey level. Compute the sum over pixels, for the 2,000 `images`.
#
# **Measure.** Write the training loop and train your VAE with $\beta = 784$. Its rate and distortion are measured by the
# check. How far is it from your prediction?
#
# <details><summary>Hint 1</summary>
#
# `images.pixels()` has shape (2000, 1, 28, 28), with grey levels between 0 and 1. Average over the images only. Some
# pixels are never on: `torch.special.entr` knows that $0 \log 0$ is 0.
#
# </details>
# <details><summary>Hint 2</summary>
#
# The loop: for each epoch, for `x, _, _` in `images.batches(100)`: take `model.terms(x)`, make the loss
# `(distortion + beta * rate).mean()`, then `zero_grad`, `backward`, `step`. Adam with a learning rate of 2e-3 and 20
# epochs are enough.
#
# </details>

# %% nbgrader={"grade": false, "grade_id": "exercise-1-7a", "locked": false, "schema_version": 3, "solution": true, "task": false}
floor = ...
### BEGIN SOLUTION
p = images.pixels().mean(0)  # (1, 28, 28)
floor = (torch.special.entr(p) + torch.special.entr(1 - p)).sum()
### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "exercise-1-7b", "locked": false, "schema_version": 3, "solution": true, "task": false}
def train(model, images, beta=1.0, epochs=20):
    """Minimise the mean of distortion + beta * rate; return the trained model."""
    ### BEGIN SOLUTION
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(epochs):
        for x, _, _ in images.batches(100):
            distortion, rate = model.terms(x)
            loss = (distortion + beta * rate).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return model
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "exercise-1-7c", "locked": false, "schema_version": 3, "solution": true, "task": false}
silent = ...  # your VAE, trained with beta = 784
### BEGIN SOLUTION
silent = train(VAE(), images, beta=784)
### END SOLUTION

# %% nbgrader={"grade": true, "grade_id": "check-1-7", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
check("1.7", floor, silent)

# %% [markdown]
# That number is a yardstick. **A VAE whose distortion is near it has learned nothing about the single image**, however
# smoothly its loss went down. Keep it in mind for chapter 03, and for every VAE you meet.

# %% [markdown]
# ## 1.8 · A quieter score function
#
# *Open stretch · ★★★ · 15 minutes*
#
# The score function lost in the chapter, but it has one thing that reparameterising has not: it never differentiates
# $f$. Where $f$ has steps instead of slopes, a word is chosen or a game is won, it is all there is. So make it quieter.
#
# Since $\mathbb E[\nabla_\mu \log q(z)] = 0$, you may subtract any number $b$ from $f$ that does not depend on the draw
# itself:
#
# $$\nabla_\mu \mathbb E_{\mathcal N(\mu, I)}[f(z)] = \mathbb E\big[(f(z) - b)\,(z - \mu)\big].$$
#
# Estimate the gradient with a $b$ of your choice. The check wants it right on average, and the variance at most half of
# what it is with $b = 0$.
#
# <details><summary>Hint 1</summary>
#
# A good $b$ is close to the average of $f$. You have $S$ draws, so you know something about that average. What goes wrong
# if a draw's own $f$ is part of its $b$?
#
# </details>
# <details><summary>Hint 2</summary>
#
# For each draw take the mean of the *others*: $b_s = (\sum_t f(z_t) - f(z_s)) / (S - 1)$.
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "exercise-1-8", "locked": false, "schema_version": 3, "solution": true, "task": false}
def score_gradient(f, mean, draws):
    """Estimate the gradient in mean of the average of f over N(mean, I), without differentiating f.

    f: takes (S, D) and returns (S,). mean: shape (D,). draws: S, at least 2. Returns shape (D,).
    """
    ### BEGIN SOLUTION
    z = mean + torch.randn(draws, len(mean))  # (S, D)
    value = f(z)  # (S,)
    others = (value.sum() - value) / (draws - 1)  # (S,)
    return ((value - others)[:, None] * (z - mean)).mean(0)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-1-8", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check("1.8", score_gradient)

# %% [markdown]
# ## What now?
#
# Train your VAE once more with $\beta = 1$ and draw from it: `model.decode(torch.randn(20, 8)).sigmoid()` and
# `figures.digit_grid`. Two thousand images are few, but these are digits, and you built every line that made them.

# %% nbgrader={"grade": false, "grade_id": "exercise-1-free", "locked": false, "schema_version": 3, "solution": true, "task": false}
sheet = ...  # twenty digits of your own, (20, 1, 28, 28)
### BEGIN SOLUTION
torch.manual_seed(0)
mine = train(VAE(), images, epochs=40)
with torch.no_grad():
    sheet = mine.decode(torch.randn(20, 8)).sigmoid()
### END SOLUTION
alt = "Twenty samples of the VAE just built: many look like digits, some lie between two."
None if sheet is ... else figures.digit_grid(sheet, alt)

# %% [markdown]
# *Figure E1.1. Twenty draws from the prior, through a decoder trained on 2,000 images.*

# %%
progress(1)

# %% [markdown]
# *Figure E1.2. What you have done of this chapter; it is remembered when you come back.*
#
# **Next:** [02 · The conditional ELBO](../notebooks/02_the_conditional_elbo.ipynb)
