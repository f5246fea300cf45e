# %% [markdown]
# # 00 · Start here
#
# *Can I ask for a 7, now, on this machine?*
#
# {{ badges }}
#
# **Time:** {{ minutes }} on two CPU cores; nothing is trained. **You need:** Python, and a first introduction
# to PyTorch (tensors, `nn.Module`, a training loop).
#
# By the end you can
#
# - draw any digit you ask for, from a notebook and from a terminal;
# - say whether your machine is ready for the course, and what to do if it is not;
# - find your way through the chapters and read their notation.

# %% tags=["install"]
# {{ install }}

# %% [markdown]
# ## A seven, please
#
# A network that has seen many handwritten digits can make up new ones. Most such networks choose *for* you which
# digit comes out. This one takes an order.

# %%
import torch

from cvae_lib import course, pretrained
from cvae_lib.course import figures, panels

model = pretrained.load_cvae("mnist-cvae")
sevens = model.draw(
    torch.full((10,), 7), generator=torch.Generator().manual_seed(0)
)  # (10, 1, 28, 28)
figures.digit_grid(sevens, "Ten different handwritten sevens, drawn by the network.")

# %% [markdown]
# *Figure 0.1. Ten sevens nobody ever wrote. Same order, ten answers: slant, width and weight differ.*
#
# Two things went into each picture. The **condition** $y$ is your order: *seven*. The **latent** $z$ is everything
# you did not say: how slanted, how wide, how heavy. You choose $y$; chance chooses $z$.
#
# **Predict first.** Suppose you keep one $z$ and send it with all ten orders, 0 to 9. What will the ten pictures
# have in common?
#
# <details><summary>Answer</summary>
# The handwriting. If z holds what y does not say, then one z drawn under ten labels looks like one person writing
# ten digits. Look along the rows below.
# </details>

# %%
orders = torch.arange(10).repeat(4)  # 0..9, four times: (40,)
latents = torch.randn(4, 32, generator=torch.Generator().manual_seed(10)).repeat_interleave(
    10, dim=0
)  # (40, 32)
with torch.no_grad():
    pages = model.likelihood(latents, orders).mean  # (40, 1, 28, 28)
figures.digit_grid(
    pages,
    "Four rows of the digits 0 to 9. Along a row the digits share slant and pen width; "
    "from row to row these change.",
    column_labels=range(10),
    row_labels=["z1", "z2", "z3", "z4"],
)

# %% [markdown]
# *Figure 0.2. Columns share the order $y$, rows share the latent $z$. Nobody told the network what slant is:
# it had to put somewhere what the label leaves open.*

# %% [markdown]
# ## Take the controls
#
# $z$ has 32 entries, and they do not all matter equally to the eye. The panel below moves $z$ along the three directions
# that change the picture most. **Predict first:** when you move one, will the ten digits change alike, or each in its own way?
#
# <details><summary>Answer</summary>
# Mostly alike. Move style 1 and all ten lean over together: the direction was found without asking which digit is drawn,
# and still it means the same for each. At the ends, where a draw seldom lands, digits begin to break.
# </details>

# %%
panels.draw_panel(model, digit=7, seed=8)

# %% [markdown]
# *Figure 0.3. In a running notebook, a panel: a digit and, from the same $z$, its siblings follow the controls, and "another
# one" draws anew what the three styles leave open. On a still page, what the sliders do to one seven.*
#
# The controls answer to the mouse and, after Tab, to the arrow keys. From a terminal, the same network answers to
#
# ```
# python -m cvae_lib draw 7 --count 12 --seed 3 --out sevens.png
# ```

# %% [markdown]
# ## What am I looking at?
#
# A trained network should come with its papers. This is the model's card: which data it saw, and what was measured
# on digits it never saw.

# %%
card = pretrained.card("mnist-cvae")
measured = card["measured"]
print(
    "trained on:",
    card["data"]["images"],
    "images of",
    card["data"]["name"],
    "|",
    card["data"]["licence"],
)
print("protocol:  ", measured["protocol"])
print(f"conditional negative log-likelihood: {measured['conditional_nll_nats']:.2f} nats per image")
print(f"drawings read as asked: {measured['control_accuracy']:.1%}")

# %% [markdown]
# Chapter 03 trains such a network from scratch and explains both numbers.

# %% [markdown]
# ## Is my machine ready?
#
# Every line that starts with `ok` needs nothing. A line that starts with `!!` is followed by what to do.

# %% tags=["machine"]
course.report()

# %% [markdown]
# No GPU is needed. Without MNIST and without a network, chapters that train use digits the library draws itself,
# and say so in one line.

# %% [markdown]
# ## The map
#
# {{ chapter_map }}
#
# Times are measured on two CPU cores with real MNIST; memory is the most a chapter took, size that of the notebook with its
# pictures. The chapters build on one another; each says at its top what it needs.

# %% [markdown]
# ## Notation
#
# | Symbol | Meaning |
# |---|---|
# | $x$ | the data: an image |
# | $y$ | the condition: a digit's label, later also a number, a sentence, half an image |
# | $z$ | the latent: what $y$ leaves open |
# | $p_\psi(z \mid y)$ | prior: which latents go with a condition |
# | $p_\theta(x \mid z, y)$ | decoder, or likelihood: which images go with a latent and a condition |
# | $q_\phi(z \mid x, y)$ | encoder, or approximate posterior: which latents explain an image |
# | $B$, $D$, $K$ | examples in a batch, entries of $z$, importance samples |
#
# Log-likelihoods are in **nats** (natural logarithm), **summed over pixels and latents, averaged over images**.
# The course keeps to that everywhere, because mixing sums and means silently changes the model.
#
# ## How a chapter works
#
# Every new idea is built by hand once, in plain PyTorch, before the library's version is used. "Predict first" asks
# you to commit to a guess before a result; the answer is folded away. Figures come from the code above them, so
# change a number and look again. Full results come from full training: if you run with `COURSE_PROFILE=fast`, every
# cell is cut short and only shows that it works.
#
# A chapter that ends with a link to **exercises** has a notebook of blanks for you to fill in, right there in
# `exercises/`. The cell `check("1.2", answer)` below a blank tries your answer on random inputs against an independent
# reference, and says what came, what was expected, and which mistake it looks like. Two hints are folded away under each
# task; worked answers are in `solutions/`. `progress()` shows what you have done. Nothing in the course writes over a
# blank you have worked in.
