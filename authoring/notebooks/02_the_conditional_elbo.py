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
# - say what a better $q$ and more samples do to the bound, and what a sampled KL does to its noise.

# %% tags=["install"]
# {{ install }}

# %%
import math

import torch
from torch.distributions import MultivariateNormal, kl_divergence

from cvae_lib.course import figures, panels

torch.manual_seed(0)
# Sixteen digits, so that an identity can be told from an approximation.
torch.set_default_dtype(torch.float64)

# %% [markdown]
# ## One more thing to know
#
# Chapter 01 told a story: draw $z$, then draw $x$ given $z$. Now somebody knows something in advance, $y$: a label, a
# date, the left half of the picture. The story becomes: *given $y$*, draw $z$, then draw $x$ given both.
#
# $$p(x \mid y) = \int p(x \mid z, y)\; p(z \mid y)\; dz \tag{2.1}$$
#
# **The likelihood, the encoder and the true posterior now all see $y$; the prior may.** Nothing is modelled about $y$
# itself: it is given, never generated. Three graphs:

# %%
figures.graphical_models(
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
# As in chapter 01, let $q(z \mid x, y)$ be any distribution over $z$ that is positive wherever the integrand is, and write
# $\mathbb E_q$ for an average over draws from it. Start from the logarithm of (2.1). In words, line by line: multiply and divide by $q$; read the integral as an average
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
# $$\begin{aligned} \log p(x \mid y) &= \mathbb E_q\!\left[\log \frac{p(x \mid z, y)\, p(z \mid y)}{q(z \mid x, y)}\right]
# + \mathbb E_q\!\left[\log \frac{q(z \mid x, y)}{p(z \mid x, y)}\right] \\
# &= \mathrm{ELBO}(x, y) + \mathrm{KL}\big(q(z \mid x, y) \,\|\, p(z \mid x, y)\big). \end{aligned} \tag{2.3}$$
#
# No inequality was used, so this is an equality. What was lost now has a name: **the gap is the KL from $q$ to the true
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
# A linear function of a Gaussian is Gaussian, so $x$ given $y$ is too: its mean and covariance are those of
# $Wz + Uy + s\epsilon$. For the posterior, look at $\log p(x \mid z, y) + \log p(z \mid y)$ as a function of $z$: it is
# quadratic, so the posterior is Gaussian, and completing the square reads off its covariance and its mean:
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
# The ELBO of any Gaussian $q = \mathcal N(m, C)$ has a formula as well. Averaging a squared error over a cloud gives the
# error of its centre plus the cloud's own size:
#
# $$\mathrm{ELBO} = \log \mathcal N(x;\, Wm + Uy,\, s^2 I) - \frac{\operatorname{tr}(W C W^\top)}{2 s^2}
# - \mathrm{KL}\big(\mathcal N(m, C) \,\|\, p(z \mid y)\big). \tag{2.7}$$


# %%
def elbo(q):
    spread = torch.trace(W @ q.covariance_matrix @ W.T) / (2 * s**2)
    return likelihood(q.mean).log_prob(x) - spread - kl_divergence(q, prior)


def wrong(shift, scale):  # the exact posterior, moved and stretched
    return MultivariateNormal(posterior.mean + shift, scale**2 * covariance)


for shift, scale in ((0.0, 1.0), (0.5, 1.0), (0.0, 0.3), (1.0, 0.5)):
    q = wrong(torch.tensor([shift, -shift]), scale)
    gap = kl_divergence(q, posterior)
    print(
        f"shift {shift:.1f}, scale {scale:.1f}: ELBO {elbo(q):8.4f}, gap {gap:7.4f}, "
        f"ELBO + gap - log p = {elbo(q) + gap - log_p:+.0e}"
    )

# %% [markdown]
# Three things to notice. The ELBO never exceeds $\log p(x \mid y)$. In the first row, $q$ is the posterior and nothing is
# lost. And the last column is rounding error: (2.3) is an identity. Not only for these four:

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
# ## Four shapes of q
#
# **Predict first.** $q$ starts at the posterior. Which costs more: making it twice as wide, or half as wide?
#
# <details><summary>Answer</summary>
# Twice as wide. Its KL to the posterior is, per latent, (4 - 1)/2 - ln 2 = 0.81 nats, against (1/4 - 1)/2 + ln 2 = 0.32
# for half as wide. This KL punishes q for putting mass where the posterior has little, more than for missing some of it.
# When q cannot match the posterior's shape, it therefore prefers too narrow to too wide.
# </details>

# %%
stills = [(0.0, 1.0), (0.5, 1.0), (0.0, 2.0), (0.0, 0.5)]
captions = [
    f"ELBO {float(elbo(wrong(torch.tensor([a, -a]), b))):.2f}\ngap "
    f"{float(kl_divergence(wrong(torch.tensor([a, -a]), b), posterior)):.2f}"
    for a, b in stills
]
figures.gaussian_stills(
    posterior,
    [wrong(torch.tensor([a, -a]), b) for a, b in stills],
    captions,
    "Four stills of the plane of z. The posterior's ellipses in grey, q's in blue: exact, shifted, twice as "
    "wide, half as wide. The exact one has gap zero, the twice as wide one the largest of the scaled ones.",
)

# %% [markdown]
# *Figure 2.2. The posterior (grey) and four $q$ (blue), as ellipses at one and two standard deviations. Bound plus gap is
# $\log p(x \mid y)$ in every still, up to the rounding of the two numbers.*

# %% [markdown]
# Now move it yourself. The panel starts with a $q$ that is shifted *and* too wide. **Predict first:** which of the two
# mistakes costs more? Mend one, then the other, and try to get above the ceiling.

# %%
panels.bound_panel(posterior, elbo, log_p)

# %% [markdown]
# *Figure 2.3. In a running notebook, a panel: it moves $q$ (blue) over the posterior (grey); the gap is hatched, and thin lines
# lie one nat apart. On a still page, what each slider does while the others are exact: the ELBO touches $\log p(x \mid y)$ once,
# where $q$ is the posterior.*
#
# The shift costs about 1.5 nats, the width about 0.3, and for Gaussians of one shape the two simply add up. The ceiling
# holds whatever you do.

# %% [markdown]
# ## Training q closes the gap
#
# An encoder is trained by climbing the ELBO. Here are $m$ and a factor of $C$ as plain parameters, climbing (2.7).
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
figures.curves(
    {"gap": gaps},
    "The gap against the step, on a logarithmic scale: it falls from 13 nats to rounding error, with a bump wherever the optimiser overshoots.",
    x_label="step",
    y_label="KL(q || posterior), nats",
    log_y=True,
)

# %% [markdown]
# *Figure 2.4. By (2.3), raising the ELBO over $q$ at fixed $p$ is the same as approaching the posterior; the bumps are
# Adam overshooting.* A VAE's $q$ is usually diagonal, the true posterior need not be Gaussian, and one network serves all
# images: three reasons why a gap remains there. Its name is still $\mathrm{KL}(q \,\|\, p(z \mid x, y))$.

# %% [markdown]
# ## More samples, tighter bound
#
# There is another way to narrow the gap: keep the wrong $q$, and average $K$ samples *inside* the logarithm.
#
# $$L_K = \mathbb E\left[\log \frac1K \sum_{k=1}^K w_k\right], \qquad
# w_k = \frac{p(x \mid z_k, y)\, p(z_k \mid y)}{q(z_k \mid x, y)},\; z_k \sim q; \qquad
# \mathrm{ELBO} = L_1 \le L_2 \le \dots \le \log p(x \mid y). \tag{2.8}$$
#
# Why does it rise? The average of $K$ weights always has mean $p(x \mid y)$, and the larger $K$, the less it scatters. The
# logarithm is concave: the less its argument scatters, the less Jensen takes away.


# %%
def log_weights(q, *shape):
    z = q.sample(shape)  # (..., 2)
    return likelihood(z).log_prob(x) + prior.log_prob(z) - q.log_prob(z)  # (...)


counts, short = [1, 3, 10, 30, 100, 300, 1000], {}
for name, q in (
    ("a little too wide", wrong(torch.tensor([0.5, -0.5]), 1.3)),
    ("shifted and too narrow", wrong(torch.tensor([1.0, -1.0]), 0.5)),
):
    short[name] = []
    for k in counts:
        values = log_weights(q, 1000, k).logsumexp(1) - math.log(k)  # (1000,)
        short[name].append((log_p - values.mean()).item())
    print(
        f"{name}: ELBO {elbo(q):.3f}; L_1000 {values.mean():.3f}, standard error "
        f"{values.std() / 1000**0.5:.3f}; log p {log_p:.3f}"
    )

# %%
figures.curves(
    short,
    "How far the K-sample bound falls short of the exact log-likelihood, for K from 1 to 1000, both "
    "axes logarithmic. For the slightly too wide q the shortfall drops from about 1.7 to about 0.002 nats; for the "
    "narrow, shifted one it stays above 2 nats.",
    x=counts,
    x_label="samples K",
    y_label="log p(x|y) - $L_K$, nats",
    log_x=True,
    log_y=True,
)

# %% [markdown]
# *Figure 2.5. More samples narrow the gap. A $q$ that covers the posterior needs few; one that misses part of it needs very
# many, and a thousand are not enough here.* This is how the course estimates test likelihoods, always with $K$ stated.
# $L_K$ is a bound on average; a single estimate may exceed it by luck.

# %% [markdown]
# ## A formula or a sample for the KL?
#
# The rate can be computed in closed form or estimated at the same $z$ that the decoder sees. Both are right on average.
# Which one is quieter?
#
# $$\underbrace{\log p(x \mid z, y) - \mathrm{KL}(q \,\|\, p(z \mid y))}_{\text{analytic}} \qquad\text{or}\qquad
# \underbrace{\log p(x \mid z, y) - \log \frac{q(z \mid x, y)}{p(z \mid y)}}_{\text{sampled}}, \qquad z \sim q. \tag{2.9}$$
#
# **Predict first.** The formula has no noise, so the analytic version should always be the quieter one. Should it?
#
# <details><summary>Answer</summary>
# No. At the exact posterior the sampled version is log p(x|y) at every z, by Bayes' rule: the noise of the rate cancels that
# of the distortion. The formula removes one of the two noises, and leaves the other standing.
# </details>

# %%
for name, q in (
    ("far from the posterior", wrong(torch.tensor([1.5, -1.5]), 0.3)),
    ("q exact", posterior),
):
    z = q.sample((100_000,))
    log_x = likelihood(z).log_prob(x)
    analytic = log_x - kl_divergence(q, prior)
    sampled = log_x + prior.log_prob(z) - q.log_prob(z)
    print(f"{name}: variance {analytic.var():.3f} analytic, {sampled.var():.3g} sampled")

# %% [markdown]
# That is the noise of the *value*. Training uses the *gradient*, and there the matter is subtler. At the exact posterior,
# the gradient in $m$ should be zero. How noisy is it, draw by draw?

# %%
centre = posterior.mean.expand(5000, 2).clone().requires_grad_()  # a copy for each draw: (5000, 2)
z = centre + torch.randn(5000, 2) @ posterior.scale_tril.T
log_joint = likelihood(z).log_prob(x) + prior.log_prob(z)
q = MultivariateNormal(centre, covariance)
versions = {
    "analytic": likelihood(z).log_prob(x) - kl_divergence(q, prior),
    "sampled": log_joint - q.log_prob(z),
    "sampled, m held fixed inside log q": log_joint - posterior.log_prob(z),
}
for name, value in versions.items():
    (gradient,) = torch.autograd.grad(value.sum(), centre, retain_graph=True)  # (5000, 2)
    print(
        f"{name:<35} gradient mean {gradient.mean(0).norm():.2f}, variance {gradient.var(0).sum():.3g}"
    )

# %% [markdown]
# Differentiating the sampled version through $q$'s own parameters leaves noise even at the posterior. Holding them fixed
# inside $\log q$ removes it, and removes nothing else on average (Roeder et al. 2017). The course uses the formula where
# there is one, because it is simple and nearly as good; for priors without one, the sample serves.

# %% [markdown]
# ## Setting y to nothing
#
# Leave $y$ out of every formula above, and (2.1) to (2.9) become chapter 01's: the same integral, the same bound, the same
# gap. (Setting $y = 0$ is something else: zero is a value of $y$ like any other.) In the library it is one class for both:
# `CVAEConfig(num_classes=0)` is the VAE.

# %% [markdown]
# ## Pitfalls
#
# - **Leaving $y$ out of $q$.** The bound stays a bound, but in general $q(z \mid x)$ cannot match $p(z \mid x, y)$, and the
#   gap cannot close. It can if $x$ already determines $y$.
# - **Swapping the arguments of the KL in (2.3).** Averaged over the posterior instead of $q$, the log-weight is an *upper*
#   bound, $\log p(x \mid y) + \mathrm{KL}(p(z \mid x, y) \,\|\, q)$, and it needs draws that we do not have.
# - **Calling the ELBO a likelihood.** It is lower by an unknown gap. Say which one you report, and with which $K$.
# - **Averaging logarithms instead of weights.** $\frac1K \sum_k \log w_k$ estimates the ELBO, however large $K$ is.
# - **float32 for identities.** It carries seven digits; a difference of 1e-5 between two large terms proves nothing.

# %% [markdown]
# ## Summary
#
# $$\log p(x \mid y) = \mathbb E_q[\log p(x \mid z, y)] - \mathrm{KL}(q \,\|\, p(z \mid y)) + \mathrm{KL}(q \,\|\, p(z \mid x, y)).$$
#
# The condition joins the likelihood and the encoder, perhaps the prior, and the algebra of chapter 01 goes through
# unchanged. The ELBO falls short of the log-likelihood by the KL from $q$ to the true posterior: no more, no less. A better
# $q$ closes the gap; more samples inside the logarithm narrow it. With nothing for $y$, the CVAE is the VAE.
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
# **Exercises:** [take the bound apart with your own hands](../exercises/02_the_conditional_elbo.ipynb).
#
# **Next:** [03 · Class-conditional MNIST](03_class_conditional_mnist.ipynb)
