# %% [markdown]
# # 07 · Posterior collapse
#
# *Why does z fall silent, how do I notice, what helps?*
#
# {{ badges }}
#
# **Time:** {{ minutes }} on two CPU cores, most of it fifteen short trainings. **You need:** chapters 03 and 05; a little linear
# algebra for one section.
#
# By the end you can
#
# - keep a latent from ever speaking, in two ways, and watch the symptoms;
# - diagnose it with three symptoms and one report, and say which number has a ceiling;
# - tell when a silent z is right, from what $y$ leaves open;
# - choose among eleven cures by what they bring back and what they cost.

# %% tags=["install"]
# {{ install }}

# %%
import contextlib
import io
import itertools
import math

import torch
import torch.nn.functional as F
from torch import nn

from cvae_lib import data, evaluation
from cvae_lib.conditions import Condition
from cvae_lib.course import figures, panels, records
from cvae_lib.datasets import strokes
from cvae_lib.likelihoods import BernoulliPixels
from cvae_lib.model import CVAE, CVAEConfig
from cvae_lib.objective import Linear, elbo_terms
from cvae_lib.training import fit

torch.manual_seed(0)
train, test = data.digits("train"), data.digits("test")
print(f"{train.name}: {len(train)} training and {len(test)} test images")

# %% [markdown]
# ## Two that stop talking
#
# A CVAE has two voices that say what $x$ is: $y$, which is given, and $z$, which the encoder sends and which costs its
# rate. Suppose the decoder stops listening to $z$. Then $p(x \mid z, y) = p(x \mid y)$, and the bound of chapter 02 becomes
#
# $$\text{ELBO} = \log p(x \mid y) - \mathrm{KL}\big(q(z \mid x, y)\,\|\,p(z \mid y)\big). \tag{7.1}$$
#
# All the encoder can do now is save the rate: its best $q$ is the prior, the same for every $x$. And if $q$ is the same for
# every $x$, then $z$ is noise, and the best the decoder can do is not to listen. **Each one's silence is the best answer to the
# other's.** A model that gets there stays there, or leaves slowly. It is called *posterior collapse*: the posterior has
# collapsed onto the prior.
#
# It shows in three symptoms. You can measure each in a line or two.

# %%


@torch.no_grad()
def symptoms(model, images, y, partner):
    noise = torch.Generator().manual_seed(0)
    x = images.pixels(mode="stochastic", generator=noise)
    q = model.posterior(x, y)
    mean, std = q.mean, q.stddev  # (N, D) each
    z = mean + std * torch.randn(mean.shape, generator=noise)
    own, other = (model.likelihood(some, y).log_prob(x).mean() for some in (z, z[partner]))
    return {
        "KL, nats": float((mean**2 + std**2 - 1 - 2 * std.log()).sum(1).mean() / 2),
        "active latents": float((mean.var(0) > 0.01).sum()),
        "lost with another z, nats": float(own - other),
    }


# %% [markdown]
# 1. **The rate goes to 0**: KL from $q$ to the standard normal, in closed form.
# 2. **The posterior is the prior for every input**: mean 0 and deviation 1, whatever $x$ is. Counted the other way round, a latent
#    is *active* if its mean moves with the data, as in (7.2).
# 3. **Another z, the same picture**: decode an image with the $z$ of a partner, and see what likelihood that costs.
#
# $$A_d = \operatorname{Var}_{x}\big(E_q[z_d \mid x, y]\big) > 0.01 \tag{7.2}$$
#
# In a CVAE the means may move with $y$ alone, so count it among images of one $y$ as well; the report below gives both. The 0.01 is Burda, Grosse and Salakhutdinov's. Keep it in mind as a low bar.
#
# ## First cause: y says it all
#
# Now a model to measure them on. We need a $y$ that nearly determines $x$, and a world in which we know it does. The library's pen
# draws a digit in a given width and slant; what else varies is the hand that holds it. A *hand* is a seed. So here is a
# catalogue: ten digits in three widths and three slants, ninety orders, each carried out by four hands. (At half size, to keep it
# quick.)


# %%
def halved(digits):
    small = F.avg_pool2d(digits.images.float(), 2).round().byte()  # (N, 1, 14, 14)
    return data.ImageSet(small, digits.labels, digits.name, classes=digits.classes)


def catalogue(hands):
    images, order, hand_of = [], [], []
    for width, slant, hand in itertools.product(range(3), range(3), range(hands)):
        looks = {"thickness": 1.8 + width, "slant": -0.4 + 0.5 * slant, "brightness": 1.0}
        images.append(strokes.draw(torch.arange(10), seed=hand, noise=0, **looks).images)
        order += [30 * width + 10 * slant + digit for digit in range(10)]
        hand_of += 10 * [hand]
    name = f"catalogue of {hands} hands"
    drawn = data.ImageSet(torch.cat(images), torch.tensor(order), name, classes=90)
    return halved(drawn), torch.tensor(hand_of)


# %%
images, hand = catalogue(4)
middle = images.labels // 10 == 4
figures.digit_grid(
    images.subset(middle).pixels(),
    "The digits 0 to 9 by four hands, one row for each, in the same width and slant. The hands differ in proportions and "
    "in the shapes of their strokes.",
    row_labels=["hand 0", "hand 1", "hand 2", "hand 3"],
)

# %% [markdown]
# *Figure 7.1. Forty of the 360 pictures: middle width, middle slant. Order and hand fix every grey level.*
#
# The pictures are grey levels, and training turns each into zeros and ones by tossing a coin for each pixel, anew in every
# step. If $y$ tells order and hand, it leaves nothing open but these coins.
#
# One more thing, for both causes. The decoder gets a *lead*: at first it learns from $y$ alone, with $z$ held at zero. Then the whole
# model is trained as ever. When $z$ comes on, the decoder already does what it can without it. Here that only treats both models alike;
# at the second cause it decides.


# %%
def without_z(model, x, y):
    return model.likelihood(torch.zeros(len(x), 8), y).log_prob(x)


def watched(images, y, partner, seen, every=25):
    step = itertools.count()

    def objective(model, x, told):
        if next(step) % every == 0:
            seen.append(symptoms(model, images, y, partner))
        return elbo_terms(model, x, told)

    return objective


# %% [markdown]
# Two models, alike but for one thing. One is told the hand, the other is not. Both are looked at every 25 steps while they train.
# **Predict first.** How many nats will each have to send through $z$?
#
# <details><summary>Answer</summary>
# Told the hand: none. The coins are tossed anew for every pixel of every image, and each pixel has its own, so no z could
# help to foresee them. Not told: about ln 4 = 1.39 nats, to say which of four. The rate comes out higher; see below.
# </details>


# %%
def learn(images, objective=None, pixels="stochastic"):
    torch.manual_seed(0)
    shape = {"latent_dim": 8, "hidden": (128,), "event_shape": (1, 14, 14)}
    config = CVAEConfig(images.num_classes, condition_at="every", pixels=pixels, **shape)
    model, settings = CVAE(config), {"learning_rate": 1e-2, "log_every": 10_000}
    with contextlib.redirect_stdout(io.StringIO()):  # many short trainings; their logs say little
        fit(model, images, steps=400, objective=without_z, seed=100, **settings)
        fit(model, images, steps=600, objective=objective, seed=0, **settings)
    return model


number = 4 * images.labels + hand
both = data.ImageSet(images.images, number, images.name, classes=360)
before = torch.arange(len(images)).roll(1)  # the partner: the picture before, whatever it shows
runs, readers = {"hand told": [], "hand not told": []}, {}
for name, pictures in (("hand told", both), ("hand not told", images)):
    looks = watched(pictures, pictures.labels, before, runs[name])
    readers[name] = learn(pictures, looks)

# %%
figures.training_sheets(
    {
        what: {name: [look[what] for look in seen] for name, seen in runs.items()}
        for what in runs["hand told"][0]
    },
    [25 * look for look in range(len(runs["hand told"]))],
    "Three charts over 600 steps. Told the hand, the KL, the count of active latents and the cost of another z are at or "
    "near zero throughout. Not told, KL rises to about four nats, all latents are active, and another z costs over twenty nats.",
)

# %% [markdown]
# *Figure 7.2. The three symptoms while they develop, from the first step with $z$ on. The model that is told the hand shows all three from
# the start, and never finds a voice. The partner is the picture before: mostly another digit by the same hand.*
#
# The encoder of the first model saw every picture. It had eight latents to say something with, and says nothing.
#
# ## Second cause: a decoder that can do without
#
# In chapters 01 to 06 every pixel was independent of the others *given* $z$, so whatever holds pixels together had to come from
# $z$ or $y$. A decoder need not be so. By the chain rule any distribution over an image is a product of one pixel after another,
#
# $$\log p(x \mid z, y) = \sum_{i} \log p(x_i \mid x_1, \dots, x_{i-1}, z, y), \tag{7.3}$$
#
# and the simplest network that computes all these factors in one pass is a **masked autoencoder** (MADE): an ordinary network
# from pixels to pixels, with the connections cut that would let a pixel see itself or what comes after it. Hidden unit $j$
# may read the first $m_j$ pixels, and help only with those that come later.


# %%
class Masked(nn.Module):
    def __init__(self, pixels, hidden, latents, numbers, voice=64):
        super().__init__()
        place, seen = torch.arange(pixels), torch.arange(hidden) * pixels // hidden
        self.register_buffer("ins", (place < seen[:, None]).float())  # (H, P) reads the first m_j
        self.register_buffer("outs", (seen <= place[:, None]).float())  # (P, H) helps with the rest
        layers = nn.Linear(latents, voice), nn.SiLU(), nn.Linear(voice, voice), nn.SiLU()
        self.voice = nn.Sequential(*layers)
        self.hear = nn.Linear(voice + numbers, hidden, bias=False)
        self.read, self.write = nn.Linear(pixels, hidden), nn.Linear(hidden, pixels)

    def told(self, z, c):  # what z and y say to the hidden units, (..., B, H)
        return self.hear(torch.cat([self.voice(z), c.expand(*z.shape[:-1], -1)], -1))

    def forward(self, x, z, c):  # (B, P), (..., B, D), (B, C)
        before = F.linear(x, self.read.weight * self.ins, self.read.bias)
        h = torch.relu(before + self.told(z, c))
        return F.linear(h, self.write.weight * self.outs, self.write.bias)  # logits (..., B, P)


# %% [markdown]
# $z$ and $y$ enter where the hidden units are, $z$ through two layers of its own, as in any decoder. To *draw*, there is no way
# around one pixel after another. Each pixel tosses a coin $u_i$ in $[0, 1)$ and is white if $u_i$ lies below its probability.


# %%
def paint(decoder, z, c, coins):  # coins (..., B, P)
    ins, outs = decoder.read.weight * decoder.ins, decoder.write.weight * decoder.outs
    before = decoder.told(z, c) + decoder.read.bias  # what the hidden units know so far
    x = torch.zeros(*z.shape[:-1], len(outs))
    for i in range(len(outs)):
        chance = torch.sigmoid(torch.relu(before) @ outs[i] + decoder.write.bias[i])
        x[..., i] = (coins[..., i] < chance).float()
        before = before + x[..., i, None] * ins[:, i]
    return x  # (..., B, P)


# %% [markdown]
# Objectives and reports ask a model for `likelihood(z, y)`, and of that for `log_prob`, sometimes for `mean`. The mean of a pixel over
# all that could come before it is no formula; here it is an average of four drawings, *with the same coins for everybody*, so that
# two of them differ only by what $z$ and $y$ do.


# %%
class PixelByPixel:
    def __init__(self, decoder, z, c, image_shape):
        self.decoder, self.z, self.c, self.image_shape = decoder, z, c, image_shape

    def log_prob(self, x):
        logits = self.decoder(x.flatten(1), self.z, self.c).unflatten(-1, self.image_shape)
        return BernoulliPixels()(logits).log_prob(x)

    def sample(self, coins=None):
        pixels = math.prod(self.image_shape)
        coins = torch.rand(*self.z.shape[:-1], pixels) if coins is None else coins
        return paint(self.decoder, self.z, self.c, coins).unflatten(-1, self.image_shape)

    @property
    def mean(self):
        pixels = math.prod(self.image_shape)
        coins = torch.rand(4, pixels, generator=torch.Generator().manual_seed(0))
        return torch.stack([self.sample(row) for row in coins]).mean(0)


class Painter(CVAE):
    def likelihood(self, z, y=None):
        return PixelByPixel(self.decoder, z, self.condition(y), self.config.event_shape)


# %% [markdown]
# On real digits, at half size to keep it quick: each pixel the mean of four. $y$ is rich, as in chapter 05: the digit, and the
# fifth of all images it belongs to by thickness and by slant.


# %%
def orders(digits, edges=None):
    found = strokes.measure(digits.images)
    columns = torch.stack([found.thickness, found.slant])  # (2, N)
    if edges is None:
        edges = columns.quantile(torch.arange(1, 5) / 5, dim=1).T.contiguous()  # (2, 4)
    return torch.stack([digits.labels, *torch.searchsorted(edges, columns)], 1), edges


asked, edges = orders(train)
test_asked, _ = orders(test, edges)
small, small_test = halved(train), halved(test)


# %% [markdown]
# The condition is three whole numbers now, each as a one-hot row.


# %%
class Order(Condition):
    def __init__(self, *sizes):
        super().__init__()
        self.sizes, self.dim = sizes, sum(sizes)

    def forward(self, y):  # (B, number of things), -1 where not told
        pairs = zip(y.T, self.sizes, strict=True)
        rows = [F.one_hot(part + 1, size + 1)[:, 1:] for part, size in pairs]
        return torch.cat(rows, 1).float()

    def mask_out(self, y, where):
        return y.masked_fill(where[:, None], -1)


# %%
def untrained(decoder=Masked):
    torch.manual_seed(0)
    config = CVAEConfig(latent_dim=8, hidden=(128, 128), event_shape=(1, 14, 14))
    model = Painter(config, condition=Order(10, 5, 5))
    model.decoder = decoder(14 * 14, 512, 8, model.condition.dim)
    return model


def partners(y):  # the next image of equal y, the first after the last
    kind = y.unique(dim=0, return_inverse=True)[1]
    order = kind.argsort(stable=True)
    after = torch.arange(1, len(y) + 1)
    counts = kind.bincount()
    after[counts.cumsum(0) - 1] -= counts
    return torch.empty_like(order).scatter(0, order, order[after])


# %%
budget = {"y": asked, "learning_rate": 1e-2, "log_every": 1000}


def train_painter(model, lead=250, seed=0, **settings):
    with contextlib.redirect_stdout(io.StringIO()):
        if lead:
            fit(model, small, steps=lead, objective=without_z, seed=seed + 100, **budget)
        fit(model, small, steps=1000 - lead, seed=seed, **budget, **settings)


# %%
some, some_asked = small_test.subset(slice(2000)), test_asked[:2000]
partner, lives, painters = partners(some_asked), {}, {}
for name, lead in (("decoder ahead", 250), ("together", 0)):
    painters[name] = untrained()
    looks = watched(some, some_asked, partner, lives.setdefault(name, []))
    train_painter(painters[name], lead, objective=looks)
painter = painters["decoder ahead"]

# %%
shortest = min(len(seen) for seen in lives.values())
figures.training_sheets(
    {
        what: {name: [look[what] for look in seen[:shortest]] for name, seen in lives.items()}
        for what in lives["together"][0]
    },
    [25 * look for look in range(shortest)],
    "Three charts over the first 750 steps with z. With the decoder ahead, KL and the cost of another z stay at or near "
    "zero; no latent is ever active. Trained together, four latents are active at step 50 and one in the end, with a KL of 0.8 nats, "
    "and another z costs four nats.",
)

# %% [markdown]
# *Figure 7.3. A decoder that can do without $z$, from the first step with $z$ on. Trained together, four latents speak up at
# step 50, and as the decoder learns to look back three of them fall silent again. With the decoder ahead, $z$ is noise to somebody who
# already paints well, and never gets a word in.*
#
# The decoder's lead is not far-fetched: whoever puts a pretrained language model behind a latent gives it a far
# longer one. And it tells you something about the disease: the talkative painter has the *better* likelihood, by a little (printed with
# the cures). Silence was not better. It was nearer.

# %%
z = torch.randn(10, 8, generator=torch.Generator().manual_seed(1))
seven = torch.tensor([[7, 2, 2]]).expand(10, 3)
coins = torch.rand(2, 196, generator=torch.Generator().manual_seed(2))
with torch.no_grad():
    likelihood = painter.likelihood(z, seven)
    fresh = torch.rand(10, 196, generator=torch.Generator().manual_seed(3))
    rows = [likelihood.sample(coins[0]), likelihood.sample(coins[1]), likelihood.sample(fresh)]
figures.digit_grid(
    torch.cat(rows),
    "Three rows of ten sevens from ten different z. With the same coins all ten of a row are all but the same picture; with "
    "other coins for each they differ.",
    row_labels=["coins 1", "coins 2", "fresh coins"],
)

# %% [markdown]
# *Figure 7.4. Sevens of middle thickness and slant from ten $z$. The third symptom, drawn: another $z$, all but the same
# picture. What variety there is comes from the coins.*
#
# ## The report
#
# `collapse_report` measures all this with standard errors, here on test images, and judges. It has to know who
# shares a $y$; that is clear where $y$ is made of whole numbers.

# %%
print(evaluation.collapse_report(painter, some, y=some_asked))

# %%
for name, model, pictures, told in (
    ("hand told", readers["hand told"], both, None),
    ("hand not told", readers["hand not told"], images, None),
    ("painter, together", painters["together"], some, some_asked),
):
    print(f"{name}: {evaluation.collapse_report(model, pictures, y=told).verdict}")

# %% [markdown]
# The last verdict sounds like an illness too, but it need not be one: the report's *partly* counts latents. A latent that has nothing to say should be idle; a model with
# eight latents and little to say has some to spare. **Idle latents are no collapse; a silent z is.**
#
# Both causes in three seeds each (here and below ± is the standard deviation over the seeds). Every $z$ is swapped with that of an image
# of equal $y$. In the catalogue that is always another hand, never another digit, and costs more than in Figure 7.2.

# %%
record = records.load("collapse")


def table(rows, measures):
    print(" " * 24 + "".join(f"{title:>16}" for title in measures))
    for title, name in rows.items():
        bands = [records.band(record, f"{name}_{figure}") for figure in measures.values()]
        print(f"{title:<24}" + "".join(f"{band.mean:>8.2f} ± {band.spread:.2f} " for band in bands))


print(f"three seeds, recorded by {record['command']}")
measures = {"rate": "rate", "active": "active", "z swapped": "z_lost"}
table({"y says it all": "told", "hand not told": "untold", "pixel by pixel": "plain"}, measures)

# %% [markdown]
# ## When zero is right
#
# Is it a disease? Ask what $z$ could say at all. Whatever the networks, it cannot tell more of $x$ than $y$ leaves open:
#
# $$I(x; z \mid y) \;\le\; H(x \mid y). \tag{7.4}$$
#
# (For any $z$: $I(x; z \mid y) = H(x \mid y) - H(x \mid z, y)$, and for a discrete $x$ the last entropy is not negative.) Here the
# catalogue pays off. Round its grey levels to zeros and ones, do not tell the hand, and let there be $M$ hands. Then given $y$ there are $M$
# equally likely pictures, and
#
# $$H(x \mid y) = \ln M \quad \text{exactly, if the hands' pictures all differ.} \tag{7.5}$$
#
# (Where two hands draw the same picture it is a little less; the cell counts.) **Predict first.** For 1, 2, 4, 8 and 16 hands: how much will
# $z$ say, and what will that cost?


# %%
def left_open(pictures):  # H(x|y) of a finite set of pictures, each as likely as the others
    x = pictures.pixels(mode="threshold").flatten(1)
    _, counts = torch.cat([pictures.labels[:, None], x], 1).unique(dim=0, return_counts=True)
    each = len(pictures) / pictures.num_classes  # pictures of one y
    share = counts / len(pictures)
    return float((share * (each / counts).log()).sum())


for hands in (1, 2, 4, 8, 16):
    pictures, _ = catalogue(hands)
    model = learn(pictures, pixels="threshold")
    with torch.no_grad():
        rate = elbo_terms(model, pictures.pixels(mode="threshold"), pictures.labels).rate.mean()
    known = 0.0
    if hands > 1:
        found = evaluation.mutual_information(model, pictures, samples=10)
        known = found.lower.mean
    print(f"{hands:>2} hands: H(x|y) = {left_open(pictures):.3f} nats, ", end="")
    print(f"I(x;z|y) = {known:.3f}, rate {rate:.3f}")

# %%
coins = torch.distributions.Bernoulli(both.pixels()).entropy().flatten(1).sum(1)
print(f"told the hand, with a coin for every grey pixel: H(x|y) = {coins.mean():.1f} nats")

# %% [markdown]
# $z$ says nearly all that is left to say. With one hand there is nothing to say, and silence
# is the optimum: **zero rate is not a symptom where $y$ determines $x$.** (The set holds *all* the pictures there are of a $y$, so its
# ceiling is the right one; only $z$ is sampled. Elsewhere a set is a sample; see below. For one hand, $I = 0$ needs no measuring.)
#
# The rate is larger than the information. $M$ Gaussians cannot share out the prior among themselves without overlap, and to mistake the
# hand costs so much that the model prefers to keep them far apart and pay. With the coins, four hands paid 3.8 nats; without, a mistaken
# hand probably costs more, and they pay 5.4. So the KL alone does not tell you how much is said.
#
# The bound is not always tight. Told everything, but with a coin for every grey pixel, $H(x \mid y)$ is 20.8 nats: the coins. The
# rate was zero all the same, and rightly: $z$ pays only for what *several* pixels share. The decoder makes coins itself.
#
# And the painter? It shares what pixels have in common by looking back. Were it perfect, it would need no $z$ either: (7.3)
# without $z$ can represent any $p(x \mid y)$, and silence would be no loss of likelihood. (Ours is not perfect, and
# its silence will turn out to cost a third of a nat.) It is a loss to you if you wanted $z$: a code to compare images by, a style to keep while you change
# $y$. **Judge a collapse by what z is for.**

# %% [markdown]
# ## A number with a ceiling
#
# Why measure $I(x; z \mid y)$ when there is the KL? You have just seen it: the rate has two parts (Hoffman and Johnson),
#
# $$E\,\mathrm{KL}\big(q(z \mid x, y)\,\|\,p(z \mid y)\big) = I(x; z \mid y) + E\,\mathrm{KL}\big(q(z \mid y)\,\|\,p(z \mid y)\big),$$
#
# what $z$ says of $x$, and how far the posteriors of one $y$, taken together, lie off the prior. So the information is never more than
# the rate. The second part is paid, and says nothing. The first is estimated from a set of $B$ images of the same $y$,
#
# $$\hat I_B = \frac1B \sum_{n} \log \frac{q(z_n \mid x_n)}{\frac1B \sum_{m} q(z_n \mid x_m)} \;\le\; \ln B, \tag{7.6}$$
#
# since the sum contains $m = n$. Nothing in the formula warns you when it hits that ceiling.


# %%
def information(mean, std, z):  # (B, D) each
    q = torch.distributions.Normal(mean, std)
    table = q.log_prob(z[:, None]).sum(2)  # (B, B): z_n under the posterior of x_m
    return (table.diagonal() - table.logsumexp(1)).mean() + math.log(len(z))


vaes = {}
quick = {"steps": 600, "learning_rate": 4e-3, "log_every": 10_000}
for name, beta in (("loud", 0.1), ("usual", 1.0), ("quiet", 3.0)):
    torch.manual_seed(0)
    config = CVAEConfig(num_classes=0, latent_dim=8, hidden=(128, 128), event_shape=(1, 14, 14))
    vaes[name] = CVAE(config)
    fit(vaes[name], small, beta=beta, **quick)

# %%
for count in (50, 500):
    x = small_test.pixels(torch.arange(count), "stochastic", torch.Generator().manual_seed(0))
    with torch.no_grad():
        qs = {name: vae.posterior(x) for name, vae in vaes.items()}
    said = [f"{name} {information(q.mean, q.stddev, q.sample()):.2f}" for name, q in qs.items()]
    print(f"by hand, B = {count:>5}, ln B = {math.log(count):.2f}: ", ", ".join(said))
for count in (50, 500, 5000, len(small_test)):
    found = {
        name: evaluation.mutual_information(vae, small_test.subset(slice(count)))
        for name, vae in vaes.items()
    }
    said = [f"{name} {i.lower.mean:.2f} to {i.upper.mean:.2f}" for name, i in found.items()]
    print(f"library, B = {count:>5}, ln B = {math.log(count):.2f}: ", ", ".join(said))

# %% [markdown]
# The loud VAE, trained with $\beta = 0.1$, gives back the logarithm of the set's size, whatever the size: for it all these sets are too
# small. The quiet one, with $\beta = 3$, settles early: larger sets change little. At $B = 50$ the usual one sits just under the ceiling.
# Larger sets raise its figure to about 5.5, where lower and upper bound nearly meet, far below $\ln 10{,}000$. (The brackets at 5,000
# and 10,000 do not overlap: each is a sample's, and the second half of the set holds other images.) So even a result below
# the ceiling can be far too low if the ceiling is near. So **state B, and see that the result lies well below ln B.** The
# library gives an upper bound as well, the same without $m = n$; where the two are close, you know. It also says when the cap is
# reached.
#
# ## What linear theory says
#
# When does a latent pay? Where everything is linear and Gaussian there is an exact answer.
# Let $x = Wz + b + \sigma\epsilon$ with $z$ standard normal, and the encoder $q(z \mid x) = \mathcal N(E x, \operatorname{diag} v)$ (data centred). The
# best such VAE is probabilistic PCA: with eigenvalues $\lambda_1 \ge \lambda_2 \ge \dots$ and eigenvectors $V$ of the data's covariance,
#
# $$W = V_D\,(\Lambda_D - \sigma^2)^{1/2}, \qquad \sigma^2 = \frac{1}{P - D} \sum_{i > D} \lambda_i, \tag{7.7}$$
#
# with $P$ entries of $x$ and $D$ of $z$. And if $\sigma^2$ is *given*, the bound's maximum (its other stationary points are saddles) tells, for
# $i \le D$, who is alive (Lucas et al. 2019):
#
# $$\text{latent } i \text{ is active} \iff \lambda_i > \sigma^2, \qquad \text{and then}\quad \mathrm{KL}_i = \tfrac12 \ln \frac{\lambda_i}{\sigma^2},
# \quad A_i = 1 - \frac{\sigma^2}{\lambda_i}. \tag{7.8}$$
#
# Let us see whether gradients find that, with neither eigenvectors nor formula: digits at $7 \times 7$, so that $P = 49$. The
# bound of a linear VAE needs of the data only their covariance $C$. Written for the linear CVAE at once, $x = Wz + Uy + \sigma\epsilon$ and an
# encoder that reads $[x, y]$, where $C$ is that of $[x, y]$:


# %%
def linear_terms(C, W, U, log_noise, E, log_v):
    pixels = len(W)
    seen = W @ E + F.pad(U, (pixels, 0))  # what x the model expects from [x, y]: (P, P + Y)
    miss = torch.eye(pixels, len(C), dtype=C.dtype) - seen
    error = ((miss @ C) * miss).sum() + (W.square() * log_v.exp()).sum()
    distortion = (pixels * (math.log(2 * math.pi) + log_noise) + error / log_noise.exp()) / 2
    rate = (log_v.exp() + ((E @ C) * E).sum(1) - 1 - log_v) / 2  # (D,)
    return distortion, rate


# %%
def climb(C, pixels, latents, noise=None, iterations=2000):
    torch.manual_seed(0)
    others = len(C) - pixels
    shapes = (pixels, latents), (pixels, others), (), (latents, len(C)), (latents,)
    parts = [0.1 * torch.randn(shape, dtype=torch.float64) for shape in shapes]
    if noise is not None:
        parts[2] = torch.tensor(math.log(noise), dtype=torch.float64)
    free = [p.requires_grad_() for number, p in enumerate(parts) if noise is None or number != 2]
    optimiser = torch.optim.LBFGS(
        free,
        max_iter=iterations,
        tolerance_change=1e-12,
        history_size=30,
        line_search_fn="strong_wolfe",
    )

    def loss():
        optimiser.zero_grad()
        distortion, rate = linear_terms(C, *parts)
        (distortion + rate.sum()).backward()
        return distortion + rate.sum()

    optimiser.step(loss)
    return [part.detach() for part in parts]


# %%
x = F.avg_pool2d(train.images[:10_000].double() / 255, 4).flatten(1)  # (N, 49)
one_hot = F.one_hot(train.labels[:10_000], 10).double()
C = torch.cov(torch.cat([x, one_hot], 1).T, correction=0)  # (59, 59)


# %%
def principal(covariance):
    values, vectors = torch.linalg.eigh(covariance)
    return values.flip(0), vectors.flip(1)  # largest first


def evidence(values, latents):  # log-likelihood of pPCA, nats per example
    rest = values[latents:].mean()
    logs = values[:latents].log().sum() + (len(values) - latents) * rest.log()
    return -(len(values) * (math.log(2 * math.pi) + 1) + logs) / 2


def angle(W, V):  # the largest angle between two subspaces, degrees
    Q = torch.linalg.qr(W).Q
    return math.degrees(math.asin(torch.linalg.matrix_norm(Q - V @ (V.T @ Q), 2)))


# %%
values, V = principal(C[:49, :49])
W, U, log_noise, E, log_v = climb(C[:49, :49], 49, 6)
distortion, rate = linear_terms(C[:49, :49], W, U, log_noise, E, log_v)
print(
    f"ELBO {-(distortion + rate.sum()):.4f}, pPCA's log-likelihood {evidence(values, 6):.4f} nats"
)
print(f"noise {log_noise.exp():.6f}, mean of the eigenvalues left {values[6:].mean():.6f}")
print(f"angle to the principal subspace {angle(W, V[:, :6]):.3f} degrees")
for what, nats in (("KL", rate), ("(7.8)", (values[:6] / log_noise.exp()).log() / 2)):
    print(f"{what:<6}", *(f"{each:.3f}" for each in nats.sort(descending=True).values))

# %% [markdown]
# The gradient found the principal subspace. It found even the axes, which maximum likelihood leaves open: an encoder with
# *independent* entries only reaches the likelihood if $W$'s columns are orthogonal (Lucas et al.; Rolinek et al.). You see it in the ELBO,
# which equals the likelihood.
#
# Now hold the noise, which in this section means $\sigma^2$. **Predict first.** Ten latents, and a noise that lies between the third eigenvalue and the fourth. How
# many will be active?

# %%
counts = []
for alive in (0, 1, 3, 6):
    noise = float((values[alive] * values[alive - 1]).sqrt() if alive else 1.2 * values[0])
    W, U, _, E, log_v = climb(C[:49, :49], 49, 10, noise, iterations=400)
    moves = ((E @ C[:49, :49]) * E).sum(1)  # variance of the posterior means, (10,)
    counts.append(int((moves > 0.01).sum()))
    print(f"noise {noise:.3f}, eigenvalues above it {alive}: active latents {counts[-1]}")

# %% [markdown]
# <details><summary>Answer</summary>
# Three. Every latent whose direction varies less than the noise is silent, and no optimiser can help: it is the optimum.
# </details>
#
# So one way to collapse needs no bad luck at all: a decoder with more noise than the direction is worth. With a Gaussian decoder whose
# $\sigma$ is fixed at 1, the usual mean squared error, that is here all 49, as the largest eigenvalue is 0.252.
#
# ### And with y
#
# For the linear CVAE the same holds of what $y$ leaves over. The best decoder is the **regression** of $x$ on $y$, plus pPCA of its residuals:
#
# $$E[x \mid y] = \Sigma_{xy} \Sigma_{yy}^{-1}\, y, \qquad W \text{ as in (7.7), from }\; \Sigma_{xx} - \Sigma_{xy} \Sigma_{yy}^{-1} \Sigma_{yx}. \tag{7.9}$$
#
# (A one-hot $y$ sums to one, so its $\Sigma_{yy}$ is singular: take the pseudo-inverse.)

# %%
regression = C[:49, 49:] @ torch.linalg.pinv(C[49:, 49:])
left, left_V = principal(C[:49, :49] - regression @ C[49:, :49])
W, U, log_noise, E, log_v = climb(C, 49, 6)
distortion, rate = linear_terms(C, W, U, log_noise, E, log_v)
print(f"ELBO {-(distortion + rate.sum()):.4f}, regression and pPCA {evidence(left, 6):.4f} nats")
print(f"angle to the residuals' principal subspace {angle(W, left_V[:, :6]):.3f} degrees")
print(f"angle to that of x itself {angle(W, V[:, :6]):.1f} degrees")
for name, spectrum in (("x", values), ("x given the digit", left)):
    print(f"eigenvalues of {name:<18}", *(f"{value:.3f}" for value in spectrum[:8]))

# %% [markdown]
# The ELBO is 0.003 nats short: not quite converged. Look at the two rows of eigenvalues. Everything $y$ explains is taken away from $z$. With the noise held at 0.1, a VAE has
# five latents alive and a CVAE two (0.139 and 0.127). **The better the condition, the fewer latents are worth their rate.** If $y$ explained $x$ down to
# the noise, none would be. That is the first cause, as a theorem.

# %% [markdown]
# ## Cures
#
# You want $z$ back. There are four kinds of cure, and you have met the ideas of most.
#
# **Make the rate cheap for a while.** Weigh it by $\beta < 1$ at first and raise $\beta$ to 1, in a line (Bowman et al.) or in several
# cycles (Fu et al.). $z$ gets used while it is cheap, and, once the decoder relies on it, has a value.
#
# **Promise a rate.** *Free bits* stop counting below a floor $\kappa$ for each latent, so that silence saves nothing:
#
# $$\text{rate charged} = \sum_d \max\Big(\kappa,\; \tfrac1B \sum_b \mathrm{KL}_{bd}\Big). \tag{7.10}$$
#
# Two more build the floor into the encoder. *Batch norm on the mean* gives each latent's means the variance $\gamma^2$ over
# every batch, and a *δ-VAE* keeps each variance below some $s < 1$ (a floor of 0.25 nats needs $s = 0.30$). With a standard normal prior
#
# $$\tfrac1B \sum_b \mathrm{KL}_{bd} \ge \tfrac12 \gamma^2, \qquad \mathrm{KL}_{bd} \ge \tfrac12 (s - 1 - \ln s). \tag{7.11}$$
#
# A learned prior can follow $q$, and then neither holds. And **a floor promises rate, not information**: a batch norm can be satisfied by
# repeating $y$.
#
# **Give the encoder a lead.** Several encoder steps for one of the decoder (He et al.), or the importance-weighted bound of chapter
# 02, which forgives an encoder that is off.
#
# **Make the other voices weaker, or the way from z shorter.** Hide half of the pixels before from the decoder while training (Bowman et
# al. drop words). Leave $y$ out half of the time. Take a smaller decoder. Or let $z$ skip its own layers (Dieng et al.).
#
# Each is a few lines. Three of them:


# %%
def floor_under(kl, floor):  # (B, D)
    return kl.mean(0).clamp_min(floor).sum()


def with_free_bits(model, x, y):
    terms = elbo_terms(model, x, y)
    return terms.log_likelihood - floor_under(terms.kl, 0.25)


# %%
class Normed(nn.Module):
    def __init__(self, encoder, latents, floor=0.25):
        super().__init__()
        self.encoder, self.scale = encoder, math.sqrt(2 * floor)
        self.norm = nn.BatchNorm1d(latents, affine=False)

    def forward(self, x, c):
        mean, log_variance = self.encoder(x, c)
        return self.scale * self.norm(mean.float()), log_variance


class Skipping(Masked):
    def __init__(self, pixels, hidden, latents, numbers):
        super().__init__(pixels, hidden, latents, numbers)
        self.skip = nn.Linear(latents, hidden, bias=False)

    def told(self, z, c):
        return super().told(z, c) + self.skip(z)


# %% [markdown]
# **Predict first.** Annealing, free bits, batch norm on the mean, a skip: all four live, one seed each. Which will bring back the most
# information, and what will the likelihood cost?
#
# <details><summary>Answer</summary>
# Annealing, by far: 3.4 nats. None of the four costs likelihood.
# </details>

# %%
half = Linear(375)  # beta from 0 to 1 in the first half of the steps with z
trials = {
    "annealing": (Masked, {"beta": half}),
    "free bits": (Masked, {"objective": with_free_bits}),
    "batch norm": (Masked, {}),
    "skip": (Skipping, {}),
}
for name, (decoder, settings) in trials.items():
    painters[name] = model = untrained(decoder)
    if name == "batch norm":
        model.encoder = Normed(model.encoder, 8)
    train_painter(model, **settings)

# %%
for name, model in painters.items():
    active = evaluation.active_units(model, some, y=some_asked)
    found = evaluation.mutual_information(model, small, y=asked)
    ll = evaluation.log_likelihood(model, some, samples=50, y=some_asked)
    print(f"{name:<14} -log p(x|y) {-ll.mean:.2f}, active {active.count} of 8, ", end="")
    print(f"I(x;z|y) {found.lower.mean:.2f} to {found.upper.mean:.2f}, cap {found.cap:.2f}")

# %% [markdown]
# (The information is taken from the 60,000 training images, because there about 240 share a $y$. In the test set it would be 40, and
# a cap of 3.8, which the best of these come near.)
#
# Now all of them, over three seeds. The settings you have not seen: four cycles over 600 of the 750 steps; in the first half, four of five
# steps for the encoder alone; a bound with eight samples; 64 hidden units for 512; the three floors at 0.25 nats. *Diversity* is how far
# apart drawings of one $y$ lie, over the same for real images.

# %%
cures = {
    "decoder ahead": "plain",
    "together": "together",
    "linear annealing": "linear",
    "cyclical annealing": "cyclical",
    "free bits": "free_bits",
    "batch norm on mean": "batch_norm",
    "delta-VAE": "delta",
    "aggressive encoder": "aggressive",
    "importance-weighted": "importance",
    "skip": "skip",
    "half of pixels hidden": "forgetful",
    "64 hidden units": "small",
    "y dropped": "y_dropped",
}
table(cures, {"KL": "rate", "I at least": "information", "active": "active"})
print()
table(cures, {"-log p(x|y)": "nll", "diversity": "diversity", "time of a step": "time"})

# %%
names = {
    title: [run[f"{name}_information"] for run in record["runs"]] for title, name in cures.items()
}
costs = {title: [run[f"{name}_nll"] for run in record["runs"]] for title, name in cures.items()}
figures.seed_dots(
    {"I(x;z|y), at least, nats": names, "-log p(x|y), nats": costs},
    "Two columns of dots, three seeds for each of thirteen rows. Information: about 3.4 nats for linear annealing, 3.1 for "
    "the delta-VAE, 2.4 for batch norm, 1.8 for free bits, 1.5 for hidden pixels, one or less for the others, none for the "
    "silent painter. Minus log-likelihood: between 32.6 and 33.8 nats, but 36 with 64 hidden units.",
)

# %% [markdown]
# *Figure 7.5. What z says, and what the image costs: every seed a dot.*
#
# Read it column by column.
#
# **What comes back.** The painter with its decoder ahead says nothing, in every seed. Five cures bring back more than a nat in
# every seed: linear annealing most of all, then the three floors (δ-VAE, batch norm, free bits), then hiding half of the pixels.
# Cyclical annealing and 64 hidden units reach about one nat, a little above training together from the start (0.8). The aggressive
# encoder, importance weights and the skip stay at 0.4 to 0.5, below it. **Dropping $y$ does next to
# nothing**, and why should it: it was not $y$ that made $z$ superfluous.
#
# **What it costs.** In likelihood, annealing and the floors cost nothing. They are two or three tenths of a nat *better* than silence, which
# was not the best likelihood, only the nearest place to rest. Importance weights are as good (32.71). A weaker decoder is a bad bargain: with
# 64 hidden units $z$ gets one nat to say, and the image costs almost three nats more. Hidden pixels, the aggressive encoder and dropping $y$
# cost 0.4 to 0.6 nats, the second probably because four of five of its first steps teach the decoder nothing. In time only the
# importance-weighted bound is dear. (The last column is a step's time over that of the plain painter.)
#
# **What misleads.** *Active units*: the importance-weighted painter has seven or eight and the skipping one five or more, yet their $q$ tells
# about half a nat; with $y$ dropped there are one or two, and next to nothing is said. 0.01 is a low bar. (With importance weights $q$ is only
# a proposal, so $I$ under $q$ may understate what that decoder uses $z$ for.) *Diversity*: as varied as the data in every row, with a
# silent $z$ too. The coins see to that. Only the information, and the swap, tell a $z$ that speaks from one that clears its throat.
#
# All this holds for one small decoder, one world and 1,000 steps. Four cycles of annealing are short here, and with
# ten times the steps an aggressive encoder may well look better. What should carry over is the way of comparing.
#
# ## Play it back
#
# Weight, free bits and annealing work on the same term of the loss, so they interact. The panel plays recorded trainings, twelve
# settings of the three.

# %%
panels.training_panel(records.load("collapse_training")["runs"])

# %% [markdown]
# *Figure 7.6. In a running notebook, a player: choose weight, floor and schedule, and move through the steps. On a still page, the rate over
# all twelve trainings. (One seed; the decoder had its lead in each.)*
#
# With weight 1 and nothing else, the rate never leaves zero. Linear annealing lets it climb to seven nats while it is cheap;
# as $\beta$ nears 1 at step 375 it comes down to somewhat under four, and there it stays: $z$ has made itself useful. Halving the weight for
# good prevents the collapse too, but it is another objective: the rate goes up to 13 nats, and the bound, which counts every nat in
# full, gets worse. That dial is chapter 08's. In the player, look at the information too. It comes from the test set, where about forty
# images share a $y$, and at $\beta = 0.5$ in all but one training it climbs to its ceiling there and stops, whatever the rate does.

# %% [markdown]
# ## Pitfalls
#
# - **Judging by the KL alone.** A δ-VAE's KL is never zero, and a prior that is off its aggregate is paid for too. Ask for $I(x; z \mid y)$,
#   and swap z.
# - **Mutual information without its B.** 3.9 nats is $\ln 50$.
# - **Taking idle latents for a collapse.** Eight latents with one thing to say: seven idle ones are thrift.
# - **Curing what is not ill.** Where $y$ determines $x$ (a mask, a caption that says all), a floor under the rate makes $z$ repeat $y$, or
#   carry noise. Compute or bound $H(x \mid y)$ first.
# - **Variety as proof of life.** A decoder that tosses its own coins draws varied pictures with a silent $z$. Hold the coins and change $z$.
# - **A floor under the sum of the latents** instead of under each: one busy latent pays for all. (`free_bits` has the floor under each.)
# - **Annealing by epochs from a tutorial.** The schedule counts steps; yours has to last until the decoder relies on z.
# - **Mean squared error without a noise.** It fixes $\sigma^2$, and (7.8) says what that does to every direction below it.
#
# ## Summary
#
# $$\text{deaf decoder: ELBO} = \log p(x \mid y) - \mathrm{KL}, \qquad I(x; z \mid y) \le H(x \mid y), \qquad \hat I_B \le \ln B,
# \qquad \text{active} \iff \lambda_i > \sigma^2 \;\text{(linear, } \sigma^2 \text{ given)}.$$
#
# Encoder and decoder can fall silent together, and each is then right to. It happens where $y$ leaves nothing to say, and there it is
# the optimum; it happens where the decoder learned to do without $z$ first, and there it is merely near. Measure the rate, the
# information with its $B$, and what another $z$ costs. Anneal linearly, or put a floor under every latent: here both brought $z$ back at no cost
# in likelihood. And do not cure what is not ill.
#
# ## References
#
# - Bowman et al. 2016, *Generating Sentences from a Continuous Space*, arXiv:1511.06349 (collapse, annealing, dropped words)
# - Germain, Gregor, Murray and Larochelle 2015, *MADE*, arXiv:1502.03509
# - Chen et al. 2017, *Variational Lossy Autoencoder*, arXiv:1611.02731 (why a strong decoder needs no z)
# - Lucas, Tucker, Grosse and Norouzi 2019, *Don't Blame the ELBO!*, arXiv:1911.02469 (the linear VAE)
# - Tipping and Bishop 1999, *Probabilistic Principal Component Analysis*, doi:10.1111/1467-9868.00196
# - Rolinek, Zietlow and Martius 2019, *Variational Autoencoders Pursue PCA Directions (by Accident)*, arXiv:1812.06775
# - Hoffman and Johnson 2016, *ELBO surgery*, NeurIPS workshop; Poole et al. 2019, arXiv:1905.06922 (the cap)
# - Burda, Grosse and Salakhutdinov 2016, *Importance Weighted Autoencoders*, arXiv:1509.00519 (active units)
# - Kingma et al. 2016, *Improved Variational Inference with Inverse Autoregressive Flow*, arXiv:1606.04934 (free bits)
# - Fu et al. 2019, *Cyclical Annealing Schedule*, arXiv:1903.10145
# - He, Spokoyny, Neubig and Berg-Kirkpatrick 2019, *Lagging Inference Networks*, arXiv:1901.05534
# - Razavi, van den Oord, Poole and Vinyals 2019, *Preventing Posterior Collapse with delta-VAEs*, arXiv:1901.03416
# - Zhu et al. 2020, *A Batch Normalized Inference Network Keeps the KL Vanishing Away*, arXiv:2004.12585
# - Dieng, Kim, Rush and Blei 2019, *Avoiding Latent Variable Collapse with Generative Skip Models*, arXiv:1807.04863
#
# **Exercises:** [measure a silence, and end it in a model of your own](../exercises/07_posterior_collapse.ipynb).
#
# **Next:** [08 · The rate–distortion dial](08_rate_distortion.ipynb)
