# %% [markdown]
# # 07 · Exercises
#
# *Measure a silence that deserves the name, and end it in a model of your own.*
#
# {{ badges }}
#
# **Time:** about 125 minutes, of which the machine needs one. **You need:**
# [chapter 07](../notebooks/07_posterior_collapse.ipynb), and the `Film` from
# [the exercises of chapter 04](../exercises/04_where_does_y_go.ipynb); it is given again below.
#
# {{ edition }}
#
# 7.3 and 7.4 are two cures, and 7.6 puts them to use: there you hold a CVAE with FiLM, a learned prior and a cure for collapse,
# every line of it your own.

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
digits = data.digits("train").subset(slice(4000))

# %% [markdown]
# ## 7.1 · Who is worth its rate?
#
# *By hand · ★☆☆ · 10 minutes*
#
# The covariance of your data has the eigenvalues {{ 7.1 spectrum }}, and the decoder is linear with Gaussian noise whose
# **standard deviation** is held at $\sigma = {{ 7.1 std }}$. Train a linear VAE with five latents as well as can be, so that each takes one
# eigenvector. What is $A_2$ of (7.2), the *variance* of the second latent's posterior means? And what is the rate of all five together, in
# nats?
#
# <details><summary>Hint 1</summary>
#
# (7.8) answers both. First find out who is active: which eigenvalues lie above $\sigma^2$?
#
# </details>
# <details><summary>Hint 2</summary>
#
# The rate is a sum of $\frac12 \ln (\lambda_i / \sigma^2)$ over the *active* latents. The others stay at the prior, and that costs
# nothing.
#
# </details>

# %% nbgrader={"grade": false, "grade_id": "exercise-7-1", "locked": false, "schema_version": 3, "solution": true, "task": false}
moves, rate = ..., ...
### BEGIN SOLUTION
eigenvalues = [GIVEN_7_1_top / 2**i for i in range(5)]
noise = GIVEN_7_1_std**2
moves = 1 - noise / eigenvalues[1]
rate = sum(0.5 * math.log(value / noise) for value in eigenvalues if value > noise)
### END SOLUTION

# %% nbgrader={"grade": true, "grade_id": "check-7-1", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
check("7.1", moves, rate)

# %% [markdown]
# No training, however long, wakes the silent ones: for this noise their silence is the optimum. Look at $\sigma$ before you look for a cure.

# %% [markdown]
# ## 7.2 · What moves, and what merely repeats y
#
# *Implement · ★★☆ · 20 minutes*
#
# In a conditional model (7.2) can be fooled. Let the prior be learned, one Gaussian for each label, and let the encoder copy it:
# nothing is said about $x$, the rate is 0, and yet the means move, from label to label. So measure twice: the variance of the
# posterior means among **all images**, and among **images of the same y**, as the mean squared distance from the mean of one's own
# label. A latent that is active in the first and not in the second only repeats what the decoder was told anyway.
#
# <details><summary>Hint 1</summary>
#
# The first is one line. For the second replace each row by its difference from the mean of its own class, and average the squares over
# all images.
#
# </details>
# <details><summary>Hint 2</summary>
#
# `for label in y.unique()`: the rows are `mean[y == label]`. Classes are not equally large, and every *image* counts the same.
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "exercise-7-2", "locked": false, "schema_version": 3, "solution": true, "task": false}
def movement(mean, y):
    """How much the posterior means move: among all images, and among those of the same label.

    mean: of q(z|x,y), shape (N, D). y: labels, ten or more kinds, shape (N,). Returns two tensors of shape (D,).
    """
    ### BEGIN SOLUTION
    off = mean - mean.mean(0)
    inside = torch.empty_like(mean)
    for label in y.unique():
        rows = mean[y == label]
        inside[y == label] = rows - rows.mean(0)
    return off.square().mean(0), inside.square().mean(0)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-7-2", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check("7.2", movement)

# %% [markdown]
# ## 7.3 · Free bits
#
# *Implement · ★★☆ · 10 minutes*
#
# The rate with a floor of $\lambda$ nats under each latent, (7.10). Silence saves nothing any more: a latent below the floor feels no
# pressure at all from the rate, and one above it feels all of it. The check looks at the value and at the gradient.
#
# <details><summary>Hint 1</summary>
#
# There are three steps: average over the batch, raise to the floor, sum over the latents. Their order is the exercise.
#
# </details>
# <details><summary>Hint 2</summary>
#
# `clamp_min` raises to a floor, and passes no gradient where it had to. What would be charged, if the floor came last, for one latent that says
# five nats and seven that say nothing?
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "exercise-7-3", "locked": false, "schema_version": 3, "solution": true, "task": false}
def free_rate(kl, floor):
    """The rate, with a floor under each latent, in nats.

    kl: KL of each image and latent, shape (B, D). floor: a number. Returns one number.
    """
    ### BEGIN SOLUTION
    return kl.mean(0).clamp_min(floor).sum()
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-7-3", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check("7.3", free_rate)

# %% [markdown]
# ## 7.4 · A weight that comes and goes
#
# *Implement · ★★☆ · 15 minutes*
#
# The weight of the rate at every step of a cyclical schedule. Training has `steps` steps, in `cycles` cycles of equal length. In each, the
# weight rises in a line from 0 at the cycle's first step to 1 at its step number `rise` (counted from 0), and stays at 1 to the
# cycle's end. Whoever trains on after the last cycle does so with weight 1.
#
# <details><summary>Hint 1</summary>
#
# `step % length` is the step within the cycle. A rise that takes the whole cycle never arrives; here `rise` is shorter.
#
# </details>
# <details><summary>Hint 2</summary>
#
# `min(1.0, t / rise)`, and a case of its own for `step >= steps`. With one cycle it is the plain warm-up.
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "exercise-7-4a", "locked": false, "schema_version": 3, "solution": true, "task": false}
def weight(step, steps, cycles, rise):
    """Weight of the rate at a step, counted from 0; all four are integers. Returns a number from 0 to 1."""
    ### BEGIN SOLUTION
    length = steps // cycles
    return 1.0 if step >= steps else min(1.0, step % length / rise)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-7-4", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check("7.4", weight)

# %% nbgrader={"grade": false, "grade_id": "exercise-7-4b", "locked": false, "schema_version": 3, "solution": true, "task": false}
curve = ...  # your weights at the steps 0 to 449 of 400, for four cycles that rise over 50 steps
### BEGIN SOLUTION
curve = [weight(step, 400, 4, 50) for step in range(450)]
### END SOLUTION
alt = "The weight over 450 steps: four rises from 0 to 1, each followed by a plateau at 1; the last plateau goes on to the end."
axes = {"x": range(450), "x_label": "step", "y_label": "weight of the rate"}
None if curve is ... else figures.curves({"four cycles": curve}, alt, **axes)

# %% [markdown]
# *Figure E7.1. Four cycles, and what comes after. Only on the plateaus is the loss the bound.*

# %% [markdown]
# ## 7.5 · A number with a ceiling
#
# *Predict, then measure · ★★☆ · 25 minutes*
#
# Eight latents, and an encoder made by hand: the means are scattered normally with variance 0.96, and every posterior has the
# variance 0.04. Together that is exactly N(0, 1), so what $z$ says of $x$ is known: $I(x; z) = -\frac82 \ln 0.04 = 12.88$ nats.
#
# **Predict.** What will the estimate (7.6) give, from $B = 100$ images? Commit to a number.
#
# **Measure.** Write the estimate. The check tries it on small sets where most posteriors overlap; then the last cell points it at
# the eight latents.
#
# <details><summary>Hint 1</summary>
#
# In (7.6) the average in the denominator contains the image's own density. How large can the fraction be, if all the others are zero?
#
# </details>
# <details><summary>Hint 2</summary>
#
# Make a table of shape (B, B): $\log q(z_n \mid x_m)$, summed over the latents, is `Normal(mean, std).log_prob(z[:, None]).sum(2)`. Its
# diagonal is the numerator, `logsumexp(1) - math.log(B)` the denominator.
#
# </details>

# %% nbgrader={"grade": false, "grade_id": "exercise-7-5a", "locked": false, "schema_version": 3, "solution": true, "task": false}
prediction = ...  # nats, from 100 images
### BEGIN SOLUTION
prediction = math.log(100)
### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "exercise-7-5b", "locked": false, "schema_version": 3, "solution": true, "task": false}
def information(mean, std, z):
    """What z says of x, estimated from B images, in nats.

    mean, std: of each image's posterior, shape (B, D). z: a draw from each, shape (B, D). Returns one number.
    """
    ### BEGIN SOLUTION
    q = torch.distributions.Normal(mean, std)
    table = q.log_prob(z[:, None]).sum(2)  # (B, B): z_n under x_m
    return (table.diagonal() - table.logsumexp(1)).mean() + math.log(len(z))
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-7-5", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
check("7.5", prediction, information)

# %% nbgrader={"grade": false, "grade_id": "exercise-7-5c", "locked": false, "schema_version": 3, "solution": true, "task": false}
found = ...  # your estimate for B = 10, 100, 1000, by B
### BEGIN SOLUTION
found = {}
for count in (10, 100, 1000):
    mean = 0.96**0.5 * torch.randn(count, 8)
    std = torch.full((count, 8), 0.2)
    found[count] = information(mean, std, mean + std * torch.randn(count, 8))
### END SOLUTION
for count, nats in () if found is ... else found.items():
    print(f"B = {count:>4}: {nats:.2f} nats of 12.88; ln B = {math.log(count):.2f}")

# %% [markdown]
# ## 7.6 · A cure for your own model
#
# *Open stretch · ★★★ · 45 minutes*
#
# Build a model that has a reason to fall silent, and cure it. It has your `Film` in encoder and decoder, a learned prior with a Gaussian for
# each label, and a decoder that can partly do without $z$: `look_back` gives every pixel a second opinion, from the pixels before it.
# Images are at half size, and `train` gives the decoder its lead: at first it learns without $z$.
#
# Train it twice: once on distortion plus rate, once with a **cure of your choice**: free bits, a weight that rises, cycles, two of them, or
# one of your own. The check wants $z$ to say at least half a nat more than before, without making images
# dearer by more than two.
#
# <details><summary>Hint 1</summary>
#
# Prior: `nn.Embedding(10, 2 * latents)`, cut in two by `chunk(2, 1)`, with its weights started at zero. The KL per latent is
# $\frac12 \big( e^{l_q - l_p} + (\mu_q - \mu_p)^2 e^{-l_p} - 1 + l_p - l_q \big)$ with $l$ the log-variances.
#
# </details>
# <details><summary>Hint 2</summary>
#
# `decode` is `self.decoder(z, one_hot(y)).view_as(x) + self.look_back(x)`. As a cure try a warm-up: `weight(step, 450, 1, 400)` times the
# rate. With free bits, start at a floor of 0.25 nats for each latent.
#
# </details>


# %%
def halved(full):  # half as high and half as wide
    small = F.avg_pool2d(full.images.float(), 2).round().byte()
    return data.ImageSet(small, full.labels, full.name, classes=full.classes)


images = halved(digits)


def one_hot(y):  # (B,) -> (B, 10)
    return F.one_hot(y, 10).float()


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
    def __init__(self, inputs, outputs, width=128, numbers=10):
        super().__init__()
        sizes = (inputs, width), (width, width), (width, outputs)
        self.layers = nn.ModuleList(nn.Linear(*size) for size in sizes)
        self.films = nn.ModuleList(Film(width, numbers) for _ in range(2))

    def forward(self, h, c):  # (B, inputs), (B, numbers) -> (B, outputs)
        for layer, film in zip(self.layers[:2], self.films, strict=True):
            h = F.silu(film(layer(h), c))
        return self.layers[2](h)


# %%
class LookBack(nn.Module):
    """Logits of every pixel from the pixels before it, in reading order."""

    def __init__(self, pixels=196):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(pixels, pixels))
        self.register_buffer("before", torch.ones(pixels, pixels).tril(-1))

    def forward(self, x):  # (B, 1, 14, 14) -> the same
        return F.linear(x.flatten(1), self.weight * self.before).view_as(x)


# %% nbgrader={"grade": false, "grade_id": "exercise-7-6a", "locked": false, "schema_version": 3, "solution": true, "task": false}
class OwnCVAE(nn.Module):
    def __init__(self, latents=8):
        super().__init__()
        self.look_back = LookBack()
        ### BEGIN SOLUTION
        self.encoder, self.decoder = Told(196, 2 * latents), Told(latents, 196)
        self.table = nn.Embedding(10, 2 * latents)
        nn.init.zeros_(self.table.weight)
        ### END SOLUTION

    def encode(self, x, y):  # (B, 1, 14, 14), (B,) -> mean and log-variance, (B, D) each
        ### BEGIN SOLUTION
        return self.encoder(x.flatten(1), one_hot(y)).chunk(2, 1)
        ### END SOLUTION

    def prior(self, y):  # (B,) -> mean and log-variance of p(z|y), (B, D) each
        ### BEGIN SOLUTION
        return self.table(y).chunk(2, 1)
        ### END SOLUTION

    def decode(self, z, y, x):  # z, y and the picture itself -> logits, (B, 1, 14, 14)
        ### BEGIN SOLUTION
        return self.decoder(z, one_hot(y)).view_as(x) + self.look_back(x)
        ### END SOLUTION

    def terms(self, x, y):  # -> distortion (B,), and KL to the prior per latent (B, D)
        ### BEGIN SOLUTION
        (mean, log_q), (centre, log_p) = self.encode(x, y), self.prior(y)
        z = mean + torch.exp(0.5 * log_q) * torch.randn_like(mean)
        logits = self.decode(z, y, x)
        distortion = (F.softplus(logits) - x * logits).flatten(1).sum(1)
        off = (mean - centre).square() / log_p.exp()
        return distortion, 0.5 * ((log_q - log_p).exp() + off - 1 + log_p - log_q)
        ### END SOLUTION


# %%
def without_z(model, x, y):  # the decoder's lead: the distortion alone, at z = 0
    mean, _ = model.encode(x, y)
    logits = model.decode(torch.zeros_like(mean), y, x)
    return (F.softplus(logits) - x * logits).flatten(1).sum(1).mean()


def train(objective, lead=8, epochs=15):  # objective(distortion, kl, step) -> the loss
    model, step = OwnCVAE(), 0
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    for epoch in range(lead + epochs):
        for x, y, _ in images.batches(100):
            if epoch < lead:
                loss = without_z(model, x, y)
            else:
                loss, step = objective(*model.terms(x, y), step), step + 1
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return model


# %% nbgrader={"grade": false, "grade_id": "exercise-7-6b", "locked": false, "schema_version": 3, "solution": true, "task": false}
def bound(distortion, kl, step):
    """Minus the ELBO, averaged over the batch. distortion: shape (B,). kl: shape (B, D)."""
    ### BEGIN SOLUTION
    return (distortion + kl.sum(1)).mean()
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "exercise-7-6c", "locked": false, "schema_version": 3, "solution": true, "task": false}
def cure(distortion, kl, step):
    """A loss that keeps z awake. distortion: shape (B,). kl: shape (B, D). step: 0 to 599."""
    ### BEGIN SOLUTION
    return (distortion + weight(step, 450, 1, 400) * kl.sum(1)).mean()
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "exercise-7-6d", "locked": false, "schema_version": 3, "solution": true, "task": false}
plain, cured = ..., ...  # your model, trained with `bound` and with `cure`
### BEGIN SOLUTION
plain, cured = train(bound), train(cure)
### END SOLUTION

# %% nbgrader={"grade": true, "grade_id": "check-7-6", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
check("7.6", plain, cured)

# %% [markdown]
# Now point your own instruments at both: how many latents move among images of the same label, and what does $z$ say of a seven?

# %% nbgrader={"grade": false, "grade_id": "exercise-7-free", "locked": false, "schema_version": 3, "solution": true, "task": false}
report = ...  # by name: active latents, active within a label, nats said among the sevens
### BEGIN SOLUTION
report, x = {}, images.pixels(None, "stochastic", torch.Generator().manual_seed(0))
for name, model in {"plain": plain, "cured": cured}.items():
    with torch.no_grad():
        mean, log_variance = model.encode(x, images.labels)
    std, seven = torch.exp(0.5 * log_variance), images.labels == 7
    everywhere, inside = ((moves > 0.01).sum().item() for moves in movement(mean, images.labels))
    z = mean + std * torch.randn_like(mean)
    report[name] = everywhere, inside, information(mean[seven], std[seven], z[seven]).item()
### END SOLUTION
for name, (everywhere, inside, nats) in () if report is ... else report.items():
    print(f"{name}: {everywhere} latents move, {inside} within a label; {nats:.2f} nats of a seven")

# %%
progress(7)

# %% [markdown]
# *Figure E7.2. What you have done of this chapter; it is remembered when you come back.*
#
# **Back:** [07 · Posterior collapse](../notebooks/07_posterior_collapse.ipynb)
