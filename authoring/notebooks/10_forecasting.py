# %% [markdown]
# # 10 · Forecasting
#
# *Condition on the past, and draw futures: are they the right ones?*
#
# {{ badges }}
#
# **Time:** {{ minutes }} on two CPU cores, most of it a dozen short trainings. **You need:** chapters 03 and 06; the observed
# part of chapter 09; quantiles. There are no digits in this chapter, so no MNIST: one series is built in, and the other is weekly
# CO2.
#
# By the end you can
#
# - score a forecast that is a whole distribution, by hand, and say what each score sees;
# - test a forecaster where the truth is known exactly, path by path and branch by branch;
# - show what a point forecast, an ensemble and a set of quantiles each cannot say;
# - forecast from a window with holes;
# - report a result on a real series without fooling yourself with overlapping windows.

# %% tags=["install"]
# {{ install }}

# %%
import copy
import math
from typing import NamedTuple

import torch
from torch import nn

from cvae_lib import data, evaluation
from cvae_lib.conditions import Observed, ObservedCondition
from cvae_lib.course import figures, panels, records
from cvae_lib.datasets import series
from cvae_lib.model import CVAE, CVAEConfig
from cvae_lib.training import fit

torch.manual_seed(0)
train, test = data.forks("train"), data.forks("test", count=2000)
print(f"windows {tuple(train.windows.shape)}, futures {tuple(train.futures.shape)}, to train on")
print(f"windows {tuple(test.windows.shape)}, futures {tuple(test.futures.shape)}, to test on")

# %% [markdown]
# ## A future that forks
#
# You have watched something for 24 steps, $y$, and want to know the next 12, $x$. So far this is chapter 03 with other shapes: a
# condition, and a thing to draw. What is new is that **for every $y$ there is exactly one $x$**. It comes once, and there is no
# second one to compare with. How can anybody tell whether you drew from the right distribution?
#
# Begin with a series whose distribution is known. It swings like a damped pendulum that is pushed at random:
#
# $$s_t = 2 r \cos\big(\tfrac{2\pi}{12}\big)\, s_{t-1} - r^2 s_{t-2} + e_t, \qquad r = 0.96,$$
#
# with Gaussian pushes $e_t$, scaled so that $s$ has variance 1. A window $y$ is 24 steps of it. After three more steps the future
# takes one of two ways, up or down, by a path $b$ that is always the same, and a coin decides. The coin is not fair, and how
# unfair it is can be read off the window: $\pi(y) = \sigma(-1.5 f)$ is the chance of *up*, with $f$ the mean of the last eight
# steps divided by its standard deviation. What has been high lately is more likely to fall. The swing is Gaussian, so it has a
# conditional mean $\mu(y)$, which is linear in $y$, and a conditional covariance $S$, which is the same for all $y$. All together
#
# $$p(x \mid y) = \pi(y)\, \mathcal N\big(x;\, \mu(y) + b,\; S\big) + \big(1 - \pi(y)\big)\, \mathcal N\big(x;\, \mu(y) - b,\; S\big). \tag{10.1}$$
#
# `series.law` knows all four: `chance`, `middle`, `branch`, `covariance`. Three windows of the test set, with futures drawn from
# their law:

# %%
law = series.law(test.windows)
generator = torch.Generator().manual_seed(0)
true = law.sample(199, generator)  # (199, 2000, 12)
chosen = [int((law.chance - chance).abs().argmin()) for chance in (0.2, 0.5, 0.8)]
figures.fans(
    [
        figures.Fan(
            f"chance of up {law.chance[n]:.2f}",
            test.windows[n],
            true[:, n],
            future=test.futures[n],
            paths=20,
            bands=False,
        )
        for n in chosen
    ],
    "Three windows of 24 steps that swing, each with twenty futures of twelve steps. The futures stay together for three "
    "steps and then part into two bundles, with hardly anything between them. On the left few go up, in the middle half, on the right most.",
)

# %% [markdown]
# *Figure 10.1. Black: the window. Blue: twenty futures from its law (10.1). Green: the one that came.*
#
# Around each branch there is noise, and it is not new noise at every step: a future that is above its branch now is likely to be
# so a step later. A good forecaster has to get four things right: where the branches are, how likely each is, how wide, and
# **which values go together**.

# %% [markdown]
# ## Scoring a distribution by one number that came
#
# Take one step of the future, a single number $x$. You forecast a distribution with the cumulative function $F$. The **continuous
# ranked probability score** compares $F$ with the step that jumps from 0 to 1 at $x$:
#
# $$\mathrm{CRPS}(F, x) = \int \big(F(u) - 1[u \ge x]\big)^2 du = \mathbb E|X - x| - \tfrac12\, \mathbb E|X - X'|, \tag{10.2}$$
#
# with $X$ and $X'$ two independent draws from the forecast. Smaller is better, the unit is that of $x$, and for a forecast that
# is one number it is the absolute error. It is *strictly proper*: if $x$ really comes from $G$, then $G$ itself has the lowest
# mean score, and among forecasts of finite mean it alone (Gneiting and Raftery 2007, who write scores with the other sign). The
# right-hand side says how. You pay for being far away, and the second term gives you back what spread alone would make you pay.
#
# Both means are known for normals. With $\varphi$ and $\Phi$ the density and the cumulative function of the standard normal, the
# mean distance of $\mathcal N(d, s^2)$ from zero is $A(d, s)$, and a mixture of weights $w_i$ has the score
#
# $$A(d, s) = d\,\Big(2\Phi\Big(\frac ds\Big) - 1\Big) + 2s\,\varphi\Big(\frac ds\Big), \qquad
# \mathrm{CRPS} = \sum_i w_i A(x - \mu_i, \sigma_i) - \tfrac12 \sum_{i,j} w_i w_j A\Big(\mu_i - \mu_j, \sqrt{\sigma_i^2 + \sigma_j^2}\Big). \tag{10.3}$$


# %%
def distance(d, s):  # E|d + s * noise|
    u = d / s
    density = torch.exp(-(u**2) / 2) / math.sqrt(2 * math.pi)
    return d * torch.erf(u / math.sqrt(2)) + 2 * s * density


def crps_of_law(law, x):  # (N, T)
    up, s = law.chance[:, None], law.scale  # (N, 1), (T,)
    rest = x - law.middle
    miss = up * distance(rest - law.branch, s) + (1 - up) * distance(rest + law.branch, s)
    same, other = (distance(d, math.sqrt(2) * s) for d in (0 * s, 2 * law.branch))
    return miss - 0.5 * ((up**2 + (1 - up) ** 2) * same + 2 * up * (1 - up) * other)


best = crps_of_law(law, test.futures)
weights, means, scales = law.weights[:, None], law.means.mT, law.scale[:, None]
theirs = evaluation.crps_gaussian_mixture(weights, means, scales, test.futures)
print(f"the law's own CRPS: {best.mean():.4f}; largest difference to the library's", end=" ")
print(f"{(best - theirs).abs().max():.0e}")

# %% [markdown]
# **No forecaster can beat that number** by more than luck on these 2,000 windows. It is what the future itself leaves open.
# (Below you will see it estimated from draws, which moves it by some thousandths, and on other windows: the first 300 happen to
# be easier.)
#
# Most forecasters have no formula, and a CVAE has none. They give draws. With $M$ of them the obvious estimate is to average over
# all pairs, $1/M^2$. But $M$ of those pairs are a draw with itself, at distance zero, so the spread comes out too small, and the
# score too large. Leave them out, and it is right on average whatever $M$ is (Ferro 2014 calls it *fair*):
#
# $$\widehat{\mathrm{CRPS}} = \frac1M \sum_i |x_i - x| - \frac{1}{2M(M-1)} \sum_{i,j} |x_i - x_j|. \tag{10.4}$$
#
# **Predict first.** The same law, scored from 2, from 10 and from 100 of its draws, by the obvious estimate. By how much do they
# differ?


# %%
def crps_by_hand(draws, x, fair=True):  # (M, N, T), (N, T)
    M = len(draws)
    miss = (draws - x).abs().mean(0)
    pairs = (draws[:, None] - draws).abs().sum((0, 1))  # each with each, (N, T)
    return miss - pairs / (2 * M * (M - 1 if fair else M))


some, x = slice(300), test.futures[:300]
counts, found = (2, 4, 8, 16, 32, 64), {"all pairs": [], "fair, (10.4)": []}
for count in counts:
    for name, fair in (("all pairs", False), ("fair, (10.4)", True)):
        found[name].append(crps_by_hand(true[:count, some], x, fair).mean().item())
found["exact, (10.3)"] = [best[some].mean().item()] * len(counts)
gap = crps_by_hand(true[:16, some], x) - evaluation.crps(true[:16, some], x)
print(f"from 2 draws {found['all pairs'][0]:.3f}, from 64 {found['all pairs'][-1]:.3f}", end="; ")
print(f"by hand and library differ by {gap.abs().max():.0e} at most")

# %%
figures.curves(
    found,
    "CRPS of the exact law against the number of draws, from 2 to 64. The estimate from all pairs starts far above the "
    "exact value and comes down to it; the fair estimate is close to it from the start.",
    x=counts,
    x_label="draws M",
    y_label="mean CRPS",
)

# %% [markdown]
# *Figure 10.2. One and the same forecast, scored from more and more of its draws.*
#
# <details><summary>Answer</summary>
# The obvious estimate adds $\mathbb E|X - X'| / (2M)$ on average. For the true law the mean of the CRPS itself is
# $\mathbb E|X - X'| / 2$, so the score is too large by the fraction $1/M$: by 50% from two draws, by 10% from ten, by 1% from a
# hundred.
# </details>
#
# Two forecasters scored with different $M$ by the obvious estimate are not compared at all. We use 199 draws, and the fair one.
#
# ### Twelve numbers at once
#
# CRPS looks at one step at a time. Shuffle the draws of each step, so that every path is nonsense, and it does not change. The
# **energy score** replaces the distance of two numbers by that of two paths, and does see it:
#
# $$\mathrm{ES}(F, x) = \mathbb E\lVert X - x \rVert - \tfrac12\, \mathbb E\lVert X - X' \rVert. \tag{10.5}$$
#
# It is strictly proper too. How well it sees dependence is disputed (dimly: Pinson and Tastu 2013; well enough: Ziel and Berk
# 2019). So ask a plain question besides, one whose answer depends on the whole path: what will the *mean* of the twelve steps be?
# That is one number, so CRPS can score it.


# %%
def energy_by_hand(draws, x):  # (M, N, T), (N, T)
    M = len(draws)
    miss = (draws - x).norm(dim=-1).mean(0)
    pairs = (draws[:, None] - draws).norm(dim=-1).sum((0, 1))  # (N,)
    return miss - pairs / (2 * M * (M - 1))


def shuffled(draws):  # each step's draws in an order of their own
    order = torch.rand(draws.shape).argsort(0)
    return draws.gather(0, order)


for name, draws in (("law", true[:64, some]), ("the same, shuffled", shuffled(true[:64, some]))):
    crps, energy = crps_by_hand(draws, x).mean(), energy_by_hand(draws, x)
    total = crps_by_hand(draws.mean(2), x.mean(1)).mean()
    gap = (energy - evaluation.energy_score(draws, x)).abs().max()
    print(f"{name:<19} CRPS {crps:.3f}, energy score {energy.mean():.3f}", end=", ")
    print(f"CRPS of the mean over the path {total:.3f} (library within {gap:.0e})")

# %% [markdown]
# The same CRPS. The energy score is 15% larger, and for the mean of the path the CRPS is 40% larger.
#
# ### Does it keep its promises?
#
# A score ranks forecasters; it does not say what is wrong. The simplest question is whether of the 80% intervals 80% hold the
# number that came. Between which draws does such an interval run? If draws and $x$ come from one distribution, and no two are
# equal, then $x$ is equally likely to fall into any of the $M + 1$ gaps between the $M$ sorted draws (count in which one, over
# many windows, and you have the rank histogram that you will meet elsewhere). So
#
# $$P\big(x \le x_{(k)}\big) = \frac{k}{M + 1}. \tag{10.6}$$
#
# With $M = 199$ the central 80% runs from the 20th draw to the 180th. That is one reason for the odd number.


# %%
def share_inside(draws, x, level):  # (M, N, T), (N, T)
    M = len(draws)
    k = round((1 - level) / 2 * (M + 1))
    assert k >= 1, "so few draws reach no further than their lowest and highest"
    ordered = draws.sort(0).values
    inside = (ordered[k - 1] <= x) & (x <= ordered[M - k])
    return inside.float().mean().item()


mine = [share_inside(true, test.futures, level) for level in (0.5, 0.8, 0.95)]
print("by hand:", *(f"{share:.1%}" for share in mine))
for interval in evaluation.interval_coverage(true, test.futures):
    print("library:", interval)

# %% [markdown]
# Coverage alone is cheap: always answer with the same wide interval, and it can be perfect. That is why the library prints the
# width beside it. The rule is **sharp, as far as calibrated** (Gneiting, Balabdaoui and Raftery 2007), and the proper scores
# weigh the two.

# %% [markdown]
# ## One number
#
# The usual forecaster is a network and a squared error. It reads the window. A value may be missing, so it reads two rows, as in
# chapter 09: the values, with zeros where they are not known, and the mask that says where. For now nothing is missing.


# %%
class Cut(NamedTuple):  # a series, cut into windows and what followed
    windows: torch.Tensor  # (N, W)
    mask: torch.Tensor  # (N, W), true where a value is known
    futures: torch.Tensor  # (N, T)


def seen(windows, mask):  # (B, W) each
    return torch.cat([torch.where(mask, windows, 0.0), mask.float()], dim=1)  # (B, 2W)


def whole(forks):
    return Cut(forks.windows, torch.ones_like(forks.windows).bool(), forks.futures)


known, unseen = whole(train), whole(test)


# %%
def trained(cut, outputs, loss, seed=0, epochs=20, held=None):
    torch.manual_seed(seed)
    inputs, horizon, width = 2 * cut.windows.shape[1], cut.futures.shape[1], 128
    first, last = nn.Linear(inputs, width), nn.Linear(width, outputs * horizon)
    net = nn.Sequential(first, nn.SiLU(), nn.Linear(width, width), nn.SiLU(), last)
    optimiser = torch.optim.Adam(net.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs)
    best, kept = math.inf, None
    for _ in range(epochs):
        for rows in torch.randperm(len(cut.windows)).split(256):
            optimiser.zero_grad()
            loss(net(seen(cut.windows[rows], cut.mask[rows])), cut.futures[rows]).backward()
            optimiser.step()
        schedule.step()
        if held is not None:  # keep the weights that are best on windows held out
            with torch.no_grad():
                now = loss(net(seen(held.windows, held.mask)), held.futures).item()
            if now < best:
                best, kept = now, copy.deepcopy(net.state_dict())
    if kept is not None:
        net.load_state_dict(kept)
    return net


# %% [markdown]
# **Predict first.** Look at the middle window of Figure 10.1, the one with an even chance. Where will the network's forecast run?
# And which of the three forecasts is of any use?


# %%
def squares(out, x):
    return (out - x).square().mean()


members = [trained(known, 1, squares, seed) for seed in range(5)]  # one now, five for later
with torch.no_grad():
    ensemble = torch.stack([net(seen(*unseen[:2])) for net in members])  # (5, 2000, 12)
point = ensemble[0]

# %%
figures.fans(
    [
        figures.Fan(
            f"chance of up {law.chance[n]:.2f}",
            test.windows[n],
            true[:, n],
            paths=20,
            bands=False,
            lines={"point forecaster": point[n], "mean of the law": law.mean[n]},
        )
        for n in chosen
    ],
    "The three windows again, with a thick dashed line, the point forecast, and a dotted one, the mean of the law, which "
    "lie almost on each other. In the middle panel they run between the two bundles, where hardly any future goes; in the others they run along the inner edge "
    "of the likelier bundle.",
)

# %% [markdown]
# *Figure 10.3. The network has learned the mean of the law, and learned it well. In the middle hardly any future comes near it.*
#
# <details><summary>Answer</summary>
# Through the middle of the gap. On the left and right it runs at the inner edge of the likelier bundle: of some use four times in
# five, and far off the fifth time.
# </details>
#
# It is no accident, and no lack of training. For any forecast $a$ of one number
#
# $$\mathbb E\big[(x - a)^2 \mid y\big] = \operatorname{Var}(x \mid y) + \big(a - \mathbb E[x \mid y]\big)^2, \qquad
# \mathbb E[x \mid y] = \mu(y) + \big(2\pi(y) - 1\big)\, b. \tag{10.7}$$
#
# **The squared error asks for the mean, and the mean is a path that hardly ever happens.** How badly, the law can say itself:

# %%
even = (law.chance - 0.5).abs() < 0.1
for name, forecast in (
    ("point forecast", point),
    ("upper branch, always", law.middle + law.branch),
):
    off = (forecast - test.futures)[:, -1]
    close = (off[even].abs() < 0.5).float().mean()
    print(
        f"{name:<20}: root mean square error at the last step {off.square().mean().sqrt():.2f}",
        end=";",
    )
    print(f" with a chance near 1/2, {close:.0%} of the futures come within 0.5 of it")

# %% [markdown]
# By the error it was trained on the point forecast is the better one by far. But always to say "up" would come close to what
# happens, every fourth time; the point forecast hardly ever does.
#
# Two repairs come to mind, and both are in wide use. **Add past errors:** forecast the mean, then add the errors the network made
# on 2,000 windows it was not trained on, whole paths of them, drawn at random. And an **ensemble**: train five networks from
# different starts, and take their disagreement for the uncertainty. Hold them against what the law says:


# %%
def table(name, draws):  # (M, N, T)
    report = evaluation.forecast_report(draws, test.futures)
    total = evaluation.crps(draws.mean(2), test.futures.mean(1)).mean()
    off = (draws - law.middle) / law.branch[-1]  # the branches are at 1 and -1
    between = (off[..., -1].abs() < 0.4).float().mean()
    switching = (off[..., 7].sign() != off[..., -1].sign()).float().mean()
    held = (f"{c.share:4.0%}" if c.nominal >= c.level else "   -" for c in report.coverage)
    inside = " ".join(held)  # a dash where so few draws do not reach so far
    print(f"{name:<20} {report.crps.mean:.3f}  {report.energy.mean:.3f}  {total:.3f}", end="   ")
    print(f"{inside}    {between:5.1%}  {switching:6.1%}")


# %%
with torch.no_grad():
    spare = whole(data.forks("train", count=2000, seed=1))  # windows that no network has seen
    errors = spare.futures - members[0](seen(*spare[:2]))
dressed = point + errors[torch.randint(len(errors), (199, len(point)))]  # (199, 2000, 12)
now = test.windows[:, -1:].expand_as(point)
print("                      CRPS  energy  of mean  50%  80%  95%   between  switching")
for name, draws in (
    ("law", true),
    ("persistence", now.expand(2, -1, -1)),
    ("point forecaster", point.expand(2, -1, -1)),
    ("ensemble of five", ensemble),
    ("point + past errors", dressed),
):
    table(name, draws)

# %% [markdown]
# Persistence says that everything stays as it is now. (A point forecast goes in as two equal draws, whose CRPS is the absolute
# error. An interval has a figure only where the draws reach so far: five of them promise 67% from the lowest to the highest, by
# (10.6).) *Between* is the share of draws that end near the middle, at less than 0.4 of the way to either branch; *switching* the
# share that is above the middle at step 8, when the fork is over, and below it at step 12, or the other way round.
#
# **Point forecaster.** Part of its bad score is a mismatch: it was trained on squares and is judged by absolute error, for which
# the median would be best. The median sits in the likelier branch. It would still be one path.
#
# **Ensemble.** The five members agree, and are wrong together: **their disagreement says what the networks do not know about the
# mean. It says nothing of what the future leaves open.**
#
# **Past errors.** Look at that row again: 50%, 80% and 95% hold what they promise, and a forecast that is wrong for nearly every
# window has perfect coverage! Its errors were made on windows of all chances. Pooled, they have lost the fork: one broad hump
# around the mean, the same for every $y$, with a quarter of its draws in the gap. Coverage on average is not coverage for *this*
# $y$.

# %% [markdown]
# ## Many numbers
#
# Ask for quantiles then. The loss that asks for the quantile of level $\tau$ is lopsided, the **pinball**, and the mean pinball
# over all levels is half the CRPS:
#
# $$\rho_\tau(x - a) = \max\big(\tau (x - a),\; (\tau - 1)(x - a)\big), \qquad \mathrm{CRPS}(F, x) = 2 \int_0^1 \rho_\tau\big(x - F^{-1}(\tau)\big)\, d\tau. \tag{10.8}$$
#
# So a network with 39 outputs a step, from 2.5% to 97.5%, is trained on the very thing it is scored by, and assumes little about
# the shape. **Predict first.** Will its CRPS be near the law's? Its coverage? Its energy score?

# %%
levels = torch.linspace(0.025, 0.975, 39)


def pinball(out, x):  # (B, T * 39), (B, T)
    off = x[..., None] - out.unflatten(1, (-1, len(levels)))  # (B, T, 39)
    return torch.maximum(levels * off, (levels - 1) * off).mean()


def from_quantiles(out, count=199):  # one uniform number for each step of each draw
    ends = out.unflatten(1, (-1, len(levels))).sort(-1).values  # crossed quantiles, put in order
    place = torch.rand(count, *ends.shape[:2]) * 40 - 1
    low = place.clamp(0, 37.999).long()
    ends = ends.expand(count, -1, -1, -1)
    ends = [ends.gather(-1, (low + i)[..., None])[..., 0] for i in (0, 1)]
    return torch.lerp(*ends, (place - low).clamp(0, 1))


quantiles = trained(known, 39, pinball)
with torch.no_grad():
    drawn = from_quantiles(quantiles(seen(*unseen[:2])))
print("                      CRPS  energy  of mean  50%  80%  95%   between  switching")
table("law", true)
table("quantile regressor", drawn)

# %% [markdown]
# <details><summary>Answer</summary>
# CRPS close to the law's, and honest intervals at every step. The energy score is far off.
# </details>
#
# Step by step it is nearly right. (Not quite: one draw in nine ends in the gap. Between its two nearest quantiles, one on either
# branch, the sampler draws a straight line, and so it does not know how empty the gap is. And beyond its outermost levels the
# tails are cut.) But it was never told which quantile of step 8 goes with which of step 12, and a path needs that. Drawn
# independently, **more than a third of its paths change branches after the fork**, which futures hardly ever do, and the mean
# over the path is far too sure of itself: what goes up and down at random cancels.

# %%
n = chosen[1]
figures.fans(
    [
        figures.Fan("law", test.windows[n], true[:, n], paths=8),
        figures.Fan("quantile regressor", test.windows[n], drawn[:, n], paths=8),
    ],
    "One window with an even chance, twice, with bands and eight draws. On the left, from the law, draws follow one branch or the other. On the right, "
    "from the quantile regressor, the bands are the same and the draws jump from branch to branch at every step.",
    columns=2,
)

# %% [markdown]
# *Figure 10.4. Bands that agree, and paths that do not.* One can repair that afterwards, by taking ranks from past paths (a
# copula); then the dependence is that of the past on average, and not that of $y$. And look at the bands: **a band cannot show a
# fork.** The darkest part of the picture is where almost no future goes. Whoever has to decide needs the paths.

# %% [markdown]
# ## Futures
#
# The CVAE draws a path at a time. There is nothing new in it: the condition is what is known of the window,
# $c = [m \odot y,\, m]$ with the mask $m$; the prior $p(z \mid c)$ is learned, as in chapter 06; the likelihood is Gaussian, with
# a scale for every step from the decoder. To forecast is to draw twice:
#
# $$p_{\theta,\psi}(x \mid c) = \int p_\theta(x \mid z, c)\, p_\psi(z \mid c)\, dz: \qquad z \sim p_\psi(z \mid c), \quad x \sim p_\theta(x \mid z, c). \tag{10.9}$$
#
# In training we hide values: in half of the windows some at random, each window with a share of its own, and in a quarter the
# last ones. So one network learns many masks. To the library a future is a vector of real numbers, and a window with its mask
# an image of one row.


# %%
def told(windows, mask):  # (B, W) each
    return Observed(windows[:, None, None], mask[:, None, None])  # an image of one row


def some_hidden(mask):
    share = 0.6 * torch.rand(len(mask), 1) * (torch.rand(len(mask), 1) < 0.5)
    late = torch.randint(1, 17, (len(mask), 1)) * (torch.rand(len(mask), 1) < 0.25)
    on_time = torch.arange(mask.shape[1]) < mask.shape[1] - late
    return mask & on_time & (torch.rand(mask.shape) >= share)


# %%
def cvae(cut, prior, steps, width=128, hide=some_hidden, **settings):
    torch.manual_seed(0)
    shape = {"event_shape": (cut.futures.shape[1],), "latent_dim": 8, "condition_at": "every"}
    shape |= {"hidden": (width, width), "prior": prior, "components": 4, "likelihood": "real"}
    window = ObservedCondition((1, 1, cut.windows.shape[1]), flat=True)
    model = CVAE(CVAEConfig(**shape), condition=window)

    def y(batch):
        return told(cut.windows[batch.index], hide(cut.mask[batch.index]))

    plan = {"steps": steps, "learning_rate": 4e-3, "precision": "float32", "seed": 0}
    fit(model, cut.futures, y=y, log_every=10**6, **plan, **settings)
    return model.eval()


# %%
@torch.no_grad()
def paths(model, y, count=199):
    z = model.prior(y).sample((count,))  # (count, B, D)
    parts = [model.likelihood(some, y).sample() for some in z.split(20)]  # for the memory's sake
    return torch.cat(parts)  # (count, B, T)


# %% [markdown]
# Two of them, alike but for the prior: one Gaussian, or a mixture of four (two would do for a fork, but the model is not told
# that there is one). **Predict first.** Latents are Gaussian, and the future forks. What will the first one do about it, and
# where will it show?

# %%
models = {prior: cvae(known, prior, 2000) for prior in ("gaussian", "mixture")}
y = told(*unseen[:2])
drawn = {prior: paths(model, y) for prior, model in models.items()}

# %%
print("                      CRPS  energy  of mean  50%  80%  95%   between  switching")
table("law", true)
for prior, draws in drawn.items():
    table(f"CVAE, {prior}", draws)

# %%
n = chosen[1]
figures.fans(
    [
        figures.Fan("law", test.windows[n], true[:, n], paths=20, bands=False),
        *(
            figures.Fan(f"CVAE, {prior} prior", test.windows[n], draws[:, n], paths=20, bands=False)
            for prior, draws in drawn.items()
        ),
    ],
    "The window with an even chance, three times, with twenty draws each: from the law in two bundles, from the CVAE with a Gaussian prior as a fan with paths "
    "all over the gap at the end, from the CVAE with a mixture prior in two bundles again, with one or two strays.",
)

# %% [markdown]
# *Figure 10.5. Twenty draws each.*
#
# <details><summary>Answer</summary>
# z is one connected hill, so the decoder has to cut it: on one side of a line the paths go up, on the other down. It is smooth,
# so the cut has a width, and the z in it give paths between the branches.
# </details>
#
# A Gaussian prior can leave a share of its draws in the gap, and does. **A mixture has its humps in $p(z \mid c)$ already**:
# there the weights can be the chances, and no decoder has to cut anything.
#
# ### Both branches, in the right proportion?
#
# The hardest of the four things: is *this* window's chance right? Sort the windows by their true chance into five groups, and
# count draws.

# %%
fifth = (5 * law.chance).long().clamp(max=4)
asked = [law.chance[fifth == k].mean().item() for k in range(5)]
went = {}
for name, draws in {
    "law": true,
    "CVAE, Gaussian": drawn["gaussian"],
    "CVAE, mixture": drawn["mixture"],
}.items():
    up = (draws - law.middle)[..., -1] > 0  # (199, 2000)
    share = up.float().mean(0)
    went[name] = [share[fifth == k].mean().item() for k in range(5)]
    rough = (share - law.chance).square().mean().sqrt()
    off = max(abs(a - b) for a, b in zip(went[name], asked, strict=True))
    print(f"{name:<15} {up.float().mean():.3f} go up (chance {law.chance.mean():.3f});", end=" ")
    print(f"worst group off by {off:.3f}; window by window {rough:.3f} (root mean square)")

# %%
figures.curves(
    went,
    "The share of draws that go up against the true chance, in five groups from 0.1 to 0.9. The law is the diagonal; the CVAE with the mixture "
    "prior lies on it, that with the Gaussian prior is flatter, too high on the left and too low on the right.",
    x=asked,
    x_label="chance of up, by the law",
    y_label="share of draws that go up",
)

# %% [markdown]
# *Figure 10.6. How often each CVAE goes up, and how often it should.*
#
# Over all windows together both go up as often as they should, to the third digit. Yet the Gaussian prior pulls every chance
# towards one half: the marginal check passes, and the conditional one fails. The mixture passes both. (The law's own row says how
# much of "window by window" is counting 199 draws: 0.03.)
#
# ### Is y used? Is z used?

# %%
for prior, model in models.items():
    print(f"{prior}: {evaluation.is_y_used(model, (test.futures, y))}")
    print(f"{'':<{len(prior)}}  {evaluation.is_z_used(model, (test.futures, y))}")
    bound = evaluation.log_likelihood(model, (test.futures, y), samples=100)
    exact = law.log_prob(test.futures).mean()
    print(f"{'':<{len(prior)}}  log p(x|y) at least {bound} nats; the law's {exact:.2f}")

# %% [markdown]
# Both are. (The steps are no pixels, and the changes are in units of the series; a $z$ of another window is drastic here, since
# the decoder's noise is small. A ± is one standard error over windows, which are independent here.) The likelihood is the
# strictest judge: at a few per cent of CRPS both models are up to two nats from the law. Up to, because the figure is a bound
# from 100 samples. CRPS forgives what is small in the unit of the series; the logarithm forgives nothing.
#
# ### Over seeds
#
# Everything above is one run. The record has three of each, on all 5,000 test windows; its plain networks saw windows with holes
# too.

# %%
record = records.load("forecasting")
names = {"law": "truth", "persistence": "persistence", "point forecaster": "point"}
names |= {"ensemble of five": "ensemble", "point + past errors": "errors"}
names |= {
    "quantile regressor": "quantiles",
    "CVAE, Gaussian": "gaussian",
    "CVAE, mixture": "mixture",
}


def over_seeds(task, names, figure):
    return {
        name: [run[f"{task}_{key}_{figure}"] for run in record["runs"]]
        for name, key in names.items()
    }


# %%
shown = {name: key for name, key in names.items() if name != "persistence"}  # far off to the right
figures.seed_dots(
    {
        "CRPS": over_seeds("known", shown, "crps"),
        "energy score": over_seeds("known", shown, "energy"),
        "CRPS of the path's mean": over_seeds("known", shown, "total"),
    },
    "Three panels with a row for each forecaster and a dot for each of three runs. The law is best in all; the CVAE with the mixture prior is next to it in all three, "
    "the Gaussian one a little behind. The quantile regressor is as close by CRPS and far by the other two. Point forecaster and ensemble are far behind in all.",
)

# %% [markdown]
# *Figure 10.7. The known series, three recorded runs each.*

# %%
exact = records.band(record, "known_truth_exact").mean
print("recorded             CRPS above the law's      inside 50%, 80%, 95%     between  switching")
for name, key in names.items():
    runs = over_seeds("known", {name: key}, "crps")[name]
    above = " ".join(f"{run / exact - 1:6.1%}" for run in runs)
    held = [records.band(record, f"known_{key}_inside_{level}").mean for level in (50, 80, 95)]
    few = key in ("persistence", "point", "ensemble")  # draws
    inside = " ".join("     -" if few else f"{share:6.1%}" for share in held)
    rest = [
        records.band(record, f"known_{key}_{figure}").mean for figure in ("between", "switching")
    ]
    print(f"{name:<20} {above}    {inside}    {rest[0]:6.1%}   {rest[1]:6.1%}")
for key in ("gaussian", "mixture"):
    worst = [max(abs(run[f"known_{key}_share_{k}"]) for k in range(5)) for run in record["runs"]]
    print(
        f"CVAE, {key}: share of draws going up, worst group off by",
        *(f"{off:.3f}" for off in worst),
    )

# %% [markdown]
# **The CVAE with the mixture is within 2% of the law's CRPS in every run, and every group of windows within two points of its
# chance.** The Gaussian prior is about 5% above the law's CRPS; more telling is that of its draws one in seven to ten ends in the
# gap, and of the law's own one in 35. The quantile regressor has a CRPS as good as the mixture's, so whoever looks at CRPS alone
# sees no difference between the two.
#
# Is that a fair win? The law has two humps, and the mixture was given humps to use. A *mixture density network* (Bishop 1994)
# with full covariances contains (10.1) exactly, and a network that draws one step after another (DeepAR) draws paths as well;
# neither was tried. What is shown is that a CVAE finds fork, chance and paths without being told $S$ or $b$.

# %% [markdown]
# ## Windows with holes
#
# Some values were not measured; the last ones perhaps, since the report is late. What should the forecast be? Not the same, and
# not a guess: everything the hidden values $h$ might have been, each weighed by how likely it is given what was seen, $o$:
#
# $$p(x \mid o) = \int p(x \mid o, h)\, p(h \mid o)\, dh. \tag{10.10}$$
#
# For the known series that is exact too. `series.filled` draws $h$ from its conditional Gaussian; each completed window has its
# law, and one draw from each law is a draw from (10.10). The chance of the fork is now uncertain itself.
#
# The CVAE needs none of this. It reads the mask, and was trained on windows with holes, so (10.10) is what its loss asks it to
# learn. One condition: *that* a value is missing must say nothing about it beyond what is seen. A late report is fine. An
# instrument that fails when the value is high is not.


# %%
def exact_law(windows, mask, count=199):
    filled = series.filled(windows, mask, count)  # (count, N, 24)
    futures = series.law(filled.flatten(0, 1)).sample(1)[0]
    return futures.unflatten(0, filled.shape[:2])


def by_cvae(windows, mask):
    return paths(models["mixture"], told(windows, mask), 199)


by_chance = {f"up with {law.chance[n]:.2f}": test.windows[n] for n in chosen}
panels.forecast_panel(by_chance, {"CVAE": by_cvae, "exact law": exact_law})

# %% [markdown]
# *Figure 10.8. In a running notebook, a panel: choose a window, and hide its last values one after another. Blue: the CVAE's
# forecast, and its spread at the last step; orange: the exact law given what is left. On a still page, the first window with 0, 6
# and 12 values hidden.*
#
# With nothing hidden this window goes down four times in five. Hide the last six, and nobody can say: the coin reads the last
# eight. And the fan does not begin at a point any more, because nobody knows where the series is now.
#
# **What if you fill the holes first**, with the last value seen, and give that to the same CVAE as if nothing had been missing?
# **Predict first:** what happens to the CRPS, and what to the 80% intervals?

# %%
told_how = {
    "law": "law",
    "CVAE": "model",
    "CVAE, scattered holes": "scattered",
    "filled first": "stand_in",
}
print("recorded: CRPS, and share inside the 80% interval")
print(" " * 10, *(f"{name:<22}" for name in told_how))
for hidden in (0, 4, 8, 12):
    cells = []
    for key in told_how.values():
        score, share = (
            records.band(record, f"known_hidden_{hidden}_{key}_{figure}").mean
            for figure in ("crps", "inside_80")
        )
        cells.append(f"{score:.3f}  {share:<15.0%}")
    print(f"{hidden:>2} hidden ", *cells)

# %% [markdown]
# <details><summary>Answer</summary>
# The CRPS gets much worse, with eight values hidden by more than half, and the 80% intervals hold about half: the network
# believes values that nobody measured.
# </details>
#
# Told the mask, the CVAE stays within some 3% of the law's CRPS with eight or twelve values hidden, and within 8% with four. But
# *which* masks it was trained on matters. The third column is a CVAE that saw holes scattered at random, and never the last
# values missing in a row. It is told the truth about its window, and still its forecasts are clearly worse: that question it was
# never asked. **Train on the masks you will meet.**
#
# The last value is a poor guess for a thing that swings. Perhaps a better guess would do? Take the best there is, the exact
# conditional mean of what is hidden.

# %%
known_past, came = test.windows[:500], test.futures[:500]
on_time = (torch.arange(24) < 16).expand_as(known_past)  # the last eight are missing
guessed = series.filled(known_past, on_time, 199).mean(0)  # E[h | o], (500, 24)
for name, futures in (
    ("exact law", exact_law(known_past, on_time)),
    ("CVAE, told the mask", by_cvae(known_past, on_time)),
    ("CVAE, told the best guess", by_cvae(guessed, torch.ones_like(on_time))),
):
    (interval,) = evaluation.interval_coverage(futures, came, (0.8,))
    score = evaluation.crps(futures, came).mean()
    print(
        f"eight hidden, {name:<26} CRPS {score:.3f}, inside the 80% interval {interval.share:.0%}"
    )

# %% [markdown]
# By CRPS the best guess is as good as the mask. By its intervals it is not: of those that promise 80%, 68% hold. A guess, even
# the best, is believed like a measurement. If you must fill, fill many times with *draws* of what is hidden, and pool the
# forecasts: that is (10.10), and the name of it is multiple imputation.

# %% [markdown]
# ## A real series
#
# Weekly CO2 at Mauna Loa, 1958 to 2001, in parts per million. The record is in the public domain and comes with the library
# statsmodels; 59 weeks were never measured. (If statsmodels is not there, the next cell says so and simulates a record like it.
# The text below is about the real one.)

# %%
record_co2 = data.weekly()
years, ppm = record_co2.years, record_co2.values
print(f"{record_co2.name}: {len(ppm)} weeks, {int(ppm.isnan().sum())} of them missing")
spans = {"fitted": (1958.2, 1980), "held": (1980, 1985), "tested": (1985, 2002)}
figures.timeline(
    years,
    ppm,
    "Weekly CO2 from 1958 to 2001, rising from 315 to 370 ppm with a yearly wave of 6 ppm. Ticks along the foot mark the missing weeks, most of "
    "them before 1968. Three shaded parts: fitted until 1980, held out until 1985, tested after.",
    spans=spans,
    y_label=record_co2.unit,
)

# %% [markdown]
# *Figure 10.9. The record; ticks along the foot are weeks without a measurement.*
#
# Three decisions matter more than any network.
#
# - **Split in time.** A random split would put next week into the training set.
# - **Look back only.** The level never comes back: 370 ppm were not seen before 1980. So a window and its future are taken
#   relative to the last value of the window, and divided by a scale that is measured *on the part that is fitted*. Mean and
#   standard deviation of the whole record would tell the past about the future.
# - **Score in the series' own unit.** Parts per million mean something to somebody; deviations do not.
#
# A window is 56 weeks, a bit more than a year, the future is 26. Windows with a hole in their future are left out.

# %%
pieces, after, there = data.sliding(ppm, 56, 26)
begin, end = years[: len(pieces)], years[81:]  # when a window begins, and its future ends
usable = after.isfinite().all(1) & there[:, -1] & (there.float().mean(1) > 0.5)
last = pieces[:, -1:]
when = {"fit": end < 1980, "held": (begin >= 1979) & (end < 1985), "test": begin >= 1985}
unit = (after - last)[usable & when["fit"]].std()
cuts = {}
for part, rows in when.items():
    rows = rows & usable
    seen_there, anchor = there[rows], last[rows]
    values = torch.where(seen_there, (pieces[rows] - anchor) / unit, 0.0)
    cuts[part] = Cut(values, seen_there, (after[rows] - anchor) / unit)
    print(
        f"{part}: {len(values)} windows, {(~seen_there).float().mean():.1%} of their values missing"
    )

# %% [markdown]
# Hundreds of windows to test on, but neighbours share all weeks but one. The sixteen years hold about twenty futures that do not
# overlap, and even those share the same few winters. So there are **no standard errors over windows here**: the difference
# between two forecasters is averaged year by year, and the years are what varies. (Neighbouring years still share some weeks, so
# even that is a little too sure.)
#
# The competitors. *Last year*: what was measured a year before, plus what the year has added, plus past errors. This is the
# forecast of an almanac, and it has no parameters. The point forecaster, with errors from the held-out years. The quantile
# regressor. And the CVAE, with both priors. All networks keep the weights that were best on the held-out years.

# %%
fitted, checking, later = cuts["fit"], cuts["held"], cuts["test"]


def last_year(cut):
    values = cut.windows.clone()
    for t in range(1, values.shape[1]):  # a hole takes the value before it
        values[:, t] = torch.where(cut.mask[:, t], values[:, t], values[:, t - 1])
    return values[:, 4:30] - values[:, 3:4]  # the last value is 0 by construction


one = trained(fitted, 1, squares, epochs=60, held=checking)
many = trained(fitted, 39, pinball, epochs=60, held=checking)
checked = {"validation": (checking.futures, told(*checking[:2]))}
checked["patience"] = 40
checked["hide"] = lambda mask: mask  # only the holes there are
ours = {prior: cvae(fitted, prior, 400, 64, **checked) for prior in ("gaussian", "mixture")}


# %%
def with_errors(forecast, *cuts):
    past = torch.cat([cut.futures - forecast(cut) for cut in cuts])
    return forecast(later) + past[torch.randint(len(past), (199, len(later.futures)))]


with torch.no_grad():
    rivals = {"last year + errors": with_errors(last_year, fitted, checking)}
    rivals["point + past errors"] = with_errors(lambda cut: one(seen(*cut[:2])), checking)
    rivals["quantile regressor"] = from_quantiles(many(seen(*later[:2])))
    rivals |= {f"CVAE, {p}": paths(model, told(*later[:2])) for p, model in ours.items()}
came = unit * later.futures  # in ppm


# %%
year = begin[usable & when["test"]].floor()  # the year in which a window begins


def yearly(scores):  # (N,) -> one mean for each year
    return torch.stack([scores[year == each].mean() for each in year.unique()])


# %%
def weekly_row(name, draws):
    report, scores = evaluation.forecast_report(draws, came), evaluation.crps(draws, came).mean(1)
    gain = yearly(base - scores)
    total = evaluation.crps(draws.mean(2), came.mean(1)).mean()
    inside = " ".join(f"{c.share:5.0%}" for c in report.coverage)
    low, high = (draws.quantile(level, dim=0) for level in (0.1, 0.9))
    outside = [(came < low).float().mean(), (came > high).float().mean()]
    print(
        f"{name:<20} {report.crps.mean:.3f}  {report.energy.mean:.3f}  {total:.3f}   {inside}",
        end="   ",
    )
    print("  ".join(f"{share:4.0%}" for share in outside), end="   ")
    print(f"{gain.mean():+.3f} ± {gain.std() / math.sqrt(len(gain)):.3f}")


base = evaluation.crps(unit * rivals["point + past errors"], came).mean(1)
print(
    f"in {record_co2.unit}               CRPS  energy  of mean    50%   80%   95%  below above   gain on point + errors"
)
for name, draws in rivals.items():
    weekly_row(name, unit * draws)

# %% [markdown]
# *Below* and *above* are the shares that fall under and over the 80% interval, and would be 10% each.

# %%
n = len(later.futures) // 2
anchor = last[usable & when["test"]][n]
figures.fans(
    [
        figures.Fan(
            name,
            (unit * later.windows[n] + anchor)[-30:],
            unit * rivals[name][:, n] + anchor,
            mask=later.mask[n][-30:],
            future=came[n] + anchor,
            paths=1,
        )
        for name in (
            "last year + errors",
            "point + past errors",
            "quantile regressor",
            "CVAE, mixture",
        )
    ],
    "The last 30 weeks of one window from the test years with the forecasts of four competitors for the next 26 weeks: bands around the "
    "seasonal rise. The almanac's bands are the widest, the others narrower and alike, and the measured values lie near their upper edge.",
    columns=2,
    y_label=record_co2.unit,
)

# %% [markdown]
# *Figure 10.10. One window of the test years, in ppm, four forecasts, one draw of each.*
#
# And over three seeds, recorded (the CVAEs there train for up to 1,500 steps, and the other networks are smaller):

# %%
contenders = {"last year + errors": "last_year", "point forecaster": "point"}
contenders |= {"ensemble of five": "ensemble", "point + past errors": "errors"}
contenders |= {"quantile regressor": "quantiles"}
contenders |= {"CVAE, Gaussian": "gaussian", "CVAE, mixture": "mixture"}
figures.seed_dots(
    {
        "CRPS, ppm": over_seeds("weekly", contenders, "crps"),
        "energy score, ppm": over_seeds("weekly", contenders, "energy"),
        "CRPS of the path's mean, ppm": over_seeds("weekly", contenders, "total"),
    },
    "Three panels with a row for each of seven forecasters and a dot for each run. By CRPS and energy score point + past errors, quantile regressor and both CVAEs lie together; "
    "the ensemble, last year + errors and the bare point forecaster are worse. By the CRPS of the path's mean the quantile regressor lies with the ensemble, behind the other three.",
)

# %% [markdown]
# *Figure 10.11. Weekly CO2, three recorded runs each, on the test years.*

# %%
for name, key in contenders.items():
    if key not in ("point", "ensemble"):  # too few draws for an interval
        shares = [run[f"weekly_{key}_inside_80"] for run in record["runs"]]
        print(
            f"recorded, {name:<20} inside the 80% interval", *(f"{share:.0%}" for share in shares)
        )
tested = (later.futures, told(*later[:2]))
print(f"CVAE, mixture: {evaluation.is_z_used(ours['mixture'], tested)}")

# %% [markdown]
# **Nobody wins.** Point forecaster with past errors, quantile regressor and both CVAEs lie within the spread of the seeds; the
# almanac, without a parameter, is about a third worse. The ensemble is between. So a distribution pays, and a CVAE does not pay
# more than a cheaper one here. Several things could be the reason, and they were not told apart. Nothing forks: the future of CO2
# is one path with noise around it. $z$ says less: the training logs have it at less than 2 nats, and on the known series at 9 or
# more. (It is used all the same, as the last line shows.) And twenty years of windows that overlap are few. Look at the quantile
# regressor once more: its paths jump, the energy score hardly minds, and the CRPS of the path's mean does.
#
# And **every network is too sure**: of its 80% intervals about 70% hold what came. Mostly on one side: in the run above a fifth
# came out over the interval, and about a tenth or less under it, where the almanac has about a tenth on either. CO2 grew faster in the
# test years than in those before. The almanac's intervals are the most honest, and the widest. On the known series the same
# networks kept their promises, with twenty-five times as many windows, independent of each other, and a future drawn like the
# past. No score on past data can promise that.

# %% [markdown]
# ## Pitfalls
#
# - **Looking ahead in scaling.** Mean, scale, seasonal pattern or imputation taken from the whole record tell the past about the
#   future. Everything is measured on the part that is fitted.
# - **Averaging sample paths.** The mean of a thousand draws is the point forecast again, and runs through the gap.
# - **Drawing $z$ and not $x$.** The decoder's mean looks smoother, and the intervals are too narrow (below).
# - **An interval of the mean for an interval of the future.** The ensemble's spread is the first; the future needs the second.
# - **Reading a band as a path.** The upper edge of a band is not a future in which everything goes well.
# - **Few draws, all pairs.** The score falls when you draw more, and the forecast has not changed.
# - **Scores on the training scale**, or mean scores over series of different units.
# - **Standard errors over overlapping windows**, which pretend to a thousand independent futures.

# %%
for task in ("known", "weekly"):
    for what, key in (("z and x", "mixture"), ("z only", "mixture_means")):
        shares = [
            records.band(record, f"{task}_{key}_inside_{level}").mean for level in (50, 80, 95)
        ]
        print(
            f"{task:<6} draws of {what:<8} inside 50%, 80%, 95%:",
            *(f"{share:.0%}" for share in shares),
        )

# %% [markdown]
# That was the third pitfall. On the known series $z$ carries nearly everything. On CO2 a good part is left to the decoder's
# noise, and who forgets to draw it loses about twenty points of coverage.
#
# ## Summary
#
# $$\mathrm{CRPS}(F, x) = \mathbb E|X - x| - \tfrac12\, \mathbb E|X - X'| = 2 \int_0^1 \rho_\tau\, d\tau, \qquad
# P\big(x \le x_{(k)}\big) = \frac{k}{M+1}, \qquad z \sim p_\psi(z \mid y), \; x \sim p_\theta(x \mid z, y).$$
#
# A forecast is a distribution over paths, and there is one future to score it by, so use proper scores over many windows, with
# fair estimates from draws. Where the truth is known, a CVAE with a mixture as its prior comes within a few per cent of the law's
# CRPS and takes both branches in the right proportion; one Gaussian has to cut its hill and leaves paths in the gap. A squared
# error predicts a path that never happens; quantiles are right step by step and know no paths; an ensemble's spread is doubt
# about the mean. Tell the network what is missing, and train it on such holes. And where nothing forks, past errors around a mean
# do as well.
#
# ## References
#
# - Gneiting and Raftery 2007, *Strictly Proper Scoring Rules, Prediction, and Estimation*, doi:10.1198/016214506000001437 (CRPS,
#   energy score)
# - Gneiting, Balabdaoui and Raftery 2007, *Probabilistic Forecasts, Calibration and Sharpness*,
#   doi:10.1111/j.1467-9868.2007.00587.x
# - Ferro 2014, *Fair Scores for Ensemble Forecasts*, doi:10.1002/qj.2270
# - Grimit, Gneiting, Berrocal and Johnson 2006, *The Continuous Ranked Probability Score for Circular Variables and its
#   Application to Mesoscale Forecast Ensemble Verification*, doi:10.1256/qj.05.235 (the CRPS of a mixture of normals)
# - Pinson and Tastu 2013, *Discrimination Ability of the Energy Score*, Technical University of Denmark
# - Ziel and Berk 2019, *Multivariate Forecasting Evaluation: On Sensitive and Strictly Proper Scoring Rules*, arXiv:1910.07325
# - Koenker and Bassett 1978, *Regression Quantiles*, doi:10.2307/1913643
# - Sohn, Lee and Yan 2015, *Learning Structured Output Representation using Deep Conditional Generative Models*, NeurIPS 28
# - Bishop 1994, *Mixture Density Networks*, Aston University, NCRG/94/004
# - Lakshminarayanan, Pritzel and Blundell 2017, *Simple and Scalable Predictive Uncertainty Estimation using Deep Ensembles*,
#   arXiv:1612.01474 (ensembles; theirs predict a variance too)
# - Salinas, Flunkert and Gasthaus 2020, *DeepAR*, arXiv:1704.04110, and Rasul et al. 2021, *Multivariate Probabilistic Time
#   Series Forecasting via Conditioned Normalizing Flows*, arXiv:2002.06103 (other ways to draw paths, one step after another)
# - Keeling and Whorf 2004, *Atmospheric CO2 concentrations derived from flask air samples at sites in the SIO network*, Carbon
#   Dioxide Information Analysis Center (the weekly record)
