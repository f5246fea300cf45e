# %% [markdown]
# # 04 · Where does y go?
#
# *Concatenate, add, modulate or attend: does it matter?*
#
# {{ badges }}
#
# **Time:** {{ minutes }} on two CPU cores, most of it fifteen short trainings. **You need:** chapter 03; matrix
# products. Attention is explained where it comes up.
#
# By the end you can
#
# - build the usual layers that tell a network its condition, and say which of them are one function in two disguises;
# - compare them fairly: same number of parameters, same budget, several seeds, paired likelihoods;
# - predict what a model cannot draw from *where* it is told;
# - find three bugs that do not crash, and that a loss curve alone does not give away.

# %% tags=["install"]
# {{ install }}

# %%
import copy
import math

import torch
import torch.nn.functional as F
from torch import nn

from cvae_lib import data, evaluation, pretrained
from cvae_lib.conditioning import make_conditioning
from cvae_lib.conditions import Condition
from cvae_lib.course import figures, records
from cvae_lib.model import CVAE, CVAEConfig
from cvae_lib.objective import elbo_terms
from cvae_lib.training import fit

torch.manual_seed(0)
train, test = data.digits("train"), data.digits("test")
judge = pretrained.load_classifier(f"{train.name.lower()}-classifier")
print(
    f"{train.name}: {len(train)} training and {len(test)} test images of shape {train.image_shape}"
)

# %% [markdown]
# ## A slot in every block
#
# Chapter 03 glued the label to the input of the encoder and of the decoder, and it worked. Why there, and why glue? A
# network is a row of blocks. Put a *slot* at the entrance of each block: a layer `(h, c) -> h` that takes the features
# $h$, shape $(B, F)$, and what is known of $y$ as numbers, $c$, shape $(B, C)$. For a digit, $c$ is the one-hot row of
# chapter 03. Then there are two questions: **what does the slot do**, and **which slots are filled**.
#
# ### Way one: concatenate


# %%
class Concatenate(nn.Module):
    def __init__(self, features, numbers):
        super().__init__()
        self.out_features = features + numbers  # the next layer must expect this many

    def forward(self, h, c):  # (B, F), (B, C)
        return torch.cat([h, c], dim=1)  # (B, F + C)


# %% [markdown]
# What does the next linear layer make of it? Split its matrix into the columns that meet $h$ and those that meet $c$:
#
# $$W\,[h, c] + b = W_h\,h + b + W_c\,c. \tag{4.1}$$
#
# If $c$ is one-hot, $W_c c$ is one column of $W_c$, the column of that class. So this is all that gluing does: **each
# class gets a bias vector of its own.**

# %%
h, c = torch.randn(5, 8), F.one_hot(torch.tensor([3, 1, 4, 1, 5]), 10).float()  # (5, 8), (5, 10)
linear = nn.Linear(8 + 10, 6)
W_h, W_c = linear.weight.split([8, 10], dim=1)  # (6, 8), (6, 10)
own_bias = W_c.T[[3, 1, 4, 1, 5]]  # rows of a table, one per class: (5, 6)
difference = linear(Concatenate(8, 10)(h, c)) - (h @ W_h.T + linear.bias + own_bias)
print(f"both sides of (4.1) differ by at most {difference.abs().max():.0e}")

# %% [markdown]
# ### Way two: embed and add
#
# Give each class a learned vector as long as $h$, and add it. A linear layer without bias does it: fed a one-hot row, it
# returns one column of its matrix.


# %%
class Add(nn.Module):
    def __init__(self, features, numbers):
        super().__init__()
        self.embed = nn.Linear(numbers, features, bias=False)

    def forward(self, h, c):  # (B, F), (B, C)
        return h + self.embed(c)  # (B, F)


# %% [markdown]
# Send that through the next linear layer too, with $E$ for the table of embeddings:
#
# $$W (h + E c) + b = W h + b + (W E)\, c. \tag{4.2}$$
#
# A bias vector for each class, again. **Concatenation and addition are one idea**, written with $W_c$ in the one case and
# $W E$ in the other. Behind a square invertible $W$ they can even express exactly the same functions. Both *shift* the
# features. Neither can make one class *use* a feature that another ignores, not within one layer.
#
# ### Way three: modulate
#
# FiLM, for feature-wise linear modulation, also scales:
#
# $$h' = \big(1 + \gamma(c)\big) \odot h + \beta(c), \qquad \gamma, \beta \text{ linear in } c. \tag{4.3}$$


# %%
class Modulate(nn.Module):
    def __init__(self, features, numbers):
        super().__init__()
        self.modulate = nn.Linear(numbers, 2 * features, bias=False)
        nn.init.zeros_(self.modulate.weight)  # starts as the identity: nothing is modulated yet

    def forward(self, h, c):  # (B, F), (B, C)
        gamma, beta = self.modulate(c).chunk(2, dim=1)  # (B, F) each
        return (1 + gamma) * h + beta


# %% [markdown]
# The next layer now computes $W \operatorname{diag}(1 + \gamma(c))\, h + W\beta(c) + b$: each class has not only a bias but a
# **weight matrix** of its own, the common one with its columns rescaled. That is new.
#
# **Conditional batch norm** is FiLM on features that have first been normalised, with mean $\mu$ and variance $\sigma^2$ of
# each feature over the batch:
#
# $$h' = \big(\gamma + \Delta\gamma(c)\big) \odot \frac{h - \mu}{\sqrt{\sigma^2 + \epsilon}} + \beta + \Delta\beta(c).
# \tag{4.4}$$


# %%
class NormaliseAndModulate(nn.Module):
    def __init__(self, features, numbers):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(features))
        self.beta = nn.Parameter(torch.zeros(features))
        self.modulate = nn.Linear(numbers, 2 * features, bias=False)
        nn.init.zeros_(self.modulate.weight)
        self.register_buffer("mean", torch.zeros(features))  # running averages, for later
        self.register_buffer("variance", torch.ones(features))

    def forward(self, h, c):  # (B, F), (B, C)
        if self.training:
            mean, variance = h.mean(0), h.var(0, unbiased=False)  # over whoever is in this batch
            with torch.no_grad():
                self.mean.lerp_(mean, 0.1)  # a tenth of the way to the new one
                self.variance.lerp_(variance * len(h) / (len(h) - 1), 0.1)
        else:
            mean, variance = self.mean, self.variance
        delta_gamma, delta_beta = self.modulate(c).chunk(2, dim=1)  # (B, F) each
        normal = (h - mean) / torch.sqrt(variance + 1e-5)
        return (self.gamma + delta_gamma) * normal + self.beta + delta_beta


# %% [markdown]
# ### Way four: attend
#
# Now let $y$ be a *list* of vectors $c_1, \dots, c_L$, called tokens: the words of a sentence, say. The features ask a
# question, $W_q h$. Every token has a key, $W_k c_l$, and a value, $W_v c_l$. The better a key fits the question, the more
# of its value is taken, and what was found is added:
#
# $$h' = h + W_o \sum_{l=1}^{L} a_l\, W_v c_l, \qquad
# a = \operatorname{softmax}_l\!\Big(\frac{(W_q h)^\top W_k c_l}{\sqrt d}\Big). \tag{4.5}$$
#
# It is done in several *heads* side by side, each with questions, keys and values of width $d$. In the code, `einsum` names
# the axes: it multiplies, and sums over every letter that is missing behind the arrow.


# %%
class Attend(nn.Module):
    def __init__(self, features, numbers, heads=4, width=16):
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(features, heads * width, bias=False)
        self.key = nn.Linear(numbers, heads * width, bias=False)
        self.value = nn.Linear(numbers, heads * width, bias=False)
        self.output = nn.Linear(heads * width, features, bias=False)
        nn.init.zeros_(self.output.weight)  # the identity again

    def forward(self, h, c):  # (B, F), (B, L, C)
        c = c if c.ndim == 3 else c[:, None]  # a vector is a list of one
        q = self.query(h).unflatten(1, (self.heads, -1))  # (B, heads, d)
        k = self.key(c).unflatten(2, (self.heads, -1))  # (B, L, heads, d)
        v = self.value(c).unflatten(2, (self.heads, -1))  # (B, L, heads, d)
        a = (torch.einsum("bhd,blhd->bhl", q, k) / math.sqrt(q.shape[-1])).softmax(-1)
        return h + self.output(torch.einsum("bhl,blhd->bhd", a, v).flatten(1))  # (B, F)


# %% [markdown]
# The library has the same five layers under the names below. Same weights, same numbers?

# %%
by_hand = {
    "concatenation": Concatenate(24, 10),
    "addition": Add(24, 10),
    "film": Modulate(24, 10),
    "batchnorm": NormaliseAndModulate(24, 10),
    "attention": Attend(24, 10),
}
h, c = torch.randn(32, 24), F.one_hot(torch.arange(32) % 10, 10).float()  # (32, 24), (32, 10)
for how, mine in by_hand.items():
    theirs = make_conditioning(how, 24, 10)
    for parameter, other in zip(mine.parameters(), theirs.parameters(), strict=True):
        other.data.copy_(nn.init.normal_(parameter.data, std=0.5))
    print(f"{how:<14} largest difference {(mine(h, c) - theirs(h, c)).abs().max():.0e}")

# %% [markdown]
# ## Attention with nothing to choose from
#
# A digit's label is *one* vector, so the list has length 1. **Predict first.** What does attention learn to attend to?
#
# <details><summary>Answer</summary>
# Nothing. The softmax of a single number is 1, whatever the number. Question and key drop out of the formula, and what is
# left is addition with the embedding W_o W_v c. The matrices of question and key get a gradient of exactly zero, for ever.
# </details>
#
# $$L = 1: \qquad a_1 = 1, \qquad h' = h + W_o W_v\, c. \tag{4.6}$$

# %%
attend = by_hand["attention"]
E = attend.output.weight @ attend.value.weight  # (F, C): the embedding of (4.2), in two factors
print(f"attention - addition: at most {(attend(h, c) - (h + c @ E.T)).abs().max():.0e}")
attend(h, c).square().sum().backward()
for name, parameter in attend.named_parameters():
    print(
        f"{name:<14} {parameter.numel():>5} parameters, gradient norm {parameter.grad.norm():.3g}"
    )

# %% [markdown]
# So for one label, three of our ways are one: a shift of the features by a vector that depends on the class. Only FiLM and
# conditional batch norm do something else. Keep that in mind while you read the contest.

# %% [markdown]
# ## A fair contest
#
# Five models, alike in everything but the way, with every slot filled. To be fair they get the **same number of
# parameters**: FiLM and attention bring more weights of their own, so their hidden layers must be narrower.


# %%
def build(how, width, own=None, **settings):
    torch.manual_seed(0)
    plan = {"conditioning": how, "condition_at": "every", "latent_dim": 20}
    config = CVAEConfig(**(plan | {"hidden": (width, width)} | settings))
    return CVAE(config, condition=own)  # own: a condition of your own, for later


def matched(how, target, **settings):
    with torch.device("meta"):  # only counts, no numbers
        sizes = {w: build(how, w, **settings).num_parameters() for w in range(96, 200, 2)}
    return min(sizes, key=lambda w: abs(sizes[w] / target - 1))


ways = list(by_hand)
target = build("concatenation", 192).num_parameters()
widths = {how: matched(how, target) for how in ways}
for how in ways:
    count = build(how, widths[how]).num_parameters()
    print(f"{how:<14} width {widths[how]}: {count:,} parameters ({count / target - 1:+.1%})")

# %% [markdown]
# Same images in the same order, same number of steps, same learning rate. The budget is small, four epochs: so small that
# you can run it yourself five times over. What more training changes comes after.

# %%
training = {"epochs": 4, "batch_size": 256, "learning_rate": 4e-3, "seed": 0, "log_every": 4}
models = {how: build(how, widths[how]) for how in ways}
for how in ways:
    print(how)
    fit(models[how], train, **training)

# %% [markdown]
# **Predict first.** Two questions. Which way gives the test images the highest likelihood? And in which order do they come
# when a judge counts how many drawings show the digit that was asked for? Write down two orders.
#
# Three measures. **Test log-likelihood**, by importance sampling with $K = 50$ samples, on 3,000 images, compared with
# concatenation's image by image. **Control accuracy**, as in chapter 03. And **what another y costs**: give each of 1,000
# images the label of another and see how far its likelihood falls.

# %%
some = test.subset(slice(3000))


def measure(model, base=None):
    ll = evaluation.log_likelihood(model, some, samples=50)
    gap = evaluation.mean_and_error(ll.per_example - (base or ll).per_example)
    control = evaluation.control_accuracy(model, judge, count=2000).accuracy
    lost = evaluation.is_y_used(model, some.subset(slice(1000)), samples=20).likelihood_lost
    print(f"-log p(x|y) {-ll.mean:.2f}, better by {gap}, control {control:.3f}")
    print(f"    another y costs {lost} nats")
    return {"ll": ll, "control": control}


found = {}
for how in ways:
    print(f"{how:<14}", end=" ")
    found[how] = measure(models[how], found.get("concatenation", {}).get("ll"))

# %% [markdown]
# One run is one run. Here it is among three recorded on MNIST, each from other starting weights and with the images in
# another order; the time of a training step was measured in turns on one machine (`benchmarks/studies/where_y_goes.py`).

# %%
record = records.load("where_y_goes")


def over_seeds(names, figure):
    return {name: [run[f"{name}_{figure}"] for run in record["runs"]] for name in names}


figures.seed_dots(
    {
        "-log p(x|y), nats": over_seeds(ways, "nll"),
        "control accuracy": over_seeds(ways, "control"),
        "time of a step, relative": over_seeds(ways, "time"),
    },
    "Three panels with a row for each way. Negative log-likelihood: batch norm lowest, attention highest by several "
    "nats. Control accuracy: concatenation lowest by far. Time: concatenation fastest, attention slowest.",
    live={
        "-log p(x|y), nats": {how: -found[how]["ll"].mean for how in ways},
        "control accuracy": {how: found[how]["control"] for how in ways},
    },
)

# %% [markdown]
# *Figure 4.1. Four epochs, parameters within 1%. Blue: three recorded runs; orange: the run above (without MNIST, it lies
# elsewhere). On the left less is better, in the middle more.*
#
# **Two different orders.** In every recorded run, batch norm leads by likelihood, attention comes last by several nats, and
# attention obeys better than batch norm. A likelihood adds up all pixels of all images, and what you asked for is a small
# part of that. One number does not rank conditional models.
#
# And something is odd. Concatenation, addition and attention are *one* idea here, by (4.2) and (4.6), and yet they lie
# about 6 nats and 0.2 of control apart. What they can express is not the reason. There are two suspects.
#
# **Attention's width.** It pays for questions and keys that never get a gradient, so its network is 122 wide instead of
# 192. "The same number of parameters" is fair only if all of them do something.
#
# **Concatenation's start.** PyTorch starts the weights of a linear layer smaller the more inputs it has, and gluing makes $y$
# ten inputs among hundreds. How large is the shift at the start, $W_c$ of (4.1) against $W E$ of (4.2)?

# %%
for how in ("concatenation", "addition"):
    net, shifts = build(how, 192).encoder.net, []
    for block, layer in enumerate(net.layers):
        E = None if how == "concatenation" else net.slots[str(block)].embed.weight
        shifts.append(layer.weight[:, -10:] if E is None else layer.weight @ E)
    print(f"{how:<14} spread of the shift, by block:", *(f"{s.std():.3f}" for s in shifts))

# %% [markdown]
# Concatenation whispers. Change nothing but that: start $W_c$ eight times as large.

# %%
models["loud"] = build("concatenation", 192)
for net in (models["loud"].encoder.net, models["loud"].decoder.net):
    for layer in net.layers:
        layer.weight.data[:, -10:] *= 8
fit(models["loud"], train, **training)
found["loud"] = measure(models["loud"], found["concatenation"]["ll"])

# %% [markdown]
# The same function with the same parameters, only started elsewhere. Does that hold over three seeds? And does any of this
# last? Mean ± standard deviation over the recorded runs, after 4 epochs and after 12:


# %%
def bands(rows, columns):
    print(f"{'':<24}", *(f"{header:<18}" for header in columns))
    for text, name in rows.items():
        cells = (str(records.band(record, f"{name}_{figure}")) for figure in columns.values())
        print(f"{text:<24}", *(f"{cell:<18}" for cell in cells))


short = {"-log p(x|y)": "nll", "control": "control"}
long = {"-log p, 12 epochs": "long_nll", "control, 12": "long_control"}
bands({how: how for how in ways} | {"concatenation, loud": "loud"}, short | long)
print()
bands({"attention, width 192": "attention_wide"}, short)

# %% [markdown]
# It holds in every run. The loud start obeys better than all five ways of the contest, the quiet one worse than all others.
# **The largest difference in obedience was between two starts of one and the same function.** And attention at full width is
# back among the rest: its 5 nats were the price of parameters that are idle or superfluous.
#
# After 12 epochs, less is left. Training three times as long was worth more than 6 nats to each; then all ways but narrow
# attention lie within 1.5 nats of each other. One of the two modulations leads in every run, by less than a nat over loud
# concatenation. Control has come closer too: 0.91 to 0.92 for both modulations, 0.90 for loud concatenation, about 0.85 for
# the shifts started as usual. (Loudness is not the whole story: addition starts louder than quiet concatenation, and after
# 12 epochs obeys no better. Nor are eight times the best choice; they were the first.)
#
# So, for a class label told in every block, **the likelihood hardly depends on the way; control does, and a good part of that
# is how soon the network comes to hear $y$.** FiLM needs no care about it, at 1.4 times the time of a step. Concatenation is
# fastest: start it loud.

# %%
labels = torch.arange(10)
z = torch.randn(10, 20, generator=torch.Generator().manual_seed(3))


def drawn(model, y=labels):
    with torch.no_grad():
        return model.likelihood(z, y).mean  # (10, 1, 28, 28)


figures.digit_grid(
    torch.cat([drawn(models[how]) for how in (*ways, "loud")]),
    "Drawings of the digits 0 to 9, a row for each model. Concatenation's 3, 6 and 9 are not what was asked for; most "
    "others are, if some are blurred.",
    row_labels=[*ways, "loud"],
    column_labels=range(10),
)

# %% [markdown]
# *Figure 4.2. The ten digits as drawn after four epochs. A column has one $z$, which means something else to each model.*

# %% [markdown]
# ## Which block?
#
# Now keep one way, concatenation, and change where it is plugged in. These networks have three blocks: one reads the input,
# one is hidden, one gives the output. In the contest *every* block was told. **Predict first.** What happens to control if
# only the *first* block is told, in encoder and decoder? If only the *last* is? And would FiLM fare better there?

# %%
models["last"] = build("concatenation", 192, condition_at=(2,))
fit(models["last"], train, **training)
found["last"] = measure(models["last"], found["concatenation"]["ll"])
print("\nThree seeds:")
told = {"every": "concatenation", "first": "first", "last": "last", "last, FiLM": "film_last"}
bands(told, short | {"another y costs": "y_used"})

# %% [markdown]
# <details><summary>Answer</summary>
# Told first, control falls to about a half. Told last, it falls almost to chance, 0.1. FiLM in that same last slot obeys more
# than half of the time: a matrix of its own for each class, not just a bias, makes up for much.
# </details>
#
# Why can a label told last steer nothing? Look at the decoder's last block: a linear layer, and after it only the sigmoid. By
# (4.1) its logits are
#
# $$\ell(z, y) = W_h\, h(z) + b + W_c\, c(y), \qquad\text{so}\qquad
# \ell(z, y) - \ell(z, y') = W_c\,\big(c(y) - c(y')\big), \tag{4.7}$$
#
# whatever $z$ is. All that $y$ can do is lay **one fixed stencil per class** over whatever $z$ draws. Here are the ten
# stencils, and what they do to ten latents:

# %%
stencils = models["last"].decoder.net.layers[2].weight[:, -10:].T  # (10, 784)
stencils = (stencils - stencils.mean(0)).view(10, 1, 28, 28)  # what all share says nothing of y
sheet = [0.5 + 0.5 * stencils / stencils.abs().max()]
sheet += [drawn(models["last"], torch.full((10,), 4)), drawn(models["last"])]
sheet += [drawn(models["loud"])]
figures.digit_grid(
    torch.cat(sheet),
    "First row: ten grey stencils, each a faint average of its digit. Second and third row: the model told last draws "
    "the same ten shapes whether asked for ten fours or for 0 to 9. Last row: the loud model draws 0 to 9.",
    row_labels=["stencil", "last: all 4", "last: 0 to 9", "every, loud"],
    column_labels=range(10),
)

# %% [markdown]
# *Figure 4.3. Stencils: dark adds ink, light takes it away. The model told last draws what $z$ wants, whatever you ask.
# Told in every block, the shift is bent by the layers behind it, differently for each $z$.*

# %% [markdown]
# ## Which network?
#
# Encoder, decoder, prior: who needs to know? Before measuring, look at what a drawing is made of: $z \sim p(z \mid y)$, then
# $x \sim p(x \mid z, y)$. The encoder takes no part. If decoder and prior are both deaf to $y$, then
#
# $$p(x \mid y) = \int p(x \mid z)\, p(z)\, dz = p(x): \tag{4.8}$$
#
# such a model cannot be steered, however eagerly its encoder listens. So the decoder or the prior must be told. **Predict
# first.** If the decoder is told, what does it matter whether the encoder is told as well? Here is every combination,
# with concatenation in every block. A prior that is told has a mean and a variance of its own for each class.

# %%
told = {"nobody": "none"}
bands(told, {"-log p(x)": "nll"})
told = {"encoder": "encoder", "decoder": "decoder", "encoder, decoder": "concatenation"}
told |= {"encoder, prior": "encoder_prior", "decoder, prior": "decoder_prior"}
bands(told | {"all three": "both_prior"}, short | {"another y costs": "y_used"})

# %% [markdown]
# <details><summary>Answer</summary>
# To the likelihood it matters little, about a nat. To control it matters a great deal. An encoder that is told can leave the
# class out of z. One that is not told writes it into z, since it saw the image, and the decoder learns to read it there. When
# you then draw a z from the prior, z says one class and y another, and often z wins.
# </details>
#
# Three things to read in the table. The encoder alone gains nothing over telling nobody, as (4.8) says. Forgetting the
# *encoder* is a quiet bug: the likelihood is a nat or so worse, the control about half of what it was. And a prior that
# is told steers by itself: $y$ moves $z$, and $z$ moves the drawing, even where the decoder is deaf. (It obeys better than
# encoder and decoder here. But so did the loud start, without a prior.)
#
# One line should make you suspicious. By (4.8) a model whose encoder alone is told has $p(x \mid y) = p(x)$, so another
# image's $y$ should cost it *nothing*. The table says about 0.6 nats. Train it, briefly, and look at that cost while the number of
# samples $K$ grows:

# %%
models["encoder"] = build("concatenation", 192, condition_to="encoder")
fit(models["encoder"], train, **(training | {"epochs": 2}))
few = test.subset(slice(100))
for name, text in (("encoder", "encoder told"), ("concatenation", "encoder and decoder told")):
    for samples in (1, 10, 100, 1000):
        lost = evaluation.is_y_used(models[name], few, samples=samples).likelihood_lost
        print(f"{text}, K = {samples:>4}: another y costs {lost} nats")

# %% [markdown]
# The first cost melts as $K$ grows, and by (4.8) it must go on to 0; the second gives up a quarter, and is still fifteen nats.
# Told a wrong $y$, the encoder looks in slightly wrong places, and few samples do not make up for it: it is the *bound* that
# got worse, not the likelihood. **A cost that melts away as $K$ grows was never a use of $y$.**

# %% [markdown]
# ## Where the way does matter: when y is a list
#
# So far $y$ was one of ten. Now let it be a list whose *order* counts: two digits side by side, described by two words. Each
# digit loses its empty margin and is squeezed into half the picture.

# %%
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def two_digits(digits, seed):
    generator = torch.Generator().manual_seed(seed)
    order = torch.stack([torch.randperm(len(digits), generator=generator) for _ in range(2)])
    parts = (digits.pixels(rows)[..., 4:24] for rows in torch.arange(len(digits)).split(5000))
    narrow = [(255 * F.interpolate(x, size=(28, 14), mode="area")).round().byte() for x in parts]
    images = torch.cat([torch.cat(narrow)[side] for side in order], dim=3)  # (N, 1, 28, 28)
    a, b = digits.labels[order]  # (N,) each
    pairs = data.ImageSet(images, 10 * a + b, "pairs", classes=100)
    return pairs, torch.stack([a, b], dim=1) + 1  # words are numbered from 1


# %%
def pair_grid(images, alt, **labels):
    return figures.digit_grid(F.pad(images, (4, 4)), alt, **labels)  # room between the pairs


pairs, words = two_digits(train, seed=0)
test_pairs, test_words = two_digits(test, seed=1)
print([" ".join(WORDS[w - 1] for w in row) for row in test_words[:5].tolist()])
pair_grid(
    test_pairs.pixels(torch.arange(10)),
    "Ten images, each of two narrow digits side by side.",
    column_labels=[f"{a} {b}" for a, b in (test_words[:10] - 1).tolist()],
)

# %% [markdown]
# *Figure 4.4. Ten test images of the new kind.*
#
# $y$ is a list of two words, each a learned vector for the word plus one for its place, $c_l = E_{w_l} + P_l$. Attention
# reads such a list as it is. The other ways need one vector, and the usual one is the mean of the list:
#
# $$\tfrac12 \big(E_{w_1} + P_1 + E_{w_2} + P_2\big) = \tfrac12\big(E_{w_2} + P_1 + E_{w_1} + P_2\big). \tag{4.9}$$
#
# "three seven" and "seven three" have the same mean, whatever is learned. (Attention would be as blind without the $P_l$.) But there is a plain alternative to attention: lay
# the words side by side in one vector, a one-hot row for each place, and concatenate that. A condition of your own takes four
# lines.


# %%
class SideBySide(Condition):
    dim = 20

    def forward(self, y):  # (B, 2), words numbered from 1
        return F.one_hot(y - 1, 10).flatten(1).float()  # (B, 20)


captions = {"condition": "caption", "words": WORDS, "caption_length": 2}
target = build("concatenation", 192, **captions).num_parameters()
readers = {
    "mean": build("concatenation", 192, **captions),
    "attention": build("attention", matched("attention", target, **captions), **captions),
    "side by side": build("concatenation", 198, SideBySide()),
}
for name, model in readers.items():
    print(f"{name}: {model.num_parameters():,} parameters")
    fit(model, pairs, y=words, **training)

# %% [markdown]
# **Predict first.** Each model is asked ten times for each of the hundred pairs; a drawing counts if the judge reads both
# halves as asked. At most how often can a model that reads the mean be right?
#
# <details><summary>Answer</summary>
# Ten of the hundred pairs are doubles, like "three three", and have only one order. For the other ninety the model knows
# which two digits, and must guess which comes first: right half of the time. 0.1 + 0.9 / 2 = 0.55, if its drawing is perfect.
# </details>


# %%
def read_pairs(images):  # (N, 1, 28, 28)
    halves = torch.cat(images.chunk(2, dim=3))  # (2N, 1, 28, 14)
    wide = F.pad(F.interpolate(halves, size=(28, 20), mode="bilinear"), (4, 4))
    return torch.stack(judge.read(wide).chunk(2), dim=1)  # (N, 2)


asked = torch.cartesian_prod(torch.arange(10), torch.arange(10)).repeat(10, 1)  # (1000, 2)
right = (read_pairs(test_pairs.pixels()[:1000]) == test_words[:1000] - 1).all(1).float().mean()
print(f"real pairs: {right:.3f} are read as written")
for name, model in readers.items():
    read = read_pairs(model.draw(asked + 1, generator=torch.Generator().manual_seed(0)))
    exact, swapped = (read == asked).all(1), (read.flip(1) == asked).all(1)
    either = (exact | swapped).float().mean()
    print(f"{name:<13} as asked {exact.float().mean():.3f}, in either order {either:.3f}")

# %%
orders = torch.tensor([[3, 7], [7, 3], [1, 8], [8, 1], [2, 2]]).repeat(2, 1)  # (10, 2)
pair_grid(
    torch.cat([drawn(model, orders + 1) for model in readers.values()]),
    "Drawings of five pairs, twice. Where the mean is read, the two digits are often swapped or blended; attention and "
    "side by side mostly put the right digit in the right place, if blurred.",
    row_labels=readers,
    column_labels=[f"{a} {b}" for a, b in orders.tolist()],
)

# %% [markdown]
# *Figure 4.5. Asked for "three seven" and "seven three", "one eight" and "eight one", "two two", with two draws of $z$ each.*
#
# Did the likelihood notice? Ignoring the order can cost an otherwise perfect model no more than the order holds:
#
# $$I(x; \text{order} \mid \{a, b\}) \le H(\text{order} \mid \{a, b\}) = \tfrac{9}{10} \ln 2 = 0.624 \text{ nats}. \tag{4.10}$$
#
# Measure it inside one model that does read the order: its likelihood under the right order, against the mean of both.

# %%
some_pairs, some_words = test_pairs.subset(slice(1000)), test_words[:1000]
model = readers["side by side"]
own, other = (
    evaluation.log_likelihood(model, some_pairs, samples=50, y=y).per_example  # (1000,)
    for y in (some_words, some_words.flip(1))
)
unsure = torch.logaddexp(own, other) - math.log(2)  # the order not told
print(f"the order is worth {evaluation.mean_and_error(own - unsure)} of {-own.mean():.0f} nats")
print("\nThree seeds:")
told = {"mean": "pair_concatenation", "mean, FiLM": "pair_film", "attention": "pair_attention"}
measures = {"-log p(x|y)": "nll", "as asked": "exact", "in either order": "either_order"}
bands(told | {"side by side": "pair_side_by_side"}, measures)

# %% [markdown]
# In every run attention and side by side obey about four times in ten, the mean about once. It is not only the guess that
# costs: even in either order, the mean falls far short. Told "a three and a seven, somewhere", its decoder would have to
# learn from $z$ who stands where, and after four epochs it mostly draws blends. (Nobody is near the real pairs. The budget
# is small.)
#
# The likelihood hardly noticed. The order is worth nearly all of the 0.624 nats it can be worth, and that is a third of a
# percent of what one image takes. The models differ by more than that for other reasons: the mean is two nats behind side by
# side, but a nat ahead of attention. By likelihood alone you would not have found out which of them cannot be told an order.
#
# Here, then, is the condition. **The way matters when it cannot pass on what $y$ says.** The mean loses the order, and no
# training brings it back. Keep all of $y$ in the vector, or attend. With two words, side by side obeys as well as
# attention, and has the better likelihood. But it needs a column of weights for every word at every place. Attention reads
# a longer list with the same matrices (a new place costs it one vector $P_l$), and that is what it is for.

# %% [markdown]
# ## Bugs one and two: FiLM that does not start at the identity
#
# Leave out the "1 +" in (4.3). At the start $\gamma$ is small, so every slot multiplies the features by something small. Or
# be careful twice: start with zeros, and put *two* zero matrices in a row. Here is FiLM with $\gamma$ and $\beta$ computed
# by two linear layers, with both choices open. First send a hundred random feature vectors, all told "seven", through eight
# such slots. How far apart are they still?


# %%
class Film(nn.Module):
    def __init__(self, features, numbers, one=1, zeros=1):
        super().__init__()
        self.one = one
        self.inner = nn.Linear(numbers, 16, bias=False)
        self.outer = nn.Linear(16, 2 * features, bias=False)
        for layer in (self.outer, self.inner)[:zeros]:
            nn.init.zeros_(layer.weight)

    def forward(self, h, c):
        gamma, beta = self.outer(self.inner(c)).chunk(2, dim=1)  # (B, F) each
        return (self.one + gamma) * h + beta


# %%
variants = {
    "one zero layer": {"one": 1, "zeros": 1},
    "no zero layer": {"one": 1, "zeros": 0},
    "without 1 +": {"one": 0, "zeros": 0},
    "two zero layers": {"one": 1, "zeros": 2},
}
c = F.one_hot(torch.full((100,), 7), 10).float()  # (100, 10)
for name, choice in variants.items():
    torch.manual_seed(0)
    h, spread = torch.randn(100, 64), []
    for _ in range(8):
        h = Film(64, 10, **choice)(h, c).detach()
        spread.append((h - h.mean(0)).std())
    print(f"{name:<16} spread after 1, 4, 8 slots:", *(f"{spread[i]:.0e}" for i in (0, 3, 7)))

# %% [markdown]
# Without the 1, each slot takes away nine tenths of what $z$ or $x$ had to say, and leaves $\beta$, which is the same for
# every seven. Does training repair it? The library's slots are ordinary modules with your signature, so put yours in their
# place: 5,000 images, 12 short epochs. **Predict first.** Which of the four will you find by looking at the loss?

# %%
short_set, losses, bugs = train.subset(slice(5000)), {}, {}
x, y = short_set.pixels(torch.arange(256), "threshold"), short_set.labels[:256]
for name, choice in variants.items():
    bugs[name] = model = build("film", 186)
    for net in (model.encoder.net, model.decoder.net):
        for block, slot in net.slots.items():
            net.slots[block] = Film(slot.features, 10, **choice)
    elbo_terms(model, x, y).loss().backward()  # the first gradient, before any step
    slots = [slot for net in (model.encoder.net, model.decoder.net) for slot in net.slots.values()]
    inner, outer = (
        sum(getattr(s, part).weight.grad.norm() for s in slots) for part in ("inner", "outer")
    )
    print(f"{name:<16} first gradient: inner {inner:.2f}, outer {outer:.2f}")
    losses[name] = fit(model, short_set, epochs=12, learning_rate=4e-3, log_every=12).loss

# %%
for name, model in bugs.items():
    weights = torch.cat([w.flatten() for n, w in model.named_parameters() if "slots" in n])
    control = evaluation.control_accuracy(model, judge, count=1000).accuracy
    print(f"{name:<16} size of FiLM's weights {weights.norm():6.2f}, control {control:.2f}")
figures.curves(
    {name: values[2:] for name, values in losses.items()},
    "Loss against the epoch, from the third on. Without 1 + it hardly falls and ends above 170 nats. The other three "
    "fall smoothly to between 127 and 143 nats; two zero layers end highest of them.",
    x=range(3, 3 + len(losses["without 1 +"][2:])),
    x_label="epoch of 5,000 images",
    y_label="-ELBO, nats per image",
)

# %% [markdown]
# *Figure 4.6. One of these curves looks broken. Two of the models are.*
#
# **Without the 1**, the loss stalls, and the rate stays near zero: $z$ has fallen silent, because what it says shrinks at
# every slot. The decoder is left with little but $y$. $\gamma$ could learn to be 1; in this time it does not learn enough of it.
#
# **Two zero layers** you would not find by the loss alone: it falls as smoothly as the others, and only beside a healthy run do
# you see that it ends a dozen nats higher. Each matrix's gradient is multiplied by the other matrix, and both are zero:
# nothing moves, ever. FiLM's weights still have size 0.00 and control is at chance. The model is a plain VAE. What finds it:
# the first gradient (one zero is healthy, since inner moves once outer has moved), the size of the weights, control.
#
# And starting with *no* zero layer did no harm here. What saves you is the 1; one zero layer is a way to be careful, two
# are a way to be deaf.

# %% [markdown]
# ## Bug three: whose statistics?
#
# Batch norm measures its $\mu$ and $\sigma$ over the batch while training, and uses running averages of them once you call
# `model.eval()`. Forget that call, and a drawing depends on what else is drawn with it. **Predict first.** You ask a model
# in training mode for digits, a hundred at a time. When does it obey better: if all ten digits are mixed in every hundred,
# or if each hundred is one digit?
#
# <details><summary>Answer</summary>
# If they are mixed: a mixed hundred has about the statistics of a training batch. In a hundred sevens, whatever y adds is the
# same in every row, so it is part of the batch's mean, and the next normalisation subtracts it. The model takes your order
# away from itself.
# </details>

# %%
good, careless = models["batchnorm"], copy.deepcopy(models["batchnorm"]).train()
mixed = labels.repeat(200)  # 0, 1, ..., 9, 0, 1, ...: (2000,)
for text, model, asked, size in (
    ("eval(), one digit at a time", good, mixed.sort().values, 100),
    ("train(), hundreds of all digits", careless, mixed, 100),
    ("train(), hundreds of one digit", careless, mixed.sort().values, 100),
    ("train(), mixed, four at a time", careless, mixed, 4),
):
    generator = torch.Generator().manual_seed(0)
    images = torch.cat([model.draw(part, generator=generator) for part in asked.split(size)])
    print(f"{text:<32} control {(judge.read(images) == asked).float().mean():.3f}")

# %%
sevens, careless = torch.full((10,), 7), copy.deepcopy(good).train()
with torch.no_grad():
    others, company = torch.randn(90, 20), labels.repeat(9)  # nine of each digit
    crowd = careless.likelihood(torch.cat([z, others]), torch.cat([sevens, company])).mean[:10]
    alone = careless.likelihood(z, sevens).mean
figures.digit_grid(
    torch.cat([drawn(good, sevens), crowd, alone]),
    "Sevens from the same ten latents, three times. With eval() and among ninety other digits in training mode they "
    "look alike. Ten sevens by themselves in training mode lose strokes or turn into other shapes.",
    row_labels=["eval()", "in a crowd", "only sevens"],
)

# %% [markdown]
# *Figure 4.7. The same model, the same ten latents, the same label. In the last two rows `eval()` was forgotten: among a
# hundred digits of all kinds it hardly shows, among sevens it does.*
#
# Small batches hurt too, even mixed ones: their statistics are noisy. And drawing in training mode has overwritten the running
# averages, so a late `eval()` no longer brings back what was there. No error, no warning, and the loss was never involved: the bug is in the drawing. Watch for it where batches are of one
# kind, and that is the rule when you *use* a conditional model: "a hundred sevens, please".

# %% [markdown]
# ## Pitfalls
#
# - **Ranking by likelihood alone.** By likelihood attention came last, by control among the first. Report both, and what another
#   $y$ costs, with a $K$ large enough.
# - **"The same number of parameters"** when some of them cannot do anything: questions and keys, with one token to look at.
# - **A whispered label.** Ten columns among hundreds start small. Before you blame the way, make it start louder.
# - **A label told only last, or only to the encoder**, steers next to nothing; told only to the decoder, it must shout against
#   what $z$ says.
# - **The mean of a list** whose order matters.
# - **FiLM without "1 +"**, or behind two zero layers. Look at the gradient and the size of the slots' weights.
# - **`eval()` forgotten** in front of batch norm.
# - **One seed.** Three runs of batch norm spread over almost 2 nats here, more than lies between addition and concatenation.

# %% [markdown]
# ## Summary
#
# $$W\,[h, c] + b = W_h\,h + b + W_c\,c, \qquad h' = \big(1 + \gamma(c)\big) \odot h + \beta(c), \qquad
# h' = h + W_o \sum_l a_l\, W_v c_l.$$
#
# Gluing, adding, and attending to a single token give each class a bias vector of its own; modulation gives it a matrix.
# For ten classes told in every block it matters little to the likelihood. To control it does at first, how loud the label
# starts more than the way, and longer training levels most of that. It does matter when $y$ comes late, since a shift in the last block is only a
# stencil, and when $y$ is a list, since a mean forgets the order. To be steered, the decoder or the prior must be told; the
# encoder, so that the class stays out of $z$. And the likelihood notices little of all this. Ask the model for things, and
# look.
#
# ## References
#
# - Mirza and Osindero 2014, *Conditional Generative Adversarial Nets*, arXiv:1411.1784 (concatenation)
# - Perez et al. 2018, *FiLM: Visual Reasoning with a General Conditioning Layer*, arXiv:1709.07871
# - Dumoulin et al. 2018, *Feature-wise transformations*, Distill, doi:10.23915/distill.00011 (concatenation as a bias, scaling,
#   and where each was used)
# - de Vries et al. 2017, *Modulating early visual processing by language*, arXiv:1707.00683 (conditional batch norm)
# - Ioffe and Szegedy 2015, *Batch Normalization*, arXiv:1502.03167
# - Vaswani et al. 2017, *Attention Is All You Need*, arXiv:1706.03762
# - Rombach et al. 2022, *High-Resolution Image Synthesis with Latent Diffusion Models*, arXiv:2112.10752 (cross-attention
#   to a caption)
# - Peebles and Xie 2023, *Scalable Diffusion Models with Transformers*, arXiv:2212.09748 (a contest of such ways in diffusion;
#   modulation that starts at the identity wins)
#
# **Exercises:** [build the layers that listen, and a test that tells which can steer](../exercises/04_where_does_y_go.ipynb).
#
# **Next:** [05 · What can y be?](05_what_can_y_be.ipynb)
