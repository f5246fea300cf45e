# %% [markdown]
# # 02 · The conditional ELBO
#
# *Where does y enter the mathematics, and is the bound really a bound?*
#
# {{ badges }}
#
# **Time:** {{ minutes }} on two CPU cores; nothing big is trained. **You need:** chapter 01; the multivariate normal
# distribution; matrix products.
#
# By the end you can
#
# - derive the conditional ELBO in two ways, and name the gap it leaves;
# - check every claim about it in a model where every term is known exactly;
# - say what a better $q$, more samples, and a sampled KL each do to the bound.

# %% tags=["install"]
# {{ install }}

# %%
import math

import torch
from torch.distributions import MultivariateNormal, kl_divergence

from cvae_lib import plots

torch.manual_seed(0)
torch.set_default_dtype(
    torch.float64
)  # sixteen digits, so that an identity can be told from an approximation

# %% [markdown]
# ## One more thing to know
#
# Chapter 01 told a story: draw $z$, then draw $x$ given $z$. Now somebody knows something in advance, $y$: a label, a
# date, the left half of the picture. The story becomes: *given $y$*, draw $z$, then draw $x$ given both.
#
# $$p(x \mid y) = \int p(x \mid z, y)\; p(z \mid y)\; dz \tag{2.1}$$
#
# **Every distribution that saw $x$ or $z$ now also sees $y$.** Nothing is modelled about $y$ itself: it is given, never
# generated. Whether the prior listens to $y$ is a choice. Three graphs:

# %%
plots.graphical_models(
    "Three graphs. VAE: an arrow from z to x. CVAE with a fixed prior: arrows from z to x and from y to x. "
    "CVAE with a conditional prior: also an arrow from y to z. In each, a dashed arrow shows what "
    "the encoder reads to guess z: x, and in the CVAEs y as well."
)

# %% [markdown]
# *Figure 2.1. Solid arrows generate; dashed arrows are the encoder, which guesses $z$ from what is known. Grey nodes
# are observed. Leave $y$ out of the dashed arrows and the guess ignores something that everybody knows.*

# %% [markdown]
# ## First derivation: one inequality
#
# Start from the logarithm of (2.1). In words, line by line: multiply and divide by $q$; read the integral as an average
# over $q$; move the logarithm inside, which can only lower it (Jensen: the logarithm is concave); split the logarithm.
#
# $$\begin{aligned}
# \log p(x \mid y) &= \log \int q(z \mid x, y)\, \frac{p(x \mid z, y)\, p(z \mid y)}{q(z \mid x, y)}\, dz \\
# &= \log \mathbb E_{q}\!\left[ \frac{p(x \mid z, y)\, p(z \mid y)}{q(z \mid x, y)} \right] \\
# &\ge \mathbb E_{q}\!\left[ \log \frac{p(x \mid z, y)\, p(z \mid y)}{q(z \mid x, y)} \right] \\
# &= \underbrace{\mathbb E_{q}[\log p(x \mid z, y)]}_{-\text{distortion}} -
# \underbrace{\mathrm{KL}\big(q(z \mid x, y) \,\|\, p(z \mid y)\big)}_{\text{rate}} \;=\; \mathrm{ELBO}(x, y). \end{aligned} \tag{2.2}$$
#
# It is quick, and it hides how much was lost in the third line.
#
# ## Second derivation: an identity
#
# Bayes' rule says $p(x \mid y) = p(x \mid z, y)\, p(z \mid y) / p(z \mid x, y)$, *whatever $z$ is*. Take logarithms, and
# since the left side does not depend on $z$, average both sides over $z \sim q$. Then add and subtract $\log q$:
#
# $$\log p(x \mid y) \;=\; \mathrm{ELBO}(x, y) \;+\; \mathrm{KL}\big(q(z \mid x, y) \,\|\, p(z \mid x, y)\big). \tag{2.3}$$
#
# Nothing was estimated, so this is an equality. The loss now has a name: **the gap is the distance from $q$ to the true
# posterior.** A KL is never negative, so the ELBO is a bound; it is tight exactly when $q$ is the posterior.

# %% [markdown]
# ## A laboratory where everything is known
#
# With images none of this can be checked: the integral is out of reach. Make everything linear and Gaussian, and every
# term has a formula. Two latents, four observed numbers, three numbers of condition:
#
# $$p(z \mid y) = \mathcal N(A y,\, I), \qquad p(x \mid z, y) = \mathcal N(W z + U y,\, s^2 I). \tag{2.4}$$

# %%
A, W, U, s = torch.randn(2, 3), torch.randn(4, 2), torch.randn(4, 3), 0.7
y = torch.randn(3)
prior = MultivariateNormal(A @ y, torch.eye(2))


def likelihood(z):  # (..., 2) -> distribution over x, (..., 4)
    return MultivariateNormal(z @ W.T + U @ y, s**2 * torch.eye(4))


x = likelihood(prior.sample()).sample()  # the observation, (4,)

# %% [markdown]
# A linear function of a Gaussian is Gaussian, so $x$ given $y$ is too. And conditioning one Gaussian on another gives a
# Gaussian posterior:
#
# $$p(x \mid y) = \mathcal N\big((WA + U)y,\; WW^\top + s^2 I\big), \tag{2.5}$$
#
# $$p(z \mid x, y) = \mathcal N\big(\Sigma\,[W^\top (x - Uy)/s^2 + Ay],\; \Sigma\big), \qquad
# \Sigma = \big(I + W^\top W / s^2\big)^{-1}. \tag{2.6}$$

# %%
log_p = MultivariateNormal((W @ A + U) @ y, W @ W.T + s**2 * torch.eye(4)).log_prob(x)
covariance = torch.linalg.inv(torch.eye(2) + W.T @ W / s**2)  # (2, 2)
posterior = MultivariateNormal(covariance @ (W.T @ (x - U @ y) / s**2 + A @ y), covariance)
print(f"log p(x|y)     = {log_p:.10f}")

# Bayes' rule must give the same number at any z; try a far one.
z = torch.tensor([3.0, -2.0])
print(
    f"by Bayes' rule = {likelihood(z).log_prob(x) + prior.log_prob(z) - posterior.log_prob(z):.10f}"
)

# %% [markdown]
# ## Is it really a bound?
#
# The ELBO of any Gaussian $q = \mathcal N(m, S)$ has a formula as well. Averaging a squared error over a cloud gives the
# error of its centre plus the cloud's own size:
#
# $$\mathrm{ELBO} = \log \mathcal N(x;\, Wm + Uy,\, s^2 I) - \frac{\operatorname{tr}(W S W^\top)}{2 s^2}
# - \mathrm{KL}\big(\mathcal N(m, S) \,\|\, p(z \mid y)\big). \tag{2.7}$$


# %%
def elbo(q):
    spread = torch.trace(W @ q.covariance_matrix @ W.T) / (2 * s**2)
    return likelihood(q.mean).log_prob(x) - spread - kl_divergence(q, prior)


def wrong(shift, scale):  # the exact posterior, moved and stretched
    return MultivariateNormal(posterior.mean + shift, scale**2 * covariance)


for shift, scale in ((0.0, 1.0), (0.5, 1.0), (0.0, 2.0), (0.0, 0.3), (1.0, 0.5)):
    q = wrong(torch.tensor([shift, -shift]), scale)
    gap = kl_divergence(q, posterior)
    print(
        f"shift {shift:.1f}, scale {scale:.1f}: ELBO {elbo(q):8.4f}, gap {gap:7.4f}, "
        f"ELBO + gap - log p = {elbo(q) + gap - log_p:+.0e}"
    )

# %% [markdown]
# Three things to notice. The ELBO never exceeds $\log p(x \mid y)$. In the first row, $q$ is the posterior and nothing is
# lost. And the last column is rounding error: (2.3) is an identity. Not only for these five:

# %%
worst = 0.0
for _ in range(1000):
    root = torch.randn(2, 2)
    q = MultivariateNormal(torch.randn(2), root @ root.T + 0.01 * torch.eye(2))
    worst = max(worst, abs(float(elbo(q) + kl_divergence(q, posterior) - log_p)))
print(
    f"largest violation of (2.3) over 1,000 random q: {worst:.0e}",
    "(below 1e-10)" if worst < 1e-10 else "",
)

# %% [markdown]
# ## Move q and watch
#
# **Predict first.** $q$ starts at the posterior. Which costs more: making it twice as wide, or half as wide?
#
# <details><summary>Answer</summary>
# Twice as wide. Its KL to the posterior is, per latent, (4 - 1)/2 - ln 2 = 0.81 nats, against (1/4 - 1)/2 + ln 2 = 0.32
# for half as wide. This KL punishes q for putting mass where the posterior has none, more than for missing some of it.
# That is why VAE posteriors tend to be too narrow.
# </details>

# %%
stills = [(0.0, 1.0), (0.5, 1.0), (0.0, 2.0), (0.0, 0.5)]
captions = [
    f"ELBO {float(elbo(wrong(torch.tensor([a, -a]), b))):.2f}\ngap "
    f"{float(kl_divergence(wrong(torch.tensor([a, -a]), b), posterior)):.2f}"
    for a, b in stills
]
plots.gaussian_stills(
    posterior,
    [wrong(torch.tensor([a, -a]), b) for a, b in stills],
    captions,
    "Four stills of the plane of z. The posterior's ellipses in grey, q's in blue: exact, shifted, twice as "
    "wide, half as wide. The exact one has gap zero, the twice as wide one the largest of the scaled ones.",
)

# %% [markdown]
# *Figure 2.2. The posterior (grey) and four $q$ (blue). Bound plus gap is the same in every still: $\log p(x \mid y)$.*

# %% [markdown]
# ## Training q closes the gap
#
# An encoder is trained by climbing the ELBO. Here are $m$ and a factor of $S$ as plain parameters, climbing (2.7).
# The climb never sees the posterior. Does it find it?

# %%
m, root = torch.zeros(2, requires_grad=True), torch.eye(2).requires_grad_()
optimiser = torch.optim.Adam([m, root], lr=0.05)
gaps = []
for _ in range(300):
    q = MultivariateNormal(m, root @ root.T)
    gaps.append(kl_divergence(q, posterior).item())
    loss = -elbo(q)
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
print(
    f"gap at the start {gaps[0]:.2f} nats, at the end {gaps[-1]:.0e}; mean off by {(m - posterior.mean).norm():.0e}"
)
plots.curves(
    {"gap": gaps},
    "The gap against the step, on a logarithmic scale: it falls from several nats to almost nothing.",
    x_label="step",
    y_label="KL(q || posterior), nats",
    log_y=True,
)

# %% [markdown]
# *Figure 2.3. By (2.3), raising the ELBO over $q$ at fixed $p$ can only mean approaching the posterior.* In a VAE,
# $q$ must be diagonal and one network serves all images, so a gap remains; its name is still
# $\mathrm{KL}(q \,\|\, p(z \mid x, y))$.

# %% [markdown]
# ## More samples, tighter bound
#
# There is another way to close the gap: keep the wrong $q$, and average $K$ samples *inside* the logarithm.
#
# $$L_K = \mathbb E\left[\log \frac1K \sum_{k=1}^K w_k\right], \qquad
# w_k = \frac{p(x \mid z_k, y)\, p(z_k \mid y)}{q(z_k \mid x, y)},\; z_k \sim q; \qquad
# \mathrm{ELBO} = L_1 \le L_2 \le \dots \le \log p(x \mid y). \tag{2.8}$$


# %%
def log_weights(q, *shape):
    z = q.sample(shape)  # (..., 2)
    return likelihood(z).log_prob(x) + prior.log_prob(z) - q.log_prob(z)  # (...)


q = wrong(torch.tensor([0.5, -0.5]), 1.3)
counts, bounds = [1, 3, 10, 30, 100, 300, 1000], []
for k in counts:
    values = log_weights(q, 2000, k).logsumexp(1) - math.log(k)  # (2000,)
    bounds.append(values.mean().item())
    print(f"K = {k:>4}: {bounds[-1]:.4f} ± {values.std() / 2000**0.5:.4f}   (log p = {log_p:.4f})")
plots.curves(
    {"$L_K$": bounds, "log p(x|y)": [log_p.item()] * len(counts)},
    "The K-sample bound rises from the ELBO towards the "
    "exact log-likelihood, a horizontal line, as K grows from 1 to 1000.",
    x=counts,
    x_label="samples K",
    y_label="nats",
    log_x=True,
)

# %% [markdown]
# *Figure 2.4. The bound rises to $\log p(x \mid y)$.* This is how the course estimates test likelihoods, with $K$ stated. How
# fast it rises depends on how wrong $q$ is: with the exact posterior every weight is the same, and one sample is enough.

# %% [markdown]
# ## A formula or a sample for the KL?
#
# The rate can be computed in closed form or estimated at the same $z$ that the decoder sees. Both are right on average.
# Which one is quieter?
#
# $$\underbrace{\log p(x \mid z, y) - \mathrm{KL}(q \,\|\, p(z \mid y))}_{\text{analytic}} \qquad\text{or}\qquad
# \underbrace{\log p(x \mid z, y) - \log \frac{q(z \mid x, y)}{p(z \mid y)}}_{\text{sampled}}, \qquad z \sim q. \tag{2.9}$$
#
# **Predict first.** The formula has no noise, so the analytic version should win. Always?

# %%
for name, q in (
    ("q far from the posterior", wrong(torch.tensor([1.5, -1.5]), 0.3)),
    ("q exact", posterior),
):
    z = q.sample((100_000,))
    log_x = likelihood(z).log_prob(x)
    analytic, sampled = log_x - kl_divergence(q, prior), log_x + prior.log_prob(z) - q.log_prob(z)
    print(
        f"{name}: ELBO {elbo(q):.3f}; analytic {analytic.mean():.3f}, variance {analytic.var():.3f}; "
        f"sampled {sampled.mean():.3f}, variance {sampled.var():.3g}"
    )

# %% [markdown]
# Away from the posterior the two are close, and the formula may have the edge. At the posterior the sampled version has **no
# variance at all**: by Bayes' rule it is $\log p(x \mid y)$ at every $z$, the noise of the rate cancelling that of the
# distortion. The formula removes only one of the two, and leaves the other's noise standing. For Gaussians the course
# uses the formula, which costs less; for priors without one, the sample serves.

# %% [markdown]
# ## Setting y to nothing
#
# Take the condition away: $A = 0$, $U = 0$. Then (2.1) to (2.9) are those of chapter 01, letter for letter.

# %%
A_y, U_y = A @ y, U @ y
with_y, without_y = (
    MultivariateNormal(W @ a + u, W @ W.T + s**2 * torch.eye(4))
    for a, u in ((A_y, U_y), (0 * A_y, 0 * U_y))
)
plain = MultivariateNormal(torch.zeros(4), W @ W.T + s**2 * torch.eye(4))
print(
    f"log p(x|y) = {with_y.log_prob(x):.4f};  y set to nothing: {without_y.log_prob(x):.4f}, the plain model: {plain.log_prob(x):.4f}"
)

# %% [markdown]
# In the library it is the same class: `CVAEConfig(num_classes=0)` is the VAE.

# %% [markdown]
# ## Pitfalls
#
# - **Leaving $y$ out of $q$.** The bound stays a bound, but $q(z \mid x)$ cannot match $p(z \mid x, y)$: the gap cannot close.
# - **Swapping the arguments of the KL.** $\mathrm{KL}(p \,\|\, q)$ is another number, and no bound follows from it.
# - **Calling the ELBO a likelihood.** It is lower by an unknown gap. Say which one you report, and with which $K$.
# - **Averaging logarithms instead of weights.** $\frac1K \sum_k \log w_k$ estimates the ELBO, however large $K$ is.
# - **float32 for identities.** It carries seven digits; a difference of 1e-5 between two large terms proves nothing.

# %% [markdown]
# ## Summary
#
# $$\log p(x \mid y) = \mathbb E_q[\log p(x \mid z, y)] - \mathrm{KL}(q \,\|\, p(z \mid y)) + \mathrm{KL}(q \,\|\, p(z \mid x, y)).$$
#
# The condition joins every distribution, and the algebra of chapter 01 goes through unchanged. The ELBO falls short of
# the log-likelihood by the KL from $q$ to the true posterior: no more, no less. A better $q$ closes the gap; so do more
# samples inside the logarithm. With nothing for $y$, the CVAE is the VAE.
#
# ## References
#
# - Jordan, Ghahramani, Jaakkola and Saul 1999, *An Introduction to Variational Methods for Graphical Models*,
#   Machine Learning 37
# - Sohn, Lee and Yan 2015, *Learning Structured Output Representation using Deep Conditional Generative Models*,
#   NeurIPS 28
# - Burda, Grosse and Salakhutdinov 2016, *Importance Weighted Autoencoders*, arXiv:1509.00519
# - Roeder, Wu and Duvenaud 2017, *Sticking the Landing*, arXiv:1703.09194
#
# **Next:** [03 · Class-conditional MNIST](03_class_conditional_mnist.ipynb)
