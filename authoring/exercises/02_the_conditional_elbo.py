# %% [markdown]
# # 02 · Exercises
#
# *Take the bound apart with your own hands, and find what it loses.*
#
# {{ badges }}
#
# **Time:** about 100 minutes; nothing is trained for longer than a second. **You need:**
# [chapter 02](../notebooks/02_the_conditional_elbo.ipynb). The KL between two Gaussians comes up twice; 2.1 has its formula.
#
# {{ edition }}
#
# The chapter's laboratory had matrices. Here everything is one number, so that you can follow it on paper: one latent, one
# observation, one condition. A `story` holds its four numbers $a$, $w$, $u$ and $s$:
#
# $$p(z \mid y) = \mathcal N(a y,\, 1), \qquad p(x \mid z, y) = \mathcal N(w z + u y,\, s^2).$$

# %% tags=["install"]
# {{ install }}

# %%
import math
from types import SimpleNamespace

import torch

from cvae_lib.course.checks import check, progress

torch.manual_seed(0)
story = SimpleNamespace(a=0.8, w=1.5, u=-1.0, s=0.5)
x, y = torch.tensor([1.2, -0.4]), torch.tensor([1.0, -1.0])  # two observations, their conditions

# %% [markdown]
# ## 2.1 · The gap of a shifted guess
#
# *By hand · ★☆☆ · 10 minutes*
#
# The true posterior is $\mathcal N({{ 2.1 centre }},\, {{ 2.1 std }}^2)$ and $\log p(x \mid y) = {{ 2.1 log_p }}$ nats. Your encoder has the right width, but
# its centre is off: $q = \mathcal N({{ 2.1 guess }},\, {{ 2.1 std }}^2)$. What is the gap? And what is the ELBO? You may need
# the KL between two Gaussians, as in exercise 1.3:
#
# $$\mathrm{KL}\big(\mathcal N(m, v) \,\|\, \mathcal N(n, w)\big)
# = \frac12 \Big(\log \frac wv + \frac{v + (m - n)^2}{w} - 1\Big).$$
#
# <details><summary>Hint 1</summary>
#
# By (2.3) the gap is a KL, from $q$ to the posterior. With equal widths only one term of the formula is left.
#
# </details>
# <details><summary>Hint 2</summary>
#
# $(\text{shift})^2 / (2 \sigma^2)$. The bound lies below.
#
# </details>

# %% nbgrader={"grade": false, "grade_id": "exercise-2-1", "locked": false, "schema_version": 3, "solution": true, "task": false}
gap, bound = ..., ...
### BEGIN SOLUTION
gap = GIVEN_2_1_shift**2 / (2 * GIVEN_2_1_std**2)
bound = GIVEN_2_1_log_p - gap
### END SOLUTION

# %% nbgrader={"grade": true, "grade_id": "check-2-1", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
check("2.1", gap, bound)

# %% [markdown]
# ## 2.2 · The exact posterior
#
# *Implement · ★★☆ · 20 minutes*
#
# Two things speak about $z$: the prior says "near $a y$, give or take 1", and the observation says "$w z$ is near
# $x - u y$, give or take $s$". Combine them into $p(z \mid x, y)$.
#
# <details><summary>Hint 1</summary>
#
# Precisions (one over variance) add up. The prior's is 1. Seen from $z$, the observation's is $w^2/s^2$.
#
# </details>
# <details><summary>Hint 2</summary>
#
# The mean is the variance times the sum of what each says, weighted by how sure it is: $a y$ from the prior and
# $w (x - u y)/s^2$ from the observation. It is (2.6) with numbers for matrices.
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "exercise-2-2", "locked": false, "schema_version": 3, "solution": true, "task": false}
def posterior(x, y, story):
    """Mean and variance of p(z|x,y).

    x, y: shape (B,). story: has the numbers a, w, u, s. Returns two tensors of shape (B,).
    """
    ### BEGIN SOLUTION
    variance = 1 / (1 + story.w**2 / story.s**2)
    mean = variance * (story.a * y + story.w * (x - story.u * y) / story.s**2)
    return mean, torch.full_like(mean, variance)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-2-2", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check("2.2", posterior)

# %% [markdown]
# ## 2.3 · The ELBO of a Gaussian guess
#
# *Implement · ★★☆ · 20 minutes*
#
# For $q = \mathcal N(m, v)$ the ELBO has a closed form. You need the average of a squared error over a cloud, and the KL
# of 2.1, now to the prior. Include every constant: you want nats, not nats up to something.
#
# <details><summary>Hint 1</summary>
#
# $\mathbb E_q[(x - w z - u y)^2] = (x - w m - u y)^2 + w^2 v$: the error of the centre plus the cloud's own size.
#
# </details>
# <details><summary>Hint 2</summary>
#
# $\mathbb E_q[\log p(x \mid z, y)] = -\frac12 \log(2 \pi s^2) - \frac{(x - w m - u y)^2 + w^2 v}{2 s^2}$, minus
# $\mathrm{KL} = \frac12\big(v + (m - a y)^2 - 1 - \log v\big)$.
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "exercise-2-3", "locked": false, "schema_version": 3, "solution": true, "task": false}
def elbo(x, y, mean, variance, story):
    """The ELBO of q = N(mean, variance), in nats.

    x, y, mean, variance: shape (B,). story: has the numbers a, w, u, s. Returns shape (B,).
    """
    ### BEGIN SOLUTION
    error = (x - story.w * mean - story.u * y) ** 2 + story.w**2 * variance
    fit = -0.5 * math.log(2 * math.pi * story.s**2) - error / (2 * story.s**2)
    kl = 0.5 * (variance + (mean - story.a * y) ** 2 - 1 - variance.log())
    return fit - kl
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-2-3", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check("2.3", elbo)

# %% [markdown]
# Now you hold both sides of (2.3) in your own code. Is your bound tight at your posterior? In this story
# $\log p(x \mid y)$ is known, because $x$ given $y$ is $\mathcal N\big((w a + u) y,\; w^2 + s^2\big)$.

# %% nbgrader={"grade": false, "grade_id": "exercise-2-free", "locked": false, "schema_version": 3, "solution": true, "task": false}
shortfall = ...  # log p(x|y) minus your ELBO at your posterior, shape (2,)
### BEGIN SOLUTION
mean = (story.w * story.a + story.u) * y
log_p = torch.distributions.Normal(mean, (story.w**2 + story.s**2) ** 0.5).log_prob(x)
shortfall = log_p - elbo(x, y, *posterior(x, y, story), story)
### END SOLUTION
None if shortfall is ... else print(f"largest shortfall: {shortfall.abs().max():.6f} nats")

# %% [markdown]
# ## 2.4 · The K-sample bound
#
# *Implement · ★★☆ · 10 minutes*
#
# Given the logarithms of $K$ weights for each of $B$ images, estimate (2.8). Chapter 03 measures its models
# this way. Log-likelihoods of images can be numbers like $-1500$, so watch what `exp` makes of them.
#
# <details><summary>Hint 1</summary>
#
# The logarithm stands outside the average. Try $K = 2$ equal weights on paper: the answer must be the weight itself.
#
# </details>
# <details><summary>Hint 2</summary>
#
# `torch.logsumexp` is a sum inside a logarithm, computed safely. A mean is a sum divided by $K$; what is that after the
# logarithm?
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "exercise-2-4", "locked": false, "schema_version": 3, "solution": true, "task": false}
def k_sample_bound(log_weights):
    """log of the average weight of each image, in nats.

    log_weights: shape (B, K). Returns shape (B,).
    """
    ### BEGIN SOLUTION
    return log_weights.logsumexp(1) - math.log(log_weights.shape[1])
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-2-4", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check("2.4", k_sample_bound)

# %% [markdown]
# ## 2.5 · A diagonal guess at a tilted posterior
#
# *Predict, then measure · ★★☆ · 15 minutes*
#
# The chapter found that too wide costs more than too narrow. What follows for a VAE, whose $q$ is diagonal? Take a
# posterior of two latents that lean on each other, $\mathcal N(0, \Sigma)$ with $\Sigma$ as below. Each latent alone has
# width 1. The best $q = \mathcal N(0, \operatorname{diag}(\sigma^2, \sigma^2))$ climbs the ELBO until
# $\mathrm{KL}(q \,\|\, \text{posterior})$ is smallest.
#
# **Predict.** Will the best $\sigma$ be `"narrower"` than 1, `"the same"`, or `"wider"`?
#
# **Measure.** Find the best $\sigma$, by gradient descent on the KL or by trying many.
#
# <details><summary>Hint 1</summary>
#
# For the prediction, draw a long thin ellipse along the diagonal, and fit a circle to it. What happens where the circle
# sticks out?
#
# </details>
# <details><summary>Hint 2</summary>
#
# `torch.distributions.kl_divergence(MultivariateNormal(zeros, sigma**2 * torch.eye(2)), tilted)` is the KL. Make
# `log_sigma` a tensor with `requires_grad=True` and let Adam lower it for a few hundred steps.
#
# </details>

# %%
from torch.distributions import MultivariateNormal, kl_divergence

tilted = MultivariateNormal(torch.zeros(2), torch.tensor([[1.0, 0.9], [0.9, 1.0]]))

# %% nbgrader={"grade": false, "grade_id": "exercise-2-5a", "locked": false, "schema_version": 3, "solution": true, "task": false}
prediction = ...  # "narrower", "the same" or "wider"
### BEGIN SOLUTION
prediction = "narrower"
### END SOLUTION

# %% nbgrader={"grade": false, "grade_id": "exercise-2-5b", "locked": false, "schema_version": 3, "solution": true, "task": false}
sigma = ...
### BEGIN SOLUTION
log_sigma = torch.zeros((), requires_grad=True)
optimiser = torch.optim.Adam([log_sigma], lr=0.02)
for _ in range(300):
    q = MultivariateNormal(torch.zeros(2), (2 * log_sigma).exp() * torch.eye(2))
    loss = kl_divergence(q, tilted)
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
sigma = log_sigma.exp().item()
### END SOLUTION

# %% nbgrader={"grade": true, "grade_id": "check-2-5", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check("2.5", prediction, sigma)

# %% [markdown]
# ## 2.6 · An estimate that falls silent at the optimum
#
# *Open stretch · ★★★ · 25 minutes*
#
# The chapter held $m$ fixed inside $\log q$, and the noise of the gradient vanished at the posterior. Do it yourself, for
# mean *and* width. Write $\log p(x, z \mid y) - \log q(z)$ for each draw $z = m + \sigma\epsilon$, so that
#
# - its value is what it always was;
# - its gradient in $m$ and in $\log \sigma$ is right on average;
# - at the exact posterior the gradient of **every single draw** is zero.
#
# Then guess its limits: is it also quieter when $q$ is far from the posterior, say 0.3 times as wide? When you pass, the
# check measures that on your estimate.
#
# <details><summary>Hint 1</summary>
#
# $\log q(z)$ depends on $m$ and $\sigma$ twice: through $z$, and through the formula of the density. Averaged over draws,
# the second path contributes nothing. Cut it.
#
# </details>
# <details><summary>Hint 2</summary>
#
# Build `z` with the gradient on. Then evaluate the density of `z` under `Normal(mean.detach(), log_std.detach().exp())`.
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "exercise-2-6", "locked": false, "schema_version": 3, "solution": true, "task": false}
def quiet_elbo(x, y, mean, log_std, eps, story):
    """log p(x,z|y) - log q(z) at z = mean + exp(log_std) * eps, in nats for each draw.

    x, y: shape (1,). mean, log_std, eps: shape (S,). Returns shape (S,).
    """
    ### BEGIN SOLUTION
    Normal = torch.distributions.Normal
    z = mean + log_std.exp() * eps  # (S,)
    joint = Normal(story.w * z + story.u * y, story.s).log_prob(x)
    joint = joint + Normal(story.a * y, torch.ones_like(y)).log_prob(z)
    return joint - Normal(mean.detach(), log_std.detach().exp()).log_prob(z)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-2-6", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check("2.6", quiet_elbo)

# %%
progress(2)

# %% [markdown]
# *Figure E2.1. What you have done of this chapter; it is remembered when you come back.*
#
# **Next:** [03 · Class-conditional MNIST](../notebooks/03_class_conditional_mnist.ipynb)
