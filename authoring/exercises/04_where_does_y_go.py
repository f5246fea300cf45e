# %% [markdown]
# # 04 · Exercises
#
# *Build the layers that listen, and a test that tells which of them can steer.*
#
# {{ badges }}
#
# **Time:** about 120 minutes, of which the machine needs one. **You need:**
# [chapter 04](../notebooks/04_where_does_y_go.ipynb), and the pieces from
# [the exercises of chapter 03](../exercises/03_class_conditional_mnist.ipynb); they are given again below.
#
# {{ edition }}
#
# 4.2 and 4.4 are layers you will want to keep: the last exercises of the course use them. 4.5 is an instrument that is not in
# the chapter, and 4.6 is the first model that is wholly yours.

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
from cvae_lib.networks import MLPDecoder

torch.manual_seed(0)
images = data.digits("train").subset(slice(4000))

# %% [markdown]
# ## 4.1 · Parameters that do nothing
#
# *By hand · ★☆☆ · 10 minutes*
#
# A slot sits in front of a layer: {{ 4.1 features }} features come in, and the condition is a one-hot row of {{ 4.1 classes }} classes. How
# many parameters does the slot bring if it is FiLM, (4.3)? How many if it is attention, (4.5), with {{ 4.1 heads }} heads of width 16?
# And how many of attention's never get a gradient, because $y$ is a single token? None of these layers has a bias.
#
# <details><summary>Hint 1</summary>
#
# A matrix from $n$ to $m$ numbers has $n \cdot m$ entries. FiLM makes two vectors as long as the features, $\gamma$ and
# $\beta$. Attention has four matrices; the heads side by side are ${{ 4.1 heads }} \cdot 16 = {{ 4.1 width }}$ wide.
#
# </details>
# <details><summary>Hint 2</summary>
#
# Questions come from the features and keys from the condition. With one token neither plays a part, by (4.6).
#
# </details>

# %% nbgrader={"grade": false, "grade_id": "exercise-4-1", "locked": false, "schema_version": 3, "solution": true, "task": false}
film, attention, idle = ..., ..., ...
### BEGIN SOLUTION
film = GIVEN_4_1_classes * 2 * GIVEN_4_1_features
attention = 2 * (GIVEN_4_1_features + GIVEN_4_1_classes) * GIVEN_4_1_width
idle = attention / 2  # question and key; value and output are as large
### END SOLUTION

# %% nbgrader={"grade": true, "grade_id": "check-4-1", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
check("4.1", film, attention, idle)

# %% [markdown]
# So for a label half of attention is ballast, whatever the widths. Remember it when a paper says "at equal parameters".

# %% [markdown]
# ## 4.2 · FiLM that starts as nothing
#
# *Implement · ★★☆ · 20 minutes*
#
# Write (4.3) as a layer, $h' = (1 + \gamma(c)) \odot h + \beta(c)$, that you can put into any network. It must keep three promises:
#
# - before any training it is the identity, so it cannot spoil the network it is put into;
# - it can learn: the first gradient is not zero;
# - where $c$ is zero, $y$ unknown, it is the identity for ever.
#
# The check looks at all three. It trains a copy for a few steps to see.
#
# <details><summary>Hint 1</summary>
#
# $\gamma$ and $\beta$ are linear in $c$: one `nn.Linear` can give both, and `chunk(2, dim=1)` cuts them apart. Which of its
# settings must be switched off for the third promise?
#
# </details>
# <details><summary>Hint 2</summary>
#
# `nn.init.zeros_(layer.weight)` keeps the first promise, if the formula has its "1 +". Zero *one* layer: a product of two zero
# matrices has no gradient.
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "exercise-4-2", "locked": false, "schema_version": 3, "solution": true, "task": false}
class Film(nn.Module):
    """Scale and shift each feature by what the condition says."""

    def __init__(self, features, numbers):  # F and C
        super().__init__()
        ### BEGIN SOLUTION
        self.modulate = nn.Linear(numbers, 2 * features, bias=False)
        nn.init.zeros_(self.modulate.weight)
        ### END SOLUTION

    def forward(self, h, c):  # (B, F), (B, C) -> (B, F)
        ### BEGIN SOLUTION
        gamma, beta = self.modulate(c).chunk(2, dim=1)
        return (1 + gamma) * h + beta
        ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-4-2", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
check("4.2", Film)

# %% [markdown]
# ## 4.3 · A question to a list
#
# *Implement · ★★☆ · 20 minutes*
#
# The heart of (4.5), for one head: a question $q$, and for each token a key $k_l$ and a value $v_l$. Return what was found,
# $\sum_l a_l v_l$, and the weights $a_l$, which you will want to look at. Scores can be large: your function must not overflow.
#
# <details><summary>Hint 1</summary>
#
# The score of a token is the inner product of its key with the question, divided by $\sqrt d$, where $d$ is how long a question
# is. One question meets $L$ keys: `torch.einsum("bd,bld->bl", q, keys)`.
#
# </details>
# <details><summary>Hint 2</summary>
#
# Tokens of *one* example compete for its attention. So along which axis do the weights sum to 1? `softmax` takes the largest
# score out before it exponentiates.
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "exercise-4-3", "locked": false, "schema_version": 3, "solution": true, "task": false}
def attend(q, keys, values):
    """Look for q among the keys; return what is found among the values, and the weights.

    q: shape (B, d). keys: (B, L, d). values: (B, L, C). Returns shapes (B, C) and (B, L).
    """
    ### BEGIN SOLUTION
    scores = torch.einsum("bd,bld->bl", q, keys) / math.sqrt(q.shape[1])
    weights = scores.softmax(1)
    return torch.einsum("bl,blc->bc", weights, values), weights
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-4-3", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check("4.3", attend)

# %% [markdown]
# ## 4.4 · A norm that keeps to itself
#
# *Implement · ★★☆ · 15 minutes*
#
# The chapter's third bug came from statistics over the batch: in a hundred sevens, "seven" is part of the mean and is subtracted.
# There is a norm that cannot do that. Normalise each example **over its own features**, then modulate:
#
# $$h'_{bf} = (1 + \gamma_{bf})\, \frac{h_{bf} - \mu_b}{\sqrt{\sigma_b^2 + 10^{-5}}} + \beta_{bf},$$
#
# $\mu_b$ and $\sigma_b^2$ being the mean and the mean squared deviation of example $b$'s features. No running averages, no difference
# between training and use, and a batch of one is fine. Diffusion transformers are told their condition this way.
#
# <details><summary>Hint 1</summary>
#
# Compare with (4.4). Only the axis over which the mean is taken has changed, and with it what must keep its axis:
# `h.mean(1, keepdim=True)`.
#
# </details>
# <details><summary>Hint 2</summary>
#
# `h.var(1, keepdim=True)` divides by $F - 1$; `unbiased=False` divides by $F$. What happens to an example whose features are all
# equal?
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "exercise-4-4", "locked": false, "schema_version": 3, "solution": true, "task": false}
def told_norm(h, gamma, beta):
    """Normalise each example over its features, then scale by 1 + gamma and shift by beta.

    h, gamma, beta: shape (B, F). Returns shape (B, F).
    """
    ### BEGIN SOLUTION
    centred = h - h.mean(1, keepdim=True)
    variance = centred.square().mean(1, keepdim=True)
    return (1 + gamma) * centred / torch.sqrt(variance + 1e-5) + beta
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-4-4", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check("4.4", told_norm)

# %% [markdown]
# ## 4.5 · Stencil or steering?
#
# *Predict, then measure · ★★★ · 20 minutes*
#
# By (4.7), a label told in the last block does the same to every $z$: it lays a stencil over the drawing. Here is an instrument that
# shows this without training anything. Take two latents $z, w$ and two labels $a, b$, and look at the logits $\ell$ of
#
# $$\ell(z, a) - \ell(z, b) - \ell(w, a) + \ell(w, b).$$
#
# It asks: does going from $b$ to $a$ do something else to $z$ than to $w$? A decoder for which this is always zero can be
# written as $f(z) + g(y)$, and cannot steer.
#
# **Predict.** Five decoders with random weights, told by different ways in different blocks, stand in the next cell. Each has three
# blocks, and the last gives the logits. For which of them is it zero? Write down their names.
#
# **Measure.** Write the instrument: for each pair the mean of its absolute value over the pixels.
#
# <details><summary>Hint 1</summary>
#
# Between a shift and the output, is there anything that is not linear? And is what $y$ does to the features always a shift?
#
# </details>
# <details><summary>Hint 2</summary>
#
# Four calls of `decode`. Take the absolute value *after* all four are put together, then the mean over every axis but the first:
# `.flatten(1).mean(1)`. For the prediction: attention to one token is addition, by (4.6).
#
# </details>

# %%
ways = {
    "first, concatenation": ("concatenation", (0,)),
    "every, addition": ("addition", "every"),
    "last, concatenation": ("concatenation", (2,)),
    "last, FiLM": ("film", (2,)),
    "last, attention": ("attention", (2,)),
}
decoders = {
    name: MLPDecoder(4, (32, 32), (1, 6, 6), condition_dim=10, conditioning=how, condition_at=where)
    for name, (how, where) in ways.items()
}
for decoder in decoders.values():
    for parameter in decoder.parameters():  # FiLM and attention start as the identity: wake them
        nn.init.normal_(parameter, std=0.3)

# %% nbgrader={"grade": false, "grade_id": "exercise-4-5a", "locked": false, "schema_version": 3, "solution": true, "task": false}
prediction = ...  # the names of those that lay a stencil, as in ["first, concatenation", "last, FiLM"]
### BEGIN SOLUTION
prediction = ["last, concatenation", "last, attention"]
### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "exercise-4-5b", "locked": false, "schema_version": 3, "solution": true, "task": false}
def interaction(decode, z, w, a, b):
    """How differently z and w are changed by going from condition b to condition a.

    decode: takes latents (B, D) and conditions (B, C), returns logits (B, 1, H, W).
    z, w: shape (B, D). a, b: shape (B, C). Returns shape (B,), never negative.
    """
    ### BEGIN SOLUTION
    difference = decode(z, a) - decode(z, b) - decode(w, a) + decode(w, b)
    return difference.abs().flatten(1).mean(1)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-4-5", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check("4.5", prediction, interaction)

# %% [markdown]
# And now point your instrument at the five.

# %% nbgrader={"grade": false, "grade_id": "exercise-4-5c", "locked": false, "schema_version": 3, "solution": true, "task": false}
found = ...  # the mean interaction of each of the five, by name
### BEGIN SOLUTION
z, w = torch.randn(2, 100, 4)
a, b = F.one_hot(torch.randint(10, (2, 100)), 10).float()
with torch.no_grad():
    found = {name: interaction(decode, z, w, a, b).mean() for name, decode in decoders.items()}
### END SOLUTION
for name, value in () if found is ... else found.items():
    print(f"{name:<22} {value:.5f}")

# %% [markdown]
# ## 4.6 · A model that listens in every block
#
# *Open stretch · ★★★ · 35 minutes*
#
# A conditional VAE of your own, with your `Film` in every hidden block of both networks: three linear layers each, 256 wide,
# four latents. Train it on the 4,000 `images`. The check asks it for digits and lets a judge read what comes, and it turns
# your instrument of 4.5 on the decoder. The pieces that you have written before are given below the hints.
#
# <details><summary>Hint 1</summary>
#
# One small module serves as encoder and as decoder: three linear layers with two `Film` between them, and SiLU after each
# `Film`. Only the widths at its two ends differ.
#
# </details>
# <details><summary>Hint 2</summary>
#
# `encode` is `self.encoder(x.flatten(1), one_hot(y, 10)).chunk(2, 1)`, and `decode` is
# `self.decoder(z, one_hot(y, 10)).view(-1, 1, 28, 28)`. `terms` is that of 3.3, line for line.
#
# </details>


# %%
def one_hot(y, classes):  # (B,) -> (B, classes); -1 gives zeros
    return (y[:, None] == torch.arange(classes)).float()


def reparameterise(mean, log_variance):  # (B, D), (B, D) -> (B, D)
    return mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)


def rate_of(mean, log_variance):  # KL to N(0, I), (B,)
    return 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(1)


def distortion_of(logits, x):  # (B, 1, 28, 28) twice -> (B,)
    return (F.softplus(logits) - x * logits).flatten(1).sum(1)


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


# %% [markdown]
# The two classes below are one way to lay it out. Yours may look different, as long as the trained model has `encode`,
# `decode` and `terms`.


# %% nbgrader={"grade": false, "grade_id": "exercise-4-6a", "locked": false, "schema_version": 3, "solution": true, "task": false}
class Told(nn.Module):
    """Three layers, told the condition between them."""

    def __init__(self, inputs, outputs, width=256, numbers=10):
        super().__init__()
        ### BEGIN SOLUTION
        sizes = (inputs, width), (width, width), (width, outputs)
        self.layers = nn.ModuleList(nn.Linear(*size) for size in sizes)
        self.films = nn.ModuleList(Film(width, numbers) for _ in range(2))
        ### END SOLUTION

    def forward(self, h, c):  # (B, inputs), (B, numbers) -> (B, outputs)
        ### BEGIN SOLUTION
        for layer, film in zip(self.layers[:2], self.films, strict=True):
            h = F.silu(film(layer(h), c))
        return self.layers[2](h)
        ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "exercise-4-6b", "locked": false, "schema_version": 3, "solution": true, "task": false}
class FilmVAE(nn.Module):
    def __init__(self, latents=4):
        super().__init__()
        ### BEGIN SOLUTION
        self.encoder, self.decoder = Told(784, 2 * latents), Told(latents, 784)
        ### END SOLUTION

    def encode(self, x, y):  # (B, 1, 28, 28), (B,) -> mean and log-variance, (B, D) each
        ### BEGIN SOLUTION
        return self.encoder(x.flatten(1), one_hot(y, 10)).chunk(2, 1)
        ### END SOLUTION

    def decode(self, z, y):  # (B, D), (B,) -> logits, (B, 1, 28, 28)
        ### BEGIN SOLUTION
        return self.decoder(z, one_hot(y, 10)).view(-1, 1, 28, 28)
        ### END SOLUTION

    def terms(self, x, y):  # -> distortion and rate, (B,) each
        ### BEGIN SOLUTION
        mean, log_variance = self.encode(x, y)
        logits = self.decode(reparameterise(mean, log_variance), y)
        return distortion_of(logits, x), rate_of(mean, log_variance)
        ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "exercise-4-6c", "locked": false, "schema_version": 3, "solution": true, "task": false}
listening = ...  # your model, trained
### BEGIN SOLUTION
listening = train(FilmVAE(), images)
### END SOLUTION

# %% nbgrader={"grade": true, "grade_id": "check-4-6", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
check("4.6", listening)

# %% nbgrader={"grade": false, "grade_id": "exercise-4-free", "locked": false, "schema_version": 3, "solution": true, "task": false}
sheet = ...  # (30, 1, 28, 28): three latents under the labels 0 to 9
### BEGIN SOLUTION
z = torch.randn(3, 4, generator=torch.Generator().manual_seed(1)).repeat_interleave(10, 0)
with torch.no_grad():
    sheet = listening.decode(z, torch.arange(10).repeat(3)).sigmoid()
### END SOLUTION
alt = "Three rows of the digits 0 to 9, each row in one handwriting; nearly all are what was asked."
None if sheet is ... else figures.digit_grid(sheet, alt, columns=10, column_labels=range(10))

# %% [markdown]
# *Figure E4.1. Three latents, ten orders each, from the model just built.*

# %%
progress(4)

# %% [markdown]
# *Figure E4.2. What you have done of this chapter; it is remembered when you come back.*
#
# **Next:** [05 · What can y be?](../notebooks/05_what_can_y_be.ipynb)
