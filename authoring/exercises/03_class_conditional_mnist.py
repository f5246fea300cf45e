# %% [markdown]
# # 03 · Exercises
#
# *Turn your VAE into one that listens, and find out whether it does.*
#
# {{ badges }}
#
# **Time:** about 100 minutes, of which the machine needs one. **You need:**
# [chapter 03](../notebooks/03_class_conditional_mnist.ipynb), and the pieces from
# [the exercises of chapter 01](../exercises/01_the_vae.ipynb); they are given again below.
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
# Your pieces of chapter 01, so that you can start here. The loop of exercise 1.7 belongs to them: for every batch `x, y, index`
# of `images.batches(100)` compute a loss, then `optimiser.zero_grad()`, `loss.backward()`, `optimiser.step()`. Batches come
# shuffled: `x` are pixels, `y` the images' own labels, and `index` says which images these are, as positions in `images`.


# %%
def reparameterise(mean, log_variance):  # (B, D), (B, D) -> (B, D)
    return mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)


def rate_of(mean, log_variance):  # KL to N(0, I), (B,)
    return 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(1)


def distortion_of(logits, x):  # (B, 1, 28, 28) twice -> (B,)
    return (F.softplus(logits) - x * logits).flatten(1).sum(1)


# %% [markdown]
# ## 3.1 · What is a label worth?
#
# *By hand · ★★☆ · 10 minutes*
#
# Four digits, 0, 1, 3 and 8, come up equally often. An image of a 0 or a 1 leaves no doubt. An image of a 3 leaves a
# little: given the image, it is a 3 with probability {{ 3.1 sure }} and an 8 with probability {{ 3.1 unsure }}. For an 8 it is the other way
# round. How many nats is a label worth, $I(x; y) = H(y) - H(y \mid x)$?
#
# <details><summary>Hint 1</summary>
#
# $H(y)$ is the entropy of four equal odds. $H(y \mid x)$ is an *average* over images: for half of them it is zero.
#
# </details>
# <details><summary>Hint 2</summary>
#
# A doubt of {{ 3.1 sure }} to {{ 3.1 unsure }} is
# $-{{ 3.1 sure }} \ln {{ 3.1 sure }} - {{ 3.1 unsure }} \ln {{ 3.1 unsure }} \approx {{ 3.1 doubt }}$ nats.
#
# </details>

# %% nbgrader={"grade": false, "grade_id": "exercise-3-1", "locked": false, "schema_version": 3, "solution": true, "task": false}
worth = ...
### BEGIN SOLUTION
doubt = -GIVEN_3_1_sure * math.log(GIVEN_3_1_sure) - GIVEN_3_1_unsure * math.log(GIVEN_3_1_unsure)
worth = math.log(4) - 0.5 * doubt
### END SOLUTION

# %% nbgrader={"grade": true, "grade_id": "check-3-1", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
check("3.1", worth)

# %% [markdown]
# ## 3.2 · Labels as rows, and a row for "unknown"
#
# *Implement · ★☆☆ · 10 minutes*
#
# Turn labels into one-hot rows. And since not every image in the world has a label, let −1 mean *unknown*: a row of
# zeros. `F.one_hot` refuses it; exercise 3.7 needs it.
#
# <details><summary>Hint 1</summary>
#
# A one-hot row answers a question: is the label equal to 0? to 1? to 2? Ask it for all labels and all classes at once.
#
# </details>
# <details><summary>Hint 2</summary>
#
# `y[:, None] == torch.arange(classes)` compares a column with a row. What comes out is not yet a number.
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "exercise-3-2", "locked": false, "schema_version": 3, "solution": true, "task": false}
def one_hot(y, classes):
    """Labels as rows: a 1.0 in the label's column, else 0.0; a label of -1 is all zeros.

    y: integers, shape (B,). Returns floats, shape (B, classes).
    """
    ### BEGIN SOLUTION
    return (y[:, None] == torch.arange(classes)).float()
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-3-2", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
check("3.2", one_hot)

# %% [markdown]
# ## 3.3 · A conditional VAE of your own
#
# *Implement · ★★☆ · 25 minutes*
#
# From a blank class. Encoder and decoder both hear $y$. Sizes are yours; four latents and one hidden layer of 256
# are enough. `decode`
# returns logits in the shape of images. The check looks at each method on its own, so it can tell you which of them does not listen.
#
# <details><summary>Hint 1</summary>
#
# Start from your VAE of exercise 1.6. Two widths change by ten, and two `torch.cat` appear.
#
# </details>
# <details><summary>Hint 2</summary>
#
# `encode`: `self.encoder(torch.cat([x.flatten(1), one_hot(y, 10)], dim=1)).chunk(2, dim=1)`. `decode` glues the same rows
# to `z`. In `terms`, hand `y` to both.
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "exercise-3-3", "locked": false, "schema_version": 3, "solution": true, "task": false}
class ConditionalVAE(nn.Module):
    def __init__(self, latents=4, classes=10):
        super().__init__()
        ### BEGIN SOLUTION
        self.classes = classes
        sizes = (784 + classes, 256, 2 * latents), (latents + classes, 256, 784)
        self.encoder, self.decoder = (
            nn.Sequential(nn.Linear(a, b), nn.SiLU(), nn.Linear(b, c)) for a, b, c in sizes
        )
        ### END SOLUTION

    def encode(self, x, y):  # (B, 1, 28, 28), (B,) -> mean and log-variance, (B, D) each
        ### BEGIN SOLUTION
        return self.encoder(torch.cat([x.flatten(1), one_hot(y, self.classes)], 1)).chunk(2, 1)
        ### END SOLUTION

    def decode(self, z, y):  # (B, D), (B,) -> logits, (B, 1, 28, 28)
        ### BEGIN SOLUTION
        return self.decoder(torch.cat([z, one_hot(y, self.classes)], 1)).view(-1, 1, 28, 28)
        ### END SOLUTION

    def terms(self, x, y):  # -> distortion and rate, (B,) each
        ### BEGIN SOLUTION
        mean, log_variance = self.encode(x, y)
        logits = self.decode(reparameterise(mean, log_variance), y)
        return distortion_of(logits, x), rate_of(mean, log_variance)
        ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-3-3", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
check("3.3", ConditionalVAE)

# %% [markdown]
# ## 3.4 · A model of x alone
#
# *Implement · ★★☆ · 10 minutes*
#
# The chapter took the label away again with (3.5), for ten equally likely classes. Real classes are not equally likely.
# Given a table of $\log p(x \mid y)$ and the logarithms of the odds $p(y)$, return
# $\log p(x) = \log \sum_y p(y)\, p(x \mid y)$.
#
# <details><summary>Hint 1</summary>
#
# Inside the sum, $p(y)\, p(x \mid y)$ is a product. You hold both logarithms. What is a product in logarithms?
#
# </details>
# <details><summary>Hint 2</summary>
#
# It is exercise 2.4 with one difference: instead of dividing by $K$ at the end, every term brings its own weight.
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "exercise-3-4", "locked": false, "schema_version": 3, "solution": true, "task": false}
def marginal(table, log_prior):
    """log p(x) of each image, in nats.

    table: log p(x|y), shape (N, C). log_prior: log p(y), shape (C,). Returns shape (N,).
    """
    ### BEGIN SOLUTION
    return (table + log_prior).logsumexp(1)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-3-4", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check("3.4", marginal)

# %% [markdown]
# ## 3.5 · The generator as a classifier
#
# *Implement · ★☆☆ · 5 minutes*
#
# From the same table, Bayes' rule: $p(y \mid x)$ for every image and every class.
#
# <details><summary>Hint 1</summary>
#
# $p(y \mid x) = p(y)\, p(x \mid y) / p(x)$, and 3.4 gave you the logarithm of the denominator.
#
# </details>
# <details><summary>Hint 2</summary>
#
# Dividing by the sum after taking the exponential has a name: softmax. Over which axis do the rows sum to 1?
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "exercise-3-5", "locked": false, "schema_version": 3, "solution": true, "task": false}
def class_posterior(table, log_prior):
    """p(y|x) of each image; every row sums to 1.

    table: log p(x|y), shape (N, C). log_prior: log p(y), shape (C,). Returns shape (N, C).
    """
    ### BEGIN SOLUTION
    return (table + log_prior).softmax(1)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-3-5", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
check("3.5", class_posterior)

# %% [markdown]
# ## 3.6 · Labels that lie
#
# *Predict, then measure · ★★☆ · 25 minutes*
#
# Train your model twice on the 4,000 `images`: once with their own labels, once with the same labels dealt out at random,
# so that they say nothing about the picture. Then ask each for every digit equally often, and let a classifier read what
# comes.
#
# **Predict.** What share of the second model's drawings will be read as the digit asked for? Commit to a number.
#
# **Measure.** Train both. The check asks and reads. It wants more than 0.4 of the first model's drawings read as asked.
#
# <details><summary>Hint 1</summary>
#
# If $y$ says nothing about $x$, then $I(x; y) = 0$, and the best model of $x$ given $y$ is the best model of $x$. What does
# it draw when you ask for a 7?
#
# </details>
# <details><summary>Hint 2</summary>
#
# `train` takes its labels from `labels`, not from the batch: `for x, _, index in images.batches(100)`, and then `labels[index]`.
# The shuffled ones are `images.labels[torch.randperm(len(images))]`. Adam with a learning rate of 5e-3 and 20 epochs are
# enough. Make a new model for each training.
#
# </details>

# %% nbgrader={"grade": false, "grade_id": "exercise-3-6a", "locked": false, "schema_version": 3, "solution": true, "task": false}
prediction = ...  # a share between 0 and 1
### BEGIN SOLUTION
prediction = 0.1
### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "exercise-3-6b", "locked": false, "schema_version": 3, "solution": true, "task": false}
def train(model, images, labels, epochs=20):
    """Minimise the mean of distortion + rate, image i under labels[i]; return the trained model."""
    ### BEGIN SOLUTION
    optimiser = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(epochs):
        for x, _, index in images.batches(100):
            distortion, rate = model.terms(x, labels[index])
            loss = (distortion + rate).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return model
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "exercise-3-6c", "locked": false, "schema_version": 3, "solution": true, "task": false}
honest, lied_to = ..., ...  # trained with the images' own labels, and with shuffled ones
### BEGIN SOLUTION
honest = train(ConditionalVAE(), images, images.labels)
lies = images.labels[torch.randperm(len(images))]
lied_to = train(ConditionalVAE(), images, lies)
### END SOLUTION

# %% nbgrader={"grade": true, "grade_id": "check-3-6", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
check("3.6", prediction, honest, lied_to)

# %% [markdown]
# ## 3.7 · One model, with and without a label
#
# *Open stretch · ★★★ · 15 minutes*
#
# Teach one network both jobs: drawing what is asked for, and drawing anything when nobody asks. Your `one_hot` already has
# a row for "unknown". What has to happen in training so that the network knows what to do with it? The check wants both:
# orders obeyed, more than 0.4 of the drawings read as asked; and a bound without the label at most 30 nats worse than with it,
# where at least four kinds of digits are drawn. (Such a network is where *classifier-free guidance*
# starts: Ho and Salimans 2022, arXiv:2207.12598.)
#
# <details><summary>Hint 1</summary>
#
# The network knows only what it has met. Let it meet −1 now and then.
#
# </details>
# <details><summary>Hint 2</summary>
#
# In every batch, replace a fifth of the labels: `y.masked_fill(torch.rand(len(y)) < 0.2, -1)`. Anew in every batch, so
# that every image is met with its label and without.
#
# </details>

# %% nbgrader={"grade": false, "grade_id": "exercise-3-7", "locked": false, "schema_version": 3, "solution": true, "task": false}
both = ...  # a ConditionalVAE that also knows the label -1
### BEGIN SOLUTION
both = ConditionalVAE()
optimiser = torch.optim.Adam(both.parameters(), lr=5e-3)
for _ in range(30):
    for x, y, _ in images.batches(100):
        y = y.masked_fill(torch.rand(len(y)) < 0.2, -1)
        distortion, rate = both.terms(x, y)
        loss = (distortion + rate).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
### END SOLUTION

# %% nbgrader={"grade": true, "grade_id": "check-3-7", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
check("3.7", both)

# %% [markdown]
# Look at what you made: the first ten columns are orders, the last one is nobody asking. Each row is one $z$.

# %% nbgrader={"grade": false, "grade_id": "exercise-3-free", "locked": false, "schema_version": 3, "solution": true, "task": false}
sheet = ...  # (33, 1, 28, 28): three latents under the labels 0 to 9 and -1
### BEGIN SOLUTION
torch.manual_seed(3)
z = torch.randn(3, 4).repeat_interleave(11, 0)  # (33, 4)
with torch.no_grad():
    sheet = both.decode(z, torch.tensor([*range(10), -1]).repeat(3)).sigmoid()
### END SOLUTION
names = [*range(10), "none"]
alt = "Three rows: the digits 0 to 9 in one handwriting each, then a drawing without a label."
None if sheet is ... else figures.digit_grid(sheet, alt, columns=11, column_labels=names)

# %% [markdown]
# *Figure E3.1. Three latents, ten orders and no order, from one small network. Expect blurry digits: it has four latents, and
# saw 4,000 images for seconds.*

# %%
progress(3)

# %% [markdown]
# *Figure E3.2. What you have done of this chapter; it is remembered when you come back.*
#
# **Back:** [03 · Class-conditional MNIST](../notebooks/03_class_conditional_mnist.ipynb)
