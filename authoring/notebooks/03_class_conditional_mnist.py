# %% [markdown]
# # 03 · Class-conditional MNIST
#
# *What changes in code, and what do I gain?*
#
# {{ badges }}
#
# **Time:** {{ minutes }} on two CPU cores, most of it one training. **You need:** the idea of a VAE: an encoder
# that turns an image $x$ into a Gaussian over a latent $z$, a decoder that turns $z$ back into pixels, and a loss
# with two terms, distortion and rate.
#
# By the end you can
#
# - turn a VAE into a conditional VAE by changing six lines;
# - measure what a label buys, in nats, against what theory allows;
# - test whether a generator obeys, and whether it keeps style and content apart;
# - use a generator as a classifier, and find the digits it doubts.

# %% tags=["install"]
# {{ install }}

# %%
import difflib
import inspect
import math

import torch
import torch.nn.functional as F
from torch import nn

from cvae_lib import data, evaluation, pretrained
from cvae_lib.course import figures, panels, records
from cvae_lib.model import CVAE, CVAEConfig
from cvae_lib.objective import elbo_terms
from cvae_lib.training import fit

torch.manual_seed(0)
train, test = data.digits("train"), data.digits("test")
print(
    f"{train.name}: {len(train)} training and {len(test)} test images of shape {train.image_shape}"
)

# %% [markdown]
# ## The bound, with y in it
#
# A VAE learns $p(x)$: images, of whatever kind. We want $p(x \mid y)$: images *of a seven*. The rule is short.
# **Every distribution may now also look at $y$:**
#
# $$\log p(x \mid y) \;\ge\; \underbrace{\mathbb E_{q(z \mid x,y)}\big[\log p(x \mid z,y)\big]}_{-\,\text{distortion}}
# \;-\; \underbrace{\mathrm{KL}\big(q(z \mid x,y)\,\|\,p(z \mid y)\big)}_{\text{rate}} \tag{3.1}$$
#
# Read it as a message. To send $x$ to somebody who already holds $y$, you first send $z$; that costs *rate* nats on average,
# namely how far $q$ departs from the prior that both sides know. Then you correct the pixels the decoder got wrong; that
# costs *distortion* nats. Here the prior ignores $y$: $p(z \mid y) = \mathcal N(0, I)$. Everything is in nats, summed over pixels
# and latents, averaged over images.

# %% [markdown]
# ## Six lines
#
# First the VAE, complete. Pixels are 0 or 1, so the decoder gives a logit for each, and the distortion is a
# binary cross-entropy **summed** over the 784 pixels. Hidden layers after the first add to what comes in (a *skip
# connection*): the network then only has to learn what to change, and deep ones train faster for it.

# %%
W, D = 256, 32  # width of the hidden layers, entries of z


class Skip(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(W, W)

    def forward(self, h):  # (B, W)
        return h + F.silu(self.linear(h))


# %%
class VAE(nn.Module):
    def __init__(self):
        super().__init__()
        self.encode = nn.Sequential(
            nn.Linear(784, W), nn.SiLU(), Skip(), Skip(), Skip(), nn.Linear(W, 2 * D)
        )
        self.decode = nn.Sequential(
            nn.Linear(D, W), nn.SiLU(), Skip(), Skip(), Skip(), nn.Linear(W, 784)
        )

    def loss(self, x):  # (B, 784)
        mean, log_variance = self.encode(x).chunk(2, dim=1)  # (B, 32) each
        z = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
        logits = self.decode(z)  # (B, 784)
        distortion = F.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(1)  # (B,)
        rate = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(1)  # (B,)
        return (distortion + rate).mean()


# %% [markdown]
# Now the label. A network reads numbers, and the number 7 is not "more" than the number 3, so the label goes in as a
# one-hot row: ten entries, one of them 1. It is glued to the encoder's input and to the decoder's input.


# %%
class ConditionalVAE(nn.Module):
    def __init__(self):
        super().__init__()
        self.encode = nn.Sequential(
            nn.Linear(784 + 10, W), nn.SiLU(), Skip(), Skip(), Skip(), nn.Linear(W, 2 * D)
        )
        self.decode = nn.Sequential(
            nn.Linear(D + 10, W), nn.SiLU(), Skip(), Skip(), Skip(), nn.Linear(W, 784)
        )

    def loss(self, x, y):  # (B, 784), (B,)
        c = F.one_hot(y, 10).float()  # (B, 10)
        mean, log_variance = self.encode(torch.cat([x, c], dim=1)).chunk(2, dim=1)  # (B, 32) each
        z = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
        logits = self.decode(torch.cat([z, c], dim=1))  # (B, 784)
        distortion = F.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(1)  # (B,)
        rate = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(1)  # (B,)
        return (distortion + rate).mean()


# %% [markdown]
# Where do they differ? Let the computer say: `-` is the VAE's line, `+` the new one.


# %%
def lines(model):
    return [
        line
        for part in (model.__init__, model.loss)
        for line in inspect.getsource(part).splitlines()
    ]


for line in difflib.ndiff(lines(VAE), lines(ConditionalVAE)):
    if line[0] in "+-":
        print(line)

# %% [markdown]
# Two widths, one signature, one encoding, two concatenations: six lines. **The two formulas of the loss did not
# change.** That is the whole of (3.1) in code.
#
# The library's `CVAE` is the same network with the loss split into its terms. `num_classes=0` gives the VAE back. Give
# both the same weights and the same noise, and they must agree.

# %%
by_hand, model = ConditionalVAE(), CVAE(CVAEConfig(num_classes=10, latent_dim=D, hidden=(W,) * 4))
mine = [*by_hand.encode.parameters(), *by_hand.decode.parameters()]
for parameter, other in zip(mine, model.parameters(), strict=True):
    parameter.data.copy_(other.data)

x, y = test.pixels(torch.arange(100), "threshold"), test.labels[:100]
torch.manual_seed(1)
print(f"by hand: {by_hand.loss(x.flatten(1), y).item():.3f} nats")
torch.manual_seed(1)
print(f"library: {elbo_terms(model, x, y).loss().item():.3f} nats")

# %% [markdown]
# ## Train
#
# The label can be told once, at the input, as above. Or it can be told again at every layer, where it is needed: each block
# multiplies and shifts what comes in by factors it reads from the label, $h' = (1 + \gamma(y))\, h + \beta(y)$. That is called
# FiLM, and in the library two settings turn it on. The objective is still (3.1). From here on we train that variant, and all
# numbers below are its own; which way is better, and when, is a question for itself.
#
# `fit` draws every pixel anew as 0 or 1 with its grey level as probability each time an image comes up (*dynamic
# binarisation*), so the network hardly ever sees the same image twice.

# %%
torch.manual_seed(0)
film = {"conditioning": "film", "condition_at": "every"}
cvae = CVAE(CVAEConfig(num_classes=10, latent_dim=D, hidden=(W,) * 4, **film))
history = fit(cvae, train, epochs=34, batch_size=512, learning_rate=6e-3, seed=0)

# %%
figures.curves(
    {"distortion": history.distortion, "rate": history.rate},
    "Distortion and rate of the CVAE over the epochs. Distortion falls quickly, then slowly; the rate rises to about 16 nats "
    "within four epochs and then creeps up to nearly 20.",
    x_label="epoch",
    y_label="nats per image",
)

# %% [markdown]
# *Figure 3.1. The rate is near its end after a few epochs and then only creeps; the distortion goes on falling.*
#
# For comparison, a VAE: the same layers without the label (7% fewer weights), the same number of passes, optimiser and
# seed. It comes with the library, trained by `benchmarks/train_checkpoints.py`, to spare you the wait. Where does the label
# show? Split both losses on test images.

# %%
vae = pretrained.load_cvae(f"{train.name.lower()}-vae")
print(f"{vae.num_parameters():,} parameters in the VAE, {cvae.num_parameters():,} in the CVAE")
x, y = (
    test.pixels(torch.arange(2000), "stochastic", torch.Generator().manual_seed(0)),
    test.labels[:2000],
)
for name, m, condition in (("VAE", vae, None), ("CVAE", cvae, y)):
    with torch.no_grad():
        terms = elbo_terms(m, x, condition)
    print(
        f"{name:>4}: distortion {-terms.log_likelihood.mean():.1f} + rate {terms.rate.mean():.1f} = {terms.loss():.1f} nats"
    )

# %% [markdown]
# The saving is in the rate: what $y$ says need not be sent through $z$. But can a label explain all of it? Keep the
# question; it comes back below.

# %% [markdown]
# ## Ask
#
# A row for every digit, ten latents from the prior for each.

# %%
asked = torch.arange(10).repeat_interleave(10)  # (100,)
drawn = cvae.draw(asked, generator=torch.Generator().manual_seed(1))
figures.digit_grid(
    drawn,
    "A hundred generated digits, ten of each class from 0 to 9, one class per row.",
    row_labels=range(10),
)

# %% [markdown]
# *Figure 3.2. One row per order; greys are the decoder's probabilities. Look for drawings that are not what was asked: you
# should find a few, most of them among the 5s.*
#
# Looking is not measuring. A classifier that had no part in the training reads 2,000 drawings.

# %%
judge = pretrained.load_classifier(f"{train.name.lower()}-classifier")
control = evaluation.control_accuracy(cvae, judge, count=2000)
print(f"the judge reads {evaluation.accuracy(judge, test):.3f} of the real test images correctly")
print("control accuracy:", control)

# %% [markdown]
# *Control accuracy* is the share of drawings read as asked. The judge errs a little on real digits too, so a
# perfect generator would not reach 1.000 either. And it says nothing about variety: one perfect drawing per digit, over and
# over, would score 1.000.

# %% [markdown]
# ## One style, ten digits
#
# **Predict first.** Below, each row fixes one $z$ and walks through the ten labels. The first column is a real test
# image whose $z$ the encoder found. Which properties will survive along a row?
#
# <details><summary>Answer</summary>
# What the label cannot tell: slant, pen width, roundness, size. What it does tell (which strokes there are) changes.
# The encoder was shown y, so it had no reason to spend nats on it in z.
# </details>

# %%
rows = torch.tensor([int((test.labels == digit).nonzero()[7]) for digit in (0, 2, 4, 7)])
real, labels = test.pixels(rows), test.labels[rows]  # (4, 1, 28, 28), (4,)
with torch.no_grad():
    z = cvae.posterior(real, labels).mean  # (4, 32)
    turned = cvae.likelihood(
        z.repeat_interleave(10, 0), torch.arange(10).repeat(4)
    ).mean  # (40, 1, 28, 28)
sheet = torch.cat([real[:, None], turned.unflatten(0, (4, 10))], dim=1)  # (4, 11, 1, 28, 28)
figures.digit_grid(
    sheet.flatten(0, 1),
    "Four rows. The first image of each is a real digit, then come the digits 0 to "
    "9 in its handwriting.",
    columns=11,
    column_labels=["real", *range(10)],
)

# %% [markdown]
# *Figure 3.3. Handwriting carried over: pen width best, slant and width roughly. Under its true label the image comes back,
# a little smoothed. The last row, from a crossed 7, is the hardest to carry.*
#
# Is the label really gone from $z$? Ask the simplest reader there is, a linear one, to recover $y$ from the
# posterior means of each model. Chance is about 0.1.

# %%
some = train.subset(slice(10_000))
for name, m in (("VAE", vae), ("CVAE", cvae)):
    share = evaluation.linear_probe(
        evaluation.posterior_means(m, some),
        some.labels,
        evaluation.posterior_means(m, test),
        test.labels,
    )
    print(f"{name:>4}: a linear reader finds the digit in z in {share:.2f} of the test images")

# %% [markdown]
# The VAE must write the class into $z$, since nothing else carries it. The CVAE leaves most of it out, and nobody asked
# it to: extra rate costs nats, so gradient descent stops paying for what $y$ already says. If, for each $y$, the average of
# $q(z \mid x, y)$ over that class's images equalled the prior, $z$ would say nothing about $y$. It does so only roughly, and a
# nonlinear reader might find more than a linear one.

# %% [markdown]
# ## What did it put into z?
#
# The network you just trained chose its own directions of $z$. Which three matter most to the eye? Those along which the
# decoder's picture changes most, on average over labels and latents.

# %%
panels.draw_panel(cvae, digit=4, seed=1)

# %% [markdown]
# *Figure 3.4. In a running notebook, a panel: choose a digit, move its style, draw the rest anew; then walk through the digits
# and see the style stay. On a still page, what the three directions do to a four.*
#
# And between the digits? A label is a one-hot row, and nothing stops you from handing the decoder a row that is 0.6 a 5 and
# 0.4 a 6, an order it never saw in training. **Predict first:** what comes back, two digits laid over each other, or one?
#
# <details><summary>Answer</summary>
# One drawing. Strokes open, close and wander until the one digit has become the other; halfway it may be neither. Nothing
# in the loss asked for that: the decoder saw pure orders only, and a smooth network has to do something in between. The walk
# through z is of another kind: every point on it is as likely as its ends.
# </details>

# %%
panels.blend_panel(cvae, first=5, second=6, seed=1)

# %% [markdown]
# *Figure 3.5. In a running notebook, a panel: choose two digits and mix them. On a still page, all its mixtures of a 5 and a 6:
# from top to bottom the label goes from one to the other, from left to right the style from one draw of $z$ to another.*

# %% [markdown]
# ## What is a label worth?
#
# Before measuring, derive. By Bayes' rule $p(x \mid y)\,p(y) = p(y \mid x)\,p(x)$, so for any one image
#
# $$\log p(x \mid y) - \log p(x) \;=\; \log p(y \mid x) - \log p(y). \tag{3.2}$$
#
# Average both sides over images and their labels. The right side becomes the mutual information
#
# $$I(x; y) = H(y) - H(y \mid x) \;\le\; H(y) \;\le\; \ln 10 = 2.303 \text{ nats.} \tag{3.3}$$
#
# A label cannot be worth more than it takes to say it. So if both models were perfect, the CVAE's log-likelihood would
# be at most 2.3 nats above the VAE's. (The cap holds for one model on real data too, with its own $p(y \mid x)$, because
# $\log p(y \mid x) \le 0$.)
#
# **Predict first.** Will the measured gap be smaller than 2.3, about 2.3, or larger?
#
# <details><summary>Answer</summary>
# Larger. Equation (3.2) holds within one model. Two separately trained networks also differ in how
# well they fit, and ten easy problems are easier to fit than one hard one.
# </details>
#
# Log-likelihoods come from importance sampling with $K = 100$ samples of $q$,
#
# $$\log p(x \mid y) \approx \log \frac1K \sum_{k=1}^{K} \frac{p(x \mid z_k, y)\, p(z_k)}{q(z_k \mid x, y)},
# \qquad z_k \sim q(z \mid x, y), \tag{3.4}$$
#
# a lower bound on average, on all test images, binarised once and alike for both models. ± is the standard error over images.

# %%
ll_vae = evaluation.log_likelihood(vae, test, samples=100)
ll_cvae = evaluation.log_likelihood(cvae, test, samples=100)
gap = evaluation.mean_and_error(ll_cvae.per_example - ll_vae.per_example)
print(f"VAE   -log p(x)   = {-ll_vae.mean:.2f} ± {ll_vae.standard_error:.2f} nats")
print(f"CVAE  -log p(x|y) = {-ll_cvae.mean:.2f} ± {ll_cvae.standard_error:.2f} nats")
print(f"paired difference = {gap} nats, where a label can be worth at most {math.log(10):.3f}")

# %% [markdown]
# Notice the three standard errors. Images differ a lot in how hard they are, and that spread is in both models'
# means. It cancels when the same image is compared under both: **compare likelihoods paired**.
#
# To be fair to the VAE, take the label away from the CVAE again. Equation (3.1)'s model is also a model of $x$ alone:
# sum over the labels it might have had,
#
# $$\log p(x) = \log \sum_{y} p(y)\, p(x \mid y) = \log \frac{1}{10} \sum_{y=0}^{9} p(x \mid y). \tag{3.5}$$

# %%
# Ten labels for each image are ten times the work, so every tenth image has to do.
tenth = test.subset(slice(None, None, 10))
table = evaluation.class_log_likelihoods(cvae, tenth, samples=100)  # (1000, 10)
truth = tenth.labels[: len(table)]
own = table.gather(1, truth[:, None])[:, 0]  # under the true label
marginal = table.logsumexp(1) - math.log(10)
gain = marginal - evaluation.log_likelihood(vae, tenth, samples=100).per_example
print(
    f"on these {len(table)} images: CVAE -log p(x|y) = {-own.mean():.2f}, -log p(x) = {-marginal.mean():.2f} nats"
)
print(
    f"a label is worth {(own - marginal).mean():.3f} nats to this model (at most {math.log(10):.3f})"
)
print("CVAE without its label better than VAE by", evaluation.mean_and_error(gain), "nats")

# %% [markdown]
# Inside one model the label is worth almost the full 2.303 nats: knowing the image leaves little doubt about the digit.
# The gap of about 3.8 nats splits into that, 2.2, and into a better fit, about 1.6. And the surprise: **the CVAE, not told the
# label, is a better unconditional model than the VAE.** Labels during training are one reason; this CVAE also has FiLM and 7%
# more weights, and (3.4) may be a looser bound for one model than for the other.
#
# One run is one run. Here are three seeds, VAE and CVAE trained alike to the last setting, recorded by
# `benchmarks/studies/label_value.py` (mean ± standard deviation over seeds; the marginal is over every fifth test image):

# %%
record = records.load("label_value")
print(record["protocol"])
for figure, text in (
    ("vae_nll", "VAE -log p(x)"),
    ("cvae_nll", "CVAE -log p(x|y)"),
    ("marginal_nll", "CVAE -log p(x), marginal"),
    ("control", "control accuracy"),
    ("probe_vae", "label read from z, VAE"),
    ("probe_cvae", "label read from z, CVAE"),
):
    print(f"{text:<26} {records.band(record, figure)}  over {len(record['runs'])} seeds")

# %% [markdown]
# ## A generator that classifies
#
# Turn (3.2) around. If all labels are equally probable beforehand,
#
# $$p(y \mid x) = \frac{p(x \mid y)}{\sum_{y'} p(x \mid y')}, \tag{3.6}$$
#
# and the table above holds all ten numerators. No classifier was trained.

# %%
posterior = table.softmax(1)  # (1000, 10)
guess = posterior.argmax(1)
surprise = -table.log_softmax(1).gather(1, truth[:, None])[:, 0]  # -log p(y|x) of the true label
print(f"Bayes' rule classifies {(guess == truth).float().mean():.3f} of the images correctly")
print(
    f"-log p(y|x): {surprise.mean():.3f} nats on average, {surprise[guess != truth].mean():.1f} on mistakes"
)
figures.confusion(
    truth,
    guess,
    "Confusion matrix of the Bayes classifier: nearly everything lies on the diagonal; "
    "each off-diagonal cell shows how many images of one digit were taken for another.",
)

# %% [markdown]
# *Figure 3.6. Rows are true digits, columns guesses; only the mistakes are shaded.*
#
# Is it right to be so sure? What the label is worth falls short of 2.303 nats by the mean of $-\log p(y \mid x)$, printed
# above. It is small, but each mistake costs several nats: when this classifier is wrong, it is often sure of itself.
#
# Which digits does it doubt? Entropy of $p(y \mid x)$ says how undecided it is.

# %%
entropy = -(posterior * posterior.clamp_min(1e-30).log()).sum(1)  # nats
doubt = entropy.argsort(descending=True)[:10]
top = posterior[doubt].topk(2, dim=1)
names = [f"{a}|{b}" for a, b in top.indices.tolist()]
figures.digit_grid(
    tenth.pixels(doubt),
    "The ten test images the model doubts most, about half of them ambiguous to a human "
    "too; above each its two likeliest labels.",
    column_labels=names,
    size=0.8,
)

# %% [markdown]
# *Figure 3.7. The ten most doubtful images, with the two labels the model wavers between. It saw them binarised, which is
# harder than the grey you see.*

# %% [markdown]
# ## Wrong labels, on purpose
#
# Tell the model a lie: encode and decode each image under a wrong label. What happens to the picture, and to the
# numbers?

# %%
eights = test.subset((test.labels == 8).nonzero().flatten()[:10])
x8 = eights.pixels()
shown = [x8] + [cvae.reconstruct(x8, torch.full((10,), claim)[: len(x8)]) for claim in (8, 3, 1)]
figures.digit_grid(
    torch.cat(shown),
    "Ten real eights and their reconstructions under the labels 8, 3 and 1. Under 8 "
    "they are faithful; under 3 and 1 they are pulled towards the claimed digit.",
    columns=len(x8),
    row_labels=["real", "as 8", "as 3", "as 1"],
)

# %% [markdown]
# *Figure 3.8. The decoder is torn between $z$, which insists on the pixels, and $y$, which insists on the digit. For a
# drastic lie neither wins.*

# %%
wrong = table.scatter(1, truth[:, None], -math.inf)  # forget the true label
costs = [own - table[torch.arange(len(table)), (truth + shift) % 10] for shift in range(1, 10)]
print(f"a wrong label costs {torch.stack(costs).mean():.1f} nats on average;")
print(f"the most forgiving wrong label costs {(own - wrong.max(1).values).mean():.1f} nats")

# %% [markdown]
# (The nats are upper estimates: the encoder never met a wrong label in training, so its samples serve the bound badly
# there.)
#
# This is the first test to make of any conditional model: **is $y$ used?** If a wrong label cost nothing, the
# network would be ignoring you.

# %% [markdown]
# ## Pitfalls
#
# - **Mean over pixels, sum over latents.** `reduction="mean"` on the distortion weighs the rate 784 times too
#   heavily; the model then sends nothing through $z$.
# - **The label in the decoder only, or the encoder only.** Leave it out of the decoder and you cannot ask for anything.
#   Leave it out of the encoder and the encoder must guess $y$ from $x$; clear digits make that easy, and the bug quiet.
# - **Labels as plain numbers.** Feeding $y = 7$ as one number says that 7 lies between 6 and 8. One-hot does not.
# - **Comparing grey likelihoods with binary ones**, or ELBOs with importance-sampled bounds. State data, binarisation
#   and $K$, or the numbers say nothing.
# - **A judge that helped to train the generator.** It would praise what it was used to shape.

# %% [markdown]
# ## Summary
#
# $$\log p(x \mid y) \ge \mathbb E_q[\log p(x \mid z, y)] - \mathrm{KL}(q(z \mid x, y)\,\|\,p(z \mid y)), \qquad
# I(x; y) = H(y) - H(y \mid x) \le \ln 10 .$$
#
# A conditional VAE is a VAE whose every network also reads $y$; six lines change. What $y$ says leaves $z$, so style and
# content part ways. A label is worth at most its own entropy, and the model finds nearly all of it. Conditioning also
# made the model fit better. Bayes' rule makes the generator a good classifier, if an overconfident one.
#
# ## References
#
# - Kingma and Welling 2013, *Auto-Encoding Variational Bayes*, arXiv:1312.6114
# - Kingma, Rezende, Mohamed and Welling 2014, *Semi-supervised Learning with Deep Generative Models*, arXiv:1406.5298
# - Sohn, Lee and Yan 2015, *Learning Structured Output Representation using Deep Conditional Generative Models*,
#   NeurIPS 28
# - Perez, Strub, de Vries, Dumoulin and Courville 2018, *FiLM: Visual Reasoning with a General Conditioning Layer*,
#   arXiv:1709.07871
# - Burda, Grosse and Salakhutdinov 2016, *Importance Weighted Autoencoders*, arXiv:1509.00519
#   (one-layer VAE: 86.76 nats after 3,280 epochs, with K = 5,000)
#
# **Exercises:** [turn your VAE into one that listens](../exercises/03_class_conditional_mnist.ipynb).
#
# **Next:** [04 · Where does y go?](04_where_does_y_go.ipynb)
