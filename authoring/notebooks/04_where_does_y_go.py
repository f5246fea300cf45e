# %% [markdown]
# # 04 · Where does y go?
#
# *Concatenate, add, modulate or attend: does it matter?*
#
# {{ badges }}
#
# **Time:** {{ minutes }} on two CPU cores, most of it fourteen short trainings. **You need:** chapter 03; matrix
# products. Attention is explained where it comes up.
#
# By the end you can
#
# - build the usual layers that tell a network its condition, and say which of them are one function in two disguises;
# - compare them fairly: same number of parameters, same budget, several seeds, paired likelihoods;
# - predict what a model cannot draw from *where* it is told;
# - find three bugs that neither crash nor show in the loss.

# %% tags=["install"]
# {{ install }}

# %%
import copy
import math

import torch
import torch.nn.functional as F
from torch import nn

from cvae_lib import data, evaluation, plots, pretrained, records
from cvae_lib.conditioning import conditioning
from cvae_lib.conditions import Condition
from cvae_lib.model import CVAE, CVAEConfig
from cvae_lib.objective import elbo_terms
from cvae_lib.training import fit

torch.manual_seed(0)
train, test = data.digits("train"), data.digits("test")
judge = pretrained.load_judge(f"{train.name.lower()}-judge")
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
                self.mean.lerp_(mean, 0.1)
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
# It is done in several *heads* side by side, each with questions, keys and values of width $d$.


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
    theirs = conditioning(how, 24, 10)
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
# Five models, alike in everything but the plug, with every slot filled. To be fair they get the **same number of
# parameters**: attention and FiLM bring more weights of their own, so their hidden layers must be narrower.


# %%
def build(how, width, own=None, **settings):
    torch.manual_seed(0)
    plug = {"how": how, "where": "every", "latent_dim": 20, "hidden": (width, width)}
    return CVAE(CVAEConfig(**(plug | settings)), own)


def matched(how, target, **settings):
    widths = range(96, 200, 2)
    return min(widths, key=lambda w: abs(build(how, w, **settings).num_parameters() / target - 1))


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
# concatenation's image by image. **Control accuracy**, as in chapter 03. And **what a stranger's label costs**: give every
# image the $y$ of another and see how far its likelihood falls.

# %%
some = test.subset(slice(3000))


def measure(model, base=None):
    ll = evaluation.log_likelihood(model, some, samples=50)
    gap = evaluation.mean_and_error(ll.per_example - (base or ll).per_example)
    control = evaluation.control_accuracy(model, judge, count=2000).accuracy
    lost = evaluation.is_y_used(model, some, samples=20).likelihood_lost
    return {"ll": ll, "gap": gap, "control": control, "lost": lost}


found = {}
for how in ways:
    found[how] = measure(models[how], found.get("concatenation", {}).get("ll"))
    f = found[how]
    print(
        f"{how:<14} -log p(x|y) {-f['ll'].mean:6.2f}, gap {f['gap']}, "
        f"control {f['control']:.3f}, another y costs {f['lost']}"
    )

# %% [markdown]
# One seed is one seed. Here is this run among three recorded ones, with the time of a training step, measured in turns on
# one machine (`benchmarks/studies/where_y_goes.py`).

# %%
record = records.load("where_y_goes")
print(record["protocol"])


def over_seeds(names, figure):
    return {name: [run[f"{name}_{figure}"] for run in record["runs"]] for name in names}


plots.seed_dots(
    {
        "-log p(x|y), nats": over_seeds(ways, "nll"),
        "control accuracy": over_seeds(ways, "control"),
        "time of a step": over_seeds(ways, "time"),
    },
    "TODO",
    live={
        "-log p(x|y), nats": {how: -found[how]["ll"].mean for how in ways},
        "control accuracy": {how: found[how]["control"] for how in ways},
    },
)

# %% [markdown]
# *Figure 4.1. Four epochs, parameters within 5%. Blue: three recorded seeds; orange: the run above. Time is relative to
# concatenation.*
#
# TODO
#
# ### Does it last?
#
# The same contest with three times the budget, from the record:


# %%
def bands(names, *figures, width=16):
    for name in names:
        cells = (f"{str(records.band(record, f'{name}_{figure}')):<18}" for figure in figures)
        print(f"{name:<{width}}", *cells)


print(f"{'':<16} {'-log p, short':<18} {'-log p, long':<18} {'control, short':<18} control, long")
bands(ways, "nll", "long_nll", "control", "long_control")

# %% [markdown]
# TODO

# %%
labels = torch.arange(10)
z = torch.randn(10, 20, generator=torch.Generator().manual_seed(3))


def drawn(model, y=labels):
    with torch.no_grad():
        return model.likelihood(z, y).mean  # (10, 1, 28, 28)


plots.digit_grid(
    torch.cat([drawn(models[how]) for how in ways]),
    "TODO",
    row_labels=ways,
    column_labels=range(10),
)

# %% [markdown]
# *Figure 4.2. TODO*

# %% [markdown]
# ## Which block?
#
# Now keep one way, concatenation, and change where it is plugged in. These networks have three blocks: one reads the input,
# one is hidden, one gives the output. **Predict first.** `every` block was told in the contest. What happens to control if
# only the *first* block is told, in encoder and decoder? If only the *last* is?

# %%
found["every"], models["every"] = found["concatenation"], models["concatenation"]
for name, where in (("first", "first"), ("last", (2,))):
    models[name] = build("concatenation", 192, where=where)
    print(name)
    fit(models[name], train, **training)
    found[name] = measure(models[name], found["every"]["ll"])
for name in ("every", "first", "last"):
    f = found[name]
    print(f"{name:<6} gap {f['gap']}, control {f['control']:.3f}, another y costs {f['lost']}")

# %% [markdown]
# <details><summary>Answer</summary>
# TODO
# </details>
#
# Look at the decoder's last block: a linear layer, and after it only the sigmoid. By (4.1) its logits are
#
# $$\ell(z, y) = W_h\, h(z) + b + W_c\, c(y), \qquad\text{so}\qquad
# \ell(z, y) - \ell(z, y') = W_c\,\big(c(y) - c(y')\big), \tag{4.7}$$
#
# whatever $z$ is. All that $y$ can do is lay **one fixed stencil per class** over whatever $z$ draws. Here are the ten
# stencils, and what they make of ten latents:

# %%
stencils = models["last"].decoder.net.layers[2].weight[:, -10:].T  # (10, 784)
stencils = (stencils - stencils.mean(0)).view(10, 1, 28, 28)  # what all share says nothing of y
shown = [0.5 + 0.5 * stencils / stencils.abs().max()]
shown += [drawn(models[name]) for name in ("last", "first", "every")]
plots.digit_grid(
    torch.cat(shown),
    "TODO",
    row_labels=["stencil", "last", "first", "every"],
    column_labels=range(10),
)

# %% [markdown]
# *Figure 4.3. TODO*

# %% [markdown]
# ## Which network?
#
# Encoder, decoder, prior: who needs to know? Before measuring, look at what a drawing is made of: $z \sim p(z \mid y)$, then
# $x \sim p(x \mid z, y)$. The encoder takes no part. If decoder and prior are both deaf to $y$, then
#
# $$p(x \mid y) = \int p(x \mid z)\, p(z)\, dz = p(x): \tag{4.8}$$
#
# such a model cannot be steered, however eagerly its encoder listens.

# %%
networks = {
    "encoder": {"condition_in": "encoder"},
    "decoder": {"condition_in": "decoder"},
    "encoder, prior": {"condition_in": "encoder", "prior": "gaussian"},
}
for name, settings in networks.items():
    models[name] = build("concatenation", 192, **settings)
    print(name)
    fit(models[name], train, **training)
    found[name] = measure(models[name], found["every"]["ll"])
for name in ("every", *networks):
    f = found[name]
    print(f"{name:<16} gap {f['gap']}, control {f['control']:.3f}, another y costs {f['lost']}")

# %% [markdown]
# All seven combinations from the record (`both` is encoder and decoder; `concatenation` is `both` without the prior):

# %%
names = ["none", "encoder", "decoder", "concatenation"]
told = ["encoder_prior", "decoder_prior", "both_prior"]
print(f"{'':<16} {'-log p(x|y)':<18} {'control':<18} another y costs")
bands(names[:1], "nll")
bands(names[1:] + told, "nll", "control", "y_used")

# %% [markdown]
# TODO
#
# One line should make you suspicious. By (4.8) a model whose encoder alone is told has $p(x \mid y) = p(x)$, so another image's
# $y$ should cost it *nothing*. The table says otherwise. Increase the number of samples $K$:

# %%
few = test.subset(slice(500))
for samples in (1, 10, 100, 1000):
    lost = evaluation.is_y_used(models["encoder"], few, samples=samples).likelihood_lost
    print(f"K = {samples:>4}: another y costs {lost} nats")

# %% [markdown]
# The likelihood does not change; the *bound* does. Told a wrong $y$, the encoder looks in slightly wrong places, and few
# samples do not make up for it. A cost that melts away as $K$ grows was never a use of $y$.

# %% [markdown]
# ## Where the way does matter: when y is a list
#
# TODO

# %%
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def two_digits(digits, seed):
    generator = torch.Generator().manual_seed(seed)
    order = torch.stack([torch.randperm(len(digits), generator=generator) for _ in range(2)])
    narrow = F.interpolate(digits.pixels()[..., 4:24], size=(28, 14), mode="area")
    images = torch.cat([narrow[order[0]], narrow[order[1]]], dim=3)  # (N, 1, 28, 28)
    a, b = digits.labels[order]  # (N,) each
    pairs = data.ImageSet((255 * images).round().byte(), 10 * a + b, "pairs", classes=100)
    return pairs, torch.stack([a, b], dim=1) + 1  # words are numbered from 1


pairs, words = two_digits(train, seed=0)
test_pairs, test_words = two_digits(test, seed=1)
print([" ".join(WORDS[w - 1] for w in row) for row in test_words[:5].tolist()])
plots.digit_grid(
    test_pairs.pixels(torch.arange(10)),
    "TODO",
    column_labels=[f"{a} {b}" for a, b in (test_words[:10] - 1).tolist()],
)

# %% [markdown]
# *Figure 4.4. TODO*
#
# $y$ is now a list of two words, each a learned vector for the word plus one for its place, $c_l = E_{w_l} + P_l$. Attention
# reads such a list as it is. The other ways need one vector, so they read the mean of the list:
#
# $$\tfrac12 \big(E_{w_1} + P_1 + E_{w_2} + P_2\big) = \tfrac12\big(E_{w_2} + P_1 + E_{w_1} + P_2\big). \tag{4.9}$$
#
# "three seven" and "seven three" have the same mean. But there is a plain alternative to attention: lay the words side by
# side, a one-hot row for each place. A condition of your own takes five lines.


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
@torch.no_grad()
def pair_control(model):
    asked = torch.cartesian_prod(torch.arange(10), torch.arange(10)).repeat(10, 1)  # (1000, 2)
    images = model.draw(asked + 1, generator=torch.Generator().manual_seed(0))
    halves = torch.cat(images.chunk(2, dim=3))  # (2000, 1, 28, 14)
    wide = F.pad(F.interpolate(halves, size=(28, 20), mode="bilinear"), (4, 4))
    read = torch.stack(judge.read(wide).chunk(2), dim=1)  # (1000, 2)
    exact, swapped = (read == asked).all(1), (read.flip(1) == asked).all(1)
    return exact.float().mean(), (exact | swapped).float().mean()


some_pairs, some_words = test_pairs.subset(slice(3000)), test_words[:3000]
lls = {}
for name, model in readers.items():
    lls[name] = evaluation.log_likelihood(model, some_pairs, samples=50, y=some_words)
    gap = evaluation.mean_and_error(lls[name].per_example - lls["mean"].per_example)
    exact, either = pair_control(model)
    print(
        f"{name:<13} -log p(x|y) {-lls[name].mean:.2f}, gap {gap}, as asked {exact:.3f}, in either order {either:.3f}"
    )

# %%
orders = torch.tensor([[3, 7], [7, 3], [1, 8], [8, 1], [2, 2]]).repeat(2, 1)  # (10, 2)
plots.digit_grid(
    torch.cat([drawn(model, orders + 1) for model in readers.values()]),
    "TODO",
    row_labels=readers,
    column_labels=[f"{a} {b}" for a, b in orders.tolist()],
)

# %% [markdown]
# *Figure 4.5. TODO*
#
# Did the likelihood notice? Ignoring the order can cost an otherwise perfect model no more than the order holds:
#
# $$I(x; \text{order} \mid \{a, b\}) \le H(\text{order} \mid \{a, b\}) = \tfrac{9}{10} \ln 2 = 0.624 \text{ nats}. \tag{4.10}$$
#
# Inside one model that reads the order, measure it: its likelihood under the right order against the mean of both.

# %%
model = readers["side by side"]
own = evaluation.log_likelihood(model, some_pairs, samples=50, y=some_words).per_example
other = evaluation.log_likelihood(model, some_pairs, samples=50, y=some_words.flip(1)).per_example
unsure = torch.logaddexp(own, other) - math.log(2)  # order not told
print(f"the order is worth {evaluation.mean_and_error(own - unsure)} of {-own.mean():.0f} nats")
for name in ("concatenation", "film", "attention", "side_by_side"):
    print(
        f"{name:<14}",
        *(
            f"{figure}: {records.band(record, f'pair_{name}_{figure}')}  "
            for figure in ("nll", "exact", "either_order")
        ),
    )

# %% [markdown]
# TODO

# %% [markdown]
# ## Bug one: FiLM that does not start at the identity
#
# Leave out the "1 +" in (4.3), and at the start $\gamma$ is small, so every slot shrinks the features. Or be careful twice:
# start with zeros, and put *two* zero matrices in a row. Here is FiLM with $\gamma$ and $\beta$ computed by two linear layers,
# with both choices open.


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


variants = {
    "one zero layer": {"one": 1, "zeros": 1},
    "no zero layer": {"one": 1, "zeros": 0},
    "without 1 +": {"one": 0, "zeros": 0},
    "two zero layers": {"one": 1, "zeros": 2},
}

# %% [markdown]
# First without training: send a hundred sevens, as random features, through eight such slots in a row. How far apart are
# they still?

# %%
c = F.one_hot(torch.full((100,), 7), 10).float()  # (100, 10)
spreads = {}
for name, choice in variants.items():
    torch.manual_seed(0)
    h, spreads[name] = torch.randn(100, 64), []
    for _ in range(9):
        spreads[name].append((h - h.mean(0)).std().item())
        h = Film(64, 10, **choice)(h, c).detach()
plots.curves(
    spreads,
    "TODO",
    x=range(9),
    x_label="slots passed",
    y_label="spread of the features",
    log_y=True,
)

# %% [markdown]
# *Figure 4.6. TODO*
#
# Now put them into the library's network: the slots are ordinary modules, and yours have the same signature. 5,000 images,
# 15 short epochs. How large are the gradients before the first step, and where does the loss go?

# %%
short = train.subset(slice(5000))
x, y = short.pixels(torch.arange(256), "threshold"), short.labels[:256]
losses, bugs = {}, {}
for name, choice in variants.items():
    bugs[name] = model = build("film", 186)
    for net in (model.encoder.net, model.decoder.net):
        for block, slot in net.slots.items():
            net.slots[block] = Film(slot.features, 10, **choice)
    elbo_terms(model, x, y).loss().backward()
    slots = [slot for net in (model.encoder.net, model.decoder.net) for slot in net.slots.values()]
    inner, outer = (
        sum(getattr(s, part).weight.grad.norm() for s in slots) for part in ("inner", "outer")
    )
    print(f"{name:<16} first gradient: inner {inner:8.2f}, outer {outer:8.2f}")
    losses[name] = fit(model, short, epochs=15, learning_rate=4e-3, log_every=100).loss

# %%
for name, model in bugs.items():
    weights = torch.cat([w.flatten() for n, w in model.named_parameters() if "slots" in n])
    control = evaluation.control_accuracy(model, judge, count=1000).accuracy
    print(f"{name:<16} size of FiLM's weights {weights.norm():6.2f}, control {control:.2f}")
plots.curves(
    {name: values[2:] for name, values in losses.items()},
    "TODO",
    x=range(3, 3 + len(losses["without 1 +"][2:])),
    x_label="epoch of 5,000 images",
    y_label="-ELBO, nats per image",
)

# %% [markdown]
# *Figure 4.7. TODO*

# %% [markdown]
# ## Bug two: whose statistics?
#
# Batch norm measures its $\mu$ and $\sigma$ over the batch while training, and uses running averages of them once you call
# `model.eval()`. Forget that call, and a drawing depends on what else is drawn with it. **Predict first.** You ask a model
# in training mode for digits, a hundred at a time. When does it obey better: if all ten digits are mixed in every hundred,
# or if each hundred is one digit?
#
# <details><summary>Answer</summary>
# TODO
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
rows, careless = [drawn(good, torch.full((10,), 7))], copy.deepcopy(good).train()
with torch.no_grad():
    others, company = torch.randn(90, 20), labels.repeat(9)  # nine of each digit
    crowd = careless.likelihood(torch.cat([z, others]), torch.cat([torch.full((10,), 7), company]))
    rows += [crowd.mean[:10], careless.likelihood(z, torch.full((10,), 7)).mean]
plots.digit_grid(torch.cat(rows), "TODO", row_labels=["eval()", "in a crowd", "among sevens"])

# %% [markdown]
# *Figure 4.8. TODO*

# %% [markdown]
# ## Pitfalls
#
# TODO

# %% [markdown]
# ## Summary
#
# TODO
#
# ## References
#
# - Mirza and Osindero 2014, *Conditional Generative Adversarial Nets*, arXiv:1411.1784 (concatenation)
# - Perez et al. 2018, *FiLM: Visual Reasoning with a General Conditioning Layer*, arXiv:1709.07871
# - de Vries et al. 2017, *Modulating early visual processing by language*, arXiv:1707.00683 (conditional batch norm)
# - Ioffe and Szegedy 2015, *Batch Normalization*, arXiv:1502.03167
# - Vaswani et al. 2017, *Attention Is All You Need*, arXiv:1706.03762
# - Rombach et al. 2022, *High-Resolution Image Synthesis with Latent Diffusion Models*, arXiv:2112.10752 (cross-attention
#   to a caption)
# - Peebles and Xie 2023, *Scalable Diffusion Models with Transformers*, arXiv:2212.09748 (a contest of the same four ways,
#   in diffusion; modulation that starts at the identity wins)
# - Dumoulin et al. 2018, *Feature-wise transformations*, Distill, doi:10.23915/distill.00011
