# %% [markdown]
# # 01 · The VAE, and what it cannot do
#
# *How does a VAE work, and why can I not steer it?*
#
# {{ badges }}
#
# **Time:** {{ minutes }} on two CPU cores, most of it four small trainings. **You need:** PyTorch's `nn.Module` and a
# training loop; the normal distribution; expectation as an average over samples.
#
# By the end you can
#
# - derive the loss of a VAE and build one in about 40 lines;
# - say why gradients go through a *reparameterised* sample, with numbers;
# - spot the commonest bug in public VAE code, and compute which model it trains instead;
# - say what a VAE cannot do, and what that costs.

# %% tags=["install"]
# {{ install }}

# %%
import math

import torch
import torch.nn.functional as F
from torch import nn

from cvae_lib import data, evaluation, pretrained
from cvae_lib.course import figures, records
from cvae_lib.model import CVAE, CVAEConfig
from cvae_lib.training import fit

torch.manual_seed(0)
train, test = data.digits("train"), data.digits("test")
print(
    f"{train.name}: {len(train)} training and {len(test)} test images of shape {train.image_shape}"
)

# %% [markdown]
# ## A story about how images come to be
#
# Suppose every image began as a short list of numbers $z$: how round, how slanted, which strokes. First
# $z \sim p(z) = \mathcal N(0, I)$ is drawn; then each pixel is switched on with a probability that a network, the
# **decoder**, computes from $z$. That story is a distribution over images:
#
# $$p(x) = \int p(x \mid z)\, p(z)\, dz. \tag{1.1}$$
#
# To fit the decoder we would raise $\log p(x)$ on real images. The integral is in the way. Why not just average over
# samples of $z$? Because almost no $z$ leads to a *given* image. Watch the average for one image under a decoder whose
# story is known exactly: two latents, sixteen pixels, $x = Wz + \text{noise}$.

# %%
torch.manual_seed(0)
weights, noise = torch.randn(16, 2), 0.1
x = weights @ torch.tensor([1.5, -1.0]) + noise * torch.randn(16)  # one image, (16,)
exact = torch.distributions.MultivariateNormal(
    torch.zeros(16), weights @ weights.T + noise**2 * torch.eye(16)
)
print(f"exact log p(x) = {exact.log_prob(x):.1f}")
for samples in (10, 1_000, 100_000):
    z = torch.randn(samples, 2)  # (K, 2)
    log_p = torch.distributions.Normal(z @ weights.T, noise).log_prob(x).sum(1)  # (K,)
    print(
        f"average over {samples:>7,} samples of the prior: {log_p.logsumexp(0) - math.log(samples):.1f}"
    )

# %% [markdown]
# (A density can exceed 1, so a log-density can be positive.) Ten samples miss entirely, and a thousand depend on whether a
# lucky one came close. Two latents already need many samples; with thirty, no affordable number would do. The way out: learn
# *where to look*.

# %% [markdown]
# ## A bound that can be computed
#
# Let a second network, the **encoder**, look at $x$ and propose a small cloud of latents
# $q(z \mid x) = \mathcal N(\mu(x), \operatorname{diag} \sigma^2(x))$. Multiply and divide by it inside the integral, and
# use that the logarithm of an average is at least the average of the logarithms (Jensen):
#
# $$\log p(x) = \log \mathbb E_{q}\!\left[\frac{p(x \mid z)\,p(z)}{q(z \mid x)}\right] \;\ge\;
# \mathbb E_{q}\big[\log p(x \mid z)\big] - \mathrm{KL}\big(q(z \mid x) \,\|\, p(z)\big). \tag{1.2}$$
#
# Inside the average the logarithm splits into $\log p(x \mid z) + \log p(z) - \log q(z \mid x)$. The last two average to minus
# $\mathrm{KL}(q \,\|\, p) = \mathbb E_q[\log q - \log p] \ge 0$, the *Kullback–Leibler divergence*: how far $q$ departs from $p$.
#
# The right side is the **evidence lower bound**, ELBO. Minus its first term is the *distortion*: the cost of the pixels
# once $z$ is known. The second is the *rate*: the cost of saying which $z$. Costs are in *nats*, bits for natural
# logarithms. What a VAE (a *variational autoencoder*) minimises is $-\mathrm{ELBO} = \text{distortion} + \text{rate}$. What Jensen
# takes away is exactly $\mathrm{KL}(q(z \mid x) \,\|\, p(z \mid x))$; chapter 02 shows it.
#
# For two Gaussians the rate needs no samples:
#
# $$\mathrm{KL}\big(\mathcal N(\mu, \operatorname{diag} \sigma^2) \,\|\, \mathcal N(0, I)\big) =
# \frac12 \sum_{d=1}^{D} \big(\mu_d^2 + \sigma_d^2 - 1 - \log \sigma_d^2\big). \tag{1.3}$$


# %%
def gaussian_kl(mean, log_variance):  # (B, D), (B, D)
    return 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(1)  # (B,)


mean, log_variance = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, math.log(0.25)]])
q = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
sampled = (
    (q.log_prob(z := q.sample((100_000,))) - torch.distributions.Normal(0, 1).log_prob(z))
    .sum(-1)
    .mean()
)
print(
    f"formula (1.3): {gaussian_kl(mean, log_variance).item():.4f} nats;  100,000 samples: {sampled.item():.4f}"
)

# %% [markdown]
# ## How does a gradient get through a random draw?
#
# The distortion is an average over draws from $q$, and $q$ depends on the encoder's weights. There are two ways to
# differentiate such an average. Write $f(z)$ for what is averaged.
#
# $$\nabla_\mu \mathbb E_{\mathcal N(\mu, \sigma^2)}[f(z)] \;=\;
# \underbrace{\mathbb E\big[f(z)\, \nabla_\mu \log q(z)\big]}_{\text{score function}} \;=\;
# \underbrace{\mathbb E\big[\nabla_z f(z)\big|_{z = \mu + \sigma \epsilon}\big]}_{\text{reparameterised}} \tag{1.4}$$
#
# The score function only asks *how good* a draw was. Reparameterising, $z = \mu + \sigma\epsilon$ with
# $\epsilon \sim \mathcal N(0, 1)$, asks *in which direction it would have been better*.
#
# (For $\sigma$ it goes the same way.) **Predict first.** Both are right on average. With $f(z) = \sum_d (z_d - 2)^2$ in $D$
# dimensions, at $\mu = 0$ and $\sigma = 1$, how do their variances grow with $D$?
#
# <details><summary>Answer</summary>
# The reparameterised gradient of one entry only involves that entry: its variance does not grow at all. The score
# function multiplies by all of f, whose size grows with D: its variance grows like D squared once D is large.
# </details>

# %%
dimensions, spread = [1, 2, 4, 8, 16, 32], {"score function": [], "reparameterised": []}
for d in dimensions:
    noise = torch.randn(
        20_000, d, generator=torch.Generator().manual_seed(d)
    )  # mu = 0, sigma = 1, so z = noise
    score = ((noise - 2) ** 2).sum(1) * noise[:, 0]  # f(z) * (z_0 - mu_0)
    path = 2 * (noise[:, 0] - 2)
    spread["score function"].append(score.var().item())
    spread["reparameterised"].append(path.var().item())
    print(
        f"D = {d:>2}: means {score.mean():.2f} and {path.mean():.2f} (exact: -4), "
        f"variance ratio {score.var() / path.var():,.0f}"
    )
figures.curves(
    spread,
    "Variance of two gradient estimators against the dimension, on a logarithmic scale. The score "
    "function's grows steeply, the reparameterised one's stays at 4.",
    x=dimensions,
    x_label="dimension D",
    log_x=True,
    y_label="variance of the gradient",
    log_y=True,
)

# %% [markdown]
# *Figure 1.1. Variance of one gradient entry, 20,000 draws. For this $f$, at $D = 32$, one reparameterised draw is worth
# thousands of plain score-function draws; there even the mean of 20,000 is visibly off. Subtracting a baseline narrows the
# gap, and does not close it.*

# %% [markdown]
# ## Forty lines
#
# All of it by hand, with a latent of only two numbers so that it can be drawn. Note the reductions: **sum** over pixels,
# **sum** over latents, mean over images, and only there.


# %%
class VAE(nn.Module):
    def __init__(self, latents=2):
        super().__init__()
        self.encode = nn.Sequential(
            nn.Linear(784, 400),
            nn.SiLU(),
            nn.Linear(400, 200),
            nn.SiLU(),
            nn.Linear(200, 2 * latents),
        )
        self.decode = nn.Sequential(
            nn.Linear(latents, 200), nn.SiLU(), nn.Linear(200, 400), nn.SiLU(), nn.Linear(400, 784)
        )

    def terms(self, x):  # (B, 784)
        mean, log_variance = self.encode(x).chunk(2, dim=1)  # (B, D) each
        z = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)  # (B, D)
        logits = self.decode(z)  # (B, 784)
        distortion = F.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(1)  # (B,)
        return distortion, gaussian_kl(mean, log_variance)


# %%
def train_by_hand(model, images, epochs):
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-3)
    history = {"distortion": [], "rate": [], "-ELBO": []}
    for _ in range(epochs):
        sums = torch.zeros(2)
        for x, _, _ in images.batches(256, pixels="stochastic"):
            distortion, rate = model.terms(x.flatten(1))
            loss = (distortion + rate).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            sums += torch.stack([distortion.sum(), rate.sum()]).detach()
        for name, value in zip(history, [*sums, sums.sum()], strict=True):
            history[name].append(value.item() / len(images))
    return history


# %% [markdown]
# `images.batches` shuffles, and draws each pixel as 0 or 1 with its grey level as the probability, anew every time
# (*dynamic binarisation*): the decoder says how probable a 1 is in each pixel, so it should be given ones and zeros.

# %%
torch.manual_seed(0)
vae = VAE(latents=2)
history = train_by_hand(vae, train, epochs=12)
print(
    f"{sum(p.numel() for p in vae.parameters()):,} parameters; last epoch -ELBO {history['-ELBO'][-1]:.1f} nats"
)
figures.curves(
    history,
    "Distortion and rate over 12 epochs: distortion falls from about 185 to about 137 nats while "
    "the rate rises slowly from about 4 to about 6.",
    x_label="epoch",
    y_label="nats per image",
)

# %% [markdown]
# *Figure 1.2. Distortion falls fast, and the rate creeps up: a nat of rate is spent where it saves more than a nat of
# distortion.*

# %% [markdown]
# ## What has it learned?
#
# **Reconstructions:** encode, take the mean, decode. **Samples:** draw $z$ from the prior and decode.

# %%
with torch.no_grad():
    x = test.pixels(torch.arange(10))  # (10, 1, 28, 28)
    mean, _ = vae.encode(x.flatten(1)).chunk(2, dim=1)
    torch.manual_seed(0)
    images = [
        x,
        vae.decode(mean).sigmoid().view(-1, 1, 28, 28),
        vae.decode(torch.randn(10, 2)).sigmoid().view(-1, 1, 28, 28),
    ]
figures.digit_grid(
    torch.cat(images),
    "Ten test digits, their reconstructions through two numbers, and ten samples. "
    "Some reconstructions turn a 4 into a 9, the 5 into a blur and the last 9 into a 7; some samples lie between two digits.",
    row_labels=["real", "rebuilt", "sampled"],
)

# %% [markdown]
# *Figure 1.3. Two numbers cannot tell every 4 from every 9. Samples are plausible, and some fall between digits. Greys are
# the decoder's probabilities, here and in all figures of drawings.*
#
# **The latent map:** where does each test image go?

# %%
with torch.no_grad():
    means, _ = vae.encode(test.pixels().flatten(1)).chunk(2, dim=1)  # (N, 2)
figures.latent_map(
    means,
    test.labels,
    "Posterior means of the test images in the plane, coloured by digit. 0, 1, 6 and 7 "
    "mostly stand apart; 4 and 9 share one region, and 3, 5 and 8 crowd together.",
)

# %% [markdown]
# *Figure 1.4. Nobody showed the network a label. 0, 1, 6 and 7 mostly stand apart; 4 and 9 share one region, and 3, 5 and 8
# crowd together: neighbours in $z$ must decode to similar pixels. Nothing says which region is whose.*

# %%
steps = torch.distributions.Normal(0.0, 1.0).icdf(torch.linspace(0.03, 0.97, 15))
plane = torch.cartesian_prod(steps.flip(0), steps).flip(
    1
)  # (225, 2): left to right z1, top to bottom -z2
with torch.no_grad():
    decoded = vae.decode(plane).sigmoid().view(-1, 1, 28, 28)
figures.digit_grid(
    decoded,
    "The decoder's image at a 15 by 15 grid of latents: digits change smoothly into one another "
    "across the plane.",
    columns=15,
    size=0.42,
)

# %% [markdown]
# *Figure 1.5. The central part of the plane, decoded: both latents from -1.9 to 1.9, in steps of equal prior probability.
# Between two digits lies a stretch of images that are neither.*

# %% [markdown]
# ## The bug that hides in a reduction
#
# Public VAE code has it again and again. Write the two terms with library functions, and it is easy to **sum** one and **average** the other. The code runs, the
# loss falls, the samples are poor. Compute what it optimises. With $P = 784$ pixels and $D$ latents, dividing the
# distortion by $P$ gives, up to a constant factor, another objective:
#
# $$\frac{\text{distortion}}{P} + \text{rate} \;\propto\; \text{distortion} + \beta\,\text{rate}
# \quad\text{with}\quad \beta = P = 784, \tag{1.5}$$
#
# and in the same way a mean over the latents gives $\beta = 1/D$, and both means give $\beta = P / D$.


# %%
def effective_beta(pixel_reduction, latent_reduction, pixels=784, latents=20):
    distortion_scale = 1 / pixels if pixel_reduction == "mean" else 1
    rate_scale = 1 / latents if latent_reduction == "mean" else 1
    return rate_scale / distortion_scale


for pixel, latent in (("sum", "sum"), ("mean", "sum"), ("sum", "mean"), ("mean", "mean")):
    print(f"pixels {pixel:>4}, latents {latent:>4}: beta = {effective_beta(pixel, latent):g}")

# %% [markdown]
# **Predict first.** You train with $\beta = 784$, and with $\beta = 1/20$. Which one has rate near zero? What do its
# samples look like? And what is wrong with the other one, whose distortion is the lowest of all?
#
# <details><summary>Answer</summary>
# With 784 every nat through z costs 784 nats of pixels: nothing is sent, and every sample is the same grey average. With
# 1/20 the rate is nearly free: codes are placed far from the prior, so reconstructions are sharp, and draws from the prior
# mostly land where no image was encoded.
# </details>
#
# The library's `CVAE` with no classes is the network above with a choice of sizes. The logged loss is distortion plus
# $\beta$ times rate. $-\log p(x)$ is estimated on 1,000 test images by averaging $p(x \mid z)\, p(z) / q(z \mid x)$ over 100 draws
# from the encoder: (1.1) again, now that there is somebody who knows where to look.

# %%
models, rows = {}, []
for name, beta in (("sum, sum", 1.0), ("mean pixels", 784.0), ("mean latents", 1 / 20)):
    torch.manual_seed(0)
    models[name] = CVAE(CVAEConfig(num_classes=0, latent_dim=20, hidden=(256, 256)))
    last = fit(models[name], train, epochs=8, beta=beta, learning_rate=4e-3, log_every=100)
    ll = evaluation.log_likelihood(models[name], test.subset(slice(1000)), samples=100)
    print(
        f"{name:>12}: beta {beta:g}, rate {last.rate[-1]:.1f}, distortion {last.distortion[-1]:.1f}, -log p(x) {-ll.mean:.1f}"
    )
    rows.append(models[name].draw(count=10, generator=torch.Generator().manual_seed(0)))
figures.digit_grid(
    torch.cat(rows),
    "Ten samples each. With both sums: digits. With the mean over pixels: ten times the same "
    "grey blur. With the mean over latents: scribbles.",
    row_labels=list(models),
)

# %% [markdown]
# *Figure 1.6. Three different models, and all three losses went down.* `beta` stands here for what a wrong reduction does. So
# if a repository says "KL weight 0.00025", look at its reductions before you compare: with a mean over 784 pixels that is
# $\beta = 0.2$, with a sum it is $\beta = 0.00025$.

# %% [markdown]
# ## What it cannot do
#
# Now ask the good one for a 7. There is nowhere to ask: $z \sim p(z)$, then $x \sim p(x \mid z)$, and intent appears in
# neither. You can draw, look, and throw away what you did not want (*rejection*). A classifier that had no part in the
# training looks for you; a drawing is *acceptable* if it is read as a 7 with probability at least 0.9.

# %%
judge = pretrained.load_classifier(f"{train.name.lower()}-classifier")
drawn = models["sum, sum"].draw(
    count=5000, generator=torch.Generator().manual_seed(1)
)  # (5000, 1, 28, 28)
with torch.no_grad():
    belief = torch.cat([judge(part) for part in drawn.split(1000)]).softmax(1)  # (5000, 10)
acceptable = (belief >= 0.9).float().mean(0)  # (10,)
needed = 20 / acceptable.clamp_min(1e-4)
print(
    f"{(belief.max(1).values < 0.9).float().mean():.0%} of the drawings are acceptable as no digit at all"
)
print(
    f"twenty acceptable sevens take about {needed[7]:.0f} drawings; the rarest digit takes {needed.max():.0f}"
)
figures.bars(
    needed.tolist(),
    range(10),
    "Drawings needed for twenty acceptable images of each digit: a few hundred each, "
    "different from digit to digit.",
    x_label="digit wanted",
    y_label="drawings needed for 20",
)

# %% [markdown]
# *Figure 1.7. The price of not being able to ask. About half of all drawings are read as no digit at all, and the one that is
# rarest among the accepted need not be rare in the data.*
#
# A conditional model of the same size needs a few dozen drawings. Three seeds, mean ± standard deviation, recorded by
# `benchmarks/studies/rejection.py`; the seconds were measured side by side in one run, and scatter:

# %%
record = records.load("rejection")
print(record["protocol"])
for figure, text in (
    ("rejection_draws_7", "drawings for twenty 7s, by rejection"),
    ("conditional_draws_7", "drawings for twenty 7s, by asking"),
    ("seconds_ratio_7", "seconds, rejection : asking"),
    ("rejection_draws_worst", "drawings for the rarest digit, by rejection"),
):
    print(f"{text:<44} {records.band(record, figure)}")

# %% [markdown]
# With ten balanced classes that is a nuisance. With a thousand classes, or "a thin seven leaning left", or "the other half
# of *this* image", rejection takes impractically long. The next chapter gives intent a place in the mathematics.

# %% [markdown]
# ## Pitfalls
#
# - **Mixing sums and means**: see (1.5). Sum over pixels and latents, mean over the batch last.
# - **Log-variance taken for standard deviation**: $\sigma = \exp(\tfrac12 \log \sigma^2)$; without the half, or without the
#   exponential, the noise has the wrong size, and the formula for the KL no longer matches it.
# - **The sign of the KL**: a loss of distortion *minus* rate rewards leaving the prior, and runs off to infinity.
# - **Sampling without a gradient**: `Normal(mean, std).sample()` cuts the encoder off from the distortion, the rate alone
#   still reaches it, and the code collapses; `rsample()` does not.
# - **One noise for the whole batch**: `torch.randn(D)` in place of `torch.randn_like(mean)` runs, broadcasts, and makes the
#   gradient far noisier.
# - **A sigmoid too many**: `binary_cross_entropy_with_logits` wants logits.

# %% [markdown]
# ## Summary
#
# $$\log p(x) \ge \mathbb E_q[\log p(x \mid z)] - \mathrm{KL}(q(z \mid x) \| p(z)), \qquad
# z = \mu(x) + \sigma(x)\,\epsilon.$$
#
# A VAE learns where to look, so that an impossible integral becomes a bound with two terms. Reparameterising makes its
# gradient quiet enough to train. Both terms are sums in nats, and any other bookkeeping is another $\beta$. The latent
# space orders itself, but no part of it listens to an order.
#
# ## References
#
# - Kingma and Welling 2013, *Auto-Encoding Variational Bayes*, arXiv:1312.6114
# - Rezende, Mohamed and Wierstra 2014, *Stochastic Backpropagation and Approximate Inference in Deep Generative
#   Models*, arXiv:1401.4082
# - Higgins et al. 2017, *beta-VAE* (ICLR)
# - Mohamed, Rosca, Figurnov and Mnih 2020, *Monte Carlo Gradient Estimation in Machine Learning*, arXiv:1906.10652
#
# **Exercises:** [build a VAE out of your own pieces, then make it fail on purpose](../exercises/01_the_vae.ipynb).
#
# **Next:** [02 · The conditional ELBO](02_the_conditional_elbo.ipynb)
