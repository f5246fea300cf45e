# %% [markdown]
# # 05 · Exercises
#
# *Tell a network what goes round, what may be missing and what was measured badly, and then make it exaggerate.*
#
# {{ badges }}
#
# **Time:** about 115 minutes, of which the machine needs one. **You need:**
# [chapter 05](../notebooks/05_what_can_y_be.ipynb), and the conditional VAE from
# [the exercises of chapter 03](../exercises/03_class_conditional_mnist.ipynb); it is given again below.
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
# ## 5.1 · How often is nobody told?
#
# *By hand · ★☆☆ · 10 minutes*
#
# Your condition has {{ 5.1 parts }} parts, and in training each is dropped with the same chance $p$, independently, as in (5.5). You want
# a good unconditional model from the same network, so {{ 5.1 percent }} % of the images shall come with nothing told. Which $p$ does
# that? And what share of the images then comes with everything told?
#
# <details><summary>Hint 1</summary>
#
# All {{ 5.1 parts }} coins must fall on "drop". Independent chances multiply.
#
# </details>
# <details><summary>Hint 2</summary>
#
# $p^{ {{ 5.1 parts }} } = {{ 5.1 share }}$. Everything is told where every coin falls on "keep", and that has the chance $1 - p$.
#
# </details>

# %% nbgrader={"grade": false, "grade_id": "exercise-5-1", "locked": false, "schema_version": 3, "solution": true, "task": false}
p, everything = ..., ...
### BEGIN SOLUTION
p = GIVEN_5_1_share ** (1 / GIVEN_5_1_parts)
everything = (1 - p) ** GIVEN_5_1_parts
### END SOLUTION

# %% nbgrader={"grade": true, "grade_id": "check-5-1", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
check("5.1", p, everything)

# %% [markdown]
# The more parts, the dearer it gets: a fine unconditional model costs practice in the case you care about. You will drop by
# this rule in 5.4.

# %% [markdown]
# ## 5.2 · An hour is no number
#
# *Implement · ★★☆ · 15 minutes*
#
# Suppose you draw the sky and $y$ is the time of day. Standardised by (5.1), 23:30 and 0:30 would lie at the two ends, as unlike
# each other as can be. Give the network the hand of a 24-hour clock instead: the two coordinates of its tip,
# $\cos$ and $\sin$ of the angle, and the flag of (5.1) beside them. Unknown is NaN, and becomes three zeros.
#
# <details><summary>Hint 1</summary>
#
# A whole day is a whole turn, and a whole turn is $2\pi$.
#
# </details>
# <details><summary>Hint 2</summary>
#
# $0 \cdot \text{NaN}$ is NaN, so multiplying by the flag does not help. Replace NaN before you compute (`nan_to_num`) and
# multiply afterwards, or choose with `torch.where`.
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "exercise-5-2", "locked": false, "schema_version": 3, "solution": true, "task": false}
def clock(hours):
    """Cosine, sine and flag of a time of day; three zeros where it is unknown.

    hours: 0 to 24, NaN for unknown, shape (B,). Returns shape (B, 3).
    """
    ### BEGIN SOLUTION
    known = ~hours.isnan()
    angle = 2 * math.pi * hours.nan_to_num() / 24
    return torch.stack([angle.cos(), angle.sin(), torch.ones_like(angle)], 1) * known[:, None]
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-5-2", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check("5.2", clock)

# %% [markdown]
# ## 5.3 · Captions of different lengths
#
# *Implement · ★★☆ · 15 minutes*
#
# Several heads look at a batch of captions. Caption $b$ has `lengths[b]` words, and what stands behind them is padding. Turn scores
# into weights by (5.3): for each head they sum to 1 over the *words*; padding gets exactly 0; a caption without a word gets
# zeros only, and no NaN. No gradient may become NaN either.
#
# <details><summary>Hint 1</summary>
#
# First make the mask. Which places of a row of $L$ are words, if there are `n` of them? Compare `torch.arange(L)` with the lengths, and
# give the mask an axis of length 1 where the heads are.
#
# </details>
# <details><summary>Hint 2</summary>
#
# `scores.masked_fill(~mask, -1e9).softmax(-1)` is nearly it. What does it give where everything is padding, and what can you
# multiply it by?
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "exercise-5-3", "locked": false, "schema_version": 3, "solution": true, "task": false}
def word_weights(scores, lengths):
    """Softmax over the words of each caption, for every head.

    scores: shape (B, heads, L). lengths: integers from 0 to L, shape (B,). Returns shape (B, heads, L).
    """
    ### BEGIN SOLUTION
    mask = torch.arange(scores.shape[2]) < lengths[:, None, None]  # (B, 1, L)
    return scores.masked_fill(~mask, -1e9).softmax(-1) * mask
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-5-3", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check("5.3", word_weights)

# %% [markdown]
# ## 5.4 · Not told
#
# *Implement · ★☆☆ · 15 minutes*
#
# Hide what is known, for training by (5.5): each image's label with chance $p$, and, by a coin of its own, all numbers of an image with
# chance $p$. A hidden label is −1, a hidden number is NaN.
#
# <details><summary>Hint 1</summary>
#
# How many coins are tossed for a batch of $B$ images? Not one, and not two.
#
# </details>
# <details><summary>Hint 2</summary>
#
# `torch.rand(len(y)) < p` is a row of coins. `y.masked_fill(coins, -1)` leaves `y` itself as it was; for `a` the coins need a second
# axis.
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "exercise-5-4", "locked": false, "schema_version": 3, "solution": true, "task": false}
def hide(y, a, p):
    """Hide labels and rows of numbers, each with chance p.

    y: integers, shape (B,). a: shape (B, A). Returns both, same shapes.
    """
    ### BEGIN SOLUTION
    label, numbers = torch.rand(2, len(y)) < p
    return y.masked_fill(label, -1), a.masked_fill(numbers[:, None], math.nan)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-5-4", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check("5.4", hide)

# %% [markdown]
# ## 5.5 · Timid, or badly taught?
#
# *Predict, then measure · ★★★ · 25 minutes*
#
# The chapter's pen was timid: its slope, by (5.2), stayed below 1. Is that always the model's fault? Here the model is beyond
# reproach. Asked for a slant, it takes the image out of 4,000 whose *measured* slant is closest, and shows that: a faithful draw
# from the data. But the ruler in the next cell is bad. Its error is as large as the whole spread of true slants.
#
# Ask for slants as the ruler reads them on `new` images, and look at the **true** slant of what is shown. What is the slope?
#
# **Predict** it, before you run anything: one number.
#
# **Measure** it, and measure it once more with a better ruler: the mean of four independent readings of each image, both for the
# stock and for what you ask.
#
# <details><summary>Hint 1</summary>
#
# Somebody's slant reads far to the right. Is it as far to the right as that? Half of what a reading deviates by is slant, on
# average, and half is error.
#
# </details>
# <details><summary>Hint 2</summary>
#
# `(readings[:, None] - asked).abs().argmin(0)` is the closest image for each request. The slope is
# $\sum (a - \bar a)(m - \bar m) / \sum (a - \bar a)^2$, with $a$ what was asked and $m$ the true slant of what came.
#
# </details>

# %%
stock, new = (data.strokes(split, count=4000).attributes["slant"] for split in ("train", "test"))
error = stock.std()


def ruler(truth):  # (N,) -> (N,); another error each time
    return truth + error * torch.randn(len(truth))


# %% nbgrader={"grade": false, "grade_id": "exercise-5-5a", "locked": false, "schema_version": 3, "solution": true, "task": false}
prediction = ...  # the slope with one reading
### BEGIN SOLUTION
prediction = 0.5
### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "exercise-5-5b", "locked": false, "schema_version": 3, "solution": true, "task": false}
def measured_slope(readings):
    """Slope of true slants against requests, with a ruler that averages so many readings."""
    ### BEGIN SOLUTION
    read, asked = (sum(ruler(truth) for _ in range(readings)) / readings for truth in (stock, new))
    shown = stock[(read[:, None] - asked).abs().argmin(0)]
    off = asked - asked.mean()
    return (off * (shown - shown.mean())).sum() / off.square().sum()
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "exercise-5-5c", "locked": false, "schema_version": 3, "solution": true, "task": false}
slopes = ...  # with one reading, and with four
### BEGIN SOLUTION
slopes = measured_slope(1), measured_slope(4)
### END SOLUTION

# %% nbgrader={"grade": true, "grade_id": "check-5-5", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
check("5.5", prediction, slopes)

# %% [markdown]
# ## 5.6 · Exaggerate
#
# *Open stretch · ★★★ · 35 minutes*
#
# One network that may be told or not gives two answers to one $z$. Their difference is what $y$ adds, so add more of it:
#
# $$\ell_w(z, y) = \ell(z, \text{nothing}) + w\, \big(\ell(z, y) - \ell(z, \text{nothing})\big).$$
#
# $w = 0$ is not told, $w = 1$ is told, and above 1 it exaggerates. That is *guidance* (Ho and Salimans 2022, arXiv:2207.12598), on
# the logits of a decoder. Train `both` so that it knows the label −1, write `guided`, and find a weight that makes the judge read
# clearly more drawings as asked than without. What does it cost? Look before you read what the check says.
#
# <details><summary>Hint 1</summary>
#
# The loop is that of 3.7: in every batch hide a fifth of the labels, by a fresh toss. Twenty epochs are enough.
#
# </details>
# <details><summary>Hint 2</summary>
#
# In `guided`, decode the same `z` twice, with `y` and with `torch.full_like(y, -1)`. Stay with logits: mix first, and take the sigmoid
# later. Try weights from 1 to 5.
#
# </details>


# %%
class ConditionalVAE(nn.Module):  # that of 3.3; a label of -1 is a row of zeros
    def __init__(self, latents=4):
        super().__init__()
        sizes = (784 + 10, 256, 2 * latents), (latents + 10, 256, 784)
        self.encoder, self.decoder = (
            nn.Sequential(nn.Linear(a, b), nn.SiLU(), nn.Linear(b, c)) for a, b, c in sizes
        )

    def with_label(self, h, y):
        return torch.cat([h, (y[:, None] == torch.arange(10)).float()], 1)

    def encode(self, x, y):  # (B, 1, 28, 28), (B,) -> mean and log-variance, (B, D) each
        return self.encoder(self.with_label(x.flatten(1), y)).chunk(2, 1)

    def decode(self, z, y):  # (B, D), (B,) -> logits, (B, 1, 28, 28)
        return self.decoder(self.with_label(z, y)).view(-1, 1, 28, 28)

    def terms(self, x, y):  # -> distortion and rate, (B,) each
        mean, log_variance = self.encode(x, y)
        z = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
        logits = self.decode(z, y)
        distortion = (F.softplus(logits) - x * logits).flatten(1).sum(1)
        return distortion, 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(1)


# %% nbgrader={"grade": false, "grade_id": "exercise-5-6a", "locked": false, "schema_version": 3, "solution": true, "task": false}
both = ...  # a ConditionalVAE trained on `images`, that also knows the label -1
### BEGIN SOLUTION
both = ConditionalVAE()
optimiser = torch.optim.Adam(both.parameters(), lr=5e-3)
for _ in range(20):
    for x, y, _ in images.batches(100):
        y = y.masked_fill(torch.rand(len(y)) < 0.2, -1)
        distortion, rate = both.terms(x, y)
        loss = (distortion + rate).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "exercise-5-6b", "locked": false, "schema_version": 3, "solution": true, "task": false}
def guided(model, z, y, weight):
    """Logits with what y adds multiplied by a weight; 0 is not told, 1 is told.

    model: has decode(z, y). z: shape (B, D). y: shape (B,). Returns logits, shape (B, 1, 28, 28).
    """
    ### BEGIN SOLUTION
    nothing = model.decode(z, torch.full_like(y, -1))
    return nothing + weight * (model.decode(z, y) - nothing)
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "exercise-5-6c", "locked": false, "schema_version": 3, "solution": true, "task": false}
weight = ...  # one that helps
### BEGIN SOLUTION
weight = 2.5
### END SOLUTION

# %% nbgrader={"grade": true, "grade_id": "check-5-6", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
check("5.6", both, guided, weight)

# %% [markdown]
# One column is one $z$; from row to row only the weight grows.

# %% nbgrader={"grade": false, "grade_id": "exercise-5-free", "locked": false, "schema_version": 3, "solution": true, "task": false}
sheet = ...  # (50, 1, 28, 28): ten latents asked for a four, with the weights 0, 1, 2, 4 and 8
### BEGIN SOLUTION
z, four = torch.randn(10, 4, generator=torch.Generator().manual_seed(2)), torch.full((10,), 4)
with torch.no_grad():
    sheet = torch.cat([guided(both, z, four, w).sigmoid() for w in (0, 1, 2, 4, 8)])
### END SOLUTION
alt = (
    "Five rows of the same ten latents: mostly nines, eights and zeros without a label; fours once told; with a growing "
    "weight ever blacker fours, in the end torn ones with stray dots."
)
None if sheet is ... else figures.digit_grid(sheet, alt, columns=10, row_labels=[0, 1, 2, 4, 8])

# %% [markdown]
# *Figure E5.1. Asked for fours with the weights 0, 1, 2, 4 and 8.*

# %%
progress(5)

# %% [markdown]
# *Figure E5.2. What you have done of this chapter; it is remembered when you come back.*
#
# **Back:** [05 · What can y be?](../notebooks/05_what_can_y_be.ipynb)
