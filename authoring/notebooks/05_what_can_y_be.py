# %% [markdown]
# # 05 · What can y be?
#
# *Labels, numbers, sentences, pictures, or nothing at all?*
#
# {{ badges }}
#
# **Time:** {{ minutes }} on two CPU cores, most of it eight short trainings. **You need:** chapter 03; FiLM and attention from
# chapter 04.
#
# By the end you can
#
# - ask a generator for a number, and say by how much it misses;
# - ask it in words, for combinations it never saw, and find out which word did what;
# - ask for several things at once, and for a picture;
# - train one network that answers whether you tell it much, little or nothing.

# %% tags=["install"]
# {{ install }}

# %%
import math

import torch
import torch.nn.functional as F
from torch import nn

from cvae_lib import data, evaluation, pretrained
from cvae_lib.conditioning import CrossAttention, attention_maps
from cvae_lib.conditions import AttributeCondition, CaptionCondition, Condition, Tokens, Vocabulary
from cvae_lib.course import figures, panels
from cvae_lib.datasets import faces, strokes
from cvae_lib.model import CVAE, CVAEConfig
from cvae_lib.training import fit

torch.manual_seed(0)
train, test = data.digits("train"), data.digits("test")
judge = pretrained.load_classifier(f"{train.name.lower()}-classifier")
print(
    f"{train.name}: {len(train)} training and {len(test)} test images of shape {train.image_shape}"
)

# %% [markdown]
# ## A number
#
# "Draw a seven, 3 pixels thick, leaning 0.4 to the right." Nothing in the theory asks $y$ to be a class: in (3.1) it is
# whatever the networks are told. But somebody has to know it for every training image, and MNIST comes with labels only.
# So we measure. `strokes.measure` is a ruler for digits: the width of the pen, from the area of the ink and the length of its
# outline; and the slant, the horizontal shift per unit of height, from the second moments of the ink. Positive leans right.
#
# **Check a ruler before you use it.** On digits drawn by the library the truth is known.

# %%
NAMES = ("thickness", "slant")


def measured(images):  # (N, 1, 28, 28)
    found = strokes.measure(images)
    return torch.stack([getattr(found, name) for name in NAMES], dim=1)  # (N, 2)


drawn_digits = data.strokes("test", count=2000)
for name, column in zip(NAMES, measured(drawn_digits.images).T, strict=True):
    print(f"{name}: {evaluation.calibration(drawn_digits.attributes[name], column)}")

# %% [markdown]
# Slope near 1, little scatter: what the ruler reads is what was drawn. Now all of the data.

# %%
a, test_a = measured(train.images), measured(test.images)  # (N, 2) each
for name, column in zip(NAMES, a.T, strict=True):
    low, middle, high = column.quantile(torch.tensor([0.01, 0.5, 0.99])).tolist()
    print(f"{name}: median {middle:.2f}, 98% of the images between {low:.2f} and {high:.2f}")
threes = (test.labels == 3).nonzero().flatten()
orders = [threes[test_a[threes, column].argsort()] for column in (0, 1)]
rows = [order[torch.linspace(0, len(order) - 1, 10).long()] for order in orders]
figures.digit_grid(
    test.pixels(torch.cat(rows)),
    "Two rows of ten real threes. The first goes from the thinnest to the thickest, the second "
    "from the one that leans furthest left to the one that leans furthest right.",
    row_labels=NAMES,
)

# %% [markdown]
# *Figure 5.1. Real threes in the order of the ruler. It does not care about the shape: the extremes of slant are often
# unusual threes.*
#
# Thickness runs from about 1.4 to 4.6 pixels, slant from about -0.5 to 0.8. A network likes numbers around 0 and of size 1, and
# it should know when it was *not* told, which is something else than being told the average. So each number is standardised,
# with mean $m$ and standard deviation $s$ of the training data, and gets a flag $k$ beside it:
#
# $$c = \big[\,k\,\tfrac{a - m}{s},\; k\,\big], \qquad k = \begin{cases}1 & a \text{ is known}\\ 0 & \text{not}\end{cases}
# \qquad\text{and back:}\quad a = m + s\,u. \tag{5.1}$$


# %%
class Numbers(nn.Module):
    def __init__(self, training):  # (N, A)
        super().__init__()
        self.mean, self.std = training.mean(0), training.std(0, unbiased=False)  # (A,) each

    def forward(self, a):  # (B, A), NaN where not known
        known = ~a.isnan()
        u = torch.where(known, (a - self.mean) / self.std, 0)
        return torch.cat([u, known.float()], dim=1)  # (B, 2A)


mine, theirs = Numbers(a), AttributeCondition(NAMES).standardise(a)
asked = torch.tensor([[3.0, 0.4], [2.0, math.nan]])
print(mine(asked))
print(f"largest difference to the library's: {(mine(asked) - theirs(asked)).abs().max():.0e}")

# %% [markdown]
# Now a CVAE that is told a label *and* two numbers: the one-hot row and (5.1) side by side, by FiLM in every block.

# %%
digits = {"latent_dim": 10, "hidden": (256, 256, 256), "condition_at": "every"}
training = {"batch_size": 256, "learning_rate": 6e-3, "seed": 0, "log_every": 2}


def numbers_model(settings):
    torch.manual_seed(0)
    plan = {"condition": "label+attributes", "attributes": NAMES, "conditioning": "film"}
    model = CVAE(CVAEConfig(**plan, **settings))
    model.condition.parts[1].standardise(a)
    return model


model = numbers_model(digits)
history = fit(model, train, y=(train.labels, a), epochs=8, **training)

# %% [markdown]
# ### Does it obey?
#
# Ask for 3,000 digits and put the ruler to the drawings. What to ask for? Not every thickness goes with every class: hardly
# any 1 is as thick as a 0 can be. **Ask for what there is**: label and numbers come from a test image, all three from
# the same one. The drawing has a $z$ of its own.
#
# With $a$ for asked and $m$ for measured, the report is
#
# $$\text{slope} = \frac{\sum (a - \bar a)(m - \bar m)}{\sum (a - \bar a)^2}, \qquad
# R^2 = 1 - \frac{\sum (m - \hat m)^2}{\sum (m - \bar m)^2}, \qquad
# \text{error} = \tfrac1N \sum |m - a|, \tag{5.2}$$
#
# $\hat m$ being the line's value. Slope 1: one more asked, one more drawn. Slope 0: deaf. $R^2$: how closely
# the drawings follow the line. The mean error also counts a line of the right slope that is shifted.
#
# **Predict first.** Which of the two is obeyed better? Will drawings be thinner or thicker than asked, or neither?

# %%
order = torch.randperm(len(test), generator=torch.Generator().manual_seed(0))[:3000]
y = (test.labels[order], test_a[order])
drawn = model.draw(y, generator=torch.Generator().manual_seed(1))  # (3000, 1, 28, 28)
found = measured(drawn)
for column, name in enumerate(NAMES):
    print(f"{name}: {evaluation.calibration(y[1][:, column], found[:, column])}")
print(f"read as the digit asked for: {(judge.read(drawn) == y[0]).float().mean():.3f}")

# %%
figures.asked_and_measured(
    {name: (y[1][:, column], found[:, column]) for column, name in enumerate(NAMES)},
    "Two clouds of 3,000 dots, measured against asked. That of thickness lies along a line parallel to the "
    "dashed one and above it; that of slant lies narrowly on the dashed line.",
)

# %% [markdown]
# *Figure 5.2. A dot for each drawing; on the dashed line it is exactly what was asked.*
#
# <details><summary>Answer</summary>
# Slant: nearly every drawing lies on the line. Thickness follows with the right slope and more scatter, but nearly everything
# is drawn about 0.3 pixels too thick.
# </details>
#
# Too thick, by the same amount everywhere: who does that? Perhaps the model does not believe you. Or the drawing is at
# fault: it shows the *mean* of every pixel, and where the model is not sure whether the edge of the stroke lies here or one
# pixel further, the mean is grey on both. To a ruler blur is ink. A test helps to tell them apart: reconstruct real images. There
# $z$ knows the place of every edge as well as it ever will, and the request is for what the image has.

# %%
rebuilt = model.reconstruct(test.pixels(order), y)
for what, images in (("drawn", drawn), ("reconstructed", rebuilt)):
    off = measured(images)[:, 0] - y[1][:, 0]
    print(f"{what:>13}: {off.mean():+.2f} pixels thicker than asked, on average")

# %% [markdown]
# Most of the bias is there as well. That is what blur would do, and it is not the choice of $z$. The plot also tells you what to
# do about it: the line is straight, so whoever needs 3 pixels asks for a little less. **Slope, scatter and bias are different
# faults.** Report all three.
#
# ### Further than it ever saw
#
# The training data end somewhere. **Predict first.** Ask for slants of up to twice the range, and for lines of 0.5 to 7 pixels.
# Will the model go on as straight as before, stop at the edge of what it knows, or fall apart?

# %%
edges = {
    name: tuple(a[:, column].quantile(torch.tensor([0.005, 0.995])).tolist())
    for column, name in enumerate(NAMES)
}
spans = {"thickness": (0.5, 7.0), "slant": (-1.6, 1.6)}
beyond = {}
for column, name in enumerate(NAMES):
    values = torch.linspace(*spans[name], 14).repeat_interleave(len(order) // 14)
    rows = y[1][: len(values)].clone()
    rows[:, column] = values
    images = model.draw((y[0][: len(values)], rows), generator=torch.Generator().manual_seed(2))
    beyond[name] = (values, measured(images)[:, column])
figures.asked_and_measured(
    beyond,
    "Means of what was measured against what was asked, with two standard deviations of the drawings, "
    "far beyond the shaded range of training. Inside it the slant lies on the dashed line and outside it "
    "flattens at about -0.9 and 1. Thickness stays above the line, bends away from it below 1.5 pixels and "
    "scatters ever more widely above 5.",
    ranges=edges,
    averages=True,
)

# %% [markdown]
# *Figure 5.3. Shaded: where 99% of the training images lie. Dots: means of 214 drawings; the band holds two standard deviations
# of the drawings to either side.*
#
# <details><summary>Answer</summary>
# It bends. Slant stops soon after the edge. Lines get no thinner than about 1.5 pixels. Thick ones do go on getting
# thicker on average, but from one drawing to the next anything may happen.
# </details>
#
# Nobody told the network what comes after a slant of 0.9. It was trained to fit the shaded range, and outside it
# nothing holds its curve. Look at one $z$ asked for more and more:

# %%
values = torch.linspace(-1.6, 1.6, 11)
slanted = torch.stack([torch.full((11,), 2.5), values], dim=1)
widths = torch.stack([torch.linspace(0.5, 7.0, 11), torch.full((11,), 0.1)], dim=1)
z = torch.randn(1, 10, generator=torch.Generator().manual_seed(0)).expand(22, 10)
with torch.no_grad():
    images = model.likelihood(
        z, (torch.full((22,), 4), torch.cat([widths, slanted]))
    ).mean  # (22, 1, 28, 28)
figures.digit_grid(
    images,
    "A four from one z, eleven times. First row: asked for 0.5 to 7 pixels it goes from a pale thin four "
    "over a bold one to a blot. Second row: asked for slants of -1.6 to 1.6 it leans from left to right, "
    "and falls to pieces at both ends.",
    columns=11,
    row_labels=NAMES,
)

# %% [markdown]
# *Figure 5.4. Thickness 0.5 to 7 pixels, slant -1.6 to 1.6. Below what it knows, the line gets paler instead of thinner; far
# beyond, strokes break.*

# %%
panels.attribute_panel(model, label=4, measure=strokes.measure)

# %% [markdown]
# *Figure 5.5. In a running notebook, a panel: choose a digit, move thickness and slant, and read off the mean of eleven
# drawings. On a still page, what each slider does to a four.*
#
# ### A number that does not vary
#
# Brightness is a number too. On MNIST the ruler says it is nearly the same everywhere, so there is nothing to learn. The
# library's own digits are written with pens of different ink, and there the truth is known: no ruler between us and $y$.

# %%
print(
    f"MNIST or its stand-in: brightness {strokes.measure(train.images[:2000]).brightness.std():.3f}"
)
inked = data.strokes("train", count=10_000)
torch.manual_seed(0)
plan = {"condition": "label+attributes", "attributes": ("brightness",), "conditioning": "film"}
pen = CVAE(CVAEConfig(pixels="grey", **plan, **digits))
ink = pen.condition.parts[1].stack(inked.attributes)  # (N, 1)
pen.condition.parts[1].standardise(ink)
history = fit(pen, inked, y=(inked.labels, ink), epochs=12, **training)
asked = 0.5 + 0.5 * torch.rand(1000, generator=torch.Generator().manual_seed(0))
result = evaluation.control_calibration(
    lambda b: pen.draw((torch.arange(len(b)) % 10, b[:, None])),
    lambda images: strokes.measure(images).brightness,
    asked,
)
print(f"brightness: {result}")

# %% [markdown]
# Another number, and another illness. Thickness had the right slope and a bias; brightness has no bias, and a slope
# well below 1: the model is *timid*. It was asked for dim or bright and draws something nearer to the middle, as one does who
# has only half listened. It also had a quarter of the training: 480 steps against 1,880. (Its targets were the grey levels
# themselves instead of zeros and ones drawn from them, because brightness is just what such draws hide. And the ruler for
# brightness was not checked here as the others were; part of the shortfall may be its own.)

# %% [markdown]
# ## A sentence
#
# People do not say 3.4 pixels. They say "a thick seven leaning left". Let us make such captions: the lowest fifth of
# thickness is *thin*, the highest *thick*, and in between nobody mentions it; slant likewise.

# %%
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
THICK, LEAN = ("thin", "", "thick"), ("leaning left", "", "leaning right")
low, middle, high = a.quantile(torch.tensor([0.2, 0.5, 0.8]), dim=0)  # (2,) each


def caption(kind):  # one number from 0 to 89 for each combination
    words = ("a", THICK[kind // 3 % 3], NUMBERS[kind // 9], LEAN[kind % 3])
    return " ".join(word for word in words if word)


def kinds(labels, a):
    level = (a > low).long() + (a > high).long()  # 0 low, 1 middle, 2 high: (N, 2)
    return 9 * labels + 3 * level[:, 0] + level[:, 1]


kind = kinds(train.labels, a)
captions = [caption(k) for k in range(90)]
print(*(captions[k] for k in kind[:5].tolist()), sep="\n")

# %% [markdown]
# The network reads numbers, so the words are numbered. Captions have two to five words, and a batch needs one length: the
# rest is filled up with 0, *padding*, and a mask says which places are words.

# %%
vocabulary = Vocabulary.from_texts(captions)
print(vocabulary.words)
print(vocabulary.encode(["a seven", "a thick seven leaning left"]))

# %% [markdown]
# Each word becomes a learned vector, plus one for its place, $c_l = E_{w_l} + P_l$. Without $P$ the order would be lost. Then
# every slot of the decoder asks its question, and the answer is a mean over the words, weighted by how well they fit.
# Padding must get no weight at all. With $m_l = 1$ for a word, $0$ for padding, and scores $s_l = q \cdot k_l / \sqrt d$,
#
# $$a_l = \frac{m_l\, e^{s_l}}{\sum_{l'} m_{l'}\, e^{s_{l'}}}, \qquad \text{and } a = 0 \text{ if all is padding}. \tag{5.3}$$


# %%
class Words(nn.Module):
    def __init__(self, words, length, width):
        super().__init__()
        self.embed = nn.Embedding(words + 1, width, padding_idx=0)
        self.position = nn.Parameter(0.1 * torch.randn(length, width))

    def forward(self, ids):  # (B, L)
        mask = ids > 0
        return (self.embed(ids) + self.position) * mask[..., None], mask  # (B, L, C), (B, L)


def attend(scores, mask):  # (B, L) each
    e = torch.exp(scores - scores.amax(1, keepdim=True)) * mask
    return e / e.sum(1, keepdim=True).clamp_min(1e-30)


ids = vocabulary.encode(["a seven", "a thick seven leaning left", ""])
scores = torch.randn(3, 5)
print(attend(scores, ids > 0))

# %% [markdown]
# The last row is a missing caption: all zeros, and the slot then adds nothing. (A plain softmax over $-\infty$ would have given
# 0/0 there, and NaN in every weight after one step.) The library's reader is the same; give it the same vectors:

# %%
mine = Words(len(vocabulary), vocabulary.length, 32)
theirs = CaptionCondition(vocabulary, 32)
theirs.load_state_dict(mine.state_dict())
values, mask = mine(ids)
print(
    f"vectors: {(values - theirs(ids).values).abs().max():.0e}; mask: {(mask == theirs(ids).mask).all()}"
)
slot, h = CrossAttention(24, 32, heads=1), torch.randn(3, 24)
q, k = slot.query(h), slot.key(values)  # (B, d), (B, L, d)
weights = attend(torch.einsum("bd,bld->bl", q, k) / math.sqrt(16), mask)
print(f"weights: {(weights - slot.attend(h, Tokens(values, mask))[1][:, 0]).abs().max():.0e}")

# %% [markdown]
# ### Held out
#
# If the model understands words, it should combine them as it has never seen them combined. So for each digit one of the nine
# combinations is taken out of training, with all its images, about one image in twenty-five. The words stay: thick sevens
# leaning right go, but other thick sevens and other sevens leaning right remain.

# %%
held_out = torch.tensor([9 * digit + (0, 2, 6, 8)[digit % 4] for digit in range(10)])
print(*(captions[k] for k in held_out.tolist()), sep=", ")
kept = (~torch.isin(kind, held_out)).nonzero().flatten()
print(f"{1 - len(kept) / len(train):.1%} of the training images are left out")
ids = vocabulary.encode(captions)  # (90, 5)
torch.manual_seed(0)
spoken = {
    "condition": "caption",
    "words": vocabulary.words,
    "caption_length": vocabulary.length,
    "conditioning": "attention",
    "condition_at": (1, 2),  # the two blocks in the middle; the others hardly used theirs
}
reader = CVAE(CVAEConfig(**(digits | spoken)))
history = fit(reader, train.subset(kept), y=ids[kind[kept]], epochs=9, **training)

# %% [markdown]
# The judge reads the digit as before. A word is obeyed if the ruler finds the drawing on the right side of the median: a "thin"
# one must be thinner than half of all digits. **Predict first.** Three groups of requests: all combinations equally often, rare
# ones included; as often as they come in the data; and the ten it never saw. Where does it obey best, and what suffers most on
# new combinations: digit, thickness or slant?


# %%
def obeyed(asked):  # (N,) kinds
    images = reader.draw(ids[asked], generator=torch.Generator().manual_seed(1))
    level = torch.stack([asked // 3 % 3, asked % 3], dim=1) - 1  # -1, 0 or 1, (N, 2)
    right = (measured(images) - middle).sign() == level  # the side of the median asked for
    digit = judge.read(images) == asked // 9
    return [digit, *(right[level[:, column] != 0, column] for column in (0, 1))]


seen = torch.tensor([k for k in range(90) if k not in held_out])
test_kind = kinds(test.labels, test_a)
for what, asked in (
    ("seen, all equally often", seen.repeat(25)),
    ("seen, as often as in the data", test_kind[~torch.isin(test_kind, held_out)][:2000]),
    ("held out", held_out.repeat(200)),
):
    shares = [f"{right.float().mean():.3f}" for right in obeyed(asked)]
    print(f"{what:<30} digit {shares[0]}, thin/thick {shares[1]}, left/right {shares[2]}")

# %% [markdown]
# <details><summary>Answer</summary>
# Combinations that it saw are obeyed about equally well, rare or frequent. On new ones it loses a few percent of the digits, more
# of thin and thick, and hardly anything of left and right. But it draws what nobody showed it, most of the time. (One seed, and
# not quite a fair comparison: the new ones all have two words to obey, and more of them are thin.
# And thin suffers from the blur you met above: what is drawn 0.3 pixels too thick easily lands on the wrong side.)
# </details>

# %%
shown = ["a thin seven", "a thick seven leaning left", "a zero leaning right"]
shown += [captions[k] for k in held_out[[3, 7, 9]].tolist()]
z = torch.randn(8, 10, generator=torch.Generator().manual_seed(4))
with torch.no_grad():
    images = reader.likelihood(
        z.repeat(6, 1), vocabulary.encode(shown).repeat_interleave(8, 0)
    ).mean
figures.digit_grid(
    images,
    "Six captions, three of them never seen in training, each with eight drawings of the same eight latents. "
    "Most are what the caption says, of the new ones too; about one in three is a blot or could be another digit.",
    columns=8,
    row_labels=[*shown[:3], *(f"(new) {text}" for text in shown[3:])],
)

# %% [markdown]
# *Figure 5.6. One column, one z. "(new)": combinations that were held out. Not all succeed: some
# latents make blots of most captions.*

# %% [markdown]
# ### Which word did it listen to?
#
# Two blocks of the decoder have a slot, with four heads each. For every drawing each head spreads a weight of 1 over the words,
# so `attention_maps` gives a table of eight rows: the *attention map*. It is tempting to read it as "what the model
# looked at when it drew". **Predict first.** In "a thick seven leaning left", which words get the most weight, and which the
# least?

# %%
text = "a thick seven leaning left"
z = torch.randn(200, 10, generator=torch.Generator().manual_seed(0))
told = vocabulary.encode([text]).expand(200, -1)  # (200, 5)
maps = attention_maps(reader.decoder, z, reader.condition(told))  # by slot: (200, 4, 5)
table = torch.cat([weights.mean(0) for weights in maps.values()])  # (8, 5)
figures.word_maps(
    {"weight": table},
    text.split(),
    [f"block {slot}, head {head}" for slot in (1, 2) for head in range(1, 5)],
    "A table of eight heads and the five words of the caption a thick seven leaning left, with the weight "
    "each head gives to each word. One head each looks at seven, thick and leaning alone, one at the word a "
    "alone; the other four divide their weight, most of it between a and left.",
)

# %% [markdown]
# *Figure 5.7. Mean weights over 200 drawings; every row sums to 1. Four of the eight heads have a word of their own.*
#
# A map is a claim, and a claim can be checked. **Change one word, and see what changes in the drawing.** Same $z$, once with
# each word replaced: thick by thin, seven by nine, left by right. "A" and "leaning" have no opposite, so they are
# replaced by padding.

# %%
swaps = {"a": "", "thick": "thin", "seven": "nine", "leaning": "", "left": "right"}


def swapped(column):
    other = told.clone()
    word = list(swaps.values())[column]
    other[:, column] = vocabulary.ids[word] if word else 0
    return other


with torch.no_grad():
    base = reader.likelihood(z, told).mean  # (200, 1, 28, 28)
    changes = [(reader.likelihood(z, swapped(i)).mean - base).abs() for i in range(5)]
total = torch.stack([change.mean() for change in changes])
weight = table.mean(0)
for word, w, change in zip(swaps, weight, total / total.sum(), strict=True):
    print(f"{word:<8} share of attention {w:.2f}, share of the change {change:.2f}")

# %%
figures.digit_grid(
    torch.cat(
        [
            torch.cat([base[i : i + 1], *(change[i : i + 1] for change in changes)])
            for i in (0, 1, 2)
        ]
    ),
    "Three thick sevens leaning left, and beside each the pixels that change when one word is replaced. "
    "Without the word a or leaning hardly anything changes; thick to thin changes the rims of the strokes; "
    "seven to nine darkens the place where the loop closes; left to right changes the top and the foot.",
    columns=6,
    column_labels=["drawn", *swaps],
    size=0.9,
)

# %% [markdown]
# *Figure 5.8. Dark: pixels that change when this word is replaced. **This is the map of which region listens to which word**,
# and it was made by doing, not by looking inside.*
#
# Compare the two columns printed above. **Here the map misleads.** By attention "a" is the most important word, and "leaning" has
# a head of its own and counts about as much as "left". In the drawing "a" and "leaning" count far less than that, and "left" more
# than twice as much: swap it, and the top and the foot move. Why should a head look at a word that says nothing? A softmax must spend its weight somewhere, and a head with nothing to
# say can park it on a word that is always there. What enters the features is $a_l\, W_o W_v\, c_l$, and the map shows the
# first factor only. "Leaning" is another lesson: it comes with every "left" and "right" and so tells nothing new. Without it
# little changes, and yet the network may well be reading it, as a spare.

# %%
panels.caption_panel(
    reader, ["a thick seven leaning left", "a thin three", "a zero leaning right", "a four"]
)

# %% [markdown]
# *Figure 5.9. In a running notebook, a panel: write a caption and press Enter; try a word it does not know, or the words in
# another order. On a still page, four captions and seven latents.*

# %% [markdown]
# ## Several things at once, in colour
#
# Now $y$ is five numbers, and $x$ a colour picture: drawn faces of 32x32 pixels, with hair, skin, smile, glasses and age lines.
# They come with the library, like the strokes, and with a ruler of their own. (With CelebA on your disk, replace
# `data.faces` by `data.celeba`: same names, but crude ones, yes or no, and no ruler.)

# %%
people, others = data.faces("train", count=10_000), data.faces("test")
for name, column in zip(faces.NAMES, faces.measure(others.images), strict=True):
    print(f"{name:<8} {evaluation.calibration(others.attributes[name], column)}")
figures.digit_grid(
    others.pixels(torch.arange(20)),
    "Twenty drawn faces on bluish grounds, with hair from fair to black, skin from light to dark, mouths bent up or "
    "down, some with glasses, some with lines on forehead and cheeks.",
    size=0.8,
)

# %% [markdown]
# *Figure 5.10. Faces nobody has. Beside the five attributes, the width of the head, the length of the hair, the eyes and the
# background vary: that is for $z$.*
#
# Colours are not zeros and ones. The decoder now gives the mean of a Gaussian for every pixel and channel, with one standard
# deviation $\sigma$ for all of them, which is learned:
#
# $$\log p(x \mid z, y) = \sum_{i} \log \mathcal N\big(x_i;\, \mu_i(z, y),\, \sigma^2\big), \qquad
# \text{best } \sigma^2 = \text{mean of } (x_i - \mu_i)^2. \tag{5.4}$$
#
# A density can exceed 1, so the loss will be negative, and far below zero; only differences mean something. Five attributes, no
# label; everything else is as before.

# %%
torch.manual_seed(0)
config = CVAEConfig(
    condition="attributes",
    attributes=faces.NAMES,
    conditioning="film",
    condition_at="every",
    event_shape=(3, 32, 32),
    likelihood="gaussian",
    hidden=(256, 256),
    latent_dim=8,
)
painter = CVAE(config)
wanted = painter.condition.stack(people.attributes)  # (N, 5)
painter.condition.standardise(wanted)
painting = {"batch_size": 128, "learning_rate": 3e-3, "seed": 0, "log_every": 3}
history = fit(painter, people, y=wanted, epochs=10, **painting)

# %%
asked = painter.condition.stack(others.attributes)  # (2000, 5)
drawn = painter.draw(asked, generator=torch.Generator().manual_seed(0))
read = faces.measure(drawn)
for column, name in enumerate(faces.NAMES):
    print(f"{name:<8} {evaluation.calibration(asked[:, column], getattr(read, name))}")
right = (read.glasses > 0.5) == (asked[:, 3] > 0.5)
print(f"glasses as asked: {right.float().mean():.3f}")

# %%
panels.attribute_panel(painter, limits=faces.LIMITS, measure=faces.measure)

# %% [markdown]
# *Figure 5.11. In a running notebook, a panel with a slider for each attribute. On a still page, what they do to one face. Nobody
# in the training data wears half a pair of glasses; asked for it, the model fades them in.*
#
# Five attributes, one vector, all obeyed at once; only the smile is a little timid (a third of that may be the ruler, which reads
# real smiles with a slope of 0.97). And in the figure each slider leaves the others mostly alone.
# The model learned that because the drawn attributes are independent. In photographs of people they are not: where grey hair, wrinkles and glasses come
# together, a model learns that they belong together, and asking for glasses makes the face older. **A condition is only as
# free as it was in the data.**

# %% [markdown]
# ## A picture
#
# $y$ may be as large as $x$. Which pixel is hair, which skin, which background: a *segmentation mask*, a number from 0 to 3 for
# every pixel. The mask says where; what is left for $z$ is the colours. An edge map or a sketch would go in the same
# way. All it takes is a condition of your own: four planes of zeros and ones, laid flat for a network of linear layers. (For a
# convolutional one, set `kind` to "image", `dim` to 4, and do not lay it flat.)


# %%
class Parts(Condition):
    dim = 4 * 32 * 32

    def forward(self, y):  # (B, 32, 32), -1 where not known
        planes = F.one_hot(y + 1, 5)[..., 1:].movedim(-1, 1)  # (B, 4, 32, 32)
        return planes.flatten(1).float()  # (B, 4096)

    def mask_out(self, y, where):
        return y.masked_fill(where[:, None, None], -1)


# %%
masks = faces.faces("train", count=len(people)).parts  # (N, 32, 32), of the same faces
colour = {"event_shape": (3, 32, 32), "likelihood": "gaussian", "hidden": (256, 256)}
glued = {"conditioning": "concatenation", "condition_at": "first"}
torch.manual_seed(0)
colourist = CVAE(CVAEConfig(latent_dim=8, **glued, **colour), condition=Parts())
history = fit(colourist, people, y=masks, epochs=6, **painting)

# %%
new = faces.faces("test", count=4)
colours = torch.tensor([[0.6, 0.8, 1.0], [0.3, 0.2, 0.1], [1.0, 0.8, 0.7], [0.8, 0.1, 0.1]])
sheet = []
for part, image in zip(new.parts, new.images, strict=True):
    painted = colourist.draw(part.expand(7, 32, 32), generator=torch.Generator().manual_seed(0))
    sheet += [colours[part].movedim(-1, 0)[None], image[None] / 255, painted]
figures.digit_grid(
    torch.cat(sheet),
    "Four rows: a mask of hair, skin and features, the face it was taken from, and seven painted faces with the "
    "shapes of the mask and other colours. A column has the same z, and about the same colours in all rows.",
    columns=9,
    column_labels=["mask", "its face", *range(1, 8)],
)

# %% [markdown]
# *Figure 5.12. Rows share a mask, columns share a z.*
#
# Does $y$ do its part, and $z$ its own? The mask fixes the mouth and the glasses, so these should come out as in the face it was
# taken from. It says nothing of colours, so these should vary as much as in the data, whatever the mask.

# %%
new = faces.faces("test", count=300)
painted = faces.measure(colourist.draw(new.parts, generator=torch.Generator().manual_seed(1)))
print(f"smile: {evaluation.calibration(new.smile, painted.smile)}")
right = (painted.glasses > 0.5) == (new.glasses > 0.5)
print(f"glasses as in the mask: {right.float().mean():.3f}")
for name in ("skin", "hair"):
    spread = getattr(painted, name).std(), getattr(new, name).std()
    print(f"spread of {name}: {spread[0]:.2f} painted, {spread[1]:.2f} in the data")

# %% [markdown]
# $y$ does its part: shapes are those of the mask. $z$ does half of it: painted skin and hair vary only half as much as real ones,
# and in Figure 5.12 the background and the lines of age hardly at all. No
# loss curve tells you that, and no calibration of $y$ either. **Always
# measure both: what was asked for, and the variety of what was not.**
#
# ## Nothing
#
# Back to digits with a label and two numbers. What if you know only the label? Or nothing? Everything is in place: the flags
# of (5.1), the mask of (5.3). Only training has to show the network that this happens. So each part of $y$ is dropped, by
# chance, in one image out of five, label and numbers independently. The loss is then a mixture: with $\mathcal L(x, y)$ for
# minus the bound and $p$ the chance of dropping,
#
# $$\mathbb E\big[\mathcal L\big] = (1-p)^2\, \mathcal L(x, \text{both}) + p(1-p)\,\big[\mathcal L(x, \text{label}) +
# \mathcal L(x, \text{numbers})\big] + p^2\, \mathcal L(x, \text{nothing}). \tag{5.5}$$
#
# One network, four models. To see what that costs, give two others the same budget, a small one: one that is always told
# everything, and one that never is, a VAE. **Predict first.** The network with four jobs has no more weights than the first of them. How much
# worse is it at each of their jobs, in nats?

# %%
small, short = digits | {"hidden": (192, 192)}, training | {"epochs": 3}
several = numbers_model(small)
label_part, number_part = several.condition.parts


def told_in_part(batch):
    return label_part.drop(batch.y, 0.2), number_part.drop(a[batch.index], 0.2)


history = fit(several, train, y=told_in_part, **short)
always = numbers_model(small)
history = fit(always, train, y=(train.labels, a), **short)
torch.manual_seed(0)
never = CVAE(CVAEConfig(num_classes=0, **small))
history = fit(never, train, **short)

# %%
some, known = test.subset(slice(2000)), test_a[:2000]
no_label, no_numbers = torch.full_like(some.labels, -1), torch.full_like(known, math.nan)
lls = {}
for what, y in (
    ("label and numbers", (some.labels, known)),
    ("label alone", (some.labels, no_numbers)),
    ("numbers alone", (no_label, known)),
    ("nothing", (no_label, no_numbers)),
):
    lls[what] = evaluation.log_likelihood(several, some, samples=50, y=y)
    print(f"told {what:<18} -log p = {-lls[what].mean:.2f} ± {lls[what].standard_error:.2f} nats")


# %%
for what, other, y in (
    ("label and numbers", always, (some.labels, known)),
    ("nothing", never, None),
):
    ll = evaluation.log_likelihood(other, some, samples=50, y=y)
    cost = evaluation.mean_and_error(ll.per_example - lls[what].per_example)
    print(
        f"only ever told {what:<18} -log p = {-ll.mean:.2f}; with four jobs it costs {cost} nats more"
    )

# %% [markdown]
# Not told anything, the network is a VAE; whatever it is told makes the image more likely. But (3.3) says that a label is worth
# 2.3 nats at most, and here it seems worth more than three times as much. No contradiction: (3.3) is about *one* joint distribution, and
# nothing forces these four answers to belong to one. Each is as good as its training. By (5.5) only $p^2$, one image in
# twenty-five, is trained with nothing told, and that is the hardest job of the four.
#
# That is where the price is paid: about one nat when everything is told, about seven when nothing is. So the chance of dropping is
# a choice. Whoever wants a good unconditional model from the same network must drop more often, or train longer. (All this
# is one seed; the ± is over images.)

# %%
z = torch.randn(10, 10, generator=torch.Generator().manual_seed(5))
four, lean = torch.full((10,), 4), torch.tensor([[2.0, 0.7]]).expand(10, 2)
either, unmeasured = torch.full((10,), -1), torch.full((10, 2), math.nan)
told = {
    "nothing": (either, unmeasured),
    "a four": (four, unmeasured),
    "2 pixels, 0.7": (either, lean),
    "both": (four, lean),
}
with torch.no_grad():
    rows = [several.likelihood(z, y).mean for y in told.values()]
figures.digit_grid(
    torch.cat(rows),
    "Four rows of ten drawings from the same ten latents. Told nothing: digits of all kinds, some of them none. "
    "Told a four: about half fours. Told 2 pixels and slant 0.7: thin drawings leaning right. Told both: mostly thin "
    "fours leaning right.",
    row_labels=told,
)

# %% [markdown]
# *Figure 5.13. One network, one column one z, told nothing, a four, 2 pixels wide at slant 0.7, and both.*
#
# The label alone makes about half of these columns fours: three epochs are few, and control was never measured here. Two answers of
# one network to one $z$, told and not told: their difference shows what $y$ adds. Exaggerate it, and you have
# *guidance*, the knob of text-to-image models (Ho and Salimans 2022).

# %% [markdown]
# ## Pitfalls
#
# - **A ruler nobody checked.** If the ruler is off, the model learns to be off with it, and agrees with the ruler perfectly.
# - **Raw numbers.** Told thickness in pixels and slant in parts of one, a network hears one of them too loudly. Standardise with
#   the *training* data's mean and deviation, and keep both with the weights, or nobody can ask in pixels again.
# - **Zero for "unknown".** After (5.1) zero means *average*. Without the flag the network cannot tell "not told" from "average".
# - **Asking for what does not exist**, such as a one as thick as a zero, and blaming the model. Sample requests from real
#   rows, or say that you extrapolate.
# - **Padding without a mask.** The same caption then draws another picture when a longer one is in its batch.
# - **A softmax over nothing.** All scores at minus infinity give 0/0, and NaN spreads to every weight.
# - **Reading attention maps as explanations.** They say where a head looked, not what it made of it. Swap the word.
# - **Testing combinations that were in the training data.** Hold some out, and report them beside the seen ones.
#
# ## Summary
#
# $$c = \big[k\,\tfrac{a - m}{s},\, k\big], \qquad a_l \propto m_l\, e^{s_l}, \qquad
# \mathbb E[\mathcal L] = (1-p)^2 \mathcal L(\text{both}) + \dots + p^2 \mathcal L(\text{nothing}).$$
#
# $y$ can be anything that becomes a vector, a list of vectors or an image; the bound of chapter 03 does not change. Numbers are
# standardised and carry a flag; obedience is measured by asking and measuring, and bends outside the training range. Words
# are vectors with places, padding is masked, and a swapped word tells more than an attention map. Drop $y$ in training, and
# one network serves whoever knows much and whoever knows nothing, at a price you can state.
#
# ## References
#
# - Sohn, Lee and Yan 2015, *Learning Structured Output Representation using Deep Conditional Generative Models*, NeurIPS 28
# - Castro, Tan, Kainz, Konukoglu and Glocker 2019, *Morpho-MNIST*, arXiv:1809.10780 (digits with measured thickness and slant)
# - Vaswani et al. 2017, *Attention Is All You Need*, arXiv:1706.03762
# - Jain and Wallace 2019, *Attention is not Explanation*, arXiv:1902.10186
# - Wiegreffe and Pinter 2019, *Attention is not not Explanation*, arXiv:1908.04626
# - Park, Liu, Wang and Zhu 2019, *Semantic Image Synthesis with Spatially-Adaptive Normalization*, arXiv:1903.07291
# - Ho and Salimans 2022, *Classifier-Free Diffusion Guidance*, arXiv:2207.12598
# - Liu, Luo, Wang and Tang 2015, *Deep Learning Face Attributes in the Wild*, arXiv:1411.7766 (CelebA)
#
# **Exercises:** [what goes round, what is missing, what was measured badly](../exercises/05_what_can_y_be.ipynb).
#
# **Next:** [06 · Learnable priors](06_learnable_priors.ipynb)
