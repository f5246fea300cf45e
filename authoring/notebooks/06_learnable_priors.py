# %% [markdown]
# # 06 · Learnable priors
#
# *Should p(z given y) move?*
#
# {{ badges }}
#
# **Time:** {{ minutes }} on two CPU cores, most of it 16 short trainings. **You need:** chapter 03; FiLM from
# chapter 04; a condition of your own from chapter 05.
#
# By the end you can
#
# - compute what a prior costs, and split it into a part that no prior can save and a part that a better one can;
# - build a prior that moves with $y$, and write down the densities of a mixture and a VampPrior;
# - say why a moving Gaussian adds no model to a decoder that is told $y$, and what it changed in training all the same;
# - make a prior run away, learn its conditions by heart, or wander off, and hold it.

# %% tags=["install"]
# {{ install }}

# %%
import math

import torch
from torch import nn
from torch.distributions import Independent, Normal

from cvae_lib import data, evaluation, pretrained
from cvae_lib.conditions import Condition
from cvae_lib.course import figures, panels, records
from cvae_lib.model import CVAE, CVAEConfig
from cvae_lib.objective import elbo_terms, kl_per_latent
from cvae_lib.priors import ConditionalGaussian
from cvae_lib.training import TrainingDiverged, fit

torch.manual_seed(0)
train, test = data.digits("train"), data.digits("test")
judge = pretrained.load_classifier(f"{train.name.lower()}-classifier")
print(
    f"{train.name}: {len(train)} training and {len(test)} test images of shape {train.image_shape}"
)

# %% [markdown]
# ## What a prior costs
#
# All chapters so far drew $z$ from one fixed $p(z) = \mathcal N(0, I)$, whatever $y$ was. The theory allows a
# $p_\psi(z \mid y)$ that depends on $y$ and is learned (chapter 02). The prior enters the bound in one place only, the rate
# $\mathrm{KL}\big(q(z \mid x, y) \,\|\, p(z \mid y)\big)$. So we need that for two Gaussians, and not for one and the
# standard one.
#
# Take one latent: $q = \mathcal N(m, e^v)$, $p = \mathcal N(\mu, e^w)$. The KL is the average of $\log q(z) - \log p(z)$
# over $z \sim q$, and both logarithms are parabolas:
#
# $$\log q(z) - \log p(z) = \tfrac12 (w - v) - \frac{(z - m)^2}{2 e^v} + \frac{(z - \mu)^2}{2 e^w}.$$
#
# Under $q$ the first square averages to $e^v$, its variance. The second measures from the wrong centre, so it averages to the
# variance plus the squared distance, $e^v + (m - \mu)^2$. Put in:
#
# $$\mathrm{KL}(q \,\|\, p) = \tfrac12 \Big( w - v + \frac{e^v + (m - \mu)^2}{e^w} - 1 \Big). \tag{6.1}$$


# %%
def gaussian_kl(m, v, mu, w):  # means and log-variances of q and p
    return 0.5 * (w - v + (v.exp() + (m - mu) ** 2) / w.exp() - 1)


m, v, mu, w = torch.randn(4, 5, 3)  # five examples, three latents
q, p = (Independent(Normal(a, (0.5 * b).exp()), 1) for a, b in ((m, v), (mu, w)))
z = q.sample((100_000,))
print(f"averaging draws: {(q.log_prob(z) - p.log_prob(z)).mean(0)}")
print(f"formula (6.1):   {gaussian_kl(m, v, mu, w).sum(1)}")
difference = gaussian_kl(m, v, mu, w) - kl_per_latent(q, p)
print(f"largest difference to the library's: {difference.abs().max():.0e}")

# %% [markdown]
# With $\mu = w = 0$ it is the formula (1.3) of chapter 01. **Predict first.** A posterior sits at 1, with standard deviation
# 0.5. Order these four priors by what they cost: the standard normal; one with the right centre, twice too wide; the right
# centre, twice too narrow; the right centre and width.

# %%
m, v = torch.tensor(1.0), torch.tensor(0.5).square().log()
for text, centre, scale in (
    ("standard normal", 0.0, 1.0),
    ("right centre, twice too wide", 1.0, 1.0),
    ("right centre, twice too narrow", 1.0, 0.25),
    ("right centre and width", 1.0, 0.5),
):
    cost = gaussian_kl(m, v, torch.tensor(centre), torch.tensor(scale).square().log())
    print(f"{text:<32} {cost:.3f} nats")

# %% [markdown]
# <details><summary>Answer</summary>
# Right: nothing. Too wide: 0.32 nats. Too narrow: 0.81, as much as the standard normal costs, a whole unit off centre.
# </details>
#
# Too narrow is expensive, because $e^w$ is in the denominator: what $q$ considers possible, $p$ must not exclude.

# %% [markdown]
# ## One prior, many posteriors
#
# A prior never has to cover one posterior alone. All images with the same $y$ share $p(z \mid y)$, and each has a posterior of
# its own. Their average is the **aggregate posterior** $q(z \mid y)$: encode a random seven, draw $z$, and that is
# where it comes from. For any $x$, $y$ and $z$,
#
# $$\log \frac{q(z|x,y)}{p(z|y)} = \log \frac{q(z|x,y)}{q(z|y)} + \log \frac{q(z|y)}{p(z|y)}.$$
#
# Average over the images of one $y$, and over $z \sim q(z \mid x, y)$ for each. In the last term $x$ is gone, and all the $z$
# together are draws from $q(z \mid y)$. So the mean rate is (Hoffman and Johnson 2016)
#
# $$\mathbb E_x\, \mathrm{KL}\big(q(z|x,y) \,\|\, p(z|y)\big) = \underbrace{\mathbb E_x\, \mathrm{KL}\big(q(z|x,y) \,\|\,
# q(z|y)\big)}_{\text{information}} + \underbrace{\mathrm{KL}\big(q(z|y) \,\|\, p(z|y)\big)}_{\text{mismatch}}. \tag{6.2}$$
#
# The first term is $I(x; z \mid y)$, what $z$ tells of $x$. There is no $p$ in it. **With the encoder held still, a better
# prior saves mismatch and nothing else.** (Train both together, and the encoder may spend what was saved.) And the mismatch
# is also what goes wrong when you draw: the decoder was trained on $z$ from the aggregate, and is then fed with $z$ from
# the prior.
#
# Which Gaussian is best? Average (6.1) over the images and set both derivatives to zero:
#
# $$\frac{\partial}{\partial \mu}: \; \frac{\mu - \overline m}{e^{w}} = 0, \qquad
# \frac{\partial}{\partial w}: \; \tfrac12 \Big( 1 - \frac{\overline{e^{v} + (m - \mu)^2}}{e^{w}} \Big) = 0,$$
#
# the bars meaning averages over the images. So, with $\sigma^2 = e^w$,
#
# $$\mu = \overline{m}, \qquad \sigma^2 = \overline{e^{v} + (m - \mu)^2}, \tag{6.3}$$
#
# which are mean and variance of the aggregate: the spread of the posteriors' means, and their own mean variance besides. To
# look at it, train a small CVAE with two latents and a fixed prior, and take the first 200 sevens of the test set.


# %%
def digit_model(prior, latents, steps):
    torch.manual_seed(0)
    film = {"conditioning": "film", "condition_at": "every"}
    settings = {"latent_dim": latents, "hidden": (192, 192), "components": 10} | film
    model = CVAE(CVAEConfig(prior=prior, **settings))
    if prior == "vamp":
        model.prior_module.start_from(train.pixels(torch.arange(10)))
    fit(model, train, steps=steps, learning_rate=4e-3, seed=0, log_every=100)
    return model


flat = digit_model("standard", 2, 300)

# %%
sevens = (test.labels == 7).nonzero().flatten()
with torch.no_grad():
    q = flat.posterior(test.pixels(sevens[:200], "threshold"), test.labels[sevens[:200]])
m, v = q.mean[:, 0], q.variance[:, 0].log()  # the first latent: (N,) each
mu = m.mean().requires_grad_()
w = (v.exp() + (m - mu.detach()) ** 2).mean().log().requires_grad_()
rate = gaussian_kl(m, v, mu, w).mean()
slopes = torch.autograd.grad(rate, (mu, w))
standard = gaussian_kl(m, v, torch.tensor(0.0), torch.tensor(0.0)).mean()
print(
    f"standard normal: {standard:.3f} nats; mean {mu:.2f}, scale {(0.5 * w).exp():.2f}: {rate:.3f}"
)
print(f"slopes of the rate there: {slopes[0]:.0e}, {slopes[1]:.0e}")

# %%
posteriors = {}
for digit in (7, 1, 0, 8):
    rows = (test.labels == digit).nonzero().flatten()[:200]
    with torch.no_grad():
        q = flat.posterior(test.pixels(rows, "threshold"), test.labels[rows])
    posteriors[digit] = Normal(q.mean[:, 0], q.stddev[:, 0])
panels.prior_panel(posteriors)

# %% [markdown]
# *Figure 6.1. In a running notebook, a panel: choose a digit, move the prior's mean and scale, and watch the rate. Grey:
# the aggregate posterior along the first latent; blue: a few of the posteriors it is made of, drawn lower than they are,
# only their place and width to scale; orange: the prior. The blue part of the column never moves. On a still page, three
# priors over the 200 sevens of the cell before, with information + mismatch = rate.*
#
# **Try to get below the information.** You cannot. Two more things to find with the sliders: how flat the valley is on the
# wide side, and how steep on the narrow one.

# %% [markdown]
# ## A prior that moves
#
# Sohn, Lee and Yan (2015) let it. By hand: one hidden layer from $c$, the numbers made of $y$, to mean and log-variance.
# Two habits keep it out of trouble. The last layer **starts at zero**, so the prior starts as the standard normal for every
# $y$, and moves only as far as it is pulled. And the log-variance is **bounded smoothly**, $10 \tanh(r / 10)$: between
# $-10$ and $10$ whatever the layer says.


# %%
class MovingPrior(nn.Module):
    def __init__(self, latents, numbers, hidden=64):
        super().__init__()
        self.read = nn.Linear(numbers, hidden)
        self.out = nn.Linear(hidden, 2 * latents)
        nn.init.zeros_(self.out.weight), nn.init.zeros_(self.out.bias)

    def forward(self, c):  # (B, C)
        mean, raw = self.out(nn.functional.silu(self.read(c))).chunk(2, dim=1)
        return mean, 10 * torch.tanh(raw / 10)  # (B, D) each


mine, theirs = MovingPrior(16, 10), ConditionalGaussian(16, 10)
nn.init.normal_(mine.out.weight)
theirs.head.load_state_dict(mine.state_dict())
c = nn.functional.one_hot(torch.arange(10), 10).float()
mean, log_variance = mine(c)
p = theirs(c, 10)
print(f"largest difference: mean {(mean - p.mean).abs().max():.0e}", end=", ")
print(f"log-variance {(log_variance - p.variance.log()).abs().max():.0e}")

# %% [markdown]
# Everything else stays: the same encoder, decoder and loss, with (6.1) for the KL. Train it, and the fixed prior beside it.
# Sixteen latents, and $y$ told to every block by FiLM, which chapter 04 found to need no care.

# %%
models = {prior: digit_model(prior, 16, 1000) for prior in ("standard", "gaussian")}

# %% [markdown]
# ### What can it do that the decoder cannot?
#
# **Predict first**, before you look at any likelihood. A draw from the moving prior is
# $z = \mu(y) + \sigma(y) \odot \epsilon$, with $\epsilon$ from the standard normal. The decoder gets $z$ and $y$. Could a
# model with a *fixed* prior do exactly the same?
#
# <details><summary>Answer</summary>
# Yes. Let it draw ε, and let its decoder begin by computing μ(y) + σ(y) ⊙ ε. It knows y, so it can.
# </details>
#
# Rename the latent: $\epsilon = (z - \mu(y)) / \sigma(y)$. A KL does not change when both distributions are renamed alike.
# So, with $s^2 = e^v$ for the variance of the posterior, the model
#
# $$p(\epsilon) = \mathcal N(0, I), \qquad p'(x \mid \epsilon, y) = p\big(x \mid \mu(y) + \sigma(y) \odot \epsilon,\; y\big),
# \qquad q'(\epsilon \mid x, y) = \mathcal N\Big(\frac{m - \mu}{\sigma}, \frac{s^2}{\sigma^2}\Big) \tag{6.4}$$
#
# has a fixed prior and, image by image, the same ELBO and the same likelihood. Try it on the model just trained.


# %%
class Absorbed:
    def __init__(self, model):
        self.model = model

    def prior(self, y, batch=None):
        zeros = torch.zeros(len(y), self.model.config.latent_dim)
        return Independent(Normal(zeros, 1.0), 1)

    def posterior(self, x, y):
        q, p = self.model.posterior(x, y), self.model.prior(y)
        return Independent(Normal((q.mean - p.mean) / p.stddev, q.stddev / p.stddev), 1)

    def likelihood(self, epsilon, y):
        p = self.model.prior(y)
        return self.model.likelihood(p.mean + p.stddev * epsilon, y)


x, y = test.pixels(torch.arange(500), "threshold"), test.labels[:500]
for name, model in (("moving", models["gaussian"]), ("fixed", Absorbed(models["gaussian"]))):
    torch.manual_seed(1)  # the same noise for both
    with torch.no_grad():
        print(f"{name:<7} prior: ELBO {elbo_terms(model, x, y).elbo.mean():.3f} nats")

# %% [markdown]
# The same number. So **beside a decoder that is told $y$, a moving Gaussian adds no model that was not there before**, as
# long as encoder and decoder are large enough to compute the map as well. What it can change is how easily training finds
# it. FiLM in the decoder's first block comes close to the map already. It acts after a linear layer: a shift there does the
# shift of $z$ exactly, and a scale there does the scaling of $z$ roughly. For a label, then, expect little.
#
# ## Other shapes
#
# A Gaussian has one hump, and no renaming of this kind gives it two. A **mixture** (Dilokthanakul et al. 2016, for one) has
# $M$, here 10:
#
# $$p(z \mid y) = \sum_{j=1}^{M} \pi_j(y)\, \mathcal N\big(z;\, \mu_j(y), \sigma_j^2(y)\big). \tag{6.5}$$
#
# Its head is the one above with more outputs: $M$ logits, and $M$ means and log-variances for every latent. The last
# layer's weights start at zero again, but its biases do not: the $M$ means start as random numbers of variance 1/4, and
# every component with variance 3/4, so that the whole has about the mean and variance of the standard normal. Components
# that start equal get equal gradients and never part.
#
# The **VampPrior** (Tomczak and Welling 2018) asks the encoder. By (6.2) the best prior of all is the aggregate posterior, an
# average over the training images of that $y$. Average over $M$ images instead, and let training choose them, as
# *pseudo-images* $u_j$ whose pixels are parameters. All $y$ share them; the encoder reads them together with each:
#
# $$p(z \mid y) = \frac1M \sum_{j=1}^{M} q(z \mid u_j, y). \tag{6.6}$$
#
# (Chen et al. 2017 go further and learn the prior as an autoregressive flow.) Neither has a KL in closed form. The rate is
# then estimated with the one $z$ at hand, as $\log q(z \mid x, y) - \log p(z \mid y)$, as in chapter 02. Both densities
# take a few lines:


# %%
def mixture_log_prob(z, logits, mean, log_variance):  # (B, D), (B, M), (B, M, D), (B, M, D)
    square = (z[:, None] - mean) ** 2 / log_variance.exp()
    each = -0.5 * (square + log_variance + math.log(2 * math.pi)).sum(2)  # (B, M)
    return (logits.log_softmax(1) + each).logsumexp(1)  # (B,)


def vamp_log_prob(posterior, u, z, y):  # the encoder, (M, 1, 28, 28), (B, D), (B,)
    rows = []
    for one_z, one_y in zip(z, y, strict=True):
        q = posterior(u, one_y.expand(len(u)))  # M Gaussians
        rows.append(q.log_prob(one_z).logsumexp(0) - math.log(len(u)))
    return torch.stack(rows)  # (B,)


models["mixture"] = digit_model("mixture", 16, 1000)
planes = {"standard": flat} | {
    prior: digit_model(prior, 2, 300) for prior in ("gaussian", "mixture", "vamp")
}

# %%
z, y = torch.randn(50, 2), test.labels[:50]
with torch.no_grad():
    p = planes["mixture"].prior(y)
    parts = p.component_distribution
    mine = mixture_log_prob(z, p.mixture_distribution.logits, parts.mean, parts.variance.log())
    print(f"mixture:   largest difference {(mine - p.log_prob(z)).abs().max():.0e}")
    vamp = planes["vamp"]
    mine = vamp_log_prob(vamp.posterior, vamp.prior_module.pseudo_images, z, y)
    print(f"VampPrior: largest difference {(mine - vamp.prior(y).log_prob(z)).abs().max():.0e}")

# %% [markdown]
# ## Ten labels
#
# Fixed, Gaussian, mixture: the same images in the same order, 1,000 steps each. **Predict first.** By how many nats do the
# second and the third beat the first on test images? (Below the live run, three recorded ones, made by
# `benchmarks/studies/learned_prior.py`: seed 0 is the run you see, seeds 1 and 2 have other starting weights and another
# order of the images. There with the VampPrior, and with a mixture that is learned but *still*, the same for every $y$.
# They are judged on 2,000 test images, the live ones on the first thousand of these.)
#
# Two things to know about the numbers. Live, ± is the standard error over test images; in a recorded table it is the standard
# deviation over three seeds. And $-\log p(x \mid y)$ is estimated with 50 draws for each image, the bound of chapter 02: on
# average it is too high, and most so where the posteriors of test images are poor.

# %%
record = records.load("learned_prior")
priors = ("standard", "gaussian", "mixture", "vamp")
some, lls = test.subset(slice(1000)), {}


def compare(name, model, data_set, base, y=None):
    lls[name] = evaluation.log_likelihood(model, data_set, samples=50, y=y)
    gap = evaluation.mean_and_error(lls[name].per_example - lls[base].per_example)
    print(f"{name:<20} -log p(x|y) {-lls[name].mean:.2f}, better by {gap} nats")


for prior, model in models.items():
    compare(prior, model, some, "standard")


# %%
def bands(rows, columns):
    print(f"{'':<22}", *(f"{header:<17}" for header in columns))
    for text, name in rows.items():
        cells = (str(records.band(record, f"{name}_{figure}")) for figure in columns.values())
        print(f"{text:<22}", *(f"{cell:<17}" for cell in cells))


columns = {"-log p(x|y)": "nll", "better by": "gap", "rate": "rate"}
print("Three recorded seeds, mean ± standard deviation:")
rows = {prior: f"digit_{prior}" for prior in priors} | {"mixture, still": "digit_still"}
bands(rows, columns | {"control": "control"})

# %% [markdown]
# <details><summary>Answer</summary>
# The Gaussian half a nat to one, the mixture one and a half to two.
# </details>
#
# **Half a nat to one, in 98.** That is there in every run, but from one seed to another the fixed prior itself differs by as
# much. As (6.4) had it: for the likelihood on ten labels, nothing is claimed here for a Gaussian that moves. The mixture
# does gain. Is it the humps? The last row says no: a mixture with as many humps that stands *still* is no better than the
# Gaussian. Nor is it mere movement: by (6.4) a decoder that is told $y$ can shift and scale a still mixture by itself. What is
# left is **a shape that changes with $y$**: humps that move against each other, or change their weights. The VampPrior's shape
# changes too, and it gains less in this short time. And look at the last column, of which more below.
#
# ### Where the prior is, and where it should be
#
# To see it, go back to the models with two latents. Dots: draws from the aggregate posterior of all test sevens. Lines: the
# prior each model gives to a seven.

# %%
maps = {}
with torch.no_grad():
    for prior, model in planes.items():
        q = model.posterior(test.pixels(sevens, "threshold"), test.labels[sevens])
        maps[prior] = (q.sample(), model.prior(torch.tensor([7])))
figures.prior_maps(
    maps,
    "Four panels of dots under contour lines. The standard prior's circles are centred at the origin, and their cloud of "
    "dots lies to the left of it. The Gaussian's ellipses are centred on their cloud, the mixture's outline bends as its "
    "cloud does, and the VampPrior's follows its own but for a lobe with hardly any dots.",
)

# %% [markdown]
# *Figure 6.2. The sevens in four models, under the prior each gives them: lines where its density is a half, a tenth and a
# hundredth of its peak. Every model has a latent space of its own; compare dots with lines, not one panel with the next.*
#
# And in numbers, the rate of all test images split as in (6.2). The aggregate is that of the test images of one label, about a
# thousand. Each image's own posterior is among them, so the information is never above the logarithm of their number (the
# *cap*) and comes out a little low, and the mismatch a little high.

# %%
for prior, model in planes.items():
    found = evaluation.mutual_information(model, test)
    print(f"{prior:<9} rate {found.rate.mean:.2f} = information {found.lower.mean:.2f}", end=" ")
    print(f"+ mismatch {found.aggregate_kl.mean:.2f} nats (cap {found.cap:.1f})")

# %% [markdown]
# The information is about the same in all four: moving the prior did not make $z$ say more about $x$. What went is mismatch,
# more than half of it, and most of that with the Gaussian already.
#
# ### Samples from both
#
# If the prior is not where the aggregate is, it shows when you draw. Take 2,000 labels. Draw $z$ once from the prior and
# once from the aggregate posterior, by encoding a random training image of that label (Rosca, Lakshminarayanan and Mohamed
# 2018 compare the two at length). Same decoder, same judge.

# %%
rows = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))[:2000]
asked, x = train.labels[rows], train.pixels(rows, "threshold")
for prior, model in models.items():
    torch.manual_seed(0)
    print(f"{prior:<9} read as asked,", end=" ")
    for name, source in (
        ("prior", model.prior(asked)),
        ("aggregate", model.posterior(x, asked)),
    ):
        with torch.no_grad():
            images = model.likelihood(source.sample(), asked).mean
        print(f"z from the {name} {(judge.read(images) == asked).float().mean():.3f}", end="  ")
    print()

# %%
sheet, names = [], []
first = torch.stack([(asked == digit).nonzero()[0, 0] for digit in range(10)])  # one image of each
for prior in ("standard", "mixture"):
    torch.manual_seed(5)
    model, y = models[prior], asked[first]
    sources = [("prior", model.prior(y))] * 3 + [("aggregate", model.posterior(x[first], y))]
    for name, source in sources:
        with torch.no_grad():
            sheet.append(model.likelihood(source.sample(), y).mean)
        names.append(f"{prior}, {name}")
figures.digit_grid(
    torch.cat(sheet),
    "Eight rows of the digits 0 to 9: for the fixed prior, then for the mixture, three rows drawn through the prior and "
    "one through the aggregate. Through the aggregate nearly all are clear; through the priors some are smudged or "
    "incomplete.",
    row_labels=names,
    column_labels=range(10),
)

# %% [markdown]
# *Figure 6.3. The same decoder, fed from two sources. The rows called aggregate encode the same ten training images. With
# three drawings of each digit chance still decides; the counts above are of two thousand.*
#
# The decoders are not at fault. Fed from the aggregate, every one of them obeys 98 times in a hundred. The fixed prior
# loses fifteen of those by drawing $z$ where hardly any image of that label is encoded. The Gaussian loses about nine, the
# mixture about three. **That is what a moving prior buys with labels: obedience**, also where it adds no model: in the
# recorded runs the Gaussian takes it from 0.83 to 0.90, the mixture to 0.95. (It is not the only way to it. The loud start
# of chapter 04 obeyed as well as a moving prior did there.)

# %% [markdown]
# ## An observed quadrant
#
# Now a rich $y$: the lower left quarter of the picture, 196 grey levels. $x$ is the rest. Hardly any two images share their
# $y$ any more, and each says something else about what can follow: an empty corner is a seven nine times in ten, a piece of a
# round stroke leaves several digits open. A condition of your own, in three lines:


# %%
class Quadrant(Condition):
    dim = 196

    def forward(self, y):  # (B, 196), grey levels in [0, 1]
        return y


def without_quadrant(digits):
    y = digits.images[:, 0, 14:, :14].flatten(1).float() / 255  # (N, 196)
    images = digits.images.clone()
    images[:, :, 14:, :14] = 0
    return data.ImageSet(images, digits.labels, digits.name, classes=10), y


rest, corner = without_quadrant(train)
test_rest, test_corner = without_quadrant(some)
empty = corner.amax(1) == 0
print(f"{len(corner.unique(dim=0))} different corners in {len(corner)} images")
print(
    f"{empty.sum()} are empty, and of these {(train.labels[empty] == 7).float().mean():.0%} sevens"
)

# %% [markdown]
# Again fixed, Gaussian and mixture, with $y$ told to encoder and decoder as before; fixed and mixture live, the Gaussian from
# the record. By (6.4) fixed and Gaussian are one family of models again, as far as the networks are large enough for the map.
# **Predict first.** Which prior gains most, and is it more or less than with labels?


# %%
def quadrant_model(prior="standard", told="both", how="film", images=rest, y=corner, **training):
    torch.manual_seed(0)
    settings = {"conditioning": how, "condition_at": "every", "condition_to": told}
    settings |= {"latent_dim": 16, "hidden": (192, 192), "prior": prior}
    model = CVAE(CVAEConfig(**settings), condition=Quadrant())
    plan = {"steps": 1000, "learning_rate": 4e-3, "seed": 0, "log_every": 1000}
    fit(model, images, y=y, **(plan | training))
    return model


fills = {prior: quadrant_model(prior) for prior in ("standard", "mixture")}

# %%
for prior, model in fills.items():
    compare(f"corner, {prior}", model, test_rest, "corner, standard", test_corner)
print("\nThree recorded seeds, mean ± standard deviation:")
rows = {prior: f"quadrant_{prior}" for prior in models} | {"mixture, still": "quadrant_still"}
bands(rows | {"Gaussian alone": "quadrant_alone"}, columns)
sizes = [record["runs"][0][f"quadrant_{name}_parameters"] for name in ("standard", "alone")]
print(
    f"\nparameters: fixed prior {sizes[0]}, Gaussian alone {sizes[1]}, {1 - sizes[1] / sizes[0]:.0%} fewer"
)

# %%
gains = {"Gaussian": "gaussian", "still mixture": "still", "mixture": "mixture"}
picture = figures.seed_dots(
    {
        "nats gained over the fixed prior": {
            f"y a {task}: {text}": [run[f"{name}_{prior}_gap"] for run in record["runs"]]
            for task, name in (("label", "digit"), ("corner", "quadrant"))
            for text, prior in gains.items()
        }
    },
    "Six rows of three dots on one scale, with a line at 0. For a label the Gaussian gains between half a nat and one, the "
    "still mixture nothing in two runs and one nat in the third, the moving mixture one and a half to two. For a corner "
    "the Gaussian gains half a nat to one, the still mixture nothing, and the moving mixture three in every run.",
)
picture.figure.axes[0].axvline(0, color="black", linewidth=1)
picture

# %% [markdown]
# *Figure 6.4. Nats gained over the fixed prior on the same test images, a dot for each recorded run. The line at 0 is the
# fixed prior of the same seed.*
#
# <details><summary>Answer</summary>
# The mixture: three nats in every run, well over what it gains with labels. The Gaussian gains about the same
# as with labels.
# </details>
#
# **Here a moving prior pays.** Three nats, with a spread of less than a fifth of a nat over the seeds, against a decoder
# that is told everything at every block. Again it takes a shape that changes with $y$: the Gaussian, which moves and has one
# hump, gains half a nat to one; the still mixture gains nothing.
#
# Where did the three nats come from? Not from a lower rate. In the log above the last rates are nearly the same, both about
# 9.9, and the distortion falls from 64.4 to 61.4; on test images the recorded rate is, if anything, higher with the
# mixture. Encoder and prior are trained together here, and **what the prior saves the encoder may spend.** (How the rate
# splits was not measured: with one image to each corner there is no aggregate to measure against.)
#
# Why more than with labels? A guess, not measured here: a corner leaves several digits open, each of them a hump of its own
# in $z$ (look at the completions below), and which humps there are depends on the corner. With one fixed hump, decoder and
# encoder have to bend $z$ anew for every corner.
#
# The last row is another idea: *Gaussian alone*. The decoder is not told $y$, only encoder and prior are. Now what the
# corner says has to pass through $z$. What the prior knows of it costs nothing, yet the rate is four nats higher: further
# information or mismatch, which is not split here. With 14% fewer parameters it beats the fixed prior by more than a nat.
# It is the layout of Pyro's example for this task.

# %%
picks, sheet = torch.tensor([0, 4, 18]), []
for pick in picks:
    y = test_corner[pick].expand(8, 196)
    seen = nn.functional.pad(y[:1].view(1, 1, 14, 14), (0, 14, 14, 0))  # back to the lower left
    for prior in ("standard", "mixture"):
        drawn = fills[prior].draw(y, generator=torch.Generator().manual_seed(3))
        sheet += [test.pixels(pick[None]), seen, (drawn + seen).clamp(max=1)]
figures.digit_grid(
    torch.cat(sheet),
    "Three test images, each with its lower left corner and eight completions by the fixed prior's model and eight by the "
    "mixture's. A straight foot of a stroke is completed to sevens. A hook becomes a 9 or a 4, a double curve a 3, a 5 or "
    "an 8. The completions join the corner; some are smudged.",
    columns=10,
    row_labels=[
        f"{prior}, a {test.labels[pick]}" for pick in picks for prior in ("fixed", "mixture")
    ],
    column_labels=["image", "seen", *range(1, 9)],
)

# %% [markdown]
# *Figure 6.5. An image, what the model sees of it, and eight ways to go on: first with the fixed prior's model, then with the
# mixture's. Columns do not correspond: a mixture also draws which component to use.*

# %% [markdown]
# ## How it goes wrong, one: the variance runs away
#
# Undo the two habits: the usual random start instead of zeros, and $e^{w}$ without a bound. And give it what chapter 05
# warned of, raw numbers: grey levels from 0 to 255. **Predict first.** Which of the four fails: careful or loose, on scaled
# or raw numbers?


# %%
class Loose(nn.Module):
    def __init__(self, latents, numbers, hidden=64):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(numbers, hidden), nn.SiLU(), nn.Linear(hidden, 2 * latents)
        )

    def forward(self, c, batch):  # the library's signature
        mean, log_variance = self.net(c).chunk(2, dim=1)
        return Independent(Normal(mean, (0.5 * log_variance).exp(), validate_args=False), 1)


for seed in (0, 1, 2):
    torch.manual_seed(seed)
    loose, careful = Loose(16, 196), ConditionalGaussian(16, 196)
    for text, scale in (("scaled", 1), ("raw", 255)):
        with torch.no_grad():
            sigmas = [one(scale * test_corner, len(test_corner)).stddev for one in (loose, careful)]
        print(
            f"seed {seed}, {text:<6} loose: sigma from {sigmas[0].min():.0e} to {sigmas[0].max():.0e}",
            end="; ",
        )
        print(f"careful: {sigmas[1].min():.0f} to {sigmas[1].max():.0f}")

# %%
for text, scale, prior in (
    ("scaled, loose", 1, Loose(16, 196)),
    ("raw, loose", 255, Loose(16, 196)),
    ("raw, careful", 255, None),
):
    torch.manual_seed(0)
    settings = {"latent_dim": 16, "hidden": (192, 192), "prior": "gaussian"}
    model = CVAE(CVAEConfig(condition_at="every", **settings), condition=Quadrant())
    model.prior_module = prior or model.prior_module
    try:
        fit(model, rest, y=scale * corner, steps=60, learning_rate=4e-3, log_every=1000)
        print(f"{text}: sigma up to {model.prior(scale * test_corner).stddev.max():.0f}")
    except TrainingDiverged as error:
        print(f"{text}: {error}")

# %% [markdown]
# <details><summary>Answer</summary>
# Loose on raw numbers fails at the first step. Careful on raw numbers runs, and ends at its bound. On scaled numbers both
# behave.
# </details>
#
# On scaled numbers even the loose prior behaves: the two habits are a belt for a day that may not come. On raw numbers it
# came. The loose prior starts with standard deviations from almost zero to 1e14 and more, and the very first loss is not a
# number. The careful one starts at 1 for every $y$. But then its $\sigma$ runs to 148, which is $e^{5}$: the bound. That is
# no prior for a posterior of ordinary size. (Encoder and decoder were told the same raw numbers, and suffer as well.) **Start
# and bound keep a run from crashing; what keeps the variance from running away is the scale of $y$.** Standardise, as in
# (5.1).
#
# ## How it goes wrong, two: it learns its conditions by heart
#
# With a label, six thousand images share one $p(z \mid y)$, and by (6.3) it must be wide enough for all of them. Now hardly
# two share their corner. What is the best prior then, for the training set? The average in (6.3) goes over a single image:
# **the prior that minimises the training loss is that image's own posterior**, rate 0. If there are many images the network
# cannot learn them all; if there are few, it can try. Give it 500. ($y$ is now told by concatenation, not by FiLM, in all
# of this part, and training lasts 800 steps.) **Predict first.** Rate on the training images, rate on the test images: how
# far apart, for a fixed and for a moving prior? Three recorded runs of each, encoder and decoder told:


# %%
found = {"-log p(x|y)": "nll", "rate, training": "training_rate", "rate, test": "rate"}
found["largest sigma"] = "widest"
bands({"fixed": "few_standard", "moving": "few_gaussian"}, found)
print("\nBetter than the fixed prior by, run by run:", end=" ")
print(*(f"{run['few_gaussian_gap']:+.1f}" for run in record["runs"]), "nats")

# %% [markdown]
# <details><summary>Answer</summary>
# About one nat with the fixed prior, which has no choice; about four and a half with the moving one.
# </details>
#
# What looked like a good prior had been made for these 500 images. And the moving prior is *worse* than the fixed one in
# two of three runs, by two and by more than four nats. But it is not the prior alone that learns by heart: a decoder that
# is told 196 numbers can recognise each of 500 images by them. So take $y$ away from the decoder, which is the layout
# *alone* of the last section, and train that.


# %%
few, few_corner = rest.subset(slice(500)), corner[:500]
small = {"how": "concatenation", "images": few, "y": few_corner, "steps": 800}


def rates(text, model):
    with torch.no_grad():
        for where, images, y in (("train", few, few_corner), ("test", test_rest, test_corner)):
            q, p = model.posterior(images.pixels(mode="threshold"), y), model.prior(y)
            print(
                f"{text + ', ' + where:<16} rate {kl_per_latent(q, p).sum(1).mean():.1f}", end=" "
            )
            print(f"nats, sigma of the prior from {p.stddev.min():.2f} to {p.stddev.max():.1f}")


scarce = {"alone": quadrant_model("gaussian", "encoder", **small)}
rates("alone", scarce["alone"])

# %% [markdown]
# Four nats and more apart here too, and the largest $\sigma$ is eight, on training corners as on test corners. (Which latents
# those are was not looked at; a latent the decoder ignores may have any $\sigma$.)
#
# Two things may hold it: stopping early, and a *leash*, which charges the prior itself for straying from the standard normal,
# with a weight $\lambda$ (here 1). Training then maximises the mean of
#
# $$\mathcal L(x, y) - \lambda\, \mathrm{KL}\big(p(z \mid y) \,\|\, \mathcal N(0, I)\big). \tag{6.7}$$
#
# (The training log books the charge under distortion; its rate is the true one.)


# %%
def leashed(model, x, y, strength=1.0):
    p = model.prior(y)
    zero = torch.zeros(())
    away = gaussian_kl(p.mean, p.variance.log(), zero, zero).sum(1)  # (B,)
    terms = elbo_terms(model, x, y)
    return terms._replace(log_likelihood=terms.log_likelihood - strength * away)


scarce["leashed"] = quadrant_model("gaussian", "encoder", objective=leashed, **small)
rates("leashed", scarce["leashed"])
for name, model in scarce.items():
    compare(name, model, test_rest, "alone", test_corner)

# %%
rows = {"fixed": "standard", "moving": "gaussian", "moving, leashed": "gaussian_leash"}
rows |= {"alone": "alone", "alone, stopped early": "alone_early", "alone, leashed": "alone_leash"}
bands({text: f"few_{name}" for text, name in rows.items()}, found)
print("\nBetter by, in nats, run by run:")
for name, base in (
    ("gaussian_leash", "standard"),
    ("alone_early", "alone"),
    ("alone_leash", "alone"),
):
    gains = [run[f"few_{name}_gap"] - run[f"few_{base}_gap"] for run in record["runs"]]
    text, other = (label for which in (name, base) for label in rows if rows[label] == which)
    print(f"{text:<20} than {other:<6}", *(f"{gain:+.1f}" for gain in gains))

# %% [markdown]
# In the first three rows the decoder is told $y$ as well. There the leash brings the moving prior back to about where the
# fixed one is. *Alone* is better than all of these by many nats, though its prior too is made for the training images.
# Stopping early gives one to three and a half nats more (the step was chosen by the ELBO of 500 other training images,
# never by test images); **the leash gives six or seven**.
#
# Why does it help? That was not measured. It does not bring the test rate down: the leashed run has the highest in the
# table, and the best likelihood, and the fixed prior has the lowest with nearly the worst. So **compare training and test
# rate to see that something is learned by heart, and choose by held-out likelihood.** One caution: with 500 images the
# posteriors of test images are poor, so the 50 draws bound $-\log p(x \mid y)$ loosely here, and how loosely may differ
# from row to row.
#
# ## How it goes wrong, three: it overshoots and wanders
#
# Renaming works both ways. Stretch and shift the latent by anything that depends on $y$, in prior, posterior and decoder
# alike, and the ELBO is what it was. A fixed prior pins $z$ down; a moving one pins nothing. Provoke it: labels again, 32
# latents, a learning rate five times too large and no schedule. Write down at every step how wide the prior is, and how wide
# (6.3) says it should be for the posteriors of the batch, a label at a time. **Predict first.** Is the prior ahead of what it
# should cover, behind it, or on it?


# %%
def fitting_sigma(q, y):  # of (6.3), a y at a time; averaged over these and the latents
    own = [(q.mean[y == one], q.variance[y == one]) for one in y.unique()]
    each = [(v + (m - m.mean(0)) ** 2).mean(0).sqrt() for m, v in own]
    return torch.stack(each).mean().item()


# %%
def hasty_model(strength, trace):
    def objective(model, x, y):
        with torch.no_grad():
            p, q = model.prior(y), model.posterior(x, y)
            trace.append([p.stddev.mean().item(), fitting_sigma(q, y)])
        return leashed(model, x, y, strength)

    torch.manual_seed(0)
    settings = {"latent_dim": 32, "hidden": (192, 192), "prior": "gaussian"}
    model = CVAE(CVAEConfig(conditioning="film", condition_at="every", **settings))
    plan = {"schedule": "constant", "learning_rate": 2e-2, "steps": 150, "log_every": 1000}
    fit(model, train, objective=objective, seed=0, **plan)
    return model


traces = {"free": [], "leashed": []}
hasty = {name: hasty_model(float(name == "leashed"), trace) for name, trace in traces.items()}

# %%
said = []
for name, trace in traces.items():
    prior, fitting = zip(*trace, strict=True)
    top = prior.index(max(prior))
    said.append(
        f"{name}: the prior's sigma peaks at {prior[top]:.1f} in step {top + 1}, where (6.3) has {fitting[top]:.1f}; "
        f"at the end {prior[-1]:.2f}, where (6.3) has {fitting[-1]:.2f}."
    )
    print(said[-1])

# %%
figures.curves(
    {
        f"{name}: {what}": [values[column] for values in trace]
        for name, trace in traces.items()
        for column, what in enumerate(("sigma of the prior", "sigma of (6.3)"))
    },
    "Four curves over 150 steps. " + " ".join(said),
    x_label="step",
    y_label="units of z",
)

# %% [markdown]
# *Figure 6.6. How wide the prior is and how wide it should be, averaged over 32 latents, without and with the leash of (6.7).*
#
# <details><summary>Answer</summary>
# Behind at first, then ahead, in the end on it.
# </details>
#
# The first large steps throw the posteriors apart and together again, at the same steps in both runs. The prior follows more
# slowly and **overshoots**: without the leash it is widest, 3.4, when (6.3) asks for 2.6. Then it comes down. From about step 60
# on the prior of either run is as wide as its posteriors need. But the free run's posteriors are wider, and prior and posteriors
# shrink together only slowly: nothing says that $z$ should have width 1. The leash does. It also keeps the overshoot below two.
# Does the detour cost anything? And where do the latents end that the decoder ignores? All that is asked of those is that
# posterior and prior agree, and that they can do anywhere.

# %%
for name, model in hasty.items():
    with torch.no_grad():
        q, p = model.posterior(some.pixels(mode="threshold"), some.labels), model.prior(some.labels)
        elbo = elbo_terms(model, some.pixels(mode="threshold"), some.labels).elbo.mean()
    kl, idle = kl_per_latent(q, p).mean(0).sort()
    mean = p.mean[:, idle[:8]]  # of the eight latents with the lowest rates
    print(f"{name:<8} ELBO {elbo:.1f} nats; eight latents with rates up to {kl[7]:.3f}", end=": ")
    print(f"the means of their priors lie between {mean.min():.1f} and {mean.max():.1f}")

# %% [markdown]
# The leashed run ends at least a nat of ELBO better (one seed, 150 hasty steps; how much depends on how the machine rounds).
# And the idle latents of the free model have **wandered off** by a unit and more to either side, prior and posterior hand in
# hand: nothing called them back. That by itself does no harm to the likelihood. But whoever draws these latents from
# $\mathcal N(0, I)$, or reads something into where they lie, is misled.

# %% [markdown]
# ## A rule of thumb
#
# You may have heard this one: *start with a fixed prior; if the KL stays large while the reconstruction struggles, let the
# prior move.* Take care with the second half. A large rate does not say that a prior is bad: by (6.2) it is information and
# mismatch together, and only the mismatch is the prior's. In the models with two latents, the only ones where it was split,
# most of the rate was information.
#
# What the tables do say:
#
# | $y$ | what was measured | so |
# |---|---|---|
# | one of ten labels, decoder told | a Gaussian gains less than another seed may | start fixed; it is the simplest |
# | the same, and the drawings must obey | a mixture gains one and a half nats or more, and obeys best | a mixture that moves |
# | a corner (nothing else rich was tried) | a moving mixture gains three nats in every run; a still one none | a mixture that moves |
# | rich, and few images | a told decoder learns them by heart | tell encoder and prior only; a leash |
#
# (All of it after 1,000 steps of small networks, or 800. What longer training leaves of it was not recorded.)
#
# And one test before you choose, if $y$ is a label: **draw from the prior and from the aggregate**, by encoding held-out
# images of that label. If both look alike, the prior is not your problem. (With a rich $y$ there is one image to each, and
# no aggregate to draw from.)

# %% [markdown]
# ## Pitfalls
#
# - **The KL the wrong way round.** $\mathrm{KL}(p \,\|\, q)$ has $e^v$ in the denominator. With a fixed prior the formula of
#   chapter 01 leaves nothing to confuse; with (6.1) there are four symbols.
# - **Gradients stopped at the prior.** Someone writes `with torch.no_grad()` around it, or forgets it in the optimiser.
#   Nothing crashes: the prior stays where it started. Print how far its means have moved.
# - **Drawing from $\mathcal N(0, I)$ out of habit.** A model with a moving prior was never trained there. Use `model.draw`, or
#   `model.prior(y).sample()`.
# - **Raw numbers into $e^{w/2}$.** Standardise $y$, start the last layer at zero, bound the log-variance.
# - **Widths of $z$ compared across models.** A latent may be stretched at will, so standard deviations and raw
#   variances of $z$ mean nothing by themselves. Rates do, and likelihoods.
# - **A low training rate taken for a good prior.** With one image to each $y$ it may be learned by heart. Compare it
#   with the rate of held-out images, and choose by held-out likelihood.
# - **A mixture whose components start equal.** They get equal gradients and never part.
# - **A VampPrior for a rich $y$.** For every different $y$ in the batch the encoder reads all $M$ pseudo-images again: ten
#   labels are ten times $M$ readings, 256 corners are 256 times $M$.
#
# ## Summary
#
# $$\mathrm{KL} = \tfrac12 \Big( w - v + \frac{e^v + (m - \mu)^2}{e^w} - 1 \Big), \qquad
# \text{rate} = I(x; z \mid y) + \mathrm{KL}\big(q(z|y) \,\|\, p(z|y)\big), \qquad z = \mu(y) + \sigma(y) \odot \epsilon.$$
#
# With the encoder held still, a prior can save the mismatch and nothing else; trained together, the saving may be spent:
# the corner mixture's three nats appear in the distortion. A Gaussian that moves with $y$ is a renaming that a told
# decoder, large enough, can do by itself. It gains little likelihood, with labels and with corners, but with labels more of
# its drawings obey. A mixture that moves gains one and a half to two nats, and three; one that stands still nothing beyond
# the spread of seeds (one run of three with labels gained 1.03). A moving prior must be kept from raw numbers, from
# learning few conditions by heart, and from wandering off with the posterior: scale $y$, put the prior on a leash, compare
# training with held-out rates, and choose by held-out likelihood.
#
# ## References
#
# - Sohn, Lee and Yan 2015, *Learning Structured Output Representation using Deep Conditional Generative Models*, NeurIPS 28
#   (a prior that depends on the observed part)
# - Hoffman and Johnson 2016, *ELBO surgery*, NeurIPS workshop (the rate in two parts)
# - Pyro's example *Conditional Variational Auto-encoder*, pyro.ai/examples/cvae.html; Bingham et al. 2019, *Pyro: Deep Universal
#   Probabilistic Programming*, arXiv:1810.09538 (a decoder of $z$ alone; the prior there also gets a first guess of the image)
# - Tomczak and Welling 2018, *VAE with a VampPrior*, arXiv:1705.07120
# - Dilokthanakul et al. 2016, *Deep Unsupervised Clustering with Gaussian Mixture Variational Autoencoders*, arXiv:1611.02648
# - Chen et al. 2017, *Variational Lossy Autoencoder*, arXiv:1611.02731 (a learned prior by autoregressive flow)
# - Rosca, Lakshminarayanan and Mohamed 2018, *Distribution Matching in Variational Inference*, arXiv:1802.06847 (how far
#   aggregate and prior lie apart, and what that does to samples)
#
# **Exercises:** [build a prior that moves and can be trusted, and a model of your own around it](../exercises/06_learnable_priors.ipynb).
#
# **Next:** [07 · Posterior collapse](07_posterior_collapse.ipynb)
